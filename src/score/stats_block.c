/*
 * A block of query rows: which they are, and what softmax makes of their logits.
 *
 * Keys are turned into panels, once for all blocks of a head where only sums are wanted: a product
 * of 64 rows then runs at the CPU's own rate, where sgemm would pack the same keys for each. A few
 * rows are multiplied as they are.
 */
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../linalg/transpose.h"
#include "stats.h"

#include <math.h>
#include <string.h>

enum { BLOCK = VTCI_STATS_BLOCK, PANEL = VTCI_PANEL };

/* ---- scratch --------------------------------------------------------------------------------- */

/* Panels are as wide as a cache line, where the parts of a slice start too. */
static size_t whole_panels(size_t n)
{
    return vtci_mul(vtci_ceil_div(n, PANEL), PANEL);
}

static size_t slice_part(const vtci_stats *s, int part)
{
    const size_t d = s->q.n_cols, n = whole_panels(s->n_keys);
    const size_t floats[] = { vtci_mul(BLOCK, d), vtci_mul(n, d), vtci_mul(BLOCK, vtci_add(n, 1)),
                              vtci_stats_has_sums(s) ? s->params.n_cols : 0 };

    return whole_panels(floats[part]);
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

    for (size_t i = 0; i < block->n_whole; i++)
        seen = vtci_max(seen, vtci_stats_seen(s, block->row[i]));
    block->n_shown = vtci_max(first, vtci_min(seen, end)) - first;
    block->first_col = s->lse == NULL ? 0 : first;
    block->cols = s->lse == NULL ? seen : block->n_shown;
    block->ld = whole_panels(block->cols);
}

/* Only the rows of the tile stay. */
static void cut(const vtci_stats *s, vtci_stats_block *block)
{
    const size_t first = s->first_row, end = first + s->q.n_rows;

    block->n = block->n_before = block->n_voters_before = 0;
    for (size_t i = 0; i < block->n_whole; i++) {
        const size_t row = block->row[i];

        if (row < first) {
            block->n_before++;
            block->n_voters_before += block->voter[i];
        } else if (row < end) {
            block->row[block->n] = row;
            block->voter[block->n] = block->voter[i];
            block->slot[block->n++] = block->slot[i];
        }
    }
}

/* The next 64 rows of the walk, or those that are left. */
static void fill_block(const vtci_stats *s, vtci_stats_walk *walk, vtci_stats_block *block)
{
    size_t n = 0;

    while (n < BLOCK) {
        block->row[n] = next_row(s, walk, &block->voter[n], &block->slot[n]);
        if (block->row[n] == SIZE_MAX)
            break;
        n++;
    }
    block->n_whole = n;
}

