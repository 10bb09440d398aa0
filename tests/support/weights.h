/* weights.h: random weights of projectors, in guarded read-only memory, freed all at once. */
#ifndef VTC_TESTS_WEIGHTS_H
#define VTC_TESTS_WEIGHTS_H

#include "tensors.h"

#include <vtc/project.h>

enum { MAX_WEIGHTS = 512 };

typedef struct weight_set {
    uint64_t seed;
    bool mixed; /* dtypes at random; else all F32 */
    size_t gap; /* between the rows of matrices   */
    void *data[MAX_WEIGHTS];
    size_t n;
} weight_set;

/* Scaled so that a sum over all axes but the first is about 1 for inputs of about 1. */
vtc_tensor weight_of(weight_set *set, int rank, const size_t *dim);
vtc_tensor vector_of(weight_set *set, size_t n);
vtc_tensor matrix_of(weight_set *set, size_t n_rows, size_t n_cols);

vtc_linear linear_of(weight_set *set, size_t n_out, size_t n_in);
vtc_linear plain_linear_of(weight_set *set, size_t n_out, size_t n_in); /* without bias */
vtc_norm norm_of(weight_set *set, size_t n);
vtc_tensor depthwise_of(weight_set *set, size_t n); /* [n, 1, 3, 3] */
vtc_conv_norm conv_norm_of(weight_set *set, size_t n_out, size_t n_in);
vtc_conv_norm depthwise_norm_of(weight_set *set, size_t n);
vtc_squeeze_excite squeeze_excite_of(weight_set *set, size_t n, size_t n_hidden);

/* Binds a struct through its table to the views of another one of its kind: what `from` lacks is
 * not found, and what the table does not list is left alone. */
void bind_from(const vtc_weight_table *table, const void *from, void *to);

void weights_free(weight_set *set);

#endif
