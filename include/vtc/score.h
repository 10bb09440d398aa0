/*
 * vtc/score.h: statistics of attention and of similarity, from Q and K or from rows of tokens.
 *
 * Everything streams: there is never an array of queries x keys, so these work beside a fused
 * attention that keeps no weights. All results are F32, as the scores of a plan are.
 *
 * Q and K are [H, N, d] views of any outer strides, so that a view also says which layout the
 * memory has; nothing is copied to change it:
 *
 *     [heads, tokens, d]   vtc_tensor_3d(data, dtype, H, N, d)
 *     [tokens, heads, d]   the same, then stride[0] = d, stride[1] = H * d
 *     K/V cache            the same, with the strides of the cache (e.g. stride[0] = capacity * d)
 *
 * K may have fewer heads, G, a divisor of H: query head h reads key head h / (H / G).
 */
#ifndef VTC_SCORE_H
#define VTC_SCORE_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- attention statistics -------------------------------------------------------------------- */

/* What to compute: any set of these. */
enum {
    VTC_STATS_COL_SUM = 1,  /* sum over the voters of the head mean               */
    VTC_STATS_COL_MEAN = 2, /* that sum divided by the number of voters           */
    VTC_STATS_COL_MAX = 4,  /* largest head mean of any voter                     */
    VTC_STATS_ROWS = 8      /* the head mean of each chosen row, as it is         */
};

/*
 * Rows are numbered as they are fed, from 0: those of q, or of all tiles of q end to end. Lists
 * ascend strictly. [CLS], the last row or text rows alone: either a view q of just these rows and
 * their positions, or all rows and a list; rows on no list cost nothing.
 */
typedef struct vtc_attention_stats_params {
    size_t struct_size;
    unsigned want;            /* VTC_STATS_...                               (default COL_MEAN)  */
    float scale;              /* of the logits, > 0; 0: 1 / sqrt(d)          (default 0)         */
    int causal;               /* position p sees keys 0 .. p, else all       (default 0)         */
    size_t row_offset;        /* row m is at position row_offset + m         (default 0)         */
    const int32_t *positions; /* [rows] these instead, >= 0, in any order    (default NULL)      */
    size_t first_col;         /* first key that is reported                  (default 0)         */
    size_t n_cols;            /* keys reported; SIZE_MAX: all after that     (default SIZE_MAX)  */
    const int32_t *voters;    /* [n_voters] rows of sums, means and maxima   (default NULL: all) */
    size_t n_voters;          /*                                             (default 0)         */
    const int32_t *chosen;    /* [n_chosen] rows that VTC_STATS_ROWS reports (default NULL)      */
    size_t n_chosen;          /*                                             (default 0)         */
} vtc_attention_stats_params;

/* clang-format off */
#define VTC_ATTENTION_STATS_PARAMS_INIT \
    { sizeof(vtc_attention_stats_params), VTC_STATS_COL_MEAN, 0.0f, 0, 0, NULL, 0, SIZE_MAX, \
      NULL, 0, NULL, 0 }
/* clang-format on */

/* Where results go. Those wanted must be set, the others are not written. */
typedef struct vtc_attention_stats_out {
    size_t struct_size;
    float *col_sum;  /* [n_cols]                                                         */
    float *col_mean; /* [n_cols]                                                         */
    float *col_max;  /* [n_cols]                                                         */
    float *rows;     /* [n_chosen, n_cols]                                               */
} vtc_attention_stats_out;

/* clang-format off */
#define VTC_ATTENTION_STATS_OUT_INIT \
    { sizeof(vtc_attention_stats_out), NULL, NULL, NULL, NULL }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status
vtc_attention_stats_scratch(const vtc_attention_stats_params *params, const vtc_tensor *q,
                            const vtc_tensor *k, const vtc_exec *exec, size_t *bytes);

