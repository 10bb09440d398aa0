/*
 * MustDrop, prefill: the dual filter, its union with the key tokens, and the gather of the
 * sequence.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' prefill loop.
 *
 *     drop j when sum_j < global_thr * S and max_j < individual_thr,   S = sum of all sum_j
 *     vision' = what is left and the key tokens, ascending
 *     next sequence = what was in front, vision', what was behind
 *
 * The fixed budget, ours, ranks by max(sum_j / (global_thr S), max_j / individual_thr), which is
 * 1 or more exactly where the filter keeps a token. The comparisons decide where the thresholds do:
 * a quotient may round to 1.
 */
#include "mustdrop.h"
#include "selection.h"

#include "../base/apart.h"
#include "../linalg/order.h"

#include <math.h>
#include <string.h>

enum { KEPT = 1, KEY = 2 };

/* ---- parameters and sizes -------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_mustdrop_prefill_params *from,
                              vtc_mustdrop_prefill_params *p)
{
    static const vtc_mustdrop_prefill_params defaults = VTC_MUSTDROP_PREFILL_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), from));
    VTCI_REQUIRE(call, isfinite(p->global_thr) && isfinite(p->individual_thr), VTC_ERR_RANGE,
                 "global_thr is %g, individual_thr %g", (double)p->global_thr,
                 (double)p->individual_thr);
    return VTC_OK;
}

static vtc_status check_positive(const vtci_call *call, const vtc_mustdrop_prefill_params *p)
{
    VTCI_REQUIRE(call, p->global_thr > 0.0f && p->individual_thr > 0.0f, VTC_ERR_RANGE,
                 "global_thr is %g and individual_thr %g, a score needs both positive",
                 (double)p->global_thr, (double)p->individual_thr);
    return VTC_OK;
}

vtc_status vtc_mustdrop_thresholds(vtc_mustdrop_preset preset, vtc_mustdrop_prefill_params *params,
                                   const vtc_exec *exec)
{
    static const float published[4][2] = {
        { 0.001f, 0.001f }, { 0.0012f, 0.001f }, { 0.011f, 0.01f }, { 0.005f, 0.001f }
    };
    vtc_mustdrop_prefill_params p;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_thresholds", exec));
    VTCI_REQUIRE_PTR(&call, params);
    VTCI_TRY(open_params(&call, params, &p));
    VTCI_REQUIRE(&call, (unsigned)preset <= VTC_MUSTDROP_VIZWIZ_64, VTC_ERR_RANGE,
                 "preset is %d, none of vtc_mustdrop_preset", (int)preset);
    params->global_thr = published[preset][0];
    params->individual_thr = published[preset][1];
    return VTC_OK;
}

static vtc_status set_sizes(vtci_mustdrop_filter *f, size_t n_vision, size_t length, size_t n_keys)
{
    const vtci_call *call = f->call;

    VTCI_REQUIRE(call, f->p.vision_only != 0 || vtci_add(f->p.v_start, n_vision) <= length,
                 VTC_ERR_SHAPE, "%zu vision tokens behind %zu rows, the sequence has %zu", n_vision,
                 f->p.v_start, length);
    f->n = n_vision;
    f->n_keys = n_keys;
    f->n_in = f->p.vision_only != 0 ? n_vision : length;
    f->first = f->p.vision_only != 0 ? 0 : f->p.v_start;
    VTCI_REQUIRE(call, f->n_in <= INT32_MAX && n_keys <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "%zu rows or %zu key tokens exceed int32", f->n_in, n_keys);
    if (f->p.n_keep == VTC_MUSTDROP_BY_RULE)
        return VTC_OK;
    VTCI_TRY(vtci_check_keep(call, n_vision, f->p.n_keep));
    return check_positive(call, &f->p);
}

vtc_plan_count vtci_mustdrop_filter_count(const vtci_mustdrop_filter *f)
{
    const bool by_rule = f->p.n_keep == VTC_MUSTDROP_BY_RULE;
    const size_t most = by_rule ? f->n : vtci_min(f->n, vtci_add(f->p.n_keep, f->n_keys));
    const bool exact = f->n == 0 || (!by_rule && (f->n_keys == 0 || f->p.n_keep == f->n));

    return (vtc_plan_count){ f->n_in, f->n_in - f->n + most, 0, exact };
}

vtc_status vtc_mustdrop_prefill_count(const vtc_mustdrop_prefill_params *params, size_t n_vision,
                                      size_t length, size_t n_keys, vtc_plan_count *count,
                                      const vtc_exec *exec)
{
    vtci_mustdrop_filter f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_prefill_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(vtci_mustdrop_filter_open(&call, params, n_vision, length, n_keys, &f));
    *count = vtci_mustdrop_filter_count(&f);
    return VTC_OK;
}

vtc_status vtci_mustdrop_filter_open(const vtci_call *call,
                                     const vtc_mustdrop_prefill_params *params, size_t n_vision,
                                     size_t length, size_t n_keys, vtci_mustdrop_filter *f)
{
    memset(f, 0, sizeof(*f));
    f->call = call;
    VTCI_TRY(open_params(call, params, &f->p));
    return set_sizes(f, n_vision, length, n_keys);
}

void vtci_mustdrop_filter_lay_out(vtci_arena *arena, vtci_mustdrop_filter *f)
{
    f->score = vtci_take(arena, f->n, sizeof(*f->score));
    f->order = vtci_take(arena, f->n, sizeof(*f->order));
    f->mark = vtci_take(arena, f->n, sizeof(*f->mark));
}

/* ---- the decision ---------------------------------------------------------------------------- */

