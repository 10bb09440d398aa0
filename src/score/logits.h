/*
 * logits.h: head-mean attention logits of chosen rows and columns, straight from Q and K.
 *
 *     S[i][j] = (1/H) sum over h of scale * q_h[i] . k_h[j] = (scale / H) * q[i] . k[j]
 *
 * The mean over heads is one dot product over all channels, so no row of S but those asked for is
 * ever computed. With G < H key heads the queries of each group of H / G are added first.
 */
#ifndef VTCI_LOGITS_H
#define VTCI_LOGITS_H

#include "../linalg/attention.h"

/* Rows of Q or K, [H, T, d]. Row 0 may lie apart from the others, as a [CLS] does of which an
 * engine keeps the patches only. */
typedef struct vtci_head_rows {
    vtci_heads main;
    vtci_heads apart; /* [H, 1, d]; n_rows 0: there is none */
} vtci_head_rows;

/* Rows, with the one that is apart. */
size_t vtci_head_rows_count(const vtci_head_rows *r);

/* Row i of head h, and its dtype. */
const char *vtci_head_rows_at(const vtci_head_rows *r, size_t h, size_t i, vtc_dtype *dtype);

typedef struct vtci_logits {
    const vtci_call *call;
    vtci_head_rows q, k;
    size_t n_heads, n_groups, width; /* H, G, d     */
    float scale;                     /* of a logit  */

    /* set by vtci_logits_lay_out() */
    char *slices; /* per worker: a block of widened rows, where rows are not F32 */
    size_t slice_stride;
} vtci_logits;

/*
 * Checks q [H, T, d], k [G, T', d] and the rows that lie apart, [H, d] and [G, d] or NULL. A scale
 * of 0 is d^-1/2. NULL, DTYPE, SHAPE, RANGE.
 */
VTC_NODISCARD vtc_status vtci_logits_open(const vtci_call *call, const vtc_tensor *q,
                                          const vtc_tensor *k, const vtc_tensor *apart_q,
                                          const vtc_tensor *apart_k, float scale, vtci_logits *l);

void vtci_logits_lay_out(vtci_arena *arena, vtci_logits *l);

/* y [G d] = factor * the query of row i, its heads added by groups. */
void vtci_logits_fold(const vtci_logits *l, size_t i, float factor, float *y);

/* Columns of S to one task: a multiple of the kernels' tiles that keeps keys in cache. */
enum { VTCI_LOGITS_BLOCK = 64 };

/*
 * y[a * y_stride + b] = x[a] . (row rows[b] of K), x [n_x, G d]; rows NULL: first + b. Parallel
 * over blocks of columns. With x from vtci_logits_fold(.., scale / H, ..) these are logits.
 */
void vtci_logits_of_keys(const vtci_logits *l, const float *x, size_t n_x, const int32_t *rows,
                         size_t first, size_t n, float *y, size_t y_stride);

/* The same with the rows of Q, and x [n_x, H d]. */
void vtci_logits_of_queries(const vtci_logits *l, const float *x, size_t n_x, size_t first,
                            size_t n, float *y, size_t y_stride);

/* One block of them, n <= VTCI_LOGITS_BLOCK, of a single head (n_heads 1, x [n_x, d]) or of all,
 * within a task. */
void vtci_logits_block(const vtci_logits *l, const vtci_head_rows *r, size_t head, size_t n_heads,
                       const float *x, size_t n_x, const int32_t *rows, size_t first, size_t n,
                       float *y, size_t y_stride, size_t worker);

/* Floats of the scratch memory of vtci_key_sum(). */
size_t vtci_key_sum_floats(const vtci_logits *l, size_t n);

/* sum [G d] = the sum of n rows of K from `first` on, not of the one that is apart; and, while they
 * are in cache, y[i] = x . (row first + i), x [G d], unless x is NULL. Parallel over blocks of
 * rows, whose sums are added in order. */
void vtci_key_sum(const vtci_logits *l, size_t first, size_t n, const float *x, float *y,
                  float *partial, float *sum);

#endif
