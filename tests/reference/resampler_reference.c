/* The resamplers, one group after another, with the whole of every array. */
#include "resampler_reference.h"

#include "../support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *zeros(size_t n)
{
    double *x = calloc(n + 1, sizeof(*x));

    assert_non_null(x);
    return x;
}

static double table_value(size_t width, double p, size_t c)
{
    const size_t half = width / 2;
    const double angle = p * pow(10000.0, -(double)(c % half) / (double)half);

    return c < half ? sin(angle) : cos(angle);
}

static double cubic(double t)
{
    const double a = -0.75;

    t = fabs(t);
    return t <= 1.0  ? (a + 2) * t * t * t - (a + 3) * t * t + 1
           : t < 2.0 ? a * t * t * t - 5 * a * t * t + 8 * a * t - 4 * a
                     : 0.0;
}

/* The stored g x g table at output (row, col) of n x n: a sum over all stored positions. */
static double resized(const vtc_tensor *table, size_t n, size_t row, size_t col, size_t c)
{
    const long g = lround(sqrt((double)table->dim[0]));
    const double y = ((double)row + 0.5) * (double)g / (double)n - 0.5;
    const double x = ((double)col + 0.5) * (double)g / (double)n - 0.5;
    double sum = 0.0;

    for (long i = -2; i < g + 2; i++)
        for (long j = -2; j < g + 2; j++) {
            const long r = i < 0 ? 0 : i >= g ? g - 1 : i, s = j < 0 ? 0 : j >= g ? g - 1 : j;

            sum += cubic(y - (double)i) * cubic(x - (double)j) *
                   get_element(table->data, table->dtype,
                               element_at(table, (size_t)(r * g + s) * table->dim[1] + c));
        }
    return sum;
}

double resampler_position(const vtc_resampler_params *params, const vtc_resampler_weights *weights,
                          const int32_t *grid, size_t row, size_t col, size_t c)
{
    const size_t half = weights->query.dim[1] / 2;

    if (params->variant == VTC_RESAMPLER_QWEN_VL)
        return resized(&weights->pos_embed, (size_t)grid[0], row, col, c);
    return c < half ? table_value(half, (double)col, c) : table_value(half, (double)row, c - half);
}

/* softmax(q k^T / sqrt(width)) v for every head; [m, d] */
static double *attend(const double *q, const double *k, const double *v, size_t m, size_t n,
                      size_t d, size_t width)
{
    double *out = zeros(m * d), *p = zeros(n);

    for (size_t i = 0; i < m; i++)
        for (size_t h = 0; h < d / width; h++) {
            double top = -INFINITY, sum = 0.0;

            for (size_t j = 0; j < n; j++) {
                p[j] = 0.0;
                for (size_t c = h * width; c < (h + 1) * width; c++)
                    p[j] += q[i * d + c] * k[j * d + c] / sqrt((double)width);
                top = fmax(top, p[j]);
            }
            for (size_t j = 0; j < n; j++)
                sum += p[j] = exp(p[j] - top);
            for (size_t j = 0; j < n; j++)
                for (size_t c = h * width; c < (h + 1) * width; c++)
                    out[i * d + c] += p[j] / sum * v[j * d + c];
        }
    free(p);
    return out;
}

/* x W[first .. first + d - 1]^T + b of the in_proj; x stays. */
static double *in_proj(const vtc_resampler_weights *w, size_t part, const double *x, size_t n)
{
    const size_t d = w->query.dim[1];
    double *weight = values_of(&w->in_proj.weight), *bias = values_of(&w->in_proj.bias);
    double *y = zeros(n * d);

    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < d; o++) {
            y[i * d + o] = bias[part * d + o];
            for (size_t c = 0; c < d; c++)
                y[i * d + o] += x[i * d + c] * weight[(part * d + o) * d + c];
        }
    free(weight);
    free(bias);
    return y;
}

