/* The Q-Former of BLIP-2. The limit: its products one by one, by the same OpenBLAS, which packs the
 * weights in every call. */
#include "bench.h"

#include <math.h>
#include <vtc/qformer.h>

enum { N_QUERIES = 32, D = 768, N_HIDDEN = 3072, N_IMAGE = 257, E = 1408, N_LAYERS = 12 };

struct qformer_form {
    vtc_dtype dtype; /* of the weights */
    bool prepared, encoded;
    size_t n_text;
};

struct qformer {
    const struct qformer_form *form;
    vtc_qformer_layer layers[N_LAYERS];
    vtc_qformer_weights weights;
    vtc_prepared prepared;
    vtc_tensor image, kv, ids, hidden;
};

/* Scaled so that sums stay near 1: the tail of the GELU is denormal. */
static vtc_linear make_linear(bench_set *set, vtc_dtype dtype, size_t n_out, size_t n_in)
{
    const float scale = 1.7f / sqrtf((float)n_in);
    vtc_linear linear;

    linear.weight = bench_random_2d(set, dtype, n_out, n_in);
    linear.bias = bench_random(set, VTC_F32, 1, &n_out);
    for (size_t i = 0; dtype == VTC_F32 && i < n_out * n_in; i++)
        ((float *)linear.weight.data)[i] *= scale;
    return linear;
}

static vtc_qformer_attention make_attention(bench_set *set, vtc_dtype dtype, size_t n_in)
{
    vtc_qformer_attention a;

    a.query = make_linear(set, dtype, D, D);
    a.key = make_linear(set, dtype, D, n_in);
    a.value = make_linear(set, dtype, D, n_in);
    a.output = make_linear(set, dtype, D, D);
    a.norm = bench_random_norm(set, D);
    return a;
}

static vtc_qformer_mlp make_mlp(bench_set *set, vtc_dtype dtype)
{
    vtc_qformer_mlp mlp;

    mlp.up = make_linear(set, dtype, N_HIDDEN, D);
    mlp.down = make_linear(set, dtype, D, N_HIDDEN);
    mlp.norm = bench_random_norm(set, D);
    return mlp;
}

static void make_weights(bench_set *set, struct qformer *q)
{
    const vtc_dtype dtype = q->form->dtype;

    q->weights.query_tokens = bench_random_3d(set, VTC_F32, 1, N_QUERIES, D);
    q->weights.embedding_norm = bench_random_norm(set, D);
    q->weights.layers = q->layers;
    q->weights.n_layers = N_LAYERS;
    if (q->form->n_text != 0) {
        q->weights.word_embeddings = bench_random_2d(set, dtype, 1000, D);
        q->weights.position_embeddings = bench_random_2d(set, dtype, 512, D);
    }
    for (size_t i = 0; i < N_LAYERS; i++) {
        q->layers[i].self = make_attention(set, dtype, D);
        if (i % 2 == 0)
            q->layers[i].cross = make_attention(set, dtype, E);
        q->layers[i].query = make_mlp(set, dtype);
        if (q->form->n_text != 0)
            q->layers[i].text = make_mlp(set, dtype);
    }
}

