/*
 * qformer_reference.h: the Q-Former in double, one image at a time and one step after the other as
 * its authors have them, sharing nothing with the library.
 */
#ifndef VTC_TESTS_QFORMER_REFERENCE_H
#define VTC_TESTS_QFORMER_REFERENCE_H

#include "../support/tensors.h"

#include <vtc/qformer.h>

/* One batch item. Masks may be NULL. */
typedef struct ref_qformer_item {
    size_t n_image, n_text;
    const double *image; /* [n_image, E] */
    const bool *image_mask;
    const int64_t *ids; /* [n_text] */
    const bool *text_mask;
} ref_qformer_item;

/* hidden [nq + n_text, D]; tokens [nq, D_lm] or NULL. */
void ref_qformer(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                 const ref_qformer_item *item, double *hidden, double *tokens);

#endif
