/* compare.h: when a tensor that the library produced is the one that a case expects. */
#ifndef VTC_CONFORMANCE_COMPARE_H
#define VTC_CONFORMANCE_COMPARE_H

#include <stdbool.h>
#include <vtc/base.h>

typedef struct difference {
    double max_abs, max_rel; /* over all pairs of finite elements */
    char reason[160];        /* of the first element that differs; "" when none does */
} difference;

/*
 * Compares dense tensors of equal shape.
 *
 * - Floats: |got - want| <= atol + 1e-5 |want|; for want in F16 or BF16 also one unit in its last
 *   place. atol 0: equal bits. Infinities are equal to themselves alone, a NaN never is equal.
 * - Integers and booleans: equal values, whatever their width.
 */
bool compare(const vtc_tensor *got, const vtc_tensor *want, double atol, difference *diff);

/* Same dtype, shape and bytes of dense tensors. */
bool same_bits(const vtc_tensor *a, const vtc_tensor *b);

size_t element_count(const vtc_tensor *t);

/* "F32 [2, 49, 6]" */
typedef struct shape_text {
    char s[160];
} shape_text;
shape_text describe(const vtc_tensor *t);

#endif
