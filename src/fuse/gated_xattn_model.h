/* gated_xattn_model.h: the weights of a gated cross-attention block, and its keys and values. */
#ifndef VTCI_GATED_XATTN_MODEL_H
#define VTCI_GATED_XATTN_MODEL_H

#include "../../include/vtc/gated_xattn.h"
#include "../base/prepared.h"
#include "../linalg/steps.h"

typedef struct vtci_gated_xattn {
    vtc_gated_xattn_params params;
    const vtc_gated_xattn_weights *weights;
    size_t d, inner, hidden, d_media;
    vtci_packed q, kv, out, up, down; /* without panels: not prepared */
} vtci_gated_xattn;

/* Checks parameters, weights and the prepared object, which may be NULL. */
VTC_NODISCARD vtc_status vtci_gated_xattn_open(const vtci_call *call,
                                               const vtc_gated_xattn_params *params,
                                               const vtc_gated_xattn_weights *weights,
                                               const vtc_prepared *prepared,
                                               vtci_gated_xattn *model);

/* VTC_ERR_OVERLAP when the output `name` meets a weight or the prepared object. */
VTC_NODISCARD vtc_status vtci_gated_xattn_check_apart(const vtci_call *call,
                                                      const vtci_gated_xattn *model,
                                                      const vtc_prepared *prepared,
                                                      const char *name, const vtc_tensor *out);

/* Tokens of media items: a checked view [B, T, n, C] or [T, n, C]. Strides in bytes. */
typedef struct vtci_items {
    char *data;
    vtc_dtype dtype;
    size_t n_batch, n_items, n_tokens, n_cols;
    size_t batch_stride, item_stride, token_stride;
} vtci_items;

vtci_items vtci_items_of(const vtc_tensor *t);

/* The tokens of batch items b .. b + n - 1 as rows [n, T n, C]; false when items stand too far
 * apart for that. */
bool vtci_items_as_rows(const vtci_items *items, size_t b, size_t n, vtci_rows *rows);

/* Keys and values of one batch item. */
void vtci_gated_xattn_encode(const vtci_gated_xattn *model, vtci_steps *steps,
                             const vtci_items *media, const vtci_items *kv, size_t b);

#endif
