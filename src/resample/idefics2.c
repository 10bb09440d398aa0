/*
 * The connector of Idefics2.
 *
 *   c = down(SiLU(gate x) * up x)                      the real patches alone
 *   z = latents
 *   layer   u = RMS(z)
 *           z = z + Wo attention(Wq u, Wk [RMS(c) ; u], Wv [RMS(c) ; u])
 *           z = z + down(SiLU(gate RMS(z)) * up RMS(z))
 *   tokens = RMS(z)
 *
 * Query head h reads key head h / (n_heads / n_kv_heads). Sources and cost: see vtc/idefics2.h.
 */
#include "idefics2.h"

#include "../linalg/gated_mlp.h"
#include "../linalg/operands.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Patches that go through the wide MLP at a time. */
enum { BLOCK_ROWS = 512 };

/* ---- names ----------------------------------------------------------------------------------- */

#define AT(member)       offsetof(vtc_idefics2_weights, member)
#define LAYER_AT(member) offsetof(vtc_idefics2_layer, member)

/* A layer, of which released models have no bias. */
#define LINEAR(name, offset)                                           \
    { name ".weight", (offset) + offsetof(vtc_linear, weight), 2, 0 }, \
    {                                                                  \
        name ".bias", (offset) + offsetof(vtc_linear, bias), 1, 1      \
    }

static const vtc_weight model_weights[] = {
    LINEAR("modality_projection.gate_proj", AT(projection.gate)),
    LINEAR("modality_projection.up_proj", AT(projection.up)),
    LINEAR("modality_projection.down_proj", AT(projection.down)),
    { "perceiver_resampler.latents", AT(latents), 2, 0 },
    { "perceiver_resampler.norm.weight", AT(norm.weight), 1, 0 },
};
const vtc_weight_table vtc_idefics2_table = { "Idefics2 connector", model_weights,
                                              sizeof(model_weights) / sizeof(*model_weights) };

static const vtc_weight layer_weights[] = {
    { "input_latents_norm.weight", LAYER_AT(latents_norm.weight), 1, 0 },
    { "input_context_norm.weight", LAYER_AT(context_norm.weight), 1, 0 },
    LINEAR("self_attn.q_proj", LAYER_AT(q)),
    LINEAR("self_attn.k_proj", LAYER_AT(k)),
    LINEAR("self_attn.v_proj", LAYER_AT(v)),
    LINEAR("self_attn.o_proj", LAYER_AT(o)),
    { "post_attention_layernorm.weight", LAYER_AT(mlp_norm.weight), 1, 0 },
    LINEAR("mlp.gate_proj", LAYER_AT(mlp.gate)),
    LINEAR("mlp.up_proj", LAYER_AT(mlp.up)),
    LINEAR("mlp.down_proj", LAYER_AT(mlp.down)),
};
const vtc_weight_table vtc_idefics2_layer_table = {
    "Idefics2 perceiver layer", layer_weights, sizeof(layer_weights) / sizeof(*layer_weights)
};

/* ---- the model ------------------------------------------------------------------------------- */

static vtc_status read_params(vtci_idefics2 *m, const vtc_idefics2_params *params)
{
    static const vtc_idefics2_params defaults = VTC_IDEFICS2_PARAMS_INIT;
    vtc_idefics2_params *p = &m->params;

    *p = defaults;
    VTCI_TRY(vtci_params_read(m->call, p, sizeof(*p), params));
    VTCI_REQUIRE(m->call, p->n_heads != 0 && p->n_kv_heads != 0 && p->n_heads % p->n_kv_heads == 0,
                 VTC_ERR_RANGE, "%zu query heads cannot share %zu key heads", p->n_heads,
                 p->n_kv_heads);
    VTCI_REQUIRE(m->call, p->eps > 0.0f && isfinite(p->eps), VTC_ERR_RANGE,
                 "eps is %g; give that of the checkpoint", (double)p->eps);
    return VTC_OK;
}

