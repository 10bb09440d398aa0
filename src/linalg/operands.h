/* operands.h: parts of row views, whose data may be NULL while steps are measured (steps.h), and
 * steps that are described where they are taken. */
#ifndef VTCI_OPERANDS_H
#define VTCI_OPERANDS_H

#include "steps.h"

/* Rows, columns and batch items first .. first + n - 1. */
vtci_rows vtci_rows_part(vtci_rows rows, size_t first, size_t n);
vtci_rows vtci_cols_part(vtci_rows rows, size_t first, size_t n);
vtci_rows vtci_batch_part(vtci_rows rows, size_t first, size_t n);

/* The rows of a matrix, n_rows to a batch item. */
vtci_rows vtci_rows_split(vtci_rows rows, size_t n_rows);

/* All batch items as one matrix. False when their rows have no common distance. */
bool vtci_rows_join(const vtci_rows *rows, vtci_rows *joined);

/* Rows of one batch item, n_heads * d wide, as n_heads batch items of rows d wide. */
vtci_rows vtci_heads_as_batch(vtci_rows rows, size_t n_heads);

/* Rows first .. first + n - 1 of all heads. */
vtci_heads vtci_heads_part(vtci_heads heads, size_t first, size_t n);

/* ---- steps ----------------------------------------------------------------------------------- */

static inline void vtci_step_gemm(vtci_steps *steps, vtci_gemm g)
{
    vtci_steps_gemm(steps, &g);
}

static inline void vtci_step_attention(vtci_steps *steps, vtci_attention a)
{
    vtci_steps_attention(steps, &a);
}

static inline void vtci_step_norm(vtci_steps *steps, vtci_norm norm)
{
    vtci_steps_norm(steps, &norm);
}

#endif
