#include "models.h"

#include <math.h>
#include <stdlib.h>

static double *new_values(size_t n)
{
    double *values = calloc(n + 1, sizeof(*values));

    if (values == NULL)
        abort();
    return values;
}

/* ---- weights --------------------------------------------------------------------------------- */

static vtc_tensor scaled(uint64_t *seed, vtc_dtype dtype, int rank, const size_t *dim, size_t gap,
                         float offset, float factor)
{
    const vtc_tensor t = make_tensor(dtype, rank, dim, gap);

    for (size_t i = 0; i < n_elements(&t); i++)
        set_element(t.data, dtype, element_at(&t, i), offset + factor * rng_f32(seed));
    guard_readonly(t.data);
    return t;
}

vtc_linear random_linear(uint64_t *seed, vtc_dtype dtype, size_t d, size_t c, bool bias, size_t gap)
{
    const size_t dim[] = { d, c };
    vtc_linear layer = { { 0 }, { 0 } };

    layer.weight = scaled(seed, dtype, 2, dim, gap, 0.0f, 1.7f / sqrtf((float)c + 1.0f));
    if (bias)
        layer.bias = scaled(seed, dtype, 1, dim, 0, 0.0f, 0.3f);
    return layer;
}

vtc_norm random_norm(uint64_t *seed, vtc_dtype dtype, size_t c, bool bias)
{
    vtc_norm norm = { { 0 }, { 0 } };

    norm.weight = scaled(seed, dtype, 1, &c, 0, 1.0f, 0.5f);
    if (bias)
        norm.bias = scaled(seed, dtype, 1, &c, 0, 0.0f, 0.3f);
    return norm;
}

vtc_norm_mlp_weights random_norm_mlp(uint64_t *seed, vtc_dtype dtype, size_t n_norm, size_t n_in,
                                     size_t n_hidden, size_t n_out, bool bias)
{
    vtc_norm_mlp_weights weights = { { { 0 }, { 0 } }, { { 0 }, { 0 } }, { { 0 }, { 0 } } };

    if (n_norm != 0)
        weights.norm = random_norm(seed, dtype, n_norm, bias);
    weights.fc1 = random_linear(seed, dtype, n_hidden, n_in, bias, 0);
    weights.fc2 = random_linear(seed, dtype, n_out, n_hidden, bias, 0);
    return weights;
}

void free_linear(vtc_linear *layer)
{
    guard_free(layer->weight.data);
    guard_free(layer->bias.data);
}

void free_norm(vtc_norm *norm)
{
    guard_free(norm->weight.data);
    guard_free(norm->bias.data);
}

void free_norm_mlp(vtc_norm_mlp_weights *weights)
{
    free_norm(&weights->norm);
    free_linear(&weights->fc1);
    free_linear(&weights->fc2);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* The values of a vector, or `fill` where there is none. */
static double *vector_of(const vtc_tensor *t, size_t n, double fill)
{
    double *values;

    if (!vtc_tensor_is_absent(t))
        return values_of(t);
    values = new_values(n);
    for (size_t i = 0; i < n; i++)
        values[i] = fill;
    return values;
}

double *apply_linear(const vtc_linear *layer, double *x, size_t n)
{
    const size_t d = layer->weight.dim[0], c = layer->weight.dim[1];
    double *w = values_of(&layer->weight), *b = vector_of(&layer->bias, d, 0.0);
    double *y = new_values(n * d);

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++) {
            double sum = b[j];

            for (size_t k = 0; k < c; k++)
                sum += x[i * c + k] * w[j * c + k];
            y[i * d + j] = sum;
        }
    free(w);
    free(b);
    free(x);
    return y;
}

static void normalize(double *x, size_t n, const double *w, const double *b, double eps, bool rms)
{
    double mean = 0.0, square = 0.0;

    for (size_t i = 0; i < n && !rms; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] - mean) / sqrt(square + eps) * w[i] + b[i];
}

void apply_norm(const vtc_norm *norm, vtc_norm_kind kind, double eps, double *x, size_t count)
{
    const size_t n = norm->weight.dim[0];
    double *w, *b;

    if (vtc_tensor_is_absent(&norm->weight))
        return;
    w = values_of(&norm->weight);
    b = vector_of(&norm->bias, n, 0.0);
    for (size_t at = 0; at < count; at += n)
        normalize(x + at, n, w, b, eps, kind == VTC_NORM_RMS);
    free(w);
    free(b);
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double activated(vtc_activation act, double x)
{
    switch (act) {
    case VTC_ACT_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x * sqrt(0.5)));
    case VTC_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case VTC_ACT_GELU_QUICK:
        return x * sigmoid(1.702 * x);
    case VTC_ACT_SILU:
        return x * sigmoid(x);
    case VTC_ACT_HARD_SWISH:
        return x * (x <= -3.0 ? 0.0 : x >= 3.0 ? 1.0 : (x + 3.0) / 6.0);
    case VTC_ACT_RELU2:
        return x <= 0.0 ? 0.0 : x * x;
    default:
        return x;
    }
}

void apply_activation(vtc_activation act, double *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] = activated(act, x[i]);
}

double *apply_norm_mlp(const vtc_norm_mlp_weights *weights, vtc_norm_kind kind, double eps,
                       vtc_activation act, double *x, size_t n)
{
    apply_norm(&weights->norm, kind, eps, x, n * weights->fc1.weight.dim[1]);
    x = apply_linear(&weights->fc1, x, n);
    apply_activation(act, x, n * weights->fc1.weight.dim[0]);
    return apply_linear(&weights->fc2, x, n);
}

/* ---- grids ----------------------------------------------------------------------------------- */

double *joined(const double *x, size_t h, size_t w, size_t c, size_t r, bool columns_first,
               bool padded)
{
    const size_t out_h = padded ? (h + r - 1) / r : h / r, out_w = padded ? (w + r - 1) / r : w / r;
    double *y = new_values(out_h * out_w * r * r * c);

    for (size_t i = 0; i < out_h * r && i < h; i++)
        for (size_t j = 0; j < out_w * r && j < w; j++) {
            const size_t block = columns_first ? j / r * out_h + i / r : i / r * out_w + j / r;
            const size_t cell = i % r * r + j % r;

            for (size_t k = 0; k < c; k++)
                y[(block * r * r + cell) * c + k] = x[(i * w + j) * c + k];
        }
    return y;
}
