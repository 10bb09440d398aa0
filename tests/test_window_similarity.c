/* How alike the tokens of windows are. */
#include "support/tensors.h"

#include "reference/mustdrop_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vtc_tensor random_images(uint64_t *seed, vtc_dtype dtype, size_t n_images, size_t n,
                                size_t c, size_t gap)
{
    const size_t dim[3] = { n_images, n, c };

    return make_random(seed, dtype, 3, dim, gap);
}

/* In guarded memory, with exactly the scratch it asks for; guard_free() it. */
static float *similarity(const vtc_tensor *x, const mustdrop_grid *g, int ragged, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    const size_t n_images = x->rank == 3 ? x->dim[0] : 1;
    size_t n, bytes;

    assert_int_equal(vtc_window_count(g->h, g->w, g->win_h, g->win_w, ragged, &n, NULL), VTC_OK);
    assert_int_equal(n, mustdrop_windows(g));

    float *out = guard_alloc(n_images * n * sizeof(*out));

    poison(out, n_images * n * sizeof(*out));
    assert_int_equal(vtc_window_similarity_scratch(x, g->h, g->w, g->win_h, g->win_w, ragged, &exec,
                                                   &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_window_similarity(x, g->h, g->w, g->win_h, g->win_w, ragged, out, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return out;
}

static void check_grid(uint64_t *seed, const mustdrop_grid *g, int ragged, size_t n_images,
                       size_t c, vtc_dtype dtype)
{
    vtc_tensor x = random_images(seed, dtype, n_images, g->h * g->w, c, rng_below(seed, 3));
    double *values = values_of(&x), *want = malloc((mustdrop_windows(g) + 1) * sizeof(*want));
    float *got = similarity(&x, g, ragged, rng_below(seed, 4));

    for (size_t b = 0; b < n_images; b++) {
        mustdrop_similarity(g, values + b * g->h * g->w * c, c, want);
        for (size_t w = 0; w < mustdrop_windows(g); w++)
            assert_true(close_to(got[b * mustdrop_windows(g) + w], want[w], 2e-6, 0.0));
    }
    guard_free(got);
    free(want);
    free(values);
    guard_free(x.data);
}

static void the_closed_form_equals_all_pairs(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 150; round++) {
        mustdrop_grid g = { 0, 0, 1 + rng_below(&seed, 4), 2 + rng_below(&seed, 4) };

        g.h = g.win_h * rng_below(&seed, 4);
        g.w = g.win_w * rng_below(&seed, 4);
        check_grid(&seed, &g, 0, rng_below(&seed, 3), 1 + rng_below(&seed, 70), dtypes[round % 3]);
        g.h += rng_below(&seed, g.win_h);
        g.w += rng_below(&seed, g.win_w);
        check_grid(&seed, &g, 1, 1, 1 + rng_below(&seed, 9), dtypes[round % 3]);
    }
    const mustdrop_grid wide = { 3, 6, 3, 3 }, large = { 5, 8, 5, 4 };

    check_grid(&seed, &wide, 0, 2, 5000, VTC_F32);
    check_grid(&seed, &wide, 0, 2, 5000, VTC_BF16);
    check_grid(&seed, &large, 0, 1, 33, VTC_F16);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const mustdrop_grid g = { 24, 24, 3, 3 };
    uint64_t seed = 2;
    vtc_tensor x = random_images(&seed, VTC_F16, 2, 576, 700, 1);
    float *one = similarity(&x, &g, 0, 0);

    (void)state;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        float *many = similarity(&x, &g, 0, n_workers);

        assert_memory_equal(many, one, 128 * sizeof(*one));
        guard_free(many);
    }
    guard_free(one);
    guard_free(x.data);
}

/* 2 x 4 cells, windows of 2 x 2. */
static void special_tokens(float *x, float a, float b, float c, float d)
{
    const float value[8] = { a, b, 1.0f, 1.0f, c, d, 1.0f, 1.0f };

    for (size_t i = 0; i < 8; i++)
        for (size_t k = 0; k < 3; k++)
            x[3 * i + k] = value[i];
}

static void assert_special(const float *x, double first)
{
    const vtc_tensor view = vtc_f32_2d(x, 8, 3);
    const mustdrop_grid g = { 2, 4, 2, 2 };
    float *got = similarity(&view, &g, 0, 1);

    assert_true(close_to(got[0], first, 1e-6, 0.0));
    assert_true(close_to(got[1], 1.0, 1e-6, 0.0));
    guard_free(got);
}

static void zero_tokens_are_like_none_and_lengths_do_not_matter(void **state)
{
    float x[24];

    (void)state;
    special_tokens(x, 1.0f, 0.0f, 1.0f, 1.0f);
    assert_special(x, 0.5);
    special_tokens(x, 0.0f, 0.0f, 0.0f, 0.0f);
    assert_special(x, 0.0);
    special_tokens(x, 1e30f, 1e-6f, 2.0f, 3e37f);
    assert_special(x, 1.0);
    special_tokens(x, 1.0f, -1.0f, 1.0f, -1.0f);
    assert_special(x, -1.0 / 3.0);
    special_tokens(x, 1e-8f, 1e-8f, 0.5e-8f / 1.7320508f, 1.0f);
    assert_special(x, (3.0 + 3.0 * 0.5) / 6.0);
}

/* Of four signs 4, 3 or 2 agree: windows of the same kind tie. */
static void windows_of_one_channel_have_three_values(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    static const mustdrop_grid grid = { 20, 20, 2, 2 };
    uint64_t seed = 21;

    (void)state;
    for (int i = 0; i < 3; i++) {
        vtc_tensor x = random_images(&seed, dtypes[i], 1, 400, 1, 0);
        float *got = similarity(&x, &grid, 0, 1);
        int n_seen[3] = { 0 };

        for (size_t w = 0; w < 100; w++) {
            assert_true(got[w] == 1.0f || got[w] == 0.0f || got[w] == -1.0f / 3.0f);
            n_seen[got[w] == 1.0f ? 0 : got[w] == 0.0f ? 1 : 2]++;
        }
        assert_true(n_seen[0] > 0 && n_seen[1] > 0 && n_seen[2] > 0);
        guard_free(got);
        guard_free(x.data);
    }
}

static void what_is_not_finite_makes_its_window_nan(void **state)
{
    const float bad[2] = { NAN, INFINITY };
    float x[24];

    (void)state;
    for (int i = 0; i < 2; i++) {
        special_tokens(x, 1.0f, bad[i], 1.0f, 1.0f);
        assert_special(x, NAN);
    }
}

static void refused(const vtc_tensor *x, size_t grid_h, size_t grid_w, size_t win_h, size_t win_w,
                    float *out, vtc_status status, const char *part)
{
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 4096);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_window_similarity(x, grid_h, grid_w, win_h, win_w, 0, out, &exec),
                  status, part);
    assert_true(out == NULL || is_poisoned(out, 4 * sizeof(*out)));
    exec_scratch_free(&exec);
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    float x[16 * 2] = { 0 }, *out = guard_alloc(4 * sizeof(*out));
    vtc_tensor view = vtc_f32_2d(x, 16, 2), ints = vtc_tensor_2d(x, VTC_I32, 16, 2);
    vtc_exec none = test_exec(1);
    error_log log;
    size_t n = 7;

    (void)state;
    poison(out, 4 * sizeof(*out));
    refused(&view, 4, 4, 3, 2, out, VTC_ERR_SHAPE, "4 x 4 is no whole number of windows of 3 x 2");
    refused(&view, 4, 4, 1, 1, out, VTC_ERR_RANGE, "window is 1 x 1");
    refused(&view, 4, 4, 0, 2, out, VTC_ERR_RANGE, "window is 0 x 2");
    refused(&view, 4, 2, 2, 2, out, VTC_ERR_SHAPE, "x has 16 rows, the grid 4 x 2");
    refused(&view, SIZE_MAX, 2, 2, 2, out, VTC_ERR_OVERFLOW, "exceed int32");
    refused(&view, SIZE_MAX, 0, 2, 2, out, VTC_ERR_OVERFLOW, "exceed int32"); /* rows of no cell */
    refused(&ints, 4, 4, 2, 2, out, VTC_ERR_DTYPE, "x has dtype I32");
    refused(NULL, 4, 4, 2, 2, out, VTC_ERR_NULL, "x is NULL");
    refused(&view, 4, 4, 2, 2, NULL, VTC_ERR_NULL, "similarity is NULL");
    record_errors(&none, &log);
    assert_failed(&log, vtc_window_similarity(&view, 4, 4, 2, 2, 0, x + 30, &none), VTC_ERR_OVERLAP,
                  "similarity overlaps x");
    record_errors(&none, &log);
    assert_failed(&log, vtc_window_similarity(&view, 4, 4, 2, 2, 0, out, &none), VTC_ERR_SCRATCH,
                  "scratch");
    record_errors(&none, &log);
    assert_failed(&log, vtc_window_count(5, 4, 2, 2, 0, &n, &none), VTC_ERR_SHAPE, "5 x 4");
    assert_int_equal(n, 7);
    guard_free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_closed_form_equals_all_pairs),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(zero_tokens_are_like_none_and_lengths_do_not_matter),
        cmocka_unit_test(windows_of_one_channel_have_three_values),
        cmocka_unit_test(what_is_not_finite_makes_its_window_nan),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
