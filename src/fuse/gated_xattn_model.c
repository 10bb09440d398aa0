/* Weights of a gated cross-attention block: names, checks, counts, the prepared object, and the
 * keys and values it makes of the media. */
#include "gated_xattn_model.h"

#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"
#include "../project/chain.h"

#include <stddef.h>
#include <string.h>

#define BLOCK(member) offsetof(vtc_gated_xattn_weights, member)

static const vtc_weight block_weights[] = {
    { "attn.norm.weight", BLOCK(attn_norm.weight), 1, 0 },
    { "attn.norm.bias", BLOCK(attn_norm.bias), 1, 0 },
    { "attn.to_q.weight", BLOCK(to_q), 2, 0 },
    { "attn.to_kv.weight", BLOCK(to_kv), 2, 0 },
    { "attn.to_out.weight", BLOCK(to_out), 2, 0 },
    { "attn_gate", BLOCK(attn_gate), 0, 0 },
    { "ff.0.weight", BLOCK(ff_norm.weight), 1, 0 },
    { "ff.0.bias", BLOCK(ff_norm.bias), 1, 0 },
    { "ff.1.weight", BLOCK(ff_up), 2, 0 },
    { "ff.3.weight", BLOCK(ff_down), 2, 0 },
    { "ff_gate", BLOCK(ff_gate), 0, 0 },
};
const vtc_weight_table vtc_gated_xattn_table = { "gated cross-attention", block_weights, 11 };

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_gate(const vtci_owner *of, const char *name, const vtc_tensor *gate)
{
    VTCI_TRY(vtci_check_tensor(of->call, name, gate, VTCI_FLOATS, 0, 1, VTCI_IN));
    VTCI_REQUIRE(of->call, gate->rank == 0 || gate->dim[0] == 1, VTC_ERR_SHAPE,
                 "%s has %zu elements, 1 is needed", name, gate->dim[0]);
    return VTC_OK;
}

static vtc_status check_weights(const vtci_owner *of, const vtci_gated_xattn *model)
{
    const vtc_gated_xattn_weights *w = model->weights;
    const size_t d = model->d, inner = model->inner, hidden = model->hidden;

    VTCI_TRY(vtci_check_channel_norm(of, "attn.norm", &w->attn_norm, d));
    VTCI_TRY(vtci_check_matrix(of, "attn.to_q", ".weight", &w->to_q, inner, d));
    VTCI_TRY(vtci_check_matrix(of, "attn.to_kv", ".weight", &w->to_kv, vtci_mul(2, inner),
                               model->d_media));
    VTCI_TRY(vtci_check_matrix(of, "attn.to_out", ".weight", &w->to_out, d, inner));
    VTCI_TRY(check_gate(of, "attn_gate", &w->attn_gate));
    VTCI_TRY(vtci_check_channel_norm(of, "ff.0", &w->ff_norm, d));
    VTCI_TRY(vtci_check_matrix(of, "ff.1", ".weight", &w->ff_up, hidden, d));
    VTCI_TRY(vtci_check_matrix(of, "ff.3", ".weight", &w->ff_down, d, hidden));
    return check_gate(of, "ff_gate", &w->ff_gate);
}

/* The extents that the others must agree with. */
static vtc_status open_extents(const vtci_call *call, vtci_gated_xattn *model)
{
    const vtc_gated_xattn_weights *w = model->weights;
    const size_t heads = model->params.heads;

    VTCI_TRY(vtci_check_tensor(call, "attn.to_q.weight", &w->to_q, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "attn.to_kv.weight", &w->to_kv, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "ff.1.weight", &w->ff_up, VTCI_FLOATS, 2, 2, VTCI_IN));
    model->inner = w->to_q.dim[0];
    model->d = w->to_q.dim[1];
    model->d_media = w->to_kv.dim[1];
    model->hidden = w->ff_up.dim[0];
    VTCI_REQUIRE(call, model->inner != 0 && model->inner % heads == 0, VTC_ERR_SHAPE,
                 "attn.to_q.weight gives %zu channels, %zu heads cannot share them", model->inner,
                 heads);
    VTCI_TRY(vtci_check_gemm(call, model->d, vtci_mul(2, model->inner), model->hidden));
    return vtci_check_gemm(call, 1, 1, model->d_media);
}

static vtc_status open_params(const vtci_call *call, const vtc_gated_xattn_params *params,
                              vtc_gated_xattn_params *p)
{
    static const vtc_gated_xattn_params defaults = VTC_GATED_XATTN_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, p->heads != 0, VTC_ERR_RANGE, "heads is 0");
    VTCI_REQUIRE(call, (unsigned)p->rule <= VTC_MEDIA_ALL_PREVIOUS, VTC_ERR_RANGE,
                 "media rule %d is unknown", (int)p->rule);
    VTCI_TRY(vtci_check_eps(call, "eps", p->eps));
    return vtci_check_activation(call, p->act);
}

/* ---- prepared objects ------------------------------------------------------------------------ */

