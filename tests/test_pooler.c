/* LLaVA's pooler. */
#include "support/models.h"

#include <math.h>
#include <stdlib.h>

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct pooler_case {
    vtc_pooler_params params;
    size_t n_batch, c, d, e;
    vtc_dtype from, stored, to;
    size_t gap;
} pooler_case;

static pooler_case make_case(size_t h, size_t w, size_t c, size_t d)
{
    const vtc_pooler_params params = VTC_POOLER_PARAMS_INIT;
    pooler_case k = { params, 2, c, d, d, VTC_F32, VTC_F32, VTC_F32, 0 };

    k.params.grid_h = h;
    k.params.grid_w = w;
    return k;
}

static vtc_tensor make_input(uint64_t *seed, const pooler_case *k)
{
    return make_random(seed, k->from, 3,
                       (const size_t[]){ k->n_batch, k->params.grid_h * k->params.grid_w, k->c },
                       k->gap);
}

static vtc_tensor make_output(const pooler_case *k)
{
    size_t h, w;

    assert_int_equal(vtc_pooler_count(&k->params, &h, &w, NULL), VTC_OK);
    return make_tensor(k->to, 3, (const size_t[]){ k->n_batch, h * w, k->e }, k->gap);
}

static vtc_pooler_weights make_weights(uint64_t *seed, const pooler_case *k)
{
    vtc_pooler_weights w;

    w.conv_pool = random_linear(seed, k->stored, k->d, 4 * k->c, true, 0);
    w.conv_pool.weight =
        vtc_tensor_nd(w.conv_pool.weight.data, k->stored, 4, (const size_t[]){ k->d, k->c, 2, 2 });
    w.proj = random_linear(seed, k->stored, k->e, k->d, true, k->gap);
    return w;
}

static void free_weights(vtc_pooler_weights *w)
{
    free_linear(&w->conv_pool);
    free_linear(&w->proj);
}

