/* The public scores behind FiCoCo: head-mean logits, quantile, local penalty, cosine of keys. */
#include "ficoco_cases.h"

/* ---- head-mean logits ------------------------------------------------------------------------ */

static void check_logits(uint64_t *seed, vtc_dtype dtype, vtc_dtype y_dtype, size_t t)
{
    qk a = make_qk(seed, dtype, t, false);
    const size_t n_rows = rng_below(seed, 150), n_columns = rng_below(seed, 150);
    const bool all = rng_below(seed, 3) == 0;
    const size_t dim[2] = { all ? t : n_rows, all ? t : n_columns };
    int32_t rows[150], columns[150];
    double *want = calloc(dim[0] * dim[1] + 1, sizeof(*want));

    for (size_t i = 0; i < 150; i++) {
        rows[i] = (int32_t)rng_below(seed, t);
        columns[i] = (int32_t)rng_below(seed, t);
    }
    for (size_t i = 0; i < dim[0] * dim[1]; i++) {
        const size_t r = i / dim[1], c = i % dim[1];

        want[i] = a.s[(all ? r : (size_t)rows[r]) * t + (all ? c : (size_t)columns[c])];
    }
    vtc_tensor first = { 0 };
    for (size_t n_workers = 1; n_workers < 6; n_workers += 2) {
        vtc_tensor y = make_tensor(y_dtype, 2, dim, n_workers);
        vtc_exec exec = test_exec(n_workers);
        size_t bytes;

        assert_int_equal(vtc_head_mean_logits_scratch(&a.q, &a.k, a.scale, all ? NULL : rows,
                                                      n_rows, all ? NULL : columns, n_columns, &y,
                                                      &exec, &bytes),
                         VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_head_mean_logits(&a.q, &a.k, a.scale, all ? NULL : rows, n_rows,
                                              all ? NULL : columns, n_columns, &y, &exec),
                         VTC_OK);
        assert_tensor_near(&y, want, 1e-5);
        if (n_workers == 1) {
            first = y;
        } else {
            assert_same_bits(&y, &first);
            guard_free(y.data);
        }
        exec_scratch_free(&exec);
    }
    guard_free(first.data);
    free(want);
    free_qk(&a);
}

static void logits_are_those_of_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 45; round++)
        check_logits(&seed, dtypes[round % 3], dtypes[round / 3 % 3], 1 + rng_below(&seed, 140));
}

static void bad_logits_are_refused(void **state)
{
    uint64_t seed = 2;
    qk a = make_qk(&seed, VTC_F32, 9, false);
    const size_t dim[2] = { 1, 9 };
    const int32_t rows[1] = { 9 };
    vtc_tensor y = make_tensor(VTC_F32, 2, dim, 0);
    vtc_exec exec = test_exec(1);
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_head_mean_logits(&a.q, &a.k, 1.0f, rows, 1, NULL, 0, &y, &exec),
                  VTC_ERR_RANGE, "rows[0] is 9");
    log.count = 0;
    assert_failed(&log, vtc_head_mean_logits(&a.q, &a.k, 1.0f, rows, 2, NULL, 0, &y, &exec),
                  VTC_ERR_RANGE, "rows[0]");
    log.count = 0;
    assert_failed(&log, vtc_head_mean_logits(&a.q, &a.k, 1.0f, NULL, 0, NULL, 0, &y, &exec),
                  VTC_ERR_SHAPE, "y is [1, 9]");
    log.count = 0;
    assert_failed(&log, vtc_head_mean_logits(&a.q, &a.k, NAN, NULL, 0, NULL, 0, &y, &exec),
                  VTC_ERR_RANGE, "scale");
    assert_untouched(&y);
    guard_free(y.data);
    free_qk(&a);
}

/* ---- quantile -------------------------------------------------------------------------------- */

