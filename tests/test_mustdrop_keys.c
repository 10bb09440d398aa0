/* MustDrop's key tokens. */
#include "support/tensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static vtc_mustdrop_keys_params defaults(void)
{
    const vtc_mustdrop_keys_params params = VTC_MUSTDROP_KEYS_PARAMS_INIT;

    return params;
}

/* With exactly the scratch it asks for; guard_free() the keys. */
static int32_t *keys_of(const vtc_mustdrop_keys_params *params, const vtc_tensor *attention,
                        float *score)
{
    const size_t n_images = attention->rank == 3 ? attention->dim[0] : 1;
    vtc_exec exec = test_exec(1);
    size_t n_keys, bytes;

    assert_int_equal(vtc_mustdrop_key_count(params,
                                            attention->dim[attention->rank - 1] - params->prefix,
                                            &n_keys, NULL),
                     VTC_OK);

    int32_t *keys = guard_alloc(n_images * n_keys * sizeof(*keys));

    assert_int_equal(vtc_mustdrop_keys_scratch(params, attention, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_keys(params, attention, keys, score, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return keys;
}

/* The K-th best is better than all that are not named, and keys fall. */
static void assert_best(const int32_t *keys, size_t n_keys, const double *score, size_t n)
{
    bool *named = calloc(n + 1, sizeof(*named));

    for (size_t i = 0; i < n_keys; i++) {
        assert_true(keys[i] >= 0 && (size_t)keys[i] < n && !named[keys[i]]);
        named[keys[i]] = true;
        assert_true(i == 0 || score[keys[i - 1]] >= score[keys[i]] - 1e-7);
    }
    for (size_t j = 0; j < n && n_keys != 0; j++)
        assert_true(named[j] || score[j] <= score[keys[n_keys - 1]] + 1e-7);
    free(named);
}

static void keys_are_the_tokens_that_cls_attends_to_most(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 200; round++) {
        vtc_mustdrop_keys_params params = defaults();
        const size_t n_images = rng_below(&seed, 4), n = rng_below(&seed, 80);
        const size_t n_heads = 1 + rng_below(&seed, 20);
        float score[4 * 80];
        size_t n_keys;

        params.prefix = rng_below(&seed, 3);
        params.rate = 0.5 + 0.5 * rng_f32(&seed);
        params.end_to_end = (int)rng_below(&seed, 2);
        const size_t dim[3] = { n_images, n_heads, params.prefix + n };
        vtc_tensor a = make_random(&seed, dtypes[round % 3], 3, dim, rng_below(&seed, 3));
        double *values = values_of(&a), want[80];
        int32_t *keys = keys_of(&params, &a, score);

        assert_int_equal(vtc_mustdrop_key_count(&params, n, &n_keys, NULL), VTC_OK);
        for (size_t b = 0; b < n_images; b++) {
            for (size_t j = 0; j < n; j++) {
                want[j] = 0.0;
                for (size_t h = 0; h < n_heads; h++)
                    want[j] +=
                        values[(b * n_heads + h) * dim[2] + params.prefix + j] / (double)n_heads;
                assert_true(close_to(score[b * n + j], want[j], 1e-6, 1e-6));
            }
            for (size_t i = 0; i < n_keys && params.end_to_end; i++)
                keys[b * n_keys + i] -= (int32_t)(b * n);
            assert_best(keys + b * n_keys, n_keys, want, n);
        }
        guard_free(keys);
        free(values);
        guard_free(a.data);
    }
}

static void the_rate_is_rounded_up_in_double_precision(void **state)
{
    const size_t n[] = { 576, 432, 309, 0, 1, 25, 100, 50 };
    const size_t want[] = { 47, 35, 25, 0, 1, 2, 8, 4 };
    vtc_mustdrop_keys_params params = defaults();
    size_t n_keys;

    (void)state;
    for (size_t i = 0; i < sizeof(n) / sizeof(*n); i++) {
        assert_int_equal(vtc_mustdrop_key_count(NULL, n[i], &n_keys, NULL), VTC_OK);
        assert_int_equal(n_keys, want[i]);
    }
    params.n_keys = 5;
    assert_int_equal(vtc_mustdrop_key_count(&params, 7, &n_keys, NULL), VTC_OK);
    assert_int_equal(n_keys, 5);
}

static void ties_go_to_the_lower_token_and_one_key_or_none_is_fine(void **state)
{
    const float a[2 * 6] = {
        9.0f, 1.0f, 3.0f, 1.0f, 3.0f, 2.0f, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f, 2.0f
    };
    const vtc_tensor attention = vtc_f32_2d(a, 2, 6);
    const int32_t want[5] = { 1, 3, 4, 0, 2 };
    vtc_mustdrop_keys_params params = defaults();

    (void)state;
    for (size_t n = 0; n <= 5; n++) {
        params.n_keys = n;
        int32_t *keys = keys_of(&params, &attention, NULL);

        assert_memory_equal(keys, want, n * sizeof(*keys));
        guard_free(keys);
    }
}

/* softmax over all keys, then the mean over heads of what is reported */
static void assert_query(const vtc_mustdrop_keys_params *params, const vtc_tensor *q,
                         const vtc_tensor *k, const vtc_tensor *k_cls, const float *got)
{
    const size_t n_heads = q->dim[0], d = q->dim[1], n = k->dim[1];
    double *qv = values_of(q), *kv = values_of(k), *cv = k_cls == NULL ? NULL : values_of(k_cls);
    double *p = malloc((n + 1) * sizeof(*p)), *mean = calloc(n + 1, sizeof(*mean));

    for (size_t h = 0; h < n_heads; h++) {
        const size_t g = h / (n_heads / k->dim[0]);
        double sum = 0.0;

        for (size_t j = 0; j < n + (cv != NULL); j++) {
            const double *key = j < n ? kv + (g * n + j) * d : cv + g * d;

            p[j] = 0.0;
            for (size_t i = 0; i < d; i++)
                p[j] += qv[h * d + i] * key[i];
            p[j] = exp(p[j] * (params->scale == 0.0f ? 1.0 / sqrt((double)d) : params->scale));
            sum += p[j];
        }
        for (size_t j = 0; j < n; j++)
            mean[j] += p[j] / sum / (double)n_heads;
    }
    for (size_t j = params->prefix; j < n; j++)
        assert_true(close_to(got[j - params->prefix], mean[j], 1e-6, 1e-5));
    free(qv);
    free(kv);
    free(cv);
    free(p);
    free(mean);
}

/* The message tells the bytes of the whole function, not of what is called inside. */
static void assert_short_scratch(const vtc_mustdrop_keys_params *params, const vtc_tensor *q,
                                 const vtc_tensor *k, const vtc_tensor *k_cls)
{
    vtc_exec exec = test_exec(0);
    size_t bytes;
    char needs[80];
    error_log log;
    float score[64];
    int32_t keys[64];

    assert_int_equal(vtc_mustdrop_keys_of_query_scratch(params, q, k, k_cls, &exec, &bytes),
                     VTC_OK);
    snprintf(needs, sizeof(needs), "vtc_mustdrop_keys_of_query: needs %zu bytes", bytes);
    exec_scratch(&exec, bytes);
    exec.scratch_size--;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mustdrop_keys_of_query(params, q, k, k_cls, keys, score, &exec),
                  VTC_ERR_SCRATCH, needs);
    exec_scratch_free(&exec);
}

/* So do the checks that both share. */
static void refusals_of_queries_name_the_function_that_was_called(void **state)
{
    const size_t q_dim[2] = { 3, 4 }, k_dim[3] = { 2, 5, 4 };
    uint64_t seed = 5;
    vtc_tensor q = make_random(&seed, VTC_F32, 2, q_dim, 0);
    vtc_tensor k = make_random(&seed, VTC_F32, 3, k_dim, 0);
    vtc_exec exec = test_exec(0);
    error_log log;
    int32_t keys[5];

    (void)state;
    record_errors(&exec, &log);
    poison(keys, sizeof(keys));
    assert_failed(&log, vtc_mustdrop_keys_of_query(NULL, &q, &k, NULL, keys, NULL, &exec),
                  VTC_ERR_SHAPE, "vtc_mustdrop_keys_of_query: 3 query heads cannot share 2");
    record_errors(&exec, &log);
    k.dim[0] = 1;
    k.dim[2] = 3;
    assert_failed(&log, vtc_mustdrop_keys_of_query(NULL, &q, &k, NULL, keys, NULL, &exec),
                  VTC_ERR_SHAPE, "vtc_mustdrop_keys_of_query: q_cls is 4 wide, k is 3");
    assert_true(is_poisoned(keys, sizeof(keys)));
    guard_free(q.data);
    guard_free(k.data);
}

static void queries_and_keys_give_the_same(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (int round = 0; round < 60; round++) {
        vtc_mustdrop_keys_params params = defaults();
        const size_t n_groups = 1 + rng_below(&seed, 3);
        const size_t q_dim[2] = { n_groups * (1 + rng_below(&seed, 3)), 1 + rng_below(&seed, 20) };
        const size_t k_dim[3] = { n_groups, 1 + rng_below(&seed, 60), q_dim[1] };
        const size_t cls_dim[2] = { n_groups, q_dim[1] };
        vtc_tensor q = make_random(&seed, VTC_F16, 2, q_dim, 1);
        vtc_tensor k = make_random(&seed, VTC_F32, 3, k_dim, 2);
        vtc_tensor cls = make_random(&seed, VTC_F32, 2, cls_dim, 1);
        const vtc_tensor *k_cls = rng_below(&seed, 2) ? &cls : NULL;
        float score[64];
        double wide[64];
        int32_t keys[64];
        vtc_exec exec = test_exec(rng_below(&seed, 3));
        size_t bytes, n_keys;

        params.prefix = k_cls == NULL ? 1 : 0;
        params.scale = rng_below(&seed, 2) ? 0.0f : 1.5f;
        params.rate = 0.3;
        assert_int_equal(vtc_mustdrop_keys_of_query_scratch(&params, &q, &k, k_cls, &exec, &bytes),
                         VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_mustdrop_keys_of_query(&params, &q, &k, k_cls, keys, score, &exec),
                         VTC_OK);
        assert_query(&params, &q, &k, k_cls, score);
        assert_short_scratch(&params, &q, &k, k_cls);
        assert_int_equal(vtc_mustdrop_key_count(&params, k_dim[1] - params.prefix, &n_keys, NULL),
                         VTC_OK);
        for (size_t j = 0; j < k_dim[1] - params.prefix; j++)
            wide[j] = score[j];
        assert_best(keys, n_keys, wide, k_dim[1] - params.prefix);
        exec_scratch_free(&exec);
        guard_free(q.data);
        guard_free(k.data);
        guard_free(cls.data);
    }
}

static void refused(const vtc_mustdrop_keys_params *params, const vtc_tensor *attention,
                    int32_t *keys, vtc_status status, const char *part)
{
    vtc_exec exec = test_exec(1);
    float score[5];
    error_log log;

    exec_scratch(&exec, 4096);
    record_errors(&exec, &log);
    poison(score, sizeof(score));
    assert_failed(&log, vtc_mustdrop_keys(params, attention, keys, score, &exec), status, part);
    assert_true(is_poisoned(score, sizeof(score)));
    assert_true(keys == NULL || is_poisoned(keys, 5 * sizeof(*keys)));
    exec_scratch_free(&exec);
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    float a[2 * 6] = { 0 };
    vtc_tensor attention = vtc_f32_2d(a, 2, 6), none = vtc_f32_2d(a, 0, 6);
    vtc_mustdrop_keys_params params = defaults();
    int32_t keys[5];

    (void)state;
    poison(keys, sizeof(keys));
    a[9] = NAN;
    refused(NULL, &attention, keys, VTC_ERR_DATA, "token 2 of image 0");
    a[9] = INFINITY;
    refused(NULL, &attention, keys, VTC_ERR_DATA, "token 2 of image 0");
    a[9] = 0.0f;
    refused(NULL, &attention, NULL, VTC_ERR_NULL, "keys is NULL");
    refused(NULL, &none, keys, VTC_ERR_SHAPE, "attention has no heads");
    params.rate = 1.01;
    refused(&params, &attention, keys, VTC_ERR_RANGE, "rate is 1.01");
    params.rate = NAN;
    refused(&params, &attention, keys, VTC_ERR_RANGE, "rate is nan");
    params.rate = 0.5;
    params.n_keys = 6;
    refused(&params, &attention, keys, VTC_ERR_BUDGET, "cannot name 6 key tokens of 5");
    params.prefix = 7;
    refused(&params, &attention, keys, VTC_ERR_SHAPE, "there are 6 keys, prefix is 7");
    poison(a, sizeof(a));
    refused(NULL, &attention, (int32_t *)(void *)a, VTC_ERR_OVERLAP, "keys overlaps attention");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_the_tokens_that_cls_attends_to_most),
        cmocka_unit_test(the_rate_is_rounded_up_in_double_precision),
        cmocka_unit_test(ties_go_to_the_lower_token_and_one_key_or_none_is_fine),
        cmocka_unit_test(queries_and_keys_give_the_same),
        cmocka_unit_test(refusals_of_queries_name_the_function_that_was_called),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
