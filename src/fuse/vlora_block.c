/*
 * A LLaMA layer with VLoRA's increments.
 *
 *   x = RMSNorm(hidden)
 *   q, k, v = layer(x) + (x A) B^T each, q and k rotated
 *   o = causal attention, hidden keys left out
 *   h = hidden + o_proj(o) + (o A) B^T
 *   x = RMSNorm(h)
 *   out = h + down_proj(silu(gate_proj(x)) * up_proj(x)) + (x A) B^T
 *
 * A query that no visible key precedes sees all keys up to itself, which is our choice. Such
 * queries are the first ones, so they are one attention and the others another.
 *
 * Source: VLoRA, section 3.3, and the authors' decoder layer.
 */
#include "../../include/vtc/vlora.h"
#include "../linalg/gated_mlp.h"
#include "../linalg/rope.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"
#include "low_rank.h"

#include <math.h>
#include <string.h>

enum { BLOCK_ROWS = 512 };

#define AT(field) offsetof(vtc_vlora_block_weights, field)
static const vtc_weight block_weights[] = {
    { "input_layernorm.weight", AT(input_layernorm), 1, 0 },
    { "self_attn.q_proj.weight", AT(q_proj.weight), 2, 0 },
    { "self_attn.q_proj.bias", AT(q_proj.bias), 1, 1 },
    { "self_attn.k_proj.weight", AT(k_proj.weight), 2, 0 },
    { "self_attn.k_proj.bias", AT(k_proj.bias), 1, 1 },
    { "self_attn.v_proj.weight", AT(v_proj.weight), 2, 0 },
    { "self_attn.v_proj.bias", AT(v_proj.bias), 1, 1 },
    { "self_attn.o_proj.weight", AT(o_proj.weight), 2, 0 },
    { "self_attn.o_proj.bias", AT(o_proj.bias), 1, 1 },
    { "post_attention_layernorm.weight", AT(post_attention_layernorm), 1, 0 },
    { "mlp.gate_proj.weight", AT(mlp.gate.weight), 2, 0 },
    { "mlp.gate_proj.bias", AT(mlp.gate.bias), 1, 1 },
    { "mlp.up_proj.weight", AT(mlp.up.weight), 2, 0 },
    { "mlp.up_proj.bias", AT(mlp.up.bias), 1, 1 },
    { "mlp.down_proj.weight", AT(mlp.down.weight), 2, 0 },
    { "mlp.down_proj.bias", AT(mlp.down.bias), 1, 1 },
};
const vtc_weight_table vtc_vlora_block_table = { "llama layer", block_weights,
                                                 sizeof(block_weights) / sizeof(*block_weights) };

enum kind { KIND_Q, KIND_K, KIND_V, KIND_O, KIND_M, N_KINDS };

struct job {
    vtc_vlora_block_params params;
    const vtc_vlora_block_weights *w;
    vtci_low_rank low[N_KINDS]; /* without a: no increment */
    size_t h, d, n_heads, n_kv, hidden_width, rank;

    vtci_rows hidden, out; /* [S, N, H] */
    const vtc_tensor *key_mask;
    const int32_t *positions;

    float *frequency; /* [d/2]                         */
    float *x;         /* [N, H] normed                  */
    float *q, *k, *v; /* [N, E], [N, G d], [N, G d]     */
    float *o;         /* [N, E]                         */
    float *t;         /* [N, r]                         */
    float *delta;     /* [N, max(E, H)] increment and residual of the next product */
    float *mid;       /* [N, H] behind the attention    */
    float *angle;     /* [N, d]                         */
    float *gate, *up; /* [block, F]                     */
    size_t sequence;  /* the current one                */
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_vlora_block_params *params,
                              vtc_vlora_block_params *p)
{
    static const vtc_vlora_block_params defaults = VTC_VLORA_BLOCK_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, p->n_heads != 0, VTC_ERR_RANGE, "n_heads is 0");
    VTCI_REQUIRE(call, p->rope_theta > 0.0f && isfinite(p->rope_theta), VTC_ERR_RANGE,
                 "rope_theta is %g", (double)p->rope_theta);
    return vtci_check_eps(call, "eps", p->eps);
}

