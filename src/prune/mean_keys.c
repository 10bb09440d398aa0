/*
 * The mean of a layer's keys over its heads: ToMe's metric.
 *
 * Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3, "Token
 * Similarity".
 */
#include "../../include/vtc/prune.h"
#include "../linalg/rows.h"

enum { BLOCK = 64 }; /* rows of one task */

struct mean_keys {
    vtci_rows k; /* [H, N, d] */
    vtci_rows y; /* [N, d]    */
    float weight;
    char *slices;
    size_t slice_stride;
};

static vtc_status open_job(const vtci_call *call, const vtc_tensor *k, const vtc_tensor *metric,
                           struct mean_keys *m)
{
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "metric", metric, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, k->dim[0] != 0, VTC_ERR_SHAPE, "k has no heads");
    VTCI_REQUIRE(call, metric->dim[0] == k->dim[1] && metric->dim[1] == k->dim[2], VTC_ERR_SHAPE,
                 "metric is [%zu, %zu], the heads of k are [%zu, %zu]", metric->dim[0],
                 metric->dim[1], k->dim[1], k->dim[2]);
    VTCI_TRY(vtci_check_apart(call, "metric", metric, "k", k));
    m->k = vtci_rows_of(k);
    m->y = vtci_rows_of(metric);
    m->weight = 1.0f / (float)m->k.n_batch;
    return VTC_OK;
}

/* A worker holds one output row, where that is not F32. */
static void lay_out(vtci_arena *arena, const vtci_call *call, struct mean_keys *m)
{
    const size_t floats = m->y.dtype == VTC_F32 ? 0 : m->k.n_cols;

    m->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &m->slice_stride);
}

/* Whether rows follow each other without a gap, so that several are one long row. */
static bool is_dense(const vtci_rows *rows)
{
    return rows->row_stride == rows->n_cols * vtc_dtype_size(rows->dtype);
}

/* Row n, or `d` values from it on. */
static void mean_row(const struct mean_keys *m, size_t n, size_t d, float *tmp)
{
    void *row = vtci_row(&m->y, 0, n);
    float *y = vtci_row_buffer(row, m->y.dtype, tmp);
    vtci_combine sum;

    vtci_combine_begin(&sum, y, d, m->k.dtype, false);
    for (size_t h = 0; h < m->k.n_batch; h++)
        vtci_combine_add(&sum, vtci_row(&m->k, h, n), m->weight);
    vtci_combine_end(&sum);
    vtci_store_row(row, m->y.dtype, d, y);
}

static void mean_block(void *job, size_t index, size_t worker)
{
    const struct mean_keys *m = job;
    const size_t end = vtci_min((index + 1) * BLOCK, m->k.n_rows);
    float *tmp = NULL;

    if (m->slice_stride != 0)
        tmp = (float *)(void *)(m->slices + worker * m->slice_stride);
    if (is_dense(&m->k) && is_dense(&m->y) && m->y.dtype == VTC_F32) {
        mean_row(m, index * BLOCK, (end - index * BLOCK) * m->k.n_cols, tmp);
        return;
    }
    for (size_t n = index * BLOCK; n < end; n++)
        mean_row(m, n, m->k.n_cols, tmp);
}

vtc_status vtc_mean_keys_scratch(const vtc_tensor *k, const vtc_tensor *metric,
                                 const vtc_exec *exec, size_t *bytes)
{
    struct mean_keys m;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mean_keys_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, k, metric, &m));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &m);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mean_keys(const vtc_tensor *k, vtc_tensor *metric, const vtc_exec *exec)
{
    struct mean_keys m;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_mean_keys", exec));
    VTCI_TRY(open_job(&call, k, metric, &m));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &m);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    vtci_parallel(&call, vtci_ceil_div(m.k.n_rows, BLOCK), mean_block, &m);
    return VTC_OK;
}
