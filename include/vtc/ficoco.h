/*
 * vtc/ficoco.h: FiCoCo, "Filter, Correlate, Compress". Each compressing layer of a vision encoder
 * (V) or of a language model (L) removes r tokens: Filter picks which, Correlate finds which of the
 * others resemble each of them, Compress adds a weighted share of the removed token to those.
 *
 * The paper and the authors' code differ in almost every step, and the code has index errors, so
 * there are three profiles:
 *
 *   FIXED     the code's scores (head-mean logits, its constants) with the paper's bookkeeping:
 *             [CLS] and the order of rows are kept, only kept tokens receive, each output is an
 *             average, nothing is remembered between calls
 *   OFFICIAL  the released code step by step, errors included
 *   PAPER     the main text's equations, on attention probabilities
 *
 * Which of them produced the published accuracy cannot be told from the release; that of FIXED is
 * unmeasured. vtc/prune.h includes this file.
 *
 * FiCoCo-VL is V in layers of the encoder, then L in layers of the language model, with n_visual of
 * the latter what the former left. Plans of layers are joined by vtc_plan_compose(); plan each with
 * the masses of the one before:
 *
 *     vtc_ficoco_v(&v, &encoder, &first, NULL, exec);      576 patches to 288, say
 *     decoder.n_visual = 288; decoder.mass = first.mass;   (without the [CLS] row)
 *     vtc_ficoco_l(&l, &decoder, &second, NULL, exec);
 */
#ifndef VTC_FICOCO_H
#define VTC_FICOCO_H

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vtc_ficoco_profile {
    VTC_FICOCO_FIXED = 0,
    VTC_FICOCO_OFFICIAL = 1,
    VTC_FICOCO_PAPER = 2
} vtc_ficoco_profile;

/* Steps that a profile has or lacks, and that FIXED and PAPER can be told otherwise. */
typedef enum vtc_ficoco_switch {
    VTC_FICOCO_BY_PROFILE = 0,
    VTC_FICOCO_ON = 1,
    VTC_FICOCO_OFF = 2
} vtc_ficoco_switch;

/* Cells of the score memory of the released code: a grid of 24 x 24, each starting at 1e9. */
#define VTC_FICOCO_CELLS     576
#define VTC_FICOCO_FAR_SCORE 1e9f

/* What a plan does not carry. Set the pointers to receive the arrays; NULL ones are not written.
 * Rows are those of the plan. */
typedef struct vtc_ficoco_trace {
    size_t struct_size;
    size_t n_targets; /* out: K, targets of each discarded row                                   */
    int32_t *discard; /* [r] discarded rows, the most redundant first                            */
    int32_t *target;  /* [r, K] by falling correlation, room for n_nnz - n_out of the count; a   */
                      /* [CLS] that is no row of the plan is -1                                  */
    float *weight;    /* [r, K] their shares of the discarded row; the same room                 */
    float *alpha;     /* [r, n_kept] shares of all kept patches, in the order of the rows, 0 for */
                      /* no target; OFFICIAL does not write it                                   */
    int32_t *pos;     /* V: [n_kept] cell of each kept patch in output order; not by OFFICIAL    */
    float *a_cls;     /* V without [CLS]: [N] what stands for its attention                      */
} vtc_ficoco_trace;

/* clang-format off */
#define VTC_FICOCO_TRACE_INIT \
    { sizeof(vtc_ficoco_trace), 0, NULL, NULL, NULL, NULL, NULL, NULL }
/* clang-format on */

/* ---- FiCoCo-V: in a layer of the vision encoder ---------------------------------------------- */

/* Where [CLS] is. */
typedef enum vtc_ficoco_cls {
    VTC_FICOCO_CLS_ROW = 0,   /* row 0 of q, k, s and of the plan                              */
    VTC_FICOCO_CLS_APART = 1, /* given by cls_q and cls_k; q, k and the plan have patches only */
    VTC_FICOCO_CLS_NONE = 2   /* the encoder has none                                          */
} vtc_ficoco_cls;

