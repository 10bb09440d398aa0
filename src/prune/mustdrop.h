/* mustdrop.h: the encode step and the filter of prefill, shared by their calls and planners. */
#ifndef VTCI_MUSTDROP_H
#define VTCI_MUSTDROP_H

#include "../../include/vtc/mustdrop.h"
#include "../base/apart.h"
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

/* ---- prefill --------------------------------------------------------------------------------- */

typedef struct vtci_mustdrop_filter {
    const vtci_call *call;
    vtc_mustdrop_prefill_params p;
    size_t n;           /* vision tokens                                  */
    size_t n_in, first; /* rows of the plan, the first vision row in them */

    /* for the caller to set */
    const float *col_sum, *col_max; /* [n]                            */
    const int32_t *keys;            /* [n_keys] numbered from key_base */
    size_t n_keys, key_base;
    const float *mass; /* [n_in] */

    /* set inside */
    float *score;    /* [n]                                             */
    int32_t *order;  /* [n]                                             */
    int32_t *mark;   /* [n] KEPT and KEY                                */
    size_t n_vision; /* tokens that stay                                */
} vtci_mustdrop_filter;

/* Checks parameters and sizes. A scratch query does not know the keys: n_keys 0. */
VTC_NODISCARD vtc_status vtci_mustdrop_filter_open(const vtci_call *call,
                                                   const vtc_mustdrop_prefill_params *params,
                                                   size_t n_vision, size_t length, size_t n_keys,
                                                   vtci_mustdrop_filter *f);
vtc_plan_count vtci_mustdrop_filter_count(const vtci_mustdrop_filter *f);
void vtci_mustdrop_filter_lay_out(vtci_arena *arena, vtci_mustdrop_filter *f);

/* Keys in range, masses positive. */
VTC_NODISCARD vtc_status vtci_mustdrop_filter_check_inputs(const vtci_mustdrop_filter *f);

/* VTC_ERR_DATA for a statistic that is not finite. */
VTC_NODISCARD vtc_status vtci_mustdrop_check_statistics(const vtci_call *call, const float *col_sum,
                                                        const float *col_max, size_t n);

/* Decides, checks the outputs against each other and against `in`, writes. */
VTC_NODISCARD vtc_status vtci_mustdrop_filter_run(vtci_mustdrop_filter *f, vtc_plan *plan,
                                                  vtc_mustdrop_prefill_trace *trace,
                                                  const vtci_memory *in, size_t n_in);

#endif
