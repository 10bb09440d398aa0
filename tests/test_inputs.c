/* What planners look at, and budgets. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
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

/* A planner that looks at all that a language model has; it only counts. */
static vtc_status count_all(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                            vtc_plan_count *count, const vtc_exec *exec)
{
    (void)params, (void)n_keep, (void)exec;
    count->n_in = count->n_out = image->n_rows;
    return VTC_OK;
}

static vtc_planner reader_of(unsigned uses)
{
    vtc_planner planner;

    memset(&planner, 0, sizeof(planner));
    planner.struct_size = sizeof(planner);
    planner.name = "reader";
    planner.uses = uses;
    planner.count = count_all;
    return planner;
}

static void count_with(unsigned uses, const vtc_plan_inputs *inputs, vtc_status want,
                       const char *part)
{
    const vtc_planner planner = reader_of(uses);
    const vtc_budget budget = vtc_budget_keep(2);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count = { 7, 7, 7, 7 };
    vtc_status status;
    error_log log;

    record_errors(&exec, &log);
    status = vtc_planner_count(&planner, NULL, inputs, &budget, &count, &exec);
    if (want == VTC_OK)
        assert_int_equal(status, VTC_OK);
    else
        assert_failed(&log, status, want, part);
}

/* 3 rows in front of the image, 12 of it, 4 of text: 19 at least, and as many more as there are. */
static void views_of_a_sequence_reach_over_image_and_text(void **state)
{
    static const struct {
        unsigned bit;
        const char *name;
    } views[] = { { VTC_NEED_LM, "lm_query" },
                  { VTC_NEED_LM, "lm_keys" },
                  { VTC_NEED_HIDDEN, "lm_hidden" },
                  { VTC_NEED_EMBEDDINGS, "lm_embeddings" } };

    (void)state;
    for (size_t i = 0; i < 4; i++)
        for (size_t n_rows = 18; n_rows <= 20; n_rows++) {
            const vtc_tensor heads = vtc_f32_3d(NULL, 2, n_rows, 4);
            const vtc_tensor rows = vtc_f32_2d(NULL, n_rows, 4);
            vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
            const vtc_tensor **const slots[] = { &inputs.lm_query, &inputs.lm_keys,
                                                 &inputs.lm_hidden, &inputs.lm_embeddings };
            char part[64];

            snprintf(part, sizeof(part), "%s has 18 rows, 3 before the image, 12 of it",
                     views[i].name);
            inputs.n_rows = 12;
            inputs.v_start = 3;
            inputs.n_text = 4;
            *slots[i] = i < 2 ? &heads : &rows;
            count_with(views[i].bit, &inputs, n_rows < 19 ? VTC_ERR_SHAPE : VTC_OK, part);
            /* a planner that does not look at them does not mind */
            count_with(VTC_NEED_FEATURES, &inputs, VTC_OK, "");
        }
}

static void views_of_a_sequence_are_floats_of_their_rank(void **state)
{
    const vtc_tensor ids = vtc_tensor_3d(NULL, VTC_I32, 2, 30, 4);
    const vtc_tensor rows = vtc_f32_2d(NULL, 30, 4), heads = vtc_f32_3d(NULL, 2, 30, 4);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    inputs.n_rows = 12;
    inputs.lm_keys = &ids;
    count_with(VTC_NEED_LM, &inputs, VTC_ERR_DTYPE, "lm_keys has dtype I32");
    inputs.lm_keys = &rows;
    count_with(VTC_NEED_LM, &inputs, VTC_ERR_SHAPE, "lm_keys has rank 2");
    inputs.lm_hidden = &heads;
    count_with(VTC_NEED_HIDDEN, &inputs, VTC_ERR_SHAPE, "lm_hidden has rank 3");
}

/* Sums that leave size_t do not come out small. */
static void rows_beyond_size_t_are_refused(void **state)
{
    const vtc_tensor rows = vtc_f32_2d(NULL, 30, 4);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    inputs.n_rows = 12;
    inputs.lm_hidden = &rows;
    inputs.v_start = SIZE_MAX - 3;
    count_with(VTC_NEED_HIDDEN, &inputs, VTC_ERR_SHAPE, "lm_hidden has 30 rows");
    inputs.v_start = 0;
    inputs.n_text = SIZE_MAX - 3;
    count_with(VTC_NEED_HIDDEN, &inputs, VTC_ERR_SHAPE, "lm_hidden has 30 rows");
}

static void key_rows_lie_in_the_batch_and_ascend(void **state)
{
    static const struct {
        int32_t rows[3];
        const char *part;
    } bad[] = { { { 0, 3, 12 }, "key_rows[2] is 12, there are 12 rows" },
                { { -1, 3, 4 }, "key_rows[0] is -1, there are 12 rows" },
                { { 0, 5, 5 }, "key_rows[2] is 5 behind 5" },
                { { 6, 5, 7 }, "key_rows[1] is 5 behind 6" } };
    static const int32_t good[3] = { 0, 5, 11 };
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    (void)state;
    inputs.n_rows = 12;
    inputs.n_key_rows = 3;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        inputs.key_rows = bad[i].rows;
        count_with(VTC_NEED_KEY_ROWS, &inputs, VTC_ERR_RANGE, bad[i].part);
        count_with(VTC_NEED_FEATURES, &inputs, VTC_OK, "");
    }
    inputs.key_rows = good;
    count_with(VTC_NEED_KEY_ROWS, &inputs, VTC_OK, "");
    inputs.key_rows = NULL; /* then their number means nothing */
    count_with(VTC_NEED_KEY_ROWS, &inputs, VTC_OK, "");
}

/* What each image of a batch of the planner below was told. */
static size_t seen_start[3], n_seen;

static vtc_status note_start(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                             vtc_plan_count *count, const vtc_exec *exec)
{
    seen_start[n_seen++] = image->v_start;
    return count_all(params, image, n_keep, count, exec);
}

/* The visual rows of a batch stand one image behind the other in the sequence. */
static void an_image_begins_behind_those_before_it(void **state)
{
    const int32_t begin[4] = { 0, 5, 5, 12 };
    const vtc_budget budget = vtc_budget_keep(1);
    vtc_planner planner = reader_of(0);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_plan_count count;

    (void)state;
    planner.count = note_start;
    inputs.begin = begin;
    inputs.n_images = 3;
    inputs.v_start = 35;
    n_seen = 0;
    assert_int_equal(vtc_planner_count(&planner, NULL, &inputs, &budget, &count, NULL), VTC_OK);
    assert_int_equal(n_seen, 3);
    assert_int_equal(seen_start[0], 35);
    assert_int_equal(seen_start[1], 40);
    assert_int_equal(seen_start[2], 40);
    assert_int_equal(count.n_in, 12);
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
        cmocka_unit_test(views_of_a_sequence_reach_over_image_and_text),
        cmocka_unit_test(views_of_a_sequence_are_floats_of_their_rank),
        cmocka_unit_test(rows_beyond_size_t_are_refused),
        cmocka_unit_test(key_rows_lie_in_the_batch_and_ascend),
        cmocka_unit_test(an_image_begins_behind_those_before_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
