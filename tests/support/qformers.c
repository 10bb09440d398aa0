#include "qformers.h"

#include "../reference/qformer_reference.h"

#include <stdlib.h>
#include <string.h>

enum { N_WORDS = 23 };

const qformer_case small_blip2 = { 2,        8,       3,       2,     5,    13,    10,    24,
                                   12,       0,       false,   2,     true, false, false, VTC_F32,
                                   VTC_BOOL, VTC_I64, VTC_F32, false, 0,    1e-12f };
const qformer_case small_instructblip = { 4,       4,     3,     2,       4,        11,
                                          14,      24,    12,    7,       true,     2,
                                          true,    true,  false, VTC_F32, VTC_BOOL, VTC_I64,
                                          VTC_F32, false, 0,     1e-12f };

qformer_case random_qformer(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    static const vtc_dtype masks[] = { VTC_BOOL, VTC_U8, VTC_I32, VTC_I64 };
    qformer_case c = small_instructblip;

    c.n_heads = 1 + rng_below(seed, 5);
    c.width = 16 / c.n_heads + 1 + rng_below(seed, 6);
    c.n_layers = 1 + rng_below(seed, MAX_QFORMER_LAYERS);
    c.every = 1 + rng_below(seed, 3);
    c.n_queries = 1 + rng_below(seed, 12);
    c.n_image = 1 + rng_below(seed, 30);
    c.n_in = 1 + rng_below(seed, 20);
    c.n_hidden = 1 + rng_below(seed, 40);
    c.n_out = 1 + rng_below(seed, 20);
    c.takes_text = rng_below(seed, 2) == 1;
    c.n_text = c.takes_text && rng_below(seed, 4) != 0 ? 1 + rng_below(seed, 9) : 0;
    c.n_batch = rng_below(seed, 8);
    c.image_mask = rng_below(seed, 2) == 1;
    c.text_mask = rng_below(seed, 3) != 0;
    c.blind = rng_below(seed, 4) == 0;
    c.from = dtypes[rng_below(seed, 3)];
    c.mask = masks[rng_below(seed, 4)];
    c.id = rng_below(seed, 2) == 1 ? VTC_I32 : VTC_I64;
    c.to = dtypes[rng_below(seed, 3)];
    c.mixed = rng_below(seed, 2) == 1;
    c.gap = rng_below(seed, 3);
    c.eps = rng_below(seed, 2) == 1 ? 1e-12f : 0.1f;
    return c;
}

/* ---- weights --------------------------------------------------------------------------------- */

static vtc_qformer_attention attention_of(weight_set *set, size_t d, size_t n_in)
{
    vtc_qformer_attention a;

    a.query = linear_of(set, d, d);
    a.key = linear_of(set, d, n_in);
    a.value = linear_of(set, d, n_in);
    a.output = linear_of(set, d, d);
    a.norm = norm_of(set, d);
    return a;
}

static vtc_qformer_mlp mlp_of(weight_set *set, size_t d, size_t n_hidden)
{
    vtc_qformer_mlp mlp;

    mlp.up = linear_of(set, n_hidden, d);
    mlp.down = linear_of(set, d, n_hidden);
    mlp.norm = norm_of(set, d);
    return mlp;
}

