/* measure.h: case and limit, timed in turns. */
#ifndef VTC_BENCH_MEASURE_H
#define VTC_BENCH_MEASURE_H

#include "bench.h"
#include "statistics.h"
#include "workers.h"

enum { BENCH_MAX_ROUNDS = 999 };

typedef struct bench_result {
    const char *name;
    size_t n_workers, rounds;
    bench_spread time; /* nanoseconds of one call */
    bool has_limit;
    char limit_name[128];
    bench_spread limit;
    bench_interval ratio;  /* of case to limit, of each pair of turns */
    double gflops, gbytes; /* per second; 0: not counted              */
    double goal;
} bench_result;

/* rounds in 1 .. BENCH_MAX_ROUNDS */
bench_result bench_measure(const bench_case *c, bench_workers *workers, size_t rounds);

#endif
