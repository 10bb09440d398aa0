/*
 * The planner table's row of VisionZip, from the keys of an encoder layer: the attention of [CLS]
 * where it is not given, and the mean of the keys, come before the plan. Inputs hold patches only.
 * A budget is divided into dominant and contextual tokens.
 */
#include "../base/tensor.h"
#include "../score/cls_attention.h"
#include "lm_score.h"
#include "planners.h"
#include "selection.h"
#include "visionzip.h"

#include <math.h>

struct row {
    vtci_call call;
    const vtc_plan_inputs *image;
    vtc_visionzip_params params;
    vtc_tensor attention; /* [N] sum over heads, in scratch, unless it is given */
    vtc_tensor metric;    /* [N, d] in scratch */
    vtc_exec rest;        /* with the scratch memory that is left */
};

static vtc_status read_params(const void *from, size_t n_rows, size_t n_keep, struct row *r,
                              const vtc_exec *exec)
{
    static const vtc_visionzip_params defaults = VTC_VISIONZIP_PARAMS_INIT;
    vtc_visionzip_params *p = &r->params;

    VTCI_TRY(vtci_begin(&r->call, "visionzip", exec));
    *p = defaults;
    VTCI_TRY(vtci_params_read(&r->call, p, sizeof(*p), from));
    VTCI_REQUIRE(&r->call, p->contextual_share >= 0.0f && p->contextual_share <= 1.0f,
                 VTC_ERR_RANGE, "contextual_share is %g, 0 to 1 is needed",
                 (double)p->contextual_share);
    VTCI_TRY(vtci_check_keep(&r->call, n_rows, n_keep));
    p->contextual = (size_t)nearbyint((double)n_keep * p->contextual_share);
    p->dominant = n_keep - p->contextual;
    p->class_token = 0;
    return VTC_OK;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    struct row r;

    VTCI_TRY(read_params(params, image->n_rows, n_keep, &r, exec));
    return vtc_visionzip_count(&r.params, image->n_rows, count, exec);
}

static vtc_cls_attention_params cls_params(const vtc_plan_inputs *image)
{
    vtc_cls_attention_params params = VTC_CLS_ATTENTION_PARAMS_INIT;

    params.scale = image->scale;
    params.heads = VTC_HEADS_SUM;
    return params;
}

/* Lays out what comes before the plan, views without data in a query. */
static void lay_out(vtci_arena *arena, struct row *r)
{
    const vtc_tensor *keys = r->image->keys;
    const size_t n = r->image->n_rows, d = keys->dim[2];

    r->metric = vtc_f32_2d(vtci_take(arena, vtci_mul(n, d), sizeof(float)), n, d);
    r->attention = r->image->cls_attention != NULL
                       ? *r->image->cls_attention
                       : vtc_f32_1d(vtci_take(arena, n, sizeof(float)), n);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    const vtc_cls_attention_params cls = cls_params(image);
    size_t most = 0, need;
    vtci_arena arena;
    struct row r;

    VTCI_TRY(read_params(params, image->n_rows, n_keep, &r, exec));
    r.call.query = true;
    r.image = image;
    arena = vtci_arena_open(&r.call);
    lay_out(&arena, &r);
    VTCI_TRY(vtc_mean_keys_scratch(image->keys, &r.metric, exec, &need));
    vtci_at_least(&most, need);
    if (image->cls_attention == NULL) {
        VTCI_TRY(vtci_cls_attention_query(&cls, image->cls_query, image->keys, image->cls_key, true,
                                          exec, &need));
        vtci_at_least(&most, need);
    }
    VTCI_TRY(vtc_visionzip_scratch(&r.params, &r.attention, &r.metric, exec, &need));
    vtci_at_least(&most, need);
    vtci_take_bytes(&arena, most);
    return vtci_end_query(&r.call, &arena, bytes);
}

/* Attention and metric of the image, in the scratch memory. */
static vtc_status look(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                       struct row *r, const vtc_exec *exec)
{
    const vtc_cls_attention_params cls = cls_params(image);
    vtci_arena arena;

    VTCI_TRY(read_params(params, image->n_rows, n_keep, r, exec));
    r->image = image;
    arena = vtci_arena_open(&r->call);
    lay_out(&arena, r);
    VTCI_TRY(vtci_arena_check(&r->call, &arena));
    r->rest = vtci_exec_behind(&r->call, &arena);
    if (image->cls_attention != NULL)
        return vtc_mean_keys(image->keys, &r->metric, &r->rest);
    return vtci_cls_attention_and_mean(&cls, image->cls_query, image->keys, image->cls_key,
                                       r->attention.data, r->metric.data, &r->rest);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    struct row r;

    VTCI_TRY(look(params, image, n_keep, &r, exec));
    return vtci_visionzip_check(&r.params, &r.attention, &r.metric, &r.rest);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    struct row r;

    VTCI_TRY(look(params, image, n_keep, &r, exec));
    return vtc_visionzip(&r.params, &r.attention, &r.metric, image->mass, plan, NULL, &r.rest);
}

static const vtc_param planner_params[] = {
    { "contextual_share", VTC_PARAM_F32, offsetof(vtc_visionzip_params, contextual_share), 0, 1,
      0.15625, "share of the budget that is merged tokens" },
};

/* The row of [CLS], and what is not dominant against the contextual targets of the default share.
 */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const vtc_tensor *k = image->keys;
    const double n = (double)image->n_rows, targets = 0.15625 * (double)n_keep;

    (void)params;
    return k == NULL ? 0.0
                     : (double)k->dim[0] * n * (double)k->dim[2] + n * targets * (double)k->dim[2];
}

const vtc_planner vtci_planner_visionzip = {
    .struct_size = sizeof(vtc_planner),
    .name = "visionzip",
    .title = "VisionZip",
    .paper = "Yang et al., VisionZip: Longer is Better but Not Necessary, CVPR 2025",
    .checked = "the authors' forward pass, run (PyTorch 1.13)",
    .needs = VTC_NEED_KEYS | VTC_NEED_CLS,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_visionzip_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
