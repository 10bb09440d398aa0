/*
 * vtc/sample.h: learned and guided samplers, FocusLLaVA's. Planners like those of vtc/prune.h; with
 * adaptive ones the image decides how many tokens are left.
 *
 * What is known of FocusLLaVA, and what is this library's choice. Source: Zhu et al., "FocusLLaVA:
 * A Coarse-to-Fine Approach for Efficient and Effective Visual Token Compression", arXiv
 * 2411.14228. There is neither public code nor public weights, and only the abstract, the
 * introduction and summaries by others were read: nothing here could be compared with an official
 * implementation.
 *
 *   known       two samplers, coarse to fine. The vision-guided one works region by region on the
 *               feature map of the whole image: each region is pooled at several scales (pool sizes
 *               4, 2 and 1, maximum) and one of them is chosen adaptively. The text-guided one sits
 *               inside the LLM and keeps the visual tokens most related to the instruction, by the
 *               attention of one layer. Training adds a balance loss over the scales. About 39 % of
 *               the tokens remain with the authors' weights: no route or ratio here is meant to
 *               give that number
 *   follows a   that pooled tokens are compared with the mean of the feature map, that the scales
 *   description act as experts of a mixture, and that the best of all pooled tokens may be kept
 *   our choice  everything else: clipped regions at the border, the scores' exact form, the
 *               `fidelity` route, the gate's softmax, the order of outputs, boxes, the formula of
 *               the balance loss, and all details of the text-guided sampler
 *
 * Checked against: a reference of our own (NumPy) written from the same description.
 */
#ifndef VTC_SAMPLE_H
#define VTC_SAMPLE_H

#include "plan.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- FocusLLaVA: vision-guided --------------------------------------------------------------- */

typedef enum vtc_focusllava_pool {
    VTC_FOCUSLLAVA_MAX = 0,    /* largest value of each channel: plans of VTC_MAX                */
    VTC_FOCUSLLAVA_AVERAGE = 1 /* mean over the cell's real positions: plans of VTC_SUM          */
} vtc_focusllava_pool;

/*
 * How a region chooses its scale. With g the mean of the whole map and cos(a, b) = a b / max(|a|
 * |b|, 1e-12):
 *
 *   SIMILARITY  score = mean of cos(token, g) over the tokens of the scale; the highest wins
 *   LINEAR      score = router.weight [mean of the region ; g] + router.bias; the highest wins
 *   FIDELITY    score = mean over the region's positions of cos(x, token of its cell); the first
 *               scale in list order with a score of at least `tau` wins, else the last
 *
 * SIMILARITY with AVERAGE nearly always takes the coarsest scale: averaging moves every token
 * towards the mean, so that its cosine with g rises by construction. Where nothing is trained,
 * FIDELITY with AVERAGE is the better choice.
 */
typedef enum vtc_focusllava_route {
    VTC_FOCUSLLAVA_SIMILARITY = 0,
    VTC_FOCUSLLAVA_LINEAR = 1,
    VTC_FOCUSLLAVA_FIDELITY = 2
} vtc_focusllava_route;

enum { VTC_FOCUSLLAVA_MAX_SCALES = 8 };

typedef struct vtc_focusllava_vision_params {
    size_t struct_size;
    size_t window;                           /* side of a region                    (default 4) */
    size_t pools[VTC_FOCUSLLAVA_MAX_SCALES]; /* side of each scale's cells, 1 .. window, coarse */
    size_t n_pools;                          /* first                     (default 4, 2 and 1)  */
    vtc_focusllava_pool pool;                /*                                   (default MAX) */
    vtc_focusllava_route route;              /*                            (default SIMILARITY) */
    float tau;                               /* of FIDELITY                       (default 0.9) */
    int gate_scale; /* 1: weights are multiplied by the softmax probability of the chosen scale
                       (what makes a hard choice trainable), 0: not, -1: with LINEAR only  (-1)  */
    int adaptive;   /* in the planner table only, see vtc_focusllava_topk()          (default 0) */
} vtc_focusllava_vision_params;

