/* Tokens by a plan, and back. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype floats[3] = { VTC_F32, VTC_F16, VTC_BF16 };

static vtc_status apply(const vtc_plan *plan, const vtc_tensor *x, vtc_tensor *y, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_status status;
    size_t bytes;

    assert_int_equal(vtc_plan_apply_scratch(plan, x, y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    status = vtc_plan_apply(plan, x, y, &exec);
    exec_scratch_free(&exec);
    return status;
}

/* Rows of C elements, `gap` elements apart, that end at a guard page. */
static vtc_tensor rows_of(vtc_dtype dtype, size_t n, size_t c, size_t gap)
{
    const size_t stride = c + gap;
    vtc_tensor t = vtc_tensor_2d(NULL, dtype, n, c);

    t.stride[0] = stride;
    t.data = guard_alloc(n == 0 ? 0 : ((n - 1) * stride + c) * vtc_dtype_size(dtype));
    return t;
}

static double rounding(vtc_dtype dtype)
{
    return dtype == VTC_F32 ? 2e-6 : dtype == VTC_F16 ? 1e-3 : 8e-3;
}

static void check_apply(uint64_t *seed, const vtc_plan *plan, size_t c, vtc_dtype in, vtc_dtype out)
{
    vtc_tensor x = rows_of(in, plan->n_in, c, 3), y = rows_of(out, plan->n_out, c, 1);
    double *dense_x = calloc(plan->n_in * c + 1, sizeof(double));
    double *want = calloc(plan->n_out * c + 1, sizeof(double));
    dense_plan d = dense_of(plan);

    for (size_t i = 0; i < plan->n_in; i++) {
        for (size_t k = 0; k < c; k++) {
            set_element(x.data, in, i * x.stride[0] + k, rng_f32(seed));
            dense_x[i * c + k] = get_element(x.data, in, i * x.stride[0] + k);
        }
    }
    guard_readonly(x.data);
    assert_int_equal(apply(plan, &x, &y, rng_below(seed, 4)), VTC_OK);
    dense_apply(&d, dense_x, c, want);
    for (size_t j = 0; j < plan->n_out; j++)
        for (size_t k = 0; k < c; k++)
            assert_true(close_to(get_element(y.data, out, j * y.stride[0] + k), want[j * c + k],
                                 1e-5, rounding(out)));
    free(dense_x);
    free(want);
    dense_free(&d);
    guard_free(x.data);
    guard_free(y.data);
}

static void random_plans_agree_with_their_matrix(void **state)
{
    uint64_t seed = 31;

    (void)state;
    for (int round = 0; round < 300; round++) {
        const size_t n_in = rng_below(&seed, 50);
        const plan_kind kind = (plan_kind)(round % N_PLAN_KINDS);
        vtc_plan plan = random_plan(&seed, kind, n_in, rng_below(&seed, n_in + 1));

        check_apply(&seed, &plan, 1 + rng_below(&seed, 70), floats[rng_below(&seed, 3)],
                    floats[rng_below(&seed, 3)]);
        free_plan(&plan);
    }
}

static void a_row_kept_alone_keeps_its_bits(void **state)
{
    const uint16_t half[4] = { 0x7e01, 0x8000, 0x0001, 0xfc00 }; /* NaN, -0, subnormal, -Inf */
    const int32_t rows[2] = { 1, 0 };

    (void)state;
    for (int with_entries = 0; with_entries < 2; with_entries++) {
        vtc_plan plan = empty_plan(2, 2, with_entries ? 2 : 0);
        uint16_t y16[4];
        float y32[4];
        vtc_tensor x = vtc_tensor_2d(half, VTC_F16, 2, 2);
        vtc_tensor same = vtc_tensor_2d(y16, VTC_F16, 2, 2), wide = vtc_f32_2d(y32, 2, 2);

        assert_int_equal(vtc_plan_select(&plan, 2, rows, 2, NULL, NULL), VTC_OK);
        assert_int_equal(apply(&plan, &x, &same, 0), VTC_OK);
        assert_true(y16[0] == half[2] && y16[1] == half[3] && y16[2] == half[0] &&
                    y16[3] == half[1]);
        assert_int_equal(apply(&plan, &x, &wide, 0), VTC_OK);
        assert_true(y32[0] == 0x1p-24f && isinf(y32[1]) && isnan(y32[2]) && signbit(y32[3]));
        free_plan(&plan);
    }
}

