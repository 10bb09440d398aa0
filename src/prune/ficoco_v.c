/*
 * FiCoCo-V: removal of tokens inside a vision encoder.
 *
 * Source: Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM
 * Acceleration", arXiv 2411.17686v4, and the authors' code. The two differ, see vtc/ficoco.h; what
 * is common to FIXED and PAPER is
 *
 *     s_i = lam p_i - (1 - lam) a_i       p: mean of row i over patches, a: what [CLS] pays to i
 *     the largest s of each window is doubled (halved below 0); the r largest are discarded
 *     J_i = kept j with S_ij at or above the eps-quantile, alpha_i = softmax or S / sum S over J_i
 *
 * Means of rows are products with the mean key, so only the r x (N - r) logits of discarded rows
 * are ever computed: three quarters of the time, at the rate of sgemm.
 */
#include "ficoco_memory.h"

#include "../linalg/rows.h"
#include "../score/key_cosine.h"
#include "../score/local_penalty.h"
#include "planners.h"
#include "selection.h"

#include <math.h>
#include <string.h>

struct v {
    vtci_ficoco f;
    vtc_ficoco_v_params params;
    vtc_ficoco_v_inputs in;
    bool l2;
    float lam;
    vtci_windows windows;
    int32_t *window_best;
    vtci_heads keys; /* without [CLS] */
    vtci_key_cosine cosine;
    vtci_ficoco_memory memory;
};

static bool is_official(const struct v *v)
{
    return v->params.profile == VTC_FICOCO_OFFICIAL;
}

static bool has_cls(const struct v *v)
{
    return v->in.cls != VTC_FICOCO_CLS_NONE;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status read_params(const vtci_call *call, const vtc_ficoco_v_params *from,
                              vtc_ficoco_v_params *params)
{
    static const vtc_ficoco_v_params defaults = VTC_FICOCO_V_PARAMS_INIT;

    *params = defaults;
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_TRY(vtci_ficoco_check_params(call, params->profile, params->eps));
    VTCI_REQUIRE(call, params->lam <= 1.0f, VTC_ERR_RANGE, "lam is %g, at most 1 is needed",
                 (double)params->lam);
    return VTC_OK;
}

static vtc_status check_cls(const vtci_call *call, size_t profile, vtc_ficoco_cls cls)
{
    VTCI_REQUIRE(call, (unsigned)cls <= VTC_FICOCO_CLS_NONE, VTC_ERR_RANGE,
                 "cls is %d, 0 to 2 is needed", (int)cls);
    VTCI_REQUIRE(call, profile != VTC_FICOCO_OFFICIAL || cls != VTC_FICOCO_CLS_NONE,
                 VTC_ERR_UNSUPPORTED, "the official profile needs a [CLS]");
    return VTC_OK;
}

/* Rows that are correlated with a discarded one. */
static size_t n_columns(size_t profile, size_t n_patches, size_t r)
{
    return profile == VTC_FICOCO_OFFICIAL ? vtci_add(n_patches, 1) : n_patches - r;
}

static vtc_status check_budget(const vtci_call *call, size_t n_patches, size_t r)
{
    VTCI_REQUIRE(call, r <= n_patches, VTC_ERR_BUDGET, "cannot discard %zu of %zu patches", r,
                 n_patches);
    return VTC_OK;
}

static vtc_status read_switches(const vtci_call *call, struct v *v)
{
    const bool paper = v->params.profile == VTC_FICOCO_PAPER;

    VTCI_TRY(vtci_ficoco_switch(call, "l2", v->params.l2, !paper, &v->l2));
    VTCI_TRY(vtci_ficoco_switch(call, "linear", v->params.linear, paper, &v->f.linear));
    if (is_official(v)) {
        v->l2 = true;
        v->f.linear = false;
    }
    v->lam = v->params.lam >= 0.0f ? v->params.lam : paper ? 0.35f : 0.65f;
    return VTC_OK;
}

/* q and k; the key of [CLS] is needed where its column is. */
static vtc_status open_qk(struct v *v)
{
    const vtc_ficoco_v_inputs *in = &v->in;
    const bool apart = in->cls == VTC_FICOCO_CLS_APART;
    const vtci_call *call = v->f.call;

    VTCI_REQUIRE(call, in->q != NULL && in->k != NULL, VTC_ERR_NULL, "q or k is NULL, and no s");
    VTCI_REQUIRE(call, !apart || in->cls_q != NULL, VTC_ERR_NULL, "cls_q is NULL");
    VTCI_REQUIRE(call, !apart || in->cls_k != NULL || v->params.profile == VTC_FICOCO_FIXED,
                 VTC_ERR_NULL, "cls_k is NULL, only the fixed profile does without");
    VTCI_TRY(vtci_logits_open(call, in->q, in->k, apart ? in->cls_q : NULL,
                              apart ? in->cls_k : NULL, in->scale, &v->f.l));
    VTCI_REQUIRE(call, in->q->dim[1] == in->k->dim[1], VTC_ERR_SHAPE, "q has %zu rows, k has %zu",
                 in->q->dim[1], in->k->dim[1]);
    v->f.form = v->params.profile == VTC_FICOCO_PAPER ? VTCI_FICOCO_PROBS : VTCI_FICOCO_LOGITS;
    v->f.n_keys = vtci_head_rows_count(&v->f.l.k);
    v->keys = v->f.l.k.main;
    return VTC_OK;
}

static vtc_status open_s(struct v *v)
{
    const vtci_call *call = v->f.call;

    VTCI_REQUIRE(call, v->in.cls != VTC_FICOCO_CLS_APART, VTC_ERR_UNSUPPORTED,
                 "s has the row of [CLS], or there is none");
    VTCI_TRY(vtci_ficoco_open_matrix(&v->f, v->in.s));
    if (has_cls(v))
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "k", v->in.k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, v->in.k->dim[0] != 0 && v->in.k->dim[1] == v->f.n_keys, VTC_ERR_SHAPE,
                 "k is [%zu, %zu, ..], s has %zu rows", v->in.k->dim[0], v->in.k->dim[1],
                 v->f.n_keys);
    v->keys = vtci_heads_of(v->in.k);
    return VTC_OK;
}

