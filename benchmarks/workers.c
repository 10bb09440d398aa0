/*
 * Workers that spin for a while before they sleep: starting a thread, or waking one, costs as much
 * as the smallest cases take. Each begins with its own run of neighbouring tasks, the same in every
 * loop of as many, so that it finds in its cache what it left there, and then helps the others.
 *
 * On Linux several workers keep to a CPU each: as they spin, none seems idle to the scheduler, and
 * two of them have been seen to share one CPU for seconds.
 */
#ifdef __linux__
#define _GNU_SOURCE /* sched_setaffinity() */
#endif
#include "workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A few hundred microseconds: longer than what methods do between their loops in one thread, so
 * that waking up, which is slow on virtual machines, stays out of the timings. */
enum { SPINS = 300000 };

#ifdef __linux__
typedef cpu_set_t cpus;

static void find_cpus(cpus *all)
{
    if (sched_getaffinity(0, sizeof(*all), all) != 0)
        CPU_ZERO(all);
}

static void use_cpus(const cpus *some)
{
    if (CPU_COUNT(some) != 0)
        sched_setaffinity(0, sizeof(*some), some);
}

static void use_one(const cpus *all, size_t number)
{
    cpus one;

    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, all) && number-- == 0)
            CPU_SET(cpu, &one);
    use_cpus(&one);
}
#else
typedef char cpus;

static void find_cpus(cpus *all)
{
    *all = 0;
}

static void use_cpus(const cpus *some)
{
    (void)some;
}

static void use_one(const cpus *all, size_t number)
{
    (void)all;
    (void)number;
}
#endif

typedef struct member {
    bench_workers *workers;
    size_t number;
    pthread_t thread;
    size_t end;                      /* of its own tasks                                    */
    _Alignas(64) atomic_size_t next; /* the first not yet taken; on a cache line of its own */
} member;

struct bench_workers {
    size_t n;
    cpus cpus;                        /* that the calling thread had */
    member member[BENCH_MAX_WORKERS]; /* 0 is the calling thread */

    /* the current loop; written before `round` grows, read after */
    void (*task)(void *job, size_t index, size_t worker);
    void *job;
    bool stop;

    atomic_size_t busy;  /* threads at work */
    atomic_size_t round; /* loops so far    */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void run_tasks(bench_workers *w, size_t worker)
{
    for (size_t i = 0; i < w->n; i++) {
        member *m = &w->member[(worker + i) % w->n];
        size_t index;

        while ((index = atomic_fetch_add(&m->next, 1)) < m->end)
            w->task(w->job, index, worker);
    }
}

static void wait_for_round(bench_workers *w, size_t seen)
{
    for (size_t i = 0; i < SPINS; i++)
        if (atomic_load(&w->round) != seen)
            return;
    pthread_mutex_lock(&w->lock);
    while (atomic_load(&w->round) == seen)
        pthread_cond_wait(&w->wake, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void *serve(void *arg)
{
    const member *m = arg;
    bench_workers *w = m->workers;

    use_one(&w->cpus, m->number);
    for (size_t round = 0;; round++) {
        wait_for_round(w, round);
        if (w->stop)
            return NULL;
        run_tasks(w, m->number);
        atomic_fetch_sub(&w->busy, 1);
    }
}

static void begin_round(bench_workers *w)
{
    atomic_store(&w->busy, w->n - 1);
    /* under the lock, or a thread about to sleep would miss it */
    pthread_mutex_lock(&w->lock);
    atomic_fetch_add(&w->round, 1);
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static void parallel_for(void *pool, size_t n_tasks,
                         void (*task)(void *job, size_t index, size_t worker), void *job)
{
    bench_workers *w = pool;

    w->task = task;
    w->job = job;
    for (size_t i = 0; i < w->n; i++) {
        atomic_store(&w->member[i].next, n_tasks * i / w->n);
        w->member[i].end = n_tasks * (i + 1) / w->n;
    }
    begin_round(w);
    run_tasks(w, 0);
    for (size_t i = 0; atomic_load(&w->busy) != 0; i++)
        if (i >= SPINS)
            sched_yield();
}

bench_workers *bench_workers_start(size_t n)
{
    bench_workers *w = aligned_alloc(_Alignof(bench_workers), sizeof(*w));

    if (w == NULL)
        return NULL;
    memset(w, 0, sizeof(*w));
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    find_cpus(&w->cpus);
    for (w->n = 1; w->n < n; w->n++) {
        member *m = &w->member[w->n];

        m->workers = w;
        m->number = w->n;
        if (pthread_create(&m->thread, NULL, serve, m) != 0) {
            bench_workers_stop(w);
            return NULL;
        }
    }
    if (n > 1)
        use_one(&w->cpus, 0);
    return w;
}

void bench_workers_stop(bench_workers *w)
{
    w->stop = true;
    begin_round(w);
    for (size_t i = 1; i < w->n; i++)
        pthread_join(w->member[i].thread, NULL);
    use_cpus(&w->cpus);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void bench_workers_attach(bench_workers *w, vtc_exec *exec)
{
    exec->n_workers = w->n;
    exec->parallel_for = w->n > 1 ? parallel_for : NULL;
    exec->pool = w;
}
