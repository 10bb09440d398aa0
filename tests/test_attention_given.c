/* Averages of attention weights that are at hand. */
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t *random_list(uint64_t *seed, size_t n, size_t end)
{
    int32_t *list = guard_alloc(n * sizeof(*list));

    for (size_t i = 0; i < n; i++)
        list[i] = (int32_t)rng_below(seed, end);
    guard_readonly(list);
    return list;
}

static void check_case(uint64_t *seed, vtc_dtype dtype)
{
    const size_t dim[3] = { 1 + rng_below(seed, 4), 1 + rng_below(seed, 9),
                            1 + rng_below(seed, 700) };
    vtc_attention_given_params params = VTC_ATTENTION_GIVEN_PARAMS_INIT;
    vtc_tensor a = make_random(seed, dtype, 3, dim, rng_below(seed, 3));
    double *values = values_of(&a);
    const vtc_exec exec = test_exec(rng_below(seed, 3));
    int32_t *rows = NULL, *cols = NULL;
    size_t n_rows = dim[1], n_cols = dim[2];
    float *score;

    if (rng_below(seed, 2) == 0)
        params.rows = rows =
            random_list(seed, params.n_rows = n_rows = 1 + rng_below(seed, 12), dim[1]);
    if (rng_below(seed, 2) == 0) {
        params.cols = cols =
            random_list(seed, params.n_cols = n_cols = rng_below(seed, 600), dim[2]);
    } else {
        params.first_col = rng_below(seed, dim[2]);
        n_cols -= params.first_col;
    }
    score = guard_alloc(n_cols * sizeof(*score));
    assert_int_equal(vtc_attention_given(&params, &a, score, &exec), VTC_OK);
    for (size_t i = 0; i < n_cols; i++) {
        const size_t col = cols == NULL ? params.first_col + i : (size_t)cols[i];
        double sum = 0.0;

        for (size_t h = 0; h < dim[0]; h++)
            for (size_t m = 0; m < n_rows; m++)
                sum += values[(h * dim[1] + (rows == NULL ? m : (size_t)rows[m])) * dim[2] + col];
        assert_true(close_to(score[i], sum / (double)(dim[0] * n_rows), 1e-7, 1e-6));
    }
    free(values);
    guard_free(score);
    guard_free(rows);
    guard_free(cols);
    guard_free(a.data);
}

static void random_weights_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 41;

    (void)state;
    for (int round = 0; round < 120; round++)
        check_case(&seed, dtypes[round % 3]);
}

static void refused(const vtc_attention_given_params *params, const vtc_tensor *a,
                    vtc_status status, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    float score[4];
    error_log log;

    record_errors(&exec, &log);
    poison(score, sizeof(score));
    assert_failed(&log, vtc_attention_given(params, a, score, &exec), status, part);
    assert_true(is_poisoned(score, sizeof(score)));
}

static void rows_and_columns_that_do_not_exist_are_refused(void **state)
{
    const float weights[16] = { 0.0f };
    const vtc_tensor a = vtc_f32_3d(weights, 2, 2, 4), none = vtc_f32_3d(weights, 2, 0, 4);
    const int32_t list[1] = { 2 }, column[1] = { -1 };
    vtc_attention_given_params params = VTC_ATTENTION_GIVEN_PARAMS_INIT;

    (void)state;
    refused(NULL, &none, VTC_ERR_SHAPE, "0 rows");
    params.rows = list;
    params.n_rows = 1;
    refused(&params, &a, VTC_ERR_RANGE, "rows[0] is 2");
    params.n_rows = 0;
    refused(&params, &a, VTC_ERR_SHAPE, "0 rows");
    params.rows = NULL;
    params.cols = column;
    params.n_cols = 1;
    refused(&params, &a, VTC_ERR_RANGE, "cols[0] is -1");
    params.cols = NULL;
    params.first_col = 2;
    params.n_cols = 3;
    refused(&params, &a, VTC_ERR_RANGE, "3 columns from 2 on");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_equal_the_definition),
        cmocka_unit_test(rows_and_columns_that_do_not_exist_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
