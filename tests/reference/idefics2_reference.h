/* idefics2_reference.h: Idefics2's connector in double, written from the formulas. */
#ifndef VTC_TESTS_IDEFICS2_REFERENCE_H
#define VTC_TESTS_IDEFICS2_REFERENCE_H

#include <vtc/idefics2.h>

/* Tokens [B, M, D] of x [B, N, Dv]; mask [B, N] dense, or NULL. free() them. */
double *idefics2_reference(const vtc_idefics2_params *params, const vtc_idefics2_weights *weights,
                           const vtc_tensor *x, const unsigned char *mask);

#endif
