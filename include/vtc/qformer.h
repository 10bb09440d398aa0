/*
 * vtc/qformer.h: the Q-Former of BLIP-2 and InstructBLIP, from vision tokens to a few query tokens.
 *
 * A post-norm BERT encoder over nq learned queries. Every layer attends over the queries (and, in
 * InstructBLIP, over the L tokens of the instruction); in every second layer the queries then read
 * the image. A linear map takes the queries to the language model's width D_lm.
 *
 *   image       [B, S, E]       in   F32, F16 or BF16: the encoder's tokens with the class token,
 *                                    behind the LayerNorm that belongs to the encoder
 *   image_mask  [B, S]          in   BOOL, U8, I32 or I64: 0 hides a token; NULL: all are seen. An
 *                                    image with every token hidden gives the mean of all its
 *                                    values, as in the published code
 *   input_ids   [B, L]          in   I32 or I64: BERT's WordPiece ids; NULL: no text
 *   text_mask   [B, L]          in   as image_mask; hidden tokens are padding, whose own rows of
 *                                    `hidden` are computed all the same; NULL: all are seen
 *   image_kv    [B, S, n_cross * 2 * D]   what vtc_qformer_encode_image() makes: for each layer
 *                                    that reads the image its keys [D], then its values [D]
 *   hidden      [B, nq + L, D]  out  queries, then text; or [B, nq, D]: the queries alone, which
 *                                    spares the text rows of the last layer; NULL: not wanted
 *   tokens      [B, nq, D_lm]   out  the projected queries; NULL: not wanted
 *
 * All of them may lack the B axis together. B, S and L may be 0. Several images of one question, or
 * frames of a video: one batch item each, whose tokens are put one after another.
 *
 * Weights are F32, F16 or BF16 in any mix and are used as they are stored: 16-bit ones are widened
 * a tile at a time, prepared or not. NaN and Inf propagate within a batch item.
 *
 *     vtc_qformer_layer layers[12];
 *     vtc_qformer_weights w = { .layers = layers, .n_layers = 12 };
 *     vtc_weights_bind(&vtc_qformer_blip2_table, find, file, "", &w, &exec);
 *     vtc_weights_bind(&vtc_linear_table, find, file, "language_projection.",
 *                      &w.projection, &exec);
 *     for (i = 0; i < 12; i++)           names "qformer.encoder.layer.<i>."
 *         vtc_weights_bind(&vtc_qformer_hf_layer_table, find, file, name[i], &layers[i], &exec);
 *     vtc_qformer_scratch(NULL, &w, NULL, &image, NULL, NULL, NULL, NULL, &tokens, &exec, &bytes);
 *     vtc_qformer(NULL, &w, NULL, &image, NULL, NULL, NULL, NULL, &tokens, &exec);
 *
 * Source: Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders
 * and Large Language Models", ICML 2023, section 3.1; Dai et al., "InstructBLIP", NeurIPS 2023,
 * section 2.3. The code is LAVIS's Qformer.py and transformers' modeling_blip_2.py.
 */
#ifndef VTC_QFORMER_H
#define VTC_QFORMER_H

#include "project.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- weights --------------------------------------------------------------------------------- */

/* x becomes norm(output(softmax(q k^T / sqrt(D / n_heads)) v) + x). */
typedef struct vtc_qformer_attention {
    vtc_linear query;  /* [D, D]                              */
    vtc_linear key;    /* [D, D], over the image [D, E]       */
    vtc_linear value;  /* as key                              */
    vtc_linear output; /* [D, D]  "output.dense"              */
    vtc_norm norm;     /* [D]     "output.LayerNorm"          */
} vtc_qformer_attention;

/* x becomes norm(down(gelu(up(x))) + x), with the exact GELU. */
typedef struct vtc_qformer_mlp {
    vtc_linear up;   /* [I, D]  "intermediate.dense"  */
    vtc_linear down; /* [D, I]  "output.dense"        */
    vtc_norm norm;   /* [D]     "output.LayerNorm"    */
} vtc_qformer_mlp;

typedef struct vtc_qformer_layer {
    vtc_qformer_attention self;
    vtc_qformer_attention cross; /* absent: this layer does not read the image      */
    vtc_qformer_mlp query;       /* "intermediate_query", "output_query"            */
    vtc_qformer_mlp text;        /* "intermediate", "output"; absent: takes no text */
} vtc_qformer_layer;

