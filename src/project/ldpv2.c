/*
 * LDPv2, MobileVLM V2's projector.
 *
 *   z = mlp.2(average(gelu(mlp.0(x))))       adaptive average over the grid
 *   y = z + peg(z)                           depthwise 3x3 with bias
 *
 * Source: MobileVLM's LDPNetV2Projector, which averages behind mlp.2. The weights of an average sum
 * to 1, so a linear layer gives the same before and behind it, up to rounding; behind, it has only
 * the output tokens to work on.
 *
 * Cost: one product of all tokens and one of the output tokens, and a pass over the hidden layer.
 */
#include "chain.h"
#include "conv.h"
#include "conv_check.h"

#include <stddef.h>

static const vtc_weight names[] = {
    { "mlp.mlp.0.weight", offsetof(vtc_ldpv2_weights, mlp_0.weight), 2, 0 },
    { "mlp.mlp.0.bias", offsetof(vtc_ldpv2_weights, mlp_0.bias), 1, 1 },
    { "mlp.mlp.2.weight", offsetof(vtc_ldpv2_weights, mlp_2.weight), 2, 0 },
    { "mlp.mlp.2.bias", offsetof(vtc_ldpv2_weights, mlp_2.bias), 1, 1 },
    { "peg.peg.0.weight", offsetof(vtc_ldpv2_weights, peg.weight), 4, 0 },
    { "peg.peg.0.bias", offsetof(vtc_ldpv2_weights, peg.bias), 1, 1 },
};
const vtc_weight_table vtc_ldpv2_table = { "LDPv2", names, sizeof(names) / sizeof(*names) };

struct job {
    vtc_ldpv2_params params;
    const vtc_ldpv2_weights *weights;
    vtci_rows x, y;
    vtci_conv conv;
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_ldpv2_params *params,
                              struct job *job)
{
    static const vtc_ldpv2_params defaults = VTC_LDPV2_PARAMS_INIT;
    const vtc_ldpv2_params *p = &job->params;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_TRY(vtci_check_average(call, p->grid_h, p->grid_w, p->out_h, p->out_w));
    return vtci_check_activation(call, p->act);
}

static vtc_status check_weights(const vtci_call *call, const vtc_ldpv2_weights *w,
                                const vtc_tensor *y, const struct job *job)
{
    const vtci_owner of = { call, y, vtci_max(job->x.n_rows, job->y.n_rows), "" };
    const size_t d = job->y.n_cols;

    VTCI_TRY(vtci_check_linear(&of, "mlp.mlp.0", &w->mlp_0, job->x.n_cols));
    VTCI_TRY(vtci_check_linear(&of, "mlp.mlp.2", &w->mlp_2, w->mlp_0.weight.dim[0]));
    VTCI_TRY(vtci_check_width(&of, "mlp.mlp.2", &w->mlp_2.weight, d));
    VTCI_TRY(vtci_check_depthwise(&of, "peg.peg.0", &w->peg.weight, d));
    return vtci_check_bias(&of, "peg.peg.0", &w->peg.bias, d);
}

static vtc_status open_job(const vtci_call *call, const vtc_ldpv2_params *params,
                           const vtc_ldpv2_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    const vtc_ldpv2_params *p = &job->params;

    VTCI_TRY(open_params(call, params, job));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_check_tokens(call, x, y));
    job->weights = weights;
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_TRY(vtci_check_grid(call, "x", &job->x, p->grid_h, p->grid_w, 0));
    VTCI_TRY(vtci_check_grid(call, "y", &job->y, p->out_h, p->out_w, 0));
    return check_weights(call, weights, y, job);
}

/* ---- the work -------------------------------------------------------------------------------- */

static void project_image(void *p)
{
    struct job *job = p;
    vtci_conv *conv = &job->conv;
    const vtc_ldpv2_params *params = &job->params;
    const vtc_ldpv2_weights *w = job->weights;
    const size_t n_hidden = w->mlp_0.weight.dim[0], d = job->y.n_cols;
    const vtci_map hidden = vtci_conv_map(conv, 0, params->grid_h, params->grid_w, n_hidden);
    const vtci_map pooled = vtci_conv_map(conv, 1, params->out_h, params->out_w, n_hidden);
    const vtci_map z = vtci_conv_map(conv, 0, params->out_h, params->out_w, d);
    const vtci_map tmp = vtci_conv_map(conv, 1, params->out_h, params->out_w, d);
    const vtci_rows x = vtci_image_rows(&job->x, job->conv.image, job->x.n_rows);
    const vtci_rows y = vtci_image_rows(&job->y, job->conv.image, job->y.n_rows);

    vtci_conv_linear(conv, &x, &w->mlp_0, (vtci_activation)params->act, &hidden.rows);
    vtci_conv_average(conv, &hidden, &pooled);
    vtci_conv_linear(conv, &pooled.rows, &w->mlp_2, VTCI_ACT_NONE, &z.rows);
    vtci_conv_add_depthwise(conv, &z, &w->peg, &tmp, &y);
}

/* ---- public functions ------------------------------------------------------------------------ */

vtc_status vtc_ldpv2_count(const vtc_ldpv2_params *params, size_t *out_h, size_t *out_w,
                           const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_ldpv2_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_TRY(open_params(&call, params, &job));
    *out_h = job.params.out_h;
    *out_w = job.params.out_w;
    return VTC_OK;
}

vtc_status vtc_ldpv2_scratch(const vtc_ldpv2_params *params, const vtc_ldpv2_weights *weights,
                             const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                             size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_ldpv2_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, bytes);
}

vtc_status vtc_ldpv2(const vtc_ldpv2_params *params, const vtc_ldpv2_weights *weights,
                     const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_ldpv2", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, NULL);
}
