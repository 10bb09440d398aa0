/*
 * VLoRA's generator: an image's features to low-rank factors of weights.
 *
 *   f = visual_proj(features) + pos_embed
 *   q = queries;  for each decoder   q += SelfAttention(LN1(q))
 *                                    q += CrossAttention(LN2(q), f)
 *                                    q += linear2(gelu(linear1(LN3(q))))
 *   A = weights_head(LN(q)), rows ordered (kind, layer), each one [H, r]
 *
 * A generator has few queries, 8 in the released sizes, and attends over all P tokens. Forming keys
 * and values of the tokens would be most of its work. With Wk, Wv those of a head,
 *
 *   q (f Wk^T + bk)^T = (q Wk) f^T + const,   softmax(..) (f Wv^T + bv) = (softmax(..) f) Wv^T + bv
 *
 * where the constant of a query cancels in the softmax: the heads' queries become rows [D] that all
 * attend to f itself. Which form is used hangs on the shape alone.
 *
 * Source: VLoRA, section 3.2, and the authors' code, which forms keys and values.
 */
#include "vlora_model.h"

#include "../base/prepared.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* Query rows that share one reading of the weights. */
enum { GROUP_ROWS = 64 };

struct job {
    vtci_vlora model;
    vtci_rows features; /* [B, P, Dv]                                            */
    vtc_tensor *a;
    size_t n_batch;
    size_t batch_stride, kind_stride, layer_stride; /* of A, in bytes            */
    size_t zeroes;                                  /* images of a sequence: none */
    bool absorbs;                                   /* f takes the keys' place    */

    size_t n_group;    /* images at a time                                                    */
    float *f;          /* [n_group P, D]                                                      */
    float *kv;         /* [n_group P, 2D], unless absorbed                                    */
    float *heads[2];   /* [n_heads Q, D] queries that f is read with, and what they read       */
    float *q[2];       /* [n_group Q, D] in turns                                             */
    float *x, *o;      /* [n_group Q, D] normed, attended                                     */
    float *wide;       /* [n_group Q, widest]                                                 */
    int turn;          /* q[turn] is the current one                                          */
    size_t first, n;   /* images of the group                                                 */
    vtci_arena panels; /* those of the next decoder                                          */
};

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status open_features(const vtci_call *call, const vtc_tensor *features, struct job *job)
{
    const vtci_vlora *m = &job->model;

    VTCI_TRY(vtci_check_tensor(call, "features", features, VTCI_FLOATS, 2, 4, VTCI_IN));
    if (features->rank == 4) {
        VTCI_REQUIRE(call, features->dim[1] <= 1, VTC_ERR_UNSUPPORTED,
                     "a sequence takes one image, features have %zu", features->dim[1]);
        job->zeroes = features->dim[1] == 0;
    }
    job->features = vtci_rows_of(features);
    job->n_batch = features->rank == 2 ? 1 : features->dim[0];
    job->features.n_batch = job->n_batch;
    if (features->rank > 2)
        job->features.batch_stride = features->stride[0] * vtc_dtype_size(features->dtype);
    VTCI_REQUIRE(call, job->features.n_rows == m->n_tokens, VTC_ERR_SHAPE,
                 "features have %zu rows, pos_embed has %zu: exactly one image is needed",
                 job->features.n_rows, m->n_tokens);
    VTCI_REQUIRE(call, job->features.n_cols == m->w->visual_proj.weight.dim[1], VTC_ERR_SHAPE,
                 "features have %zu channels, visual_proj takes %zu", job->features.n_cols,
                 m->w->visual_proj.weight.dim[1]);
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_vlora_params *params,
                           const vtc_vlora_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *features, const vtc_tensor *a, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_vlora_open(call, params, weights, prepared, &job->model));
    VTCI_TRY(open_features(call, features, job));
    VTCI_TRY(vtci_vlora_check_factors(call, &job->model, "a", a, job->n_batch));
    VTCI_REQUIRE(call, (a->rank == 5) == (features->rank > 2), VTC_ERR_SHAPE,
                 "features have rank %d, a has rank %d", features->rank, a->rank);
    VTCI_TRY(vtci_check_apart(call, "a", a, "features", features));
    VTCI_TRY(vtci_prepared_check_apart(call, "a", a, prepared));

    const size_t size = vtc_dtype_size(a->dtype), *stride = a->stride + (a->rank == 5);

    job->batch_stride = a->rank == 5 ? a->stride[0] * size : 0;
    job->kind_stride = stride[0] * size;
    job->layer_stride = stride[1] * size;
    return VTC_OK;
}

