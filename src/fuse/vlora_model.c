/* VLoRA's generator: names, checks, costs, the prepared object and the learned factor. */
#include "vlora_model.h"

#include "../base/prepared.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof(*(array)))

#define AT(field) offsetof(vtc_vlora_weights, field)
static const vtc_weight model_weights[] = {
    { "visual_proj.weight", AT(visual_proj.weight), 2, 0 },
    { "visual_proj.bias", AT(visual_proj.bias), 1, 1 },
    { "pos_embed", AT(pos_embed), 3, 0 },
    { "Bs", AT(Bs), 3, 0 },
};
#undef AT
const vtc_weight_table vtc_vlora_table = { "vlora", model_weights, COUNT_OF(model_weights) };

#define AT(field) offsetof(vtc_vlora_generator, field)
static const vtc_weight generator_weights[] = {
    { "queries", AT(queries), 3, 0 },
    { "norm.weight", AT(norm.weight), 1, 0 },
    { "norm.bias", AT(norm.bias), 1, 1 },
    { "weights_head.weight", AT(weights_head.weight), 2, 0 },
    { "weights_head.bias", AT(weights_head.bias), 1, 1 },
};
#undef AT
const vtc_weight_table vtc_vlora_generator_table = { "vlora generator", generator_weights,
                                                     COUNT_OF(generator_weights) };

#define AT(field) offsetof(vtc_vlora_decoder, field)
static const vtc_weight decoder_weights[] = {
    { "norm1.weight", AT(norm1.weight), 1, 0 },
    { "norm1.bias", AT(norm1.bias), 1, 1 },
    { "norm2.weight", AT(norm2.weight), 1, 0 },
    { "norm2.bias", AT(norm2.bias), 1, 1 },
    { "norm3.weight", AT(norm3.weight), 1, 0 },
    { "norm3.bias", AT(norm3.bias), 1, 1 },
    { "self_attn.in_proj_weight", AT(self_attn.in_proj.weight), 2, 0 },
    { "self_attn.in_proj_bias", AT(self_attn.in_proj.bias), 1, 1 },
    { "self_attn.out_proj.weight", AT(self_attn.out_proj.weight), 2, 0 },
    { "self_attn.out_proj.bias", AT(self_attn.out_proj.bias), 1, 1 },
    { "multihead_attn.in_proj_weight", AT(multihead_attn.in_proj.weight), 2, 0 },
    { "multihead_attn.in_proj_bias", AT(multihead_attn.in_proj.bias), 1, 1 },
    { "multihead_attn.out_proj.weight", AT(multihead_attn.out_proj.weight), 2, 0 },
    { "multihead_attn.out_proj.bias", AT(multihead_attn.out_proj.bias), 1, 1 },
    { "linear1.weight", AT(linear1.weight), 2, 0 },
    { "linear1.bias", AT(linear1.bias), 1, 1 },
    { "linear2.weight", AT(linear2.weight), 2, 0 },
    { "linear2.bias", AT(linear2.bias), 1, 1 },
};
#undef AT
const vtc_weight_table vtc_vlora_decoder_table = { "vlora decoder", decoder_weights,
                                                   COUNT_OF(decoder_weights) };

/* ---- parameters ------------------------------------------------------------------------------ */

static vtc_status check_types(const vtci_call *call, const char *types)
{
    static const char kinds[] = "qkvom";
    const size_t n = types == NULL ? 0 : strlen(types);

    VTCI_REQUIRE(call, n != 0, VTC_ERR_RANGE, "types names no kind of weight");
    for (size_t i = 0; i < n; i++) {
        VTCI_REQUIRE(call, strchr(kinds, types[i]) != NULL, VTC_ERR_RANGE,
                     "types has the kind '%c', which is none of %s", types[i], kinds);
        VTCI_REQUIRE(call, strchr(types, types[i]) == types + i, VTC_ERR_RANGE,
                     "types has the kind '%c' twice", types[i]);
    }
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_vlora_params *params,
                              vtc_vlora_params *p)
{
    static const vtc_vlora_params defaults = VTC_VLORA_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_TRY(check_types(call, p->types));
    VTCI_REQUIRE(call, p->rank != 0, VTC_ERR_RANGE, "rank is 0");
    VTCI_REQUIRE(call, isfinite(p->alpha), VTC_ERR_RANGE, "alpha is %g", (double)p->alpha);
    VTCI_REQUIRE(call, p->n_heads != 0, VTC_ERR_RANGE, "n_heads is 0");
    VTCI_REQUIRE(call, p->skip_layers != 0, VTC_ERR_RANGE, "skip_layers is 0");
    return vtci_check_eps(call, "eps", p->eps);
}

