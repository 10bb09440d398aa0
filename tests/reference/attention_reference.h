/* attention_reference.h: attention in double, written from the formula, one row at a time. */
#ifndef VTC_TESTS_ATTENTION_REFERENCE_H
#define VTC_TESTS_ATTENTION_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One row: y [e] = softmax(scale q.k + bias) v over the keys with seen[n]; k [n, d], v [n, e].
 * bias NULL: none. A row that sees no key gives zeros, or the mean of v when blind_mean, and
 * -INFINITY for both statistics, which may be NULL. */
void ref_attention_row(const double *q, const double *k, const double *v, const double *bias,
                       const bool *seen, double scale, bool blind_mean, size_t n, size_t d,
                       size_t e, double *y, double *top, double *log_sum_exp);

#endif
