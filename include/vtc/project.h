/*
 * vtc/project.h: projectors, from the encoder's tokens to the language model's width.
 *
 * Tokens are [N, C] or [B, N, C]; results have the same rank. Weights are structs of views
 * (vtc/weights.h), F32, F16 or BF16, that may point into a mapped checkpoint; all extents are taken
 * from them. Sums and norm statistics are F32. NaN and Inf propagate, N = 0 and B = 0 succeed.
 * Grids are flattened in raster order. Every projector here uses the exact GELU, as the models do;
 * VTC_ACT_GELU_TANH reproduces llama.cpp (up to 4.7e-4 apart).
 *
 * Rows go through all layers in blocks of at most 1280, so that scratch does not grow with the
 * batch: the widened, joined or normalised input of one block (none when F32 rows can be used in
 * place), at most two hidden layers of it (three with residual blocks), for prepared weights or few
 * rows the input of a layer once more, and per worker what a tile of F16 or BF16 weights takes as
 * F32. Time is that of the matrix products.
 *
 *     vtc_mlp_weights llava = { linear, 2, NULL, 0 };               [4096, 1024], [4096, 4096], F16
 *     status = vtc_mlp_scratch(NULL, &llava, &x, &y, &exec, &exec.scratch_size);   then allocate
 *     status = vtc_mlp(NULL, &llava, &x, &y, &exec);      x [576, 1024] -> y [576, 4096]
 */
#ifndef VTC_PROJECT_H
#define VTC_PROJECT_H

#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vtc_activation {
    VTC_ACT_NONE = 0,
    VTC_ACT_GELU_ERF = 1,   /* x/2 (1 + erf(x / sqrt 2))                               */
    VTC_ACT_GELU_TANH = 2,  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))           */
    VTC_ACT_GELU_QUICK = 3, /* x sigmoid(1.702 x)                                      */
    VTC_ACT_SILU = 4,       /* x sigmoid(x)                                            */
    VTC_ACT_HARD_SWISH = 5, /* x clamp(x + 3, 0, 6) / 6                                */
    VTC_ACT_RELU2 = 6       /* max(x, 0)^2                                             */
} vtc_activation;

/* ---- token MLPs ------------------------------------------------------------------------------ */

/* A residual block: u = LayerNorm(x), y = u + fc2(act(fc1(u))). The skip adds u, not x. */
typedef struct vtc_mlp_residual {
    vtc_norm pre_norm; /* [D]     "pre_norm" */
    vtc_linear fc1;    /* [D, D]  "proj.0"   */
    vtc_linear fc2;    /* [D, D]  "proj.2"   */
} vtc_mlp_residual;

/* `linear`, `mlp{n}x_gelu`, `mlp{n}x_res{m}x_gelu`; without any layer it is `identity`. */
typedef struct vtc_mlp_weights {
    const vtc_linear *linear; /* [n_linear] activation between them, none after the last */
    size_t n_linear;
    const vtc_mlp_residual *residual; /* [n_residual] behind them */
    size_t n_residual;
} vtc_mlp_weights;

typedef struct vtc_mlp_params {
    size_t struct_size;
    vtc_activation act;           /* (default GELU_ERF)                        */
    float eps;                    /* of the residual blocks    (default 1e-5)  */
    const vtc_prepared *prepared; /* of vtc_mlp_prepare(), or NULL   */
} vtc_mlp_params;

/* clang-format off */
#define VTC_MLP_PARAMS_INIT { sizeof(vtc_mlp_params), VTC_ACT_GELU_ERF, 1e-5f, NULL }
/* clang-format on */

/* Names below one layer's prefix: "0.", "2." (LLaVA), "linear_1.", "linear_2." (transformers). */
VTC_API extern const vtc_weight_table vtc_linear_table;
/* Names below one residual block's prefix: "3." for the first one behind two layers. */
VTC_API extern const vtc_weight_table vtc_mlp_residual_table;

