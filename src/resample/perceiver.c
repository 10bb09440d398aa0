/*
 * Flamingo's Perceiver Resampler.
 *
 *   x  = tokens + frame_embs[f] + media_time_embs[t]                      of each media item
 *   z  = latents
 *   every layer:  q      = to_q LN(z)
 *                 [k, v] = to_kv [LN_media(x) ; LN(z)]                    media first
 *                 z     += to_out softmax(q k^T / sqrt(d_h)) v
 *                 z     += W3 gelu(W1 LN(z))
 *   y  = LN(z)
 *
 * Items are independent; the latents of a block of them are stacked as the rows of one product.
 * The keys and values of an item stand in one array, those of the media first, so that attention
 * reads them as they come out of the products. The first layer sees the latents themselves: what it
 * makes of them is computed once for all items.
 *
 * Raw weights: each layer normalises the media with its own gain. Prepared F32 weights: the media
 * are normalised once, and one product makes the keys and values of all layers, unless an item has
 * so many tokens that these would not fit FOLDED_FLOATS.
 *
 * Cost of an item and layer, in multiply-adds: 2 M D inner + 2 (N + M) D inner + 2 M (N + M) inner
 * + 2 M D F.
 *
 * Source: Alayrac et al., "Flamingo", NeurIPS 2022, section 3.1; OpenFlamingo's and
 * flamingo-pytorch's PerceiverResampler.
 */
#include "perceiver_model.h"

#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* Rows of a block's products: enough to use each weight well, few enough that the scratch of a
 * large batch stays small. */
enum { BLOCK_LATENTS = 256, BLOCK_TOKENS = 2048, FOLDED_FLOATS = 1 << 23, TASK_ROWS = 16 };

struct media {
    char *data;
    vtc_dtype dtype;
    size_t b, t, f, v;
    size_t b_stride, t_stride, f_stride, v_stride; /* in bytes */
};

struct job {
    vtci_perceiver model;
    struct media x;
    vtc_tensor y; /* of rank 4 */
    size_t n_items, n_tokens;
    size_t block_items; /* done together                                 */
    bool folds;         /* keys and values of the media are made for all */
    size_t group;       /* layers at once, and stand side by side        */

    float *media;    /* [items, N, D] normalised                                 */
    float *kv;       /* [items, N + M, group, 2 inner]                           */
    float *z;        /* [items, M, D]                                            */
    float *attended; /* [items, M, D] z behind the attention                  */
    float *u;        /* [items, M, D] z normalised                               */
    float *q;        /* [items, M, inner]                                        */
    float *heads;    /* [items, M, inner] what the heads have gathered           */
    float *hidden;   /* [items, M, F]                                           */
    float *gain;     /* [2, D] of 16-bit norm weights                            */
    char *slices;    /* per worker: [D] of a 16-bit embedding                    */
    size_t slice_stride;
};

/* Items first .. first + n - 1. */
struct block {
    struct job *job;
    size_t first, n;
    const float *gain, *bias; /* of the media; NULL: none */
};

/* ---- checks ---------------------------------------------------------------------------------- */

static void open_media(struct media *m, const vtc_tensor *x)
{
    const size_t size = vtc_dtype_size(x->dtype);
    const int last = x->rank - 1;

    memset(m, 0, sizeof(*m));
    m->data = x->data;
    m->dtype = x->dtype;
    m->b = x->dim[0];
    m->b_stride = vtci_mul(x->stride[0], size);
    m->t = x->rank >= 4 ? x->dim[1] : 1;
    m->t_stride = x->rank >= 4 ? vtci_mul(x->stride[1], size) : 0;
    m->f = x->rank == 5 ? x->dim[2] : 1;
    m->f_stride = x->rank == 5 ? vtci_mul(x->stride[2], size) : 0;
    m->v = x->dim[last - 1];
    m->v_stride = vtci_mul(x->stride[last - 1], size);
}

/* y as [B, T, M, D]. */
static vtc_status open_output(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *y,
                              vtc_tensor *four)
{
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 3, 4, VTCI_OUT));
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    VTCI_REQUIRE(call, y->rank == 4 || x->rank == 3, VTC_ERR_SHAPE,
                 "y has rank 3, 4 is needed for an x of rank %d", x->rank);
    *four = *y;
    if (y->rank == 4)
        return VTC_OK;
    four->rank = 4;
    four->dim[1] = 1;
    four->stride[1] = 0;
    for (int axis = 1; axis < 3; axis++) {
        four->dim[axis + 1] = y->dim[axis];
        four->stride[axis + 1] = y->stride[axis];
    }
    return VTC_OK;
}

