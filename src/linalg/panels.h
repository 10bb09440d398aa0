/*
 * panels.h: the parts of a matrix product C = A B by the tile kernel (kernels.h).
 *
 * K is taken in pieces of vtci_panels_depth(), and of each piece B in panels of gemm_cols columns.
 * A sum's bits depend on its operands and K alone, not on how rows and columns are shared out. Rows
 * of A are packed once, and all tasks use them.
 */
#ifndef VTCI_PANELS_H
#define VTCI_PANELS_H

#include "packed.h"

/* B: packed before, or rows [K, N] or, when trans_b, [N, K] that are packed as they are needed. */
typedef struct vtci_panels {
    const vtci_packed *packed; /* NULL: raw */
    vtci_rows raw;
    bool trans_b;
    size_t k;
} vtci_panels;

/* Floats of m packed rows of A. */
size_t vtci_panels_rows_floats(size_t m, size_t k);

/* Rows are packed in tasks of VTCI_PANELS_ROWS; tasks of a product begin at a multiple of these
 * rows and of VTCI_PANELS_COLS columns, and have at most VTCI_PANELS_MOST. */
enum { VTCI_PANELS_ROWS = 32, VTCI_PANELS_COLS = 96, VTCI_PANELS_MOST = 192 };

/* Floats of scratch that packing rows needs: 0 when they are F32. */
size_t vtci_panels_pack_floats(const vtci_rows *a);

/* Packs rows first .. first + VTCI_PANELS_ROWS - 1 of the m rows of `a` that begin at `row`. */
void vtci_panels_pack_rows(float *to, const vtci_rows *a, size_t batch, size_t row, size_t m,
                           size_t first, float *tmp);

/* Floats of scratch that a product of up to n <= VTCI_PANELS_MOST columns needs. */
size_t vtci_panels_floats(const vtci_panels *b, size_t n);

/* C [m, n] = A B: rows first .. first + m - 1 of `total` packed rows, `first` a multiple of
 * VTCI_PANELS_ROWS, and columns col .. col + n - 1, col a multiple of VTCI_PANELS_COLS. */
void vtci_panels_multiply(const vtci_panels *b, size_t batch, size_t col, size_t n,
                          const float *rows, size_t total, size_t first, size_t m, float *c,
                          size_t ldc, float *tmp);

/* C [m, n] = A B, or C += A B, over n <= gemm_cols columns and a k that B fits the cache with: see
 * gemm_tile in kernels.h. A tile of rows begins tile_stride after the one before. */
void vtci_panel_multiply(float *c, size_t ldc, const float *a, size_t row_stride, size_t step,
                         size_t tile_stride, const float *b, size_t ldb, size_t k, size_t m,
                         size_t n, bool accumulate);

#endif
