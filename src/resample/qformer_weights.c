/* The Q-Former's weights: names, checks, counts. */
#include "../linalg/weight_check.h"
#include "qformer.h"

#include <stddef.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------- */

#define AT(member)       offsetof(vtc_qformer_weights, member)
#define LAYER_AT(member) offsetof(vtc_qformer_layer, member)
#define PAIR(name, at, rank, optional)                                     \
    { name ".weight", at + offsetof(vtc_linear, weight), rank, optional }, \
    {                                                                      \
        name ".bias", at + offsetof(vtc_linear, bias), 1, optional         \
    }
#define LINEAR(name, member, optional) PAIR(name, LAYER_AT(member), 2, optional)
#define NORM(name, member, optional)   PAIR(name, LAYER_AT(member), 1, optional)

/* `mha` is the one word in which the two layouts differ. */
#define ATTENTION(name, mha, member, optional)                 \
    LINEAR(name "." mha ".query", member.query, optional),     \
        LINEAR(name "." mha ".key", member.key, optional),     \
        LINEAR(name "." mha ".value", member.value, optional), \
        LINEAR(name ".output.dense", member.output, optional), \
        NORM(name ".output.LayerNorm", member.norm, optional)
#define MLP(tail, member, optional)                            \
    LINEAR("intermediate" tail ".dense", member.up, optional), \
        LINEAR("output" tail ".dense", member.down, optional), \
        NORM("output" tail ".LayerNorm", member.norm, optional)
#define LAYER(mha)                                                                    \
    ATTENTION("attention", mha, self, 0), ATTENTION("crossattention", mha, cross, 1), \
        MLP("_query", query, 0), MLP("", text, 1)

enum { N_ATTENTION = 10, N_MLP = 6, N_LAYER = 2 * N_ATTENTION + 2 * N_MLP, N_MODEL = 5 };

static const vtc_weight lavis_layer[] = { LAYER("self") };
static const vtc_weight hf_layer[] = { LAYER("attention") };

#define MODEL(norm, embeddings)                                                       \
    { "query_tokens", AT(query_tokens), 3, 0 }, PAIR(norm, AT(embedding_norm), 1, 0), \
        { embeddings "word_embeddings.weight", AT(word_embeddings), 2, 1 },           \
    {                                                                                 \
        embeddings "position_embeddings.weight", AT(position_embeddings), 2, 1        \
    }

static const vtc_weight lavis[] = { MODEL("Qformer.bert.embeddings.LayerNorm",
                                          "Qformer.bert.embeddings.") };
static const vtc_weight blip2[] = { MODEL("qformer.layernorm", "embeddings.") };
static const vtc_weight instructblip[] = { MODEL("qformer.embeddings.layernorm",
                                                 "qformer.embeddings.") };

const vtc_weight_table vtc_qformer_lavis_table = { "Q-Former (LAVIS)", lavis, N_MODEL };
const vtc_weight_table vtc_qformer_blip2_table = { "Q-Former (BLIP-2)", blip2, N_MODEL };
const vtc_weight_table vtc_qformer_instructblip_table = { "Q-Former (InstructBLIP)", instructblip,
                                                          N_MODEL };
const vtc_weight_table vtc_qformer_lavis_layer_table = { "Q-Former layer (LAVIS)", lavis_layer,
                                                         N_LAYER };
const vtc_weight_table vtc_qformer_hf_layer_table = { "Q-Former layer", hf_layer, N_LAYER };

/* ---- all tensors ----------------------------------------------------------------------------- */

/* Tensor `i` of the model, its layers' and the projection's included, and its name; NULL behind the
 * last one. */
static const vtc_tensor *tensor_at(const vtc_qformer_weights *w, size_t i, const char **name)
{
    const size_t layer = i < N_MODEL ? 0 : (i - N_MODEL) / N_LAYER;
    const size_t end = N_MODEL + w->n_layers * N_LAYER;
    const vtc_weight *weight = i < N_MODEL ? &instructblip[i] : &hf_layer[(i - N_MODEL) % N_LAYER];
    const char *from = (const char *)w;

    if (i >= end) {
        *name = i == end ? "projection.weight" : "projection.bias";
        return i == end ? &w->projection.weight : i == end + 1 ? &w->projection.bias : NULL;
    }
    if (i >= N_MODEL)
        from = (const char *)(w->layers + layer);
    *name = weight->name;
    return (const vtc_tensor *)(const void *)(from + weight->offset);
}

