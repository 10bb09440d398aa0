/*
 * Multi-head attention in blocks of query rows.
 *
 * Keys are turned once for every K/V head, because sgemm reads them faster that way, and values are
 * widened where they are not floats already. Then each task takes 64 query rows of a head: their
 * logits stay in the second-level cache between the two products. A block computes the columns that
 * any of its rows sees.
 */
#include "attention.h"

#include "../kernels/kernels.h"
#include "gemm.h"
#include "rows.h"
#include "transpose.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* Below FEW_ROWS query rows a turned key would hardly be used. */
enum { BLOCK = 64, FEW_ROWS = 8 };

vtci_heads vtci_heads_of_rows(const vtci_rows *rows, size_t n_heads)
{
    const size_t d = n_heads == 0 ? 0 : rows->n_cols / n_heads;
    const vtci_heads heads = { rows->data,         rows->dtype,
                               rows->n_batch,      n_heads,
                               rows->n_rows,       d,
                               rows->batch_stride, vtci_mul(d, vtc_dtype_size(rows->dtype)),
                               rows->row_stride };

    return heads;
}

vtci_heads vtci_heads_of(const vtc_tensor *t)
{
    const size_t size = vtc_dtype_size(t->dtype);
    const size_t *dim = t->dim + (t->rank == 4), *stride = t->stride + (t->rank == 4);
    const vtci_heads heads = { t->data,
                               t->dtype,
                               t->rank == 4 ? t->dim[0] : 1,
                               dim[0],
                               dim[1],
                               dim[2],
                               t->rank == 4 ? vtci_mul(t->stride[0], size) : 0,
                               vtci_mul(stride[0], size),
                               vtci_mul(stride[1], size) };

    return heads;
}

size_t vtci_head_leading_dim(const vtci_heads *heads)
{
    const size_t ld = heads->row_stride / sizeof(float);

    if (heads->dtype != VTC_F32)
        return 0;
    if (heads->n_rows <= 1)
        return vtci_max(1, heads->n_cols);
    return heads->row_stride % sizeof(float) == 0 && ld >= heads->n_cols && ld <= INT_MAX ? ld : 0;
}

void vtci_head_load(const vtci_heads *heads, size_t b, size_t h, size_t begin, size_t end,
                    float *to)
{
    const size_t d = heads->n_cols;

    for (size_t n = begin; n < end; n++, to += d) {
        const float *row = vtci_load_row(vtci_head_row(heads, b, h, n), heads->dtype, d, to);

        if (row != to)
            memcpy(to, row, d * sizeof(*to));
    }
}

/* ---- checks and scratch ---------------------------------------------------------------------- */

vtc_status vtci_attention_check(const vtci_call *call, const vtci_attention *a)
{
    const vtci_heads *q = &a->q, *k = &a->k, *v = &a->v, *y = &a->y;

    VTCI_REQUIRE(call, k->n_heads != 0 && q->n_heads % k->n_heads == 0, VTC_ERR_SHAPE,
                 "%zu query heads cannot share %zu key heads", q->n_heads, k->n_heads);
    VTCI_REQUIRE(call, q->n_cols == k->n_cols, VTC_ERR_SHAPE,
                 "query heads are %zu wide, key heads %zu", q->n_cols, k->n_cols);
    VTCI_REQUIRE(call, v->n_heads == k->n_heads && v->n_rows == k->n_rows, VTC_ERR_SHAPE,
                 "there are %zu x %zu keys, but %zu x %zu values", k->n_heads, k->n_rows,
                 v->n_heads, v->n_rows);
    VTCI_REQUIRE(call,
                 y->n_heads == q->n_heads && y->n_rows == q->n_rows && y->n_batch == q->n_batch,
                 VTC_ERR_SHAPE, "there are %zu x %zu x %zu queries, but %zu x %zu x %zu outputs",
                 q->n_batch, q->n_heads, q->n_rows, y->n_batch, y->n_heads, y->n_rows);
    VTCI_REQUIRE(call, y->n_cols == v->n_cols, VTC_ERR_SHAPE,
                 "value heads are %zu wide, output heads %zu", v->n_cols, y->n_cols);
    VTCI_REQUIRE(call,
                 (k->n_batch == 1 || k->n_batch == q->n_batch) &&
                     (v->n_batch == 1 || v->n_batch == q->n_batch),
                 VTC_ERR_SHAPE, "%zu batch items of queries, %zu of keys, %zu of values",
                 q->n_batch, k->n_batch, v->n_batch);
    VTCI_TRY(vtci_check_gemm(call, vtci_max(q->n_rows, q->n_cols), k->n_rows, v->n_cols));
    return VTC_OK;
}

static bool turns_keys(const vtci_attention *a)
{
    return a->q.n_rows > FEW_ROWS || vtci_head_leading_dim(&a->k) == 0;
}

static size_t head_floats(const vtci_heads *heads)
{
    return vtci_mul(vtci_mul(heads->n_batch, heads->n_heads),
                    vtci_mul(heads->n_rows, heads->n_cols));
}