static vtc_status open_sizes(struct v *v)
{
    vtci_ficoco *f = &v->f;
    const bool row = v->in.cls == VTC_FICOCO_CLS_ROW;
    const size_t n_rows = v->in.s != NULL ? f->n_keys : v->in.k->dim[1];

    VTCI_REQUIRE(f->call, !row || n_rows != 0, VTC_ERR_SHAPE, "there are no rows, not even [CLS]");
    f->head = row;
    f->n = n_rows - f->head;
    f->q_first = has_cls(v);
    f->k_first = f->head;
    if (v->in.s == NULL)
        f->k_first += f->l.k.apart.n_rows;
    f->r = v->params.n_discard;
    VTCI_TRY(check_budget(f->call, f->n, f->r));
    f->n_out = f->head + f->n - f->r;
    f->n_columns = n_columns(v->params.profile, f->n, f->r);
    return VTC_OK;
}

static vtc_status open_penalty(struct v *v)
{
    const vtci_call *call = v->f.call;

    v->windows = (vtci_windows){ v->in.grid_h, v->in.grid_w, v->params.window };
    if (is_official(v)) {
        v->windows = (vtci_windows){ 0, 0, 1 };
        VTCI_TRY(vtci_windows_check(call, &v->windows, v->params.coef));
        return vtci_ficoco_memory_open(call, v->in.memory, v->in.n_cells, &v->memory);
    }
    VTCI_TRY(vtci_windows_check(call, &v->windows, v->params.coef));
    return call->query ? VTC_OK : vtci_windows_check_cells(call, &v->windows, v->in.pos, v->f.n);
}

