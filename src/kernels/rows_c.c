/*
 * The row kernels in plain C: the reference that each vector form is tested against, and the table
 * of every CPU without one. Written to be read; functions and long sums are formed in
 * double.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

static float dot_c(const float *x, const float *y, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * y[i];
    return (float)sum;
}

static void measure_rows_c(float *dot, float *square, float *top, const float *const *x,
                           size_t n_rows, int own, const float *y, size_t n)
{
    for (size_t r = 0; own && r < n_rows; r++) {
        *dot++ = dot_c(x[r], y, n);
        *square++ = dot_c(x[r], x[r], n);
    }
    if (top == NULL)
        return;
    for (size_t i = 0; i < n; i++) {
        top[i] = -INFINITY;
        for (size_t r = 0; r < n_rows; r++)
            top[i] = x[r][i] > top[i] ? x[r][i] : top[i];
    }
    *dot = dot_c(top, y, n);
    *square = dot_c(top, top, n);
}

static void dot_rows_c(float *y, const float *x, const float *z, size_t stride, size_t n_rows,
                       size_t n)
{
    for (size_t r = 0; r < n_rows; r++)
        y[r] = dot_c(x, z + r * stride, n);
}

static void dot_heads_c(float *y, size_t y_stride, float *mean, const vtci_shared_heads *h,
                        size_t n_rows)
{
    const float weight = 1.0f / (float)h->n_groups;

    memset(mean, 0, n_rows * h->n * sizeof(*mean));
    for (size_t g = 0; g < h->n_groups; g++) {
        const float *z = h->z + g * h->z_step;

        for (size_t a = g * h->n_shared; a < (g + 1) * h->n_shared; a++)
            dot_rows_c(y + a * y_stride, h->x + a * h->x_stride, z, h->stride, n_rows, h->n);
        for (size_t r = 0; r < n_rows; r++)
            for (size_t i = 0; i < h->n; i++)
                mean[r * h->n + i] += weight * z[r * h->stride + i];
    }
}

static void dots_c(float *y, size_t y_stride, const float *const *x, size_t n_x, size_t x_step,
                   const float *const *z, size_t n_z, size_t z_step, size_t n_segments, size_t n)
{
    for (size_t a = 0; a < n_x; a++)
        for (size_t b = 0; b < n_z; b++) {
            double sum = 0.0;

            for (size_t s = 0; s < n_segments; s++)
                for (size_t i = 0; i < n; i++)
                    sum += (double)x[a][s * x_step + i] * z[b][s * z_step + i];
            y[a * y_stride + b] = (float)sum;
        }
}

static void square_distances_c(float *y, const float *x, const float *const *z, size_t n_rows,
                               size_t n)
{
    for (size_t r = 0; r < n_rows; r++) {
        double sum = 0.0;

        for (size_t i = 0; i < n; i++) {
            const double difference = (double)x[i] - z[r][i];

            sum += difference * difference;
        }
        y[r] = (float)sum;
    }
}

static void multiply_panels_c(float *c, size_t ldc, const float *a, size_t lda, const float *panels,
                              size_t m, size_t n_panels, size_t k)
{
    for (size_t j = 0; j < n_panels; j++, panels += k * VTCI_PANEL)
        for (size_t i = 0; i < m; i++) {
            float sum[VTCI_PANEL] = { 0.0f };

            for (size_t l = 0; l < k; l++)
                for (size_t col = 0; col < VTCI_PANEL; col++)
                    sum[col] += a[i * lda + l] * panels[l * VTCI_PANEL + col];
            memcpy(c + i * ldc + j * VTCI_PANEL, sum, sizeof(sum));
        }
}

static void scale_c(float *y, const float *x, float a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a * x[i];
}

static void add_c(float *y, const float *x, const float *z, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] + z[i];
}

static void multiply_c(float *y, const float *x, const float *z, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * z[i];
}

static void combine_c(float *y, const float *const *x, const float *w, size_t n_rows, size_t n,
                      int accumulate)
{
    for (size_t i = 0; i < n; i++) {
        float sum = accumulate ? y[i] : 0.0f;

        for (size_t r = 0; r < n_rows; r++)
            sum += w[r] * x[r][i];
        y[i] = sum;
    }
}

static void combine_each_c(float *y, const float *const *x, const float *const *w,
                           const float *bias, size_t n_rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = bias == NULL ? 0.0f : bias[i];

        for (size_t r = 0; r < n_rows; r++)
            sum += w[r][i] * x[r][i];
        y[i] = sum;
    }
}

static void combine_max_c(float *y, const float *const *x, const float *w, size_t n_rows, size_t n,
                          int accumulate)
{
    for (size_t i = 0; i < n; i++) {
        float top = accumulate ? y[i] : -INFINITY;

        for (size_t r = 0; r < n_rows; r++) {
            const float v = w == NULL ? x[r][i] : w[r] * x[r][i];

            /* a NaN in `top` loses no comparison and so stays */
            if (v > top || v != v)
                top = v;
        }
        y[i] = top;
    }
}

