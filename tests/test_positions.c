/* Position ids by rule, and the log-mass bias. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

/* Three of six tokens of a 2x3 grid, base 10: rows 0, 4, 2 as M-RoPE ids (t, h, w). */
typedef struct scene {
    vtc_plan plan;
    int64_t in[3 * 6], out[3 * 3];
    vtc_tensor in_view, out_view;
    vtc_positions_params params;
} scene;

static void set_up(scene *s)
{
    static const vtc_positions_params defaults = VTC_POSITIONS_PARAMS_INIT;
    const int32_t rows[3] = { 0, 4, 2 };

    s->plan = empty_plan(6, 3, 0);
    assert_int_equal(vtc_plan_select(&s->plan, 6, rows, 3, NULL, NULL), VTC_OK);
    for (int64_t i = 0; i < 6; i++) {
        s->in[i] = 10;
        s->in[6 + i] = 10 + i / 3;
        s->in[12 + i] = 10 + i % 3;
    }
    s->in_view = vtc_tensor_2d(s->in, VTC_I64, 3, 6);
    s->out_view = vtc_tensor_2d(s->out, VTC_I64, 3, 3);
    s->params = defaults;
    s->params.base = 10;
    s->params.grid_h = 2;
    s->params.grid_w = 3;
}

static int64_t run(scene *s, vtc_visual_rule visual, vtc_text_rule text, bool with_in)
{
    int64_t next = -1;

    s->params.visual = visual;
    s->params.text = text;
    poison(s->out, sizeof(s->out));
    assert_int_equal(vtc_plan_positions(&s->params, &s->plan, with_in ? &s->in_view : NULL,
                                        &s->out_view, &next, NULL),
                     VTC_OK);
    return next;
}

static void a_kept_token_carries_the_position_of_its_row(void **state)
{
    const int64_t want[9] = { 10, 10, 10, 10, 11, 10, 10, 11, 12 };
    scene s;

    (void)state;
    set_up(&s);
    run(&s, VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL, true);
    assert_memory_equal(s.out, want, sizeof(want));
    free_plan(&s.plan);
}

static void renumbering_counts_outputs_on_all_axes(void **state)
{
    const int64_t want[9] = { 10, 11, 12, 10, 11, 12, 10, 11, 12 };
    scene s;

    (void)state;
    set_up(&s);
    run(&s, VTC_VISUAL_RENUMBER, VTC_TEXT_CONTINUE, true);
    assert_memory_equal(s.out, want, sizeof(want));
    free_plan(&s.plan);
}

static void text_resumes_by_rule(void **state)
{
    /* [visual][text] with M-RoPE input, then for ids counted from base */
    static const int64_t with_ids[2][5] = { { 13, 19, 15, 13, 13 }, { 13, 19, 13, 13, 13 } };
    static const int64_t counted[2][5] = { { 13, 16, 15, 13, 13 }, { 13, 16, 13, 13, 13 } };
    scene s;

    (void)state;
    set_up(&s);
    s.in[12 + 2] = 14; /* kept    */
    s.in[12 + 3] = 18; /* dropped */
    for (int v = 0; v < 2; v++) {
        for (int t = 0; t < 5; t++) {
            assert_int_equal(run(&s, (vtc_visual_rule)v, (vtc_text_rule)t, true), with_ids[v][t]);
            assert_int_equal(run(&s, (vtc_visual_rule)v, (vtc_text_rule)t, false), counted[v][t]);
        }
    }
    free_plan(&s.plan);
}

static void the_grid_rules_differ_where_the_grid_is_high(void **state)
{
    scene s;

    (void)state;
    set_up(&s);
    s.params.grid_h = 7;
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_GRID, true), 17);
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_WIDTH, true), 13);
    s.params.grid_h = s.params.grid_w = 0;
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_GRID, false), 16);
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_WIDTH, false), 16);
    free_plan(&s.plan);
}

static void text_after_the_kept_looks_at_outputs_only(void **state)
{
    const int32_t rows[2] = { 1, 0 };
    scene s;

    (void)state;
    set_up(&s);
    assert_int_equal(vtc_plan_select(&s.plan, 6, rows, 2, NULL, NULL), VTC_OK);
    s.out_view = vtc_tensor_2d(s.out, VTC_I64, 3, 2);
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_KEPT, true), 12);
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL, true), 13);
    free_plan(&s.plan);
}