static vtc_status open_job(const vtci_call *call, const vtc_ficoco_v_params *params,
                           const vtc_ficoco_v_inputs *inputs, struct v *v)
{
    static const vtc_ficoco_v_inputs none = VTC_FICOCO_V_INPUTS_INIT;

    memset(v, 0, sizeof(*v));
    v->f.call = call;
    v->in = none;
    VTCI_TRY(read_params(call, params, &v->params));
    VTCI_REQUIRE_PTR(call, inputs);
    VTCI_TRY(vtci_params_read(call, &v->in, sizeof(v->in), inputs));
    VTCI_TRY(check_cls(call, v->params.profile, v->in.cls));
    VTCI_TRY(read_switches(call, v));
    VTCI_TRY(v->in.s != NULL ? open_s(v) : open_qk(v));
    VTCI_TRY(open_sizes(v));
    v->f.official = is_official(v);
    v->f.divide = true;
    v->f.eps = v->params.eps;
    v->f.mass = v->in.mass;
    v->f.pos = v->in.pos;
    return open_penalty(v);
}

static void lay_out(vtci_arena *arena, struct v *v)
{
    vtci_ficoco_lay_out(arena, &v->f);
    v->f.a_cls = vtci_take(arena, v->f.n, sizeof(float));
    if (!has_cls(v))
        vtci_key_cosine_lay_out(arena, v->f.call, &v->keys, &v->cosine);
    if (is_official(v))
        vtci_ficoco_memory_lay_out(arena, &v->memory);
    else
        v->window_best = vtci_take(arena, vtci_windows_count(&v->windows), sizeof(int32_t));
}

/* ---- filter ---------------------------------------------------------------------------------- */

/* 1 / |x|, at most 1e12. */
static double inverse_norm(const float *x, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return 1.0 / fmax(sqrt(sum), 1e-12);
}

/* What stands for the attention of a [CLS] that is not there. */
static vtc_status substitute_cls(struct v *v)
{
    vtci_ficoco *f = &v->f;

    v->cosine.y = f->a_cls;

    const size_t bad = vtci_key_cosine_run(&v->cosine);

    VTCI_REQUIRE(f->call, bad == f->n, VTC_ERR_DATA,
                 "key %zu, or the mean of all, has no direction", bad);
    return VTC_OK;
}

static vtc_status filter(struct v *v)
{
    vtci_ficoco *f = &v->f;
    double a_weight = 1.0 - v->lam, p_weight = v->lam;

    if (!has_cls(v))
        VTCI_TRY(substitute_cls(v));
    vtci_ficoco_row_sums(f, 1.0f / (float)f->n, 0.0f, f->score, has_cls(v) ? f->a_cls : NULL);
    if (v->l2) {
        a_weight *= inverse_norm(f->a_cls, f->n);
        p_weight *= inverse_norm(f->score, f->n);
    }
    for (size_t i = 0; i < f->n; i++)
        f->score[i] = (float)(p_weight * f->score[i] - a_weight * f->a_cls[i]);
    VTCI_TRY(vtci_ficoco_check_scores(f));
    if (is_official(v))
        vtci_ficoco_memory_penalty(&v->memory, v->params.coef, f->score, f->n);
    else
        vtci_local_penalty(&v->windows, v->in.pos, f->n, v->params.coef, f->score, v->window_best);
    return VTC_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The released code does nothing for r = 0, not even to its memory. */
static bool does_nothing(const struct v *v)
{
    return is_official(v) && v->f.r == 0;
}

/* All that can fail in the data; writes scratch only. */
static vtc_status decide(struct v *v)
{
    vtci_ficoco *f = &v->f;

    if (does_nothing(v)) {
        memset(f->score, 0, f->n * sizeof(*f->score));
        vtci_ficoco_rank(f);
        return vtci_ficoco_measure(f);
    }
    VTCI_TRY(filter(v));
    if (is_official(v)) {
        vtci_ficoco_score_order(f);
    } else {
        vtci_ficoco_rank(f);
        vtci_ficoco_kept_columns(f);
    }
    VTCI_TRY(vtci_ficoco_correlate(f));
    if (is_official(v))
        VTCI_TRY(vtci_ficoco_check_slots(f));
    return vtci_ficoco_measure(f);
}

static vtc_status check_outputs(const struct v *v, const vtc_plan *plan,
                                const vtc_ficoco_trace *trace)
{
    const vtc_ficoco_v_inputs *in = &v->in;
    const size_t word = sizeof(float);
    const bool memory = is_official(v) && in->memory != NULL;
    const vtci_ficoco_array inputs[] = {
        vtci_ficoco_view("q", in->s == NULL ? in->q : NULL),
        vtci_ficoco_view("k", in->s == NULL || !has_cls(v) ? in->k : NULL),
        vtci_ficoco_view("cls_q", in->cls == VTC_FICOCO_CLS_APART ? in->cls_q : NULL),
        vtci_ficoco_view("cls_k", in->cls == VTC_FICOCO_CLS_APART ? in->cls_k : NULL),
        vtci_ficoco_view("s", in->s),
        { "mass", in->mass, in->mass == NULL ? 0 : vtci_mul(v->f.head + v->f.n, word) },
        { "pos", in->pos, in->pos == NULL ? 0 : vtci_mul(v->f.n, word) },
    };
    const vtci_ficoco_array extra = { "memory", in->memory, memory ? in->n_cells * word : 0 };

    return vtci_ficoco_check_outputs(&v->f, plan, trace, inputs, sizeof(inputs) / sizeof(*inputs),
                                     &extra);
}

vtc_status vtc_ficoco_v_count(const vtc_ficoco_v_params *params, size_t n_patches,
                              vtc_ficoco_cls cls, vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_ficoco_v_params p;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_ficoco_v_count", exec));
    VTCI_TRY(read_params(&call, params, &p));
    VTCI_TRY(check_cls(&call, p.profile, cls));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(check_budget(&call, n_patches, p.n_discard));
    *count =
        vtci_ficoco_count(p.profile == VTC_FICOCO_OFFICIAL, p.eps, n_patches, p.n_discard,
                          cls == VTC_FICOCO_CLS_ROW, n_columns(p.profile, n_patches, p.n_discard));
    return VTC_OK;
}

vtc_status vtc_ficoco_v_scratch(const vtc_ficoco_v_params *params,
                                const vtc_ficoco_v_inputs *inputs, const vtc_exec *exec,
                                size_t *bytes)
{
    struct v v;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_ficoco_v_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, inputs, &v));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &v);
    return vtci_end_query(&call, &arena, bytes);
}

