#include "attention_reference.h"

#include <math.h>
#include <stdlib.h>

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

double *attention_reference(const attention_shape *shape, const double *q, const double *k,
                            double scale, const size_t *seen, double *lse)
{
    const size_t n = shape->n_keys, d = shape->d, sharing = shape->n_heads / shape->n_key_heads;
    double *weights = calloc(shape->n_heads * shape->n_rows * n + 1, sizeof(*weights));

    for (size_t row = 0; row < shape->n_heads * shape->n_rows; row++) {
        const double *keys = k + row / shape->n_rows / sharing * n * d;
        double *p = weights + row * n, top = -INFINITY, sum = 0.0;
        const size_t n_seen = seen[row % shape->n_rows];

        for (size_t j = 0; j < n_seen; j++) {
            p[j] = scale * dot(q + row * d, keys + j * d, d);
            top = fmax(top, p[j]);
        }
        for (size_t j = 0; j < n_seen; j++)
            sum += exp(p[j] - top);
        for (size_t j = 0; j < n_seen; j++)
            p[j] = exp(p[j] - top) / sum;
        if (lse != NULL)
            lse[row] = top + log(sum);
    }
    return weights;
}

double *attention_reference_head_mean(const attention_shape *shape, const double *weights)
{
    const size_t size = shape->n_rows * shape->n_keys;
    double *mean = calloc(size + 1, sizeof(*mean));

    for (size_t h = 0; h < shape->n_heads; h++)
        for (size_t i = 0; i < size; i++)
            mean[i] += weights[h * size + i] / (double)shape->n_heads;
    return mean;
}

/* ---- one row ------------------------------------------------------------------------------- */

static double logit_of(const double *q, const double *k, const double *bias, double scale, size_t n,
                       size_t d)
{
    double sum = 0.0;

    for (size_t i = 0; i < d; i++)
        sum += q[i] * k[n * d + i];
    return scale * sum + (bias == NULL ? 0.0 : bias[n]);
}

static void add_scaled(double *y, const double *x, double w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += w * x[i];
}

void ref_attention_row(const double *q, const double *k, const double *v, const double *bias,
                       const bool *seen, double scale, bool blind_mean, size_t n, size_t d,
                       size_t e, double *y, double *top, double *log_sum_exp)
{
    double most = -INFINITY, sum = 0.0;

    for (size_t i = 0; i < e; i++)
        y[i] = 0.0;
    for (size_t i = 0; i < n; i++)
        if (seen[i])
            most = fmax(most, logit_of(q, k, bias, scale, i, d));
    for (size_t i = 0; i < n; i++) {
        const double w = seen[i] ? exp(logit_of(q, k, bias, scale, i, d) - most) : 0.0;

        sum += w;
        if (seen[i])
            add_scaled(y, v + i * e, w, e);
    }
    for (size_t i = 0; i < e && sum != 0.0; i++)
        y[i] /= sum;
    for (size_t i = 0; i < n && sum == 0.0 && blind_mean; i++)
        add_scaled(y, v + i * e, 1.0 / (double)n, e);
    if (top != NULL)
        *top = most;
    if (log_sum_exp != NULL)
        *log_sum_exp = sum == 0.0 ? -INFINITY : most + log(sum);
}
