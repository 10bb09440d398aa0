#include "hyper_reference.h"

#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ref_rotate(double *x, size_t d, double theta, int32_t position)
{
    for (size_t i = 0; i < d / 2; i++) {
        /* exponent, frequency and angle are floats in every implementation */
        const float power = (float)pow(theta, (double)((float)(2 * i) / (float)d));
        const float inverse = 1.0f / power;
        const float angle = (float)position * inverse;
        const double a = x[i], b = x[i + d / 2];

        x[i] = a * cos(angle) - b * sin(angle);
        x[i + d / 2] = b * cos(angle) + a * sin(angle);
    }
}

static double *copy_of(const double *x, size_t n)
{
    double *y = calloc(n + 1, sizeof(*y));

    if (y == NULL)
        abort();
    if (n != 0)
        memcpy(y, x, n * sizeof(*y));
    return y;
}

/* What one query head reads. */
struct reading {
    double *logit;
    const double **value;
    size_t n;
};

static void read_key(struct reading *r, const double *q, const double *k, const double *v, size_t d)
{
    double sum = 0.0;

    for (size_t i = 0; i < d; i++)
        sum += q[i] * k[i];
    r->logit[r->n] = sum / sqrt((double)d);
    r->value[r->n++] = v;
}

/* y [d]: softmax over the keys from `first` on. */
static void finish_reading(const struct reading *r, size_t first, size_t d, double *y)
{
    double top = -INFINITY, total = 0.0;

    for (size_t i = first; i < r->n; i++)
        top = fmax(top, r->logit[i]);
    for (size_t i = first; i < r->n; i++)
        total += exp(r->logit[i] - top);
    for (size_t c = 0; c < d; c++) {
        y[c] = 0.0;
        for (size_t i = first; i < r->n; i++)
            y[c] += exp(r->logit[i] - top) / total * r->value[i][c];
    }
}

static double logistic(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* The gates of one head, [d]. */
static void gates_of(const ref_hyper *h, size_t head, const double *s, size_t d, double *g)
{
    const size_t at = head * d;

    if (h->variant == VTC_HYPER_GATE) {
        double *gate = values_of(&h->weights->gate);

        for (size_t i = 0; i < d; i++)
            g[i] = logistic(gate[at + i]);
        free(gate);
        return;
    }
    double *y = apply_linear(&h->weights->gate_proj, copy_of(s, d), 1);

    for (size_t i = 0; i < d; i++)
        g[i] = logistic(y[i]);
    free(y);
}

/* One head of one token. */
static void attend(const ref_hyper *h, size_t t, size_t head, const double *q, const double *k,
                   const double *v, const double *u, size_t n_kv, size_t d, double *o)
{
    const size_t n_heads = h->params->n_heads, g = head / (n_heads / n_kv);
    const size_t n_visual = h->n_images * h->n_image_rows;
    double *gate = copy_of(o, d), *c = copy_of(o, d);
    struct reading r = { calloc(n_visual + t + 1, sizeof(double)),
                         calloc(n_visual + t + 1, sizeof(double *)), 0 };
    size_t n_seen;

    for (size_t n = 0; n < h->n_images; n++)
        for (size_t i = 0; i < h->n_image_rows; i++) {
            const double *pair = u + ((n * h->n_image_rows + i) * n_kv + g) * 2 * d;
            const int32_t start = h->starts[n];

            if (h->variant == VTC_HYPER_FUSED ? (int64_t)t >= start : (int64_t)t > start)
                read_key(&r, q, pair, pair + d, d);
        }
    n_seen = r.n;
    finish_reading(&r, 0, d, c);
    for (size_t i = 0; i <= t; i++)
        read_key(&r, q, k + (i * n_kv + g) * d, v + (i * n_kv + g) * d, d);
    finish_reading(&r, h->variant == VTC_HYPER_FUSED ? 0 : n_seen, d, o);
    if (h->variant != VTC_HYPER_FUSED && n_seen != 0) {
        gates_of(h, head, o, d, gate);
        for (size_t i = 0; i < d; i++)
            o[i] = (1.0 - gate[i]) * o[i] + gate[i] * c[i];
    }
    free(gate);
    free(c);
    free(r.logit);
    free(r.value);
}

static double *project(const vtc_linear *layer, const double *x, size_t n, size_t c)
{
    return apply_linear(layer, copy_of(x, n * c), n);
}

double *ref_hyper_attention(const ref_hyper *h)
{
    const vtc_hyper_attention_weights *w = h->weights;
    const size_t n = h->n_tokens, c = w->q_proj.weight.dim[1], n_heads = h->params->n_heads;
    const size_t d = w->q_proj.weight.dim[0] / n_heads, n_kv = w->k_proj.weight.dim[0] / d;
    const size_t n_visual = h->n_images * h->n_image_rows;
    const vtc_norm norm = { .weight = w->input_layernorm };
    double *x = copy_of(h->hidden, n * c), *y = copy_of(h->images, n_visual * c);
    double *q, *k, *v, *u, *o;

    apply_norm(&norm, VTC_NORM_RMS, h->params->eps, x, n * c);
    apply_norm(&norm, VTC_NORM_RMS, h->params->eps, y, n_visual * c);
    q = project(&w->q_proj, x, n, c);
    k = project(&w->k_proj, x, n, c);
    v = project(&w->v_proj, x, n, c);
    u = project(&w->v_kv_proj, y, n_visual, c);
    for (size_t i = 0; i < n * n_heads; i++)
        ref_rotate(q + i * d, d, h->params->rope_theta, (int32_t)(i / n_heads));
    for (size_t i = 0; i < n * n_kv; i++)
        ref_rotate(k + i * d, d, h->params->rope_theta, (int32_t)(i / n_kv));
    for (size_t i = 0; i < n_visual * n_kv; i++)
        ref_rotate(u + 2 * i * d, d, h->params->rope_theta,
                   h->starts[i / n_kv / h->n_image_rows] + (h->variant != VTC_HYPER_FUSED));
    o = copy_of(q, n * n_heads * d);
    for (size_t i = 0; i < n * n_heads; i++)
        attend(h, i / n_heads, i % n_heads, q + i * d, k, v, u, n_kv, d, o + i * d);
    free(x);
    free(y);
    free(q);
    free(k);
    free(v);
    free(u);
    return apply_linear(&w->o_proj, o, n);
}
