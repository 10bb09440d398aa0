/* nearest.h: which of many rows has the largest dot product with a given one. */
#ifndef VTCI_NEAREST_H
#define VTCI_NEAREST_H

#include <stddef.h>

/*
 * The row of rows [n, d] nearest to x, both of length 1, and how near it is; -inf and 0 for n = 0.
 * `product` [n] are their dot products as sgemm computed them; rows that are out of the question
 * have -inf there. Ties go to the lower row.
 */
size_t vtci_nearest_row(const float *x, const float *rows, const float *product, size_t n, size_t d,
                        float *best);

#endif
