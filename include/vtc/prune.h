/*
 * vtc/prune.h: training-free planners, one image at a time. Each makes a vtc_plan and moves no
 * token. vtc/planner.h runs them by name, by budget and over batches.
 */
#ifndef VTC_PRUNE_H
#define VTC_PRUNE_H

#include "ficoco.h"
#include "guided.h"
#include "mustdrop.h"
#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- ToMe ------------------------------------------------------------------------------------ */

typedef struct vtc_tome_params {
    size_t struct_size;
    size_t n_merge;    /* r: rows to merge in this round                              (default 0) */
    int class_token;   /* row 0 is [CLS]: never merged away                           (default 0) */
    int distill_token; /* row 1 is the distillation token: nothing merges into it     (default 0) */
} vtc_tome_params;

/* clang-format off */
#define VTC_TOME_PARAMS_INIT { sizeof(vtc_tome_params), 0, 0, 0 }
/* clang-format on */

/* What a plan does not carry. Set the pointers to receive the arrays; NULL ones are not written. */
typedef struct vtc_tome_trace {
    size_t struct_size;
    size_t r_used;     /* out: n_merge after clipping to (N - protected) / 2                    */
    int32_t *unmerged; /* [ceil(N/2) - r_used] even rows that stay, row 2i as i, in output order */
    int32_t *merged;   /* [r_used] even rows that merge, row 2i as i, by falling similarity      */
    int32_t *partner;  /* [r_used] the odd row each merges into, row 2i + 1 as i                 */
} vtc_tome_trace;

/* clang-format off */
#define VTC_TOME_TRACE_INIT { sizeof(vtc_tome_trace), 0, NULL, NULL, NULL }
/* clang-format on */

/* Exact outputs of one round on n_in rows: N - min(r, (N - protected) / 2). By definition ToMe
 * clips r; this call tells beforehand. Entries: n_in, or 0 when nothing is merged. Three rows with
 * a distillation token and no class token merge nothing: the authors' clip would leave only the
 * distillation token to merge into. */
