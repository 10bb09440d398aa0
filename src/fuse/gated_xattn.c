/*
 * Flamingo's gated cross-attention block.
 *
 *   h = x + tanh(attn_gate) to_out softmax(q k^T / sqrt(d_h)) v,   q = to_q LN(x), [k, v] = to_kv
 * media y = h + tanh(ff_gate) W3 gelu(W1 LN(h))
 *
 * The keys that a token may see are those of whole media items that stand side by side, so that a
 * range of keys replaces the mask and hidden keys cost nothing. As published they get large finite
 * logits instead, which shows in tokens that see nothing at all: these gather the mean of all
 * values, or nothing where the rule says so. Here the mean is computed once for a batch item.
 *
 * Tokens are taken in blocks: a part of one sequence, or several short ones, whose rows the
 * products stack. When decoding that is one token of each.
 *
 * Cost of a token, in multiply-adds: 2 D inner + 2 S inner + 2 D F, where it sees S keys.
 *
 * Source: Alayrac et al., "Flamingo", NeurIPS 2022, section 3.2; OpenFlamingo's
 * GatedCrossAttentionBlock.
 */
#include "gated_xattn_model.h"

#include "../linalg/operands.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* KV_FLOATS bounds the keys and values that a block makes, unless one batch item has more. */
enum { BLOCK_ROWS = 512, TASK_ROWS = 16, KV_FLOATS = 1 << 22 };

struct locations {
    const char *data; /* NULL: every token sees all media */
    vtc_dtype dtype;
    size_t n, batch_stride; /* in bytes */
};

struct job {
    vtci_gated_xattn model;
    vtci_rows x, y;    /* [B, L, D]                                          */
    vtci_items source; /* media, or keys and values                          */
    bool is_encoded;   /* keys and values                                    */
    bool in_place;     /* F32 keys and values that attention reads as they stand */
    struct locations locations;
    bool is_masked;
    size_t n_keys;                  /* T n                                   */
    size_t block_batch, block_rows; /* of each: batch items, rows of one     */
    float attn_gate, ff_gate;       /* tanh taken                            */

    float *h;       /* [rows, D]                                             */
    float *u;       /* [rows, D] normalised, or what a gate lets through     */
    float *q;       /* [rows, inner]                                         */
    float *heads;   /* [rows, inner] what the heads have gathered            */
    float *hidden;  /* [rows, F]                                             */
    float *kv;      /* [batch, T n, 2 inner]                                 */
    int32_t *range; /* [rows, 2] keys that each row sees                     */
    uint8_t *blind; /* [rows] 1: it gathers the mean of all values           */
};

/* Rows l .. l + n_rows - 1 of batch items b .. b + n_batch - 1. */
struct block {
    const struct job *job;
    size_t b, n_batch, l, n_rows;
    vtci_rows kv; /* [n_batch, T n, 2 inner] */
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status open_source(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *media,
                              const vtc_tensor *kv, const vtc_tensor *y, struct job *job)
{
    const vtc_tensor *source = media != NULL ? media : kv;
    const char *name = media != NULL ? "media" : "kv";

    VTCI_REQUIRE(call, media == NULL || kv == NULL, VTC_ERR_UNSUPPORTED,
                 "media and kv are given, one of them is needed");
    VTCI_REQUIRE(call, source != NULL, VTC_ERR_NULL, "neither media nor kv is given");
    VTCI_TRY(vtci_check_tensor(call, name, source, VTCI_FLOATS, x->rank + 1, x->rank + 1, VTCI_IN));
    VTCI_TRY(vtci_check_apart(call, "y", y, name, source));
    job->source = vtci_items_of(source);
    job->is_encoded = media == NULL;
    job->n_keys = vtci_mul(job->source.n_items, job->source.n_tokens);
    VTCI_REQUIRE(call, job->source.n_batch == job->x.n_batch, VTC_ERR_SHAPE,
                 "x has %zu batch items, %s has %zu", job->x.n_batch, name, job->source.n_batch);
    VTCI_REQUIRE(call, job->n_keys <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu x %zu media tokens",
                 job->source.n_items, job->source.n_tokens);
    return VTC_OK;
}

static vtc_status open_locations(const vtci_call *call, const vtc_tensor *x,
                                 const vtc_tensor *locations, const vtc_tensor *y, struct job *job)
{
    const unsigned dtypes = VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8) | VTCI_INTS;
    const int rank = x->rank - 1;
    struct locations *l = &job->locations;