/*
 * vtc_attention_stats() reduces the attention A_h = softmax(scale q_h k_h^T) over its rows and
 * heads: with a_mj the mean over heads of A_h[m, j], any of sum, mean and maximum of a_mj over the
 * voters m, and the rows a_m of chosen rows, for the columns first_col .. first_col + n_cols - 1.
 * The softmax is always over all keys a row sees; columns are selected after it.
 *
 *   q    [H, M, d]  in    F32, F16 or BF16, any outer strides
 *   k    [G, N, d]  in    G divides H
 *   lse  [H, M]     in    F32: the natural logarithm of the sum of exp(scale q k) over the keys a
 *                         row sees, as a fused attention keeps it. NULL: computed. When given, only
 *                         the logits of the reported columns are
 *   out  apart from all inputs and each other
 *
 *     MustDrop, FastV, SparseVLM:  causal, columns = the image; voters = text rows, chosen = the
 *                                  last row, voters = raters
 *     column mean of an encoder:   as the parameters are by default
 *
 * The maximum is of the mean over heads, which is not the mean of maxima. No voter: zeros. A key
 * that a voter does not see counts 0. NaN and Inf propagate into what they touch. N = 0 is
 * VTC_ERR_SHAPE unless M or H is 0. Weights are within 2e-6 of double precision, relative, plus
 * what the rounding of logits and of lse, which grows with their size, makes of e^x.
 * Cost: H x (rows on a list) x (keys seen) x d multiply-adds; half of H M N d for all causal rows.
 * Sums alone run with heads outside: parallel over heads. Maxima and rows need the mean over heads
 * first, so heads run inside a block of 64 rows: parallel over heads, then rows; sums that are
 * wanted beside maxima come along. Sums and chosen rows without maxima are two such passes, the
 * second over the chosen rows only.
 * Scratch, floats, for W workers, with N rounded up to 16: W ((64 + d) N + 64 d + 64); for sums
 * without maxima W n_cols + H n_cols more, for maxima and rows 65 n_cols; and up to 64 bytes of
 * padding for each array. That is about W (130 + d) N + H N, whatever M is: there is no M x N
 * array. Products are libvtc's own, exec->sgemm is not called.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH on error.
 * Checked against: the whole attention in double precision.
 * Source: Liu et al., "Multi-Stage Vision Token Dropping" (MustDrop), arXiv 2411.10803, for sum and
 * maximum of the head mean.
 */
VTC_API VTC_NODISCARD vtc_status vtc_attention_stats(const vtc_attention_stats_params *params,
                                                     const vtc_tensor *q, const vtc_tensor *k,
                                                     const vtc_tensor *lse,
                                                     const vtc_attention_stats_out *out,
                                                     const vtc_exec *exec);

/*
 * The same fed by tiles of rows, as an engine prefills in chunks: begin, update for each tile in
 * order, finish. The result has the bits of one call, however the rows are cut, and whether or not
 * k has grown meanwhile. The parameters, and what their lists hold, must be the same throughout.
 *
 *     status = vtc_attention_stats_state(&params, 32, 704, 704, NULL, &bytes);   allocate bytes
 *     status = vtc_attention_stats_begin(&params, 32, 704, 704, state, bytes, NULL);
 *     for each chunk:  vtc_attention_stats_update(&params, state, &q_chunk, &k_so_far, NULL, &exec)
 *     status = vtc_attention_stats_finish(&params, state, &out, NULL);
 *
 *   n_heads, n_rows, n_keys  H, M and N of the whole
 *   state                    caller memory of vtc_attention_stats_state() bytes, 64-byte aligned;
 *                            holds no pointers and may be moved between the calls
 *   q    [H, m, d]           the next m rows; their positions and places in lists continue
 *   k    [G, n, d]           the keys so far: at least those the rows of q see; N when not causal
 *   lse  [H, m] or NULL      the same in every update
 *
 * VTC_ERR_RANGE when more rows come than n_rows, when finish comes before all have, and for a state
 * that does not fit the parameters. An update that fails leaves the state as it was.
 * State, floats: sums 2 H n_cols; maxima 3 n_cols; rows n_chosen n_cols. Scratch is that of one
 * call without H n_cols.
 */
