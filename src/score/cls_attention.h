/* cls_attention.h: the attention of [CLS] and the mean of the keys from one pass over K. */
#ifndef VTCI_CLS_ATTENTION_H
#define VTCI_CLS_ATTENTION_H

#include "../../include/vtc/score.h"
#include "../base/tensor.h"

/* The checks of vtc_cls_attention() but for its output, for a caller whose name messages carry. */
VTC_NODISCARD vtc_status vtci_cls_attention_check(const vtci_call *call,
                                                  const vtc_cls_attention_params *params,
                                                  const vtc_tensor *q_cls, const vtc_tensor *k,
                                                  const vtc_tensor *k_cls);

/* vtc_cls_attention(), whose checks it has, and, unless NULL, mean [N, d] = the mean of k over its
 * heads, as vtc_mean_keys(); there must be a head then. `mean` overlaps nothing. */
VTC_NODISCARD vtc_status vtci_cls_attention_and_mean(const vtc_cls_attention_params *params,
                                                     const vtc_tensor *q_cls, const vtc_tensor *k,
                                                     const vtc_tensor *k_cls, float *a, float *mean,
                                                     const vtc_exec *exec);

/* The scratch memory of that; without the mean it is vtc_cls_attention_scratch(). */
VTC_NODISCARD vtc_status vtci_cls_attention_query(const vtc_cls_attention_params *params,
                                                  const vtc_tensor *q_cls, const vtc_tensor *k,
                                                  const vtc_tensor *k_cls, bool averages,
                                                  const vtc_exec *exec, size_t *bytes);

#endif