int32_t vtc_vlora_layer(const vtc_vlora_params *params, size_t layer)
{
    vtc_vlora_params p;
    vtci_call call;

    if (vtci_begin(&call, "vtc_vlora_layer", NULL) != VTC_OK ||
        open_params(&call, params, &p) != VTC_OK || layer >= INT32_MAX)
        return -1;
    return (layer + 1) % p.skip_layers == 0 ? (int32_t)(layer / p.skip_layers) : -1;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* [1, n, m], as PyTorch keeps a parameter that is added to a batch. */
static vtc_status check_parameter(const vtci_call *call, const char *name, const vtc_tensor *t,
                                  size_t n_cols)
{
    VTCI_TRY(vtci_check_tensor(call, name, t, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, t->dim[0] == 1 && t->dim[2] == n_cols, VTC_ERR_SHAPE,
                 "%s is %zux%zux%zu, 1 x n x %zu is needed", name, t->dim[0], t->dim[1], t->dim[2],
                 n_cols);
    return VTC_OK;
}

static vtc_status check_layer(const vtci_owner *of, const char *name, const vtc_linear *layer,
                              size_t n_out, size_t n_in)
{
    VTCI_TRY(vtci_check_matrix(of, name, ".weight", &layer->weight, n_out, n_in));
    VTCI_TRY(vtci_check_gemm(of->call, of->n_tokens, n_out, n_in));
    return vtci_check_bias(of, name, &layer->bias, n_out);
}

static vtc_status check_attention(const vtci_owner *of, const char *in_name, const char *out_name,
                                  const vtc_vlora_attention *a, size_t d)
{
    VTCI_TRY(vtci_check_matrix(of, in_name, "_weight", &a->in_proj.weight, vtci_mul(3, d), d));
    if (!vtc_tensor_is_absent(&a->in_proj.bias))
        VTCI_TRY(vtci_check_vector(of, in_name, "_bias", &a->in_proj.bias, 3 * d));
    return check_layer(of, out_name, &a->out_proj, d, d);
}

static vtc_status check_decoder(const vtci_owner *of, const vtc_vlora_decoder *w, size_t d)
{
    const vtc_tensor *hidden = &w->linear1.weight;

    VTCI_TRY(vtci_check_channel_norm(of, "norm1", &w->norm1, d));
    VTCI_TRY(vtci_check_channel_norm(of, "norm2", &w->norm2, d));
    VTCI_TRY(vtci_check_channel_norm(of, "norm3", &w->norm3, d));
    VTCI_TRY(check_attention(of, "self_attn.in_proj", "self_attn.out_proj", &w->self_attn, d));
    VTCI_TRY(check_attention(of, "multihead_attn.in_proj", "multihead_attn.out_proj",
                             &w->multihead_attn, d));
    VTCI_TRY(vtci_check_tensor(of->call, vtci_label_of(of, "linear1", ".weight").s, hidden,
                               VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(check_layer(of, "linear1", &w->linear1, hidden->dim[0], d));
    return check_layer(of, "linear2", &w->linear2, d, hidden->dim[0]);
}

/* "gen.2.", "gen.2.decoders.5.": names in messages. A lone generator is called "gen.". */
static vtci_label prefix_of(const vtci_vlora *model, size_t generator)
{
    vtci_label l = { "gen." };

    return model->w->n_generators == 1 ? l : vtci_layer_label("gen.", generator);
}

static vtci_label decoder_prefix(const vtci_vlora *model, size_t generator, size_t decoder)
{
    const vtci_label stem = prefix_of(model, generator);
    char text[sizeof(stem.s) + 16];

    snprintf(text, sizeof(text), "%sdecoders.", stem.s);
    return vtci_layer_label(text, decoder);
}

static vtc_status check_generator(const vtci_call *call, vtci_vlora *model, size_t i)
{
    const vtc_vlora_generator *g = &model->w->generators[i];
    const vtci_label prefix = prefix_of(model, i);
    const vtci_owner of = { call, NULL, 0, prefix.s };
    const size_t width = model->w->Bs.dim[2], d = model->d;

    VTCI_TRY(check_parameter(call, vtci_label_of(&of, "queries", "").s, &g->queries, d));
    VTCI_REQUIRE(call, g->queries.dim[1] == model->n_queries, VTC_ERR_SHAPE,
                 "%squeries has %zu rows, %zu are needed for Bs", prefix.s, g->queries.dim[1],
                 model->n_queries);
    VTCI_TRY(vtci_check_channel_norm(&of, "norm", &g->norm, d));
    VTCI_TRY(check_layer(&of, "weights_head", &g->weights_head, width, d));
    VTCI_REQUIRE(call, g->decoders != NULL || g->n_decoders == 0, VTC_ERR_NULL,
                 "%sdecoders is NULL, n_decoders is %zu", prefix.s, g->n_decoders);
    VTCI_REQUIRE(call, g->n_decoders <= INT32_MAX, VTC_ERR_OVERFLOW, "%s has %zu decoders",
                 prefix.s, g->n_decoders);
    for (size_t k = 0; k < g->n_decoders; k++) {
        const vtci_label name = decoder_prefix(model, i, k);
        const vtci_owner inner = { call, NULL, 0, name.s };

        VTCI_TRY(check_decoder(&inner, &g->decoders[k], d));
        model->widest = vtci_max(model->widest, g->decoders[k].linear1.weight.dim[0]);
    }
    return VTC_OK;
}

/* T, n, H, D and P. */
static vtc_status read_sizes(const vtci_call *call, vtci_vlora *model)
{
    const vtc_vlora_weights *w = model->w;
    const vtci_owner of = { call, NULL, 0, "" };

    VTCI_TRY(vtci_check_tensor(call, "visual_proj.weight", &w->visual_proj.weight, VTCI_FLOATS, 2,
                               2, VTCI_IN));
    model->d = w->visual_proj.weight.dim[0];
    VTCI_REQUIRE(call, model->d != 0 && model->d % model->params.n_heads == 0, VTC_ERR_SHAPE,
                 "visual_proj.weight gives %zu channels, not a multiple of %zu heads", model->d,
                 model->params.n_heads);
    VTCI_TRY(vtci_check_bias(&of, "visual_proj", &w->visual_proj.bias, model->d));
    VTCI_TRY(check_parameter(call, "pos_embed", &w->pos_embed, model->d));
    model->n_tokens = w->pos_embed.dim[1];
    VTCI_TRY(check_parameter(call, "Bs", &w->Bs, w->Bs.rank == 3 ? w->Bs.dim[2] : 0));
    model->n_kinds = strlen(model->params.types);
    VTCI_REQUIRE(call, w->Bs.dim[1] % model->n_kinds == 0, VTC_ERR_SHAPE,
                 "Bs has %zu rows, not a multiple of the %zu kinds in types", w->Bs.dim[1],
                 model->n_kinds);
    model->n_layers = w->Bs.dim[1] / model->n_kinds;
    VTCI_REQUIRE(call, w->Bs.dim[2] % model->params.rank == 0, VTC_ERR_SHAPE,
                 "Bs has %zu columns, not a multiple of rank %zu", w->Bs.dim[2],
                 model->params.rank);
    model->llm_dim = w->Bs.dim[2] / model->params.rank;
    return vtci_check_gemm(call, model->n_tokens, vtci_mul(3, model->d),
                           w->visual_proj.weight.dim[1]);
}

static vtc_status check_weights(const vtci_call *call, vtci_vlora *model)
{
    const vtc_vlora_weights *w = model->w;

    VTCI_TRY(read_sizes(call, model));
    VTCI_REQUIRE(call, w->n_generators == 1 || w->n_generators == model->n_kinds, VTC_ERR_SHAPE,
                 "there are %zu generators for %zu kinds", w->n_generators, model->n_kinds);
    VTCI_REQUIRE(call, w->generators != NULL, VTC_ERR_NULL, "generators is NULL");
    model->n_queries = model->n_kinds / w->n_generators * model->n_layers;
    model->widest = 3 * model->d;
    for (size_t i = 0; i < w->n_generators; i++)
        VTCI_TRY(check_generator(call, model, i));
    return VTC_OK;
}

vtc_status vtci_vlora_check_apart(const vtci_call *call, const vtci_vlora *model, const char *name,
                                  const void *data, size_t bytes)
{
    const vtc_vlora_weights *w = model->w;

    if (call->query)
        return VTC_OK;
    VTCI_TRY(vtci_check_weights_apart(call, "", &vtc_vlora_table, w, name, data, bytes));
    for (size_t i = 0; i < w->n_generators; i++) {
        const vtc_vlora_generator *g = &w->generators[i];

        VTCI_TRY(vtci_check_weights_apart(call, prefix_of(model, i).s, &vtc_vlora_generator_table,
                                          g, name, data, bytes));
        for (size_t k = 0; k < g->n_decoders; k++)
            VTCI_TRY(vtci_check_weights_apart(call, decoder_prefix(model, i, k).s,
                                              &vtc_vlora_decoder_table, &g->decoders[k], name, data,
                                              bytes));
    }
    return VTC_OK;
}

/* ---- the prepared object --------------------------------------------------------------------- */

vtc_linear vtci_linear_part(const vtc_linear *layer, size_t first, size_t n)
{
    vtc_linear part = *layer;
    char *weight = layer->weight.data, *bias = layer->bias.data;

    if (weight != NULL)
        part.weight.data =
            weight + first * layer->weight.stride[0] * vtc_dtype_size(layer->weight.dtype);
    part.weight.dim[0] = n;
    if (vtc_tensor_is_absent(&layer->bias))
        return part;
    if (bias != NULL)
        part.bias.data = bias + first * vtc_dtype_size(layer->bias.dtype);
    part.bias.dim[0] = n;
    return part;
}

vtci_vlora_panels vtci_vlora_take_panels(vtci_arena *panels, const vtc_vlora_decoder *w)
{
    const vtc_linear *cross = &w->multihead_attn.in_proj;
    const vtc_linear query = vtci_linear_part(cross, 0, cross->weight.dim[0] / 3);
    vtci_vlora_panels p;

    p.self_in = vtci_packed_take(panels, &w->self_attn.in_proj.weight);
    p.self_out = vtci_packed_take(panels, &w->self_attn.out_proj.weight);
    p.cross_q = vtci_packed_take(panels, &query.weight);
    p.cross_out = vtci_packed_take(panels, &w->multihead_attn.out_proj.weight);
    p.linear1 = vtci_packed_take(panels, &w->linear1.weight);
    p.linear2 = vtci_packed_take(panels, &w->linear2.weight);
    return p;
}

vtci_packed vtci_vlora_take_head(vtci_arena *panels, const vtc_vlora_generator *generator)
{
    return vtci_packed_take(panels, &generator->weights_head.weight);
}

static vtci_prepared_key key_of(const vtci_vlora *model)
{
    const vtc_vlora_weights *w = model->w;
    vtci_prepared_key key = { "vlora", vtci_mix(VTCI_FINGERPRINT, w->n_generators) };

    for (size_t i = 0; i < w->n_generators; i++) {
        const vtc_vlora_generator *g = &w->generators[i];

        key.fingerprint = vtci_mix(key.fingerprint, g->n_decoders);
        key.fingerprint = vtci_mix_tensor(key.fingerprint, &g->weights_head.weight);
        for (size_t k = 0; k < g->n_decoders; k++)
            key.fingerprint =
                vtci_mix_weights(key.fingerprint, &vtc_vlora_decoder_table, &g->decoders[k]);
    }
    return key;
}

vtc_status vtci_vlora_open(const vtci_call *call, const vtc_vlora_params *params,
                           const vtc_vlora_weights *weights, const vtc_prepared *prepared,
                           vtci_vlora *model)
{
    vtci_prepared_key key;

    memset(model, 0, sizeof(*model));
    VTCI_TRY(open_params(call, params, &model->params));
    VTCI_REQUIRE_PTR(call, weights);
    model->w = weights;
    VTCI_TRY(check_weights(call, model));
    if (prepared == NULL)
        return VTC_OK;
    model->is_prepared = true;
    key = key_of(model);
    return vtci_prepared_open(call, prepared, &key, &model->panels);
}

static void lay_out_prepared(vtci_arena *arena, const vtci_vlora *model)
{
    for (size_t i = 0; i < model->w->n_generators; i++) {
        const vtc_vlora_generator *g = &model->w->generators[i];

        for (size_t k = 0; k < g->n_decoders; k++)
            (void)vtci_vlora_take_panels(arena, &g->decoders[k]);
        (void)vtci_vlora_take_head(arena, g);
    }
}

static void fill_decoder(const vtci_call *call, vtci_arena *panels, const vtc_vlora_decoder *w)
{
    const vtci_vlora_panels p = vtci_vlora_take_panels(panels, w);
    const vtc_linear query = vtci_linear_part(&w->multihead_attn.in_proj, 0, p.cross_q.n);

    vtci_packed_fill(call, &p.self_in, &w->self_attn.in_proj.weight);
    vtci_packed_fill(call, &p.self_out, &w->self_attn.out_proj.weight);
    vtci_packed_fill(call, &p.cross_q, &query.weight);
    vtci_packed_fill(call, &p.cross_out, &w->multihead_attn.out_proj.weight);
    vtci_packed_fill(call, &p.linear1, &w->linear1.weight);
    vtci_packed_fill(call, &p.linear2, &w->linear2.weight);
}

static void fill_prepared(const vtci_call *call, vtci_arena panels, const vtci_vlora *model)
{
    for (size_t i = 0; i < model->w->n_generators; i++) {
        const vtc_vlora_generator *g = &model->w->generators[i];

        for (size_t k = 0; k < g->n_decoders; k++)
            fill_decoder(call, &panels, &g->decoders[k]);

        const vtci_packed head = vtci_vlora_take_head(&panels, g);

        vtci_packed_fill(call, &head, &g->weights_head.weight);
    }
}

vtc_status vtc_vlora_prepare_size(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                                  const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_vlora model;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_prepare_size", exec, bytes));
    VTCI_TRY(vtci_vlora_open(&call, params, weights, NULL, &model));
    arena = vtci_prepared_measure();
    lay_out_prepared(&arena, &model);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_vlora_prepare(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                             vtc_prepared *prepared, const vtc_exec *exec)
{
    vtci_call call;
    vtci_vlora model;
    vtci_prepared_key key;
    vtci_arena arena, begin;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_prepare", exec));
    VTCI_TRY(vtci_vlora_open(&call, params, weights, NULL, &model));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    begin = arena;
    lay_out_prepared(&arena, &model);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    VTCI_TRY(vtci_vlora_check_apart(&call, &model, "prepared", prepared->data, prepared->bytes));
    fill_prepared(&call, begin, &model);
    key = key_of(&model);
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}

/* ---- numbers --------------------------------------------------------------------------------- */

vtc_status vtc_vlora_count(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                           size_t *n_kinds, size_t *n_layers, size_t *llm_dim, const vtc_exec *exec)
{
    vtci_call call;
    vtci_vlora model;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_count", exec));
    VTCI_REQUIRE_PTR(&call, n_kinds);
    VTCI_REQUIRE_PTR(&call, n_layers);
    VTCI_REQUIRE_PTR(&call, llm_dim);
    call.query = true; /* the weights' data are not needed */
    VTCI_TRY(vtci_vlora_open(&call, params, weights, NULL, &model));
    *n_kinds = model.n_kinds;
    *n_layers = model.n_layers;
    *llm_dim = model.llm_dim;
    return VTC_OK;
}

/* Of one decoder and one image. */
static double decoder_work(const vtci_vlora *model, const vtc_vlora_decoder *w)
{
    const double d = (double)model->d, p = (double)model->n_tokens, q = (double)model->n_queries;
    const double self = 4.0 * q * d * d + 2.0 * q * q * d;
    const double cross = 2.0 * q * d * d + 2.0 * p * d * d + 2.0 * q * p * d;

    return self + cross + 2.0 * q * d * (double)w->linear1.weight.dim[0];
}

vtc_status vtc_vlora_cost(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                          size_t n_images, vtc_model_cost *cost, const vtc_exec *exec)
{
    vtci_call call;
    vtci_vlora model;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_cost", exec));
    VTCI_REQUIRE_PTR(&call, cost);
    call.query = true;
    VTCI_TRY(vtci_vlora_open(&call, params, weights, NULL, &model));

    double parameters = vtci_count_weights(&vtc_vlora_table, weights);
    double work = (double)model.n_tokens * (double)vtci_count(&weights->visual_proj.weight);

    for (size_t i = 0; i < weights->n_generators; i++) {
        const vtc_vlora_generator *g = &weights->generators[i];

        parameters += vtci_count_weights(&vtc_vlora_generator_table, g);
        work += (double)model.n_queries * (double)vtci_count(&g->weights_head.weight);
        for (size_t k = 0; k < g->n_decoders; k++) {
            parameters += vtci_count_weights(&vtc_vlora_decoder_table, &g->decoders[k]);
            work += decoder_work(&model, &g->decoders[k]);
        }
    }
    cost->parameters = parameters;
    cost->multiply_adds = work * (double)n_images;
    return VTC_OK;
}

/* ---- the learned factor ---------------------------------------------------------------------- */

struct scaling {
    const vtci_vlora *model;
    vtc_tensor *b;
    float factor;
};

/* One row of Bs, a piece at a time. */
static void scale_row(void *arg, size_t row, size_t worker)
{
    enum { PIECE = 512 };
    const struct scaling *s = arg;
    const vtci_rows bs = vtci_rows_of(&s->model->w->Bs);
    const size_t n = s->model->n_layers, in = vtc_dtype_size(bs.dtype);
    const size_t out = vtc_dtype_size(s->b->dtype);
    const size_t at = row / n * s->b->stride[0] + row % n * s->b->stride[1];
    const char *from = vtci_row(&bs, 0, row);
    char *to = (char *)s->b->data + at * out;
    float wide[PIECE], scaled[PIECE];

    (void)worker;
    for (size_t i = 0; i < bs.n_cols; i += PIECE) {
        const size_t count = vtci_min(PIECE, bs.n_cols - i);

        vtci_kernels_get()->scale(scaled, vtci_load_row(from + i * in, bs.dtype, count, wide),
                                  s->factor, count);
        if (s->b->dtype == VTC_F32)
            memcpy(to + i * out, scaled, count * sizeof(*scaled));
        else
            vtci_store_row(to + i * out, s->b->dtype, count, scaled);
    }
}

vtc_status vtci_vlora_check_factors(const vtci_call *call, const vtci_vlora *model,
                                    const char *name, const vtc_tensor *t, size_t n_batch)
{
    const int first = t != NULL && t->rank == 5;

    VTCI_TRY(vtci_check_tensor(call, name, t, VTCI_FLOATS, 4, 5, VTCI_OUT));

    const size_t *dim = t->dim + first, *stride = t->stride + first;
    const size_t h = model->llm_dim, r = model->params.rank;

    VTCI_REQUIRE(call, first == 0 || t->dim[0] == n_batch, VTC_ERR_SHAPE,
                 "%s has %zu batch items, %zu are needed", name, t->dim[0], n_batch);
    VTCI_REQUIRE(call,
                 dim[0] == model->n_kinds && dim[1] == model->n_layers && dim[2] == h &&
                     dim[3] == r,
                 VTC_ERR_SHAPE, "%s is %zux%zux%zux%zu, %zux%zux%zux%zu is needed", name, dim[0],
                 dim[1], dim[2], dim[3], model->n_kinds, model->n_layers, h, r);
    VTCI_REQUIRE(call, h <= 1 || stride[2] == r, VTC_ERR_SHAPE,
                 "%s has stride %zu between its rows of %zu, there must be no gap", name, stride[2],
                 r);
    return vtci_vlora_check_apart(call, model, name, t->data, vtci_span_bytes(t));
}

vtc_status vtc_vlora_learned(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                             vtc_tensor *b, const vtc_exec *exec)
{
    vtci_call call;
    vtci_vlora model;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_learned", exec));
    VTCI_TRY(vtci_vlora_open(&call, params, weights, NULL, &model));
    VTCI_TRY(vtci_vlora_check_factors(&call, &model, "b", b, 1));
    VTCI_REQUIRE(&call, b->rank == 4, VTC_ERR_SHAPE, "b has rank %d, 4 is needed", b->rank);

    const double r = (double)model.params.rank, alpha = (double)model.params.alpha;
    struct scaling s = { &model, b, alpha == 0.0 ? 1.0f : (float)(alpha / r) };

    vtci_parallel(&call, model.n_kinds * model.n_layers, scale_row, &s);
    return VTC_OK;
}
