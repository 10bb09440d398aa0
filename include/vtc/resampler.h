/*
 * vtc/resampler.h: one cross-attention from M learned queries to position-tagged vision tokens,
 * then a norm and a square matrix: the resamplers of Qwen-VL and MiniCPM-V.
 *
 *   x       [B, N, Dv] or [N, Dv]  in    F32, F16 or BF16: patches in raster order, no [CLS]; what
 *                                        lies behind the rows * columns patches of an image is
 *                                        padding, whatever it holds
 *   tokens  [G, M, D] or [M, D]    out   F32, F16 or BF16: one set for each image or, with groups,
 *                                        for each group of images
 *
 * What a model does with positions is the `variant`. The cheaper of two orders of products is taken
 * by shape alone: with H M < D + M the keys' and values' matrices are applied to the queries and to
 * what they gather instead of to the patches; both orders are exact. NaN and Inf propagate within
 * an image or group. B may be 0.
 *
 *     vtc_resampler_weights w;                       MiniCPM-V 2.6: everything below "resampler."
 *     vtc_weights_bind(&vtc_resampler_table, find, file, "resampler.", &w, &exec);
 *     vtc_weights_bind(&vtc_resampler_tail_table, find, file, "resampler.", &w, &exec);
 *     const int32_t grids[2][2] = { { 24, 43 }, { 32, 32 } };
 *     vtc_resampler_images images = VTC_RESAMPLER_IMAGES_INIT;
 *     images.grids = &grids[0][0];
 *     vtc_resampler_scratch(NULL, &w, NULL, &x, &images, &tokens, &exec, &bytes);
 *     vtc_resampler(NULL, &w, NULL, &x, &images, &tokens, &exec);
 *
 * Source: Bai et al., "Qwen-VL", 2023, section 2.1; Yao et al., "MiniCPM-V", 2024, section 3.1; the
 * code is Qwen-VL's visual.py and the resampler.py of the MiniCPM-V versions.
 */
#ifndef VTC_RESAMPLER_H
#define VTC_RESAMPLER_H

#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vtc_resampler_variant {
    /* Keys: a fresh sin-cos table of each image's grid; queries: none. MiniCPM-V 2.5, 2.6, o-2.6,
     * 4.0, and with frames and groups 4.5. */
    VTC_RESAMPLER_MINICPMV = 0,
    /* Keys: a fresh table; queries: the stored pos_embed. MiniCPM-V 2.0. */
    VTC_RESAMPLER_MINICPMV_2_0 = 1,
    /* Both stored; for keys the square table is resized by bicubic interpolation to the square of N
     * patches. Qwen-VL, OmniLMM, MiniCPM-V 1.0. */
    VTC_RESAMPLER_QWEN_VL = 2
} vtc_resampler_variant;

typedef struct vtc_resampler_params {
    size_t struct_size;
    vtc_resampler_variant variant; /* (default MINICPMV)                                     */
    size_t n_heads;                /* divides D; 0: D / 128, as in all released models       */
                                   /* (default 0)                                            */
    float eps;                     /* of all norms                            (default 1e-6) */
} vtc_resampler_params;

/* clang-format off */
#define VTC_RESAMPLER_PARAMS_INIT \
    { sizeof(vtc_resampler_params), VTC_RESAMPLER_MINICPMV, 0, 1e-6f }
/* clang-format on */

typedef struct vtc_resampler_weights {
    vtc_tensor query;     /* [M, D]                                                           */
    vtc_tensor pos_embed; /* [M, D]; absent in MiniCPM-V from 2.5 on, ignored there            */
    vtc_linear kv_proj;   /* [D, Dv], in released models without bias; absent: Dv = D          */
    vtc_norm ln_q;        /* [D]                                                               */
    vtc_norm ln_kv;       /* [D]                                                               */
    vtc_linear in_proj;   /* [3 D, D], [3 D]: rows of q, k, v; absent: the next three          */
    vtc_linear q, k, v;   /* [D, D] each, "attn.q_proj" and so on, as some converted files have */
    vtc_linear out_proj;  /* [D, D]                                                            */
    vtc_norm ln_post;     /* [D]                                                               */
    vtc_tensor proj;      /* [D, D], used as x proj, not transposed                            */
} vtc_resampler_weights;

