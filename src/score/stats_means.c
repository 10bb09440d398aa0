/*
 * The mean over heads of each row, for maxima of columns and for rows themselves: heads inside.
 *
 * Heads are taken in waves. Each task of a wave makes the weights of one head in the block, then
 * tasks over rows add them to the mean in the order of the heads, so that the bits do not depend on
 * how many heads a wave has. A block of few rows has room for many heads in a wave.
 */
#include "../kernels/kernels.h"
#include "stats.h"

#include <string.h>

enum { BLOCK = VTCI_STATS_BLOCK, ROWS = 8 }; /* rows of one task of the second kind */

struct wave {
    const vtci_stats *s;
    vtci_stats_block block;
    size_t head, n_heads; /* of the wave          */
    size_t per_slice;     /* heads in each slice  */
};

/* Where a head's weights are: [n, ld], then [n] factors. */
static float *head_weights(const struct wave *w, size_t i)
{
    const vtci_stats_slice slice = vtci_stats_slice_of(w->s, i / w->per_slice);

    return slice.logits + i % w->per_slice * w->block.n * (w->block.ld + 1);
}

static void weigh_head(void *job, size_t index, size_t worker)
{
    const struct wave *w = job;
    const vtci_stats_block *block = &w->block;
    const vtci_stats_slice slice = vtci_stats_slice_of(w->s, worker);
    const size_t head = w->head + index;
    float *p = head_weights(w, index);
    const vtci_stats_keys keys =
        vtci_stats_load_keys(w->s, head, block->first_col, block->cols,
                             vtci_stats_panels_pay(block->n_whole), &slice);

    vtci_stats_ahead ahead = vtci_stats_look_ahead(w->s, block->n);

    vtci_stats_weigh(w->s, block, head, &keys, slice.rows, p, p + block->n * block->ld, &ahead);
}

/* Adds the wave's weights of row i to its mean. */
static void add_heads(const struct wave *w, size_t i)
{
    enum { BATCH = 16 };
    const vtci_stats_block *block = &w->block;
    const size_t skipped = w->s->params.first_col - block->first_col;
    const float share = 1.0f / (float)w->s->n_heads;
    const float *row[BATCH];
    float factor[BATCH];

    for (size_t begin = 0; begin < w->n_heads; begin += BATCH) {
        const size_t n = vtci_min(BATCH, w->n_heads - begin);

        for (size_t h = 0; h < n; h++) {
            const float *p = head_weights(w, begin + h);

            row[h] = p + i * block->ld + skipped;
            factor[h] = share * p[block->n * block->ld + i];
        }
        vtci_kernels_get()->combine(w->s->mean + i * w->s->params.n_cols, row, factor, n,
                                    block->n_shown, w->head + begin != 0);
    }
}

static void add_wave(void *job, size_t index, size_t worker)
{
    const struct wave *w = job;
    const size_t end = vtci_min((index + 1) * ROWS, w->block.n);

    (void)worker;
    for (size_t i = index * ROWS; i < end; i++)
        add_heads(w, i);
}

static void mean_of_heads(vtci_stats *s, struct wave *w)
{
    w->per_slice = BLOCK / w->block.n;
    for (w->head = 0; w->head < s->n_heads; w->head += w->n_heads) {
        w->n_heads = vtci_min(s->n_heads - w->head, vtci_n_workers(s->call) * w->per_slice);
        vtci_parallel(s->call, w->n_heads, weigh_head, w);
        vtci_parallel(s->call, vtci_ceil_div(w->block.n, ROWS), add_wave, w);
    }
}

/* ---- what is made of the means -----------------------------------------------------------------
 */

static void keep_rows(const vtci_stats *s, const vtci_stats_block *block)
{
    const size_t n_cols = s->params.n_cols;

    for (size_t i = 0; i < block->n; i++) {
        float *to;

        if (block->slot[i] == SIZE_MAX || n_cols == 0)
            continue;
        to = s->totals.rows + block->slot[i] * n_cols;
        memcpy(to, s->mean + i * n_cols, block->n_shown * sizeof(*to));
        memset(to + block->n_shown, 0, (n_cols - block->n_shown) * sizeof(*to));
    }
}

static void reduce_voters(const vtci_stats *s, const vtci_stats_block *block)
{
    const vtci_kernels *k = vtci_kernels_get();
    const vtci_stats_totals *t = &s->totals;
    const size_t n_cols = s->params.n_cols;
    float *open = t->open == NULL ? s->mean + BLOCK * n_cols : t->open;
    const float *row[BLOCK];
    float one[BLOCK];
    size_t n = 0;

    for (size_t i = 0; i < block->n; i++) {
        if (!block->voter[i])
            continue;
        row[n] = s->mean + i * n_cols;
        one[n++] = 1.0f;
    }
    k->combine_max(t->max, row, NULL, n, block->n_shown, 1);
    if (t->sum == NULL)
        return;
    k->combine(open, row, one, n, block->n_shown, block->n_voters_before != 0);
    if (vtci_stats_is_last(block))
        k->add(t->sum, t->sum, open, block->n_shown);
}

void vtci_stats_run_means(vtci_stats *s)
{
    const bool votes = (s->params.want & VTC_STATS_COL_MAX) != 0;
    vtci_stats_walk walk = { votes, (s->params.want & VTC_STATS_ROWS) != 0, 0, 0 };
    struct wave w = { .s = s };

    /* the mean of no heads is zero, as the totals are */
    if (s->n_heads == 0)
        return;
    while (vtci_stats_next(s, &walk, &w.block)) {
        if (w.block.n_shown != 0)
            mean_of_heads(s, &w);
        if (votes)
            reduce_voters(s, &w.block);
        keep_rows(s, &w.block);
    }
}
