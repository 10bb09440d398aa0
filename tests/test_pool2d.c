/* Pooling of token grids. */
#include "support/tensors.h"

#include "reference/pool_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct pool_case {
    vtc_pool2d_params params;
    size_t n_images; /* 0: tensors of rank 2 */
    size_t n_channels;
    vtc_dtype from, to;
    size_t gap;
} pool_case;

static pool_case make_case(vtc_pool_mode mode, size_t h, size_t w, size_t n_channels)
{
    const vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;
    pool_case c = { params, 2, n_channels, VTC_F32, VTC_F32, 0 };

    c.params.mode = mode;
    c.params.grid_h = h;
    c.params.grid_w = w;
    return c;
}

/* The shape of `rows` rows per image. */
static int shape_of(const pool_case *c, size_t rows, size_t dim[3])
{
    const size_t shape[] = { c->n_images, rows, c->n_channels };

    memcpy(dim, c->n_images != 0 ? shape : shape + 1, sizeof(*dim) * (c->n_images != 0 ? 3 : 2));
    return c->n_images != 0 ? 3 : 2;
}

static vtc_tensor make_input(uint64_t *seed, const pool_case *c)
{
    size_t dim[3];
    const int rank = shape_of(c, c->params.grid_h * c->params.grid_w, dim);

    return make_random(seed, c->from, rank, dim, c->gap);
}

static vtc_tensor make_output(const pool_case *c)
{
    size_t dim[3], out_h, out_w;

    assert_int_equal(vtc_pool2d_count(&c->params, &out_h, &out_w, NULL), VTC_OK);
    return make_tensor(c->to, shape_of(c, out_h * out_w, dim), dim, c->gap);
}

static void free_two(const vtc_tensor *a, const vtc_tensor *b)
{
    guard_free(a->data);
    guard_free(b->data);
}

/* The library's result with exactly the scratch it asks for; guard_free() its data. */
static vtc_tensor pooled(const pool_case *c, const vtc_tensor *x, size_t n_workers)
{
    vtc_tensor y = make_output(c);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_pool2d_scratch(&c->params, x, &y, &exec, &bytes), VTC_OK);
    if (c->from == VTC_F32 && c->to == VTC_F32)
        assert_int_equal(bytes, 0);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_pool2d(&c->params, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

static bool takes_maxima(const pool_case *c)
{
    return c->params.mode == VTC_POOL_MAX || c->params.mode == VTC_POOL_ADAPTIVE_MAX;
}

static void reference_image(const pool_case *c, const double *x, size_t out_h, size_t out_w,
                            double *y)
{
    const vtc_pool2d_params *p = &c->params;
    const size_t kernel = p->kernel != 0 ? p->kernel : p->stride;
    const bool max = takes_maxima(c);

    if (p->mode == VTC_POOL_AVERAGE || p->mode == VTC_POOL_MAX)
        ref_pool_windows(x, p->grid_h, p->grid_w, c->n_channels, kernel, p->stride, max, y);
    else if (p->mode == VTC_POOL_BILINEAR)
        ref_pool_bilinear(x, p->grid_h, p->grid_w, c->n_channels, out_h, out_w, y);
    else
        ref_pool_adaptive(x, p->grid_h, p->grid_w, c->n_channels, out_h, out_w, max, y);
}

/* Maxima are exact: an output one unit in the last place away would not pass. */
static void assert_matches_reference(const pool_case *c, const vtc_tensor *x, const vtc_tensor *y)
{
    const size_t n_images = c->n_images != 0 ? c->n_images : 1;
    double *from = values_of(x), *want = values_of(y);
    size_t out_h, out_w;

    assert_int_equal(vtc_pool2d_count(&c->params, &out_h, &out_w, NULL), VTC_OK);
    for (size_t f = 0; f < n_images; f++)
        reference_image(c, from + f * c->params.grid_h * c->params.grid_w * c->n_channels, out_h,
                        out_w, want + f * out_h * out_w * c->n_channels);
    assert_tensor_near(y, want, takes_maxima(c) ? 0.0 : 1e-6);
    free(from);
    free(want);
}

static void check_case(const pool_case *c, uint64_t *seed)
{
    const vtc_tensor x = make_input(seed, c);
    const vtc_tensor y = pooled(c, &x, rng_below(seed, 3));

    assert_matches_reference(c, &x, &y);
    free_two(&x, &y);
}

static pool_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    const vtc_pool_mode mode = (vtc_pool_mode)rng_below(seed, 5);
    const size_t h = 1 + rng_below(seed, 12), w = 1 + rng_below(seed, 12);
    pool_case c = make_case(mode, h, w, 1 + rng_below(seed, 40));

    c.n_images = rng_below(seed, 4);
    c.from = dtypes[rng_below(seed, 3)];
    c.to = dtypes[rng_below(seed, 3)];
    c.gap = rng_below(seed, 3);
    if (mode == VTC_POOL_AVERAGE || mode == VTC_POOL_MAX) {
        c.params.kernel = 1 + rng_below(seed, h < w ? h : w);
        c.params.stride = 1 + rng_below(seed, 4);
    } else {
        c.params.out_h = 1 + rng_below(seed, 16);
        c.params.out_w = 1 + rng_below(seed, 16);
    }
    return c;
}