/* Names below "resampler." (MiniCPM-V) or "transformer.visual.attn_pool." (Qwen-VL): all but the
 * last two. A pos_embed of rank 3, as some files keep as a cache, must not be bound: look it up
 * only for the variants that use it, or let the lookup say it is not there. */
VTC_API extern const vtc_weight_table vtc_resampler_table;
/* "ln_post" and "proj": the same prefix in MiniCPM-V, "transformer.visual." in Qwen-VL. */
VTC_API extern const vtc_weight_table vtc_resampler_tail_table;

/* What is known of the images of a batch. The numbers set sizes, so scratch queries read them. */
typedef struct vtc_resampler_images {
    size_t struct_size;
    const int32_t *grids;     /* [B, 2] rows, columns, each >= 1 and rows * columns <= N. NULL: N is
                                 a square; QWEN_VL takes no others                             */
    const int32_t *frame_ids; /* [B] -1: a still image; t >= 0: a frame, whose keys get a 1-D row of
                                 sin and cos of t besides (4.5: tenths of a second). NULL: all -1 */
    const int32_t *group_sizes; /* [n_groups] images that are read together, in order; they add up
                                   to B. NULL: each on its own                                 */
    size_t n_groups;
} vtc_resampler_images;

/* clang-format off */
#define VTC_RESAMPLER_IMAGES_INIT { sizeof(vtc_resampler_images), NULL, NULL, NULL, 0 }
/* clang-format on */

/* Parameters of all tensors that the variant reads, and the multiply-adds of a call with `n_batch`
 * images of n_patches each, in the order of products that vtc_resampler() takes; 40 GFLOP for
 * MiniCPM-V 2.6 and 1024 patches, the query side excluded, which a prepared object holds. */
VTC_API VTC_NODISCARD vtc_status vtc_resampler_cost(const vtc_resampler_params *params,
                                                    const vtc_resampler_weights *weights,
                                                    size_t n_batch, size_t n_patches,
                                                    vtc_model_cost *cost, const vtc_exec *exec);

/*
 * vtc_resampler_prepare() computes the query side, which no image changes: H M D or M D floats
 * (24.5 MB for MiniCPM-V 2.6), and packs out_proj for few rows.
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERFLOW, OVERLAP, SCRATCH or ROOM.
 */
VTC_API VTC_NODISCARD vtc_status vtc_resampler_prepare_size(const vtc_resampler_params *params,
                                                            const vtc_resampler_weights *weights,
                                                            const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_resampler_prepare_scratch(const vtc_resampler_params *params,
                                                               const vtc_resampler_weights *weights,
                                                               const vtc_exec *exec, size_t *bytes);

VTC_API VTC_NODISCARD vtc_status vtc_resampler_prepare(const vtc_resampler_params *params,
                                                       const vtc_resampler_weights *weights,
                                                       vtc_prepared *prepared,
                                                       const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_resampler_scratch(
    const vtc_resampler_params *params, const vtc_resampler_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *x, const vtc_resampler_images *images,
    const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_resampler() resamples a batch of images; the file comment tells of the tensors.
 *
 *   prepared  from vtc_resampler_prepare(), or NULL
 *   images    NULL: every image is a square of N patches on its own
 *
 * Images or groups are taken one after another, so scratch does not grow with the batch: of the
 * largest one 2 n D floats (4 n D in the direct order) and its keys turned, the query side unless
 * it is prepared, H M D for what the queries gather in the cheaper order, and per worker 64 (n + D)
 * floats and what a tile of 16-bit weights takes as F32.
 *
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW, SCRATCH; VTC_ERR_DATA for an object
 * of other shapes or parameters, VTC_ERR_UNSUPPORTED for one of another version or machine.
 * Checked against: the published classes of Qwen-VL, OmniLMM and MiniCPM-V 2.6, run with random
 * weights; MiniCPM-V 2.0 and 4.5 transcribed. At the size of MiniCPM-V 2.6 (64 queries of 3584
 * channels, 1032 patches) with random weights the largest error against a run in double is 7e-7 of
 * the largest output, prepared or not.
 */
VTC_API VTC_NODISCARD vtc_status vtc_resampler(const vtc_resampler_params *params,
                                               const vtc_resampler_weights *weights,
                                               const vtc_prepared *prepared, const vtc_tensor *x,
                                               const vtc_resampler_images *images,
                                               vtc_tensor *tokens, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