typedef struct vtc_ficoco_v_params {
    size_t struct_size;
    size_t profile; /* a vtc_ficoco_profile                                       (default FIXED) */
    size_t n_discard; /* r, at most the number of patches                           (default 0) */
    float lam;     /* weight of the patch term, that of [CLS] is 1 - lam; below 0:               */
                   /* as the profile has it, 0.65, PAPER 0.35                    (default -1)    */
    float coef;    /* of the local penalty                                       (default 2)     */
    float eps;     /* quantile of a row of correlations that targets reach       (default 0.998) */
    size_t window; /* side of the penalty's windows; OFFICIAL has 2              (default 2)     */
    size_t l2;     /* both terms scaled to unit length: a vtc_ficoco_switch; PAPER: off          */
    size_t linear; /* shares C / sum of C instead of softmax: the same; PAPER: on                */
} vtc_ficoco_v_params;

/* clang-format off */
#define VTC_FICOCO_V_PARAMS_INIT \
    { sizeof(vtc_ficoco_v_params), 0, 0, -1.0f, 2.0f, 0.998f, 2, 0, 0 }
/* clang-format on */

typedef struct vtc_ficoco_v_inputs {
    size_t struct_size;
    vtc_ficoco_cls cls;
    const vtc_tensor *q; /* [H, T, d] of the layer whose hidden states are compressed          */
    const vtc_tensor *k; /* [G, T, d] G divides H                                              */
    const vtc_tensor *cls_q; /* [H, d] with CLS_APART */
    const vtc_tensor *cls_k; /* [G, d] with CLS_APART; FIXED does without */
    const vtc_tensor *s;   /* [T, T] or NULL: the head-mean logits (PAPER: probabilities), where */
                           /* the caller has them; then q is not looked at, k with CLS_NONE only */
    float scale;           /* of logits; 0: d^-1/2; 1 where q is scaled already                  */
    size_t grid_h, grid_w; /* of the local penalty; OFFICIAL does without                        */
    const int32_t *pos;    /* [N] cell of each patch; NULL: 0 .. N - 1                           */
    const float *mass;     /* [T] patches each row stands for, > 0; NULL: all 1                  */
    float *memory;         /* OFFICIAL: [n_cells] in and out; NULL: a fresh one of 576 cells     */
    size_t n_cells;        /* a square                                                           */
} vtc_ficoco_v_inputs;

/* clang-format off */
#define VTC_FICOCO_V_INPUTS_INIT \
    { sizeof(vtc_ficoco_v_inputs), VTC_FICOCO_CLS_ROW, NULL, NULL, NULL, NULL, NULL, 0.0f, 0, 0, \
      NULL, NULL, NULL, 0 }
/* clang-format on */

/* Outputs, exact, and an upper bound of the entries, for n_patches rows and, with CLS_ROW, [CLS]: 0
 * entries when nothing is recycled. VTC_ERR_BUDGET when r exceeds n_patches. */
