/*
 * Token MLPs: LLaVA's `linear`, `mlp{n}x_gelu`, `mlp{n}x_res{m}x_gelu` and `identity`.
 *
 *   x -> L0 -> act -> L1 -> ... -> L(n-1) -> block 0 -> ... -> block m-1
 *   block   u = LayerNorm(x), y = u + fc2(act(fc1(u)))
 *
 * Source: LLaVA-NeXT's build_vision_projector. The skip adds the normalised u there too.
 */
#include "../../include/vtc/project.h"

#include "../linalg/rows.h"
#include "chain.h"

#include <stddef.h>
#include <string.h>

static const vtc_weight linear_weights[] = {
    { "weight", offsetof(vtc_linear, weight), 2, 0 },
    { "bias", offsetof(vtc_linear, bias), 1, 1 },
};
const vtc_weight_table vtc_linear_table = { "linear", linear_weights, 2 };

static const vtc_weight residual_weights[] = {
    { "pre_norm.weight", offsetof(vtc_mlp_residual, pre_norm.weight), 1, 0 },
    { "pre_norm.bias", offsetof(vtc_mlp_residual, pre_norm.bias), 1, 1 },
    { "proj.0.weight", offsetof(vtc_mlp_residual, fc1.weight), 2, 0 },
    { "proj.0.bias", offsetof(vtc_mlp_residual, fc1.bias), 1, 1 },
    { "proj.2.weight", offsetof(vtc_mlp_residual, fc2.weight), 2, 0 },
    { "proj.2.bias", offsetof(vtc_mlp_residual, fc2.bias), 1, 1 },
};
const vtc_weight_table vtc_mlp_residual_table = { "mlp residual block", residual_weights, 6 };

struct job {
    vtc_mlp_params params;
    const vtc_mlp_weights *weights;
    vtci_chain chain;

    /* the identity */
    vtci_rows x, y;
    char *slices;
    size_t slice_stride;
};

static vtci_step residual_step(const struct job *job, size_t i)
{
    const vtc_mlp_residual *block = &job->weights->residual[i / 2];
    const vtci_step steps[] = {
        { "residual fc1", &block->fc1, &block->pre_norm, job->params.act, false },
        { "residual fc2", &block->fc2, NULL, VTC_ACT_NONE, true },
    };

    return steps[i % 2];
}

static vtci_step step_of(const void *p, size_t i)
{
    const struct job *job = p;
    const vtc_mlp_weights *w = job->weights;

    if (i >= w->n_linear)
        return residual_step(job, i - w->n_linear);

    const vtc_activation act = i + 1 < w->n_linear ? job->params.act : VTC_ACT_NONE;
    const vtci_step layer = { "linear", &w->linear[i], NULL, act, false };

    return layer;
}

static vtc_status open_weights(const vtci_call *call, const vtc_mlp_weights *weights,
                               struct job *job)
{
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_REQUIRE(call, weights->linear != NULL || weights->n_linear == 0, VTC_ERR_NULL,
                 "linear is NULL, n_linear is %zu", weights->n_linear);
    VTCI_REQUIRE(call, weights->n_linear <= INT32_MAX && weights->n_residual <= INT32_MAX,
                 VTC_ERR_OVERFLOW, "%zu linear layers, %zu residual blocks", weights->n_linear,
                 weights->n_residual);
    VTCI_REQUIRE(call, weights->residual != NULL || weights->n_residual == 0, VTC_ERR_NULL,
                 "residual is NULL, n_residual is %zu", weights->n_residual);
    job->weights = weights;
    job->chain.n_steps = weights->n_linear + 2 * weights->n_residual;
    job->chain.step = step_of;
    job->chain.model = job;
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_mlp_params *params,
                           const vtc_mlp_weights *weights, const vtc_tensor *x, const vtc_tensor *y,
                           struct job *job)
{
    static const vtc_mlp_params defaults = VTC_MLP_PARAMS_INIT;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_TRY(vtci_check_activation(call, job->params.act));
    VTCI_TRY(vtci_check_norm(call, VTC_NORM_LAYER, job->params.eps));
    VTCI_TRY(open_weights(call, weights, job));
    VTCI_TRY(vtci_check_tokens(call, x, y));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    job->chain.x = vtci_join_rows(&job->x);
    job->chain.norm = VTC_NORM_LAYER;
    job->chain.eps = job->params.eps;
    job->chain.prepared = job->params.prepared;
    return VTC_OK;
}

/* ---- identity -------------------------------------------------------------------------------- */

static vtc_status open_identity(const vtci_call *call, vtci_arena *arena, struct job *job)
{
    const bool wide = job->x.dtype != job->y.dtype && job->y.dtype != VTC_F32;

    VTCI_REQUIRE(call, job->x.n_cols == job->y.n_cols && job->x.n_rows == job->y.n_rows,
                 VTC_ERR_SHAPE, "x has %zu tokens of %zu channels, y has %zu of %zu", job->x.n_rows,
                 job->x.n_cols, job->y.n_rows, job->y.n_cols);
    job->slices = vtci_take_slices(arena, call, wide ? vtci_mul(job->x.n_cols, sizeof(float)) : 0,
                                   &job->slice_stride);
    return VTC_OK;
}

static void copy_token(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t b = index / job->x.n_rows, i = index % job->x.n_rows;
    float *tmp =
        job->slice_stride == 0 ? NULL : (float *)(void *)(job->slices + worker * job->slice_stride);

    vtci_copy_row(vtci_row(&job->y, b, i), job->y.dtype, vtci_row(&job->x, b, i), job->x.dtype,
                  job->x.n_cols, tmp);
}

static vtc_status run_identity(const vtci_call *call, struct job *job)
{
    vtci_arena arena = vtci_arena_open(call);

    VTCI_TRY(open_identity(call, &arena, job));
    VTCI_TRY(vtci_arena_check(call, &arena));
    vtci_parallel(call, job->x.n_batch * job->x.n_rows, copy_token, job);
    return VTC_OK;
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_mlp_prepare_size(const vtc_mlp_weights *weights, const vtc_exec *exec, size_t *bytes)
{
    struct job job = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mlp_prepare_size", exec, bytes));
    VTCI_TRY(open_weights(&call, weights, &job));
    return vtci_chain_prepare_size(&call, &job.chain, bytes);
}

vtc_status vtc_mlp_prepare(const vtc_mlp_weights *weights, vtc_prepared *prepared,
                           const vtc_exec *exec)
{
    struct job job = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mlp_prepare", exec));
    VTCI_TRY(open_weights(&call, weights, &job));
    return vtci_chain_prepare(&call, &job.chain, prepared);
}

vtc_status vtc_mlp_scratch(const vtc_mlp_params *params, const vtc_mlp_weights *weights,
                           const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                           size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mlp_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    if (job.chain.n_steps != 0)
        return vtci_chain_walk(&call, &job.chain, y, bytes);
    arena = vtci_arena_open(&call);
    VTCI_TRY(open_identity(&call, &arena, &job));
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mlp(const vtc_mlp_params *params, const vtc_mlp_weights *weights,
                   const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_mlp", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    if (job.chain.n_steps != 0)
        return vtci_chain_walk(&call, &job.chain, y, NULL);
    return run_identity(&call, &job);
}
