/* MustDrop's dual filter: thresholds, fixed budgets, key tokens, the gather of the sequence. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

/* ---- running it ------------------------------------------------------------------------------ */

typedef struct filter {
    vtc_mustdrop_prefill_params params;
    size_t n, length, n_keys;
    float sum[MOST], max[MOST];
    int32_t keys[MOST];
    float *mass;
    vtc_mustdrop_prefill_trace trace;
    float sum_out[MOST], max_out[MOST];
    int32_t kept[MOST], vision[MOST], keys_out[MOST];
} filter;

static void open_filter(uint64_t *seed, filter *f)
{
    const vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;

    memset(f, 0, sizeof(*f));
    f->params = params;
    f->n = rng_below(seed, MOST);
    f->params.v_start = rng_below(seed, 6);
    f->length = f->params.v_start + f->n + rng_below(seed, 9);
    f->n_keys = f->n == 0 ? 0 : rng_below(seed, 5);
    f->params.vision_only = (int)rng_below(seed, 2);
    f->params.global_thr = (float)(1.0 + 0.5 * rng_f32(seed)) / (float)(f->n + 1);
    f->params.individual_thr = 0.5f + 0.4f * rng_f32(seed);
    for (size_t j = 0; j < f->n; j++) {
        f->sum[j] = 1.0f + rng_f32(seed);
        f->max[j] = 0.5f + 0.5f * rng_f32(seed);
    }
    for (size_t i = 0; i < f->n_keys; i++)
        f->keys[i] = (int32_t)rng_below(seed, f->n);
}