/* clang-format off */
#define VTC_FOCUSLLAVA_VISION_PARAMS_INIT \
    { sizeof(vtc_focusllava_vision_params), 4, { 4, 2, 1, 0, 0, 0, 0, 0 }, 3, VTC_FOCUSLLAVA_MAX, \
      VTC_FOCUSLLAVA_SIMILARITY, 0.9f, -1, 0 }
/* clang-format on */

/* The router of the LINEAR route: weight [S, 2 C], bias [S] or absent (0), S scales. A router that
 * ignores the global map has zeros in the right half. Names: router.weight, router.bias. */
VTC_API extern const vtc_weight_table vtc_focusllava_router_table;

/* What can be said of a grid before there are data. */
typedef struct vtc_focusllava_size {
    size_t n_regions;
    size_t n_candidates; /* pooled tokens of all regions and scales             */
    size_t least, most;  /* tokens that any adaptive route may give, inclusive  */
} vtc_focusllava_size;

VTC_API VTC_NODISCARD vtc_status
vtc_focusllava_vision_size(const vtc_focusllava_vision_params *params, size_t grid_h, size_t grid_w,
                           vtc_focusllava_size *size, const vtc_exec *exec);

/* Room for the plan of any route: outputs are an upper bound (exact where all scales give the same
 * number), entries are exact, grid_h * grid_w. */
VTC_API VTC_NODISCARD vtc_status
vtc_focusllava_vision_count(const vtc_focusllava_vision_params *params, size_t grid_h,
                            size_t grid_w, vtc_plan_count *count, const vtc_exec *exec);

/* What a plan does not carry. Set the pointers to receive the arrays; NULL ones are not written. */
typedef struct vtc_focusllava_vision_trace {
    size_t struct_size;
    int32_t *boxes; /* [n_out, 4] r0, c0, r1, c1 of each token's cell in grid units, ends exclusive;
                       room as for the plan's outputs                                            */
    int32_t *scale; /* [n_regions] the chosen scale, index into `pools`                          */
    float *scores;  /* [n_regions, n_pools]                                                      */
} vtc_focusllava_vision_trace;

/* clang-format off */
#define VTC_FOCUSLLAVA_VISION_TRACE_INIT \
    { sizeof(vtc_focusllava_vision_trace), NULL, NULL, NULL }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status
