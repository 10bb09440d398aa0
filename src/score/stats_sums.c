/*
 * Sums of columns, heads outside: a task is a head. Its keys are turned once, the weights of each
 * block of rows are added up while they are in the second-level cache, and the sums of blocks to
 * the sum of the head. Causal blocks stop at the diagonal, which halves the product.
 */
#include "../kernels/kernels.h"
#include "stats.h"

enum { BLOCK = VTCI_STATS_BLOCK };

/* Keys that any block of the tile needs, from the first column on. */
static size_t most_columns(const vtci_stats *s)
{
    vtci_stats_walk walk = { true, false, 0, 0 };
    vtci_stats_block block;
    size_t most = 0;

    while (vtci_stats_next(s, &walk, &block))
        most = vtci_max(most, block.cols);
    return most;
}

/* The block's rows of the tile onto `open`, which a block's first rows start anew. */
static void add_rows(const vtci_stats *s, const vtci_stats_block *block, const float *p,
                     const float *weight, float *open)
{
    const size_t skipped = s->params.first_col - block->first_col;
    const float *row[BLOCK];

    for (size_t i = 0; i < block->n; i++)
        row[i] = p + i * block->ld + skipped;
    vtci_kernels_get()->combine(open, row, weight, block->n, block->n_shown, block->n_before != 0);
}

struct sums {
    const vtci_stats *s;
    size_t n_keys; /* that any block needs, from the first column on */
};

static void sum_head(void *job, size_t head, size_t worker)
{
    const struct sums *sums = job;
    const vtci_stats *s = sums->s;
    const vtci_stats_slice slice = vtci_stats_slice_of(s, worker);
    const size_t n_cols = s->params.n_cols;
    float *sum = s->totals.head_sum + head * n_cols, weight[BLOCK];
    float *open = s->totals.head_open == NULL ? slice.partial : s->totals.head_open + head * n_cols;
    vtci_stats_walk walk = { true, false, 0, 0 };
    vtci_stats_block block;
    vtci_stats_ahead ahead =
        vtci_stats_look_ahead(s, vtci_min(s->q.n_rows, vtci_stats_n_voters(s)));
    const size_t first_col = s->lse == NULL ? 0 : s->params.first_col;
    const vtci_stats_keys keys =
        vtci_stats_load_keys(s, head, first_col, sums->n_keys,
                             vtci_stats_panels_pay(vtci_stats_n_voters(s)), &slice);

    while (vtci_stats_next(s, &walk, &block)) {
        if (block.n_shown == 0)
            continue;
        vtci_stats_weigh(s, &block, head, &keys, slice.rows, slice.logits, weight, &ahead);
        add_rows(s, &block, slice.logits, weight, open);
        if (vtci_stats_is_last(&block))
            vtci_kernels_get()->add(sum, sum, open, block.n_shown);
    }
}

void vtci_stats_run_sums(vtci_stats *s)
{
    struct sums sums = { s, most_columns(s) };

    vtci_parallel(s->call, s->n_heads, sum_head, &sums);
}
