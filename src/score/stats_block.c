/*
 * A block of query rows: which they are, and what softmax makes of their logits.
 *
 * Keys are turned, because sgemm reads them a third faster that way: 25 us for 704 keys of 128
 * channels, where the product with 64 rows takes 150.
 */
#include "../kernels/kernels.h"
#include "../linalg/gemm.h"
#include "../linalg/rows.h"
#include "../linalg/transpose.h"
#include "stats.h"

#include <math.h>
#include <string.h>

enum { BLOCK = VTCI_STATS_BLOCK, LINE = 16 };

/* ---- scratch --------------------------------------------------------------------------------- */

/* Parts start at cache lines. */
static size_t whole_lines(size_t floats)
{
    return vtci_mul(vtci_ceil_div(floats, LINE), LINE);
}

static size_t slice_part(const vtci_stats *s, int part)
{
    const size_t d = s->q.n_cols;
    const size_t floats[] = { vtci_mul(BLOCK, d), vtci_mul(s->n_keys, d),
                              vtci_mul(BLOCK, vtci_add(s->n_keys, 1)),
                              vtci_stats_has_sums(s) ? s->params.n_cols : 0 };

    return whole_lines(floats[part]);
}

void vtci_stats_lay_out(vtci_arena *arena, vtci_stats *s)
{
    size_t floats = 0;

    for (int part = 0; part < 4; part++)
        floats = vtci_add(floats, slice_part(s, part));
    s->slices = vtci_take_slices(arena, s->call, vtci_mul(floats, sizeof(float)), &s->slice_stride);
    s->mean = NULL;
    if (vtci_stats_has_means(s))
        s->mean = vtci_take(arena, vtci_mul(BLOCK + 1, s->params.n_cols), sizeof(float));
}

vtci_stats_slice vtci_stats_slice_of(const vtci_stats *s, size_t worker)
{
    vtci_stats_slice slice;

    slice.rows = (float *)(void *)(s->slices + worker * s->slice_stride);
    slice.keys = slice.rows + slice_part(s, 0);
    slice.logits = slice.keys + slice_part(s, 1);
    slice.partial = slice.logits + slice_part(s, 2);
    return slice;
}

/* ---- rows ------------------------------------------------------------------------------------ */

size_t vtci_stats_n_voters(const vtci_stats *s)
{
    return s->params.voters == NULL ? s->n_rows : s->params.n_voters;
}

/* The next row of either list, with what it is for. SIZE_MAX: no more. */
static size_t next_row(const vtci_stats *s, vtci_stats_walk *walk, bool *voter, size_t *slot)
{
    const vtc_attention_stats_params *p = &s->params;
    size_t vote = SIZE_MAX, chosen = SIZE_MAX, row;

    if (walk->voters && walk->next_voter < vtci_stats_n_voters(s))
        vote = p->voters == NULL ? walk->next_voter : (size_t)p->voters[walk->next_voter];
    if (walk->chosen && walk->next_chosen < p->n_chosen)
        chosen = (size_t)p->chosen[walk->next_chosen];
    row = vtci_min(vote, chosen);
    *voter = row != SIZE_MAX && vote == row;
    *slot = row != SIZE_MAX && chosen == row ? walk->next_chosen : SIZE_MAX;
    walk->next_voter += *voter;
    walk->next_chosen += *slot != SIZE_MAX;
    return row;
}

size_t vtci_stats_seen(const vtci_stats *s, size_t row)
{
    size_t position;

    if (!s->params.causal)
        return s->n_keys;
    position = s->params.positions == NULL ? vtci_add(s->params.row_offset, row)
                                           : (size_t)s->params.positions[row];
    return vtci_min(s->n_keys, vtci_add(position, 1));
}

/* The columns of a block: all that any of its rows sees, or with log-sum-exps the reported ones
 * among them. */
static void set_columns(const vtci_stats *s, vtci_stats_block *block)
{
    const size_t first = s->params.first_col, end = first + s->params.n_cols;
    size_t seen = 0;

    for (size_t i = 0; i < block->n; i++)
        seen = vtci_max(seen, vtci_stats_seen(s, block->row[i]));
    block->n_shown = vtci_max(first, vtci_min(seen, end)) - first;
    block->first_col = s->lse == NULL ? 0 : first;
    block->cols = s->lse == NULL ? seen : block->n_shown;
}

