/* Merge order. */
#include "support/tensors.h"

#include <string.h>
#include <vtc/project.h>

static void blocks_come_one_after_another(void **state)
{
    static const int32_t want[] = { 0, 1, 4, 5, 2, 3, 6, 7 };
    int32_t order[8];

    (void)state;
    assert_int_equal(vtc_merge_order(1, 2, 4, 2, order, NULL), VTC_OK);
    assert_memory_equal(order, want, sizeof(want));
}

/* Five nested loops, as the definition has them. */
static void any_grid_follows_the_definition(void **state)
{
    int32_t order[3 * 12 * 12];

    (void)state;
    for (size_t m = 1; m <= 4; m++)
        for (size_t shape = 0; shape < 27; shape++) {
            const size_t t = shape % 3 + 1, h = m * (shape / 3 % 3 + 1), w = m * (shape / 9 + 1);
            size_t p = 0;

            assert_int_equal(vtc_merge_order(t, h, w, m, order, NULL), VTC_OK);
            for (size_t f = 0; f < t; f++)
                for (size_t i = 0; i < h; i += m)
                    for (size_t j = 0; j < w; j += m)
                        for (size_t di = 0; di < m; di++)
                            for (size_t dj = 0; dj < m; dj++)
                                assert_int_equal(order[p++], (f * h + i + di) * w + j + dj);
            assert_int_equal(p, t * h * w);
        }
}

static void gathering_follows_the_order_for_any_dtype(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16, VTC_I32,
                                        VTC_I64, VTC_U8,  VTC_BOOL };
    const size_t dim[] = { 2, 2 * 6 * 3, 5 };
    int32_t order[36];

    (void)state;
    assert_int_equal(vtc_merge_order(2, 6, 3, 3, order, NULL), VTC_OK);
    for (size_t d = 0; d < 7; d++)
        for (size_t n_workers = 0; n_workers < 3; n_workers++) {
            const vtc_tensor x = make_tensor(dtypes[d], 3, dim, 3);
            const size_t size = vtc_dtype_size(dtypes[d]);
            vtc_tensor y = make_tensor(dtypes[d], 3, dim, 1);
            const vtc_exec exec = test_exec(n_workers);

            for (size_t i = 0; i < n_elements(&x); i++)
                memcpy((char *)x.data + element_at(&x, i) * size, &i, size);
            guard_readonly(x.data);
            assert_int_equal(vtc_merge_order_gather(2, 6, 3, 3, &x, &y, &exec), VTC_OK);
            for (size_t i = 0; i < n_elements(&y); i++) {
                const size_t from = i / 180 * 180 + (size_t)order[i / 5 % 36] * 5 + i % 5;

                assert_memory_equal((char *)y.data + element_at(&y, i) * size,
                                    (char *)x.data + element_at(&x, from) * size, size);
            }
            guard_free(x.data);
            guard_free(y.data);
        }
}

static void empty_grids_are_fine(void **state)
{
    vtc_tensor x = vtc_f32_2d(NULL, 0, 5), y = vtc_f32_2d(NULL, 0, 5);

    (void)state;
    assert_int_equal(vtc_merge_order(0, 4, 4, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_merge_order(3, 0, 4, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_merge_order_gather(0, 4, 4, 2, &x, &y, NULL), VTC_OK);
    assert_int_equal(vtc_merge_order_gather(2, 4, 0, 2, &x, &y, NULL), VTC_OK);
}

static void expect_bad_grid(size_t t, size_t h, size_t w, size_t merge, vtc_status want,
                            const char *part)
{
    vtc_exec exec = test_exec(0);
    int32_t order[16];
    error_log log;

    poison(order, sizeof(order));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_merge_order(t, h, w, merge, order, &exec), want, part);
    assert_true(is_poisoned(order, sizeof(order)));
}

static void grids_that_cannot_be_are_refused(void **state)
{
    (void)state;
    expect_bad_grid(1, 3, 4, 2, VTC_ERR_SHAPE, "grid 3x4 is not divisible by 2");
    expect_bad_grid(1, 4, 3, 2, VTC_ERR_SHAPE, "grid 4x3 is not divisible by 2");
    expect_bad_grid(1, 4, 4, 0, VTC_ERR_RANGE, "merge is 0");
    expect_bad_grid(1, 65536, 65536, 2, VTC_ERR_OVERFLOW, "too many tokens");
    expect_bad_grid(SIZE_MAX / 4, 16, 16, 2, VTC_ERR_OVERFLOW, "overflows");
    assert_int_equal(vtc_merge_order(1, 2, 2, 2, NULL, NULL), VTC_ERR_NULL);
}

static void expect_bad_views(vtc_tensor x, vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_merge_order_gather(1, 2, 4, 2, &x, &y, &exec), want, part);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    static float from[3 * 24], to[24];
    const vtc_tensor x = vtc_f32_2d(from, 8, 3), y = vtc_f32_2d(to, 8, 3);
    vtc_tensor bad = y;

    (void)state;
    poison(to, sizeof(to));
    bad.dtype = VTC_I32;
    expect_bad_views(x, bad, VTC_ERR_DTYPE, "x is F32, y is I32");
    bad = y;
    bad.dim[1] = 2;
    expect_bad_views(x, bad, VTC_ERR_SHAPE, "axis 1 has extent 3 in x, 2 in y");
    expect_bad_views(vtc_f32_2d(from, 7, 3), vtc_f32_2d(to, 7, 3), VTC_ERR_SHAPE,
                     "the grid has 8 tokens, x has 7");
    expect_bad_views(vtc_f32_3d(from, 1, 8, 3), y, VTC_ERR_SHAPE, "x has rank 3, y has rank 2");
    expect_bad_views(x, vtc_f32_2d(from + 23, 8, 3), VTC_ERR_OVERLAP, "y overlaps x");
    assert_true(is_poisoned(to, sizeof(to)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_one_after_another),
        cmocka_unit_test(any_grid_follows_the_definition),
        cmocka_unit_test(gathering_follows_the_order_for_any_dtype),
        cmocka_unit_test(empty_grids_are_fine),
        cmocka_unit_test(grids_that_cannot_be_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
