/* Newlines between pooled video frames. */
#include "support/tensors.h"

#include <stdlib.h>
#include <string.h>

typedef struct newline_case {
    vtc_video_newline_params params;
    size_t n_frames, n_channels;
    vtc_dtype from, newline, to;
    size_t gap;
} newline_case;

static newline_case make_case(vtc_newline_position position, size_t n_frames)
{
    newline_case c = { VTC_VIDEO_NEWLINE_PARAMS_INIT, n_frames, 5, VTC_F32, VTC_F32, VTC_F32, 0 };

    c.params.grid_h = 2;
    c.params.grid_w = 3;
    c.params.position = position;
    return c;
}

static vtc_tensor make_frames(uint64_t *seed, const newline_case *c)
{
    const size_t dim[] = { c->n_frames, c->params.grid_h * c->params.grid_w, c->n_channels };

    return make_random(seed, c->from, 3, dim, c->gap);
}

static vtc_tensor make_output(const newline_case *c)
{
    size_t n;

    assert_int_equal(vtc_video_newline_count(&c->params, c->n_frames, &n, NULL), VTC_OK);
    return make_tensor(c->to, 2, (const size_t[]){ n, c->n_channels }, c->gap);
}

static vtc_tensor with_newlines(const newline_case *c, const vtc_tensor *x,
                                const vtc_tensor *newline, size_t n_workers)
{
    vtc_tensor y = make_output(c);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_video_newline_scratch(&c->params, x, newline, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_video_newline(&c->params, x, newline, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* One token after the other, as the sequence is read. */
static void assert_sequence(const newline_case *c, const vtc_tensor *x, const vtc_tensor *newline,
                            const vtc_tensor *y)
{
    const size_t n = c->n_channels, h = c->params.grid_h, w = c->params.grid_w;
    const vtc_newline_position position = c->params.position;
    double *from = values_of(x), *line = values_of(newline), *want = values_of(y), *at = want;

    for (size_t token = 0; token < c->n_frames * h * w; token++) {
        const bool ends_row = token % w == w - 1, ends_frame = token % (h * w) == h * w - 1;

        memcpy(at, from + token * n, n * sizeof(*at));
        at += n;
        if ((position == VTC_NEWLINE_GRID && ends_row) ||
            (position == VTC_NEWLINE_FRAME && ends_frame)) {
            memcpy(at, line, n * sizeof(*at));
            at += n;
        }
    }
    if (position == VTC_NEWLINE_ONE_TOKEN) {
        memcpy(at, line, n * sizeof(*at));
        at += n;
    }
    assert_int_equal(at - want, n_elements(y));
    assert_tensor_near(y, want, 0.0);
    free(want);
    free(line);
    free(from);
}

static newline_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    newline_case c = make_case((vtc_newline_position)rng_below(seed, 4), rng_below(seed, 5));

    c.params.grid_h = 1 + rng_below(seed, 5);
    c.params.grid_w = 1 + rng_below(seed, 5);
    c.n_channels = 1 + rng_below(seed, 20);
    c.from = dtypes[rng_below(seed, 3)];
    c.newline = dtypes[rng_below(seed, 3)];
    c.to = dtypes[rng_below(seed, 3)];
    c.gap = rng_below(seed, 3);
    return c;
}

static void expect_count(vtc_newline_position position, size_t n_frames, size_t want)
{
    vtc_video_newline_params params = VTC_VIDEO_NEWLINE_PARAMS_INIT;
    size_t n;

    params.grid_h = params.grid_w = 13;
    params.position = position;
    assert_int_equal(vtc_video_newline_count(&params, n_frames, &n, NULL), VTC_OK);
    assert_int_equal(n, want);
}

static void counts_are_those_of_the_published_code(void **state)
{
    (void)state;
    expect_count(VTC_NEWLINE_GRID, 32, 32 * 13 * 14);
    expect_count(VTC_NEWLINE_FRAME, 32, 32 * 170);
    expect_count(VTC_NEWLINE_ONE_TOKEN, 32, 32 * 169 + 1);
    expect_count(VTC_NEWLINE_NO_TOKEN, 32, 32 * 169);
    expect_count(VTC_NEWLINE_GRID, 0, 0);
    expect_count(VTC_NEWLINE_FRAME, 0, 0);
    expect_count(VTC_NEWLINE_ONE_TOKEN, 0, 1);
}

static void sequences_read_as_they_should_with_any_executor(void **state)
{
    uint64_t seed = 41;

    (void)state;
    for (int i = 0; i < 200; i++) {
        const newline_case c = random_case(&seed);
        const vtc_tensor x = make_frames(&seed, &c);
        const vtc_tensor newline = make_random(&seed, c.newline, 1, &c.n_channels, 0);
        const vtc_tensor one = with_newlines(&c, &x, &newline, 0);
        const vtc_tensor many = with_newlines(&c, &x, &newline, 1 + rng_below(&seed, 5));

        assert_sequence(&c, &x, &newline, &one);
        assert_same_bits(&one, &many);
        guard_free(x.data);
        guard_free(newline.data);
        guard_free(one.data);
        guard_free(many.data);
    }
}

static void equal_dtypes_keep_their_bits_and_f32_needs_no_scratch(void **state)
{
    newline_case c = make_case(VTC_NEWLINE_NO_TOKEN, 2);
    uint64_t seed = 42;

    (void)state;
    const vtc_tensor x = make_frames(&seed, &c);
    vtc_tensor y = make_output(&c);

    guard_writable(x.data);
    memset(x.data, 0x7f, 40); /* NaN with a payload */
    guard_readonly(x.data);
    assert_int_equal(vtc_video_newline(&c.params, &x, NULL, &y, NULL), VTC_OK);
    assert_memory_equal(x.data, y.data, 12 * 5 * sizeof(float));
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_bad_params(const vtc_video_newline_params *params, size_t n_frames,
                              vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t n = 77;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_video_newline_count(params, n_frames, &n, &exec), want, part);
    assert_int_equal(n, 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    newline_case c = make_case(VTC_NEWLINE_GRID, 2);
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    expect_bad_params(NULL, 2, VTC_ERR_RANGE, "grid is 0x0");
    c.params.grid_w = 0;
    expect_bad_params(&c.params, 2, VTC_ERR_RANGE, "grid is 2x0");
    c.params.grid_w = 3;
    expect_bad_params(&c.params, SIZE_MAX / 4, VTC_ERR_OVERFLOW, "of 2x3 tokens overflow");
    c.params.position = (vtc_newline_position)4;
    expect_bad_params(&c.params, 2, VTC_ERR_RANGE, "position 4");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_video_newline_count(&c.params, 2, NULL, &exec), VTC_ERR_NULL,
                  "n_tokens");
}

static void expect_bad_views(const newline_case *c, const vtc_tensor *x, const vtc_tensor *newline,
                             vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_video_newline(&c->params, x, newline, &y, &exec), want, part);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    const newline_case c = make_case(VTC_NEWLINE_GRID, 2);
    uint64_t seed = 43;

    (void)state;
    const vtc_tensor x = make_frames(&seed, &c), y = make_output(&c);
    const vtc_tensor newline = make_random(&seed, c.newline, 1, &c.n_channels, 0);
    vtc_tensor bad = x;

    bad.dim[1] = 7;
    expect_bad_views(&c, &bad, &newline, y, VTC_ERR_SHAPE, "grid 2x3 needs 6 rows, x has 7");
    bad = x;
    bad.dim[0] = 1;
    expect_bad_views(&c, &bad, &newline, y, VTC_ERR_SHAPE, "y is 16x5, 8x5 is needed");
    bad = x;
    bad.rank = 2;
    expect_bad_views(&c, &bad, &newline, y, VTC_ERR_SHAPE, "x has rank 2");
    bad = y;
    bad.dim[1] = 4;
    expect_bad_views(&c, &x, &newline, bad, VTC_ERR_SHAPE, "y is 16x4, 16x5 is needed");
    bad = y;
    bad.data = x.data;
    expect_bad_views(&c, &x, &newline, bad, VTC_ERR_OVERLAP, "y overlaps x");
    expect_bad_views(&c, &x, NULL, y, VTC_ERR_NULL, "newline is NULL");
    bad = newline;
    bad.dim[0] = 4;
    expect_bad_views(&c, &x, &bad, y, VTC_ERR_SHAPE, "newline has 4 channels, y has 5");
    bad = newline;
    bad.data = y.data;
    expect_bad_views(&c, &x, &bad, y, VTC_ERR_OVERLAP, "y overlaps newline");
    bad = newline;
    bad.dtype = VTC_BOOL;
    expect_bad_views(&c, &x, &bad, y, VTC_ERR_DTYPE, "newline has dtype BOOL");
    assert_untouched(&y);
    guard_free(x.data);
    guard_free(y.data);
    guard_free(newline.data);
}

static void scratch_is_exact(void **state)
{
    newline_case c = make_case(VTC_NEWLINE_FRAME, 2);
    vtc_exec exec = test_exec(3);
    uint64_t seed = 44;
    error_log log;
    size_t bytes;

    (void)state;
    c.from = VTC_BF16;
    c.to = VTC_F16;
    const vtc_tensor x = make_frames(&seed, &c);
    const vtc_tensor newline = make_random(&seed, c.newline, 1, &c.n_channels, 0);
    vtc_tensor y = make_output(&c);

    record_errors(&exec, &log);
    assert_int_equal(vtc_video_newline_scratch(&c.params, &x, &newline, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_video_newline(&c.params, &x, &newline, &y, &exec), VTC_ERR_SCRATCH,
                  "bytes of scratch");
    assert_untouched(&y);
    exec_scratch_free(&exec);
    guard_free(x.data);
    guard_free(newline.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_published_code),
        cmocka_unit_test(sequences_read_as_they_should_with_any_executor),
        cmocka_unit_test(equal_dtypes_keep_their_bits_and_f32_needs_no_scratch),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