vtc_status vtci_qformer_check_apart(const vtci_qformer *m, const char *name, const vtc_tensor *out)
{
    const vtc_tensor *t;
    const char *what;

    for (size_t i = 0; (t = tensor_at(m->w, i, &what)) != NULL; i++)
        if (!vtc_tensor_is_absent(t))
            VTCI_TRY(vtci_check_apart(m->call, name, out, what, t));
    return VTC_OK;
}

vtci_prepared_key vtci_qformer_key(const vtci_qformer *m)
{
    vtci_prepared_key key = { "qformer", VTCI_FINGERPRINT };
    const vtc_tensor *t;
    const char *name;

    key.fingerprint = vtci_mix(key.fingerprint, m->params.n_heads);
    key.fingerprint = vtci_mix_float(key.fingerprint, m->params.eps);
    for (size_t i = 0; (t = tensor_at(m->w, i, &name)) != NULL; i++)
        key.fingerprint = vtci_mix_tensor(key.fingerprint, t);
    return key;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_linear(const vtci_owner *of, const char *name, const vtc_linear *layer,
                               size_t n_out, size_t n_in)
{
    VTCI_TRY(vtci_check_matrix(of, name, ".weight", &layer->weight, n_out, n_in));
    return vtci_check_bias(of, name, &layer->bias, n_out);
}

/* The same for a layer that says itself how wide its output is. */
static vtc_status check_any_linear(const vtci_owner *of, const char *name, const vtc_linear *layer,
                                   size_t n_in)
{
    const vtci_label l = vtci_label_of(of, name, ".weight");

    VTCI_TRY(vtci_check_tensor(of->call, l.s, &layer->weight, VTCI_FLOATS, 2, 2, VTCI_IN));
    return check_linear(of, name, layer, layer->weight.dim[0], n_in);
}

static vtc_status check_self(const vtci_owner *of, const vtc_qformer_attention *a, size_t d)
{
    VTCI_TRY(check_linear(of, "attention.attention.query", &a->query, d, d));
    VTCI_TRY(check_linear(of, "attention.attention.key", &a->key, d, d));
    VTCI_TRY(check_linear(of, "attention.attention.value", &a->value, d, d));
    VTCI_TRY(check_linear(of, "attention.output.dense", &a->output, d, d));
    return vtci_check_channel_norm(of, "attention.output.LayerNorm", &a->norm, d);
}

static vtc_status check_cross(const vtci_owner *of, const vtc_qformer_attention *a, size_t d,
                              size_t e)
{
    VTCI_TRY(check_linear(of, "crossattention.attention.query", &a->query, d, d));
    VTCI_TRY(check_linear(of, "crossattention.attention.key", &a->key, d, e));
    VTCI_TRY(check_linear(of, "crossattention.attention.value", &a->value, d, e));
    VTCI_TRY(check_linear(of, "crossattention.output.dense", &a->output, d, d));
    return vtci_check_channel_norm(of, "crossattention.output.LayerNorm", &a->norm, d);
}

/* A vtc_qformer_mlp; tail is "_query" or "". */
static vtc_status check_mlp(const vtci_owner *of, const char *up, const char *down,
                            const char *norm, const vtc_qformer_mlp *mlp, vtci_qformer *m)
{
    VTCI_TRY(check_any_linear(of, up, &mlp->up, m->d));
    VTCI_TRY(check_linear(of, down, &mlp->down, m->d, mlp->up.weight.dim[0]));
    m->n_hidden = vtci_max(m->n_hidden, mlp->up.weight.dim[0]);
    return vtci_check_channel_norm(of, norm, &mlp->norm, m->d);
}

/* Whether any of `n` tensors from `first` on, places in the table of a layer, is there. */
static bool has_any(const vtc_qformer_layer *layer, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++)
        if (!vtc_tensor_is_absent(
                (const vtc_tensor *)(const void *)((const char *)layer + hf_layer[i].offset)))
            return true;
    return false;
}

