/* hyper_reference.h: a hyper layer in double over a whole sequence, one token and head at a time.
 */
#ifndef VTC_TESTS_HYPER_REFERENCE_H
#define VTC_TESTS_HYPER_REFERENCE_H

#include <stddef.h>
#include <stdint.h>
#include <vtc/hyper_attention.h>

typedef struct ref_hyper {
    const vtc_hyper_attention_params *params;
    const vtc_hyper_attention_weights *weights;
    vtc_hyper_variant variant;
    size_t n_tokens, n_images, n_image_rows;
    const double *hidden; /* [n_tokens, C]               */
    const double *images; /* [n_images, n_image_rows, C] */
    const int32_t *starts;
} ref_hyper;

/* The attention behind o_proj [n_tokens, C]; free() it. */
double *ref_hyper_attention(const ref_hyper *h);

/* x [d] rotated to a position, in pairs i, i + d/2. */
void ref_rotate(double *x, size_t d, double theta, int32_t position);

#endif
