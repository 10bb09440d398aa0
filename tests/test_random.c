/* Random rows. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <stdlib.h>
#include <string.h>

static vtc_plan random_rows(uint64_t seed, size_t n_in, size_t n_keep, const float *mass)
{
    vtc_random_params params = VTC_RANDOM_PARAMS_INIT;
    vtc_plan plan = empty_plan(n_in, n_keep, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    size_t bytes;

    params.seed = seed;
    assert_int_equal(vtc_random_scratch(n_in, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_random(&params, n_in, n_keep, mass, &plan, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

/* Rows from an independent implementation of the generator and the shuffle. */
static void a_seed_gives_the_same_rows_on_every_machine(void **state)
{
    const int32_t want[6] = { 1, 4, 7, 8, 14, 18 };
    vtc_plan plan = random_rows(42, 20, 6, NULL);

    (void)state;
    assert_memory_equal(plan.keep, want, sizeof(want));
    free_plan(&plan);
}

/* The first number that SplitMix64's reference code prints for this seed chooses the first row. */
static void the_generator_is_splitmix64(void **state)
{
    const double share = (double)(0x599ed017fb08fc85u >> 11) * 0x1p-53;

    (void)state;
    for (size_t n = 3; n < 2000; n += 7) {
        vtc_plan plan = random_rows(1234567, n, 1, NULL);

        assert_int_equal(plan.keep[0], (int32_t)(share * (double)n));
        free_plan(&plan);
    }
}

static void rows_are_distinct_and_ascend(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        vtc_plan plan = random_rows(seed, 40, seed % 41, NULL);

        assert_int_equal(plan.n_out, seed % 41);
        for (size_t j = 1; j < plan.n_out; j++)
            assert_true(plan.keep[j - 1] < plan.keep[j]);
        for (size_t i = 0; i < 40; i++)
            assert_true(plan.score[i] == 0.0f);
        free_plan(&plan);
    }
}

/* 4000 draws of 5 rows of 20: a row is expected 1000 times, standard deviation 27. */
static void every_row_is_as_likely(void **state)
{
    int count[20] = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 4000; seed++) {
        vtc_plan plan = random_rows(seed, 20, 5, NULL);

        for (size_t j = 0; j < 5; j++)
            count[plan.keep[j]]++;
        free_plan(&plan);
    }
    for (int i = 0; i < 20; i++)
        assert_true(count[i] > 860 && count[i] < 1140);
}

static void masses_follow_their_rows(void **state)
{
    float mass[30];

    (void)state;
    for (int i = 0; i < 30; i++)
        mass[i] = 1.0f + (float)i;
    vtc_plan plan = random_rows(7, 30, 11, mass);

    for (size_t j = 0; j < 11; j++)
        assert_true(plan.mass[j] == mass[plan.keep[j]]);
    free_plan(&plan);
}

static void more_rows_than_there_are_cannot_be_kept(void **state)
{
    vtc_plan plan = empty_plan(5, 6, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(plan.keep, 6 * sizeof(int32_t));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_random(NULL, 5, 6, NULL, &plan, &exec), VTC_ERR_BUDGET,
                  "cannot keep 6 of 5 rows");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_random(NULL, 5, 3, NULL, &plan, &exec), VTC_ERR_SCRATCH, "scratch");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_random(NULL, 5, 3, NULL, NULL, &exec), VTC_ERR_NULL, "plan is NULL");
    assert_true(is_poisoned(plan.keep, 6 * sizeof(int32_t)));
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_gives_the_same_rows_on_every_machine),
        cmocka_unit_test(the_generator_is_splitmix64),
        cmocka_unit_test(rows_are_distinct_and_ascend),
        cmocka_unit_test(every_row_is_as_likely),
        cmocka_unit_test(masses_follow_their_rows),
        cmocka_unit_test(more_rows_than_there_are_cannot_be_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
