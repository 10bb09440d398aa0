/* set.h: making and freeing working sets, for the runner. */
#ifndef VTC_BENCH_SET_H
#define VTC_BENCH_SET_H

#include "bench.h"

#include "workers.h"

void bench_set_open(bench_set *set, bench_workers *workers, const bench_case *c);
void bench_set_close(bench_set *set);

#endif
