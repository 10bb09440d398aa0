/* flamingo_reference.h: the Perceiver Resampler and gated cross-attention in double, step by step
 * as published: media and latents joined into one array, every item by itself, a mask of all
 * logits. */
#ifndef VTC_TESTS_FLAMINGO_REFERENCE_H
#define VTC_TESTS_FLAMINGO_REFERENCE_H

#include "../support/models.h"

#include <vtc/fuse.h>
#include <vtc/resample.h>

/* x [B, T, F, V, D], [B, T, N, D] or [B, N, D]: [B T, M, D]; free() it. */
double *reference_perceiver(const vtc_perceiver_params *params,
                            const vtc_perceiver_weights *weights, const vtc_tensor *x);

/* x [B, L, D], media [B, T, n, Dv], locations [B, any] of U8 or NULL: [B, L, D]; free() it. */
double *reference_gated_xattn(const vtc_gated_xattn_params *params,
                              const vtc_gated_xattn_weights *weights, const vtc_tensor *x,
                              const vtc_tensor *media, const vtc_tensor *locations);

#endif