static vtc_status read_widths(const vtci_call *call, struct job *job)
{
    const vtc_tensor *q = &job->w->q_proj.weight, *k = &job->w->k_proj.weight;
    const vtc_tensor *gate = &job->w->mlp.gate.weight;

    VTCI_TRY(vtci_check_tensor(call, "self_attn.q_proj.weight", q, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "self_attn.k_proj.weight", k, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "mlp.gate_proj.weight", gate, VTCI_FLOATS, 2, 2, VTCI_IN));
    job->n_heads = job->params.n_heads;
    VTCI_REQUIRE(call, q->dim[0] != 0 && q->dim[0] % job->n_heads == 0, VTC_ERR_SHAPE,
                 "self_attn.q_proj.weight gives %zu channels, not a multiple of %zu heads",
                 q->dim[0], job->n_heads);
    job->h = q->dim[1];
    job->d = q->dim[0] / job->n_heads;
    job->n_kv = k->dim[0] / job->d;
    job->hidden_width = gate->dim[0];
    VTCI_REQUIRE(call, job->d % 2 == 0, VTC_ERR_SHAPE,
                 "heads of %zu channels cannot be rotated: the number is odd", job->d);
    VTCI_REQUIRE(call, k->dim[0] != 0 && k->dim[0] % job->d == 0 && job->n_heads % job->n_kv == 0,
                 VTC_ERR_SHAPE,
                 "self_attn.k_proj.weight gives %zu channels, heads are %zu wide and their number "
                 "divides %zu",
                 k->dim[0], job->d, job->n_heads);
    return VTC_OK;
}

static vtc_status check_layer(const vtci_owner *of, const char *name, const vtc_linear *layer,
                              size_t n_out, size_t n_in)
{
    VTCI_TRY(vtci_check_matrix(of, name, ".weight", &layer->weight, n_out, n_in));
    VTCI_TRY(vtci_check_gemm(of->call, 1, n_out, n_in));
    return vtci_check_bias(of, name, &layer->bias, n_out);
}

static vtc_status check_weights(const vtci_call *call, const struct job *job)
{
    const vtc_vlora_block_weights *w = job->w;
    const vtci_owner of = { call, NULL, 0, "" };
    const size_t h = job->h, e = job->n_heads * job->d, kv = job->n_kv * job->d;
    const size_t f = job->hidden_width;

    VTCI_TRY(vtci_check_vector(&of, "input_layernorm", ".weight", &w->input_layernorm, h));
    VTCI_TRY(check_layer(&of, "self_attn.q_proj", &w->q_proj, e, h));
    VTCI_TRY(check_layer(&of, "self_attn.k_proj", &w->k_proj, kv, h));
    VTCI_TRY(check_layer(&of, "self_attn.v_proj", &w->v_proj, kv, h));
    VTCI_TRY(check_layer(&of, "self_attn.o_proj", &w->o_proj, h, e));
    VTCI_TRY(vtci_check_vector(&of, "post_attention_layernorm", ".weight",
                               &w->post_attention_layernorm, h));
    VTCI_TRY(check_layer(&of, "mlp.gate_proj", &w->mlp.gate, f, h));
    VTCI_TRY(check_layer(&of, "mlp.up_proj", &w->mlp.up, f, h));
    return check_layer(&of, "mlp.down_proj", &w->mlp.down, h, f);
}

static vtc_status open_deltas(const vtci_call *call, const vtc_vlora_deltas *deltas,
                              struct job *job)
{
    static const char *const names[] = { "q", "k", "v", "o", "m" };
    const size_t h = job->h, e = job->n_heads * job->d, kv = job->n_kv * job->d;
    const size_t n_in[] = { h, h, h, e, h }, n_out[] = { e, kv, kv, h, h };