bool vtci_qformer_reads_image(const vtc_qformer_layer *layer)
{
    return has_any(layer, N_ATTENTION, N_ATTENTION);
}

static vtc_status check_layer(vtci_qformer *m, size_t i)
{
    const vtc_qformer_layer *layer = &m->w->layers[i];
    const vtci_label prefix = vtci_layer_label("encoder.layer.", i);
    const vtci_owner of = { m->call, NULL, 1, prefix.s };

    VTCI_TRY(check_self(&of, &layer->self, m->d));
    if (vtci_qformer_reads_image(layer)) {
        const vtc_tensor *key = &layer->cross.key.weight;

        if (m->n_cross++ == 0 && key->rank == 2)
            m->n_image_cols = key->dim[1];
        VTCI_TRY(check_cross(&of, &layer->cross, m->d, m->n_image_cols));
    }
    VTCI_TRY(check_mlp(&of, "intermediate_query.dense", "output_query.dense",
                       "output_query.LayerNorm", &layer->query, m));
    if (has_any(layer, 2 * N_ATTENTION + N_MLP, N_MLP))
        return check_mlp(&of, "intermediate.dense", "output.dense", "output.LayerNorm",
                         &layer->text, m);
    if (m->lacks == NULL) {
        m->lacks = "intermediate.dense.weight";
        m->lacks_layer = i;
    }
    return VTC_OK;
}