vtc_status vtci_mustdrop_check_statistics(const vtci_call *call, const float *col_sum,
                                          const float *col_max, size_t n)
{
    for (size_t j = 0; j < n; j++)
        VTCI_REQUIRE(call, isfinite(col_sum[j]) && isfinite(col_max[j]), VTC_ERR_DATA,
                     "the attention to vision token %zu has sum %g and maximum %g", j,
                     (double)col_sum[j], (double)col_max[j]);
    return VTC_OK;
}

/* The sum that a token needs; the total in double, so that it does not depend on the order much. */
static float bar_of(const vtc_mustdrop_prefill_params *p, const float *col_sum, size_t n)
{
    double total = 0.0;

    for (size_t j = 0; j < n; j++)
        total += col_sum[j];
    return (float)total * p->global_thr;
}

/* What is not positive drops nothing, like an infinite quotient. */
static float quotient(float x, float threshold)
{
    return threshold > 0.0f ? x / threshold : INFINITY;
}

static void rate_tokens(const vtc_mustdrop_prefill_params *p, const float *col_sum,
                        const float *col_max, size_t n, float *score)
{
    const float bar = bar_of(p, col_sum, n);

    for (size_t j = 0; j < n; j++)
        score[j] = fmaxf(quotient(col_sum[j], bar), quotient(col_max[j], p->individual_thr));
}

static void mark_kept(vtci_mustdrop_filter *f)
{
    const float bar = bar_of(&f->p, f->col_sum, f->n);

    for (size_t j = 0; j < f->n; j++)
        f->mark[j] = f->p.n_keep == VTC_MUSTDROP_BY_RULE &&
                             !(f->col_sum[j] < bar && f->col_max[j] < f->p.individual_thr)
                         ? KEPT
                         : 0;
    if (f->p.n_keep == VTC_MUSTDROP_BY_RULE || f->p.n_keep == 0)
        return;
    vtci_select_top(f->order, f->score, f->n, f->p.n_keep);
    for (size_t i = 0; i < f->p.n_keep; i++)
        f->mark[f->order[i]] = KEPT;
}

/* Marks of all tokens and how many stay. */
static void decide(vtci_mustdrop_filter *f)
{
    rate_tokens(&f->p, f->col_sum, f->col_max, f->n, f->score);
    mark_kept(f);
    for (size_t i = 0; i < f->n_keys; i++)
        f->mark[(size_t)f->keys[i] - f->key_base] |= KEY;
    f->n_vision = 0;
    for (size_t j = 0; j < f->n; j++)
        f->n_vision += f->mark[j] != 0;
}

