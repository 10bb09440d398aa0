/*
 * vtc/shuffle.h: pixel shuffle, space to channel and back, and the projectors that begin with it.
 *
 * A grid has h rows (the slow axis of the token sequence) and w columns; the code of the models
 * calls these axes W and H. Joining r x r tokens of C channels gives one token of r^2 C, channel
 * (di r + dj) C + c for the cell in row di, column dj of the block. That is not the order of
 * PyTorch's PixelUnshuffle, c r^2 + di r + dj.
 *
 *     vtc_shuffle_projector_params params = VTC_INTERNVL_PARAMS_INIT;
 *     params.grid_h = params.grid_w = 32;
 *     status = vtc_weights_bind(&vtc_internvl_table, lookup, source, "", &weights, NULL);
 *     status = vtc_internvl_projector(&params, &weights, &x, &y, &exec);
 *                                                    x [8, 1025, 1024] -> y [8, 256, 4096]
 */
#ifndef VTC_SHUFFLE_H
#define VTC_SHUFFLE_H

#include "project.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- pixel shuffle --------------------------------------------------------------------------- */

typedef enum vtc_shuffle_version {
    VTC_SHUFFLE_V2 = 0, /* the grid keeps its orientation                                        */
    VTC_SHUFFLE_V1 = 1  /* rows and columns of the result are exchanged: InternVL-Chat 1.2       */
} vtc_shuffle_version;

typedef enum vtc_shuffle_pad {
    VTC_SHUFFLE_PAD_NONE = 0,             /* the grid must be divisible                          */
    VTC_SHUFFLE_PAD_ZERO_BOTTOM_RIGHT = 1 /* missing tokens are zeros, as in llama.cpp's merge    */
} vtc_shuffle_pad;

/* The scale of the published code is up / down. Beware of its defaults: configurations without
 * `ps_version` mean V1, but all released models since InternVL-Chat 1.5 set V2. */
typedef struct vtc_pixel_shuffle_params {
    size_t struct_size;
    size_t grid_h, grid_w;
    size_t down; /* r: joins r x r tokens                            (default 2)    */
    size_t up;   /* u: splits each token into u x u; down or up is 1 (default 1)    */
    vtc_shuffle_version version; /*                                  (default V2)   */
    vtc_shuffle_pad pad;         /* when joining                     (default NONE) */
} vtc_pixel_shuffle_params;

/* clang-format off */
#define VTC_PIXEL_SHUFFLE_PARAMS_INIT \
    { sizeof(vtc_pixel_shuffle_params), 0, 0, 2, 1, VTC_SHUFFLE_V2, VTC_SHUFFLE_PAD_NONE }
/* clang-format on */

/* Shape of the result for tokens of n_channels. VTC_ERR_RANGE when an extent of the grid, down or
 * up is 0 or neither of these is 1, VTC_ERR_SHAPE when the grid is not divisible by `down` and not
 * padded, or the channels are not divisible by up^2. */
VTC_API VTC_NODISCARD vtc_status vtc_pixel_shuffle_count(const vtc_pixel_shuffle_params *params,
                                                         size_t n_channels, size_t *out_h,
                                                         size_t *out_w, size_t *out_channels,
                                                         const vtc_exec *exec);

/*
 * vtc_pixel_shuffle() moves tokens into channels or channels into tokens. No arithmetic.
 *
 *   x  [N, grid_h, grid_w, C], [N, grid_h * grid_w, C] or [grid_h * grid_w, C]   in   any dtype
 *   y  one of these, extents of vtc_pixel_shuffle_count()                       out  same dtype
 *
 *   joining    y[n, i, j, (di r + dj) C + c] = x[n, i r + di, j r + dj, c]
 *   splitting  y[n, a u + da, b u + db, c]   = x[n, a, b, (db u + da) C/u^2 + c]
 *
 * V1 exchanges the first two axes of y. Splitting fills a block column by column, joining reads it
 * row by row: splitting and joining by the same factor exchange the coordinates inside each block.
 * No scratch; time is that of memcpy. Parallel over rows of the output grid.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP or OVERFLOW on error.
 * Checked against: InternVL's pixel_shuffle as published, equal in every bit.
 * Source: Chen et al., "How Far Are We to GPT-4V?" (InternVL 1.5), 2024, section 3.1.
 */
VTC_API VTC_NODISCARD vtc_status vtc_pixel_shuffle(const vtc_pixel_shuffle_params *params,
                                                   const vtc_tensor *x, vtc_tensor *y,
                                                   const vtc_exec *exec);

/* ---- projectors ------------------------------------------------------------------------------ */

typedef enum vtc_class_token {
    VTC_CLASS_TOKEN_NONE = 0,
    VTC_CLASS_TOKEN_FIRST = 1, /* one token before the grid, not projected */
    VTC_CLASS_TOKEN_LAST = 2   /* one token behind the grid                */
} vtc_class_token;

/* Each model has its own defaults. */
typedef struct vtc_shuffle_projector_params {
    size_t struct_size;
    size_t grid_h, grid_w;
    size_t down;                 /* r, divides both                                      */
    vtc_shuffle_version version; /*                                  (default V2)        */
    vtc_class_token class_token;
    vtc_norm_kind norm; /* InternVL                                  (default LAYER)     */
    vtc_activation act; /* InternVL, Llama 4                         (default GELU_ERF)  */
    float eps;          /* InternVL                                  (default 1e-5)      */
    const vtc_prepared *prepared; /* InternVL: of vtc_norm_mlp_prepare(), or NULL        */
} vtc_shuffle_projector_params;

