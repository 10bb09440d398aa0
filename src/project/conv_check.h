/* conv_check.h: checks of the weights of light convolutional projectors. */
#ifndef VTCI_CONV_CHECK_H
#define VTCI_CONV_CHECK_H

#include "../../include/vtc/project.h"
#include "../linalg/weight_check.h"

/* [n, 1, 3, 3] */
VTC_NODISCARD vtc_status vtci_check_depthwise(const vtci_owner *of, const char *name,
                                              const vtc_tensor *weight, size_t n);

/* `n` channels in and out */
VTC_NODISCARD vtc_status vtci_check_squeeze_excite(const vtci_owner *of, const char *name,
                                                   const vtc_squeeze_excite *se, size_t n);

/* VTC_ERR_SHAPE unless a view has h * w + n_more rows. */
VTC_NODISCARD vtc_status vtci_check_grid(const vtci_call *call, const char *name,
                                         const vtci_rows *rows, size_t h, size_t w, size_t n_more);

/* VTC_ERR_RANGE when an extent is 0, VTC_ERR_OVERFLOW when positions leave size_t. */
VTC_NODISCARD vtc_status vtci_check_average(const vtci_call *call, size_t grid_h, size_t grid_w,
                                            size_t out_h, size_t out_w);

#endif