    job->is_masked = locations != NULL;
    if (locations == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "locations", locations, dtypes, rank, rank, VTCI_IN));
    VTCI_TRY(vtci_check_apart(call, "y", y, "locations", locations));
    l->data = locations->data;
    l->dtype = locations->dtype;
    l->n = locations->dim[rank - 1];
    if (rank == 2)
        l->batch_stride = vtci_mul(locations->stride[0], vtc_dtype_size(l->dtype));
    VTCI_REQUIRE(call, rank == 1 || locations->dim[0] == job->x.n_batch, VTC_ERR_SHAPE,
                 "x has %zu batch items, locations has %zu", job->x.n_batch, locations->dim[0]);
    VTCI_REQUIRE(call, job->model.params.cached_media != 0 || l->n == job->x.n_rows, VTC_ERR_SHAPE,
                 "x has %zu tokens, locations has %zu", job->x.n_rows, l->n);
    return VTC_OK;
}

static vtc_status check_widths(const vtci_call *call, const struct job *job)
{
    const vtci_gated_xattn *model = &job->model;
    const size_t width = job->is_encoded ? 2 * model->inner : model->d_media;

    VTCI_REQUIRE(call, job->x.n_cols == model->d, VTC_ERR_SHAPE,
                 "x has %zu channels, attn.to_q.weight is %zux%zu", job->x.n_cols, model->inner,
                 model->d);
    VTCI_REQUIRE(call, job->source.n_cols == width, VTC_ERR_SHAPE,
                 "%s has %zu channels, attn.to_kv.weight turns %zu into %zu",
                 job->is_encoded ? "kv" : "media", job->source.n_cols, model->d_media,
                 2 * model->inner);
    return vtci_check_gemm(call, job->n_keys, 1, 1);
}

static bool is_idle(const struct job *job)
{
    return job->x.n_batch == 0 || job->x.n_rows == 0 || job->x.n_cols == 0;
}

static void choose_block(struct job *job)
{
    const size_t n = job->x.n_rows, n_pieces = vtci_ceil_div(n, BLOCK_ROWS);
    const size_t per_item = vtci_mul(vtci_max(1, job->n_keys), 2 * job->model.inner);
    const bool is_ready = job->is_encoded && job->source.dtype == VTC_F32;
    vtci_rows rows;

    job->in_place = is_ready && vtci_items_as_rows(&job->source, 0, 1, &rows);
    job->block_rows = vtci_ceil_div(n, n_pieces);
    job->block_batch = vtci_min(job->x.n_batch, vtci_max(1, BLOCK_ROWS / n));
    /* not by in_place: strides must not show in the bits */
    if (!is_ready)
        job->block_batch = vtci_max(1, vtci_min(job->block_batch, KV_FLOATS / per_item));
}

static vtc_status open_job(const vtci_call *call, const vtc_gated_xattn_params *params,
                           const vtc_gated_xattn_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *x, const vtc_tensor *media, const vtc_tensor *kv,
                           const vtc_tensor *locations, const vtc_tensor *y, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, x->rank, x->rank, VTCI_OUT));
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_REQUIRE(call,
                 job->x.n_batch == job->y.n_batch && job->x.n_rows == job->y.n_rows &&
                     job->x.n_cols == job->y.n_cols,
                 VTC_ERR_SHAPE, "x is %zux%zux%zu, y is %zux%zux%zu", job->x.n_batch, job->x.n_rows,
                 job->x.n_cols, job->y.n_batch, job->y.n_rows, job->y.n_cols);
    VTCI_TRY(vtci_gated_xattn_open(call, params, weights, prepared, &job->model));
    VTCI_TRY(vtci_gated_xattn_check_apart(call, &job->model, prepared, "y", y));
    VTCI_TRY(open_source(call, x, media, kv, y, job));
    VTCI_TRY(check_widths(call, job));
    VTCI_TRY(open_locations(call, x, locations, y, job));
    if (!is_idle(job))
        choose_block(job);
    return VTC_OK;
}

/* ---- which media each token sees ------------------------------------------------------------- */

