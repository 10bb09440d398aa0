/* Patch mergers, and the mlp1 that is one without the joining. */
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct merger_case {
    vtc_patch_merger_params params;
    size_t n_batch; /* 0: tensors of rank 2 */
    size_t c, n_norm, n_hidden, d;
    vtc_dtype from, stored, to;
    bool bias;
    size_t gap;
} merger_case;

static merger_case make_case(size_t t, size_t h, size_t w, size_t c, size_t d)
{
    const vtc_patch_merger_params params = VTC_PATCH_MERGER_PARAMS_INIT;
    merger_case k = { params, 0, c, c, 4 * c, d, VTC_F32, VTC_F32, VTC_F32, true, 0 };

    k.params.grid_t = t;
    k.params.grid_h = h;
    k.params.grid_w = w;
    return k;
}

static size_t n_tokens(const merger_case *k)
{
    return k->params.grid_t * k->params.grid_h * k->params.grid_w;
}

static size_t n_cells(const merger_case *k)
{
    return k->params.merge * k->params.merge;
}

static vtc_norm_mlp_weights make_weights(uint64_t *seed, const merger_case *k)
{
    vtc_norm_mlp_weights w =
        random_norm_mlp(seed, k->stored, k->n_norm, n_cells(k) * k->c, k->n_hidden, k->d, k->bias);

    if (k->params.norm == VTC_NORM_RMS) {
        guard_free(w.norm.bias.data);
        memset(&w.norm.bias, 0, sizeof(w.norm.bias));
    }
    return w;
}

static vtc_tensor make_view(uint64_t *seed, const merger_case *k, vtc_dtype dtype, size_t n,
                            size_t width)
{
    const size_t dim[] = { k->n_batch, n, width };
    const int rank = k->n_batch != 0 ? 3 : 2;

    return seed != NULL ? make_random(seed, dtype, rank, dim + 3 - rank, k->gap)
                        : make_tensor(dtype, rank, dim + 3 - rank, k->gap);
}

static vtc_tensor make_input(uint64_t *seed, const merger_case *k)
{
    return make_view(seed, k, k->from, n_tokens(k), k->c);
}

static vtc_tensor make_output(const merger_case *k)
{
    return make_view(NULL, k, k->to, n_tokens(k) / n_cells(k), k->d);
}

