/* A hyper layer of mPLUG-Owl3: names, checks, costs and the prepared object. */
#include "hyper_layer.h"

#include "../base/prepared.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"

#include <math.h>
#include <string.h>

#define AT(field) offsetof(vtc_hyper_attention_weights, field)

static const vtc_weight layer_weights[] = {
    { "input_layernorm.weight", AT(input_layernorm), 1, 0 },
    { "self_attn.q_proj.weight", AT(q_proj.weight), 2, 0 },
    { "self_attn.q_proj.bias", AT(q_proj.bias), 1, 1 },
    { "self_attn.k_proj.weight", AT(k_proj.weight), 2, 0 },
    { "self_attn.k_proj.bias", AT(k_proj.bias), 1, 1 },
    { "self_attn.v_proj.weight", AT(v_proj.weight), 2, 0 },
    { "self_attn.v_proj.bias", AT(v_proj.bias), 1, 1 },
    { "self_attn.o_proj.weight", AT(o_proj.weight), 2, 0 },
    { "self_attn.o_proj.bias", AT(o_proj.bias), 1, 1 },
    { "self_attn.v_kv_proj.weight", AT(v_kv_proj.weight), 2, 0 },
    { "self_attn.v_kv_proj.bias", AT(v_kv_proj.bias), 1, 1 },
    { "self_attn.gate_proj.0.weight", AT(gate_proj.weight), 2, 1 },
    { "self_attn.gate_proj.0.bias", AT(gate_proj.bias), 1, 1 },
    { "self_attn.gate", AT(gate), 1, 1 },
};
const vtc_weight_table vtc_hyper_attention_table = {
    "hyper attention", layer_weights, sizeof(layer_weights) / sizeof(*layer_weights)
};

/* ---- parameters and weights ------------------------------------------------------------------ */

static vtc_status open_params(const vtci_call *call, const vtc_hyper_attention_params *params,
                              vtc_hyper_attention_params *p)
{
    static const vtc_hyper_attention_params defaults = VTC_HYPER_ATTENTION_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, p->n_heads != 0, VTC_ERR_RANGE, "n_heads is 0");
    VTCI_REQUIRE(call, (unsigned)p->variant <= VTC_HYPER_FUSED, VTC_ERR_RANGE,
                 "variant %d is unknown", (int)p->variant);
    VTCI_REQUIRE(call, p->rope_theta > 0.0f && isfinite(p->rope_theta), VTC_ERR_RANGE,
                 "rope_theta is %g", (double)p->rope_theta);
    return vtci_check_eps(call, "eps", p->eps);
}