static vtc_status check_layer(vtci_idefics2 *m, const vtci_owner *of, const vtc_idefics2_layer *l)
{
    const size_t d = m->d, n_heads = m->params.n_heads, n_kv_heads = m->params.n_kv_heads;

    VTCI_TRY(vtci_check_vector(of, "input_latents_norm", ".weight", &l->latents_norm.weight, d));
    VTCI_TRY(vtci_check_vector(of, "input_context_norm", ".weight", &l->context_norm.weight, d));
    VTCI_TRY(vtci_check_rows(of, "self_attn.q_proj", &l->q.weight, d, &m->n_q));
    VTCI_TRY(vtci_check_linear_to(of, "self_attn.q_proj", &l->q, m->n_q, d));
    VTCI_REQUIRE(m->call, m->n_q % n_heads == 0, VTC_ERR_SHAPE,
                 "%s has %zu rows, no multiple of %zu heads",
                 vtci_label_of(of, "self_attn.q_proj", ".weight").s, m->n_q, n_heads);
    m->n_kv = m->n_q / n_heads * n_kv_heads;
    VTCI_TRY(vtci_check_linear_to(of, "self_attn.k_proj", &l->k, m->n_kv, d));
    VTCI_TRY(vtci_check_linear_to(of, "self_attn.v_proj", &l->v, m->n_kv, d));
    VTCI_TRY(vtci_check_linear_to(of, "self_attn.o_proj", &l->o, d, m->n_q));
    VTCI_TRY(vtci_check_vector(of, "post_attention_layernorm", ".weight", &l->mlp_norm.weight, d));
    VTCI_TRY(vtci_check_gated_mlp(of, "mlp.", &l->mlp, d, d));
    m->n_hidden = vtci_max(m->n_hidden, l->mlp.gate.weight.dim[0]);
    return VTC_OK;
}

/* All layers are as wide as the first. */
static vtc_status check_layers(vtci_idefics2 *m, vtci_owner *of)
{
    size_t n_q = 0;

    VTCI_REQUIRE(m->call, m->w->layers != NULL || m->w->n_layers == 0, VTC_ERR_NULL,
                 "weights.layers is NULL");
    for (size_t i = 0; i < m->w->n_layers; i++) {
        const vtci_label prefix = vtci_layer_label("perceiver_resampler.layers.", i);

        of->prefix = prefix.s;
        VTCI_TRY(check_layer(m, of, &m->w->layers[i]));
        n_q = i == 0 ? m->n_q : n_q;
        VTCI_REQUIRE(m->call, m->n_q == n_q, VTC_ERR_SHAPE,
                     "%s has %zu rows, that of the first layer %zu",
                     vtci_label_of(of, "self_attn.q_proj", ".weight").s, m->n_q, n_q);
    }
    return VTC_OK;
}

vtc_status vtci_idefics2_open(const vtci_call *call, const vtc_idefics2_params *params,
                              const vtc_idefics2_weights *weights, vtci_idefics2 *m)
{
    vtci_owner of = { call, NULL, 1, "" };

    memset(m, 0, sizeof(*m));
    m->call = call;
    m->w = weights;
    VTCI_TRY(read_params(m, params));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_check_tensor(call, "perceiver_resampler.latents", &weights->latents, VTCI_FLOATS,
                               2, 2, VTCI_IN));
    m->n_latents = weights->latents.dim[0];
    m->d = weights->latents.dim[1];
    of.n_tokens = vtci_max(m->n_latents, BLOCK_ROWS);
    VTCI_TRY(vtci_check_tensor(call, "modality_projection.gate_proj.weight",
                               &weights->projection.gate.weight, VTCI_FLOATS, 2, 2, VTCI_IN));
    m->n_vision = weights->projection.gate.weight.dim[1];
    VTCI_TRY(
        vtci_check_gated_mlp(&of, "modality_projection.", &weights->projection, m->n_vision, m->d));
    VTCI_TRY(
        vtci_check_vector(&of, "perceiver_resampler.norm", ".weight", &weights->norm.weight, m->d));
    return check_layers(m, &of);
}

vtc_status vtci_idefics2_check_apart(const vtci_idefics2 *m, const char *name, const void *memory,
                                     size_t bytes)
{
    if (m->call->query)
        return VTC_OK;
    VTCI_TRY(vtci_check_weights_apart(m->call, "", &vtc_idefics2_table, m->w, name, memory, bytes));
    for (size_t i = 0; i < m->w->n_layers; i++)
        VTCI_TRY(vtci_check_weights_apart(m->call,
                                          vtci_layer_label("perceiver_resampler.layers.", i).s,
                                          &vtc_idefics2_layer_table, &m->w->layers[i], name, memory,
                                          bytes));
    return VTC_OK;
}

