/* What vtc_pool2d() refuses, and that it then leaves the output alone. */
#include "support/tensors.h"

static vtc_pool2d_params average(size_t h, size_t w)
{
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;

    params.grid_h = h;
    params.grid_w = w;
    return params;
}

static void expect_bad_params(vtc_pool2d_params params, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t h = 77, w = 77;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d_count(&params, &h, &w, &exec), want, part);
    assert_true(h == 77 && w == 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    vtc_pool2d_params p = VTC_POOL2D_PARAMS_INIT;
    const vtc_pool2d_params fresh = p;

    (void)state;
    expect_bad_params(p, VTC_ERR_RANGE, "grid is 0x0");
    p.grid_h = 5;
    p.grid_w = 4;
    p.kernel = 5;
    expect_bad_params(p, VTC_ERR_RANGE, "kernel 5 is larger than the grid, 5x4");
    p.kernel = 0;
    p.stride = 0;
    expect_bad_params(p, VTC_ERR_RANGE, "stride is 0");
    p.stride = 2;
    p.out_w = 3;
    expect_bad_params(p, VTC_ERR_RANGE, "extent 3 is asked, kernel 2 with stride 2 over 4 gives 2");
    p.mode = VTC_POOL_BILINEAR;
    expect_bad_params(p, VTC_ERR_RANGE, "output grid is 0x3");
    p.out_w = p.stride = 0;
    expect_bad_params(p, VTC_ERR_RANGE, "both 0");
    p.mode = VTC_POOL_ADAPTIVE_MAX;
    expect_bad_params(p, VTC_ERR_RANGE, "adaptive");
    p.out_h = p.out_w = SIZE_MAX / 8;
    expect_bad_params(p, VTC_ERR_OVERFLOW, "overflows");
    p.mode = (vtc_pool_mode)5;
    expect_bad_params(p, VTC_ERR_RANGE, "mode 5");
    p = fresh;
    p.struct_size = 3;
    expect_bad_params(p, VTC_ERR_RANGE, "struct_size");
}

static void missing_pointers_are_refused(void **state)
{
    const vtc_pool2d_params params = average(2, 2);
    vtc_exec exec = test_exec(0);
    float memory[4] = { 0 };
    vtc_tensor x = vtc_f32_2d(memory, 4, 1), y = vtc_f32_2d(memory, 1, 1);
    error_log log;
    size_t n;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d_count(&params, NULL, &n, &exec), VTC_ERR_NULL, "out_h");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d_count(&params, &n, NULL, &exec), VTC_ERR_NULL, "out_w");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d_scratch(&params, &x, &y, &exec, NULL), VTC_ERR_NULL, "bytes");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d(&params, NULL, &y, &exec), VTC_ERR_NULL, "x is NULL");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d(&params, &x, NULL, &exec), VTC_ERR_NULL, "y is NULL");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d(NULL, &x, &y, &exec), VTC_ERR_RANGE, "grid is 0x0");
}

/* Good views for average(4, 4). */
static const size_t x_dim[] = { 2, 16, 6 }, y_dim[] = { 2, 4, 6 };

/* Both the run and, where it can know, the scratch query refuse these views. */
static void expect_bad_views(const vtc_tensor *x, vtc_tensor y, bool query_knows, vtc_status want,
                             const char *part)
{
    const vtc_pool2d_params params = average(4, 4);
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t bytes = 77;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_pool2d(&params, x, &y, &exec), want, part);
    if (query_knows) {
        record_errors(&exec, &log);
        assert_failed(&log, vtc_pool2d_scratch(&params, x, &y, &exec, &bytes), want, part);
        assert_int_equal(bytes, 77);
    }
}

static void views_that_do_not_fit_are_refused(void **state)
{
    uint64_t seed = 24;

    (void)state;
    const vtc_tensor x = make_random(&seed, VTC_F32, 3, x_dim, 0);
    const vtc_tensor y = make_tensor(VTC_F32, 3, y_dim, 0);
    vtc_tensor bad = x;

    bad.dim[1] = 15;
    expect_bad_views(&bad, y, true, VTC_ERR_SHAPE, "grid 4x4 needs 16 rows, x has 15");
    bad = x;
    bad.dtype = VTC_I32;
    expect_bad_views(&bad, y, true, VTC_ERR_DTYPE, "x has dtype I32");
    bad = x;
    bad.dim[0] = 1;
    expect_bad_views(&bad, y, true, VTC_ERR_SHAPE, "x has 1 images, y has 2");
    bad = x;
    bad.dim[2] = 5;
    expect_bad_views(&bad, y, true, VTC_ERR_SHAPE, "x has 5 channels, y has 6");
    bad = x;
    bad.stride[2] = 2;
    expect_bad_views(&bad, y, true, VTC_ERR_SHAPE, "inner stride 2");
    bad = vtc_f32_2d(x.data, 16, 6);
    expect_bad_views(&bad, y, true, VTC_ERR_SHAPE, "x has rank 2, y has rank 3");
    bad = x;
    bad.data = NULL;
    expect_bad_views(&bad, y, false, VTC_ERR_NULL, "x has no data");
    assert_untouched(&y);
    guard_free(x.data);
    guard_free(y.data);
}

static void outputs_that_do_not_fit_are_refused(void **state)
{
    uint64_t seed = 25;

    (void)state;
    const vtc_tensor x = make_random(&seed, VTC_F32, 3, x_dim, 0);
    const vtc_tensor y = make_tensor(VTC_F32, 3, y_dim, 0);
    vtc_tensor bad = y;

    bad.dim[1] = 3;
    expect_bad_views(&x, bad, true, VTC_ERR_SHAPE, "grid 2x2 needs 4 rows, y has 3");
    bad = y;
    bad.dtype = VTC_U8;
    expect_bad_views(&x, bad, true, VTC_ERR_DTYPE, "y has dtype U8");
    bad = y;
    bad.stride[1] = 5;
    expect_bad_views(&x, bad, true, VTC_ERR_OVERLAP, "overlap itself");
    bad = y;
    bad.stride[0] = SIZE_MAX / 4;
    expect_bad_views(&x, bad, true, VTC_ERR_OVERFLOW, "size of y overflows");
    bad = y;
    bad.data = (float *)x.data + 2 * 16 * 6 - 1; /* the last element of x */
    expect_bad_views(&x, bad, false, VTC_ERR_OVERLAP, "y overlaps x");
    assert_untouched(&y);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(missing_pointers_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(outputs_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
