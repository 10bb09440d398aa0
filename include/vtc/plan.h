/*
 * vtc/plan.h: a compression decision as data, and what is done with it.
 *
 * Selecting, merging, pooling and weighted recycling of tokens are all one thing: a sparse matrix
 * with one row per output token. A planner makes a vtc_plan from what it saw; the functions below
 * move tokens, ids, masks, K/V rows and positions by it, so that all of them stay in step.
 *
 *     six tokens      a  b  c  d  e  f        keep    0  2  5           begin  0  1  4  5
 *     three outputs   a  (b+c+d)/3  f         source  0 | 1  2  3 | 5   weight 1 | 1/3 ... | 1
 *     e is dropped                            mass    1  3  1           fate   0  1  1  1 -1  2
 */
#ifndef VTC_PLAN_H
#define VTC_PLAN_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vtc_reduce {
    VTC_SUM = 0, /* y[j] = sum over entries of weight * x[source]                        */
    VTC_MAX = 1  /* y[j] = max over entries of weight * x[source], weights > 0           */
} vtc_reduce;

/* All arrays are the caller's. vtc_plan_init() lays them out in one block of memory. */
typedef struct vtc_plan {
    size_t struct_size;
    size_t n_in, n_out;
    size_t cap_in;  /* room in score and fate      */
    size_t cap_out; /* room in keep and mass; begin has one more */
    size_t cap_nnz; /* room in source and weight   */
    vtc_reduce reduce;
    int32_t *keep;   /* [n_out] the input row each output stands for; -1: a zero token            */
    int32_t *begin;  /* [n_out + 1] first entry of each output; NULL: a pure selection, weight 1  */
    int32_t *source; /* [nnz] input rows, ascending inside an output                              */
    float *weight;   /* [nnz]                                                                     */
    float *mass;     /* [n_out] patches each output stands for                                    */
    float *score;    /* [n_in] what the method ranked rows by, or NULL                            */
    int32_t *fate;   /* [n_in] or NULL: the output with the largest weight from this row, the     */
                     /* lower on ties; -1: dropped. Row i is kept when keep[fate[i]] == i         */
} vtc_plan;

/* clang-format off */
#define VTC_PLAN_INIT \
    { sizeof(vtc_plan), 0, 0, 0, 0, 0, VTC_SUM, NULL, NULL, NULL, NULL, NULL, NULL, NULL }
/* clang-format on */

/* How large a plan is, or can become. n_nnz 0: a pure selection. */
typedef struct vtc_plan_count {
    size_t n_in;
    size_t n_out;
    size_t n_nnz;
    int exact; /* 1: n_out is the number; 0: an upper bound */
} vtc_plan_count;

/* ---- making plans ---------------------------------------------------------------------------- */

/* Bytes for the arrays of a plan of this size, score and fate included. VTC_ERR_NULL, or
 * VTC_ERR_OVERFLOW for a number beyond int32. */
VTC_API VTC_NODISCARD vtc_status vtc_plan_size(const vtc_plan_count *count, size_t *bytes,
                                               const vtc_exec *exec);

/* Lays the arrays of `plan` out in `memory` (4-byte aligned, vtc_plan_size() bytes or more) and
 * makes it empty. `plan` starts as VTC_PLAN_INIT; `keep` is the start of `memory`. Without entries
 * (n_nnz 0) begin, source and weight are NULL. VTC_ERR_ROOM when `bytes` are too few, else
 * VTC_ERR_NULL, SHAPE (alignment) or OVERFLOW. */
VTC_API VTC_NODISCARD vtc_status vtc_plan_init(vtc_plan *plan, const vtc_plan_count *count,
                                               void *memory, size_t bytes, const vtc_exec *exec);

/*
 * vtc_plan_select() keeps rows as they are: output j is input row rows[j].
 *
 *   rows  [n_out]  in   -1 .. n_in - 1, in output order; -1 makes a zero token of mass 0
 *   mass  [n_in]   in   patches each input row stands for, finite, >= 0; NULL: all 1
 *
 * A plan with `begin` gets one entry of weight 1 for each row and needs room for n_out of them;
 * without it the plan stays a pure selection. `score` is not written. Returns VTC_ERR_NULL, RANGE,
 * ROOM, DATA, OVERLAP or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_select(vtc_plan *plan, size_t n_in, const int32_t *rows,
                                                 size_t n_out, const float *mass,
                                                 const vtc_exec *exec);

/*
 * vtc_plan_group() merges groups of rows: output j is the mass-weighted mean of its group.
 *
 *   owner  [n_in]   in   the output each row goes to, -1: dropped
 *   keep   [n_out]  in   a row of each output's group; NULL: the lowest one
 *   mass   [n_in]   in   > 0; NULL: all 1
 *
 * Every output needs at least one row. Needs `begin` and an entry for each owned row; `score` is
 * not written. Scratch: none. Returns VTC_ERR_NULL, RANGE, ROOM, OVERLAP, OVERFLOW or DATA (a mass
 * that is not positive and finite, or a sum of masses beyond F32).
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_group(vtc_plan *plan, size_t n_in, const int32_t *owner,
                                                size_t n_out, const int32_t *keep,
                                                const float *mass, const vtc_exec *exec);

/* Output j is input row j, n of them. `mass` and errors as in vtc_plan_select(). */
VTC_API VTC_NODISCARD vtc_status vtc_plan_identity(vtc_plan *plan, size_t n, const float *mass,
                                                   const vtc_exec *exec);