/*
 * vtc_mlp_prepare() packs the weights of all layers, in their own dtype, so that calls need not do
 * it: a twentieth of the time of 600 rows, a quarter and more of 64 rows or fewer. The object, of
 * vtc_mlp_prepare_size() bytes, is named in the parameters; weights.h says what holds for it.
 * Without it and with it results agree within rounding.
 *
 * Errors: VTC_ERR_NULL, DTYPE, SHAPE, OVERFLOW; VTC_ERR_ROOM when the object does not fit.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mlp_prepare_size(const vtc_mlp_weights *weights,
                                                      const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_mlp_prepare(const vtc_mlp_weights *weights,
                                                 vtc_prepared *prepared, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_mlp_scratch(const vtc_mlp_params *params,
                                                 const vtc_mlp_weights *weights,
                                                 const vtc_tensor *x, const vtc_tensor *y,
                                                 const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mlp() sends every token through the same layers. The number of tokens stays.
 *
 *   x  [B, N, C] or [N, C]   in
 *   y  [B, N, D] or [N, D]   out
 *
 * The identity copies, bit for bit between equal dtypes.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error; for a prepared
 * object that does not fit VTC_ERR_DATA or UNSUPPORTED.
 * Checked against: LLaVA-NeXT's build_vision_projector as published.
 * Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", 2024, section 3.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mlp(const vtc_mlp_params *params,
                                         const vtc_mlp_weights *weights, const vtc_tensor *x,
                                         vtc_tensor *y, const vtc_exec *exec);

/* ---- LLaVA pooler ---------------------------------------------------------------------------- */

typedef struct vtc_pooler_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* an odd last row or column is ignored */
    vtc_activation act;    /* (default GELU_ERF)                   */
} vtc_pooler_params;

/* clang-format off */
#define VTC_POOLER_PARAMS_INIT { sizeof(vtc_pooler_params), 0, 0, VTC_ACT_GELU_ERF }
/* clang-format on */

typedef struct vtc_pooler_weights {
    vtc_linear conv_pool; /* weight [D, C, 2, 2] without gaps in the last three axes, bias [D] */
    vtc_linear proj;      /* weight [E, D]                                                     */
} vtc_pooler_weights;

VTC_API extern const vtc_weight_table vtc_pooler_table;