static vtc_tensor pooled(const pooler_case *k, const vtc_pooler_weights *w, const vtc_tensor *x,
                         size_t n_workers)
{
    vtc_tensor y = make_output(k);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_pooler_scratch(&k->params, w, x, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_pooler(&k->params, w, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* The convolution as its definition has it: x [h, w, c], y [h/2, w/2, d]. */
static double *convolved(const pooler_case *k, const vtc_pooler_weights *weights, const double *x)
{
    const size_t h = k->params.grid_h / 2, w = k->params.grid_w / 2;
    double *kernel = values_of(&weights->conv_pool.weight);
    double *bias = values_of(&weights->conv_pool.bias);
    double *y = calloc(h * w * k->d + 1, sizeof(*y));

    if (y == NULL)
        abort();
    for (size_t at = 0; at < h * w * k->d; at++) {
        const size_t out = at % k->d, i = at / k->d / w, j = at / k->d % w;

        y[at] = bias[out];
        for (size_t tap = 0; tap < 4 * k->c; tap++) {
            const size_t row = 2 * i + tap % 4 / 2, col = 2 * j + tap % 2, in = tap / 4;

            y[at] += kernel[out * 4 * k->c + tap] * x[(row * k->params.grid_w + col) * k->c + in];
        }
    }
    free(kernel);
    free(bias);
    return y;
}

static void check_case(const pooler_case *k, uint64_t *seed, size_t n_workers)
{
    const vtc_tensor x = make_input(seed, k);
    vtc_pooler_weights w = make_weights(seed, k);
    const vtc_tensor y = pooled(k, &w, &x, n_workers);
    const size_t per_image = y.dim[1] * k->e;
    double *from = values_of(&x), *want = values_of(&y);

    for (size_t b = 0; b < k->n_batch; b++) {
        double *image = convolved(k, &w, from + b * x.dim[1] * k->c);

        apply_activation(k->params.act, image, y.dim[1] * k->d);
        image = apply_linear(&w.proj, image, y.dim[1]);
        for (size_t i = 0; i < per_image; i++)
            want[b * per_image + i] = image[i];
        free(image);
    }
    assert_tensor_near(&y, want, 2e-5);
    free(from);
    free(want);
    free_weights(&w);
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_grid_and_dtype_matches_the_convolution(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 81;

    (void)state;
    for (int i = 0; i < 150; i++) {
        pooler_case k = make_case(1 + rng_below(&seed, 8), 1 + rng_below(&seed, 8),
                                  1 + rng_below(&seed, 20), 1 + rng_below(&seed, 20));

        k.e = 1 + rng_below(&seed, 20);
        k.n_batch = rng_below(&seed, 3);
        k.params.act = (vtc_activation)rng_below(&seed, VTC_ACT_RELU2 + 1);
        k.from = dtypes[rng_below(&seed, 3)];
        k.stored = dtypes[rng_below(&seed, 3)];
        k.to = dtypes[rng_below(&seed, 3)];
        k.gap = rng_below(&seed, 3);
        check_case(&k, &seed, rng_below(&seed, 6));
    }
}

static void many_rows_match_the_convolution(void **state)
{
    const pooler_case k = make_case(73, 74, 3, 4);
    uint64_t seed = 82;

    (void)state;
    check_case(&k, &seed, 2);
}

static void odd_edges_are_not_read(void **state)
{
    const pooler_case k = make_case(3, 5, 4, 6);
    uint64_t seed = 83;
    const vtc_tensor x = make_input(&seed, &k);
    vtc_pooler_weights w = make_weights(&seed, &k);

    (void)state;
    guard_writable(x.data);
    for (size_t i = 0; i < n_elements(&x); i++)
        if (i / 4 % 15 / 5 == 2 || i / 4 % 5 == 4)
            ((float *)x.data)[i] = NAN;
    const vtc_tensor y = pooled(&k, &w, &x, 0);

    for (size_t i = 0; i < n_elements(&y); i++)
        assert_false(isnan(((float *)y.data)[i]));
    free_weights(&w);
    guard_free(x.data);
    guard_free(y.data);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const pooler_case k = make_case(6, 9, 11, 530);
    uint64_t seed = 84;
    const vtc_tensor x = make_input(&seed, &k);
    vtc_pooler_weights w = make_weights(&seed, &k);
    const vtc_tensor want = pooled(&k, &w, &x, 0);

    (void)state;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        const vtc_tensor got = pooled(&k, &w, &x, n_workers);

        assert_same_bits(&got, &want);
        guard_free(got.data);
    }
    free_weights(&w);
    guard_free(x.data);
    guard_free(want.data);
}

static void expect_refused(vtc_pooler_params params, const vtc_pooler_weights *w,
                           const vtc_tensor *x, vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pooler(&params, w, x, &y, &exec), want, part);
    exec_scratch_free(&exec);
}

static void what_does_not_fit_is_refused(void **state)
{
    const pooler_case k = make_case(4, 4, 3, 5);
    vtc_pooler_params p = k.params;
    uint64_t seed = 85;
    const vtc_tensor x = make_input(&seed, &k), y = make_output(&k);
    vtc_pooler_weights w = make_weights(&seed, &k), bad = w;

    (void)state;
    p.grid_w = 0;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "grid is 4x0");
    p.grid_w = 5;
    expect_refused(p, &w, &x, y, VTC_ERR_SHAPE, "grid 4x5 needs 20 rows, x has 16");
    p = k.params;
    p.act = (vtc_activation)-1;
    expect_refused(p, &w, &x, y, VTC_ERR_RANGE, "activation -1");
    bad.conv_pool.weight.dim[2] = 3;
    expect_refused(k.params, &bad, &x, y, VTC_ERR_SHAPE, "kernel of 3x2");
    bad = w;
    bad.conv_pool.weight.stride[1] = 5;
    expect_refused(k.params, &bad, &x, y, VTC_ERR_SHAPE, "strides 5, 2");
    bad = w;
    bad.conv_pool.weight.rank = 2;
    expect_refused(k.params, &bad, &x, y, VTC_ERR_SHAPE, "conv_pool.weight has rank 2");
    bad = w;
    bad.conv_pool.weight.dim[1] = 2;
    expect_refused(k.params, &bad, &x, y, VTC_ERR_SHAPE, "layer 0: conv_pool.weight is 5x8");
    bad = w;
    bad.proj.weight.dim[1] = 4;
    expect_refused(k.params, &bad, &x, y, VTC_ERR_SHAPE, "layer 1: proj.weight is 5x4");
    expect_refused(k.params, NULL, &x, y, VTC_ERR_NULL, "weights");
    assert_untouched(&y);
    free_weights(&w);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grid_and_dtype_matches_the_convolution),
        cmocka_unit_test(many_rows_match_the_convolution),
        cmocka_unit_test(odd_edges_are_not_read),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