VTC_API VTC_NODISCARD vtc_status vtc_tome_count(const vtc_tome_params *params, size_t n_in,
                                                vtc_plan_count *count, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_tome_scratch(const vtc_tome_params *params,
                                                  const vtc_tensor *metric, const vtc_exec *exec,
                                                  size_t *bytes);

/*
 * vtc_tome() plans to merge the n_merge most similar token pairs of one image.
 *
 * Each even row finds the odd row with the largest cosine of `metric`; the best pairs become one
 * row, weighted by the patches each token already stands for; several rows may join one. Unmerged
 * even rows come first in the plan, then all odd rows, as in the authors' code: with a class token
 * the even rows ascend, without one they stay in falling order of similarity. With a distillation
 * token rows 0 and 1 come first.
 *
 *   metric  [N, D]  in    keys averaged over heads (vtc_mean_keys), F32, F16 or BF16
 *   mass    [N]     in    patches each token stands for, > 0; NULL: all 1
 *   plan    room for vtc_tome_count(); `begin` is needed when anything is merged
 *   trace   NULL or what to report
 *
 * An r clipped to 0 gives the identity, with the rows in input order, and does not read the metric.
 * score: the largest cosine of each even row, +inf for rows that cannot merge away (the class
 * token, odd rows, all rows when r is 0). Mass is conserved; permuting tokens does not permute the
 * plan, since even and odd rows play different parts.
 * Ties go to the lower row. Time N^2 D / 4 multiply-adds in tiles; no N x N array: scratch N D
 * floats, the odd rows once more in panels of some 50 rows, some numbers per row, and per worker 96
 * rows and a tile of cosines.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, ROOM, SCRATCH, OVERFLOW, or VTC_ERR_DATA for a metric
 * row that is zero, NaN or infinite and for a mass that is not positive and finite.
 * Checked against: the authors' code, run (PyTorch 1.13).
 * Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3.
 */
VTC_API VTC_NODISCARD vtc_status vtc_tome(const vtc_tome_params *params, const vtc_tensor *metric,
                                          const float *mass, vtc_plan *plan, vtc_tome_trace *trace,
                                          const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_tome_rounds_scratch(const vtc_tome_params *params,
                                                         const vtc_tensor *metric, size_t n_keep,
                                                         const vtc_exec *exec, size_t *bytes);

/*
 * vtc_tome_rounds() repeats vtc_tome() until n_keep rows are left: a round removes at most half, so
 * budgets below one half need several. Between rounds the metric is merged like tokens (mass-
 * weighted mean), masses are carried and the plans composed; nothing else happens between them, so
 * the plan is right for tokens too. This use outside a network is libvtc's choice, not the paper's.
 *
 *   plan  room for n_keep outputs and N entries; n_merge of params is ignored
 *
 * VTC_ERR_BUDGET when n_keep is above N or cannot be reached: the fewest are 1 row, 2 with a class
 * token, 3 with a distillation token. Scores are those of the first round. A merged row whose
 * metric cancels to zero is similar (cosine 0) to nothing. Scratch as vtc_tome(), and N D floats
 * more when one round is not enough. Otherwise as vtc_tome(), to which one round is equal.
 */
VTC_API VTC_NODISCARD vtc_status vtc_tome_rounds(const vtc_tome_params *params,
                                                 const vtc_tensor *metric, const float *mass,
                                                 size_t n_keep, vtc_plan *plan,
                                                 const vtc_exec *exec);

/* Rows that each of n_layers layers merges: inflect 0 the same r in each, -1 falling from 2r to 0,
 * +1 rising, every value truncated. n_layers 1: r. VTC_ERR_RANGE for an inflect outside [-1, 1] or
 * an r that is no int32. Source: ToMe's parse_r.
 *   per_layer  [n_layers]  out */
VTC_API VTC_NODISCARD vtc_status vtc_tome_schedule(size_t n_layers, size_t r, double inflect,
                                                   size_t *per_layer, const vtc_exec *exec);

/* ToMe's metric: the mean of the keys over heads.
 *   k       [H, N, d]  in
 *   metric  [N, d]     out */
VTC_API VTC_NODISCARD vtc_status vtc_mean_keys_scratch(const vtc_tensor *k,
                                                       const vtc_tensor *metric,
                                                       const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_mean_keys(const vtc_tensor *k, vtc_tensor *metric,
                                               const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status
vtc_proportional_attention_scratch(const vtc_tensor *q, const vtc_tensor *k, const vtc_tensor *v,
                                   const vtc_tensor *y, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_proportional_attention() is attention in which a key counts as often as the patches it stands
 * for: y = softmax(scale q k^T + log(mass)) v. ToMe uses it in off-the-shelf models.
 *
 *   q     [H, Q, d]  in
 *   k, v  [H, N, d]  in
 *   mass  [N]        in    > 0; NULL: all 1 (plain attention)
 *   y     [H, Q, d]  out
 *
 * Tiled by 64 query rows: no Q x N array. Scratch: k transposed, v when it is not dense F32, and
 * per worker 64 x N logits and what F16 and BF16 rows need to be widened. N = 0 is VTC_ERR_SHAPE
 * (there is nothing to attend to) unless Q or H is 0.
 * Source: Bolya et al., ICLR 2023, section 3, "Tracking Token Size".
 */
VTC_API VTC_NODISCARD vtc_status vtc_proportional_attention(const vtc_tensor *q,
                                                            const vtc_tensor *k,
                                                            const vtc_tensor *v, const float *mass,
                                                            float scale, vtc_tensor *y,
                                                            const vtc_exec *exec);

/* ---- controls: what every method must beat --------------------------------------------------- */

typedef struct vtc_random_params {
    size_t struct_size;
    uint64_t seed; /* of SplitMix64 (default 0) */
} vtc_random_params;

/* clang-format off */
#define VTC_RANDOM_PARAMS_INIT { sizeof(vtc_random_params), 0 }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status vtc_random_scratch(size_t n_in, const vtc_exec *exec,
                                                    size_t *bytes);

/*
 * vtc_random() keeps n_keep distinct rows, ascending: the first n_keep places of a Fisher-Yates
 * shuffle of 0 .. n_in - 1 whose i-th partner is i + floor(z_i (n_in - i) / 2^64), z from
 * SplitMix64. The same rows on every machine. score: 0 throughout, as for all controls.
 * VTC_ERR_BUDGET when n_keep is above n_in.
 */
VTC_API VTC_NODISCARD vtc_status vtc_random(const vtc_random_params *params, size_t n_in,
                                            size_t n_keep, const float *mass, vtc_plan *plan,
                                            const vtc_exec *exec);

/* vtc_strided() keeps the middles of n_keep equal spans: rows ((2i + 1) n_in) div (2 n_keep).
 * VTC_ERR_BUDGET when n_keep is above n_in. */
VTC_API VTC_NODISCARD vtc_status vtc_strided(size_t n_in, size_t n_keep, const float *mass,
                                             vtc_plan *plan, const vtc_exec *exec);

/* The largest grid of about the shape h x w with at most `budget` cells: out_h = isqrt(budget h div
 * w), out_w = budget div out_h, out_h = budget div out_w, each within 1 .. its side. */
VTC_API VTC_NODISCARD vtc_status vtc_budget_grid(size_t grid_h, size_t grid_w, size_t budget,
                                                 size_t *out_h, size_t *out_w,
                                                 const vtc_exec *exec);

/* Strided rows in both directions, raster order: out_h x out_w of grid_h x grid_w. VTC_ERR_BUDGET
 * when the output grid is larger than the input in a direction. */
VTC_API VTC_NODISCARD vtc_status vtc_strided_grid(size_t grid_h, size_t grid_w, size_t out_h,
                                                  size_t out_w, const float *mass, vtc_plan *plan,
                                                  const vtc_exec *exec);

/* Entries that vtc_mean_pool() writes: windows may overlap, so more than n_in. */
VTC_API VTC_NODISCARD vtc_status vtc_mean_pool_count(size_t grid_h, size_t grid_w, size_t out_h,
                                                     size_t out_w, vtc_plan_count *count,
                                                     const vtc_exec *exec);

/*
 * vtc_mean_pool() is adaptive average pooling as a plan: windows as VTC_POOL_ADAPTIVE_AVERAGE,
 * equal weights, `keep` the middle cell (first + last) div 2 of each window in each direction.
 *
 *   mass  [n_in]  in   NULL: all 1. A row in several windows gives each an equal share of its mass,
 *                      so that mass is conserved. Weights do not depend on it.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mean_pool(size_t grid_h, size_t grid_w, size_t out_h,
                                               size_t out_w, const float *mass, vtc_plan *plan,
                                               const vtc_exec *exec);

/* Size in pixels, a multiple of `unit` (patch * merge), whose encoder emits at most `budget`
 * tokens: unit * vtc_budget_grid() of the image in units. VTC_ERR_RANGE for an image smaller than
 * one unit, VTC_ERR_BUDGET for budget 0. */
VTC_API VTC_NODISCARD vtc_status vtc_image_resize_count(size_t image_h, size_t image_w, size_t unit,
                                                        size_t budget, size_t *out_h, size_t *out_w,
                                                        const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_image_resize_scratch(const vtc_tensor *image,
                                                          const vtc_tensor *out,
                                                          const vtc_exec *exec, size_t *bytes);

/*
 * vtc_image_resize() is the control of feeding the encoder a smaller picture: antialiased bilinear,
 * a triangle filter as wide as the reduction. F32 throughout, no rounding to 8 bit.
 *
 *   image  [P, H, W]    in    planes, F32, F16 or BF16
 *   out    [P, H', W']  out
 *
 * Equal to PyTorch's antialiased interpolation within 5e-6. Also enlarges (plain bilinear then).
 */
VTC_API VTC_NODISCARD vtc_status vtc_image_resize(const vtc_tensor *image, vtc_tensor *out,
                                                  const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
