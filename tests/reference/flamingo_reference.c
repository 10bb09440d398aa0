#include "flamingo_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *new_values(size_t n)
{
    double *values = calloc(n + 1, sizeof(*values));

    if (values == NULL)
        abort();
    return values;
}

static double *copy_of(const double *x, size_t n)
{
    return memcpy(new_values(n), x, n * sizeof(*x));
}

/* x W^T in new memory */
static double *times(const vtc_tensor *weight, const double *x, size_t n)
{
    const vtc_linear linear = { *weight, { 0 } };

    return apply_linear(&linear, copy_of(x, n * weight->dim[1]), n);
}

static double *normed(const vtc_norm *norm, float eps, const double *x, size_t n, size_t d)
{
    double *y = copy_of(x, n * d);

    apply_norm(norm, VTC_NORM_LAYER, (double)eps, y, n * d);
    return y;
}

static void add_to(double *x, const double *y, double factor, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += factor * y[i];
}

/* ---- attention ------------------------------------------------------------------------------- */

/* In place. */
static void softmax(double *x, size_t n)
{
    double top = -HUGE_VAL, sum = 0.0;

    for (size_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - top);
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* q [m, inner], kv [n, 2 inner]; `allowed` [m, n] or NULL, what it hides gets a large finite logit;
 * `silent` [m] or NULL: rows that get zero. Returns [m, inner]. */
static double *attend(const double *q, size_t m, const double *kv, size_t n, size_t inner,
                      size_t heads, const bool *allowed, const bool *silent)
{
    const size_t width = inner / heads;
    double *y = new_values(m * inner), *p = new_values(n);

    for (size_t i = 0; i < m * heads; i++) {
        const size_t row = i / heads, first = i % heads * width;

        for (size_t j = 0; j < n; j++) {
            p[j] = 0.0;
            for (size_t c = first; c < first + width; c++)
                p[j] += q[row * inner + c] * kv[j * 2 * inner + c] / sqrt((double)width);
            if (allowed != NULL && !allowed[row * n + j])
                p[j] = -1e300;
        }
        softmax(p, n);
        for (size_t j = 0; j < n && (silent == NULL || !silent[row]); j++)
            for (size_t c = first; c < first + width; c++)
                y[row * inner + c] += p[j] * kv[j * 2 * inner + inner + c];
    }
    free(p);
    return y;
}

static double *feed_forward(const vtc_norm *norm, float eps, const vtc_tensor *up,
                            const vtc_tensor *down, vtc_activation act, const double *x, size_t n)
{
    double *u = normed(norm, eps, x, n, up->dim[1]);
    double *hidden = times(up, u, n);
    double *y;

    apply_activation(act, hidden, n * up->dim[0]);
    y = times(down, hidden, n);
    free(u);
    free(hidden);
    return y;
}

/* ---- Perceiver ------------------------------------------------------------------------------- */

/* z [m, d], one layer, in place. */
static void perceive(const vtc_perceiver_params *p, const vtc_perceiver_layer *layer,
                     const double *x, size_t n, double *z, size_t m, size_t d)
{
    const size_t inner = layer->to_q.dim[0];
    double *media = normed(&layer->norm_media, p->eps, x, n, d);
    double *latents = normed(&layer->norm_latents, p->eps, z, m, d);
    double *all = new_values((n + m) * d), *q, *kv, *y, *out, *ff;

    memcpy(all, media, n * d * sizeof(*all));
    memcpy(all + n * d, latents, m * d * sizeof(*all));
    q = times(&layer->to_q, latents, m);
    kv = times(&layer->to_kv, all, n + m);
    y = attend(q, m, kv, n + m, inner, p->heads, NULL, NULL);
    out = times(&layer->to_out, y, m);
    add_to(z, out, 1.0, m * d);
    ff = feed_forward(&layer->ff_norm, p->eps, &layer->ff_up, &layer->ff_down, p->act, z, m);
    add_to(z, ff, 1.0, m * d);
    free(media);
    free(latents);
    free(all);
    free(q);
    free(kv);
    free(y);
    free(out);
    free(ff);
}

/* One media item of f frames of v tokens: adds its embeddings to x. */
static void add_embeddings(const vtc_perceiver_weights *w, double *x, size_t t, size_t f, size_t v,
                           size_t d)
{
    double *frames = vtc_tensor_is_absent(&w->frame_embs) ? NULL : values_of(&w->frame_embs);
    double *items =
        vtc_tensor_is_absent(&w->media_time_embs) ? NULL : values_of(&w->media_time_embs);

    for (size_t i = 0; i < f * v; i++) {
        if (frames != NULL)
            add_to(x + i * d, frames + i / v * d, 1.0, d);
        if (items != NULL)
            add_to(x + i * d, items + t * d, 1.0, d);
    }
    free(frames);
    free(items);
}

double *reference_perceiver(const vtc_perceiver_params *params,
                            const vtc_perceiver_weights *weights, const vtc_tensor *x)
{
    const int rank = x->rank;
    const size_t d = x->dim[rank - 1], v = x->dim[rank - 2], m = weights->latents.dim[0];
    const size_t f = rank == 5 ? x->dim[2] : 1, t = rank >= 4 ? x->dim[1] : 1;
    const size_t n_items = x->dim[0] * t, n = f * v;
    double *tokens = values_of(x), *latents = values_of(&weights->latents);
    double *y = new_values(n_items * m * d);

    for (size_t i = 0; i < n_items; i++) {
        double *z = y + i * m * d;

        add_embeddings(weights, tokens + i * n * d, i % t, f, v, d);
        memcpy(z, latents, m * d * sizeof(*z));
        for (size_t l = 0; l < weights->n_layers; l++)
            perceive(params, &weights->layers[l], tokens + i * n * d, n, z, m, d);
        apply_norm(&weights->norm, VTC_NORM_LAYER, (double)params->eps, z, m * d);
    }
    free(tokens);
    free(latents);
    return y;
}

/* ---- gated cross-attention ------------------------------------------------------------------- */

/* The mask of one sequence, [l, t n], and its silent rows. */
static void find_mask(const vtc_gated_xattn_params *p, const uint8_t *location, size_t n_locations,
                      size_t l, size_t t, size_t n, bool *allowed, bool *silent)
{
    size_t time = 0;

    for (size_t i = 0; p->cached_media && i < n_locations; i++)
        time += location[i] != 0;
    for (size_t i = 0; i < l; i++) {
        if (!p->cached_media)
            time += location[i] != 0;
        silent[i] = p->rule == VTC_MEDIA_IMMEDIATE && time == 0;
        for (size_t j = 0; j < t * n; j++)
            allowed[i * t * n + j] =
                p->rule == VTC_MEDIA_IMMEDIATE ? time == j / n + 1 : time >= j / n + 1;
    }
}

static double gate_of(const vtc_tensor *gate)
{
    return tanh((double)get_element(gate->data, gate->dtype, 0));
}

/* One sequence, in place. */
static void gated_block(const vtc_gated_xattn_params *p, const vtc_gated_xattn_weights *w,
                        double *x, size_t l, const double *media, size_t n_keys,
                        const bool *allowed, const bool *silent)
{
    const size_t d = w->to_q.dim[1];
    double *u = normed(&w->attn_norm, p->eps, x, l, d);
    double *q = times(&w->to_q, u, l), *kv = times(&w->to_kv, media, n_keys);
    double *y = attend(q, l, kv, n_keys, w->to_q.dim[0], p->heads, allowed, silent);
    double *out = times(&w->to_out, y, l), *ff;

    add_to(x, out, gate_of(&w->attn_gate), l * d);
    ff = feed_forward(&w->ff_norm, p->eps, &w->ff_up, &w->ff_down, p->act, x, l);
    add_to(x, ff, gate_of(&w->ff_gate), l * d);
    free(u);
    free(q);
    free(kv);
    free(y);
    free(out);
    free(ff);
}

double *reference_gated_xattn(const vtc_gated_xattn_params *params,
                              const vtc_gated_xattn_weights *weights, const vtc_tensor *x,
                              const vtc_tensor *media, const vtc_tensor *locations)
{
    const size_t n_batch = x->dim[0], l = x->dim[1], d = x->dim[2];
    const size_t t = media->dim[1], n = media->dim[2], keys = t * n;
    double *y = values_of(x), *from = values_of(media);
    bool *allowed = calloc(l * keys + 1, sizeof(*allowed)), *silent = calloc(l + 1, 1);

    if (allowed == NULL || silent == NULL)
        abort();
    for (size_t b = 0; b < n_batch; b++) {
        if (locations != NULL)
            find_mask(params, (const uint8_t *)locations->data + b * locations->stride[0],
                      locations->dim[1], l, t, n, allowed, silent);
        gated_block(params, weights, y + b * l * d, l, from + b * keys * media->dim[3], keys,
                    locations == NULL ? NULL : allowed, locations == NULL ? NULL : silent);
    }
    free(from);
    free(allowed);
    free(silent);
    return y;
}
