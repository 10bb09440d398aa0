/*
 * The attention of one query per head: [CLS] in an encoder, the last token in a decoder.
 *
 *     a_h = softmax(scale q_h k_h^T)    mean or sum over heads, or each
 *
 * K is read once, in dot products, so that this runs at the pace of memory. Tasks are spans of keys
 * of a head: a single head as wide as C, PruMerge's, is work for several workers too.
 *
 * Where the mean of the keys over heads is wanted as well, it is formed while they are in
 * registers, and tasks are spans of all heads. Their exponentials are then taken by span too, few
 * of them by one worker. All spans of a head share one largest logit: equal logits keep equal bits.
 */
#include "cls_attention.h"

#include "../kernels/kernels.h"
#include "../linalg/attention.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* Keys of a task: of a head, and of all heads. WIDENED: those made floats at once. RAISED: the
 * exponentials of a task, as many as one worker takes before two would be faster. */
enum { SPAN = 256, SPAN_OF_ALL = 32, WIDENED = 16, RAISED = 16384 };

struct cls {
    vtc_cls_attention_params params; /* scale and n_cols as they are used */
    vtci_rows q;                     /* [H, d]                            */
    vtci_heads k;                    /* [G, N, d]                         */
    vtci_heads k_cls;                /* [G, 1, d]; data NULL: none        */
    size_t n_keys;                   /* in the softmax, N or N + 1        */
    float *p;                        /* [H, n_keys], the extra key last   */
    float *part;                     /* [n_spans, H] maxima, later sums   */
    float *head;                     /* [H] the largest logit; then what makes p softmax */
    float *mean;                     /* [N, d], or NULL                   */
    char *slices;                    /* widened queries and keys          */
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
    c->k_cls = (vtci_heads){ 0 };
    if (k_cls != NULL) {
        const vtci_rows rows = vtci_rows_of(k_cls);

        c->k_cls = (vtci_heads){ rows.data, rows.dtype,      1, rows.n_rows, 1, rows.n_cols,
                                 0,         rows.row_stride, 0 };
    }
    c->n_keys = vtci_add(k->dim[1], k_cls != NULL);
    return VTC_OK;
}

static bool is_wide(const struct cls *c)
{
    return c->q.dtype == VTC_F32 && c->k.dtype == VTC_F32 &&
           (c->k_cls.dtype == (vtc_dtype)0 || c->k_cls.dtype == VTC_F32);
}

static size_t n_spans(const struct cls *c, size_t span)
{
    return vtci_ceil_div(c->n_keys, span);
}

/* Head by head a task needs a query and some keys, with the mean all queries and keys of all heads.
 */