/* ---- one call -------------------------------------------------------------------------------- */

struct job {
    vtci_idefics2 m;
    vtci_idefics2_object object;
    vtci_steps *steps;
    vtci_rows x, y;
    const vtc_tensor *mask; /* or NULL */

    size_t b, n;    /* the image at hand and its real patches; all of them while measuring */
    int32_t *patch; /* [N] their rows in x; NULL: all, in order                            */
    float *block;   /* [BLOCK_ROWS, Dv] patches picked by the mask                         */
    float *context; /* [N, D]                                                              */
    float *normed;  /* [max(N, M), D]                                                      */
    float *k, *v;   /* [N + M, n_kv]                                                       */
    float *z[2];    /* [M, D]                                                              */
    float *q, *mix; /* [M, n_q]                                                            */
    float *hidden[2];
};

static void lay_out(vtci_arena *arena, struct job *job)
{
    const vtci_idefics2 *m = &job->m;
    const size_t n = job->x.n_rows, n_all = vtci_add(n, m->n_latents);
    const size_t wide = vtci_mul(vtci_min(n, BLOCK_ROWS), m->w->projection.gate.weight.dim[0]);
    const size_t hidden = vtci_max(wide, vtci_mul(m->n_latents, m->n_hidden));

    job->patch = NULL;
    job->block = NULL;
    if (job->mask != NULL) {
        job->patch = vtci_take(arena, n, sizeof(*job->patch));
        job->block = vtci_take_matrix(arena, vtci_min(n, BLOCK_ROWS), m->n_vision);
    }
    job->context = vtci_take_matrix(arena, n, m->d);
    job->normed = vtci_take_matrix(arena, vtci_max(n, m->n_latents), m->d);
    job->k = vtci_take_matrix(arena, n_all, m->n_kv);
    job->v = vtci_take_matrix(arena, n_all, m->n_kv);
    job->q = vtci_take_matrix(arena, m->n_latents, m->n_q);
    job->mix = vtci_take_matrix(arena, m->n_latents, m->n_q);
    for (int i = 0; i < 2; i++) {
        job->z[i] = vtci_take_matrix(arena, m->n_latents, m->d);
        job->hidden[i] = vtci_take_matrix(arena, hidden, 1);
    }
}

/* ---- patches --------------------------------------------------------------------------------- */

/* Lists the patches that the mask lets through. */
static void find_patches(struct job *job)
{
    const vtc_tensor *mask = job->mask;
    const uint8_t *row;

    job->n = job->x.n_rows;
    if (mask == NULL || job->steps->measure)
        return;
    row = (const uint8_t *)mask->data + (mask->rank == 2 ? job->b * mask->stride[0] : 0);
    job->n = 0;
    for (size_t i = 0; i < job->x.n_rows; i++)
        if (row[i] != 0)
            job->patch[job->n++] = (int32_t)i;
}

static void pick_row(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t c = job->m.n_vision;
    const char *row = vtci_row(&job->x, job->b, (size_t)job->patch[index]);

    (void)worker;
    vtci_copy_row(job->block + index % BLOCK_ROWS * c, VTC_F32, row, job->x.dtype, c, NULL);
}

/* Patches first .. first + n - 1 of the image's real ones. */
struct picking {
    struct job *job;
    size_t first;
};

static void pick_task(void *p, size_t index, size_t worker)
{
    const struct picking *picking = p;

    pick_row(picking->job, picking->first + index, worker);
}

static vtci_rows block_of(struct job *job, size_t first, size_t n)
{
    struct picking picking = { job, first };

    if (job->mask == NULL)
        return vtci_rows_part(vtci_batch_part(job->x, job->b, 1), first, n);
    if (!job->steps->measure)
        vtci_parallel(job->m.call, n, pick_task, &picking);
    return vtci_float_rows(job->block, n, job->m.n_vision);
}

