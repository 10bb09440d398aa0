/* What planners look at, and budgets. */
#include "support/support.h"

#include <math.h>
#include <string.h>

static void what_is_missing_is_told_by_bits(void **state)
{
    const unsigned all = VTC_NEED_FEATURES | VTC_NEED_GRID | VTC_NEED_KEYS | VTC_NEED_CLS |
                         VTC_NEED_TEXT | VTC_NEED_LM | VTC_NEED_HIDDEN | VTC_NEED_FRAMES |
                         VTC_NEED_IMAGE;
    const vtc_tensor some = vtc_f32_2d(NULL, 3, 4);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    assert_int_equal(vtc_plan_inputs_lack(&inputs, all), all);
    assert_int_equal(vtc_plan_inputs_lack(&inputs, 0), 0);
    assert_int_equal(vtc_plan_inputs_lack(NULL, all), all);
    inputs.features = &some;
    inputs.grid_h = 3;
    assert_int_equal(vtc_plan_inputs_lack(&inputs, VTC_NEED_FEATURES | VTC_NEED_GRID),
                     VTC_NEED_GRID);
    inputs.cls_query = &some;
    assert_int_equal(vtc_plan_inputs_lack(&inputs, VTC_NEED_CLS), VTC_NEED_CLS);
    inputs.keys = &some;
    assert_int_equal(vtc_plan_inputs_lack(&inputs, VTC_NEED_CLS | VTC_NEED_KEYS), 0);
    inputs.grid_w = 1;
    inputs.text = inputs.lm_query = inputs.lm_keys = inputs.lm_hidden = &some;
    inputs.frame_rows = 1;
    assert_int_equal(vtc_plan_inputs_lack(&inputs, all), VTC_NEED_IMAGE);
}

/* An older caller's struct ends earlier; what it does not have is not there. */
static void inputs_are_read_up_to_their_size(void **state)
{
    const vtc_tensor some = vtc_f32_2d(NULL, 3, 4);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    inputs.features = &some;
    inputs.text = &some;
    inputs.struct_size = offsetof(vtc_plan_inputs, keys);
    assert_int_equal(vtc_plan_inputs_lack(&inputs, VTC_NEED_FEATURES | VTC_NEED_TEXT),
                     VTC_NEED_TEXT);
}

static void every_need_has_a_name(void **state)
{
    (void)state;
    for (unsigned bit = VTC_NEED_FEATURES; bit <= VTC_NEED_IMAGE; bit <<= 1)
        assert_string_not_equal(vtc_need_string((vtc_need)bit), "?");
    assert_string_equal(vtc_need_string(VTC_NEED_CLS), "[CLS] attention");
    assert_string_equal(vtc_need_string((vtc_need)(1 << 20)), "?");
}

static void assert_ratio(double ratio, size_t n_rows, size_t want)
{
    const vtc_budget budget = vtc_budget_keep_ratio(ratio);
    size_t n_keep = 77;

    assert_int_equal(vtc_budget_resolve(&budget, n_rows, &n_keep, NULL), VTC_OK);
    assert_int_equal(n_keep, want);
}

static void a_ratio_is_rounded_to_the_nearest_token(void **state)
{
    (void)state;
    assert_ratio(0.098, 576, 56);
    assert_ratio(0.25, 10, 2); /* halves to even */
    assert_ratio(0.35, 10, 4);
    assert_ratio(0.001, 100, 1);
    assert_ratio(1.0, 100, 100);
    assert_ratio(0.5, 0, 0);
    assert_ratio(0.5, 1, 1);
}

static void a_number_of_tokens_is_passed_on(void **state)
{
    const vtc_budget budget = vtc_budget_keep(1000);
    size_t n_keep;

    (void)state;
    assert_int_equal(vtc_budget_resolve(&budget, 10, &n_keep, NULL), VTC_OK);
    assert_int_equal(n_keep, 1000);
}

static void senseless_budgets_are_refused(void **state)
{
    const double bad[4] = { 0.0, -0.5, 1.0001, NAN };
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_budget budget = vtc_budget_keep(1);
    error_log log;
    size_t n_keep = 77;

    (void)state;
    for (int i = 0; i < 4; i++) {
        const vtc_budget ratio = vtc_budget_keep_ratio(bad[i]);

        record_errors(&exec, &log);
        assert_failed(&log, vtc_budget_resolve(&ratio, 10, &n_keep, &exec), VTC_ERR_RANGE, "ratio");
    }
    budget.kind = (vtc_budget_kind)5;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_resolve(&budget, 10, &n_keep, &exec), VTC_ERR_RANGE, "5");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_budget_resolve(NULL, 10, &n_keep, &exec), VTC_ERR_NULL, "budget");
    assert_int_equal(n_keep, 77);
}

