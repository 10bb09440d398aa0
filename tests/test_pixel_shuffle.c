/* Pixel shuffle, both versions and directions. */
#include "support/models.h"

#include <stdlib.h>
#include <string.h>
#include <vtc/shuffle.h>

/* ---- cases ----------------------------------------------------------------------------------- */

static vtc_pixel_shuffle_params make_params(size_t h, size_t w, size_t down, size_t up)
{
    vtc_pixel_shuffle_params p = VTC_PIXEL_SHUFFLE_PARAMS_INIT;

    p.grid_h = h;
    p.grid_w = w;
    p.down = down;
    p.up = up;
    return p;
}

typedef struct extents {
    size_t h, w, c;
} extents;

static extents count(const vtc_pixel_shuffle_params *p, size_t c)
{
    extents e;

    assert_int_equal(vtc_pixel_shuffle_count(p, c, &e.h, &e.w, &e.c, NULL), VTC_OK);
    return e;
}

/* Tokens [n, h, w, c] of any dtype as a view of rank 4, 3 or 2 (n is 1 then): each element is its
 * own number, modulo what the dtype holds. */
static vtc_tensor make_numbered(vtc_dtype dtype, int rank, size_t n, extents e, size_t gap)
{
    const size_t full[] = { n, e.h, e.w, e.c }, flat[] = { n, e.h * e.w, e.c };
    const vtc_tensor t = make_tensor(dtype, rank, rank == 4 ? full : flat + 3 - rank, gap);
    const size_t size = vtc_dtype_size(dtype);

    for (size_t i = 0; i < n_elements(&t); i++)
        memcpy((char *)t.data + element_at(&t, i) * size, &i, size); /* little-endian */
    return t;
}

static vtc_tensor make_output(vtc_dtype dtype, int rank, size_t n, extents e, size_t gap)
{
    const size_t full[] = { n, e.h, e.w, e.c }, flat[] = { n, e.h * e.w, e.c };

    return make_tensor(dtype, rank, rank == 4 ? full : flat + 3 - rank, gap);
}

/* The definition, element by element: index of the input element that goes to (i, j, c) of v2. */
static size_t source_of(const vtc_pixel_shuffle_params *p, size_t n_channels, size_t i, size_t j,
                        size_t c, bool *inside)
{
    const size_t r = p->down, u = p->up, piece = n_channels / (u * u);
    size_t row = i, col = j, channel = c;

    if (u > 1) {
        row = i / u;
        col = j / u;
        channel = (j % u * u + i % u) * piece + c;
    } else {
        row = i * r + c / n_channels / r;
        col = j * r + c / n_channels % r;
        channel = c % n_channels;
    }
    *inside = row < p->grid_h && col < p->grid_w;
    return (row * p->grid_w + col) * n_channels + channel;
}

static void assert_shuffled(const vtc_pixel_shuffle_params *p, const vtc_tensor *x,
                            const vtc_tensor *y, size_t n, extents e)
{
    static const char zeros[8] = { 0 };
    const size_t c_in = x->dim[x->rank - 1], size = vtc_dtype_size(x->dtype);
    const size_t per_image = p->grid_h * p->grid_w * c_in;

    for (size_t at = 0; at < n * e.h * e.w * e.c; at++) {
        const size_t c = at % e.c, col = at / e.c % e.w, row = at / e.c / e.w % e.h;
        const bool v1 = p->version == VTC_SHUFFLE_V1;
        bool inside;
        const size_t from = source_of(p, c_in, v1 ? col : row, v1 ? row : col, c, &inside) +
                            at / (e.h * e.w * e.c) * per_image;
        const char *want = inside ? (const char *)x->data + element_at(x, from) * size : zeros;

        if (memcmp((const char *)y->data + element_at(y, at) * size, want, size) != 0)
            fail_msg("element %zu is not input element %zu", at, from);
    }
}

