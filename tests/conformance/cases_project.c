/* The project family. */
#include "compare.h"
#include "methods.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vtc/project.h>

static size_t n_tokens(const vtc_tensor *x)
{
    return x->rank >= 2 ? x->dim[x->rank - 2] : 0;
}

/* ---- token MLPs ------------------------------------------------------------------------------ */

enum { MAX_LAYERS = 32 };

struct layers {
    vtc_linear linear[MAX_LAYERS];
    vtc_mlp_residual residual[MAX_LAYERS];
};

static vtc_status bind_at(run *r, const vtc_weight_table *table, size_t index, void *weights)
{
    char prefix[32];

    snprintf(prefix, sizeof(prefix), "w.%zu.", index);
    return run_weights(r, table, prefix, weights);
}

static vtc_status run_mlp(run *r, const vtc_mlp_weights *weights, size_t n_out)
{
    vtc_mlp_params params = VTC_MLP_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_tensor y = run_output_like(r, "out.y", &x, n_tokens(&x), n_out);
    size_t bytes;

    params.act = case_activation(r->c);
    if (case_has_param(r->c, "ln_eps"))
        params.eps = (float)case_double(r->c, "ln_eps");
    TRY(vtc_mlp_scratch(&params, weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_mlp(&params, weights, &x, &y, &r->exec);
}

/* Layers are modules 0, 2, ..., 2n - 2, residual blocks follow from 2n - 1 on. */
static vtc_status mlp_of(run *r, size_t n_linear, size_t n_residual)
{
    struct layers layers;
    const vtc_mlp_weights weights = { layers.linear, n_linear, layers.residual, n_residual };

    if (n_linear == 0 || n_linear > MAX_LAYERS || n_residual > MAX_LAYERS) {
        case_fault(r->c, "%zu layers and %zu residual blocks", n_linear, n_residual);
        return VTC_ERR_UNSUPPORTED;
    }
    for (size_t i = 0; i < n_linear; i++)
        TRY(bind_at(r, &vtc_linear_table, 2 * i, &layers.linear[i]));
    for (size_t i = 0; i < n_residual; i++)
        TRY(bind_at(r, &vtc_mlp_residual_table, 2 * n_linear - 1 + i, &layers.residual[i]));
    return run_mlp(r, &weights, layers.linear[n_linear - 1].weight.dim[0]);
}

static vtc_status mlp(run *r)
{
    return mlp_of(r, strtoul(r->c->variant + strlen("mlp"), NULL, 10), 0);
}

static vtc_status mlp_residual(run *r)
{
    char *end;
    const size_t n_linear = strtoul(r->c->variant + strlen("mlp"), &end, 10);

    return mlp_of(r, n_linear, strtoul(end + strlen("x_res"), NULL, 10));
}

static vtc_status linear(run *r)
{
    vtc_linear layer;
    const vtc_mlp_weights weights = { &layer, 1, NULL, 0 };

    TRY(run_weights(r, &vtc_linear_table, "w.", &layer));
    return run_mlp(r, &weights, layer.weight.dim[0]);
}

static vtc_status identity(run *r)
{
    const vtc_mlp_weights weights = { NULL, 0, NULL, 0 };
    const vtc_tensor x = case_tensor(r->c, "in.x");

    return run_mlp(r, &weights, x.rank >= 1 ? x.dim[x.rank - 1] : 0);
}

/* ---- pooler ---------------------------------------------------------------------------------- */

static vtc_status pooler(run *r)
{
    vtc_pooler_params params = VTC_POOLER_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_pooler_weights weights;
    size_t out_h, out_w, bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    params.act = case_activation(r->c);
    TRY(run_weights(r, &vtc_pooler_table, "w.", &weights));
    TRY(vtc_pooler_count(&params, &out_h, &out_w, &r->exec));
    y = run_output_like(r, "out.y", &x, out_h * out_w, weights.proj.weight.dim[0]);
    TRY(vtc_pooler_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_pooler(&params, &weights, &x, &y, &r->exec);
}

/* ---- patch mergers --------------------------------------------------------------------------- */

static vtc_status merge(run *r, const vtc_patch_merger_params *params,
                        const vtc_norm_mlp_weights *weights, const vtc_tensor *x, vtc_tensor *y)
{
    size_t bytes;

    TRY(vtc_patch_merger_scratch(params, weights, x, y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_patch_merger(params, weights, x, y, &r->exec);
}

/* Raster tokens must give the same bits, merged or merely gathered. */
static vtc_status merge_raster(run *r, vtc_patch_merger_params params,
                               const vtc_norm_mlp_weights *weights, const vtc_tensor *y)
{
    const vtc_tensor x = run_input(r, "in.x_raster"), in_order = case_tensor(r->c, "in.x");
    vtc_tensor gathered = run_temporary(r, x.dtype, x.rank, x.dim);
    vtc_tensor again = run_temporary(r, y->dtype, y->rank, y->dim);

    params.order = VTC_ORDER_RASTER;
    TRY(merge(r, &params, weights, &x, &again));
    if (!same_bits(&again, y))
        case_fault(r->c, "out.y: raster tokens give other bits");
    TRY(vtc_merge_order_gather(params.grid_t, params.grid_h, params.grid_w, params.merge, &x,
                               &gathered, &r->exec));
    if (!same_bits(&gathered, &in_order))
        case_fault(r->c, "in.x: gathered raster tokens differ");
    return VTC_OK;
}

static vtc_status patch_merger(run *r, const vtc_weight_table *table)
{
    static const char *const norms[] = { "layer", "rms", NULL };
    vtc_patch_merger_params params = VTC_PATCH_MERGER_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_norm_mlp_weights weights;
    size_t thw[3], n_out;
    vtc_tensor y;

    case_sizes(r->c, "grid_thw", thw, 3);
    params.grid_t = thw[0];
    params.grid_h = thw[1];
    params.grid_w = thw[2];
    params.merge = case_size(r->c, "merge_size");
    params.norm = (vtc_norm_kind)case_choice(r->c, "norm", norms);
    params.eps = (float)case_double(r->c, "eps");
    params.act = case_activation(r->c);
    TRY(run_weights(r, table, "w.", &weights));
    TRY(vtc_patch_merger_count(&params, n_tokens(&x), &n_out, &r->exec));
    y = run_output_like(r, "out.y", &x, n_out, weights.fc2.weight.dim[0]);
    TRY(merge(r, &params, &weights, &x, &y));
    if (case_has_tensor(r->c, "in.x_raster"))
        TRY(merge_raster(r, params, &weights, &y));
    return VTC_OK;
}

static vtc_status qwen2vl_merger(run *r)
{
    return patch_merger(r, &vtc_qwen2vl_merger_table);
}

static vtc_status qwen3vl_merger(run *r)
{
    return patch_merger(r, &vtc_qwen3vl_merger_table);
}

/* ---- mlp1 ------------------------------------------------------------------------------------ */

static vtc_status internvl_mlp1(run *r)
{
    vtc_mlp1_params params = VTC_MLP1_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_norm_mlp_weights weights;
    size_t bytes;
    vtc_tensor y;

    params.eps = (float)case_double(r->c, "eps");
    params.act = case_activation(r->c);
    TRY(run_weights(r, &vtc_internvl_table, "w.", &weights));
    y = run_output_like(r, "out.y", &x, n_tokens(&x), weights.fc2.weight.dim[0]);
    TRY(vtc_mlp1_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_mlp1(&params, &weights, &x, &y, &r->exec);
}

const method project_methods[] = {
    { "projection", "linear", linear },
    { "projection", "identity", identity },
    { "projection", "mlp#x_gelu", mlp },
    { "projection", "mlp#x_res#x_gelu", mlp_residual },
    { "projection", "pooler", pooler },
    { "projection", "qwen2vl_merger", qwen2vl_merger },
    { "projection", "qwen2_5vl_merger", qwen2vl_merger },
    { "projection", "qwen3vl_merger", qwen3vl_merger },
    { "projection", "qwen3vl_deepstack_merger", qwen3vl_merger },
    { "projection", "internvl_mlp1", internvl_mlp1 },
    { NULL, NULL, NULL },
};
