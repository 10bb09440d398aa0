/*
 * InternVL's mlp1 and its relatives: norm, linear, activation, linear over tokens joined already.
 *
 *   y = fc2(act(fc1(norm(x))))
 *
 * InternVL, LFM2-VL: LayerNorm over the joined width (LFM2-VL may have none). Kimi-VL: LayerNorm
 * over each of the joined tokens. Nemotron-Nano-V2-VL: RMSNorm, squared ReLU, no biases.
 */
#include "../../include/vtc/project.h"

#include "chain.h"

#include <string.h>

static const vtc_weight internvl_weights[] = VTCI_NORM_MLP_WEIGHTS("mlp1.0", 0, "mlp1.1", "mlp1.3");
const vtc_weight_table vtc_internvl_table = { "internvl", internvl_weights,
                                              VTCI_N_NORM_MLP_WEIGHTS };

static const vtc_weight internvl_hf_weights[] =
    VTCI_NORM_MLP_WEIGHTS("layer_norm", 1, "linear_1", "linear_2");
const vtc_weight_table vtc_internvl_hf_table = { "internvl_hf", internvl_hf_weights,
                                                 VTCI_N_NORM_MLP_WEIGHTS };

static const vtc_weight kimivl_weights[] =
    VTCI_NORM_MLP_WEIGHTS("pre_norm", 0, "linear_1", "linear_2");
const vtc_weight_table vtc_kimivl_table = { "kimivl", kimivl_weights, VTCI_N_NORM_MLP_WEIGHTS };

struct job {
    vtc_mlp1_params params;
    vtci_norm_mlp model;
    vtci_chain chain;
};

/* A norm narrower than a row was meant for the tokens that the row was joined from. */
static void split_rows(vtci_join *x, const vtc_norm *norm)
{
    const size_t n = norm->weight.dim[0];

    if (vtc_tensor_is_absent(&norm->weight) || n == 0 || x->n_channels % n != 0)
        return;
    x->block_w = x->grid_w = x->n_channels / n;
    x->across_stride = n * vtc_dtype_size(x->dtype);
    x->n_channels = n;
}

static vtc_status open_job(const vtci_call *call, const vtc_mlp1_params *params,
                           const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    static const vtc_mlp1_params defaults = VTC_MLP1_PARAMS_INIT;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_TRY(vtci_check_tokens(call, x, y));

    const vtci_rows rows = vtci_rows_of(x);

    job->chain.x = vtci_join_rows(&rows);
    job->model.weights = weights;
    job->model.act = job->params.act;
    VTCI_TRY(vtci_norm_mlp_open(call, &job->model, job->params.norm, job->params.eps,
                                job->params.prepared, &job->chain));
    split_rows(&job->chain.x, &weights->norm);
    return VTC_OK;
}

vtc_status vtc_mlp1_scratch(const vtc_mlp1_params *params, const vtc_norm_mlp_weights *weights,
                            const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                            size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mlp1_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_mlp1(const vtc_mlp1_params *params, const vtc_norm_mlp_weights *weights,
                    const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_mlp1", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