static void project_patches(struct job *job)
{
    const vtci_idefics2 *m = &job->m;

    for (size_t first = 0; first < job->n; first += BLOCK_ROWS) {
        const size_t n = vtci_min(BLOCK_ROWS, job->n - first);
        vtci_gated_mlp mlp = { .weights = &m->w->projection, .act = VTCI_ACT_SILU };

        mlp.x = block_of(job, first, n);
        mlp.y = vtci_float_rows(vtci_skip(job->context, first * m->d), n, m->d);
        mlp.hidden[0] = job->hidden[0];
        mlp.hidden[1] = job->hidden[1];
        vtci_gated_mlp_run(job->steps, &mlp);
    }
}

/* ---- layers ---------------------------------------------------------------------------------- */

static void normalize(const vtci_idefics2 *m, vtci_steps *steps, const vtc_norm *weights,
                      const vtci_rows *x, const vtci_rows *y)
{
    vtci_norm norm = { .x = *x, .y = *y, .kind = VTC_NORM_RMS, .norm = weights };

    norm.eps = m->params.eps;
    vtci_steps_norm(steps, &norm);
}

static const vtci_packed *packed_at(const vtci_idefics2_packed *packed, size_t i)
{
    return packed == NULL ? NULL : &packed->packed[i];
}

void vtci_idefics2_project_latents(const vtci_idefics2 *m, vtci_steps *steps,
                                   const vtc_idefics2_layer *layer,
                                   const vtci_idefics2_packed *packed,
                                   const vtci_idefics2_latents *l)
{
    normalize(m, steps, &layer->latents_norm, &l->z, &l->normed);
    vtci_steps_layer(steps, l->normed, &layer->q, packed_at(packed, VTCI_IDEFICS2_Q), l->q);
    vtci_steps_layer(steps, l->normed, &layer->k, packed_at(packed, VTCI_IDEFICS2_K), l->k);
    vtci_steps_layer(steps, l->normed, &layer->v, packed_at(packed, VTCI_IDEFICS2_V), l->v);
}

/* Keys and values of the patches, in front of those of the latents. */
static void project_context(struct job *job, const vtc_idefics2_layer *layer)
{
    const vtci_idefics2 *m = &job->m;
    const vtci_rows context = vtci_float_rows(job->context, job->n, m->d);
    const vtci_rows normed = vtci_float_rows(job->normed, job->n, m->d);
    const vtci_rows k = vtci_float_rows(job->k, job->n, m->n_kv);
    const vtci_rows v = vtci_float_rows(job->v, job->n, m->n_kv);

    normalize(m, job->steps, &layer->context_norm, &context, &normed);
    vtci_steps_layer(job->steps, normed, &layer->k, NULL, k);
    vtci_steps_layer(job->steps, normed, &layer->v, NULL, v);
}

/* Queries, and the latents' keys and values: of the first layer they may be prepared. */
static void project_queries(struct job *job, size_t i, const vtci_idefics2_packed *packed)
{
    const vtci_idefics2 *m = &job->m;
    const size_t n = m->n_latents;
    vtci_idefics2_latents l;

    l.z = i == 0 ? vtci_rows_of(&m->w->latents) : vtci_float_rows(job->z[0], n, m->d);
    l.normed = vtci_float_rows(job->normed, n, m->d);
    l.q = vtci_float_rows(job->q, n, m->n_q);
    l.k = vtci_float_rows(vtci_skip(job->k, job->n * m->n_kv), n, m->n_kv);
    l.v = vtci_float_rows(vtci_skip(job->v, job->n * m->n_kv), n, m->n_kv);
    if (i != 0 || !job->object.given) {
        vtci_idefics2_project_latents(m, job->steps, &m->w->layers[i], packed, &l);
    } else if (!job->steps->measure && n * m->n_q != 0) {
        memcpy(l.q.data, job->object.q, n * m->n_q * sizeof(float));
        memcpy(l.k.data, job->object.k, n * m->n_kv * sizeof(float));
        memcpy(l.v.data, job->object.v, n * m->n_kv * sizeof(float));
    }
}

