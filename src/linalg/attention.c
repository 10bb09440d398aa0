/*
 * Multi-head attention in blocks of query rows, by the tile kernel.
 *
 * A task has one K/V head, whose keys it turns into panels and whose values it widens unless they
 * are floats: both stay in the second-level cache for all the query rows that share the head. Then
 * it takes 64 of those at a time; their logits stay there between the two products. A block
 * computes the columns that any of its rows sees. Where hardly any rows share a head, keys and
 * values are read once by dot products and weighted sums.
 */
#include "attention.h"

#include "../kernels/kernels.h"
#include "gemm.h"
#include "panels.h"
#include "rows.h"
#include "transpose.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* Up to FEW_ROWS query rows a turned key would hardly be used. Heads are cut into chunks of rows to
 * make TASKS tasks. */
enum { BLOCK = 64, FEW_ROWS = 3, TASKS = 8 };

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

/* ---- shapes and scratch ------------------------------------------------------------------------
 */

/* Query heads that share a K/V head; a block has rows of `heads` of them. */
struct shape {
    size_t sharing, heads, rows; /* of a block: heads x rows                     */
    size_t n_blocks, n_chunks;   /* of a K/V head; blocks are dealt out in chunks */
};

static struct shape shape_of(const vtci_attention *a)
{
    const size_t m = a->q.n_rows, sharing = a->q.n_heads / a->k.n_heads;
    const size_t n_heads = vtci_max(1, a->q.n_batch * a->k.n_heads);
    struct shape s = { .sharing = sharing, .heads = 1, .rows = vtci_min(BLOCK, m) };

    if (m == 0)
        return s;
    /* a row more or less must not change how blocks of a long call are cut */
    if (m < BLOCK)
        s.heads = vtci_min(sharing, BLOCK / m);
    s.n_blocks = vtci_ceil_div(sharing, s.heads) * vtci_ceil_div(m, BLOCK);
    s.n_chunks = vtci_min(s.n_blocks, vtci_ceil_div(TASKS, n_heads));
    return s;
}

static bool is_small(const vtci_attention *a)
{
    return vtci_mul(a->q.n_rows, a->q.n_heads / a->k.n_heads) <= FEW_ROWS;
}

static size_t padded_keys(const vtci_attention *a)
{
    const size_t cols = vtci_kernels_get()->gemm_cols;

    return vtci_mul(vtci_ceil_div(a->k.n_rows, cols), cols);
}

/* Floats of the parts of a worker's slice. */
struct parts {
    size_t keys, values, rows, logits;
};

static struct parts parts_of(const vtci_attention *a)
{
    const size_t n = padded_keys(a), d = a->q.n_cols, e = a->v.n_cols;
    const size_t rows = vtci_mul(BLOCK, vtci_max(d, e));
    const struct parts small = { 0, 0, vtci_add(rows, vtci_max(d, e)), vtci_mul(FEW_ROWS, n) };
    const struct parts parts = { vtci_mul(n, d), a->v.dtype == VTC_F32 ? 0 : vtci_mul(n, e), rows,
                                 vtci_mul(BLOCK, n) };

    return is_small(a) ? small : parts;
}

void vtci_attention_lay_out(vtci_arena *arena, const vtci_call *call, vtci_attention *a)
{
    const struct parts parts = parts_of(a);
    const size_t floats =
        vtci_add(vtci_add(parts.keys, parts.values), vtci_add(parts.rows, parts.logits));

    a->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &a->slice_stride);
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

static bool is_masked(const vtci_visibility *sees)
{
    return sees->causal || sees->range != NULL || sees->key_mask != NULL || sees->mask != NULL;
}

/* Hides keys of a span from a row of logits, the first of which is that of key span.begin. False:
 * it sees none. */
