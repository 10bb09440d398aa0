/* The statistics of MustDrop's filter from an attention that is there. */
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 700 };

static void run(const vtc_tensor *attention, size_t n_text, size_t first, size_t n, float *sum,
                float *max, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_mustdrop_statistics_scratch(attention, n_text, first, n, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_statistics(attention, n_text, first, n, sum, max, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void check_block(uint64_t *seed, const size_t dim[3], size_t n_text, size_t first, size_t n,
                        vtc_dtype dtype)
{
    vtc_tensor a = make_random(seed, dtype, 3, dim, rng_below(seed, 3));
    double *values = values_of(&a);
    float *sum = guard_alloc(n * sizeof(*sum)), *max = guard_alloc(n * sizeof(*max));

    run(&a, n_text, first, n, sum, max, rng_below(seed, 4));
    for (size_t j = 0; j < n; j++) {
        double total = 0.0, peak = -INFINITY;

        for (size_t m = dim[1] - n_text; m < dim[1]; m++) {
            double mean = 0.0;

            for (size_t h = 0; h < dim[0]; h++)
                mean += values[(h * dim[1] + m) * dim[2] + first + j] / (double)dim[0];
            total += mean;
            peak = fmax(peak, mean);
        }
        assert_true(close_to(sum[j], total, 5e-6, 1e-5));
        assert_true(close_to(max[j], peak, 1e-6, 1e-5));
    }
    free(values);
    guard_free(sum);
    guard_free(max);
    guard_free(a.data);
}

static void blocks_of_any_attention_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 100; round++) {
        const size_t dim[3] = { 1 + rng_below(&seed, 20), 1 + rng_below(&seed, 40),
                                rng_below(&seed, round % 10 == 0 ? MOST : 40) };
        const size_t first = rng_below(&seed, dim[2] + 1);

        check_block(&seed, dim, 1 + rng_below(&seed, dim[1]), first,
                    rng_below(&seed, dim[2] - first + 1), dtypes[round % 3]);
    }
}

static void any_executor_gives_the_same_bits(void **state)
{
    const size_t dim[3] = { 6, 50, MOST };
    uint64_t seed = 2;
    vtc_tensor a = make_random(&seed, VTC_BF16, 3, dim, 1);
    float one[2][MOST], many[2][MOST];

    (void)state;
    run(&a, 33, 1, MOST - 1, one[0], one[1], 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        run(&a, 33, 1, MOST - 1, many[0], many[1], n_workers);
        assert_memory_equal(many[0], one[0], (MOST - 1) * sizeof(float));
        assert_memory_equal(many[1], one[1], (MOST - 1) * sizeof(float));
    }
    guard_free(a.data);
}

/* The maximum is of head means, not the mean of head maxima. */
static void heads_are_averaged_first(void **state)
{
    const float a[2][2][1] = { { { 1.0f }, { 0.0f } }, { { 0.0f }, { 0.5f } } };
    const vtc_tensor view = vtc_f32_3d(&a[0][0][0], 2, 2, 1);
    float sum, max;

    (void)state;
    run(&view, 2, 0, 1, &sum, &max, 1);
    assert_true(sum == 0.75f && max == 0.5f);
}

static void nan_reaches_its_column_alone(void **state)
{
    const float a[1][3][2] = { { { 0.25f, 0.5f }, { NAN, 0.5f }, { 0.5f, 0.25f } } };
    const vtc_tensor view = vtc_f32_3d(&a[0][0][0], 1, 3, 2);
    float sum[2], max[2];

    (void)state;
    run(&view, 3, 0, 2, sum, max, 1);
    assert_true(isnan(sum[0]) && isnan(max[0]) && sum[1] == 1.25f && max[1] == 0.5f);
}

static void refused(const vtc_tensor *attention, size_t n_text, size_t first, size_t n, float *sum,
                    float *max, vtc_status status, const char *part)
{
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 4096);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mustdrop_statistics(attention, n_text, first, n, sum, max, &exec),
                  status, part);
    exec_scratch_free(&exec);
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    float a[24] = { 0 }, sum[5], max[4]; /* sum + 1 has 4 too */
    const vtc_tensor view = vtc_f32_3d(a, 2, 3, 4), none = vtc_f32_3d(a, 0, 3, 4);

    (void)state;
    poison(sum, sizeof(sum));
    poison(max, sizeof(max));
    refused(&view, 0, 0, 4, sum, max, VTC_ERR_SHAPE, "0 text rows");
    refused(&view, 4, 0, 4, sum, max, VTC_ERR_SHAPE, "4 text rows of 3");
    refused(&view, 1, 1, 4, sum, max, VTC_ERR_SHAPE, "columns 1 to 5");
    refused(&view, 1, SIZE_MAX, 4, sum, max, VTC_ERR_SHAPE, "attention has 4");
    refused(&none, 1, 0, 4, sum, max, VTC_ERR_SHAPE, "no heads");
    refused(&view, 1, 0, 4, sum, NULL, VTC_ERR_NULL, "col_max is NULL");
    refused(&view, 1, 0, 4, sum, sum + 1, VTC_ERR_OVERLAP, "col_max overlaps col_sum");
    refused(&view, 1, 0, 4, sum, a + 3, VTC_ERR_OVERLAP, "col_max overlaps attention");
    assert_true(is_poisoned(sum, sizeof(sum)) && is_poisoned(max, sizeof(max)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_any_attention_equal_the_definition),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(heads_are_averaged_first),
        cmocka_unit_test(nan_reaches_its_column_alone),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
