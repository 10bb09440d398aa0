/* sparsevlm.h: SparseVLM's sizes and checks for its row of the planner table. */
#ifndef VTCI_SPARSEVLM_H
#define VTCI_SPARSEVLM_H

#include "../../include/vtc/guided.h"

#include <stdbool.h>

vtc_sparsevlm_size vtci_sparsevlm_sizes(size_t n_in, size_t n_keep, bool recycle);

/* The error in the data for which vtc_sparsevlm() would refuse them. */
VTC_NODISCARD vtc_status vtci_sparsevlm_check(const vtc_sparsevlm_params *params,
                                              const float *score, size_t n_in,
                                              const vtc_tensor *hidden, const vtc_exec *exec);

#endif
