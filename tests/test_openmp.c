/* vtc/openmp.h keeps the contract of vtc_exec.parallel_for. */
#include "support/support.h"

#include <vtc/openmp.h>

#include <stdatomic.h>

enum { N_TASKS = 500, N_THREADS = 3 };

typedef struct visits {
    atomic_int count[N_TASKS];
    atomic_int busy[N_THREADS];
    atomic_int clashes;
} visits;

static void visit(void *job, size_t index, size_t worker)
{
    visits *v = job;

    if (worker >= N_THREADS || atomic_fetch_add(&v->busy[worker], 1) != 0)
        atomic_fetch_add(&v->clashes, 1);
    atomic_fetch_add(&v->count[index], 1);
    if (worker < N_THREADS)
        atomic_fetch_sub(&v->busy[worker], 1);
}

static void each_index_runs_once_and_workers_are_never_shared(void **state)
{
    static visits v;
    vtc_exec exec = VTC_EXEC_INIT;

    (void)state;
    vtc_openmp_use(&exec, N_THREADS);
    assert_int_equal(exec.n_workers, N_THREADS);
    exec.parallel_for(exec.pool, N_TASKS, visit, &v);
    for (size_t i = 0; i < N_TASKS; i++)
        assert_int_equal(atomic_load(&v.count[i]), 1);
    assert_int_equal(atomic_load(&v.clashes), 0);
}

static void fewer_than_one_thread_is_one(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;

    (void)state;
    vtc_openmp_use(&exec, -4);
    assert_int_equal(exec.n_workers, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_index_runs_once_and_workers_are_never_shared),
        cmocka_unit_test(fewer_than_one_thread_is_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
