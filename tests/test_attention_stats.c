/* Attention statistics in one call. */
#include "support/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The stated bound, see vtc/score.h. */
static size_t scratch_bound(const stats_data *data, size_t n_workers)
{
    const size_t n_heads = data->q.dim[0], d = data->q.dim[2], n = (data->k.dim[1] + 15) / 16 * 16;
    const bool max = (data->params.want & VTC_STATS_COL_MAX) != 0;
    const bool rows = (data->params.want & VTC_STATS_ROWS) != 0;
    const bool sums = (data->params.want & (VTC_STATS_COL_SUM | VTC_STATS_COL_MEAN)) != 0 && !max;
    size_t floats = n_workers * ((64 + d) * n + 64 * d + 64 + (sums ? data->n_cols : 0));

    floats += sums ? n_heads * data->n_cols : 0;
    floats += max || rows ? 65 * data->n_cols : 0;
    return floats * sizeof(float) + (5 * n_workers + 3) * 64;
}

static void run(const stats_data *data, vtc_attention_stats_out *out, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_attention_stats_scratch(&data->params, &data->q, &data->k, &exec, &bytes),
                     VTC_OK);
    assert_true(bytes <= scratch_bound(data, n_workers == 0 ? 1 : n_workers));
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_attention_stats(&data->params, &data->q, &data->k, stats_lse(data), out,
                                         &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static void check_case(uint64_t *seed, const stats_case *c, unsigned want, double tolerance)
{
    stats_data data = make_stats(seed, c);
    vtc_attention_stats_out one, other;

    data.params.want = want;
    one = make_out(&data);
    run(&data, &one, 0);
    assert_stats(&one, &data, tolerance);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers) {
        other = make_out(&data);
        run(&data, &other, n_workers);
        assert_same_stats(&one, &other, &data);
        free_out(&other);
    }
    free_out(&one);
    free_stats(&data);
}

