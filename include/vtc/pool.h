/*
 * vtc/pool.h: down-sampling on the token grid.
 *
 * Tokens are [N, C] for one image or [F, N, C] for F frames, tiles or batch items, N = grid_h *
 * grid_w rows in raster order. Results have the same rank. F = 0 succeeds.
 *
 *     vtc_pool2d_params pool = VTC_POOL2D_PARAMS_INIT;
 *     pool.grid_h = pool.grid_w = 27;
 *     pool.mode = VTC_POOL_BILINEAR;
 *     pool.out_h = pool.out_w = 14;
 *     status = vtc_pool2d(&pool, &x, &y, NULL);       x [32, 729, 1152] -> y [32, 196, 1152], F32
 */
#ifndef VTC_POOL_H
#define VTC_POOL_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 2-D pooling ----------------------------------------------------------------------------- */

typedef enum vtc_pool_mode {
    VTC_POOL_AVERAGE = 0,  /* mean of kernel x kernel windows; an incomplete last one is dropped */
    VTC_POOL_MAX = 1,      /* their maximum, unchanged bit for bit; a NaN wins                   */
    VTC_POOL_BILINEAR = 2, /* 4 taps, half-pixel centres, no antialias                           */
    VTC_POOL_ADAPTIVE_AVERAGE = 3, /* window i: rows floor(i h / oh) .. ceil((i+1) h / oh) - 1 */
    VTC_POOL_ADAPTIVE_MAX = 4
} vtc_pool_mode;

typedef struct vtc_pool2d_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* input grid                                                          */
    vtc_pool_mode mode;
    size_t kernel;       /* average, max: window side; 0: `stride`                   (default 0)  */
    size_t stride;       /* average, max: >= 1; bilinear: used when out_h, out_w are (default 2)  */
                         /*   0, the output is then ceil(grid / stride), as in LLaVA-OneVision    */
    size_t out_h, out_w; /* bilinear, adaptive: output grid; average, max: 0 or what they give    */
} vtc_pool2d_params;

/* clang-format off */
#define VTC_POOL2D_PARAMS_INIT { sizeof(vtc_pool2d_params), 0, 0, VTC_POOL_AVERAGE, 0, 2, 0, 0 }
/* clang-format on */

/* Output grid for these parameters, exact, before any data. VTC_ERR_RANGE when the kernel is larger
 * than the grid, a stride, grid or adaptive extent is 0, or the out_h, out_w given do not fit;
 * VTC_ERR_OVERFLOW when resizing leaves size_t; VTC_ERR_NULL. */
