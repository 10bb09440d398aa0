/* LDP, MobileVLM's projector. */
#include "support/weights.h"

#include "reference/conv_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct ldp_case {
    size_t h, w, n_images; /* 0 images: tensors of rank 2 */
    size_t n_in, n_wide, n_out, n_hidden;
    vtc_dtype from, to;
    size_t gap;
    bool mixed; /* dtypes of the weights */
    vtc_activation act;
} ldp_case;

typedef struct model {
    ldp_case c;
    vtc_ldp_params params;
    vtc_ldp_weights weights;
    weight_set set;
    vtc_tensor x, y;
} model;

static const ldp_case plain = {
    5, 4, 2, 6, 10, 8, 3, VTC_F32, VTC_F32, 0, false, VTC_ACT_GELU_ERF
};

static vtc_ldp_block block_of(weight_set *set, size_t d, size_t n_hidden)
{
    vtc_ldp_block block;

    block.depthwise = depthwise_norm_of(set, d);
    block.se = squeeze_excite_of(set, d, n_hidden);
    block.pointwise = conv_norm_of(set, d, d);
    return block;
}

static vtc_tensor output_of(const ldp_case *c)
{
    const size_t dim[] = { c->n_images, (c->h + 1) / 2 * ((c->w + 1) / 2), c->n_out };
    const int first = c->n_images == 0;

    return make_tensor(c->to, 3 - first, dim + first, c->gap);
}

static model make_model(const ldp_case *c, uint64_t seed)
{
    const vtc_ldp_params defaults = VTC_LDP_PARAMS_INIT;
    const size_t dim[] = { c->n_images, c->h * c->w, c->n_in };
    const int first = c->n_images == 0;
    model m;

    memset(&m, 0, sizeof(m));
    m.c = *c;
    m.params = defaults;
    m.params.grid_h = c->h;
    m.params.grid_w = c->w;
    m.params.act = c->act;
    m.set.seed = seed;
    m.set.mixed = c->mixed;
    m.set.gap = c->gap;
    m.weights.mlp_1 = linear_of(&m.set, c->n_wide, c->n_in);
    m.weights.mlp_3 = linear_of(&m.set, c->n_out, c->n_wide);
    for (size_t i = 0; i < 2; i++)
        m.weights.block[i] = block_of(&m.set, c->n_out, c->n_hidden);
    m.x = make_random(&m.set.seed, c->from, 3 - first, dim + first, c->gap);
    m.y = output_of(c);
    return m;
}

static void free_model(model *m)
{
    weights_free(&m->set);
    guard_free(m->x.data);
    guard_free(m->y.data);
}

