/*
 * vtc/idefics2.h: the connector of Idefics2: a gated MLP to the language model's width, then a
 * perceiver with grouped key heads, from the patches of an image to M tokens.
 *
 *   x       [B, N, Dv] or [N, Dv]  in    F32, F16 or BF16: the vision tower's states behind its
 *                                        last norm
 *   mask    [B, N] or [N]          in    BOOL or U8: 0 is padding, whatever it holds; NULL: none is
 *   tokens  [B, M, D] or [M, D]    out   F32, F16 or BF16
 *
 * Padding is left out before the MLP, which is exact: masked keys weigh 0. An image without any
 * patch attends to the latents alone. All arithmetic is F32: the two wide MLPs are reported to
 * leave the range of F16. NaN and Inf propagate within a batch item. B and N may be 0.
 *
 *     vtc_idefics2_layer layers[3];
 *     vtc_idefics2_weights w = { .layers = layers, .n_layers = 3 };
 *     vtc_weights_bind(&vtc_idefics2_table, find, file, "model.connector.", &w, &exec);
 *     for (i = 0; i < 3; i++)       names "model.connector.perceiver_resampler.layers.<i>."
 *         vtc_weights_bind(&vtc_idefics2_layer_table, find, file, name[i], &layers[i], &exec);
 *     vtc_idefics2_params params = VTC_IDEFICS2_PARAMS_INIT;
 *     params.eps = 1e-5f;
 *     vtc_idefics2_scratch(&params, &w, NULL, &x, NULL, &tokens, &exec, &bytes);
 *     vtc_idefics2(&params, &w, NULL, &x, NULL, &tokens, &exec);
 *
 * Source: Laurencon et al., "What matters when building vision-language models?", NeurIPS 2024,
 * section 3; the code is transformers' modeling_idefics2.py.
 */
#ifndef VTC_IDEFICS2_H
#define VTC_IDEFICS2_H

#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vtc_idefics2_layer {
    vtc_norm latents_norm; /* [D]  "input_latents_norm"                    */
    vtc_norm context_norm; /* [D]  "input_context_norm"                    */
    vtc_linear q;          /* [n_heads * d, D]     "self_attn.q_proj"      */
    vtc_linear k;          /* [n_kv_heads * d, D]  "self_attn.k_proj"      */
    vtc_linear v;          /* [n_kv_heads * d, D]  "self_attn.v_proj"      */
    vtc_linear o;          /* [D, n_heads * d]     "self_attn.o_proj"      */
    vtc_norm mlp_norm;     /* [D]  "post_attention_layernorm"              */
    vtc_gated_mlp mlp;     /* "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj" */
} vtc_idefics2_layer;

typedef struct vtc_idefics2_weights {
    vtc_gated_mlp projection; /* Dv -> I -> D  "modality_projection"       */
    vtc_tensor latents;       /* [M, D]        "perceiver_resampler.latents" */
    vtc_norm norm;            /* [D]           "perceiver_resampler.norm"  */
    const vtc_idefics2_layer *layers;
    size_t n_layers;
} vtc_idefics2_weights;

/* Names below "model.connector.", or "model." in the file before it came to transformers. */
VTC_API extern const vtc_weight_table vtc_idefics2_table;
/* Names below one layer's prefix, ".perceiver_resampler.layers.<i>.". */
VTC_API extern const vtc_weight_table vtc_idefics2_layer_table;

typedef struct vtc_idefics2_params {
    size_t struct_size;
    size_t n_heads;    /* (default 16)                                                           */
    size_t n_kv_heads; /* divides n_heads; query head h reads key head h / (n_heads / n_kv_heads) */
                       /* (default 4)                                                            */
    float eps;         /* of all norms, > 0. Versions of the model disagree (1e-5, 1e-6), so it  */
                       /* must be given                                            (default 0)   */
} vtc_idefics2_params;

/* clang-format off */
#define VTC_IDEFICS2_PARAMS_INIT { sizeof(vtc_idefics2_params), 16, 4, 0.0f }
/* clang-format on */

/* Parameters of all tensors, and the multiply-adds of a call with `n_batch` images of `n_patches`
 * real patches each. 743 M parameters and 106 + 95 GFLOP for 576 patches of Idefics2-8B. */
VTC_API VTC_NODISCARD vtc_status vtc_idefics2_cost(const vtc_idefics2_params *params,
                                                   const vtc_idefics2_weights *weights,
                                                   size_t n_batch, size_t n_patches,
                                                   vtc_model_cost *cost, const vtc_exec *exec);

/*
 * vtc_idefics2_prepare() packs the layers' weights in their own dtype for products of M rows and
 * computes what no image changes: the first layer's normed latents, their queries, keys and values.
 * The modality projection and the keys and values of patches use the weights as they are.
 * The object takes the bytes that vtc_idefics2_prepare_size() tells.
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERFLOW, OVERLAP (the object and the weights),
 * SCRATCH or ROOM. Nothing is written then.
 */
VTC_API VTC_NODISCARD vtc_status vtc_idefics2_prepare_size(const vtc_idefics2_params *params,
                                                           const vtc_idefics2_weights *weights,
                                                           const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_idefics2_prepare_scratch(const vtc_idefics2_params *params,
                                                              const vtc_idefics2_weights *weights,
                                                              const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_idefics2_prepare(const vtc_idefics2_params *params,
                                                      const vtc_idefics2_weights *weights,
                                                      vtc_prepared *prepared, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_idefics2_scratch(const vtc_idefics2_params *params,
                                                      const vtc_idefics2_weights *weights,
                                                      const vtc_prepared *prepared,
                                                      const vtc_tensor *x, const vtc_tensor *mask,
                                                      const vtc_tensor *tokens,
                                                      const vtc_exec *exec, size_t *bytes);

/*
 * vtc_idefics2() runs the connector; the file comment tells of the tensors.
 *
 *   prepared  from vtc_idefics2_prepare(), or NULL
 *
 * Images are taken one after another, so scratch does not grow with the batch: 2 N D floats of
 * patches and 2 (N + M) n_kv_heads d of keys and values (160 + 15 MB for 4900 patches of the 8B
 * model), 2 max(512 I, 4 M D) of hidden values (59 MB), some rows of M, and per worker
 * 64 (N + M + d) logits and what a tile of 16-bit weights takes as F32. Time is that of the
 * products, see vtc_idefics2_cost(); nearly all of it is the projection.
 *
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW, SCRATCH; VTC_ERR_DATA for an object
 * of other shapes or parameters, VTC_ERR_UNSUPPORTED for one of another version or machine.
 * Checked against: transformers' published class, run with random weights (PyTorch 1.13).
 */
VTC_API VTC_NODISCARD vtc_status vtc_idefics2(const vtc_idefics2_params *params,
                                              const vtc_idefics2_weights *weights,
                                              const vtc_prepared *prepared, const vtc_tensor *x,
                                              const vtc_tensor *mask, vtc_tensor *tokens,
                                              const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