static bool is_media_token(const struct locations *l, size_t b, size_t n)
{
    const char *at = l->data + b * l->batch_stride + n * vtc_dtype_size(l->dtype);

    if (l->dtype == VTC_I32)
        return *(const int32_t *)(const void *)at != 0;
    if (l->dtype == VTC_I64)
        return *(const int64_t *)(const void *)at != 0;
    return *at != 0;
}

static size_t count_media_tokens(const struct locations *l, size_t b, size_t end)
{
    size_t count = 0;

    for (size_t n = 0; n < end; n++)
        count += is_media_token(l, b, n);
    return count;
}

/* The keys of a token whose time is given; false: it sees none and gathers the mean of all. */
static bool find_range(const struct job *job, size_t time, int32_t *range)
{
    const size_t n_items = job->source.n_items, n = job->source.n_tokens;
    const bool immediate = job->model.params.rule == VTC_MEDIA_IMMEDIATE;
    size_t begin = 0, end = 0;

    if (time != 0 && (!immediate || time <= n_items)) {
        end = vtci_min(time, n_items);
        begin = immediate ? end - 1 : 0;
    }
    range[0] = (int32_t)(begin * n);
    range[1] = (int32_t)(end * n);
    return end != 0 || (immediate && time == 0);
}

/* All rows of one batch item of a block. */
static void find_ranges(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const struct job *job = at->job;
    const struct locations *l = &job->locations;
    const size_t b = at->b + index;
    const bool cached = job->model.params.cached_media != 0;
    size_t time = count_media_tokens(l, b, cached ? l->n : at->l);

    (void)worker;
    for (size_t n = 0; n < at->n_rows; n++) {
        const size_t row = index * at->n_rows + n;

        if (!cached)
            time += is_media_token(l, b, at->l + n);
        job->blind[row] = !find_range(job, time, job->range + 2 * row);
    }
}

/* Gives the blind rows of one batch item the mean of its values. */
static void gather_mean(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const struct job *job = at->job;
    const size_t inner = job->model.inner, size = vtc_dtype_size(at->kv.dtype);
    const float *mean = NULL;

    (void)worker;
    for (size_t n = 0; n < at->n_rows; n++) {
        const size_t row = index * at->n_rows + n;
        float *to = job->heads + row * inner;
        vtci_combine sum;

        if (!job->blind[row])
            continue;
        if (mean != NULL) {
            memcpy(to, mean, inner * sizeof(*to));
            continue;
        }
        vtci_combine_begin(&sum, to, inner, at->kv.dtype, false);
        for (size_t key = 0; key < job->n_keys; key++)
            vtci_combine_add(&sum, vtci_row(&at->kv, index, key) + inner * size,
                             1.0f / (float)job->n_keys);
        vtci_combine_end(&sum);
        mean = to;
    }
}

/* ---- keys and values ------------------------------------------------------------------------- */

/* The block's part of the scratch as media items. */
static vtci_items scratch_items(const struct block *at)
{
    const struct job *job = at->job;
    const size_t width = 2 * job->model.inner, row = width * sizeof(float);
    const vtci_items items = { (char *)job->kv,
                               VTC_F32,
                               at->n_batch,
                               job->source.n_items,
                               job->source.n_tokens,
                               width,
                               job->n_keys * row,
                               job->source.n_tokens * row,
                               row };

    return items;
}

static void copy_key(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const vtci_items *from = &at->job->source;
    const size_t b = index / at->job->n_keys, key = index % at->job->n_keys;
    const size_t item = key / from->n_tokens, token = key % from->n_tokens;

    (void)worker;
    vtci_copy_row(vtci_row(&at->kv, b, key), VTC_F32,
                  from->data + (at->b + b) * from->batch_stride + item * from->item_stride +
                      token * from->token_stride,
                  from->dtype, from->n_cols, NULL);
}

