/* Token MLPs. */
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ----------------------------------------------------------------------------------- */

enum { MAX_LAYERS = 4 };

typedef struct mlp_case {
    vtc_mlp_params params;
    size_t n_linear, n_residual;
    size_t n_batch; /* 0: tensors of rank 2 */
    size_t n, c, d;
    vtc_dtype from, stored, to;
    bool bias;
    size_t gap;
} mlp_case;

typedef struct mlp_model {
    vtc_linear linear[MAX_LAYERS];
    vtc_mlp_residual residual[MAX_LAYERS];
    vtc_mlp_weights weights;
} mlp_model;

static mlp_case make_case(size_t n_linear, size_t n_residual, size_t n, size_t c, size_t d)
{
    const vtc_mlp_params params = VTC_MLP_PARAMS_INIT;
    const mlp_case k = { params, n_linear, n_residual, 2,       n,    c,
                         d,      VTC_F32,  VTC_F32,    VTC_F32, true, 0 };

    return k;
}

/* Without linear layers the width stays. */
static size_t width_in(const mlp_case *k)
{
    return k->n_linear == 0 ? k->d : k->c;
}

static void open_model(uint64_t *seed, const mlp_case *k, mlp_model *m)
{
    const vtc_mlp_weights weights = { m->linear, k->n_linear, m->residual, k->n_residual };

    for (size_t i = 0; i < k->n_linear; i++)
        m->linear[i] = random_linear(seed, k->stored, k->d, i == 0 ? k->c : k->d, k->bias, k->gap);
    for (size_t i = 0; i < k->n_residual; i++) {
        m->residual[i].pre_norm = random_norm(seed, k->stored, k->d, k->bias);
        m->residual[i].fc1 = random_linear(seed, k->stored, k->d, k->d, k->bias, k->gap);
        m->residual[i].fc2 = random_linear(seed, k->stored, k->d, k->d, k->bias, k->gap);
    }
    m->weights = weights;
}

static void close_model(const mlp_case *k, mlp_model *m)
{
    for (size_t i = 0; i < k->n_linear; i++)
        free_linear(&m->linear[i]);
    for (size_t i = 0; i < k->n_residual; i++) {
        free_norm(&m->residual[i].pre_norm);
        free_linear(&m->residual[i].fc1);
        free_linear(&m->residual[i].fc2);
    }
}

static int shape_of(const mlp_case *k, size_t width, size_t dim[3])
{
    const size_t shape[] = { k->n_batch, k->n, width };

    memcpy(dim, k->n_batch != 0 ? shape : shape + 1, sizeof(*dim) * (k->n_batch != 0 ? 3 : 2));
    return k->n_batch != 0 ? 3 : 2;
}

static vtc_tensor make_input(uint64_t *seed, const mlp_case *k)
{
    size_t dim[3];
    const int rank = shape_of(k, width_in(k), dim);

    return make_random(seed, k->from, rank, dim, k->gap);
}

static vtc_tensor make_output(const mlp_case *k, size_t gap)
{
    size_t dim[3];
    const int rank = shape_of(k, k->d, dim);

    return make_tensor(k->to, rank, dim, gap);
}

