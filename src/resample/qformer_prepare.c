/*
 * The Q-Former's prepared object: packed weights, and what no image changes.
 *
 * Without text the rows that enter the first layer are the same in every call, and so is all that
 * happens to them until they first meet the image. The weights of that part are not in the object.
 */
#include "../linalg/rows.h"
#include "qformer.h"

#include <string.h>

bool vtci_qformer_is_constant(const vtci_qformer *m, size_t layer)
{
    return layer == 0 && m->lacks != NULL;
}

/* ---- layout ---------------------------------------------------------------------------------- */

/* The dtype that matrices have in common, else F32. */
static vtc_dtype common_dtype(vtc_dtype dtype, const vtc_qformer_attention *a, bool with_query)
{
    const vtc_dtype first = dtype == (vtc_dtype)0 ? a->key.weight.dtype : dtype;
    const bool same = a->key.weight.dtype == first && a->value.weight.dtype == first &&
                      (!with_query || a->query.weight.dtype == first);

    return same ? first : VTC_F32;
}

static vtci_packed take_stack(vtci_arena *arena, vtc_dtype dtype, size_t n, size_t k)
{
    const vtc_tensor stack = vtc_tensor_2d(NULL, dtype, n, k);

    return vtci_packed_take(arena, &stack);
}

void vtci_qformer_lay_out(vtci_arena *arena, const vtci_qformer *m, vtci_qformer_object *object)
{
    const bool takes_text = m->lacks == NULL;
    vtc_dtype dtype = (vtc_dtype)0;

    memset(object, 0, sizeof(*object));
    for (size_t i = 0; i < m->w->n_layers; i++)
        if (vtci_qformer_reads_image(&m->w->layers[i]))
            dtype = common_dtype(dtype, &m->w->layers[i].cross, false);
    object->given = true;
    if (takes_text) {
        object->queries = vtci_take_matrix(arena, m->n_queries, m->d);
        object->qkv = vtci_take_matrix(arena, m->n_queries, vtci_mul(3, m->d));
    } else {
        object->rows = vtci_take_matrix(arena, m->n_queries, m->d);
        object->query = vtci_take_matrix(arena, m->n_queries, m->d);
    }
    object->kv = take_stack(arena, dtype, m->n_kv, m->n_image_cols);
    object->kv_bias = vtci_take_matrix(arena, 1, m->n_kv);
    if (!vtc_tensor_is_absent(&m->w->projection.weight))
        object->projection = vtci_packed_take(arena, &m->w->projection.weight);
    object->layers = *arena;
}

static void lay_out_attentions(vtci_arena *arena, const vtci_qformer *m, size_t i,
                               vtci_qformer_layer_object *object)
{
    const vtc_qformer_layer *layer = &m->w->layers[i];
    const bool constant = vtci_qformer_is_constant(m, i);

    if (!constant) {
        const vtc_dtype dtype = common_dtype((vtc_dtype)0, &layer->self, true);

        object->qkv = take_stack(arena, dtype, vtci_mul(3, m->d), m->d);
        object->qkv_bias = vtci_take_matrix(arena, 3, m->d);
        object->output = vtci_packed_take(arena, &layer->self.output.weight);
    }
    if (!vtci_qformer_reads_image(layer))
        return;
    if (!constant)
        object->cross_query = vtci_packed_take(arena, &layer->cross.query.weight);
    object->cross_output = vtci_packed_take(arena, &layer->cross.output.weight);
}

void vtci_qformer_lay_out_layer(vtci_arena *arena, const vtci_qformer *m, size_t i,
                                vtci_qformer_layer_object *object)
{
    const vtc_qformer_layer *layer = &m->w->layers[i];

    memset(object, 0, sizeof(*object));
    lay_out_attentions(arena, m, i, object);
    object->query_up = vtci_packed_take(arena, &layer->query.up.weight);
    object->query_down = vtci_packed_take(arena, &layer->query.down.weight);
    if (m->lacks != NULL)
        return;
    object->text_up = vtci_packed_take(arena, &layer->text.up.weight);
    object->text_down = vtci_packed_take(arena, &layer->text.down.weight);
}

vtc_status vtci_qformer_open_object(const vtci_qformer *m, const vtc_prepared *prepared,
                                    vtci_qformer_object *object)
{
    const vtci_prepared_key key = vtci_qformer_key(m);
    vtci_arena arena;

    memset(object, 0, sizeof(*object));
    if (prepared == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_prepared_open(m->call, prepared, &key, &arena));
    vtci_qformer_lay_out(&arena, m, object);
    return VTC_OK;
}

/* ---- contents -------------------------------------------------------------------------------- */