void vtci_attention_lay_out(vtci_arena *arena, const vtci_call *call, vtci_attention *a)
{
    const size_t width = vtci_add(a->k.n_rows, vtci_max(a->q.n_cols, a->v.n_cols));
    const size_t floats = vtci_mul(BLOCK, width);

    a->keys = a->values = NULL;
    if (turns_keys(a))
        a->keys = vtci_take(arena, head_floats(&a->k), sizeof(*a->keys));
    if (vtci_head_leading_dim(&a->v) == 0)
        a->values = vtci_take(arena, head_floats(&a->v), sizeof(*a->values));
    a->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &a->slice_stride);
}

/* ---- keys and values ---------------------------------------------------------------------------
 */

static float *slice_of(const vtci_attention *a, size_t worker)
{
    return (float *)(void *)(a->slices + worker * a->slice_stride);
}

/* A block of rows of one K/V head. */
static void pack_block(void *job, size_t index, size_t worker)
{
    const vtci_attention *a = job;
    const size_t n_keys = a->k.n_rows, d = a->k.n_cols, e = a->v.n_cols;
    const size_t n_blocks = vtci_ceil_div(n_keys, BLOCK);
    const size_t head = index / n_blocks, begin = index % n_blocks * BLOCK;
    const size_t b = head / a->k.n_heads, h = head % a->k.n_heads;
    const size_t n = vtci_min(BLOCK, n_keys - begin);
    float *block = slice_of(a, worker);

    if (a->values != NULL && b < a->v.n_batch)
        vtci_head_load(&a->v, b, h, begin, begin + n, a->values + (head * n_keys + begin) * e);
    if (a->keys == NULL || b >= a->k.n_batch)
        return;
    vtci_head_load(&a->k, b, h, begin, begin + n, block);
    vtci_transpose(a->keys + head * d * n_keys + begin, n_keys, block, d, n, d);
}

/* ---- which keys a row sees ---------------------------------------------------------------------
 */

struct span {
    size_t begin, end;
};

static struct span row_span(const vtci_attention *a, size_t b, size_t m)
{
    const vtci_visibility *sees = &a->sees;
    struct span span = { 0, a->k.n_rows };

    if (sees->causal)
        span.end = vtci_min(span.end, sees->row_offset + m + 1);
    if (sees->range != NULL) {
        const int32_t *pair = sees->range + 2 * (b * sees->range_batch_stride + m);

        span.begin = pair[0] < 0 ? 0 : (size_t)pair[0];
        span.end = pair[1] < 0 ? 0 : vtci_min(span.end, (size_t)pair[1]);
    }
    span.begin = vtci_min(span.begin, span.end);
    return span;
}

/* The columns that any of the rows sees. */
static struct span block_span(const vtci_attention *a, size_t b, size_t begin, size_t n)
{
    struct span all = row_span(a, b, begin);

    for (size_t m = begin + 1; m < begin + n; m++) {
        const struct span span = row_span(a, b, m);

        if (span.begin == span.end)
            continue;
        if (all.begin == all.end)
            all = span;
        all.begin = vtci_min(all.begin, span.begin);
        all.end = vtci_max(all.end, span.end);
    }
    return all;
}

/* Hides keys from a row of logits, whose first column is key `first`. False: it sees none. */
static bool hide_keys(const vtci_attention *a, size_t b, size_t m, struct span block, float *logit)
{
    const vtci_visibility *sees = &a->sees;
    const struct span span = row_span(a, b, m);
    const uint8_t *key_mask =
        sees->key_mask == NULL ? NULL : sees->key_mask + b * sees->key_mask_batch_stride;
    const uint8_t *mask =
        sees->mask == NULL ? NULL
                           : sees->mask + b * sees->mask_batch_stride + m * sees->mask_row_stride;
    size_t n_seen = 0;

    for (size_t n = block.begin; n < block.end; n++) {
        const bool seen = n >= span.begin && n < span.end &&
                          (key_mask == NULL || key_mask[n] != 0) && (mask == NULL || mask[n] != 0);

        n_seen += seen;
        if (!seen)
            logit[n - block.begin] = -INFINITY;
    }
    return n_seen != 0;
}

/* ---- one block of query rows -------------------------------------------------------------------
 */

struct block {
    size_t b, h, group; /* batch item, query head, K/V head                              */
    size_t begin, n;    /* query rows                                                    */
    struct span span;   /* keys                                                          */
    float *rows;        /* [n, d] queries, then [n, e] outputs                           */
    float *p;           /* [n, keys of the span]                                         */
};

static void compute_logits(const vtci_attention *a, const struct block *at)
{
    const size_t n_keys = a->k.n_rows, d = a->k.n_cols, width = at->span.end - at->span.begin;
    const size_t b = a->k.n_batch > 1 ? at->b : 0;

    vtci_head_load(&a->q, at->b, at->h, at->begin, at->begin + at->n, at->rows);
    if (a->keys != NULL)
        vtci_sgemm(a->call, false, at->n, width, d, at->rows, d,
                   a->keys + (b * a->k.n_heads + at->group) * d * n_keys + at->span.begin, n_keys,
                   at->p, width);
    else
        vtci_sgemm(a->call, true, at->n, width, d, at->rows, d,
                   (const float *)(const void *)vtci_head_row(&a->k, b, at->group, at->span.begin),
                   vtci_head_leading_dim(&a->k), at->p, width);
}

