/* VLoRA: the generator, and a LLaMA layer with its factors. */
#include "methods.h"

#include <stdio.h>
#include <string.h>
#include <vtc/vlora.h>

enum { MAX_GENERATORS = 5, MAX_DECODERS = 16, NAME = 160 };

/* ---- generator ------------------------------------------------------------------------------- */

struct model {
    vtc_vlora_params params;
    vtc_vlora_weights weights;
    vtc_vlora_generator generators[MAX_GENERATORS];
    vtc_vlora_decoder decoders[MAX_GENERATORS][MAX_DECODERS];
};

static vtc_status bind_generator(run *r, struct model *m, size_t i, const char *prefix)
{
    vtc_vlora_generator *g = &m->generators[i];
    char name[3 * NAME];

    TRY(run_weights(r, &vtc_vlora_generator_table, prefix, g));
    g->decoders = m->decoders[i];
    g->n_decoders = case_size(r->c, "depth");
    if (g->n_decoders > MAX_DECODERS) {
        case_fault(r->c, "depth is %zu", g->n_decoders);
        return VTC_ERR_UNSUPPORTED;
    }
    for (size_t k = 0; k < g->n_decoders; k++) {
        snprintf(name, sizeof(name), "%sdecoders.%zu.", prefix, k);
        TRY(run_weights(r, &vtc_vlora_decoder_table, name, &m->decoders[i][k]));
    }
    return VTC_OK;
}

static vtc_status bind_model(run *r, struct model *m)
{
    const vtc_vlora_params params = VTC_VLORA_PARAMS_INIT;
    const bool separate = case_flag(r->c, "weights_sep");
    const char *types = json_string_value(json_object_get(r->c->params, "types"));
    char stem[NAME], prefix[2 * NAME];

    m->params = params;
    m->params.types = types;
    m->params.rank = case_size(r->c, "rank");
    m->params.n_heads = case_size(r->c, "num_heads");
    m->params.skip_layers = case_size(r->c, "skip_layers");
    if (case_has_param(r->c, "alpha"))
        m->params.alpha = (float)case_double(r->c, "alpha");
    run_prefix(r, "pos_embed", stem, sizeof(stem));
    TRY(run_weights(r, &vtc_vlora_table, stem, &m->weights));
    m->weights.generators = m->generators;
    m->weights.n_generators = separate && types != NULL ? strlen(types) : 1;
    if (m->weights.n_generators > MAX_GENERATORS) {
        case_fault(r->c, "there are %zu generators", m->weights.n_generators);
        return VTC_ERR_UNSUPPORTED;
    }
    for (size_t i = 0; i < m->weights.n_generators; i++) {
        if (separate)
            snprintf(prefix, sizeof(prefix), "%sgen.%zu.", stem, i);
        else
            snprintf(prefix, sizeof(prefix), "%sgen.", stem);
        TRY(bind_generator(r, m, i, prefix));
    }
    return VTC_OK;
}

static vtc_status generate(run *r, const struct model *m, size_t n_kinds, size_t n_layers,
                           size_t llm_dim)
{
    const vtc_tensor features = run_input(r, "in.features");
    const size_t dim[] = { features.dim[0], n_kinds, n_layers, llm_dim, m->params.rank };
    const int skip = features.rank == 2;
    vtc_tensor a = run_output(r, "out.A", 5 - skip, dim + skip);
    vtc_tensor b = run_output(r, "out.B", 4, dim + 1);
    size_t bytes;

    TRY(vtc_vlora_generate_scratch(&m->params, &m->weights, NULL, &features, &a, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_vlora_generate(&m->params, &m->weights, NULL, &features, &a, &r->exec));
    return vtc_vlora_learned(&m->params, &m->weights, &b, &r->exec);
}

static vtc_status generator(run *r)
{
    size_t n_kinds, n_layers, llm_dim;
    struct model m;

    TRY(bind_model(r, &m));
    TRY(vtc_vlora_count(&m.params, &m.weights, &n_kinds, &n_layers, &llm_dim, &r->exec));
    if (case_has_param(r->c, "llm_dim") && case_size(r->c, "llm_dim") != llm_dim)
        case_fault(r->c, "llm_dim is %zu, the weights have %zu", case_size(r->c, "llm_dim"),
                   llm_dim);
    return generate(r, &m, n_kinds, n_layers, llm_dim);
}

/* ---- a LLaMA layer --------------------------------------------------------------------------- */

static void find_factors(run *r, char kind, vtc_vlora_factors *f)
{
    char name[NAME];

    snprintf(name, sizeof(name), "in.A.%c", kind);
    if (!case_has_tensor(r->c, name))
        return;
    f->a = run_input(r, name);
    snprintf(name, sizeof(name), "in.B.%c", kind);
    f->b = run_input(r, name);
}

static vtc_status llama_block(run *r)
{
    vtc_vlora_block_params params = VTC_VLORA_BLOCK_PARAMS_INIT;
    const vtc_tensor hidden = run_input(r, "in.hidden");
    const bool masked = case_has_tensor(r->c, "in.key_mask");
    vtc_vlora_block_weights weights;
    vtc_vlora_deltas deltas;
    vtc_tensor out, mask = { 0 };
    char prefix[NAME];
    size_t bytes;

    memset(&deltas, 0, sizeof(deltas));
    find_factors(r, 'q', &deltas.q);
    find_factors(r, 'k', &deltas.k);
    find_factors(r, 'v', &deltas.v);
    find_factors(r, 'o', &deltas.o);
    find_factors(r, 'm', &deltas.m);
    if (masked)
        mask = run_input(r, "in.key_mask");
    params.n_heads = case_size(r->c, "num_heads");
    if (case_has_param(r->c, "rms_eps"))
        params.eps = (float)case_double(r->c, "rms_eps");
    if (case_has_param(r->c, "rope_theta"))
        params.rope_theta = (float)case_double(r->c, "rope_theta");
    run_prefix(r, "input_layernorm.weight", prefix, sizeof(prefix));
    TRY(run_weights(r, &vtc_vlora_block_table, prefix, &weights));
    out = run_output(r, "out.hidden", hidden.rank, hidden.dim);
    TRY(vtc_vlora_block_scratch(&params, &weights, &deltas, &hidden, masked ? &mask : NULL, NULL,
                                &out, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_vlora_block(&params, &weights, &deltas, &hidden, masked ? &mask : NULL, NULL, &out,
                           &r->exec);
}

const method vlora_methods[] = {
    { "vlora", "generator", generator },
    { "vlora", "llama_block", llama_block },
    { NULL, NULL, NULL },
};
