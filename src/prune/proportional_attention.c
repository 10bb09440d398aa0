/*
 * Attention in which a merged token counts as often as the patches it stands for.
 *
 * Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3, "Tracking Token
 * Size":  y = softmax(scale q k^T + log(mass)) v.
 */
#include "../../include/vtc/prune.h"
#include "../linalg/attention.h"
#include "../linalg/gemm.h"
#include "../plan/plan.h"

#include <math.h>

struct job {
    const vtci_call *call;
    vtci_attention attention;
    float *bias; /* [N] log(mass) */
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
                           const vtc_tensor *v, const vtc_tensor *y, struct job *job)
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
    job->call = call;
    job->attention = (vtci_attention){
        .q = vtci_heads_of(q), .k = vtci_heads_of(k), .v = vtci_heads_of(v), .y = vtci_heads_of(y)
    };
    return VTC_OK;
}

/* The size query does not know whether there will be masses, so the bias always has room. */
static void lay_out(vtci_arena *arena, struct job *job)
{
    job->bias = vtci_take(arena, job->attention.k.n_rows, sizeof(*job->bias));
    if (job->attention.k.n_heads != 0)
        vtci_attention_lay_out(arena, job->call, &job->attention);
}

vtc_status vtc_proportional_attention_scratch(const vtc_tensor *q, const vtc_tensor *k,
                                              const vtc_tensor *v, const vtc_tensor *y,
                                              const vtc_exec *exec, size_t *bytes)
{
    struct job job;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_proportional_attention_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, q, k, v, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_proportional_attention(const vtc_tensor *q, const vtc_tensor *k, const vtc_tensor *v,
                                      const float *mass, float scale, vtc_tensor *y,
                                      const vtc_exec *exec)
{
    struct job job;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_proportional_attention", exec));
    VTCI_TRY(open_job(&call, q, k, v, y, &job));
    VTCI_REQUIRE(&call, isfinite(scale), VTC_ERR_RANGE, "scale is %g", (double)scale);
    VTCI_REQUIRE(&call,
                 !vtci_ranges_meet(mass, mass == NULL ? 0 : job.attention.k.n_rows * sizeof(*mass),
                                   y->data, vtci_span_bytes(y)),
                 VTC_ERR_OVERLAP, "y overlaps mass");
    VTCI_TRY(vtci_check_masses(&call, mass, job.attention.k.n_rows));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) == 0)
        return VTC_OK;
    job.attention.scale = scale;
    job.attention.bias = mass == NULL ? NULL : job.bias;
    for (size_t n = 0; mass != NULL && n < job.attention.k.n_rows; n++)
        job.bias[n] = (float)log(mass[n]);
    vtci_attention_run(&call, &job.attention);
    return VTC_OK;
}
