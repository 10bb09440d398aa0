/* Plans beside each other. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <string.h>

static void assert_same_matrix(const vtc_plan *plan, const dense_plan *want)
{
    dense_plan got = dense_of(plan);

    assert_int_equal(got.n_in, want->n_in);
    assert_int_equal(got.n_out, want->n_out);
    assert_memory_equal(got.keep, want->keep, want->n_out * sizeof(*want->keep));
    assert_memory_equal(got.has, want->has, want->n_in * want->n_out * sizeof(*want->has));
    assert_memory_equal(got.weight, want->weight, want->n_in * want->n_out * sizeof(double));
    dense_free(&got);
}

static void random_plans_stand_beside_each_other(void **state)
{
    const plan_kind kinds[3][2] = { { PLAN_SELECTION, PLAN_OVERLAP },
                                    { PLAN_GROUPS, PLAN_OVERLAP },
                                    { PLAN_MAX, PLAN_ASCENDING } };
    uint64_t seed = 5;

    (void)state;
    for (int round = 0; round < 150; round++) {
        const size_t n_a = rng_below(&seed, 9), n_b = rng_below(&seed, 9);
        vtc_plan a = random_plan(&seed, kinds[round % 3][0], n_a, rng_below(&seed, n_a + 1));
        vtc_plan b = random_plan(&seed, kinds[round % 3][1], n_b, rng_below(&seed, n_b + 1));
        const vtc_plan *const parts[2] = { &a, &b };
        dense_plan da = dense_of(&a), db = dense_of(&b), want = dense_concat(&da, &db);
        vtc_plan plan = empty_plan(n_a + n_b, a.n_out + b.n_out, want.n_in * want.n_out + 1);

        assert_int_equal(vtc_plan_concat(&plan, parts, 2, NULL), VTC_OK);
        assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
        assert_same_matrix(&plan, &want);
        assert_memory_equal(plan.mass, a.mass, a.n_out * sizeof(float));
        assert_memory_equal(plan.mass + a.n_out, b.mass, b.n_out * sizeof(float));
        assert_memory_equal(plan.score + n_a, b.score, n_b * sizeof(float));
        dense_free(&da);
        dense_free(&db);
        dense_free(&want);
        free_plan(&a);
        free_plan(&b);
        free_plan(&plan);
    }
}

static void selections_stay_a_selection(void **state)
{
    const int32_t rows[2] = { 2, 0 };
    const int32_t keep[6] = { 2, 0, 5, 3, 8, 6 };
    vtc_plan a = empty_plan(3, 2, 0), plan = empty_plan(9, 6, 0);
    const vtc_plan *const parts[3] = { &a, &a, &a };

    (void)state;
    assert_int_equal(vtc_plan_select(&a, 3, rows, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_concat(&plan, parts, 3, NULL), VTC_OK);
    assert_int_equal(plan.n_out, 6);
    assert_memory_equal(plan.keep, keep, sizeof(keep));
    assert_null(plan.begin);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_int_equal(vtc_plan_concat(&plan, NULL, 0, NULL), VTC_OK);
    assert_int_equal(plan.n_in + plan.n_out, 0);
    free_plan(&a);
    free_plan(&plan);
}

static void scores_that_a_part_lacks_count_as_zero(void **state)
{
    vtc_plan a = empty_plan(2, 2, 0), plan = empty_plan(2, 2, 0);
    const vtc_plan *const parts[1] = { &a };
    float *score = a.score;

    (void)state;
    assert_int_equal(vtc_plan_identity(&a, 2, NULL, NULL), VTC_OK);
    a.score = NULL;
    plan.score[1] = 7.0f;
    assert_int_equal(vtc_plan_concat(&plan, parts, 1, NULL), VTC_OK);
    assert_true(plan.score[1] == 0.0f);
    a.score = score;
    free_plan(&a);
    free_plan(&plan);
}

static void refuse(vtc_plan *plan, const vtc_plan *a, const vtc_plan *b, vtc_status want,
                   const char *part)
{
    const vtc_plan *const parts[2] = { a, b };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_concat(plan, parts, 2, &exec), want, part);
}

static void what_does_not_fit_is_refused_and_nothing_written(void **state)
{
    uint64_t seed = 8;
    vtc_plan sum = random_plan(&seed, PLAN_GROUPS, 6, 2), max = random_plan(&seed, PLAN_MAX, 6, 2);
    vtc_plan plan = empty_plan(12, 4, 40), narrow = empty_plan(12, 3, 40);
    vtc_plan shared = plan;

    (void)state;
    poison(plan.keep, 4 * sizeof(int32_t));
    refuse(&plan, &sum, &max, VTC_ERR_UNSUPPORTED, "part 1 has reduce 1");
    refuse(&plan, &sum, NULL, VTC_ERR_NULL, "a part is NULL");
    refuse(&narrow, &sum, &sum, VTC_ERR_ROOM, "needs 4 outputs, plan has room for 3");
    refuse(&plan, &sum, &plan, VTC_ERR_OVERLAP, "part 1 is the plan itself");
    shared.mass = sum.mass;
    refuse(&shared, &sum, &sum, VTC_ERR_OVERLAP, "a part overlaps mass");
    sum.keep[0] = 6;
    refuse(&plan, &sum, &sum, VTC_ERR_RANGE, "keep[0] of a part is 6");
    sum.keep[0] = 0;
    sum.source[1] = sum.source[0];
    refuse(&plan, &sum, &sum, VTC_ERR_DATA, "do not ascend");
    assert_true(is_poisoned(plan.keep, 4 * sizeof(int32_t)));
    assert_int_equal(plan.n_out, 0);
    free_plan(&sum);
    free_plan(&max);
    free_plan(&plan);
    free_plan(&narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_stand_beside_each_other),
        cmocka_unit_test(selections_stay_a_selection),
        cmocka_unit_test(scores_that_a_part_lacks_count_as_zero),
        cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
