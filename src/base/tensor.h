/* tensor.h: checks of tensor views, and the view of token rows that methods compute on. */
#ifndef VTCI_TENSOR_H
#define VTCI_TENSOR_H

#include "call.h"

/* Sets of dtypes a function takes. */
#define VTCI_BIT(dtype) (1u << (dtype))
enum {
    VTCI_FLOATS = 1u << VTC_F32 | 1u << VTC_F16 | 1u << VTC_BF16,
    VTCI_INTS = 1u << VTC_I32 | 1u << VTC_I64,
    VTCI_ANY = 0xfeu
};

typedef enum vtci_access { VTCI_IN, VTCI_OUT } vtci_access;

/* NULL, dtype, rank within [min_rank, max_rank], unit inner stride, sizes that fit, data present
 * and aligned; an output must not overlap itself. `what` names the view in messages. */
VTC_NODISCARD vtc_status vtci_check_tensor(const vtci_call *call, const char *what,
                                           const vtc_tensor *t, unsigned dtypes, int min_rank,
                                           int max_rank, vtci_access access);

/* VTC_ERR_OVERLAP when the byte ranges of two checked views meet. */
VTC_NODISCARD vtc_status vtci_check_apart(const vtci_call *call, const char *out_name,
                                          const vtc_tensor *out, const char *in_name,
                                          const vtc_tensor *in);

/* The same for plain memory; a size of 0 never meets anything. */
bool vtci_ranges_meet(const void *a, size_t a_bytes, const void *b, size_t b_bytes);

/*
 * Whether pieces at these distances may share memory; `piece` is in the unit of the strides. False
 * only when, taken by rising stride, each axis steps over all that the ones before it reach: the
 * order of the axes themselves does not matter.
 */
bool vtci_strides_overlap(size_t piece, int n_axes, const size_t *dim, const size_t *stride);

/* Bytes from the first to one past the last element; 0 for an empty view. */
size_t vtci_span_bytes(const vtc_tensor *t);

/* Product of the extents of a checked view. */
size_t vtci_count(const vtc_tensor *t);

/* Token rows [B, N, C] of a checked view of rank 1 (C), 2 (N, C) or 3. Strides in bytes. */
typedef struct vtci_rows {
    char *data;
    vtc_dtype dtype;
    size_t n_batch, n_rows, n_cols;
    size_t batch_stride, row_stride;
} vtci_rows;

vtci_rows vtci_rows_of(const vtc_tensor *t);

static inline char *vtci_row(const vtci_rows *rows, size_t b, size_t n)
{
    return rows->data + b * rows->batch_stride + n * rows->row_stride;
}

#endif