/* ---- counts ---------------------------------------------------------------------------------- */

static void expect_count(vtc_pool2d_params params, size_t out_h, size_t out_w)
{
    size_t h = 0, w = 0;

    assert_int_equal(vtc_pool2d_count(&params, &h, &w, NULL), VTC_OK);
    assert_int_equal(h, out_h);
    assert_int_equal(w, out_w);
}

static void counts_are_those_of_the_papers(void **state)
{
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;

    (void)state;
    params.grid_h = params.grid_w = 27;
    expect_count(params, 13, 13);
    params.mode = VTC_POOL_MAX;
    expect_count(params, 13, 13);
    params.mode = VTC_POOL_BILINEAR;
    expect_count(params, 14, 14);
    params.grid_h = params.grid_w = 24;
    expect_count(params, 12, 12);
    params.grid_h = 64;
    params.stride = 4;
    expect_count(params, 16, 6);
}

static void counts_follow_kernel_and_stride(void **state)
{
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;

    (void)state;
    params.grid_h = 7;
    params.grid_w = 5;
    params.kernel = 3;
    params.stride = 1;
    expect_count(params, 5, 3);
    params.stride = 2;
    expect_count(params, 3, 2);
    params.out_h = 3;
    params.out_w = 2;
    expect_count(params, 3, 2);
    params.mode = VTC_POOL_ADAPTIVE_MAX;
    params.out_h = 9;
    expect_count(params, 9, 2);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void every_mode_matches_the_reference(void **state)
{
    uint64_t seed = 11;

    (void)state;
    for (int i = 0; i < 400; i++) {
        const pool_case c = random_case(&seed);

        check_case(&c, &seed);
    }
}

static void any_number_of_channels_will_do(void **state)
{
    uint64_t seed = 12;

    (void)state;
    for (int mode = VTC_POOL_AVERAGE; mode <= VTC_POOL_ADAPTIVE_MAX; mode++)
        for (size_t n = 1; n <= 33; n++) {
            pool_case c = make_case((vtc_pool_mode)mode, 7, 5, n);

            if (mode >= VTC_POOL_BILINEAR) {
                c.params.out_h = 3;
                c.params.out_w = 4;
            }
            check_case(&c, &seed);
        }
}

static void windows_may_have_more_rows_than_a_batch_of_sums(void **state)
{
    pool_case c = make_case(VTC_POOL_AVERAGE, 9, 11, 5);
    uint64_t seed = 13;

    (void)state;
    c.params.kernel = 9;
    check_case(&c, &seed);
    c.from = VTC_BF16;
    check_case(&c, &seed);
    c.params.mode = VTC_POOL_MAX;
    check_case(&c, &seed);
}

/* A grid with every kind of value: random bits are zeros of both signs, NaN and Inf too. */
static vtc_tensor make_wild_input(uint64_t *seed, const pool_case *c)
{
    static const float wild[] = { 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, -3e38f };
    const vtc_tensor x = make_input(seed, c);

    guard_writable(x.data);
    for (size_t i = 0; i < n_elements(&x); i += 1 + rng_below(seed, 3))
        set_element(x.data, x.dtype, element_at(&x, i), wild[rng_below(seed, 7)]);
    guard_readonly(x.data);
    return x;
}

static void expect_identity(pool_case c, uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

    for (size_t d = 0; d < 3; d++) {
        c.from = c.to = dtypes[d];
        const vtc_tensor x = make_wild_input(seed, &c);
        const vtc_tensor y = pooled(&c, &x, 0);

        assert_same_bits(&x, &y);
        free_two(&x, &y);
    }
}

static void stride_one_is_the_identity_bit_for_bit(void **state)
{
    uint64_t seed = 15;

    (void)state;
    for (int mode = VTC_POOL_AVERAGE; mode <= VTC_POOL_BILINEAR; mode++) {
        pool_case c = make_case((vtc_pool_mode)mode, 5, 4, 17);

        c.params.stride = 1;
        expect_identity(c, &seed);
    }
}

static void equal_grids_are_copied_bit_for_bit(void **state)
{
    uint64_t seed = 16;

    (void)state;
    for (int mode = VTC_POOL_BILINEAR; mode <= VTC_POOL_ADAPTIVE_MAX; mode++) {
        pool_case c = make_case((vtc_pool_mode)mode, 6, 3, 8);

        c.params.out_h = 6;
        c.params.out_w = 3;
        expect_identity(c, &seed);
    }
}

static void one_token_fills_a_larger_grid(void **state)
{
    uint64_t seed = 17;

    (void)state;
    for (int mode = VTC_POOL_BILINEAR; mode <= VTC_POOL_ADAPTIVE_MAX; mode++) {
        pool_case c = make_case((vtc_pool_mode)mode, 1, 1, 6);

        c.params.out_h = 2;
        c.params.out_w = 3;
        const vtc_tensor x = make_input(&seed, &c);
        const vtc_tensor y = pooled(&c, &x, 0);

        for (size_t n = 0; n < 12; n++)
            assert_memory_equal((float *)y.data + n * 6, (float *)x.data + n / 6 * 6, 24);
        free_two(&x, &y);
    }
}

/* 7 -> 3: the middle output falls on row 3 exactly, rows 2 and 4 have no part in it. */
static void cells_of_weight_zero_are_not_read(void **state)
{
    const float x[7] = { 1, 2, INFINITY, 4, NAN, 6, 7 };
    pool_case c = make_case(VTC_POOL_BILINEAR, 7, 1, 1);
    vtc_tensor view = vtc_f32_2d(x, 7, 1);

    (void)state;
    c.n_images = 0;
    c.params.out_h = 3;
    c.params.out_w = 1;
    const vtc_tensor y = pooled(&c, &view, 0);

    assert_true(((float *)y.data)[1] == 4.0f);
    guard_free(y.data);
}

static void a_nan_wins_the_maximum_and_infinities_add_up(void **state)
{
    const float inf = INFINITY;
    /* clang-format off */
    const float cells[] = {
        1,    NAN,   inf, 5,
        3,    NAN,   5,   3,
        -inf, -inf,  inf, -inf,
        -inf, -inf,  8,   7,
    };
    /* clang-format on */
    const double want_max[] = { NAN, INFINITY, -INFINITY, INFINITY };
    const double want_mean[] = { NAN, INFINITY, -INFINITY, NAN };
    vtc_tensor view = vtc_f32_2d(cells, 16, 1);

    (void)state;
    for (int mode = VTC_POOL_AVERAGE; mode <= VTC_POOL_MAX; mode++) {
        pool_case c = make_case((vtc_pool_mode)mode, 4, 4, 1);

        c.n_images = 0;
        const vtc_tensor y = pooled(&c, &view, 0);

        assert_tensor_near(&y, mode == VTC_POOL_MAX ? want_max : want_mean, 0.0);
        guard_free(y.data);
    }
}

static void expect_equal_results(const pool_case *a, const pool_case *b)
{
    uint64_t seed = 18;
    const vtc_tensor x = make_input(&seed, a);
    const vtc_tensor ya = pooled(a, &x, 0), yb = pooled(b, &x, 0);

    assert_same_bits(&ya, &yb);
    guard_free(x.data);
    free_two(&ya, &yb);
}

static void half_size_bilinear_and_adaptive_are_the_average_of_two_by_two(void **state)
{
    const pool_case average = make_case(VTC_POOL_AVERAGE, 8, 6, 19);
    const pool_case bilinear = make_case(VTC_POOL_BILINEAR, 8, 6, 19);
    pool_case adaptive = make_case(VTC_POOL_ADAPTIVE_AVERAGE, 8, 6, 19);

    (void)state;
    adaptive.params.out_h = 4;
    adaptive.params.out_w = 3;
    expect_equal_results(&average, &bilinear);
    expect_equal_results(&average, &adaptive);
}

/* ---- the contract ---------------------------------------------------------------------------- */

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 20;

    (void)state;
    for (int i = 0; i < 40; i++) {
        const pool_case c = random_case(&seed);
        const vtc_tensor x = make_input(&seed, &c);
        const vtc_tensor want = pooled(&c, &x, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
            const vtc_tensor got = pooled(&c, &x, n_workers);

            assert_same_bits(&got, &want);
            guard_free(got.data);
        }
        free_two(&want, &x);
    }
}

