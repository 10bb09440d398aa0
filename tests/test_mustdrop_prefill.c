/* One pruning layer of MustDrop's prefill, from Q and K. */
#include "support/tensors.h"

#include "reference/mustdrop_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 160 };

typedef struct layer {
    vtc_mustdrop_prefill_params params;
    size_t n_vision, n_text, length;
    vtc_tensor q, k, lse;
    double *q_values, *k_values;
    int32_t keys[3];
    size_t n_keys;
} layer;

static mustdrop_attention attention_of(const layer *l)
{
    const mustdrop_attention a = {
        l->q.dim[0],
        l->k.dim[0],
        l->n_text,
        l->length,
        l->q.dim[2],
        l->params.v_start,
        l->n_vision,
        l->params.scale == 0.0f ? 1.0 / sqrt((double)l->q.dim[2]) : (double)l->params.scale,
        l->q_values,
        l->k_values,
    };

    return a;
}

static layer make_layer(uint64_t *seed, vtc_dtype dtype, size_t behind)
{
    const vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    const size_t groups = 1 + rng_below(seed, 3), heads = groups * (1 + rng_below(seed, 3));
    const size_t d = 1 + rng_below(seed, 24);
    layer l = { .params = params };

    l.params.v_start = rng_below(seed, 8);
    l.params.scale = rng_below(seed, 2) ? 0.0f : 1.25f;
    l.n_vision = rng_below(seed, 60);
    l.n_text = 1 + rng_below(seed, 80);
    l.length = l.params.v_start + l.n_vision + behind + l.n_text;
    const size_t q_dim[3] = { heads, l.n_text, d }, k_dim[3] = { groups, l.length, d };
    const size_t lse_dim[2] = { heads, l.n_text };

    l.q = make_random(seed, dtype, 3, q_dim, rng_below(seed, 3));
    l.k = make_random(seed, dtype, 3, k_dim, rng_below(seed, 3));
    l.q_values = values_of(&l.q);
    l.k_values = values_of(&l.k);
    l.lse = make_tensor(VTC_F32, 2, lse_dim, 1);
    const mustdrop_attention a = attention_of(&l);

    for (size_t i = 0; i < heads * l.n_text; i++)
        ((float *)l.lse.data)[element_at(&l.lse, i)] =
            (float)mustdrop_log_sum_exp(&a, i / l.n_text, i % l.n_text);
    l.n_keys = l.n_vision == 0 ? 0 : rng_below(seed, 4);
    for (size_t i = 0; i < l.n_keys; i++)
        l.keys[i] = (int32_t)rng_below(seed, l.n_vision);
    l.params.global_thr = 1.0f / (float)(l.n_vision + 1);
    l.params.individual_thr = 1.0f / (float)l.length;
    return l;
}

static void free_layer(layer *l)
{
    guard_free(l->q.data);
    guard_free(l->k.data);
    guard_free(l->lse.data);
    free(l->q_values);
    free(l->k_values);
}

typedef struct step {
    vtc_plan plan;
    vtc_mustdrop_prefill_trace trace;
    float sum[MOST], max[MOST];
    int32_t kept[MOST], vision[MOST], keys[3];
} step;