VTC_API VTC_NODISCARD vtc_status vtc_pool2d_count(const vtc_pool2d_params *params, size_t *out_h,
                                                  size_t *out_w, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_pool2d_scratch(const vtc_pool2d_params *params,
                                                    const vtc_tensor *x, const vtc_tensor *y,
                                                    const vtc_exec *exec, size_t *bytes);

/*
 * vtc_pool2d() pools every image of a batch.
 *
 *   x  [F, grid_h * grid_w, C] or [grid_h * grid_w, C]   in    F32, F16, BF16
 *   y  [F, out_h * out_w, C]   or [out_h * out_w, C]     out   F32, F16, BF16
 *
 * Bilinear uses the scale grid / out, never the nominal stride, and reads at most 4 rows per output
 * whatever the ratio; a tap of weight 0 is not read, so equal sizes copy exactly. Adaptive windows
 * divide by their own area, may overlap, and repeat rows when the output is the larger grid.
 * Each output reads its rows once: time is that of moving x and y. No scratch when y is F32.
 * Parallel over output rows of the grid.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: LLaVA-NeXT's get_2dPool as published, PyTorch 1.13's adaptive pooling.
 * Source: Li et al., "LLaVA-OneVision: Easy Visual Task Transfer", 2024, section 3; Zhang et al.,
 * "LLaVA-NeXT: A Strong Zero-shot Video Understanding Model", 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_pool2d(const vtc_pool2d_params *params, const vtc_tensor *x,
                                            vtc_tensor *y, const vtc_exec *exec);

/* ---- any-resolution packing ------------------------------------------------------------------ */

typedef enum vtc_anyres_merge {
    VTC_ANYRES_UNPAD = 0,      /* join tiles, cut the padding off, newline after every row       */
    VTC_ANYRES_SPATIAL = 1,    /* join tiles, keep the padding, no newline                       */
    VTC_ANYRES_MAXPOOL2X2 = 2, /* join tiles, max-pool by 2, no newline                          */
    VTC_ANYRES_FLAT = 3        /* tiles one after another, no newline                            */
} vtc_anyres_merge;

typedef enum vtc_anyres_rounding {
    VTC_ANYRES_HF = 0,      /* int(round(v, 7)), as transformers does */
    VTC_ANYRES_ORIGINAL = 1 /* int(v), as the LLaVA code does         */
} vtc_anyres_rounding;

typedef struct vtc_anyres_params {
    size_t struct_size;
    size_t tiles_h, tiles_w; /* rows and columns of tiles beside tile 0; both 0: tile 0 only     */
    size_t tile_h, tile_w;   /* tokens of one tile                                               */
    size_t image_h, image_w; /* UNPAD: size of the original image in pixels                      */
    size_t max_tiles;        /* UNPAD, "anyres_max_M": shrink to about M tiles; 0: no limit      */
    vtc_anyres_merge merge;
    vtc_anyres_rounding rounding;
    int no_base;    /* leave tile 0 out ("nobase") unless it is the only one       (default 0)   */
    int no_newline; /* UNPAD without newline vectors                               (default 0)   */
} vtc_anyres_params;

/* clang-format off */
#define VTC_ANYRES_PARAMS_INIT \
    { sizeof(vtc_anyres_params), 0, 0, 0, 0, 0, 0, 0, VTC_ANYRES_UNPAD, VTC_ANYRES_HF, 0, 0 }
/* clang-format on */

/* Where the tokens of a packed image are. FLAT counts as a canvas one tile wide. Without tiles
 * beside tile 0 all fields but the first two are 0. */
typedef struct vtc_anyres_layout {
    size_t n_tokens;     /* all rows of the output                                            */
    size_t n_base;       /* rows of tile 0, in front                                          */
    size_t row0, col0;   /* first row and column of the joined canvas that are kept           */
    size_t rows, cols;   /* extent that is kept                                               */
    size_t out_h, out_w; /* grid that is written, after shrinking or pooling                  */
    size_t row_length;   /* output rows from one grid row to the next: out_w, + 1 with newline */
} vtc_anyres_layout;

/* Exact, before any data. VTC_ERR_RANGE when an extent is 0, or cutting or shrinking leaves
 * nothing, VTC_ERR_UNSUPPORTED when max_tiles is given without UNPAD, VTC_ERR_OVERFLOW,
 * VTC_ERR_NULL. Evaluated in double, with the operations in the order the published code has. */
VTC_API VTC_NODISCARD vtc_status vtc_anyres_count(const vtc_anyres_params *params,
                                                  vtc_anyres_layout *layout, const vtc_exec *exec);

/*
 * vtc_anyres_canvas() chooses the canvas for an image: most useful pixels first, then least waste,
 * the earliest of equals.
 *
 *   candidates  [n_candidates][2]  height, width in pixels. Beware: transformers lists (height,
 *                                  width), the original LLaVA configuration (width, height).
 *   best        index of the choice
 *
 * VTC_ERR_RANGE when an extent or n_candidates is 0, VTC_ERR_OVERFLOW for a side above 2^31 - 1
 * pixels, VTC_ERR_NULL.
 */
VTC_API VTC_NODISCARD vtc_status vtc_anyres_canvas(size_t image_h, size_t image_w,
                                                   const size_t (*candidates)[2],
                                                   size_t n_candidates, size_t *best,
                                                   const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_anyres_pack_scratch(const vtc_anyres_params *params,
                                                         const vtc_tensor *x,
                                                         const vtc_tensor *newline,
                                                         const vtc_tensor *y, const vtc_exec *exec,
                                                         size_t *bytes);

/*
 * vtc_anyres_pack() joins the tiles of one image into one sequence.
 *
 *   x        [1 + tiles_h * tiles_w, tile_h * tile_w, C]  in   tile 0 is the whole image
 *   newline  [C]            in    image_newline; for UNPAD unless no_newline; else unread
 *   y        [n_tokens, C]  out   n_tokens of vtc_anyres_count()
 *
 * An image of tile 0 alone is that tile and, for UNPAD, one newline. One pass over the kept tokens.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW, UNSUPPORTED or SCRATCH on error.
 * Checked against: transformers' pack_image_features and unpad_image, transcribed.
 * Source: Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge", 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_anyres_pack(const vtc_anyres_params *params,
                                                 const vtc_tensor *x, const vtc_tensor *newline,
                                                 vtc_tensor *y, const vtc_exec *exec);

/* ---- newlines of pooled video frames --------------------------------------------------------- */

typedef enum vtc_newline_position {
    VTC_NEWLINE_GRID = 0,      /* after every row of every frame: F h (w + 1) tokens             */
    VTC_NEWLINE_FRAME = 1,     /* after every frame: F (h w + 1) tokens                          */
    VTC_NEWLINE_ONE_TOKEN = 2, /* once at the end: F h w + 1 tokens                              */
    VTC_NEWLINE_NO_TOKEN = 3   /* never: F h w tokens                                            */
} vtc_newline_position;

typedef struct vtc_video_newline_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* tokens of one frame                                               */
    vtc_newline_position position;
} vtc_video_newline_params;

/* clang-format off */
#define VTC_VIDEO_NEWLINE_PARAMS_INIT \
    { sizeof(vtc_video_newline_params), 0, 0, VTC_NEWLINE_GRID }
/* clang-format on */

/* Rows of vtc_video_newline()'s output, exact. VTC_ERR_NULL, RANGE (an extent of 0) or OVERFLOW. */
VTC_API VTC_NODISCARD vtc_status vtc_video_newline_count(const vtc_video_newline_params *params,
                                                         size_t n_frames, size_t *n_tokens,
                                                         const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_video_newline_scratch(const vtc_video_newline_params *params,
                                                           const vtc_tensor *x,
                                                           const vtc_tensor *newline,
                                                           const vtc_tensor *y,
                                                           const vtc_exec *exec, size_t *bytes);

/*
 * vtc_video_newline() writes frames as one sequence with newline vectors between them.
 *
 *   x        [F, grid_h * grid_w, C]  in
 *   newline  [C]                      in    unread for NO_TOKEN
 *   y        [n_tokens, C]            out   n_tokens of vtc_video_newline_count()
 *
 * No frames give no tokens, only ONE_TOKEN still gives its newline. The training default of
 * LLaVA-NeXT is GRID; a configuration without the key means ONE_TOKEN.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: LLaVA-NeXT's add_token_per_grid as published.
 * Source: Zhang et al., "Video Instruction Tuning with Synthetic Data" (LLaVA-Video), 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_video_newline(const vtc_video_newline_params *params,
                                                   const vtc_tensor *x, const vtc_tensor *newline,
                                                   vtc_tensor *y, const vtc_exec *exec);

/* ---- Gemma 3 --------------------------------------------------------------------------------- */

typedef struct vtc_gemma3_params {
    size_t struct_size;
    size_t patches_per_side; /* P                                                                */
    size_t tokens_per_side;  /* T; P div (P div T) must be T                                     */
    float eps;               /* of the RMS norm                                  (default 1e-6)  */
    float norm_offset;       /* added to the norm weight; 0 for GGUF, which stores 1 + w         */
                             /*                                                  (default 1)     */
} vtc_gemma3_params;

/* clang-format off */
#define VTC_GEMMA3_PARAMS_INIT { sizeof(vtc_gemma3_params), 0, 0, 1e-6f, 1.0f }
/* clang-format on */

/* Named after the checkpoint tensors under multi_modal_projector. */
typedef struct vtc_gemma3_weights {
    vtc_tensor mm_soft_emb_norm;           /* [C]                                            */
    vtc_tensor mm_input_projection_weight; /* [C, D], input first: y = z W, no bias          */
} vtc_gemma3_weights;

/* Tokens per image, T * T. VTC_ERR_RANGE when P div (P div T) is not T, else VTC_ERR_NULL or
 * OVERFLOW. */
VTC_API VTC_NODISCARD vtc_status vtc_gemma3_count(const vtc_gemma3_params *params, size_t *n_tokens,
                                                  const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_gemma3_project_scratch(const vtc_gemma3_params *params,
                                                            const vtc_gemma3_weights *weights,
                                                            const vtc_tensor *x,
                                                            const vtc_tensor *y,
                                                            const vtc_exec *exec, size_t *bytes);

/*
 * vtc_gemma3_project() is Gemma 3's projector: average pooling by k = P div T, RMS norm, a matrix.
 *
 *   x  [B, P * P, C] or [P * P, C]   in    encoder output
 *   y  [B, T * T, D] or [T * T, D]   out
 *
 * z = mean / sqrt(mean(mean^2) + eps) * (norm_offset + w), y = z W. Scratch holds z of one image
 * and per worker one tile of W widened to F32. Time: one product T^2 x D x C per image.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: transformers' Gemma3MultiModalProjector, transcribed.
 * Source: Gemma Team, "Gemma 3 Technical Report", 2025, section 2.1.
 */
VTC_API VTC_NODISCARD vtc_status vtc_gemma3_project(const vtc_gemma3_params *params,
                                                    const vtc_gemma3_weights *weights,
                                                    const vtc_tensor *x, vtc_tensor *y,
                                                    const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
