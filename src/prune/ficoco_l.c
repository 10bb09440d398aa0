/*
 * FiCoCo-L: removal of visual tokens inside the decoder of a language model.
 *
 * Source: Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM
 * Acceleration", arXiv 2411.17686v4, and the authors' code. With j visual and k text
 *
 *     s_i  = beta sum_j S_ij - (1 - beta) mean_k S_ik            the r largest are discarded
 *     C_ij = gamma S_ij + (1 - gamma) sum_k S_ik S_kj            what i and j mean to the same text
 *
 * on logits without the causal mask, so that visual rows score the later text too. Under the mask,
 * which the paper names, both text terms would vanish.
 *
 * OFFICIAL protects the first row, correlates with all visual rows but the row itself, and adds
 * without dividing; what goes to discarded rows is lost.
 */
#include "ficoco.h"

#include "planners.h"
#include "selection.h"

#include <math.h>
#include <string.h>

struct l {
    vtci_ficoco f;
    vtc_ficoco_l_params params;
    vtc_ficoco_l_inputs in;
    bool mean_vision, mean_text, mean_bridge;
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status read_params(const vtci_call *call, const vtc_ficoco_l_params *from,
                              vtc_ficoco_l_params *params)
{
    static const vtc_ficoco_l_params defaults = VTC_FICOCO_L_PARAMS_INIT;

    *params = defaults;
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_TRY(vtci_ficoco_check_params(call, params->profile, params->eps));
    VTCI_REQUIRE(call, isfinite(params->beta) && isfinite(params->gamma), VTC_ERR_RANGE,
                 "beta is %g, gamma is %g", (double)params->beta, (double)params->gamma);
    return VTC_OK;
}

static vtc_status check_budget(const vtci_call *call, size_t n_visual, size_t r)
{
    VTCI_REQUIRE(call, r <= n_visual, VTC_ERR_BUDGET, "cannot discard %zu of %zu visual rows", r,
                 n_visual);
    return VTC_OK;
}

/* Rows that are correlated with a discarded one. */
static size_t n_columns(size_t profile, size_t n_visual, size_t r)
{
    return profile == VTC_FICOCO_OFFICIAL ? n_visual : n_visual - r;
}

static vtc_status read_switches(const vtci_call *call, struct l *l)
{
    const vtc_ficoco_l_params *p = &l->params;
    const bool paper = p->profile == VTC_FICOCO_PAPER;

    VTCI_TRY(vtci_ficoco_switch(call, "mean_vision", p->mean_vision, paper, &l->mean_vision));
    VTCI_TRY(vtci_ficoco_switch(call, "mean_text", p->mean_text, true, &l->mean_text));
    VTCI_TRY(vtci_ficoco_switch(call, "mean_bridge", p->mean_bridge, paper, &l->mean_bridge));
    VTCI_TRY(vtci_ficoco_switch(call, "linear", p->linear, paper, &l->f.linear));
    if (p->profile == VTC_FICOCO_OFFICIAL) {
        l->mean_text = true;
        l->mean_vision = l->mean_bridge = l->f.linear = false;
    }
    return VTC_OK;
}

static vtc_status open_attention(struct l *l)
{
    const vtc_ficoco_l_inputs *in = &l->in;
    const vtci_call *call = l->f.call;

    if (in->s != NULL)
        return vtci_ficoco_open_matrix(&l->f, in->s);
    VTCI_REQUIRE(call, in->q != NULL && in->k != NULL, VTC_ERR_NULL, "q or k is NULL, and no s");
    VTCI_TRY(vtci_logits_open(call, in->q, in->k, NULL, NULL, in->scale, &l->f.l));
    VTCI_REQUIRE(call, in->q->dim[1] == in->k->dim[1], VTC_ERR_SHAPE, "q has %zu rows, k has %zu",
                 in->q->dim[1], in->k->dim[1]);
    l->f.form = l->params.profile == VTC_FICOCO_PAPER ? VTCI_FICOCO_PROBS : VTCI_FICOCO_LOGITS;
    l->f.n_keys = in->k->dim[1];
    return VTC_OK;
}

static vtc_status open_text(struct l *l)
{
    const vtc_ficoco_l_inputs *in = &l->in;
    vtci_ficoco *f = &l->f;
    const size_t end = vtci_add(in->v_start, in->n_visual);
    const bool all = in->n_text == VTC_FICOCO_ALL_TEXT;

    VTCI_REQUIRE(f->call, end <= f->n_keys && (all || in->n_text <= f->n_keys - end), VTC_ERR_SHAPE,
                 "%zu visual rows from %zu on and %zu of text in a sequence of %zu", in->n_visual,
                 in->v_start, all ? (size_t)0 : in->n_text, f->n_keys);
    f->n_text = all ? f->n_keys - end : in->n_text;
    f->text = f->n_keys - f->n_text;
    return VTC_OK;
}

static vtc_status open_sizes(struct l *l)
{
    vtci_ficoco *f = &l->f;
    const bool official = l->params.profile == VTC_FICOCO_OFFICIAL;

    VTCI_TRY(open_text(l));
    f->n = l->in.n_visual;
    f->r = l->params.n_discard;
    VTCI_TRY(check_budget(f->call, f->n, f->r));
    f->n_out = f->n - f->r;
    f->n_columns = n_columns(l->params.profile, f->n, f->r);
    f->q_first = f->k_first = l->in.v_start;
    f->official = f->skips_itself = official;
    f->divide = !official;
    f->eps = l->params.eps;
    f->mass = l->in.mass;
    f->bridged = true;
    f->gamma = l->params.gamma;
    f->bridge = 1.0f - f->gamma;
    if (l->mean_bridge && f->n_text != 0)
        f->bridge /= (float)f->n_text;
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_ficoco_l_params *params,
                           const vtc_ficoco_l_inputs *inputs, struct l *l)
{
    static const vtc_ficoco_l_inputs none = VTC_FICOCO_L_INPUTS_INIT;

    memset(l, 0, sizeof(*l));
    l->f.call = call;
    l->in = none;
    VTCI_TRY(read_params(call, params, &l->params));
    VTCI_REQUIRE_PTR(call, inputs);
    VTCI_TRY(vtci_params_read(call, &l->in, sizeof(l->in), inputs));
    VTCI_TRY(read_switches(call, l));
    VTCI_TRY(open_attention(l));
    return open_sizes(l);
}

/* ---- filter ---------------------------------------------------------------------------------- */

static vtc_status filter(struct l *l)
{
    vtci_ficoco *f = &l->f;
    float weight = l->params.beta, text_weight = l->params.beta - 1.0f;

    if (l->mean_vision)
        weight /= (float)vtci_max(1, f->n);
    if (l->mean_text)
        text_weight /= (float)vtci_max(1, f->n_text);
    vtci_ficoco_row_sums(f, weight, text_weight, f->score, NULL);
    for (size_t i = 0; f->official && i < vtci_min(l->params.protect, f->n); i++)
        f->score[i] = -INFINITY;
    return vtci_ficoco_check_scores(f);
}

/* All visual rows are targets; those that are discarded have no output. */
static void all_columns(vtci_ficoco *f)
{
    for (size_t j = 0; j < f->n; j++) {
        f->columns[j] = (int32_t)(f->k_first + j);
        f->slot[j] = f->place[j] >= 0 ? f->place[j] : -1;
    }
}

/* All that can fail in the data; writes scratch only. */
static vtc_status decide(struct l *l)
{
    vtci_ficoco *f = &l->f;

    VTCI_TRY(filter(l));
    vtci_ficoco_rank(f);
    if (f->official)
        all_columns(f);
    else
        vtci_ficoco_kept_columns(f);
    VTCI_TRY(vtci_ficoco_correlate(f));
    return vtci_ficoco_measure(f);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static vtc_status check_outputs(const struct l *l, const vtc_plan *plan,
                                const vtc_ficoco_trace *trace)
{
    const vtc_ficoco_l_inputs *in = &l->in;
    const vtci_ficoco_array inputs[] = {
        vtci_ficoco_view("q", in->s == NULL ? in->q : NULL),
        vtci_ficoco_view("k", in->s == NULL ? in->k : NULL),
        vtci_ficoco_view("s", in->s),
        { "mass", in->mass, in->mass == NULL ? 0 : vtci_mul(l->f.n, sizeof(float)) },
    };
    const vtci_ficoco_array extra = { "", NULL, 0 };

    return vtci_ficoco_check_outputs(&l->f, plan, trace, inputs, sizeof(inputs) / sizeof(*inputs),
                                     &extra);
}

vtc_status vtc_ficoco_l_count(const vtc_ficoco_l_params *params, size_t n_visual,
                              vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_ficoco_l_params p;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_ficoco_l_count", exec));
    VTCI_TRY(read_params(&call, params, &p));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(check_budget(&call, n_visual, p.n_discard));
    *count = vtci_ficoco_count(p.profile == VTC_FICOCO_OFFICIAL, p.eps, n_visual, p.n_discard, 0,
                               n_columns(p.profile, n_visual, p.n_discard));
    return VTC_OK;
}

vtc_status vtc_ficoco_l_scratch(const vtc_ficoco_l_params *params,
                                const vtc_ficoco_l_inputs *inputs, const vtc_exec *exec,
                                size_t *bytes)
{
    struct l l;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_ficoco_l_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, inputs, &l));
    arena = vtci_arena_open(&call);
    vtci_ficoco_lay_out(&arena, &l.f);
    return vtci_end_query(&call, &arena, bytes);
}

