/* The resamplers' weights, the query side and the prepared object. */
#include "../linalg/operands.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../linalg/weight_tables.h"
#include "resampler.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------- */

#define AT(member) offsetof(vtc_resampler_weights, member)

static const vtc_weight attention_weights[] = {
    { "query", AT(query), 2, 0 },
    { "pos_embed", AT(pos_embed), 2, 1 },
    { "kv_proj.weight", AT(kv_proj.weight), 2, 1 },
    { "kv_proj.bias", AT(kv_proj.bias), 1, 1 },
    { "ln_q.weight", AT(ln_q.weight), 1, 0 },
    { "ln_q.bias", AT(ln_q.bias), 1, 0 },
    { "ln_kv.weight", AT(ln_kv.weight), 1, 0 },
    { "ln_kv.bias", AT(ln_kv.bias), 1, 0 },
    { "attn.in_proj_weight", AT(in_proj.weight), 2, 1 },
    { "attn.in_proj_bias", AT(in_proj.bias), 1, 1 },
    { "attn.q_proj.weight", AT(q.weight), 2, 1 },
    { "attn.q_proj.bias", AT(q.bias), 1, 1 },
    { "attn.k_proj.weight", AT(k.weight), 2, 1 },
    { "attn.k_proj.bias", AT(k.bias), 1, 1 },
    { "attn.v_proj.weight", AT(v.weight), 2, 1 },
    { "attn.v_proj.bias", AT(v.bias), 1, 1 },
    { "attn.out_proj.weight", AT(out_proj.weight), 2, 0 },
    { "attn.out_proj.bias", AT(out_proj.bias), 1, 1 },
};
const vtc_weight_table vtc_resampler_table = {
    "resampler", attention_weights, sizeof(attention_weights) / sizeof(*attention_weights)
};

static const vtc_weight tail_weights[] = {
    { "ln_post.weight", AT(ln_post.weight), 1, 0 },
    { "ln_post.bias", AT(ln_post.bias), 1, 0 },
    { "proj", AT(proj), 2, 0 },
};
const vtc_weight_table vtc_resampler_tail_table = { "resampler (tail)", tail_weights, 3 };

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status read_params(vtci_resampler *m, const vtc_resampler_params *params)
{
    static const vtc_resampler_params defaults = VTC_RESAMPLER_PARAMS_INIT;
    vtc_resampler_params *p = &m->params;

    *p = defaults;
    VTCI_TRY(vtci_params_read(m->call, p, sizeof(*p), params));
    VTCI_REQUIRE(m->call, (unsigned)p->variant <= VTC_RESAMPLER_QWEN_VL, VTC_ERR_RANGE,
                 "variant is %d", (int)p->variant);
    return vtci_check_eps(m->call, "eps", p->eps);
}

static vtc_status check_heads(vtci_resampler *m)
{
    const size_t asked = m->params.n_heads;

    m->n_heads = asked != 0 ? asked : m->d / 128;
    VTCI_REQUIRE(m->call, m->n_heads != 0 && m->d % m->n_heads == 0, VTC_ERR_RANGE,
                 "%zu channels make no %zu heads%s", m->d, m->n_heads,
                 asked != 0 ? "" : "; give n_heads");
    m->width = m->d / m->n_heads;
    VTCI_REQUIRE(m->call, m->d % 4 == 0 || m->params.variant == VTC_RESAMPLER_QWEN_VL,
                 VTC_ERR_SHAPE, "query has %zu channels, a sin-cos table needs a multiple of 4",
                 m->d);
    m->cheap = vtci_mul(m->n_heads, m->n_queries) < vtci_add(m->d, m->n_queries);
    return VTC_OK;
}

/* Rows first .. first + n - 1 of a layer. */
static vtc_linear part_of(const vtc_linear *layer, size_t first, size_t n)
{
    vtc_linear part = *layer;
    const size_t size = vtc_dtype_size(part.weight.dtype);

    part.weight.dim[0] = n;
    if (part.weight.data != NULL)
        part.weight.data = (char *)part.weight.data + first * part.weight.stride[0] * size;
    if (vtc_tensor_is_absent(&part.bias))
        return part;
    part.bias.dim[0] = n;
    if (part.bias.data != NULL)
        part.bias.data = (char *)part.bias.data + first * vtc_dtype_size(part.bias.dtype);
    return part;
}

