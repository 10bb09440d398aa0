/*
 * vtc/mustdrop.h: MustDrop, which drops vision tokens in the encoder, in prefill and in decoding.
 *
 * Source of all: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' code. No weights, no training.
 *
 *     encode   after the vision encoder's first layer, windows of alike tokens become their mean;
 *              [CLS] of its last layer names the key tokens          vtc_mustdrop_encode(), _keys()
 *     prefill  after some decoder layers, tokens that no text token looks at are dropped, key
 *              tokens never                                                  vtc_mustdrop_prefill()
 *     decode   once, before the first decode step, all layers' K/V caches are cut to the tokens
 *              that lived to the last layer                                   vtc_mustdrop_decode()
 *
 * Each step makes plans and moves nothing: vtc_plan_apply() merges tokens, vtc_plan_gather() moves
 * hidden states, vtc_plan_positions() gives position ids under either rule (VTC_VISUAL_RENUMBER
 * with base 0 is the authors', VTC_VISUAL_KEEP FastV's), vtc_plan_compact_kv_layers() cuts caches.
 *
 * Laws: masses are conserved by encode. Kept rows ascend in prefill and decode, and in encode with
 * raster_order; in the authors' order merged tokens come first. Tokens that are all equal stay what
 * they are. Tokens inside a window may stand in any order (the sums differ by rounding); permuting
 * whole windows permutes what they merge into; permuting tokens across windows gives something
 * else. Prefill permutes with its vision tokens. Plans composed over several layers are the layers'
 * plans one after another, for ids, positions, K/V and masses.
 *
 * No accuracy was measured here and no released checkpoint was run.
 */
#ifndef VTC_MUSTDROP_H
#define VTC_MUSTDROP_H

#include "plan.h"
#include "score.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In place of a number: what the thresholds or the rate say. */
#define VTC_MUSTDROP_BY_RULE SIZE_MAX

/* ---- encode: windows ------------------------------------------------------------------------- */

typedef struct vtc_mustdrop_encode_params {
    size_t struct_size;
    size_t win_h, win_w; /* window, two cells or more                            (default 3 x 3)  */
    float threshold;     /* windows of this similarity or more merge             (default 0.8)    */
    size_t n_merge;   /* the r most similar windows of each image instead     (default BY_RULE) */
    size_t prefix;    /* rows in front of the grid that stay, e.g. [CLS]      (default 1)      */
    int per_image;    /* 0: by threshold, every image of the batch merges as many windows as the
                       * one with the fewest, so that all come out equally long; 1: each image
                       * its own                                              (default 0)      */
    int raster_order; /* 0: merged tokens first, the most similar window first, then the others;
                       * 1: all by their first cell                           (default 0)      */
    int ragged_edges; /* 1: a grid need not be whole windows, cells behind the last whole one
                       * stay                                                 (default 0)      */
} vtc_mustdrop_encode_params;

/* clang-format off */
#define VTC_MUSTDROP_ENCODE_PARAMS_INIT \
    { sizeof(vtc_mustdrop_encode_params), 3, 3, 0.8f, VTC_MUSTDROP_BY_RULE, 1, 0, 0, 0 }
/* clang-format on */

/* What a plan does not carry. Set the pointers to receive the arrays; NULL ones are not written.
 * The rest of a trace as published is in the plan: `size` is its mass, `owner` its fate. */
typedef struct vtc_mustdrop_encode_trace {
    size_t struct_size;
    size_t *n_merged;  /* [B] windows that merged                                        */
    float *similarity; /* [B, W] of each window (vtc_window_count())                     */
    int32_t *windows;  /* [B, W] the merged ones by falling similarity, n_merged of each row */
    int32_t *unmerged; /* [B, N] cells that stay, ascending, N - n_merged * area of each row */
} vtc_mustdrop_encode_trace;

/* clang-format off */
#define VTC_MUSTDROP_ENCODE_TRACE_INIT \
    { sizeof(vtc_mustdrop_encode_trace), NULL, NULL, NULL, NULL }
/* clang-format on */

