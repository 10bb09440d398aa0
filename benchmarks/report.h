/* report.h: results as lines for people and as CSV. */
#ifndef VTC_BENCH_REPORT_H
#define VTC_BENCH_REPORT_H

#include "measure.h"

#include <stdio.h>

void bench_print_machine(FILE *file);
void bench_print_result(FILE *file, const bench_result *result);

void bench_csv_header(FILE *file);
void bench_csv_result(FILE *file, const bench_result *result);

#endif
