/* Strided rows, in a row and in a grid. */
#include "support/support.h"

#include "reference/plan_reference.h"

static void kept_rows_are_the_middles_of_equal_spans(void **state)
{
    (void)state;
    for (size_t n = 0; n < 40; n++)
        for (size_t k = 0; k <= n; k++) {
            vtc_plan plan = empty_plan(n, k, 0);

            assert_int_equal(vtc_strided(n, k, NULL, &plan, NULL), VTC_OK);
            assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
            assert_int_equal(plan.n_out, k);
            for (size_t i = 0; i < k; i++) {
                /* (i + 1/2) n / k, rounded down without dividing the odd numbers */
                const double middle = ((double)i + 0.5) * (double)n / (double)k;

                assert_int_equal(plan.keep[i], (int32_t)(middle + 1e-9));
            }
            free_plan(&plan);
        }
}

static void all_rows_are_kept_when_the_budget_is_all(void **state)
{
    vtc_plan plan = empty_plan(9, 9, 0);

    (void)state;
    assert_int_equal(vtc_strided(9, 9, NULL, &plan, NULL), VTC_OK);
    for (int32_t i = 0; i < 9; i++)
        assert_int_equal(plan.keep[i], i);
    free_plan(&plan);
}

static void a_grid_is_strided_in_both_directions(void **state)
{
    const int32_t want[6] = { 1 * 9 + 1, 1 * 9 + 4, 1 * 9 + 7, 4 * 9 + 1, 4 * 9 + 4, 4 * 9 + 7 };
    float mass[54];
    vtc_plan plan = empty_plan(54, 6, 6);

    (void)state;
    for (int i = 0; i < 54; i++)
        mass[i] = 1.0f + (float)i;
    assert_int_equal(vtc_strided_grid(6, 9, 2, 3, mass, &plan, NULL), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_memory_equal(plan.keep, want, sizeof(want));
    for (size_t j = 0; j < 6; j++) {
        assert_true(plan.mass[j] == mass[want[j]]);
        assert_int_equal(plan.source[j], want[j]);
        assert_true(plan.weight[j] == 1.0f);
    }
    for (size_t i = 0; i < 54; i++)
        assert_true(plan.score[i] == 0.0f);
    free_plan(&plan);
}

static void budgets_above_the_rows_are_refused(void **state)
{
    vtc_plan plan = empty_plan(6, 9, 0);
    float mass[6] = { 1.0f, 1.0f, -1.0f, 1.0f, 1.0f, 1.0f };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(plan.keep, 9 * sizeof(int32_t));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_strided(6, 7, NULL, &plan, &exec), VTC_ERR_BUDGET, "7 of 6");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_strided_grid(2, 3, 3, 2, NULL, &plan, &exec), VTC_ERR_BUDGET,
                  "3 x 2 cells of 2 x 3");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_strided(6, 3, mass, &plan, &exec), VTC_ERR_DATA, "mass[2]");
    assert_true(is_poisoned(plan.keep, 9 * sizeof(int32_t)));
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_rows_are_the_middles_of_equal_spans),
        cmocka_unit_test(all_rows_are_kept_when_the_budget_is_all),
        cmocka_unit_test(a_grid_is_strided_in_both_directions),
        cmocka_unit_test(budgets_above_the_rows_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
