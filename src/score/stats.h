/*
 * stats.h: attention statistics between their files. stats_open.c checks; stats.c is one call,
 * stats_tiles.c several; stats_block.c makes the logits of a block of rows; stats_sums.c sums
 * columns, heads outside; stats_means.c needs the mean over heads of each row, heads inside.
 */
#ifndef VTCI_STATS_H
#define VTCI_STATS_H

#include "../../include/vtc/score.h"
#include "../linalg/attention.h"

enum { VTCI_STATS_BLOCK = 64 }; /* rows of one product: their logits stay in the caches */

/* What has been found so far. Each pointer is NULL when nobody asks. */
typedef struct vtci_stats_totals {
    float *head_sum;  /* [H, n_cols] of stats_sums: complete blocks of each head            */
    float *head_open; /* [H, n_cols] the block that a tile has cut; NULL: none can be       */
    float *sum;       /* [n_cols] of stats_means, likewise                                  */
    float *open;      /* [n_cols]                                                           */
    float *max;       /* [n_cols]                                                           */
    float *rows;      /* [n_chosen, n_cols]                                                 */
} vtci_stats_totals;

/* One tile of query rows; the whole is a single tile. */
typedef struct vtci_stats {
    const vtci_call *call;
    vtc_attention_stats_params params; /* scale and n_cols as they are used              */
    size_t n_heads, n_rows, n_keys;    /* of the whole                                   */
    size_t first_row;                  /* of the tile                                    */
    vtci_heads q, k;
    const float *lse; /* [H, rows of the tile] or NULL */
    size_t lse_stride;
    vtci_stats_totals totals;

    /* scratch, see vtci_stats_lay_out() */
    float *mean; /* [BLOCK, n_cols] head mean of a block's rows, then [n_cols] their sum */
    char *slices;
    size_t slice_stride;
} vtci_stats;

/* ---- checks, stats_open.c -------------------------------------------------------------------- */

enum { VTCI_STATS_SUMS = VTC_STATS_COL_SUM | VTC_STATS_COL_MEAN, VTCI_STATS_N_INPUTS = 6 };

/* Starts a job. n_rows SIZE_MAX: not known, what depends on it is not checked. */
VTC_NODISCARD vtc_status vtci_stats_open_params(const vtci_call *call,
                                                const vtc_attention_stats_params *from,
                                                size_t n_heads, size_t n_rows, size_t n_keys,
                                                vtci_stats *s);

VTC_NODISCARD vtc_status vtci_stats_check_views(const vtci_call *call, const vtc_tensor *q,
                                                const vtc_tensor *k);

/* Puts checked views into a job whose parameters are open. */
void vtci_stats_set_views(vtci_stats *s, const vtc_tensor *q, const vtc_tensor *k);
VTC_NODISCARD vtc_status vtci_stats_set_lse(vtci_stats *s, const vtc_tensor *lse);

/* Something in memory that an output or a state must not meet. */
typedef struct vtci_stats_piece {
    const char *name;
    const void *data;
    size_t bytes;
} vtci_stats_piece;

/* Views may be NULL. */
void vtci_stats_list_inputs(const vtci_stats *s, const vtc_tensor *q, const vtc_tensor *k,
                            const vtc_tensor *lse, vtci_stats_piece pieces[VTCI_STATS_N_INPUTS]);
VTC_NODISCARD vtc_status vtci_stats_check_apart(const vtci_call *call, const vtci_stats_piece *a,
                                                const vtci_stats_piece *b, size_t n);

/* Reads the caller's outputs: what is wanted is there, and apart from the rest. */
VTC_NODISCARD vtc_status vtci_stats_open_outputs(const vtci_stats *s,
                                                 const vtc_attention_stats_out *from,
                                                 const vtci_stats_piece inputs[VTCI_STATS_N_INPUTS],
                                                 vtc_attention_stats_out *out);

/* ---- which pass does what -------------------------------------------------------------------- */

/* Sums run with heads outside, unless maxima need the head mean of the same rows anyway. */
static inline bool vtci_stats_has_sums(const vtci_stats *s)
{
    return (s->params.want & VTCI_STATS_SUMS) != 0 && (s->params.want & VTC_STATS_COL_MAX) == 0;
}

