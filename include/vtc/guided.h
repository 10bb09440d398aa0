/*
 * vtc/guided.h: planners that the attention of [CLS] or of a decoder guides: FastV, VisionZip,
 * SparseVLM. Part of vtc/prune.h.
 *
 * They take scores, which vtc/score.h computes from Q and K without an array of queries x keys, and
 * vtc_attention_given() from weights that an engine has at hand. The rows of the planner table do
 * both steps from Q and K.
 */
#ifndef VTC_GUIDED_H
#define VTC_GUIDED_H

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- attention weights at hand --------------------------------------------------------------- */

typedef struct vtc_attention_given_params {
    size_t struct_size;
    const int32_t *rows; /* [n_rows] query rows to average over, in any order; NULL: all          */
    size_t n_rows;
    const int32_t *cols; /* [n_cols] keys to report, in this order; NULL: from first_col on       */
    size_t first_col;
    size_t n_cols; /* SIZE_MAX: all keys from first_col on                     (default SIZE_MAX) */
} vtc_attention_given_params;

/* clang-format off */
#define VTC_ATTENTION_GIVEN_PARAMS_INIT \
    { sizeof(vtc_attention_given_params), NULL, 0, NULL, 0, SIZE_MAX }
/* clang-format on */

/*
 * vtc_attention_given() averages attention weights (after the softmax) over heads and chosen rows.
 *
 *   attention  [H, M, N]  in    F32, F16 or BF16; one row: [H, 1, N]
 *   score      [n_cols]   out
 *
 * Summed in double. Reads each chosen weight once; parallel over columns; no scratch. NaN and Inf
 * propagate. Returns VTC_ERR_NULL, DTYPE, SHAPE (no head or no row to average over), RANGE, OVERLAP
 * or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_attention_given(const vtc_attention_given_params *params,
                                                     const vtc_tensor *attention, float *score,
                                                     const vtc_exec *exec);

/* ---- FastV ----------------------------------------------------------------------------------- */

typedef enum vtc_fastv_rule {
    VTC_FASTV_PRUNED_SHARE = 0, /* round(n (1 - value)), halves to even: the Hugging Face port */
    VTC_FASTV_KEPT_SHARE = 1    /* trunc(n value): the lmms-eval port                          */
} vtc_fastv_rule;

/* How many vision tokens a port keeps of n. The authors' scripts give the number itself (72, 144,
 * 288 or 432 of 576). VTC_ERR_RANGE for a value outside [0, 1]. */
VTC_API VTC_NODISCARD vtc_status vtc_fastv_count(vtc_fastv_rule rule, size_t n, double value,
                                                 size_t *n_keep, const vtc_exec *exec);

/*
 * vtc_fastv() keeps the n_keep vision tokens that the last token attends to most, ascending.
 *
 *   score  [n_in]  in   attention of the last query row to each vision token, mean over heads, of
 *                       decoder layer K - 1 (K = 2 by default): vtc_cls_attention() with the query
 *                       of the last row, all keys of the sequence, and the image's columns; or
 *                       vtc_attention_given()
 *   mass   [n_in]  in   > 0; NULL: all 1
 *   plan   n_keep outputs, exactly; a pure selection; its rows count vision tokens
 *
 * From layer K on, drop: concatenate the plan with identities for the rows before and behind the
 * image (vtc_plan_concat()) and move hidden states by it; position ids stay those of the rows
 * (VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL), and layers below K keep all rows in their caches. Or mask:
 * vtc_fastv_mask(). There is no attention before layer 0: for K = 0 the authors hide a random set,
 * vtc_random().
 *
 * n_keep 0 drops all, n_keep = n_in keeps all. Ties go to the lower row. Laws: kept rows ascend;
 * permuting tokens permutes the plan; the mass of what is dropped is lost; constant tokens stay.
 * Time O(n_in), no scratch. Returns VTC_ERR_BUDGET for n_keep above n_in, VTC_ERR_DATA for NaN or
 * Inf in score and for masses that are not positive and finite, else VTC_ERR_NULL, ROOM, OVERLAP or
 * OVERFLOW. Checked against: the authors' decoder loops (drop, mask, Hugging Face port), run
 * (PyTorch 1.13). Source: Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024,
 * section 4.
 */
