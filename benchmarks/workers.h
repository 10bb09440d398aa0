/* workers.h: a vtc_exec on threads that stay alive between calls. */
#ifndef VTC_BENCH_WORKERS_H
#define VTC_BENCH_WORKERS_H

#include <vtc/base.h>

enum { BENCH_MAX_WORKERS = 64 };

typedef struct bench_workers bench_workers;

/* n in 1 .. BENCH_MAX_WORKERS, the calling thread among them. NULL when the system refuses. */
bench_workers *bench_workers_start(size_t n);
void bench_workers_stop(bench_workers *workers);

/* exec->n_workers, parallel_for and pool. Calls from one thread at a time, and not from a task. */
void bench_workers_attach(bench_workers *workers, vtc_exec *exec);

#endif
