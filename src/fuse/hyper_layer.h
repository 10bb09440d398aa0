/* hyper_layer.h: one checked hyper layer, and checks of its caches. */
#ifndef VTCI_HYPER_LAYER_H
#define VTCI_HYPER_LAYER_H

#include "../../include/vtc/hyper_attention.h"
#include "../linalg/operands.h"
#include "../linalg/packed.h"

/* Rows that go through the products at once. */
enum { VTCI_HYPER_BLOCK_ROWS = 512, VTCI_HYPER_TASK_ROWS = 16 };

typedef struct vtci_hyper_layer {
    vtc_hyper_attention_params params;
    const vtc_hyper_attention_weights *w;
    vtc_norm norm;             /* of input and images */
    vtc_hyper_variant variant; /* never BY_TENSORS        */
    size_t c, d, n_heads, n_kv;
    vtci_packed q, k, v, o, visual; /* without panels: raw views */
} vtci_hyper_layer;

VTC_NODISCARD vtc_status vtci_hyper_open(const vtci_call *call,
                                         const vtc_hyper_attention_params *params,
                                         const vtc_hyper_attention_weights *weights,
                                         const vtc_prepared *prepared, vtci_hyper_layer *layer);

/* K and V [G, >= n_rows, D]; `what` names them in messages, e.g. "visual". */
VTC_NODISCARD vtc_status vtci_hyper_check_kv(const vtci_call *call, const vtci_hyper_layer *layer,
                                             const char *what, const vtc_hyper_kv *kv,
                                             size_t n_rows, vtci_access access);

/* VTC_ERR_OVERLAP when an output meets a weight or the prepared object. */
VTC_NODISCARD vtc_status vtci_hyper_check_apart(const vtci_call *call,
                                                const vtci_hyper_layer *layer,
                                                const vtc_prepared *prepared, const char *name,
                                                const vtc_tensor *output);

/* Rows of a placeholder list: >= 0, ascending. */
VTC_NODISCARD vtc_status vtci_hyper_check_starts(const vtci_call *call, const int32_t *starts,
                                                 size_t n);

/* MI-RoPE: where the keys of an image stand. */
int32_t vtci_hyper_image_position(const vtci_hyper_layer *layer, int32_t start);

/* Images that the text at index t sees. */
size_t vtci_hyper_n_seen(const vtci_hyper_layer *layer, const int32_t *starts, size_t n, int64_t t);

/* Row `row` of head g of a cache. */
void vtci_hyper_store(const vtc_tensor *cache, size_t g, size_t row, const float *x);

#endif