static bool hide_keys(const vtci_attention *a, size_t b, size_t m, struct span span, float *logit)
{
    const vtci_visibility *sees = &a->sees;
    const uint8_t *key_mask =
        sees->key_mask == NULL ? NULL : sees->key_mask + b * sees->key_mask_batch_stride;
    const uint8_t *mask =
        sees->mask == NULL ? NULL
                           : sees->mask + b * sees->mask_batch_stride + m * sees->mask_row_stride;
    size_t n_seen = 0;

    if (key_mask == NULL && mask == NULL)
        return span.begin != span.end;
    for (size_t n = span.begin; n < span.end; n++) {
        const bool seen = (key_mask == NULL || key_mask[n] != 0) && (mask == NULL || mask[n] != 0);

        n_seen += seen;
        if (!seen)
            logit[n - span.begin] = -INFINITY;
    }
    return n_seen != 0;
}

/* ---- logits to weights -------------------------------------------------------------------------
 */

/* The largest logit with scale and bias. */
static float largest_logit(const vtci_attention *a, const float *logit, const float *bias, size_t n)
{
    float top = -INFINITY;

    if (bias == NULL)
        return a->scale * vtci_kernels_get()->max(logit, n);
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, a->scale * logit[i] + bias[i]);
    return top;
}

/* The weight of the largest logit is 1 / sum. */
static void keep_statistics(const vtci_attention *a, size_t row, bool sees, float top,
                            const float *p, size_t n)
{
    const bool any = sees && top != -INFINITY;

    if (a->row_max != NULL)
        a->row_max[row] = any ? top : -INFINITY;
    if (a->log_sum_exp != NULL)
        a->log_sum_exp[row] = any ? top - logf(vtci_kernels_get()->max(p, n)) : -INFINITY;
}

/*
 * A row of logits of the keys of `block` becomes its weights; those of keys that it does not see
 * become 0. A blind row has zeros, or the same weight for every key of the block, which is then
 * that of all keys.
 */
static void weigh_row(const vtci_attention *a, size_t b, size_t h, size_t m, struct span block,
                      float *p)
{
    const struct span span = row_span(a, b, m);
    const size_t width = block.end - block.begin, n = span.end - span.begin;
    const bool asked = a->row_max != NULL || a->log_sum_exp != NULL;
    float *own = p + (n == 0 ? 0 : span.begin - block.begin);
    const float *bias = a->bias == NULL ? NULL : a->bias + span.begin;
    const bool sees = hide_keys(a, b, m, span, own);
    const float top = asked && sees ? largest_logit(a, own, bias, n) : -INFINITY;

    if (sees) {
        memset(p, 0, (size_t)(own - p) * sizeof(*p));
        memset(own + n, 0, (width - (size_t)(own - p) - n) * sizeof(*p));
        vtci_kernels_get()->softmax(own, own, bias, a->scale, n);
    }
    if (asked)
        keep_statistics(a, (b * a->q.n_heads + h) * a->q.n_rows + m, sees, top, own, n);
    for (size_t i = 0; !sees && i < width; i++)
        p[i] = a->sees.blind == VTCI_BLIND_MEAN ? 1.0f / (float)width : 0.0f;
}

/* ---- one K/V head ------------------------------------------------------------------------------
 */

struct head {
    const vtci_attention *a;
    size_t b, group;
    struct span span;    /* keys that any row of the task sees, from a panel's first on */
    float *keys;         /* panels [d, gemm_cols] of all keys                           */
    const float *values; /* row of key 0                                                */
    size_t value_stride;
    float *rows, *logits;
};

static float *slice_of(const vtci_attention *a, size_t worker)
{
    return (float *)(void *)(a->slices + worker * a->slice_stride);
}

/* A row as floats, in place or in tmp. */
static const float *load_row(const vtci_heads *heads, size_t b, size_t h, size_t n, float *tmp)
{
    return vtci_load_row(vtci_head_row(heads, b, h, n), heads->dtype, heads->n_cols, tmp);
}

/* Keys first .. first + n - 1 become a panel; tmp [n, d]. */
static void turn_keys(const struct head *head, size_t first, size_t n, float *tmp)
{
    const vtci_heads *k = &head->a->k;
    const size_t cols = vtci_kernels_get()->gemm_cols, d = k->n_cols;
    const float *from = (const float *)(const void *)vtci_head_row(k, head->b, head->group, first);
    size_t stride = k->row_stride / sizeof(float);

    if (k->dtype != VTC_F32) {
        vtci_head_load(k, head->b, head->group, first, first + n, tmp);
        from = tmp;
        stride = d;
    }
    vtci_transpose(head->keys + first * d, cols, from, stride, n, d);
}