static void without_visual_tokens_text_starts_at_base(void **state)
{
    scene s;

    (void)state;
    set_up(&s);
    assert_int_equal(vtc_plan_select(&s.plan, 0, NULL, 0, NULL, NULL), VTC_OK);
    s.in_view = vtc_tensor_2d(NULL, VTC_I64, 3, 0);
    s.out_view = vtc_tensor_2d(NULL, VTC_I64, 3, 0);
    for (int t = 0; t < 5; t++)
        assert_int_equal(run(&s, VTC_VISUAL_KEEP, (vtc_text_rule)t, t % 2), 10);
    free_plan(&s.plan);
}

static void i32_ids_in_strided_rows_work(void **state)
{
    const int32_t in[2 * 8] = { 5, 6, 7, 8, 9, 10, 0, 0, 1, 1, 2, 2, 3, 3, 0, 0 };
    const int32_t want[2 * 4] = { 5, 9, 7, -1, 1, 3, 2, -1 };
    int32_t out[2 * 4];
    int64_t next;
    scene s;

    (void)state;
    set_up(&s);
    memset(out, 0xff, sizeof(out));
    vtc_tensor x = vtc_tensor_2d(in, VTC_I32, 2, 6), y = vtc_tensor_2d(out, VTC_I32, 2, 3);
    x.stride[0] = 8;
    y.stride[0] = 4;
    assert_int_equal(vtc_plan_positions(NULL, &s.plan, &x, &y, &next, NULL), VTC_OK);
    assert_memory_equal(out, want, sizeof(want));
    assert_int_equal(next, 11);
    free_plan(&s.plan);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(scene *s, const vtc_tensor *in, vtc_status want, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    int64_t next = 77;
    error_log log;

    poison(s->out, sizeof(s->out));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_positions(&s->params, &s->plan, in, &s->out_view, &next, &exec),
                  want, part);
    assert_true(is_poisoned(s->out, sizeof(s->out)));
    assert_int_equal(next, 77);
    free_plan(&s->plan);
    set_up(s);
}

static void rules_and_shapes_are_checked(void **state)
{
    scene s;

    (void)state;
    set_up(&s);
    s.params.visual = (vtc_visual_rule)2;
    refuse(&s, NULL, VTC_ERR_RANGE, "visual is 2");
    s.params.text = (vtc_text_rule)5;
    refuse(&s, NULL, VTC_ERR_RANGE, "text is 5");
    s.params.grid_h = 0;
    refuse(&s, NULL, VTC_ERR_RANGE, "0x3");
    s.out_view.dim[1] = 2;
    refuse(&s, NULL, VTC_ERR_SHAPE, "out has 2 ids, the plan 3 outputs");
    s.in_view.dim[1] = 5;
    refuse(&s, &s.in_view, VTC_ERR_SHAPE, "in has 5 ids, the plan 6 input rows");
    s.in_view.dim[0] = 2;
    refuse(&s, &s.in_view, VTC_ERR_SHAPE, "in has 2 axes, out has 3");
    s.in_view.dtype = VTC_I32;
    refuse(&s, &s.in_view, VTC_ERR_DTYPE, "in has dtype I32");
    s.out_view.dtype = VTC_F32;
    refuse(&s, NULL, VTC_ERR_DTYPE, "out has dtype F32");
    s.in_view.data = s.out;
    refuse(&s, &s.in_view, VTC_ERR_OVERLAP, "out overlaps in");
    s.plan.keep[1] = -1;
    refuse(&s, &s.in_view, VTC_ERR_RANGE, "keep[1] of plan is -1");
    assert_int_equal(vtc_plan_positions(NULL, &s.plan, NULL, &s.out_view, NULL, NULL),
                     VTC_ERR_NULL);
    free_plan(&s.plan);
}