static void run(const layer *l, bool with_lse, size_t n_workers, step *s)
{
    const vtc_mustdrop_prefill_trace trace = VTC_MUSTDROP_PREFILL_TRACE_INIT;
    const vtc_tensor *lse = with_lse ? &l->lse : NULL;
    vtc_exec exec = test_exec(n_workers);
    vtc_plan_count count;
    size_t bytes;

    s->trace = trace;
    s->trace.col_sum = s->sum;
    s->trace.col_max = s->max;
    s->trace.kept = s->kept;
    s->trace.vision = s->vision;
    s->trace.keys = s->keys;
    assert_int_equal(vtc_mustdrop_prefill_count(&l->params, l->n_vision, l->length, l->n_keys,
                                                &count, NULL),
                     VTC_OK);
    s->plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
    assert_int_equal(vtc_mustdrop_prefill_scratch(&l->params, &l->q, &l->k, lse, l->n_vision, &exec,
                                                  &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_prefill(&l->params, &l->q, &l->k, lse, l->n_vision, l->keys,
                                          l->n_keys, NULL, &s->plan, &s->trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&s->plan, NULL), VTC_OK);
}

/* The plan is the filter's on these statistics. */
static void assert_filtered(const layer *l, const step *s)
{
    vtc_plan want = empty_plan(l->length, l->length, 0);
    vtc_exec exec = test_exec(1);

    exec_scratch(&exec, 8192);
    assert_int_equal(vtc_mustdrop_filter(&l->params, s->sum, s->max, l->n_vision, l->length,
                                         l->keys, l->n_keys, NULL, &want, NULL, &exec),
                     VTC_OK);
    assert_int_equal(s->plan.n_out, want.n_out);
    assert_memory_equal(s->plan.keep, want.keep, want.n_out * sizeof(int32_t));
    assert_memory_equal(s->plan.score, want.score, l->length * sizeof(float));
    exec_scratch_free(&exec);
    free_plan(&want);
}

static void statistics_are_those_of_the_whole_attention(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 60; round++) {
        layer l = make_layer(&seed, dtypes[round % 3], 0);
        const mustdrop_attention a = attention_of(&l);
        double sum[MOST], max[MOST];
        step s;

        mustdrop_statistics(&a, sum, max);
        for (int with_lse = 0; with_lse < 2; with_lse++) {
            run(&l, with_lse != 0, rng_below(&seed, 4), &s);
            for (size_t j = 0; j < l.n_vision; j++) {
                assert_true(close_to(s.sum[j], sum[j], 1e-6, 1e-5));
                assert_true(close_to(s.max[j], max[j], 1e-6, 1e-5));
            }
            assert_filtered(&l, &s);
            free_plan(&s.plan);
        }
        free_layer(&l);
    }
}

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 2;
    layer l = make_layer(&seed, VTC_F16, 0);
    step one, many;

    (void)state;
    run(&l, false, 0, &one);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        run(&l, false, n_workers, &many);
        assert_memory_equal(many.sum, one.sum, l.n_vision * sizeof(float));
        assert_memory_equal(many.max, one.max, l.n_vision * sizeof(float));
        assert_memory_equal(many.plan.keep, one.plan.keep, one.plan.n_out * sizeof(int32_t));
        free_plan(&many.plan);
    }
    free_plan(&one.plan);
    free_layer(&l);
}

/* Rows between the vision tokens and the text that votes stay, as those in front do. */
static void other_rows_stay(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 20; round++) {
        layer l = make_layer(&seed, VTC_F32, 7);
        const size_t behind = l.params.v_start + l.n_vision;
        step s;

        run(&l, false, 1, &s);
        for (size_t i = 0; i < l.length; i++)
            if (i < l.params.v_start || i >= behind)
                assert_true(s.plan.fate[i] >= 0);
        free_plan(&s.plan);
        free_layer(&l);
    }
}

/* A given attention and Q and K lead to the same statistics. */
static void a_given_attention_leads_to_the_same(void **state)
{
    uint64_t seed = 4;
    layer l = make_layer(&seed, VTC_F32, 0);
    const size_t heads = l.q.dim[0], dim[3] = { heads, l.n_text, l.length };
    const mustdrop_attention a = attention_of(&l);
    vtc_tensor weights = make_tensor(VTC_F32, 3, dim, 1);
    vtc_exec exec = test_exec(2);
    float sum[MOST], max[MOST];
    step s;

    (void)state;
    for (size_t i = 0; i < heads * l.n_text * l.length; i++) {
        const size_t h = i / l.length / l.n_text, m = i / l.length % l.n_text, j = i % l.length;
        mustdrop_attention one = a;
        double only, unused;

        one.heads = 1;
        one.kv_heads = 1;
        one.q = a.q + h * l.n_text * a.d;
        one.k = a.k + h / (heads / l.k.dim[0]) * l.length * a.d;
        one.first = j;
        one.n = 1;
        /* one row: the text in front of it is part of the keys */
        one.n_text = 1;
        one.length = l.length - l.n_text + m + 1;
        one.q += m * a.d;
        unused = 0.0;
        if (j < one.length)
            mustdrop_statistics(&one, &only, &unused);
        else
            only = 0.0;
        ((float *)weights.data)[element_at(&weights, i)] = (float)only;
    }
    run(&l, false, 1, &s);
    exec_scratch(&exec, 4096);
    assert_int_equal(vtc_mustdrop_statistics(&weights, l.n_text, l.params.v_start, l.n_vision, sum,
                                             max, &exec),
                     VTC_OK);
    for (size_t j = 0; j < l.n_vision; j++) {
        assert_true(close_to(sum[j], s.sum[j], 1e-6, 1e-5));
        assert_true(close_to(max[j], s.max[j], 1e-6, 1e-5));
    }
    exec_scratch_free(&exec);
    guard_free(weights.data);
    free_plan(&s.plan);
    free_layer(&l);
}