static double quantile(const float *x, size_t n, float q)
{
    vtc_exec exec = test_exec(0);
    double value;
    size_t bytes;

    assert_int_equal(vtc_quantile_scratch(n, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_quantile(x, n, q, &value, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return value;
}

static void quantiles_interpolate_at_a_rank_of_f32(void **state)
{
    float x[1001];
    size_t above_501 = 0, above_502 = 0;

    (void)state;
    for (size_t i = 0; i < 1001; i++)
        x[i] = (float)(i * 8 % 1001); /* a permutation of 0 .. 1000 */
    assert_true(quantile(x, 1001, 0.0f) == 0.0);
    assert_true(quantile(x, 1001, 1.0f) == 1000.0);
    assert_true(quantile(x, 1001, 0.5f) == 500.0);
    assert_true(quantile(x, 1001, 0.998f) == 998.0); /* exactly, in F32 */
    assert_true(quantile(x, 1, 0.3f) == x[0]);
    assert_near("between", 0, quantile((const float[]){ 3.0f, 1.0f, 2.0f }, 3, 0.8f), 2.6);
    for (size_t i = 0; i < 502; i++)
        x[i] = (float)i;
    for (size_t i = 0; i < 502; i++) {
        above_501 += i < 501 && x[i] > quantile(x, 501, 0.998f);
        above_502 += x[i] > quantile(x, 502, 0.998f);
    }
    assert_int_equal(above_501, 1);
    assert_int_equal(above_502, 2);
}

static void infinities_and_nan_in_a_quantile(void **state)
{
    const float x[3] = { -INFINITY, 2.0f, 1.0f }, none[2] = { -INFINITY, -INFINITY };
    const float nan[2] = { 1.0f, NAN };
    vtc_exec exec = test_exec(0);
    error_log log;
    double value = 5.0;

    (void)state;
    assert_true(quantile(x, 3, 1.0f) == 2.0);
    assert_true(isnan(quantile(none, 2, 0.5f)));
    exec_scratch(&exec, 64);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_quantile(nan, 2, 0.5f, &value, &exec), VTC_ERR_DATA, "x[1]");
    log.count = 0;
    assert_failed(&log, vtc_quantile(x, 3, 1.5f, &value, &exec), VTC_ERR_RANGE, "q is 1.5");
    log.count = 0;
    assert_failed(&log, vtc_quantile(x, 0, 0.5f, &value, &exec), VTC_ERR_SHAPE, "no values");
    assert_true(value == 5.0);
    exec_scratch_free(&exec);
}

/* ---- local penalty --------------------------------------------------------------------------- */

static void penalise(float *score, const int32_t *pos, size_t n, size_t h, size_t w, size_t window)
{
    vtc_exec exec = test_exec(0);
    size_t bytes;

    assert_int_equal(vtc_local_penalty_scratch(h, w, window, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_local_penalty(score, pos, n, h, w, window, 2.0f, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static void the_largest_of_each_whole_window_is_raised(void **state)
{
    float full[9] = { 1, 1, 9, 1, 1, 9, 9, 9, 9 }; /* an odd edge belongs to no window */
    float negative[4] = { -4, -2, -3, -2 };
    float sparse[2] = { 5, 6 };
    const int32_t cells[2] = { 3, 4 };

    (void)state;
    penalise(full, NULL, 9, 3, 3, 2);
    assert_memory_equal(full, ((const float[]){ 2, 1, 9, 1, 1, 9, 9, 9, 9 }), sizeof(full));
    penalise(negative, NULL, 4, 2, 2, 2);
    assert_memory_equal(negative, ((const float[]){ -4, -1, -3, -2 }), sizeof(negative));
    penalise(sparse, cells, 2, 4, 4, 2); /* cells 3 and 4 are of different windows */
    assert_memory_equal(sparse, ((const float[]){ 10, 12 }), sizeof(sparse));
    penalise(NULL, NULL, 0, 0, 0, 2);
}

static void bad_penalties_are_refused(void **state)
{
    float score[4] = { 1, 2, NAN, 4 };
    const int32_t pos[4] = { 0, 1, 2, 4 };
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    exec_scratch(&exec, 64);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_local_penalty(score, NULL, 4, 2, 2, 2, 2.0f, &exec), VTC_ERR_DATA,
                  "score[2]");
    log.count = 0;
    assert_failed(&log, vtc_local_penalty(score, pos, 4, 2, 2, 2, 2.0f, &exec), VTC_ERR_RANGE,
                  "pos[3] is 4");
    log.count = 0;
    assert_failed(&log, vtc_local_penalty(score, NULL, 4, 1, 3, 2, 2.0f, &exec), VTC_ERR_SHAPE,
                  "4 rows");
    log.count = 0;
    assert_failed(&log, vtc_local_penalty(score, NULL, 4, 2, 2, 0, 2.0f, &exec), VTC_ERR_RANGE,
                  "window");
    assert_true(score[0] == 1.0f && score[1] == 2.0f);
    exec_scratch_free(&exec);
}

/* ---- cosine of keys -------------------------------------------------------------------------- */

static void cosines_are_those_of_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 30; round++) {
        const size_t t = rng_below(&seed, 150);
        qk a = make_qk(&seed, dtypes[round % 3], t, false);
        double *k = values_of(&a.k), *want = ficoco_key_cosine(k, a.n_groups, t, a.d);
        float *y = guard_alloc(t * sizeof(*y));
        vtc_exec exec = test_exec((size_t)round % 4);
        size_t bytes;

        assert_int_equal(vtc_key_cosine_scratch(&a.k, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_key_cosine(&a.k, y, &exec), VTC_OK);
        for (size_t i = 0; i < t; i++)
            assert_near("cosine", i, y[i], want[i]);
        exec_scratch_free(&exec);
        guard_free(y);
        free(k);
        free(want);
        free_qk(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_definition),
        cmocka_unit_test(bad_logits_are_refused),
        cmocka_unit_test(quantiles_interpolate_at_a_rank_of_f32),
        cmocka_unit_test(infinities_and_nan_in_a_quantile),
        cmocka_unit_test(the_largest_of_each_whole_window_is_raised),
        cmocka_unit_test(bad_penalties_are_refused),
        cmocka_unit_test(cosines_are_those_of_the_definition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
