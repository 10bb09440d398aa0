/* C-Abstractor, Honeybee's projector. */
#include "support/weights.h"

#include "reference/conv_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 3, MAX_LAYERS = 3 };

typedef struct abstractor_case {
    size_t h, w, out_h, out_w, n_images; /* 0 images: tensors of rank 2 */
    size_t n_in, n_wide, n_out;
    size_t n_before, n_after, n_layers, n_eos;
    bool prenorm, positions, class_row;
    vtc_dtype from, to;
    size_t gap;
    bool mixed; /* dtypes of the weights */
} abstractor_case;

typedef struct model {
    abstractor_case c;
    vtc_c_abstractor_params params;
    vtc_c_abstractor_weights weights;
    vtc_c_abstractor_block blocks[2 * MAX_DEPTH];
    vtc_linear readout[MAX_LAYERS];
    weight_set set;
    vtc_tensor x, y;
} model;

static const abstractor_case plain = { 5, 4, 3,    2,    2,     6,       10,      8, 2,    1,
                                       2, 2, true, true, false, VTC_F32, VTC_F32, 0, false };

/* The shortcut is the identity where it can be. */
static vtc_c_abstractor_block block_of(weight_set *set, size_t n_in, size_t n_out)
{
    const size_t n_hidden = 1 + n_in / 4;
    vtc_c_abstractor_block block;

    memset(&block, 0, sizeof(block));
    block.conv1 = conv_norm_of(set, n_out, n_in);
    block.conv2 = depthwise_norm_of(set, n_out);
    block.se = squeeze_excite_of(set, n_out, n_hidden);
    block.conv3 = conv_norm_of(set, n_out, n_out);
    if (n_in != n_out)
        block.downsample = conv_norm_of(set, n_out, n_in);
    return block;
}

static vtc_tensor output_of(const abstractor_case *c)
{
    const size_t dim[] = { c->n_images, c->out_h * c->out_w + c->n_eos, c->n_out };
    const int first = c->n_images == 0;

    return make_tensor(c->to, 3 - first, dim + first, c->gap);
}

static void make_weights(model *m)
{
    const abstractor_case *c = &m->c;
    const size_t positions[] = { 1, c->h * c->w + (size_t)c->class_row, c->n_in };
    const size_t eos[] = { 1, c->n_eos, c->n_out };
    vtc_c_abstractor_weights *w = &m->weights;
    size_t width = c->n_in;

    if (c->prenorm)
        w->prenorm = norm_of(&m->set, c->n_in);
    if (c->positions)
        w->pos_emb = weight_of(&m->set, 3, positions);
    if (c->n_eos > 0)
        w->eos_tokens = weight_of(&m->set, 3, eos);
    for (size_t i = 0; i < c->n_before + c->n_after; i++) {
        m->blocks[i] = block_of(&m->set, width, c->n_wide);
        width = c->n_wide;
    }
    for (size_t i = 0; i < c->n_layers; i++) {
        m->readout[i] = linear_of(&m->set, c->n_out, width);
        width = c->n_out;
    }
    w->n_before = c->n_before;
    w->n_after = c->n_after;
    w->n_readout = c->n_layers;
}

static model *make_model(const abstractor_case *c, uint64_t seed)
{
    const vtc_c_abstractor_params defaults = VTC_C_ABSTRACTOR_PARAMS_INIT;
    const size_t dim[] = { c->n_images, c->h * c->w, c->n_in };
    const int first = c->n_images == 0;
    model *m = calloc(1, sizeof(*m));

    if (m == NULL)
        abort();
    m->c = *c;
    m->params = defaults;
    m->params.grid_h = c->h;
    m->params.grid_w = c->w;
    m->params.out_h = c->out_h;
    m->params.out_w = c->out_w;
    m->set.seed = seed;
    m->set.mixed = c->mixed;
    m->set.gap = c->gap;
    make_weights(m);
    m->weights.before = m->blocks;
    m->weights.after = m->blocks + c->n_before;
    m->weights.readout = m->readout;
    m->x = make_random(&m->set.seed, c->from, 3 - first, dim + first, c->gap);
    m->y = output_of(c);
    return m;
}

static void free_model(model *m)
{
    weights_free(&m->set);
    guard_free(m->x.data);
    guard_free(m->y.data);
    free(m);
}