static void an_empty_row_gives_zeros_under_both_rules(void **state)
{
    const int32_t owner[3] = { 0, 0, 0 };

    (void)state;
    for (int reduce = VTC_SUM; reduce <= VTC_MAX; reduce++) {
        const float x_data[6] = { -1, -2, -3, -4, -5, -6 };
        float y_data[4];
        vtc_plan plan = empty_plan(3, 2, 3);
        vtc_tensor x = vtc_f32_2d(x_data, 3, 2), y = vtc_f32_2d(y_data, 2, 2);

        assert_int_equal(vtc_plan_group(&plan, 3, owner, 1, NULL, NULL, NULL), VTC_OK);
        plan.n_out = 2;
        plan.begin[2] = 3;
        plan.keep[1] = -1;
        plan.reduce = (vtc_reduce)reduce;
        poison(y_data, sizeof(y_data));
        assert_int_equal(apply(&plan, &x, &y, 0), VTC_OK);
        assert_true(y_data[2] == 0.0f && y_data[3] == 0.0f);
        assert_true(close_to(y_data[0], reduce == VTC_SUM ? -3.0 : -1.0 / 3, 1e-6, 0));
        free_plan(&plan);
    }
}

static void any_number_of_workers_gives_the_same_bits(void **state)
{
    enum { N = 300, K = 100, C = 301 };
    uint64_t seed = 41;

    (void)state;
    for (int kind = PLAN_GROUPS; kind < N_PLAN_KINDS; kind++) {
        for (int d = 0; d < 3; d++) {
            vtc_plan plan = random_plan(&seed, (plan_kind)kind, N, K);
            vtc_tensor x = rows_of(floats[d], N, C, 0), one = rows_of(floats[2 - d], K, C, 0);
            vtc_tensor many = rows_of(floats[2 - d], K, C, 0);

            for (size_t i = 0; i < N * C; i++)
                set_element(x.data, floats[d], i, rng_f32(&seed));
            assert_int_equal(apply(&plan, &x, &one, 0), VTC_OK);
            for (size_t n_workers = 2; n_workers <= 5; n_workers += 3) {
                assert_int_equal(apply(&plan, &x, &many, n_workers), VTC_OK);
                assert_memory_equal(many.data, one.data, K * C * vtc_dtype_size(floats[2 - d]));
            }
            guard_free(x.data);
            guard_free(one.data);
            guard_free(many.data);
            free_plan(&plan);
        }
    }
}

static void refuse_apply(const vtc_plan *plan, const vtc_tensor *x, vtc_tensor *y, vtc_status want,
                         const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_apply(plan, x, y, &exec), want, part);
}

static void what_does_not_fit_is_refused_and_nothing_written(void **state)
{
    uint64_t seed = 51;
    float memory[100];
    uint16_t narrow[40];
    vtc_plan plan = random_plan(&seed, PLAN_GROUPS, 6, 2);
    vtc_tensor x = vtc_f32_2d(memory, 6, 4), y = vtc_f32_2d(memory + 24, 2, 4);
    vtc_tensor bad;

    (void)state;
    poison(memory + 24, 76 * sizeof(float));
    refuse_apply(NULL, &x, &y, VTC_ERR_NULL, "plan is NULL");
    refuse_apply(&plan, NULL, &y, VTC_ERR_NULL, "x is NULL");
    refuse_apply(&plan, &x, NULL, VTC_ERR_NULL, "y is NULL");
    bad = vtc_f32_2d(memory, 5, 4);
    refuse_apply(&plan, &bad, &y, VTC_ERR_SHAPE, "x has 5 rows, the plan has 6");
    bad = vtc_f32_2d(memory + 24, 3, 4);
    refuse_apply(&plan, &x, &bad, VTC_ERR_SHAPE, "y has 3 rows, the plan has 2");
    bad = vtc_f32_2d(memory + 24, 2, 5);
    refuse_apply(&plan, &x, &bad, VTC_ERR_SHAPE, "x has 4 channels, y has 5");
    bad = vtc_f32_1d(memory + 24, 4);
    refuse_apply(&plan, &x, &bad, VTC_ERR_SHAPE, "rank 1");
    bad = vtc_tensor_2d(memory + 24, VTC_I32, 2, 4);
    refuse_apply(&plan, &x, &bad, VTC_ERR_DTYPE, "I32");
    bad = vtc_f32_2d(memory + 20, 2, 4);
    refuse_apply(&plan, &x, &bad, VTC_ERR_OVERLAP, "y overlaps x");
    bad = vtc_tensor_2d(narrow, VTC_F16, 2, 4);
    refuse_apply(&plan, &x, &bad, VTC_ERR_SCRATCH, "needs 64 bytes");
    bad = vtc_f32_2d(plan.weight, 1, 4);
    bad.dim[0] = 2;
    refuse_apply(&plan, &x, &bad, VTC_ERR_OVERLAP, "y overlaps weight of the plan");
    plan.source[0] = 6;
    refuse_apply(&plan, &x, &y, VTC_ERR_RANGE, "source[0] of plan is 6");
    assert_true(is_poisoned(memory + 24, 76 * sizeof(float)));
    free_plan(&plan);
}

