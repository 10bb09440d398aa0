/* statistics.h: what is said about many timings. */
#ifndef VTC_BENCH_STATISTICS_H
#define VTC_BENCH_STATISTICS_H

#include <stddef.h>

typedef struct bench_spread {
    double min, q1, median, q3;
} bench_spread;

/* An interval that holds the true median with at least 95 %; NaN bounds for fewer than 6 values. */
typedef struct bench_interval {
    double median, low, high;
} bench_interval;

/* Both sort x [n], n >= 1. */
bench_spread bench_spread_of(double *x, size_t n);
bench_interval bench_interval_of(double *x, size_t n);

#endif