static void the_example_of_the_header_needs_no_exec(void **state)
{
    const pool_case c = make_case(VTC_POOL_BILINEAR, 27, 27, 3);
    uint64_t seed = 21;

    (void)state;
    const vtc_tensor x = make_input(&seed, &c);
    vtc_tensor y = make_output(&c);

    assert_int_equal(vtc_pool2d(&c.params, &x, &y, NULL), VTC_OK);
    assert_matches_reference(&c, &x, &y);
    free_two(&x, &y);
}

static void scratch_is_exact(void **state)
{
    pool_case c = make_case(VTC_POOL_AVERAGE, 4, 4, 5);
    vtc_exec exec = test_exec(2);
    uint64_t seed = 22;
    error_log log;
    size_t bytes;

    (void)state;
    c.to = VTC_F16;
    const vtc_tensor x = make_input(&seed, &c);
    vtc_tensor y = make_output(&c), no_data = x;

    record_errors(&exec, &log);
    no_data.data = NULL;
    assert_int_equal(vtc_pool2d_scratch(&c.params, &no_data, &y, &exec, &bytes), VTC_OK);
    assert_true(bytes > 0);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_pool2d(&c.params, &x, &y, &exec), VTC_ERR_SCRATCH, "bytes of scratch");
    assert_untouched(&y);
    exec_scratch_free(&exec);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d(&c.params, &x, &y, &exec), VTC_ERR_SCRATCH, "exec has none");
    free_two(&x, &y);
}