static void load_head(struct head *head, float *values)
{
    const vtci_heads *v = &head->a->v;
    const size_t cols = vtci_kernels_get()->gemm_cols;

    for (size_t n = head->span.begin; n < head->span.end; n += cols)
        turn_keys(head, n, vtci_min(cols, head->span.end - n), head->rows);
    if (v->dtype == VTC_F32) {
        head->values = (const float *)(const void *)vtci_head_row(v, head->b, head->group, 0);
        head->value_stride = v->row_stride / sizeof(float);
        return;
    }
    vtci_head_load(v, head->b, head->group, head->span.begin, head->span.end,
                   values + head->span.begin * v->n_cols);
    head->values = values;
    head->value_stride = v->n_cols;
}

/* ---- one block of query rows -------------------------------------------------------------------
 */

struct block {
    size_t h, n_heads; /* query heads            */
    size_t m, n_rows;  /* rows of each           */
    struct span span;  /* keys that any row sees */
};

static void compute_logits(const struct head *head, const struct block *at)
{
    const vtci_attention *a = head->a;
    const size_t cols = vtci_kernels_get()->gemm_cols, tile = vtci_kernels_get()->gemm_rows;
    const size_t d = a->k.n_cols, width = at->span.end - at->span.begin;

    for (size_t h = 0; h < at->n_heads; h++)
        vtci_head_load(&a->q, head->b, at->h + h, at->m, at->m + at->n_rows,
                       head->rows + h * at->n_rows * d);
    for (size_t j = 0; j < width; j += cols)
        vtci_panel_multiply(head->logits + j, width, head->rows, d, 1, tile * d,
                            head->keys + (at->span.begin + j) * d, cols, d,
                            at->n_heads * at->n_rows, vtci_min(cols, width - j), false);
}

/* Pieces of keys begin at multiples of gemm_depth, so that sums of a row do not depend on the span
 * of its block. */
static void combine_values(const struct head *head, const struct block *at)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t e = head->a->v.n_cols, width = at->span.end - at->span.begin;
    const size_t n_rows = at->n_heads * at->n_rows, ld = head->value_stride;

    for (size_t n = at->span.begin, end; n < at->span.end; n = end) {
        end = vtci_min(at->span.end, (n / k->gemm_depth + 1) * k->gemm_depth);
        for (size_t j = 0; j < e; j += k->gemm_cols)
            vtci_panel_multiply(head->rows + j, e, head->logits + (n - at->span.begin), width, 1,
                                k->gemm_rows * width, head->values + n * ld + j, ld, end - n,
                                n_rows, vtci_min(k->gemm_cols, e - j), n != at->span.begin);
    }
    if (width == 0)
        memset(head->rows, 0, n_rows * e * sizeof(*head->rows));
}

/* The columns that any of the rows sees, from a panel's first one on. */
static struct span needed_span(const vtci_attention *a, size_t b, size_t m, size_t n_rows)
{
    const size_t cols = vtci_kernels_get()->gemm_cols;
    struct span span = { 0, a->k.n_rows };

    /* a blind row may need every key */
    if (is_masked(&a->sees) && a->sees.blind != VTCI_BLIND_MEAN)
        span = block_span(a, b, m, n_rows);
    span.begin = span.begin / cols * cols;
    return span;
}

static void attend_block(const struct head *head, const struct block *at)
{
    const vtci_attention *a = head->a;
    const size_t width = at->span.end - at->span.begin, e = a->y.n_cols;

    compute_logits(head, at);
    for (size_t i = 0; i < at->n_heads * at->n_rows; i++)
        weigh_row(a, head->b, at->h + i / at->n_rows, at->m + i % at->n_rows, at->span,
                  head->logits + i * width);
    combine_values(head, at);
    for (size_t i = 0; i < at->n_heads * at->n_rows; i++)
        vtci_store_row(vtci_head_row(&a->y, head->b, at->h + i / at->n_rows,
                                     at->m + i % at->n_rows),
                       a->y.dtype, e, head->rows + i * e);
}