static vtc_status check_counts(const vtci_call *call, const struct job *job)
{
    const vtc_perceiver_weights *weights = job->model.weights;
    const struct media *x = &job->x;
    const size_t *y = job->y.dim;

    VTCI_REQUIRE(call, y[0] == x->b && y[1] == x->t, VTC_ERR_SHAPE,
                 "x has %zux%zu media items, y has %zux%zu", x->b, x->t, y[0], y[1]);
    VTCI_REQUIRE(call, y[2] == job->model.m && y[3] == job->model.d, VTC_ERR_SHAPE,
                 "y has %zu tokens of %zu channels, latents is %zux%zu", y[2], y[3], job->model.m,
                 job->model.d);
    VTCI_REQUIRE(call,
                 vtc_tensor_is_absent(&weights->frame_embs) || x->f <= weights->frame_embs.dim[0],
                 VTC_ERR_SHAPE, "x has %zu frames, frame_embs has %zu", x->f,
                 weights->frame_embs.dim[0]);
    VTCI_REQUIRE(call,
                 vtc_tensor_is_absent(&weights->media_time_embs) ||
                     x->t <= weights->media_time_embs.dim[0],
                 VTC_ERR_SHAPE, "x has %zu media items, media_time_embs has %zu", x->t,
                 weights->media_time_embs.dim[0]);
    return VTC_OK;
}

/* How many items are done together, and whether with the keys and values of all layers. */
static void choose_block(struct job *job)
{
    const vtci_perceiver *model = &job->model;
    const size_t by_latents = BLOCK_LATENTS / model->m;
    const size_t by_tokens = BLOCK_TOKENS / vtci_max(1, job->n_tokens);
    const size_t layer = vtci_mul(vtci_add(job->n_tokens, model->m), 2 * model->inner);
    const size_t all = vtci_mul(layer, model->weights->n_layers);
    size_t items = vtci_min(by_latents, by_tokens);

    job->folds = model->is_folded && all <= FOLDED_FLOATS;
    job->group = job->folds ? model->weights->n_layers : 1;
    if (job->folds)
        items = vtci_min(items, FOLDED_FLOATS / all);
    job->block_items = vtci_max(1, vtci_min(items, job->n_items));
}

static bool is_idle(const struct job *job)
{
    return job->n_items == 0 || job->model.m == 0 || job->model.d == 0;
}

static vtc_status open_prepared(const vtci_call *call, const vtc_prepared *prepared,
                                const vtc_tensor *y, vtci_perceiver *model)
{
    const vtci_prepared_key key = vtci_perceiver_key(model);
    vtci_arena arena;

    VTCI_TRY(vtci_prepared_open(call, prepared, &key, &arena));
    VTCI_TRY(vtci_prepared_check_apart(call, "y", y, prepared));
    vtci_perceiver_take_prepared(&arena, model);
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_perceiver_params *params,
                           const vtc_perceiver_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *x, const vtc_tensor *y, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 3, 5, VTCI_IN));
    VTCI_TRY(open_output(call, x, y, &job->y));
    VTCI_TRY(vtci_perceiver_open(call, params, weights, y, &job->model));
    VTCI_REQUIRE(call, x->dim[x->rank - 1] == job->model.d, VTC_ERR_SHAPE,
                 "x has %zu channels, latents has %zu", x->dim[x->rank - 1], job->model.d);
    open_media(&job->x, x);
    VTCI_TRY(check_counts(call, job));
    if (prepared != NULL)
        VTCI_TRY(open_prepared(call, prepared, y, &job->model));
    job->n_items = vtci_mul(job->x.b, job->x.t);
    job->n_tokens = vtci_mul(job->x.f, job->x.v);
    if (is_idle(job))
        return VTC_OK;
    choose_block(job);
    VTCI_TRY(vtci_check_gemm(call, vtci_mul(job->block_items, job->model.m), job->model.hidden,
                             vtci_mul(job->group, 2 * job->model.inner)));
    return vtci_check_gemm(call, vtci_add(job->n_tokens, job->model.m), job->model.d, 1);
}

/* ---- views ----------------------------------------------------------------------------------- */

/* Keys and values of a block's items at layer `layer`: `n` rows from `row` on, `width` columns from
 * `col` on. */
