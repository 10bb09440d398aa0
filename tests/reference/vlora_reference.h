/* vlora_reference.h: VLoRA's generator and its LLaMA layer in double, one number at a time. */
#ifndef VTC_TESTS_VLORA_REFERENCE_H
#define VTC_TESTS_VLORA_REFERENCE_H

#include <stddef.h>
#include <stdint.h>
#include <vtc/vlora.h>

/* Rows [Q, H r] of one generator for features f [P, D]; free() them. */
double *ref_vlora_rows(const vtc_vlora_params *params, const vtc_vlora_generator *g,
                       const double *f, size_t n_tokens);

/* visual_proj(x) + pos_embed, [P, D]; free() it. */
double *ref_vlora_features(const vtc_vlora_weights *w, const double *x);

/* y [n, out] += (x A) B^T */
void ref_low_rank(double *y, const double *x, size_t n, const vtc_tensor *a, const vtc_tensor *b);

/* One sequence [n, H]; mask and positions may be NULL. free() the result. */
double *ref_vlora_block(const vtc_vlora_block_params *params, const vtc_vlora_block_weights *w,
                        const vtc_vlora_deltas *deltas, const double *hidden, size_t n,
                        const uint8_t *mask, const int32_t *positions);

#endif
