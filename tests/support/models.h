/*
 * models.h: random weights, and what layers do with tokens in double, written from the formulas.
 *
 * Values are dense arrays of doubles, as values_of() makes them; apply_*() replace such an array.
 */
#ifndef VTC_TESTS_MODELS_H
#define VTC_TESTS_MODELS_H

#include "tensors.h"

#include <vtc/project.h>

/* Weights of size about 1 / sqrt(c), so that sums stay near 1. Rows have gaps of `gap`. */
vtc_linear random_linear(uint64_t *seed, vtc_dtype dtype, size_t d, size_t c, bool bias,
                         size_t gap);
vtc_norm random_norm(uint64_t *seed, vtc_dtype dtype, size_t c, bool bias);
vtc_norm_mlp_weights random_norm_mlp(uint64_t *seed, vtc_dtype dtype, size_t n_norm, size_t n_in,
                                     size_t n_hidden, size_t n_out, bool bias);
void free_linear(vtc_linear *layer);
void free_norm(vtc_norm *norm);
void free_norm_mlp(vtc_norm_mlp_weights *weights);

/* x [n, c] becomes [n, d] in new memory; x is freed. */
double *apply_linear(const vtc_linear *layer, double *x, size_t n);

/* In place: every run of the norm's width among `count` values; no norm: nothing. */
void apply_norm(const vtc_norm *norm, vtc_norm_kind kind, double eps, double *x, size_t count);

void apply_activation(vtc_activation act, double *x, size_t count);

/* fc2(act(fc1(norm(x)))) of x [n, K]; x is freed. */
double *apply_norm_mlp(const vtc_norm_mlp_weights *weights, vtc_norm_kind kind, double eps,
                       vtc_activation act, double *x, size_t n);

/* Blocks of r x r cells of a grid x [h, w, c], cells beyond it zero: [blocks, r * r * c], in column
 * order when `columns_first`. Only whole blocks, or those that begin on the grid when `padded`. */
double *joined(const double *x, size_t h, size_t w, size_t c, size_t r, bool columns_first,
               bool padded);

#endif
