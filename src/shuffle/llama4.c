/*
 * Llama 4: pixel shuffle, the vision adapter's two layers, the projector's one.
 *
 *   y = linear_1(act(fc2(act(fc1(shuffle(x))))))      an activation follows fc2 as well
 *
 * Source: transformers' Llama4VisionPixelShuffleMLP and Llama4MultiModalProjector.
 */
#include "projector.h"

#include <string.h>

static const vtc_weight adapter_weights[] = {
    { "mlp.fc1.weight", offsetof(vtc_llama4_weights, fc1.weight), 2, 0 },
    { "mlp.fc1.bias", offsetof(vtc_llama4_weights, fc1.bias), 1, 1 },
    { "mlp.fc2.weight", offsetof(vtc_llama4_weights, fc2.weight), 2, 0 },
    { "mlp.fc2.bias", offsetof(vtc_llama4_weights, fc2.bias), 1, 1 },
};
const vtc_weight_table vtc_llama4_adapter_table = { "llama4 adapter", adapter_weights, 4 };

static const vtc_weight projector_weights[] = {
    { "linear_1.weight", offsetof(vtc_llama4_weights, linear_1.weight), 2, 0 },
    { "linear_1.bias", offsetof(vtc_llama4_weights, linear_1.bias), 1, 1 },
};
const vtc_weight_table vtc_llama4_projector_table = { "llama4 projector", projector_weights, 2 };

struct job {
    vtc_shuffle_projector_params params;
    const vtc_llama4_weights *weights;
    vtci_chain chain;
};

static vtci_step step_of(const void *p, size_t i)
{
    const struct job *job = p;
    const vtc_llama4_weights *w = job->weights;
    const vtc_activation act = job->params.act;
    const vtci_step steps[] = { { "fc1", &w->fc1, NULL, act, false },
                                { "fc2", &w->fc2, NULL, act, false },
                                { "linear_1", &w->linear_1, NULL, VTC_ACT_NONE, false } };

    return steps[i];
}

static vtc_status open_job(const vtci_call *call, const vtc_shuffle_projector_params *params,
                           const vtc_llama4_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    static const vtc_shuffle_projector_params defaults = VTC_LLAMA4_PARAMS_INIT;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_projector_params(call, params, &job->params));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_projector_open(call, &job->params, x, y, &job->chain));
    job->weights = weights;
    job->chain.n_steps = vtc_tensor_is_absent(&weights->linear_1.weight) ? 2 : 3;
    job->chain.step = step_of;
    job->chain.model = job;
    return VTC_OK;
}

vtc_status vtc_llama4_projector_scratch(const vtc_shuffle_projector_params *params,
                                        const vtc_llama4_weights *weights, const vtc_tensor *x,
                                        const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_llama4_projector_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, bytes);
}

vtc_status vtc_llama4_projector(const vtc_shuffle_projector_params *params,
                                const vtc_llama4_weights *weights, const vtc_tensor *x,
                                vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_llama4_projector", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_chain_walk(&call, &job.chain, y, NULL);
}