/* clang-format off */
#define VTC_INTERNVL_PARAMS_INIT \
    { sizeof(vtc_shuffle_projector_params), 0, 0, 2, VTC_SHUFFLE_V2, VTC_CLASS_TOKEN_FIRST, \
      VTC_NORM_LAYER, VTC_ACT_GELU_ERF, 1e-5f, NULL }
#define VTC_IDEFICS3_PARAMS_INIT \
    { sizeof(vtc_shuffle_projector_params), 0, 0, 2, VTC_SHUFFLE_V2, VTC_CLASS_TOKEN_NONE, \
      VTC_NORM_LAYER, VTC_ACT_GELU_ERF, 1e-5f, NULL }
#define VTC_LLAMA4_PARAMS_INIT \
    { sizeof(vtc_shuffle_projector_params), 0, 0, 2, VTC_SHUFFLE_V2, VTC_CLASS_TOKEN_NONE, \
      VTC_NORM_LAYER, VTC_ACT_GELU_ERF, 1e-5f, NULL }
/* clang-format on */

/* Output tokens of one image, grid_h grid_w / down^2. NULL parameters or an extent of 0 are
 * VTC_ERR_RANGE, a grid that is not divisible is VTC_ERR_SHAPE. */
VTC_API VTC_NODISCARD vtc_status vtc_shuffle_projector_count(
    const vtc_shuffle_projector_params *params, size_t *n_tokens, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_internvl_projector_scratch(
    const vtc_shuffle_projector_params *params, const vtc_norm_mlp_weights *weights,
    const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_internvl_projector() drops the class token, shuffles and projects.
 *
 *   x  [B, S, C] or [S, C]                  in    S = grid_h * grid_w, + 1 with a class token
 *   y  [B, n_tokens, D] or [n_tokens, D]    out
 *
 * y = fc2(act(fc1(norm(shuffled)))). The shuffled copy is not stored: tokens are joined and
 * normalised into the block of rows that the product reads. LFM2-VL is this with
 * VTC_CLASS_TOKEN_NONE, Kimi-VL too, with a norm of width C.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: InternVL's extract_feature as published.
 * Source: as vtc_pixel_shuffle().
 */
VTC_API VTC_NODISCARD vtc_status vtc_internvl_projector(const vtc_shuffle_projector_params *params,
                                                        const vtc_norm_mlp_weights *weights,
                                                        const vtc_tensor *x, vtc_tensor *y,
                                                        const vtc_exec *exec);

typedef struct vtc_idefics3_weights {
    vtc_linear proj; /* [D, r^2 C], no bias in the released models */
} vtc_idefics3_weights;

/* Prefix "model.connector.". */
VTC_API extern const vtc_weight_table vtc_idefics3_table;

VTC_API VTC_NODISCARD vtc_status vtc_idefics3_projector_scratch(
    const vtc_shuffle_projector_params *params, const vtc_idefics3_weights *weights,
    const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_idefics3_projector() shuffles and applies one linear layer: Idefics3, SmolVLM, SmolVLM2.
 * Tensors, cost and errors as vtc_internvl_projector(); `down` is their scale_factor.
 * Checked against: transformers' Idefics3Connector, transcribed.
 * Source: Laurencon et al., "Building and better understanding vision-language models", 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_idefics3_projector(const vtc_shuffle_projector_params *params,
                                                        const vtc_idefics3_weights *weights,
                                                        const vtc_tensor *x, vtc_tensor *y,
                                                        const vtc_exec *exec);

/* No biases in the released models. */
typedef struct vtc_llama4_weights {
    vtc_linear fc1, fc2; /* of the adapter: [H, r^2 C], [E, H] */
    vtc_linear linear_1; /* of the projector: [D, E]; absent: the adapter alone */
} vtc_llama4_weights;

/* fc1 and fc2, prefix "vision_model.vision_adapter.". */
VTC_API extern const vtc_weight_table vtc_llama4_adapter_table;
/* linear_1, prefix "multi_modal_projector.". */
VTC_API extern const vtc_weight_table vtc_llama4_projector_table;

VTC_API VTC_NODISCARD vtc_status vtc_llama4_projector_scratch(
    const vtc_shuffle_projector_params *params, const vtc_llama4_weights *weights,
    const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_llama4_projector() shuffles and projects: y = linear_1(act(fc2(act(fc1(shuffled))))).
 *
 * Tensors, cost and errors as vtc_internvl_projector(). The encoder appends its class token: with
 * it still there, VTC_CLASS_TOKEN_LAST leaves it out. llama.cpp's graph gives the order of V1.
 * Checked against: transformers' Llama4VisionPixelShuffleMLP and Llama4MultiModalProjector,
 * transcribed.
 */
VTC_API VTC_NODISCARD vtc_status vtc_llama4_projector(const vtc_shuffle_projector_params *params,
                                                      const vtc_llama4_weights *weights,
                                                      const vtc_tensor *x, vtc_tensor *y,
                                                      const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