/*
 * Windows to merge so that about `target` of the grid's N cells stay, never fewer:
 * r = max(0, (N - target) / (area - 1)), rounded down; what stays exactly, vtc_mustdrop_encode_
 * count() tells. A 24 x 24 grid and 3 x 3 windows: 192, 128, 64 give 48, 56, 64 and are met
 * exactly, 100 gives 59 and 104 stay. VTC_ERR_BUDGET for a target below what merging all windows
 * leaves. This use is common practice, not the paper's.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_target(const vtc_mustdrop_encode_params *params,
                                                     size_t grid_h, size_t grid_w, size_t target,
                                                     size_t *n_merge, const vtc_exec *exec);

/* The plan of one image: prefix + N rows in. Exact for a number of windows; by threshold an upper
 * bound, prefix + N. VTC_ERR_BUDGET for an n_merge above the number of windows. */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_encode_count(const vtc_mustdrop_encode_params *params,
                                                           size_t grid_h, size_t grid_w,
                                                           vtc_plan_count *count,
                                                           const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status
vtc_mustdrop_encode_scratch(const vtc_mustdrop_encode_params *params, const vtc_tensor *hidden,
                            size_t grid_h, size_t grid_w, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mustdrop_encode() plans to merge windows of alike tokens, each into its mean. Cut the grid
 * into windows, merge those whose tokens have a mean cosine of `threshold` or more
 * (vtc_window_similarity()).
 *
 *   hidden  [B, prefix + N, C] or without B  in   output of the encoder's first layer, B images
 *                                                 (crops) of one grid, raster order
 *   mass    [B, prefix + N]    in    patches each row stands for, > 0; NULL: all 1
 *   plans   [B]                      one for each image, room for vtc_mustdrop_encode_count();
 *                                    vtc_plan_concat() makes one of them
 *   trace   NULL or what to report
 *
 * A merged token stands (`keep`) for the first cell of its window; its weights are the masses'
 * shares, so a mean when masses are equal. Score: the similarity of a token's window, -inf for the
 * prefix and for cells in no window. Merging nothing (r = 0) gives the identity, a pure selection.
 * Ties go to the lower window. Time: one pass over hidden, 2 B N C multiply-adds; vtc_plan_apply()
 * is the second. Scratch: B (W + 1) floats and words, some words per row, and per worker one row,
 * two where hidden is 16 bit.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, BUDGET (n_merge above W), ROOM, OVERLAP, OVERFLOW,
 * SCRATCH, or VTC_ERR_DATA for a token in a window that is not finite and for a mass that is not
 * positive and finite.
 * Checked against: the authors' functions, run (PyTorch 1.13). Several images with per_image,
 * raster order and ragged edges: our own.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_encode(const vtc_mustdrop_encode_params *params,
                                                     const vtc_tensor *hidden, size_t grid_h,
                                                     size_t grid_w, const float *mass,
                                                     vtc_plan *const *plans,
                                                     vtc_mustdrop_encode_trace *trace,
                                                     const vtc_exec *exec);

/*
 * Parameters of the planner "mustdrop-encode". The budget is the target of vtc_mustdrop_target():
 * at least as many tokens stay, the same number of every image; vtc_planner_count() tells how many.
 * VTC_ERR_BUDGET when it is above the rows there are or below what merging all windows leaves. With
 * use_threshold the threshold decides, the budget only says how many tokens stay at least, and the
 * count is an upper bound. The images of a batch merge as many windows as the one with the fewest
 * then, unless per_image: vtc_planner_plan() asks all images (vtc_planner.settle) before it plans
 * the first, for which each is read once more.
 */
typedef struct vtc_mustdrop_encode_planner_params {
    size_t struct_size;
    size_t win_h, win_w; /* (default 3 x 3) */
    int use_threshold;   /* (default 0)     */
    float threshold;     /* (default 0.8)   */
    int per_image;       /* (default 0)     */
    int raster_order;    /* (default 0)     */
    int ragged_edges;    /* (default 0)     */
} vtc_mustdrop_encode_planner_params;

/* clang-format off */
#define VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT \
    { sizeof(vtc_mustdrop_encode_planner_params), 3, 3, 0, 0.8f, 0, 0, 0 }
/* clang-format on */

/* ---- encode: key tokens ---------------------------------------------------------------------- */

typedef struct vtc_mustdrop_keys_params {
    size_t struct_size;
    double rate;    /* share of the vision tokens that become key tokens        (default 0.08)    */
    size_t n_keys;  /* as many instead                                          (default BY_RULE) */
    size_t prefix;  /* keys in front of the vision tokens: 1 is [CLS] itself    (default 1)       */
    float scale;    /* of the logits, > 0; 0: 1 / sqrt(d)                       (default 0)       */
    int end_to_end; /* 1: tokens of image b are numbered from b * N on, as the decoder sees
                     * them                                                     (default 0)       */
} vtc_mustdrop_keys_params;

/* clang-format off */
#define VTC_MUSTDROP_KEYS_PARAMS_INIT \
    { sizeof(vtc_mustdrop_keys_params), 0.08, VTC_MUSTDROP_BY_RULE, 1, 0.0f, 0 }
/* clang-format on */

/* Key tokens of an image of n_vision tokens: n_keys, or ceil(rate * n_vision) in double precision,
 * as the authors' code rounds it: 576 gives 47. VTC_ERR_RANGE for a rate outside [0, 1],
 * VTC_ERR_BUDGET for more keys than tokens. */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_key_count(const vtc_mustdrop_keys_params *params,
                                                        size_t n_vision, size_t *n_keys,
                                                        const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_keys_scratch(const vtc_mustdrop_keys_params *params,
                                                           const vtc_tensor *attention,
                                                           const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mustdrop_keys() names the vision tokens that [CLS] attends to most, by the mean over heads.
 *
 *   attention  [B, H, prefix + N] or without B  in   row of [CLS] of the encoder's last layer,
 *                                                    after the softmax; its prefix is left out
 *                                                    afterwards, nothing is normalised again
 *   keys       [B, K]   out   vision tokens 0 .. N - 1 by falling score; K by _key_count()
 *   score      [B, N]   out   the means; NULL: not wanted
 *
 * Ties go to the lower token. K 0 and 1 are fine. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE,
 * BUDGET, OVERLAP, OVERFLOW, SCRATCH, or VTC_ERR_DATA for an attention that is not finite.
 * Checked against: the authors' encoder loop, run.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_keys(const vtc_mustdrop_keys_params *params,
                                                   const vtc_tensor *attention, int32_t *keys,
                                                   float *score, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_keys_of_query_scratch(
    const vtc_mustdrop_keys_params *params, const vtc_tensor *q_cls, const vtc_tensor *k,
    const vtc_tensor *k_cls, const vtc_exec *exec, size_t *bytes);

/*
 * The same of one image from Q and K: of the last layer only the query of [CLS] and the keys are
 * needed, its input being the features that are handed on (layer 23 and 22 of CLIP-L/14-336).
 *
 *   q_cls  [H, d]              in
 *   k      [G, prefix + N, d]  in    G divides H
 *   k_cls  [G, d]              in    the key of [CLS] where k holds vision tokens only (prefix 0);
 *                                    NULL: it is in k
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_keys_of_query(const vtc_mustdrop_keys_params *params,
                                                            const vtc_tensor *q_cls,
                                                            const vtc_tensor *k,
                                                            const vtc_tensor *k_cls, int32_t *keys,
                                                            float *score, const vtc_exec *exec);

/* ---- prefill --------------------------------------------------------------------------------- */

typedef struct vtc_mustdrop_prefill_params {
    size_t struct_size;
    float global_thr;     /* a token whose sum is below this share of all sums       (default 1)  */
    float individual_thr; /* and whose maximum is below this is dropped              (default 0)  */
    size_t n_keep;        /* the best by vtc_mustdrop_score() instead, counted before the key tokens
                           * join them                                             (default BY_RULE) */
    size_t v_start;  /* rows in front of the vision tokens                          (default 0)  */
    float scale;     /* of the logits, > 0; 0: 1 / sqrt(d)                          (default 0)  */
    int vision_only; /* 0: the plan is of the whole sequence, whose other rows all stay; 1: of the
                      * vision tokens                                               (default 0)  */
} vtc_mustdrop_prefill_params;

/* clang-format off */
#define VTC_MUSTDROP_PREFILL_PARAMS_INIT \
    { sizeof(vtc_mustdrop_prefill_params), 1.0f, 0.0f, VTC_MUSTDROP_BY_RULE, 0, 0.0f, 0 }
/* clang-format on */

/* The thresholds published with the code, for LLaVA-1.5-7B: the number of tokens is an average over
 * prompts and layers; no threshold fixes it. */
typedef enum vtc_mustdrop_preset {
    VTC_MUSTDROP_TEXTVQA_192 = 0, /* 0.001, 0.001  */
    VTC_MUSTDROP_TEXTVQA_128 = 1, /* 0.0012, 0.001 */
    VTC_MUSTDROP_TEXTVQA_64 = 2,  /* 0.011, 0.01   */
    VTC_MUSTDROP_VIZWIZ_64 = 3    /* 0.005, 0.001  */
} vtc_mustdrop_preset;

/* Sets the two thresholds of `params`. */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_thresholds(vtc_mustdrop_preset preset,
                                                         vtc_mustdrop_prefill_params *params,
                                                         const vtc_exec *exec);

typedef struct vtc_mustdrop_prefill_trace {
    size_t struct_size;
    float *col_sum;  /* [n] sum over the text rows of the head mean                       */
    float *col_max;  /* [n] largest head mean of any text row                             */
    int32_t *kept;   /* [n] vision tokens the filter keeps, ascending, n_kept of them      */
    int32_t *vision; /* [n] those and the key tokens, ascending, n_vision of them          */
    int32_t *keys;   /* [n_keys] places of the key tokens in `vision`, ascending, n_keys of them:
                      * the key tokens of the next step                                    */
    size_t n_kept, n_vision, n_keys; /* out */
} vtc_mustdrop_prefill_trace;

/* clang-format off */
#define VTC_MUSTDROP_PREFILL_TRACE_INIT \
    { sizeof(vtc_mustdrop_prefill_trace), NULL, NULL, NULL, NULL, NULL, 0, 0, 0 }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_statistics_scratch(const vtc_tensor *attention,
                                                                 size_t n_text, size_t first_col,
                                                                 size_t n_cols,
                                                                 const vtc_exec *exec,
                                                                 size_t *bytes);

/*
 * vtc_mustdrop_statistics() takes the statistics of the filter from an attention that is there.
 * From Q and K, without one: vtc_attention_stats() with causal, COL_SUM | COL_MAX, first_col and
 * n_cols.
 *
 *   attention  [H, M, L]  in   after the softmax, any outer strides; the last n_text of the M rows
 *                              are text (M = L: a whole one, M = n_text: text rows alone)
 *   col_sum    [n_cols]   out  sum over text rows of the mean over heads, columns from first_col on
 *   col_max    [n_cols]   out  its maximum: of means, not the mean of maxima
 *
 * NaN propagates. No text rows: VTC_ERR_SHAPE, as without heads. One pass over the block; parallel
 * over groups of columns. Scratch: one group of columns for each worker.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_statistics(const vtc_tensor *attention, size_t n_text,
                                                         size_t first_col, size_t n_cols,
                                                         float *col_sum, float *col_max,
                                                         const vtc_exec *exec);

/*
 * score[j] = max(sum_j / (global_thr S), max_j / individual_thr), S the total of the sums. The
 * filter keeps exactly the tokens that score 1 or more, so ranking by it is the filter for a fixed
 * budget. VTC_ERR_RANGE unless both thresholds are positive, VTC_ERR_DATA for statistics that are
 * not finite. A share of S that is 0 in F32 gives inf, as the filter keeps all then.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_score(const vtc_mustdrop_prefill_params *params,
                                                    const float *col_sum, const float *col_max,
                                                    size_t n, float *score, const vtc_exec *exec);

/* Upper bounds for n_vision vision tokens in a sequence of `length` rows and n_keys key tokens;
 * exact for an n_keep without key tokens. VTC_ERR_BUDGET for an n_keep above n_vision. */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_prefill_count(
    const vtc_mustdrop_prefill_params *params, size_t n_vision, size_t length, size_t n_keys,
    vtc_plan_count *count, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status
vtc_mustdrop_filter_scratch(const vtc_mustdrop_prefill_params *params, size_t n_vision,
                            const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mustdrop_filter() decides by the two statistics: a token is dropped when its sum is below
 * global_thr times the total of all sums and its maximum below individual_thr, both strictly,
 * unless it is a key token. With n_keep the n_keep best scores stay, and the key tokens: up to
 * n_keys more.
 *
 *   col_sum, col_max  [n_vision]  in
 *   length            rows of the sequence, v_start + n_vision or more; not used with vision_only
 *   keys              [n_keys]    in    key tokens 0 .. n_vision - 1, any order, repeats allowed
 *   mass              [rows in]   in    NULL: all 1
 *   plan              a selection, room for vtc_mustdrop_prefill_count(); rows ascend
 *   trace             NULL or what to report
 *
 * Score: that of vtc_mustdrop_score() for vision tokens (the quotient of a threshold that is not
 * positive counts as inf: it drops nothing), +inf for other rows. The comparisons, not the
 * score, decide without n_keep. The defaults drop nothing. Ties go to the lower token. O(n).
 * Returns VTC_ERR_NULL, SHAPE, RANGE (keys, thresholds that are NaN or, with n_keep, not positive),
 * BUDGET, ROOM, OVERLAP, OVERFLOW, SCRATCH, or VTC_ERR_DATA for statistics that are not finite and
 * for a mass that is not positive and finite.
 * Checked against: the authors' prefill loop, run; the fixed budget is ours.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_filter(
    const vtc_mustdrop_prefill_params *params, const float *col_sum, const float *col_max,
    size_t n_vision, size_t length, const int32_t *keys, size_t n_keys, const float *mass,
    vtc_plan *plan, vtc_mustdrop_prefill_trace *trace, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_prefill_scratch(
    const vtc_mustdrop_prefill_params *params, const vtc_tensor *q_text, const vtc_tensor *k,
    const vtc_tensor *lse, size_t n_vision, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_mustdrop_prefill() is one pruning layer: the statistics from Q and K of that layer, then the
 * filter. The layer itself runs on all rows; the plan is for what it hands on.
 *
 *   q_text  [H, T, d]  in    the queries of the text rows, the last T of the sequence
 *   k       [G, L, d]  in    all keys, both rotated; G divides H
 *   lse     [H, T]     in    F32, the log-sum-exp of each text row's logits, when the attention has
 *                            it; only the vision keys are read then. NULL: computed
 *   n_vision           vision tokens, from row v_start on
 *
 * keys, mass, plan, trace and errors as in vtc_mustdrop_filter(); length is L. Several layers: the
 * trace's keys and n_vision are those of the next one, on the rows that this plan left, and
 * vtc_plan_compose() gives the plan of several layers for ids, positions and K/V.
 * Cost and scratch: vtc_attention_stats() of T rows.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_prefill(
    const vtc_mustdrop_prefill_params *params, const vtc_tensor *q_text, const vtc_tensor *k,
    const vtc_tensor *lse, size_t n_vision, const int32_t *keys, size_t n_keys, const float *mass,
    vtc_plan *plan, vtc_mustdrop_prefill_trace *trace, const vtc_exec *exec);

/*
 * Parameters of the planner "mustdrop-prefill": one pruning layer over the vision rows, from
 * lm_keys and lm_query or text_query. The budget is n_keep of vtc_mustdrop_filter(), counted before
 * the union with key_rows, so up to n_key_rows more stay; the count is an upper bound, exact
 * without key rows. Only the ratio of the two thresholds matters to it. With use_thresholds they
 * decide and the budget is not used. With begin, every image is filtered for itself: its own
 * budget, its own total S of sums, its own key rows; the text rows that vote are the same. The
 * authors' treatment of crops, one filter over all of them, is a call without begin. lm_query gives
 * the last n_text rows, which must be given; text_query all of its rows.
 */
typedef struct vtc_mustdrop_prefill_planner_params {
    size_t struct_size;
    int use_thresholds;   /* (default 0)     */
    float global_thr;     /* (default 0.001) */
    float individual_thr; /* (default 0.001) */
} vtc_mustdrop_prefill_planner_params;

/* clang-format off */
#define VTC_MUSTDROP_PREFILL_PLANNER_PARAMS_INIT \
    { sizeof(vtc_mustdrop_prefill_planner_params), 0, 0.001f, 0.001f }
/* clang-format on */

/* ---- decode ---------------------------------------------------------------------------------- */

/* Where rows that are decoded go on. */
typedef enum vtc_mustdrop_positions {
    VTC_MUSTDROP_RENUMBER = 0, /* the authors': each layer at the length of its own cache, though
                                * cached keys were rotated by larger, earlier positions           */
    VTC_MUSTDROP_KEEP = 1      /* all layers at next_position: with VTC_VISUAL_KEEP in prefill    */
} vtc_mustdrop_positions;

typedef struct vtc_mustdrop_decode_params {
    size_t struct_size;
    size_t n_layers;             /*                                              (default 32)     */
    const int32_t *prune_layers; /* [n_prune] layers after which rows were dropped, ascending;
                                  * NULL: 2, 6, 10, 14                           (default NULL)   */
    size_t n_prune;              /* pruning layers                               (default 4)      */
    int prune_early;             /* 1: layers before the first pruning layer are cut too, not in
                                  * the authors' code                            (default 0)      */
    vtc_mustdrop_positions
        positions;         /*                                         (default RENUMBER) */
    int64_t next_position; /* KEEP: position of the first decoded row; -1: the length of the
                            * sequence before any step                     (default -1)     */
} vtc_mustdrop_decode_params;

/* clang-format off */
#define VTC_MUSTDROP_DECODE_PARAMS_INIT \
    { sizeof(vtc_mustdrop_decode_params), 32, NULL, 4, 0, VTC_MUSTDROP_RENUMBER, -1 }
/* clang-format on */

/* Sizes of the composed plans, from those of the steps (in order; arrays may be absent): plan i has
 * the input rows of step i and the outputs of the last. A pure selection, exact. counts[n_prune].
 * VTC_ERR_SHAPE when a step's input rows are not the outputs of the one before. */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_decode_count(const vtc_mustdrop_decode_params *params,
                                                           const vtc_plan *const *steps,
                                                           vtc_plan_count *counts,
                                                           const vtc_exec *exec);

/*
 * vtc_mustdrop_decode() tells which rows of each layer's cache are kept for decoding: those that
 * lived to the last layer. Layers after the last pruning layer hold no others and stay whole, and
 * so do those before the first, unless prune_early; any other layer has the plan of the first
 * pruning layer that is not before it. Nothing is evicted later; generated rows join the caches as
 * usual.
 *
 *   steps          [n_prune]   in    the plan of each pruning layer over its whole sequence, in
 *                                    order (vtc_mustdrop_prefill()); outputs that merge count as
 *                                    the row they stand for
 *   plans          [n_prune]   out   composed: rows of pruning layer i's sequence, all selections;
 *                                    room for vtc_mustdrop_decode_count()
 *   plan_of_layer  [n_layers]  out   one of `plans`, or NULL: the layer stays whole. For
 *                                    vtc_plan_compact_kv_layers() and vtc_plan_gather_kv_layers()
 *   lengths        [n_layers]  out   rows of each layer's cache afterwards; NULL: not wanted
 *   next_position  [n_layers]  out   rotary position of the next row in each layer; NULL: not
 * wanted
 *
 * Masses are those of the last step, scores those of each plan's own step. Cached keys are rotated
 * and stay as they are. n_prune 0: all layers stay whole, and lengths and positions by RENUMBER
 * cannot be told (VTC_ERR_UNSUPPORTED when wanted). O(rows). No scratch.
 * Returns VTC_ERR_NULL, SHAPE (steps that do not follow each other), RANGE (layers that do not
 * ascend below n_layers, zero tokens), DATA (masses), ROOM, OVERLAP, OVERFLOW or UNSUPPORTED.
 * Checked against: the authors' cache code, run: rows, caches, lengths and positions; KEEP and
 * prune_early are ours.
 */
VTC_API VTC_NODISCARD vtc_status vtc_mustdrop_decode(
    const vtc_mustdrop_decode_params *params, const vtc_plan *const *steps, vtc_plan *const *plans,
    const vtc_plan **plan_of_layer, size_t *lengths, int64_t *next_position, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
