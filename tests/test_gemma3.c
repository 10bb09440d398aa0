/* Gemma 3's projector. */
#include "support/tensors.h"

#include "reference/pool_reference.h"

#include <math.h>
#include <stdlib.h>

typedef struct gemma_case {
    vtc_gemma3_params params;
    size_t n_images; /* 0: tensors of rank 2 */
    size_t n_in, n_out;
    vtc_dtype from, norm, projection, to;
    size_t gap;
} gemma_case;

typedef struct views {
    vtc_tensor x, y;
    vtc_gemma3_weights weights;
} views;

static gemma_case make_case(size_t side, size_t tokens)
{
    gemma_case c = { VTC_GEMMA3_PARAMS_INIT, 2, 7, 9, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0 };

    c.params.patches_per_side = side;
    c.params.tokens_per_side = tokens;
    return c;
}

static views make_views(uint64_t *seed, const gemma_case *c)
{
    const size_t side = c->params.patches_per_side, tokens = c->params.tokens_per_side;
    const size_t in[] = { c->n_images, side * side, c->n_in };
    const size_t out[] = { c->n_images, tokens * tokens, c->n_out };
    const size_t weight[] = { c->n_in, c->n_out };
    const int first = c->n_images == 0;
    views v;

    v.x = make_random(seed, c->from, 3 - first, in + first, c->gap);
    v.y = make_tensor(c->to, 3 - first, out + first, c->gap);
    v.weights.mm_soft_emb_norm = make_random(seed, c->norm, 1, &c->n_in, 0);
    v.weights.mm_input_projection_weight = make_random(seed, c->projection, 2, weight, c->gap);
    return v;
}

static void free_views(const views *v)
{
    guard_free(v->x.data);
    guard_free(v->y.data);
    guard_free(v->weights.mm_soft_emb_norm.data);
    guard_free(v->weights.mm_input_projection_weight.data);
}