vtc_status vtc_mustdrop_score(const vtc_mustdrop_prefill_params *params, const float *col_sum,
                              const float *col_max, size_t n, float *score, const vtc_exec *exec)
{
    vtc_mustdrop_prefill_params p;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_score", exec));
    VTCI_TRY(open_params(&call, params, &p));
    VTCI_TRY(check_positive(&call, &p));
    VTCI_REQUIRE(&call, n == 0 || (col_sum != NULL && col_max != NULL && score != NULL),
                 VTC_ERR_NULL, "col_sum, col_max or score is NULL");
    const vtci_memory out = { "score", score, vtci_mul(n, sizeof(float)) };
    const vtci_memory in[2] = { { "col_sum", col_sum, out.bytes },
                                { "col_max", col_max, out.bytes } };

    VTCI_TRY(vtci_check_all_apart(&call, &out, 1, in, 2));
    VTCI_TRY(vtci_mustdrop_check_statistics(&call, col_sum, col_max, n));
    rate_tokens(&p, col_sum, col_max, n, score);
    return VTC_OK;
}

/* ---- before the first output ----------------------------------------------------------------- */

vtc_status vtci_mustdrop_filter_check_inputs(const vtci_mustdrop_filter *f)
{
    VTCI_REQUIRE(f->call, f->keys != NULL || f->n_keys == 0, VTC_ERR_NULL, "keys is NULL");
    for (size_t i = 0; i < f->n_keys; i++)
        VTCI_REQUIRE(f->call,
                     f->keys[i] >= (int64_t)f->key_base && (size_t)f->keys[i] - f->key_base < f->n,
                     VTC_ERR_RANGE, "keys[%zu] is %d, there are %zu vision tokens from %zu on", i,
                     (int)f->keys[i], f->n, f->key_base);
    return vtci_check_masses(f->call, f->mass, f->n_in);
}

enum { N_TRACE = 5 };

static void list_trace(const vtci_mustdrop_filter *f, const vtc_mustdrop_prefill_trace *t,
                       vtci_memory out[N_TRACE])
{
    const size_t word = sizeof(int32_t);
    const vtci_memory all[N_TRACE] = {
        { "col_sum of trace", t->col_sum, f->n * word },
        { "col_max of trace", t->col_max, f->n * word },
        { "kept of trace", t->kept, f->n * word },
        { "vision of trace", t->vision, f->n * word },
        { "keys of trace", t->keys, f->n_keys * word },
    };

    memcpy(out, all, sizeof(all));
}

/* The plan has room; plan and trace are apart from `in` and each other. */
static vtc_status check_outputs(const vtci_mustdrop_filter *f, const vtc_plan *plan,
                                const vtc_mustdrop_prefill_trace *trace, const vtci_memory *in,
                                size_t n_in)
{
    const size_t n_out = f->n_in - f->n + f->n_vision;
    vtci_memory out[N_TRACE];

    VTCI_TRY(vtci_plan_open(f->call, plan, f->n_in, n_out, 0));
    list_trace(f, trace, out);
    VTCI_TRY(vtci_check_all_apart(f->call, out, N_TRACE, in, n_in));
    for (size_t i = 0; i < n_in; i++)
        VTCI_TRY(vtci_plan_check_apart(f->call, plan, f->n_in, n_out, 0, in[i].name, in[i].data,
                                       in[i].bytes));
    for (size_t i = 0; i < N_TRACE; i++)
        VTCI_TRY(vtci_plan_check_apart(f->call, plan, f->n_in, n_out, 0, out[i].name, out[i].data,
                                       out[i].bytes));
    return VTC_OK;
}

/* ---- outputs --------------------------------------------------------------------------------- */

static void write_plan(const vtci_mustdrop_filter *f, vtc_plan *plan)
{
    const size_t behind = f->first + f->n;
    size_t n_out = 0;

    for (size_t i = 0; i < f->n_in; i++)
        if (i < f->first || i >= behind || f->mark[i - f->first] != 0)
            plan->keep[n_out++] = (int32_t)i;
    for (size_t i = 0; plan->score != NULL && i < f->n_in; i++)
        plan->score[i] = i < f->first || i >= behind ? INFINITY : f->score[i - f->first];
    vtci_selection_finish(plan, f->n_in, n_out, f->mass);
}

