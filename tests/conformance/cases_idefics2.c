/* The Idefics2 connector, from the weights as they are and prepared. */
#include "forms.h"
#include "methods.h"

#include <stdio.h>
#include <vtc/idefics2.h>

enum { MAX_LAYERS = 64 };

/* A case bound to the library's structs. */
struct model {
    vtc_idefics2_params params;
    vtc_idefics2_layer layers[MAX_LAYERS];
    vtc_idefics2_weights weights;
};

static vtc_status bind(run *r, struct model *m)
{
    const char *stem = json_string_value(json_object_get(r->c->params, "prefix"));
    char prefix[160];

    if (stem == NULL)
        stem = "model.connector.";
    m->params.n_heads = case_size(r->c, "heads");
    m->params.n_kv_heads = case_size(r->c, "kv_heads");
    m->params.eps = case_has_param(r->c, "eps") ? (float)case_double(r->c, "eps") : 1e-6f;
    m->weights.layers = m->layers;
    m->weights.n_layers = case_size(r->c, "depth");
    if (m->weights.n_layers > MAX_LAYERS) {
        case_fault(r->c, "%zu layers", m->weights.n_layers);
        return VTC_ERR_UNSUPPORTED;
    }
    snprintf(prefix, sizeof(prefix), "w.%s", stem);
    TRY(run_weights(r, &vtc_idefics2_table, prefix, &m->weights));
    for (size_t i = 0; i < m->weights.n_layers; i++) {
        snprintf(prefix, sizeof(prefix), "w.%sperceiver_resampler.layers.%zu.", stem, i);
        TRY(run_weights(r, &vtc_idefics2_layer_table, prefix, &m->layers[i]));
    }
    return VTC_OK;
}

static vtc_status prepare(run *r, const struct model *m, vtc_prepared *prepared)
{
    size_t bytes;

    TRY(vtc_idefics2_prepare_size(&m->params, &m->weights, &r->exec, &prepared->bytes));
    run_prepared(r, prepared);
    TRY(vtc_idefics2_prepare_scratch(&m->params, &m->weights, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_idefics2_prepare(&m->params, &m->weights, prepared, &r->exec);
}

static vtc_status call(run *r, const struct model *m, const vtc_prepared *prepared, vtc_tensor *y)
{
    const bool masked = case_has_tensor(r->c, "in.mask");
    const vtc_tensor x = run_input(r, "in.x");
    const vtc_tensor mask = masked ? run_input(r, "in.mask") : x;
    size_t bytes;

    TRY(vtc_idefics2_scratch(&m->params, &m->weights, prepared, &x, masked ? &mask : NULL, y,
                             &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_idefics2(&m->params, &m->weights, prepared, &x, masked ? &mask : NULL, y, &r->exec);
}

static vtc_status idefics2(run *r)
{
    struct model m = { .params = VTC_IDEFICS2_PARAMS_INIT };
    const vtc_tensor x = case_tensor(r->c, "in.x");
    vtc_prepared prepared;
    vtc_tensor y, again;

    TRY(bind(r, &m));
    y = run_output_like(r, "out.tokens", &x, m.weights.latents.dim[0], m.weights.latents.dim[1]);
    TRY(call(r, &m, NULL, &y));
    TRY(prepare(r, &m, &prepared));
    again = run_temporary(r, y.dtype, y.rank, y.dim);
    TRY(call(r, &m, &prepared, &again));
    run_check_form(r, "out.tokens", "prepared", &again);
    return VTC_OK;
}

const method idefics2_methods[] = {
    { "perceiver_resampler", "idefics2", idefics2 },
    { NULL, NULL, NULL },
};