    for (size_t i = 0; deltas != NULL && i < N_KINDS; i++) {
        const vtc_vlora_factors *f = i == KIND_Q   ? &deltas->q
                                     : i == KIND_K ? &deltas->k
                                     : i == KIND_V ? &deltas->v
                                     : i == KIND_O ? &deltas->o
                                                   : &deltas->m;

        if (vtc_tensor_is_absent(&f->a) && vtc_tensor_is_absent(&f->b))
            continue;
        VTCI_TRY(vtci_low_rank_open(call, names[i], &f->a, &f->b, n_in[i], n_out[i], &job->low[i]));
        job->rank = vtci_max(job->rank, job->low[i].a.n_cols);
    }
    return VTC_OK;
}

static vtc_status open_model(const vtci_call *call, const vtc_vlora_block_params *params,
                             const vtc_vlora_block_weights *weights, const vtc_vlora_deltas *deltas,
                             struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(open_params(call, params, &job->params));
    VTCI_REQUIRE_PTR(call, weights);
    job->w = weights;
    VTCI_TRY(read_widths(call, job));
    VTCI_TRY(check_weights(call, job));
    return open_deltas(call, deltas, job);
}

static vtc_status open_mask(const vtci_call *call, const vtc_tensor *key_mask,
                            const vtc_tensor *hidden, struct job *job)
{
    if (key_mask == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "key_mask", key_mask, VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8), 1,
                               2, VTCI_IN));
    VTCI_REQUIRE(call, key_mask->rank == hidden->rank - 1, VTC_ERR_SHAPE,
                 "key_mask has rank %d, hidden rank %d", key_mask->rank, hidden->rank);
    for (int axis = 0; axis < key_mask->rank; axis++)
        VTCI_REQUIRE(call, key_mask->dim[axis] == hidden->dim[axis], VTC_ERR_SHAPE,
                     "key_mask has extent %zu along axis %d, hidden %zu", key_mask->dim[axis], axis,
                     hidden->dim[axis]);
    job->key_mask = key_mask;
    return VTC_OK;
}

static vtc_status check_output(const vtci_call *call, const struct job *job,
                               const vtc_vlora_deltas *deltas, const vtc_tensor *hidden,
                               const vtc_tensor *key_mask, const vtc_tensor *out)
{
    const size_t bytes = vtci_span_bytes(out);

    VTCI_REQUIRE(call, out->rank == hidden->rank, VTC_ERR_SHAPE, "hidden has rank %d, out rank %d",
                 hidden->rank, out->rank);
    for (int axis = 0; axis < out->rank; axis++)
        VTCI_REQUIRE(call, out->dim[axis] == hidden->dim[axis], VTC_ERR_SHAPE,
                     "out has extent %zu along axis %d, hidden %zu", out->dim[axis], axis,
                     hidden->dim[axis]);
    VTCI_TRY(vtci_check_apart(call, "out", out, "hidden", hidden));
    if (key_mask != NULL)
        VTCI_TRY(vtci_check_apart(call, "out", out, "key_mask", key_mask));
    for (size_t i = 0; deltas != NULL && i < 2 * N_KINDS; i++) {
        const vtc_vlora_factors *all[] = { &deltas->q, &deltas->k, &deltas->v, &deltas->o,
                                           &deltas->m };
        const vtc_tensor *t = i % 2 == 0 ? &all[i / 2]->a : &all[i / 2]->b;

        if (!vtc_tensor_is_absent(t))
            VTCI_TRY(vtci_check_apart(call, "out", out, "a factor", t));
    }
    if (call->query)
        return VTC_OK;
    return vtci_check_weights_apart(call, "", &vtc_vlora_block_table, job->w, "out", out->data,
                                    bytes);
}