/* at->kv, which a block of later rows of the same batch item finds as the first has left it. */
static void make_keys(struct block *at, vtci_steps *steps)
{
    const struct job *job = at->job;
    const vtci_items kv = scratch_items(at);
    vtci_items media = job->source;

    if (job->in_place) {
        (void)vtci_items_as_rows(&job->source, at->b, at->n_batch, &at->kv);
        return;
    }
    (void)vtci_items_as_rows(&kv, 0, at->n_batch, &at->kv);
    if (at->l != 0)
        return;
    if (job->is_encoded) {
        vtci_steps_tasks(steps, at->n_batch * job->n_keys, copy_key, at);
        return;
    }
    if (media.data != NULL)
        media.data += at->b * media.batch_stride;
    for (size_t b = 0; b < at->n_batch; b++)
        vtci_gated_xattn_encode(&job->model, steps, &media, &kv, b);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static size_t n_rows(const struct block *at)
{
    return at->n_batch * at->n_rows;
}

static vtci_rows stacked(const struct block *at, const float *data, size_t width)
{
    return vtci_float_rows(data, n_rows(at), width);
}

static vtci_heads heads_of(const struct block *at, const float *data)
{
    const vtci_gated_xattn *model = &at->job->model;
    vtci_rows rows = vtci_float_rows(data, at->n_rows, model->inner);

    rows.n_batch = at->n_batch;
    return vtci_heads_of_rows(&rows, model->params.heads);
}

/* The halves of the keys' and values' rows. */
static vtci_heads heads_of_keys(const struct block *at, bool values)
{
    const vtci_gated_xattn *model = &at->job->model;
    const vtci_rows rows = vtci_cols_part(at->kv, values ? model->inner : 0, model->inner);

    return vtci_heads_of_rows(&rows, model->params.heads);
}

static void load_rows(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const vtci_rows *x = &at->job->x;

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < vtci_min(n_rows(at), (index + 1) * TASK_ROWS); r++)
        vtci_copy_row(at->job->h + r * x->n_cols, VTC_F32,
                      vtci_row(x, at->b + r / at->n_rows, at->l + r % at->n_rows), x->dtype,
                      x->n_cols, NULL);
}

/* h += gate u */
static void add_gated(const struct job *job, size_t row, float gate)
{
    const size_t d = job->model.d;
    const float *u = job->u + row * d;

    vtci_kernels_get()->combine(job->h + row * d, &u, &gate, 1, d, 1);
}

static void add_attention(void *p, size_t index, size_t worker)
{
    const struct block *at = p;

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < vtci_min(n_rows(at), (index + 1) * TASK_ROWS); r++)
        add_gated(at->job, r, at->job->attn_gate);
}

static void store_rows(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const vtci_rows *y = &at->job->y;

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < vtci_min(n_rows(at), (index + 1) * TASK_ROWS); r++) {
        add_gated(at->job, r, at->job->ff_gate);
        vtci_store_row(vtci_row(y, at->b + r / at->n_rows, at->l + r % at->n_rows), y->dtype,
                       y->n_cols, at->job->h + r * y->n_cols);
    }
}

static void normalize(const struct block *at, vtci_steps *steps, const vtc_norm *norm)
{
    const struct job *job = at->job;
    vtci_norm normed = { .x = stacked(at, job->h, job->model.d),
                         .y = stacked(at, job->u, job->model.d),
                         .kind = VTC_NORM_LAYER,
                         .norm = norm,
                         .eps = job->model.params.eps };

    vtci_steps_norm(steps, &normed);
}

static void attend(struct block *at, vtci_steps *steps)
{
    const struct job *job = at->job;
    const size_t d_head = job->model.inner / job->model.params.heads;
    vtci_attention attention = { .q = heads_of(at, job->q),
                                 .k = heads_of_keys(at, false),
                                 .v = heads_of_keys(at, true),
                                 .y = heads_of(at, job->heads),
                                 .scale = 1.0f / sqrtf((float)d_head) };

    if (job->is_masked) {
        attention.sees.range = job->range;
        attention.sees.range_batch_stride = at->n_rows;
    }
    vtci_steps_attention(steps, &attention);
    if (job->is_masked)
        vtci_steps_tasks(steps, at->n_batch, gather_mean, at);
}

static void run_attention(struct block *at, vtci_steps *steps)
{
    const struct job *job = at->job;
    const vtci_gated_xattn *model = &job->model;
    const vtc_gated_xattn_weights *w = model->weights;

    if (job->is_masked)
        vtci_steps_tasks(steps, at->n_batch, find_ranges, at);
    make_keys(at, steps);
    normalize(at, steps, &w->attn_norm);
    vtci_steps_linear(steps, stacked(at, job->u, model->d), &w->to_q, &model->q,
                      stacked(at, job->q, model->inner));
    attend(at, steps);
    vtci_steps_linear(steps, stacked(at, job->heads, model->inner), &w->to_out, &model->out,
                      stacked(at, job->u, model->d));
    vtci_steps_tasks(steps, vtci_ceil_div(n_rows(at), TASK_ROWS), add_attention, at);
}

