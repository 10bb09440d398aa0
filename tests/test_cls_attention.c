/* The attention of one query per head. */
#include "../src/score/cls_attention.h"
#include "reference/attention_reference.h"
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct cls_case {
    size_t n_heads, n_key_heads, n, d;
    bool extra; /* a key of [CLS] apart from the others */
    size_t first_col, n_cols;
    vtc_dtype q, k, k_cls;
    size_t gap;
} cls_case;

typedef struct cls_data {
    vtc_tensor q, k, k_cls;
    vtc_cls_attention_params params;
    size_t n_cols;
    double *each; /* [H, n_cols] */
} cls_data;

static const vtc_tensor *extra_key(const cls_case *c, const cls_data *data)
{
    return c->extra ? &data->k_cls : NULL;
}

/* All keys in one array, the extra one first. */
static double *all_keys(const cls_case *c, const cls_data *data)
{
    const size_t extra = c->extra ? 1 : 0, n = c->n + extra, d = c->d;
    double *keys = calloc(c->n_key_heads * n * d + 1, sizeof(*keys));
    double *k = values_of(&data->k), *k_cls = values_of(&data->k_cls);

    for (size_t g = 0; g < c->n_key_heads; g++) {
        memcpy(keys + g * n * d, k_cls + g * d, extra * d * sizeof(*k));
        memcpy(keys + (g * n + extra) * d, k + g * c->n * d, c->n * d * sizeof(*k));
    }
    free(k);
    free(k_cls);
    return keys;
}

static cls_data make_case(uint64_t *seed, const cls_case *c)
{
    const size_t q_dim[2] = { c->n_heads, c->d }, k_dim[3] = { c->n_key_heads, c->n, c->d };
    const size_t cls_dim[2] = { c->n_key_heads, c->d };
    const size_t extra = c->extra ? 1 : 0, seen = c->n + extra;
    const attention_shape shape = { c->n_heads, c->n_key_heads, 1, seen, c->d };
    const vtc_cls_attention_params params = VTC_CLS_ATTENTION_PARAMS_INIT;
    cls_data data = { .q = make_random(seed, c->q, 2, q_dim, c->gap),
                      .k = make_random(seed, c->k, 3, k_dim, c->gap),
                      .k_cls = make_random(seed, c->k_cls, 2, cls_dim, c->gap),
                      .params = params };
    double *q = values_of(&data.q), *k = all_keys(c, &data), *weights;

    data.params.first_col = c->first_col;
    data.params.n_cols = c->n_cols;
    data.n_cols = c->n_cols == SIZE_MAX ? c->n - c->first_col : c->n_cols;
    data.each = calloc(c->n_heads * data.n_cols + 1, sizeof(double));
    weights = attention_reference(&shape, q, k, 1.0 / sqrt((double)c->d), &seen, NULL);
    for (size_t h = 0; h < c->n_heads; h++)
        for (size_t j = 0; j < data.n_cols; j++)
            data.each[h * data.n_cols + j] = weights[h * seen + extra + c->first_col + j];
    free(q);
    free(k);
    free(weights);
    return data;
}

static void free_case(cls_data *data)
{
    guard_free(data->q.data);
    guard_free(data->k.data);
    guard_free(data->k_cls.data);
    free(data->each);
}

static float *run(const cls_case *c, const cls_data *data, size_t n_rows, size_t n_workers)
{
    float *a = guard_alloc(n_rows * data->n_cols * sizeof(*a));
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    poison(a, n_rows * data->n_cols * sizeof(*a));
    assert_int_equal(vtc_cls_attention_scratch(&data->params, &data->q, &data->k,
                                               extra_key(c, data), &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_cls_attention(&data->params, &data->q, &data->k, extra_key(c, data), a,
                                       &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return a;
}

/* What the reduction makes of column j of row r. */
static double expected(const cls_case *c, const cls_data *data, size_t r, size_t j)
{
    double sum = 0.0;

    if (data->params.heads == VTC_HEADS_EACH)
        return data->each[r * data->n_cols + j];
    for (size_t h = 0; h < c->n_heads; h++)
        sum += data->each[h * data->n_cols + j];
    return data->params.heads == VTC_HEADS_SUM ? sum : sum / (double)c->n_heads;
}

static void check_reduction(const cls_case *c, const cls_data *data)
{
    const size_t n_rows = data->params.heads == VTC_HEADS_EACH ? c->n_heads : 1;
    float *one = run(c, data, n_rows, 0);

    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < data->n_cols; j++)
            if (!close_to(one[r * data->n_cols + j], expected(c, data, r, j), 1e-30, 2e-6))
                fail_msg("[%zu][%zu] is %g, not %g", r, j, (double)one[r * data->n_cols + j],
                         expected(c, data, r, j));
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers) {
        float *other = run(c, data, n_rows, n_workers);

        assert_memory_equal(one, other, n_rows * data->n_cols * sizeof(*one));
        guard_free(other);
    }
    guard_free(one);
}

static void every_reduction_equals_the_definition(void **state)
{
    const cls_case cases[] = {
        { 16, 16, 577, 64, false, 1, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 },
        { 16, 16, 576, 64, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 2 },
        { 6, 2, 70, 9, true, 3, 20, VTC_F16, VTC_BF16, VTC_F32, 1 },
        { 6, 3, 70, 9, false, 70, 0, VTC_BF16, VTC_F16, VTC_F16, 0 },
        { 1, 1, 600, 1024, true, 0, SIZE_MAX, VTC_F32, VTC_F16, VTC_F32, 0 },
        { 2, 1, 1, 3, false, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 },
        { 2, 2, 0, 3, false, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 },
        { 2, 2, 0, 3, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 },
    };
    uint64_t seed = 81;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int heads = VTC_HEADS_MEAN; heads <= VTC_HEADS_EACH; heads++) {
            cls_data data = make_case(&seed, &cases[i]);

            data.params.heads = (vtc_head_reduction)heads;
            check_reduction(&cases[i], &data);
            free_case(&data);
        }
}