/*
 * vtc_plan_concat() stands plans beside each other (a block-diagonal matrix): rows, outputs and
 * entries of each follow those of the one before. So plans of single images, with identities for
 * the text between them, become the plan of a whole sequence.
 *
 *   parts  [n_parts]  in   same `reduce`, pure selections go with either; NULL `score` counts as 0
 *   plan   room for the sums; entries are needed when any part has them, else it is a selection
 *
 * Returns VTC_ERR_UNSUPPORTED (different `reduce`), NULL, RANGE, DATA, ROOM, OVERLAP or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_concat(vtc_plan *plan, const vtc_plan *const *parts,
                                                 size_t n_parts, const vtc_exec *exec);

/* The composed plan's size: second's outputs, exact, and an upper bound of the entries (all
 * products, at most n_in for an output); 0 entries when both are pure selections. VTC_ERR_NULL,
 * SHAPE, RANGE, UNSUPPORTED, or OVERFLOW when the bound exceeds int32. */
VTC_API VTC_NODISCARD vtc_status vtc_plan_compose_count(const vtc_plan *first,
                                                        const vtc_plan *second,
                                                        vtc_plan_count *count,
                                                        const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_plan_compose_scratch(const vtc_plan *first,
                                                          const vtc_plan *second,
                                                          const vtc_exec *exec, size_t *bytes);

/*
 * vtc_plan_compose() makes one plan of two steps: the second was planned on the first's outputs.
 *
 * Always right for ids, positions, K/V, masses and pictures; right for tokens only where nothing
 * ran between the two steps. Masses are the second plan's: plan the second step with the first
 * one's masses as input. Scores are the first plan's (0 without). A row that reaches an output on
 * several ways has the sum of their weights, under MAX the largest (exact for tokens >= 0). Two
 * pure selections make a pure selection, and one goes with either `reduce`. An output without
 * entries is a zero token; one that stood for a zero token of the first plan but has entries stands
 * for the heaviest row among them. `plan` must not be one of the two. Scratch 8 bytes for each
 * input row. O(n_in + products). Returns VTC_ERR_SHAPE (second.n_in is not first.n_out),
 * UNSUPPORTED (different `reduce`), ROOM, NULL, RANGE, DATA, OVERLAP, OVERFLOW or SCRATCH.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_compose(vtc_plan *plan, const vtc_plan *first,
                                                  const vtc_plan *second, const vtc_exec *exec);

/*
 * vtc_plan_validate() checks everything a plan promises: sizes within room, rows in range, begin
 * rising from 0, sources ascending inside an output, finite weights (> 0 under MAX), masses finite
 * and not negative, keep -1 exactly where a row is empty, and fate as defined. Functions below
 * check what would make them unsafe; this one is for plans from files and from new methods.
 * O(n_in + nnz log nnz). Returns VTC_ERR_NULL, RANGE (sizes, begin, rows and outputs that do not
 * exist), OVERFLOW or DATA (all else).
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_validate(const vtc_plan *plan, const vtc_exec *exec);

/* ---- applying plans -------------------------------------------------------------------------- */

VTC_API VTC_NODISCARD vtc_status vtc_plan_apply_scratch(const vtc_plan *plan, const vtc_tensor *x,
                                                        const vtc_tensor *y, const vtc_exec *exec,
                                                        size_t *bytes);

/*
 * vtc_plan_apply() computes output tokens.
 *
 *   x  [n_in, C]   in    F32, F16 or BF16
 *   y  [n_out, C]  out   F32, F16 or BF16
 *
 * Entries are added in order, in F32; a row that is kept alone with weight 1 is copied exactly; an
 * empty row gives zeros. Parallel over blocks of outputs. One pass over the rows that entries name.
 * No scratch when both are F32. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP, OVERFLOW or
 * SCRATCH.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_apply(const vtc_plan *plan, const vtc_tensor *x,
                                                vtc_tensor *y, const vtc_exec *exec);

/*
 * vtc_plan_spread() is the way back: every input row gets the output it went to (`fate`), a
 * dropped one `fill` or zeros. For pictures, dense heads and ToMe's "unmerge".
 *
 *   y     [n_out, C]  in    any dtype
 *   fill  [C]         in    same dtype, or NULL
 *   x     [n_in, C]   out   same dtype
 *
 * Parallel over blocks of rows. Returns VTC_ERR_NULL (also without `fate`), DTYPE, SHAPE, RANGE,
 * OVERLAP or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_spread(const vtc_plan *plan, const vtc_tensor *y,
                                                 const vtc_tensor *fill, vtc_tensor *x,
                                                 const vtc_exec *exec);

/*
 * vtc_plan_gather() moves whatever must stay in step with the tokens: input ids, masks, position
 * rows, DeepStack planes, by `keep`.
 *
 *   x     extent n_in at `axis`   in    any dtype and rank
 *   fill  one element of x's dtype, for outputs whose keep is -1; NULL: zero bytes
 *   y     extent n_out at `axis`  out   same dtype and rank, other extents equal
 *
 * Parallel over the other axes and blocks of outputs; each kept element is read and written once.
 * Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE, OVERLAP or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_gather(const vtc_plan *plan, int axis,
                                                 const vtc_tensor *x, const void *fill,
                                                 vtc_tensor *y, const vtc_exec *exec);

/* ---- K/V caches ------------------------------------------------------------------------------ */

/*
 * One K or V cache of one layer, by bytes, so that layout, dtype and quantised blocks do not
 * matter. Row t consists of n_outer x n_inner pieces; piece (o, i) lies at
 * data + o * outer_stride + i * inner_stride + slot(t) * row_stride.
 *
 *   [heads, tokens, d]   n_outer heads, n_inner 1, piece d elements,      row_stride d elements
 *   [tokens, heads, d]   n_outer 1,     n_inner 1, piece heads * d,       row_stride heads * d
 *   [heads, d, tokens]   n_outer heads, n_inner d, piece one element,     row_stride one element
 */
typedef struct vtc_kv {
    size_t struct_size;
    void *data;
    size_t n_outer, outer_stride;
    size_t n_inner, inner_stride;
    size_t piece;            /* bytes                                                          */
    size_t row_stride;       /* bytes                                                          */
    size_t n_rows;           /* rows (or slots, when paged) that exist at `data`               */
    const int32_t *row_slot; /* [n_in or n_out] physical slot of each row, distinct; NULL: t   */
} vtc_kv;

/* clang-format off */
#define VTC_KV_INIT { sizeof(vtc_kv), NULL, 1, 0, 1, 0, 0, 0, 0, NULL }
/* clang-format on */

/*
 * vtc_plan_gather_kv() copies the kept rows of many caches to new memory: dst[v] row j is src[v]
 * row keep[j]. Each src needs plan->n_in rows, each dst n_out. Pieces of src and dst agree; their
 * strides may differ. All views of an array have the struct_size of the first. Views may lie
 * between each other in memory, as K and V of one page do; that no two written ones share a byte
 * and that slots are distinct is the caller's promise. src and dst must not even lie between each
 * other. Merged outputs take the row of `keep`: cached keys are rotated and cannot be averaged. An
 * output with keep -1 has no row in a cache: VTC_ERR_RANGE. Parallel over views and outer pieces.
 * Reads and writes each kept byte once. Returns VTC_ERR_NULL, SHAPE (too few rows, pieces that
 * differ), RANGE, OVERLAP or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_gather_kv(const vtc_plan *plan, const vtc_kv *src,
                                                    const vtc_kv *dst, size_t n_views,
                                                    const vtc_exec *exec);

/* The same in place: rows move down to 0 .. n_out - 1. `keep` must ascend strictly, else
 * VTC_ERR_RANGE. Rows behind the last are left as they happen to be. With row_slot [n_in], row j
 * moves into slot row_slot[j]. Parallel over views, outer and inner pieces. Errors as above. */
VTC_API VTC_NODISCARD vtc_status vtc_plan_compact_kv(const vtc_plan *plan, const vtc_kv *views,
                                                     size_t n_views, const vtc_exec *exec);

/* ---- positions and masses -------------------------------------------------------------------- */

typedef enum vtc_visual_rule {
    VTC_VISUAL_KEEP = 0,    /* a kept token carries the position of its row (FastV, Qwen-VL)      */
    VTC_VISUAL_RENUMBER = 1 /* base, base + 1, ... in output order, on all axes (VisionZip)       */
} vtc_visual_rule;

typedef enum vtc_text_rule {
    VTC_TEXT_CONTINUE = 0,   /* base + n_out: the sequence is just shorter                        */
    VTC_TEXT_ORIGINAL = 1,   /* largest input position + 1: as if nothing had been removed        */
    VTC_TEXT_AFTER_KEPT = 2, /* largest output position + 1                                       */
    VTC_TEXT_AFTER_GRID = 3, /* base + largest side of the grid; without a grid as ORIGINAL       */
    VTC_TEXT_AFTER_WIDTH = 4 /* base + width of the grid (vLLM); without a grid as ORIGINAL       */
} vtc_text_rule;

typedef struct vtc_positions_params {
    size_t struct_size;
    vtc_visual_rule visual;
    vtc_text_rule text;
    int64_t base;          /* position of the first visual token                     (default 0)  */
    size_t grid_h, grid_w; /* merged grid, for AFTER_GRID and AFTER_WIDTH; both 0: none           */
    size_t grid_t;         /* its frames; 0 and 1 are no side           (default 0)               */
} vtc_positions_params;

/* clang-format off */
#define VTC_POSITIONS_PARAMS_INIT \
    { sizeof(vtc_positions_params), VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL, 0, 0, 0, 0 }
/* clang-format on */

/*
 * vtc_plan_positions() gives position ids after a plan, and where the text behind it resumes.
 *
 *   in         [n_in] or [A, n_in]    in    I32 or I64; A = 3 for M-RoPE (t, h, w). NULL: row i has
 *                                           base + i
 *   out        [n_out] or [A, n_out]  out   same dtype and rank
 *   text_next  position of the first text token behind; no visual tokens: base
 *
 * Merged outputs carry the id of `keep`. KEEP with a zero token (keep -1) is VTC_ERR_RANGE: it has
 * no row to take a position from. Cached keys are rotated already; these ids are for new rows.
 * The largest position is that of all axes. Returns VTC_ERR_OVERFLOW when an id does not fit the
 * dtype, else VTC_ERR_NULL, DTYPE, SHAPE, RANGE or OVERLAP.
 * No rule is right for all models: see the table of users in the README.
 *
 * An example of each: base 10, a grid of 2 x 4 tokens (Qwen's M-RoPE: t 10, h 10 to 11, w 10 to 13;
 * elsewhere one axis, 10 to 17), of which rows 1, 2 and 4 are kept. examples/05_mrope.c prints it.
 *
 *   KEEP, M-RoPE      t 10 10 10   h 10 10 11   w 11 12 10      KEEP, one axis      11 12 14
 *   RENUMBER, M-RoPE  t 10 11 12   h 10 11 12   w 10 11 12      RENUMBER, one axis  10 11 12
 *
 *   text resumes at      M-RoPE, KEEP   M-RoPE, RENUMBER   one axis, KEEP   one axis, RENUMBER
 *     CONTINUE           13             13                 13               13
 *     ORIGINAL           14             14                 18               18
 *     AFTER_KEPT         13             13                 15               13
 *     AFTER_GRID         14             14                 14               14
 *     AFTER_WIDTH        14             14                 14               14
 *
 * CONTINUE after KEEP may repeat positions that visual tokens carry; it is there for models that do
 * so. Source: the engines and papers named in the README.
 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_positions(const vtc_positions_params *params,
                                                    const vtc_plan *plan, const vtc_tensor *in,
                                                    vtc_tensor *out, int64_t *text_next,
                                                    const vtc_exec *exec);

/*
 * vtc_grid_positions() gives the M-RoPE ids of all tokens of an image or video, before any plan.
 *
 *   out  [3, grid_t * grid_h * grid_w]  out   I32 or I64: axes t, h, w; frame by frame in raster
 *                                             order, each axis from `base` on, t in steps of t_step
 *
 * Extents are those of the merged grid. Qwen2-VL has t_step 1; Qwen2.5-VL scales time: its seconds
 * per frame times tokens per second. Returns VTC_ERR_NULL, DTYPE, SHAPE, RANGE or OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_grid_positions(size_t grid_t, size_t grid_h, size_t grid_w,
                                                    int64_t base, int64_t t_step, vtc_tensor *out,
                                                    const vtc_exec *exec);

/* bias[j] = log(mass[j]), to be added to every attention logit of key j (-inf for mass 0).
 * VTC_ERR_DATA for a mass that is negative or not finite, else VTC_ERR_NULL, DTYPE, SHAPE, RANGE,
 * OVERLAP or OVERFLOW.
 *   bias  [n_out]  out   F32, F16 or BF16 */
VTC_API VTC_NODISCARD vtc_status vtc_plan_log_mass(const vtc_plan *plan, vtc_tensor *bias,
                                                   const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
