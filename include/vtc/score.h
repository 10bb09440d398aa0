/*
 * vtc/score.h: statistics of attention and similarity from which planners decide.
 *
 * All come from Q and K in one pass, without an array of queries x keys, so they work beside an
 * attention that keeps none.
 */
#ifndef VTC_SCORE_H
#define VTC_SCORE_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- head-mean logits, and what FiCoCo makes of them ----------------------------------------- */

VTC_API VTC_NODISCARD vtc_status vtc_head_mean_logits_scratch(const vtc_tensor *q,
                                                              const vtc_tensor *k, float scale,
                                                              const int32_t *rows, size_t n_rows,
                                                              const int32_t *columns,
                                                              size_t n_columns, const vtc_tensor *y,
                                                              const vtc_exec *exec, size_t *bytes);

/*
 * vtc_head_mean_logits() computes chosen elements of the attention logits' mean over heads, before
 * mask and softmax: y[a][b] = (1/H) sum over h of scale * q_h[rows[a]] . k_h[columns[b]].
 *
 *   q        [H, Q, d]               in   G divides H: query head h meets key head h / (H / G)
 *   k        [G, N, d]               in
 *   scale    of all logits; 0: d^-1/2
 *   rows     [n_rows]                in   rows of q; NULL: all, n_rows is ignored
 *   columns  [n_columns]             in   rows of k; NULL: all
 *   y        [n_rows, n_columns]     out  F32, F16 or BF16
 *
 * The mean over heads is one dot product over all channels. Tokens that are rows of heads side by
 * side, [N, H d], are the view [H, N, d] with strides d, H d, 1. Equal rows give equal bits
 * wherever they stand. Parallel over blocks of 64 columns; time n_rows n_columns G d. Scratch: 64
 * queries, 64 widened keys for each worker unless q and k are F32, and 64 rows of y unless it is.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH.
 */
VTC_API VTC_NODISCARD vtc_status vtc_head_mean_logits(const vtc_tensor *q, const vtc_tensor *k,
                                                      float scale, const int32_t *rows,
                                                      size_t n_rows, const int32_t *columns,
                                                      size_t n_columns, vtc_tensor *y,
                                                      const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_quantile_scratch(size_t n, const vtc_exec *exec,
                                                      size_t *bytes);

/*
 * vtc_quantile() is the q-quantile of x[n], with linear interpolation between the two values around
 * rank q (n - 1). The rank is formed in F32, as PyTorch does: it decides on which side of a value
 * the quantile falls where q (n - 1) would be a whole number. -inf may occur; where it alone is
 * involved the result is NaN. Scratch 4 n bytes. O(n log n). Returns VTC_ERR_NULL, SHAPE (no
 * values), RANGE (q outside [0, 1]), OVERFLOW, SCRATCH, or DATA for a NaN.
 */
VTC_API VTC_NODISCARD vtc_status vtc_quantile(const float *x, size_t n, float q, double *value,
                                              const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_local_penalty_scratch(size_t grid_h, size_t grid_w,
                                                           size_t window, const vtc_exec *exec,
                                                           size_t *bytes);

/*
 * vtc_local_penalty() raises the largest score of each window of a grid: s becomes coef * s, or
 * s / coef when it is not positive.
 *
 *   score  [n]  in and out
 *   pos    [n]  in          cell of each row, row-major; cells may lack a row. NULL: row i is cell
 * i
 *
 * Windows of window x window cells do not overlap; what is left over at the lower and right edge
 * belongs to none. A tie goes to the first cell. Scratch 4 bytes for each window. Returns
 * VTC_ERR_NULL, SHAPE (more rows than cells), RANGE, OVERLAP, OVERFLOW, SCRATCH or DATA (NaN).
 * Source: FiCoCo, arXiv 2411.17686, section 3.
 */
VTC_API VTC_NODISCARD vtc_status vtc_local_penalty(float *score, const int32_t *pos, size_t n,
                                                   size_t grid_h, size_t grid_w, size_t window,
                                                   float coef, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_key_cosine_scratch(const vtc_tensor *k, const vtc_exec *exec,
                                                        size_t *bytes);

/*
 * vtc_key_cosine() is FiCoCo's substitute for the attention of a [CLS] that an encoder lacks: minus
 * the cosine between each key and the mean of all keys, both averaged over heads.
 *
 *   k  [H, N, d]  in
 *   y  [N]        out
 *
 * Scratch (N + 1) d + N floats. Returns VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP, OVERFLOW, SCRATCH, or
 * DATA when a key or the mean is zero or not finite. Source: FiCoCo, arXiv 2411.17686, appendix.
 */
VTC_API VTC_NODISCARD vtc_status vtc_key_cosine(const vtc_tensor *k, float *y,
                                                const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