static inline bool vtci_stats_has_means(const vtci_stats *s)
{
    return (s->params.want & (VTC_STATS_COL_MAX | VTC_STATS_ROWS)) != 0;
}

/* ---- blocks of rows -------------------------------------------------------------------------- */

/*
 * The rows of a pass are those on the lists it serves, ascending; each 64 in turn are a block. So
 * blocks depend on the lists alone. Of a block that a tile cuts, its rows of the tile are here.
 */
typedef struct vtci_stats_block {
    size_t n;               /* rows of the tile                                         */
    size_t n_whole;         /* rows of the block                                        */
    size_t n_before;        /* those of earlier tiles; and of these, the voters         */
    size_t n_voters_before; /*                                                          */
    size_t first_col, cols; /* keys whose logits are needed                             */
    size_t ld;              /* of rows of logits: cols, to whole panels                 */
    size_t n_shown;         /* of the reported columns, those that any row may see      */
    size_t row[VTCI_STATS_BLOCK];
    bool voter[VTCI_STATS_BLOCK];
    size_t slot[VTCI_STATS_BLOCK]; /* of a chosen row; else SIZE_MAX */
} vtci_stats_block;

/* Whether the last of its rows are in this tile. */
static inline bool vtci_stats_is_last(const vtci_stats_block *block)
{
    return block->n_before + block->n == block->n_whole;
}

/* Which lists a pass serves, and how far it is in them. */
typedef struct vtci_stats_walk {
    bool voters, chosen;
    size_t next_voter, next_chosen;
} vtci_stats_walk;

/* The next block that has rows of the tile; false: there is none. */
bool vtci_stats_next(const vtci_stats *s, vtci_stats_walk *walk, vtci_stats_block *block);

/* Keys that a row sees. */
size_t vtci_stats_seen(const vtci_stats *s, size_t row);

/* Rows of the whole that vote. */
size_t vtci_stats_n_voters(const vtci_stats *s);

/* Parts of a worker's slice. N' is N to whole panels. */
typedef struct vtci_stats_slice {
    float *rows;    /* [BLOCK, d]                                 */
    float *keys;    /* [N' / 16, d, 16] panels, or [N, d]         */
    float *logits;  /* [BLOCK, N' + 1]                            */
    float *partial; /* [n_cols]                                   */
} vtci_stats_slice;

vtci_stats_slice vtci_stats_slice_of(const vtci_stats *s, size_t worker);
void vtci_stats_lay_out(vtci_arena *arena, vtci_stats *s);

/* Keys in panels, where there are rows enough to make up for that, else rows. */
typedef struct vtci_stats_keys {
    const float *data;
    size_t ld; /* of rows; 0: panels */
} vtci_stats_keys;

static inline bool vtci_stats_panels_pay(size_t n_rows)
{
    return n_rows > 4;
}

/* Keys first_col .. first_col + cols - 1 of a query head. Those that k does not have yet are zeros.
 */
vtci_stats_keys vtci_stats_load_keys(const vtci_stats *s, size_t head, size_t first_col,
                                     size_t cols, bool panels, const vtci_stats_slice *slice);

/* How far the next head's keys have been asked for, and how many are with each row. */
typedef struct vtci_stats_ahead {
    size_t key, per_row;
} vtci_stats_ahead;

/* For a task that weighs n_rows of a head. */
vtci_stats_ahead vtci_stats_look_ahead(const vtci_stats *s, size_t n_rows);

/* p [n, ld] = exponentials of the block's logits in a head; weight [n] makes them softmax. Keys
 * that a row does not see are zeros. */
void vtci_stats_weigh(const vtci_stats *s, const vtci_stats_block *block, size_t head,
                      const vtci_stats_keys *keys, float *rows, float *p, float *weight,
                      vtci_stats_ahead *ahead);

/* ---- passes ---------------------------------------------------------------------------------- */

/* Totals begin with zeros. */
void vtci_stats_start(vtci_stats *s);

/* Every pass that is needed over one tile. */
void vtci_stats_run(vtci_stats *s);
void vtci_stats_run_sums(vtci_stats *s);
void vtci_stats_run_means(vtci_stats *s);

/* col_sum and col_mean from the totals. */
void vtci_stats_write_sums(const vtci_stats *s, const vtc_attention_stats_out *out);

#endif
