#include "vlora.h"

#include <string.h>

static vtc_vlora_attention attention_of(weight_set *set, size_t d)
{
    const vtc_vlora_attention a = { linear_of(set, 3 * d, d), linear_of(set, d, d) };

    return a;
}

static void make_decoder(weight_set *set, const vlora_sizes *s, vtc_vlora_decoder *w)
{
    w->norm1 = norm_of(set, s->d);
    w->norm2 = norm_of(set, s->d);
    w->norm3 = norm_of(set, s->d);
    w->self_attn = attention_of(set, s->d);
    w->multihead_attn = attention_of(set, s->d);
    w->linear1 = linear_of(set, s->hidden, s->d);
    w->linear2 = linear_of(set, s->d, s->hidden);
}

static vtc_tensor parameter_of(weight_set *set, size_t n, size_t c)
{
    return weight_of(set, 3, (const size_t[]){ 1, n, c });
}

void make_vlora_model(vlora_model *m, uint64_t seed, vlora_sizes sizes, bool mixed)
{
    const vtc_vlora_params params = VTC_VLORA_PARAMS_INIT;
    const size_t width = sizes.llm_dim * sizes.rank;
    size_t n_generators;

    memset(m, 0, sizeof(*m));
    m->sizes = sizes;
    m->n_kinds = strlen(sizes.types);
    m->params = params;
    m->params.types = sizes.types;
    m->params.rank = sizes.rank;
    m->params.n_heads = sizes.n_heads;
    n_generators = sizes.separate ? m->n_kinds : 1;
    m->set.seed = seed;
    m->set.mixed = mixed;
    m->set.gap = mixed ? 3 : 0;
    m->weights.visual_proj = linear_of(&m->set, sizes.d, sizes.visual_dim);
    m->weights.pos_embed = parameter_of(&m->set, sizes.n_tokens, sizes.d);
    m->weights.Bs = parameter_of(&m->set, m->n_kinds * sizes.n_layers, width);
    m->weights.generators = m->generators;
    m->weights.n_generators = n_generators;
    for (size_t i = 0; i < n_generators; i++) {
        vtc_vlora_generator *g = &m->generators[i];
        weight_set *set = &m->sets[i];

        set->seed = seed + i + 1;
        set->mixed = mixed;
        set->gap = m->set.gap;
        g->queries = parameter_of(set, m->n_kinds / n_generators * sizes.n_layers, sizes.d);
        g->norm = norm_of(set, sizes.d);
        g->weights_head = linear_of(set, width, sizes.d);
        g->decoders = m->decoders[i];
        g->n_decoders = sizes.depth;
        for (size_t k = 0; k < sizes.depth; k++)
            make_decoder(set, &sizes, &m->decoders[i][k]);
    }
}

void prepare_vlora_model(vlora_model *m)
{
    const vtc_exec exec = test_exec(2);

    assert_int_equal(vtc_vlora_prepare_size(&m->params, &m->weights, &exec, &m->prepared.bytes),
                     VTC_OK);
    m->prepared.data = guard_alloc(m->prepared.bytes);
    assert_int_equal(vtc_vlora_prepare(&m->params, &m->weights, &m->prepared, &exec), VTC_OK);
    guard_readonly(m->prepared.data);
}

const vtc_prepared *vlora_prepared(const vlora_model *m)
{
    return m->prepared.data == NULL ? NULL : &m->prepared;
}

void free_vlora_model(vlora_model *m)
{
    guard_free(m->prepared.data);
    weights_free(&m->set);
    for (size_t i = 0; i < VLORA_MAX_KINDS; i++)
        weights_free(&m->sets[i]);
}
