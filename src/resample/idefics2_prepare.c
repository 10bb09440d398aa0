/* The Idefics2 connector's prepared object. */
#include "../linalg/weight_check.h"
#include "idefics2.h"

#include <string.h>

/* ---- layout ---------------------------------------------------------------------------------- */

static const vtc_linear *linear_at(const vtc_idefics2_layer *layer, size_t i)
{
    const vtc_linear *const all[] = { &layer->q,        &layer->k,      &layer->v,       &layer->o,
                                      &layer->mlp.gate, &layer->mlp.up, &layer->mlp.down };

    return all[i];
}

enum { N_PACKED = VTCI_IDEFICS2_MLP + 3 };

void vtci_idefics2_lay_out(vtci_arena *arena, const vtci_idefics2 *m, vtci_idefics2_object *object)
{
    object->given = true;
    object->q = vtci_take_matrix(arena, m->n_latents, m->n_q);
    object->k = vtci_take_matrix(arena, m->n_latents, m->n_kv);
    object->v = vtci_take_matrix(arena, m->n_latents, m->n_kv);
    object->layers = *arena;
}

void vtci_idefics2_lay_out_layer(vtci_arena *arena, const vtc_idefics2_layer *layer,
                                 vtci_idefics2_packed *packed)
{
    for (size_t i = 0; i < N_PACKED; i++)
        packed->packed[i] = vtci_packed_take(arena, &linear_at(layer, i)->weight);
}

static void lay_out_all(vtci_arena *arena, const vtci_idefics2 *m, vtci_idefics2_object *object)
{
    vtci_idefics2_packed packed;

    vtci_idefics2_lay_out(arena, m, object);
    for (size_t i = 0; i < m->w->n_layers; i++)
        vtci_idefics2_lay_out_layer(arena, &m->w->layers[i], &packed);
}

static vtci_prepared_key key_of(const vtci_idefics2 *m)
{
    vtci_prepared_key key = { "idefics2", VTCI_FINGERPRINT };

    key.fingerprint = vtci_mix(key.fingerprint, m->params.n_heads);
    key.fingerprint = vtci_mix(key.fingerprint, m->params.n_kv_heads);
    key.fingerprint = vtci_mix_float(key.fingerprint, m->params.eps);
    key.fingerprint = vtci_mix_tensor(key.fingerprint, &m->w->latents);
    for (size_t l = 0; l < m->w->n_layers; l++)
        for (size_t i = 0; i < N_PACKED; i++)
            key.fingerprint =
                vtci_mix_tensor(key.fingerprint, &linear_at(&m->w->layers[l], i)->weight);
    return key;
}

vtc_status vtci_idefics2_open_object(const vtci_idefics2 *m, const vtc_prepared *prepared,
                                     vtci_idefics2_object *object)
{
    const vtci_prepared_key key = key_of(m);
    vtci_arena arena;

    memset(object, 0, sizeof(*object));
    if (prepared == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_prepared_open(m->call, prepared, &key, &arena));
    vtci_idefics2_lay_out(&arena, m, object);
    return VTC_OK;
}

/* ---- contents -------------------------------------------------------------------------------- */

struct preparation {
    vtci_idefics2 m;
    vtci_idefics2_object object;
};

/* The first layer's latents, whose normed rows need scratch. */
static void compute_latents(void *p, vtci_steps *steps)
{
    const struct preparation *preparation = p;
    const vtci_idefics2 *m = &preparation->m;
    const vtci_idefics2_object *object = &preparation->object;
    vtci_idefics2_latents l;

    l.z = vtci_rows_of(&m->w->latents);
    l.normed =
        vtci_float_rows(vtci_take_matrix(&steps->arena, m->n_latents, m->d), m->n_latents, m->d);
    l.q = vtci_float_rows(object->q, m->n_latents, m->n_q);
    l.k = vtci_float_rows(object->k, m->n_latents, m->n_kv);
    l.v = vtci_float_rows(object->v, m->n_latents, m->n_kv);
    if (m->w->n_layers != 0)
        vtci_idefics2_project_latents(m, steps, &m->w->layers[0], NULL, &l);
}

static void pack_layers(const vtci_idefics2 *m, vtci_arena arena)
{
    vtci_idefics2_packed packed;

    for (size_t l = 0; l < m->w->n_layers; l++) {
        vtci_idefics2_lay_out_layer(&arena, &m->w->layers[l], &packed);
        for (size_t i = 0; i < N_PACKED; i++)
            vtci_packed_fill(m->call, &packed.packed[i], &linear_at(&m->w->layers[l], i)->weight);
    }
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_idefics2_prepare_size(const vtc_idefics2_params *params,
                                     const vtc_idefics2_weights *weights, const vtc_exec *exec,
                                     size_t *bytes)
{
    vtci_idefics2_object object;
    vtci_idefics2 m;
    vtci_arena arena = vtci_prepared_measure();
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_idefics2_prepare_size", exec, bytes));
    VTCI_TRY(vtci_idefics2_open(&call, params, weights, &m));
    lay_out_all(&arena, &m, &object);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_idefics2_prepare_scratch(const vtc_idefics2_params *params,
                                        const vtc_idefics2_weights *weights, const vtc_exec *exec,
                                        size_t *bytes)
{
    struct preparation p = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_idefics2_prepare_scratch", exec, bytes));
    VTCI_TRY(vtci_idefics2_open(&call, params, weights, &p.m));
    return vtci_steps_walk(&call, compute_latents, &p, bytes);
}

vtc_status vtc_idefics2_prepare(const vtc_idefics2_params *params,
                                const vtc_idefics2_weights *weights, vtc_prepared *prepared,
                                const vtc_exec *exec)
{
    vtci_prepared_key key;
    struct preparation p;
    vtci_arena arena;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_idefics2_prepare", exec));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    VTCI_TRY(vtci_idefics2_open(&call, params, weights, &p.m));
    VTCI_TRY(vtci_idefics2_check_apart(&p.m, "prepared", prepared->data, prepared->bytes));
    lay_out_all(&arena, &p.m, &p.object);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    VTCI_TRY(vtci_steps_walk(&call, compute_latents, &p, NULL));
    pack_layers(&p.m, p.object.layers);
    key = key_of(&p.m);
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}
