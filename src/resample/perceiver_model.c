/* Weights of the Perceiver Resampler: names, checks, counts and the layout of a prepared object. */
#include "perceiver_model.h"

#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"
#include "../project/chain.h"

#include <stddef.h>
#include <string.h>

#define LAYER(member) offsetof(vtc_perceiver_layer, member)
#define MODEL(member) offsetof(vtc_perceiver_weights, member)

static const vtc_weight layer_weights[] = {
    { "0.norm_media.weight", LAYER(norm_media.weight), 1, 0 },
    { "0.norm_media.bias", LAYER(norm_media.bias), 1, 0 },
    { "0.norm_latents.weight", LAYER(norm_latents.weight), 1, 0 },
    { "0.norm_latents.bias", LAYER(norm_latents.bias), 1, 0 },
    { "0.to_q.weight", LAYER(to_q), 2, 0 },
    { "0.to_kv.weight", LAYER(to_kv), 2, 0 },
    { "0.to_out.weight", LAYER(to_out), 2, 0 },
    { "1.0.weight", LAYER(ff_norm.weight), 1, 0 },
    { "1.0.bias", LAYER(ff_norm.bias), 1, 0 },
    { "1.1.weight", LAYER(ff_up), 2, 0 },
    { "1.3.weight", LAYER(ff_down), 2, 0 },
};
const vtc_weight_table vtc_perceiver_layer_table = { "perceiver layer", layer_weights, 11 };

static const vtc_weight model_weights[] = {
    { "latents", MODEL(latents), 2, 0 },
    { "frame_embs", MODEL(frame_embs), 2, 1 },
    { "media_time_embs", MODEL(media_time_embs), 3, 1 },
    { "norm.weight", MODEL(norm.weight), 1, 0 },
    { "norm.bias", MODEL(norm.bias), 1, 0 },
};
const vtc_weight_table vtc_perceiver_table = { "perceiver", model_weights, 5 };

static const vtc_weight pytorch_weights[] = {
    { "latents", MODEL(latents), 2, 0 },
    { "frame_embs", MODEL(frame_embs), 2, 1 },
    { "media_pos_emb", MODEL(media_time_embs), 3, 0 },
    { "norm.weight", MODEL(norm.weight), 1, 0 },
    { "norm.bias", MODEL(norm.bias), 1, 0 },
};
const vtc_weight_table vtc_perceiver_pytorch_table = { "perceiver", pytorch_weights, 5 };

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_layer(const vtci_owner *of, const vtci_perceiver *model,
                              const vtc_perceiver_layer *layer)
{
    const size_t d = model->d, inner = model->inner, hidden = model->hidden;

    VTCI_TRY(vtci_check_channel_norm(of, "0.norm_media", &layer->norm_media, d));
    VTCI_TRY(vtci_check_channel_norm(of, "0.norm_latents", &layer->norm_latents, d));
    VTCI_TRY(vtci_check_matrix(of, "0.to_q", ".weight", &layer->to_q, inner, d));
    VTCI_TRY(vtci_check_matrix(of, "0.to_kv", ".weight", &layer->to_kv, vtci_mul(2, inner), d));
    VTCI_TRY(vtci_check_matrix(of, "0.to_out", ".weight", &layer->to_out, d, inner));
    VTCI_TRY(vtci_check_channel_norm(of, "1.0", &layer->ff_norm, d));
    VTCI_TRY(vtci_check_matrix(of, "1.1", ".weight", &layer->ff_up, hidden, d));
    return vtci_check_matrix(of, "1.3", ".weight", &layer->ff_down, d, hidden);
}

static vtc_status check_layers(const vtci_owner *of, const vtci_perceiver *model)
{
    for (size_t i = 0; i < model->weights->n_layers; i++) {
        const vtci_label prefix = vtci_layer_label("layers.", i);
        vtci_owner owner = *of;

        owner.prefix = prefix.s;
        VTCI_TRY(check_layer(&owner, model, &model->weights->layers[i]));
    }
    return VTC_OK;
}

