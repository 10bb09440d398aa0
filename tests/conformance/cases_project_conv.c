/* The light convolutional projectors of the project family. */
#include "methods.h"

#include <stdio.h>
#include <stdlib.h>
#include <vtc/project.h>

static bool has_weight(const run *r, const char *prefix, const char *name)
{
    char full[64];

    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return case_has_tensor(r->c, full);
}

/* ---- LDP ------------------------------------------------------------------------------------- */

static vtc_status ldp(run *r)
{
    vtc_ldp_params params = VTC_LDP_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_ldp_weights weights;
    size_t out_h, out_w, bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    if (case_has_param(r->c, "ln_eps"))
        params.eps = (float)case_double(r->c, "ln_eps");
    params.act = case_activation(r->c);

    TRY(run_weights(r, &vtc_ldp_table, "w.", &weights));
    TRY(vtc_ldp_count(&params, &out_h, &out_w, &r->exec));
    y = run_output_like(r, "out.y", &x, out_h * out_w, weights.mlp_3.weight.dim[0]);
    TRY(vtc_ldp_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_ldp(&params, &weights, &x, &y, &r->exec);
}

static vtc_status ldpv2(run *r)
{
    vtc_ldpv2_params params = VTC_LDPV2_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_ldpv2_weights weights;
    size_t out_h, out_w, bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    if (case_has_param(r->c, "out_grid"))
        case_grid(r->c, "out_grid", &params.out_h, &params.out_w);
    params.act = case_activation(r->c);

    TRY(run_weights(r, &vtc_ldpv2_table, "w.", &weights));
    TRY(vtc_ldpv2_count(&params, &out_h, &out_w, &r->exec));
    y = run_output_like(r, "out.y", &x, out_h * out_w, weights.mlp_2.weight.dim[0]);
    TRY(vtc_ldpv2_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_ldpv2(&params, &weights, &x, &y, &r->exec);
}

/* ---- C-Abstractor ---------------------------------------------------------------------------- */

enum { MAX_BLOCKS = 16, MAX_LAYERS = 8 };

typedef struct c_abstractor_model {
    vtc_c_abstractor_weights weights;
    vtc_c_abstractor_block before[MAX_BLOCKS], after[MAX_BLOCKS];
    vtc_linear readout[MAX_LAYERS];
} c_abstractor_model;

static vtc_status bind_stage(run *r, const char *stage, vtc_c_abstractor_block *block, size_t *n)
{
    char prefix[32];

    for (*n = 0; *n < MAX_BLOCKS; (*n)++) {
        snprintf(prefix, sizeof(prefix), "w.%s.b%zu.", stage, *n + 1);
        if (!has_weight(r, prefix, "conv1.conv.weight"))
            return VTC_OK;
        TRY(run_weights(r, &vtc_c_abstractor_block_table, prefix, &block[*n]));
    }
    return VTC_OK;
}

static vtc_status bind_readout(run *r, vtc_linear *layer, size_t *n)
{
    char prefix[32];

    for (*n = 0; *n < MAX_LAYERS; (*n)++) {
        snprintf(prefix, sizeof(prefix), "w.readout.%zu.", 2 * *n);
        if (!has_weight(r, prefix, "weight"))
            return VTC_OK;
        TRY(run_weights(r, &vtc_linear_table, prefix, &layer[*n]));
    }
    return VTC_OK;
}

static vtc_status bind_model(run *r, c_abstractor_model *m)
{
    vtc_c_abstractor_weights *w = &m->weights;

    TRY(run_weights(r, &vtc_c_abstractor_table, "w.", w));
    w->before = m->before;
    w->after = m->after;
    w->readout = m->readout;
    TRY(bind_stage(r, "net.0", m->before, &w->n_before));
    TRY(bind_stage(r, "net.2", m->after, &w->n_after));
    return bind_readout(r, m->readout, &w->n_readout);
}

static vtc_status project(run *r, const c_abstractor_model *m)
{
    vtc_c_abstractor_params params = VTC_C_ABSTRACTOR_PARAMS_INIT;
    const vtc_c_abstractor_weights *w = &m->weights;
    const vtc_tensor x = run_input(r, "in.x");
    size_t n_tokens, bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    case_grid(r->c, "out_grid", &params.out_h, &params.out_w);
    if (case_has_param(r->c, "ln_eps"))
        params.eps = (float)case_double(r->c, "ln_eps");
    if (case_has_param(r->c, "prenorm_eps"))
        params.prenorm_eps = (float)case_double(r->c, "prenorm_eps");

    TRY(vtc_c_abstractor_count(&params, w, &n_tokens, &r->exec));
    y = run_output_like(r, "out.y", &x, n_tokens, m->readout[w->n_readout - 1].weight.dim[0]);
    TRY(vtc_c_abstractor_scratch(&params, w, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_c_abstractor(&params, w, &x, &y, &r->exec);
}

static vtc_status c_abstractor(run *r)
{
    c_abstractor_model *m = calloc(1, sizeof(*m));
    vtc_status status;

    if (m == NULL)
        abort();
    status = bind_model(r, m);
    if (status == VTC_OK && m->weights.n_readout == 0)
        case_fault(r->c, "the case has no readout");
    else if (status == VTC_OK)
        status = project(r, m);
    free(m);
    return status;
}

const method project_conv_methods[] = {
    { "projection", "ldp", ldp },
    { "projection", "ldpv2", ldpv2 },
    { "projection", "c_abstractor", c_abstractor },
    { NULL, NULL, NULL },
};