static float max_c(const float *x, size_t n)
{
    float top = -INFINITY;

    for (size_t i = 0; i < n; i++)
        if (x[i] > top)
            top = x[i];
    return top;
}

static size_t first_at_least_c(const float *x, size_t n, float bound)
{
    size_t i = 0;

    while (i < n && !(x[i] >= bound))
        i++;
    return i;
}

static void softmax_c(float *p, const float *x, const float *bias, float scale, size_t n)
{
    /* the maximum only keeps expf() in range, it cancels in the result */
    float top = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        p[i] = bias == NULL ? scale * x[i] : scale * x[i] + bias[i];
        if (p[i] > top)
            top = p[i];
    }

    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        p[i] = expf(p[i] - top);
        sum += p[i];
    }

    for (size_t i = 0; i < n; i++)
        p[i] = (float)(p[i] / sum);
}

static float exp_sum_c(float *p, const float *x, float scale, float top, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++) {
        const double logit = (double)scale * x[i] - top;

        p[i] = logit > 0.0 ? 1.0f : expf((float)logit);
        sum += p[i];
    }
    return (float)sum;
}

/* ---- activations ----------------------------------------------------------------------------- */

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* x held within [low, high]; NaN stays */
static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double activation(vtci_activation act, double x)
{
    switch (act) {
    case VTCI_ACT_GELU_ERF: /* 1 + erf(t) is erfc(-t), which does not cancel */
        return 0.5 * x * erfc(x * -0.70710678118654752);
    case VTCI_ACT_GELU_TANH: /* 1 + tanh(t) is 2 sigmoid(2 t); 1.59... is sqrt(8 / pi) */
        return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
    case VTCI_ACT_GELU_QUICK:
        return x * sigmoid(1.702 * x);
    case VTCI_ACT_SILU:
        return x * sigmoid(x);
    case VTCI_ACT_HARD_SWISH:
        return x * clamp(x + 3.0, 0.0, 6.0) / 6.0;
    case VTCI_ACT_RELU2:
        return clamp(x, 0.0, INFINITY) * clamp(x, 0.0, INFINITY);
    case VTCI_ACT_RELU:
        return clamp(x, 0.0, INFINITY);
    case VTCI_ACT_SIGMOID:
        return sigmoid(x);
    case VTCI_ACT_HARD_SIGMOID:
        return clamp(x + 3.0, 0.0, 6.0) / 6.0;
    default:
        return x;
    }
}

static void activate_c(vtci_activation act, float *y, const float *x, const float *bias, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)activation(act, bias == NULL ? x[i] : x[i] + bias[i]);
}

/* ---- norms ----------------------------------------------------------------------------------- */

static void layer_norm_c(float *y, const float *x, const float *w, const float *b, float eps,
                         size_t n)
{
    double sum = 0.0, square = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += x[i];
    const double mean = sum / (double)n;

    for (size_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean);
    const double inverse = 1.0 / sqrt(square / (double)n + eps);

    for (size_t i = 0; i < n; i++) {
        const float unit = (float)((x[i] - mean) * inverse);

        y[i] = unit * (w == NULL ? 1.0f : w[i]) + (b == NULL ? 0.0f : b[i]);
    }
}

static void rms_norm_c(float *y, const float *x, const float *w, float offset, float eps, size_t n)
{
    double square = 0.0;

    for (size_t i = 0; i < n; i++)
        square += (double)x[i] * x[i];
    const float inverse = (float)(1.0 / sqrt(square / (double)n + eps));

    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * inverse * (offset + w[i]);
}

/* ---- conversions ----------------------------------------------------------------------------- */

static uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Adds what makes cutting off the low bits a rounding to nearest, ties to even. */
static uint32_t round_off(uint32_t bits, int n_low)
{
    return bits + (1u << (n_low - 1)) - 1 + (bits >> n_low & 1);
}

static float widen_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 0x1f;
    const uint32_t fraction = half & 0x3ff;

    if (exponent == 0) /* zero or subnormal: a multiple of 2^-24 */
        return float_of(sign | bits_of((float)fraction * 0x1p-24f));
    if (exponent == 0x1f) /* Inf or NaN */
        return float_of(sign | 0x7f800000 | fraction << 13);
    return float_of(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

static uint16_t narrow_f16(float x)
{
    const uint32_t sign = bits_of(x) >> 16 & 0x8000;
    const uint32_t magnitude = bits_of(x) & 0x7fffffff;

    if (magnitude > 0x7f800000) /* NaN: quiet, as much of its payload as fits */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= bits_of(0x1p16f))
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < bits_of(0x1p-14f)) /* subnormal: beside 0.5 an ulp is 2^-24, so + rounds */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
    return (uint16_t)(sign | (round_off(magnitude, 13) - ((127 - 15) << 23)) >> 13);
}

