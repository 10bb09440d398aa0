#include "vlora_reference.h"

#include "hyper_reference.h"
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *copy_of(const double *x, size_t n)
{
    double *y = calloc(n + 1, sizeof(*y));

    if (y == NULL)
        abort();
    if (x != NULL && n != 0)
        memcpy(y, x, n * sizeof(*y));
    return y;
}

/* Rows first .. first + n - 1 of a packed projection. */
static double *project(const vtc_linear *layer, size_t first, size_t n_out, const double *x,
                       size_t n)
{
    vtc_linear part = *layer;
    const size_t c = layer->weight.dim[1], weight = vtc_dtype_size(layer->weight.dtype);

    part.weight.data = (char *)part.weight.data + first * layer->weight.stride[0] * weight;
    part.weight.dim[0] = n_out;
    if (!vtc_tensor_is_absent(&layer->bias)) {
        part.bias.data = (char *)part.bias.data + first * vtc_dtype_size(layer->bias.dtype);
        part.bias.dim[0] = n_out;
    }
    return apply_linear(&part, copy_of(x, n * c), n);
}

/* y [d] of one query over keys and values at a distance; `sees` NULL: all. */
static void attend(const double *q, const double *k, const double *v, size_t n, size_t distance,
                   size_t d, const uint8_t *sees, double *y)
{
    double *p = calloc(n + 1, sizeof(*p)), top = -INFINITY, total = 0.0;

    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < d; c++)
            p[i] += q[c] * k[i * distance + c] / sqrt((double)d);
        if (sees != NULL && !sees[i])
            p[i] = -INFINITY;
        top = fmax(top, p[i]);
    }
    for (size_t i = 0; i < n; i++)
        total += p[i] = exp(p[i] - top);
    for (size_t c = 0; c < d; c++) {
        y[c] = 0.0;
        for (size_t i = 0; i < n; i++)
            y[c] += p[i] / total * v[i * distance + c];
    }
    free(p);
}

/* q += Attention(x, from) */
static void add_attention(const vtc_vlora_params *params, const vtc_vlora_attention *w,
                          const double *x, size_t n, const double *from, size_t m, double *stream)
{
    const size_t d = w->out_proj.weight.dim[0], head = d / params->n_heads;
    double *q = project(&w->in_proj, 0, d, x, n), *k = project(&w->in_proj, d, d, from, m);
    double *v = project(&w->in_proj, 2 * d, d, from, m), *o = copy_of(NULL, n * d);

    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < d; at += head)
            attend(q + i * d + at, k + at, v + at, m, d, head, NULL, o + i * d + at);
    o = apply_linear(&w->out_proj, o, n);
    for (size_t i = 0; i < n * d; i++)
        stream[i] += o[i];
    free(q);
    free(k);
    free(v);
    free(o);
}

static double *normed(const vtc_norm *norm, vtc_norm_kind kind, double eps, const double *x,
                      size_t count)
{
    double *y = copy_of(x, count);

    apply_norm(norm, kind, eps, y, count);
    return y;
}

static void decode(const vtc_vlora_params *params, const vtc_vlora_decoder *w, const double *f,
                   size_t n_tokens, double *q, size_t n)
{
    const size_t d = w->linear1.weight.dim[1];
    double *x = normed(&w->norm1, VTC_NORM_LAYER, params->eps, q, n * d);

    add_attention(params, &w->self_attn, x, n, x, n, q);
    free(x);
    x = normed(&w->norm2, VTC_NORM_LAYER, params->eps, q, n * d);
    add_attention(params, &w->multihead_attn, x, n, f, n_tokens, q);
    free(x);
    x = normed(&w->norm3, VTC_NORM_LAYER, params->eps, q, n * d);
    x = apply_linear(&w->linear1, x, n);
    apply_activation(VTC_ACT_GELU_ERF, x, n * w->linear1.weight.dim[0]);
    x = apply_linear(&w->linear2, x, n);
    for (size_t i = 0; i < n * d; i++)
        q[i] += x[i];
    free(x);
}

double *ref_vlora_rows(const vtc_vlora_params *params, const vtc_vlora_generator *g,
                       const double *f, size_t n_tokens)
{
    const size_t n = g->queries.dim[1], d = g->queries.dim[2];
    double *q = values_of(&g->queries);

    for (size_t i = 0; i < g->n_decoders; i++)
        decode(params, &g->decoders[i], f, n_tokens, q, n);
    apply_norm(&g->norm, VTC_NORM_LAYER, params->eps, q, n * d);
    return apply_linear(&g->weights_head, q, n);
}

double *ref_vlora_features(const vtc_vlora_weights *w, const double *x)
{
    const size_t n = w->pos_embed.dim[1], d = w->pos_embed.dim[2];
    double *pos = values_of(&w->pos_embed);
    double *f = apply_linear(&w->visual_proj, copy_of(x, n * w->visual_proj.weight.dim[1]), n);

    for (size_t i = 0; i < n * d; i++)
        f[i] += pos[i];
    free(pos);
    return f;
}

