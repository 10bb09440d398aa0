/*
 * lm_score.h: what planners of the table do to get a score of vision tokens from a decoder layer's
 * Q and K, and how they pass on the scratch memory that is left.
 */
#ifndef VTCI_LM_SCORE_H
#define VTCI_LM_SCORE_H

#include "../../include/vtc/planner.h"
#include "../base/call.h"

/* Adds `bytes` of a function that runs in what is left. */
void vtci_take_bytes(vtci_arena *arena, size_t bytes);

/* n rows of a view [L, C] from `first` on. */
vtc_tensor vtci_slice_rows(const vtc_tensor *t, size_t first, size_t n);

/* The larger of *most and what a scratch query stored. */
static inline void vtci_at_least(size_t *most, size_t bytes)
{
    *most = vtci_max(*most, bytes);
}

/*
 * The attention of text rows to the image's columns, mean over heads and rows.
 *
 *   voters  [n_voters] of the n_text rows; NULL: all
 *   score   [n_rows of the image]
 *
 * The text rows are the last n_text of lm_query, or of text_query. `bytes` of the query do for any
 * voters.
 */
VTC_NODISCARD vtc_status vtci_text_score_scratch(const vtci_call *call,
                                                 const vtc_plan_inputs *image, size_t *bytes);
VTC_NODISCARD vtc_status vtci_text_score(const vtci_call *call, const vtc_plan_inputs *image,
                                         const int32_t *voters, size_t n_voters, float *score,
                                         const vtc_exec *exec);

/* The same of the last row of the sequence alone. */
VTC_NODISCARD vtc_status vtci_last_row_score_scratch(const vtci_call *call,
                                                     const vtc_plan_inputs *image, size_t *bytes);
VTC_NODISCARD vtc_status vtci_last_row_score(const vtci_call *call, const vtc_plan_inputs *image,
                                             float *score, const vtc_exec *exec);

#endif
