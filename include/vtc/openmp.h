/*
 * vtc/openmp.h: a parallel_for on OpenMP, for callers without a thread pool of their own. Header
 * only: compile the caller with -fopenmp. Without it the loop is serial and still correct.
 *
 *     vtc_exec exec = VTC_EXEC_INIT;
 *     vtc_openmp_use(&exec, 4);
 *
 * Keep OpenBLAS single-threaded beside it: OPENBLAS_NUM_THREADS=1 with a build that is safe for
 * concurrent callers (Debian: libopenblas0-pthread; libopenblas0-serial is not).
 */
#ifndef VTC_OPENMP_H
#define VTC_OPENMP_H

#include "base.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* `pool` is the number of threads. */
static inline void vtc_openmp_parallel_for(void *pool, size_t n_tasks,
                                           void (*task)(void *job, size_t index, size_t worker),
                                           void *job)
{
#ifdef _OPENMP
    const long long n = (long long)n_tasks;
    const int n_threads = (int)(uintptr_t)pool;
    long long i;

#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads)
    for (i = 0; i < n; i++)
        task(job, (size_t)i, (size_t)omp_get_thread_num());
#else
    size_t i;

    (void)pool;
    for (i = 0; i < n_tasks; i++)
        task(job, i, 0);
#endif
}

/* Makes `exec` run on n_threads OpenMP threads (at least 1). */
static inline void vtc_openmp_use(vtc_exec *exec, int n_threads)
{
    exec->n_workers = n_threads > 1 ? (size_t)n_threads : 1;
    exec->parallel_for = vtc_openmp_parallel_for;
    exec->pool = (void *)(uintptr_t)exec->n_workers;
}

#endif