static void lay_out(vtci_arena *arena, const vtci_call *call, bool averages, struct cls *c)
{
    const size_t n_heads = averages ? c->q.n_rows : 1, n_groups = averages ? c->k.n_heads : 1;
    const size_t n_rows = is_wide(c) ? 0 : vtci_add(n_heads, vtci_mul(WIDENED, n_groups));
    const size_t n_parts = averages ? vtci_mul(n_spans(c, SPAN_OF_ALL), c->q.n_rows) : 0;

    c->p = vtci_take(arena, vtci_mul(c->q.n_rows, c->n_keys), sizeof(*c->p));
    c->part = vtci_take(arena, n_parts, sizeof(*c->part));
    c->head = vtci_take(arena, c->q.n_rows, sizeof(*c->head));
    c->slices =
        vtci_take_slices(arena, call, vtci_mul(vtci_mul(n_rows, c->q.n_cols), sizeof(float)),
                         &c->slice_stride);
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

/* Queries as floats: in place, or in tmp [n, d]. */
static const float *load_queries(const struct cls *c, size_t first, size_t n, float *tmp,
                                 size_t *stride)
{
    const size_t d = c->q.n_cols;

    if (c->q.dtype == VTC_F32) {
        *stride = c->q.row_stride / sizeof(float);
        return (const float *)(const void *)vtci_row(&c->q, 0, first);
    }
    for (size_t h = 0; h < n; h++)
        vtci_load_row(vtci_row(&c->q, 0, first + h), c->q.dtype, d, tmp + h * d);
    *stride = d;
    return tmp;
}

/* Rows begin .. begin + n - 1 of h->n_groups heads as floats: in place, or in tmp [.., WIDENED, d].
 */
static void load_keys(const vtci_heads *k, size_t first, size_t begin, size_t n, float *tmp,
                      vtci_shared_heads *h)
{
    const size_t d = k->n_cols;

    if (k->dtype == VTC_F32) {
        h->z = (const float *)(const void *)vtci_head_row(k, 0, first, begin);
        h->z_step = k->head_stride / sizeof(float);
        h->stride = k->row_stride / sizeof(float);
        return;
    }
    for (size_t g = 0; g < h->n_groups; g++)
        for (size_t i = 0; i < n; i++)
            vtci_load_row(vtci_head_row(k, 0, first + g, begin + i), k->dtype, d,
                          tmp + (g * WIDENED + i) * d);
    h->z = tmp;
    h->z_step = WIDENED * d;
    h->stride = d;
}

/* p [.., p_stride] = the products of n rows of keys with the queries, and their mean unless NULL.
 */
static void multiply_rows(const vtci_shared_heads *h, size_t n, float *p, size_t p_stride,
                          float *mean)
{
    const vtci_kernels *kernels = vtci_kernels_get();

    if (mean != NULL) {
        kernels->dot_heads(p, p_stride, mean, h, n);
        return;
    }
    for (size_t a = 0; a < h->n_groups * h->n_shared; a++)
        kernels->dot_rows(p + a * p_stride, h->x + a * h->x_stride,
                          h->z + a / h->n_shared * h->z_step, h->stride, n, h->n);
}

static float *slice_of(const struct cls *c, size_t worker)
{
    return c->slice_stride == 0 ? NULL : (float *)(void *)(c->slices + worker * c->slice_stride);
}

/* Logits of keys begin .. end - 1, of which the last may be that of [CLS], with the queries of a
 * head or of all, and the mean of these keys unless NULL. */
static void multiply_keys(const struct cls *c, size_t first, size_t n_heads, size_t begin,
                          size_t end, float *mean, size_t worker)
{
    const size_t d = c->q.n_cols, n_shared = c->q.n_rows / c->k.n_heads;
    const size_t group = first / n_shared, n_rows = vtci_min(end, c->k.n_rows);
    const size_t step = c->k.dtype == VTC_F32 ? end - begin : WIDENED;
    float *q = slice_of(c, worker), *z = q == NULL ? NULL : q + n_heads * d;
    float *p = c->p + first * c->n_keys;
    vtci_shared_heads h = { .n_groups = vtci_ceil_div(n_heads, n_shared), .n = d };

    h.n_shared = n_heads / h.n_groups;
    h.x = load_queries(c, first, n_heads, q, &h.x_stride);
    for (size_t i = begin; i < n_rows; i += step) {
        const size_t n = vtci_min(step, n_rows - i);

        load_keys(&c->k, group, i, n, z, &h);
        multiply_rows(&h, n, p + i, c->n_keys, mean == NULL ? NULL : mean + (i - begin) * d);
    }
    if (end > c->k.n_rows) {
        load_keys(&c->k_cls, group, 0, 1, z, &h);
        multiply_rows(&h, 1, p + end - 1, c->n_keys, NULL);
    }
}

/* ---- head by head ---------------------------------------------------------------------------- */

static void multiply_span(void *job, size_t index, size_t worker)
{
    const struct cls *c = job;
    const size_t n = n_spans(c, SPAN), begin = index % n * SPAN;

    multiply_keys(c, index / n, 1, begin, vtci_min(begin + SPAN, c->n_keys), NULL, worker);
}

static void normalise_head(void *job, size_t h, size_t worker)
{
    const struct cls *c = job;
    float *p = c->p + h * c->n_keys;

    (void)worker;
    vtci_kernels_get()->softmax(p, p, NULL, c->params.scale, c->n_keys);
    c->head[h] = 1.0f;
}

static void attend_by_head(const vtci_call *call, struct cls *c)
{
    vtci_parallel(call, c->q.n_rows * n_spans(c, SPAN), multiply_span, c);
    vtci_parallel(call, c->q.n_rows, normalise_head, c);
}

/* ---- all heads, and the mean of the keys ----------------------------------------------------- */

/* The logits of a span, and the largest of each head. */
static void multiply_span_of_all(void *job, size_t index, size_t worker)
{
    const struct cls *c = job;
    const size_t begin = index * SPAN_OF_ALL, end = vtci_min(begin + SPAN_OF_ALL, c->n_keys);

    multiply_keys(c, 0, c->q.n_rows, begin, end, c->mean + begin * c->q.n_cols, worker);
    for (size_t h = 0; h < c->q.n_rows; h++)
        c->part[index * c->q.n_rows + h] =
            vtci_kernels_get()->max(c->p + h * c->n_keys + begin, end - begin);
}

static void find_largest(const struct cls *c)
{
    const size_t n_heads = c->q.n_rows;

    for (size_t h = 0; h < n_heads; h++)
        c->head[h] = -INFINITY;
    for (size_t i = 0; i < n_spans(c, SPAN_OF_ALL); i++)
        for (size_t h = 0; h < n_heads; h++)
            c->head[h] = fmaxf(c->head[h], c->part[i * n_heads + h]);
}

/* Keys of a task that takes exponentials: not fewer than in SPAN_OF_ALL, for which c->part is. */
static size_t raised(const struct cls *c)
{
    return vtci_max(SPAN_OF_ALL, RAISED / c->q.n_rows);
}

static void raise_span(void *job, size_t index, size_t worker)
{
    const struct cls *c = job;
    const size_t begin = index * raised(c), n = vtci_min(raised(c), c->n_keys - begin);
    const float scale = c->params.scale;

    (void)worker;
    for (size_t h = 0; h < c->q.n_rows; h++) {
        float *p = c->p + h * c->n_keys + begin;

        c->part[index * c->q.n_rows + h] =
            vtci_kernels_get()->exp_sum(p, p, scale, scale * c->head[h], n);
    }
}

static void find_shares(const struct cls *c)
{
    for (size_t h = 0; h < c->q.n_rows; h++) {
        double sum = 0.0;

        for (size_t i = 0; i < n_spans(c, raised(c)); i++)
            sum += c->part[i * c->q.n_rows + h];
        c->head[h] = (float)(1.0 / sum);
    }
}

static void attend_and_average(const vtci_call *call, struct cls *c)
{
    vtci_parallel(call, n_spans(c, SPAN_OF_ALL), multiply_span_of_all, c);
    find_largest(c);
    vtci_parallel(call, n_spans(c, raised(c)), raise_span, c);
    find_shares(c);
}

/* ---- the call -------------------------------------------------------------------------------- */

static void write_heads(const struct cls *c, float *a)
{
    const size_t n = c->params.n_cols, n_heads = c->q.n_rows;
    const float weight = c->params.heads == VTC_HEADS_MEAN ? 1.0f / (float)n_heads : 1.0f;
    vtci_combine sum;

    if (c->params.heads == VTC_HEADS_EACH) {
        for (size_t h = 0; h < n_heads; h++)
            vtci_kernels_get()->scale(a + h * n, c->p + h * c->n_keys + c->params.first_col,
                                      c->head[h], n);
        return;
    }
    vtci_combine_begin(&sum, a, n, VTC_F32, false);
    for (size_t h = 0; h < n_heads; h++)
        vtci_combine_add(&sum, c->p + h * c->n_keys + c->params.first_col, weight * c->head[h]);
    vtci_combine_end(&sum);
}

vtc_status vtci_cls_attention_query(const vtc_cls_attention_params *params, const vtc_tensor *q_cls,
                                    const vtc_tensor *k, const vtc_tensor *k_cls, bool averages,
                                    const vtc_exec *exec, size_t *bytes)
{
    struct cls c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_cls_attention_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, q_cls, k, k_cls, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, averages, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_cls_attention_scratch(const vtc_cls_attention_params *params,
                                     const vtc_tensor *q_cls, const vtc_tensor *k,
                                     const vtc_tensor *k_cls, const vtc_exec *exec, size_t *bytes)
{
    return vtci_cls_attention_query(params, q_cls, k, k_cls, false, exec, bytes);
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
    lay_out(&arena, &call, mean != NULL, &c);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (c.params.n_cols == 0)
        return VTC_OK;
    c.mean = c.q.n_cols == 0 ? NULL : mean;
    if (c.mean != NULL)
        attend_and_average(&call, &c);
    else
        attend_by_head(&call, &c);
    write_heads(&c, a);
    return VTC_OK;
}

vtc_status vtc_cls_attention(const vtc_cls_attention_params *params, const vtc_tensor *q_cls,
                             const vtc_tensor *k, const vtc_tensor *k_cls, float *a,
                             const vtc_exec *exec)
{
    return vtci_cls_attention_and_mean(params, q_cls, k, k_cls, a, NULL, exec);
}