static void write_results(struct v *v, vtc_plan *plan, vtc_ficoco_trace *out,
                          vtc_ficoco_trace *trace)
{
    if (has_cls(v))
        v->f.a_cls = NULL; /* nothing stands for it */
    vtci_ficoco_write(&v->f, plan, out);
    if (trace != NULL)
        trace->n_targets = out->n_targets;
    if (is_official(v) && v->in.memory != NULL && !does_nothing(v))
        memcpy(v->in.memory, v->memory.cell, v->memory.n_cells * sizeof(float));
}

/* The plan, or, without one, only whether the data allow it. */
static vtc_status run(const vtci_call *call, const vtc_ficoco_v_params *params,
                      const vtc_ficoco_v_inputs *inputs, vtc_plan *plan, vtc_ficoco_trace *trace)
{
    vtc_ficoco_trace out = VTC_FICOCO_TRACE_INIT;
    vtci_arena arena;
    struct v v;

    VTCI_TRY(open_job(call, params, inputs, &v));
    arena = vtci_arena_open(call);
    lay_out(&arena, &v);
    VTCI_TRY(vtci_arena_check(call, &arena));
    VTCI_TRY(vtci_params_read(call, &out, sizeof(out), trace));
    if (plan == NULL)
        return decide(&v);
    VTCI_TRY(check_outputs(&v, plan, &out));
    VTCI_TRY(decide(&v));
    write_results(&v, plan, &out, trace);
    return VTC_OK;
}

vtc_status vtc_ficoco_v(const vtc_ficoco_v_params *params, const vtc_ficoco_v_inputs *inputs,
                        vtc_plan *plan, vtc_ficoco_trace *trace, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_ficoco_v", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    return run(&call, params, inputs, plan, trace);
}

/* ---- the planner: patches alone, [CLS] apart where there is one ------------------------------ */

/* What the table asks, as a call of the method's own. */
struct request {
    vtci_call call;
    vtc_ficoco_v_params params;
    vtc_ficoco_v_inputs inputs;
};

