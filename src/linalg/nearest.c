/*
 * sgemm computes the elements of a tile with different instructions, so that equal rows may differ
 * in the last bits: among those within its error of the largest, mostly one, dot products decide,
 * which are equal for equal rows.
 */
#include "nearest.h"

#include "../kernels/kernels.h"

#include <math.h>

/* Far above what rounding does to the cosine of any two rows, far below what matters. */
static const float SGEMM_ERROR = 1e-5f;

size_t vtci_nearest_row(const float *x, const float *rows, const float *product, size_t n, size_t d,
                        float *best)
{
    const vtci_kernels *k = vtci_kernels_get();
    const float bound = k->max(product, n) - SGEMM_ERROR;
    size_t nearest = 0;

    *best = -INFINITY;
    for (size_t b = 0; b < n; b++) {
        b += k->first_at_least(product + b, n - b, bound);

        const float exact = b < n ? k->dot(x, rows + b * d, d) : -INFINITY;

        if (exact > *best) {
            *best = exact;
            nearest = b;
        }
    }
    return nearest;
}