static vtc_tensor merged(const merger_case *k, const vtc_norm_mlp_weights *w, const vtc_tensor *x,
                         size_t n_workers)
{
    vtc_tensor y = make_output(k);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes, n_out;

    assert_int_equal(vtc_patch_merger_count(&k->params, n_tokens(k), &n_out, &exec), VTC_OK);
    assert_int_equal(n_out, y.dim[y.rank - 2]);
    assert_int_equal(vtc_patch_merger_scratch(&k->params, w, x, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_patch_merger(&k->params, w, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* Joined rows of all batch items; in merge order they stand in memory as they are. */
static double *join(const merger_case *k, const vtc_tensor *x)
{
    const size_t n = n_tokens(k), per_item = n * k->c;
    double *values = values_of(x);

    for (size_t b = 0; b < (k->n_batch != 0 ? k->n_batch : 1) &&
                       k->params.order == VTC_ORDER_RASTER && per_item != 0;
         b++) {
        const size_t per_frame = per_item / k->params.grid_t;

        for (size_t t = 0; t < k->params.grid_t; t++) {
            double *frame = values + b * per_item + t * per_frame;
            double *rows = joined(frame, k->params.grid_h, k->params.grid_w, k->c, k->params.merge,
                                  false, false);

            memcpy(frame, rows, per_frame * sizeof(*frame));
            free(rows);
        }
    }
    return values;
}

static void assert_merged(const merger_case *k, const vtc_norm_mlp_weights *w, const vtc_tensor *x,
                          const vtc_tensor *y)
{
    double *want = apply_norm_mlp(w, k->params.norm, (double)k->params.eps, k->params.act,
                                  join(k, x), n_elements(y) / (k->d != 0 ? k->d : 1));

    assert_tensor_near(y, want, 2e-5);
    free(want);
}

static void check_case(const merger_case *k, uint64_t *seed, size_t n_workers)
{
    const vtc_tensor x = make_input(seed, k);
    vtc_norm_mlp_weights w = make_weights(seed, k);
    const vtc_tensor y = merged(k, &w, &x, n_workers);

    assert_merged(k, &w, &x, &y);
    free_norm_mlp(&w);
    guard_free(x.data);
    guard_free(y.data);
}

static merger_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    const size_t m = 1 + rng_below(seed, 3);
    merger_case k =
        make_case(rng_below(seed, 3) + (rng_below(seed, 9) != 0), m * (1 + rng_below(seed, 4)),
                  m * (1 + rng_below(seed, 4)), 4 + rng_below(seed, 12), 1 + rng_below(seed, 20));

    k.params.merge = m;
    k.params.order = (vtc_token_order)rng_below(seed, 2);
    k.params.norm = (vtc_norm_kind)rng_below(seed, 2);
    k.params.act = (vtc_activation)rng_below(seed, VTC_ACT_RELU2 + 1);
    k.params.eps = rng_below(seed, 2) ? 1e-6f : 1e-2f;
    k.n_batch = rng_below(seed, 3);
    k.n_norm = rng_below(seed, 3) == 0 ? 0 : rng_below(seed, 2) ? k.c : k.c * m * m;
    k.n_hidden = 1 + rng_below(seed, 50);
    k.from = dtypes[rng_below(seed, 3)];
    k.stored = dtypes[rng_below(seed, 3)];
    k.to = dtypes[rng_below(seed, 3)];
    k.bias = rng_below(seed, 3) != 0;
    k.gap = rng_below(seed, 3);
    return k;
}

/* ---- values ---------------------------------------------------------------------------------- */

static void any_grid_norm_order_and_dtype_matches_the_reference(void **state)
{
    uint64_t seed = 61;

    (void)state;
    for (int i = 0; i < 300; i++) {
        const merger_case k = random_case(&seed);

        check_case(&k, &seed, rng_below(&seed, 3));
    }
}

static void rows_of_several_blocks_match_the_reference(void **state)
{
    merger_case k = make_case(3, 42, 44, 4, 5);
    uint64_t seed = 62;

    (void)state;
    check_case(&k, &seed, 2);
    k.params.order = VTC_ORDER_RASTER;
    k.n_norm = 16;
    check_case(&k, &seed, 2);
}

static void raster_and_merge_order_give_the_same_bits(void **state)
{
    merger_case k = make_case(2, 4, 6, 7, 9);
    uint64_t seed = 63;
    const vtc_tensor raster = make_input(&seed, &k);
    vtc_norm_mlp_weights w = make_weights(&seed, &k);
    vtc_tensor x = make_view(NULL, &k, VTC_F32, n_tokens(&k), k.c);

    (void)state;
    assert_int_equal(vtc_merge_order_gather(2, 4, 6, 2, &raster, &x, NULL), VTC_OK);
    const vtc_tensor want = merged(&k, &w, &x, 0);

    k.params.order = VTC_ORDER_RASTER;
    const vtc_tensor got = merged(&k, &w, &raster, 2);

    assert_same_bits(&got, &want);
    free_norm_mlp(&w);
    guard_free(raster.data);
    guard_free(x.data);
    guard_free(got.data);
    guard_free(want.data);
}

/* Images of any grids, one after another in merge order, as the Qwen encoders batch them. */
static void without_a_grid_blocks_are_taken_as_they_come(void **state)
{
    merger_case k = make_case(1, 2, 14, 6, 5), one = k;
    uint64_t seed = 64;
    const vtc_tensor x = make_input(&seed, &k);
    vtc_norm_mlp_weights w = make_weights(&seed, &k);
    const vtc_tensor want = merged(&k, &w, &x, 0);
    vtc_tensor y = make_output(&k);
    vtc_exec exec = test_exec(0);
    size_t n_out = 0;

    (void)state;
    one.params.grid_h = one.params.grid_w = 0;
    exec_scratch(&exec, 1 << 16);
    assert_int_equal(vtc_patch_merger_count(&one.params, 28, &n_out, &exec), VTC_OK);
    assert_int_equal(n_out, 7);
    assert_int_equal(vtc_patch_merger(&one.params, &w, &x, &y, &exec), VTC_OK);
    assert_same_bits(&y, &want);
    exec_scratch_free(&exec);
    free_norm_mlp(&w);
    guard_free(x.data);
    guard_free(y.data);
    guard_free(want.data);
}

static void constant_and_tiny_tokens_show_bias_and_eps(void **state)
{
    merger_case k = make_case(1, 2, 4, 16, 6);
    uint64_t seed = 65;

    (void)state;
    for (int post = 0; post < 2; post++)
        for (int rms = 0; rms < 2; rms++) {
            k.n_norm = post ? 64 : 16;
            k.params.norm = rms ? VTC_NORM_RMS : VTC_NORM_LAYER;
            const vtc_tensor x = make_input(&seed, &k);
            vtc_norm_mlp_weights w = make_weights(&seed, &k);

            guard_writable(x.data);
            for (size_t i = 0; i < 64; i++) {
                ((float *)x.data)[i] = -0.7f;
                ((float *)x.data)[64 + i] *= 1e-3f;
            }
            const vtc_tensor y = merged(&k, &w, &x, 0);

            assert_merged(&k, &w, &x, &y);
            free_norm_mlp(&w);
            guard_free(x.data);
            guard_free(y.data);
        }
}

static void a_nan_stays_in_its_block(void **state)
{
    const merger_case k = make_case(1, 4, 4, 6, 8);
    uint64_t seed = 66;
    const vtc_tensor x = make_input(&seed, &k);
    vtc_norm_mlp_weights w = make_weights(&seed, &k);

    (void)state;
    guard_writable(x.data);
    ((float *)x.data)[9 * 6 + 2] = NAN; /* token 9 is in block 2 */
    const vtc_tensor y = merged(&k, &w, &x, 0);

    for (size_t i = 0; i < 4 * 8; i++)
        assert_int_equal(isnan(((float *)y.data)[i]) != 0, i / 8 == 2);
    free_norm_mlp(&w);
    guard_free(x.data);
    guard_free(y.data);
}

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 67;

    (void)state;
    for (int i = 0; i < 30; i++) {
        const merger_case k = random_case(&seed);
        const vtc_tensor x = make_input(&seed, &k);
        vtc_norm_mlp_weights w = make_weights(&seed, &k);
        const vtc_tensor want = merged(&k, &w, &x, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
            const vtc_tensor got = merged(&k, &w, &x, n_workers);

            assert_same_bits(&got, &want);
            guard_free(got.data);
        }
        free_norm_mlp(&w);
        guard_free(x.data);
        guard_free(want.data);
    }
}

/* ---- mlp1 ------------------------------------------------------------------------------------ */

/* Joined rows are what a merger makes of merge-order tokens. */
static void mlp1_is_the_merger_of_joined_rows(void **state)
{
    uint64_t seed = 68;

    (void)state;
    for (int i = 0; i < 60; i++) {
        merger_case k = random_case(&seed);

        k.params.order = VTC_ORDER_MERGE;
        k.gap = 0;
        const vtc_tensor x = make_input(&seed, &k);
        vtc_norm_mlp_weights w = make_weights(&seed, &k);
        const vtc_tensor want = merged(&k, &w, &x, 0);
        const vtc_mlp1_params params = { sizeof(params), k.params.norm, k.params.act, k.params.eps,
                                         NULL };
        const size_t dim[] = { k.n_batch, n_tokens(&k) / n_cells(&k), k.c * n_cells(&k) };
        const vtc_tensor rows = vtc_tensor_nd(x.data, x.dtype, x.rank, dim + 3 - x.rank);
        vtc_tensor y = make_output(&k);
        vtc_exec exec = test_exec(2);
        size_t bytes;

        assert_int_equal(vtc_mlp1_scratch(&params, &w, &rows, &y, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_mlp1(&params, &w, &rows, &y, &exec), VTC_OK);
        assert_same_bits(&y, &want);
        exec_scratch_free(&exec);
        free_norm_mlp(&w);
        guard_free(x.data);
        guard_free(y.data);
        guard_free(want.data);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(vtc_patch_merger_params params, const vtc_norm_mlp_weights *w,
                           const vtc_tensor *x, vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t bytes = 77;
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_patch_merger(&params, w, x, &y, &exec), want, part);
    record_errors(&exec, &log);
    if (want != VTC_ERR_OVERLAP)
        assert_failed(&log, vtc_patch_merger_scratch(&params, w, x, &y, &exec, &bytes), want, part);
    assert_int_equal(bytes, 77);
    exec_scratch_free(&exec);
}

static void grids_that_do_not_fit_are_refused(void **state)
{
    const merger_case k = make_case(1, 3, 4, 5, 6);
    vtc_patch_merger_params p = k.params;
    uint64_t seed = 69;
    const vtc_tensor x = make_input(&seed, &k), y = make_output(&k);
    vtc_norm_mlp_weights w = make_weights(&seed, &k);
    size_t n_out = 77;

    (void)state;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "grid 3x4 is not divisible by 2");
    p.order = VTC_ORDER_RASTER;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "grid 3x4 is not divisible by 2");
    p.grid_h = 4;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "grid 1x4x4 needs 16 rows, x has 12");
    p.grid_h = p.grid_w = 0;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "grid 1x0x0 needs 0 rows, x has 12");
    p.order = VTC_ORDER_MERGE;
    p.merge = 5;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "12 rows are not divisible into blocks of 25");
    p.merge = 0;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "merge is 0");
    p.grid_h = 12;
    p.grid_w = 1;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "merge is 0");
    p.order = (vtc_token_order)2;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "order 2");
    p = k.params;
    assert_int_equal(vtc_patch_merger_count(&p, 12, &n_out, NULL), VTC_ERR_SHAPE);
    assert_int_equal(n_out, 77);
    assert_untouched(&y);
    free_norm_mlp(&w);
    guard_free(x.data);
    guard_free(y.data);
}