/* The library's result with exactly the scratch it asks for. */
static vtc_tensor projected(const mlp_case *k, const mlp_model *m, const vtc_tensor *x,
                            size_t n_workers, size_t gap)
{
    vtc_tensor y = make_output(k, gap);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_mlp_scratch(&k->params, &m->weights, x, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mlp(&k->params, &m->weights, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

static double *residual_block(const vtc_mlp_residual *block, const vtc_mlp_params *params,
                              double *x, size_t n)
{
    const size_t count = n * block->fc1.weight.dim[0];
    double *u = calloc(count + 1, sizeof(*u));

    if (u == NULL)
        abort();
    apply_norm(&block->pre_norm, VTC_NORM_LAYER, (double)params->eps, x, count);
    memcpy(u, x, count * sizeof(*u));
    x = apply_linear(&block->fc1, x, n);
    apply_activation(params->act, x, count);
    x = apply_linear(&block->fc2, x, n);
    for (size_t i = 0; i < count; i++)
        x[i] += u[i];
    free(u);
    return x;
}

static double *reference(const mlp_case *k, const mlp_model *m, const vtc_tensor *x)
{
    const size_t n = k->n * (k->n_batch != 0 ? k->n_batch : 1);
    double *values = values_of(x);

    for (size_t i = 0; i < k->n_linear; i++) {
        values = apply_linear(&m->linear[i], values, n);
        if (i + 1 < k->n_linear)
            apply_activation(k->params.act, values, n * k->d);
    }
    for (size_t i = 0; i < k->n_residual; i++)
        values = residual_block(&m->residual[i], &k->params, values, n);
    return values;
}

static void check_case(const mlp_case *k, uint64_t *seed, size_t n_workers)
{
    const vtc_tensor x = make_input(seed, k);
    mlp_model m;

    open_model(seed, k, &m);
    const vtc_tensor y = projected(k, &m, &x, n_workers, k->gap);
    double *want = reference(k, &m, &x);

    assert_tensor_near(&y, want, 2e-5);
    free(want);
    close_model(k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

static mlp_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    mlp_case k =
        make_case(rng_below(seed, MAX_LAYERS + 1), rng_below(seed, 3), 1 + rng_below(seed, 9),
                  1 + rng_below(seed, 40), 1 + rng_below(seed, 40));

    k.params.act = (vtc_activation)rng_below(seed, VTC_ACT_RELU2 + 1);
    k.n_batch = rng_below(seed, 4);
    k.from = dtypes[rng_below(seed, 3)];
    k.stored = dtypes[rng_below(seed, 3)];
    k.to = dtypes[rng_below(seed, 3)];
    k.bias = rng_below(seed, 3) != 0;
    k.gap = rng_below(seed, 3);
    if (k.d < 4)
        k.n_residual = 0; /* the norm of two near values has no digits to compare */
    return k;
}

/* ---- values ---------------------------------------------------------------------------------- */

static void any_depth_dtype_and_stride_matches_the_reference(void **state)
{
    uint64_t seed = 31;

    (void)state;
    for (int i = 0; i < 300; i++) {
        const mlp_case k = random_case(&seed);

        check_case(&k, &seed, rng_below(&seed, 3));
    }
}

static void rows_of_several_blocks_match_the_reference(void **state)
{
    static const size_t n_rows[] = { 639, 641, 1280, 1281, 2561 };
    uint64_t seed = 32;

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        mlp_case k = make_case(2, 1, n_rows[i], 5, 6);

        k.n_batch = 0;
        check_case(&k, &seed, 2);
        k.n_batch = 2;
        k.from = VTC_F16;
        k.stored = VTC_BF16;
        k.to = VTC_F16;
        k.gap = i % 2;
        check_case(&k, &seed, 2);
    }
}

static void layers_wider_than_a_tile_match_the_reference(void **state)
{
    mlp_case k = make_case(2, 1, 3, 20, 600);
    uint64_t seed = 33;

    (void)state;
    check_case(&k, &seed, 2);
    k.to = VTC_F16;
    k.stored = VTC_BF16;
    check_case(&k, &seed, 5);
}

static void the_identity_copies_bit_for_bit(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 34;
    mlp_model m;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        mlp_case k = make_case(0, 0, 5, 9, 9);

        k.from = k.to = dtypes[i];
        k.gap = 2;
        open_model(&seed, &k, &m);
        const vtc_tensor x = make_input(&seed, &k);

        guard_writable(x.data);
        set_element(x.data, x.dtype, 3, NAN);
        set_element(x.data, x.dtype, 4, -INFINITY);
        const vtc_tensor y = projected(&k, &m, &x, 2, k.gap);

        assert_same_bits(&x, &y);
        guard_free(x.data);
        guard_free(y.data);
    }
}

/* A constant row has no variance: the norm is its bias, whatever the constant. */
static void constant_rows_enter_a_block_as_the_norm_bias(void **state)
{
    mlp_case k = make_case(0, 1, 3, 24, 24);
    uint64_t seed = 35;
    mlp_model m;

    (void)state;
    k.n_batch = 0;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k);

    guard_writable(x.data);
    for (size_t c = 0; c < 24; c++) {
        ((float *)x.data)[c] = 0.7f;
        ((float *)x.data)[24 + c] = -300.0f;
        ((float *)x.data)[48 + c] *= 1e-3f; /* here eps is larger than the variance */
    }
    const vtc_tensor y = projected(&k, &m, &x, 0, 0);
    double *want = reference(&k, &m, &x);

    assert_memory_equal(y.data, (float *)y.data + 24, 24 * sizeof(float));
    assert_tensor_near(&y, want, 1e-5);
    free(want);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

static void a_nan_stays_in_its_row(void **state)
{
    const mlp_case k = make_case(2, 1, 6, 10, 12);
    uint64_t seed = 36;
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k);

    guard_writable(x.data);
    ((float *)x.data)[7 * 10 + 3] = NAN; /* token 7 of 12 */
    ((float *)x.data)[9 * 10] = INFINITY;
    const vtc_tensor y = projected(&k, &m, &x, 0, 0);

    for (size_t i = 0; i < 12 * 12; i++)
        assert_int_equal(isnan(((float *)y.data)[i]) != 0, i / 12 == 7 || i / 12 == 9);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- the contract ---------------------------------------------------------------------------- */

static void any_executor_and_stride_gives_the_same_bits(void **state)
{
    uint64_t seed = 37;
    mlp_model m;

    (void)state;
    for (int i = 0; i < 40; i++) {
        mlp_case k = i == 0 ? make_case(2, 1, 700, 30, 530) : random_case(&seed);

        k.gap = 0;
        open_model(&seed, &k, &m);
        const vtc_tensor x = make_input(&seed, &k);
        const vtc_tensor want = projected(&k, &m, &x, 0, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
            const vtc_tensor got = projected(&k, &m, &x, n_workers, n_workers);

            assert_same_bits(&got, &want);
            guard_free(got.data);
        }
        close_model(&k, &m);
        guard_free(x.data);
        guard_free(want.data);
    }
}

static void one_layer_of_f32_needs_no_scratch(void **state)
{
    const mlp_case k = make_case(1, 0, 6, 10, 12);
    uint64_t seed = 38;
    size_t bytes = 1;
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k);
    vtc_tensor y = make_output(&k, 0);
    double *want = reference(&k, &m, &x);

    assert_int_equal(vtc_mlp_scratch(NULL, &m.weights, &x, &y, NULL, &bytes), VTC_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(vtc_mlp(NULL, &m.weights, &x, &y, NULL), VTC_OK);
    assert_tensor_near(&y, want, 1e-5);
    free(want);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

static void scratch_does_not_grow_with_the_batch(void **state)
{
    mlp_case k = make_case(2, 0, 1280, 10, 12);
    uint64_t seed = 39;
    size_t bytes[2];
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    for (size_t i = 0; i < 2; i++) {
        const vtc_tensor x = vtc_f32_3d(NULL, 1 + 999 * i, 1280, 10);
        const vtc_tensor y = vtc_f32_3d(NULL, 1 + 999 * i, 1280, 12);

        assert_int_equal(vtc_mlp_scratch(NULL, &m.weights, &x, &y, NULL, &bytes[i]), VTC_OK);
    }
    assert_int_equal(bytes[0], bytes[1]);
    close_model(&k, &m);
}

static void scratch_is_exact(void **state)
{
    const mlp_case k = make_case(2, 1, 6, 10, 12);
    vtc_exec exec = test_exec(2);
    uint64_t seed = 40;
    error_log log;
    size_t bytes;
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k);
    vtc_tensor y = make_output(&k, 0), no_data = x;

    record_errors(&exec, &log);
    no_data.data = NULL;
    assert_int_equal(vtc_mlp_scratch(NULL, &m.weights, &no_data, &y, &exec, &bytes), VTC_OK);
    assert_true(bytes > 0);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_mlp(NULL, &m.weights, &x, &y, &exec), VTC_ERR_SCRATCH, "bytes");
    assert_untouched(&y);
    exec_scratch_free(&exec);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

static void no_tokens_are_fine(void **state)
{
    mlp_case k = make_case(2, 1, 0, 10, 12);
    uint64_t seed = 41;
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    vtc_tensor x = vtc_f32_2d(NULL, 0, 10), y = vtc_f32_2d(NULL, 0, 12);

    assert_int_equal(vtc_mlp(NULL, &m.weights, &x, &y, NULL), VTC_OK);
    x = vtc_f32_3d(NULL, 0, 5, 10);
    y = vtc_f32_3d(NULL, 0, 5, 12);
    assert_int_equal(vtc_mlp(NULL, &m.weights, &x, &y, NULL), VTC_OK);
    close_model(&k, &m);
}

static void no_channels_leave_the_bias(void **state)
{
    mlp_case k = make_case(1, 0, 5, 0, 7);
    uint64_t seed = 44;

    (void)state;
    check_case(&k, &seed, 2);
    k.d = 0;
    check_case(&k, &seed, 2);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const vtc_mlp_params *params, const vtc_mlp_weights *weights,
                           const vtc_tensor *x, vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t bytes = 77;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mlp(params, weights, x, &y, &exec), want, part);
    if (want != VTC_ERR_OVERLAP) {
        record_errors(&exec, &log);
        assert_failed(&log, vtc_mlp_scratch(params, weights, x, &y, &exec, &bytes), want, part);
        assert_int_equal(bytes, 77);
    }
    exec_scratch_free(&exec);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    const mlp_case k = make_case(2, 1, 6, 10, 12);
    uint64_t seed = 42;
    mlp_model m, bad;

    (void)state;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k), y = make_output(&k, 0);

#define EXPECT_BAD(change, want, part)                              \
    do {                                                            \
        bad = m;                                                    \
        bad.weights.linear = bad.linear;                            \
        bad.weights.residual = bad.residual;                        \
        change;                                                     \
        expect_refused(&k.params, &bad.weights, &x, y, want, part); \
    } while (0)

    EXPECT_BAD(bad.linear[0].weight.dim[1] = 9, VTC_ERR_SHAPE,
               "layer 0: linear.weight is 12x9, 12x10 is needed");
    EXPECT_BAD(bad.linear[1].bias.dim[0] = 11, VTC_ERR_SHAPE, "has 11 elements, 12 are needed");
    EXPECT_BAD(bad.linear[0].weight.dtype = VTC_I32, VTC_ERR_DTYPE, "layer 0: linear.weight");
    EXPECT_BAD(bad.linear[1].weight.rank = 1, VTC_ERR_SHAPE, "layer 1: linear.weight");
    EXPECT_BAD(bad.linear[1].weight.dim[0] = bad.linear[1].bias.dim[0] = 11, VTC_ERR_SHAPE,
               "layer 2: norm.weight");
    EXPECT_BAD(bad.residual[0].pre_norm.weight.dim[0] = 6, VTC_ERR_SHAPE, "layer 2: norm.weight");
    EXPECT_BAD(bad.residual[0].pre_norm.bias.dim[0] = 6, VTC_ERR_SHAPE, "layer 2: norm.bias");
    EXPECT_BAD(bad.residual[0].fc2.weight.dim[0] = bad.residual[0].fc2.bias.dim[0] = 11,
               VTC_ERR_SHAPE, "the skip adds 12");
    EXPECT_BAD(memset(&bad.residual[0].pre_norm.weight, 0, sizeof(vtc_tensor));
               bad.residual[0].fc1.weight.dim[1] = 13, VTC_ERR_SHAPE, "residual fc1.weight");
    EXPECT_BAD(bad.weights.linear = NULL, VTC_ERR_NULL, "n_linear is 2");
    EXPECT_BAD(bad.weights.residual = NULL, VTC_ERR_NULL, "n_residual is 1");
#undef EXPECT_BAD
    expect_refused(&k.params, NULL, &x, y, VTC_ERR_NULL, "weights is NULL");
    assert_untouched(&y);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

static void views_and_parameters_that_do_not_fit_are_refused(void **state)
{
    const mlp_case k = make_case(1, 0, 6, 10, 12);
    vtc_mlp_params params = k.params;
    uint64_t seed = 43;
    mlp_model m;

    (void)state;
    open_model(&seed, &k, &m);
    const vtc_tensor x = make_input(&seed, &k), y = make_output(&k, 0);
    vtc_tensor bad = y;

    bad.dim[2] = 11;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_SHAPE, "y has 11 channels");
    bad = y;
    bad.dim[1] = 5;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_SHAPE, "y has 10 tokens, x gives 12");
    bad.dim[0] = 1;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_SHAPE, "x has 2 batch items, y has 1");
    bad = vtc_f32_2d(y.data, 12, 12);
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_SHAPE, "x has rank 3, y has rank 2");
    bad = y;
    bad.data = x.data;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_OVERLAP, "y overlaps x");
    bad.data = m.linear[0].bias.data;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_OVERLAP, "linear.bias");
    bad.data = m.linear[0].weight.data;
    expect_refused(NULL, &m.weights, &x, bad, VTC_ERR_OVERLAP, "linear.weight");
    params.act = (vtc_activation)7;
    expect_refused(&params, &m.weights, &x, y, VTC_ERR_RANGE, "activation 7");
    params = k.params;
    params.eps = -1.0f;
    expect_refused(&params, &m.weights, &x, y, VTC_ERR_RANGE, "eps is -1");
    m.weights.n_linear = 0;
    expect_refused(NULL, &m.weights, &x, y, VTC_ERR_SHAPE, "of 10 channels, y has 6 of 12");
    assert_untouched(&y);
    close_model(&k, &m);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_depth_dtype_and_stride_matches_the_reference),
        cmocka_unit_test(rows_of_several_blocks_match_the_reference),
        cmocka_unit_test(layers_wider_than_a_tile_match_the_reference),
        cmocka_unit_test(the_identity_copies_bit_for_bit),
        cmocka_unit_test(constant_rows_enter_a_block_as_the_norm_bias),
        cmocka_unit_test(a_nan_stays_in_its_row),
        cmocka_unit_test(any_executor_and_stride_gives_the_same_bits),
        cmocka_unit_test(one_layer_of_f32_needs_no_scratch),
        cmocka_unit_test(scratch_does_not_grow_with_the_batch),
        cmocka_unit_test(scratch_is_exact),
        cmocka_unit_test(no_tokens_are_fine),
        cmocka_unit_test(no_channels_leave_the_bias),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(views_and_parameters_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