VTC_API VTC_NODISCARD vtc_status vtc_attention_stats_state(const vtc_attention_stats_params *params,
                                                           size_t n_heads, size_t n_rows,
                                                           size_t n_keys, const vtc_exec *exec,
                                                           size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_attention_stats_begin(const vtc_attention_stats_params *params,
                                                           size_t n_heads, size_t n_rows,
                                                           size_t n_keys, void *state,
                                                           size_t state_bytes,
                                                           const vtc_exec *exec);
VTC_API VTC_NODISCARD vtc_status vtc_attention_stats_update_scratch(
    const vtc_attention_stats_params *params, size_t n_keys, const vtc_tensor *q,
    const vtc_tensor *k, const vtc_exec *exec, size_t *bytes);
VTC_API VTC_NODISCARD vtc_status vtc_attention_stats_update(
    const vtc_attention_stats_params *params, void *state, const vtc_tensor *q, const vtc_tensor *k,
    const vtc_tensor *lse, const vtc_exec *exec);
VTC_API VTC_NODISCARD vtc_status
vtc_attention_stats_finish(const vtc_attention_stats_params *params, const void *state,
                           const vtc_attention_stats_out *out, const vtc_exec *exec);

/* ---- attention of one row: [CLS] ------------------------------------------------------------- */

typedef enum vtc_head_reduction {
    VTC_HEADS_MEAN = 0, /* [n_cols]    MustDrop, FasterVLM, VisPruner */
    VTC_HEADS_SUM = 1,  /* [n_cols]    VisionZip                      */
    VTC_HEADS_EACH = 2  /* [H, n_cols]                                */
} vtc_head_reduction;

typedef struct vtc_cls_attention_params {
    size_t struct_size;
    float scale; /* of the logits, > 0; 0: 1 / sqrt(d)               (default 0)        */
    vtc_head_reduction heads; /*                                                  (default MEAN) */
    size_t first_col; /* first key reported: 1 when key 0 is [CLS]        (default 0)        */
    size_t n_cols;    /* keys reported; SIZE_MAX: all after that          (default SIZE_MAX) */
} vtc_cls_attention_params;

/* clang-format off */
#define VTC_CLS_ATTENTION_PARAMS_INIT \
    { sizeof(vtc_cls_attention_params), 0.0f, VTC_HEADS_MEAN, 0, SIZE_MAX }
/* clang-format on */

VTC_API VTC_NODISCARD vtc_status vtc_cls_attention_scratch(const vtc_cls_attention_params *params,
                                                           const vtc_tensor *q_cls,
                                                           const vtc_tensor *k,
                                                           const vtc_tensor *k_cls,
                                                           const vtc_exec *exec, size_t *bytes);

/*
 * vtc_cls_attention() is the attention of one query per head, softmax(scale q k^T), over all keys;
 * columns that are not reported take part in the softmax, and nothing is normalised again.
 *
 *   q_cls  [H, d]     in   the query of [CLS], or of the last token
 *   k      [G, N, d]  in   G divides H; with one head as wide as C: PruMerge
 *   k_cls  [G, d]     in   one more key that takes part in the softmax and is not reported: that of
 *                          [CLS] where k holds patches only. NULL: none
 *   a      [n_cols] or [H, n_cols]  out
 *
 * With one row for each head there is no need for voters and tiles: H N d multiply-adds, K is read
 * once. Scratch: H (N + 2) floats, and per worker a widened row of q and 16 of k where any of q, k
 * and k_cls is 16 bit.
 * N = 0 gives no columns. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH.
 */
VTC_API VTC_NODISCARD vtc_status vtc_cls_attention(const vtc_cls_attention_params *params,
                                                   const vtc_tensor *q_cls, const vtc_tensor *k,
                                                   const vtc_tensor *k_cls, float *a,
                                                   const vtc_exec *exec);

/* ---- similarity of rows ---------------------------------------------------------------------- */

VTC_API VTC_NODISCARD vtc_status vtc_pair_cosine_scratch(const vtc_tensor *x, size_t n_pairs,
                                                         const vtc_exec *exec, size_t *bytes);

/*
 * vtc_pair_cosine() is the cosine of listed pairs of rows.
 *
 *   x       [N, C]        in
 *   pairs   [n_pairs, 2]  in    rows of x, in any order, repeats allowed
 *   cosine  [n_pairs]     out
 *
 * Lengths are bounded below by 1e-8, as in PyTorch: a zero row has cosine 0 with all. NaN and Inf
 * give NaN. Scratch: two rows of floats per worker where x is 16 bit.
 * VTC_ERR_RANGE for a row that x does not have.
 */
VTC_API VTC_NODISCARD vtc_status vtc_pair_cosine(const vtc_tensor *x, const int32_t *pairs,
                                                 size_t n_pairs, float *cosine,
                                                 const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_row_cosine_scratch(const vtc_tensor *x, const vtc_tensor *v,
                                                        const vtc_exec *exec, size_t *bytes);

/* vtc_row_cosine() is the cosine of every row with one vector: x [N, C], v [C], cosine [N]. As
 * vtc_pair_cosine(). */
VTC_API VTC_NODISCARD vtc_status vtc_row_cosine(const vtc_tensor *x, const vtc_tensor *v,
                                                float *cosine, const vtc_exec *exec);

/* ---- head-mean logits, and what FiCoCo makes of them ----------------------------------------- */

VTC_API VTC_NODISCARD vtc_status vtc_head_mean_logits_scratch(const vtc_tensor *q,
                                                              const vtc_tensor *k, float scale,
                                                              const int32_t *rows, size_t n_rows,
                                                              const int32_t *columns,
                                                              size_t n_columns, const vtc_tensor *y,
                                                              const vtc_exec *exec, size_t *bytes);

/*
 * vtc_head_mean_logits() computes chosen elements of the attention logits' mean over heads, before
 * mask and softmax: y[a][b] = (1/H) sum over h of scale * q_h[rows[a]] . k_h[columns[b]].
 *
 *   q        [H, Q, d]               in   G divides H: query head h meets key head h / (H / G)
 *   k        [G, N, d]               in
 *   scale    of all logits; 0: d^-1/2
 *   rows     [n_rows]                in   rows of q; NULL: all, n_rows is ignored
 *   columns  [n_columns]             in   rows of k; NULL: all
 *   y        [n_rows, n_columns]     out  F32, F16 or BF16
 *
 * The mean over heads is one dot product over all channels. Tokens that are rows of heads side by
 * side, [N, H d], are the view [H, N, d] with strides d, H d, 1. Equal rows give equal bits
 * wherever they stand. Parallel over blocks of 64 columns; time n_rows n_columns G d. Scratch: 64
 * queries, 64 widened keys for each worker unless q and k are F32, and 64 rows of y unless it is.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH.
 */
VTC_API VTC_NODISCARD vtc_status vtc_head_mean_logits(const vtc_tensor *q, const vtc_tensor *k,
                                                      float scale, const int32_t *rows,
                                                      size_t n_rows, const int32_t *columns,
                                                      size_t n_columns, vtc_tensor *y,
                                                      const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_quantile_scratch(size_t n, const vtc_exec *exec,
                                                      size_t *bytes);

/*
 * vtc_quantile() is the q-quantile of x[n], with linear interpolation between the two values around
 * rank q (n - 1). The rank is formed in F32, as PyTorch does: it decides on which side of a value
 * the quantile falls where q (n - 1) would be a whole number. -inf may occur; where it alone is
 * involved the result is NaN. Scratch 4 n bytes. O(n log n). Returns VTC_ERR_NULL, SHAPE (no
 * values), RANGE (q outside [0, 1]), OVERFLOW, SCRATCH, or DATA for a NaN.
 */
VTC_API VTC_NODISCARD vtc_status vtc_quantile(const float *x, size_t n, float q, double *value,
                                              const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_local_penalty_scratch(size_t grid_h, size_t grid_w,
                                                           size_t window, const vtc_exec *exec,
                                                           size_t *bytes);

/*
 * vtc_local_penalty() raises the largest score of each window of a grid: s becomes coef * s, or
 * s / coef when it is not positive.
 *
 *   score  [n]  in and out
 *   pos    [n]  in          cell of each row, row-major; some may have none. NULL: 0 .. n - 1
 *
 * Windows of window x window cells do not overlap; what is left over at the lower and right edge
 * belongs to none. A tie goes to the first cell. Scratch 4 bytes for each window. Returns
 * VTC_ERR_NULL, SHAPE (more rows than cells), RANGE, OVERLAP, OVERFLOW, SCRATCH or DATA (NaN).
 * Source: FiCoCo, arXiv 2411.17686, section 3.
 */
VTC_API VTC_NODISCARD vtc_status vtc_local_penalty(float *score, const int32_t *pos, size_t n,
                                                   size_t grid_h, size_t grid_w, size_t window,
                                                   float coef, const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_key_cosine_scratch(const vtc_tensor *k, const vtc_exec *exec,
                                                        size_t *bytes);

/*
 * vtc_key_cosine() is FiCoCo's substitute for the attention of a [CLS] that an encoder lacks: minus
 * the cosine between each key and the mean of all keys, both averaged over heads.
 *
 *   k  [H, N, d]  in
 *   y  [N]        out
 *
 * Scratch (N + 1) d + N floats. Returns VTC_ERR_NULL, DTYPE, SHAPE, OVERLAP, OVERFLOW, SCRATCH, or
 * DATA when a key or the mean is zero or not finite. Source: FiCoCo, arXiv 2411.17686, appendix.
 */
VTC_API VTC_NODISCARD vtc_status vtc_key_cosine(const vtc_tensor *k, float *y,
                                                const vtc_exec *exec);

/* ---- windows of a grid ----------------------------------------------------------------------- */

/* Whole windows of win_h x win_w cells in the grid. VTC_ERR_RANGE unless a window has two cells or
 * more; VTC_ERR_SHAPE for a grid that is not a whole number of windows, unless `ragged_edges`:
 * cells behind the last whole window are then in none. */
VTC_API VTC_NODISCARD vtc_status vtc_window_count(size_t grid_h, size_t grid_w, size_t win_h,
                                                  size_t win_w, int ragged_edges, size_t *n_windows,
                                                  const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_window_similarity_scratch(const vtc_tensor *x, size_t grid_h,
                                                               size_t grid_w, size_t win_h,
                                                               size_t win_w, int ragged_edges,
                                                               const vtc_exec *exec, size_t *bytes);

/*
 * vtc_window_similarity() tells how alike the cells of each window of a grid are: the mean cosine
 * over the ordered pairs of different cells. Windows do not overlap and are numbered row by row.
 *
 *   x           [B, grid_h * grid_w, C] or without B  in    tokens in raster order
 *   similarity  [B, W]                                out   W by vtc_window_count()
 *
 * With unit vectors u_i and s = sum u_i, the mean of the n (n - 1) cosines is
 *
 *     (|s|^2 - sum |u_i|^2) / (n (n - 1))
 *
 * so that no n x n array is made. Lengths are bounded below by 1e-8, as in PyTorch: a zero token
 * has cosine 0 with all. NaN and Inf make their window NaN. Equal windows have equal bits. Within
 * 2e-6 of the pairwise form. One pass over x, 2 B N C multiply-adds; parallel over groups of
 * windows. Scratch, floats: C for each worker, twice that where x is 16 bit. Returns VTC_ERR_NULL,
 * DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or SCRATCH.
 * Checked against: the pairwise form in double precision; MustDrop's authors' code, run.
 * Source: Liu et al., "Multi-Stage Vision Token Dropping", arXiv 2411.10803 (the measure); the
 * closed form is ours.
 */
VTC_API VTC_NODISCARD vtc_status vtc_window_similarity(const vtc_tensor *x, size_t grid_h,
                                                       size_t grid_w, size_t win_h, size_t win_w,
                                                       int ragged_edges, float *similarity,
                                                       const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