void ref_low_rank(double *y, const double *x, size_t n, const vtc_tensor *a, const vtc_tensor *b)
{
    const size_t n_in = a->dim[0], n_out = b->dim[0], r = a->dim[1];
    double *av = values_of(a), *bv = values_of(b);

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < r; j++) {
            double t = 0.0;

            for (size_t c = 0; c < n_in; c++)
                t += x[i * n_in + c] * av[c * r + j];
            for (size_t c = 0; c < n_out; c++)
                y[i * n_out + c] += t * bv[c * r + j];
        }
    free(av);
    free(bv);
}

/* linear(x) + (x A) B^T */
static double *changed(const vtc_linear *layer, const vtc_vlora_factors *f, const double *x,
                       size_t n)
{
    double *y = apply_linear(layer, copy_of(x, n * layer->weight.dim[1]), n);

    if (!vtc_tensor_is_absent(&f->a))
        ref_low_rank(y, x, n, &f->a, &f->b);
    return y;
}

static void see(uint8_t *sees, size_t n, const uint8_t *mask, size_t t)
{
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        sees[i] = i <= t && (mask == NULL || mask[i] != 0);
        any = any || sees[i];
    }
    for (size_t i = 0; !any && i < n; i++)
        sees[i] = i <= t;
}

static double *attention(const vtc_vlora_block_params *params, const vtc_vlora_block_weights *w,
                         const vtc_vlora_deltas *deltas, const double *x, size_t n,
                         const uint8_t *mask, const int32_t *positions)
{
    const size_t n_heads = params->n_heads, d = w->q_proj.weight.dim[0] / n_heads;
    const size_t n_kv = w->k_proj.weight.dim[0] / d;
    double *q = changed(&w->q_proj, &deltas->q, x, n), *k = changed(&w->k_proj, &deltas->k, x, n);
    double *v = changed(&w->v_proj, &deltas->v, x, n), *o = copy_of(NULL, n * n_heads * d), *y;
    uint8_t *sees = calloc(n + 1, 1);

    for (size_t t = 0; t < n; t++) {
        const int32_t position = positions == NULL ? (int32_t)t : positions[t];

        for (size_t h = 0; h < n_heads; h++)
            ref_rotate(q + (t * n_heads + h) * d, d, params->rope_theta, position);
        for (size_t g = 0; g < n_kv; g++)
            ref_rotate(k + (t * n_kv + g) * d, d, params->rope_theta, position);
    }
    for (size_t t = 0; t < n; t++) {
        see(sees, n, mask, t);
        for (size_t h = 0; h < n_heads; h++) {
            const size_t g = h / (n_heads / n_kv);

            attend(q + (t * n_heads + h) * d, k + g * d, v + g * d, n, n_kv * d, d, sees,
                   o + (t * n_heads + h) * d);
        }
    }
    y = changed(&w->o_proj, &deltas->o, o, n);
    free(q);
    free(k);
    free(v);
    free(o);
    free(sees);
    return y;
}

static double *feed_forward(const vtc_vlora_block_weights *w, const vtc_vlora_deltas *deltas,
                            const double *x, size_t n)
{
    const size_t h = w->mlp.gate.weight.dim[1], f = w->mlp.gate.weight.dim[0];
    double *gate = apply_linear(&w->mlp.gate, copy_of(x, n * h), n);
    double *up = apply_linear(&w->mlp.up, copy_of(x, n * h), n);

    apply_activation(VTC_ACT_SILU, gate, n * f);
    for (size_t i = 0; i < n * f; i++)
        gate[i] *= up[i];
    free(up);
    gate = apply_linear(&w->mlp.down, gate, n);
    if (!vtc_tensor_is_absent(&deltas->m.a))
        ref_low_rank(gate, x, n, &deltas->m.a, &deltas->m.b);
    return gate;
}

static void add_to(double *x, double *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] += y[i];
    free(y);
}

double *ref_vlora_block(const vtc_vlora_block_params *params, const vtc_vlora_block_weights *w,
                        const vtc_vlora_deltas *deltas, const double *hidden, size_t n,
                        const uint8_t *mask, const int32_t *positions)
{
    const vtc_norm first = { .weight = w->input_layernorm };
    const vtc_norm second = { .weight = w->post_attention_layernorm };
    const size_t count = n * w->q_proj.weight.dim[1];
    double *h = copy_of(hidden, count);
    double *x = normed(&first, VTC_NORM_RMS, params->eps, h, count);

    add_to(h, attention(params, w, deltas, x, n, mask, positions), count);
    free(x);
    x = normed(&second, VTC_NORM_RMS, params->eps, h, count);
    add_to(h, feed_forward(w, deltas, x, n), count);
    free(x);
    return h;
}
