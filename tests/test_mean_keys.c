/* The mean of keys over heads. */
#include "support/tensors.h"

#include <stdlib.h>

static void check_mean(uint64_t *seed, vtc_dtype from, vtc_dtype to, const size_t dim[3],
                       size_t n_workers)
{
    const size_t n = dim[1] * dim[2];
    vtc_tensor k = make_random(seed, from, 3, dim, 1), y = make_tensor(to, 2, dim + 1, 3);
    double *keys = values_of(&k), *want = calloc(n + 1, sizeof(*want));
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    for (size_t h = 0; h < dim[0]; h++)
        for (size_t i = 0; i < n; i++)
            want[i] += keys[h * n + i] / (double)dim[0];
    assert_int_equal(vtc_mean_keys_scratch(&k, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mean_keys(&k, &y, &exec), VTC_OK);
    assert_tensor_near(&y, want, 1e-6);
    exec_scratch_free(&exec);
    free(keys);
    free(want);
    guard_free(k.data);
    guard_free(y.data);
}

static void every_dtype_equals_the_mean_in_doubles(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const size_t shapes[4][3] = { { 16, 130, 64 }, { 1, 7, 5 }, { 33, 3, 17 }, { 2, 0, 4 } };
    uint64_t seed = 31;

    (void)state;
    for (int pair = 0; pair < 9; pair++)
        for (int s = 0; s < 4; s++)
            check_mean(&seed, dtypes[pair % 3], dtypes[pair / 3], shapes[s], (size_t)pair % 4);
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    const size_t dim[3] = { 2, 4, 3 };
    uint64_t seed = 32;
    vtc_tensor k = make_random(&seed, VTC_F32, 3, dim, 0), y = make_tensor(VTC_F32, 2, dim + 1, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    y.dim[0] = 3;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_keys(&k, &y, &exec), VTC_ERR_SHAPE, "[3, 3]");
    y.dim[0] = 4;
    k.dim[0] = 0;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_keys(&k, &y, &exec), VTC_ERR_SHAPE, "no heads");
    k.dim[0] = 2;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_keys(NULL, &y, &exec), VTC_ERR_NULL, "k is NULL");
    assert_untouched(&y);
    guard_free(y.data);
    y.data = k.data;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_keys(&k, &y, &exec), VTC_ERR_OVERLAP, "metric overlaps k");
    guard_free(k.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_equals_the_mean_in_doubles),
        cmocka_unit_test(shapes_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
