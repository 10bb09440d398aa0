/*
 * MustDrop, prefill: one pruning layer, from Q and K of its text rows; and the same as a planner.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' prefill loop, which keeps the whole attention
 * of the layer. Here only the T text rows are computed (score/stats.c), then mustdrop_filter.c
 * decides.
 */
#include "mustdrop.h"

#include <math.h>

struct prefill {
    const vtci_call *call;
    vtci_mustdrop_filter filter;
    vtc_attention_stats_params stats;
    const vtc_tensor *q, *k, *lse; /* lse NULL: none */
    float *col_sum, *col_max;      /* [n] */
};

static vtc_status open_prefill(const vtci_call *call, const vtc_mustdrop_prefill_params *params,
                               const vtc_tensor *q, const vtc_tensor *k, const vtc_tensor *lse,
                               size_t n_vision, size_t n_keys, struct prefill *f)
{
    static const vtc_attention_stats_params defaults = VTC_ATTENTION_STATS_PARAMS_INIT;

    VTCI_TRY(vtci_check_tensor(call, "q_text", q, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));

    const size_t n_text = q->dim[1], length = k->dim[1];

    VTCI_TRY(vtci_mustdrop_filter_open(call, params, n_vision, length, n_keys, &f->filter));
    VTCI_REQUIRE(call, q->dim[0] != 0 && n_text != 0, VTC_ERR_SHAPE,
                 "q_text has %zu heads of %zu rows: no text row votes", q->dim[0], n_text);
    VTCI_REQUIRE(call, q->dim[2] == k->dim[2], VTC_ERR_SHAPE, "q_text is %zu wide, k is %zu",
                 q->dim[2], k->dim[2]);
    VTCI_REQUIRE(call, k->dim[0] != 0 && q->dim[0] % k->dim[0] == 0, VTC_ERR_SHAPE,
                 "%zu query heads cannot share %zu key heads", q->dim[0], k->dim[0]);
    VTCI_REQUIRE(call, isfinite(f->filter.p.scale) && f->filter.p.scale >= 0.0f, VTC_ERR_RANGE,
                 "scale is %g, it must be positive, or 0 for 1 / sqrt(d)",
                 (double)f->filter.p.scale);
    VTCI_REQUIRE(call, vtci_add(vtci_add(f->filter.p.v_start, n_vision), n_text) <= length,
                 VTC_ERR_SHAPE, "%zu rows, %zu vision tokens and %zu of text, k has %zu",
                 f->filter.p.v_start, n_vision, n_text, length);
    f->call = call;
    f->q = q;
    f->k = k;
    f->lse = lse;
    f->stats = defaults;
    f->stats.want = VTC_STATS_COL_SUM | VTC_STATS_COL_MAX;
    f->stats.scale = f->filter.p.scale;
    f->stats.causal = 1;
    f->stats.row_offset = length - n_text;
    f->stats.first_col = f->filter.p.v_start;
    f->stats.n_cols = n_vision;
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct prefill *f)
{
    f->col_sum = vtci_take(arena, f->filter.n, sizeof(*f->col_sum));
    f->col_max = vtci_take(arena, f->filter.n, sizeof(*f->col_max));
    vtci_mustdrop_filter_lay_out(arena, &f->filter);
}

static vtc_status measure_scratch(struct prefill *f, size_t *bytes)
{
    vtci_arena arena = vtci_arena_open(f->call);
    size_t needed = 0;

    VTCI_TRY(vtc_attention_stats_scratch(&f->stats, f->q, f->k, &f->call->exec, &needed));
    lay_out(&arena, f);
    vtci_take(&arena, needed, 1);
    return vtci_end_query(f->call, &arena, bytes);
}

/* Takes the scratch memory and computes the statistics. */
static vtc_status measure(struct prefill *f)
{
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    vtci_arena arena = vtci_arena_open(f->call);
    vtc_exec rest = f->call->exec;

    VTCI_TRY(vtc_attention_stats_scratch(&f->stats, f->q, f->k, &rest, &rest.scratch_size));
    lay_out(&arena, f);
    rest.scratch = vtci_take(&arena, rest.scratch_size, 1);
    VTCI_TRY(vtci_arena_check(f->call, &arena));

    out.col_sum = f->col_sum;
    out.col_max = f->col_max;
    f->filter.col_sum = f->col_sum;
    f->filter.col_max = f->col_max;
    if (f->filter.n == 0)
        return VTC_OK;
    return vtc_attention_stats(&f->stats, f->q, f->k, f->lse, &out, &rest);
}