static vtc_ficoco_v_inputs planner_inputs(const vtc_plan_inputs *image)
{
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;

    in.cls = image->cls_query == NULL ? VTC_FICOCO_CLS_NONE : VTC_FICOCO_CLS_APART;
    in.q = image->queries;
    in.k = image->keys;
    in.cls_q = image->cls_query;
    in.cls_k = image->cls_key;
    in.scale = image->scale;
    in.grid_h = image->grid_h;
    in.grid_w = image->grid_w;
    in.mass = image->mass;
    return in;
}

static vtc_status open_request(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               const vtc_exec *exec, struct request *r)
{
    VTCI_TRY(vtci_begin(&r->call, "vtc_ficoco_v", exec));
    VTCI_TRY(read_params(&r->call, params, &r->params));
    VTCI_TRY(vtci_check_keep(&r->call, image->n_rows, n_keep));
    r->params.n_discard = image->n_rows - n_keep;
    r->inputs = planner_inputs(image);
    return VTC_OK;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    struct request r;

    VTCI_TRY(open_request(params, image, n_keep, exec, &r));
    return vtc_ficoco_v_count(&r.params, image->n_rows, r.inputs.cls, count, exec);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    struct request r;

    VTCI_TRY(open_request(params, image, n_keep, exec, &r));
    return vtc_ficoco_v_scratch(&r.params, &r.inputs, exec, bytes);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    struct request r;

    VTCI_TRY(open_request(params, image, n_keep, exec, &r));
    return run(&r.call, &r.params, &r.inputs, plan, NULL);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    return planner_plan(params, image, n_keep, NULL, exec);
}

/* Both terms of the scores, then the logits of what goes with what stays; the paper's profile needs
 * all of them, for the normalisers. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const vtc_tensor *k = image->keys;
    const double n = (double)image->n_rows, d = k == NULL ? 0.0 : (double)(k->dim[0] * k->dim[2]);
    struct request r;

    if (open_request(params, image, n_keep, NULL, &r) != VTC_OK)
        return 0.0;
    return 2.0 * n * d + (n - (double)n_keep) * n * d +
           (r.params.profile == VTC_FICOCO_PAPER ? n * n * d : 0.0);
}

#define FIELD(name) offsetof(vtc_ficoco_v_params, name)
static const vtc_param params_of_row[] = {
    { "profile", VTC_PARAM_SIZE, FIELD(profile), 0, 2, 0,
      "0 fixed, 1 official (as released, on a fresh score memory), 2 paper" },
    { "lam", VTC_PARAM_F32, FIELD(lam), -1, 1, -1,
      "weight of the patch term; below 0: 0.65, paper 0.35" },
    { "coef", VTC_PARAM_F32, FIELD(coef), 1e-6, 1e6, 2, "coefficient of the local penalty" },
    { "eps", VTC_PARAM_F32, FIELD(eps), 0, 1, (double)0.998f,
      "quantile of its correlations that a target reaches" },
    { "window", VTC_PARAM_SIZE, FIELD(window), 1, 1 << 20, 2,
      "side of the penalty's windows (official: 2)" },
    { "l2", VTC_PARAM_SIZE, FIELD(l2), 0, 2, 0,
      "both terms scaled to unit length: 0 as the profile has it, 1 on, 2 off" },
    { "linear", VTC_PARAM_SIZE, FIELD(linear), 0, 2, 0,
      "shares in proportion instead of softmax: 0 as the profile has it, 1 on, 2 off" },
};

const vtc_planner vtci_planner_ficoco_v = {
    .struct_size = sizeof(vtc_planner),
    .name = "ficoco-v",
    .title = "FiCoCo-V",
    .paper = "Han et al., Filter, Correlate, Compress: Training-Free Token Reduction for MLLM "
             "Acceleration, arXiv 2411.17686",
    .checked = "official: the authors' code, run; fixed and paper: our NumPy oracle",
    .needs = VTC_NEED_QUERIES | VTC_NEED_KEYS | VTC_NEED_GRID,
    .uses = VTC_NEED_CLS,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_ficoco_v_params),
    .params = params_of_row,
    .n_params = sizeof(params_of_row) / sizeof(*params_of_row),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
