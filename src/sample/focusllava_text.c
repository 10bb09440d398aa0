/*
 * FocusLLaVA's text-guided sampler: the visual tokens that the instruction attends to.
 *
 * That there is one, inside the LLM and driven by its attention, is known; the scores' exact form,
 * ratio and top_p are this library's choice, see vtc/sample.h.
 *
 *     score_v = mean over heads and text rows of the attention to v       (vtc/score.h)
 *          or   mean over text rows i of cos(h_i, h_v)                    (focusllava_hidden.c)
 *     keep    = the ceil(ratio V) best, or the fewest best whose scores sum to top_p of all
 */
#include "../../include/vtc/sample.h"
#include "../linalg/order.h"
#include "../prune/selection.h"

#include <math.h>

static const double RATIO_SLACK = 1e-9, TOP_P_SLACK = 1e-12;

/* ---- sizes ----------------------------------------------------------------------------------- */

static vtc_status read_params(const vtci_call *call, vtc_focusllava_text_params *params,
                              const vtc_focusllava_text_params *from, size_t n_visual)
{
    static const vtc_focusllava_text_params defaults = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;

    *params = defaults;
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_REQUIRE(call, params->ratio >= 0.0 && params->ratio <= 1.0, VTC_ERR_RANGE,
                 "ratio is %g, 0 to 1 is needed", params->ratio);
    VTCI_REQUIRE(call, params->top_p >= 0.0 && params->top_p <= 1.0, VTC_ERR_RANGE,
                 "top_p is %g, 0 to 1 is needed", params->top_p);
    VTCI_REQUIRE(call,
                 params->score == VTC_FOCUSLLAVA_ANY || params->score == VTC_FOCUSLLAVA_ATTENTION ||
                     params->score == VTC_FOCUSLLAVA_HIDDEN,
                 VTC_ERR_RANGE, "score is %d", (int)params->score);
    VTCI_REQUIRE(call, n_visual <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu tokens exceed int32",
                 n_visual);
    VTCI_REQUIRE(call, params->n_keep <= n_visual, VTC_ERR_BUDGET, "cannot keep %zu of %zu tokens",
                 params->n_keep, n_visual);
    return VTC_OK;
}

static bool by_top_p(const vtc_focusllava_text_params *params)
{
    return params->n_keep == 0 && params->top_p > 0.0;
}

/* Tokens to keep unless top_p decides: at least one of those there are. */
static size_t fixed_count(const vtc_focusllava_text_params *params, size_t n_visual)
{
    if (params->n_keep != 0)
        return params->n_keep;

    const double n = ceil(params->ratio * (double)n_visual - RATIO_SLACK);

    return vtci_min(n_visual, n < 1.0 ? 1 : (size_t)n);
}

vtc_status vtc_focusllava_text_count(const vtc_focusllava_text_params *params, size_t n_visual,
                                     vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_focusllava_text_params p;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_text_count", exec));
    VTCI_TRY(read_params(&call, &p, params, n_visual));
    VTCI_REQUIRE_PTR(&call, count);
    if (by_top_p(&p))
        *count = (vtc_plan_count){ n_visual, n_visual, 0, n_visual <= 1 };
    else
        *count = (vtc_plan_count){ n_visual, fixed_count(&p, n_visual), 0, 1 };
    return VTC_OK;
}

/* The ranking that a share of the scores needs. */
static int32_t *lay_out(vtci_arena *arena, const vtc_focusllava_text_params *p, size_t n)
{
    return vtci_take(arena, by_top_p(p) ? n : 0, sizeof(int32_t));
}

vtc_status vtc_focusllava_text_scratch(const vtc_focusllava_text_params *params, size_t n_visual,
                                       const vtc_exec *exec, size_t *bytes)
{
    vtc_focusllava_text_params p;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_focusllava_text_scratch", exec, bytes));
    VTCI_TRY(read_params(&call, &p, params, n_visual));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &p, n_visual);
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Sum of the first n scores by rank. */
static double running_sum(const float *score, const int32_t *order, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += score[order[i]];
    return sum;
}

/*
 * The fewest best tokens whose scores sum to top_p of all. Running sums that fall again stay above
 * the bound as long as their total is positive, so bisection and search in order agree; where the
 * total is negative only bisection is what the reference does.
 */
static size_t count_by_share(const float *score, const int32_t *order, size_t n, double top_p)
{
    const double bound = top_p * running_sum(score, order, n) - TOP_P_SLACK;
    size_t low = 0, high = n;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;

        if (running_sum(score, order, middle + 1) < bound)
            low = middle + 1;
        else
            high = middle;
    }
    return vtci_min(n, low + 1);
}

vtc_status vtc_focusllava_text(const vtc_focusllava_text_params *params, const float *score,
                               size_t n_visual, const float *mass, vtc_plan *plan,
                               const vtc_exec *exec)
{
    const size_t n = n_visual;
    vtc_focusllava_text_params p;
    vtci_call call;
    vtci_arena arena;
    size_t n_keep;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_text", exec));
    VTCI_TRY(read_params(&call, &p, params, n));
    VTCI_REQUIRE(&call, score != NULL || n == 0, VTC_ERR_NULL, "score is NULL");
    n_keep = by_top_p(&p) ? vtci_min(n, 1) : fixed_count(&p, n);
    VTCI_TRY(vtci_selection_open(&call, plan, n, n_keep, mass));
    arena = vtci_arena_open(&call);
    int32_t *order = lay_out(&arena, &p, n);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(vtci_check_scores(&call, score, n));
    if (by_top_p(&p)) {
        vtci_argsort_falling(order, score, n);
        n_keep = count_by_share(score, order, n, p.top_p);
    }
    return vtci_selection_write(&call, plan, score, n, n_keep, mass);
}
