/* mustdrop.h: the encode step, shared by its call and its planner. */
#ifndef VTCI_MUSTDROP_H
#define VTCI_MUSTDROP_H

#include "../../include/vtc/mustdrop.h"
#include "../plan/plan.h"
#include "../score/window.h"
#include "planners.h"

typedef struct vtci_mustdrop_encode {
    const vtci_call *call;
    vtc_mustdrop_encode_params p;
    bool by_threshold;
    size_t at_most;             /* windows that merge, whatever the threshold says  */
    vtci_window_similarity sim; /* of [B, P + N, C]; similarity is scratch here     */
    size_t n_images, n_rows;    /* B, P + N                                         */

    size_t *n_merge;       /* [B]     windows that merge                                  */
    int32_t *order;        /* [W]     those of one image, by falling similarity           */
    int32_t *number;       /* [W + 1] output of each window, -1: not merged; W: no window */
    int32_t *owner, *keep; /* [P + N]                                                     */
} vtci_mustdrop_encode;

/* Windows to merge so that at least `target` cells stay; more than there are when it is too low. */
size_t vtci_mustdrop_windows_for(const vtci_windows *w, size_t target);

/* VTC_ERR_BUDGET when it is. */
VTC_NODISCARD vtc_status vtci_mustdrop_check_target(const vtci_call *call, const vtci_windows *w,
                                                    size_t target);

/* The plan of one image, with n_merge windows merged; `exact`: that number is known. */
vtc_plan_count vtci_mustdrop_count(const vtci_windows *w, size_t prefix, size_t n_merge,
                                   bool exact);

/* Checks parameters and hidden. by_threshold and at_most may be changed afterwards. */
VTC_NODISCARD vtc_status vtci_mustdrop_encode_open(const vtci_call *call,
                                                   const vtc_mustdrop_encode_params *params,
                                                   const vtc_tensor *hidden, size_t grid_h,
                                                   size_t grid_w, vtci_mustdrop_encode *e);
void vtci_mustdrop_encode_lay_out(vtci_arena *arena, vtci_mustdrop_encode *e);

/* All similarities; VTC_ERR_DATA when one is not finite. */
VTC_NODISCARD vtc_status vtci_mustdrop_encode_measure(vtci_mustdrop_encode *e);

/* How many windows one image would merge if it were alone, once they are measured. */
size_t vtci_mustdrop_windows_to_merge(const vtci_mustdrop_encode *e, size_t image);

/* Takes the scratch memory, measures, decides, checks what depends on the decision, writes. */
VTC_NODISCARD vtc_status vtci_mustdrop_encode_run(vtci_mustdrop_encode *e, const vtc_tensor *hidden,
                                                  const float *mass, vtc_plan *const *plans,
                                                  const vtc_mustdrop_encode_trace *from);

#endif