static void run_feed_forward(struct block *at, vtci_steps *steps)
{
    const struct job *job = at->job;
    const vtci_gated_xattn *model = &job->model;
    const vtc_gated_xattn_weights *w = model->weights;
    vtci_gemm up;

    normalize(at, steps, &w->ff_norm);
    up = vtci_linear_product(stacked(at, job->u, model->d), &w->ff_up, &model->up,
                             stacked(at, job->hidden, model->hidden));
    up.act = (vtci_activation)model->params.act;
    vtci_steps_gemm(steps, &up);
    vtci_steps_linear(steps, stacked(at, job->hidden, model->hidden), &w->ff_down, &model->down,
                      stacked(at, job->u, model->d));
    vtci_steps_tasks(steps, vtci_ceil_div(n_rows(at), TASK_ROWS), store_rows, at);
}

static void run_block(struct job *job, vtci_steps *steps, size_t b, size_t l)
{
    struct block at = { .job = job, .b = b, .l = l };

    at.n_batch = vtci_min(job->block_batch, job->x.n_batch - b);
    at.n_rows = vtci_min(job->block_rows, job->x.n_rows - l);
    vtci_steps_tasks(steps, vtci_ceil_div(n_rows(&at), TASK_ROWS), load_rows, &at);
    if (job->n_keys != 0)
        run_attention(&at, steps);
    run_feed_forward(&at, steps);
}

/* ---- scratch and run ------------------------------------------------------------------------- */

static void lay_out(vtci_arena *arena, struct job *job)
{
    const vtci_gated_xattn *model = &job->model;
    const size_t rows = vtci_mul(job->block_batch, job->block_rows);
    const size_t n_masked = job->is_masked ? rows : 0;
    const size_t n_keys = job->in_place ? 0 : vtci_mul(job->block_batch, job->n_keys);

    job->h = vtci_take_matrix(arena, rows, model->d);
    job->u = vtci_take_matrix(arena, rows, model->d);
    job->q = vtci_take_matrix(arena, rows, model->inner);
    job->heads = vtci_take_matrix(arena, rows, model->inner);
    job->hidden = vtci_take_matrix(arena, rows, model->hidden);
    job->kv = vtci_take_matrix(arena, n_keys, 2 * model->inner);
    job->range = vtci_take(arena, vtci_mul(2, n_masked), sizeof(*job->range));
    job->blind = vtci_take(arena, n_masked, sizeof(*job->blind));
}

static float open_gate(const vtc_tensor *gate)
{
    float tmp;

    return tanhf(*vtci_load_row(gate->data, gate->dtype, 1, &tmp));
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;

    if (is_idle(job))
        return;
    lay_out(&steps->arena, job);
    if (steps->measure) { /* a shorter block may want larger tiles */
        run_block(job, steps, 0, 0);
        run_block(job, steps, (job->x.n_batch - 1) / job->block_batch * job->block_batch,
                  (job->x.n_rows - 1) / job->block_rows * job->block_rows);
        return;
    }
    job->attn_gate = open_gate(&job->model.weights->attn_gate);
    job->ff_gate = open_gate(&job->model.weights->ff_gate);
    for (size_t b = 0; b < job->x.n_batch; b += job->block_batch)
        for (size_t l = 0; l < job->x.n_rows; l += job->block_rows)
            run_block(job, steps, b, l);
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_gated_xattn_scratch(const vtc_gated_xattn_params *params,
                                   const vtc_gated_xattn_weights *weights,
                                   const vtc_prepared *prepared, const vtc_tensor *x,
                                   const vtc_tensor *media, const vtc_tensor *kv,
                                   const vtc_tensor *locations, const vtc_tensor *y,
                                   const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_gated_xattn_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, media, kv, locations, y, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_gated_xattn(const vtc_gated_xattn_params *params,
                           const vtc_gated_xattn_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *x, const vtc_tensor *media, const vtc_tensor *kv,
                           const vtc_tensor *locations, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_gated_xattn", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, media, kv, locations, y, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}