/* Nothing in the object depends on parameters. */
static vtci_prepared_key key_of(const vtci_gated_xattn *model)
{
    const vtci_prepared_key key = {
        "gated_xattn", vtci_mix_weights(VTCI_FINGERPRINT, &vtc_gated_xattn_table, model->weights)
    };

    return key;
}

static void take_packed(vtci_arena *arena, vtci_gated_xattn *model)
{
    const vtc_gated_xattn_weights *w = model->weights;

    model->q = vtci_packed_take(arena, &w->to_q);
    model->kv = vtci_packed_take(arena, &w->to_kv);
    model->out = vtci_packed_take(arena, &w->to_out);
    model->up = vtci_packed_take(arena, &w->ff_up);
    model->down = vtci_packed_take(arena, &w->ff_down);
}

static vtc_status open_prepared(const vtci_call *call, const vtc_prepared *prepared,
                                vtci_gated_xattn *model)
{
    const vtci_prepared_key key = key_of(model);
    vtci_arena arena;

    VTCI_TRY(vtci_prepared_open(call, prepared, &key, &arena));
    take_packed(&arena, model);
    return VTC_OK;
}

vtc_status vtci_gated_xattn_open(const vtci_call *call, const vtc_gated_xattn_params *params,
                                 const vtc_gated_xattn_weights *weights,
                                 const vtc_prepared *prepared, vtci_gated_xattn *model)
{
    const vtci_owner owner = { call, NULL, 0, "" };

    memset(model, 0, sizeof(*model));
    VTCI_TRY(open_params(call, params, &model->params));
    VTCI_REQUIRE_PTR(call, weights);
    model->weights = weights;
    VTCI_TRY(open_extents(call, model));
    VTCI_TRY(check_weights(&owner, model));
    return prepared == NULL ? VTC_OK : open_prepared(call, prepared, model);
}

vtc_status vtci_gated_xattn_check_apart(const vtci_call *call, const vtci_gated_xattn *model,
                                        const vtc_prepared *prepared, const char *name,
                                        const vtc_tensor *out)
{
    if (call->query)
        return VTC_OK;
    VTCI_TRY(vtci_check_weights_apart(call, "", &vtc_gated_xattn_table, model->weights, name,
                                      out->data, vtci_span_bytes(out)));
    return vtci_prepared_check_apart(call, name, out, prepared);
}