static void prepare(bench_set *set, struct qformer *q)
{
    size_t bytes;

    bench_must(vtc_qformer_prepare_size(NULL, &q->weights, &set->exec, &q->prepared.bytes));
    q->prepared.data = bench_zeros(set, q->prepared.bytes);
    bench_must(vtc_qformer_prepare_scratch(NULL, &q->weights, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_must(vtc_qformer_prepare(NULL, &q->weights, &q->prepared, &set->exec));
}

static const vtc_prepared *prepared_of(const struct qformer *q)
{
    return q->form->prepared ? &q->prepared : NULL;
}

static void set_up_encoded(bench_set *set, struct qformer *q)
{
    size_t n_kv, bytes;

    bench_must(vtc_qformer_kv_channels(NULL, &q->weights, &n_kv, &set->exec));
    q->kv = bench_random_2d(set, VTC_F32, N_IMAGE, n_kv);
    bench_must(vtc_qformer_encode_image_scratch(NULL, &q->weights, prepared_of(q), &q->image,
                                                &q->kv, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_must(
        vtc_qformer_encode_image(NULL, &q->weights, prepared_of(q), &q->image, &q->kv, &set->exec));
}

static size_t scratch_bytes(bench_set *set, const struct qformer *q)
{
    const vtc_tensor *ids = q->form->n_text != 0 ? &q->ids : NULL;
    size_t bytes;

    if (q->form->encoded)
        bench_must(vtc_qformer_query_scratch(NULL, &q->weights, prepared_of(q), &q->kv, NULL, ids,
                                             NULL, &q->hidden, NULL, &set->exec, &bytes));
    else
        bench_must(vtc_qformer_scratch(NULL, &q->weights, prepared_of(q), &q->image, NULL, ids,
                                       NULL, &q->hidden, NULL, &set->exec, &bytes));
    return bytes;
}

static void set_up_limit(bench_set *set, const struct qformer_form *form)
{
    const size_t n = N_QUERIES + form->n_text;

    if (!form->encoded)
        bench_limit_product(set, 1, N_IMAGE, N_LAYERS * D, E, true);
    bench_limit_product(set, 4 * N_LAYERS + N_LAYERS, n, D, D, true);
    bench_limit_product(set, N_LAYERS, n, N_HIDDEN, D, true);
    bench_limit_product(set, N_LAYERS, n, D, N_HIDDEN, true);
}

static void set_up(bench_set *set, const void *argument)
{
    struct qformer *q = set->state = bench_zeros(set, sizeof(*q));
    int64_t *ids;

    q->form = argument;
    ids = bench_zeros(set, q->form->n_text * sizeof(*ids));
    for (size_t i = 0; i < q->form->n_text; i++)
        ids[i] = (int64_t)(i * 31 % 1000);
    q->ids = vtc_tensor_1d(ids, VTC_I64, q->form->n_text);
    make_weights(set, q);
    q->image = bench_random_2d(set, VTC_F32, N_IMAGE, E);
    q->hidden = bench_random_2d(set, VTC_F32, N_QUERIES, D);
    if (q->form->prepared)
        prepare(set, q);
    if (q->form->encoded)
        set_up_encoded(set, q);
    bench_scratch(set, scratch_bytes(set, q));
    set_up_limit(set, q->form);
}

static void run(bench_set *set)
{
    struct qformer *q = set->state;
    const vtc_tensor *ids = q->form->n_text != 0 ? &q->ids : NULL;

    if (q->form->encoded)
        bench_must(vtc_qformer_query(NULL, &q->weights, prepared_of(q), &q->kv, NULL, ids, NULL,
                                     &q->hidden, NULL, &set->exec));
    else
        bench_must(vtc_qformer(NULL, &q->weights, prepared_of(q), &q->image, NULL, ids, NULL,
                               &q->hidden, NULL, &set->exec));
}

static const struct qformer_form f32 = { VTC_F32, true, false, 0 };
static const struct qformer_form bf16 = { VTC_BF16, true, false, 0 };
static const struct qformer_form raw = { VTC_F32, false, false, 0 };
static const struct qformer_form query = { VTC_F32, true, true, 0 };
static const struct qformer_form text = { VTC_F32, true, false, 32 };

/* The language model runs between two images: weights come from main memory. */
enum { COLD = true };

const bench_case bench_qformer_cases[] = {
    { "qformer/blip2_257x1408_f32", set_up, run, &f32, COLD, 0.8 },
    { "qformer/blip2_257x1408_bf16", set_up, run, &bf16, COLD, 0.0 },
    { "qformer/blip2_257x1408_f32_not_prepared", set_up, run, &raw, COLD, 0.0 },
    { "qformer/blip2_query_f32", set_up, run, &query, COLD, 0.0 },
    { "qformer/instructblip_257x1408_text32_f32", set_up, run, &text, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
