/*
 * Rows through a few linear layers.
 *
 * A block of rows is joined, widened and normalised into A (or used where it is), then each step is
 * one product whose tiles all workers share. Rows are 1280 at most, two tiles of a product: enough
 * to spread over workers and to make good use of each widened weight, and few enough that the
 * scratch of a large batch stays small.
 */
#include "chain.h"

#include "../kernels/kernels.h"
#include "../linalg/operands.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_ROWS = 1280, TASK_ROWS = 16 };

/* ---- checks ---------------------------------------------------------------------------------- */

vtc_status vtci_check_tokens(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *y)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_REQUIRE(call, x->rank == y->rank, VTC_ERR_SHAPE, "x has rank %d, y has rank %d", x->rank,
                 y->rank);
    VTCI_REQUIRE(call, x->rank == 2 || x->dim[0] == y->dim[0], VTC_ERR_SHAPE,
                 "x has %zu batch items, y has %zu", x->dim[0], y->dim[0]);
    return vtci_check_apart(call, "y", y, "x", x);
}

vtc_status vtci_check_activation(const vtci_call *call, vtc_activation act)
{
    VTCI_REQUIRE(call, (unsigned)act <= VTC_ACT_RELU2, VTC_ERR_RANGE, "activation %d is unknown",
                 (int)act);
    return VTC_OK;
}

vtc_status vtci_check_norm(const vtci_call *call, vtc_norm_kind norm, float eps)
{
    VTCI_REQUIRE(call, (unsigned)norm <= VTC_NORM_RMS, VTC_ERR_RANGE, "norm %d is unknown",
                 (int)norm);
    VTCI_REQUIRE(call, eps >= 0.0f && isfinite(eps), VTC_ERR_RANGE, "eps is %g", (double)eps);
    return VTC_OK;
}

/* "layer 0: " in front of a tensor's name */
static vtci_label layer_prefix(size_t layer)
{
    vtci_label l;

    if (snprintf(l.s, sizeof(l.s), "layer %zu: ", layer) < 0)
        l.s[0] = '\0';
    return l;
}

/* The norm of the first layer may act on each of the joined tokens. */
static vtc_status check_norm_weights(const vtci_owner *of, const vtci_chain *chain,
                                     const vtc_norm *norm, size_t layer, size_t n_in)
{
    const vtci_label weight = vtci_label_of(of, "norm", ".weight");

    VTCI_TRY(vtci_check_tensor(of->call, weight.s, &norm->weight, VTCI_FLOATS, 1, 1, VTCI_IN));

    const size_t n = norm->weight.dim[0];

    VTCI_REQUIRE(of->call, n_in == n || (layer == 0 && n != 0 && n == chain->x.n_channels),
                 VTC_ERR_SHAPE, "%s has %zu elements, its input has %zu channels", weight.s, n,
                 n_in);
    VTCI_REQUIRE(of->call, vtc_tensor_is_absent(&norm->bias) || chain->norm == VTC_NORM_LAYER,
                 VTC_ERR_UNSUPPORTED, "%s is given, an RMS norm has none",
                 vtci_label_of(of, "norm", ".bias").s);
    return vtci_check_channel_norm(of, "norm", norm, n);
}

static vtc_status check_linear(const vtci_owner *of, const vtci_step *step, size_t n_in)
{
    const vtc_tensor *weight = &step->linear->weight;
    const size_t n_out = weight->dim[0];

    VTCI_TRY(vtci_check_matrix(of, step->name, ".weight", weight, n_out, n_in));
    VTCI_TRY(vtci_check_gemm(of->call, of->n_tokens, n_out, n_in));
    return vtci_check_bias(of, step->name, &step->linear->bias, n_out);
}

static bool has_norm(const vtci_step *step)
{
    return step->norm != NULL && !vtc_tensor_is_absent(&step->norm->weight);
}

