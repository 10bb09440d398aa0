/* attention_reference.h: attention in doubles, as a whole array, and what is read off it. */
#ifndef VTC_TESTS_ATTENTION_REFERENCE_H
#define VTC_TESTS_ATTENTION_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct attention_shape {
    size_t n_heads, n_key_heads, n_rows, n_keys, d;
} attention_shape;

/*
 * weights [H, M, N], to be freed: softmax of scale q k^T where row m sees its first seen[m] keys.
 * q [H, M, d], k [G, N, d]. lse [H, M] or NULL: the logarithm of each row's sum of exponentials.
 */
double *attention_reference(const attention_shape *shape, const double *q, const double *k,
                            double scale, const size_t *seen, double *lse);

/* mean [M, N], to be freed: over heads. */
double *attention_reference_head_mean(const attention_shape *shape, const double *weights);

/* One row: y [e] = softmax(scale q.k + bias) v over the keys with seen[n]; k [n, d], v [n, e].
 * bias NULL: none. A row that sees no key gives zeros, or the mean of v when blind_mean, and
 * -INFINITY for both statistics, which may be NULL. */
void ref_attention_row(const double *q, const double *k, const double *v, const double *bias,
                       const bool *seen, double scale, bool blind_mean, size_t n, size_t d,
                       size_t e, double *y, double *top, double *log_sum_exp);

#endif