static void positions_that_do_not_fit_are_refused(void **state)
{
    scene s;

    (void)state;
    set_up(&s);
    s.out_view = vtc_tensor_1d(s.out, VTC_I32, 3);
    s.params.base = INT32_MAX - 3;
    refuse(&s, NULL, VTC_ERR_OVERFLOW, "position 2147483648 of output 1");
    s.out_view = vtc_tensor_1d(s.out, VTC_I32, 3);
    s.params.visual = VTC_VISUAL_RENUMBER;
    s.params.base = INT32_MAX - 1;
    refuse(&s, NULL, VTC_ERR_OVERFLOW, "position 2147483648 of output 2");
    s.out_view = vtc_tensor_1d(s.out, VTC_I32, 3);
    s.params.base = (int64_t)INT32_MIN - 1;
    refuse(&s, NULL, VTC_ERR_OVERFLOW, "position -2147483649 of output 0");
    s.params.base = INT64_MAX - 5;
    refuse(&s, NULL, VTC_ERR_OVERFLOW, "leaves no room");
    s.in[3] = INT64_MAX;
    refuse(&s, &s.in_view, VTC_ERR_OVERFLOW, "has no next");
    free_plan(&s.plan);
}

/* ---- log mass -------------------------------------------------------------------------------- */

static void the_bias_is_the_logarithm_of_the_mass(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const double tolerance[3] = { 1e-6, 1e-3, 8e-3 };
    enum { N = 150 };
    float bias[N];
    vtc_plan plan = empty_plan(N, N, 0);

    (void)state;
    assert_int_equal(vtc_plan_identity(&plan, N, NULL, NULL), VTC_OK);
    for (size_t j = 0; j < N; j++)
        plan.mass[j] = (float)j;
    for (int d = 0; d < 3; d++) {
        vtc_tensor view = vtc_tensor_1d(bias, dtypes[d], N);

        assert_int_equal(vtc_plan_log_mass(&plan, &view, NULL), VTC_OK);
        for (size_t j = 0; j < N; j++)
            assert_true(
                /* cppcheck-suppress invalidFunctionArg ; log(0) is meant: -inf for mass 0 */
                close_to(get_element(bias, dtypes[d], j), log((double)j), 1e-7, tolerance[d]));
    }
    free_plan(&plan);
}

static void a_bias_that_does_not_fit_is_refused(void **state)
{
    float bias[4];
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan plan = empty_plan(3, 3, 0);
    vtc_tensor view = vtc_f32_1d(bias, 4);
    error_log log;

    (void)state;
    poison(bias, sizeof(bias));
    assert_int_equal(vtc_plan_identity(&plan, 3, NULL, NULL), VTC_OK);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_log_mass(&plan, &view, &exec), VTC_ERR_SHAPE,
                  "bias has 4 elements, the plan 3 outputs");
    view = vtc_f32_1d(plan.mass, 3);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_log_mass(&plan, &view, &exec), VTC_ERR_OVERLAP,
                  "bias overlaps mass");
    view = vtc_f32_1d(bias, 3);
    plan.mass[1] = NAN;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_log_mass(&plan, &view, &exec), VTC_ERR_DATA, "mass[1]");
    assert_true(is_poisoned(bias, sizeof(bias)));
    free_plan(&plan);
}