static vtc_status check_batches(const vtci_call *call, const struct job *job)
{
    static const char names[] = "qkvom";

    for (size_t i = 0; i < N_KINDS; i++)
        VTCI_REQUIRE(call,
                     job->low[i].a.n_batch <= 1 || job->low[i].a.n_batch == job->hidden.n_batch,
                     VTC_ERR_SHAPE, "%c.a has %zu batch items, hidden has %zu", names[i],
                     job->low[i].a.n_batch, job->hidden.n_batch);
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_vlora_block_params *params,
                           const vtc_vlora_block_weights *weights, const vtc_vlora_deltas *deltas,
                           const vtc_tensor *hidden, const vtc_tensor *key_mask,
                           const int32_t *positions, const vtc_tensor *out, struct job *job)
{
    VTCI_TRY(open_model(call, params, weights, deltas, job));
    VTCI_TRY(vtci_check_tensor(call, "hidden", hidden, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "out", out, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_TRY(check_output(call, job, deltas, hidden, key_mask, out));
    VTCI_TRY(open_mask(call, key_mask, hidden, job));
    job->hidden = vtci_rows_of(hidden);
    job->out = vtci_rows_of(out);
    job->positions = positions;
    VTCI_REQUIRE(call, job->hidden.n_cols == job->h, VTC_ERR_SHAPE,
                 "hidden has %zu channels, the layer %zu", job->hidden.n_cols, job->h);
    VTCI_REQUIRE(call, job->hidden.n_rows < INT32_MAX, VTC_ERR_OVERFLOW, "hidden has %zu rows",
                 job->hidden.n_rows);
    if (positions != NULL) {
        const vtc_tensor all =
            vtc_tensor_1d(positions, VTC_I32, vtci_mul(job->hidden.n_batch, job->hidden.n_rows));

        /* those of the next sequence are read when this one has been written */
        VTCI_TRY(vtci_check_apart(call, "out", out, "positions", &all));
    }
    return check_batches(call, job);
}

/* ---- scratch --------------------------------------------------------------------------------- */

static void lay_out(vtci_arena *arena, struct job *job)
{
    const size_t n = job->hidden.n_batch == 0 ? 0 : job->hidden.n_rows;
    const size_t e = job->n_heads * job->d, kv = job->n_kv * job->d;

    job->frequency = vtci_take_matrix(arena, 1, job->d / 2);
    job->x = vtci_take_matrix(arena, n, job->h);
    job->q = vtci_take_matrix(arena, n, e);
    job->k = vtci_take_matrix(arena, n, kv);
    job->v = vtci_take_matrix(arena, n, kv);
    job->o = vtci_take_matrix(arena, n, e);
    job->t = vtci_take_matrix(arena, n, job->rank);
    job->delta = vtci_take_matrix(arena, n, vtci_max(e, job->h));
    job->mid = vtci_take_matrix(arena, n, job->h);
    job->angle = vtci_take_matrix(arena, n, job->d);
    job->gate = vtci_take_matrix(arena, vtci_min(n, BLOCK_ROWS), job->hidden_width);
    job->up = vtci_take_matrix(arena, vtci_min(n, BLOCK_ROWS), job->hidden_width);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static vtci_rows rows_of(const struct job *job, const float *data, size_t n_cols)
{
    return vtci_float_rows(data, job->hidden.n_rows, n_cols);
}

static void normalize(const struct job *job, const vtc_tensor *weight, vtci_rows from,
                      vtci_steps *steps)
{
    const vtc_norm norm = { .weight = *weight };
    const vtci_norm step = { .x = from,
                             .y = rows_of(job, job->x, job->h),
                             .kind = VTC_NORM_RMS,
                             .norm = &norm,
                             .eps = job->params.eps };

    vtci_step_norm(steps, step);
}

/* (x A) B^T + residual of a kind, or the residual itself where there is no increment. */
static vtci_rows increment(const struct job *job, enum kind kind, vtci_rows x, vtci_rows residual,
                           vtci_steps *steps)
{
    vtci_low_rank low = job->low[kind];
    const vtci_rows t = rows_of(job, job->t, low.a.n_cols);
    const vtci_rows delta = rows_of(job, job->delta, low.b.n_rows);

    if (low.a.dtype == (vtc_dtype)0)
        return residual;
    if (low.a.n_batch > 1)
        low.a = vtci_batch_part(low.a, job->sequence, 1);
    vtci_low_rank_reduce(steps, &low, x, t);
    vtci_low_rank_expand(steps, &low, t, residual, delta);
    return delta;
}

static void project(const struct job *job, enum kind kind, const vtc_linear *layer, vtci_rows x,
                    vtci_rows residual, float *y, vtci_steps *steps)
{
    vtci_gemm g = vtci_layer_product(x, layer, NULL, rows_of(job, y, layer->weight.dim[0]));

    g.residual = increment(job, kind, x, residual, steps);
    vtci_step_gemm(steps, g);
}

static void rotate_row(void *arg, size_t r, size_t worker)
{
    const struct job *job = arg;
    const size_t d = job->d, n = job->hidden.n_rows;
    const int32_t position =
        job->positions == NULL ? (int32_t)r : job->positions[job->sequence * n + r];
    float *angle = job->angle + r * d;

    (void)worker;
    vtci_rope_angles(angle, job->frequency, d, position);
    vtci_rope_rotate(job->q + r * job->n_heads * d, job->n_heads, d, angle);
    vtci_rope_rotate(job->k + r * job->n_kv * d, job->n_kv, d, angle);
}

static const uint8_t *mask_of(const struct job *job)
{
    const vtc_tensor *t = job->key_mask;

    if (t == NULL || t->data == NULL)
        return NULL;
    return (const uint8_t *)t->data + (t->rank == 2 ? job->sequence * t->stride[0] : 0);
}

/* Rows first .. first + n - 1. */
static void attend(const struct job *job, size_t first, size_t n, const uint8_t *mask,
                   vtci_steps *steps)
{
    const size_t e = job->n_heads * job->d, kv = job->n_kv * job->d;
    const vtci_rows q = rows_of(job, job->q, e), k = rows_of(job, job->k, kv);
    const vtci_rows v = rows_of(job, job->v, kv), o = rows_of(job, job->o, e);
    vtci_attention a = { .scale = 1.0f / sqrtf((float)job->d) };

    if (n == 0)
        return;
    a.q = vtci_heads_part(vtci_heads_of_rows(&q, job->n_heads), first, n);
    a.y = vtci_heads_part(vtci_heads_of_rows(&o, job->n_heads), first, n);
    a.k = vtci_heads_of_rows(&k, job->n_kv);
    a.v = vtci_heads_of_rows(&v, job->n_kv);
    a.sees.causal = true;
    a.sees.row_offset = first;
    a.sees.key_mask = mask;
    vtci_step_attention(steps, a);
}

static void attend_all(const struct job *job, vtci_steps *steps)
{
    const size_t n = job->hidden.n_rows;
    const uint8_t *mask = steps->measure ? NULL : mask_of(job);
    size_t n_blind = 0;

    while (mask != NULL && n_blind < n && mask[n_blind] == 0)
        n_blind++;
    attend(job, 0, n_blind, NULL, steps);
    attend(job, n_blind, n - n_blind, mask, steps);
}

/* The feed-forward of some rows; `residual` is what it is added to. */
static void feed_forward(const struct job *job, size_t first, size_t n, vtci_rows residual,
                         vtci_steps *steps)
{
    const vtci_rows out = vtci_batch_part(job->out, job->sequence, 1);
    const vtci_gated_mlp mlp = { .weights = &job->w->mlp,
                                 .act = VTCI_ACT_SILU,
                                 .x = vtci_rows_part(rows_of(job, job->x, job->h), first, n),
                                 .y = vtci_rows_part(out, first, n),
                                 .extra = vtci_rows_part(residual, first, n),
                                 .hidden = { job->gate, job->up } };

    vtci_gated_mlp_run(steps, &mlp);
}

static void run_sequence(struct job *job, vtci_steps *steps)
{
    const vtc_vlora_block_weights *w = job->w;
    const vtci_rows hidden = vtci_batch_part(job->hidden, job->sequence, 1), none = { 0 };
    const vtci_rows x = rows_of(job, job->x, job->h), mid = rows_of(job, job->mid, job->h);
    const size_t n = job->hidden.n_rows;

    normalize(job, &w->input_layernorm, hidden, steps);
    project(job, KIND_Q, &w->q_proj, x, none, job->q, steps);
    project(job, KIND_K, &w->k_proj, x, none, job->k, steps);
    project(job, KIND_V, &w->v_proj, x, none, job->v, steps);
    vtci_steps_tasks(steps, n, rotate_row, job);
    attend_all(job, steps);
    project(job, KIND_O, &w->o_proj, rows_of(job, job->o, job->n_heads * job->d), hidden, job->mid,
            steps);
    normalize(job, &w->post_attention_layernorm, mid, steps);

    const vtci_rows residual = increment(job, KIND_M, x, mid, steps);

    for (size_t first = 0; first < n; first += BLOCK_ROWS)
        feed_forward(job, first, vtci_min(BLOCK_ROWS, n - first), residual, steps);
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;

    lay_out(&steps->arena, job);
    if (job->hidden.n_rows == 0)
        return;
    if (!steps->measure && job->hidden.n_batch != 0)
        vtci_rope_frequencies(job->frequency, job->d, job->params.rope_theta);
    for (job->sequence = 0; job->sequence < job->hidden.n_batch; job->sequence++)
        run_sequence(job, steps);
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_vlora_block_cost(const vtc_vlora_block_params *params,
                                const vtc_vlora_block_weights *weights,
                                const vtc_vlora_deltas *deltas, size_t n_rows, vtc_model_cost *cost,
                                const vtc_exec *exec)
{
    const double n = (double)n_rows;
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_block_cost", exec));
    VTCI_REQUIRE_PTR(&call, cost);
    call.query = true;
    VTCI_TRY(open_model(&call, params, weights, deltas, &job));

    const double h = (double)job.h, e = (double)(job.n_heads * job.d);
    const double kv = (double)(job.n_kv * job.d), f = (double)job.hidden_width;
    double factors = 0.0;

    for (size_t i = 0; i < N_KINDS; i++)
        if (job.low[i].a.dtype != (vtc_dtype)0)
            factors += (double)job.low[i].a.n_cols *
                       ((double)job.low[i].a.n_rows + (double)job.low[i].b.n_rows);
    cost->parameters = vtci_count_weights(&vtc_vlora_block_table, weights) + factors;
    cost->multiply_adds =
        n * (2.0 * h * e + 2.0 * h * kv + 3.0 * h * f + factors) + e * n * (n + 1.0);
    return VTC_OK;
}

vtc_status vtc_vlora_block_scratch(const vtc_vlora_block_params *params,
                                   const vtc_vlora_block_weights *weights,
                                   const vtc_vlora_deltas *deltas, const vtc_tensor *hidden,
                                   const vtc_tensor *key_mask, const int32_t *positions,
                                   const vtc_tensor *out, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_block_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, deltas, hidden, key_mask, positions, out, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_vlora_block(const vtc_vlora_block_params *params,
                           const vtc_vlora_block_weights *weights, const vtc_vlora_deltas *deltas,
                           const vtc_tensor *hidden, const vtc_tensor *key_mask,
                           const int32_t *positions, vtc_tensor *out, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_block", exec));
    VTCI_TRY(open_job(&call, params, weights, deltas, hidden, key_mask, positions, out, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}