static const stats_case cases[] = {
    { .shape = { 4, 4, 150, 150, 16 }, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
    { .shape = { 4, 2, 150, 150, 16 },
      .causal = true,
      .n_cols = SIZE_MAX,
      .q = VTC_F32,
      .k = VTC_F32,
      .chosen = ROWS_LAST,
      .heads_inner = true },
    { .shape = { 6, 2, 70, 133, 8 },
      .causal = true,
      .row_offset = 63,
      .first_col = 5,
      .n_cols = 64,
      .q = VTC_F16,
      .k = VTC_BF16,
      .gap = 3,
      .chosen = ROWS_SOME },
    { .shape = { 3, 1, 130, 67, 5 },
      .causal = true,
      .first_col = 30,
      .n_cols = 11,
      .voters = ROWS_SOME,
      .chosen = ROWS_SOME,
      .lse = true,
      .q = VTC_F32,
      .k = VTC_F16,
      .gap = 1,
      .heads_inner = true },
    { .shape = { 5, 5, 40, 90, 12 },
      .causal = true,
      .positions = true,
      .first_col = 20,
      .n_cols = 50,
      .voters = ROWS_SOME,
      .chosen = ROWS_LAST,
      .q = VTC_BF16,
      .k = VTC_F32 },
    { .shape = { 33, 33, 1, 200, 32 },
      .causal = true,
      .row_offset = 199,
      .first_col = 35,
      .n_cols = 144,
      .chosen = ROWS_LAST,
      .q = VTC_F32,
      .k = VTC_F32,
      .gap = 2 },
    { .shape = { 16, 16, 7, 65, 64 },
      .n_cols = SIZE_MAX,
      .first_col = 1,
      .voters = ROWS_SOME,
      .q = VTC_F32,
      .k = VTC_F16,
      .chosen = ROWS_SOME },
    { .shape = { 2, 1, 66, 3, 4 },
      .causal = true,
      .n_cols = SIZE_MAX,
      .chosen = ROWS_SOME,
      .q = VTC_F32,
      .k = VTC_F32,
      .lse = true },
    { .shape = { 3, 1, 130, 250, 5 },
      .causal = true,
      .row_offset = 70,
      .first_col = 30,
      .n_cols = 170,
      .q = VTC_F32,
      .k = VTC_F32,
      .lse = true },
    { .shape = { 2, 2, 130, 190, 9 },
      .causal = true,
      .positions = true,
      .n_cols = SIZE_MAX,
      .voters = ROWS_SOME,
      .q = VTC_F32,
      .k = VTC_BF16,
      .lse = true },
    { .shape = { 1, 1, 1, 1, 1 }, .causal = true, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
    { .shape = { 3, 3, 12, 40, 1 },
      .causal = true,
      .positions = true,
      .n_cols = 0,
      .first_col = 40,
      .q = VTC_F32,
      .k = VTC_F32 },
    { .shape = { 2, 2, 0, 5, 4 }, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
    { .shape = { 2, 2, 0, 0, 4 }, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
    { .shape = { 4, 2, 9, 20, 0 }, .causal = true, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
};

enum { N_CASES = sizeof(cases) / sizeof(*cases) };

static void every_set_of_results_equals_the_whole_attention(void **state)
{
    uint64_t seed = 61;

    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        for (unsigned want = 1; want < 16; want++)
            check_case(&seed, &cases[i], want, 2e-6);
}

static void real_sizes_are_within_2e_6(void **state)
{
    const stats_case decoder = { .shape = { 8, 2, 704, 704, 128 },
                                 .causal = true,
                                 .n_cols = SIZE_MAX,
                                 .chosen = ROWS_LAST,
                                 .q = VTC_F32,
                                 .k = VTC_F32 };
    const stats_case encoder = { .shape = { 4, 4, 577, 577, 64 },
                                 .n_cols = SIZE_MAX,
                                 .chosen = ROWS_LAST,
                                 .q = VTC_F32,
                                 .k = VTC_F32 };
    uint64_t seed = 62;

    (void)state;
    check_case(&seed, &decoder, VTC_STATS_COL_MEAN, 2e-6);
    check_case(&seed, &decoder, 15, 2e-6);
    check_case(&seed, &encoder, VTC_STATS_COL_MEAN | VTC_STATS_ROWS, 2e-6);
}

/* A view says the layout: the same numbers in [heads, tokens, d] and [tokens, heads, d]. */
static void both_layouts_give_the_same_bits(void **state)
{
    const size_t h = 4, n = 90, d = 8;
    float *heads_outer = malloc(h * n * d * sizeof(float));
    float *heads_inner = malloc(h * n * d * sizeof(float));
    vtc_tensor outer = vtc_f32_3d(heads_outer, h, n, d), inner = vtc_f32_3d(heads_inner, h, n, d);
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    float mean[2][90];
    uint64_t seed = 63;

    (void)state;
    inner.stride[0] = d;
    inner.stride[1] = h * d;
    rng_fill(&seed, heads_outer, h * n * d);
    for (size_t i = 0; i < h * n * d; i++)
        heads_inner[element_at(&inner, i)] = heads_outer[i];
    for (int i = 0; i < 2; i++) {
        const vtc_tensor *x = i == 0 ? &outer : &inner;
        vtc_exec exec = test_exec(0);
        size_t bytes;

        out.col_mean = mean[i];
        assert_int_equal(vtc_attention_stats_scratch(NULL, x, x, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_attention_stats(NULL, x, x, NULL, &out, &exec), VTC_OK);
        exec_scratch_free(&exec);
    }
    assert_memory_equal(mean[0], mean[1], sizeof(mean[0]));
    free(heads_outer);
    free(heads_inner);
}

static void columns_of_all_keys_sum_to_the_number_of_voters(void **state)
{
    uint64_t seed = 64;
    const stats_case c = { .shape = { 4, 4, 100, 120, 16 },
                           .causal = true,
                           .n_cols = SIZE_MAX,
                           .voters = ROWS_SOME,
                           .q = VTC_F32,
                           .k = VTC_F32 };
    stats_data data = make_stats(&seed, &c);
    vtc_attention_stats_out out = make_out(&data);
    double total = 0.0;

    (void)state;
    data.params.want = VTC_STATS_COL_SUM;
    data.params.scale = 0.0f; /* 1 / sqrt(d) */
    run(&data, &out, 2);
    assert_stats(&out, &data, 2e-6);
    for (size_t j = 0; j < data.n_cols; j++)
        total += out.col_sum[j];
    assert_true(close_to(total, (double)data.params.n_voters, 0.0, 1e-6));
    free_out(&out);
    free_stats(&data);
}

/* Two heads that each love another key: the maximum of the mean is a half, the mean of maxima 1. */
static void the_maximum_is_that_of_the_head_mean(void **state)
{
    float x[2][2][1] = { { { 60.0f }, { -60.0f } }, { { -60.0f }, { 60.0f } } };
    float ones[2][1][1] = { { { 1.0f } }, { { 1.0f } } }, max[2];
    float scratch_room[4096] = { 0.0f };
    const vtc_tensor q = vtc_f32_3d(&ones[0][0][0], 2, 1, 1), k = vtc_f32_3d(&x[0][0][0], 2, 2, 1);
    vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    vtc_exec exec = VTC_EXEC_INIT;

    (void)state;
    params.want = VTC_STATS_COL_MAX;
    out.col_max = max;
    exec.scratch = (void *)(((uintptr_t)scratch_room + 63) / 64 * 64);
    exec.scratch_size = sizeof(scratch_room) - 64;
    assert_int_equal(vtc_attention_stats(&params, &q, &k, NULL, &out, &exec), VTC_OK);
    assert_true(max[0] == 0.5f && max[1] == 0.5f);
}

/* A NaN query spoils its own row, and with it what that row takes part in; no row that is on no
 * list is looked at. */
static void nan_touches_the_rows_that_hold_it(void **state)
{
    uint64_t seed = 65;
    const stats_case c = { .shape = { 2, 2, 80, 30, 4 },
                           .n_cols = SIZE_MAX,
                           .voters = ROWS_LAST,
                           .chosen = ROWS_SOME,
                           .q = VTC_F32,
                           .k = VTC_F32 };
    stats_data data = make_stats(&seed, &c);
    vtc_attention_stats_out out = make_out(&data);
    const size_t row = (size_t)data.chosen[2];

    (void)state;
    guard_writable(data.q.data);
    for (size_t m = 0; m < 79; m++)
        ((float *)data.q.data)[m * 4] = m == row ? NAN : ((float *)data.q.data)[m * 4];
    run(&data, &out, 0);
    for (size_t j = 0; j < data.n_cols; j++) {
        assert_true(isnan(out.rows[2 * data.n_cols + j]));
        assert_true(close_to(out.rows[data.n_cols + j], data.rows[data.n_cols + j], 0, 2e-6));
        assert_true(close_to(out.col_sum[j], data.sum[j], 0, 2e-6));
    }
    data.params.voters = NULL;
    run(&data, &out, 0);
    for (size_t j = 0; j < data.n_cols; j++)
        assert_true(isnan(out.col_sum[j]) && isnan(out.col_max[j]) && isnan(out.col_mean[j]));
    free_out(&out);
    free_stats(&data);
}

static void large_logits_stay_finite(void **state)
{
    uint64_t seed = 66;
    const stats_case c = {
        .shape = { 2, 2, 70, 80, 8 }, .causal = true, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32
    };
    stats_data data = make_stats(&seed, &c);
    vtc_attention_stats_out out = make_out(&data);

    (void)state;
    data.params.scale = 1e6f;
    run(&data, &out, 0);
    for (size_t j = 0; j < data.n_cols; j++)
        assert_true(out.col_max[j] >= 0.0f && out.col_max[j] <= 1.0f && isfinite(out.col_sum[j]));
    free_out(&out);
    free_stats(&data);
}

static void no_heads_give_zeros(void **state)
{
    const vtc_tensor none = vtc_f32_3d(NULL, 0, 3, 4);
    vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    const int32_t chosen[1] = { 2 };
    float result[4][3];
    vtc_exec exec = test_exec(2);
    size_t bytes;

    (void)state;
    poison(result, sizeof(result));
    out.col_sum = result[0];
    out.col_mean = result[1];
    out.col_max = result[2];
    out.rows = result[3];
    params.chosen = chosen;
    params.n_chosen = 1;
    for (unsigned want = 15; want >= 11; want -= 4) { /* with and without the maximum */
        params.want = want;
        assert_int_equal(vtc_attention_stats_scratch(&params, &none, &none, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_attention_stats(&params, &none, &none, NULL, &out, &exec), VTC_OK);
        exec_scratch_free(&exec);
        for (size_t i = 0; i < 12; i++)
            assert_true(result[i / 3][i % 3] == 0.0f);
    }
}

/* A list of rows without a column to report: an array of nothing may be NULL. */
static void no_columns_need_no_arrays(void **state)
{
    const size_t dim[3] = { 2, 3, 4 };
    vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;
    const vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    const int32_t chosen[1] = { 2 };
    vtc_exec exec = test_exec(2);
    uint64_t seed = 12;
    vtc_tensor q = make_random(&seed, VTC_F32, 3, dim, 0);
    size_t bytes;

    (void)state;
    params.want = 15;
    params.chosen = chosen;
    params.n_chosen = 1;
    params.n_cols = 0;
    assert_int_equal(vtc_attention_stats_scratch(&params, &q, &q, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_attention_stats(&params, &q, &q, NULL, &out, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_free(q.data);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void refused(const stats_data *data, const vtc_attention_stats_out *out, vtc_status status,
                    const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t bytes = 1 << 20;

    exec_scratch(&exec, bytes);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_attention_stats(&data->params, &data->q, &data->k, stats_lse(data), out,
                                      &exec),
                  status, part);
    exec_scratch_free(&exec);
}

static void bad_parameters_are_refused(void **state)
{
    uint64_t seed = 67;
    const stats_case c = { .shape = { 4, 2, 9, 12, 4 },
                           .causal = true,
                           .n_cols = SIZE_MAX,
                           .voters = ROWS_SOME,
                           .chosen = ROWS_SOME,
                           .positions = true,
                           .q = VTC_F32,
                           .k = VTC_F32 };
    stats_data data = make_stats(&seed, &c);
    const vtc_attention_stats_params good = data.params;
    vtc_attention_stats_out out = make_out(&data);
    const int32_t twice[2] = { 3, 3 }, beyond[1] = { 9 };
    const int32_t negative[9] = { 0, 1, 2, -3 };

    (void)state;
    data.params.want = 0;
    refused(&data, &out, VTC_ERR_RANGE, "want is 0");
    data.params.want = 16;
    refused(&data, &out, VTC_ERR_RANGE, "want is 0x10");
    data.params = good;
    data.params.scale = -1.0f;
    refused(&data, &out, VTC_ERR_RANGE, "scale is -1");
    data.params = good;
    data.params.first_col = 13;
    refused(&data, &out, VTC_ERR_RANGE, "first_col is 13, there are 12 keys");
    data.params.first_col = 2;
    data.params.n_cols = 11;
    refused(&data, &out, VTC_ERR_RANGE, "columns 2 to 13");
    data.params = good;
    data.params.voters = twice;
    data.params.n_voters = 2;
    refused(&data, &out, VTC_ERR_RANGE, "voters[1] is 3 after 3");
    data.params = good;
    data.params.chosen = beyond;
    data.params.n_chosen = 1;
    refused(&data, &out, VTC_ERR_RANGE, "chosen[0] is 9, there are 9 rows");
    data.params.chosen = NULL;
    refused(&data, &out, VTC_ERR_NULL, "chosen is NULL");
    data.params = good;
    data.params.positions = negative;
    refused(&data, &out, VTC_ERR_RANGE, "positions[3] is -3");
    assert_true(is_poisoned(out.col_sum, data.n_cols * sizeof(float)));
    assert_true(is_poisoned(out.rows, data.n_cols * good.n_chosen * sizeof(float)));
    free_out(&out);
    free_stats(&data);
}

static void bad_views_and_outputs_are_refused(void **state)
{
    uint64_t seed = 68;
    const stats_case c = {
        .shape = { 4, 2, 9, 12, 4 }, .n_cols = SIZE_MAX, .lse = true, .q = VTC_F32, .k = VTC_F32
    };
    stats_data data = make_stats(&seed, &c);
    const stats_data good = data;
    vtc_attention_stats_out out = make_out(&data);
    const vtc_attention_stats_out all = out;
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    data.k.dim[0] = 0;
    refused(&data, &out, VTC_ERR_SHAPE, "4 query heads cannot share 0 key heads");
    data = good;
    data.k.dim[2] = 3;
    refused(&data, &out, VTC_ERR_SHAPE, "q is 4 wide, k is 3");
    data = good;
    data.k.dim[1] = 0;
    refused(&data, &out, VTC_ERR_SHAPE, "9 rows, but no keys");
    data = good;
    data.lse.dim[1] = 8;
    refused(&data, &out, VTC_ERR_SHAPE, "lse is [4, 8], q has 4 heads of 9 rows");
    data = good;
    data.q.dtype = VTC_I32;
    refused(&data, &out, VTC_ERR_DTYPE, "q has dtype I32");
    data = good;
    out.col_max = NULL;
    refused(&data, &out, VTC_ERR_NULL, "out->col_max is NULL");
    refused(&data, NULL, VTC_ERR_NULL, "out is NULL");
    out.col_max = all.col_sum + 11;
    refused(&data, &out, VTC_ERR_OVERLAP, "col_max overlaps col_sum");
    out.col_max = data.k.data;
    refused(&data, &out, VTC_ERR_OVERLAP, "col_max overlaps k");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_attention_stats(&data.params, &data.q, &data.k, NULL, &all, &exec),
                  VTC_ERR_SCRATCH, "scratch");
    assert_true(is_poisoned(all.col_sum, data.n_cols * sizeof(float)));
    assert_true(is_poisoned(all.col_max, data.n_cols * sizeof(float)));
    out = all;
    free_out(&out);
    free_stats(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_of_results_equals_the_whole_attention),
        cmocka_unit_test(real_sizes_are_within_2e_6),
        cmocka_unit_test(both_layouts_give_the_same_bits),
        cmocka_unit_test(columns_of_all_keys_sum_to_the_number_of_voters),
        cmocka_unit_test(the_maximum_is_that_of_the_head_mean),
        cmocka_unit_test(nan_touches_the_rows_that_hold_it),
        cmocka_unit_test(large_logits_stay_finite),
        cmocka_unit_test(no_heads_give_zeros),
        cmocka_unit_test(no_columns_need_no_arrays),
        cmocka_unit_test(bad_parameters_are_refused),
        cmocka_unit_test(bad_views_and_outputs_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
