/*
 * LLaVA's pooler: a 2x2 convolution with stride 2, an activation, a linear layer.
 *
 *   y[i, j] = proj(act(sum over di, dj of W[:, :, di, dj] x[2i + di, 2j + dj] + b))
 *
 * The weights [D, C, 2, 2] are the matrix [D, 4C] as they stand when the four tokens are joined
 * channel by channel, so it is the tokens that are reordered: C values each instead of D C.
 *
 * Source: LLaVA-NeXT's PoolerProjector.
 */
#include "../../include/vtc/project.h"

#include "chain.h"

#include <stddef.h>
#include <string.h>

enum { SIDE = 2 };

static const vtc_weight pooler_weights[] = {
    { "conv_pool.weight", offsetof(vtc_pooler_weights, conv_pool.weight), 4, 0 },
    { "conv_pool.bias", offsetof(vtc_pooler_weights, conv_pool.bias), 1, 1 },
    { "proj.1.weight", offsetof(vtc_pooler_weights, proj.weight), 2, 0 },
    { "proj.1.bias", offsetof(vtc_pooler_weights, proj.bias), 1, 1 },
};
const vtc_weight_table vtc_pooler_table = { "pooler", pooler_weights, 4 };

struct job {
    vtc_pooler_params params;
    vtc_linear conv_pool; /* as a matrix */
    vtc_linear proj;
    vtci_chain chain;
};

static vtci_step step_of(const void *p, size_t i)
{
    const struct job *job = p;
    const vtci_step steps[] = { { "conv_pool", &job->conv_pool, NULL, job->params.act, false },
                                { "proj", &job->proj, NULL, VTC_ACT_NONE, false } };

    return steps[i];
}

static vtc_status open_params(const vtci_call *call, const vtc_pooler_params *params,
                              vtc_pooler_params *p)
{
    static const vtc_pooler_params defaults = VTC_POOLER_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, p->grid_h != 0 && p->grid_w != 0, VTC_ERR_RANGE, "grid is %zux%zu",
                 p->grid_h, p->grid_w);
    return vtci_check_activation(call, p->act);
}

vtc_status vtc_pooler_count(const vtc_pooler_params *params, size_t *out_h, size_t *out_w,
                            const vtc_exec *exec)
{
    vtci_call call;
    vtc_pooler_params p;

    VTCI_TRY(vtci_begin(&call, "vtc_pooler_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_TRY(open_params(&call, params, &p));
    *out_h = p.grid_h / SIDE;
    *out_w = p.grid_w / SIDE;
    return VTC_OK;
}

/* The convolution's weights as a matrix of one row per output channel. */
static vtc_status open_convolution(const vtci_call *call, const vtc_tensor *weight,
                                   vtc_tensor *flat)
{
    const size_t *dim = weight->dim, *stride = weight->stride;

    VTCI_TRY(vtci_check_tensor(call, "conv_pool.weight", weight, VTCI_FLOATS, 4, 4, VTCI_IN));
    VTCI_REQUIRE(call, dim[2] == SIDE && dim[3] == SIDE, VTC_ERR_SHAPE,
                 "conv_pool.weight has a kernel of %zux%zu, 2x2 is needed", dim[2], dim[3]);
    VTCI_REQUIRE(call, stride[2] == SIDE && (dim[1] <= 1 || stride[1] == SIDE * SIDE),
                 VTC_ERR_SHAPE, "conv_pool.weight has strides %zu, %zu inside a row, not 4, 2",
                 stride[1], stride[2]);
    *flat = vtc_tensor_2d(weight->data, weight->dtype, dim[0], dim[1] * SIDE * SIDE);
    flat->stride[0] = stride[0];
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_pooler_params *params,
                           const vtc_pooler_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(open_params(call, params, &job->params));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_check_tokens(call, x, y));

    const size_t h = job->params.grid_h, w = job->params.grid_w;
    const vtci_rows rows = vtci_rows_of(x);

    VTCI_REQUIRE(call, rows.n_rows == vtci_mul(h, w), VTC_ERR_SHAPE,
                 "grid %zux%zu needs %zu rows, x has %zu", h, w, vtci_mul(h, w), rows.n_rows);
    VTCI_TRY(open_convolution(call, &weights->conv_pool.weight, &job->conv_pool.weight));
    job->conv_pool.bias = weights->conv_pool.bias;
    job->proj = weights->proj;
    job->chain.x = vtci_join_grid(&rows, h, w, SIDE);
    job->chain.x.channels_first = true;
    job->chain.n_steps = 2;
    job->chain.step = step_of;
    job->chain.model = job;
    return VTC_OK;
}

vtc_status vtc_pooler_scratch(const vtc_pooler_params *params, const vtc_pooler_weights *weights,
                              const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                              size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_pooler_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_pooler(const vtc_pooler_params *params, const vtc_pooler_weights *weights,
                      const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_pooler", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