static void project(model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_ldp_scratch(&m->params, &m->weights, &m->x, &m->y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_ldp(&m->params, &m->weights, &m->x, &m->y, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void assert_matches_reference(const model *m)
{
    const size_t n_images = m->c.n_images != 0 ? m->c.n_images : 1;
    double *x = values_of(&m->x), *want = values_of(&m->y);

    for (size_t b = 0; b < n_images; b++)
        ref_ldp(&m->params, &m->weights, x + b * (n_elements(&m->x) / n_images),
                want + b * (n_elements(&m->y) / n_images));
    assert_tensor_near(&m->y, want, 2e-5);
    free(x);
    free(want);
}

static void check_case(const ldp_case *c, uint64_t seed, size_t n_workers)
{
    model m = make_model(c, seed);

    project(&m, n_workers);
    assert_matches_reference(&m);
    free_model(&m);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void random_models_match_the_reference(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 71;

    (void)state;
    for (uint64_t i = 0; i < 60; i++) {
        ldp_case c = plain;

        c.h = 1 + rng_below(&seed, 9);
        c.w = 1 + rng_below(&seed, 9);
        c.n_images = rng_below(&seed, 4);
        c.n_in = 1 + rng_below(&seed, 20);
        c.n_wide = 2 + rng_below(&seed, 30);
        c.n_out = 4 + rng_below(&seed, 30);
        c.n_hidden = 1 + rng_below(&seed, 12);
        c.from = dtypes[rng_below(&seed, 3)];
        c.to = dtypes[rng_below(&seed, 3)];
        c.gap = rng_below(&seed, 3);
        c.mixed = rng_below(&seed, 2) != 0;
        c.act = rng_below(&seed, 2) != 0 ? VTC_ACT_GELU_ERF : VTC_ACT_GELU_TANH;
        check_case(&c, 1000 + i, rng_below(&seed, 4));
    }
}

static void every_small_grid_is_rounded_up(void **state)
{
    (void)state;
    for (size_t h = 1; h <= 4; h++)
        for (size_t w = 1; w <= 4; w++) {
            ldp_case c = plain;
            size_t out_h, out_w;
            model m;

            c.h = h;
            c.w = w;
            m = make_model(&c, 72);
            assert_int_equal(vtc_ldp_count(&m.params, &out_h, &out_w, NULL), VTC_OK);
            assert_int_equal(out_h, (h + 1) / 2);
            assert_int_equal(out_w, (w + 1) / 2);
            project(&m, 0);
            assert_matches_reference(&m);
            free_model(&m);
        }
}

/* Several tiles of each product, several blocks of tokens. */
static void any_executor_gives_the_same_bits(void **state)
{
    ldp_case c = plain;
    vtc_tensor one;
    model m;

    (void)state;
    c.h = 11;
    c.w = 13;
    c.n_out = 1030;
    c.n_hidden = 40;
    c.mixed = true;
    m = make_model(&c, 73);
    project(&m, 0);
    assert_matches_reference(&m);
    one = m.y;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        m.y = output_of(&c);
        project(&m, n_workers);
        assert_same_bits(&m.y, &one);
        guard_free(m.y.data);
    }
    m.y = one;
    free_model(&m);
}

static void images_of_a_batch_do_not_meet(void **state)
{
    model both = make_model(&plain, 74);
    vtc_tensor one;

    (void)state;
    project(&both, 2);
    model m = both;
    m.x.dim[0] = 1;
    m.x.data = (float *)both.x.data + both.x.stride[0];
    m.y = make_tensor(VTC_F32, 3, (const size_t[]){ 1, 6, 8 }, 0);
    project(&m, 0);
    one = both.y;
    one.dim[0] = 1;
    one.data = (float *)both.y.data + both.y.stride[0];
    assert_same_bits(&m.y, &one);
    guard_free(m.y.data);
    free_model(&both);
}

/* Matrices of a GGUF file may have the trailing extents of a convolution or not. */
static void matrices_may_be_stored_as_convolutions(void **state)
{
    model m = make_model(&plain, 75);
    vtc_tensor want;

    (void)state;
    project(&m, 0);
    want = m.y;
    m.y = output_of(&plain);
    for (size_t i = 0; i < 2; i++) {
        vtc_ldp_block *block = &m.weights.block[i];
        vtc_tensor *matrix[] = { &block->se.fc1.weight, &block->se.fc2.weight,
                                 &block->pointwise.conv };

        for (size_t j = 0; j < 3; j++) {
            const size_t dim[] = { matrix[j]->dim[0], matrix[j]->dim[1], 1, 1 };

            *matrix[j] = vtc_tensor_nd(matrix[j]->data, VTC_F32, 4, dim);
        }
    }
    project(&m, 0);
    assert_same_bits(&m.y, &want);
    guard_free(want.data);
    free_model(&m);
}

static void missing_biases_count_as_zero(void **state)
{
    static const vtc_tensor absent = { 0 };
    model m = make_model(&plain, 76);

    (void)state;
    m.weights.mlp_1.bias = m.weights.mlp_3.bias = absent;
    for (size_t i = 0; i < 2; i++) {
        vtc_ldp_block *block = &m.weights.block[i];

        block->depthwise.norm.bias = block->pointwise.norm.bias = absent;
        block->se.fc1.bias = block->se.fc2.bias = absent;
    }
    project(&m, 0);
    assert_matches_reference(&m);
    free_model(&m);
}

/* Through the mean of squeeze-excite. */
static void a_nan_reaches_every_token_of_its_image(void **state)
{
    model m = make_model(&plain, 77);
    const size_t per_image = n_elements(&m.y) / 2;

    (void)state;
    guard_writable(m.x.data);
    set_element(m.x.data, VTC_F32, 0, NAN);
    project(&m, 0);
    for (size_t i = 0; i < n_elements(&m.y); i++)
        assert_int_equal(isnan(((float *)m.y.data)[i]), i < per_image);
    free_model(&m);
}

static void empty_batches_and_grids_are_fine(void **state)
{
    static const size_t x_dim[] = { 0, 20, 6 }, y_dim[] = { 0, 6, 8 };
    model m = make_model(&plain, 78), empty = m;
    ldp_case c = plain;

    (void)state;
    empty.x = vtc_tensor_nd(NULL, VTC_F32, 3, x_dim);
    empty.y = vtc_tensor_nd(NULL, VTC_F32, 3, y_dim);
    project(&empty, 0);
    free_model(&m);
    c.h = 0;
    m = make_model(&c, 78);
    project(&m, 0);
    free_model(&m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* With nothing written. */
static void expect_run_refused(const model *m, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtc_tensor y = m->y;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldp(&m->params, &m->weights, &m->x, &y, &exec), want, part);
    assert_untouched(&m->y);
}

/* By run and query alike. */
static void expect_refused(const model *m, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t bytes = 77;
    error_log log;

    expect_run_refused(m, want, part);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldp_scratch(&m->params, &m->weights, &m->x, &m->y, &exec, &bytes), want,
                  part);
    assert_int_equal(bytes, 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    model m = make_model(&plain, 79), bad = m;

    (void)state;
    bad.params.act = (vtc_activation)7;
    expect_refused(&bad, VTC_ERR_RANGE, "activation 7");
    bad = m;
    bad.params.eps = -1.0f;
    expect_refused(&bad, VTC_ERR_RANGE, "eps is -1");
    bad.params.eps = NAN;
    expect_refused(&bad, VTC_ERR_RANGE, "eps is nan");
    bad = m;
    bad.params.grid_h = 4;
    expect_refused(&bad, VTC_ERR_SHAPE, "grid 4x4 needs 16 rows, x has 20");
    bad.params.grid_h = bad.params.grid_w = SIZE_MAX;
    expect_refused(&bad, VTC_ERR_SHAPE, "rows, x has 20");
    free_model(&m);
}

static void tokens_that_do_not_fit_are_refused(void **state)
{
    model m = make_model(&plain, 80), bad = m;

    (void)state;
    bad.y.dim[1] = 5;
    expect_refused(&bad, VTC_ERR_SHAPE, "grid 3x2 needs 6 rows, y has 5");
    bad = m;
    bad.y.dim[0] = 1;
    expect_refused(&bad, VTC_ERR_SHAPE, "x has 2 batch items, y has 1");
    bad = m;
    bad.x.dim[2] = 5;
    expect_refused(&bad, VTC_ERR_SHAPE, "mlp.1.weight is 10x6, its input has 5 channels");
    bad = m;
    bad.y.dim[2] = 7;
    expect_refused(&bad, VTC_ERR_SHAPE, "mlp.3.weight gives 8 channels, 7 are needed");
    bad = m;
    bad.x.dtype = VTC_I32;
    expect_refused(&bad, VTC_ERR_DTYPE, "x has dtype I32");
    free_model(&m);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    model m = make_model(&plain, 81), bad = m;
    vtc_ldp_block *block = &bad.weights.block[1];

    (void)state;
    block->depthwise.conv.dim[0] = 7;
    expect_refused(&bad, VTC_ERR_SHAPE,
                   "mb_block.2.block.0.0.weight is 7x1x3x3, 8x1x3x3 is needed");
    bad = m;
    block->depthwise.norm.bias.dim[0] = 9;
    expect_refused(&bad, VTC_ERR_SHAPE, "mb_block.2.block.0.1.bias has 9 elements");
    bad = m;
    block->se.fc2.weight.dim[1] = 2;
    expect_refused(&bad, VTC_ERR_SHAPE,
                   "mb_block.2.block.1.fc2.weight is 8x2, its input has 3 channels");
    bad = m;
    block->se.fc2.weight.dim[0] = 7;
    block->se.fc2.bias.dim[0] = 7;
    expect_refused(&bad, VTC_ERR_SHAPE,
                   "mb_block.2.block.1.fc2.weight gives 7 channels, 8 are needed");
    bad = m;
    block->pointwise.conv = block->depthwise.conv;
    expect_refused(&bad, VTC_ERR_SHAPE, "extent 3 along axis 3 of a 1x1 convolution");
    bad = m;
    bad.weights.mlp_1.weight.dtype = VTC_U8;
    expect_refused(&bad, VTC_ERR_DTYPE, "mlp.1.weight has dtype U8");
    bad = m;
    bad.weights.mlp_3.weight.dtype = (vtc_dtype)0;
    expect_refused(&bad, VTC_ERR_DTYPE, "mlp.3.weight");
    free_model(&m);
}

static void missing_and_overlapping_memory_is_refused(void **state)
{
    model m = make_model(&plain, 82), bad = m;
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldp(&m.params, NULL, &m.x, &m.y, &exec), VTC_ERR_NULL, "weights is");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldp_count(&m.params, NULL, NULL, &exec), VTC_ERR_NULL, "out_h");
    bad.weights.block[0].pointwise.norm.weight.data = NULL;
    expect_run_refused(&bad, VTC_ERR_NULL, "mb_block.1.block.2.1.weight has no data");
    bad = m;
    bad.weights.block[0].se.fc1.weight.data = m.y.data;
    expect_run_refused(&bad, VTC_ERR_OVERLAP, "y overlaps mb_block.1.block.1.fc1.weight");
    bad = m;
    bad.x.data = m.y.data;
    expect_run_refused(&bad, VTC_ERR_OVERLAP, "y overlaps x");
    free_model(&m);
}

static void scratch_is_exact(void **state)
{
    model m = make_model(&plain, 83);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_ldp_scratch(&m.params, &m.weights, &m.x, &m.y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_ldp(&m.params, &m.weights, &m.x, &m.y, &exec), VTC_ERR_SCRATCH,
                  "bytes of scratch");
    assert_untouched(&m.y);
    exec_scratch_free(&exec);
    free_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_models_match_the_reference),
        cmocka_unit_test(every_small_grid_is_rounded_up),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(images_of_a_batch_do_not_meet),
        cmocka_unit_test(matrices_may_be_stored_as_convolutions),
        cmocka_unit_test(missing_biases_count_as_zero),
        cmocka_unit_test(a_nan_reaches_every_token_of_its_image),
        cmocka_unit_test(empty_batches_and_grids_are_fine),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(tokens_that_do_not_fit_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(missing_and_overlapping_memory_is_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
