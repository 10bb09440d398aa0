#include "hyper.h"

#include "reference/hyper_reference.h"

#include <stdlib.h>

hyper_model make_hyper_model(uint64_t seed, vtc_hyper_variant variant, size_t n_heads, size_t n_kv,
                             size_t d, size_t c, bool mixed)
{
    const vtc_hyper_attention_params params = VTC_HYPER_ATTENTION_PARAMS_INIT;
    hyper_model m = { .params = params, .variant = variant, .c = c, .n_kv = n_kv, .d = d };
    const size_t q = n_heads * d, e = n_kv * d;

    m.set.seed = seed;
    m.set.mixed = mixed;
    m.set.gap = mixed ? 3 : 0;
    m.params.n_heads = n_heads;
    m.weights.input_layernorm = norm_of(&m.set, c).weight;
    m.weights.q_proj = linear_of(&m.set, q, c);
    m.weights.k_proj = linear_of(&m.set, e, c);
    m.weights.v_proj = linear_of(&m.set, e, c);
    m.weights.o_proj = linear_of(&m.set, c, q);
    m.weights.v_kv_proj = linear_of(&m.set, 2 * e, c);
    if (variant == VTC_HYPER_GATE_PROJ)
        m.weights.gate_proj = linear_of(&m.set, d, d);
    if (variant == VTC_HYPER_GATE)
        m.weights.gate = vector_of(&m.set, q);
    return m;
}

void prepare_hyper_model(hyper_model *m)
{
    const vtc_exec exec = test_exec(2);

    assert_int_equal(vtc_hyper_attention_prepare_size(&m->params, &m->weights, &exec,
                                                      &m->prepared.bytes),
                     VTC_OK);
    m->prepared.data = guard_alloc(m->prepared.bytes);
    assert_int_equal(vtc_hyper_attention_prepare(&m->params, &m->weights, &m->prepared, &exec),
                     VTC_OK);
    guard_readonly(m->prepared.data);
}

const vtc_prepared *hyper_prepared(const hyper_model *m)
{
    return m->prepared.data == NULL ? NULL : &m->prepared;
}

void free_hyper_model(hyper_model *m)
{
    guard_free(m->prepared.data);
    weights_free(&m->set);
}

vtc_tensor make_hyper_cache(const hyper_model *m, vtc_dtype dtype, size_t rows, bool tokens_first)
{
    const size_t outer = tokens_first ? rows : m->n_kv, inner = tokens_first ? m->n_kv : rows;
    vtc_tensor t = make_tensor(dtype, 3, (const size_t[]){ outer, inner, m->d }, 2);

    if (tokens_first) {
        const size_t stride = t.stride[0];

        t.dim[0] = m->n_kv;
        t.dim[1] = rows;
        t.stride[0] = t.stride[1];
        t.stride[1] = stride;
    }
    return t;
}

hyper_text make_hyper_text(uint64_t *seed, const hyper_model *m, size_t n, size_t n_images,
                           size_t n_image_rows, vtc_dtype dtype, vtc_dtype cache, bool tokens_first)
{
    const size_t n_visual = n_images * n_image_rows;
    hyper_text t = { .hidden = make_random(seed, dtype, 2, (const size_t[]){ n, m->c }, 1),
                     .images = make_random(seed, dtype, 3,
                                           (const size_t[]){ n_images, n_image_rows, m->c }, 1) };

    for (size_t i = 0; i < n_images; i++) {
        size_t at = i;
        const int32_t start = (int32_t)rng_below(seed, n + 1);

        for (; at > 0 && t.starts[at - 1] > start; at--)
            t.starts[at] = t.starts[at - 1];
        t.starts[at] = start;
    }
    t.sequence.text.k = make_hyper_cache(m, cache, n, tokens_first);
    t.sequence.text.v = make_hyper_cache(m, cache, n, tokens_first);
    t.sequence.n_images = n_images;
    t.sequence.n_image_rows = n_image_rows;
    t.sequence.visual.k = make_hyper_cache(m, cache, n_visual, tokens_first);
    t.sequence.visual.v = make_hyper_cache(m, cache, n_visual, tokens_first);
    return t;
}

void free_hyper_text(hyper_text *t)
{
    guard_free(t->hidden.data);
    guard_free(t->images.data);
    guard_free(t->sequence.text.k.data);
    guard_free(t->sequence.text.v.data);
    guard_free(t->sequence.visual.k.data);
    guard_free(t->sequence.visual.v.data);
}

void encode_hyper_images(const hyper_model *m, hyper_text *t, size_t first, size_t n,
                         size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_tensor images = t->images;
    size_t bytes;

    images.data = (char *)images.data + first * images.stride[0] * vtc_dtype_size(images.dtype);
    images.dim[0] = n;
    assert_int_equal(vtc_hyper_attention_encode_images_scratch(&m->params, &m->weights,
                                                               hyper_prepared(m), &images,
                                                               t->starts + first, first,
                                                               &t->sequence.visual, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_hyper_attention_encode_images(&m->params, &m->weights, hyper_prepared(m),
                                                       &images, t->starts + first, first,
                                                       &t->sequence.visual, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

vtc_tensor hyper_rows(const vtc_tensor *t, size_t first, size_t n)
{
    vtc_tensor part = *t;

    part.data = (char *)t->data + first * t->stride[0] * vtc_dtype_size(t->dtype);
    part.dim[0] = n;
    return part;
}

void run_hyper_rows(const hyper_model *m, hyper_text *t, size_t n, const vtc_tensor *attn,
                    const vtc_tensor *out, size_t n_workers)
{
    vtc_hyper_sequence *s = &t->sequence;
    const size_t first = s->position;
    const vtc_tensor hidden = hyper_rows(&t->hidden, first, n);
    vtc_exec exec = test_exec(n_workers);
    vtc_tensor attn_rows, out_rows;
    size_t bytes;

    if (attn != NULL)
        attn_rows = hyper_rows(attn, first, n);
    if (out != NULL)
        out_rows = hyper_rows(out, first, n);
    s->n_rows = n;
    s->media_starts = t->starts;
    assert_int_equal(vtc_hyper_attention_scratch(&m->params, &m->weights, hyper_prepared(m),
                                                 &hidden, s, 1, attn == NULL ? NULL : &attn_rows,
                                                 out == NULL ? NULL : &out_rows, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_hyper_attention(&m->params, &m->weights, hyper_prepared(m), &hidden, s, 1,
                                         attn == NULL ? NULL : &attn_rows,
                                         out == NULL ? NULL : &out_rows, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    s->position += n;
}

double *expected_hyper(const hyper_model *m, const hyper_text *t)
{
    double *hidden = values_of(&t->hidden), *images = values_of(&t->images), *attn;
    const ref_hyper h = { &m->params,
                          &m->weights,
                          m->variant,
                          t->hidden.dim[0],
                          t->sequence.n_images,
                          t->sequence.n_image_rows,
                          hidden,
                          images,
                          t->starts };

    attn = ref_hyper_attention(&h);
    free(hidden);
    free(images);
    return attn;
}