static vtc_status check_attention(vtci_resampler *m, const vtci_owner *of)
{
    const vtc_resampler_weights *w = &m->w;
    const size_t d = m->d;

    if (!vtc_tensor_is_absent(&w->in_proj.weight)) {
        VTCI_TRY(vtci_check_matrix(of, "attn.in_proj", "_weight", &w->in_proj.weight,
                                   vtci_mul(3, d), d));
        if (!vtc_tensor_is_absent(&w->in_proj.bias))
            VTCI_TRY(
                vtci_check_vector(of, "attn.in_proj", "_bias", &w->in_proj.bias, vtci_mul(3, d)));
        m->q = part_of(&w->in_proj, 0, d);
        m->k = part_of(&w->in_proj, d, d);
        m->v = part_of(&w->in_proj, 2 * d, d);
    } else {
        VTCI_REQUIRE(m->call, !vtc_tensor_is_absent(&w->q.weight), VTC_ERR_NULL,
                     "attn.in_proj_weight is missing, and so is attn.q_proj.weight");
        VTCI_TRY(vtci_check_linear_to(of, "attn.q_proj", &w->q, d, d));
        VTCI_TRY(vtci_check_linear_to(of, "attn.k_proj", &w->k, d, d));
        VTCI_TRY(vtci_check_linear_to(of, "attn.v_proj", &w->v, d, d));
        m->q = w->q;
        m->k = w->k;
        m->v = w->v;
    }
    return vtci_check_linear_to(of, "attn.out_proj", &w->out_proj, d, d);
}

static vtc_status check_positions(const vtci_resampler *m, const vtci_owner *of)
{
    bool is_square;

    if (m->params.variant == VTC_RESAMPLER_MINICPMV)
        return VTC_OK;
    VTCI_REQUIRE(m->call, !vtc_tensor_is_absent(&m->w.pos_embed), VTC_ERR_NULL,
                 "pos_embed is missing, which variant %d reads", (int)m->params.variant);
    VTCI_TRY(vtci_check_matrix(of, "pos_embed", "", &m->w.pos_embed, m->n_queries, m->d));
    vtci_square_side(m->n_queries, &is_square);
    VTCI_REQUIRE(m->call, m->params.variant != VTC_RESAMPLER_QWEN_VL || is_square, VTC_ERR_SHAPE,
                 "pos_embed has %zu rows, no square", m->n_queries);
    return VTC_OK;
}

static vtc_status check_kv_proj(vtci_resampler *m, const vtci_owner *of)
{
    const vtc_linear *kv = &m->w.kv_proj;

    m->n_vision = m->d;
    if (vtc_tensor_is_absent(&kv->weight))
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(m->call, "kv_proj.weight", &kv->weight, VTCI_FLOATS, 2, 2, VTCI_IN));
    m->n_vision = kv->weight.dim[1];
    return vtci_check_linear_to(of, "kv_proj", kv, m->d, m->n_vision);
}

/* Views that this variant does not read may hold anything. */
static void keep_used(vtci_resampler *m, const vtc_resampler_weights *weights)
{
    static const vtc_linear none;
    vtc_resampler_weights *w = &m->w;

    *w = *weights;
    if (m->params.variant == VTC_RESAMPLER_MINICPMV)
        w->pos_embed = none.weight;
    if (vtc_tensor_is_absent(&w->kv_proj.weight))
        w->kv_proj = none;
    if (vtc_tensor_is_absent(&w->in_proj.weight))
        w->in_proj = none;
    else
        w->q = w->k = w->v = none;
}

