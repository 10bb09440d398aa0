#include "attention_reference.h"

#include <math.h>

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