static vtc_status run(struct prefill *f, vtc_plan *plan, vtc_mustdrop_prefill_trace *trace)
{
    const vtci_mustdrop_filter *filter = &f->filter;
    const vtci_memory in[5] = {
        { "q_text", f->q->data, vtci_span_bytes(f->q) },
        { "k", f->k->data, vtci_span_bytes(f->k) },
        { "keys", filter->keys, filter->n_keys * sizeof(*filter->keys) },
        { "mass", filter->mass, filter->n_in * sizeof(*filter->mass) },
        { "lse", f->lse == NULL ? NULL : f->lse->data,
          f->lse == NULL ? 0 : vtci_span_bytes(f->lse) },
    };

    VTCI_TRY(vtci_mustdrop_filter_check_inputs(filter));
    VTCI_TRY(measure(f));
    return vtci_mustdrop_filter_run(&f->filter, plan, trace, in, 5);
}

vtc_status vtc_mustdrop_prefill_scratch(const vtc_mustdrop_prefill_params *params,
                                        const vtc_tensor *q_text, const vtc_tensor *k,
                                        const vtc_tensor *lse, size_t n_vision,
                                        const vtc_exec *exec, size_t *bytes)
{
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_prefill_scratch", exec, bytes));
    VTCI_TRY(open_prefill(&call, params, q_text, k, lse, n_vision, 0, &f));
    return measure_scratch(&f, bytes);
}

vtc_status vtc_mustdrop_prefill(const vtc_mustdrop_prefill_params *params, const vtc_tensor *q_text,
                                const vtc_tensor *k, const vtc_tensor *lse, size_t n_vision,
                                const int32_t *keys, size_t n_keys, const float *mass,
                                vtc_plan *plan, vtc_mustdrop_prefill_trace *trace,
                                const vtc_exec *exec)
{
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_prefill", exec));
    VTCI_TRY(open_prefill(&call, params, q_text, k, lse, n_vision, n_keys, &f));
    if (lse != NULL)
        VTCI_TRY(vtci_check_tensor(&call, "lse", lse, VTCI_BIT(VTC_F32), 2, 2, VTCI_IN));
    f.filter.keys = keys;
    f.filter.mass = mass;
    return run(&f, plan, trace);
}

/* ---- the planner ----------------------------------------------------------------------------- */

/* The views of the text rows of one image's inputs. */
struct text_views {
    vtc_tensor q, lse;
    bool has_lse;
};

/* *slice = the last n of t along `axis`. */
static void last_of(vtc_tensor *slice, const vtc_tensor *t, int axis, size_t n)
{
    const size_t first = t->dim[axis] - n;

    *slice = *t;
    slice->dim[axis] = n;
    if (t->data != NULL)
        slice->data = (char *)t->data + first * t->stride[axis] * vtc_dtype_size(t->dtype);
}

static vtc_status open_text(const vtci_call *call, const vtc_plan_inputs *image,
                            struct text_views *text)
{
    const vtc_tensor *lse = image->lm_log_sum_exp;
    size_t n_text = image->n_text;

    if (image->text_query != NULL) {
        VTCI_TRY(
            vtci_check_tensor(call, "text_query", image->text_query, VTCI_FLOATS, 3, 3, VTCI_IN));
        n_text = image->text_query->dim[1];
        text->q = *image->text_query;
    } else {
        VTCI_REQUIRE(call, n_text != 0, VTC_ERR_SHAPE, "n_text is 0: no text row votes");
        VTCI_REQUIRE(call, image->lm_query->dim[1] == image->lm_keys->dim[1], VTC_ERR_SHAPE,
                     "lm_query has %zu rows, lm_keys %zu", image->lm_query->dim[1],
                     image->lm_keys->dim[1]);
        last_of(&text->q, image->lm_query, 1, n_text);
    }
    text->has_lse = lse != NULL;
    if (lse == NULL)
        return VTC_OK;
    VTCI_REQUIRE(call, lse->dim[1] == image->lm_keys->dim[1] && lse->dim[1] >= n_text,
                 VTC_ERR_SHAPE, "lm_log_sum_exp has %zu rows, lm_keys %zu, the text %zu",
                 lse->dim[1], image->lm_keys->dim[1], n_text);
    last_of(&text->lse, lse, 1, n_text);
    return VTC_OK;
}