vtc_status vtci_resampler_open(const vtci_call *call, const vtc_resampler_params *params,
                               const vtc_resampler_weights *weights, vtci_resampler *m)
{
    vtci_owner of = { call, NULL, 1, "" };
    const vtc_resampler_weights *w = &m->w;

    memset(m, 0, sizeof(*m));
    m->call = call;
    VTCI_TRY(read_params(m, params));
    VTCI_REQUIRE_PTR(call, weights);
    keep_used(m, weights);
    VTCI_TRY(vtci_check_tensor(call, "query", &w->query, VTCI_FLOATS, 2, 2, VTCI_IN));
    m->n_queries = of.n_tokens = w->query.dim[0];
    m->d = w->query.dim[1];
    VTCI_TRY(check_heads(m));
    VTCI_TRY(check_positions(m, &of));
    VTCI_TRY(check_kv_proj(m, &of));
    VTCI_TRY(vtci_check_channel_norm(&of, "ln_q", &w->ln_q, m->d));
    VTCI_TRY(vtci_check_channel_norm(&of, "ln_kv", &w->ln_kv, m->d));
    VTCI_TRY(check_attention(m, &of));
    VTCI_TRY(vtci_check_channel_norm(&of, "ln_post", &w->ln_post, m->d));
    return vtci_check_matrix(&of, "proj", "", &w->proj, m->d, m->d);
}

vtc_status vtci_resampler_check_apart(const vtci_resampler *m, const char *name, const void *memory,
                                      size_t bytes)
{
    if (m->call->query)
        return VTC_OK;
    VTCI_TRY(
        vtci_check_weights_apart(m->call, "", &vtc_resampler_table, &m->w, name, memory, bytes));
    return vtci_check_weights_apart(m->call, "", &vtc_resampler_tail_table, &m->w, name, memory,
                                    bytes);
}

double vtci_resampler_parameters(const vtci_resampler *m)
{
    return vtci_count_weights(&vtc_resampler_table, &m->w) +
           vtci_count_weights(&vtc_resampler_tail_table, &m->w);
}

/* ---- the query side -------------------------------------------------------------------------- */

size_t vtci_resampler_query_floats(const vtci_resampler *m)
{
    return vtci_mul(m->cheap ? m->n_heads : 1, vtci_mul(m->n_queries, m->d));
}

void vtci_resampler_lay_out_queries(vtci_arena *arena, const vtci_resampler *m,
                                    vtci_resampler_queries *b)
{
    const size_t n = vtci_mul(m->n_queries, m->d);

    b->normed = vtci_take(arena, n, sizeof(*b->normed));
    b->projected = m->cheap ? vtci_take(arena, n, sizeof(*b->projected)) : NULL;
}

/* LN(query) + P_q, with the stored positions where a variant has them. */
static void norm_queries(const vtci_resampler *m, vtci_steps *steps, const vtci_rows *to)
{
    const vtc_tensor *stored = &m->w.pos_embed;
    vtci_norm norm = { .x = vtci_rows_of(&m->w.query), .y = *to, .kind = VTC_NORM_LAYER };
    const vtci_rows positions = vtci_rows_of(stored);
    vtci_combine c;

    norm.norm = &m->w.ln_q;
    norm.eps = m->params.eps;
    vtci_steps_norm(steps, &norm);
    for (size_t r = 0; r < m->n_queries && !steps->measure; r++) {
        float *row = (float *)(void *)vtci_row(to, 0, r);

        if (m->params.variant == VTC_RESAMPLER_MINICPMV)
            break;
        vtci_combine_begin(&c, row, m->d, stored->dtype, false);
        c.started = true; /* adds to the row that is there */
        vtci_combine_add(&c, vtci_row(&positions, 0, r), 1.0f);
        vtci_combine_end(&c);
    }
}

/* Head h of the queries [M, d] times the rows of Wk that are head h's: scores of a patch are then
 * one product over all D channels. */
static void fold_keys(const vtci_resampler *m, vtci_steps *steps, float *projected, float *queries)
{
    const vtci_rows q = vtci_float_rows(projected, m->n_queries, m->d);
    vtci_gemm g = { .a = vtci_heads_as_batch(q, m->n_heads) };

    g.b = vtci_rows_split(vtci_rows_of(&m->k.weight), m->width);
    g.c = vtci_float_rows(queries, m->n_queries, m->d);
    g.c.n_batch = m->n_heads;
    vtci_steps_gemm(steps, &g);
}

