/*
 * packed.h: a weight matrix packed once, for products of few rows.
 *
 * sgemm packs the weights in every call, which costs as much as the product itself when there are
 * only some 32 rows. Packed weights keep their dtype: panels of gemm_cols outputs (kernels.h), each
 * [K, gemm_cols], the last one filled up with zeros. 16-bit panels are widened a piece at a time.
 */
#ifndef VTCI_PACKED_H
#define VTCI_PACKED_H

#include "../base/tensor.h"
#include "../kernels/kernels.h"

typedef struct vtci_packed {
    const char *panels; /* NULL in a scratch query */
    vtc_dtype dtype;    /* 0: there are none */
    size_t n, k;        /* of the weight [N, K] */
} vtci_packed;

/* Bytes of the panels; SIZE_MAX when they do not fit. */
size_t vtci_packed_bytes(vtc_dtype dtype, size_t n, size_t k);

/* Takes memory for the panels of a weight [N, K]; without memory behind the arena it measures. */
vtci_packed vtci_packed_take(vtci_arena *arena, const vtc_tensor *weight);

/* Fills panels that vtci_packed_take() has laid out. */
void vtci_packed_fill(const vtci_call *call, const vtci_packed *packed, const vtc_tensor *weight);

/* Fills the outputs from `first` on: several weights of the same K, one below the other, make one
 * product. They may be of any float dtypes where the panels are F32, else of that of the panels. */
void vtci_packed_fill_part(const vtci_call *call, const vtci_packed *packed, size_t first,
                           const vtc_tensor *weight);

/* Rows `begin` on of the panel that begins with output `col`, in its own dtype. */
const char *vtci_packed_at(const vtci_packed *packed, size_t col, size_t begin);

/* k of them as floats [k, gemm_cols]: in place, or widened into tmp. */
const float *vtci_packed_piece(const vtci_packed *packed, size_t col, size_t begin, size_t k,
                               float *tmp);

#endif