typedef struct vtc_qformer_weights {
    vtc_tensor query_tokens;         /* [1, nq, D]                                  */
    vtc_norm embedding_norm;         /* [D]                                         */
    vtc_tensor word_embeddings;      /* [vocabulary, D]; absent, as in BLIP-2: no text is taken */
    vtc_tensor position_embeddings;  /* [longest text, D]                           */
    const vtc_qformer_layer *layers; /* [n_layers]                                  */
    size_t n_layers;                 /* as many as the checkpoint has names of      */
    vtc_linear projection;           /* [D_lm, D]; absent: no tokens can be asked for */
} vtc_qformer_weights;

/*
 * Names below prefix "": query tokens, embedding norm and what BLIP-2 lacks, the text embeddings.
 * The projection is bound with vtc_linear_table: "language_projection." in transformers,
 * "opt_proj.", "t5_proj." or "llm_proj." in LAVIS.
 */
VTC_API extern const vtc_weight_table vtc_qformer_lavis_table;
VTC_API extern const vtc_weight_table vtc_qformer_blip2_table;        /* transformers */
VTC_API extern const vtc_weight_table vtc_qformer_instructblip_table; /* transformers */

/* Names below one layer's prefix: "Qformer.bert.encoder.layer.<i>." in LAVIS, and in transformers
 * "qformer.encoder.layer.<i>.". Cross-attention and text feed-forward are optional. */
VTC_API extern const vtc_weight_table vtc_qformer_lavis_layer_table;
VTC_API extern const vtc_weight_table vtc_qformer_hf_layer_table;

typedef struct vtc_qformer_params {
    size_t struct_size;
    size_t n_heads; /* divides D        (default 12)    */
    float eps;      /* of all norms     (default 1e-12) */
} vtc_qformer_params;

/* clang-format off */
#define VTC_QFORMER_PARAMS_INIT { sizeof(vtc_qformer_params), 12, 1e-12f }
/* clang-format on */

/* ---- counts ---------------------------------------------------------------------------------- */

/* Channels of image_kv: n_cross * 2 * D. */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_kv_channels(const vtc_qformer_params *params,
                                                         const vtc_qformer_weights *weights,
                                                         size_t *n_channels, const vtc_exec *exec);

/*
 * Parameters of all tensors that are there, embeddings and projection too, and the multiply-adds of
 * a call with `n_batch` images of `n_image` tokens and `n_text` tokens of text each, the projection
 * being taken where there is one: per layer 4 n D^2 + 2 n^2 D + 2 n D I with n = nq + n_text, per
 * layer that reads the image 2 nq D^2 + 2 S E D + 2 nq S D, and nq D D_lm. 12.9 GFLOP for BLIP-2
 * with OPT-2.7B.
 */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_cost(const vtc_qformer_params *params,
                                                  const vtc_qformer_weights *weights,
                                                  size_t n_batch, size_t n_image, size_t n_text,
                                                  vtc_model_cost *cost, const vtc_exec *exec);

/* ---- preparing ------------------------------------------------------------------------------- */

