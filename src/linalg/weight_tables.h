/* weight_tables.h: all tensors of a weights struct, one after another, as its table lists them. */
#ifndef VTCI_WEIGHT_TABLES_H
#define VTCI_WEIGHT_TABLES_H

#include "../../include/vtc/weights.h"
#include "../base/call.h"

/* Elements of all tensors that are there. */
double vtci_count_weights(const vtc_weight_table *table, const void *weights);

/* Their dtypes and shapes mixed into a fingerprint (prepared.h). */
uint64_t vtci_mix_weights(uint64_t fingerprint, const vtc_weight_table *table, const void *weights);

/* VTC_ERR_OVERLAP when memory that is written meets one of them; `prefix` is that of their names,
 * e.g. "layers.3.". */
VTC_NODISCARD vtc_status vtci_check_weights_apart(const vtci_call *call, const char *prefix,
                                                  const vtc_weight_table *table,
                                                  const void *weights, const char *name,
                                                  const void *memory, size_t bytes);

#endif