/* [.., n_cols] of the call that also averages keys, in exactly the scratch memory it asks for. */
static float *run_with_mean(const cls_case *c, const cls_data *data, size_t n_rows, float *mean,
                            size_t n_workers)
{
    float *a = guard_alloc(n_rows * data->n_cols * sizeof(*a));
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    poison(a, n_rows * data->n_cols * sizeof(*a));
    poison(mean, c->n * c->d * sizeof(*mean));
    assert_int_equal(vtci_cls_attention_query(&data->params, &data->q, &data->k, extra_key(c, data),
                                              true, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtci_cls_attention_and_mean(&data->params, &data->q, &data->k,
                                                 extra_key(c, data), a, mean, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return a;
}

/* The mean has the bits of vtc_mean_keys(). The attention is that of the plain call, but for the
 * order of sums, and has the same bits with any number of workers. */
static void check_mean(const cls_case *c, const cls_data *data, size_t n_workers)
{
    const size_t n_rows = data->params.heads == VTC_HEADS_EACH ? c->n_heads : 1;
    const size_t n_bytes = c->n * c->d * sizeof(float);
    float *mean = guard_alloc(n_bytes), *expected_mean = guard_alloc(n_bytes);
    float *plain = run(c, data, n_rows, n_workers);
    float *a = run_with_mean(c, data, n_rows, mean, n_workers);
    float *alone = run_with_mean(c, data, n_rows, mean, 0);
    vtc_tensor metric = vtc_f32_2d(expected_mean, c->n, c->d);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_mean_keys_scratch(&data->k, &metric, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mean_keys(&data->k, &metric, &exec), VTC_OK);
    exec_scratch_free(&exec);
    assert_memory_equal(mean, expected_mean, n_bytes);
    assert_memory_equal(a, alone, n_rows * data->n_cols * sizeof(*a));
    for (size_t j = 0; j < n_rows * data->n_cols; j++)
        assert_true(fabsf(a[j] - plain[j]) <= 1e-6f * plain[j]);
    guard_free(mean);
    guard_free(expected_mean);
    guard_free(a);
    guard_free(alone);
    guard_free(plain);
}

static void the_mean_of_the_keys_comes_along_with_its_bits(void **state)
{
    const cls_case cases[] = {
        { 4, 4, 67, 64, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 },
        { 6, 2, 64, 9, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 3 },
        { 6, 3, 70, 33, false, 0, SIZE_MAX, VTC_F32, VTC_BF16, VTC_F16, 1 },
        { 4, 2, 130, 33, true, 5, 60, VTC_F16, VTC_BF16, VTC_F16, 1 },
        { 4, 4, 32, 80, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F16, 0 },
        { 3, 3, 1, 5, false, 0, SIZE_MAX, VTC_F32, VTC_F16, VTC_F32, 0 },
        /* exponentials of several tasks; of as few keys as a task may have; of more heads still */
        { 16, 4, 2100, 33, true, 5, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 1 },
        { 600, 200, 97, 17, true, 5, SIZE_MAX, VTC_F32, VTC_BF16, VTC_F32, 1 },
        { 17000, 17, 65, 3, true, 5, SIZE_MAX, VTC_F32, VTC_F32, VTC_F16, 2 },
    };
    uint64_t seed = 83;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int heads = VTC_HEADS_MEAN; heads <= VTC_HEADS_EACH; heads++)
            for (size_t n_workers = 0; n_workers <= 3; n_workers++) {
                cls_data data = make_case(&seed, &cases[i]);

                data.params.heads = (vtc_head_reduction)heads;
                check_mean(&cases[i], &data, n_workers);
                free_case(&data);
            }
}

/* Whatever task they fall to, with the mean of the keys and without. */
static void equal_keys_have_equal_bits_far_apart(void **state)
{
    const cls_case c = { 64, 4, 577, 64, false, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 };
    const size_t places[] = { 40, 95, 300, 576 };
    float *mean = guard_alloc(c.n * c.d * sizeof(*mean)), *plain, *a;
    uint64_t seed = 84;
    cls_data data = make_case(&seed, &c);
    float *k = data.k.data;

    (void)state;
    guard_writable(k);
    for (size_t h = 0; h < c.n_key_heads; h++)
        for (size_t i = 0; i < 4; i++)
            memcpy(k + (h * c.n + places[i]) * c.d, k + (h * c.n + 7) * c.d, c.d * sizeof(*k));
    guard_readonly(k);
    plain = run(&c, &data, 1, 2);
    a = run_with_mean(&c, &data, 1, mean, 2);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(&plain[places[i]], &plain[7], sizeof(*plain));
        assert_memory_equal(&a[places[i]], &a[7], sizeof(*a));
    }
    guard_free(plain);
    guard_free(a);
    guard_free(mean);
    free_case(&data);
}

/* Logits and what makes them softmax: the plain call needs no more, however long its rows. */
static void floats_take_the_scratch_that_is_stated(void **state)
{
    const cls_case c = { 4, 2, 130, 33, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 };
    const size_t line = 64, logits = 4 * 131 * sizeof(float), per_head = 4 * sizeof(float);
    uint64_t seed = 85;
    cls_data data = make_case(&seed, &c);
    vtc_exec exec = test_exec(3);
    size_t bytes;

    (void)state;
    assert_int_equal(vtc_cls_attention_scratch(&data.params, &data.q, &data.k, &data.k_cls, &exec,
                                               &bytes),
                     VTC_OK);
    assert_true(bytes >= logits + per_head);
    assert_true(bytes <= (logits + line - 1) / line * line + (per_head + line - 1) / line * line);
    free_case(&data);
}

static void refused(const cls_case *c, const cls_data *data, float *a, vtc_status status,
                    const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_cls_attention(&data->params, &data->q, &data->k, extra_key(c, data), a,
                                    &exec),
                  status, part);
    exec_scratch_free(&exec);
}