VTC_API VTC_NODISCARD vtc_status vtc_fastv(const float *score, size_t n_in, size_t n_keep,
                                           const float *mass, vtc_plan *plan, const vtc_exec *exec);

/*
 * The masking variant: the sequence stays whole, and dropped vision keys are hidden from all
 * queries.
 *
 *   plan  in   of the vision tokens, rows v_start .. v_start + n_in - 1 of the sequence
 *   mask  [L]  out   BOOL or U8: 1 where a key may be seen
 *
 * Returns VTC_ERR_NULL, DTYPE, SHAPE (L below v_start + n_in), RANGE or OVERLAP.
 */
VTC_API VTC_NODISCARD vtc_status vtc_fastv_mask(const vtc_plan *plan, size_t v_start,
                                                vtc_tensor *mask, const vtc_exec *exec);

/* ---- VisionZip ------------------------------------------------------------------------------- */

typedef struct vtc_visionzip_params {
    size_t struct_size;
    size_t dominant;   /* tokens kept as they are, besides [CLS]. The authors' API counts [CLS]: its
                          dominant=54 is 53 here                                    (default 53) */
    size_t contextual; /* tokens merged from the others                             (default 10) */
    int class_token;   /* 1: row 0 is [CLS] and becomes output 0                     (default 0) */
    float contextual_share; /* in the planner table only: share of the budget that is contextual,
                               rounded, halves to even       (default 0.15625: 10 of 64)          */
} vtc_visionzip_params;

/* clang-format off */
#define VTC_VISIONZIP_PARAMS_INIT { sizeof(vtc_visionzip_params), 53, 10, 0, 0.15625f }
/* clang-format on */

/* What a plan does not carry. Set the pointers to receive the arrays; NULL ones are not written. */
typedef struct vtc_visionzip_trace {
    size_t struct_size;
    int32_t *selected; /* [class_token + dominant] row 0 where it is [CLS], then the dominant rows
                          by falling attention */
    int32_t *targets;  /* [contextual] the row that each contextual token is built on, ascending  */
} vtc_visionzip_trace;

/* clang-format off */
#define VTC_VISIONZIP_TRACE_INIT { sizeof(vtc_visionzip_trace), NULL, NULL }
/* clang-format on */