static vtc_status check_step(const vtci_call *call, vtci_chain *chain, size_t i, size_t width,
                             size_t before, const vtc_tensor *y)
{
    const vtci_step step = chain->step(chain->model, i);
    const size_t n_out = step.linear->weight.dim[0];
    const vtci_label prefix = layer_prefix(i);
    const vtci_owner of = { call, y, vtci_min(chain->n_rows, BLOCK_ROWS), prefix.s };

    if (has_norm(&step)) {
        VTCI_TRY(check_norm_weights(&of, chain, step.norm, i, width));
        chain->widest_norm = vtci_max(chain->widest_norm, step.norm->weight.dim[0]);
    }
    VTCI_TRY(check_linear(&of, &step, width));
    VTCI_REQUIRE(call, !step.skips || n_out == before, VTC_ERR_SHAPE,
                 "%s gives %zu channels, the skip adds %zu",
                 vtci_label_of(&of, step.name, ".weight").s, n_out, before);
    if (i + 1 < chain->n_steps)
        chain->widest_hidden = vtci_max(chain->widest_hidden, n_out);
    chain->has_skips = chain->has_skips || step.skips;
    return VTC_OK;
}

/* ---- prepared weights ------------------------------------------------------------------------ */

/* Layers of the same shapes have the same object, whatever the model. */
static vtci_prepared_key key_of(const vtci_chain *chain)
{
    vtci_prepared_key key = { "mlp", vtci_mix(VTCI_FINGERPRINT, chain->n_steps) };

    for (size_t i = 0; i < chain->n_steps; i++)
        key.fingerprint =
            vtci_mix_tensor(key.fingerprint, &chain->step(chain->model, i).linear->weight);
    return key;
}

/* Where step i has its packed weights. */
static vtci_packed packed_of(const vtci_chain *chain, vtci_arena arena, size_t i)
{
    vtci_packed packed = { 0 };

    for (size_t step = 0; step <= i; step++)
        packed = vtci_packed_take(&arena, &chain->step(chain->model, step).linear->weight);
    return packed;
}

static vtc_status open_prepared(const vtci_call *call, vtci_chain *chain, const vtc_tensor *y)
{
    const vtc_prepared *prepared = chain->prepared;
    const vtci_prepared_key key = key_of(chain);

    if (prepared == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_prepared_open(call, prepared, &key, &chain->packed));
    return vtci_prepared_check_apart(call, "y", y, prepared);
}

static vtc_status lay_out_prepared(const vtci_call *call, const vtci_chain *chain,
                                   vtci_arena *arena)
{
    for (size_t i = 0; i < chain->n_steps; i++) {
        const vtci_step step = chain->step(chain->model, i);
        const vtci_label prefix = layer_prefix(i);
        const vtci_owner of = { call, NULL, 0, prefix.s };
        const vtci_label name = vtci_label_of(&of, step.name, ".weight");

        VTCI_TRY(vtci_check_tensor(call, name.s, &step.linear->weight, VTCI_FLOATS, 2, 2, VTCI_IN));
        vtci_packed_take(arena, &step.linear->weight);
    }
    return VTC_OK;
}

vtc_status vtci_chain_prepare_size(const vtci_call *call, const vtci_chain *chain, size_t *bytes)
{
    vtci_arena arena = vtci_prepared_measure();

    VTCI_TRY(lay_out_prepared(call, chain, &arena));
    return vtci_end_query(call, &arena, bytes);
}

