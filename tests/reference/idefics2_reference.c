/* Idefics2's connector, one image after another, with the whole of every array. */
#include "idefics2_reference.h"

#include "../support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *copy(const double *x, size_t n)
{
    double *y = malloc((n + 1) * sizeof(*y));

    assert_non_null(y);
    if (n != 0)
        memcpy(y, x, n * sizeof(*y));
    return y;
}

/* down(silu(gate x) * up x) of x [n, c]; x is freed. */
static double *gated_mlp(const vtc_gated_mlp *mlp, double *x, size_t n)
{
    const size_t c = mlp->gate.weight.dim[1], inner = mlp->gate.weight.dim[0];
    double *up = apply_linear(&mlp->up, copy(x, n * c), n);
    double *gate = apply_linear(&mlp->gate, x, n);

    for (size_t i = 0; i < n * inner; i++)
        gate[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
    free(up);
    return apply_linear(&mlp->down, gate, n);
}

static double *normed(const vtc_norm *norm, double eps, const double *x, size_t n)
{
    double *y = copy(x, n);

    apply_norm(norm, VTC_NORM_RMS, eps, y, n);
    return y;
}

/* Head h of q [m, H d] over keys [n, G d]; into out [m, H d]. */
static void attend(const double *q, const double *k, const double *v, size_t m, size_t n, size_t h,
                   size_t n_heads, size_t n_kv, size_t d, double *out)
{
    const size_t g = h / (n_heads / n_kv);
    double *p = malloc((n + 1) * sizeof(*p));

    for (size_t i = 0; i < m; i++) {
        const double *row = q + (i * n_heads + h) * d;
        double *to = out + (i * n_heads + h) * d;
        double top = -INFINITY, sum = 0.0;

        for (size_t j = 0; j < n; j++) {
            p[j] = 0.0;
            for (size_t c = 0; c < d; c++)
                p[j] += row[c] * k[(j * n_kv + g) * d + c] / sqrt((double)d);
            top = fmax(top, p[j]);
        }
        for (size_t j = 0; j < n; j++)
            sum += p[j] = exp(p[j] - top);
        memset(to, 0, d * sizeof(*to));
        for (size_t j = 0; j < n; j++)
            for (size_t c = 0; c < d; c++)
                to[c] += p[j] / sum * v[(j * n_kv + g) * d + c];
    }
    free(p);
}

static void add(double *x, double *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    free(y);
}

static void run_layer(const vtc_idefics2_params *p, const vtc_idefics2_layer *l,
                      const double *context, size_t n, double *z, size_t m)
{
    const size_t d = l->latents_norm.weight.dim[0], width = l->q.weight.dim[0] / p->n_heads;
    double *u = normed(&l->latents_norm, p->eps, z, m * d);
    double *c = normed(&l->context_norm, p->eps, context, n * d);
    double *both = malloc(((n + m) * d + 1) * sizeof(*both)), *q, *k, *v, *mix;

    memcpy(both, c, n * d * sizeof(*both));
    memcpy(both + n * d, u, m * d * sizeof(*both));
    q = apply_linear(&l->q, copy(u, m * d), m);
    k = apply_linear(&l->k, copy(both, (n + m) * d), n + m);
    v = apply_linear(&l->v, both, n + m);
    mix = malloc((m * p->n_heads * width + 1) * sizeof(*mix));
    for (size_t h = 0; h < p->n_heads; h++)
        attend(q, k, v, m, n + m, h, p->n_heads, p->n_kv_heads, width, mix);
    add(z, apply_linear(&l->o, mix, m), m * d);
    add(z, gated_mlp(&l->mlp, normed(&l->mlp_norm, p->eps, z, m * d), m), m * d);
    free(u);
    free(c);
    free(q);
    free(k);
    free(v);
}

static void run_image(const vtc_idefics2_params *params, const vtc_idefics2_weights *w, double *x,
                      size_t n, double *z)
{
    const size_t m = w->latents.dim[0], d = w->latents.dim[1];
    double *latents = values_of(&w->latents), *context = gated_mlp(&w->projection, x, n);

    memcpy(z, latents, m * d * sizeof(*z));
    for (size_t i = 0; i < w->n_layers; i++)
        run_layer(params, &w->layers[i], context, n, z, m);
    apply_norm(&w->norm, VTC_NORM_RMS, params->eps, z, m * d);
    free(context);
    free(latents);
}

double *idefics2_reference(const vtc_idefics2_params *params, const vtc_idefics2_weights *weights,
                           const vtc_tensor *x, const unsigned char *mask)
{
    const size_t b = x->dim[0], n = x->dim[1], c = x->dim[2];
    const size_t size = weights->latents.dim[0] * weights->latents.dim[1];
    double *all = values_of(x), *tokens = malloc((b * size + 1) * sizeof(*tokens));

    for (size_t i = 0; i < b; i++) {
        double *real = malloc((n * c + 1) * sizeof(*real));
        size_t n_real = 0;

        for (size_t j = 0; j < n; j++)
            if (mask == NULL || mask[i * n + j])
                memcpy(real + n_real++ * c, all + (i * n + j) * c, c * sizeof(*real));
        run_image(params, weights, real, n_real, tokens + i * size);
    }
    free(all);
    return tokens;
}
