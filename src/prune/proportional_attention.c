/*
 * Attention in which a merged token counts as often as the patches it stands for.
 *
 * Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3, "Tracking Token
 * Size":  y = softmax(scale q k^T + log(mass)) v.
 *
 * All of k is transposed once, for every head, because sgemm reads it faster that way, and v is
 * widened beside it. Then each task takes 64 query rows of a head: their logits stay in the second-
 * level cache between the two products.
 */
#include "../../include/vtc/prune.h"
#include "../kernels/kernels.h"
#include "../linalg/gemm.h"
#include "../linalg/rows.h"
#include "../linalg/transpose.h"
#include "../plan/plan.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 64 }; /* query rows, and keys, of one task */

struct attention {
    const vtci_call *call;
    vtci_rows q, k, v, y; /* [H, Q, d], [H, N, d], [H, N, d], [H, Q, d]     */
    float scale;
    float *bias;   /* [N] log(mass), or NULL                                */
    float *keys;   /* [H, d, N] k, transposed                               */
    float *values; /* [H, N, d] v, as floats                                */
    char *slices;  /* [BLOCK, N] logits and [BLOCK, d] rows per worker      */
    size_t slice_stride;
};

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status check_same(const vtci_call *call, const char *a_name, const vtc_tensor *a,
                             const char *b_name, const vtc_tensor *b)
{
    VTCI_REQUIRE(call, a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1] && a->dim[2] == b->dim[2],
                 VTC_ERR_SHAPE, "%s is [%zu, %zu, %zu], %s is [%zu, %zu, %zu]", a_name, a->dim[0],
                 a->dim[1], a->dim[2], b_name, b->dim[0], b->dim[1], b->dim[2]);
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_tensor *q, const vtc_tensor *k,
                           const vtc_tensor *v, const vtc_tensor *y, struct attention *a)
{
    VTCI_TRY(vtci_check_tensor(call, "q", q, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "v", v, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 3, 3, VTCI_OUT));
    VTCI_TRY(check_same(call, "y", y, "q", q));
    VTCI_TRY(check_same(call, "v", v, "k", k));
    VTCI_REQUIRE(call, q->dim[0] == k->dim[0] && q->dim[2] == k->dim[2], VTC_ERR_SHAPE,
                 "q has %zu heads of width %zu, k has %zu of %zu", q->dim[0], q->dim[2], k->dim[0],
                 k->dim[2]);
    VTCI_REQUIRE(call, k->dim[1] != 0 || vtci_count(y) == 0, VTC_ERR_SHAPE,
                 "there are %zu queries, but no keys", q->dim[1]);
    VTCI_TRY(vtci_check_gemm(call, q->dim[1], k->dim[1], q->dim[2]));
    VTCI_TRY(vtci_check_apart(call, "y", y, "q", q));
    VTCI_TRY(vtci_check_apart(call, "y", y, "k", k));
    VTCI_TRY(vtci_check_apart(call, "y", y, "v", v));
    a->call = call;
    a->q = vtci_rows_of(q);
    a->k = vtci_rows_of(k);
    a->v = vtci_rows_of(v);
    a->y = vtci_rows_of(y);
    return VTC_OK;
}

/* The size query does not know whether there will be masses, so the bias always has room. */
static void lay_out(vtci_arena *arena, struct attention *a)
{
    const size_t n = a->k.n_rows, d = a->k.n_cols;
    const size_t all = vtci_mul(a->k.n_batch, vtci_mul(n, d));
    const size_t floats = vtci_mul(BLOCK, vtci_add(n, d));

    a->bias = vtci_take(arena, n, sizeof(*a->bias));
    a->keys = vtci_take(arena, all, sizeof(*a->keys));
    a->values = vtci_take(arena, all, sizeof(*a->values));
    a->slices = vtci_take_slices(arena, a->call, vtci_mul(floats, sizeof(float)), &a->slice_stride);
}

/* ---- the work -------------------------------------------------------------------------------- */