static vtci_rows kv_rows(const struct block *at, size_t layer, size_t row, size_t n, size_t col,
                         size_t width)
{
    const struct job *job = at->job;
    const size_t ld = job->group * 2 * job->model.inner;
    const size_t per_item = (job->n_tokens + job->model.m) * ld;
    const size_t begin = row * ld + (job->folds ? layer : 0) * 2 * job->model.inner + col;
    const vtci_rows rows = { (char *)vtci_skip(job->kv, begin), VTC_F32,           at->n, n, width,
                             per_item * sizeof(float),          ld * sizeof(float) };

    return rows;
}

/* The stacked latents' rows of one of the job's arrays. */
static vtci_rows stacked(const struct block *at, const float *data, size_t width)
{
    return vtci_float_rows(data, at->n * at->job->model.m, width);
}

/* The same by item. */
static vtci_rows by_item(const struct block *at, const float *data, size_t width)
{
    vtci_rows rows = vtci_float_rows(data, at->job->model.m, width);

    rows.n_batch = at->n;
    return rows;
}

/* ---- media ----------------------------------------------------------------------------------- */

/* y += row t of the embeddings, if there are any. */
static const float *add_embedding(const vtc_tensor *embeddings, size_t t, const float *x, float *y,
                                  size_t d, float *tmp)
{
    const size_t size = vtc_dtype_size(embeddings->dtype);
    const char *row;

    if (vtc_tensor_is_absent(embeddings))
        return x;
    row = (const char *)embeddings->data + t * embeddings->stride[0] * size;
    vtci_kernels_get()->add(y, x, vtci_load_row(row, embeddings->dtype, d, tmp), d);
    return y;
}

static void normalize_tokens(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const struct job *job = at->job;
    const struct media *m = &job->x;
    const vtc_perceiver_weights *weights = job->model.weights;
    const size_t d = job->model.d, n = job->n_tokens;
    float *tmp = (float *)(void *)(job->slices + worker * job->slice_stride);

    for (size_t r = index * TASK_ROWS; r < vtci_min(at->n * n, (index + 1) * TASK_ROWS); r++) {
        const size_t item = at->first + r / n, b = item / m->t, t = item % m->t;
        const size_t f = r % n / m->v, v = r % n % m->v;
        const char *row =
            m->data + b * m->b_stride + t * m->t_stride + f * m->f_stride + v * m->v_stride;
        float *to = job->media + r * d;
        const float *x = vtci_load_row(row, m->dtype, d, to);

        x = add_embedding(&weights->frame_embs, f, x, to, d, tmp);
        x = add_embedding(&weights->media_time_embs, t, x, to, d, tmp);
        vtci_kernels_get()->layer_norm(to, x, at->gain, at->bias, job->model.params.eps, d);
    }
}

static const float *widened(const vtc_tensor *t, size_t d, float *tmp)
{
    return vtc_tensor_is_absent(t) ? NULL : vtci_load_row(t->data, t->dtype, d, tmp);
}

/* The block's media, with the gain of a norm or without. */
static void normalize_media(struct block *at, vtci_steps *steps, const vtc_norm *norm)
{
    const struct job *job = at->job;
    const size_t d = job->model.d;

    at->gain = at->bias = NULL;
    if (norm != NULL && !steps->measure) {
        at->gain = widened(&norm->weight, d, job->gain);
        at->bias = widened(&norm->bias, d, job->gain + d);
    }
    vtci_steps_tasks(steps, vtci_ceil_div(at->n * job->n_tokens, TASK_ROWS), normalize_tokens, at);
}

static vtci_rows media_rows(const struct block *at)
{
    const struct job *job = at->job;
    vtci_rows rows = vtci_float_rows(job->media, job->n_tokens, job->model.d);

    rows.n_batch = at->n;
    return rows;
}

/* Keys and values of the media for all layers. */
static void project_folded(struct block *at, vtci_steps *steps)
{
    const struct job *job = at->job;
    const vtci_perceiver *model = &job->model;
    const size_t width = job->group * 2 * model->inner;
    vtci_gemm product = { .a = media_rows(at),
                          .c = kv_rows(at, 0, 0, job->n_tokens, 0, width),
                          .trans_b = true,
                          .packed = &model->folded };

    normalize_media(at, steps, NULL);
    product.bias = vtci_float_rows(model->folded_bias, 1, width);
    vtci_steps_gemm(steps, &product);
}