/*
 * vtc_qformer_prepare() packs the weights, in their own dtype, for products of few rows, with the
 * three of a self-attention as one product and the keys and values of all layers over the image as
 * one; and it computes what no image changes: the norm of the queries, and the whole first
 * self-attention and the query of the first cross-attention, or, for weights that take text, the
 * queries' own rows of the first q, k and v.
 *
 * Use the object for any number of calls, beside the weights that it was made from. Results agree
 * with those of a call without it within rounding. Needs the bytes that
 * vtc_qformer_prepare_size() tells, about those of the weights without the word embeddings.
 *
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERFLOW, OVERLAP (the object and the weights),
 * SCRATCH or ROOM. Nothing is written then.
 */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_prepare_size(const vtc_qformer_params *params,
                                                          const vtc_qformer_weights *weights,
                                                          const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_qformer_prepare_scratch(const vtc_qformer_params *params,
                                                             const vtc_qformer_weights *weights,
                                                             const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_qformer_prepare(const vtc_qformer_params *params,
                                                     const vtc_qformer_weights *weights,
                                                     vtc_prepared *prepared, const vtc_exec *exec);

/* ---- the whole ------------------------------------------------------------------------------- */

VTC_API VTC_NODISCARD vtc_status vtc_qformer_scratch(
    const vtc_qformer_params *params, const vtc_qformer_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *image, const vtc_tensor *image_mask,
    const vtc_tensor *input_ids, const vtc_tensor *text_mask, const vtc_tensor *hidden,
    const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_qformer() runs the Q-Former on a batch of images; the file comment tells of the tensors.
 *
 *   prepared   from vtc_qformer_prepare(), or NULL
 *
 * At least one of hidden and tokens is given. Outputs may not overlap anything.
 *
 * Images are taken in groups of 64 / (nq + L), at least one, so that scratch does not grow with the
 * batch. For each image of a group, in F32: the keys and values S * n_cross * 2 D (9.0 MiB at
 * 257x1408), rows (nq + L) * 6 D and max(nq, L) * I, and the keys of one layer turned; for all
 * together the packed rows of a product and, per worker, 64 (S + D / n_heads) logits and what a
 * tile of 16-bit weights takes as F32.
 *
 * Prepared, and where that takes fewer multiply-adds, the image is read without keys and values:
 * logits as (q Wk) image^T, the result as (p image) Wv^T + bv. That saves 2.6 of BLIP-2's 12.9
 * GFLOP. In place of keys and values there are then the packed image and n_heads * nq (E + S)
 * floats.
 *
 * Time is that of the products, see vtc_qformer_cost(); those of the query rows take two thirds of
 * it with a prepared object.
 *
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE (also for a text longer than the position embeddings), RANGE
 * (also for an id outside of the vocabulary), OVERLAP, OVERFLOW, SCRATCH; VTC_ERR_UNSUPPORTED for
 * text with weights that take none and for an object of another version or machine; VTC_ERR_DATA
 * for an object of other shapes or parameters.
 * Checked against: LAVIS's and transformers' published classes, with random weights; at the real
 * size (12 layers of 768 channels, 257x1408) within 1e-6 of the largest output.
 */
VTC_API VTC_NODISCARD vtc_status vtc_qformer(const vtc_qformer_params *params,
                                             const vtc_qformer_weights *weights,
                                             const vtc_prepared *prepared, const vtc_tensor *image,
                                             const vtc_tensor *image_mask,
                                             const vtc_tensor *input_ids,
                                             const vtc_tensor *text_mask, vtc_tensor *hidden,
                                             vtc_tensor *tokens, const vtc_exec *exec);

/* ---- one image, several questions ------------------------------------------------------------ */

/* No scratch is needed for F32 throughout without a prepared object. */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_encode_image_scratch(
    const vtc_qformer_params *params, const vtc_qformer_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *image, const vtc_tensor *image_kv,
    const vtc_exec *exec, size_t *bytes);

/*
 * vtc_qformer_encode_image() computes the keys and values of all layers that read the image: more
 * than half of the work, and the same whatever the text.
 *
 *   image_kv  [B, S, n_cross * 2 * D]   out   F32, F16 or BF16; a cache in BF16 costs 3 digits
 *
 * vtc_qformer_encode_image() into F32 and vtc_qformer_query() give the bits of vtc_qformer(), or
 * with a prepared object the same within rounding.
 * Errors: those of vtc_qformer().
 */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_encode_image(const vtc_qformer_params *params,
                                                          const vtc_qformer_weights *weights,
                                                          const vtc_prepared *prepared,
                                                          const vtc_tensor *image,
                                                          vtc_tensor *image_kv,
                                                          const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_qformer_query_scratch(
    const vtc_qformer_params *params, const vtc_qformer_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *image_kv, const vtc_tensor *image_mask,
    const vtc_tensor *input_ids, const vtc_tensor *text_mask, const vtc_tensor *hidden,
    const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_qformer_query() is vtc_qformer() from image_kv on. Several questions about one image: a batch
 * of them, with image_kv.stride[0] = 0. Scratch: that of vtc_qformer() but for the keys and values.
 * Errors: those of vtc_qformer().
 */
VTC_API VTC_NODISCARD vtc_status vtc_qformer_query(
    const vtc_qformer_params *params, const vtc_qformer_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *image_kv, const vtc_tensor *image_mask,
    const vtc_tensor *input_ids, const vtc_tensor *text_mask, vtc_tensor *hidden,
    vtc_tensor *tokens, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