static void no_images_and_no_channels_are_fine(void **state)
{
    pool_case c = make_case(VTC_POOL_BILINEAR, 4, 4, 0);
    vtc_tensor x = vtc_f32_3d(NULL, 0, 16, 8), y = vtc_f32_3d(NULL, 0, 4, 8);

    (void)state;
    assert_int_equal(vtc_pool2d(&c.params, &x, &y, NULL), VTC_OK);
    x.dim[0] = y.dim[0] = 3;
    x.dim[2] = y.dim[2] = 0;
    assert_int_equal(vtc_pool2d(&c.params, &x, &y, NULL), VTC_OK);
}

static void one_frame_may_serve_as_many(void **state)
{
    pool_case c = make_case(VTC_POOL_AVERAGE, 4, 6, 3);
    uint64_t seed = 23;

    (void)state;
    c.n_images = 1;
    vtc_tensor x = make_input(&seed, &c);

    c.n_images = x.dim[0] = 3;
    x.stride[0] = 0;
    const vtc_tensor y = pooled(&c, &x, 2);

    assert_matches_reference(&c, &x, &y);
    free_two(&x, &y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_papers),
        cmocka_unit_test(counts_follow_kernel_and_stride),
        cmocka_unit_test(every_mode_matches_the_reference),
        cmocka_unit_test(any_number_of_channels_will_do),
        cmocka_unit_test(windows_may_have_more_rows_than_a_batch_of_sums),
        cmocka_unit_test(stride_one_is_the_identity_bit_for_bit),
        cmocka_unit_test(equal_grids_are_copied_bit_for_bit),
        cmocka_unit_test(one_token_fills_a_larger_grid),
        cmocka_unit_test(cells_of_weight_zero_are_not_read),
        cmocka_unit_test(a_nan_wins_the_maximum_and_infinities_add_up),
        cmocka_unit_test(half_size_bilinear_and_adaptive_are_the_average_of_two_by_two),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(the_example_of_the_header_needs_no_exec),
        cmocka_unit_test(scratch_is_exact),
        cmocka_unit_test(no_images_and_no_channels_are_fine),
        cmocka_unit_test(one_frame_may_serve_as_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
