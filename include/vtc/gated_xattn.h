/*
 * vtc/gated_xattn.h: Flamingo's gated cross-attention block, between the layers of a frozen
 * decoder.
 *
 * Text tokens attend to the media they follow; what they gather and a feed-forward are added
 * through gates. Keys and values depend on the media alone: vtc_gated_xattn_encode_media() makes
 * them once for a whole generation. Weights are structs of views named after the checkpoint's
 * tensors, F32, F16 or BF16; a prepared object holds them packed in their own dtype.
 */
#ifndef VTC_GATED_XATTN_H
#define VTC_GATED_XATTN_H

#include "project.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which media a text token sees, its time being the number of media tokens up to it. */
typedef enum vtc_media_rule {
    VTC_MEDIA_IMMEDIATE = 0,   /* the item of its time: the last one before it */
    VTC_MEDIA_ALL_PREVIOUS = 1 /* items up to its time                         */
} vtc_media_rule;

typedef struct vtc_gated_xattn_params {
    size_t struct_size;
    size_t heads;        /* cannot be read off the weights; divides inner   (default 8)         */
    float eps;           /* of both norms                                   (default 1e-5)      */
    vtc_activation act;  /* of the feed-forward                             (default GELU_ERF)  */
    vtc_media_rule rule; /*                                                 (default IMMEDIATE) */
    int cached_media;    /* 1: the time of every token is that of the end of `locations`, which */
                         /* then are those of the prompt                    (default 0)         */
} vtc_gated_xattn_params;

/* clang-format off */
#define VTC_GATED_XATTN_PARAMS_INIT \
    { sizeof(vtc_gated_xattn_params), 8, 1e-5f, VTC_ACT_GELU_ERF, VTC_MEDIA_IMMEDIATE, 0 }
/* clang-format on */

/* No linear layer has a bias. `inner` is heads times the width of a head. */
typedef struct vtc_gated_xattn_weights {
    vtc_norm attn_norm;   /* [D]             "attn.norm"                      */
    vtc_tensor to_q;      /* [inner, D]      "attn.to_q.weight"               */
    vtc_tensor to_kv;     /* [2 inner, Dv]   "attn.to_kv.weight", keys first  */
    vtc_tensor to_out;    /* [D, inner]      "attn.to_out.weight"             */
    vtc_tensor attn_gate; /* [] or [1]       "attn_gate"                      */
    vtc_norm ff_norm;     /* [D]             "ff.0"                           */
    vtc_tensor ff_up;     /* [F, D]          "ff.1.weight"                    */
    vtc_tensor ff_down;   /* [D, F]          "ff.3.weight"                    */
    vtc_tensor ff_gate;   /* [] or [1]       "ff_gate"                        */
} vtc_gated_xattn_weights;

/* Prefix of the block before decoder layer l: "lang_encoder.<layers>.l.gated_cross_attn_layer."
 * with <layers> "transformer.blocks" (MPT), "gpt_neox.layers" (RedPajama), "model.layers" (LLaMA),
 * "model.decoder.layers" (OPT) or "transformer.h" (GPT-J), or, in some files,
 * "lang_encoder.gated_cross_attn_layers.l.". */
VTC_API extern const vtc_weight_table vtc_gated_xattn_table;

/* Parameters, and the multiply-adds of `n_tokens` text tokens that see `n_keys` media tokens each,
 * with keys and values made of `n_media` media tokens (0: cached). OpenFlamingo-9B: 139.5 M
 * parameters, 138 M multiply-adds a token with one image. */
VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_cost(const vtc_gated_xattn_params *params,
                                                      const vtc_gated_xattn_weights *weights,
                                                      size_t n_tokens, size_t n_keys,
                                                      size_t n_media, vtc_model_cost *cost,
                                                      const vtc_exec *exec);