void vtci_resampler_compute_queries(const vtci_resampler *m, vtci_steps *steps,
                                    const vtci_resampler_queries *b, float *queries)
{
    const vtci_rows normed = vtci_float_rows(b->normed, m->n_queries, m->d);

    norm_queries(m, steps, &normed);
    vtci_steps_layer(steps, normed, &m->q, NULL,
                     vtci_float_rows(m->cheap ? b->projected : queries, m->n_queries, m->d));
    if (m->cheap)
        fold_keys(m, steps, b->projected, queries);
}

/* ---- prepared objects ------------------------------------------------------------------------ */

static void lay_out_object(vtci_arena *arena, const vtci_resampler *m,
                           vtci_resampler_object *object)
{
    object->given = true;
    object->queries = vtci_take(arena, vtci_resampler_query_floats(m), sizeof(float));
    object->out_proj = vtci_packed_take(arena, &m->w.out_proj.weight);
}

static vtci_prepared_key key_of(const vtci_resampler *m)
{
    vtci_prepared_key key = { "resampler", VTCI_FINGERPRINT };

    key.fingerprint = vtci_mix(key.fingerprint, (uint64_t)m->params.variant);
    key.fingerprint = vtci_mix(key.fingerprint, m->n_heads);
    key.fingerprint = vtci_mix_float(key.fingerprint, m->params.eps);
    key.fingerprint = vtci_mix_weights(key.fingerprint, &vtc_resampler_table, &m->w);
    return key;
}

vtc_status vtci_resampler_open_object(const vtci_resampler *m, const vtc_prepared *prepared,
                                      vtci_resampler_object *object)
{
    const vtci_prepared_key key = key_of(m);
    vtci_arena arena;

    memset(object, 0, sizeof(*object));
    if (prepared == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_prepared_open(m->call, prepared, &key, &arena));
    lay_out_object(&arena, m, object);
    return VTC_OK;
}

vtc_status vtc_resampler_prepare_size(const vtc_resampler_params *params,
                                      const vtc_resampler_weights *weights, const vtc_exec *exec,
                                      size_t *bytes)
{
    vtci_arena arena = vtci_prepared_measure();
    vtci_resampler_object object;
    vtci_resampler m;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_resampler_prepare_size", exec, bytes));
    VTCI_TRY(vtci_resampler_open(&call, params, weights, &m));
    lay_out_object(&arena, &m, &object);
    return vtci_end_query(&call, &arena, bytes);
}

struct preparation {
    vtci_resampler m;
    vtci_resampler_object object;
};

static void make_queries(void *p, vtci_steps *steps)
{
    const struct preparation *preparation = p;
    const vtci_resampler *m = &preparation->m;
    vtci_resampler_queries b;

    vtci_resampler_lay_out_queries(&steps->arena, m, &b);
    vtci_resampler_compute_queries(m, steps, &b, preparation->object.queries);
}

vtc_status vtc_resampler_prepare_scratch(const vtc_resampler_params *params,
                                         const vtc_resampler_weights *weights, const vtc_exec *exec,
                                         size_t *bytes)
{
    struct preparation p = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_resampler_prepare_scratch", exec, bytes));
    VTCI_TRY(vtci_resampler_open(&call, params, weights, &p.m));
    return vtci_steps_walk(&call, make_queries, &p, bytes);
}

vtc_status vtc_resampler_prepare(const vtc_resampler_params *params,
                                 const vtc_resampler_weights *weights, vtc_prepared *prepared,
                                 const vtc_exec *exec)
{
    vtci_prepared_key key;
    struct preparation p;
    vtci_arena arena;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_resampler_prepare", exec));
    VTCI_TRY(vtci_prepared_create(&call, prepared, &arena));
    VTCI_TRY(vtci_resampler_open(&call, params, weights, &p.m));
    VTCI_TRY(vtci_resampler_check_apart(&p.m, "prepared", prepared->data, prepared->bytes));
    lay_out_object(&arena, &p.m, &p.object);
    VTCI_TRY(vtci_prepared_check_room(&call, prepared, &arena));
    VTCI_TRY(vtci_steps_walk(&call, make_queries, &p, NULL));
    vtci_packed_fill(&call, &p.object.out_proj, &p.m.w.out_proj.weight);
    key = key_of(&p.m);
    vtci_prepared_seal(prepared, &key, &arena);
    return VTC_OK;
}