/* One image; its rows are the vision tokens. */
static vtc_status open_image(const vtci_call *call, const void *params,
                             const vtc_plan_inputs *image, size_t n_keep, struct text_views *text,
                             struct prefill *f)
{
    vtc_mustdrop_prefill_planner_params row = VTC_MUSTDROP_PREFILL_PLANNER_PARAMS_INIT;
    vtc_mustdrop_prefill_params p = VTC_MUSTDROP_PREFILL_PARAMS_INIT;

    VTCI_TRY(vtci_params_read(call, &row, sizeof(row), params));
    VTCI_TRY(open_text(call, image, text));
    p.global_thr = row.global_thr;
    p.individual_thr = row.individual_thr;
    p.n_keep = row.use_thresholds != 0 ? VTC_MUSTDROP_BY_RULE : n_keep;
    p.v_start = image->v_start;
    p.scale = image->scale;
    p.vision_only = 1;
    VTCI_TRY(open_prefill(call, &p, &text->q, image->lm_keys, text->has_lse ? &text->lse : NULL,
                          image->n_rows, image->key_rows == NULL ? 0 : image->n_key_rows, f));
    f->filter.keys = image->key_rows;
    f->filter.key_base = image->first_row;
    f->filter.mass = image->mass;
    return VTC_OK;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    struct text_views text;
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_prefill", exec));
    call.query = true;
    VTCI_TRY(open_image(&call, params, image, n_keep, &text, &f));
    *count = vtci_mustdrop_filter_count(&f.filter);
    return VTC_OK;
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    struct text_views text;
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_prefill", exec, bytes));
    VTCI_TRY(open_image(&call, params, image, n_keep, &text, &f));
    return measure_scratch(&f, bytes);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    struct text_views text;
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_prefill", exec));
    VTCI_TRY(open_image(&call, params, image, n_keep, &text, &f));
    VTCI_TRY(measure(&f));
    return vtci_mustdrop_check_statistics(&call, f.col_sum, f.col_max, f.filter.n);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    struct text_views text;
    struct prefill f;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_prefill", exec));
    VTCI_TRY(open_image(&call, params, image, n_keep, &text, &f));
    return run(&f, plan, NULL);
}

/* The logits of the text rows: over all keys or, with their log-sum-exps, the vision keys. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const bool text_alone = image->text_query != NULL;
    const vtc_tensor *q = text_alone ? image->text_query : image->lm_query;
    size_t n_text, n_keys;

    (void)params;
    (void)n_keep;
    if (q == NULL || image->lm_keys == NULL)
        return 0.0;
    n_text = text_alone ? q->dim[1] : image->n_text;
    n_keys = image->lm_log_sum_exp != NULL ? image->n_rows : image->lm_keys->dim[1];
    return (double)q->dim[0] * (double)n_text * (double)n_keys * (double)q->dim[2];
}

#define FIELD(name) offsetof(vtc_mustdrop_prefill_planner_params, name)
static const vtc_param planner_params[] = {
    { "use_thresholds", VTC_PARAM_FLAG, FIELD(use_thresholds), 0, 1, 0,
      "the thresholds decide, not the budget" },
    { "global_thr", VTC_PARAM_F32, FIELD(global_thr), 0, 1, 0.001,
      "share of all sums below which a token may be dropped" },
    { "individual_thr", VTC_PARAM_F32, FIELD(individual_thr), 0, 1, 0.001,
      "maximum below which a token may be dropped" },
};

const vtc_planner vtci_planner_mustdrop_prefill = {
    .struct_size = sizeof(vtc_planner),
    .name = "mustdrop-prefill",
    .title = "MustDrop, prefill",
    .paper = "Liu et al., Multi-Stage Vision Token Dropping, arXiv 2411.10803",
    .checked = "thresholds: the authors' code, run; fixed budget: our own",
    .needs = VTC_NEED_LM,
    .uses = VTC_NEED_KEY_ROWS,
    .params_size = sizeof(vtc_mustdrop_prefill_planner_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