static void refused(layer *l, bool with_lse, vtc_status status, const char *part)
{
    vtc_plan plan = empty_plan(300, 300, 0);
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    poison(plan.keep, 300 * sizeof(int32_t));
    assert_failed(&log,
                  vtc_mustdrop_prefill(&l->params, &l->q, &l->k, with_lse ? &l->lse : NULL,
                                       l->n_vision, l->keys, l->n_keys, NULL, &plan, NULL, &exec),
                  status, part);
    assert_true(is_poisoned(plan.keep, 300 * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
    free_layer(l);
}

/* Of the whole function, not of what is called inside. */
static void short_scratch_is_refused_with_the_bytes_of_the_query(void **state)
{
    uint64_t seed = 6;
    layer l = make_layer(&seed, VTC_F32, 0);
    vtc_plan plan = empty_plan(300, 300, 0);
    vtc_exec exec = test_exec(1);
    char needs[80];
    error_log log;
    size_t bytes;

    (void)state;
    assert_int_equal(vtc_mustdrop_prefill_scratch(&l.params, &l.q, &l.k, NULL, l.n_vision, &exec,
                                                  &bytes),
                     VTC_OK);
    snprintf(needs, sizeof(needs), "vtc_mustdrop_prefill: needs %zu bytes", bytes);
    exec_scratch(&exec, bytes);
    exec.scratch_size--;
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_mustdrop_prefill(&l.params, &l.q, &l.k, NULL, l.n_vision, l.keys, l.n_keys,
                                       NULL, &plan, NULL, &exec),
                  VTC_ERR_SCRATCH, needs);
    exec_scratch_free(&exec);
    free_plan(&plan);
    free_layer(&l);
}

static layer broken(void)
{
    uint64_t seed = 5;
    layer l = make_layer(&seed, VTC_F32, 0);

    while (l.n_vision < 10) {
        free_layer(&l);
        l = make_layer(&seed, VTC_F32, 0);
    }
    guard_writable(l.q.data);
    guard_writable(l.k.data);
    return l;
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    layer l;

    (void)state;
    l = broken();
    ((float *)l.q.data)[0] = NAN;
    refused(&l, false, VTC_ERR_DATA, "vision token 0");
    l = broken();
    l.q.dim[1] = 0;
    refused(&l, false, VTC_ERR_SHAPE, "no text row votes");
    l = broken();
    l.n_vision += 1;
    refused(&l, false, VTC_ERR_SHAPE, "of text, k has");
    l = broken();
    l.params.scale = -1.0f;
    refused(&l, false, VTC_ERR_RANGE, "vtc_mustdrop_prefill: scale is -1");
    l = broken();
    l.q.dim[2] -= 1;
    refused(&l, false, VTC_ERR_SHAPE, "vtc_mustdrop_prefill: q_text is");
    l = broken();
    l.lse.dim[1] -= 1;
    refused(&l, true, VTC_ERR_SHAPE, "lse is");
    l = broken();
    l.lse.dtype = VTC_I32;
    refused(&l, true, VTC_ERR_DTYPE, "lse has dtype I32");
    l = broken();
    l.n_keys = 1;
    l.keys[0] = 1000;
    refused(&l, false, VTC_ERR_RANGE, "keys[0] is 1000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_are_those_of_the_whole_attention),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(other_rows_stay),
        cmocka_unit_test(a_given_attention_leads_to_the_same),
        cmocka_unit_test(short_scratch_is_refused_with_the_bytes_of_the_query),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
