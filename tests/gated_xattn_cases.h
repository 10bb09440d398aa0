/* gated_xattn_cases.h: what the tests of gated cross-attention share: random blocks with their
 * inputs, and every way to run them. */
#ifndef VTC_TESTS_GATED_XATTN_CASES_H
#define VTC_TESTS_GATED_XATTN_CASES_H

#include "support/weights.h"

#include <string.h>

typedef struct gated_case {
    vtc_gated_xattn_params params;
    size_t d, width, d_media, hidden; /* width of a head */
    size_t b, l, t, n;
    size_t n_locations; /* SIZE_MAX: none are given                            */
    size_t every;       /* one token of so many is a media token, 0: none is   */
    vtc_dtype from, to, kv;
    bool mixed; /* weights of any dtype */
    size_t gap;
} gated_case;

typedef struct model {
    weight_set set;
    vtc_gated_xattn_weights weights;
} model;

/* How a call is made. */
typedef struct form {
    bool encodes; /* keys and values first */
    bool prepares;
    size_t n_workers;
} form;

static inline gated_case make_case(size_t b, size_t l, size_t t, size_t n)
{
    const vtc_gated_xattn_params params = VTC_GATED_XATTN_PARAMS_INIT;
    gated_case k = { params, 12, 6, 10, 30, b, l, t, n, l, 4, VTC_F32, VTC_F32, VTC_F32, false, 0 };

    k.params.heads = 2;
    return k;
}

static inline void make_model(const gated_case *k, uint64_t seed, model *m)
{
    const size_t inner = k->params.heads * k->width;
    vtc_gated_xattn_weights *w = &m->weights;

    memset(m, 0, sizeof(*m));
    m->set.seed = seed;
    m->set.mixed = k->mixed;
    m->set.gap = k->gap;
    w->attn_norm = norm_of(&m->set, k->d);
    w->to_q = matrix_of(&m->set, inner, k->d);
    w->to_kv = matrix_of(&m->set, 2 * inner, k->d_media);
    w->to_out = matrix_of(&m->set, k->d, inner);
    w->attn_gate = vector_of(&m->set, 1);
    w->ff_norm = norm_of(&m->set, k->d);
    w->ff_up = matrix_of(&m->set, k->hidden, k->d);
    w->ff_down = matrix_of(&m->set, k->d, k->hidden);
    w->ff_gate = vector_of(&m->set, 1);
    if (seed % 2 == 0) { /* a scalar */
        w->ff_gate.rank = 0;
        w->ff_gate.dim[0] = w->ff_gate.stride[0] = 0;
    }
}

static inline vtc_tensor make_text(uint64_t *seed, const gated_case *k)
{
    return make_random(seed, k->from, 3, (const size_t[]){ k->b, k->l, k->d }, k->gap);
}

static inline vtc_tensor make_media(uint64_t *seed, const gated_case *k)
{
    return make_random(seed, k->from, 4, (const size_t[]){ k->b, k->t, k->n, k->d_media }, k->gap);
}

static inline vtc_tensor make_locations(uint64_t *seed, const gated_case *k)
{
    const vtc_tensor t = make_tensor(VTC_U8, 2, (const size_t[]){ k->b, k->n_locations }, k->gap);

    for (size_t i = 0; i < n_elements(&t); i++)
        ((uint8_t *)t.data)[element_at(&t, i)] = k->every != 0 && rng_below(seed, k->every) == 0;
    guard_readonly(t.data);
    return t;
}

static inline vtc_prepared prepared_of(const gated_case *k, const model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_prepared prepared;

    assert_int_equal(vtc_gated_xattn_prepare_size(&k->params, &m->weights, &exec, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    assert_int_equal(vtc_gated_xattn_prepare(&k->params, &m->weights, &prepared, &exec), VTC_OK);
    guard_readonly(prepared.data);
    return prepared;
}

static inline void encode(const gated_case *k, const model *m, const vtc_prepared *prepared,
                          const vtc_tensor *media, vtc_tensor *kv, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_gated_xattn_encode_media_scratch(&k->params, &m->weights, prepared, media,
                                                          kv, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_gated_xattn_encode_media(&k->params, &m->weights, prepared, media, kv,
                                                  &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static inline vtc_tensor keys_of(const gated_case *k, const model *m, const vtc_prepared *prepared,
                                 const vtc_tensor *media, size_t n_workers)
{
    const size_t width = 2 * k->params.heads * k->width;
    vtc_tensor kv = make_tensor(k->kv, 4, (const size_t[]){ k->b, k->t, k->n, width }, k->gap);

    encode(k, m, prepared, media, &kv, n_workers);
    guard_readonly(kv.data);
    return kv;
}

static inline vtc_tensor attended(const gated_case *k, const model *m, const vtc_prepared *prepared,
                                  const vtc_tensor *x, const vtc_tensor *media,
                                  const vtc_tensor *kv, const vtc_tensor *locations,
                                  size_t n_workers)
{
    vtc_tensor y = make_tensor(k->to, x->rank, x->dim, k->gap);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_gated_xattn_scratch(&k->params, &m->weights, prepared, x, media, kv,
                                             locations, &y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_gated_xattn(&k->params, &m->weights, prepared, x, media, kv, locations, &y,
                                     &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* Everything that a call reads. */
typedef struct inputs {
    vtc_tensor x, media, locations;
    model m;
} inputs;

static inline void make_inputs(const gated_case *k, uint64_t seed, inputs *in)
{
    make_model(k, rng(&seed), &in->m);
    in->x = make_text(&seed, k);
    in->media = make_media(&seed, k);
    memset(&in->locations, 0, sizeof(in->locations));
    if (k->n_locations != SIZE_MAX)
        in->locations = make_locations(&seed, k);
}

static inline void free_inputs(inputs *in)
{
    weights_free(&in->m.set);
    guard_free(in->x.data);
    guard_free(in->media.data);
    guard_free(in->locations.data);
}

static inline vtc_tensor run_form(const gated_case *k, const inputs *in, form f)
{
    vtc_prepared prepared = { NULL, 0 };
    vtc_tensor kv = { NULL, VTC_F32, 0, { 0 }, { 0 }, { 0 } }, y;

    if (f.prepares)
        prepared = prepared_of(k, &in->m, f.n_workers);
    if (f.encodes)
        kv = keys_of(k, &in->m, f.prepares ? &prepared : NULL, &in->media, f.n_workers);
    y = attended(k, &in->m, f.prepares ? &prepared : NULL, &in->x, f.encodes ? NULL : &in->media,
                 f.encodes ? &kv : NULL, given(&in->locations), f.n_workers);
    guard_free(kv.data);
    guard_free(prepared.data);
    return y;
}

#endif
