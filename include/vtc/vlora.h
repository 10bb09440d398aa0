/*
 * vtc/vlora.h: VLoRA, where an image becomes low-rank weights of the language model.
 *
 * No visual token enters the language model. A small decoder, the generator, turns the image's
 * features into a factor A [H, r] for each kind of weight and each injected layer; the other factor
 * B [H, r] is learned. A linear layer of such a layer then computes
 *
 *     y = linear(x) + (x A) B^T,   that is with the weight W + B A^T
 *
 * for the kinds q, k, v and o of `types`, x being that layer's own input. The kind m is a path
 * around the whole feed-forward block, from its input behind the norm to its output; it cannot be
 * merged into a weight. Layer l, counted from 0, is injected when (l + 1) % skip_layers == 0.
 *
 *     vtc_vlora_generate(&params, &weights, prepared, &features, &a, &exec);     for each image
 *     vtc_vlora_learned(&params, &weights, &b, &exec);                           once
 *     vtc_vlora_linear(&q_proj, &a_q, &b_q, &x, &y, &exec);                      for each layer
 *
 * The prompt keeps one placeholder for the image. Its id becomes 0 and its key is hidden from every
 * query, so that it takes a position and carries nothing; new tokens keep plain positions. (The
 * published code numbers them one lower while decoding; a caller who wants that passes positions.)
 *
 * Source: Ma et al., "Visual Perception by Large Language Model's Weights", NeurIPS 2024, sections
 * 3.2 and 3.3, and the authors' code.
 */
#ifndef VTC_VLORA_H
#define VTC_VLORA_H

#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the generator --------------------------------------------------------------------------- */

typedef struct vtc_vlora_params {
    size_t struct_size;
    const char *types;  /* kinds of weights, some of "qkvom" each once, in the order of the
                           generators and of Bs                          (default "qkvom") */
    size_t rank;        /* r, divides the width of Bs                    (default 64)      */
    float alpha;        /* B is scaled by alpha / r; 0: alpha is r       (default 0)       */
    size_t n_heads;     /* of the generator                              (default 16)      */
    size_t skip_layers; /* every so many layers one is injected          (default 4)       */
    float eps;          /* of the generator's norms                      (default 1e-5)    */
} vtc_vlora_params;

/* clang-format off */
#define VTC_VLORA_PARAMS_INIT { sizeof(vtc_vlora_params), "qkvom", 64, 0.0f, 16, 4, 1e-5f }
/* clang-format on */

/* in_proj is query, key and value one after another. */
typedef struct vtc_vlora_attention {
    vtc_linear in_proj;  /* [3D, D]  "in_proj_weight", "in_proj_bias" */
    vtc_linear out_proj; /* [D, D]                                    */
} vtc_vlora_attention;

typedef struct vtc_vlora_decoder {
    vtc_norm norm1, norm2, norm3; /* [D]                      */
    vtc_vlora_attention self_attn;
    vtc_vlora_attention multihead_attn; /* over the features  */
    vtc_linear linear1;                 /* [F, D]             */
    vtc_linear linear2;                 /* [D, F]             */
} vtc_vlora_decoder;

typedef struct vtc_vlora_generator {
    vtc_tensor queries;                /* [1, Q, D]                              */
    vtc_norm norm;                     /* [D]                                    */
    vtc_linear weights_head;           /* [H r, D]                               */
    const vtc_vlora_decoder *decoders; /* [n_decoders] the caller's    */
    size_t n_decoders;
} vtc_vlora_generator;

/* T kinds, n injected layers. */
typedef struct vtc_vlora_weights {
    vtc_linear visual_proj;                /* [D, Dv]         */
    vtc_tensor pos_embed;                  /* [1, P, D]       */
    vtc_tensor Bs;                         /* [1, T n, H r]   */
    const vtc_vlora_generator *generators; /* T of them with n queries each, or one with T n  */
    size_t n_generators;
} vtc_vlora_weights;

/* Prefix "model.mm_projector.". */
VTC_API extern const vtc_weight_table vtc_vlora_table;
/* Prefix "model.mm_projector.gen.0." of the first kind; the only one of all: "... gen.". */
VTC_API extern const vtc_weight_table vtc_vlora_generator_table;
/* Prefix "model.mm_projector.gen.0.decoders.0.". */
VTC_API extern const vtc_weight_table vtc_vlora_decoder_table;

/* T, n and H as the weights have them. VTC_ERR_NULL, DTYPE, SHAPE, RANGE or OVERFLOW. */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_count(const vtc_vlora_params *params,
                                                 const vtc_vlora_weights *weights, size_t *n_kinds,
                                                 size_t *n_layers, size_t *llm_dim,
                                                 const vtc_exec *exec);