static void project(const gemma_case *c, views *v, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_gemma3_project_scratch(&c->params, &v->weights, &v->x, &v->y, &exec,
                                                &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_gemma3_project(&c->params, &v->weights, &v->x, &v->y, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void assert_projected(const gemma_case *c, const views *v)
{
    const size_t side = c->params.patches_per_side, tokens = c->params.tokens_per_side;
    const size_t n_images = c->n_images != 0 ? c->n_images : 1;
    double *x = values_of(&v->x), *want = values_of(&v->y);
    double *factor = values_of(&v->weights.mm_soft_emb_norm);
    double *weight = values_of(&v->weights.mm_input_projection_weight);

    for (size_t i = 0; i < c->n_in; i++)
        factor[i] += (double)c->params.norm_offset;
    for (size_t b = 0; b < n_images; b++)
        ref_gemma3(x + b * side * side * c->n_in, side, tokens, c->n_in, (double)c->params.eps,
                   factor, weight, c->n_out, want + b * tokens * tokens * c->n_out);
    assert_tensor_near(&v->y, want, 1e-5);
    free(x);
    free(want);
    free(factor);
    free(weight);
}

static gemma_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    const size_t tokens = 1 + rng_below(seed, 5), kernel = 1 + rng_below(seed, 4);
    gemma_case c = make_case(tokens * kernel, tokens);

    c.params.norm_offset = (float)rng_below(seed, 2);
    c.n_images = rng_below(seed, 4);
    c.n_in = 1 + rng_below(seed, 40);
    c.n_out = 1 + rng_below(seed, 40);
    c.from = dtypes[rng_below(seed, 3)];
    c.norm = dtypes[rng_below(seed, 3)];
    c.projection = dtypes[rng_below(seed, 3)];
    c.to = dtypes[rng_below(seed, 3)];
    c.gap = rng_below(seed, 3);
    return c;
}

/* ---- counts ---------------------------------------------------------------------------------- */

static void counts_are_those_of_the_models(void **state)
{
    gemma_case c = make_case(64, 16);
    size_t n;

    (void)state;
    assert_int_equal(vtc_gemma3_count(&c.params, &n, NULL), VTC_OK);
    assert_int_equal(n, 256);
    c.params.patches_per_side = 10; /* a remainder is dropped as long as T tokens result */
    c.params.tokens_per_side = 3;
    assert_int_equal(vtc_gemma3_count(&c.params, &n, NULL), VTC_OK);
    assert_int_equal(n, 9);
}

static void expect_bad_params(const vtc_gemma3_params *params, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t n = 77;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_gemma3_count(params, &n, &exec), want, part);
    assert_int_equal(n, 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    gemma_case c = make_case(11, 4);
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    expect_bad_params(NULL, VTC_ERR_RANGE, "0 tokens per side of 0 patches");
    expect_bad_params(&c.params, VTC_ERR_RANGE,
                      "11 patches per side pooled by 2 give 5 tokens per side, not 4");
    c.params.tokens_per_side = 12;
    expect_bad_params(&c.params, VTC_ERR_RANGE, "12 tokens per side of 11 patches");
    c.params.patches_per_side = c.params.tokens_per_side = SIZE_MAX / 2;
    expect_bad_params(&c.params, VTC_ERR_OVERFLOW, "overflow");
    c = make_case(4, 2);
    c.params.eps = -1e-6f;
    expect_bad_params(&c.params, VTC_ERR_RANGE, "eps is -1e-06");
    c.params.eps = NAN;
    expect_bad_params(&c.params, VTC_ERR_RANGE, "eps is nan");
    c = make_case(4, 2);
    c.params.norm_offset = INFINITY;
    expect_bad_params(&c.params, VTC_ERR_RANGE, "norm_offset is inf");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_gemma3_count(&c.params, NULL, &exec), VTC_ERR_NULL, "n_tokens");
}

/* ---- values ---------------------------------------------------------------------------------- */

static void projections_match_the_reference(void **state)
{
    uint64_t seed = 51;

    (void)state;
    for (int i = 0; i < 150; i++) {
        const gemma_case c = random_case(&seed);
        views v = make_views(&seed, &c);

        project(&c, &v, rng_below(&seed, 4));
        assert_projected(&c, &v);
        free_views(&v);
    }
}

static void a_remainder_of_the_grid_is_dropped(void **state)
{
    const gemma_case c = make_case(10, 3);
    uint64_t seed = 52;
    views v = make_views(&seed, &c);

    (void)state;
    project(&c, &v, 0);
    assert_projected(&c, &v);
    free_views(&v);
}

static void any_executor_gives_the_same_bits(void **state)
{
    gemma_case c = make_case(48, 24);
    uint64_t seed = 53;

    (void)state;
    c.n_in = 65;
    c.n_out = 1030; /* several tiles of the product */
    c.projection = VTC_BF16;
    views v = make_views(&seed, &c);
    const vtc_tensor one = v.y;

    project(&c, &v, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        v.y = make_tensor(one.dtype, one.rank, one.dim, 0);
        project(&c, &v, n_workers);
        assert_same_bits(&v.y, &one);
        guard_free(v.y.data);
    }
    v.y = one;
    assert_projected(&c, &v);
    free_views(&v);
}

static void black_images_give_zeros(void **state)
{
    const gemma_case c = make_case(4, 2);
    uint64_t seed = 54;
    views v = make_views(&seed, &c);

    (void)state;
    guard_writable(v.x.data);
    for (size_t i = 0; i < n_elements(&v.x); i++)
        ((float *)v.x.data)[i] = 0.0f;
    project(&c, &v, 0);
    for (size_t i = 0; i < n_elements(&v.y); i++)
        assert_true(((float *)v.y.data)[i] == 0.0f);
    free_views(&v);
}

static void empty_batches_and_channels_are_fine(void **state)
{
    static const size_t shapes[][3] = { { 0, 7, 9 }, { 2, 0, 9 }, { 2, 7, 0 } };
    uint64_t seed = 55;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        gemma_case c = make_case(4, 2);

        c.n_images = shapes[i][0];
        c.n_in = shapes[i][1];
        c.n_out = shapes[i][2];
        /* rank 3 even for no images */
        const size_t in[] = { c.n_images, 16, c.n_in }, out[] = { c.n_images, 4, c.n_out };
        const size_t weight[] = { c.n_in, c.n_out };
        views v;

        v.x = make_random(&seed, VTC_F32, 3, in, 0);
        v.y = make_tensor(VTC_F32, 3, out, 0);
        v.weights.mm_soft_emb_norm = make_random(&seed, VTC_F32, 1, &c.n_in, 0);
        v.weights.mm_input_projection_weight = make_random(&seed, VTC_F32, 2, weight, 0);
        project(&c, &v, 0);
        for (size_t e = 0; e < n_elements(&v.y); e++)
            assert_true(((float *)v.y.data)[e] == 0.0f); /* a sum over no channels */
        free_views(&v);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_bad_views(const vtc_gemma3_weights *weights, const vtc_tensor *x, vtc_tensor y,
                             vtc_status want, const char *part)
{
    const gemma_case c = make_case(4, 2);
    vtc_exec exec = test_exec(0);
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_gemma3_project(&c.params, weights, x, &y, &exec), want, part);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    const gemma_case c = make_case(4, 2);
    uint64_t seed = 56;
    const views v = make_views(&seed, &c);
    vtc_tensor bad = v.x;

    (void)state;
    expect_bad_views(&v.weights, NULL, v.y, VTC_ERR_NULL, "x is NULL");
    bad.dim[1] = 17;
    expect_bad_views(&v.weights, &bad, v.y, VTC_ERR_SHAPE, "grid 4x4 needs 16 rows, x has 17");
    bad = v.x;
    bad.dim[0] = 1;
    expect_bad_views(&v.weights, &bad, v.y, VTC_ERR_SHAPE, "x has 1 images, y has 2");
    bad = v.y;
    bad.dim[1] = 3;
    expect_bad_views(&v.weights, &v.x, bad, VTC_ERR_SHAPE, "grid 2x2 needs 4 rows, y has 3");
    bad = v.y;
    bad.data = v.x.data;
    expect_bad_views(&v.weights, &v.x, bad, VTC_ERR_OVERLAP, "y overlaps x");
    assert_untouched(&v.y);
    free_views(&v);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    const gemma_case c = make_case(4, 2);
    uint64_t seed = 57;
    const views v = make_views(&seed, &c);
    vtc_gemma3_weights bad = v.weights;

    (void)state;
    expect_bad_views(NULL, &v.x, v.y, VTC_ERR_NULL, "weights is NULL");
    bad.mm_soft_emb_norm.dim[0] = 6;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_SHAPE, "mm_soft_emb_norm has 6 channels, x has 7");
    bad = v.weights;
    bad.mm_soft_emb_norm.dtype = VTC_I64;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_DTYPE, "mm_soft_emb_norm has dtype I64");
    bad = v.weights;
    bad.mm_input_projection_weight.dim[0] = 8;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_SHAPE, "is 8x9, x and y need 7x9");
    bad = v.weights;
    bad.mm_input_projection_weight.dim[1] = 8;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_SHAPE, "is 7x8, x and y need 7x9");
    bad = v.weights;
    bad.mm_input_projection_weight.data = v.y.data;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_OVERLAP, "y overlaps mm_input_projection_weight");
    bad = v.weights;
    bad.mm_soft_emb_norm.data = v.y.data;
    expect_bad_views(&bad, &v.x, v.y, VTC_ERR_OVERLAP, "y overlaps mm_soft_emb_norm");
    assert_untouched(&v.y);
    free_views(&v);
}

static void scratch_is_exact(void **state)
{
    const gemma_case c = make_case(4, 2);
    uint64_t seed = 58;
    views v = make_views(&seed, &c);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_gemma3_project_scratch(&c.params, &v.weights, &v.x, &v.y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_gemma3_project(&c.params, &v.weights, &v.x, &v.y, &exec),
                  VTC_ERR_SCRATCH, "bytes of scratch");
    assert_untouched(&v.y);
    exec_scratch_free(&exec);
    free_views(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_models),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(projections_match_the_reference),
        cmocka_unit_test(a_remainder_of_the_grid_is_dropped),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(black_images_give_zeros),
        cmocka_unit_test(empty_batches_and_channels_are_fine),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