static void attend(struct job *job)
{
    const vtci_idefics2 *m = &job->m;
    const size_t n_keys = job->n + m->n_latents;
    const vtci_rows q = vtci_float_rows(job->q, m->n_latents, m->n_q);
    const vtci_rows k = vtci_float_rows(job->k, n_keys, m->n_kv);
    const vtci_rows v = vtci_float_rows(job->v, n_keys, m->n_kv);
    const vtci_rows mix = vtci_float_rows(job->mix, m->n_latents, m->n_q);
    vtci_attention a = { .q = vtci_heads_of_rows(&q, m->params.n_heads) };

    a.k = vtci_heads_of_rows(&k, m->params.n_kv_heads);
    a.v = vtci_heads_of_rows(&v, m->params.n_kv_heads);
    a.y = vtci_heads_of_rows(&mix, m->params.n_heads);
    a.scale = 1.0f / sqrtf((float)(m->n_q / m->params.n_heads));
    vtci_steps_attention(job->steps, &a);
}

/* z[1] = z[0] + Wo mix, z[0] = z[1] + MLP(z[1]) */
static void update_latents(struct job *job, size_t i, const vtci_idefics2_packed *packed)
{
    const vtci_idefics2 *m = &job->m;
    const vtc_idefics2_layer *layer = &m->w->layers[i];
    const size_t n = m->n_latents;
    const vtci_rows old =
        i == 0 ? vtci_rows_of(&m->w->latents) : vtci_float_rows(job->z[0], n, m->d);
    const vtci_rows mix = vtci_float_rows(job->mix, n, m->n_q);
    const vtci_rows between = vtci_float_rows(job->z[1], n, m->d);
    vtci_gemm out = vtci_layer_product(mix, &layer->o, packed_at(packed, VTCI_IDEFICS2_O), between);
    vtci_gated_mlp mlp = { .weights = &layer->mlp, .act = VTCI_ACT_SILU };

    out.residual = old;
    vtci_steps_gemm(job->steps, &out);
    mlp.x = vtci_float_rows(job->normed, n, m->d);
    normalize(m, job->steps, &layer->mlp_norm, &between, &mlp.x);
    mlp.packed = packed_at(packed, VTCI_IDEFICS2_MLP);
    mlp.y = vtci_float_rows(job->z[0], n, m->d);
    mlp.extra = between;
    mlp.hidden[0] = job->hidden[0];
    mlp.hidden[1] = job->hidden[1];
    vtci_gated_mlp_run(job->steps, &mlp);
}

static void run_image(struct job *job)
{
    const vtci_idefics2 *m = &job->m;
    vtci_arena prepared = job->object.layers;
    const vtci_rows y = vtci_batch_part(job->y, job->b, 1);
    vtci_rows z = vtci_rows_of(&m->w->latents);

    find_patches(job);
    project_patches(job);
    for (size_t i = 0; i < m->w->n_layers; i++) {
        vtci_idefics2_packed packed;

        if (job->object.given)
            vtci_idefics2_lay_out_layer(&prepared, &m->w->layers[i], &packed);
        project_context(job, &m->w->layers[i]);
        project_queries(job, i, job->object.given ? &packed : NULL);
        attend(job);
        update_latents(job, i, job->object.given ? &packed : NULL);
        z = vtci_float_rows(job->z[0], m->n_latents, m->d);
    }
    normalize(m, job->steps, &m->w->norm, &z, &y);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static vtc_status check_mask(const vtci_call *call, const vtc_tensor *mask, const vtc_tensor *x,
                             const vtc_tensor *tokens)
{
    const unsigned dtypes = VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8);

    if (mask == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "mask", mask, dtypes, x->rank - 1, x->rank - 1, VTCI_IN));
    for (int axis = 0; axis < mask->rank; axis++)
        VTCI_REQUIRE(call, mask->dim[axis] == x->dim[axis], VTC_ERR_SHAPE,
                     "mask has extent %zu along axis %d, x has %zu", mask->dim[axis], axis,
                     x->dim[axis]);
    return vtci_check_apart(call, "tokens", tokens, "mask", mask);
}

static vtc_status check_views(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *mask,
                              const vtc_tensor *tokens)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "tokens", tokens, VTCI_FLOATS, x->rank, x->rank, VTCI_OUT));
    VTCI_REQUIRE(call, x->rank == 2 || x->dim[0] == tokens->dim[0], VTC_ERR_SHAPE,
                 "x has %zu batch items, tokens has %zu", x->dim[0], tokens->dim[0]);
    VTCI_TRY(vtci_check_apart(call, "tokens", tokens, "x", x));
    return check_mask(call, mask, x, tokens);
}