vtc_focusllava_vision_scratch(const vtc_focusllava_vision_params *params, const vtc_tensor *x,
                              const vtc_linear *router, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_focusllava_vision() plans the vision-guided sampler: one scale for each region.
 *
 *   x       [H, W, C]  in   the map of one image, ViT features or projected tokens (F32, F16, BF16)
 *   router             in   for the LINEAR route; else NULL
 *   mass    [H * W]    in   patches each position stands for, > 0; NULL: all 1. Weights do not
 *                           depend on it
 *   plan    room for vtc_focusllava_vision_count(); `begin` is needed unless the map is empty
 *   trace   NULL or what to report
 *
 * Region (i, j) covers rows and columns from i * window and j * window on; those at the lower and
 * right border may be smaller. Inside a region, cells of p x p start at its corner and are clipped
 * to it; there is no padding. Outputs: regions in raster order, inside a region the cells of its
 * scale in raster order; keep: the cell's centre ((r0 + r1 - 1) div 2, (c0 + c1 - 1) div 2). A cell
 * of n positions has the weights 1 (MAX) or 1 / n (SUM), times the gate's probability if that is
 * asked for. score: that of the scale chosen by the row's region. For a tiled image pass the
 * stitched map with its padding removed; several images are planned one by one.
 *
 * Laws: every position is in exactly one output, so mass is conserved; without a gate constant
 * tokens stay constant; regions do not mix. Permuting tokens does not permute the plan (places
 * matter), shifting whole regions permutes outputs. A zero row has cosine 0.
 * Ties go to the first scale in list order: scales are compared by the scores as they are reported,
 * in F32. In a clipped region two scales may have the same cells, an exact tie.
 * Cost: x is read twice, and once more for each scale with p > 1, and 2 C multiply-adds per pooled
 * token. Parallel over regions. Scratch: C floats for each 96 positions or row of the map, C
 * doubles, the scores, and per worker five rows, some numbers per token of a region, and the tokens
 * that coarser ones are pooled from. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, ROOM, OVERLAP,
 * OVERFLOW, SCRATCH, or VTC_ERR_DATA for NaN and Inf in x, scores that are not finite and masses
 * that are not positive and finite.
 */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_vision(const vtc_focusllava_vision_params *params,
                                                       const vtc_tensor *x,
                                                       const vtc_linear *router, const float *mass,
                                                       vtc_plan *plan,
                                                       const vtc_focusllava_vision_trace *trace,
                                                       const vtc_exec *exec);

/* Outputs exactly n_keep; entries are an upper bound. VTC_ERR_BUDGET above the number of candidates
 * (vtc_focusllava_vision_size()). */
VTC_API VTC_NODISCARD vtc_status
vtc_focusllava_topk_count(const vtc_focusllava_vision_params *params, size_t grid_h, size_t grid_w,
                          size_t n_keep, vtc_plan_count *count, const vtc_exec *exec);

typedef struct vtc_focusllava_topk_trace {
    size_t struct_size;
    int32_t *boxes; /* [n_keep, 4] as above                              */
    int32_t *index; /* [n_keep] place of each output among all candidates */
    float *scores;  /* [n_candidates]                                    */
} vtc_focusllava_topk_trace;

/* clang-format off */
#define VTC_FOCUSLLAVA_TOPK_TRACE_INIT { sizeof(vtc_focusllava_topk_trace), NULL, NULL, NULL }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status
vtc_focusllava_topk_scratch(const vtc_focusllava_vision_params *params, const vtc_tensor *x,
                            size_t n_keep, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_focusllava_topk() is the other reading of the description ("token_topk"): every region is
 * pooled at every scale, all pooled tokens stand in one list (regions, then scales, then cells,
 * each in order), and the n_keep most similar to the mean of the map are kept, in list order.
 *
 * A position may be in several outputs or in none: mass is not conserved. One in several gives each
 * an equal share of its mass. score: the largest cosine of the candidates that hold the row.
 * Ties go to the lower place in the list. route, tau and gate_scale are not used.
 * The planner table's row "focusllava-vision" is this function, because it meets any budget
 * exactly; with the parameter `adaptive` it is vtc_focusllava_vision() by SIMILARITY or FIDELITY,
 * and a budget below the tokens which that gives is VTC_ERR_BUDGET. Arguments, cost and errors
 * otherwise as vtc_focusllava_vision(); scratch: 2 numbers per candidate and 1 per position more.
 */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_topk(const vtc_focusllava_vision_params *params,
                                                     const vtc_tensor *x, size_t n_keep,
                                                     const float *mass, vtc_plan *plan,
                                                     const vtc_focusllava_topk_trace *trace,
                                                     const vtc_exec *exec);

/*
 * The balance loss of training, S sum over s of f_s P_s: f_s is the share of regions that chose
 * scale s, P_s the mean over regions of its probability. 1 when all is even, S when one scale takes
 * all; no regions: 0. For monitoring: there are no gradients here.
 *
 *   scores  [n_regions, n_scales]  in
 *   scale   [n_regions]            in   0 .. n_scales - 1
 *   loss                           out
 *
 * Returns VTC_ERR_NULL, RANGE, or VTC_ERR_DATA for scores that are not finite.
 */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_balance_loss(const float *scores,
                                                             const int32_t *scale, size_t n_regions,
                                                             size_t n_scales, double *loss,
                                                             const vtc_exec *exec);

/* ---- FocusLLaVA: text-guided ----------------------------------------------------------------- */

typedef enum vtc_focusllava_score {
    VTC_FOCUSLLAVA_ANY = 0,       /* ATTENTION where there is what it needs, else HIDDEN */
    VTC_FOCUSLLAVA_ATTENTION = 1, /* attention of the text rows, mean over heads and rows */
    VTC_FOCUSLLAVA_HIDDEN = 2     /* vtc_focusllava_hidden_score()                        */
} vtc_focusllava_score;

typedef struct vtc_focusllava_text_params {
    size_t struct_size;
    size_t n_keep; /* tokens to keep, at most V; 0: by top_p or ratio            (default 0)      */
    double ratio;  /* 0 .. 1: ceil(ratio V - 1e-9) tokens                        (default 0.5)    */
    double top_p;  /* 0 < top_p <= 1: the fewest best tokens whose scores sum to at least top_p of
                      all, less 1e-12; 0: by ratio                               (default 0)      */
    vtc_focusllava_score score; /* in the planner table only                     (default ANY)    */
} vtc_focusllava_text_params;

/* clang-format off */
#define VTC_FOCUSLLAVA_TEXT_PARAMS_INIT \
    { sizeof(vtc_focusllava_text_params), 0, 0.5, 0.0, VTC_FOCUSLLAVA_ANY }
/* clang-format on */

/* Outputs for V visual tokens: exact by n_keep and by ratio, an upper bound (V) by top_p. */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_text_count(const vtc_focusllava_text_params *params,
                                                           size_t n_visual, vtc_plan_count *count,
                                                           const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_focusllava_text_scratch(
    const vtc_focusllava_text_params *params, size_t n_visual, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_focusllava_text() plans the text-guided sampler: the visual tokens of highest score,
 * ascending.
 *
 *   score  [V]  in   from one LLM layer (num_layers / 4 counted from 0 where nothing else is known)
 *   mass   [V]  in   > 0; NULL: all 1
 *   plan   room for vtc_focusllava_text_count(); rows count visual tokens; a pure selection
 *
 * The `attention` score is vtc_attention_stats() with `causal`, the columns of the image and the
 * text rows as q, or vtc_attention_given() where the weights themselves are at hand. Text rows must
 * lie behind the visual tokens, else causal attention gives zeros.
 *
 * Later layers run on the kept visual tokens and all others, in order, with their original position
 * ids (VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL); K/V caches of that layer and the ones before it keep
 * all tokens. One decision at prefill, none at decode. Several images are one pool of V tokens, or
 * one call each.
 *
 * At least one token is kept unless V is 0. Ties go to the lower row; permuting tokens permutes the
 * plan; kept rows ascend; nothing merges, so the mass of what is dropped is lost. By top_p, scores
 * that sum to less than 0, as cosines may, have no share to reach: a bisection of the running sums
 * decides, as in the reference.
 * Time O(V); by top_p O(V log V), with V numbers of scratch. Returns VTC_ERR_NULL, RANGE, ROOM,
 * OVERLAP, OVERFLOW, SCRATCH, VTC_ERR_BUDGET for n_keep above V, VTC_ERR_DATA for NaN or Inf in
 * score and for masses as above.
 */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_text(const vtc_focusllava_text_params *params,
                                                     const float *score, size_t n_visual,
                                                     const float *mass, vtc_plan *plan,
                                                     const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_focusllava_hidden_score_scratch(const vtc_tensor *visual,
                                                                     const vtc_tensor *text,
                                                                     const vtc_exec *exec,
                                                                     size_t *bytes);

/*
 * vtc_focusllava_hidden_score() rates visual tokens without attention: the mean over the text rows
 * of cos(h_text, h_visual) on the layer's output.
 *
 *   visual  [V, D]  in    F32, F16 or BF16
 *   text    [M, D]  in    M >= 1
 *   score   [V]     out
 *
 * Rows that do not lie side by side are gathered first (vtc_plan_gather()). Lengths are bounded as
 * in vtc_focusllava_vision(): zero rows have cosine 0. (V + M) D multiply-adds, by the mean of the
 * unit rows of text; V M D where lengths are so small that the bound 1e-12 matters.
 * Scratch: D floats, 2 V + M doubles, four rows per worker. Parallel over rows. Returns
 * VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP, OVERFLOW, SCRATCH, or VTC_ERR_DATA for NaN and Inf.
 */
VTC_API VTC_NODISCARD vtc_status vtc_focusllava_hidden_score(const vtc_tensor *visual,
                                                             const vtc_tensor *text, float *score,
                                                             const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
