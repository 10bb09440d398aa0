/* quantile.h: the rank of a quantile and the value there, as PyTorch has them for F32. */
#ifndef VTCI_QUANTILE_H
#define VTCI_QUANTILE_H

#include <stddef.h>

/* Places in ascending order between which the quantile lies, and how far from the lower one. */
typedef struct vtci_quantile {
    size_t lo, hi;
    double w;
} vtci_quantile;

/* Of n >= 1 values. The rank is formed in F32, which decides cases like n = 501, q = 0.998. */
vtci_quantile vtci_quantile_rank(size_t n, float q);

/* The value, from those at the two places. NaN when both are the same infinity or w says so. */
double vtci_quantile_value(const vtci_quantile *rank, float lo, float hi);

#endif