/* Exact. VTC_ERR_BUDGET when fewer rows than `contextual` are left beside the dominant ones. */
VTC_API VTC_NODISCARD vtc_status vtc_visionzip_count(const vtc_visionzip_params *params,
                                                     size_t n_in, vtc_plan_count *count,
                                                     const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_visionzip_scratch(const vtc_visionzip_params *params,
                                                       const vtc_tensor *cls_attention,
                                                       const vtc_tensor *metric,
                                                       const vtc_exec *exec, size_t *bytes);

/*
 * vtc_visionzip() plans VisionZip: the patches that [CLS] attends to most are kept, the others are
 * merged into a few contextual tokens.
 *
 *   cls_attention  [H, n_in]  in   attention of [CLS] to each row, or [n_in], its sum over heads:
 *                                  vtc_cls_attention(). Column 0 is not read when class_token
 *   metric         [n_in, d]  in   raw keys averaged over heads (vtc_mean_keys()). Not read for
 *                                  contextual 0. Both of the encoder's next-to-last layer
 *   mass           [n_in]     in   > 0; NULL: all 1. Weights do not depend on it
 *   plan           room for vtc_visionzip_count()
 *   trace          NULL or what to report
 *
 * Outputs: [CLS], the dominant rows ascending, the contextual tokens in order of their targets. The
 * M rows that are neither are taken in order; every (M div contextual)-th is a target, from the
 * first on, and each other row joins the target of largest cosine. A contextual token is its target
 * plus the mean of the rows that joined: weights 1 and 1/m, which sum to 2; the target alone when
 * none joined. `keep` is the target. score: the sum of attention over heads; +inf for [CLS].
 *
 * Laws: dominant rows ascend; mass is conserved unless contextual is 0, when the other rows are
 * dropped; constant tokens do not stay constant (contextual ones double); targets depend on places,
 * so permuting tokens does not permute the plan. Ties go to the lower row, and to the lower target.
 * Time O(H n_in + M contextual d) in tiles of rows, parallel. Scratch: the targets, a tile's
 * rows and products per worker, and some numbers per row. Returns VTC_ERR_NULL, DTYPE, SHAPE,
 * RANGE, ROOM, OVERLAP, OVERFLOW, SCRATCH, VTC_ERR_BUDGET as vtc_visionzip_count() (the authors'
 * code fails there too), or VTC_ERR_DATA for NaN in the attention, for metric rows of the M that
 * are zero, NaN or infinite, and for masses that are not positive and finite. Checked against: the
 * authors' forward pass, run (PyTorch 1.13). Putting the dominant tokens of LLaVA-NeXT crops back
 * into a grid is not covered. Source: Yang et al., "VisionZip: Longer is Better but Not Necessary
 * in Vision Language Models", CVPR 2025, section 3.
 */
VTC_API VTC_NODISCARD vtc_status vtc_visionzip(const vtc_visionzip_params *params,
                                               const vtc_tensor *cls_attention,
                                               const vtc_tensor *metric, const float *mass,
                                               vtc_plan *plan, const vtc_visionzip_trace *trace,
                                               const vtc_exec *exec);

/* ---- SparseVLM ------------------------------------------------------------------------------- */

/* Vision tokens to keep after decoder layers 2, 6 and 15, for an average of 192, 128, 96 or 64 of
 * 576 over the layers; VTC_ERR_RANGE for other averages. Recycled tokens come on top. */
VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_schedule(size_t average, size_t per_layer[3],
                                                        const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_raters_scratch(const vtc_tensor *vision,
                                                              const vtc_tensor *text,
                                                              const vtc_exec *exec, size_t *bytes);

/*
 * vtc_sparsevlm_raters() finds the text tokens that rate the vision tokens, once per prompt: with P
 * = softmax over text of V T^t, those whose mean over vision lies strictly above the mean of all.
 *
 *   vision    [N, D]  in    rows of the decoder's input embeddings, N >= 1
 *   text      [T, D]  in    T >= 1
 *   raters    [T]     out   the first n_raters are written, ascending
 *   n_raters          out
 *
 * Equal text tokens rate alike. One token, or tokens that are all equal, have none above the mean:
 * VTC_ERR_DATA, as for NaN and Inf. N T D multiply-adds in tiles of vision rows, parallel. Scratch:
 * T D floats (T to whole 16), T numbers per tile of 96 rows, per worker 96 T logits and 96 rows.
 * Else VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP, OVERFLOW or SCRATCH. Checked against and source: see
 * vtc_sparsevlm().
 */
VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_raters(const vtc_tensor *vision,
                                                      const vtc_tensor *text, int32_t *raters,
                                                      size_t *n_raters, const vtc_exec *exec);

typedef struct vtc_sparsevlm_params {
    size_t struct_size;
    size_t n_keep; /* tokens kept as they are; at most N - 1 are                  (default 192) */
    int recycle;   /* 1: the best of the dropped ones come back in clusters         (default 1) */
} vtc_sparsevlm_params;

/* clang-format off */
#define VTC_SPARSEVLM_PARAMS_INIT { sizeof(vtc_sparsevlm_params), 192, 1 }
/* clang-format on */

/* How many rows of N play which part. */
typedef struct vtc_sparsevlm_size {
    size_t n_kept;     /* min(n_keep, N - 1)                                */
    size_t n_recycled; /* m = trunc(0.3 (N - n_kept)) + 1, 0 when not asked */
    size_t n_clusters; /* m div 10 + 1                                      */
} vtc_sparsevlm_size;

VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_sizes(const vtc_sparsevlm_params *params,
                                                     size_t n_in, vtc_sparsevlm_size *size,
                                                     const vtc_exec *exec);

/* Exact: n_kept + n_clusters outputs. */
VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_count(const vtc_sparsevlm_params *params,
                                                     size_t n_in, vtc_plan_count *count,
                                                     const vtc_exec *exec);

typedef struct vtc_sparsevlm_trace {
    size_t struct_size;
    int32_t *recycled; /* [n_recycled] rows that were clustered, by falling score */
    int32_t *cluster;  /* [n_recycled] the cluster of each                        */
} vtc_sparsevlm_trace;

/* clang-format off */
#define VTC_SPARSEVLM_TRACE_INIT { sizeof(vtc_sparsevlm_trace), NULL, NULL }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm_scratch(const vtc_sparsevlm_params *params,
                                                       size_t n_in, const vtc_tensor *hidden,
                                                       const vtc_exec *exec, size_t *bytes);

/*
 * vtc_sparsevlm() plans one pruning step of SparseVLM 1.x (layers 2, 6 and 15).
 *
 *   score   [N]     in   attention of the raters to each vision token, mean over heads and raters:
 *                        vtc_attention_stats() with `causal`, the text rows as q, the raters as
 *                        voters and the image's columns; or vtc_attention_given(). Recycled tokens
 *                        of earlier steps are vision tokens here
 *   hidden  [N, C]  in   the layer's output; NULL without recycling
 *   noise   [m]     in   added to the clusters' densities, by the order of the recycled rows; NULL:
 *                        none. The authors add random numbers below 1e-6
 *   mass    [N]     in   > 0; NULL: all 1. Weights do not depend on it
 *   plan    room for vtc_sparsevlm_count(); `begin` is needed when rows are recycled
 *   trace   NULL or what to report
 *
 * The n_kept best rows come first, ascending. Of the others the m best, by falling score, are
 * clustered by density peaks: distances over sqrt(C), density exp(-mean of the k smallest squared
 * distances, its own included), k clusters around the rows of largest density times distance to the
 * nearest denser row; the others join the nearest. Each cluster is one output behind the kept rows:
 * its sum over (count + 1e-6), keep its centre. Positions are renumbered (VTC_VISUAL_RENUMBER,
 * VTC_TEXT_CONTINUE).
 *
 * Ties go to the lower row, or to the row or cluster that comes first. Without noise the earlier of
 * two rows of equal density counts as the denser (our rule; the authors' result is random wherever
 * densities tie, and with k = 2 mutual nearest neighbours do).
 * Laws: kept rows ascend; weights of an output sum to 1 within 1e-6, so constant tokens stay within
 * that; permuting tokens permutes the plan where nothing ties; the mass of rows that are neither
 * kept nor recycled is lost.
 * Time O(m^2 C) for the distances, m about 0.3 N, parallel. Scratch: m^2 + m C (16-bit hidden)
 * floats and some numbers per row. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, ROOM, OVERLAP,
 * OVERFLOW, SCRATCH, or VTC_ERR_DATA for NaN in score or noise, recycled rows of `hidden` that are
 * not finite, and masses that are not positive and finite. In the planner table a budget of K
 * tokens is the whole output: the most rows are kept that leave room for their clusters. The fewest
 * that recycling can give are the clusters of all rows (18 of 576), below that the budget is
 * VTC_ERR_BUDGET; without recycling K = N is, since at most N - 1 are kept. Checked against: the
 * authors' decoder loop and clustering, run with the same noise (PyTorch 1.13). SparseVLM+ (2.0) is
 * not implemented. Source: Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient
 * Vision-Language Model Inference", ICML 2025.
 */
VTC_API VTC_NODISCARD vtc_status vtc_sparsevlm(const vtc_sparsevlm_params *params,
                                               const float *score, size_t n_in,
                                               const vtc_tensor *hidden, const float *noise,
                                               const float *mass, vtc_plan *plan,
                                               const vtc_sparsevlm_trace *trace,
                                               const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
