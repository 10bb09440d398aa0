/* selection.h: planners that keep rows as they are. Between the two calls a planner writes only
 * plan->keep, and score if it has one. */
#ifndef VTCI_SELECTION_H
#define VTCI_SELECTION_H

#include "../plan/plan.h"

/* VTC_ERR_BUDGET when n_keep is above n_in. */
VTC_NODISCARD vtc_status vtci_check_keep(const vtci_call *call, size_t n_in, size_t n_keep);

/* count() of such a planner: n_keep outputs, exactly. VTC_ERR_BUDGET when n_keep is above n_in. */
VTC_NODISCARD vtc_status vtci_selection_count(const char *name, size_t n_in, size_t n_keep,
                                              vtc_plan_count *count, const vtc_exec *exec);

/* Checks masses and room for n_out of n_in rows. VTC_ERR_BUDGET when n_out is above n_in. */
VTC_NODISCARD vtc_status vtci_selection_open(const vtci_call *call, const vtc_plan *plan,
                                             size_t n_in, size_t n_out, const float *mass);

void vtci_selection_finish(vtc_plan *plan, size_t n_in, size_t n_out, const float *mass);

/* VTC_ERR_DATA for the first score that is NaN or infinite. */
VTC_NODISCARD vtc_status vtci_check_scores(const vtci_call *call, const float *score, size_t n);

/* The plan of the n_out rows of the largest scores, ascending: what is left of a planner that ranks
 * rows. Checks room and memory (score, masses, the plan) before it writes. */
VTC_NODISCARD vtc_status vtci_selection_write(const vtci_call *call, vtc_plan *plan,
                                              const float *score, size_t n_in, size_t n_out,
                                              const float *mass);

/* score = 0, for methods that rank nothing. */
void vtci_plan_no_score(vtc_plan *plan, size_t n_in);

#endif