static vtc_status check_embeddings(const vtci_owner *of, const vtci_perceiver *model)
{
    const vtc_tensor *frames = &model->weights->frame_embs;
    const vtc_tensor *items = &model->weights->media_time_embs;

    if (!vtc_tensor_is_absent(frames))
        VTCI_TRY(vtci_check_matrix(of, "frame_embs", "", frames, frames->dim[0], model->d));
    if (vtc_tensor_is_absent(items))
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(of->call, "media_time_embs", items, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(of->call, items->dim[1] == 1 && items->dim[2] == model->d, VTC_ERR_SHAPE,
                 "media_time_embs is %zux%zux%zu, %zux1x%zu is needed", items->dim[0],
                 items->dim[1], items->dim[2], items->dim[0], model->d);
    return of->y == NULL ? VTC_OK
                         : vtci_check_apart(of->call, "y", of->y, "media_time_embs", items);
}

/* The extents that the others must agree with. */
static vtc_status open_extents(const vtci_call *call, vtci_perceiver *model)
{
    const vtc_perceiver_layer *first = model->weights->layers;
    const size_t heads = model->params.heads;

    VTCI_TRY(
        vtci_check_tensor(call, "latents", &model->weights->latents, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "layers.0.0.to_q.weight", &first->to_q, VTCI_FLOATS, 2, 2,
                               VTCI_IN));
    VTCI_TRY(
        vtci_check_tensor(call, "layers.0.1.1.weight", &first->ff_up, VTCI_FLOATS, 2, 2, VTCI_IN));
    model->m = model->weights->latents.dim[0];
    model->d = model->weights->latents.dim[1];
    model->inner = first->to_q.dim[0];
    model->hidden = first->ff_up.dim[0];
    VTCI_REQUIRE(call, model->inner != 0 && model->inner % heads == 0, VTC_ERR_SHAPE,
                 "layers.0.0.to_q.weight gives %zu channels, %zu heads cannot share them",
                 model->inner, heads);
    VTCI_TRY(vtci_check_gemm(call, model->m, vtci_mul(2, model->inner), model->d));
    return vtci_check_gemm(call, model->m, model->hidden, model->d);
}

vtc_status vtci_perceiver_open(const vtci_call *call, const vtc_perceiver_params *params,
                               const vtc_perceiver_weights *weights, const vtc_tensor *y,
                               vtci_perceiver *model)
{
    static const vtc_perceiver_params defaults = VTC_PERCEIVER_PARAMS_INIT;
    vtci_owner owner = { call, y, 0, "" };

    memset(model, 0, sizeof(*model));
    model->params = defaults;
    VTCI_TRY(vtci_params_read(call, &model->params, sizeof(model->params), params));
    VTCI_REQUIRE(call, model->params.heads != 0, VTC_ERR_RANGE, "heads is 0");
    VTCI_TRY(vtci_check_eps(call, "eps", model->params.eps));
    VTCI_TRY(vtci_check_activation(call, model->params.act));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_REQUIRE(call, weights->n_layers != 0, VTC_ERR_RANGE, "n_layers is 0");
    VTCI_REQUIRE_PTR(call, weights->layers);
    model->weights = weights;
    VTCI_TRY(open_extents(call, model));
    VTCI_TRY(vtci_check_matrix(&owner, "latents", "", &weights->latents, model->m, model->d));
    VTCI_TRY(check_embeddings(&owner, model));
    VTCI_TRY(vtci_check_channel_norm(&owner, "norm", &weights->norm, model->d));
    return check_layers(&owner, model);
}

/* ---- the first layer ------------------------------------------------------------------------- */

void vtci_perceiver_take_first(vtci_arena *arena, vtci_perceiver *model)
{
    const size_t floats = vtci_mul(model->m, model->inner);

    model->first_q = vtci_take(arena, floats, sizeof(float));
    model->first_kv = vtci_take(arena, vtci_mul(2, floats), sizeof(float));
}

void vtci_perceiver_make_first(const vtci_perceiver *model, vtci_steps *steps, float *u)
{
    const vtc_perceiver_layer *layer = model->weights->layers;
    const vtci_rows normed = vtci_float_rows(u, model->m, model->d);
    vtci_norm norm = { .x = vtci_rows_of(&model->weights->latents),
                       .y = normed,
                       .kind = VTC_NORM_LAYER,
                       .norm = &layer->norm_latents,
                       .eps = model->params.eps };

    vtci_steps_norm(steps, &norm);
    vtci_steps_linear(steps, normed, &layer->to_q, NULL,
                      vtci_float_rows(model->first_q, model->m, model->inner));
    vtci_steps_linear(steps, normed, &layer->to_kv, NULL,
                      vtci_float_rows(model->first_kv, model->m, 2 * model->inner));
}

/* ---- prepared objects ------------------------------------------------------------------------ */

static bool folds(const vtci_perceiver *model)
{
    /* a gain times a 16-bit weight has no place in 16 bits */
    for (size_t i = 0; i < model->weights->n_layers; i++)
        if (model->weights->layers[i].to_kv.dtype != VTC_F32)
            return false;
    return true;
}

vtci_prepared_key vtci_perceiver_key(const vtci_perceiver *model)
{
    const vtc_perceiver_weights *weights = model->weights;
    vtci_prepared_key key = { "perceiver", VTCI_FINGERPRINT };

    key.fingerprint = vtci_mix(key.fingerprint, model->params.heads);
    key.fingerprint = vtci_mix_float(key.fingerprint, model->params.eps);
    key.fingerprint = vtci_mix(key.fingerprint, (uint64_t)model->params.act);
    key.fingerprint = vtci_mix(key.fingerprint, weights->n_layers);
    key.fingerprint = vtci_mix_weights(key.fingerprint, &vtc_perceiver_table, weights);
    for (size_t i = 0; i < weights->n_layers; i++)
        key.fingerprint =
            vtci_mix_weights(key.fingerprint, &vtc_perceiver_layer_table, &weights->layers[i]);
    return key;
}

vtci_perceiver_packed vtci_perceiver_take_layer(vtci_arena *layers, const vtci_perceiver *model,
                                                size_t layer)
{
    const vtc_perceiver_layer *weights = &model->weights->layers[layer];
    vtci_perceiver_packed packed;

    packed.q = vtci_packed_take(layers, &weights->to_q);
    packed.kv = vtci_packed_take(layers, &weights->to_kv);
    packed.out = vtci_packed_take(layers, &weights->to_out);
    packed.up = vtci_packed_take(layers, &weights->ff_up);
    packed.down = vtci_packed_take(layers, &weights->ff_down);
    return packed;
}

void vtci_perceiver_take_prepared(vtci_arena *arena, vtci_perceiver *model)
{
    const size_t n_layers = model->weights->n_layers;
    const size_t rows = vtci_mul(n_layers, 2 * model->inner);
    const vtc_tensor folded = vtc_f32_2d(NULL, rows, model->d);

    vtci_perceiver_take_first(arena, model);
    model->is_folded = folds(model);
    if (model->is_folded) {
        model->folded = vtci_packed_take(arena, &folded);
        model->folded_bias = vtci_take(arena, rows, sizeof(float));
    }
    model->is_prepared = true;
    model->layers = *arena;
    for (size_t i = 0; i < n_layers; i++)
        (void)vtci_perceiver_take_layer(arena, model, i);
}

/* ---- cost ------------------------------------------------------------------------------------ */

vtc_status vtc_perceiver_cost(const vtc_perceiver_params *params,
                              const vtc_perceiver_weights *weights, size_t n_items, size_t n_tokens,
                              vtc_model_cost *cost, const vtc_exec *exec)
{
    vtci_call call;
    vtci_perceiver model;
    double parameters;

    VTCI_TRY(vtci_begin(&call, "vtc_perceiver_cost", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, cost);
    VTCI_TRY(vtci_perceiver_open(&call, params, weights, NULL, &model));
    parameters = vtci_count_weights(&vtc_perceiver_table, weights);
    for (size_t i = 0; i < weights->n_layers; i++)
        parameters += vtci_count_weights(&vtc_perceiver_layer_table, &weights->layers[i]);

    const double m = (double)model.m, d = (double)model.d, inner = (double)model.inner;
    const double keys = (double)n_tokens + m, hidden = (double)model.hidden;
    const double layer =
        2 * m * d * inner + 2 * keys * d * inner + 2 * m * keys * inner + 2 * m * d * hidden;

    cost->parameters = parameters;
    cost->multiply_adds = (double)n_items * (double)weights->n_layers * layer;
    return VTC_OK;
}