static void check(const vtc_pixel_shuffle_params *p, vtc_dtype dtype, int rank, size_t n, size_t c,
                  size_t gap, size_t n_workers)
{
    const extents from = { p->grid_h, p->grid_w, c }, e = count(p, c);
    const vtc_tensor x = make_numbered(dtype, rank, n, from, gap);
    vtc_tensor y = make_output(dtype, rank, n, e, gap + 1);
    const vtc_exec exec = test_exec(n_workers);

    guard_readonly(x.data);
    assert_int_equal(vtc_pixel_shuffle(p, &x, &y, &exec), VTC_OK);
    assert_shuffled(p, &x, &y, n, e);
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void every_dtype_rank_ratio_and_version_follows_the_definition(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16, VTC_I32,
                                        VTC_I64, VTC_U8,  VTC_BOOL };
    uint64_t seed = 51;

    (void)state;
    for (int i = 0; i < 400; i++) {
        const size_t ratio = 1 + rng_below(&seed, 4);
        const bool up = rng_below(&seed, 2) != 0;
        const int rank = 2 + (int)rng_below(&seed, 3);
        const size_t n = rank == 2 ? 1 : rng_below(&seed, 4), step = up ? 1 : ratio;
        vtc_pixel_shuffle_params p =
            make_params(step * (1 + rng_below(&seed, 4)), step * (1 + rng_below(&seed, 4)),
                        up ? 1 : ratio, up ? ratio : 1);

        p.version = (vtc_shuffle_version)rng_below(&seed, 2);
        check(&p, dtypes[rng_below(&seed, 7)], rank, n,
              (1 + rng_below(&seed, 7)) * (up ? ratio * ratio : 1), rng_below(&seed, 3),
              rng_below(&seed, 3));
    }
}

static void padding_adds_zeros_below_and_to_the_right(void **state)
{
    (void)state;
    for (size_t h = 1; h < 8; h++)
        for (size_t w = 1; w < 8; w++)
            for (size_t r = 1; r < 4; r++) {
                vtc_pixel_shuffle_params p = make_params(h, w, r, 1);

                p.pad = VTC_SHUFFLE_PAD_ZERO_BOTTOM_RIGHT;
                p.version = (vtc_shuffle_version)(h % 2);
                assert_int_equal(count(&p, 3).c, 3 * r * r);
                check(&p, h % 2 ? VTC_F16 : VTC_F32, 2 + (int)(w % 3), w % 3 == 0 ? 1 : 2, 3, w % 2,
                      2);
            }
}

static void counts_are_those_of_the_models(void **state)
{
    vtc_pixel_shuffle_params p = make_params(32, 32, 2, 1);
    extents e = count(&p, 1024); /* InternVL */

    (void)state;
    assert_true(e.h == 16 && e.w == 16 && e.c == 4096);
    p = make_params(27, 27, 3, 1);
    e = count(&p, 1152); /* SmolVLM 2.2B */
    assert_true(e.h == 9 && e.w == 9 && e.c == 10368);
    p = make_params(4, 6, 2, 1);
    p.version = VTC_SHUFFLE_V1;
    e = count(&p, 5);
    assert_true(e.h == 3 && e.w == 2 && e.c == 20);
    p = make_params(3, 5, 1, 2);
    e = count(&p, 8);
    assert_true(e.h == 6 && e.w == 10 && e.c == 2);
}

/* Splitting and joining by 2 exchanges the off-diagonal tokens of each block. */
static void joining_after_splitting_is_not_the_identity(void **state)
{
    const vtc_pixel_shuffle_params up = make_params(1, 1, 1, 2), down = make_params(2, 2, 2, 1);
    const float x[4] = { 0, 1, 2, 3 }, want[4] = { 0, 2, 1, 3 };
    float middle[4], y[4];
    vtc_tensor tx = vtc_f32_2d(x, 1, 4), tm = vtc_f32_2d(middle, 4, 1), ty = vtc_f32_2d(y, 1, 4);

    (void)state;
    assert_int_equal(vtc_pixel_shuffle(&up, &tx, &tm, NULL), VTC_OK);
    assert_int_equal(vtc_pixel_shuffle(&down, &tm, &ty, NULL), VTC_OK);
    assert_memory_equal(y, want, sizeof(y));
}

static void ranks_may_differ(void **state)
{
    const vtc_pixel_shuffle_params p = make_params(4, 6, 2, 1);
    const extents from = { 4, 6, 3 }, e = count(&p, 3);
    const vtc_tensor x = make_numbered(VTC_I32, 4, 2, from, 1);
    vtc_tensor y = make_output(VTC_I32, 3, 2, e, 0);

    (void)state;
    assert_int_equal(vtc_pixel_shuffle(&p, &x, &y, NULL), VTC_OK);
    assert_shuffled(&p, &x, &y, 2, e);
    guard_free(x.data);
    guard_free(y.data);
}

