/* The resample family. */
#include "forms.h"
#include "methods.h"

#include <stdio.h>
#include <string.h>
#include <vtc/resample.h>

/* ---- Perceiver ------------------------------------------------------------------------------- */

enum { MAX_LAYERS = 64 };

struct perceiver {
    vtc_perceiver_params params;
    vtc_perceiver_layer layers[MAX_LAYERS];
    vtc_perceiver_weights weights;
    vtc_tensor x;
    size_t dim[4]; /* of the output */
};

static vtc_status open_perceiver(run *r, const vtc_weight_table *table, struct perceiver *p)
{
    const vtc_perceiver_params defaults = VTC_PERCEIVER_PARAMS_INIT;
    char rest[32];

    memset(p, 0, sizeof(*p));
    p->params = defaults;
    p->params.heads = case_size(r->c, "heads");
    if (case_has_param(r->c, "eps"))
        p->params.eps = (float)case_double(r->c, "eps");
    p->weights.layers = p->layers;
    p->weights.n_layers = case_size(r->c, "depth");
    if (p->weights.n_layers > MAX_LAYERS) {
        case_fault(r->c, "%zu layers", p->weights.n_layers);
        return VTC_ERR_UNSUPPORTED;
    }
    TRY(run_model_weights(r, table, "", &p->weights));
    for (size_t i = 0; i < p->weights.n_layers; i++) {
        snprintf(rest, sizeof(rest), "layers.%zu.", i);
        TRY(run_model_weights(r, &vtc_perceiver_layer_table, rest, &p->layers[i]));
    }
    p->x = run_input(r, "in.x");
    p->dim[0] = p->x.dim[0];
    p->dim[1] = p->x.rank >= 4 ? p->x.dim[1] : 1;
    p->dim[2] = p->weights.latents.dim[0];
    p->dim[3] = p->weights.latents.dim[1];
    return VTC_OK;
}

static vtc_status prepare_perceiver(run *r, const struct perceiver *p, vtc_prepared *prepared)
{
    size_t bytes;

    TRY(vtc_perceiver_prepare_size(&p->params, &p->weights, &r->exec, &prepared->bytes));
    run_prepared(r, prepared);
    TRY(vtc_perceiver_prepare_scratch(&p->params, &p->weights, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_perceiver_prepare(&p->params, &p->weights, prepared, &r->exec);
}

static vtc_status resample(run *r, const struct perceiver *p, const vtc_prepared *prepared,
                           vtc_tensor *y)
{
    size_t bytes;

    TRY(vtc_perceiver_scratch(&p->params, &p->weights, prepared, &p->x, y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_perceiver(&p->params, &p->weights, prepared, &p->x, y, &r->exec);
}

static vtc_status perceiver(run *r, const vtc_weight_table *table)
{
    struct perceiver p;
    vtc_prepared prepared;
    vtc_tensor y, again;

    TRY(open_perceiver(r, table, &p));
    y = run_output(r, "out.tokens", 4, p.dim);
    TRY(resample(r, &p, NULL, &y));
    TRY(prepare_perceiver(r, &p, &prepared));
    again = run_temporary(r, y.dtype, 4, p.dim);
    TRY(resample(r, &p, &prepared, &again));
    run_check_form(r, "out.tokens", "prepared", &again);
    return VTC_OK;
}

static vtc_status perceiver_openflamingo(run *r)
{
    return perceiver(r, &vtc_perceiver_table);
}

static vtc_status perceiver_flamingo_pytorch(run *r)
{
    return perceiver(r, &vtc_perceiver_pytorch_table);
}

const method resample_methods[] = {
    { "perceiver_resampler", "openflamingo", perceiver_openflamingo },
    { "perceiver_resampler", "flamingo-pytorch", perceiver_flamingo_pytorch },
    { NULL, NULL, NULL },
};
