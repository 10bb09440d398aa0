/*
 * vtc/hyper_attention.h: Hyper Attention, the layers of mPLUG-Owl3 in which text reads images.
 *
 * Visual tokens are no part of the language model's sequence. A few of its layers project them to
 * keys and values of their own, which the text's queries read beside the text. Three variants were
 * released; the tensors that a checkpoint has tell which one it is:
 *
 *     gate_proj  o = (1 - g) s + g c,  g = sigmoid(Wg s + bg) for each token and head
 *     gate       o = (1 - g) s + g c,  g = sigmoid(gate) for each channel
 *     fused      one softmax over the visual and the text keys together
 *
 * with s the causal attention over text and c that over the visual keys. Every visual key of an
 * image is rotated (MI-RoPE) as if at the place of the image's placeholder in the text: media_start
 * in `fused`, media_start + 1 in the others. The text at `media_start` itself sees the image in
 * `fused`; in the others the text after it does. Text that sees no image has o = s.
 *
 * Keys and values live in caches of the caller. Those of images are made once for each layer and
 * image, vtc_hyper_attention_encode_images(); those of text are appended by each call, so that a
 * prompt may come whole, in chunks, or token by token, with equal results.
 *
 *     vtc_hyper_sequence s = { .text = cache, .visual = visual, .media_starts = starts,
 *                              .n_images = 2, .n_image_rows = 729 };
 *     vtc_hyper_attention_encode_images(&params, &w, NULL, &images, starts, 0, &s.visual, &exec);
 *     s.n_rows = 64;                                                       the prompt
 *     vtc_hyper_attention(&params, &w, NULL, &hidden, &s, 1, NULL, &out, &exec);
 *     s.position = 64, s.n_rows = 1;                                       one token more
 *     vtc_hyper_attention(&params, &w, NULL, &one, &s, 1, NULL, &out_one, &exec);
 *
 * The image tokens themselves are vision2text_model, a linear layer (vtc_mlp()), of the encoder's
 * last but one block; the same ones go to every hyper layer. A video is one image per frame.
 *
 * Source: Ye et al., "mPLUG-Owl3: Towards Long Image-Sequence Understanding in Multi-Modal Large
 * Language Models", 2024, section 3.2, and the code published with the checkpoints.
 */
#ifndef VTC_HYPER_ATTENTION_H
#define VTC_HYPER_ATTENTION_H

#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vtc_hyper_variant {
    VTC_HYPER_BY_TENSORS = 0, /* gate_proj where there is one, else gate, else fused */
    VTC_HYPER_GATE_PROJ = 1,  /* 7B-240728                                           */
    VTC_HYPER_GATE = 2,       /* 1B-241014, 2B-241014                                */
    VTC_HYPER_FUSED = 3       /* 7B-241101                                           */
} vtc_hyper_variant;

typedef struct vtc_hyper_attention_params {
    size_t struct_size;
    size_t n_heads;            /* of queries; those of keys follow    (default 28)         */
    vtc_hyper_variant variant; /*                                     (default BY_TENSORS) */
    float eps;                 /* of the input norm                   (default 1e-6)       */
    float rope_theta;          /* > 0                                 (default 1e6)        */
} vtc_hyper_attention_params;

/* clang-format off */
#define VTC_HYPER_ATTENTION_PARAMS_INIT \
    { sizeof(vtc_hyper_attention_params), 28, VTC_HYPER_BY_TENSORS, 1e-6f, 1e6f }
/* clang-format on */

/* One hyper layer. Q = n_heads D, E = G D of G key heads, where G divides n_heads; D is even. */
typedef struct vtc_hyper_attention_weights {
    vtc_tensor input_layernorm; /* [C], RMS, shared by text and images                           */
    vtc_linear q_proj;          /* [Q, C] */
    vtc_linear k_proj;          /* [E, C] */
    vtc_linear v_proj;          /* [E, C] */
    vtc_linear o_proj;          /* [C, Q] */
    vtc_linear v_kv_proj;       /* [2E, C]: key head 0, value head 0, key head 1, ...            */
    vtc_linear gate_proj;       /* [D, D], shared by the heads; absent but for gate_proj         */
    vtc_tensor gate;            /* [Q]; absent but for gate                                      */
} vtc_hyper_attention_weights;

/* Prefix "language_model.model.layers.0.", layers counted from 0 (hyper_layers counts from 1). */
VTC_API extern const vtc_weight_table vtc_hyper_attention_table;

/* Rotated keys, and values, [G, rows, D]. The strides may be those of [rows, G, D] as well. */
typedef struct vtc_hyper_kv {
    vtc_tensor k, v;
} vtc_hyper_kv;

