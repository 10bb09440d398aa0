/*
 * vtc/perceiver.h: the Flamingo Perceiver Resampler, of OpenFlamingo and of flamingo-pytorch.
 *
 * A few learned latents attend to all tokens of a media item (an image, or the frames of a clip)
 * and to each other, layer by layer, and come out as its tokens. Weights are structs of views named
 * after the checkpoint's tensors, F32, F16 or BF16. A prepared object holds the weights packed in
 * their own dtype and what depends on them alone; the weights themselves must still be passed.
 */
#ifndef VTC_PERCEIVER_H
#define VTC_PERCEIVER_H

#include "project.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vtc_perceiver_params {
    size_t struct_size;
    size_t heads;       /* cannot be read off the weights; divides inner  (default 8)        */
    float eps;          /* of all norms                                   (default 1e-5)     */
    vtc_activation act; /* of the feed-forward                            (default GELU_ERF) */
} vtc_perceiver_params;

/* clang-format off */
#define VTC_PERCEIVER_PARAMS_INIT { sizeof(vtc_perceiver_params), 8, 1e-5f, VTC_ACT_GELU_ERF }
/* clang-format on */

/* No linear layer has a bias. `inner` is heads times the width of a head. */
typedef struct vtc_perceiver_layer {
    vtc_norm norm_media;   /* [D]           "0.norm_media"               */
    vtc_norm norm_latents; /* [D]           "0.norm_latents"             */
    vtc_tensor to_q;       /* [inner, D]    "0.to_q.weight"              */
    vtc_tensor to_kv;      /* [2 inner, D]  "0.to_kv.weight", keys first */
    vtc_tensor to_out;     /* [D, inner]    "0.to_out.weight"            */
    vtc_norm ff_norm;      /* [D]           "1.0"                        */
    vtc_tensor ff_up;      /* [F, D]        "1.1.weight"                 */
    vtc_tensor ff_down;    /* [D, F]        "1.3.weight"                 */
} vtc_perceiver_layer;

typedef struct vtc_perceiver_weights {
    vtc_tensor latents;         /* [M, D]                                                      */
    vtc_tensor frame_embs;      /* [frames, D] or absent                                       */
    vtc_tensor media_time_embs; /* [items, 1, D] or absent; in flamingo-pytorch media_pos_emb  */
    vtc_norm norm;              /* [D]                                                         */
    const vtc_perceiver_layer *layers; /* [n_layers] the caller's                              */
    size_t n_layers;                   /* >= 1                                                 */
} vtc_perceiver_weights;

/* OpenFlamingo, prefix "perceiver.": latents, embeddings and the last norm. */
VTC_API extern const vtc_weight_table vtc_perceiver_table;
/* flamingo-pytorch, whose media embeddings are called media_pos_emb. */
VTC_API extern const vtc_weight_table vtc_perceiver_pytorch_table;
/* Prefix "perceiver.layers.0.", one for each layer. */
VTC_API extern const vtc_weight_table vtc_perceiver_layer_table;

/* Parameters, and the multiply-adds of `n_items` media items of `n_tokens` tokens (frames times
 * tokens of a frame) as published; what a prepared object saves of them is not taken off.
 * OpenFlamingo: 63.0 M parameters, 5.75 G multiply-adds for an image of 256 tokens. */
VTC_API VTC_NODISCARD vtc_status vtc_perceiver_cost(const vtc_perceiver_params *params,
                                                    const vtc_perceiver_weights *weights,
                                                    size_t n_items, size_t n_tokens,
                                                    vtc_model_cost *cost, const vtc_exec *exec);

/*
 * vtc_perceiver_prepare() makes the prepared object: every matrix packed in its own dtype; the
 * first layer's queries, keys and values of the latents; and, when all to_kv are F32, those of all
 * layers once more with the gains of norm_media multiplied in, so that one product makes the
 * media's keys and values of all layers. The object takes the bytes of the weights and, with F32,
 * 4 L 2 inner D more. Its scratch is about that of one to_kv, F32. VTC_ERR_NULL, DTYPE, SHAPE,
 * RANGE, OVERLAP, OVERFLOW, ROOM (the object is too small) or SCRATCH on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_perceiver_prepare_size(const vtc_perceiver_params *params,
                                                            const vtc_perceiver_weights *weights,
                                                            const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_perceiver_prepare_scratch(const vtc_perceiver_params *params,
                                                               const vtc_perceiver_weights *weights,
                                                               const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_perceiver_prepare(const vtc_perceiver_params *params,
                                                       const vtc_perceiver_weights *weights,
                                                       vtc_prepared *prepared,
                                                       const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_perceiver_scratch(const vtc_perceiver_params *params,
                                                       const vtc_perceiver_weights *weights,
                                                       const vtc_prepared *prepared,
                                                       const vtc_tensor *x, const vtc_tensor *y,
                                                       const vtc_exec *exec, size_t *bytes);

/*
 * vtc_perceiver() turns the tokens of each media item into M tokens of the same width.
 *
 *   prepared                of these weights and parameters; NULL: the weights as they stand
 *   x  [B, T, F, V, D]  in  T media items of F frames of V tokens, without class token;
 *      [B, T, N, D]         F = 1;  [B, N, D]: T = F = 1
 *   y  [B, T, M, D]     out   for x [B, N, D] also [B, M, D]
 *
 * Items do not see each other. F and T must not exceed the frame and media embeddings, where there
 * are any. Without tokens (F or V is 0) the latents attend to themselves. Every row of y depends on
 * all tokens of its item, so a NaN in one of them makes the item NaN and no other.
 *
 * Items are taken in blocks of at most 256 latents and 2048 tokens, or one by one. Scratch for a
 * block of n items of N tokens, F32: n N D of normalised tokens, n (N + M) 2 inner keys and values
 * (prepared F32: those of all layers, where that is at most 32 MiB), n M (3 D + 2 inner + F), and
 * what attention takes: n N inner and a few hundred rows per worker. No array of latents x tokens
 * of all heads exists. Time is that of the matrix products.
 *
 * With a prepared object and without the results agree within rounding, and each gives the same
 * bits for any number of workers. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or
 * SCRATCH on error; for a prepared object also VTC_ERR_DATA and VTC_ERR_UNSUPPORTED.
 * Checked against: OpenFlamingo's and flamingo-pytorch's PerceiverResampler as published. At
 * OpenFlamingo's size with random weights every element is within 4e-6 of a double-precision run
 * (|y| up to 7). No released checkpoint was run.
 * Source: Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022,
 * section 3.1; Awadalla et al., "OpenFlamingo", 2023.
 */
VTC_API VTC_NODISCARD vtc_status vtc_perceiver(const vtc_perceiver_params *params,
                                               const vtc_perceiver_weights *weights,
                                               const vtc_prepared *prepared, const vtc_tensor *x,
                                               vtc_tensor *y, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