/* The plan, or, without one, only whether the data allow it. */
static vtc_status run(const vtci_call *call, const vtc_ficoco_l_params *params,
                      const vtc_ficoco_l_inputs *inputs, vtc_plan *plan, vtc_ficoco_trace *trace)
{
    vtc_ficoco_trace out = VTC_FICOCO_TRACE_INIT;
    vtci_arena arena;
    struct l l;

    VTCI_TRY(open_job(call, params, inputs, &l));
    arena = vtci_arena_open(call);
    vtci_ficoco_lay_out(&arena, &l.f);
    VTCI_TRY(vtci_arena_check(call, &arena));
    VTCI_TRY(vtci_params_read(call, &out, sizeof(out), trace));
    if (plan == NULL)
        return decide(&l);
    out.pos = NULL; /* V's alone */
    VTCI_TRY(check_outputs(&l, plan, &out));
    VTCI_TRY(decide(&l));
    vtci_ficoco_write(&l.f, plan, &out);
    if (trace != NULL)
        trace->n_targets = out.n_targets;
    return VTC_OK;
}

vtc_status vtc_ficoco_l(const vtc_ficoco_l_params *params, const vtc_ficoco_l_inputs *inputs,
                        vtc_plan *plan, vtc_ficoco_trace *trace, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_ficoco_l", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    return run(&call, params, inputs, plan, trace);
}

