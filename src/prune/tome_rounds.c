/*
 * ToMe in rounds, for budgets below one half, and the planner "tome".
 *
 * A round merges at most every second token, so n_keep is reached in about log2(N / n_keep) rounds,
 * each planned on what the one before left: metric rows are averaged by mass like tokens, and
 * masses add up. Composing the plans needs no plans: each input row ends in exactly one output, so
 * it is enough to know of which token it is part (vtci_tome.owner), and the mean over a group,
 * weighted by mass, is the same however the group came about.
 *
 * The paper spreads its rounds over the layers of a network. Rounds without a network between them
 * are libvtc's own choice.
 */
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../plan/plan.h"
#include "planners.h"
#include "selection.h"
#include "tome.h"

#include <math.h>
#include <string.h>

struct rounds {
    vtci_tome tome;
    size_t n_keep;
    bool several; /* one round is not enough       */
    float *mean;  /* [N, D] metric of merged rows  */
    float *mass;  /* [N] and their masses          */
};

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status check_budget(const vtci_call *call, const vtc_tome_params *p, size_t n_in,
                               size_t n_keep)
{
    const size_t fewest = p->distill_token != 0 ? 3 : p->class_token != 0 ? 2 : 1;

    VTCI_TRY(vtci_check_keep(call, n_in, n_keep));
    VTCI_REQUIRE(call, n_keep == n_in || n_keep >= fewest, VTC_ERR_BUDGET,
                 "cannot keep %zu rows: merging leaves %zu or more of %zu", n_keep, fewest, n_in);
    return VTC_OK;
}

/* Rows that the next round merges. */
static size_t next_merge(const struct rounds *s)
{
    const vtci_tome *t = &s->tome;

    return vtci_tome_clip(t->class_token, t->distill_token, t->n_tokens, t->n_tokens - s->n_keep);
}

