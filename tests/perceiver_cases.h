/* perceiver_cases.h: what the tests of the Perceiver Resampler share: random models with their
 * input, and how to run them. */
#ifndef VTC_TESTS_PERCEIVER_CASES_H
#define VTC_TESTS_PERCEIVER_CASES_H

#include "support/weights.h"

#include <string.h>

enum { MAX_LAYERS = 6 };

typedef struct perceiver_case {
    vtc_perceiver_params params;
    size_t m, d, width, n_layers, hidden; /* width of a head */
    size_t b, t, f, v;
    int rank;             /* of the input */
    size_t frames, items; /* embeddings; 0: none */
    vtc_dtype from, to;
    bool mixed; /* weights of any dtype */
    size_t gap;
} perceiver_case;

typedef struct model {
    weight_set set;
    vtc_perceiver_layer layers[MAX_LAYERS];
    vtc_perceiver_weights weights;
    vtc_tensor x;
} model;

static inline perceiver_case make_case(size_t b, size_t t, size_t f, size_t v)
{
    const vtc_perceiver_params params = VTC_PERCEIVER_PARAMS_INIT;
    perceiver_case k = { params, 5, 12, 6, 2, 20, b, t, f, v, 5, 0, 0, VTC_F32, VTC_F32, false, 0 };

    k.params.heads = 2;
    return k;
}

static inline vtc_tensor make_input(uint64_t *seed, const perceiver_case *k)
{
    const size_t five[] = { k->b, k->t, k->f, k->v, k->d };
    const size_t four[] = { k->b, k->t, k->v, k->d }, three[] = { k->b, k->v, k->d };

    return make_random(seed, k->from, k->rank,
                       k->rank == 5   ? five
                       : k->rank == 4 ? four
                                      : three,
                       k->gap);
}

static inline void make_layer(weight_set *set, const perceiver_case *k, vtc_perceiver_layer *layer)
{
    const size_t inner = k->params.heads * k->width;

    layer->norm_media = norm_of(set, k->d);
    layer->norm_latents = norm_of(set, k->d);
    layer->to_q = matrix_of(set, inner, k->d);
    layer->to_kv = matrix_of(set, 2 * inner, k->d);
    layer->to_out = matrix_of(set, k->d, inner);
    layer->ff_norm = norm_of(set, k->d);
    layer->ff_up = matrix_of(set, k->hidden, k->d);
    layer->ff_down = matrix_of(set, k->d, k->hidden);
}

static inline void make_model(const perceiver_case *k, uint64_t *seed, model *m)
{
    memset(m, 0, sizeof(*m));
    m->x = make_input(seed, k);
    m->set.seed = rng(seed);
    m->set.mixed = k->mixed;
    m->set.gap = k->gap;
    m->weights.latents = matrix_of(&m->set, k->m, k->d);
    if (k->frames != 0)
        m->weights.frame_embs = matrix_of(&m->set, k->frames, k->d);
    if (k->items != 0)
        m->weights.media_time_embs = weight_of(&m->set, 3, (const size_t[]){ k->items, 1, k->d });
    m->weights.norm = norm_of(&m->set, k->d);
    for (size_t i = 0; i < k->n_layers; i++)
        make_layer(&m->set, k, &m->layers[i]);
    m->weights.layers = m->layers;
    m->weights.n_layers = k->n_layers;
}

static inline void make_seeded_model(const perceiver_case *k, uint64_t seed, model *m)
{
    make_model(k, &seed, m);
}

static inline void free_model(model *m)
{
    weights_free(&m->set);
    guard_free(m->x.data);
}

static inline vtc_tensor make_output(const perceiver_case *k)
{
    return make_tensor(k->to, 4, (const size_t[]){ k->b, k->t, k->m, k->d }, k->gap);
}

static inline vtc_prepared prepared_of(const perceiver_case *k, const model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_prepared prepared;
    size_t bytes;

    assert_int_equal(vtc_perceiver_prepare_size(&k->params, &m->weights, &exec, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    assert_int_equal(vtc_perceiver_prepare_scratch(&k->params, &m->weights, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver_prepare(&k->params, &m->weights, &prepared, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_readonly(prepared.data);
    return prepared;
}

static inline vtc_tensor resampled(const perceiver_case *k, const model *m,
                                   const vtc_prepared *prepared, size_t n_workers)
{
    vtc_tensor y = make_output(k);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_perceiver_scratch(&k->params, &m->weights, prepared, &m->x, &y, &exec,
                                           &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver(&k->params, &m->weights, prepared, &m->x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

#endif
