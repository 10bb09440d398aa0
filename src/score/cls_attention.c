/*
 * The attention of one query per head: [CLS] in an encoder, the last token in a decoder.
 *
 *     a_h = softmax(scale q_h k_h^T)    mean or sum over heads, or each
 *
 * K is read once, in dot products, so that this runs at the pace of memory. Tasks are spans of keys
 * of a head: a single head as wide as C, PruMerge's, is work for several workers too. Where the
 * mean of the keys over heads is wanted too, they are spans of all heads, and keys are added to it
 * while they are in registers.
 */
#include "cls_attention.h"

#include "../kernels/kernels.h"
#include "../linalg/attention.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

enum { SPAN = 256, SPAN_OF_ALL = 32, WIDENED = 16 }; /* keys of a task; those widened at once */

struct cls {
    vtc_cls_attention_params params; /* scale and n_cols as they are used */
    vtci_rows q;                     /* [H, d]                            */
    vtci_heads k;                    /* [G, N, d]                         */
    vtci_rows k_cls;                 /* [G, d]; data NULL: none           */
    size_t n_keys;                   /* in the softmax, N or N + 1        */
    float *p;                        /* [H, n_keys], the extra key last   */
    float *mean;                     /* [N, d], or NULL                   */
    char *slices;                    /* a widened query, widened keys     */
    size_t slice_stride;
};

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status check_views(const vtci_call *call, const vtc_tensor *q, const vtc_tensor *k,
                              const vtc_tensor *k_cls)
{
    VTCI_TRY(vtci_check_tensor(call, "q_cls", q, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, q->dim[0] == 0 || (k->dim[0] != 0 && q->dim[0] % k->dim[0] == 0),
                 VTC_ERR_SHAPE, "%zu query heads cannot share %zu key heads", q->dim[0], k->dim[0]);
    VTCI_REQUIRE(call, q->dim[1] == k->dim[2], VTC_ERR_SHAPE, "q_cls is %zu wide, k is %zu",
                 q->dim[1], k->dim[2]);
    if (k_cls == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "k_cls", k_cls, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, k_cls->dim[0] == k->dim[0] && k_cls->dim[1] == k->dim[2], VTC_ERR_SHAPE,
                 "k_cls is [%zu, %zu], k has %zu heads of width %zu", k_cls->dim[0], k_cls->dim[1],
                 k->dim[0], k->dim[2]);
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_cls_attention_params *from, size_t d,
                              size_t n_keys, vtc_cls_attention_params *p)
{
    const vtc_cls_attention_params defaults = VTC_CLS_ATTENTION_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), from));
    VTCI_REQUIRE(call, isfinite(p->scale) && p->scale >= 0.0f, VTC_ERR_RANGE,
                 "scale is %g, it must be positive, or 0 for 1 / sqrt(d)", (double)p->scale);
    VTCI_REQUIRE(call, (unsigned)p->heads <= VTC_HEADS_EACH, VTC_ERR_RANGE,
                 "heads is %d, no vtc_head_reduction", (int)p->heads);
    VTCI_REQUIRE(call, p->first_col <= n_keys, VTC_ERR_RANGE, "first_col is %zu, k has %zu keys",
                 p->first_col, n_keys);
    if (p->n_cols == SIZE_MAX)
        p->n_cols = n_keys - p->first_col;
    VTCI_REQUIRE(call, p->n_cols <= n_keys - p->first_col, VTC_ERR_RANGE,
                 "%zu columns from %zu on are asked for, k has %zu keys", p->n_cols, p->first_col,
                 n_keys);
    if (p->scale == 0.0f)
        p->scale = d == 0 ? 1.0f : (float)(1.0 / sqrt((double)d));
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_cls_attention_params *params,
                           const vtc_tensor *q, const vtc_tensor *k, const vtc_tensor *k_cls,
                           struct cls *c)
{
    VTCI_TRY(check_views(call, q, k, k_cls));
    VTCI_TRY(open_params(call, params, k->dim[2], k->dim[1], &c->params));
    c->q = vtci_rows_of(q);
    c->k = vtci_heads_of(k);
    c->mean = NULL;
    memset(&c->k_cls, 0, sizeof(c->k_cls));
    if (k_cls != NULL)
        c->k_cls = vtci_rows_of(k_cls);
    c->n_keys = vtci_add(k->dim[1], k_cls != NULL);
    return VTC_OK;
}

