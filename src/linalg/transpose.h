/* transpose.h: rows to columns. OpenBLAS multiplies by B [k, n] up to half as fast again as by
 * B^T [n, k] when there are few rows, so an operand used often is worth turning once. */
#ifndef VTCI_TRANSPOSE_H
#define VTCI_TRANSPOSE_H

#include <stddef.h>

/* to[c * to_stride + r] = from[r * from_stride + c] for r < n_rows, c < n_cols. */
void vtci_transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                    size_t n_rows, size_t n_cols);

#endif