static void make_weights(qformer_model *m)
{
    const qformer_case *c = &m->c;
    const size_t d = c->n_heads * c->width, queries[] = { 1, c->n_queries, d };
    const size_t words[] = { N_WORDS, d }, places[] = { c->n_text + 2, d };
    weight_set *set = &m->set;

    m->weights.query_tokens = weight_of(set, 3, queries);
    m->weights.embedding_norm = norm_of(set, d);
    if (c->takes_text) {
        m->weights.word_embeddings = weight_of(set, 2, words);
        m->weights.position_embeddings = weight_of(set, 2, places);
    }
    for (size_t i = 0; i < c->n_layers; i++) {
        m->layers[i].self = attention_of(set, d, d);
        if (i % c->every == 0)
            m->layers[i].cross = attention_of(set, d, c->n_in);
        m->layers[i].query = mlp_of(set, d, c->n_hidden);
        if (c->takes_text)
            m->layers[i].text = mlp_of(set, d, c->n_hidden + 3);
    }
    m->weights.layers = m->layers;
    m->weights.n_layers = c->n_layers;
    m->weights.projection = linear_of(set, c->n_out, d);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

size_t qformer_channels(const qformer_model *m)
{
    return m->c.n_heads * m->c.width;
}

size_t qformer_items(const qformer_model *m)
{
    return m->c.n_batch == 0 ? 1 : m->c.n_batch;
}

static void set_integer(const vtc_tensor *t, size_t i, int64_t value)
{
    void *at = (char *)t->data + element_at(t, i) * vtc_dtype_size(t->dtype);

    if (t->dtype == VTC_I64)
        *(int64_t *)at = value;
    else if (t->dtype == VTC_I32)
        *(int32_t *)at = (int32_t)value;
    else
        *(uint8_t *)at = (uint8_t)value;
}

static int64_t get_integer(const vtc_tensor *t, size_t i)
{
    const void *at = (const char *)t->data + element_at(t, i) * vtc_dtype_size(t->dtype);

    return t->dtype == VTC_I64   ? *(const int64_t *)at
           : t->dtype == VTC_I32 ? *(const int32_t *)at
                                 : *(const uint8_t *)at;
}

static vtc_tensor integers_of(qformer_model *m, vtc_dtype dtype, size_t n, size_t limit)
{
    const size_t dim[] = { m->c.n_batch, n };
    const int first = m->c.n_batch == 0;
    const vtc_tensor t = make_tensor(dtype, 2 - first, dim + first, m->c.gap);

    for (size_t i = 0; i < n_elements(&t); i++)
        set_integer(&t, i, (int64_t)rng_below(&m->set.seed, limit));
    return t;
}

static void make_inputs(qformer_model *m)
{
    const qformer_case *c = &m->c;
    const size_t dim[] = { c->n_batch, c->n_image, c->n_in };
    const int first = c->n_batch == 0;
    const size_t n_items = qformer_items(m);

    m->image = make_random(&m->set.seed, c->from, 3 - first, dim + first, c->gap);
    if (c->image_mask)
        m->image_mask = integers_of(m, c->mask, c->n_image, 2);
    for (size_t i = 0; c->image_mask && c->blind && i < c->n_image; i++)
        set_integer(&m->image_mask, (n_items - 1) * c->n_image + i, 0);
    if (c->n_text != 0)
        m->ids = integers_of(m, c->id, c->n_text, N_WORDS);
    if (c->n_text != 0 && c->text_mask)
        m->text_mask = integers_of(m, c->mask, c->n_text, 2);
}

qformer_model *make_qformer(const qformer_case *c, uint64_t seed)
{
    const vtc_qformer_params params = VTC_QFORMER_PARAMS_INIT;
    qformer_model *m = calloc(1, sizeof(*m));

    if (m == NULL)
        abort();
    m->c = *c;
    m->params = params;
    m->params.n_heads = c->n_heads;
    m->params.eps = c->eps;
    m->set.seed = seed;
    m->set.mixed = c->mixed;
    m->set.gap = c->gap;
    make_weights(m);
    make_inputs(m);
    return m;
}

void free_qformer(qformer_model *m)
{
    weights_free(&m->set);
    guard_free(m->image.data);
    guard_free(m->image_mask.data);
    guard_free(m->ids.data);
    guard_free(m->text_mask.data);
    free(m);
}

/* ---- outputs --------------------------------------------------------------------------------- */

static vtc_tensor output_of(const qformer_model *m, vtc_dtype dtype, size_t n, size_t d, size_t gap)
{
    const size_t dim[] = { m->c.n_batch, n, d };
    const int first = m->c.n_batch == 0;

    return make_tensor(dtype, 3 - first, dim + first, gap);
}

vtc_tensor qformer_hidden(const qformer_model *m, size_t gap)
{
    return output_of(m, m->c.to, m->c.n_queries + m->c.n_text, qformer_channels(m), gap);
}

vtc_tensor qformer_tokens(const qformer_model *m, size_t gap)
{
    return output_of(m, m->c.to, m->c.n_queries, m->c.n_out, gap);
}

vtc_tensor qformer_kv(const qformer_model *m, vtc_dtype dtype, size_t gap)
{
    size_t n_kv;

    assert_int_equal(vtc_qformer_kv_channels(&m->params, &m->weights, &n_kv, NULL), VTC_OK);
    return output_of(m, dtype, m->c.n_image, n_kv, gap);
}

/* ---- runs ------------------------------------------------------------------------------------ */

vtc_prepared qformer_prepare(const qformer_model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_prepared prepared;
    size_t bytes;

    assert_int_equal(vtc_qformer_prepare_size(&m->params, &m->weights, &exec, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    assert_int_equal(vtc_qformer_prepare_scratch(&m->params, &m->weights, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_qformer_prepare(&m->params, &m->weights, &prepared, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_readonly(prepared.data);
    return prepared;
}

void qformer_run(const qformer_model *m, const vtc_prepared *prepared, vtc_tensor *hidden,
                 vtc_tensor *tokens, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_qformer_scratch(&m->params, &m->weights, prepared, &m->image,
                                         given(&m->image_mask), given(&m->ids),
                                         given(&m->text_mask), hidden, tokens, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_qformer(&m->params, &m->weights, prepared, &m->image,
                                 given(&m->image_mask), given(&m->ids), given(&m->text_mask),
                                 hidden, tokens, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

void qformer_encode(const qformer_model *m, const vtc_prepared *prepared, vtc_tensor *kv,
                    size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_qformer_encode_image_scratch(&m->params, &m->weights, prepared, &m->image,
                                                      kv, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_qformer_encode_image(&m->params, &m->weights, prepared, &m->image, kv,
                                              &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

void qformer_query(const qformer_model *m, const vtc_prepared *prepared, const vtc_tensor *kv,
                   vtc_tensor *hidden, vtc_tensor *tokens, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_qformer_query_scratch(&m->params, &m->weights, prepared, kv,
                                               given(&m->image_mask), given(&m->ids),
                                               given(&m->text_mask), hidden, tokens, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_qformer_query(&m->params, &m->weights, prepared, kv, given(&m->image_mask),
                                       given(&m->ids), given(&m->text_mask), hidden, tokens, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

qformer_outputs qformer_room(const qformer_model *m, size_t gap)
{
    const qformer_outputs out = { qformer_hidden(m, gap), qformer_tokens(m, gap) };

    return out;
}

void free_qformer_outputs(qformer_outputs *out)
{
    guard_free(out->hidden.data);
    guard_free(out->tokens.data);
}

qformer_outputs qformer_once(const qformer_model *m, const vtc_prepared *prepared, size_t n_workers)
{
    qformer_outputs out = qformer_room(m, m->c.gap);

    qformer_run(m, prepared, &out.hidden, &out.tokens, n_workers);
    return out;
}

qformer_outputs qformer_twice(const qformer_model *m, const vtc_prepared *prepared, vtc_dtype dtype,
                              size_t n_workers)
{
    qformer_outputs out = qformer_room(m, m->c.gap);
    vtc_tensor kv = qformer_kv(m, dtype, m->c.gap);

    qformer_encode(m, prepared, &kv, n_workers);
    guard_readonly(kv.data);
    qformer_query(m, prepared, &kv, &out.hidden, &out.tokens, n_workers);
    guard_free(kv.data);
    return out;
}

void assert_same_qformer_outputs(const qformer_outputs *a, const qformer_outputs *b)
{
    assert_same_bits(&a->hidden, &b->hidden);
    assert_same_bits(&a->tokens, &b->tokens);
}

/* ---- what is expected ------------------------------------------------------------------------ */

static double *new_doubles(size_t n)
{
    double *values = calloc(n + 1, sizeof(*values));

    if (values == NULL)
        abort();
    return values;
}

enum { MAX_TOKENS = 4096 };

void qformer_expected(const qformer_model *m, double **hidden, double **tokens)
{
    const qformer_case *c = &m->c;
    const size_t n_items = qformer_items(m), n_rows = c->n_queries + c->n_text;
    const size_t n_hidden = n_rows * qformer_channels(m), n_tokens = c->n_queries * c->n_out;
    double *image = values_of(&m->image);

    *hidden = new_doubles(n_items * n_hidden);
    *tokens = new_doubles(n_items * n_tokens);
    for (size_t b = 0; b < n_items; b++) {
        bool image_mask[MAX_TOKENS], text_mask[MAX_TOKENS];
        int64_t ids[MAX_TOKENS];
        ref_qformer_item item = { c->n_image,
                                  c->n_text,
                                  image + b * c->n_image * c->n_in,
                                  c->image_mask ? image_mask : NULL,
                                  ids,
                                  c->text_mask ? text_mask : NULL };

        for (size_t i = 0; c->image_mask && i < c->n_image; i++)
            image_mask[i] = get_integer(&m->image_mask, b * c->n_image + i) != 0;
        for (size_t i = 0; i < c->n_text; i++)
            ids[i] = get_integer(&m->ids, b * c->n_text + i);
        for (size_t i = 0; c->text_mask && i < c->n_text; i++)
            text_mask[i] = get_integer(&m->text_mask, b * c->n_text + i) != 0;
        ref_qformer(&m->params, &m->weights, &item, *hidden + b * n_hidden, *tokens + b * n_tokens);
    }
    free(image);
}