static bool is_wide(const struct cls *c)
{
    return c->q.dtype == VTC_F32 && c->k.dtype == VTC_F32 &&
           (c->k_cls.dtype == (vtc_dtype)0 || c->k_cls.dtype == VTC_F32);
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct cls *c)
{
    const size_t floats = is_wide(c) ? 0 : vtci_mul(1 + WIDENED, c->q.n_cols);

    c->p = vtci_take(arena, vtci_mul(c->q.n_rows, c->n_keys), sizeof(*c->p));
    c->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &c->slice_stride);
}

static vtc_status check_output(const vtci_call *call, const struct cls *c, const vtc_tensor *q,
                               const vtc_tensor *k, const vtc_tensor *k_cls, const float *a)
{
    const size_t n_rows = c->params.heads == VTC_HEADS_EACH ? c->q.n_rows : 1;
    const size_t bytes = vtci_mul(vtci_mul(n_rows, c->params.n_cols), sizeof(*a));

    VTCI_REQUIRE(call, a != NULL || bytes == 0, VTC_ERR_NULL, "a is NULL");
    VTCI_REQUIRE(call, !vtci_ranges_meet(a, bytes, q->data, vtci_span_bytes(q)), VTC_ERR_OVERLAP,
                 "a overlaps q_cls");
    VTCI_REQUIRE(call, !vtci_ranges_meet(a, bytes, k->data, vtci_span_bytes(k)), VTC_ERR_OVERLAP,
                 "a overlaps k");
    VTCI_REQUIRE(call,
                 k_cls == NULL || !vtci_ranges_meet(a, bytes, k_cls->data, vtci_span_bytes(k_cls)),
                 VTC_ERR_OVERLAP, "a overlaps k_cls");
    return VTC_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

static size_t n_spans(const struct cls *c)
{
    return vtci_ceil_div(c->n_keys, SPAN);
}

/* Rows of keys and, unless NULL, where their mean over heads is gathered. */
struct keys {
    const char *data;
    size_t stride, n;
    vtc_dtype dtype;
    float *mean;
};

/* y[i] = q k_i */
static void multiply_keys(float *y, const float *q, const struct keys *keys, size_t d, float weight,
                          float *tmp)
{
    const vtci_kernels *kernels = vtci_kernels_get();

    if (keys->dtype == VTC_F32) {
        kernels->dot_rows(y, q, (const float *)(const void *)keys->data,
                          keys->stride / sizeof(float), keys->n, d, keys->mean, weight);
        return;
    }
    for (size_t i = 0; i < keys->n; i += WIDENED) {
        const size_t n = vtci_min(WIDENED, keys->n - i);

        for (size_t j = 0; j < n; j++)
            vtci_load_row(keys->data + (i + j) * keys->stride, keys->dtype, d, tmp + j * d);
        kernels->dot_rows(y + i, q, tmp, d, n, d, keys->mean == NULL ? NULL : keys->mean + i * d,
                          weight);
    }
}

/* Logits of keys begin .. end - 1 of a head. */
static void multiply_head(const struct cls *c, size_t h, size_t begin, size_t end, float *mean,
                          size_t worker)
{
    const size_t d = c->q.n_cols, n_shared = c->q.n_rows / c->k.n_heads, group = h / n_shared;
    const struct keys keys = { vtci_head_row(&c->k, 0, group, begin), c->k.row_stride,
                               vtci_min(end, c->k.n_rows) - begin, c->k.dtype, mean };
    float *tmp =
        c->slice_stride == 0 ? NULL : (float *)(void *)(c->slices + worker * c->slice_stride);
    const float *q = vtci_load_row(vtci_row(&c->q, 0, h), c->q.dtype, d, tmp);
    float *p = c->p + h * c->n_keys + begin;

    if (tmp != NULL)
        tmp += d;
    multiply_keys(p, q, &keys, d, 1.0f / (float)c->k.n_heads, tmp);
    if (end > c->k.n_rows) {
        const struct keys extra = { vtci_row(&c->k_cls, 0, group), 0, 1, c->k_cls.dtype, NULL };

        multiply_keys(p + keys.n, q, &extra, d, 0.0f, tmp);
    }
}

static void multiply_span(void *job, size_t index, size_t worker)
{
    const struct cls *c = job;
    const size_t begin = index % n_spans(c) * SPAN;

    multiply_head(c, index / n_spans(c), begin, vtci_min(begin + SPAN, c->n_keys), NULL, worker);
}

/* A head of keys is added to the mean with the first of the queries that share it. */
static void multiply_span_of_all(void *job, size_t index, size_t worker)
{
    const struct cls *c = job;
    const size_t begin = index * SPAN_OF_ALL, end = vtci_min(begin + SPAN_OF_ALL, c->n_keys);
    const size_t n = vtci_min(end, c->k.n_rows) - begin, n_shared = c->q.n_rows / c->k.n_heads;
    float *mean = c->mean + begin * c->q.n_cols;

    memset(mean, 0, n * c->q.n_cols * sizeof(*mean));
    for (size_t h = 0; h < c->q.n_rows; h++)
        multiply_head(c, h, begin, end, h % n_shared == 0 ? mean : NULL, worker);
}

static void normalise_head(void *job, size_t h, size_t worker)
{
    const struct cls *c = job;
    float *p = c->p + h * c->n_keys;

    (void)worker;
    vtci_kernels_get()->softmax(p, p, NULL, c->params.scale, c->n_keys);
}

static void write_heads(const struct cls *c, float *a)
{
    const size_t n = c->params.n_cols;
    const float weight = c->params.heads == VTC_HEADS_SUM ? 1.0f : 1.0f / (float)c->q.n_rows;
    vtci_combine sum;

    if (c->params.heads == VTC_HEADS_EACH) {
        for (size_t h = 0; h < c->q.n_rows; h++)
            memcpy(a + h * n, c->p + h * c->n_keys + c->params.first_col, n * sizeof(*a));
        return;
    }
    vtci_combine_begin(&sum, a, n, VTC_F32, false);
    for (size_t h = 0; h < c->q.n_rows; h++)
        vtci_combine_add(&sum, c->p + h * c->n_keys + c->params.first_col, weight);
    vtci_combine_end(&sum);
}

vtc_status vtc_cls_attention_scratch(const vtc_cls_attention_params *params,
                                     const vtc_tensor *q_cls, const vtc_tensor *k,
                                     const vtc_tensor *k_cls, const vtc_exec *exec, size_t *bytes)
{
    struct cls c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_cls_attention_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, q_cls, k, k_cls, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtci_cls_attention_check(const vtci_call *call, const vtc_cls_attention_params *params,
                                    const vtc_tensor *q_cls, const vtc_tensor *k,
                                    const vtc_tensor *k_cls)
{
    struct cls c;

    return open_job(call, params, q_cls, k, k_cls, &c);
}

vtc_status vtci_cls_attention_and_mean(const vtc_cls_attention_params *params,
                                       const vtc_tensor *q_cls, const vtc_tensor *k,
                                       const vtc_tensor *k_cls, float *a, float *mean,
                                       const vtc_exec *exec)
{
    struct cls c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_cls_attention", exec));
    VTCI_TRY(open_job(&call, params, q_cls, k, k_cls, &c));
    VTCI_REQUIRE(&call, mean == NULL || c.q.n_rows != 0, VTC_ERR_SHAPE, "q_cls has no heads");
    VTCI_TRY(check_output(&call, &c, q_cls, k, k_cls, a));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &c);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (c.params.n_cols == 0)
        return VTC_OK;
    c.mean = mean;
    if (mean != NULL)
        vtci_parallel(&call, vtci_ceil_div(c.n_keys, SPAN_OF_ALL), multiply_span_of_all, &c);
    else
        vtci_parallel(&call, c.q.n_rows * n_spans(&c), multiply_span, &c);
    vtci_parallel(&call, c.q.n_rows, normalise_head, &c);
    write_heads(&c, a);
    return VTC_OK;
}

vtc_status vtc_cls_attention(const vtc_cls_attention_params *params, const vtc_tensor *q_cls,
                             const vtc_tensor *k, const vtc_tensor *k_cls, float *a,
                             const vtc_exec *exec)
{
    return vtci_cls_attention_and_mean(params, q_cls, k, k_cls, a, NULL, exec);
}