/* One row per item; how many, the tensor says. */
static vtc_status check_table(vtci_qformer *m, const char *name, const vtc_tensor *t)
{
    if (vtc_tensor_is_absent(t)) {
        m->lacks = name;
        return VTC_OK;
    }
    VTCI_TRY(vtci_check_tensor(m->call, name, t, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(m->call, t->dim[1] == m->d, VTC_ERR_SHAPE,
                 "%s has %zu channels, query_tokens have %zu", name, t->dim[1], m->d);
    return VTC_OK;
}

static vtc_status check_queries(vtci_qformer *m)
{
    const vtci_call *call = m->call;
    const vtc_tensor *t = &m->w->query_tokens;

    VTCI_TRY(vtci_check_tensor(call, "query_tokens", t, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_REQUIRE(call, t->rank == 2 || t->dim[0] == 1, VTC_ERR_SHAPE,
                 "query_tokens is %zux%zux%zu, its first extent must be 1", t->dim[0], t->dim[1],
                 t->dim[2]);
    m->n_queries = t->dim[t->rank - 2];
    m->d = t->dim[t->rank - 1];
    VTCI_REQUIRE(call, m->n_queries != 0 && m->d != 0, VTC_ERR_SHAPE,
                 "there are %zu queries of %zu channels", m->n_queries, m->d);
    VTCI_REQUIRE(call, m->params.n_heads != 0 && m->d % m->params.n_heads == 0, VTC_ERR_SHAPE,
                 "%zu channels cannot be %zu heads", m->d, m->params.n_heads);
    return VTC_OK;
}

vtc_status vtci_qformer_open(const vtci_call *call, const vtc_qformer_params *params,
                             const vtc_qformer_weights *weights, vtci_qformer *m)
{
    const vtc_qformer_params defaults = VTC_QFORMER_PARAMS_INIT;
    const vtci_owner of = { call, NULL, 1, "" };

    memset(m, 0, sizeof(*m));
    m->call = call;
    m->params = defaults;
    VTCI_TRY(vtci_params_read(call, &m->params, sizeof(m->params), params));
    VTCI_TRY(vtci_check_eps(call, "eps", m->params.eps));
    VTCI_REQUIRE_PTR(call, weights);
    m->w = weights;
    VTCI_REQUIRE(call, weights->layers != NULL && weights->n_layers <= INT32_MAX / N_LAYER,
                 VTC_ERR_NULL, "layers is NULL, or too long: n_layers is %zu", weights->n_layers);
    VTCI_TRY(check_queries(m));
    VTCI_TRY(vtci_check_channel_norm(&of, "embeddings.layernorm", &weights->embedding_norm, m->d));
    for (size_t i = 0; i < weights->n_layers; i++)
        VTCI_TRY(check_layer(m, i));
    VTCI_REQUIRE(call, m->n_cross != 0, VTC_ERR_SHAPE,
                 "none of the %zu layers has a crossattention", weights->n_layers);
    VTCI_REQUIRE(call, m->n_image_cols != 0, VTC_ERR_SHAPE,
                 "crossattention.attention.key.weight takes images of 0 channels");
    VTCI_TRY(check_table(m, "position_embeddings.weight", &weights->position_embeddings));
    VTCI_TRY(check_table(m, "word_embeddings.weight", &weights->word_embeddings));
    if (!vtc_tensor_is_absent(&weights->projection.weight))
        VTCI_TRY(check_any_linear(&of, "projection", &weights->projection, m->d));
    m->n_kv = vtci_mul(vtci_mul(m->n_cross, 2), m->d);
    return vtci_check_gemm(call, m->n_hidden, vtci_max(m->n_kv, vtci_mul(3, m->d)),
                           m->n_image_cols);
}

/* ---- counts ---------------------------------------------------------------------------------- */

vtc_status vtc_qformer_kv_channels(const vtc_qformer_params *params,
                                   const vtc_qformer_weights *weights, size_t *n_channels,
                                   const vtc_exec *exec)
{
    vtci_qformer m;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_kv_channels", exec, n_channels));
    VTCI_TRY(vtci_qformer_open(&call, params, weights, &m));
    *n_channels = m.n_kv;
    return VTC_OK;
}

/* Multiply-adds of one image. */
static double multiply_adds(const vtci_qformer *m, double n_image, double n_text)
{
    const double nq = (double)m->n_queries, d = (double)m->d, n = nq + n_text;
    const double cross =
        nq * 2.0 * d * d + 2.0 * n_image * (double)m->n_image_cols * d + 2.0 * nq * n_image * d;
    double sum = (double)m->n_cross * cross;

    for (size_t i = 0; i < m->w->n_layers; i++) {
        const vtc_qformer_layer *layer = &m->w->layers[i];

        sum += 4.0 * n * d * d + 2.0 * n * n * d;
        sum += 2.0 * nq * d * (double)layer->query.up.weight.dim[0];
        if (n_text > 0.0)
            sum += 2.0 * n_text * d * (double)layer->text.up.weight.dim[0];
    }
    if (!vtc_tensor_is_absent(&m->w->projection.weight))
        sum += nq * d * (double)m->w->projection.weight.dim[0];
    return sum;
}

vtc_status vtc_qformer_cost(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                            size_t n_batch, size_t n_image, size_t n_text, vtc_model_cost *cost,
                            const vtc_exec *exec)
{
    vtc_model_cost sum = { 0.0, 0.0 };
    const vtc_tensor *t;
    const char *name;
    vtci_qformer m;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_qformer_cost", exec));
    call.query = true; /* weights may lack data */
    VTCI_REQUIRE_PTR(&call, cost);
    VTCI_TRY(vtci_qformer_open(&call, params, weights, &m));
    VTCI_REQUIRE(&call, n_text == 0 || m.lacks == NULL, VTC_ERR_UNSUPPORTED,
                 "%zu tokens of text, but %s is absent (layer %zu)", n_text, m.lacks,
                 m.lacks_layer);
    for (size_t i = 0; (t = tensor_at(weights, i, &name)) != NULL; i++)
        sum.parameters += vtc_tensor_is_absent(t) ? 0.0 : (double)vtci_count(t);
    sum.multiply_adds = (double)n_batch * multiply_adds(&m, (double)n_image, (double)n_text);
    *cost = sum;
    return VTC_OK;
}
