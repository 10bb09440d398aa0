/* weight_check.h: checks of a model's weights, with messages that name tensors as the checkpoint
 * does. */
#ifndef VTCI_WEIGHT_CHECK_H
#define VTCI_WEIGHT_CHECK_H

#include "../../include/vtc/weights.h"
#include "../base/tensor.h"

/* Whose weights are checked. */
typedef struct vtci_owner {
    const vtci_call *call;
    const vtc_tensor *y; /* what they must not overlap; NULL: nothing  */
    size_t n_tokens;     /* at most: rows of a product                 */
    const char *prefix;  /* of names in messages, e.g. "layers.3."     */
} vtci_owner;

/* What a message calls a tensor: prefix, name and part in one. */
typedef struct vtci_label {
    char s[96];
} vtci_label;
vtci_label vtci_label_of(const vtci_owner *of, const char *name, const char *part);

/* "layers.3." for ("layers.", 3) */
vtci_label vtci_layer_label(const char *stem, size_t layer);

/* [n] */
VTC_NODISCARD vtc_status vtci_check_vector(const vtci_owner *of, const char *name, const char *part,
                                           const vtc_tensor *v, size_t n);

/* [n_rows, n_cols] */
VTC_NODISCARD vtc_status vtci_check_matrix(const vtci_owner *of, const char *name, const char *part,
                                           const vtc_tensor *w, size_t n_rows, size_t n_cols);

/* [n_rows, n_in] with a number of rows of its own, which is stored. */
VTC_NODISCARD vtc_status vtci_check_rows(const vtci_owner *of, const char *name,
                                         const vtc_tensor *w, size_t n_in, size_t *n_rows);

/* [n], or absent */
VTC_NODISCARD vtc_status vtci_check_bias(const vtci_owner *of, const char *name,
                                         const vtc_tensor *bias, size_t n);

/* The weight of a 1x1 convolution: [n_out, n_in] or [n_out, n_in, 1, 1], n_out being its own. */
VTC_NODISCARD vtc_status vtci_check_pointwise(const vtci_owner *of, const char *name,
                                              const vtc_tensor *weight, size_t n_in);

/* Such a weight and a bias, which may be absent. */
VTC_NODISCARD vtc_status vtci_check_linear(const vtci_owner *of, const char *name,
                                           const vtc_linear *layer, size_t n_in);

/* A matrix [n_out, n_in], of rank 2 and no other, with such a bias. */
VTC_NODISCARD vtc_status vtci_check_linear_to(const vtci_owner *of, const char *name,
                                              const vtc_linear *layer, size_t n_out, size_t n_in);

/* weight [n] and bias [n], which may be absent */
VTC_NODISCARD vtc_status vtci_check_channel_norm(const vtci_owner *of, const char *name,
                                                 const vtc_norm *norm, size_t n);

/* VTC_ERR_SHAPE unless the layer gives `n` channels. */
VTC_NODISCARD vtc_status vtci_check_width(const vtci_owner *of, const char *name,
                                          const vtc_tensor *weight, size_t n);

/* VTC_ERR_RANGE unless finite and not negative. */
VTC_NODISCARD vtc_status vtci_check_eps(const vtci_call *call, const char *name, float eps);

#endif