vtc_status vtci_chain_prepare(const vtci_call *call, const vtci_chain *chain,
                              const vtc_prepared *prepared)
{
    const vtci_prepared_key key = key_of(chain);
    vtci_arena arena, begin;

    VTCI_TRY(vtci_prepared_create(call, prepared, &arena));
    begin = arena;
    VTCI_TRY(lay_out_prepared(call, chain, &arena));
    VTCI_TRY(vtci_prepared_check_room(call, prepared, &arena));
    for (size_t i = 0; i < chain->n_steps; i++) {
        const vtci_packed packed = packed_of(chain, begin, i);

        vtci_packed_fill(call, &packed, &chain->step(chain->model, i).linear->weight);
    }
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

vtc_status vtci_chain_open(const vtci_call *call, vtci_chain *chain, const vtc_tensor *y)
{
    size_t width = vtci_join_width(&chain->x), before = 0;

    chain->y = vtci_rows_of(y);
    chain->n_rows = vtci_join_n_rows(&chain->x);
    chain->widest_norm = chain->widest_hidden = 0;
    chain->has_skips = false;
    for (size_t i = 0; i < chain->n_steps; i++) {
        VTCI_TRY(check_step(call, chain, i, width, before, y));
        before = width;
        width = chain->step(chain->model, i).linear->weight.dim[0];
    }
    const size_t n_tokens = vtci_mul(chain->y.n_batch, chain->y.n_rows);

    VTCI_REQUIRE(call, chain->y.n_cols == width, VTC_ERR_SHAPE,
                 "y has %zu channels, the last layer gives %zu", chain->y.n_cols, width);
    VTCI_REQUIRE(call, n_tokens == chain->n_rows, VTC_ERR_SHAPE, "y has %zu tokens, x gives %zu",
                 n_tokens, chain->n_rows);
    return open_prepared(call, chain, y);
}

/* ---- operands -------------------------------------------------------------------------------- */

/* The input of the first step, if it can stay where it is. */
static bool input_in_place(const vtci_chain *chain, vtci_rows *rows)
{
    const vtci_step step = chain->step(chain->model, 0);

    return !has_norm(&step) && vtci_join_in_place(&chain->x, rows);
}

/* A skip reads the input of the step before, so three buffers take turns where there are skips. */
static float *hidden_of(const vtci_chain *chain, size_t i)
{
    return chain->hidden[i % (chain->has_skips ? 3 : 2)];
}

static vtci_rows input_of(const vtci_chain *chain, size_t i, size_t first, size_t n)
{
    vtci_rows rows;

    if (i == 0 && input_in_place(chain, &rows))
        return vtci_rows_part(rows, first, n);
    return vtci_float_rows(i == 0 ? chain->a : hidden_of(chain, i - 1), n,
                           chain->step(chain->model, i).linear->weight.dim[1]);
}

static vtci_rows output_of(const vtci_chain *chain, size_t i, size_t first, size_t n)
{
    vtci_rows rows;

    if (i + 1 < chain->n_steps)
        return vtci_float_rows(hidden_of(chain, i), n,
                               chain->step(chain->model, i).linear->weight.dim[0]);
    if (vtci_rows_join(&chain->y, &rows))
        return vtci_rows_part(rows, first, n);
    return vtci_float_rows(chain->out, n, chain->y.n_cols);
}

/* The product of step i over a block of rows; *packed must live as long. */
static vtci_gemm product_of(const vtci_chain *chain, size_t i, size_t first, size_t n,
                            vtci_packed *packed)
{
    const vtci_step step = chain->step(chain->model, i);
    vtci_gemm g = vtci_layer_product(input_of(chain, i, first, n), step.linear, NULL,
                                     output_of(chain, i, first, n));

    g.act = (vtci_activation)step.act;
    if (step.skips)
        g.residual = input_of(chain, i - 1, first, n);
    if (chain->prepared != NULL) {
        *packed = packed_of(chain, chain->packed, i);
        g.packed = packed;
    }
    return g;
}

/* ---- scratch --------------------------------------------------------------------------------- */

/* Products run one after another and share their scratch. A shorter block may want larger tiles,
 * so the last one counts too. */
static void lay_out_products(vtci_arena *arena, const vtci_call *call, const vtci_chain *chain)
{
    const size_t last = (chain->n_rows - 1) / chain->block_rows * chain->block_rows;
    const size_t sizes[] = { chain->block_rows, chain->n_rows - last };
    size_t most = arena->used;

    for (size_t i = 0; i < 2 * chain->n_steps; i++) {
        vtci_arena at = chain->products;
        vtci_packed packed;
        vtci_gemm g = product_of(chain, i / 2, 0, sizes[i % 2], &packed);

        vtci_gemm_lay_out(&at, call, &g);
        most = vtci_max(most, at.used);
        arena->overflow = arena->overflow || at.overflow;
    }
    arena->used = most;
}

void vtci_chain_lay_out(vtci_arena *arena, const vtci_call *call, vtci_chain *chain)
{
    const size_t n_blocks = vtci_ceil_div(chain->n_rows, BLOCK_ROWS);
    const size_t n_hidden = vtci_min(chain->n_steps - 1, chain->has_skips ? 3 : 2);
    const size_t width = vtci_join_width(&chain->x);
    vtci_rows in_place;

    chain->call = call;
    if (chain->n_rows == 0)
        return;
    chain->block_rows = vtci_ceil_div(chain->n_rows, n_blocks);
    chain->a =
        input_in_place(chain, &in_place) ? NULL : vtci_take_matrix(arena, chain->block_rows, width);
    for (size_t i = 0; i < n_hidden; i++)
        chain->hidden[i] = vtci_take_matrix(arena, chain->block_rows, chain->widest_hidden);
    chain->out = vtci_rows_join(&chain->y, &in_place)
                     ? NULL
                     : vtci_take_matrix(arena, chain->block_rows, chain->y.n_cols);
    chain->norm_weight = vtci_take_matrix(arena, 1, chain->widest_norm);
    chain->norm_bias = vtci_take_matrix(arena, 1, chain->widest_norm);
    chain->slices =
        vtci_take_slices(arena, call, chain->x.channels_first ? vtci_mul(width, sizeof(float)) : 0,
                         &chain->slice_stride);
    chain->products = *arena;
    lay_out_products(arena, call, chain);
}

/* ---- the run --------------------------------------------------------------------------------- */

/* Rows of a step's input: joined from tokens before the first step, normalised before any. */
struct preparation {
    const vtci_chain *chain;
    vtci_rows rows;
    size_t first;  /* joined row that rows begin with       */
    bool load;     /* from tokens; else they are there      */
    size_t n_norm; /* channels of the norm; 0: none         */
    const float *weight, *bias;
};

static void normalize(const struct preparation *p, float *row)
{
    const vtci_kernels *k = vtci_kernels_get();

    for (size_t c = 0; c < p->rows.n_cols; c += p->n_norm)
        if (p->chain->norm == VTC_NORM_LAYER)
            k->layer_norm(row + c, row + c, p->weight, p->bias, p->chain->eps, p->n_norm);
        else
            k->rms_norm(row + c, row + c, p->weight, 0.0f, p->chain->eps, p->n_norm);
}

static void prepare_rows(void *job, size_t index, size_t worker)
{
    const struct preparation *p = job;
    const vtci_chain *chain = p->chain;
    const size_t end = vtci_min(p->rows.n_rows, (index + 1) * TASK_ROWS);

    for (size_t r = index * TASK_ROWS; r < end; r++) {
        float *row = (float *)(void *)vtci_row(&p->rows, 0, r);

        if (p->load)
            vtci_join_load(&chain->x, p->first + r, row,
                           chain->slice_stride == 0
                               ? NULL
                               : (float *)(void *)(chain->slices + worker * chain->slice_stride));
        if (p->n_norm != 0)
            normalize(p, row);
    }
}

static void prepare_input(const vtci_chain *chain, size_t i, size_t first, size_t n)
{
    const vtci_step step = chain->step(chain->model, i);
    struct preparation p = { .chain = chain, .first = first, .load = i == 0 };

    p.rows = input_of(chain, i, first, n);
    if (has_norm(&step)) {
        p.n_norm = step.norm->weight.dim[0];
        p.weight = vtci_load_row(step.norm->weight.data, step.norm->weight.dtype, p.n_norm,
                                 chain->norm_weight);
        if (!vtc_tensor_is_absent(&step.norm->bias))
            p.bias = vtci_load_row(step.norm->bias.data, step.norm->bias.dtype, p.n_norm,
                                   chain->norm_bias);
    }
    if ((p.load && chain->a != NULL) || p.n_norm != 0)
        vtci_parallel(chain->call, vtci_ceil_div(n, TASK_ROWS), prepare_rows, &p);
}

struct storing {
    const vtci_chain *chain;
    size_t first, n;
};

static void store_rows(void *job, size_t index, size_t worker)
{
    const struct storing *s = job;
    const vtci_rows *y = &s->chain->y;
    const size_t end = vtci_min(s->n, (index + 1) * TASK_ROWS);

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < end; r++) {
        const size_t row = s->first + r;

        vtci_store_row(vtci_row(y, row / y->n_rows, row % y->n_rows), y->dtype, y->n_cols,
                       s->chain->out + r * y->n_cols);
    }
}