static void weights_and_parameters_that_do_not_fit_are_refused(void **state)
{
    const merger_case k = make_case(1, 2, 4, 5, 6);
    vtc_patch_merger_params p = k.params;
    uint64_t seed = 70;
    const vtc_tensor x = make_input(&seed, &k), y = make_output(&k);
    vtc_norm_mlp_weights w = make_weights(&seed, &k), bad = w;

    (void)state;
    bad.norm.weight.dim[0] = 4;
    expect_refused(p, &bad, &x, y, VTC_ERR_SHAPE, "layer 0: norm.weight has 4 elements");
    bad.norm.weight.dim[0] = 10; /* two tokens */
    expect_refused(p, &bad, &x, y, VTC_ERR_SHAPE, "layer 0: norm.weight has 10 elements");
    bad = w;
    bad.fc1.weight.dim[1] = 5;
    expect_refused(p, &bad, &x, y, VTC_ERR_SHAPE, "layer 0: fc1.weight is 20x5");
    bad = w;
    bad.fc2.weight.dim[0] = bad.fc2.bias.dim[0] = 5;
    expect_refused(p, &bad, &x, y, VTC_ERR_SHAPE, "y has 6 channels, the last layer gives 5");
    expect_refused(p, NULL, &x, y, VTC_ERR_NULL, "weights is NULL");
    p.norm = VTC_NORM_RMS;
    expect_refused(p, &w, &x, y, VTC_ERR_UNSUPPORTED, "layer 0: norm.bias is given");
    p.norm = (vtc_norm_kind)2;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "norm 2");
    p = k.params;
    p.eps = NAN;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "eps is nan");
    bad = w;
    bad.norm.bias = vtc_f32_1d(y.data, 5);
    expect_refused(k.params, &bad, &x, y, VTC_ERR_OVERLAP, "norm.bias");
    assert_untouched(&y);
    free_norm_mlp(&w);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grid_norm_order_and_dtype_matches_the_reference),
        cmocka_unit_test(rows_of_several_blocks_match_the_reference),
        cmocka_unit_test(raster_and_merge_order_give_the_same_bits),
        cmocka_unit_test(without_a_grid_blocks_are_taken_as_they_come),
        cmocka_unit_test(constant_and_tiny_tokens_show_bias_and_eps),
        cmocka_unit_test(a_nan_stays_in_its_block),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mlp1_is_the_merger_of_joined_rows),
        cmocka_unit_test(grids_that_do_not_fit_are_refused),
        cmocka_unit_test(weights_and_parameters_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