/* ---- the planner ----------------------------------------------------------------------------- */

/* What the table asks, as a call of the method's own. */
struct request {
    vtci_call call;
    vtc_ficoco_l_params params;
    vtc_ficoco_l_inputs inputs;
};

/* Without n_text all that is behind the image is text, which is right for a single image. */
static vtc_ficoco_l_inputs planner_inputs(const vtc_plan_inputs *image)
{
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;

    in.q = image->lm_query;
    in.k = image->lm_keys;
    in.scale = image->scale;
    in.v_start = image->v_start;
    in.n_visual = image->n_rows;
    in.n_text = image->n_text == 0 ? VTC_FICOCO_ALL_TEXT : image->n_text;
    in.mass = image->mass;
    return in;
}

static vtc_status open_request(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               const vtc_exec *exec, struct request *r)
{
    VTCI_TRY(vtci_begin(&r->call, "vtc_ficoco_l", exec));
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
    return vtc_ficoco_l_count(&r.params, image->n_rows, count, exec);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    struct request r;

    VTCI_TRY(open_request(params, image, n_keep, exec, &r));
    return vtc_ficoco_l_scratch(&r.params, &r.inputs, exec, bytes);
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

/* Both terms of the scores; then for what goes the logits with the text, their bridge, and what
 * stays. The paper's profile needs all logits, for the normalisers. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const vtc_tensor *q = image->lm_query;
    const size_t behind = q == NULL ? 0 : q->dim[1] - image->v_start - image->n_rows;
    const double n = (double)image->n_rows;
    const double m = (double)(image->n_text == 0 ? behind : image->n_text);
    const double d = q == NULL ? 0.0 : (double)(q->dim[0] * q->dim[2]);
    struct request r;

    if (open_request(params, image, n_keep, NULL, &r) != VTC_OK)
        return 0.0;
    return 2.0 * n * d + (n - (double)n_keep) * (2.0 * m + n) * d +
           (r.params.profile == VTC_FICOCO_PAPER ? (n + m) * (n + m) * d : 0.0);
}

#define FIELD(name) offsetof(vtc_ficoco_l_params, name)
static const vtc_param params_of_row[] = {
    { "profile", VTC_PARAM_SIZE, FIELD(profile), 0, 2, 0, "0 fixed, 1 official, 2 paper" },
    { "beta", VTC_PARAM_F32, FIELD(beta), 0, 1, (double)0.6f,
      "weight of the visual term of a score" },
    { "gamma", VTC_PARAM_F32, FIELD(gamma), 0, 1, (double)0.6f,
      "weight of the direct logit in a correlation" },
    { "eps", VTC_PARAM_F32, FIELD(eps), 0, 1, (double)0.998f,
      "quantile of its correlations that a target reaches" },
    { "mean_vision", VTC_PARAM_SIZE, FIELD(mean_vision), 0, 2, 0,
      "the visual term is a mean: 0 as the profile has it, 1 on, 2 off" },
    { "mean_text", VTC_PARAM_SIZE, FIELD(mean_text), 0, 2, 0,
      "the text term is a mean: 0 as the profile has it, 1 on, 2 off" },
    { "mean_bridge", VTC_PARAM_SIZE, FIELD(mean_bridge), 0, 2, 0,
      "the text term of a correlation is a mean: 0 as the profile has it, 1 on, 2 off" },
    { "linear", VTC_PARAM_SIZE, FIELD(linear), 0, 2, 0,
      "shares in proportion instead of softmax: 0 as the profile has it, 1 on, 2 off" },
    { "protect", VTC_PARAM_SIZE, FIELD(protect), 0, 1 << 20, 1,
      "official: first rows that go last" },
};

const vtc_planner vtci_planner_ficoco_l = {
    .struct_size = sizeof(vtc_planner),
    .name = "ficoco-l",
    .title = "FiCoCo-L",
    .paper = "Han et al., Filter, Correlate, Compress: Training-Free Token Reduction for MLLM "
             "Acceleration, arXiv 2411.17686",
    .checked = "official: the authors' code, run; fixed and paper: our NumPy oracle",
    .needs = VTC_NEED_LM,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_ficoco_l_params),
    .params = params_of_row,
    .n_params = sizeof(params_of_row) / sizeof(*params_of_row),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