/* v and v + P of image b, behind `n` rows of its group; the number of its patches. */
static size_t read_image(const vtc_resampler_params *params, const vtc_resampler_weights *w,
                         const double *x, size_t n_vision, const vtc_resampler_images *images,
                         size_t b, double *v, double *k)
{
    const int32_t *grid = images->grids + 2 * b;
    const size_t n = (size_t)(grid[0] * grid[1]), d = w->query.dim[1];
    double *y = zeros(n * n_vision);

    memcpy(y, x, n * n_vision * sizeof(*y));
    if (!vtc_tensor_is_absent(&w->kv_proj.weight))
        y = apply_linear(&w->kv_proj, y, n);
    apply_norm(&w->ln_kv, VTC_NORM_LAYER, params->eps, y, n * d);
    for (size_t i = 0; i < n * d; i++) {
        const size_t patch = i / d, cols = (size_t)grid[1];

        v[i] = y[i];
        k[i] = y[i] + resampler_position(params, w, grid, patch / cols, patch % cols, i % d);
        if (images->frame_ids != NULL && images->frame_ids[b] >= 0)
            k[i] += table_value(d, (double)images->frame_ids[b], i % d);
    }
    free(y);
    return n;
}

static double *queries_of(const vtc_resampler_params *params, const vtc_resampler_weights *w)
{
    const size_t n = w->query.dim[0] * w->query.dim[1];
    double *q = values_of(&w->query), *projected;

    apply_norm(&w->ln_q, VTC_NORM_LAYER, params->eps, q, n);
    if (params->variant != VTC_RESAMPLER_MINICPMV) {
        double *stored = values_of(&w->pos_embed);

        for (size_t i = 0; i < n; i++)
            q[i] += stored[i];
        free(stored);
    }
    projected = in_proj(w, 0, q, w->query.dim[0]);
    free(q);
    return projected;
}

/* LN(Wo a + bo) proj into `out`; a is freed. */
static void finish(const vtc_resampler_params *params, const vtc_resampler_weights *w, double *a,
                   double *out)
{
    const size_t m = w->query.dim[0], d = w->query.dim[1];
    double *y = apply_linear(&w->out_proj, a, m), *proj = values_of(&w->proj);

    apply_norm(&w->ln_post, VTC_NORM_LAYER, params->eps, y, m * d);
    for (size_t i = 0; i < m * d; i++) {
        out[i] = 0.0;
        for (size_t c = 0; c < d; c++)
            out[i] += y[i / d * d + c] * proj[c * d + i % d];
    }
    free(y);
    free(proj);
}

double *resampler_reference(const vtc_resampler_params *params,
                            const vtc_resampler_weights *weights, const vtc_tensor *x,
                            const vtc_resampler_images *images)
{
    const size_t b = x->dim[0], n = x->dim[1], c = x->dim[2];
    const size_t m = weights->query.dim[0], d = weights->query.dim[1];
    const size_t n_groups = images->group_sizes == NULL ? b : images->n_groups;
    double *all = values_of(x), *q = queries_of(params, weights), *tokens = zeros(n_groups * m * d);

    for (size_t g = 0, at = 0; g < n_groups; g++) {
        const size_t size = images->group_sizes == NULL ? 1 : (size_t)images->group_sizes[g];
        double *v = zeros(size * n * d), *k = zeros(size * n * d), *kp, *vp;
        size_t rows = 0;

        for (size_t i = 0; i < size; i++, at++)
            rows += read_image(params, weights, all + at * n * c, c, images, at, v + rows * d,
                               k + rows * d);
        kp = in_proj(weights, 1, k, rows);
        vp = in_proj(weights, 2, v, rows);
        finish(params, weights, attend(q, kp, vp, m, rows, d, d / params->n_heads),
               tokens + g * m * d);
        free(v);
        free(k);
        free(kp);
        free(vp);
    }
    free(all);
    free(q);
    return tokens;
}
