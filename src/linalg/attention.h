/*
 * attention.h: multi-head attention, y = softmax(scale q k^T + bias) v, over views of any strides.
 *
 * One core serves every method that attends. The logits of a block of query rows live in a worker's
 * slice of the scratch memory, never those of all rows: no array of queries x keys exists.
 */
#ifndef VTCI_ATTENTION_H
#define VTCI_ATTENTION_H

#include "../base/tensor.h"

/* [B, H, N, d] of a float dtype; strides in bytes, those of channels dense. */
typedef struct vtci_heads {
    char *data;
    vtc_dtype dtype;
    size_t n_batch, n_heads, n_rows, n_cols;
    size_t batch_stride, head_stride, row_stride;
} vtci_heads;

/* Heads that stand side by side in the columns of [B, N, n_heads * d]. */
vtci_heads vtci_heads_of_rows(const vtci_rows *rows, size_t n_heads);

/* A checked view [H, N, d] or [B, H, N, d]. */
vtci_heads vtci_heads_of(const vtc_tensor *t);

static inline char *vtci_head_row(const vtci_heads *heads, size_t b, size_t h, size_t n)
{
    /* one batch item serves all */
    const size_t batch = heads->n_batch > 1 ? b : 0;

    return heads->data + batch * heads->batch_stride + h * heads->head_stride +
           n * heads->row_stride;
}

/* Leading dimension with which sgemm reads the rows of a head in place; 0: it cannot. */
size_t vtci_head_leading_dim(const vtci_heads *heads);

/* Rows begin .. end - 1 of a head as dense floats. */
void vtci_head_load(const vtci_heads *heads, size_t b, size_t h, size_t begin, size_t end,
                    float *to);

/* The output of a row that sees no key. */
typedef enum vtci_blind_row {
    VTCI_BLIND_ZERO = 0, /* zeros                                                              */
    VTCI_BLIND_MEAN = 1  /* the mean of all values: what a finite mask fill comes to           */
} vtci_blind_row;

/*
 * The keys that a row sees are those that all of these let through; NULL and 0 let all through.
 *
 *   causal    row m sees keys 0 .. row_offset + m: a chunk of queries into a longer K/V
 *   range     [B, M, 2] first key, and one past the last, of each row
 *   key_mask  [B, N] 0: hidden from all rows
 *   mask      [B, M, N] 0: hidden from that row
 *
 * range and masks of a single batch item serve all when their batch stride is 0.
 */
typedef struct vtci_visibility {
    bool causal;
    size_t row_offset;
    const int32_t *range;
    size_t range_batch_stride; /* in pairs */
    const uint8_t *key_mask;
    size_t key_mask_batch_stride;
    const uint8_t *mask;
    size_t mask_batch_stride, mask_row_stride;
    vtci_blind_row blind;
} vtci_visibility;

typedef struct vtci_attention {
    vtci_heads q;      /* [B, H, M, d]                                                          */
    vtci_heads k;      /* [B, G, N, d]  G divides H: query head h reads k and v head h / (H/G); */
    vtci_heads v;      /* [B, G, N, e]  a single batch item serves all                          */
    vtci_heads y;      /* [B, H, M, e]                                                          */
    float scale;       /* > 0 */
    const float *bias; /* [N] added to every logit of a key; NULL: none */
    vtci_visibility sees;

    /* Statistics of each row on request, [B, H, M]: the largest logit it sees and the logarithm of
     * the sum of their exponentials; -inf for a row that sees none. Two attentions of the same rows
     * over different keys are joined by them (vtci_attention_join). */
    float *row_max, *log_sum_exp;

    /* set by vtci_attention_lay_out() and vtci_attention_run() */
    const vtci_call *call;
    char *slices;
    size_t slice_stride;
} vtci_attention;

/* VTC_ERR_SHAPE or OVERFLOW unless the four agree and fit the BLAS integer. */
VTC_NODISCARD vtc_status vtci_attention_check(const vtci_call *call, const vtci_attention *a);

/*
 * Scratch of each worker: N d floats of a head's keys unless at most 3 query rows share them, N e
 * of its values unless they are F32, and 64 (N + max(d, e)) of a block of query rows; N counts in
 * whole panels of gemm_cols. May be asked for the largest shape; smaller M and N need no more.
 */
void vtci_attention_lay_out(vtci_arena *arena, const vtci_call *call, vtci_attention *a);

/* Parallel over K/V heads, and over chunks of their query rows where there are few heads. A row's
 * bits do not depend on the other rows, as long as more than 3 share a K/V head. y may not overlap
 * q, k or v. Hidden keys may hold any logits, but their values count 0 times, so they must be
 * finite. */
void vtci_attention_run(const vtci_call *call, vtci_attention *a);

/* y = the attention over the keys of both: y and other [n] over different keys, with their
 * log-sum-exps. The log-sum-exp of the whole. */
float vtci_attention_join(float *y, float y_lse, const float *other, float other_lse, size_t n);

#endif