static void combine_values(const vtci_attention *a, const struct block *at)
{
    const size_t e = a->v.n_cols, width = at->span.end - at->span.begin;
    const size_t b = a->v.n_batch > 1 ? at->b : 0;
    const size_t ld = a->values != NULL ? e : vtci_head_leading_dim(&a->v);
    const float *values =
        a->values != NULL
            ? a->values + ((b * a->v.n_heads + at->group) * a->v.n_rows + at->span.begin) * e
            : (const float *)(const void *)vtci_head_row(&a->v, b, at->group, at->span.begin);

    vtci_sgemm(a->call, false, at->n, e, width, at->p, width, values, ld, at->rows, e);
}

/* The statistics of one row of logits that sees something. */
static void keep_statistics(const vtci_attention *a, const struct block *at, size_t m,
                            const float *logit, size_t n)
{
    const size_t at_row = (at->b * a->q.n_heads + at->h) * a->q.n_rows + at->begin + m;
    float top = -INFINITY;
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        top = fmaxf(top,
                    a->scale * logit[i] + (a->bias == NULL ? 0.0f : a->bias[at->span.begin + i]));
    if (a->row_max != NULL)
        a->row_max[at_row] = top;
    if (a->log_sum_exp == NULL)
        return;
    for (size_t i = 0; i < n; i++)
        sum += expf(a->scale * logit[i] + (a->bias == NULL ? 0.0f : a->bias[at->span.begin + i]) -
                    top);
    a->log_sum_exp[at_row] = top == -INFINITY ? -INFINITY : top + (float)log(sum);
}

/* Logits to weights. A blind row has zeros, or the same weight for every key of the span, which is
 * then that of all keys. */
static void weigh_row(const vtci_attention *a, const struct block *at, size_t m, float *p)
{
    const size_t width = at->span.end - at->span.begin;
    const float *bias = a->bias == NULL ? NULL : a->bias + at->span.begin;

    const bool sees = hide_keys(a, at->b, at->begin + m, at->span, p);

    if (a->row_max != NULL || a->log_sum_exp != NULL)
        keep_statistics(a, at, m, p, width);
    if (sees) {
        vtci_kernels_get()->softmax(p, p, bias, a->scale, width);
        return;
    }
    for (size_t n = 0; n < width; n++)
        p[n] = a->sees.blind == VTCI_BLIND_MEAN ? 1.0f / (float)width : 0.0f;
}

static bool is_masked(const vtci_visibility *sees)
{
    return sees->causal || sees->range != NULL || sees->key_mask != NULL || sees->mask != NULL;
}

static void attend_block(void *job, size_t index, size_t worker)
{
    const vtci_attention *a = job;
    const size_t d = vtci_max(a->q.n_cols, a->v.n_cols);
    const size_t n_blocks = vtci_ceil_div(a->q.n_rows, BLOCK);
    const size_t head = index / n_blocks, begin = index % n_blocks * BLOCK;
    struct block at = { .b = head / a->q.n_heads, .h = head % a->q.n_heads, .begin = begin };

    at.n = vtci_min(BLOCK, a->q.n_rows - begin);
    at.group = at.h / (a->q.n_heads / a->k.n_heads);
    at.rows = slice_of(a, worker);
    at.p = at.rows + BLOCK * d;
    /* a blind row may need every key */
    at.span = (struct span){ 0, a->k.n_rows };
    if (a->sees.blind != VTCI_BLIND_MEAN || !is_masked(&a->sees))
        at.span = block_span(a, at.b, begin, at.n);
    compute_logits(a, &at);
    for (size_t m = 0; m < at.n; m++)
        weigh_row(a, &at, m, at.p + m * (at.span.end - at.span.begin));
    combine_values(a, &at);
    for (size_t m = 0; m < at.n; m++)
        vtci_store_row(vtci_head_row(&a->y, at.b, at.h, begin + m), a->y.dtype, a->y.n_cols,
                       at.rows + m * a->y.n_cols);
}

void vtci_attention_run(const vtci_call *call, vtci_attention *a)
{
    const size_t n_kv = vtci_max(a->k.n_batch, a->v.n_batch) * a->k.n_heads;

    a->call = call;
    if (a->keys != NULL || a->values != NULL)
        vtci_parallel(call, n_kv * vtci_ceil_div(a->k.n_rows, BLOCK), pack_block, a);
    vtci_parallel(call, a->q.n_batch * a->q.n_heads * vtci_ceil_div(a->q.n_rows, BLOCK),
                  attend_block, a);
}

float vtci_attention_join(float *y, float y_lse, const float *other, float other_lse, size_t n)
{
    const float top = fmaxf(y_lse, other_lse);

    if (top == -INFINITY)
        return top;

    const float mine = expf(y_lse - top), theirs = expf(other_lse - top), sum = mine + theirs;

    for (size_t i = 0; i < n; i++)
        y[i] = (mine * y[i] + theirs * other[i]) / sum;
    return top + logf(sum);
}