/* With exactly the scratch and room it asks for; free_plan() it. */
static vtc_plan run(filter *f)
{
    const vtc_mustdrop_prefill_trace trace = VTC_MUSTDROP_PREFILL_TRACE_INIT;
    vtc_exec exec = test_exec(1);
    vtc_plan_count count;
    size_t bytes;

    f->trace = trace;
    f->trace.col_sum = f->sum_out;
    f->trace.col_max = f->max_out;
    f->trace.kept = f->kept;
    f->trace.vision = f->vision;
    f->trace.keys = f->keys_out;
    assert_int_equal(vtc_mustdrop_prefill_count(&f->params, f->n, f->length, f->n_keys, &count,
                                                NULL),
                     VTC_OK);

    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    assert_int_equal(vtc_mustdrop_filter_scratch(&f->params, f->n, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_filter(&f->params, f->sum, f->max, f->n, f->length, f->keys,
                                         f->n_keys, f->mass, &plan, &f->trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_true(plan.n_out <= count.n_out && (!count.exact || plan.n_out == count.n_out));
    return plan;
}

/* ---- against the definition ------------------------------------------------------------------ */

static bool is_key(const filter *f, size_t j)
{
    for (size_t i = 0; i < f->n_keys; i++)
        if (f->keys[i] == (int32_t)j)
            return true;
    return false;
}

static double total_of(const filter *f)
{
    double total = 0.0;

    for (size_t j = 0; j < f->n; j++)
        total += f->sum[j];
    return total;
}

static double score_of(const filter *f, size_t j)
{
    return fmax(f->sum[j] / (f->params.global_thr * total_of(f)),
                (double)f->max[j] / f->params.individual_thr);
}

/* Tokens that stand before j in the ranking. */
static size_t rank_of(const filter *f, size_t j)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n; i++)
        n += score_of(f, i) > score_of(f, j) || (score_of(f, i) == score_of(f, j) && i < j);
    return n;
}

static bool stays(const filter *f, size_t j)
{
    if (f->params.n_keep != VTC_MUSTDROP_BY_RULE)
        return rank_of(f, j) < f->params.n_keep;
    return !(f->sum[j] < f->params.global_thr * total_of(f) &&
             f->max[j] < f->params.individual_thr);
}

static void assert_trace(const filter *f)
{
    size_t n_kept = 0, n_vision = 0, n_keys = 0;

    for (size_t j = 0; j < f->n; j++) {
        if (is_key(f, j))
            assert_int_equal(f->keys_out[n_keys++], n_vision);
        if (stays(f, j))
            assert_int_equal(f->kept[n_kept++], j);
        if (stays(f, j) || is_key(f, j))
            assert_int_equal(f->vision[n_vision++], j);
    }
    assert_true(f->trace.n_kept == n_kept && f->trace.n_vision == n_vision &&
                f->trace.n_keys == n_keys);
    assert_memory_equal(f->sum_out, f->sum, f->n * sizeof(float));
    assert_memory_equal(f->max_out, f->max, f->n * sizeof(float));
}

static void assert_plan(const filter *f, const vtc_plan *plan)
{
    const size_t first = f->params.vision_only ? 0 : f->params.v_start;
    const size_t n_in = f->params.vision_only ? f->n : f->length;
    size_t n = 0;

    assert_int_equal(plan->n_in, n_in);
    for (size_t i = 0; i < n_in; i++) {
        const bool vision = i >= first && i < first + f->n;

        if (!vision || stays(f, i - first) || is_key(f, i - first)) {
            assert_int_equal(plan->keep[n], i);
            assert_true(plan->mass[n++] == (f->mass == NULL ? 1.0f : f->mass[i]));
        }
        if (vision)
            assert_true(close_to(plan->score[i], score_of(f, i - first), 0.0, 1e-5));
        else
            assert_true(plan->score[i] == INFINITY);
    }
    assert_int_equal(plan->n_out, n);
}

static void random_steps_equal_the_definition(void **state)
{
    float mass[100];
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < 100; i++)
        mass[i] = 1.5f + rng_f32(&seed);
    for (int round = 0; round < 500; round++) {
        filter f;

        open_filter(&seed, &f);
        f.mass = rng_below(&seed, 2) ? mass : NULL;
        if (rng_below(&seed, 2))
            f.params.n_keep = rng_below(&seed, f.n + 1);
        vtc_plan plan = run(&f);

        assert_plan(&f, &plan);
        assert_trace(&f);
        free_plan(&plan);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void the_defaults_drop_nothing(void **state)
{
    const vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    uint64_t seed = 2;
    filter f;

    (void)state;
    open_filter(&seed, &f);
    f.params = params;
    vtc_plan plan = run(&f);

    assert_int_equal(plan.n_out, f.length);
    assert_int_equal(f.trace.n_kept, f.n);
    free_plan(&plan);
}

/* With as many tokens as the rule keeps, the ranking keeps the same. */
static void a_budget_of_the_rules_own_count_is_the_rule(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 100; round++) {
        filter f;

        open_filter(&seed, &f);
        vtc_plan by_rule = run(&f);
        f.params.n_keep = f.trace.n_kept;
        vtc_plan by_rank = run(&f);

        assert_int_equal(by_rank.n_out, by_rule.n_out);
        assert_memory_equal(by_rank.keep, by_rule.keep, by_rule.n_out * sizeof(int32_t));
        free_plan(&by_rule);
        free_plan(&by_rank);
    }
}

static void both_comparisons_are_strict_and_both_must_hold(void **state)
{
    /* S = 8, a share of 0.25 is 2 */
    const float sum[4] = { 2.0f, 1.0f, 1.0f, 4.0f }, max[4] = { 0.0f, 0.5f, 0.25f, 0.0f };
    const int32_t want[3] = { 0, 1, 3 };
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    vtc_exec exec = test_exec(1);
    vtc_plan plan = empty_plan(4, 4, 0);
    size_t bytes;

    (void)state;
    params.global_thr = 0.25f;
    params.individual_thr = 0.5f;
    params.vision_only = 1;
    assert_int_equal(vtc_mustdrop_filter_scratch(&params, 4, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_filter(&params, sum, max, 4, 0, NULL, 0, NULL, &plan, NULL,
                                         &exec),
                     VTC_OK);
    assert_int_equal(plan.n_out, 3);
    assert_memory_equal(plan.keep, want, sizeof(want));
    exec_scratch_free(&exec);
    free_plan(&plan);
}

static void equal_scores_keep_the_lower_tokens(void **state)
{
    uint64_t seed = 4;
    filter f;

    (void)state;
    open_filter(&seed, &f);
    f.n = 20;
    f.length = 30;
    f.n_keys = 0;
    for (size_t j = 0; j < f.n; j++)
        f.sum[j] = f.max[j] = 1.0f;
    f.params.n_keep = 7;
    vtc_plan plan = run(&f);

    for (int32_t j = 0; j < 7; j++)
        assert_int_equal(f.kept[j], j);
    free_plan(&plan);
}

/* A filter of permuted tokens is the permuted filter. */
static void tokens_may_stand_in_any_order(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (int round = 0; round < 50; round++) {
        filter f, g;
        int32_t place[MOST] = { 0 };

        open_filter(&seed, &f);
        for (size_t j = 0; j < f.n; j++) {
            const size_t other = rng_below(&seed, j + 1);

            place[j] = place[other];
            place[other] = (int32_t)j;
        }
        g = f;
        for (size_t j = 0; j < f.n; j++) {
            g.sum[place[j]] = f.sum[j];
            g.max[place[j]] = f.max[j];
        }
        for (size_t i = 0; i < f.n_keys; i++)
            g.keys[i] = place[f.keys[i]];
        vtc_plan a = run(&f), b = run(&g);
        const size_t first = f.params.vision_only ? 0 : f.params.v_start;

        for (size_t j = 0; j < f.n; j++)
            assert_int_equal(a.fate[first + j] < 0, b.fate[first + (size_t)place[j]] < 0);
        free_plan(&a);
        free_plan(&b);
    }
}

static void every_key_survives_one_none_or_all(void **state)
{
    uint64_t seed = 6;

    (void)state;
    for (size_t n_keys = 0; n_keys <= 20; n_keys++) {
        filter f;

        open_filter(&seed, &f);
        f.n = 20;
        f.length = 40;
        f.n_keys = n_keys;
        for (size_t i = 0; i < n_keys; i++)
            f.keys[i] = (int32_t)(19 - i);
        f.params.n_keep = 0;
        vtc_plan plan = run(&f);

        assert_int_equal(f.trace.n_vision, n_keys);
        for (size_t i = 0; i < n_keys; i++)
            assert_int_equal(f.keys_out[i], i);
        free_plan(&plan);
    }
}

static void no_attention_at_all_keeps_everything(void **state)
{
    uint64_t seed = 7;
    filter f;

    (void)state;
    open_filter(&seed, &f);
    memset(f.sum, 0, sizeof(f.sum));
    memset(f.max, 0, sizeof(f.max));
    vtc_plan plan = run(&f);

    assert_int_equal(f.trace.n_kept, f.n);
    for (size_t i = 0; i < plan.n_in; i++)
        assert_true(plan.score[i] == INFINITY);
    free_plan(&plan);
}

static void scores_are_those_of_the_formula(void **state)
{
    uint64_t seed = 8;
    filter f;
    float score[MOST];

    (void)state;
    open_filter(&seed, &f);
    assert_int_equal(vtc_mustdrop_score(&f.params, f.sum, f.max, f.n, score, NULL), VTC_OK);
    for (size_t j = 0; j < f.n; j++)
        assert_true(close_to(score[j], score_of(&f, j), 0.0, 1e-6));
}

static void presets_are_the_published_thresholds(void **state)
{
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    params.v_start = 35;
    assert_int_equal(vtc_mustdrop_thresholds(VTC_MUSTDROP_TEXTVQA_128, &params, NULL), VTC_OK);
    assert_true(params.global_thr == 0.0012f && params.individual_thr == 0.001f);
    assert_int_equal(vtc_mustdrop_thresholds(VTC_MUSTDROP_VIZWIZ_64, &params, NULL), VTC_OK);
    assert_true(params.global_thr == 0.005f && params.individual_thr == 0.001f);
    assert_int_equal(params.v_start, 35);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mustdrop_thresholds((vtc_mustdrop_preset)4, &params, &exec),
                  VTC_ERR_RANGE, "preset is 4");
}

static void counts_say_whether_they_are_exact(void **state)
{
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    vtc_plan_count n;

    (void)state;
    params.v_start = 10;
    params.global_thr = params.individual_thr = 0.001f;
    assert_int_equal(vtc_mustdrop_prefill_count(&params, 50, 70, 4, &n, NULL), VTC_OK);
    assert_true(n.n_in == 70 && n.n_out == 70 && n.n_nnz == 0 && !n.exact);
    params.n_keep = 20;
    assert_int_equal(vtc_mustdrop_prefill_count(&params, 50, 70, 4, &n, NULL), VTC_OK);
    assert_true(n.n_out == 44 && !n.exact);
    assert_int_equal(vtc_mustdrop_prefill_count(&params, 50, 70, 0, &n, NULL), VTC_OK);
    assert_true(n.n_out == 40 && n.exact);
    params.vision_only = 1;
    assert_int_equal(vtc_mustdrop_prefill_count(&params, 50, 0, 0, &n, NULL), VTC_OK);
    assert_true(n.n_in == 50 && n.n_out == 20 && n.exact);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static filter broken(void)
{
    uint64_t seed = 9;
    filter f;

    do
        open_filter(&seed, &f);
    while (f.n < 10 || f.n_keys < 2);
    f.params.vision_only = 0;
    return f;
}

static void refused(filter *f, vtc_status status, const char *part)
{
    vtc_plan plan = empty_plan(200, 200, 0);
    vtc_exec exec = test_exec(1);
    error_log log;

    f->trace.struct_size = sizeof(f->trace);
    if (f->trace.kept == NULL)
        f->trace.kept = f->kept;
    exec_scratch(&exec, 4096);
    record_errors(&exec, &log);
    poison(plan.keep, 200 * sizeof(int32_t));
    poison(f->kept, sizeof(f->kept));
    assert_failed(&log,
                  vtc_mustdrop_filter(&f->params, f->sum, f->max, f->n, f->length, f->keys,
                                      f->n_keys, f->mass, &plan, &f->trace, &exec),
                  status, part);
    assert_true(is_poisoned(plan.keep, 200 * sizeof(int32_t)));
    assert_true(is_poisoned(f->kept, sizeof(f->kept)));
    exec_scratch_free(&exec);
    free_plan(&plan);
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    float mass[100];
    filter f;

    (void)state;
    f = broken();
    f.sum[3] = NAN;
    refused(&f, VTC_ERR_DATA, "vision token 3 has sum nan");
    f = broken();
    f.max[2] = INFINITY;
    refused(&f, VTC_ERR_DATA, "vision token 2");
    f = broken();
    f.keys[1] = (int32_t)f.n;
    refused(&f, VTC_ERR_RANGE, "keys[1] is");
    f = broken();
    f.keys[0] = -1;
    refused(&f, VTC_ERR_RANGE, "keys[0] is -1");
    f = broken();
    f.params.global_thr = NAN;
    refused(&f, VTC_ERR_RANGE, "global_thr is nan");
    f = broken();
    f.params.n_keep = f.n + 1;
    refused(&f, VTC_ERR_BUDGET, "cannot keep");
    f = broken();
    f.params.n_keep = 1;
    f.params.individual_thr = 0.0f;
    refused(&f, VTC_ERR_RANGE, "both positive");
    f = broken();
    f.length = f.params.v_start + f.n - 1;
    refused(&f, VTC_ERR_SHAPE, "the sequence has");
    f = broken();
    for (size_t i = 0; i < 100; i++)
        mass[i] = 1.0f;
    mass[2] = 0.0f;
    f.mass = mass;
    refused(&f, VTC_ERR_DATA, "mass[2]");
    f = broken();
    f.trace.vision = f.keys;
    refused(&f, VTC_ERR_OVERLAP, "vision of trace overlaps keys");
    f = broken();
    f.trace.vision = f.kept + 1;
    refused(&f, VTC_ERR_OVERLAP, "vision of trace overlaps kept of trace");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_steps_equal_the_definition),
        cmocka_unit_test(the_defaults_drop_nothing),
        cmocka_unit_test(a_budget_of_the_rules_own_count_is_the_rule),
        cmocka_unit_test(both_comparisons_are_strict_and_both_must_hold),
        cmocka_unit_test(equal_scores_keep_the_lower_tokens),
        cmocka_unit_test(tokens_may_stand_in_any_order),
        cmocka_unit_test(every_key_survives_one_none_or_all),
        cmocka_unit_test(no_attention_at_all_keeps_everything),
        cmocka_unit_test(scores_are_those_of_the_formula),
        cmocka_unit_test(presets_are_the_published_thresholds),
        cmocka_unit_test(counts_say_whether_they_are_exact),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
