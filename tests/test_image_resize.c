/* Antialiased resizing. */
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- against the definition ------------------------------------------------------------------ */

/* The weight of input pixel i in output pixel j, before normalisation. */
static double triangle(size_t i, size_t j, size_t n, size_t m)
{
    const double scale = (double)n / (double)m, reach = scale > 1.0 ? scale : 1.0;
    const double distance = fabs((double)i + 0.5 - scale * ((double)j + 0.5));

    return distance < reach ? 1.0 - distance / reach : 0.0;
}

/* Columns of one row, then rows of one column: both by this. `step` is their distance. */
static void resample(const double *x, size_t n, double *y, size_t m, size_t x_step, size_t y_step)
{
    for (size_t j = 0; j < m; j++) {
        double sum = 0.0, total = 0.0;

        for (size_t i = 0; i < n; i++) {
            sum += triangle(i, j, n, m) * x[i * x_step];
            total += triangle(i, j, n, m);
        }
        y[j * y_step] = sum / total;
    }
}

static double *expected(const vtc_tensor *image, size_t out_h, size_t out_w)
{
    const size_t p = image->dim[0], h = image->dim[1], w = image->dim[2];
    double *x = values_of(image), *narrow = calloc(p * h * out_w + 1, sizeof(*narrow));
    double *y = calloc(p * out_h * out_w + 1, sizeof(*y));

    for (size_t r = 0; r < p * h; r++)
        resample(x + r * w, w, narrow + r * out_w, out_w, 1, 1);
    for (size_t plane = 0; plane < p; plane++)
        for (size_t c = 0; c < out_w; c++)
            resample(narrow + plane * h * out_w + c, h, y + plane * out_h * out_w + c, out_h, out_w,
                     out_w);
    free(x);
    free(narrow);
    return y;
}

