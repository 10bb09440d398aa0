/* guided_cases.h: what the tests of the guided planners share: inputs of two images, plans that are
 * made and plans that are refused. */
#ifndef VTC_TESTS_GUIDED_CASES_H
#define VTC_TESTS_GUIDED_CASES_H

#include "support/tensors.h"

#include "reference/plan_reference.h"

/* Two images of 30 and 12 rows in a sequence with 5 rows before and 9 of text behind. */
enum { H = 4, G = 2, D = 8, C = 12, BEFORE = 5, N = 42, TEXT = 9, L = BEFORE + N + TEXT };

static const int32_t begin[3] = { 0, 30, N };

typedef struct inputs {
    vtc_plan_inputs in;
    vtc_tensor features, keys, cls_query, cls_key, lm_query, lm_keys, lse, hidden, embeddings;
    vtc_tensor text_query;
} inputs;

static inline vtc_tensor random_tensor(uint64_t *seed, int rank, size_t d0, size_t d1, size_t d2)
{
    const size_t dim[3] = { d0, d1, d2 };

    return make_random(seed, VTC_F32, rank, dim, rng_below(seed, 3));
}

static inline void make_inputs(inputs *i, uint64_t seed)
{
    const vtc_plan_inputs none = VTC_PLAN_INPUTS_INIT;

    i->features = random_tensor(&seed, 2, N, C, 0);
    i->keys = random_tensor(&seed, 3, H, N, D);
    i->cls_query = random_tensor(&seed, 2, H, D, 0);
    i->cls_key = random_tensor(&seed, 2, H, D, 0);
    i->lm_query = random_tensor(&seed, 3, H, L, D);
    i->lm_keys = random_tensor(&seed, 3, G, L, D);
    i->hidden = random_tensor(&seed, 2, L, C, 0);
    i->embeddings = random_tensor(&seed, 2, L, C, 0);
    i->in = none;
    i->in.features = &i->features;
    i->in.keys = &i->keys;
    i->in.cls_query = &i->cls_query;
    i->in.cls_key = &i->cls_key;
    i->in.lm_query = &i->lm_query;
    i->in.lm_keys = &i->lm_keys;
    i->in.lm_hidden = &i->hidden;
    i->in.lm_embeddings = &i->embeddings;
    i->in.v_start = BEFORE;
    i->in.n_text = TEXT;
    i->in.begin = begin;
    i->in.n_images = 2;
}

/* Two images of 3 x 7 rows instead. */
static inline void make_map_inputs(inputs *i, uint64_t seed)
{
    static const int32_t two[3] = { 0, 21, N };

    make_inputs(i, seed);
    i->in.begin = two;
    i->in.grid_h = 3;
    i->in.grid_w = 7;
}

static inline void free_inputs(inputs *i)
{
    vtc_tensor *const all[] = { &i->features, &i->keys,    &i->cls_query, &i->cls_key,
                                &i->lm_query, &i->lm_keys, &i->hidden,    &i->embeddings };

    for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++)
        guard_free(all[k]->data);
}

static inline vtc_plan run(const char *name, const void *params, const vtc_plan_inputs *in,
                           size_t n_keep, int32_t *out_begin, size_t n_workers)
{
    const vtc_planner *planner = vtc_planner_find(name);
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_exec exec = test_exec(n_workers);
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    assert_non_null(planner);
    assert_int_equal(vtc_planner_count(planner, params, in, &budget, &count, NULL), VTC_OK);
    plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
    assert_int_equal(vtc_planner_scratch(planner, params, in, &budget, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, params, in, &budget, &plan, out_begin, &exec),
                     VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_true(plan.n_out == count.n_out || (!count.exact && plan.n_out < count.n_out));
    assert_true(!planner->exact || count.exact);
    exec_scratch_free(&exec);
    return plan;
}

static inline void refused(const char *name, const void *params, const vtc_plan_inputs *in,
                           size_t n_keep, vtc_status status, const char *part)
{
    const vtc_planner *planner = vtc_planner_find(name);
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_plan plan = empty_plan(N, 3 * N, 3 * N);
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    poison(plan.keep, 3 * N * sizeof(int32_t));
    poison(plan.source, 3 * N * sizeof(int32_t));
    assert_failed(&log, vtc_planner_plan(planner, params, in, &budget, &plan, NULL, &exec), status,
                  part);
    assert_true(is_poisoned(plan.keep, 3 * N * sizeof(int32_t)));
    assert_true(is_poisoned(plan.source, 3 * N * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
}

/* All of them. */
static const char *const guided[] = { "fastv", "focusllava-text", "focusllava-vision", "sparsevlm",
                                      "visionzip" };

#endif
