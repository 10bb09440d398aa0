/* idefics2.h: the parts of Idefics2's connector that its two files share. */
#ifndef VTCI_IDEFICS2_H
#define VTCI_IDEFICS2_H

#include "../../include/vtc/idefics2.h"
#include "../base/prepared.h"
#include "../linalg/steps.h"

enum { VTCI_IDEFICS2_Q, VTCI_IDEFICS2_K, VTCI_IDEFICS2_V, VTCI_IDEFICS2_O, VTCI_IDEFICS2_MLP };

/* A model whose weights were checked. */
typedef struct vtci_idefics2 {
    const vtci_call *call;
    vtc_idefics2_params params;
    const vtc_idefics2_weights *w;
    size_t n_latents, d, n_vision; /* M, D, Dv                              */
    size_t n_q, n_kv;              /* channels of all query and key heads   */
    size_t n_hidden;               /* the widest MLP                        */
} vtci_idefics2;

/* Checks everything that depends on the weights alone. */
VTC_NODISCARD vtc_status vtci_idefics2_open(const vtci_call *call,
                                            const vtc_idefics2_params *params,
                                            const vtc_idefics2_weights *weights, vtci_idefics2 *m);

/* VTC_ERR_OVERLAP when `bytes` that are to be written meet a weight. */
VTC_NODISCARD vtc_status vtci_idefics2_check_apart(const vtci_idefics2 *m, const char *name,
                                                   const void *memory, size_t bytes);

/* What a prepared object holds of one layer: q, k, v, o, then gate, up, down. */
typedef struct vtci_idefics2_packed {
    vtci_packed packed[VTCI_IDEFICS2_MLP + 3];
} vtci_idefics2_packed;

typedef struct vtci_idefics2_object {
    bool given;
    float *q;          /* [M, n_q]  of the first layer, as are              */
    float *k, *v;      /* [M, n_kv] the latents' rows                       */
    vtci_arena layers; /* where the layers begin                            */
} vtci_idefics2_object;

void vtci_idefics2_lay_out(vtci_arena *arena, const vtci_idefics2 *m, vtci_idefics2_object *object);
void vtci_idefics2_lay_out_layer(vtci_arena *arena, const vtc_idefics2_layer *layer,
                                 vtci_idefics2_packed *packed);
VTC_NODISCARD vtc_status vtci_idefics2_open_object(const vtci_idefics2 *m,
                                                   const vtc_prepared *prepared,
                                                   vtci_idefics2_object *object);

/* The latents' normed rows, queries, keys and values of a layer. Rows as they are laid out. */
typedef struct vtci_idefics2_latents {
    vtci_rows z, normed, q, k, v; /* [M, D], [M, D], [M, n_q], [M, n_kv] twice */
} vtci_idefics2_latents;

void vtci_idefics2_project_latents(const vtci_idefics2 *m, vtci_steps *steps,
                                   const vtc_idefics2_layer *layer,
                                   const vtci_idefics2_packed *packed,
                                   const vtci_idefics2_latents *l);

#endif