static vtc_status open_rounds(const vtci_call *call, const vtc_tome_params *params,
                              const vtc_tensor *metric, size_t n_keep, struct rounds *s)
{
    vtc_tome_params p = VTC_TOME_PARAMS_INIT;

    VTCI_TRY(vtci_tome_open(call, &p, params, metric, &s->tome));
    VTCI_TRY(check_budget(call, &p, s->tome.n_in, n_keep));
    s->n_keep = n_keep;
    s->several = next_merge(s) < s->tome.n_in - n_keep;
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct rounds *s)
{
    const size_t n = s->tome.n_in;

    s->mean = NULL;
    s->mass = NULL;
    if (s->n_keep == n)
        return;
    vtci_tome_lay_out(arena, &s->tome);
    if (s->several) {
        s->mean = vtci_take(arena, vtci_mul(n, s->tome.metric.n_cols), sizeof(*s->mean));
        s->mass = vtci_take(arena, n, sizeof(*s->mass));
    }
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* From here on the metric is read from a copy in which rows can merge. */
static void copy_metric(struct rounds *s, const float *mass)
{
    const size_t d = s->tome.metric.n_cols;

    for (size_t i = 0; i < s->tome.n_in; i++) {
        float *to = s->mean + i * d;
        const float *from =
            vtci_load_row(vtci_row(&s->tome.metric, 0, i), s->tome.metric.dtype, d, to);

        if (from != to)
            memcpy(to, from, d * sizeof(*to));
        s->mass[i] = mass == NULL ? 1.0f : mass[i];
    }
    s->tome.metric.data = (char *)s->mean;
    s->tome.metric.dtype = VTC_F32;
    s->tome.metric.row_stride = d * sizeof(*s->mean);
}

/* The metric and the mass of row `to` become those of both rows together. */
static void merge_rows(struct rounds *s, size_t from, size_t to)
{
    const size_t d = s->tome.metric.n_cols;
    const float total = s->mass[to] + s->mass[from], share = s->mass[from] / total;
    const float *row = s->mean + from * d;
    float *mean = s->mean + to * d;

    vtci_kernels_get()->scale(mean, mean, s->mass[to] / total, d);
    vtci_kernels_get()->combine(mean, &row, &share, 1, d, 1);
    s->mass[to] = total;
}

static void merge_metric(struct rounds *s, size_t r)
{
    const vtci_tome *t = &s->tome;

    for (size_t i = 0; i < r; i++) {
        const size_t a = (size_t)t->order[i], b = (size_t)t->partner[a];

        merge_rows(s, (size_t)t->keep[2 * a], (size_t)t->keep[2 * b + 1]);
    }
}

/* All rounds. Data can only be wrong in the first: later a row without direction is the sum of
 * opposite rows, and its zero unit row is similar to nothing. */
static vtc_status run_rounds(struct rounds *s, const float *mass, float *score)
{
    vtci_tome *t = &s->tome;

    vtci_tome_start(t);
    for (bool first = true; t->n_tokens > s->n_keep; first = false) {
        const size_t r = next_merge(s), bad = vtci_tome_unit_rows(t);

        if (first)
            VTCI_TRY(vtci_tome_check_rows(t, bad));
        vtci_tome_match(t, r);
        if (first)
            vtci_tome_write_score(t, score);
        if (first && s->several)
            copy_metric(s, mass);
        if (t->n_tokens - r > s->n_keep)
            merge_metric(s, r);
        vtci_tome_merge(t, r);
    }
    return VTC_OK;
}

vtc_status vtc_tome_rounds_scratch(const vtc_tome_params *params, const vtc_tensor *metric,
                                   size_t n_keep, const vtc_exec *exec, size_t *bytes)
{
    struct rounds s;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_tome_rounds_scratch", exec, bytes));
    VTCI_TRY(open_rounds(&call, params, metric, n_keep, &s));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_tome_rounds(const vtc_tome_params *params, const vtc_tensor *metric,
                           const float *mass, size_t n_keep, vtc_plan *plan, const vtc_exec *exec)
{
    struct rounds s;
    vtci_tome *t = &s.tome;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_rounds", exec));
    VTCI_TRY(open_rounds(&call, params, metric, n_keep, &s));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(vtci_tome_check_plan(t, plan, n_keep, metric, mass));
    if (n_keep == t->n_in)
        return vtci_tome_write_identity(t, mass, plan);
    VTCI_TRY(run_rounds(&s, mass, plan->score));
    return vtci_tome_write_plan(t, mass, plan);
}

/* ---- the planner ----------------------------------------------------------------------------- */

/* The metric of an image: the mean of its keys, for which room is taken, or else its features. */
static vtc_tensor lay_out_metric(vtci_arena *arena, const vtc_plan_inputs *image)
{
    const vtc_tensor *keys = image->keys;

    if (keys == NULL)
        return *image->features;
    return vtc_f32_2d(vtci_take(arena, vtci_mul(keys->dim[1], keys->dim[2]), sizeof(float)),
                      keys->dim[1], keys->dim[2]);
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    const size_t n = image->n_rows;
    vtc_tome_params p = VTC_TOME_PARAMS_INIT;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_rounds", exec));
    VTCI_TRY(vtci_params_read(&call, &p, sizeof(p), params));
    VTCI_TRY(check_budget(&call, &p, n, n_keep));
    *count = (vtc_plan_count){ n, n_keep, n_keep == n ? 0 : n, 1 };
    return VTC_OK;
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    size_t mean_bytes = 0, round_bytes;

    VTCI_TRY(vtci_begin_query(&call, "vtc_tome_rounds", exec, bytes));

    vtci_arena arena = vtci_arena_open(&call);
    const vtc_tensor metric = lay_out_metric(&arena, image);

    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (image->keys != NULL)
        VTCI_TRY(vtc_mean_keys_scratch(image->keys, &metric, exec, &mean_bytes));
    VTCI_TRY(vtc_tome_rounds_scratch(params, &metric, n_keep, exec, &round_bytes));
    *bytes = vtci_add(arena.used, vtci_max(mean_bytes, round_bytes));
    return VTC_OK;
}

/* Computes the metric; *rest has the scratch memory behind it. */
static vtc_status open_metric(const vtc_plan_inputs *image, const vtc_exec *exec,
                              vtc_tensor *metric, vtc_exec *rest)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_rounds", exec));

    vtci_arena arena = vtci_arena_open(&call);

    *metric = lay_out_metric(&arena, image);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    *rest = call.exec;
    if (image->keys == NULL)
        return VTC_OK;
    rest->scratch = (char *)call.exec.scratch + arena.used;
    rest->scratch_size -= arena.used;
    return vtc_mean_keys(image->keys, metric, rest);
}

static vtc_status check_rows(const vtc_tome_params *params, const vtc_tensor *metric, size_t n_keep,
                             const vtc_exec *exec)
{
    struct rounds s;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_rounds", exec));
    VTCI_TRY(open_rounds(&call, params, metric, n_keep, &s));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (n_keep == s.tome.n_in)
        return VTC_OK;
    vtci_tome_start(&s.tome);
    return vtci_tome_check_rows(&s.tome, vtci_tome_unit_rows(&s.tome));
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    vtc_tensor metric;
    vtc_exec rest;

    VTCI_TRY(open_metric(image, exec, &metric, &rest));
    return check_rows(params, &metric, n_keep, &rest);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    vtc_tensor metric;
    vtc_exec rest;

    VTCI_TRY(open_metric(image, exec, &metric, &rest));
    return vtc_tome_rounds(params, &metric, image->mass, n_keep, plan, &rest);
}

static const vtc_param planner_params[] = {
    { "class_token", VTC_PARAM_FLAG, offsetof(vtc_tome_params, class_token), 0, 1, 0,
      "row 0 is [CLS]: never merged away" },
    { "distill_token", VTC_PARAM_FLAG, offsetof(vtc_tome_params, distill_token), 0, 1, 0,
      "row 1 is the distillation token: nothing merges into it" },
};

/* Cosines of even and odd rows in each round. The metric is the mean key, or the token itself. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const vtc_tensor *metric = image->keys != NULL ? image->keys : image->features;
    const double d = metric == NULL ? 0.0 : (double)metric->dim[metric->rank - 1];
    double macs = 0.0;

    (void)params;
    for (size_t n = image->n_rows; n > n_keep && n > 1; n = vtci_max(n_keep, n - n / 2))
        macs += (double)(n - n / 2) * (double)(n / 2) * d;
    return macs;
}

const vtc_planner vtci_planner_tome = {
    .struct_size = sizeof(vtc_planner),
    .name = "tome",
    .title = "ToMe",
    .paper = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023",
    .checked = "one round: the authors' code, run; rounds without a network: our own",
    .needs = VTC_NEED_FEATURES,
    .uses = VTC_NEED_KEYS,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_tome_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