/* The widths that all else is checked against. */
static vtc_status read_widths(const vtci_call *call, vtci_hyper_layer *layer)
{
    const vtc_tensor *q = &layer->w->q_proj.weight, *k = &layer->w->k_proj.weight;
    const size_t n_heads = layer->params.n_heads;

    VTCI_TRY(vtci_check_tensor(call, "self_attn.q_proj.weight", q, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "self_attn.k_proj.weight", k, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, q->dim[0] != 0 && q->dim[0] % n_heads == 0, VTC_ERR_SHAPE,
                 "self_attn.q_proj.weight gives %zu channels, not a multiple of %zu heads",
                 q->dim[0], n_heads);
    layer->c = q->dim[1];
    layer->d = q->dim[0] / n_heads;
    layer->n_heads = n_heads;
    layer->n_kv = k->dim[0] / layer->d;
    VTCI_REQUIRE(call, layer->d % 2 == 0, VTC_ERR_SHAPE,
                 "heads of %zu channels cannot be rotated: the number is odd", layer->d);
    VTCI_REQUIRE(call, k->dim[0] != 0 && k->dim[0] % layer->d == 0 && n_heads % layer->n_kv == 0,
                 VTC_ERR_SHAPE,
                 "self_attn.k_proj.weight gives %zu channels, heads are %zu wide and their number "
                 "divides %zu",
                 k->dim[0], layer->d, n_heads);
    return VTC_OK;
}

static vtc_status check_layer(const vtci_owner *of, const char *name, const vtc_linear *linear,
                              size_t n_out, size_t n_in)
{
    VTCI_TRY(vtci_check_matrix(of, name, ".weight", &linear->weight, n_out, n_in));
    return vtci_check_bias(of, name, &linear->bias, n_out);
}

static vtc_status check_gate(const vtci_owner *of, const vtci_hyper_layer *layer)
{
    const vtc_hyper_attention_weights *w = layer->w;

    if (layer->variant == VTC_HYPER_GATE_PROJ)
        return check_layer(of, "self_attn.gate_proj.0", &w->gate_proj, layer->d, layer->d);
    if (layer->variant == VTC_HYPER_GATE)
        return vtci_check_vector(of, "self_attn.gate", "", &w->gate, layer->n_heads * layer->d);
    return VTC_OK;
}

static vtc_hyper_variant variant_of(const vtci_hyper_layer *layer)
{
    if (layer->params.variant != VTC_HYPER_BY_TENSORS)
        return layer->params.variant;
    if (!vtc_tensor_is_absent(&layer->w->gate_proj.weight))
        return VTC_HYPER_GATE_PROJ;
    return vtc_tensor_is_absent(&layer->w->gate) ? VTC_HYPER_FUSED : VTC_HYPER_GATE;
}

static vtc_status check_weights(const vtci_call *call, const vtci_hyper_layer *layer)
{
    const vtc_hyper_attention_weights *w = layer->w;
    const vtci_owner of = { call, NULL, 0, "" };
    const size_t c = layer->c, q = layer->n_heads * layer->d, e = layer->n_kv * layer->d;

    VTCI_TRY(vtci_check_vector(&of, "input_layernorm", ".weight", &w->input_layernorm, c));
    VTCI_TRY(check_layer(&of, "self_attn.q_proj", &w->q_proj, q, c));
    VTCI_TRY(check_layer(&of, "self_attn.k_proj", &w->k_proj, e, c));
    VTCI_TRY(check_layer(&of, "self_attn.v_proj", &w->v_proj, e, c));
    VTCI_TRY(check_layer(&of, "self_attn.o_proj", &w->o_proj, c, q));
    VTCI_TRY(check_layer(&of, "self_attn.v_kv_proj", &w->v_kv_proj, vtci_mul(2, e), c));
    VTCI_TRY(check_gate(&of, layer));
    return vtci_check_gemm(call, VTCI_HYPER_BLOCK_ROWS, vtci_max(q, vtci_mul(2, e)), c);
}

/* ---- the prepared object --------------------------------------------------------------------- */

static vtci_prepared_key key_of(const vtci_hyper_layer *layer)
{
    const vtc_hyper_attention_weights *w = layer->w;
    const vtc_tensor *all[] = { &w->q_proj.weight, &w->k_proj.weight, &w->v_proj.weight,
                                &w->o_proj.weight, &w->v_kv_proj.weight };
    vtci_prepared_key key = { "hyper attention", VTCI_FINGERPRINT };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        key.fingerprint = vtci_mix_tensor(key.fingerprint, all[i]);
    return key;
}

static void lay_out_prepared(vtci_arena *arena, vtci_hyper_layer *layer)
{
    layer->q = vtci_packed_take(arena, &layer->w->q_proj.weight);
    layer->k = vtci_packed_take(arena, &layer->w->k_proj.weight);
    layer->v = vtci_packed_take(arena, &layer->w->v_proj.weight);
    layer->o = vtci_packed_take(arena, &layer->w->o_proj.weight);
    layer->visual = vtci_packed_take(arena, &layer->w->v_kv_proj.weight);
}

vtc_status vtci_hyper_open(const vtci_call *call, const vtc_hyper_attention_params *params,
                           const vtc_hyper_attention_weights *weights, const vtc_prepared *prepared,
                           vtci_hyper_layer *layer)
{
    vtci_prepared_key key;
    vtci_arena arena;

    memset(layer, 0, sizeof(*layer));
    VTCI_TRY(open_params(call, params, &layer->params));
    VTCI_REQUIRE_PTR(call, weights);
    layer->w = weights;
    layer->norm.weight = weights->input_layernorm;
    VTCI_TRY(read_widths(call, layer));
    layer->variant = variant_of(layer);
    VTCI_TRY(check_weights(call, layer));
    if (prepared == NULL)
        return VTC_OK;
    key = key_of(layer);
    VTCI_TRY(vtci_prepared_open(call, prepared, &key, &arena));
    lay_out_prepared(&arena, layer);
    return VTC_OK;
}

vtc_status vtc_hyper_attention_prepare_size(const vtc_hyper_attention_params *params,
                                            const vtc_hyper_attention_weights *weights,
                                            const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_hyper_layer layer;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_hyper_attention_prepare_size", exec, bytes));
    VTCI_TRY(vtci_hyper_open(&call, params, weights, NULL, &layer));
    arena = vtci_prepared_measure();
    lay_out_prepared(&arena, &layer);
    return vtci_end_query(&call, &arena, bytes);
}

static vtc_status check_prepared_apart(const vtci_call *call, const vtci_hyper_layer *layer,
                                       const vtc_prepared *prepared)
{
    return vtci_check_weights_apart(call, "", &vtc_hyper_attention_table, layer->w, "prepared",
                                    prepared->data, prepared->bytes);
}

vtc_status vtc_hyper_attention_prepare(const vtc_hyper_attention_params *params,
                                       const vtc_hyper_attention_weights *weights,
                                       vtc_prepared *prepared, const vtc_exec *exec)
{
    vtci_call call;
    vtci_hyper_layer layer;
    vtci_prepared_key key;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_hyper_attention_prepare", exec));
    VTCI_TRY(vtci_hyper_open(&call, params, weights, NULL, &layer));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    lay_out_prepared(&arena, &layer);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    VTCI_TRY(check_prepared_apart(&call, &layer, prepared));
    vtci_packed_fill(&call, &layer.q, &weights->q_proj.weight);
    vtci_packed_fill(&call, &layer.k, &weights->k_proj.weight);
    vtci_packed_fill(&call, &layer.v, &weights->v_proj.weight);
    vtci_packed_fill(&call, &layer.o, &weights->o_proj.weight);
    vtci_packed_fill(&call, &layer.visual, &weights->v_kv_proj.weight);
    key = key_of(&layer);
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}

/* ---- costs ----------------------------------------------------------------------------------- */

vtc_status vtc_hyper_attention_cost(const vtc_hyper_attention_params *params,
                                    const vtc_hyper_attention_weights *weights, size_t n_rows,
                                    size_t position, size_t n_visual, size_t n_encoded,
                                    vtc_model_cost *cost, const vtc_exec *exec)
{
    const double rows = (double)n_rows;
    vtci_call call;
    vtci_hyper_layer layer;

    VTCI_TRY(vtci_begin(&call, "vtc_hyper_attention_cost", exec));
    VTCI_REQUIRE_PTR(&call, cost);
    call.query = true;
    VTCI_TRY(vtci_hyper_open(&call, params, weights, NULL, &layer));

    const double c = (double)layer.c, q = (double)(layer.n_heads * layer.d);
    const double e = (double)(layer.n_kv * layer.d);
    const double seen = rows * ((double)position + (double)n_visual) + rows * (rows + 1.0) / 2.0;
    const double gate =
        layer.variant == VTC_HYPER_GATE_PROJ && n_visual != 0 ? q * (double)layer.d : 0.0;

    cost->parameters = vtci_count_weights(&vtc_hyper_attention_table, weights);
    cost->multiply_adds = rows * (2.0 * c * q + 2.0 * c * e + gate) + 2.0 * q * seen +
                          2.0 * c * e * (double)n_encoded;
    return VTC_OK;
}

/* ---- caches and images ----------------------------------------------------------------------- */

vtc_status vtci_hyper_check_kv(const vtci_call *call, const vtci_hyper_layer *layer,
                               const char *what, const vtc_hyper_kv *kv, size_t n_rows,
                               vtci_access access)
{
    const vtc_tensor *both[] = { &kv->k, &kv->v };

    for (size_t i = 0; i < 2; i++) {
        const vtci_owner of = { call, NULL, 0, what };
        const vtci_label name = vtci_label_of(&of, i == 0 ? ".k" : ".v", "");
        const vtc_tensor *t = both[i];

        VTCI_TRY(vtci_check_tensor(call, name.s, t, VTCI_FLOATS, 3, 3, access));
        VTCI_REQUIRE(call, t->dim[0] == layer->n_kv && t->dim[2] == layer->d, VTC_ERR_SHAPE,
                     "%s has %zu heads of %zu channels, the layer %zu of %zu", name.s, t->dim[0],
                     t->dim[2], layer->n_kv, layer->d);
        VTCI_REQUIRE(call, t->dim[1] >= n_rows, VTC_ERR_ROOM, "%s has %zu rows, %zu are needed",
                     name.s, t->dim[1], n_rows);
    }
    VTCI_REQUIRE(call, call->query || access == VTCI_IN || kv->k.data != kv->v.data || n_rows == 0,
                 VTC_ERR_OVERLAP, "%s.k and %s.v are the same memory", what, what);
    return VTC_OK;
}

vtc_status vtci_hyper_check_apart(const vtci_call *call, const vtci_hyper_layer *layer,
                                  const vtc_prepared *prepared, const char *name,
                                  const vtc_tensor *output)
{
    const size_t bytes = vtci_span_bytes(output);

    if (call->query)
        return VTC_OK;
    VTCI_TRY(vtci_prepared_check_apart(call, name, output, prepared));
    return vtci_check_weights_apart(call, "", &vtc_hyper_attention_table, layer->w, name,
                                    output->data, bytes);
}

vtc_status vtci_hyper_check_starts(const vtci_call *call, const int32_t *starts, size_t n)
{
    if (call->query)
        return VTC_OK;
    VTCI_REQUIRE(call, starts != NULL || n == 0, VTC_ERR_NULL, "media_starts is NULL");
    for (size_t i = 0; i < n; i++) {
        VTCI_REQUIRE(call, starts[i] >= 0 && starts[i] < INT32_MAX, VTC_ERR_RANGE,
                     "media_starts[%zu] is %d", i, (int)starts[i]);
        VTCI_REQUIRE(call, i == 0 || starts[i - 1] <= starts[i], VTC_ERR_RANGE,
                     "media_starts must ascend: [%zu] is %d, [%zu] is %d", i - 1,
                     (int)starts[i - 1], i, (int)starts[i]);
    }
    return VTC_OK;
}

int32_t vtci_hyper_image_position(const vtci_hyper_layer *layer, int32_t start)
{
    return layer->variant == VTC_HYPER_FUSED ? start : start + 1;
}

size_t vtci_hyper_n_seen(const vtci_hyper_layer *layer, const int32_t *starts, size_t n, int64_t t)
{
    const int64_t last = layer->variant == VTC_HYPER_FUSED ? t : t - 1;
    size_t seen = 0;

    while (seen < n && starts[seen] <= last)
        seen++;
    return seen;
}

void vtci_hyper_store(const vtc_tensor *cache, size_t g, size_t row, const float *x)
{
    const size_t at = g * cache->stride[0] + row * cache->stride[1];

    vtci_store_row((char *)cache->data + at * vtc_dtype_size(cache->dtype), cache->dtype,
                   cache->dim[2], x);
}
