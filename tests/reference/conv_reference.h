/*
 * conv_reference.h: the light convolutional projectors in double, step by step as their papers have
 * them, sharing nothing with the library. Grids are dense [h * w, c] arrays; weights are views of
 * any float dtype, read element by element.
 */
#ifndef VTC_TESTS_CONV_REFERENCE_H
#define VTC_TESTS_CONV_REFERENCE_H

#include "../support/tensors.h"

#include <vtc/project.h>

/* y [oh * ow, c]: 3x3 windows around every stride-th cell, zeros outside; taps [c, 1, 3, 3]. */
void ref_depthwise(const double *x, size_t h, size_t w, const vtc_tensor *taps, size_t stride,
                   double *y);

/* One image, x [grid_h * grid_w, C], to y. */
void ref_ldp(const vtc_ldp_params *params, const vtc_ldp_weights *weights, const double *x,
             double *y);
void ref_ldpv2(const vtc_ldpv2_params *params, const vtc_ldpv2_weights *weights, const double *x,
               double *y);
void ref_c_abstractor(const vtc_c_abstractor_params *params,
                      const vtc_c_abstractor_weights *weights, const double *x, double *y);

#endif