static void run(const vtc_tensor *image, vtc_tensor *out, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_image_resize_scratch(image, out, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_image_resize(image, out, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void every_size_and_dtype_equals_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 71;

    (void)state;
    for (int round = 0; round < 150; round++) {
        const size_t planes = rng_below(&seed, 4);
        const size_t in[3] = { planes, 1 + rng_below(&seed, 40), 1 + rng_below(&seed, 40) };
        const size_t out[3] = { planes, rng_below(&seed, 45), rng_below(&seed, 45) };
        vtc_tensor x = make_random(&seed, dtypes[round % 3], 3, in, rng_below(&seed, 3));
        vtc_tensor y = make_tensor(dtypes[round / 3 % 3], 3, out, rng_below(&seed, 3));
        double *want = expected(&x, out[1], out[2]);

        run(&x, &y, (size_t)round % 4);
        assert_tensor_near(&y, want, 2e-6);
        free(want);
        guard_free(x.data);
        guard_free(y.data);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void the_same_size_copies_the_picture(void **state)
{
    const size_t dim[3] = { 2, 9, 14 };
    uint64_t seed = 72;
    vtc_tensor x = make_random(&seed, VTC_F32, 3, dim, 1), y = make_tensor(VTC_F32, 3, dim, 0);

    (void)state;
    run(&x, &y, 0);
    assert_same_bits(&x, &y);
    guard_free(x.data);
    guard_free(y.data);
}

static void pixels_outside_the_filter_are_not_read(void **state)
{
    const size_t dim[3] = { 1, 6, 6 }, out_dim[3] = { 1, 3, 3 };
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0), y = make_tensor(VTC_F32, 3, out_dim, 0);
    float *pixel = x.data;

    (void)state;
    for (size_t i = 0; i < 36; i++)
        pixel[i] = i % 6 >= 4 || i / 6 >= 4 ? INFINITY : 1.0f;
    run(&x, &y, 0);
    assert_true(((float *)y.data)[0] == 1.0f);
    guard_free(x.data);
    guard_free(y.data);
}

static void a_constant_picture_stays_constant(void **state)
{
    const size_t dim[3] = { 1, 37, 53 }, out_dim[3] = { 1, 14, 28 };
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0), y = make_tensor(VTC_F32, 3, out_dim, 0);

    (void)state;
    for (size_t i = 0; i < 37 * 53; i++)
        ((float *)x.data)[i] = 0.7f;
    run(&x, &y, 0);
    for (size_t i = 0; i < 14 * 28; i++)
        assert_true(close_to(((float *)y.data)[i], 0.7f, 1e-6, 0.0));
    guard_free(x.data);
    guard_free(y.data);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const size_t dim[3] = { 3, 70, 90 }, out_dim[3] = { 3, 42, 28 };
    uint64_t seed = 73;
    vtc_tensor x = make_random(&seed, VTC_F16, 3, dim, 0);
    vtc_tensor one = make_tensor(VTC_F32, 3, out_dim, 0),
               many = make_tensor(VTC_F32, 3, out_dim, 0);

    (void)state;
    run(&x, &one, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        run(&x, &many, n_workers);
        assert_same_bits(&one, &many);
    }
    guard_free(x.data);
    guard_free(one.data);
    guard_free(many.data);
}

/* ---- sizes and errors ------------------------------------------------------------------------ */

static void sizes_are_whole_units_within_the_budget(void **state)
{
    size_t h, w;

    (void)state;
    assert_int_equal(vtc_image_resize_count(56, 70, 14, 9, &h, &w, NULL), VTC_OK);
    assert_true(h == 28 && w == 56);
    assert_int_equal(vtc_image_resize_count(340, 336, 14, 128, &h, &w, NULL), VTC_OK);
    assert_true(h == 11 * 14 && w == 11 * 14);
}

static void the_planner_counts_tokens_but_has_no_plan(void **state)
{
    const vtc_planner *planner = vtc_planner_find("image_resize");
    const vtc_budget budget = vtc_budget_keep(128);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_plan plan = VTC_PLAN_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count;
    error_log log;

    (void)state;
    inputs.grid_h = inputs.grid_w = 24;
    assert_int_equal(vtc_planner_count(planner, NULL, &inputs, &budget, &count, NULL), VTC_OK);
    assert_int_equal(count.n_in, 576);
    assert_int_equal(count.n_out, 121);
    assert_int_equal(vtc_plan_inputs_lack(&inputs, planner->needs), VTC_NEED_IMAGE);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_planner_plan(planner, NULL, &inputs, &budget, &plan, NULL, &exec),
                  VTC_ERR_UNSUPPORTED, "acts on pixels");
}

static void refused(const vtc_tensor *x, vtc_tensor *y, vtc_status status, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_image_resize(x, y, &exec), status, part);
}

static void bad_arguments_are_refused(void **state)
{
    const size_t dim[3] = { 2, 6, 8 }, out_dim[3] = { 2, 3, 4 };
    uint64_t seed = 74;
    vtc_tensor x = make_random(&seed, VTC_F32, 3, dim, 0), y = make_tensor(VTC_F32, 3, out_dim, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    size_t h = 77, w = 77;

    (void)state;
    refused(&x, &y, VTC_ERR_SCRATCH, "scratch");
    refused(NULL, &y, VTC_ERR_NULL, "image is NULL");
    x.dim[1] = 0;
    refused(&x, &y, VTC_ERR_SHAPE, "image is 0 x 8");
    x.dim[1] = 6;
    x.dim[0] = 1;
    refused(&x, &y, VTC_ERR_SHAPE, "image has 1 planes, out has 2");
    x.dim[0] = 2;
    x.rank = 2;
    refused(&x, &y, VTC_ERR_SHAPE, "rank 2");
    assert_untouched(&y);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_image_resize_count(13, 70, 14, 9, &h, &w, &exec), VTC_ERR_RANGE,
                  "no unit of 14");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_image_resize_count(28, 70, 14, 0, &h, &w, &exec), VTC_ERR_BUDGET, "0");
    assert_true(h == 77 && w == 77);
    guard_free(x.data);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_and_dtype_equals_the_definition),
        cmocka_unit_test(the_same_size_copies_the_picture),
        cmocka_unit_test(pixels_outside_the_filter_are_not_read),
        cmocka_unit_test(a_constant_picture_stays_constant),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(sizes_are_whole_units_within_the_budget),
        cmocka_unit_test(the_planner_counts_tokens_but_has_no_plan),
        cmocka_unit_test(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
