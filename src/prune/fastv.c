/*
 * FastV: the vision tokens that the last token attends to most.
 *
 * Source: Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, section 4, and the
 * authors' decoder.
 *
 *     score_j = mean over heads of the last query row's attention to vision token j, layer K - 1
 *     keep the n_keep best, ascending, with their old positions
 *
 * The authors leave ties open; here the lower row wins. Their port that reuses layer K's pruned
 * keys while decoding, and the one that runs layer K - 1 twice, are shortcuts that are not
 * followed. The score is one row of attention: K is read once.
 */
#include "lm_score.h"
#include "planners.h"
#include "selection.h"

#include <math.h>

vtc_status vtc_fastv_count(vtc_fastv_rule rule, size_t n, double value, size_t *n_keep,
                           const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_fastv_count", exec));
    VTCI_REQUIRE_PTR(&call, n_keep);
    VTCI_REQUIRE(&call, rule == VTC_FASTV_PRUNED_SHARE || rule == VTC_FASTV_KEPT_SHARE,
                 VTC_ERR_RANGE, "rule is %d", (int)rule);
    VTCI_REQUIRE(&call, value >= 0.0 && value <= 1.0, VTC_ERR_RANGE,
                 "the share is %g, 0 to 1 is needed", value);
    if (rule == VTC_FASTV_PRUNED_SHARE)
        *n_keep = (size_t)nearbyint((double)n * (1.0 - value));
    else
        *n_keep = (size_t)((double)n * value);
    return VTC_OK;
}

vtc_status vtc_fastv(const float *score, size_t n_in, size_t n_keep, const float *mass,
                     vtc_plan *plan, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_fastv", exec));
    VTCI_REQUIRE(&call, score != NULL || n_in == 0, VTC_ERR_NULL, "score is NULL");
    VTCI_TRY(vtci_selection_open(&call, plan, n_in, n_keep, mass));
    VTCI_TRY(vtci_check_scores(&call, score, n_in));
    return vtci_selection_write(&call, plan, score, n_in, n_keep, mass);
}

/* ---- the masking variant --------------------------------------------------------------------- */

vtc_status vtc_fastv_mask(const vtc_plan *plan, size_t v_start, vtc_tensor *mask,
                          const vtc_exec *exec)
{
    vtc_plan p = VTC_PLAN_INIT;
    vtci_call call;
    uint8_t *seen;

    VTCI_TRY(vtci_begin(&call, "vtc_fastv_mask", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &p));
    VTCI_TRY(vtci_plan_check_keep(&call, "plan", &p, 0));
    VTCI_TRY(vtci_check_tensor(&call, "mask", mask, VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8), 1, 1,
                               VTCI_OUT));
    VTCI_REQUIRE(&call, mask->dim[0] >= vtci_add(v_start, p.n_in), VTC_ERR_SHAPE,
                 "mask has %zu rows, %zu before the image and %zu of it are needed", mask->dim[0],
                 v_start, p.n_in);
    VTCI_TRY(vtci_plan_check_output(&call, &p, "mask", mask->data, vtci_span_bytes(mask)));
    seen = mask->data;
    for (size_t i = 0; i < mask->dim[0]; i++)
        seen[i] = i < v_start || i - v_start >= p.n_in;
    for (size_t j = 0; j < p.n_out; j++)
        seen[v_start + (size_t)p.keep[j]] = 1;
    return VTC_OK;
}

/* ---- the planner ----------------------------------------------------------------------------- */

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    (void)params;
    return vtci_selection_count("fastv", image->n_rows, n_keep, count, exec);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    size_t of_score;
    vtci_arena arena;
    vtci_call call;

    (void)params;
    (void)n_keep;
    VTCI_TRY(vtci_begin_query(&call, "fastv", exec, bytes));
    VTCI_TRY(vtci_last_row_score_scratch(&call, image, &of_score));
    arena = vtci_arena_open(&call);
    vtci_take(&arena, image->n_rows, sizeof(float));
    vtci_take_bytes(&arena, of_score);
    return vtci_end_query(&call, &arena, bytes);
}

/* The image's scores in the scratch memory, and an executor with the rest of it. */
static vtc_status score_image(const vtc_plan_inputs *image, const vtc_exec *exec, float **score,
                              vtc_exec *rest, vtci_call *call)
{
    vtci_arena arena;

    VTCI_TRY(vtci_begin(call, "fastv", exec));
    arena = vtci_arena_open(call);
    *score = vtci_take(&arena, image->n_rows, sizeof(**score));
    VTCI_TRY(vtci_arena_check(call, &arena));
    *rest = vtci_exec_behind(call, &arena);
    return vtci_last_row_score(call, image, *score, rest);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    vtc_exec rest;
    vtci_call call;
    float *score;

    (void)params;
    (void)n_keep;
    VTCI_TRY(score_image(image, exec, &score, &rest, &call));
    return vtci_check_scores(&call, score, image->n_rows);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    vtc_exec rest;
    vtci_call call;
    float *score;

    (void)params;
    VTCI_TRY(score_image(image, exec, &score, &rest, &call));
    return vtc_fastv(score, image->n_rows, n_keep, image->mass, plan, &rest);
}

/* One row of attention. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    (void)params;
    (void)n_keep;
    return vtci_attention_row_cost(image);
}

const vtc_planner vtci_planner_fastv = {
    .struct_size = sizeof(vtc_planner),
    .name = "fastv",
    .title = "FastV",
    .paper = "Chen et al., An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024",
    .checked = "the authors' decoder loops, run (PyTorch 1.13)",
    .needs = VTC_NEED_LM,
    .exact = 1,
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