vtc_status vtc_gated_xattn_prepare_size(const vtc_gated_xattn_params *params,
                                        const vtc_gated_xattn_weights *weights,
                                        const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_gated_xattn model;

    VTCI_TRY(vtci_begin_query(&call, "vtc_gated_xattn_prepare_size", exec, bytes));
    VTCI_TRY(vtci_gated_xattn_open(&call, params, weights, NULL, &model));
    arena = vtci_prepared_measure();
    take_packed(&arena, &model);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_gated_xattn_prepare(const vtc_gated_xattn_params *params,
                                   const vtc_gated_xattn_weights *weights, vtc_prepared *prepared,
                                   const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    vtci_gated_xattn model;

    VTCI_TRY(vtci_begin(&call, "vtc_gated_xattn_prepare", exec));
    VTCI_TRY(vtci_gated_xattn_open(&call, params, weights, NULL, &model));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    take_packed(&arena, &model);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    VTCI_TRY(vtci_check_weights_apart(&call, "", &vtc_gated_xattn_table, weights, "prepared",
                                      prepared->data, prepared->bytes));
    vtci_packed_fill(&call, &model.q, &weights->to_q);
    vtci_packed_fill(&call, &model.kv, &weights->to_kv);
    vtci_packed_fill(&call, &model.out, &weights->to_out);
    vtci_packed_fill(&call, &model.up, &weights->ff_up);
    vtci_packed_fill(&call, &model.down, &weights->ff_down);

    const vtci_prepared_key key = key_of(&model);

    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}

/* ---- keys and values ------------------------------------------------------------------------- */

vtci_items vtci_items_of(const vtc_tensor *t)
{
    const vtci_heads h = vtci_heads_of(t); /* an item lies as a head does */
    const vtci_items items = { h.data,   h.dtype,        h.n_batch,     h.n_heads,   h.n_rows,
                               h.n_cols, h.batch_stride, h.head_stride, h.row_stride };

    return items;
}

bool vtci_items_as_rows(const vtci_items *items, size_t b, size_t n, vtci_rows *rows)
{
    const size_t stride = items->n_tokens == 1 ? items->item_stride : items->token_stride;
    const vtci_rows all = { items->data == NULL ? NULL : items->data + b * items->batch_stride,
                            items->dtype,
                            n,
                            vtci_mul(items->n_items, items->n_tokens),
                            items->n_cols,
                            items->batch_stride,
                            stride };

    *rows = all;
    return items->n_items <= 1 || items->n_tokens <= 1 ||
           items->item_stride == vtci_mul(items->n_tokens, stride);
}

/* The tokens of one batch item, item by item. */
static vtci_rows by_item(const vtci_items *items, size_t b)
{
    const vtci_rows rows = { items->data == NULL ? NULL : items->data + b * items->batch_stride,
                             items->dtype,
                             items->n_items,
                             items->n_tokens,
                             items->n_cols,
                             items->item_stride,
                             items->token_stride };

    return rows;
}

void vtci_gated_xattn_encode(const vtci_gated_xattn *model, vtci_steps *steps,
                             const vtci_items *media, const vtci_items *kv, size_t b)
{
    vtci_steps_linear(steps, by_item(media, b), &model->weights->to_kv, &model->kv, by_item(kv, b));
}

struct encoding {
    vtci_gated_xattn model;
    vtci_items media, kv;
};

static vtc_status open_encoding(const vtci_call *call, const vtc_gated_xattn_params *params,
                                const vtc_gated_xattn_weights *weights,
                                const vtc_prepared *prepared, const vtc_tensor *media,
                                const vtc_tensor *kv, struct encoding *e)
{
    VTCI_TRY(vtci_check_tensor(call, "media", media, VTCI_FLOATS, 3, 4, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "kv", kv, VTCI_FLOATS, media->rank, media->rank, VTCI_OUT));
    VTCI_TRY(vtci_check_apart(call, "kv", kv, "media", media));
    VTCI_TRY(vtci_gated_xattn_open(call, params, weights, prepared, &e->model));
    VTCI_TRY(vtci_gated_xattn_check_apart(call, &e->model, prepared, "kv", kv));
    e->media = vtci_items_of(media);
    e->kv = vtci_items_of(kv);
    VTCI_REQUIRE(call, e->media.n_cols == e->model.d_media && e->kv.n_cols == 2 * e->model.inner,
                 VTC_ERR_SHAPE,
                 "media has %zu channels and kv %zu, attn.to_kv.weight turns %zu into %zu",
                 e->media.n_cols, e->kv.n_cols, e->model.d_media, 2 * e->model.inner);
    VTCI_REQUIRE(call,
                 e->media.n_batch == e->kv.n_batch && e->media.n_items == e->kv.n_items &&
                     e->media.n_tokens == e->kv.n_tokens,
                 VTC_ERR_SHAPE, "media has %zux%zux%zu tokens, kv has %zux%zux%zu",
                 e->media.n_batch, e->media.n_items, e->media.n_tokens, e->kv.n_batch,
                 e->kv.n_items, e->kv.n_tokens);
    return vtci_check_gemm(call, vtci_mul(e->kv.n_items, e->kv.n_tokens), 1, 1);
}

static void encode(void *p, vtci_steps *steps)
{
    const struct encoding *e = p;
    const size_t n = steps->measure ? 1 : e->kv.n_batch;

    for (size_t b = 0; b < n; b++)
        vtci_gated_xattn_encode(&e->model, steps, &e->media, &e->kv, b);
}

vtc_status vtc_gated_xattn_encode_media_scratch(const vtc_gated_xattn_params *params,
                                                const vtc_gated_xattn_weights *weights,
                                                const vtc_prepared *prepared,
                                                const vtc_tensor *media, const vtc_tensor *kv,
                                                const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct encoding e;

    VTCI_TRY(vtci_begin_query(&call, "vtc_gated_xattn_encode_media_scratch", exec, bytes));
    VTCI_TRY(open_encoding(&call, params, weights, prepared, media, kv, &e));
    return vtci_steps_walk(&call, encode, &e, bytes);
}

vtc_status vtc_gated_xattn_encode_media(const vtc_gated_xattn_params *params,
                                        const vtc_gated_xattn_weights *weights,
                                        const vtc_prepared *prepared, const vtc_tensor *media,
                                        vtc_tensor *kv, const vtc_exec *exec)
{
    vtci_call call;
    struct encoding e;

    VTCI_TRY(vtci_begin(&call, "vtc_gated_xattn_encode_media", exec));
    VTCI_TRY(open_encoding(&call, params, weights, prepared, media, kv, &e));
    return vtci_steps_walk(&call, encode, &e, NULL);
}

/* ---- cost ------------------------------------------------------------------------------------ */

vtc_status vtc_gated_xattn_cost(const vtc_gated_xattn_params *params,
                                const vtc_gated_xattn_weights *weights, size_t n_tokens,
                                size_t n_keys, size_t n_media, vtc_model_cost *cost,
                                const vtc_exec *exec)
{
    vtci_call call;
    vtci_gated_xattn model;

    VTCI_TRY(vtci_begin(&call, "vtc_gated_xattn_cost", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, cost);
    VTCI_TRY(vtci_gated_xattn_open(&call, params, weights, NULL, &model));

    const double d = (double)model.d, inner = (double)model.inner, hidden = (double)model.hidden;
    const double token = 2 * d * inner + 2 * (double)n_keys * inner + 2 * d * hidden;

    cost->parameters = vtci_count_weights(&vtc_gated_xattn_table, weights);
    cost->multiply_adds =
        (double)n_tokens * token + (double)n_media * (double)model.d_media * 2 * inner;
    return VTC_OK;
}