/* Rows begin .. end - 1 of a head as dense floats. */
static void load_block(const vtci_rows *rows, size_t h, size_t begin, size_t end, float *to)
{
    const size_t d = rows->n_cols;

    for (size_t n = begin; n < end; n++, to += d) {
        const float *row = vtci_load_row(vtci_row(rows, h, n), rows->dtype, d, to);

        if (row != to)
            memcpy(to, row, d * sizeof(*to));
    }
}

static void pack_block(void *job, size_t index, size_t worker)
{
    const struct attention *a = job;
    const size_t n_keys = a->k.n_rows, d = a->k.n_cols;
    const size_t n_blocks = vtci_ceil_div(n_keys, BLOCK);
    const size_t h = index / n_blocks, begin = index % n_blocks * BLOCK;
    const size_t n = vtci_min(BLOCK, n_keys - begin);
    float *block = (float *)(void *)(a->slices + worker * a->slice_stride);

    load_block(&a->v, h, begin, begin + n, a->values + (h * n_keys + begin) * d);
    load_block(&a->k, h, begin, begin + n, block);
    vtci_transpose(a->keys + h * d * n_keys + begin, n_keys, block, d, n, d);
}

static void attend_block(void *job, size_t index, size_t worker)
{
    const struct attention *a = job;
    const size_t n_keys = a->k.n_rows, d = a->k.n_cols;
    const size_t n_blocks = vtci_ceil_div(a->q.n_rows, BLOCK);
    const size_t h = index / n_blocks, begin = index % n_blocks * BLOCK;
    const size_t n = vtci_min(BLOCK, a->q.n_rows - begin);
    float *rows = (float *)(void *)(a->slices + worker * a->slice_stride);
    float *p = rows + BLOCK * d;

    load_block(&a->q, h, begin, begin + n, rows);
    vtci_sgemm(a->call, false, n, n_keys, d, rows, d, a->keys + h * d * n_keys, n_keys, p, n_keys);
    for (size_t r = 0; r < n; r++)
        vtci_kernels_get()->softmax(p + r * n_keys, p + r * n_keys, a->bias, a->scale, n_keys);
    vtci_sgemm(a->call, false, n, d, n_keys, p, n_keys, a->values + h * n_keys * d, d, rows, d);
    for (size_t r = 0; r < n; r++)
        vtci_store_row(vtci_row(&a->y, h, begin + r), a->y.dtype, d, rows + r * d);
}

vtc_status vtc_proportional_attention_scratch(const vtc_tensor *q, const vtc_tensor *k,
                                              const vtc_tensor *v, const vtc_tensor *y,
                                              const vtc_exec *exec, size_t *bytes)
{
    struct attention a;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_proportional_attention_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, q, k, v, y, &a));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &a);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_proportional_attention(const vtc_tensor *q, const vtc_tensor *k, const vtc_tensor *v,
                                      const float *mass, float scale, vtc_tensor *y,
                                      const vtc_exec *exec)
{
    struct attention a;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_proportional_attention", exec));
    VTCI_TRY(open_job(&call, q, k, v, y, &a));
    VTCI_REQUIRE(&call, isfinite(scale), VTC_ERR_RANGE, "scale is %g", (double)scale);
    VTCI_REQUIRE(&call,
                 !vtci_ranges_meet(mass, mass == NULL ? 0 : a.k.n_rows * sizeof(*mass), y->data,
                                   vtci_span_bytes(y)),
                 VTC_ERR_OVERLAP, "y overlaps mass");
    VTCI_TRY(vtci_check_masses(&call, mass, a.k.n_rows));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &a);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) == 0)
        return VTC_OK;
    a.scale = scale;
    if (mass == NULL)
        a.bias = NULL;
    for (size_t n = 0; mass != NULL && n < a.k.n_rows; n++)
        a.bias[n] = (float)log(mass[n]);
    vtci_parallel(&call, a.k.n_batch * vtci_ceil_div(a.k.n_rows, BLOCK), pack_block, &a);
    vtci_parallel(&call, a.q.n_batch * vtci_ceil_div(a.q.n_rows, BLOCK), attend_block, &a);
    return VTC_OK;
}