static void nothing_to_move_is_fine(void **state)
{
    const vtc_pixel_shuffle_params p = make_params(2, 2, 2, 1);
    vtc_tensor x = vtc_f32_3d(NULL, 0, 4, 3), y = vtc_f32_3d(NULL, 0, 1, 12);

    (void)state;
    assert_int_equal(vtc_pixel_shuffle(&p, &x, &y, NULL), VTC_OK);
    x = vtc_f32_3d(NULL, 3, 4, 0);
    y = vtc_f32_3d(NULL, 3, 1, 0);
    assert_int_equal(vtc_pixel_shuffle(&p, &x, &y, NULL), VTC_OK);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_bad_params(vtc_pixel_shuffle_params p, size_t c, vtc_status want,
                              const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t h = 77, w = 77, channels = 77;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_pixel_shuffle_count(&p, c, &h, &w, &channels, &exec), want, part);
    assert_true(h == 77 && w == 77 && channels == 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    const vtc_pixel_shuffle_params fresh = VTC_PIXEL_SHUFFLE_PARAMS_INIT;
    vtc_pixel_shuffle_params p = make_params(4, 4, 2, 1);

    (void)state;
    expect_bad_params(fresh, 4, VTC_ERR_RANGE, "grid is 0x0");
    expect_bad_params(make_params(4, 4, 2, 2), 4, VTC_ERR_RANGE, "down is 2 and up is 2");
    expect_bad_params(make_params(4, 4, 0, 1), 4, VTC_ERR_RANGE, "down is 0");
    expect_bad_params(make_params(4, 5, 2, 1), 4, VTC_ERR_SHAPE, "grid 4x5 is not divisible by 2");
    expect_bad_params(make_params(9, 4, 2, 1), 4, VTC_ERR_SHAPE, "grid 9x4 is not divisible by 2");
    expect_bad_params(make_params(4, 4, 1, 3), 6, VTC_ERR_SHAPE, "6 channels");
    expect_bad_params(make_params(SIZE_MAX / 2, 4, 1, 4), 16, VTC_ERR_OVERFLOW, "overflows");
    p.version = (vtc_shuffle_version)2;
    expect_bad_params(p, 4, VTC_ERR_RANGE, "version 2");
    p = make_params(4, 4, 2, 1);
    p.pad = (vtc_shuffle_pad)-1;
    expect_bad_params(p, 4, VTC_ERR_RANGE, "pad -1");
}

static void expect_bad_views(const vtc_tensor *x, vtc_tensor y, vtc_status want, const char *part)
{
    const vtc_pixel_shuffle_params p = make_params(4, 6, 2, 1);
    vtc_exec exec = test_exec(0);
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_pixel_shuffle(&p, x, &y, &exec), want, part);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    const extents from = { 4, 6, 3 }, to = { 2, 3, 12 };
    const vtc_tensor x = make_numbered(VTC_F32, 4, 2, from, 0);
    const vtc_tensor y = make_output(VTC_F32, 4, 2, to, 0);
    vtc_tensor bad = x;

    (void)state;
    bad.dim[1] = 5;
    expect_bad_views(&bad, y, VTC_ERR_SHAPE, "the grid is 4x6, x is 5x6");
    bad = vtc_f32_3d(x.data, 2, 23, 3);
    expect_bad_views(&bad, y, VTC_ERR_SHAPE, "grid 4x6 needs 24 rows, x has 23");
    expect_bad_views(NULL, y, VTC_ERR_NULL, "x is NULL");
    bad = y;
    bad.dim[3] = 11;
    expect_bad_views(&x, bad, VTC_ERR_SHAPE, "y has 11 channels, 12 are needed");
    bad = y;
    bad.dim[0] = 1;
    expect_bad_views(&x, bad, VTC_ERR_SHAPE, "x has 2 grids, y has 1");
    bad = vtc_tensor_nd(y.data, VTC_F32, 4, (const size_t[]){ 2, 3, 2, 12 }); /* right for v1 */
    expect_bad_views(&x, bad, VTC_ERR_SHAPE, "the grid is 2x3, y is 3x2");
    bad = y;
    bad.dtype = VTC_I32;
    expect_bad_views(&x, bad, VTC_ERR_DTYPE, "x is F32, y is I32");
    bad = y;
    bad.data = x.data;
    expect_bad_views(&x, bad, VTC_ERR_OVERLAP, "y overlaps x");
    assert_untouched(&y);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_rank_ratio_and_version_follows_the_definition),
        cmocka_unit_test(padding_adds_zeros_below_and_to_the_right),
        cmocka_unit_test(counts_are_those_of_the_models),
        cmocka_unit_test(joining_after_splitting_is_not_the_identity),
        cmocka_unit_test(ranks_may_differ),
        cmocka_unit_test(nothing_to_move_is_fine),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