static void bad_arguments_are_refused(void **state)
{
    const cls_case c = { 4, 2, 9, 3, true, 0, SIZE_MAX, VTC_F32, VTC_F32, VTC_F32, 0 };
    uint64_t seed = 82;
    cls_data data = make_case(&seed, &c);
    const cls_data good = data;
    float *a = guard_alloc(9 * sizeof(*a));
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(a, 9 * sizeof(*a));
    data.params.heads = (vtc_head_reduction)3;
    refused(&c, &data, a, VTC_ERR_RANGE, "heads is 3");
    data = good;
    data.params.scale = NAN;
    refused(&c, &data, a, VTC_ERR_RANGE, "scale is nan");
    data = good;
    data.params.first_col = 10;
    refused(&c, &data, a, VTC_ERR_RANGE, "first_col is 10, k has 9 keys");
    data.params.first_col = 1;
    data.params.n_cols = 9;
    refused(&c, &data, a, VTC_ERR_RANGE, "9 columns from 1 on");
    data = good;
    data.q.dim[0] = 3;
    refused(&c, &data, a, VTC_ERR_SHAPE, "3 query heads cannot share 2 key heads");
    data = good;
    data.q.dim[1] = 2;
    refused(&c, &data, a, VTC_ERR_SHAPE, "q_cls is 2 wide, k is 3");
    data = good;
    data.k_cls.dim[0] = 1;
    refused(&c, &data, a, VTC_ERR_SHAPE, "k_cls is [1, 3]");
    data = good;
    refused(&c, &data, NULL, VTC_ERR_NULL, "a is NULL");
    refused(&c, &data, data.k.data, VTC_ERR_OVERLAP, "a overlaps k");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cls_attention(&data.params, &data.q, &data.k, &data.k_cls, a, &exec),
                  VTC_ERR_SCRATCH, "scratch");
    assert_true(is_poisoned(a, 9 * sizeof(*a)));
    guard_free(a);
    free_case(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reduction_equals_the_definition),
        cmocka_unit_test(the_mean_of_the_keys_comes_along_with_its_bits),
        cmocka_unit_test(equal_keys_have_equal_bits_far_apart),
        cmocka_unit_test(floats_take_the_scratch_that_is_stated),
        cmocka_unit_test(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
