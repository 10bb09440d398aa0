/*
 * probs.h: rows of head-mean attention probabilities, A[i] = (1/H) sum over h of
 * softmax(scale * q_h[i] . K_h), over all rows of K and without a mask.
 */
#ifndef VTCI_PROBS_H
#define VTCI_PROBS_H

#include "logits.h"

/* Rows that are computed together, so that keys are read once for them. */
enum { VTCI_PROBS_ROWS = 4 };

typedef struct vtci_probs {
    const vtci_logits *l;
    char *slices; /* per worker: logits [4, T'], queries [4, d] and the mean rows [4, T'] */
    size_t slice_stride;
} vtci_probs;

void vtci_probs_lay_out(vtci_arena *arena, const vtci_logits *l, vtci_probs *p);

/* Rows rows[0 .. n - 1] of A (NULL: first, first + 1, ...), n <= VTCI_PROBS_ROWS, [n, T'], within a
 * task. They are valid until the worker's next call. */
const float *vtci_probs_rows(const vtci_probs *p, const int32_t *rows, size_t first, size_t n,
                             size_t worker);

#endif