/* Keys and values of the media for this layer. */
static void project_media(struct block *at, vtci_steps *steps, size_t layer,
                          const vtci_packed *packed)
{
    const struct job *job = at->job;
    const vtc_perceiver_layer *weights = &job->model.weights->layers[layer];

    normalize_media(at, steps, &weights->norm_media);
    vtci_steps_linear(steps, media_rows(at), &weights->to_kv, packed,
                      kv_rows(at, layer, 0, job->n_tokens, 0, 2 * job->model.inner));
}

/* ---- latents --------------------------------------------------------------------------------- */

/* Row `index` of every item: the latent itself, and its keys and values in the first layer. */
static void set_latent(void *p, size_t index, size_t worker)
{
    const struct block *at = p;
    const struct job *job = at->job;
    const vtc_tensor *latents = &job->model.weights->latents;
    const vtci_rows from = vtci_rows_of(latents);
    const size_t d = job->model.d, width = 2 * job->model.inner;
    const vtci_rows kv = kv_rows(at, 0, job->n_tokens, job->model.m, 0, width);

    (void)worker;
    for (size_t i = 0; i < at->n; i++) {
        vtci_copy_row(job->z + (i * job->model.m + index) * d, VTC_F32, vtci_row(&from, 0, index),
                      latents->dtype, d, NULL);
        memcpy(vtci_row(&kv, i, index), job->model.first_kv + index * width, width * sizeof(float));
    }
}

static void normalize_latents(const struct block *at, vtci_steps *steps, const float *z,
                              const vtc_norm *norm)
{
    const struct job *job = at->job;
    vtci_norm normed = { .x = stacked(at, z, job->model.d),
                         .y = stacked(at, job->u, job->model.d),
                         .kind = VTC_NORM_LAYER,
                         .norm = norm,
                         .eps = job->model.params.eps };

    vtci_steps_norm(steps, &normed);
}

/* Queries, keys and values of the latents. */
static void project_latents(const struct block *at, vtci_steps *steps, size_t layer,
                            const vtci_perceiver_packed *packed)
{
    const struct job *job = at->job;
    const vtci_perceiver *model = &job->model;
    const vtc_perceiver_layer *weights = &model->weights->layers[layer];

    normalize_latents(at, steps, job->z, &weights->norm_latents);
    vtci_steps_linear(steps, stacked(at, job->u, model->d), &weights->to_q, &packed->q,
                      stacked(at, job->q, model->inner));
    vtci_steps_linear(steps, by_item(at, job->u, model->d), &weights->to_kv, &packed->kv,
                      kv_rows(at, layer, job->n_tokens, model->m, 0, 2 * model->inner));
}

static void attend(const struct block *at, vtci_steps *steps, size_t layer)
{
    const struct job *job = at->job;
    const size_t inner = job->model.inner, heads = job->model.params.heads;
    const size_t n_keys = job->n_tokens + job->model.m;
    const vtci_rows k = kv_rows(at, layer, 0, n_keys, 0, inner);
    const vtci_rows v = kv_rows(at, layer, 0, n_keys, inner, inner);
    const vtci_rows y = by_item(at, job->heads, inner);
    vtci_rows q = by_item(at, layer == 0 ? job->model.first_q : job->q, inner);

    if (layer == 0)
        q.batch_stride = 0; /* the same for all items */

    vtci_attention attention = { .q = vtci_heads_of_rows(&q, heads),
                                 .k = vtci_heads_of_rows(&k, heads),
                                 .v = vtci_heads_of_rows(&v, heads),
                                 .y = vtci_heads_of_rows(&y, heads),
                                 .scale = 1.0f / sqrtf((float)(inner / heads)) };

    vtci_steps_attention(steps, &attention);
}

