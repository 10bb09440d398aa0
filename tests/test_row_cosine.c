/* Cosines of rows: of pairs, and with one vector. */
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double cosine_of(const double *x, const double *y, size_t n)
{
    double xy = 0.0, xx = 0.0, yy = 0.0;

    for (size_t i = 0; i < n; i++) {
        xy += x[i] * y[i];
        xx += x[i] * x[i];
        yy += y[i] * y[i];
    }
    return xy / (fmax(sqrt(xx), 1e-8) * fmax(sqrt(yy), 1e-8));
}

static float *run_pairs(const vtc_tensor *x, const int32_t *pairs, size_t n, size_t n_workers)
{
    float *cosine = guard_alloc(n * sizeof(*cosine));
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_pair_cosine_scratch(x, n, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_pair_cosine(x, pairs, n, cosine, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return cosine;
}

static float *run_rows(const vtc_tensor *x, const vtc_tensor *v, size_t n_workers)
{
    float *cosine = guard_alloc(x->dim[0] * sizeof(*cosine));
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_row_cosine_scratch(x, v, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_row_cosine(x, v, cosine, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return cosine;
}

static void assert_near(const float *got, const float *same, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!close_to(got[i], want[i], 1e-6, 0))
            fail_msg("[%zu] is %g, not %g", i, (double)got[i], want[i]);
    assert_memory_equal(got, same, n * sizeof(*got));
}

static void check_pairs(uint64_t *seed, vtc_dtype dtype, size_t n, size_t c, size_t n_pairs)
{
    const size_t dim[2] = { n, c };
    vtc_tensor x = make_random(seed, dtype, 2, dim, 3);
    int32_t *pairs = guard_alloc(2 * n_pairs * sizeof(*pairs));
    double *rows = values_of(&x), *want = calloc(n_pairs + 1, sizeof(*want));
    float *one, *five;

    for (size_t i = 0; i < n_pairs; i++) {
        pairs[2 * i] = (int32_t)rng_below(seed, n);
        pairs[2 * i + 1] = (int32_t)rng_below(seed, n);
        want[i] =
            cosine_of(rows + (size_t)pairs[2 * i] * c, rows + (size_t)pairs[2 * i + 1] * c, c);
    }
    guard_readonly(pairs);
    one = run_pairs(&x, pairs, n_pairs, 0);
    five = run_pairs(&x, pairs, n_pairs, 5);
    assert_near(one, five, want, n_pairs);
    guard_free(x.data);
    guard_free(pairs);
    guard_free(one);
    guard_free(five);
    free(rows);
    free(want);
}

static void check_rows(uint64_t *seed, vtc_dtype x_dtype, vtc_dtype v_dtype, size_t n, size_t c)
{
    const size_t dim[2] = { n, c };
    vtc_tensor x = make_random(seed, x_dtype, 2, dim, 1), v = make_random(seed, v_dtype, 1, &c, 0);
    double *rows = values_of(&x), *vector = values_of(&v), *want = calloc(n + 1, sizeof(*want));
    float *one = run_rows(&x, &v, 0), *two = run_rows(&x, &v, 2);

    for (size_t i = 0; i < n; i++)
        want[i] = cosine_of(rows + i * c, vector, c);
    assert_near(one, two, want, n);
    guard_free(x.data);
    guard_free(v.data);
    guard_free(one);
    guard_free(two);
    free(rows);
    free(vector);
    free(want);
}

static void cosines_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 91;

    (void)state;
    for (int i = 0; i < 3; i++) {
        check_pairs(&seed, dtypes[i], 50, 37, 200);
        check_pairs(&seed, dtypes[i], 1, 5, 1);
        check_pairs(&seed, dtypes[i], 4, 5, 0);
        for (int j = 0; j < 3; j++) {
            check_rows(&seed, dtypes[i], dtypes[j], 130, 33);
            check_rows(&seed, dtypes[i], dtypes[j], 1, 1);
            check_rows(&seed, dtypes[i], dtypes[j], 0, 4);
        }
    }
}

static void a_zero_row_has_cosine_0_and_nan_stays(void **state)
{
    const float data[4][2] = { { 0.0f, 0.0f }, { 3.0f, 4.0f }, { NAN, 1.0f }, { 1e-9f, 0.0f } };
    const int32_t pairs[4][2] = { { 0, 1 }, { 1, 1 }, { 2, 1 }, { 3, 1 } };
    const vtc_tensor x = vtc_f32_2d(&data[0][0], 4, 2), v = vtc_f32_1d(data[1], 2);
    float *cosine = run_pairs(&x, &pairs[0][0], 4, 0), *with_v = run_rows(&x, &v, 0);

    (void)state;
    assert_true(cosine[0] == 0.0f && cosine[1] == 1.0f && isnan(cosine[2]));
    assert_true(close_to(cosine[3], 0.06, 0, 1e-6)); /* 1e-9 counts as a tenth of a length */
    assert_true(with_v[0] == 0.0f && with_v[1] == 1.0f && isnan(with_v[2]));
    guard_free(cosine);
    guard_free(with_v);
}

static void bad_arguments_are_refused(void **state)
{
    float data[6] = { 1, 2, 3, 4, 5, 6 }, cosine[3] = { 7, 7, 7 };
    const int32_t pairs[2] = { 0, 3 };
    const vtc_tensor x = vtc_f32_2d(data, 3, 2), v = vtc_f32_1d(data, 3);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pair_cosine(&x, pairs, 1, cosine, &exec), VTC_ERR_RANGE,
                  "pairs[0][1] is 3, x has 3 rows");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_pair_cosine(&x, NULL, 1, cosine, &exec), VTC_ERR_NULL, "pairs is NULL");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_row_cosine(&x, &v, cosine, &exec), VTC_ERR_SHAPE,
                  "v has 3 channels, x has 2");
    const vtc_tensor two = vtc_f32_1d(data, 2);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_row_cosine(&x, &two, data + 5, &exec), VTC_ERR_OVERLAP,
                  "cosine overlaps x");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_row_cosine(&x, &two, NULL, &exec), VTC_ERR_NULL, "cosine is NULL");
    assert_true(cosine[0] == 7.0f && data[5] == 6.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosines_equal_the_definition),
        cmocka_unit_test(a_zero_row_has_cosine_0_and_nan_stays),
        cmocka_unit_test(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