/*
 * vtc_gated_xattn_prepare() makes the prepared object: every matrix packed in its own dtype, as
 * many bytes as the weights. No scratch. VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or
 * ROOM (the object is too small) on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_prepare_size(
    const vtc_gated_xattn_params *params, const vtc_gated_xattn_weights *weights,
    const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_prepare(const vtc_gated_xattn_params *params,
                                                         const vtc_gated_xattn_weights *weights,
                                                         vtc_prepared *prepared,
                                                         const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_encode_media_scratch(
    const vtc_gated_xattn_params *params, const vtc_gated_xattn_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *media, const vtc_tensor *kv,
    const vtc_exec *exec, size_t *bytes);

/*
 * vtc_gated_xattn_encode_media() makes a block's keys and values of the media.
 *
 *   media  [B, T, n, Dv] or [T, n, Dv]             in    the resampler's output
 *   kv     [B, T, n, 2 inner] or [T, n, 2 inner]   out   keys, then values, of each media token
 *
 * kv is of any float dtype; an image of 64 tokens has 256 KiB of F32 in OpenFlamingo's blocks.
 * Items can be added one at a time, through views of parts of kv. Scratch only where dtypes are not
 * F32. VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error; for a prepared
 * object also VTC_ERR_DATA and VTC_ERR_UNSUPPORTED.
 */
VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_encode_media(
    const vtc_gated_xattn_params *params, const vtc_gated_xattn_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *media, vtc_tensor *kv, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn_scratch(
    const vtc_gated_xattn_params *params, const vtc_gated_xattn_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *x, const vtc_tensor *media,
    const vtc_tensor *kv, const vtc_tensor *locations, const vtc_tensor *y, const vtc_exec *exec,
    size_t *bytes);

/*
 * vtc_gated_xattn() is the whole block, both residuals included:
 *
 *     h = x + tanh(attn_gate) to_out attention(LN(x), media)
 *     y = h + tanh(ff_gate) W3 gelu(W1 LN(h))
 *
 *   prepared                           of these weights and parameters; NULL: none
 *   x          [B, L, D]         in    hidden states of the text
 *   media      [B, T, n, Dv]     in    the media themselves, or NULL and
 *   kv         [B, T, n, 2 inner] in   what vtc_gated_xattn_encode_media() has made; exactly one
 *   locations  [B, L]            in    BOOL, U8, I32 or I64: not 0 at each media token of the text;
 *                                      [B, any] with cached_media; NULL: every token sees all media
 *   y          [B, L, D]         out
 *
 * All without B for a single sequence. A media token sees its own item already. Hidden logits are
 * large finite numbers in the published code, so a token that sees nothing gathers the mean of all
 * values: with ALL_PREVIOUS text before the first media token, with IMMEDIATE text behind more
 * media tokens than there are items. With IMMEDIATE text before the first media token gathers zero.
 * Without media tokens (T or n is 0) nothing is gathered. The feed-forward runs for every token.
 * A NaN or Inf in a media token may reach every text token of its batch item, also one that does
 * not see it, as it does in PyTorch (0 NaN = NaN).
 *
 * Decoding: vtc_gated_xattn_encode_media() once, then a call for each new token with kv and
 * cached_media, where locations are those of the whole prompt. As in OpenFlamingo, new text must
 * then hold no media token.
 *
 * IMMEDIATE costs each token the n keys of its item, however many items there are. Tokens are taken
 * in blocks of at most 512. Scratch for a block of n, F32: n (2 D + 2 inner + F), what attention
 * takes, and the keys and values of its batch items unless kv gives them in F32 without gaps
 * between items. Time is that of the matrix products, when decoding that of reading the weights.
 *
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error, UNSUPPORTED
 * when both media and kv are given; for a prepared object also VTC_ERR_DATA.
 * Checked against: OpenFlamingo's GatedCrossAttentionBlock as published. At OpenFlamingo-3B's size
 * with random weights every element is within 2e-6 of a double-precision run (|y| up to 5). No
 * released checkpoint was run.
 * Source: Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022,
 * section 3.2; Awadalla et al., "OpenFlamingo", 2023.
 */
VTC_API VTC_NODISCARD vtc_status vtc_gated_xattn(const vtc_gated_xattn_params *params,
                                                 const vtc_gated_xattn_weights *weights,
                                                 const vtc_prepared *prepared, const vtc_tensor *x,
                                                 const vtc_tensor *media, const vtc_tensor *kv,
                                                 const vtc_tensor *locations, vtc_tensor *y,
                                                 const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