bool vtci_stats_next(const vtci_stats *s, vtci_stats_walk *walk, vtci_stats_block *block)
{
    const size_t first = s->first_row, end = first + s->q.n_rows;

    /* all rows vote, and no others are walked: the blocks before the tile need no visit */
    if (walk->voters && !walk->chosen && s->params.voters == NULL && walk->next_voter < first)
        walk->next_voter = first / BLOCK * BLOCK;
    for (;;) {
        block->begin = block->end = 0;
        for (block->n = 0; block->n < BLOCK; block->n++) {
            const size_t i = block->n;

            block->row[i] = next_row(s, walk, &block->voter[i], &block->slot[i]);
            if (block->row[i] == SIZE_MAX)
                break;
            block->begin += block->row[i] < first;
            block->end += block->row[i] < end;
        }
        if (block->n == 0 || block->row[0] >= end)
            return false;
        if (block->begin < block->end)
            break;
    }
    set_columns(s, block);
    return true;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Keys begin .. end - 1 as dense floats, zeros where k has none yet. */
static void load_some_keys(const vtci_stats *s, size_t group, size_t begin, size_t end, float *to)
{
    const size_t d = s->k.n_cols, have = vtci_max(begin, vtci_min(end, s->k.n_rows));

    vtci_head_load(&s->k, 0, group, begin, have, to);
    memset(to + (have - begin) * d, 0, (end - have) * d * sizeof(*to));
}

static void turn_keys(const vtci_stats *s, size_t group, size_t first_col, size_t cols,
                      const vtci_stats_slice *slice)
{
    const size_t d = s->k.n_cols, ld = vtci_head_leading_dim(&s->k);

    for (size_t n = 0; n < cols; n += BLOCK) {
        const size_t count = vtci_min(BLOCK, cols - n), key = first_col + n;

        if (ld != 0 && key + count <= s->k.n_rows) {
            vtci_transpose(slice->keys + n, cols,
                           (float *)(void *)vtci_head_row(&s->k, 0, group, key), ld, count, d);
            continue;
        }
        load_some_keys(s, group, key, key + count, slice->rows);
        vtci_transpose(slice->keys + n, cols, slice->rows, d, count, d);
    }
}

vtci_stats_keys vtci_stats_load_keys(const vtci_stats *s, size_t head, size_t first_col,
                                     size_t cols, bool turned, const vtci_stats_slice *slice)
{
    const size_t d = s->k.n_cols, ld = vtci_head_leading_dim(&s->k);
    const size_t group = head / (s->n_heads / s->k.n_heads);
    vtci_stats_keys keys = { slice->keys, turned ? cols : d, turned };

    if (turned) {
        turn_keys(s, group, first_col, cols, slice);
    } else if (ld != 0 && first_col + cols <= s->k.n_rows) {
        keys.data = (const float *)(void *)vtci_head_row(&s->k, 0, group, first_col);
        keys.ld = ld;
    } else {
        load_some_keys(s, group, first_col, first_col + cols, slice->keys);
    }
    return keys;
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* The block's queries: in place where they follow each other, else gathered. */
static const float *load_queries(const vtci_stats *s, const vtci_stats_block *block, size_t head,
                                 float *rows, size_t *ld)
{
    const size_t d = s->q.n_cols, first = block->row[0] - s->first_row;

    *ld = vtci_head_leading_dim(&s->q);
    if (*ld != 0 && block->begin == 0 && block->end == block->n &&
        block->row[block->n - 1] - block->row[0] == block->n - 1)
        return (const float *)(void *)vtci_head_row(&s->q, 0, head, first);
    *ld = d;
    memset(rows, 0, block->n * d * sizeof(*rows));
    for (size_t i = block->begin; i < block->end; i++) {
        const size_t row = block->row[i] - s->first_row;

        vtci_head_load(&s->q, 0, head, row, row + 1, rows + i * d);
    }
    return rows;
}

/* One row; returns what makes the exponentials weights. */
static float weigh_row(const vtci_stats *s, const vtci_stats_block *block, size_t head, size_t row,
                       float *p)
{
    const vtci_kernels *k = vtci_kernels_get();
    const float scale = s->params.scale;
    const size_t end = vtci_max(block->first_col, vtci_stats_seen(s, row));
    const size_t seen = vtci_min(block->cols, end - block->first_col);
    float weight = 1.0f;

    if (s->lse == NULL)
        weight = 1.0f / k->exp_sum(p, p, scale, scale * k->max(p, seen), seen);
    else
        k->exp_sum(p, p, scale, s->lse[head * s->lse_stride + row - s->first_row], seen);
    memset(p + seen, 0, (block->cols - seen) * sizeof(*p));
    return weight;
}

void vtci_stats_weigh(const vtci_stats *s, const vtci_stats_block *block, size_t head,
                      const vtci_stats_keys *keys, float *rows, float *p, float *weight)
{
    size_t ld;
    const float *q = load_queries(s, block, head, rows, &ld);

    vtci_sgemm(s->call, !keys->turned, block->n, block->cols, s->q.n_cols, q, ld, keys->data,
               keys->ld, p, block->cols);
    for (size_t i = block->begin; i < block->end; i++)
        weight[i] = weigh_row(s, block, head, block->row[i], p + i * block->cols);
}
