/* An executor on threads of its own, and the recorder of errors. */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct loop {
    void (*task)(void *job, size_t index, size_t worker);
    void *job;
    size_t n_tasks;
    atomic_size_t next;
} loop;

typedef struct worker {
    loop *loop;
    size_t number;
} worker;

/* Task t of n in an order that no test should depend on. */
static size_t scrambled(size_t t, size_t n)
{
    return t % 2 == 0 ? t / 2 : n - 1 - t / 2;
}

static void *run_worker(void *arg)
{
    const worker *w = arg;
    size_t t;

    while ((t = atomic_fetch_add(&w->loop->next, 1)) < w->loop->n_tasks)
        w->loop->task(w->loop->job, scrambled(t, w->loop->n_tasks), w->number);
    return NULL;
}

enum { MAX_WORKERS = 16 };

static void thread_parallel_for(void *pool, size_t n_tasks,
                                void (*task)(void *job, size_t index, size_t worker), void *job)
{
    const size_t n_workers = (size_t)(uintptr_t)pool;
    loop l = { task, job, n_tasks, 0 };
    pthread_t thread[MAX_WORKERS];
    worker w[MAX_WORKERS];

    for (size_t i = 0; i < n_workers; i++) {
        w[i] = (worker){ &l, i };
        if (pthread_create(&thread[i], NULL, run_worker, &w[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < n_workers; i++)
        pthread_join(thread[i], NULL);
}

vtc_exec test_exec(size_t n_workers)
{
    vtc_exec exec = VTC_EXEC_INIT;

    if (n_workers > MAX_WORKERS)
        abort();
    if (n_workers != 0) {
        exec.n_workers = n_workers;
        exec.parallel_for = thread_parallel_for;
        exec.pool = (void *)(uintptr_t)n_workers;
    }
    return exec;
}

/* Rounded up to 64 so that its start is aligned; sizes the library reports are multiples already.
 */
void exec_scratch(vtc_exec *exec, size_t bytes)
{
    exec->scratch = guard_alloc((bytes + 63) / 64 * 64);
    exec->scratch_size = bytes;
    poison(exec->scratch, bytes);
}

void exec_scratch_free(vtc_exec *exec)
{
    guard_free(exec->scratch);
    exec->scratch = NULL;
    exec->scratch_size = 0;
}

static void record(void *user, vtc_status status, const char *message)
{
    error_log *log = user;

    log->count++;
    log->status = status;
    snprintf(log->message, sizeof(log->message), "%s", message);
}

void record_errors(vtc_exec *exec, error_log *log)
{
    memset(log, 0, sizeof(*log));
    exec->on_error = record;
    exec->user = log;
}

void assert_failed(const error_log *log, vtc_status got, vtc_status want, const char *part)
{
    if (got != want)
        fail_msg("status %s, expected %s (%s)", vtc_status_string(got), vtc_status_string(want),
                 log->message);
    if (log->count != 1 || log->status != want)
        fail_msg("%d messages, last status %s: \"%s\"", log->count, vtc_status_string(log->status),
                 log->message);
    if (strstr(log->message, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, log->message);
}
