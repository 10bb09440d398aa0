/* LDPv2, MobileVLM V2's projector. */
#include "support/weights.h"

#include "reference/conv_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct ldpv2_case {
    size_t h, w, out_h, out_w, n_images; /* 0 images: tensors of rank 2 */
    size_t n_in, n_wide, n_out;
    vtc_dtype from, to;
    size_t gap;
    bool mixed; /* dtypes of the weights */
} ldpv2_case;

typedef struct model {
    ldpv2_case c;
    vtc_ldpv2_params params;
    vtc_ldpv2_weights weights;
    weight_set set;
    vtc_tensor x, y;
} model;

static const ldpv2_case plain = { 7, 5, 3, 2, 2, 6, 10, 8, VTC_F32, VTC_F32, 0, false };

static vtc_tensor output_of(const ldpv2_case *c)
{
    const size_t dim[] = { c->n_images, c->out_h * c->out_w, c->n_out };
    const int first = c->n_images == 0;

    return make_tensor(c->to, 3 - first, dim + first, c->gap);
}

static model make_model(const ldpv2_case *c, uint64_t seed)
{
    const vtc_ldpv2_params defaults = VTC_LDPV2_PARAMS_INIT;
    const size_t dim[] = { c->n_images, c->h * c->w, c->n_in };
    const int first = c->n_images == 0;
    model m;

    memset(&m, 0, sizeof(m));
    m.c = *c;
    m.params = defaults;
    m.params.grid_h = c->h;
    m.params.grid_w = c->w;
    m.params.out_h = c->out_h;
    m.params.out_w = c->out_w;
    m.set.seed = seed;
    m.set.mixed = c->mixed;
    m.set.gap = c->gap;
    m.weights.mlp_0 = linear_of(&m.set, c->n_wide, c->n_in);
    m.weights.mlp_2 = linear_of(&m.set, c->n_out, c->n_wide);
    m.weights.peg.weight = depthwise_of(&m.set, c->n_out);
    m.weights.peg.bias = vector_of(&m.set, c->n_out);
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

    assert_int_equal(vtc_ldpv2_scratch(&m->params, &m->weights, &m->x, &m->y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_ldpv2(&m->params, &m->weights, &m->x, &m->y, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

/* The reference averages behind the second layer, as the authors do. */
static void assert_matches_reference(const model *m)
{
    const size_t n_images = m->c.n_images != 0 ? m->c.n_images : 1;
    double *x = values_of(&m->x), *want = values_of(&m->y);

    for (size_t b = 0; b < n_images; b++)
        ref_ldpv2(&m->params, &m->weights, x + b * (n_elements(&m->x) / n_images),
                  want + b * (n_elements(&m->y) / n_images));
    assert_tensor_near(&m->y, want, 1e-5);
    free(x);
    free(want);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void random_models_match_the_reference(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 91;

    (void)state;
    for (uint64_t i = 0; i < 100; i++) {
        ldpv2_case c = plain;
        model m;

        c.h = 1 + rng_below(&seed, 9);
        c.w = 1 + rng_below(&seed, 9);
        c.out_h = 1 + rng_below(&seed, 9);
        c.out_w = 1 + rng_below(&seed, 9);
        c.n_images = rng_below(&seed, 4);
        c.n_in = 1 + rng_below(&seed, 20);
        c.n_wide = 1 + rng_below(&seed, 30);
        c.n_out = 1 + rng_below(&seed, 30);
        c.from = dtypes[rng_below(&seed, 3)];
        c.to = dtypes[rng_below(&seed, 3)];
        c.gap = rng_below(&seed, 3);
        c.mixed = rng_below(&seed, 2) != 0;
        m = make_model(&c, 2000 + i);
        m.params.act = rng_below(&seed, 2) != 0 ? VTC_ACT_GELU_ERF : VTC_ACT_GELU_TANH;
        project(&m, rng_below(&seed, 4));
        assert_matches_reference(&m);
        free_model(&m);
    }
}

static void the_output_is_twelve_by_twelve_unless_said(void **state)
{
    vtc_ldpv2_params params = VTC_LDPV2_PARAMS_INIT;
    size_t out_h, out_w;

    (void)state;
    params.grid_h = params.grid_w = 24;
    assert_int_equal(vtc_ldpv2_count(&params, &out_h, &out_w, NULL), VTC_OK);
    assert_true(out_h == 12 && out_w == 12);
    params.out_w = 7;
    assert_int_equal(vtc_ldpv2_count(&params, &out_h, &out_w, NULL), VTC_OK);
    assert_true(out_h == 12 && out_w == 7);
}

static void any_executor_gives_the_same_bits(void **state)
{
    ldpv2_case c = plain;
    vtc_tensor one;
    model m;

    (void)state;
    c.h = 19;
    c.w = 17;
    c.out_h = c.out_w = 9;
    c.n_out = 1030;
    c.mixed = true;
    m = make_model(&c, 92);
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

static void missing_biases_count_as_zero(void **state)
{
    static const vtc_tensor absent = { 0 };
    model m = make_model(&plain, 93);

    (void)state;
    m.weights.mlp_0.bias = m.weights.mlp_2.bias = m.weights.peg.bias = absent;
    project(&m, 0);
    assert_matches_reference(&m);
    free_model(&m);
}

static void a_nan_stays_within_its_reach(void **state)
{
    model m;
    ldpv2_case c = plain;

    (void)state;
    c.h = c.w = c.out_h = c.out_w = 4;
    c.n_images = 0;
    m = make_model(&c, 94);
    guard_writable(m.x.data);
    set_element(m.x.data, VTC_F32, 0, NAN); /* token (0, 0): output rows and columns 0 and 1 */
    project(&m, 0);
    for (size_t i = 0; i < n_elements(&m.y); i++) {
        const size_t token = i / c.n_out;

        assert_int_equal(isnan(((float *)m.y.data)[i]), token / 4 < 2 && token % 4 < 2);
    }
    free_model(&m);
}

static void empty_batches_are_fine(void **state)
{
    static const size_t x_dim[] = { 0, 35, 6 }, y_dim[] = { 0, 6, 8 };
    model m = make_model(&plain, 95), empty = m;

    (void)state;
    empty.x = vtc_tensor_nd(NULL, VTC_F32, 3, x_dim);
    empty.y = vtc_tensor_nd(NULL, VTC_F32, 3, y_dim);
    project(&empty, 0);
    free_model(&m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const model *m, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtc_tensor y = m->y;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldpv2(&m->params, &m->weights, &m->x, &y, &exec), want, part);
    assert_untouched(&m->y);
}

static void parameters_out_of_range_are_refused(void **state)
{
    model m = make_model(&plain, 96), bad = m;
    vtc_exec exec = test_exec(0);
    size_t out_h = 77, out_w = 77;
    error_log log;

    (void)state;
    bad.params.grid_h = 0;
    expect_refused(&bad, VTC_ERR_RANGE, "grid is 0x5");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_ldpv2_count(&bad.params, &out_h, &out_w, &exec), VTC_ERR_RANGE,
                  "grid is 0x5");
    assert_true(out_h == 77 && out_w == 77);
    bad = m;
    bad.params.out_w = 0;
    expect_refused(&bad, VTC_ERR_RANGE, "output grid is 3x0");
    bad = m;
    bad.params.out_w = SIZE_MAX / 4;
    expect_refused(&bad, VTC_ERR_OVERFLOW, "overflows");
    bad = m;
    bad.params.act = (vtc_activation)-1;
    expect_refused(&bad, VTC_ERR_RANGE, "activation -1");
    free_model(&m);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    model m = make_model(&plain, 97), bad = m;

    (void)state;
    bad.x.dim[1] = 34;
    expect_refused(&bad, VTC_ERR_SHAPE, "grid 7x5 needs 35 rows, x has 34");
    bad = m;
    bad.y.dim[1] = 5;
    expect_refused(&bad, VTC_ERR_SHAPE, "grid 3x2 needs 6 rows, y has 5");
    bad = m;
    bad.weights.mlp_2.weight.dim[1] = 9;
    expect_refused(&bad, VTC_ERR_SHAPE, "mlp.mlp.2.weight is 8x9, its input has 10 channels");
    bad = m;
    bad.weights.peg.weight.dim[2] = 2;
    expect_refused(&bad, VTC_ERR_SHAPE, "peg.peg.0.weight is 8x1x2x3, 8x1x3x3 is needed");
    bad = m;
    bad.weights.peg.bias.dim[0] = 7;
    expect_refused(&bad, VTC_ERR_SHAPE, "peg.peg.0.bias has 7 elements, 8 are needed");
    bad = m;
    bad.weights.peg.weight.data = m.y.data;
    expect_refused(&bad, VTC_ERR_OVERLAP, "y overlaps peg.peg.0.weight");
    free_model(&m);
}

static void scratch_is_exact(void **state)
{
    model m = make_model(&plain, 98);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_ldpv2_scratch(&m.params, &m.weights, &m.x, &m.y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_ldpv2(&m.params, &m.weights, &m.x, &m.y, &exec), VTC_ERR_SCRATCH,
                  "bytes of scratch");
    assert_untouched(&m.y);
    exec_scratch_free(&exec);
    free_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_models_match_the_reference),
        cmocka_unit_test(the_output_is_twelve_by_twelve_unless_said),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(missing_biases_count_as_zero),
        cmocka_unit_test(a_nan_stays_within_its_reach),
        cmocka_unit_test(empty_batches_are_fine),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