static void float_tokens_need_no_scratch(void **state)
{
    uint64_t seed = 52;
    vtc_plan plan = random_plan(&seed, PLAN_OVERLAP, 6, 2);
    vtc_plan pure = random_plan(&seed, PLAN_ASCENDING, 6, 2);
    const vtc_tensor x = vtc_f32_2d(NULL, 6, 4), y = vtc_f32_2d(NULL, 2, 4);
    const vtc_tensor x16 = vtc_tensor_2d(NULL, VTC_F16, 6, 4);
    const vtc_tensor y16 = vtc_tensor_2d(NULL, VTC_F16, 2, 4);
    size_t bytes = 1;

    (void)state;
    assert_int_equal(vtc_plan_apply_scratch(&plan, &x, &y, NULL, &bytes), VTC_OK);
    assert_int_equal(bytes, 0);
    bytes = 1;
    assert_int_equal(vtc_plan_apply_scratch(&pure, &x16, &y16, NULL, &bytes), VTC_OK);
    assert_int_equal(bytes, 0);
    free_plan(&plan);
    free_plan(&pure);
}

/* ---- spread ---------------------------------------------------------------------------------- */

static void every_row_gets_the_output_it_went_to(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_U8, VTC_I64 };
    uint64_t seed = 61;

    (void)state;
    for (int round = 0; round < 120; round++) {
        const size_t n_in = rng_below(&seed, 30), n_out = rng_below(&seed, n_in + 1), c = 5;
        const vtc_dtype dtype = dtypes[round % 3];
        const size_t row = c * vtc_dtype_size(dtype);
        vtc_plan plan = random_plan(&seed, (plan_kind)(round % N_PLAN_KINDS), n_in, n_out);
        vtc_tensor y = vtc_tensor_2d(calloc(n_out + 1, row), dtype, n_out, c);
        vtc_tensor x = rows_of(dtype, n_in, c, 2);
        vtc_tensor fill = vtc_tensor_1d(calloc(1, row), dtype, c);
        vtc_exec exec = test_exec(rng_below(&seed, 3));
        const bool fills = rng_below(&seed, 2) == 0;

        for (size_t b = 0; b < n_out * row; b++)
            ((unsigned char *)y.data)[b] = (unsigned char)rng(&seed);
        memset(fill.data, fills ? 0x5a : 0, row);
        assert_int_equal(vtc_plan_spread(&plan, &y, fills ? &fill : NULL, &x, &exec), VTC_OK);
        for (size_t i = 0; i < n_in; i++) {
            const char *got = (const char *)x.data + i * x.stride[0] * vtc_dtype_size(dtype);
            const char *want = plan.fate[i] < 0 ? (const char *)fill.data
                                                : (const char *)y.data + (size_t)plan.fate[i] * row;

            assert_memory_equal(got, want, row);
        }
        free(y.data);
        free(fill.data);
        guard_free(x.data);
        free_plan(&plan);
    }
}

static void refuse_spread(const vtc_plan *plan, const vtc_tensor *y, const vtc_tensor *fill,
                          vtc_tensor *x, vtc_status want, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_spread(plan, y, fill, x, &exec), want, part);
}

static void a_spread_that_does_not_fit_is_refused(void **state)
{
    uint64_t seed = 71;
    float memory[64];
    vtc_plan plan = random_plan(&seed, PLAN_GROUPS, 6, 2);
    int32_t *fate = plan.fate;
    vtc_tensor y = vtc_f32_2d(memory, 2, 4), x = vtc_f32_2d(memory + 12, 6, 4);
    vtc_tensor fill = vtc_f32_1d(memory + 8, 4), bad;

    (void)state;
    poison(memory + 12, 24 * sizeof(float));
    bad = vtc_tensor_2d(memory + 12, VTC_F16, 6, 4);
    refuse_spread(&plan, &y, NULL, &bad, VTC_ERR_DTYPE, "x has dtype F16");
    bad = vtc_f32_1d(memory + 8, 3);
    refuse_spread(&plan, &y, &bad, &x, VTC_ERR_SHAPE, "fill has 3 channels");
    bad = vtc_f32_1d(memory + 12, 4);
    refuse_spread(&plan, &y, &bad, &x, VTC_ERR_OVERLAP, "x overlaps fill");
    bad = vtc_f32_2d(memory + 4, 6, 4);
    refuse_spread(&plan, &y, &fill, &bad, VTC_ERR_OVERLAP, "x overlaps y");
    plan.fate = NULL;
    refuse_spread(&plan, &y, NULL, &x, VTC_ERR_NULL, "no fate");
    plan.fate = fate;
    plan.fate[3] = 2;
    refuse_spread(&plan, &y, NULL, &x, VTC_ERR_RANGE, "fate[3] is 2");
    assert_true(is_poisoned(memory + 12, 24 * sizeof(float)));
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_agree_with_their_matrix),
        cmocka_unit_test(a_row_kept_alone_keeps_its_bits),
        cmocka_unit_test(an_empty_row_gives_zeros_under_both_rules),
        cmocka_unit_test(any_number_of_workers_gives_the_same_bits),
        cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_written),
        cmocka_unit_test(float_tokens_need_no_scratch),
        cmocka_unit_test(every_row_gets_the_output_it_went_to),
        cmocka_unit_test(a_spread_that_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