VTC_API VTC_NODISCARD vtc_status vtc_ficoco_v_count(const vtc_ficoco_v_params *params,
                                                    size_t n_patches, vtc_ficoco_cls cls,
                                                    vtc_plan_count *count, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_ficoco_v_scratch(const vtc_ficoco_v_params *params,
                                                      const vtc_ficoco_v_inputs *inputs,
                                                      const vtc_exec *exec, size_t *bytes);

/*
 * vtc_ficoco_v() plans to remove r patches after the attention block of an encoder layer.
 *
 * Filter: redundancy s = lam * p - (1 - lam) * a of each patch, where a is its logit under the
 * query of [CLS] and p the mean of its own logits over all patches; then the local penalty; the r
 * largest s are discarded. Correlate: row i of the logits over the kept patches; targets are those
 * that reach its eps-quantile, at most n - ceil(eps (n - 1)) of n. Compress: the weights alpha of
 * row i are the softmax over its targets, and x_j becomes (x_j + sum alpha_ij x_i) / (1 + sum
 * alpha_ij). The plan has [CLS] first (CLS_ROW), then the kept patches in input order.
 *
 * OFFICIAL has the penalty on a score memory that outlives layers and images in the released code:
 * give `memory` to carry it on, or NULL for one of this call alone. Its outputs come in order of
 * falling redundancy, [CLS] last (with CLS_APART it is no output); every row takes K targets among
 * all rows, K the largest number, over the discarded rows, of logits above the quantile; and target
 * t is added to output t or t - r, whatever token that is. VTC_ERR_RANGE when there is no such
 * output (not with T >= 2 r).
 *
 *   plan   room for vtc_ficoco_v_count(). score: s after the penalty, -inf for [CLS]
 *   trace  NULL or what to report
 *
 * r = 0 is the identity in input order, with scores (OFFICIAL: leaves the memory and scores 0).
 * With r = N, FIXED and PAPER recycle nothing. Masses of discarded rows are shared like their
 * tokens, so mass is conserved where all targets are outputs: always, but for OFFICIAL with
 * CLS_APART. Constant tokens stay constant. Weights do not depend on masses. Kept rows ascend (not
 * OFFICIAL). Permuting the patches together with `pos` permutes the choice where no scores tie.
 * Ties go to the lower row. No T x T array but for PAPER's time: (3 T + r T) H d multiply-adds,
 * PAPER 2 T^2 H d. Parallel over blocks of 64 keys, then over discarded rows; keys are read once
 * for 64 of those. Scratch: 64 rows of logits, 64 queries, the r x K targets, some numbers per row,
 * and per worker 64 keys widened unless they are F32. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE,
 * OVERLAP, SCRATCH, ROOM, OVERFLOW, BUDGET (r > N), UNSUPPORTED (OFFICIAL without [CLS], s with
 * CLS_APART), or DATA for scores that are NaN, for correlations that are NaN or leave no finite
 * share, and for masses that are not positive and finite. Checked against: OFFICIAL, the authors'
 * code, run (PyTorch 1.13); FIXED and PAPER, our NumPy oracle, written from the paper. Source: Han
 * et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration", arXiv
 * 2411.17686v4, and its code.
 */
VTC_API VTC_NODISCARD vtc_status vtc_ficoco_v(const vtc_ficoco_v_params *params,
                                              const vtc_ficoco_v_inputs *inputs, vtc_plan *plan,
                                              vtc_ficoco_trace *trace, const vtc_exec *exec);

/* ---- FiCoCo-L: in a layer of the language model ---------------------------------------------- */

typedef struct vtc_ficoco_l_params {
    size_t struct_size;
    size_t profile;   /* a vtc_ficoco_profile                                     (default FIXED) */
    size_t n_discard; /* r, at most n_visual                                      (default 0)     */
    float beta;       /* weight of the visual term of a score                     (default 0.6)   */
    float gamma;      /* weight of the direct logit in a correlation              (default 0.6)   */
    float eps;        /* quantile that targets reach                              (default 0.998) */
    size_t mean_vision; /* switches: the sum over visual tokens is a mean; PAPER: on */
    size_t mean_text; /* that over text tokens in the score is a mean; all: on                    */
    size_t mean_bridge; /* that over text tokens in a correlation is a mean; PAPER: on */
    size_t linear;  /* shares C / sum of C instead of softmax; PAPER: on                        */
    size_t protect; /* OFFICIAL: first rows with score -inf                     (default 1)     */
} vtc_ficoco_l_params;

/* clang-format off */
#define VTC_FICOCO_L_PARAMS_INIT \
    { sizeof(vtc_ficoco_l_params), 0, 0, 0.6f, 0.6f, 0.998f, 0, 0, 0, 0, 1 }
/* clang-format on */

/* All rows behind the visual ones. */
#define VTC_FICOCO_ALL_TEXT ((size_t)-1)

typedef struct vtc_ficoco_l_inputs {
    size_t struct_size;
    const vtc_tensor *q; /* [H, L, d] of all rows, after rotary embedding                        */
    const vtc_tensor *k; /* [G, L, d] G divides H                                                */
    const vtc_tensor *s; /* [L, L] or NULL: head-mean logits without the causal mask (PAPER:     */
                         /* probabilities), in place of q and k                                  */
    float scale;         /* of logits; 0: d^-1/2                                                 */
    size_t v_start;      /* first visual row; the released code always takes 0                   */
    size_t n_visual;     /* V                                                                    */
    size_t n_text;       /* M: the last rows of the sequence, behind the visual ones             */
    const float *mass;   /* [V] patches each visual row stands for, > 0; NULL: all 1             */
} vtc_ficoco_l_inputs;

/* clang-format off */
#define VTC_FICOCO_L_INPUTS_INIT \
    { sizeof(vtc_ficoco_l_inputs), NULL, NULL, NULL, 0.0f, 0, 0, VTC_FICOCO_ALL_TEXT, NULL }
/* clang-format on */

/* As vtc_ficoco_v_count(). */
VTC_API VTC_NODISCARD vtc_status vtc_ficoco_l_count(const vtc_ficoco_l_params *params,
                                                    size_t n_visual, vtc_plan_count *count,
                                                    const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_ficoco_l_scratch(const vtc_ficoco_l_params *params,
                                                      const vtc_ficoco_l_inputs *inputs,
                                                      const vtc_exec *exec, size_t *bytes);

/*
 * vtc_ficoco_l() plans to remove r visual rows after the attention block of a decoder layer, in
 * prefill. Rows of the plan are the visual ones.
 *
 * Filter: s_i = beta * sum_j S[i][j] - (1 - beta) * mean_k S[i][k], j visual and k text; the r
 * largest are discarded. Correlate: gamma * S[i][j] + (1 - gamma) * sum_k S[i][k] S[k][j] over the
 * kept j. Targets, weights and outputs as in vtc_ficoco_v(); kept rows ascend. Without text the
 * second terms are 0; PAPER's scores, sums of whole rows of probabilities, then all tie unless rows
 * come before the visual ones.
 *
 * OFFICIAL: the first `protect` rows go last; all visual rows but itself can be targets, and what
 * those get that are discarded is lost; every row takes K targets as in V; x_j becomes x_j + sum
 * alpha_ij x_i, without division.
 *
 * In the planner table n_text 0 means all rows behind the image. A batch must give it: behind an
 * image lie the others.
 *
 * r = 0 is the identity with scores. Mass is conserved and constant tokens stay constant, but for
 * OFFICIAL. Permuting the visual rows permutes the choice where no scores tie. The text is read as
 * a sum and, for each discarded row, weighted by its logits: (V + r (2 M + V)) H d multiply-adds,
 * PAPER V (L + r) H d with M x V probabilities in scratch. Otherwise, and errors, as
 * vtc_ficoco_v(). Checked against: OFFICIAL, the authors' code, run with one line re-indented so
 * that it parses; FIXED and PAPER, our NumPy oracle, written from the paper.
 */
VTC_API VTC_NODISCARD vtc_status vtc_ficoco_l(const vtc_ficoco_l_params *params,
                                              const vtc_ficoco_l_inputs *inputs, vtc_plan *plan,
                                              vtc_ficoco_trace *trace, const vtc_exec *exec);

/* ---- schedule -------------------------------------------------------------------------------- */

/*
 * Rows that each of n_layers layers discards so that n_keep of n_in are left, exactly: (n_in -
 * n_keep) / n_layers, one more in the first layers. The released code has the same r in all layers,
 * which meets few targets. VTC_ERR_BUDGET when n_keep is above n_in, or below without a layer.
 *   per_layer  [n_layers]  out
 */
VTC_API VTC_NODISCARD vtc_status vtc_ficoco_schedule(size_t n_layers, size_t n_in, size_t n_keep,
                                                     size_t *per_layer, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