/* ---- checks behind every planner call -------------------------------------------------------- */

static void refused(const char *planner, const vtc_plan_inputs *inputs, vtc_status status,
                    const char *part)
{
    const vtc_budget budget = vtc_budget_keep(2);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count = { 7, 7, 7, 7 };
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_planner_count(vtc_planner_find(planner), NULL, inputs, &budget, &count,
                                    &exec),
                  status, part);
    assert_int_equal(count.n_in, 7);
}

static void inputs_that_do_not_fit_each_other_are_refused(void **state)
{
    const vtc_tensor features = vtc_f32_2d(NULL, 12, 4), keys = vtc_f32_3d(NULL, 2, 11, 4);
    const int32_t begin[4][4] = {
        { 1, 4, 8, 12 }, { 0, 8, 4, 12 }, { 0, 4, 8, 11 }, { 0, 3, 8, 12 }
    };
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    refused("tome", &inputs, VTC_ERR_NULL, "the inputs of tome lack features");
    refused("mean_pool", &inputs, VTC_ERR_NULL, "the inputs of mean_pool lack grid");
    refused("tome", NULL, VTC_ERR_NULL, "inputs is NULL");
    inputs.features = &features;
    inputs.keys = &keys;
    refused("tome", &inputs, VTC_ERR_SHAPE, "keys has 11 rows, the inputs have 12");
    inputs.keys = NULL;
    inputs.n_rows = 13;
    refused("tome", &inputs, VTC_ERR_SHAPE, "features has 12 rows, the inputs have 13");
    inputs.n_rows = 0;
    inputs.n_images = 3;
    for (int i = 0; i < 3; i++) {
        inputs.begin = begin[i];
        refused("tome", &inputs, VTC_ERR_SHAPE, "begin");
    }
    inputs.begin = begin[3];
    inputs.grid_h = inputs.grid_w = 2;
    refused("mean_pool", &inputs, VTC_ERR_SHAPE, "grid 2x2 needs 4 rows, image 0 has 3");
}

static void the_number_of_rows_comes_from_whatever_tells_it(void **state)
{
    const vtc_planner *planner = vtc_planner_find("strided");
    const vtc_budget budget = vtc_budget_keep(1);
    const vtc_tensor features = vtc_f32_2d(NULL, 12, 4);
    const int32_t begin[3] = { 0, 5, 9 };
    vtc_plan_inputs from_features = VTC_PLAN_INPUTS_INIT, from_begin = VTC_PLAN_INPUTS_INIT;
    vtc_plan_inputs from_grid = VTC_PLAN_INPUTS_INIT;
    vtc_plan_count count;

    (void)state;
    from_features.features = &features;
    from_begin.begin = begin;
    from_begin.n_images = 2;
    from_grid.grid_h = 3;
    from_grid.grid_w = 5;
    assert_int_equal(vtc_planner_count(planner, NULL, &from_features, &budget, &count, NULL), 0);
    assert_int_equal(count.n_in, 12);
    assert_int_equal(vtc_planner_count(planner, NULL, &from_begin, &budget, &count, NULL), 0);
    assert_int_equal(count.n_in, 9);
    assert_int_equal(count.n_out, 2);
    assert_int_equal(vtc_planner_count(planner, NULL, &from_grid, &budget, &count, NULL), 0);
    assert_int_equal(count.n_in, 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_missing_is_told_by_bits),
        cmocka_unit_test(inputs_are_read_up_to_their_size),
        cmocka_unit_test(every_need_has_a_name),
        cmocka_unit_test(a_ratio_is_rounded_to_the_nearest_token),
        cmocka_unit_test(a_number_of_tokens_is_passed_on),
        cmocka_unit_test(senseless_budgets_are_refused),
        cmocka_unit_test(inputs_that_do_not_fit_each_other_are_refused),
        cmocka_unit_test(the_number_of_rows_comes_from_whatever_tells_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
