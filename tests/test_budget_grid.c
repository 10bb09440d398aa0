/* Grids that meet a budget. */
#include "support/support.h"

static void assert_grid(size_t h, size_t w, size_t budget, size_t want_h, size_t want_w)
{
    size_t out_h = 0, out_w = 0;

    assert_int_equal(vtc_budget_grid(h, w, budget, &out_h, &out_w, NULL), VTC_OK);
    assert_int_equal(out_h, want_h);
    assert_int_equal(out_w, want_w);
}

static void published_budgets_give_their_grids(void **state)
{
    (void)state;
    assert_grid(24, 24, 64, 8, 8);
    assert_grid(24, 24, 128, 11, 11);
    assert_grid(24, 24, 192, 13, 14);
    assert_grid(24, 24, 32, 5, 6);
    assert_grid(24, 24, 1, 1, 1);
    assert_grid(24, 24, 576, 24, 24);
    assert_grid(24, 24, (size_t)-1, 24, 24);
    assert_grid(1, 100, 7, 1, 7);
    assert_grid(100, 1, 7, 7, 1);
    assert_grid(46340, 46340, 2147395599, 46339, 46340);
}

static void a_grid_never_exceeds_its_budget(void **state)
{
    uint64_t seed = 51;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        const size_t h = 1 + rng_below(&seed, 70), w = 1 + rng_below(&seed, 70);
        const size_t budget = 1 + rng_below(&seed, 5000);
        size_t out_h, out_w;

        assert_int_equal(vtc_budget_grid(h, w, budget, &out_h, &out_w, NULL), VTC_OK);
        assert_true(out_h >= 1 && out_w >= 1 && out_h <= h && out_w <= w);
        assert_true(out_h * out_w <= budget);
        assert_true(out_h == h || (out_h + 1) * out_w > budget);
    }
}

static void empty_grids_and_budgets_are_refused(void **state)
{
    size_t h = 77, w = 77;
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_grid(4, 4, 0, &h, &w, &exec), VTC_ERR_BUDGET, "budget is 0");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_grid(0, 4, 2, &h, &w, &exec), VTC_ERR_RANGE, "0 x 4");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_grid((size_t)-1, 4, 2, &h, &w, &exec), VTC_ERR_RANGE, "x 4");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_grid(4, 4, 2, NULL, &w, &exec), VTC_ERR_NULL, "out_h");
    assert_true(h == 77 && w == 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_budgets_give_their_grids),
        cmocka_unit_test(a_grid_never_exceeds_its_budget),
        cmocka_unit_test(empty_grids_and_budgets_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
