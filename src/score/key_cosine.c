/*
 * Minus the cosine between each key and the mean of all keys, both averaged over heads.
 *
 * Source: Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM
 * Acceleration", arXiv 2411.17686, appendix: encoders without [CLS].
 */
#include "key_cosine.h"

#include "../../include/vtc/score.h"
#include "../kernels/kernels.h"
#include "../linalg/order.h"
#include "../linalg/rows.h"

#include <math.h>

enum { BLOCK = 64 }; /* rows of one task */

void vtci_key_cosine_lay_out(vtci_arena *arena, const vtci_call *call, const vtci_heads *k,
                             vtci_key_cosine *c)
{
    c->call = call;
    c->k = *k;
    c->mean = vtci_take(arena, vtci_mul(k->n_rows, k->n_cols), sizeof(*c->mean));
    c->sum = vtci_take(arena, k->n_cols, sizeof(*c->sum));
}

static void mean_block(void *job, size_t index, size_t worker)
{
    const vtci_key_cosine *c = job;
    const vtci_heads *k = &c->k;
    const size_t end = vtci_min((index + 1) * BLOCK, k->n_rows);

    (void)worker;
    for (size_t i = index * BLOCK; i < end; i++) {
        vtci_combine mean;

        vtci_combine_begin(&mean, c->mean + i * k->n_cols, k->n_cols, k->dtype, false);
        for (size_t h = 0; h < k->n_heads; h++)
            vtci_combine_add(&mean, k->data + h * k->head_stride + i * k->row_stride,
                             1.0f / (float)k->n_heads);
        vtci_combine_end(&mean);
    }
}

static void cosine_block(void *job, size_t index, size_t worker)
{
    const vtci_key_cosine *c = job;
    const size_t d = c->k.n_cols, end = vtci_min((index + 1) * BLOCK, c->k.n_rows);

    (void)worker;
    for (size_t i = index * BLOCK; i < end; i++)
        c->y[i] = -vtci_cosine(c->mean + i * d, c->sum, d);
}

/* The sum of the rows has the direction of their mean. */
size_t vtci_key_cosine_run(vtci_key_cosine *c)
{
    const size_t n = c->k.n_rows, d = c->k.n_cols;
    vtci_combine sum;

    vtci_parallel(c->call, vtci_ceil_div(n, BLOCK), mean_block, c);
    vtci_combine_begin(&sum, c->sum, d, VTC_F32, false);
    for (size_t i = 0; i < n; i++)
        vtci_combine_add(&sum, c->mean + i * d, 1.0f / (float)n);
    vtci_combine_end(&sum);
    vtci_parallel(c->call, vtci_ceil_div(n, BLOCK), cosine_block, c);
    return vtci_find_nan(c->y, n);
}

/* ---- public ---------------------------------------------------------------------------------- */

static vtc_status open_keys(const vtci_call *call, const vtc_tensor *k, vtci_heads *heads)
{
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, k->dim[0] != 0 && k->dim[2] != 0, VTC_ERR_SHAPE,
                 "k is [%zu, %zu, %zu], without heads or channels", k->dim[0], k->dim[1],
                 k->dim[2]);
    *heads = vtci_heads_of(k);
    return VTC_OK;
}

vtc_status vtc_key_cosine_scratch(const vtc_tensor *k, const vtc_exec *exec, size_t *bytes)
{
    vtci_key_cosine c;
    vtci_heads heads;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_key_cosine_scratch", exec, bytes));
    VTCI_TRY(open_keys(&call, k, &heads));
    arena = vtci_arena_open(&call);
    vtci_take(&arena, heads.n_rows, sizeof(float));
    vtci_key_cosine_lay_out(&arena, &call, &heads, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_key_cosine(const vtc_tensor *k, float *y, const vtc_exec *exec)
{
    vtci_key_cosine c;
    vtci_heads heads;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_key_cosine", exec));
    VTCI_TRY(open_keys(&call, k, &heads));
    VTCI_REQUIRE(&call, y != NULL || heads.n_rows == 0, VTC_ERR_NULL, "y is NULL");
    VTCI_REQUIRE(&call,
                 !vtci_ranges_meet(y, heads.n_rows * sizeof(*y), k->data, vtci_span_bytes(k)),
                 VTC_ERR_OVERLAP, "y overlaps k");
    arena = vtci_arena_open(&call);
    c.y = vtci_take(&arena, heads.n_rows, sizeof(*y));
    vtci_key_cosine_lay_out(&arena, &call, &heads, &c);
    VTCI_TRY(vtci_arena_check(&call, &arena));

    const size_t bad = vtci_key_cosine_run(&c);

    VTCI_REQUIRE(&call, bad == heads.n_rows, VTC_ERR_DATA,
                 "key %zu, or the mean of all, has no direction", bad);
    for (size_t i = 0; i < heads.n_rows; i++)
        y[i] = c.y[i];
    return VTC_OK;
}
