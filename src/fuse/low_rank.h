/* low_rank.h: (x A) B^T, the increment of a linear layer, as two thin products. */
#ifndef VTCI_LOW_RANK_H
#define VTCI_LOW_RANK_H

#include "../linalg/operands.h"

/* A [in, r], of one batch item or of each, and B [out, r]. */
typedef struct vtci_low_rank {
    vtci_rows a, b;
} vtci_low_rank;

/* Checks factors for a layer [n_out, n_in]; messages call them "<name>.a" and "<name>.b" or, with a
 * name of "", "a" and "b". */
VTC_NODISCARD vtc_status vtci_low_rank_open(const vtci_call *call, const char *name,
                                            const vtc_tensor *a, const vtc_tensor *b, size_t n_in,
                                            size_t n_out, vtci_low_rank *low);

/* t [batch, rows, r] = x A */
void vtci_low_rank_reduce(vtci_steps *steps, const vtci_low_rank *low, vtci_rows x, vtci_rows t);

/* y = t B^T + residual; the residual absent when all its fields are 0 */
void vtci_low_rank_expand(vtci_steps *steps, const vtci_low_rank *low, vtci_rows t,
                          vtci_rows residual, vtci_rows y);

#endif