/* Which of the n generated layers serves layer `layer` of the language model; -1: it is left alone.
 */
VTC_API int32_t vtc_vlora_layer(const vtc_vlora_params *params, size_t layer);

/* Parameters, and the multiply-adds of generating for `n_images`, as published: products and
 * attention; norms are not counted. The released sizes have 0.85 G parameters. */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_cost(const vtc_vlora_params *params,
                                                const vtc_vlora_weights *weights, size_t n_images,
                                                vtc_model_cost *cost, const vtc_exec *exec);

/*
 * vtc_vlora_prepare() packs the generators' matrices in their own dtype, for the few query rows.
 * The object takes as many bytes as they do. No scratch. VTC_ERR_NULL, DTYPE, SHAPE, RANGE,
 * OVERLAP, OVERFLOW or ROOM.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_prepare_size(const vtc_vlora_params *params,
                                                        const vtc_vlora_weights *weights,
                                                        const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_vlora_prepare(const vtc_vlora_params *params,
                                                   const vtc_vlora_weights *weights,
                                                   vtc_prepared *prepared, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_vlora_generate_scratch(
    const vtc_vlora_params *params, const vtc_vlora_weights *weights, const vtc_prepared *prepared,
    const vtc_tensor *features, const vtc_tensor *a, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_vlora_generate() makes the factors A of one image for each sequence.
 *
 *   prepared  made by vtc_vlora_prepare(); NULL: the weights as they are
 *   features  [P, Dv] or [B, P, Dv]               in   one image for each sequence
 *             or [B, I, P, Dv]                         I = 1; I = 0 (text alone) gives zeros; more
 *                                                      is VTC_ERR_UNSUPPORTED: no model was trained
 *                                                      for it
 *   a         [T, n, H, r] or [B, T, n, H, r]     out  F32, F16 or BF16; each H x r without gaps
 *
 * Where a generator has few queries, keys and values of the features are not formed: the queries
 * are taken through the key's weights instead, and what they attend to through the value's.
 * Images go through in groups whose queries fill 64 rows: scratch is P D floats for each image of a
 * group and 4 D + max(3 D, F) for each query; 2 P D more for each image where keys and values are
 * formed, else 2 n_heads Q D once; and the largest of what an attention or a product takes.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE (P must be that of pos_embed), RANGE, OVERLAP, OVERFLOW, DATA
 * or UNSUPPORTED (also another model's or version's prepared object), or SCRATCH on error.
 * Checked against: the authors' generator, run in PyTorch 1.13. No released checkpoint was run.
 * With random weights at D = 512, P = 576, n = 8 and H r = 1024 x 64 the largest error against a
 * reference in double is 7e-7 of the largest factor.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_generate(const vtc_vlora_params *params,
                                                    const vtc_vlora_weights *weights,
                                                    const vtc_prepared *prepared,
                                                    const vtc_tensor *features, vtc_tensor *a,
                                                    const vtc_exec *exec);

/*
 * vtc_vlora_learned() is the factors B: Bs times alpha / r. They do not depend on an image.
 *
 *   b  [T, n, H, r]  out  each H x r without gaps
 *
 * No scratch. VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP or OVERFLOW on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_learned(const vtc_vlora_params *params,
                                                   const vtc_vlora_weights *weights, vtc_tensor *b,
                                                   const vtc_exec *exec);

/* ---- use in a linear layer ------------------------------------------------------------------- */

/*
 * vtc_vlora_linear() is y = x W^T + bias + (x A) B^T: two thin products, r (C + D) multiply-adds
 * for each token, beside the layer itself. B A^T is not formed.
 *
 *   linear  [D, C] and a bias or none
 *   a       [C, r], or [S, C, r]: that of each batch item its own
 *   b       [D, r]
 *   x       [N, C] or [S, N, C]  in
 *   y       [N, D] or [S, N, D]  out
 *
 * vtc_vlora_add() is y += (x A) B^T: for a linear layer, or the kind m, computed elsewhere. y is
 * read and written, each value rounded to its dtype once.
 *
 * Scratch is r floats for each row, D floats for each of at most 512 rows, and what a product
 * takes. One row of each of many sequences shares the reading of W. Each returns VTC_ERR_NULL,
 * DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_linear_scratch(const vtc_linear *linear,
                                                          const vtc_tensor *a, const vtc_tensor *b,
                                                          const vtc_tensor *x, const vtc_tensor *y,
                                                          const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_vlora_linear(const vtc_linear *linear, const vtc_tensor *a,
                                                  const vtc_tensor *b, const vtc_tensor *x,
                                                  vtc_tensor *y, const vtc_exec *exec);
VTC_API VTC_NODISCARD vtc_status vtc_vlora_add_scratch(const vtc_tensor *a, const vtc_tensor *b,
                                                       const vtc_tensor *x, const vtc_tensor *y,
                                                       const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_vlora_add(const vtc_tensor *a, const vtc_tensor *b,
                                               const vtc_tensor *x, vtc_tensor *y,
                                               const vtc_exec *exec);

/*
 * vtc_vlora_merge() is the dense y = W + B A^T, which pays for one image and many tokens.
 *
 *   w  [D, C]  in   NULL: the increment B A^T alone
 *   a  [C, r]  in
 *   b  [D, r]  in
 *   y  [D, C]  out  apart from w, which stays for the next image
 *
 * Scratch: what a product takes. VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP, OVERFLOW or SCRATCH on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_merge_scratch(const vtc_tensor *w, const vtc_tensor *a,
                                                         const vtc_tensor *b, const vtc_tensor *y,
                                                         const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_vlora_merge(const vtc_tensor *w, const vtc_tensor *a,
                                                 const vtc_tensor *b, vtc_tensor *y,
                                                 const vtc_exec *exec);

/* ---- a layer of the language model ----------------------------------------------------------- */

