/*
 * The patch mergers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, its DeepStack mergers among them.
 *
 *   z = m x m tokens joined, channel index (dr m + dc) C + c            [S / m^2, m^2 C]
 *   y = fc2(act(fc1(norm(z))))
 *
 * The norm acts on each token (width C) or on z (width m^2 C, DeepStack). Tokens in merge order are
 * joined by reading them in a row; raster tokens are gathered on the way, no copy is stored.
 *
 * Source: transformers' qwen2_vl, qwen2_5_vl, qwen3_vl. Departures: a grid that is not divisible by
 * m is refused; half-precision norms are not rounded before their weight is applied.
 */
#include "../../include/vtc/project.h"

#include "chain.h"
#include "merge_order.h"

#include <stddef.h>
#include <string.h>

static const vtc_weight qwen2vl_weights[] = VTCI_NORM_MLP_WEIGHTS("ln_q", 0, "mlp.0", "mlp.2");
const vtc_weight_table vtc_qwen2vl_merger_table = { "qwen2vl_merger", qwen2vl_weights,
                                                    VTCI_N_NORM_MLP_WEIGHTS };

static const vtc_weight qwen3vl_weights[] =
    VTCI_NORM_MLP_WEIGHTS("norm", 0, "linear_fc1", "linear_fc2");
const vtc_weight_table vtc_qwen3vl_merger_table = { "qwen3vl_merger", qwen3vl_weights,
                                                    VTCI_N_NORM_MLP_WEIGHTS };

struct job {
    vtc_patch_merger_params params;
    vtci_norm_mlp model;
    vtci_chain chain;
};

/* ---- parameters ------------------------------------------------------------------------------ */

static vtc_status check_grid(const vtci_call *call, const vtc_patch_merger_params *p, size_t n_in)
{
    const size_t n = vtci_mul(p->grid_t, vtci_mul(p->grid_h, p->grid_w));

    VTCI_TRY(vtci_check_merge_grid(call, p->grid_t, p->grid_h, p->grid_w, p->merge));
    VTCI_REQUIRE(call, n_in == n, VTC_ERR_SHAPE, "grid %zux%zux%zu needs %zu rows, x has %zu",
                 p->grid_t, p->grid_h, p->grid_w, n, n_in);
    return VTC_OK;
}

/* Without a grid all that can be asked is that the tokens fill whole blocks. */
static vtc_status check_blocks(const vtci_call *call, const vtc_patch_merger_params *p, size_t n_in)
{
    const size_t n_cells = vtci_mul(p->merge, p->merge);

    VTCI_REQUIRE(call, p->merge != 0, VTC_ERR_RANGE, "merge is 0");
    VTCI_REQUIRE(call, n_in % n_cells == 0, VTC_ERR_SHAPE,
                 "%zu rows are not divisible into blocks of %zu", n_in, n_cells);
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_patch_merger_params *params,
                              size_t n_in, vtc_patch_merger_params *p)
{
    static const vtc_patch_merger_params defaults = VTC_PATCH_MERGER_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, (unsigned)p->order <= VTC_ORDER_RASTER, VTC_ERR_RANGE, "order %d is unknown",
                 (int)p->order);
    if (p->order == VTC_ORDER_MERGE && p->grid_h == 0 && p->grid_w == 0)
        return check_blocks(call, p, n_in);
    return check_grid(call, p, n_in);
}

vtc_status vtc_patch_merger_count(const vtc_patch_merger_params *params, size_t n_in, size_t *n_out,
                                  const vtc_exec *exec)
{
    vtci_call call;
    vtc_patch_merger_params p;

    VTCI_TRY(vtci_begin(&call, "vtc_patch_merger_count", exec));
    VTCI_REQUIRE_PTR(&call, n_out);
    VTCI_TRY(open_params(&call, params, n_in, &p));
    *n_out = n_in / vtci_mul(p.merge, p.merge);
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status open_job(const vtci_call *call, const vtc_patch_merger_params *params,
                           const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    const vtc_patch_merger_params *p = &job->params;

    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_check_tokens(call, x, y));

    const vtci_rows rows = vtci_rows_of(x);

    VTCI_TRY(open_params(call, params, rows.n_rows, &job->params));
    if (p->order == VTC_ORDER_RASTER)
        job->chain.x = vtci_join_grid(&rows, p->grid_t * p->grid_h, p->grid_w, p->merge);
    else
        job->chain.x = vtci_join_runs(&rows, vtci_mul(p->merge, p->merge));
    job->model.weights = weights;
    job->model.act = p->act;
    return vtci_norm_mlp_open(call, &job->model, p->norm, p->eps, p->prepared, &job->chain);
}

vtc_status vtc_patch_merger_scratch(const vtc_patch_merger_params *params,
                                    const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                                    const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_patch_merger_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_patch_merger(const vtc_patch_merger_params *params,
                            const vtc_norm_mlp_weights *weights, const vtc_tensor *x, vtc_tensor *y,
                            const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_patch_merger", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