static void run_layer(struct block *at, vtci_steps *steps, size_t layer,
                      const vtci_perceiver_packed *packed)
{
    const struct job *job = at->job;
    const vtci_perceiver *model = &job->model;
    const vtc_perceiver_layer *weights = &model->weights->layers[layer];
    const size_t d = model->d;
    vtci_gemm out, up, down;

    if (!job->folds)
        project_media(at, steps, layer, &packed->kv);
    if (layer > 0)
        project_latents(at, steps, layer, packed);
    attend(at, steps, layer);
    out = vtci_linear_product(stacked(at, job->heads, model->inner), &weights->to_out, &packed->out,
                              stacked(at, job->attended, d));
    out.residual = stacked(at, job->z, d);
    vtci_steps_gemm(steps, &out);

    normalize_latents(at, steps, job->attended, &weights->ff_norm);
    up = vtci_linear_product(stacked(at, job->u, d), &weights->ff_up, &packed->up,
                             stacked(at, job->hidden, model->hidden));
    up.act = (vtci_activation)model->params.act;
    vtci_steps_gemm(steps, &up);
    down = vtci_linear_product(stacked(at, job->hidden, model->hidden), &weights->ff_down,
                               &packed->down, stacked(at, job->z, d));
    down.residual = stacked(at, job->attended, d);
    vtci_steps_gemm(steps, &down);
}

/* The last norm writes an item's rows of y. */
static void finish_item(const struct block *at, vtci_steps *steps, size_t i)
{
    const struct job *job = at->job;
    const vtc_tensor *y = &job->y;
    const size_t item = at->first + i, size = vtc_dtype_size(y->dtype);
    const size_t begin = item / y->dim[1] * y->stride[0] + item % y->dim[1] * y->stride[1];
    vtci_norm norm = {
        .x = vtci_float_rows(vtci_skip(job->z, i * job->model.m * job->model.d), job->model.m,
                             job->model.d),
        .y = { !steps->measure ? (char *)y->data + begin * size : NULL, y->dtype, 1, y->dim[2],
               y->dim[3], 0, y->stride[2] * size },
        .kind = VTC_NORM_LAYER,
        .norm = &job->model.weights->norm,
        .eps = job->model.params.eps,
    };

    vtci_steps_norm(steps, &norm);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void run_block(struct job *job, vtci_steps *steps, size_t first)
{
    struct block at = { job, first, vtci_min(job->block_items, job->n_items - first), NULL, NULL };
    vtci_arena layers = job->model.layers;

    if (job->folds)
        project_folded(&at, steps);
    vtci_steps_tasks(steps, job->model.m, set_latent, &at);
    for (size_t i = 0; i < job->model.weights->n_layers; i++) {
        vtci_perceiver_packed packed = { 0 };

        if (job->model.is_prepared)
            packed = vtci_perceiver_take_layer(&layers, &job->model, i);
        run_layer(&at, steps, i, &packed);
    }
    for (size_t i = 0; i < at.n; i++)
        finish_item(&at, steps, i);
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    vtci_perceiver *model = &job->model;
    const size_t items = job->block_items, rows = vtci_mul(items, model->m);

    if (!model->is_prepared)
        vtci_perceiver_take_first(arena, model);
    job->media = vtci_take_matrix(arena, vtci_mul(items, job->n_tokens), model->d);
    job->kv = vtci_take_matrix(arena, vtci_mul(items, vtci_add(job->n_tokens, model->m)),
                               vtci_mul(job->group, 2 * model->inner));
    job->z = vtci_take_matrix(arena, rows, model->d);
    job->attended = vtci_take_matrix(arena, rows, model->d);
    job->u = vtci_take_matrix(arena, rows, model->d);
    job->q = vtci_take_matrix(arena, rows, model->inner);
    job->heads = vtci_take_matrix(arena, rows, model->inner);
    job->hidden = vtci_take_matrix(arena, rows, model->hidden);
    job->gain = vtci_take_matrix(arena, 2, model->d);
    job->slices =
        vtci_take_slices(arena, call, vtci_mul(model->d, sizeof(float)), &job->slice_stride);
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;

    if (is_idle(job))
        return;
    lay_out(&steps->arena, steps->call, job);
    if (!job->model.is_prepared)
        vtci_perceiver_make_first(&job->model, steps, job->u);
    if (steps->measure) { /* a shorter block may want larger tiles */
        run_block(job, steps, 0);
        run_block(job, steps, (job->n_items - 1) / job->block_items * job->block_items);
        return;
    }
    for (size_t first = 0; first < job->n_items; first += job->block_items)
        run_block(job, steps, first);
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_perceiver_scratch(const vtc_perceiver_params *params,
                                 const vtc_perceiver_weights *weights, const vtc_prepared *prepared,
                                 const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                                 size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_perceiver_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_perceiver(const vtc_perceiver_params *params, const vtc_perceiver_weights *weights,
                         const vtc_prepared *prepared, const vtc_tensor *x, vtc_tensor *y,
                         const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_perceiver", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}