static void fill(const vtci_qformer *m, const vtci_packed *packed, const vtc_linear *layer)
{
    if (packed->dtype != (vtc_dtype)0)
        vtci_packed_fill(m->call, packed, &layer->weight);
}

/* One of the layers that are stacked: outputs first .. first + D - 1. */
static void fill_part(const vtci_qformer *m, const vtci_packed *packed, float *bias, size_t first,
                      const vtc_linear *layer)
{
    vtci_packed_fill_part(m->call, packed, first, &layer->weight);
    memset(bias + first, 0, m->d * sizeof(*bias));
    if (!vtc_tensor_is_absent(&layer->bias))
        vtci_copy_row(bias + first, VTC_F32, layer->bias.data, layer->bias.dtype, m->d, NULL);
}

static void fill_layer(const vtci_qformer *m, size_t i, const vtci_qformer_layer_object *object)
{
    const vtc_qformer_layer *layer = &m->w->layers[i];

    if (object->qkv_bias != NULL) {
        fill_part(m, &object->qkv, object->qkv_bias, 0, &layer->self.query);
        fill_part(m, &object->qkv, object->qkv_bias, m->d, &layer->self.key);
        fill_part(m, &object->qkv, object->qkv_bias, 2 * m->d, &layer->self.value);
    }
    fill(m, &object->output, &layer->self.output);
    fill(m, &object->cross_query, &layer->cross.query);
    fill(m, &object->cross_output, &layer->cross.output);
    fill(m, &object->query_up, &layer->query.up);
    fill(m, &object->query_down, &layer->query.down);
    fill(m, &object->text_up, &layer->text.up);
    fill(m, &object->text_down, &layer->text.down);
}

static void fill_object(const vtci_qformer *m, const vtci_qformer_object *object)
{
    vtci_arena arena = object->layers;
    size_t at = 0;

    for (size_t i = 0; i < m->w->n_layers; i++) {
        vtci_qformer_layer_object layer;

        vtci_qformer_lay_out_layer(&arena, m, i, &layer);
        fill_layer(m, i, &layer);
        if (!vtci_qformer_reads_image(&m->w->layers[i]))
            continue;
        fill_part(m, &object->kv, object->kv_bias, at, &m->w->layers[i].cross.key);
        fill_part(m, &object->kv, object->kv_bias, at + m->d, &m->w->layers[i].cross.value);
        at += 2 * m->d;
    }
    fill(m, &object->projection, &m->w->projection);
}

/* ---- public ---------------------------------------------------------------------------------- */

/* Lays out all of the object. */
static void lay_out_all(vtci_arena *arena, const vtci_qformer *m, vtci_qformer_object *object)
{
    vtci_qformer_lay_out(arena, m, object);
    for (size_t i = 0; i < m->w->n_layers; i++) {
        vtci_qformer_layer_object layer;

        vtci_qformer_lay_out_layer(arena, m, i, &layer);
    }
}

vtc_status vtc_qformer_prepare_size(const vtc_qformer_params *params,
                                    const vtc_qformer_weights *weights, const vtc_exec *exec,
                                    size_t *bytes)
{
    vtci_qformer_object object;
    vtci_qformer m;
    vtci_arena arena;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_prepare_size", exec, bytes));
    VTCI_TRY(vtci_qformer_open(&call, params, weights, &m));
    arena = vtci_prepared_measure();
    lay_out_all(&arena, &m, &object);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_qformer_prepare_scratch(const vtc_qformer_params *params,
                                       const vtc_qformer_weights *weights, const vtc_exec *exec,
                                       size_t *bytes)
{
    vtci_qformer_job job = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_prepare_scratch", exec, bytes));
    VTCI_TRY(vtci_qformer_open(&call, params, weights, &job.m));
    return vtci_qformer_constants(&job, bytes, NULL);
}

vtc_status vtc_qformer_prepare(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                               vtc_prepared *prepared, const vtc_exec *exec)
{
    vtci_qformer_object object;
    vtci_qformer_job job = { 0 };
    vtci_prepared_key key;
    vtci_arena arena;
    vtci_call call;
    vtc_tensor memory;

    VTCI_TRY(vtci_begin(&call, "vtc_qformer_prepare", exec));
    VTCI_TRY(vtci_qformer_open(&call, params, weights, &job.m));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    lay_out_all(&arena, &job.m, &object);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    memory = vtc_tensor_1d(prepared->data, VTC_U8, arena.used);
    VTCI_TRY(vtci_qformer_check_apart(&job.m, "prepared", &memory));
    VTCI_TRY(vtci_qformer_constants(&job, NULL, &object));
    fill_object(&job.m, &object);
    key = vtci_qformer_key(&job.m);
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}