static void run_block(const vtci_chain *chain, size_t first, size_t n)
{
    struct storing storing = { chain, first, n };

    for (size_t i = 0; i < chain->n_steps; i++) {
        vtci_arena arena = chain->products;
        vtci_packed packed;
        vtci_gemm g = product_of(chain, i, first, n, &packed);

        prepare_input(chain, i, first, n);
        vtci_gemm_lay_out(&arena, chain->call, &g);
        vtci_gemm_run(chain->call, &g);
    }
    if (chain->out != NULL)
        vtci_parallel(chain->call, vtci_ceil_div(n, TASK_ROWS), store_rows, &storing);
}

void vtci_chain_run(const vtci_chain *chain)
{
    if (chain->n_rows == 0 || chain->y.n_cols == 0)
        return;
    for (size_t first = 0; first < chain->n_rows; first += chain->block_rows)
        run_block(chain, first, vtci_min(chain->block_rows, chain->n_rows - first));
}

/* ---- ends of a method's functions ------------------------------------------------------------ */

vtc_status vtci_chain_walk(const vtci_call *call, vtci_chain *chain, const vtc_tensor *y,
                           size_t *bytes)
{
    vtci_arena arena = vtci_arena_open(call);

    VTCI_TRY(vtci_chain_open(call, chain, y));
    vtci_chain_lay_out(&arena, call, chain);
    if (call->query)
        return vtci_end_query(call, &arena, bytes);
    VTCI_TRY(vtci_arena_check(call, &arena));
    vtci_chain_run(chain);
    return VTC_OK;
}