static void f16_to_f32_c(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = widen_f16(x[i]);
}

static void f32_to_f16_c(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = narrow_f16(x[i]);
}

static float widen_bf16(uint16_t upper)
{
    return float_of((uint32_t)upper << 16);
}

static void bf16_to_f32_c(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = widen_bf16(x[i]);
}

static void f32_to_bf16_c(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]);

        /* rounding could carry a NaN to Inf, so its quiet bit is set instead */
        y[i] = (uint16_t)((x[i] != x[i] ? bits | 0x400000 : round_off(bits, 16)) >> 16);
    }
}

/* ---- combinations of 16-bit rows ------------------------------------------------------------- */

static inline void combine_wide(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                                size_t n, int accumulate, float (*widen)(uint16_t))
{
    for (size_t i = 0; i < n; i++) {
        float sum = accumulate ? y[i] : 0.0f;

        for (size_t r = 0; r < n_rows; r++)
            sum += w[r] * widen(x[r][i]);
        y[i] = sum;
    }
}

static void combine_f16_c(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                          size_t n, int accumulate)
{
    combine_wide(y, x, w, n_rows, n, accumulate, widen_f16);
}

static void combine_bf16_c(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                           size_t n, int accumulate)
{
    combine_wide(y, x, w, n_rows, n, accumulate, widen_bf16);
}

static inline void combine_max_wide(float *y, const uint16_t *const *x, const float *w,
                                    size_t n_rows, size_t n, int accumulate,
                                    float (*widen)(uint16_t))
{
    for (size_t i = 0; i < n; i++) {
        float top = accumulate ? y[i] : -INFINITY;

        for (size_t r = 0; r < n_rows; r++) {
            const float v = w == NULL ? widen(x[r][i]) : w[r] * widen(x[r][i]);

            if (v > top || v != v)
                top = v;
        }
        y[i] = top;
    }
}

static void combine_max_f16_c(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                              size_t n, int accumulate)
{
    combine_max_wide(y, x, w, n_rows, n, accumulate, widen_f16);
}

static void combine_max_bf16_c(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                               size_t n, int accumulate)
{
    combine_max_wide(y, x, w, n_rows, n, accumulate, widen_bf16);
}

/* ---- matrix tiles ---------------------------------------------------------------------------- */

enum { GEMM_ROWS = 4, GEMM_COLS = 16, GEMM_DEPTH = 192 };

static void gemm_tile_c(float *c, size_t ldc, const float *a, size_t row_stride, size_t step,
                        const float *b, size_t ldb, size_t k, size_t m, size_t n, int accumulate,
                        vtci_ahead ahead)
{
    float sum[GEMM_ROWS][GEMM_COLS] = { { 0.0f } };

    (void)ahead; /* the sums take far longer than the memory */
    for (size_t p = 0; p < k; p++, b += ldb)
        for (size_t i = 0; i < m; i++) {
            const float x = a[i * row_stride + p * step];

            for (size_t j = 0; j < n; j++)
                sum[i][j] += x * b[j];
        }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = accumulate ? c[i * ldc + j] + sum[i][j] : sum[i][j];
}

/* ---- copies ---------------------------------------------------------------------------------- */

static void stream_rows_c(char *const *to, const char *const *from, size_t n_rows, size_t bytes)
{
    for (size_t r = 0; r < n_rows; r++)
        memcpy(to[r], from[r], bytes);
}

const vtci_kernels vtci_kernels_c = {
    .name = "c",
    .dot = dot_c,
    .measure_rows = measure_rows_c,
    .dot_rows = dot_rows_c,
    .dot_heads = dot_heads_c,
    .dots = dots_c,
    .square_distances = square_distances_c,
    .multiply_panels = multiply_panels_c,
    .scale = scale_c,
    .add = add_c,
    .multiply = multiply_c,
    .combine = combine_c,
    .combine_f16 = combine_f16_c,
    .combine_bf16 = combine_bf16_c,
    .combine_each = combine_each_c,
    .combine_max = combine_max_c,
    .combine_max_f16 = combine_max_f16_c,
    .combine_max_bf16 = combine_max_bf16_c,
    .max = max_c,
    .first_at_least = first_at_least_c,
    .softmax = softmax_c,
    .exp_sum = exp_sum_c,
    .activate = activate_c,
    .layer_norm = layer_norm_c,
    .rms_norm = rms_norm_c,
    .f16_to_f32 = f16_to_f32_c,
    .f32_to_f16 = f32_to_f16_c,
    .bf16_to_f32 = bf16_to_f32_c,
    .f32_to_bf16 = f32_to_bf16_c,
    .gemm_rows = GEMM_ROWS,
    .gemm_cols = GEMM_COLS,
    .gemm_depth = GEMM_DEPTH,
    .gemm_is_fast = 0,
    .gemm_tile = gemm_tile_c,
    .stream_rows = stream_rows_c,
};