static void write_trace(const vtci_mustdrop_filter *f, vtc_mustdrop_prefill_trace *t)
{
    t->n_kept = t->n_vision = t->n_keys = 0;
    for (size_t j = 0; j < f->n; j++) {
        if (t->col_sum != NULL)
            t->col_sum[j] = f->col_sum[j];
        if (t->col_max != NULL)
            t->col_max[j] = f->col_max[j];
        if ((f->mark[j] & KEY) != 0) {
            if (t->keys != NULL)
                t->keys[t->n_keys] = (int32_t)t->n_vision;
            t->n_keys++;
        }
        if ((f->mark[j] & KEPT) != 0) {
            if (t->kept != NULL)
                t->kept[t->n_kept] = (int32_t)j;
            t->n_kept++;
        }
        if (f->mark[j] != 0) {
            if (t->vision != NULL)
                t->vision[t->n_vision] = (int32_t)j;
            t->n_vision++;
        }
    }
}

vtc_status vtci_mustdrop_filter_run(vtci_mustdrop_filter *f, vtc_plan *plan,
                                    vtc_mustdrop_prefill_trace *trace, const vtci_memory *in,
                                    size_t n_in)
{
    vtc_mustdrop_prefill_trace t = VTC_MUSTDROP_PREFILL_TRACE_INIT;

    VTCI_TRY(vtci_params_read(f->call, &t, sizeof(t), trace));
    VTCI_TRY(vtci_mustdrop_check_statistics(f->call, f->col_sum, f->col_max, f->n));
    decide(f);
    VTCI_TRY(check_outputs(f, plan, &t, in, n_in));
    write_trace(f, &t);
    if (trace != NULL) {
        trace->n_kept = t.n_kept;
        trace->n_vision = t.n_vision;
        trace->n_keys = t.n_keys;
    }
    write_plan(f, plan);
    return VTC_OK;
}

/* ---- the calls ------------------------------------------------------------------------------- */

vtc_status vtc_mustdrop_filter_scratch(const vtc_mustdrop_prefill_params *params, size_t n_vision,
                                       const vtc_exec *exec, size_t *bytes)
{
    vtci_mustdrop_filter f;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_filter_scratch", exec, bytes));
    VTCI_TRY(open_params(&call, params, &f.p));
    f.n = n_vision;
    vtci_arena arena = vtci_arena_open(&call);
    vtci_mustdrop_filter_lay_out(&arena, &f);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mustdrop_filter(const vtc_mustdrop_prefill_params *params, const float *col_sum,
                               const float *col_max, size_t n_vision, size_t length,
                               const int32_t *keys, size_t n_keys, const float *mass,
                               vtc_plan *plan, vtc_mustdrop_prefill_trace *trace,
                               const vtc_exec *exec)
{
    vtci_mustdrop_filter f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_filter", exec));
    VTCI_TRY(vtci_mustdrop_filter_open(&call, params, n_vision, length, n_keys, &f));
    VTCI_REQUIRE(&call, n_vision == 0 || (col_sum != NULL && col_max != NULL), VTC_ERR_NULL,
                 "col_sum or col_max is NULL");
    f.col_sum = col_sum;
    f.col_max = col_max;
    f.keys = keys;
    f.mass = mass;
    VTCI_TRY(vtci_mustdrop_filter_check_inputs(&f));
    vtci_arena arena = vtci_arena_open(&call);
    vtci_mustdrop_filter_lay_out(&arena, &f);
    VTCI_TRY(vtci_arena_check(&call, &arena));

    const vtci_memory in[4] = { { "col_sum", col_sum, n_vision * sizeof(*col_sum) },
                                { "col_max", col_max, n_vision * sizeof(*col_max) },
                                { "keys", keys, n_keys * sizeof(*keys) },
                                { "mass", mass, f.n_in * sizeof(*mass) } };

    return vtci_mustdrop_filter_run(&f, plan, trace, in, 4);
}