static void project(model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_c_abstractor_scratch(&m->params, &m->weights, &m->x, &m->y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_c_abstractor(&m->params, &m->weights, &m->x, &m->y, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void assert_matches_reference(const model *m)
{
    const size_t n_images = m->c.n_images != 0 ? m->c.n_images : 1;
    double *x = values_of(&m->x), *want = values_of(&m->y);

    for (size_t b = 0; b < n_images; b++)
        ref_c_abstractor(&m->params, &m->weights, x + b * (n_elements(&m->x) / n_images),
                         want + b * (n_elements(&m->y) / n_images));
    assert_tensor_near(&m->y, want, 5e-5);
    free(x);
    free(want);
}

static void check_case(const abstractor_case *c, uint64_t seed, size_t n_workers)
{
    model *m = make_model(c, seed);

    project(m, n_workers);
    assert_matches_reference(m);
    free_model(m);
}

/* ---- values ---------------------------------------------------------------------------------- */

static abstractor_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    abstractor_case c = plain;

    c.h = 1 + rng_below(seed, 8);
    c.w = 1 + rng_below(seed, 8);
    c.out_h = 1 + rng_below(seed, 6);
    c.out_w = 1 + rng_below(seed, 6);
    c.n_images = rng_below(seed, 3);
    c.n_in = 6 + rng_below(seed, 12);
    c.n_wide = rng_below(seed, 2) != 0 ? c.n_in : 6 + rng_below(seed, 20);
    c.n_out = 1 + rng_below(seed, 30);
    c.n_before = rng_below(seed, MAX_DEPTH + 1);
    c.n_after = rng_below(seed, MAX_DEPTH + 1);
    c.n_layers = 1 + rng_below(seed, MAX_LAYERS);
    c.n_eos = rng_below(seed, 3);
    c.prenorm = rng_below(seed, 2) != 0;
    c.positions = rng_below(seed, 2) != 0;
    c.class_row = rng_below(seed, 2) != 0;
    c.from = dtypes[rng_below(seed, 3)];
    c.to = dtypes[rng_below(seed, 3)];
    c.gap = rng_below(seed, 3);
    c.mixed = rng_below(seed, 2) != 0;
    return c;
}

static void random_models_match_the_reference(void **state)
{
    uint64_t seed = 111;

    (void)state;
    for (uint64_t i = 0; i < 80; i++) {
        const abstractor_case c = random_case(&seed);

        check_case(&c, 3000 + i, rng_below(&seed, 4));
    }
}

static void depth_zero_is_an_average_and_the_readout(void **state)
{
    abstractor_case c = plain;

    (void)state;
    c.n_before = c.n_after = 0;
    check_case(&c, 112, 0);
}

static void the_count_has_the_eos_tokens(void **state)
{
    model *m = make_model(&plain, 113);
    size_t n;

    (void)state;
    assert_int_equal(vtc_c_abstractor_count(&m->params, &m->weights, &n, NULL), VTC_OK);
    assert_int_equal(n, 3 * 2 + 2);
    memset(&m->weights.eos_tokens, 0, sizeof(m->weights.eos_tokens));
    assert_int_equal(vtc_c_abstractor_count(NULL, &m->weights, &n, NULL), VTC_ERR_RANGE);
    assert_int_equal(vtc_c_abstractor_count(&m->params, &m->weights, &n, NULL), VTC_OK);
    assert_int_equal(n, 6);
    free_model(m);
}

static void eos_tokens_keep_their_bits(void **state)
{
    abstractor_case c = plain;
    model *m;

    (void)state;
    c.to = VTC_BF16;
    m = make_model(&c, 114);
    const size_t dim[] = { 2, c.n_out };
    const vtc_tensor eos = make_random(&m->set.seed, VTC_BF16, 2, dim, 3);

    m->weights.eos_tokens = eos; /* of rank 2, too */
    project(m, 3);
    for (size_t b = 0; b < 2; b++) {
        vtc_tensor last = m->y;

        last.rank = 2;
        last.data = (uint16_t *)m->y.data + b * m->y.stride[0] + 6 * m->y.stride[1];
        memcpy(last.dim, eos.dim, sizeof(dim));
        memcpy(last.stride, &m->y.stride[1], sizeof(dim));
        assert_same_bits(&last, &eos);
    }
    guard_free(eos.data);
    free_model(m);
}

static void the_row_of_the_class_token_is_left_out(void **state)
{
    abstractor_case c = plain;
    vtc_tensor want;
    model *m;

    (void)state;
    c.class_row = true;
    m = make_model(&c, 115);
    project(m, 0);
    want = m->y;
    m->y = output_of(&c);
    m->weights.pos_emb.dim[1]--;
    m->weights.pos_emb.data = (float *)m->weights.pos_emb.data + m->weights.pos_emb.stride[1];
    project(m, 0);
    assert_same_bits(&m->y, &want);
    guard_free(want.data);
    free_model(m);
}

static void any_executor_gives_the_same_bits(void **state)
{
    abstractor_case c = plain;
    vtc_tensor one;
    model *m;

    (void)state;
    c.h = 13;
    c.w = 11;
    c.out_h = c.out_w = 5;
    c.n_wide = 600; /* two tiles of a product */
    c.mixed = true;
    m = make_model(&c, 116);
    project(m, 0);
    assert_matches_reference(m);
    one = m->y;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        m->y = output_of(&c);
        project(m, n_workers);
        assert_same_bits(&m->y, &one);
        guard_free(m->y.data);
    }
    m->y = one;
    free_model(m);
}

static void empty_batches_are_fine(void **state)
{
    static const size_t x_dim[] = { 0, 20, 6 }, y_dim[] = { 0, 8, 8 };
    model *m = make_model(&plain, 117), empty = *m;

    (void)state;
    empty.x = vtc_tensor_nd(NULL, VTC_F32, 3, x_dim);
    empty.y = vtc_tensor_nd(NULL, VTC_F32, 3, y_dim);
    project(&empty, 0);
    free_model(m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const model *m, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtc_tensor y = m->y;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_c_abstractor(&m->params, &m->weights, &m->x, &y, &exec), want, part);
    assert_untouched(&m->y);
}

static void parameters_out_of_range_are_refused(void **state)
{
    model *m = make_model(&plain, 118), bad = *m;

    (void)state;
    bad.params.grid_w = 0;
    expect_refused(&bad, VTC_ERR_RANGE, "grid is 5x0");
    bad = *m;
    bad.params.out_h = 0;
    expect_refused(&bad, VTC_ERR_RANGE, "output grid is 0x2");
    bad = *m;
    bad.params.eps = INFINITY;
    expect_refused(&bad, VTC_ERR_RANGE, "eps is inf");
    bad = *m;
    bad.params.prenorm_eps = -1.0f;
    expect_refused(&bad, VTC_ERR_RANGE, "prenorm_eps is -1");
    bad = *m;
    bad.weights.n_readout = 0;
    expect_refused(&bad, VTC_ERR_RANGE, "the readout has no layer");
    free_model(m);
}

static void tables_that_do_not_fit_are_refused(void **state)
{
    model *m = make_model(&plain, 119), bad = *m;

    (void)state;
    bad.weights.pos_emb.dim[1] = 18;
    expect_refused(&bad, VTC_ERR_SHAPE, "grid 5x4 needs 20 rows, pos_emb has 18");
    bad = *m;
    bad.weights.pos_emb.dim[2] = 5;
    expect_refused(&bad, VTC_ERR_SHAPE, "pos_emb has 5 channels, x has 6");
    bad = *m;
    bad.weights.pos_emb.dim[0] = 2;
    expect_refused(&bad, VTC_ERR_SHAPE, "pos_emb has 2 tables");
    bad = *m;
    bad.weights.eos_tokens.dim[2] = 7;
    expect_refused(&bad, VTC_ERR_SHAPE, "eos_tokens has 7 channels, the readout gives 8");
    bad = *m;
    bad.weights.eos_tokens.dim[1] = 1;
    expect_refused(&bad, VTC_ERR_SHAPE, "needs 7 rows, y has 8");
    bad = *m;
    bad.weights.prenorm.weight.dim[0] = 5;
    expect_refused(&bad, VTC_ERR_SHAPE, "prenorm.weight has 5 elements, 6 are needed");
    bad = *m;
    bad.weights.eos_tokens.data = m->y.data;
    expect_refused(&bad, VTC_ERR_OVERLAP, "y overlaps eos_tokens");
    free_model(m);
}

static void blocks_that_do_not_fit_are_refused(void **state)
{
    static const vtc_tensor absent = { 0 };
    model *m = make_model(&plain, 120);
    vtc_c_abstractor_block *block = m->blocks;
    const vtc_c_abstractor_block good[2] = { block[0], block[1] };

    (void)state;
    block[0].downsample.conv = absent;
    expect_refused(m, VTC_ERR_SHAPE, "net.0.b1.conv3.conv.weight gives 10 channels, 6 are needed");
    block[0] = good[0];
    block[0].downsample.norm.weight = absent;
    expect_refused(m, VTC_ERR_DTYPE, "net.0.b1.downsample.bn.weight");
    block[0] = good[0];
    block[1].conv2.conv.dim[0] = 9;
    expect_refused(m, VTC_ERR_SHAPE, "net.0.b2.conv2.conv.weight is 9x1x3x3, 10x1x3x3 is needed");
    block[1] = good[1];
    block[1].conv1.conv.dim[1] = 9;
    expect_refused(m, VTC_ERR_SHAPE, "net.0.b2.conv1.conv.weight is 10x9");
    block[1] = good[1];
    m->weights.after = NULL;
    expect_refused(m, VTC_ERR_NULL, "1 blocks of net.2 are NULL");
    m->weights.after = m->blocks + 2;
    m->readout[1].weight.dim[1] = 7;
    expect_refused(m, VTC_ERR_SHAPE, "readout.2.weight is 8x7, its input has 8 channels");
    m->weights.readout = NULL;
    expect_refused(m, VTC_ERR_NULL, "2 layers of readout are NULL");
    free_model(m);
}

static void scratch_is_exact(void **state)
{
    model *m = make_model(&plain, 121);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_c_abstractor_scratch(&m->params, &m->weights, &m->x, &m->y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_c_abstractor(&m->params, &m->weights, &m->x, &m->y, &exec),
                  VTC_ERR_SCRATCH, "bytes of scratch");
    assert_untouched(&m->y);
    exec_scratch_free(&exec);
    free_model(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_models_match_the_reference),
        cmocka_unit_test(depth_zero_is_an_average_and_the_readout),
        cmocka_unit_test(the_count_has_the_eos_tokens),
        cmocka_unit_test(eos_tokens_keep_their_bits),
        cmocka_unit_test(the_row_of_the_class_token_is_left_out),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(empty_batches_are_fine),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(tables_that_do_not_fit_are_refused),
        cmocka_unit_test(blocks_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