typedef struct vtc_vlora_block_params {
    size_t struct_size;
    size_t n_heads;   /* of queries; those of keys follow         (default 32)   */
    float eps;        /* of both norms                            (default 1e-6) */
    float rope_theta; /* > 0                                      (default 1e4)  */
} vtc_vlora_block_params;

/* clang-format off */
#define VTC_VLORA_BLOCK_PARAMS_INIT { sizeof(vtc_vlora_block_params), 32, 1e-6f, 1e4f }
/* clang-format on */

/* A LLaMA layer. Biases, which LLaMA has none of, may be absent. */
typedef struct vtc_vlora_block_weights {
    vtc_tensor input_layernorm;                /* [H]                                        */
    vtc_linear q_proj, k_proj, v_proj, o_proj; /* [E, H], [G d, H], [G d, H], [H, E]         */
    vtc_tensor post_attention_layernorm;       /* [H]                                        */
    vtc_gated_mlp mlp;                         /* F between H and H                          */
} vtc_vlora_block_weights;

/* Prefix "model.layers.3.". */
VTC_API extern const vtc_weight_table vtc_vlora_block_table;

/* A and B of one kind in one layer: [in, r] (or [S, in, r]) and [out, r]. Absent: no increment. */
typedef struct vtc_vlora_factors {
    vtc_tensor a, b;
} vtc_vlora_factors;

typedef struct vtc_vlora_deltas {
    vtc_vlora_factors q, k, v, o; /* of the four linear layers                        */
    vtc_vlora_factors m;          /* [H, r] around the whole mlp                       */
} vtc_vlora_deltas;

/* Parameters of layer and factors, and the multiply-adds of one sequence of n_rows. */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_block_cost(const vtc_vlora_block_params *params,
                                                      const vtc_vlora_block_weights *weights,
                                                      const vtc_vlora_deltas *deltas, size_t n_rows,
                                                      vtc_model_cost *cost, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_vlora_block_scratch(
    const vtc_vlora_block_params *params, const vtc_vlora_block_weights *weights,
    const vtc_vlora_deltas *deltas, const vtc_tensor *hidden, const vtc_tensor *key_mask,
    const int32_t *positions, const vtc_tensor *out, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_vlora_block() is a whole LLaMA layer with the increments of an image, over whole sequences.
 *
 *   deltas     NULL: the plain layer
 *   hidden     [N, H] or [S, N, H]  in
 *   key_mask   [N] or [S, N]        in   BOOL or U8, 0 hides the key (the image's placeholder) from
 *              every query; NULL: all are seen. A query that would see none, which only happens
 *              before the first visible key, sees all up to itself
 *   positions  [N] or [S, N]        in   of the rotation; NULL: 0 .. N - 1
 *   out        as hidden            out
 *
 * Scratch is (4 H + 3 E + 2 G d + d + r) floats for each row of one sequence, 2 F floats for each
 * of at most 512 rows, and the largest of what attention or a product takes. Sequences follow one
 * another. A NaN in one row may reach rows before it, as it does in PyTorch.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: the authors' decoder layer, run in PyTorch 1.13. With random weights at H = 4096
 * and all kinds at r = 64 the largest error against a reference in double is 3e-6 of the largest
 * output; that of the same reference in F32 is 5e-6.
 */
VTC_API VTC_NODISCARD vtc_status vtc_vlora_block(
    const vtc_vlora_block_params *params, const vtc_vlora_block_weights *weights,
    const vtc_vlora_deltas *deltas, const vtc_tensor *hidden, const vtc_tensor *key_mask,
    const int32_t *positions, vtc_tensor *out, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