/* Blocks of a K/V head are numbered rows first, then heads. */
static struct block block_at(const struct head *head, const struct shape *s, size_t index)
{
    const vtci_attention *a = head->a;
    const size_t n_down = vtci_ceil_div(a->q.n_rows, s->rows);
    const size_t h = index / n_down * s->heads, m = index % n_down * s->rows;
    struct block at = { .h = head->group * s->sharing + h,
                        .n_heads = vtci_min(s->heads, s->sharing - h),
                        .m = m,
                        .n_rows = vtci_min(s->rows, a->q.n_rows - m) };

    at.span = needed_span(a, head->b, at.m, at.n_rows);
    return at;
}

static void attend_chunk(void *job, size_t index, size_t worker)
{
    const vtci_attention *a = job;
    const struct shape s = shape_of(a);
    const struct parts parts = parts_of(a);
    const size_t in_batch = index / s.n_chunks, chunk = index % s.n_chunks;
    const size_t begin = chunk * s.n_blocks / s.n_chunks,
                 end = (chunk + 1) * s.n_blocks / s.n_chunks;
    float *slice = slice_of(a, worker);
    struct head head = { .a = a, .b = in_batch / a->k.n_heads, .group = in_batch % a->k.n_heads };

    head.keys = slice;
    head.rows = slice + parts.keys + parts.values;
    head.logits = head.rows + parts.rows;
    head.span = needed_span(a, head.b, 0, a->q.n_rows);
    load_head(&head, slice + parts.keys);
    for (size_t i = begin; i < end; i++) {
        const struct block at = block_at(&head, &s, i);

        attend_block(&head, &at);
    }
}

/* ---- hardly any rows ---------------------------------------------------------------------------
 */

static void attend_small(void *job, size_t index, size_t worker)
{
    const vtci_attention *a = job;
    const struct parts parts = parts_of(a);
    const size_t b = index / a->k.n_heads, group = index % a->k.n_heads, m = a->q.n_rows;
    const size_t n_rows = a->q.n_heads / a->k.n_heads * m, d = a->q.n_cols, e = a->v.n_cols;
    const struct span span = needed_span(a, b, 0, m);
    const size_t width = span.end - span.begin;
    float *q = slice_of(a, worker), *tmp = q + BLOCK * vtci_max(d, e), *p = q + parts.rows;

    for (size_t r = 0; r < n_rows; r += m)
        vtci_head_load(&a->q, b, (group * n_rows + r) / m, 0, m, q + r * d);
    for (size_t n = 0; n < width; n++) {
        const float *key = load_row(&a->k, b, group, span.begin + n, tmp);

        for (size_t r = 0; r < n_rows; r++)
            p[r * width + n] = vtci_kernels_get()->dot(q + r * d, key, d);
    }
    for (size_t r = 0; r < n_rows; r++) {
        const size_t h = (group * n_rows + r) / m;
        vtci_combine sum;

        weigh_row(a, b, h, r % m, span, p + r * width);
        vtci_combine_begin(&sum, tmp, e, a->v.dtype, false);
        for (size_t n = 0; n < width; n++)
            vtci_combine_add(&sum, vtci_head_row(&a->v, b, group, span.begin + n),
                             p[r * width + n]);
        vtci_combine_end(&sum);
        vtci_store_row(vtci_head_row(&a->y, b, h, r % m), a->y.dtype, e, tmp);
    }
}

void vtci_attention_run(const vtci_call *call, vtci_attention *a)
{
    const size_t n_heads = a->q.n_batch * a->k.n_heads;

    a->call = call;
    if (a->q.n_rows == 0)
        return;
    if (is_small(a))
        vtci_parallel(call, n_heads, attend_small, a);
    else
        vtci_parallel(call, n_heads * shape_of(a).n_chunks, attend_chunk, a);
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
