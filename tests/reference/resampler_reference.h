/* resampler_reference.h: the resamplers in double, in the direct order of products. */
#ifndef VTC_TESTS_RESAMPLER_REFERENCE_H
#define VTC_TESTS_RESAMPLER_REFERENCE_H

#include <vtc/resampler.h>

/* Tokens [G, M, D] of x [B, N, Dv]; all of `images` is given. Weights have in_proj. free() them. */
double *resampler_reference(const vtc_resampler_params *params,
                            const vtc_resampler_weights *weights, const vtc_tensor *x,
                            const vtc_resampler_images *images);

/* Position of a patch, channel c of D: what is added to its key. */
double resampler_position(const vtc_resampler_params *params, const vtc_resampler_weights *weights,
                          const int32_t *grid, size_t row, size_t col, size_t c);

#endif