/* Output grid, half of the input's, rounded down. VTC_ERR_RANGE when an extent is 0. */
VTC_API VTC_NODISCARD vtc_status vtc_pooler_count(const vtc_pooler_params *params, size_t *out_h,
                                                  size_t *out_w, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_pooler_scratch(const vtc_pooler_params *params,
                                                    const vtc_pooler_weights *weights,
                                                    const vtc_tensor *x, const vtc_tensor *y,
                                                    const vtc_exec *exec, size_t *bytes);

/*
 * vtc_pooler() is a 2x2 convolution with stride 2, the activation and a linear layer.
 *
 *   x  [B, grid_h * grid_w, C]  or [grid_h * grid_w, C]  in
 *   y  [B, out_h * out_w, E]    or [out_h * out_w, E]    out
 *
 * The convolution is one product: the joined tokens take the order that its weights already have.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: LLaVA-NeXT's PoolerProjector as published.
 */
VTC_API VTC_NODISCARD vtc_status vtc_pooler(const vtc_pooler_params *params,
                                            const vtc_pooler_weights *weights, const vtc_tensor *x,
                                            vtc_tensor *y, const vtc_exec *exec);

/* ---- norm and two layers --------------------------------------------------------------------- */

/*
 * y = fc2(act(fc1(norm(z)))): what patch mergers and InternVL's mlp1 do with joined tokens z [K].
 * The width of the norm says where it acts: on z as a whole when it is [K], on each of the joined
 * tokens when it is [C]; absent: no norm.
 */
typedef struct vtc_norm_mlp_weights {
    vtc_norm norm;
    vtc_linear fc1; /* [H, K] */
    vtc_linear fc2; /* [D, H] */
} vtc_norm_mlp_weights;

/* Packs fc1 and fc2 as vtc_mlp_prepare() does, for vtc_patch_merger(), vtc_mlp1() and
 * vtc_internvl_projector(): their parameters name the object. */
VTC_API VTC_NODISCARD vtc_status vtc_norm_mlp_prepare_size(const vtc_norm_mlp_weights *weights,
                                                           const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_norm_mlp_prepare(const vtc_norm_mlp_weights *weights,
                                                      vtc_prepared *prepared, const vtc_exec *exec);

/* Prefix "visual.merger.". Qwen2.5-VL has no norm bias, its norm is VTC_NORM_RMS. */
VTC_API extern const vtc_weight_table vtc_qwen2vl_merger_table;
/* Prefix "model.visual.merger." or, per DeepStack merger i,
 * "model.visual.deepstack_merger_list.i.".
 */
VTC_API extern const vtc_weight_table vtc_qwen3vl_merger_table;
/* Prefix "" (tensors "mlp1.0.weight", ...). Nemotron-Nano-V2-VL has no "mlp1.0.bias": there the
 * norm is VTC_NORM_RMS, the activation VTC_ACT_RELU2. */
VTC_API extern const vtc_weight_table vtc_internvl_table;
/* Prefix "model.multi_modal_projector.": InternVL in transformers, and LFM2-VL, which may have no
 * norm. */
VTC_API extern const vtc_weight_table vtc_internvl_hf_table;
/* Prefix "multi_modal_projector.". The norm acts on each token. */
VTC_API extern const vtc_weight_table vtc_kimivl_table;

/* ---- patch mergers --------------------------------------------------------------------------- */

typedef enum vtc_token_order {
    VTC_ORDER_MERGE =
        0, /* merge x merge blocks one after another, as the Qwen encoders emit them */
    VTC_ORDER_RASTER = 1
} vtc_token_order;

typedef struct vtc_patch_merger_params {
    size_t struct_size;
    size_t grid_t, grid_h,
        grid_w;            /* frames, rows, columns of tokens             (default 1, 0, 0) */
                           /* VTC_ORDER_MERGE: 0x0 means any grids, one after another       */
    size_t merge;          /* side of the blocks                          (default 2)       */
    vtc_token_order order; /* of x                                        (default MERGE)   */
    vtc_norm_kind norm;    /*                                             (default LAYER)   */
    vtc_activation act;    /*                                             (default GELU_ERF) */
    float eps;             /* of the norm                                 (default 1e-6)    */
    const vtc_prepared *prepared; /* of vtc_norm_mlp_prepare(), or NULL           */
} vtc_patch_merger_params;

/* clang-format off */
#define VTC_PATCH_MERGER_PARAMS_INIT \
    { sizeof(vtc_patch_merger_params), 1, 0, 0, 2, VTC_ORDER_MERGE, VTC_NORM_LAYER, \
      VTC_ACT_GELU_ERF, 1e-6f, NULL }
/* clang-format on */

/* Output tokens for S input tokens: S / merge^2. VTC_ERR_SHAPE when the grid has not S tokens or,
 * like S where there is no grid, is not divisible. */
VTC_API VTC_NODISCARD vtc_status vtc_patch_merger_count(const vtc_patch_merger_params *params,
                                                        size_t n_in, size_t *n_out,
                                                        const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_patch_merger_scratch(const vtc_patch_merger_params *params,
                                                          const vtc_norm_mlp_weights *weights,
                                                          const vtc_tensor *x, const vtc_tensor *y,
                                                          const vtc_exec *exec, size_t *bytes);

/*
 * vtc_patch_merger() joins merge x merge tokens and projects them.
 *
 *   x  [B, S, C] or [S, C]                     in    S = grid_t * grid_h * grid_w
 *   y  [B, S / merge^2, D] or [S/merge^2, D]   out   blocks in raster order, frame by frame
 *
 * One function for Qwen2-VL, Qwen2.5-VL (norm RMS), Qwen3-VL and its DeepStack mergers, whose norms
 * have the width of the joined tokens. Qwen2.5-VL's encoder permutes whole blocks; y is permuted
 * alike. The published models let a grid through that is not divisible; here it is an error.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: transformers' Qwen2-VL PatchMerger as published, those of 2.5 and 3 transcribed.
 * Source: Wang et al., "Qwen2-VL", 2024, section 2.1; Qwen2.5-VL and Qwen3-VL technical reports.
 */
VTC_API VTC_NODISCARD vtc_status vtc_patch_merger(const vtc_patch_merger_params *params,
                                                  const vtc_norm_mlp_weights *weights,
                                                  const vtc_tensor *x, vtc_tensor *y,
                                                  const vtc_exec *exec);

/* ---- merge order ----------------------------------------------------------------------------- */

/*
 * vtc_merge_order() tells which raster token is at each position of the merge order.
 *
 *   order  [grid_t * grid_h * grid_w]  out   frame by frame, block by block in raster order, each
 *                                            merge x merge block row by row
 *
 * VTC_ERR_SHAPE unless the grid is divisible by `merge`, VTC_ERR_OVERFLOW above 2^31 - 1 tokens.
 */
VTC_API VTC_NODISCARD vtc_status vtc_merge_order(size_t grid_t, size_t grid_h, size_t grid_w,
                                                 size_t merge, int32_t *order,
                                                 const vtc_exec *exec);

/*
 * vtc_merge_order_gather() brings raster tokens into merge order: y[p] = x[order[p]].
 *
 *   x  [B, S, C] or [S, C]   in    any dtype, S = grid_t * grid_h * grid_w
 *   y  [B, S, C] or [S, C]   out   the same dtype
 *
 * vtc_patch_merger() reads raster tokens itself; this is for everything else that must follow them.
 * No scratch; time is that of moving x. VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP or OVERFLOW on error.
 */
VTC_API VTC_NODISCARD vtc_status vtc_merge_order_gather(size_t grid_t, size_t grid_h, size_t grid_w,
                                                        size_t merge, const vtc_tensor *x,
                                                        vtc_tensor *y, const vtc_exec *exec);

/* ---- InternVL's mlp1 ------------------------------------------------------------------------- */

typedef struct vtc_mlp1_params {
    size_t struct_size;
    vtc_norm_kind norm;           /* (default LAYER)    */
    vtc_activation act;           /* (default GELU_ERF) */
    float eps;                    /* (default 1e-5)     */
    const vtc_prepared *prepared; /* of vtc_norm_mlp_prepare(), or NULL */
} vtc_mlp1_params;

/* clang-format off */
#define VTC_MLP1_PARAMS_INIT \
    { sizeof(vtc_mlp1_params), VTC_NORM_LAYER, VTC_ACT_GELU_ERF, 1e-5f, NULL }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status vtc_mlp1_scratch(const vtc_mlp1_params *params,
                                                  const vtc_norm_mlp_weights *weights,
                                                  const vtc_tensor *x, const vtc_tensor *y,
                                                  const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mlp1() projects tokens that are joined already: norm, linear, activation, linear.
 *
 *   x  [B, N, K] or [N, K]   in    after vtc_pixel_shuffle(): K = r^2 C
 *   y  [B, N, D] or [N, D]   out
 *
 * InternVL, its relatives LFM2-VL and Kimi-VL, and Nemotron-Nano-V2-VL. vtc_internvl_projector() of
 * vtc/shuffle.h starts from the encoder's output and stores no shuffled copy.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: InternVL's mlp1 as published.
 * Source: Chen et al., "How Far Are We to GPT-4V?" (InternVL 1.5), 2024, section 3.1.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mlp1(const vtc_mlp1_params *params,
                                          const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                                          vtc_tensor *y, const vtc_exec *exec);

/* ---- light convolutional projectors ---------------------------------------------------------- */

/* A convolution without bias, and the LayerNorm over channels behind it. */
typedef struct vtc_conv_norm {
    vtc_tensor conv; /* 1x1: [D, C] or [D, C, 1, 1]; depthwise 3x3: [D, 1, 3, 3] */
    vtc_norm norm;   /* [D]                                                      */
} vtc_conv_norm;

/* Scales each channel by gate(fc2(act(fc1(mean over the grid)))). Weights also with 1x1 behind. */
typedef struct vtc_squeeze_excite {
    vtc_linear fc1; /* [E, D] */
    vtc_linear fc2; /* [D, E] */
} vtc_squeeze_excite;

/* ---- LDP ------------------------------------------------------------------------------------- */

typedef struct vtc_ldp_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* tokens of one image; an odd extent rounds up */
    vtc_activation act;    /* between the linear layers (default GELU_ERF) */
    float eps;             /* of the norms              (default 1e-5)     */
} vtc_ldp_params;

/* clang-format off */
#define VTC_LDP_PARAMS_INIT { sizeof(vtc_ldp_params), 0, 0, VTC_ACT_GELU_ERF, 1e-5f }
/* clang-format on */

typedef struct vtc_ldp_block {
    vtc_conv_norm depthwise; /* "block.0.0", "block.0.1"     */
    vtc_squeeze_excite se;   /* "block.1.fc1", "block.1.fc2" */
    vtc_conv_norm pointwise; /* "block.2.0", "block.2.1"     */
} vtc_ldp_block;

typedef struct vtc_ldp_weights {
    vtc_linear mlp_1;       /* [H, C]  "mlp.1"                      */
    vtc_linear mlp_3;       /* [D, H]  "mlp.3"                      */
    vtc_ldp_block block[2]; /* [D, D]  "mb_block.1.", "mb_block.2." */
} vtc_ldp_weights;

/* Prefix "model.mm_projector.model."; in GGUF files "mm.model.". */
VTC_API extern const vtc_weight_table vtc_ldp_table;

/* Output grid: ceil(grid_h / 2), ceil(grid_w / 2). */
VTC_API VTC_NODISCARD vtc_status vtc_ldp_count(const vtc_ldp_params *params, size_t *out_h,
                                               size_t *out_w, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_ldp_scratch(const vtc_ldp_params *params,
                                                 const vtc_ldp_weights *weights,
                                                 const vtc_tensor *x, const vtc_tensor *y,
                                                 const vtc_exec *exec, size_t *bytes);

/*
 * vtc_ldp() is MobileVLM's projector: two linear layers, then two convolution blocks, the second
 * with stride 2.
 *
 *   x  [B, grid_h * grid_w, C] or [grid_h * grid_w, C]   in
 *   y  [B, out_h * out_w, D]   or [out_h * out_w, D]     out
 *
 * Scratch: three times the widest activations of one image, F32. Time is that of the matrix
 * products. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: MobileVLM's LDPNetProjector as published.
 * Source: Chu et al., "MobileVLM: A Fast, Strong and Open Vision Language Assistant for Mobile
 * Devices", 2023, section 3.4.
 */
VTC_API VTC_NODISCARD vtc_status vtc_ldp(const vtc_ldp_params *params,
                                         const vtc_ldp_weights *weights, const vtc_tensor *x,
                                         vtc_tensor *y, const vtc_exec *exec);

/* ---- LDPv2 ----------------------------------------------------------------------------------- */

typedef struct vtc_ldpv2_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* tokens of one image                          */
    size_t out_h, out_w;   /*                           (default 12, 12)   */
    vtc_activation act;    /* between the linear layers (default GELU_ERF) */
} vtc_ldpv2_params;

/* clang-format off */
#define VTC_LDPV2_PARAMS_INIT { sizeof(vtc_ldpv2_params), 0, 0, 12, 12, VTC_ACT_GELU_ERF }
/* clang-format on */

typedef struct vtc_ldpv2_weights {
    vtc_linear mlp_0; /* [H, C]                    "mlp.mlp.0"  */
    vtc_linear mlp_2; /* [D, H]                    "mlp.mlp.2"  */
    vtc_linear peg;   /* weight [D, 1, 3, 3], bias "peg.peg.0"  */
} vtc_ldpv2_weights;

/* Prefix "model.mm_projector.". */
VTC_API extern const vtc_weight_table vtc_ldpv2_table;

/* Output grid: out_h, out_w. VTC_ERR_RANGE when an extent is 0. */
VTC_API VTC_NODISCARD vtc_status vtc_ldpv2_count(const vtc_ldpv2_params *params, size_t *out_h,
                                                 size_t *out_w, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_ldpv2_scratch(const vtc_ldpv2_params *params,
                                                   const vtc_ldpv2_weights *weights,
                                                   const vtc_tensor *x, const vtc_tensor *y,
                                                   const vtc_exec *exec, size_t *bytes);

/*
 * vtc_ldpv2() is MobileVLM V2's projector: two linear layers, an adaptive average to out_h x out_w,
 * and a depthwise convolution added to its own input.
 *
 *   x  [B, grid_h * grid_w, C] or [grid_h * grid_w, C]   in
 *   y  [B, out_h * out_w, D]   or [out_h * out_w, D]     out
 *
 * A linear layer and an average may change places, so the second layer sees only the tokens that
 * are left: half the published form's products at 24x24 -> 12x12, and the same results but for
 * rounding. Scratch: the hidden activations of one image and two output grids, F32.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: MobileVLM's LDPNetV2Projector as published.
 * Source: Chu et al., "MobileVLM V2: Faster and Stronger Baseline for Vision Language Model", 2024,
 * section 3.2.
 */
VTC_API VTC_NODISCARD vtc_status vtc_ldpv2(const vtc_ldpv2_params *params,
                                           const vtc_ldpv2_weights *weights, const vtc_tensor *x,
                                           vtc_tensor *y, const vtc_exec *exec);

/* ---- C-Abstractor ---------------------------------------------------------------------------- */

typedef struct vtc_c_abstractor_params {
    size_t struct_size;
    size_t grid_h, grid_w; /* tokens of one image                                         */
    size_t out_h, out_w;   /* what they are averaged to, once          (default 12, 12)   */
    float eps;             /* of the blocks' norms                     (default 1e-5)     */
    float prenorm_eps;     /*                                          (default 1e-6)     */
} vtc_c_abstractor_params;

/* clang-format off */
#define VTC_C_ABSTRACTOR_PARAMS_INIT \
    { sizeof(vtc_c_abstractor_params), 0, 0, 12, 12, 1e-5f, 1e-6f }
/* clang-format on */

typedef struct vtc_c_abstractor_block {
    vtc_conv_norm conv1;      /* [H, C]       "conv1.conv", "conv1.bn"               */
    vtc_conv_norm conv2;      /* [H, 1, 3, 3]                                        */
    vtc_squeeze_excite se;    /*              "se.fc1", "se.fc2"                     */
    vtc_conv_norm conv3;      /* [H, H]                                              */
    vtc_conv_norm downsample; /* [H, C]       absent: the shortcut is the identity   */
} vtc_c_abstractor_block;

typedef struct vtc_c_abstractor_weights {
    vtc_norm prenorm;      /* [C]                     absent: none                              */
    vtc_tensor pos_emb;    /* [1, grid_h * grid_w, C] absent: none; a leading row more is left  */
                           /*                         out, as it belongs to the class token     */
    vtc_tensor eos_tokens; /* [1, E, D] behind each image; absent: none        */
    const vtc_c_abstractor_block *before; /* [n_before] before the average, "net.0.b<i>."     */
    size_t n_before;
    const vtc_c_abstractor_block *after; /* [n_after] behind it, "net.2.b<i>.", i from 1      */
    size_t n_after;
    const vtc_linear *readout; /* [n_readout] >= 1, SiLU between them: "readout.0.", ".2.", ... */
    size_t n_readout;
} vtc_c_abstractor_weights;

/* Prefix "abstractor."; prenorm, pos_emb and eos_tokens. The arrays are the caller's: */
VTC_API extern const vtc_weight_table vtc_c_abstractor_table;
/* Prefix "abstractor.net.0.b1.". The readout's layers are bound with vtc_linear_table. */
VTC_API extern const vtc_weight_table vtc_c_abstractor_block_table;

/* Output tokens of an image: out_h * out_w and the E eos_tokens. VTC_ERR_RANGE for a grid of 0,
 * VTC_ERR_OVERFLOW for one that does not fit, and for the weights as vtc_c_abstractor(). */
VTC_API VTC_NODISCARD vtc_status vtc_c_abstractor_count(const vtc_c_abstractor_params *params,
                                                        const vtc_c_abstractor_weights *weights,
                                                        size_t *n_tokens, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_c_abstractor_scratch(const vtc_c_abstractor_params *params,
                                                          const vtc_c_abstractor_weights *weights,
                                                          const vtc_tensor *x, const vtc_tensor *y,
                                                          const vtc_exec *exec, size_t *bytes);

/*
 * vtc_c_abstractor() is Honeybee's projector: convolution blocks, an adaptive average, convolution
 * blocks, an MLP. Without blocks ("depth 0") the average is all there is before the MLP.
 *
 *   x  [B, grid_h * grid_w, C]    or [grid_h * grid_w, C]      in   without the class token
 *   y  [B, out_h * out_w + E, D]  or [out_h * out_w + E, D]    out
 *
 * Scratch: three times the widest activations of one image, F32. Time is that of the matrix
 * products. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: Honeybee's CAbstractor as published.
 * Source: Cha et al., "Honeybee: Locality-enhanced Projector for Multimodal LLM", CVPR 2024,
 * section 3.2.
 */
VTC_API VTC_NODISCARD vtc_status vtc_c_abstractor(const vtc_c_abstractor_params *params,
                                                  const vtc_c_abstractor_weights *weights,
                                                  const vtc_tensor *x, vtc_tensor *y,
                                                  const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
