/* What all planners share that keep rows as they are. */
#include "selection.h"

#include "../linalg/order.h"

#include <float.h>
#include <math.h>

vtc_status vtci_check_keep(const vtci_call *call, size_t n_in, size_t n_keep)
{
    VTCI_REQUIRE(call, n_keep <= n_in, VTC_ERR_BUDGET, "cannot keep %zu of %zu rows", n_keep, n_in);
    return VTC_OK;
}

vtc_status vtci_selection_count(const char *name, size_t n_in, size_t n_keep, vtc_plan_count *count,
                                const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, name, exec));
    VTCI_TRY(vtci_check_keep(&call, n_in, n_keep));
    *count = (vtc_plan_count){ n_in, n_keep, 0, 1 };
    return VTC_OK;
}

vtc_status vtci_selection_open(const vtci_call *call, const vtc_plan *plan, size_t n_in,
                               size_t n_out, const float *mass)
{
    VTCI_TRY(vtci_check_keep(call, n_in, n_out));
    VTCI_TRY(vtci_plan_open(call, plan, n_in, n_out, 0));
    VTCI_TRY(vtci_plan_check_apart(call, plan, n_in, n_out, 0, "mass", mass, n_in * sizeof(*mass)));
    return vtci_check_masses(call, mass, n_in);
}

void vtci_selection_finish(vtc_plan *plan, size_t n_in, size_t n_out, const float *mass)
{
    for (size_t j = 0; j < n_out; j++)
        plan->mass[j] = mass == NULL ? 1.0f : mass[plan->keep[j]];
    vtci_plan_finish(plan, n_in, n_out, 0, VTC_SUM);
}

void vtci_plan_no_score(vtc_plan *plan, size_t n_in)
{
    for (size_t i = 0; plan->score != NULL && i < n_in; i++)
        plan->score[i] = 0.0f;
}

vtc_status vtci_check_scores(const vtci_call *call, const float *score, size_t n)
{
    for (size_t i = 0; i < n; i++)
        VTCI_REQUIRE(call, fabsf(score[i]) <= FLT_MAX, VTC_ERR_DATA, "score[%zu] is %g", i,
                     (double)score[i]);
    return VTC_OK;
}

vtc_status vtci_selection_write(const vtci_call *call, vtc_plan *plan, const float *score,
                                size_t n_in, size_t n_out, const float *mass)
{
    VTCI_TRY(vtci_selection_open(call, plan, n_in, n_out, mass));
    VTCI_TRY(
        vtci_plan_check_apart(call, plan, n_in, n_out, 0, "score", score, n_in * sizeof(*score)));
    vtci_select_top(plan->keep, score, n_in, n_out);
    for (size_t i = 0; plan->score != NULL && i < n_in; i++)
        plan->score[i] = score[i];
    vtci_selection_finish(plan, n_in, n_out, mass);
    return VTC_OK;
}