/* Multiply-adds of a cross-attention in both forms. */
static bool absorbing_pays(const vtci_vlora *m)
{
    const double d = (double)m->d, p = (double)m->n_tokens, q = (double)m->n_queries;
    const double heads = (double)m->params.n_heads;

    return heads * q * (d / heads + p) < p * (d + q);
}

static void lay_out(vtci_arena *arena, struct job *job)
{
    const vtci_vlora *m = &job->model;

    job->n_group = vtci_min(job->n_batch, vtci_max(1, GROUP_ROWS / vtci_max(1, m->n_queries)));
    job->absorbs = absorbing_pays(m);

    const size_t n_tokens = vtci_mul(job->n_group, m->n_tokens);
    const size_t n_queries = vtci_mul(job->n_group, m->n_queries);

    job->f = vtci_take_matrix(arena, n_tokens, m->d);
    if (!job->absorbs)
        job->kv = vtci_take_matrix(arena, n_tokens, 2 * m->d);
    for (int i = 0; i < 2; i++) {
        if (job->absorbs)
            job->heads[i] =
                vtci_take_matrix(arena, vtci_mul(m->params.n_heads, m->n_queries), m->d);
        job->q[i] = vtci_take_matrix(arena, n_queries, m->d);
    }
    job->x = vtci_take_matrix(arena, n_queries, m->d);
    job->o = vtci_take_matrix(arena, n_queries, m->d);
    job->wide = vtci_take_matrix(arena, n_queries, m->widest);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static vtci_rows queries(const struct job *job, const float *data, size_t n_cols)
{
    return vtci_float_rows(data, job->n * job->model.n_queries, n_cols);
}

static void normalize(const struct job *job, const vtc_norm *norm, vtci_steps *steps)
{
    const vtci_norm step = { .x = queries(job, job->q[job->turn], job->model.d),
                             .y = queries(job, job->x, job->model.d),
                             .kind = VTC_NORM_LAYER,
                             .norm = norm,
                             .eps = job->model.params.eps };

    vtci_step_norm(steps, step);
}

/* q += layer(from) */
static void add_to_queries(struct job *job, const vtc_linear *layer, const vtci_packed *packed,
                           vtci_rows from, vtci_steps *steps)
{
    const vtci_rows old = queries(job, job->q[job->turn], job->model.d);
    vtci_gemm g =
        vtci_layer_product(from, layer, packed, queries(job, job->q[!job->turn], job->model.d));

    g.residual = old;
    vtci_step_gemm(steps, g);
    job->turn = !job->turn;
}

static vtci_heads heads_of(const struct job *job, vtci_rows rows, size_t n_rows)
{
    const vtci_rows split = vtci_rows_split(rows, n_rows);

    return vtci_heads_of_rows(&split, job->model.params.n_heads);
}

static float scale_of(const vtci_vlora *m)
{
    return 1.0f / sqrtf((float)(m->d / m->params.n_heads));
}

static void attend_to_self(struct job *job, const vtc_vlora_attention *w,
                           const vtci_vlora_panels *panels, vtci_steps *steps)
{
    const size_t d = job->model.d, n = job->model.n_queries;
    const vtci_rows qkv = queries(job, job->wide, 3 * d), o = queries(job, job->o, d);
    const vtci_attention a = { .q = heads_of(job, vtci_cols_part(qkv, 0, d), n),
                               .k = heads_of(job, vtci_cols_part(qkv, d, d), n),
                               .v = heads_of(job, vtci_cols_part(qkv, 2 * d, d), n),
                               .y = heads_of(job, o, n),
                               .scale = scale_of(&job->model) };

    vtci_step_gemm(steps,
                   vtci_layer_product(queries(job, job->x, d), &w->in_proj, &panels->self_in, qkv));
    vtci_step_attention(steps, a);
    add_to_queries(job, &w->out_proj, &panels->self_out, o, steps);
}

/* Over keys and values of the features. */
static void attend_to_keys(const struct job *job, const vtc_linear *in_proj, vtci_steps *steps)
{
    const size_t d = job->model.d, n_tokens = job->model.n_tokens, n = job->model.n_queries;
    const vtc_linear layer = vtci_linear_part(in_proj, d, 2 * d);
    const vtci_rows kv = vtci_float_rows(job->kv, job->n * n_tokens, 2 * d);
    const vtci_attention a = { .q = heads_of(job, queries(job, job->wide, d), n),
                               .k = heads_of(job, vtci_cols_part(kv, 0, d), n_tokens),
                               .v = heads_of(job, vtci_cols_part(kv, d, d), n_tokens),
                               .y = heads_of(job, queries(job, job->o, d), n),
                               .scale = scale_of(&job->model) };

    vtci_step_gemm(steps, vtci_layer_product(vtci_float_rows(job->f, job->n * n_tokens, d), &layer,
                                             NULL, kv));
    vtci_step_attention(steps, a);
}

/* D rows of in_proj from `first` on, those of each head a batch item. */
static vtci_rows head_weights(const vtci_vlora *m, const vtc_linear *in_proj, size_t first)
{
    const vtci_rows all = vtci_rows_of(&in_proj->weight);

    return vtci_rows_split(vtci_rows_part(all, first, m->d), m->d / m->params.n_heads);
}

/* A head's share of the bias, for each of its rows. */
static vtci_rows head_bias(const vtci_vlora *m, const vtc_linear *in_proj, size_t first)
{
    vtci_rows bias = { 0 };

    if (vtc_tensor_is_absent(&in_proj->bias))
        return bias;
    bias = vtci_heads_as_batch(vtci_cols_part(vtci_rows_of(&in_proj->bias), first, m->d),
                               m->params.n_heads);
    bias.n_rows = m->n_queries;
    bias.row_stride = 0;
    return bias;
}

/* Over the features of one image as they are. */
static void attend_to_features(const struct job *job, const vtc_linear *in_proj, size_t image,
                               vtci_steps *steps)
{
    const vtci_vlora *m = &job->model;
    const size_t d = m->d, n = m->n_queries, n_heads = m->params.n_heads;
    const vtci_rows f = vtci_rows_part(vtci_float_rows(job->f, job->n * m->n_tokens, d),
                                       image * m->n_tokens, m->n_tokens);
    const vtci_rows q = vtci_rows_part(queries(job, job->wide, d), image * n, n);
    const vtci_rows o = vtci_rows_part(queries(job, job->o, d), image * n, n);
    const vtci_rows asked = vtci_float_rows(job->heads[0], n_heads * n, d);
    const vtci_rows read = vtci_float_rows(job->heads[1], n_heads * n, d);
    const vtci_gemm to_features = { .a = vtci_heads_as_batch(q, n_heads),
                                    .b = head_weights(m, in_proj, d),
                                    .c = vtci_rows_split(asked, n) };
    const vtci_gemm to_values = { .a = vtci_rows_split(read, n),
                                  .b = head_weights(m, in_proj, 2 * d),
                                  .c = vtci_heads_as_batch(o, n_heads),
                                  .trans_b = true,
                                  .residual = head_bias(m, in_proj, 2 * d) };
    const vtci_attention a = { .q = vtci_heads_of_rows(&asked, 1),
                               .k = vtci_heads_of_rows(&f, 1),
                               .v = vtci_heads_of_rows(&f, 1),
                               .y = vtci_heads_of_rows(&read, 1),
                               .scale = scale_of(m) };

    vtci_step_gemm(steps, to_features);
    vtci_step_attention(steps, a);
    vtci_step_gemm(steps, to_values);
}

static void attend_to_image(struct job *job, const vtc_vlora_attention *w,
                            const vtci_vlora_panels *panels, vtci_steps *steps)
{
    const size_t d = job->model.d;
    const vtc_linear query = vtci_linear_part(&w->in_proj, 0, d);

    vtci_step_gemm(steps, vtci_layer_product(queries(job, job->x, d), &query, &panels->cross_q,
                                             queries(job, job->wide, d)));
    if (!job->absorbs)
        attend_to_keys(job, &w->in_proj, steps);
    for (size_t i = 0; job->absorbs && i < job->n; i++)
        attend_to_features(job, &w->in_proj, i, steps);
    add_to_queries(job, &w->out_proj, &panels->cross_out, queries(job, job->o, d), steps);
}

static void feed_forward(struct job *job, const vtc_vlora_decoder *w,
                         const vtci_vlora_panels *panels, vtci_steps *steps)
{
    const vtci_rows hidden = queries(job, job->wide, w->linear1.weight.dim[0]);
    vtci_gemm g = vtci_layer_product(queries(job, job->x, job->model.d), &w->linear1,
                                     &panels->linear1, hidden);

    g.act = VTCI_ACT_GELU_ERF;
    vtci_step_gemm(steps, g);
    add_to_queries(job, &w->linear2, &panels->linear2, hidden, steps);
}

static void decode(struct job *job, const vtc_vlora_decoder *w, vtci_steps *steps)
{
    vtci_vlora_panels panels = { 0 };

    if (job->model.is_prepared)
        panels = vtci_vlora_take_panels(&job->panels, w);
    normalize(job, &w->norm1, steps);
    attend_to_self(job, &w->self_attn, &panels, steps);
    normalize(job, &w->norm2, steps);
    attend_to_image(job, &w->multihead_attn, &panels, steps);
    normalize(job, &w->norm3, steps);
    feed_forward(job, w, &panels, steps);
}

/* ---- generators ------------------------------------------------------------------------------ */

struct copying {
    const struct job *job;
    vtci_rows from;
};

static void copy_query(void *arg, size_t row, size_t worker)
{
    const struct copying *c = arg;
    const size_t d = c->job->model.d;
    float *to = c->job->q[0] + row * d;
    const float *x =
        vtci_load_row(vtci_row(&c->from, 0, row % c->job->model.n_queries), c->from.dtype, d, to);

    (void)worker;
    if (x != to)
        memcpy(to, x, d * sizeof(*to));
}

/* `n_kinds` kinds of A from `kind` on, for all images of the group; each kind a batch item. */
static void write_kinds(const struct job *job, const vtc_vlora_generator *w,
                        const vtci_packed *packed, size_t kind, size_t n_kinds, vtci_steps *steps)
{
    const vtci_vlora *m = &job->model;
    const size_t n_rows = n_kinds * m->n_layers;
    const vtci_rows x = vtci_rows_split(queries(job, job->x, m->d), m->n_queries);
    vtci_rows to = {
        job->a->data,      job->a->dtype,    job->n, n_rows, w->weights_head.weight.dim[0],
        job->batch_stride, job->layer_stride
    };
    vtci_rows joined;

    if (to.data != NULL)
        to.data += job->first * job->batch_stride + kind * job->kind_stride;

    const size_t within = kind * m->n_layers % m->n_queries;
    vtci_rows from = vtci_rows_part(x, within, n_rows);
    vtci_rows all;

    /* one product for all images where rows of A have a common distance */
    if (vtci_rows_join(&to, &joined) && vtci_rows_join(&from, &all)) {
        to = joined;
        from = all;
    }
    vtci_step_gemm(steps, vtci_layer_product(from, &w->weights_head, packed, to));
}

static void write_factors(const struct job *job, size_t generator, const vtci_packed *packed,
                          vtci_steps *steps)
{
    const vtci_vlora *m = &job->model;
    const vtc_vlora_generator *w = &m->w->generators[generator];
    const size_t n_kinds = m->n_kinds / m->w->n_generators, first = generator * n_kinds;
    const bool in_line = n_kinds == 1 || job->kind_stride == m->n_layers * job->layer_stride;

    if (in_line)
        write_kinds(job, w, packed, first, n_kinds, steps);
    for (size_t i = 0; !in_line && i < n_kinds; i++)
        write_kinds(job, w, packed, first + i, 1, steps);
}

static void generate(struct job *job, size_t generator, vtci_steps *steps)
{
    const vtci_vlora *m = &job->model;
    const vtc_vlora_generator *w = &m->w->generators[generator];
    struct copying copying = { job, vtci_rows_of(&w->queries) };
    vtci_packed head = { 0 };

    job->turn = 0;
    vtci_steps_tasks(steps, job->n * m->n_queries, copy_query, &copying);
    for (size_t i = 0; i < w->n_decoders; i++)
        decode(job, &w->decoders[i], steps);
    normalize(job, &w->norm, steps);

    if (m->is_prepared)
        head = vtci_vlora_take_head(&job->panels, w);
    write_factors(job, generator, &head, steps);
}

static void project_features(const struct job *job, vtci_steps *steps)
{
    const vtci_vlora *m = &job->model;
    const vtci_rows f = vtci_float_rows(job->f, job->n * m->n_tokens, m->d);
    vtci_gemm g = vtci_layer_product(vtci_batch_part(job->features, job->first, job->n),
                                     &m->w->visual_proj, NULL, vtci_rows_split(f, m->n_tokens));

    g.residual = vtci_rows_of(&m->w->pos_embed);
    vtci_step_gemm(steps, g);
}

static void zero_row(void *arg, size_t row, size_t worker)
{
    const struct job *job = arg;
    const size_t n = job->model.n_layers, per_image = n * job->model.n_kinds;
    const size_t at = row / per_image * job->batch_stride + row % per_image / n * job->kind_stride +
                      row % n * job->layer_stride;

    (void)worker;
    memset((char *)job->a->data + at, 0, job->model.w->Bs.dim[2] * vtc_dtype_size(job->a->dtype));
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;
    const vtci_vlora *m = &job->model;

    lay_out(&steps->arena, job);
    if (job->zeroes || m->n_queries == 0) {
        vtci_steps_tasks(steps, job->n_batch * m->n_kinds * m->n_layers, zero_row, job);
        return;
    }
    for (job->first = 0; job->first < job->n_batch; job->first += job->n_group) {
        job->n = vtci_min(job->n_group, job->n_batch - job->first);
        job->panels = m->panels;
        project_features(job, steps);
        for (size_t i = 0; i < m->w->n_generators; i++)
            generate(job, i, steps);
    }
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_vlora_generate_scratch(const vtc_vlora_params *params,
                                      const vtc_vlora_weights *weights,
                                      const vtc_prepared *prepared, const vtc_tensor *features,
                                      const vtc_tensor *a, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;
    vtc_tensor unwritten;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_generate_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, features, a, &job));
    unwritten = *a;
    job.a = &unwritten;
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_vlora_generate(const vtc_vlora_params *params, const vtc_vlora_weights *weights,
                              const vtc_prepared *prepared, const vtc_tensor *features,
                              vtc_tensor *a, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_generate", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, features, a, &job));
    job.a = a;
    return vtci_steps_walk(&call, walk, &job, NULL);
}