/* ---- norm, fc1, act, fc2 --------------------------------------------------------------------- */

static vtci_step norm_mlp_step(const void *p, size_t i)
{
    const vtci_norm_mlp *model = p;
    const vtc_norm_mlp_weights *w = model->weights;
    const vtci_step steps[] = { { "fc1", &w->fc1, &w->norm, model->act, false },
                                { "fc2", &w->fc2, NULL, VTC_ACT_NONE, false } };

    return steps[i];
}

static vtc_status open_weights(const vtci_call *call, const vtci_norm_mlp *model, vtci_chain *chain)
{
    VTCI_REQUIRE(call, model->weights != NULL, VTC_ERR_NULL, "weights is NULL");
    chain->n_steps = 2;
    chain->step = norm_mlp_step;
    chain->model = model;
    return VTC_OK;
}

vtc_status vtci_norm_mlp_open(const vtci_call *call, const vtci_norm_mlp *model, vtc_norm_kind norm,
                              float eps, const vtc_prepared *prepared, vtci_chain *chain)
{
    VTCI_TRY(open_weights(call, model, chain));
    VTCI_TRY(vtci_check_activation(call, model->act));
    VTCI_TRY(vtci_check_norm(call, norm, eps));
    chain->norm = norm;
    chain->eps = eps;
    chain->prepared = prepared;
    return VTC_OK;
}

vtc_status vtc_norm_mlp_prepare_size(const vtc_norm_mlp_weights *weights, const vtc_exec *exec,
                                     size_t *bytes)
{
    const vtci_norm_mlp model = { weights, VTC_ACT_NONE };
    vtci_chain chain = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_norm_mlp_prepare_size", exec, bytes));
    VTCI_TRY(open_weights(&call, &model, &chain));
    return vtci_chain_prepare_size(&call, &chain, bytes);
}

vtc_status vtc_norm_mlp_prepare(const vtc_norm_mlp_weights *weights, vtc_prepared *prepared,
                                const vtc_exec *exec)
{
    const vtci_norm_mlp model = { weights, VTC_ACT_NONE };
    vtci_chain chain = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_norm_mlp_prepare", exec));
    VTCI_TRY(open_weights(&call, &model, &chain));
    return vtci_chain_prepare(&call, &chain, prepared);
}