/* One sequence of a batch. */
typedef struct vtc_hyper_sequence {
    size_t n_rows;     /* its rows of `hidden`                                                    */
    size_t position;   /* of the first of them: so many rows precede it in `text`                 */
    vtc_hyper_kv text; /* [G, >= position + n_rows, D]: rows from `position` on are written       */

    size_t n_images;             /* of the whole sequence; 0: plain attention, all else is unused */
    size_t n_image_rows;         /* tokens of each image                                          */
    const int32_t *media_starts; /* [n_images] index in the sequence of each image's placeholder,
                                    >= 0 and ascending; an image that none sees yet may be there  */
    vtc_hyper_kv visual;         /* [G, >= n_images * n_image_rows, D]                            */
} vtc_hyper_sequence;

/*
 * Parameters of the layer, and the multiply-adds of a call with `n_rows` rows of text at
 * `position`, all of which see `n_visual` visual keys, and of making `n_encoded` visual keys and
 * values. Products and attention are counted, norms, rotations and the mixing are not.
 */
VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_cost(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    size_t n_rows, size_t position, size_t n_visual, size_t n_encoded, vtc_model_cost *cost,
    const vtc_exec *exec);

/*
 * vtc_hyper_attention_prepare() packs the five large matrices in their own dtype, which pays where
 * a call has up to some 64 rows, such as one token of each sequence of a batch. The object takes as
 * many bytes as they do. No scratch. VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or ROOM.
 */
VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_prepare_size(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_prepare(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    vtc_prepared *prepared, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_encode_images_scratch(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *images, const int32_t *media_starts,
    size_t first_image, const vtc_hyper_kv *visual, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_hyper_attention_encode_images() makes the keys and values of N images for one layer.
 *
 *   prepared      made by vtc_hyper_attention_prepare(); NULL: the weights as they are
 *   images        [N, R, C] or [R, C]  in   tokens of width C, before any norm
 *   media_starts  [N]                  in   as in vtc_hyper_sequence, of these images
 *   first_image   images that stand in `visual` already; these come behind them
 *   visual        [G, >= (first_image + N) R, D]  out   rows from first_image R on, F32, F16 or
 *                 BF16 in any mix; keys are normed by the layer's own norm, projected and rotated
 *
 * Images go through in blocks of 512 rows, or of one image if that is longer: scratch is
 * (C + 2E + D) floats for each of these rows and what a product takes, whatever N.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, ROOM, OVERFLOW, DATA or UNSUPPORTED (another
 * model's or version's prepared object), or SCRATCH on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_encode_images(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *images, const int32_t *media_starts,
    size_t first_image, vtc_hyper_kv *visual, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention_scratch(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *hidden, const vtc_hyper_sequence *sequences,
    size_t n_sequences, const vtc_tensor *attn, const vtc_tensor *out, const vtc_exec *exec,
    size_t *bytes);

/*
 * vtc_hyper_attention() is the attention half of a hyper layer for the next rows of some sequences.
 *
 *   prepared   made by vtc_hyper_attention_prepare(); NULL: the weights as they are
 *   hidden     [rows, C]  in    the residual stream; those of the sequences one after another
 *   sequences  [n_sequences]    their n_rows add up to `rows`; the caches of text are written
 *   attn       [rows, C]  out   behind o_proj, without the residual; NULL: not wanted
 *   out        [rows, C]  out   hidden + attention, before the layer's MLP; NULL: not wanted
 *
 * One text token of many sequences is one call, so that they share the reading of the weights.
 * There is no padding: sequences are ragged, and positions are indices in the sequence.
 *
 * What a chunk computes agrees with what the whole prompt would have given within rounding, and is
 * the same bits for any number of workers. Caches round to their own dtype: with F16 and BF16 the
 * keys and values of this call are read as they were stored. Caches may interleave (K and V of one
 * token side by side): that they do not share elements is the caller's promise. A NaN in one row
 * may reach rows before it in the same call, as it does in PyTorch (0 NaN = NaN).
 *
 * Rows go through in blocks of 512: scratch is (max(C, Q) + 3Q + 2E + 2 n_heads) floats for each
 * row of a block, one row for each worker, and the largest of what attention takes (the longest
 * sequence's keys once, 64 (keys + D) floats for each worker) and what a product takes.
 * Time is that of the products and of two attentions over the keys that are seen.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, ROOM (a cache is too short), OVERFLOW, DATA
 * or UNSUPPORTED (another model's or version's prepared object), or SCRATCH on error. Checked
 * against: for both gated variants the authors' attention class, transcribed from public copies of
 * the checkpoints' code; for `fused` a transcription of a public port, as the original was not at
 * hand. No released checkpoint was run.
 */
VTC_API VTC_NODISCARD vtc_status vtc_hyper_attention(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *hidden, vtc_hyper_sequence *sequences,
    size_t n_sequences, vtc_tensor *attn, vtc_tensor *out, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
