/* rows.h: rows of tokens in any float dtype: load, store, norms, weighted combination. */
#ifndef VTCI_ROWS_H
#define VTCI_ROWS_H

#include "../base/tensor.h"

/* The row as floats: the memory itself when it is F32, else widened into tmp [n]. */
const float *vtci_load_row(const void *row, vtc_dtype dtype, size_t n, float *tmp);

/* Writes n floats as `dtype`. x may be the row itself when dtype is F32. */
void vtci_store_row(void *row, vtc_dtype dtype, size_t n, const float *x);

/* Where a row is computed: the output row itself when it is F32, else tmp [n]; finish with
 * vtci_store_row(), which then converts (or does nothing). */
float *vtci_row_buffer(void *row, vtc_dtype dtype, float *tmp);

/* Row to row; equal dtypes keep every bit. tmp [n] serves from one 16-bit dtype to the other. */
void vtci_copy_row(void *to, vtc_dtype to_dtype, const void *from, vtc_dtype from_dtype, size_t n,
                   float *tmp);

/* Euclidean length, exact to F32 rounding also where squares leave the F32 range. NaN if x has. */
float vtci_row_norm(const float *x, size_t n);

/* y = x / |x|. False, and y untouched, when |x| is 0, infinite or NaN. y may be x. */
bool vtci_unit_row(float *y, const float *x, size_t n);

/* dot / (|x| |y|); NaN when either length is 0. */
float vtci_cosine(const float *x, const float *y, size_t n);

/*
 * One output row from many weighted source rows of any float dtype: begin, add each, end. Sums are
 * formed in the order of the adds. Rows are taken in batches, so the list may be of any length.
 */
enum { VTCI_COMBINE_BATCH = 16 };

typedef struct vtci_combine {
    float *y; /* [n] the row being built */
    size_t n;
    vtc_dtype dtype;
    bool max, weighs, started; /* weighs: a weight that is held is not 1 */
    size_t n_held;
    union {
        const float *f32[VTCI_COMBINE_BATCH];
        const uint16_t *u16[VTCI_COMBINE_BATCH];
    } x;
    float w[VTCI_COMBINE_BATCH];
} vtci_combine;

void vtci_combine_begin(vtci_combine *c, float *y, size_t n, vtc_dtype dtype, bool max);
void vtci_combine_add(vtci_combine *c, const void *row, float weight);
void vtci_combine_flush(vtci_combine *c); /* adds what is held now, while it is in a near cache */
void vtci_combine_end(vtci_combine *c);   /* no row added: y becomes zeros */

#endif