/* The table in plan.h: base 10, 2 x 4, rows 1, 2 and 4. */
static void the_documented_example_is_what_happens(void **state)
{
    static const int64_t ids[2][9] = { { 10, 10, 10, 10, 10, 11, 11, 12, 10 },
                                       { 10, 11, 12, 10, 11, 12, 10, 11, 12 } };
    static const int64_t counted[2][3] = { { 11, 12, 14 }, { 10, 11, 12 } };
    static const int64_t next[5][4] = { { 13, 13, 13, 13 },
                                        { 14, 14, 18, 18 },
                                        { 13, 13, 15, 13 },
                                        { 14, 14, 14, 14 },
                                        { 14, 14, 14, 14 } };
    static const int32_t rows[3] = { 1, 2, 4 };
    int64_t in[3 * 8], out[9];
    vtc_tensor in_view = vtc_tensor_2d(in, VTC_I64, 3, 8);
    vtc_tensor mrope = vtc_tensor_2d(out, VTC_I64, 3, 3), one = vtc_tensor_1d(out, VTC_I64, 3);
    vtc_positions_params params = VTC_POSITIONS_PARAMS_INIT;
    vtc_plan plan = empty_plan(8, 3, 0);

    (void)state;
    assert_int_equal(vtc_plan_select(&plan, 8, rows, 3, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_grid_positions(1, 2, 4, 10, 1, &in_view, NULL), VTC_OK);
    params.base = 10;
    params.grid_h = 2;
    params.grid_w = 4;
    for (int text = 0; text < 5; text++)
        for (int visual = 0; visual < 2; visual++) {
            int64_t text_next;

            params.text = (vtc_text_rule)text;
            params.visual = (vtc_visual_rule)visual;
            assert_int_equal(vtc_plan_positions(&params, &plan, &in_view, &mrope, &text_next, NULL),
                             VTC_OK);
            assert_memory_equal(out, ids[visual], sizeof(ids[visual]));
            assert_int_equal(text_next, next[text][visual]);
            assert_int_equal(vtc_plan_positions(&params, &plan, NULL, &one, &text_next, NULL),
                             VTC_OK);
            assert_memory_equal(out, counted[visual], sizeof(counted[visual]));
            assert_int_equal(text_next, next[text][2 + visual]);
        }
    free_plan(&plan);
}

static void frames_advance_by_the_time_step(void **state)
{
    static const int32_t want[3][8] = { { 5, 5, 5, 5, 7, 7, 7, 7 },
                                        { 5, 5, 6, 6, 5, 5, 6, 6 },
                                        { 5, 6, 5, 6, 5, 6, 5, 6 } };
    int32_t out[3][9];
    vtc_tensor view = vtc_tensor_2d(out, VTC_I32, 3, 8);
    vtc_tensor empty = vtc_tensor_2d(out, VTC_I32, 3, 0);

    (void)state;
    view.stride[0] = 9;
    poison(out, sizeof(out));
    assert_int_equal(vtc_grid_positions(2, 2, 2, 5, 2, &view, NULL), VTC_OK);
    for (int axis = 0; axis < 3; axis++)
        assert_memory_equal(out[axis], want[axis], sizeof(want[axis]));
    assert_int_equal(vtc_grid_positions(2, 0, 3, 5, 2, &empty, NULL), VTC_OK);
}

/* Seven frames are the largest side of a 2 x 3 grid of video tokens. */
static void frames_count_as_a_side(void **state)
{
    scene s;

    (void)state;
    set_up(&s);
    s.params.grid_t = 7;
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_GRID, true), 17);
    assert_int_equal(run(&s, VTC_VISUAL_KEEP, VTC_TEXT_AFTER_WIDTH, true), 13);
    free_plan(&s.plan);
}

static void grids_that_do_not_fit_are_refused(void **state)
{
    int32_t out[3 * 6];
    vtc_tensor view = vtc_tensor_2d(out, VTC_I32, 3, 6);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(out, sizeof(out));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_grid_positions(1, 2, 4, 0, 1, &view, &exec), VTC_ERR_SHAPE, "3x8");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_grid_positions(1, 2, 3, 0, -1, &view, &exec), VTC_ERR_RANGE, "t_step");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_grid_positions(1, 2, 3, INT32_MAX - 1, 1, &view, &exec),
                  VTC_ERR_OVERFLOW, "do not fit I32");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_grid_positions(2, 1, 3, 1, INT64_MAX, &view, &exec), VTC_ERR_OVERFLOW,
                  "do not fit I32");
    assert_true(is_poisoned(out, sizeof(out)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_token_carries_the_position_of_its_row),
        cmocka_unit_test(renumbering_counts_outputs_on_all_axes),
        cmocka_unit_test(text_resumes_by_rule),
        cmocka_unit_test(the_grid_rules_differ_where_the_grid_is_high),
        cmocka_unit_test(text_after_the_kept_looks_at_outputs_only),
        cmocka_unit_test(without_visual_tokens_text_starts_at_base),
        cmocka_unit_test(i32_ids_in_strided_rows_work),
        cmocka_unit_test(rules_and_shapes_are_checked),
        cmocka_unit_test(positions_that_do_not_fit_are_refused),
        cmocka_unit_test(the_bias_is_the_logarithm_of_the_mass),
        cmocka_unit_test(a_bias_that_does_not_fit_is_refused),
        cmocka_unit_test(the_documented_example_is_what_happens),
        cmocka_unit_test(frames_advance_by_the_time_step),
        cmocka_unit_test(frames_count_as_a_side),
        cmocka_unit_test(grids_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
