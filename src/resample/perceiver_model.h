/* perceiver_model.h: what the Perceiver's weights are, and what of them is computed ahead. */
#ifndef VTCI_PERCEIVER_MODEL_H
#define VTCI_PERCEIVER_MODEL_H

#include "../../include/vtc/perceiver.h"
#include "../base/prepared.h"
#include "../linalg/steps.h"

/* One layer's packed weights; without panels when nothing is prepared. */
typedef struct vtci_perceiver_packed {
    vtci_packed q, kv, out, up, down;
} vtci_perceiver_packed;

typedef struct vtci_perceiver {
    vtc_perceiver_params params;
    const vtc_perceiver_weights *weights;
    size_t m, d, inner, hidden;

    /* The first layer sees the latents as they are: its queries [M, inner] and the latents' keys
     * and values [M, 2 inner]. */
    float *first_q, *first_kv;

    bool is_prepared;
    /* All to_kv with the gains of norm_media, [layers, 2 inner, D], and what its biases come to,
     * [layers, 2 inner]. */
    bool is_folded;
    vtci_packed folded;
    float *folded_bias;
    vtci_arena layers; /* where the layers' packed weights begin */
} vtci_perceiver;

/* Checks parameters and weights; `y` NULL: there is no output that they might overlap. */
VTC_NODISCARD vtc_status vtci_perceiver_open(const vtci_call *call,
                                             const vtc_perceiver_params *params,
                                             const vtc_perceiver_weights *weights,
                                             const vtc_tensor *y, vtci_perceiver *model);

/* Takes first_q and first_kv. */
void vtci_perceiver_take_first(vtci_arena *arena, vtci_perceiver *model);

/* first_q and first_kv, by way of u [M, D]. */
void vtci_perceiver_make_first(const vtci_perceiver *model, vtci_steps *steps, float *u);

vtci_prepared_key vtci_perceiver_key(const vtci_perceiver *model);

/* The layout of a prepared object. */
void vtci_perceiver_take_prepared(vtci_arena *arena, vtci_perceiver *model);

/* The packed weights of the next layer; call it for one layer after another, from model->layers. */
vtci_perceiver_packed vtci_perceiver_take_layer(vtci_arena *layers, const vtci_perceiver *model,
                                                size_t layer);

#endif