static vtc_status open_job(const vtci_call *call, const vtc_idefics2_params *params,
                           const vtc_idefics2_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *x, const vtc_tensor *mask, const vtc_tensor *tokens,
                           struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(check_views(call, x, mask, tokens));
    VTCI_TRY(vtci_idefics2_open(call, params, weights, &job->m));
    VTCI_TRY(vtci_idefics2_check_apart(&job->m, "tokens", tokens->data, vtci_span_bytes(tokens)));
    VTCI_TRY(vtci_idefics2_open_object(&job->m, prepared, &job->object));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(tokens);
    job->mask = mask;
    VTCI_REQUIRE(call, job->x.n_cols == job->m.n_vision, VTC_ERR_SHAPE,
                 "x has %zu channels, the projection takes %zu", job->x.n_cols, job->m.n_vision);
    VTCI_REQUIRE(call, job->y.n_rows == job->m.n_latents && job->y.n_cols == job->m.d,
                 VTC_ERR_SHAPE, "tokens is %zux%zu, %zux%zu is needed", job->y.n_rows,
                 job->y.n_cols, job->m.n_latents, job->m.d);
    VTCI_REQUIRE(call, job->x.n_rows <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu patches exceed int32",
                 job->x.n_rows);
    VTCI_TRY(vtci_prepared_check_apart(call, "tokens", tokens, prepared));
    return vtci_check_gemm(call, vtci_add(job->x.n_rows, job->m.n_latents), job->m.d, 1);
}

/* No image needs more than the first, whose patches all count while measuring. */
static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;
    const size_t n = steps->measure ? 1 : job->x.n_batch;

    job->steps = steps;
    lay_out(&steps->arena, job);
    for (job->b = 0; job->b < n; job->b++)
        run_image(job);
}

vtc_status vtc_idefics2_scratch(const vtc_idefics2_params *params,
                                const vtc_idefics2_weights *weights, const vtc_prepared *prepared,
                                const vtc_tensor *x, const vtc_tensor *mask,
                                const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes)
{
    struct job job;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_idefics2_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, mask, tokens, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_idefics2(const vtc_idefics2_params *params, const vtc_idefics2_weights *weights,
                        const vtc_prepared *prepared, const vtc_tensor *x, const vtc_tensor *mask,
                        vtc_tensor *tokens, const vtc_exec *exec)
{
    struct job job;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_idefics2", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, mask, tokens, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}

/* ---- cost ------------------------------------------------------------------------------------ */

/* Multiply-adds of a row. */
static double linear_macs(const vtc_linear *layer)
{
    return (double)vtci_count(&layer->weight);
}

static double gated_macs(const vtc_gated_mlp *mlp)
{
    return linear_macs(&mlp->gate) + linear_macs(&mlp->up) + linear_macs(&mlp->down);
}

vtc_status vtc_idefics2_cost(const vtc_idefics2_params *params, const vtc_idefics2_weights *weights,
                             size_t n_batch, size_t n_patches, vtc_model_cost *cost,
                             const vtc_exec *exec)
{
    const double n = (double)n_patches;
    vtci_idefics2 m;
    vtci_call call;
    double macs, all;

    VTCI_TRY(vtci_begin(&call, "vtc_idefics2_cost", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, cost);
    VTCI_TRY(vtci_idefics2_open(&call, params, weights, &m));
    all = vtci_count_weights(&vtc_idefics2_table, weights);
    macs = n * gated_macs(&weights->projection);
    for (size_t i = 0; i < weights->n_layers; i++) {
        const vtc_idefics2_layer *l = &weights->layers[i];
        const double latent = linear_macs(&l->q) + linear_macs(&l->o) + gated_macs(&l->mlp);
        const double kv = linear_macs(&l->k) + linear_macs(&l->v), rows = (double)m.n_latents;

        all += vtci_count_weights(&vtc_idefics2_layer_table, l);
        macs += rows * latent + (n + rows) * kv + 2.0 * rows * (n + rows) * (double)m.n_q;
    }
    cost->parameters = all;
    cost->multiply_adds = (double)n_batch * macs;
    return VTC_OK;
}
