/*
 * chain.h: rows through a few linear layers, a block of rows at a time.
 *
 * Every projector is: rows joined from tokens, then layers with norms, activations and skips. A
 * method says what its layers are and where its rows come from; checks, scratch, blocks and workers
 * are here. Block height depends on the number of rows alone.
 */
#ifndef VTCI_CHAIN_H
#define VTCI_CHAIN_H

#include "../../include/vtc/project.h"
#include "../base/prepared.h"
#include "../linalg/gemm.h"
#include "join.h"

#include <stddef.h>

/* u = norm(input), output = act(u W^T + b), plus the u of the step before when `skips`. A norm
 * narrower than u acts on each piece of u of its width. */
typedef struct vtci_step {
    const char *name; /* of the linear layer, in messages: "fc1" */
    const vtc_linear *linear;
    const vtc_norm *norm; /* NULL or absent: none */
    vtc_activation act;
    bool skips;
} vtci_step;

typedef struct vtci_chain {
    /* set by the method, all else 0 */
    vtci_join x;
    size_t n_steps; /* >= 1 */
    vtci_step (*step)(const void *model, size_t i);
    const void *model;
    vtc_norm_kind norm; /* of all norms */
    float eps;
    const vtc_prepared *prepared; /* of vtci_chain_prepare(); NULL: none */

    /* set by vtci_chain_open() */
    vtci_arena packed; /* behind the header of the prepared object */
    vtci_rows y;
    size_t n_rows;
    size_t widest_norm, widest_hidden; /* hidden: the outputs of all steps but the last */
    bool has_skips;

    /* set by vtci_chain_lay_out() */
    const vtci_call *call;
    size_t block_rows;
    float *a;           /* [block_rows, width of x]; NULL: x is used in place            */
    float *hidden[3];   /* [block_rows, widest_hidden] each                              */
    float *out;         /* [block_rows, D]; NULL: the rows of y are written in place     */
    float *norm_weight; /* [widest_norm]                                                 */
    float *norm_bias;   /* [widest_norm]                                                 */
    char *slices;       /* per worker: one joined row, for channels_first                */
    size_t slice_stride;
    vtci_arena products; /* where the products' own scratch begins */
} vtci_chain;

/* Checks x and y, both of rank 2 or both of rank 3, with as many batch items. */
VTC_NODISCARD vtc_status vtci_check_tokens(const vtci_call *call, const vtc_tensor *x,
                                           const vtc_tensor *y);

VTC_NODISCARD vtc_status vtci_check_activation(const vtci_call *call, vtc_activation act);
VTC_NODISCARD vtc_status vtci_check_norm(const vtci_call *call, vtc_norm_kind norm, float eps);

/* Checks all layers against each other, against the joined rows and a checked y. */
VTC_NODISCARD vtc_status vtci_chain_open(const vtci_call *call, vtci_chain *chain,
                                         const vtc_tensor *y);
void vtci_chain_lay_out(vtci_arena *arena, const vtci_call *call, vtci_chain *chain);
void vtci_chain_run(const vtci_chain *chain);

/* How functions that are nothing but a chain end: all of the above. A query stores the size of the
 * scratch in *bytes. */
VTC_NODISCARD vtc_status vtci_chain_walk(const vtci_call *call, vtci_chain *chain,
                                         const vtc_tensor *y, size_t *bytes);

/* The weights of all steps, packed. The chain needs steps and model alone. */
VTC_NODISCARD vtc_status vtci_chain_prepare_size(const vtci_call *call, const vtci_chain *chain,
                                                 size_t *bytes);
VTC_NODISCARD vtc_status vtci_chain_prepare(const vtci_call *call, const vtci_chain *chain,
                                            const vtc_prepared *prepared);

/* ---- norm, fc1, act, fc2 --------------------------------------------------------------------- */

/* Rows of a model's table for vtc_norm_mlp_weights. */
#define VTCI_NORM_MLP_WEIGHTS(norm_name, norm_optional, fc1_name, fc2_name)                     \
    {                                                                                           \
        { norm_name ".weight", offsetof(vtc_norm_mlp_weights, norm.weight), 1, norm_optional }, \
            { norm_name ".bias", offsetof(vtc_norm_mlp_weights, norm.bias), 1, 1 },             \
            { fc1_name ".weight", offsetof(vtc_norm_mlp_weights, fc1.weight), 2, 0 },           \
            { fc1_name ".bias", offsetof(vtc_norm_mlp_weights, fc1.bias), 1, 1 },               \
            { fc2_name ".weight", offsetof(vtc_norm_mlp_weights, fc2.weight), 2, 0 },           \
            { fc2_name ".bias", offsetof(vtc_norm_mlp_weights, fc2.bias), 1, 1 },               \
    }
enum { VTCI_N_NORM_MLP_WEIGHTS = 6 };

/* The two steps of these models. */
typedef struct vtci_norm_mlp {
    const vtc_norm_mlp_weights *weights;
    vtc_activation act;
} vtci_norm_mlp;

/* Checks the parameters and makes the model the chain's; it must outlive the chain. */
VTC_NODISCARD vtc_status vtci_norm_mlp_open(const vtci_call *call, const vtci_norm_mlp *model,
                                            vtc_norm_kind norm, float eps,
                                            const vtc_prepared *prepared, vtci_chain *chain);

#endif
