/*
 * The Perceiver Resampler made ready once.
 *
 * norm_media differs between layers in gain and bias alone, so that
 *
 *   to_kv_i (g_i x^ + b_i) = (to_kv_i diag(g_i)) x^ + to_kv_i b_i
 *
 * where x^ is the media without gain, the same for all layers. The latents have norms of their own
 * and use to_kv as it is.
 */
#include "perceiver_model.h"

#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"

struct preparation {
    vtci_perceiver model;
    float *u;    /* [M, D]                                */
    float *norm; /* [2, D] gain and bias of a layer, wide */
    float *fold; /* [2 inner, D] to_kv of a layer with them */
};

static vtc_status open_preparation(const vtci_call *call, const vtc_perceiver_params *params,
                                   const vtc_perceiver_weights *weights, struct preparation *p)
{
    return vtci_perceiver_open(call, params, weights, NULL, &p->model);
}

/* The first step, and what scratch there is for all. */
static void make_first(struct preparation *p, vtci_steps *steps)
{
    p->u = vtci_take(&steps->arena, vtci_mul(p->model.m, p->model.d), sizeof(float));
    p->norm = vtci_take(&steps->arena, vtci_mul(2, p->model.d), sizeof(float));
    p->fold = vtci_take(&steps->arena, vtci_mul(2 * p->model.inner, p->model.d), sizeof(float));
    vtci_perceiver_make_first(&p->model, steps, p->u);
}

/* ---- folding --------------------------------------------------------------------------------- */

struct fold {
    const vtci_kernels *kernels;
    vtci_rows to_kv;
    const float *gain, *bias; /* [D]; no bias: NULL */
    float *to, *to_bias;
};

static void fold_row(void *job, size_t index, size_t worker)
{
    const struct fold *f = job;
    const size_t d = f->to_kv.n_cols;
    const float *row = (const float *)(const void *)vtci_row(&f->to_kv, 0, index);

    (void)worker;
    f->kernels->multiply(f->to + index * d, row, f->gain, d);
    f->to_bias[index] = f->bias == NULL ? 0.0f : f->kernels->dot(row, f->bias, d);
}

static void fold_layer(const vtci_call *call, const struct preparation *p, size_t layer)
{
    const vtci_perceiver *model = &p->model;
    const vtc_perceiver_layer *weights = &model->weights->layers[layer];
    const vtc_norm *norm = &weights->norm_media;
    const size_t d = model->d, rows = 2 * model->inner;
    const vtc_tensor folded = vtc_f32_2d(p->fold, rows, d);
    struct fold f = { .kernels = vtci_kernels_get(), .to_kv = vtci_rows_of(&weights->to_kv) };

    f.gain = vtci_load_row(norm->weight.data, norm->weight.dtype, d, p->norm);
    if (!vtc_tensor_is_absent(&norm->bias))
        f.bias = vtci_load_row(norm->bias.data, norm->bias.dtype, d, p->norm + d);
    f.to = p->fold;
    f.to_bias = model->folded_bias + layer * rows;
    vtci_parallel(call, rows, fold_row, &f);
    vtci_packed_fill_part(call, &model->folded, layer * rows, &folded);
}

static void pack_layer(const vtci_call *call, const vtci_perceiver_packed *packed,
                       const vtc_perceiver_layer *layer)
{
    vtci_packed_fill(call, &packed->q, &layer->to_q);
    vtci_packed_fill(call, &packed->kv, &layer->to_kv);
    vtci_packed_fill(call, &packed->out, &layer->to_out);
    vtci_packed_fill(call, &packed->up, &layer->ff_up);
    vtci_packed_fill(call, &packed->down, &layer->ff_down);
}

static void fill(void *arg, vtci_steps *steps)
{
    struct preparation *p = arg;
    vtci_arena layers = p->model.layers;

    make_first(p, steps);
    for (size_t i = 0; !steps->measure && i < p->model.weights->n_layers; i++) {
        const vtci_perceiver_packed packed = vtci_perceiver_take_layer(&layers, &p->model, i);

        pack_layer(steps->call, &packed, &p->model.weights->layers[i]);
        if (p->model.is_folded)
            fold_layer(steps->call, p, i);
    }
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_perceiver_prepare_size(const vtc_perceiver_params *params,
                                      const vtc_perceiver_weights *weights, const vtc_exec *exec,
                                      size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct preparation p;

    VTCI_TRY(vtci_begin_query(&call, "vtc_perceiver_prepare_size", exec, bytes));
    VTCI_TRY(open_preparation(&call, params, weights, &p));
    arena = vtci_prepared_measure();
    vtci_perceiver_take_prepared(&arena, &p.model);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_perceiver_prepare_scratch(const vtc_perceiver_params *params,
                                         const vtc_perceiver_weights *weights, const vtc_exec *exec,
                                         size_t *bytes)
{
    vtci_call call;
    struct preparation p;

    VTCI_TRY(vtci_begin_query(&call, "vtc_perceiver_prepare_scratch", exec, bytes));
    VTCI_TRY(open_preparation(&call, params, weights, &p));
    return vtci_steps_walk(&call, fill, &p, bytes);
}

/* The object must be apart from what it is made of. */
static vtc_status check_apart(const vtci_call *call, const vtc_prepared *to,
                              const vtc_perceiver_weights *weights)
{
    VTCI_TRY(vtci_check_weights_apart(call, "", &vtc_perceiver_table, weights, "prepared", to->data,
                                      to->bytes));
    for (size_t i = 0; i < weights->n_layers; i++) {
        const vtci_label prefix = vtci_layer_label("layers.", i);

        VTCI_TRY(vtci_check_weights_apart(call, prefix.s, &vtc_perceiver_layer_table,
                                          &weights->layers[i], "prepared", to->data, to->bytes));
    }
    return VTC_OK;
}

vtc_status vtc_perceiver_prepare(const vtc_perceiver_params *params,
                                 const vtc_perceiver_weights *weights, vtc_prepared *prepared,
                                 const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena object;
    struct preparation p;

    VTCI_TRY(vtci_begin(&call, "vtc_perceiver_prepare", exec));
    VTCI_TRY(open_preparation(&call, params, weights, &p));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &object));
    vtci_perceiver_take_prepared(&object, &p.model);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &object));
    VTCI_TRY(check_apart(&call, prepared, weights));
    VTCI_TRY(vtci_steps_walk(&call, fill, &p, NULL));

    const vtci_prepared_key key = vtci_perceiver_key(&p.model);

    vtci_prepared_seal(prepared, &key, &object);
    return VTC_OK;
}
