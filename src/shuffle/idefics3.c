/*
 * Idefics3, SmolVLM, SmolVLM2: pixel shuffle and one linear layer.
 *
 *   y = shuffle(x) W^T
 *
 * Source: transformers' Idefics3Connector.
 */
#include "projector.h"

#include <string.h>

static const vtc_weight idefics3_weights[] = {
    { "modality_projection.proj.weight", offsetof(vtc_idefics3_weights, proj.weight), 2, 0 },
    { "modality_projection.proj.bias", offsetof(vtc_idefics3_weights, proj.bias), 1, 1 },
};
const vtc_weight_table vtc_idefics3_table = { "idefics3", idefics3_weights, 2 };

struct job {
    vtc_shuffle_projector_params params;
    const vtc_idefics3_weights *weights;
    vtci_chain chain;
};

static vtci_step step_of(const void *p, size_t i)
{
    const struct job *job = p;
    const vtci_step step = { "proj", &job->weights->proj, NULL, VTC_ACT_NONE, false };

    (void)i; /* the only one */
    return step;
}

static vtc_status open_job(const vtci_call *call, const vtc_shuffle_projector_params *params,
                           const vtc_idefics3_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    static const vtc_shuffle_projector_params defaults = VTC_IDEFICS3_PARAMS_INIT;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_projector_params(call, params, &job->params));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_projector_open(call, &job->params, x, y, &job->chain));
    job->weights = weights;
    job->chain.n_steps = 1;
    job->chain.step = step_of;
    job->chain.model = job;
    return VTC_OK;
}

vtc_status vtc_idefics3_projector_scratch(const vtc_shuffle_projector_params *params,
                                          const vtc_idefics3_weights *weights, const vtc_tensor *x,
                                          const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_idefics3_projector_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_idefics3_projector(const vtc_shuffle_projector_params *params,
                                  const vtc_idefics3_weights *weights, const vtc_tensor *x,
                                  vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_idefics3_projector", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
