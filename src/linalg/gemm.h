/*
 * gemm.h: matrix products. gemm.c is the one file that includes cblas.h.
 *
 * Tiles depend on the shape alone, so the bits do not depend on the number of workers.
 */
#ifndef VTCI_GEMM_H
#define VTCI_GEMM_H

#include "../base/tensor.h"
#include "../kernels/kernels.h"
#include "packed.h"

/* C [m, n] = A [m, k] B, B [k, n] or, when trans_b, [n, k]; dense F32 rows at the given strides.
 * One call of the caller's sgemm or of cblas_sgemm; a single row goes through the row kernels,
 * which are faster there, and k = 0 gives zeros. */
void vtci_sgemm(const vtci_call *call, bool trans_b, size_t m, size_t n, size_t k, const float *a,
                size_t lda, const float *b, size_t ldb, float *c, size_t ldc);

/* VTC_ERR_OVERFLOW unless the extents fit the BLAS integer. */
VTC_NODISCARD vtc_status vtci_check_gemm(const vtci_call *call, size_t m, size_t n, size_t k);

/*
 * A whole product C = act(A B + bias) + residual (or A B^T) over row views of any float dtypes,
 * parallel over tiles. There is one product per batch of C; A, B and the residual have as many
 * batches, or a single one that serves all. Bias and residual are absent when all their fields are
 * 0. What follows the product is done on each tile while it is in cache.
 */
typedef struct vtci_gemm {
    vtci_rows a; /* [M, K]           */
    vtci_rows b; /* [K, N] or [N, K] */
    vtci_rows c; /* [M, N]           */
    bool trans_b;

    /* B once more, packed; used in its place where that is faster, and always when b is absent.
     * Needs trans_b and a B of one batch. NULL or all fields 0: not packed. */
    const vtci_packed *packed;

    vtci_rows bias; /* [1, N] added to every row */
    vtci_activation act;
    vtci_rows residual; /* [M, N] apart from C */

    /* set by vtci_gemm_lay_out() and vtci_gemm_run() */
    float *rows;  /* of A, packed   */
    char *slices; /* worker scratch */
    size_t slice_stride;
    float *wide_bias;
    const float *bias_row; /* [N] */
    const vtci_call *call;
} vtci_gemm;

/*
 * Takes scratch: for the tile kernel the rows of A, 1024 at most, and less than 1 MiB for each
 * worker; for sgemm as much as operands that must be widened or a C that is narrowed take, F32
 * views being used in place.
 */
void vtci_gemm_lay_out(vtci_arena *arena, const vtci_call *call, vtci_gemm *g);
void vtci_gemm_run(const vtci_call *call, vtci_gemm *g);

#endif
