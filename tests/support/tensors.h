/* tensors.h: tensors in guarded memory with poisoned gaps between their rows, against doubles. */
#ifndef VTC_TESTS_TENSORS_H
#define VTC_TESTS_TENSORS_H

#include "support.h"

/* Poisoned throughout, `gap` elements between the slices of every axis but the innermost; ends at a
 * guard page. guard_free(t.data) takes it back. */
vtc_tensor make_tensor(vtc_dtype dtype, int rank, const size_t *dim, size_t gap);

/* Uniform in [-1, 1), read-only. */
vtc_tensor make_random(uint64_t *seed, vtc_dtype dtype, int rank, const size_t *dim, size_t gap);

/* NULL for a tensor that is absent. */
const vtc_tensor *given(const vtc_tensor *t);

size_t n_elements(const vtc_tensor *t);

/* Where the element with row-major index i is, in elements from t->data. */
size_t element_at(const vtc_tensor *t, size_t i);

/* All elements, row-major; free() them. */
double *values_of(const vtc_tensor *t);

/* Every element within tolerance + tolerance * |want|, plus half a unit in the last place of its
 * dtype; every gap still poisoned. */
void assert_tensor_near(const vtc_tensor *t, const double *want, double tolerance);

/* The same against the values of another tensor. */
void assert_tensors_near(const vtc_tensor *a, const vtc_tensor *b, double tolerance);

/* The same shape, dtype and bits; strides may differ. */
void assert_same_bits(const vtc_tensor *a, const vtc_tensor *b);

/* No byte was written since make_tensor(). */
void assert_untouched(const vtc_tensor *t);

#endif
