/*
 * InternVL: the class token is dropped, tokens are shuffled, and mlp1 projects them.
 *
 *   y = fc2(act(fc1(norm(shuffle(x[1:])))))
 *
 * Source: InternVL's extract_feature; v1 or v2 as the configuration's ps_version.
 */
#include "projector.h"

#include <string.h>

struct job {
    vtc_shuffle_projector_params params;
    vtci_norm_mlp model;
    vtci_chain chain;
};

static vtc_status open_job(const vtci_call *call, const vtc_shuffle_projector_params *params,
                           const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    static const vtc_shuffle_projector_params defaults = VTC_INTERNVL_PARAMS_INIT;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_projector_params(call, params, &job->params));
    VTCI_TRY(vtci_projector_open(call, &job->params, x, y, &job->chain));
    job->model.weights = weights;
    job->model.act = job->params.act;
    return vtci_norm_mlp_open(call, &job->model, job->params.norm, job->params.eps,
                              job->params.prepared, &job->chain);
}

vtc_status vtc_internvl_projector_scratch(const vtc_shuffle_projector_params *params,
                                          const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                                          const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_internvl_projector_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_internvl_projector(const vtc_shuffle_projector_params *params,
                                  const vtc_norm_mlp_weights *weights, const vtc_tensor *x,
                                  vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_internvl_projector", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
