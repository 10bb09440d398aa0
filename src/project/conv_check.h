/* conv_check.h: checks of the weights of light convolutional projectors. */
#ifndef VTCI_CONV_CHECK_H
#define VTCI_CONV_CHECK_H

#include "../../include/vtc/project.h"
#include "../base/tensor.h"

/* Whose weights are checked. */
typedef struct vtci_owner {
    const vtci_call *call;
    const vtc_tensor *y; /* what they must not overlap              */
    size_t n_tokens;     /* at most: rows of a product              */
    const char *prefix;  /* of names in messages, e.g. "net.0.b1."  */
} vtci_owner;

/* The weight of a 1x1 convolution: [n_out, n_in] or [n_out, n_in, 1, 1], n_out being its own. */
VTC_NODISCARD vtc_status vtci_check_pointwise(const vtci_owner *of, const char *name,
                                              const vtc_tensor *weight, size_t n_in);

/* Such a weight and a bias, which may be absent. */
VTC_NODISCARD vtc_status vtci_check_linear(const vtci_owner *of, const char *name,
                                           const vtc_linear *layer, size_t n_in);

/* weight [n] and bias [n], which may be absent */
VTC_NODISCARD vtc_status vtci_check_channel_norm(const vtci_owner *of, const char *name,
                                                 const vtc_norm *norm, size_t n);

/* [n], or absent */
VTC_NODISCARD vtc_status vtci_check_bias(const vtci_owner *of, const char *name,
                                         const vtc_tensor *bias, size_t n);

/* [n, 1, 3, 3] */
VTC_NODISCARD vtc_status vtci_check_depthwise(const vtci_owner *of, const char *name,
                                              const vtc_tensor *weight, size_t n);

/* `n` channels in and out */
VTC_NODISCARD vtc_status vtci_check_squeeze_excite(const vtci_owner *of, const char *name,
                                                   const vtc_squeeze_excite *se, size_t n);

/* VTC_ERR_SHAPE unless the layer gives `n` channels. */
VTC_NODISCARD vtc_status vtci_check_width(const vtci_owner *of, const char *name,
                                          const vtc_tensor *weight, size_t n);

/* VTC_ERR_SHAPE unless a view has h * w + n_more rows. */
VTC_NODISCARD vtc_status vtci_check_grid(const vtci_call *call, const char *name,
                                         const vtci_rows *rows, size_t h, size_t w, size_t n_more);

/* VTC_ERR_RANGE when an extent is 0, VTC_ERR_OVERFLOW when positions leave size_t. */
VTC_NODISCARD vtc_status vtci_check_average(const vtci_call *call, size_t grid_h, size_t grid_w,
                                            size_t out_h, size_t out_w);

/* VTC_ERR_RANGE unless finite and not negative. */
VTC_NODISCARD vtc_status vtci_check_eps(const vtci_call *call, const char *name, float eps);

#endif
