/* vlora_model.h: a checked VLoRA generator model. */
#ifndef VTCI_VLORA_MODEL_H
#define VTCI_VLORA_MODEL_H

#include "../../include/vtc/vlora.h"
#include "../linalg/operands.h"
#include "../linalg/packed.h"

typedef struct vtci_vlora {
    vtc_vlora_params params;
    const vtc_vlora_weights *w;
    size_t n_kinds, n_layers, llm_dim; /* T, n, H                           */
    size_t d, n_tokens, n_queries;     /* D, P, queries of one generator    */
    size_t widest;                     /* 3D, or the widest hidden layer    */
    bool is_prepared;
    vtci_arena panels; /* of the prepared object, if it is  */
} vtci_vlora;

/* They are taken in the order in which they are used. */
typedef struct vtci_vlora_panels {
    vtci_packed self_in, self_out, cross_q, cross_out, linear1, linear2;
} vtci_vlora_panels;

VTC_NODISCARD vtc_status vtci_vlora_open(const vtci_call *call, const vtc_vlora_params *params,
                                         const vtc_vlora_weights *weights,
                                         const vtc_prepared *prepared, vtci_vlora *model);

/* VTC_ERR_OVERLAP when an output meets a weight. */
VTC_NODISCARD vtc_status vtci_vlora_check_apart(const vtci_call *call, const vtci_vlora *model,
                                                const char *name, const void *data, size_t bytes);

/* [T, n, H, r] or, with n_batch of them, [B, T, n, H, r]; an output. */
VTC_NODISCARD vtc_status vtci_vlora_check_factors(const vtci_call *call, const vtci_vlora *model,
                                                  const char *name, const vtc_tensor *t,
                                                  size_t n_batch);

/* Rows first .. first + n - 1 of a linear layer. */
vtc_linear vtci_linear_part(const vtc_linear *layer, size_t first, size_t n);

/* Panels of the next decoder, in the order of generators and decoders, and of the weights_head
 * behind a generator's decoders. */
vtci_vlora_panels vtci_vlora_take_panels(vtci_arena *panels, const vtc_vlora_decoder *decoder);
vtci_packed vtci_vlora_take_head(vtci_arena *panels, const vtc_vlora_generator *generator);

#endif
