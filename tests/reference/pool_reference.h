/*
 * pool_reference.h: the pool family in double, written from the formulas and sharing nothing with
 * the library. Grids are dense [h, w, c] arrays.
 */
#ifndef VTC_TESTS_POOL_REFERENCE_H
#define VTC_TESTS_POOL_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>

/* Windows of `kernel` rows and columns every `stride`; a NaN wins the maximum. */
void ref_pool_windows(const double *x, size_t h, size_t w, size_t c, size_t kernel, size_t stride,
                      bool max, double *y);

/* y [oh, ow, c]; window i is rows floor(i h / oh) .. ceil((i + 1) h / oh) - 1. */
void ref_pool_adaptive(const double *x, size_t h, size_t w, size_t c, size_t oh, size_t ow,
                       bool max, double *y);

/* y [oh, ow, c]; half-pixel centres, clamped at the edges. */
void ref_pool_bilinear(const double *x, size_t h, size_t w, size_t c, size_t oh, size_t ow,
                       double *y);

/* Tiles [tiles_h * tiles_w, h * w, c] as one canvas [tiles_h * h, tiles_w * w, c]. */
void ref_join_tiles(const double *x, size_t tiles_h, size_t tiles_w, size_t h, size_t w, size_t c,
                    double *y);

/* y [rows, cols, c] from row0, col0 of x [*, w, c]. */
void ref_crop(const double *x, size_t w, size_t c, size_t row0, size_t col0, size_t rows,
              size_t cols, double *y);

/* x [side, side, c] -> y [tokens * tokens, d]: mean, RMS norm, times factor [c], times W [c, d]. */
void ref_gemma3(const double *x, size_t side, size_t tokens, size_t c, double eps,
                const double *factor, const double *weight, size_t d, double *y);

#endif