bool vtci_stats_next(const vtci_stats *s, vtci_stats_walk *walk, vtci_stats_block *block)
{
    const size_t first = s->first_row, end = first + s->q.n_rows;

    /* where all rows vote, and no others are walked, the blocks before the tile need no visit */
    if (walk->voters && !walk->chosen && s->params.voters == NULL && walk->next_voter < first)
        walk->next_voter = first / BLOCK * BLOCK;
    do {
        fill_block(s, walk, block);
        if (block->n_whole == 0 || block->row[0] >= end)
            return false;
        set_columns(s, block);
        cut(s, block);
    } while (block->n == 0);
    return true;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Keys begin .. end - 1 as floats: in place, or in tmp, with zeros where k has none yet. */
static const float *some_keys(const vtci_stats *s, size_t group, size_t begin, size_t end,
                              float *tmp, size_t *ld)
{
    const size_t d = s->k.n_cols, have = vtci_max(begin, vtci_min(end, s->k.n_rows));

    *ld = vtci_head_leading_dim(&s->k);
    if (*ld != 0 && have == end)
        return (const float *)(const void *)vtci_head_row(&s->k, 0, group, begin);
    *ld = d;
    vtci_head_load(&s->k, 0, group, begin, have, tmp);
    memset(tmp + (have - begin) * d, 0, (end - have) * d * sizeof(*tmp));
    return tmp;
}

/* Up to 64 keys from `key` on. The last panel is filled up with zeros. */
static void turn_keys(const vtci_stats *s, size_t group, size_t key, size_t count, float *panels,
                      float *tmp)
{
    const size_t d = s->k.n_cols;
    size_t ld;
    const float *keys = some_keys(s, group, key, key + count, tmp, &ld);

    for (size_t n = 0; n < count; n += PANEL, panels += d * PANEL) {
        if (count - n < PANEL)
            memset(panels, 0, d * PANEL * sizeof(*panels));
        vtci_transpose(panels, PANEL, keys + n * ld, ld, vtci_min(PANEL, count - n), d);
    }
}

vtci_stats_keys vtci_stats_load_keys(const vtci_stats *s, size_t head, size_t first_col,
                                     size_t cols, bool panels, const vtci_stats_slice *slice)
{
    const size_t d = s->k.n_cols, group = head / (s->n_heads / s->k.n_heads);
    vtci_stats_keys keys = { slice->keys, 0 };

    if (!panels)
        keys.data = some_keys(s, group, first_col, first_col + cols, slice->keys, &keys.ld);
    else
        for (size_t n = 0; n < cols; n += BLOCK)
            turn_keys(s, group, first_col + n, vtci_min(BLOCK, cols - n), slice->keys + n * d,
                      slice->rows);
    return keys;
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* The block's queries: in place where they follow each other, else gathered. */
static const float *load_queries(const vtci_stats *s, const vtci_stats_block *block, size_t head,
                                 float *rows, size_t *ld)
{
    const size_t d = s->q.n_cols, first = block->row[0] - s->first_row;

    *ld = vtci_head_leading_dim(&s->q);
    if (*ld != 0 && block->row[block->n - 1] - block->row[0] == block->n - 1)
        return (const float *)(const void *)vtci_head_row(&s->q, 0, head, first);
    *ld = d;
    for (size_t i = 0; i < block->n; i++) {
        const size_t row = block->row[i] - s->first_row;

        vtci_head_load(&s->q, 0, head, row, row + 1, rows + i * d);
    }
    return rows;
}

/* How many of the block's columns a row sees. */
static size_t seen_of_block(const vtci_stats *s, const vtci_stats_block *block, size_t row)
{
    const size_t end = vtci_max(block->first_col, vtci_stats_seen(s, row));

    return vtci_min(block->cols, end - block->first_col);
}

/* Panels that the first rows do not see are multiplied by the others alone. */
static void multiply_panels(const vtci_stats *s, const vtci_stats_block *block, const float *q,
                            size_t ldq, const float *panels, float *p)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t d = s->q.n_cols, ld = block->ld, n_panels = ld / PANEL;
    const size_t n_whole = vtci_ceil_div(seen_of_block(s, block, block->row[0]), PANEL);
    size_t first = 0;

    k->multiply_panels(p, ld, q, ldq, panels, block->n, n_whole, d);
    for (size_t j = n_whole; j < n_panels; j++) {
        while (first < block->n && seen_of_block(s, block, block->row[first]) <= j * PANEL)
            first++;
        if (first == block->n)
            break;
        k->multiply_panels(p + first * ld + j * PANEL, ld, q + first * ldq, ldq,
                           panels + j * PANEL * d, block->n - first, 1, d);
    }
}

static void multiply(const vtci_stats *s, const vtci_stats_block *block, const float *q, size_t ldq,
                     const vtci_stats_keys *keys, float *p)
{
    if (keys->ld == 0) {
        multiply_panels(s, block, q, ldq, keys->data, p);
        return;
    }
    for (size_t i = 0; i < block->n; i++)
        vtci_kernels_get()->dot_rows(p + i * block->ld, q + i * ldq, keys->data, keys->ld,
                                     block->cols, s->q.n_cols);
}

/* One row; returns what makes the exponentials weights. */
static float weigh_row(const vtci_stats *s, const vtci_stats_block *block, size_t head, size_t row,
                       float *p)
{
    const vtci_kernels *k = vtci_kernels_get();
    const float scale = s->params.scale;
    const size_t seen = seen_of_block(s, block, row);
    float weight = 1.0f;

    if (s->lse == NULL)
        weight = 1.0f / k->exp_sum(p, p, scale, scale * k->max(p, seen), seen);
    else
        k->exp_sum(p, p, scale, s->lse[head * s->lse_stride + row - s->first_row], seen);
    if (seen < block->cols)
        memset(p + seen, 0, (block->cols - seen) * sizeof(*p));
    return weight;
}

/* Asks for a row of a head that is read soon. An address behind the head, or the array, is as good:
 * mostly the next head stands there, and a prefetch never faults. */
static void ask_for(const vtci_heads *x, size_t head, size_t row)
{
    const uintptr_t at = (uintptr_t)x->data + head * x->head_stride + row * x->row_stride;
    const size_t bytes = x->n_cols * vtc_dtype_size(x->dtype);

    for (size_t line = 0; line < bytes; line += VTCI_LINE)
        __builtin_prefetch((const void *)(at + line), 0, 2);
}

vtci_stats_ahead vtci_stats_look_ahead(const vtci_stats *s, size_t n_rows)
{
    enum { MOST = 16 }; /* keys in the time of a row */

    return (vtci_stats_ahead){ 0, vtci_min(MOST, vtci_ceil_div(s->k.n_rows, vtci_max(1, n_rows))) };
}

/* While exponentials are taken memory is idle: the queries of the next block are asked for, and the
 * next head's keys. */
static void look_ahead(const vtci_stats *s, size_t head, size_t row, vtci_stats_ahead *ahead)
{
    const size_t group = (head + 1) / (s->n_heads / s->k.n_heads);

    ask_for(&s->q, head, row - s->first_row + BLOCK);
    for (size_t i = 0; i < ahead->per_row; i++)
        ask_for(&s->k, group, ahead->key++);
}

void vtci_stats_weigh(const vtci_stats *s, const vtci_stats_block *block, size_t head,
                      const vtci_stats_keys *keys, float *rows, float *p, float *weight,
                      vtci_stats_ahead *ahead)
{
    size_t ldq;
    const float *q = load_queries(s, block, head, rows, &ldq);

    multiply(s, block, q, ldq, keys, p);
    for (size_t i = 0; i < block->n; i++) {
        look_ahead(s, head, block->row[i], ahead);
        weight[i] = weigh_row(s, block, head, block->row[i], p + i * block->ld);
    }
}
