#include "pool_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Channel `ch` over rows r0 .. r1 - 1 and columns c0 .. c1 - 1. */
static double window(const double *x, size_t w, size_t c, size_t r0, size_t r1, size_t c0,
                     size_t c1, size_t ch, bool max)
{
    double sum = 0.0, top = -INFINITY;
    bool has_nan = false;

    for (size_t i = r0; i < r1; i++)
        for (size_t j = c0; j < c1; j++) {
            const double v = x[(i * w + j) * c + ch];

            sum += v;
            top = fmax(top, v);
            has_nan = has_nan || isnan(v);
        }
    if (max)
        return has_nan ? NAN : top;
    return sum / (double)((r1 - r0) * (c1 - c0));
}

void ref_pool_windows(const double *x, size_t h, size_t w, size_t c, size_t kernel, size_t stride,
                      bool max, double *y)
{
    for (size_t i = 0; i + kernel <= h; i += stride)
        for (size_t j = 0; j + kernel <= w; j += stride)
            for (size_t ch = 0; ch < c; ch++)
                *y++ = window(x, w, c, i, i + kernel, j, j + kernel, ch, max);
}

void ref_pool_adaptive(const double *x, size_t h, size_t w, size_t c, size_t oh, size_t ow,
                       bool max, double *y)
{
    for (size_t i = 0; i < oh; i++)
        for (size_t j = 0; j < ow; j++)
            for (size_t ch = 0; ch < c; ch++)
                *y++ = window(x, w, c, i * h / oh, ((i + 1) * h + oh - 1) / oh, j * w / ow,
                              ((j + 1) * w + ow - 1) / ow, ch, max);
}

/* Both neighbours of output position i and the share of the second. */
static void neighbours(size_t n_in, size_t n_out, size_t i, size_t *first, size_t *second,
                       double *share)
{
    const double position = ((double)i + 0.5) * ((double)n_in / (double)n_out) - 0.5;
    const double clamped = position < 0.0 ? 0.0 : position;

    *first = (size_t)fmin(floor(clamped), (double)(n_in - 1));
    *second = *first + 1 < n_in ? *first + 1 : n_in - 1;
    *share = clamped - (double)*first;
}

void ref_pool_bilinear(const double *x, size_t h, size_t w, size_t c, size_t oh, size_t ow,
                       double *y)
{
    size_t r0, r1, c0, c1;
    double fr, fc;

    for (size_t i = 0; i < oh; i++)
        for (size_t j = 0; j < ow; j++) {
            neighbours(h, oh, i, &r0, &r1, &fr);
            neighbours(w, ow, j, &c0, &c1, &fc);
            for (size_t ch = 0; ch < c; ch++) {
                const double top =
                    (1.0 - fc) * x[(r0 * w + c0) * c + ch] + fc * x[(r0 * w + c1) * c + ch];
                const double bottom =
                    (1.0 - fc) * x[(r1 * w + c0) * c + ch] + fc * x[(r1 * w + c1) * c + ch];

                *y++ = (1.0 - fr) * top + fr * bottom;
            }
        }
}

void ref_join_tiles(const double *x, size_t tiles_h, size_t tiles_w, size_t h, size_t w, size_t c,
                    double *y)
{
    for (size_t p = 0; p < tiles_h; p++)
        for (size_t i = 0; i < h; i++)
            for (size_t q = 0; q < tiles_w; q++) {
                memcpy(y, x + ((p * tiles_w + q) * h + i) * w * c, w * c * sizeof(*y));
                y += w * c;
            }
}

void ref_crop(const double *x, size_t w, size_t c, size_t row0, size_t col0, size_t rows,
              size_t cols, double *y)
{
    for (size_t i = 0; i < rows; i++)
        memcpy(y + i * cols * c, x + ((row0 + i) * w + col0) * c, cols * c * sizeof(*y));
}

static void normalize(double *z, size_t c, double eps, const double *factor)
{
    double squares = 0.0;

    for (size_t ch = 0; ch < c; ch++)
        squares += z[ch] * z[ch];
    for (size_t ch = 0; ch < c; ch++)
        z[ch] *= factor[ch] / sqrt(squares / (double)c + eps);
}

void ref_gemma3(const double *x, size_t side, size_t tokens, size_t c, double eps,
                const double *factor, const double *weight, size_t d, double *y)
{
    const size_t kernel = side / tokens, n = tokens * tokens;
    double *z = calloc(n * c + 1, sizeof(*z));

    if (z == NULL)
        abort();
    ref_pool_windows(x, side, side, c, kernel, kernel, false, z);
    for (size_t i = 0; i < n; i++) {
        normalize(z + i * c, c, eps, factor);
        for (size_t j = 0; j < d; j++) {
            double sum = 0.0;

            for (size_t ch = 0; ch < c; ch++)
                sum += z[i * c + ch] * weight[ch * d + j];
            y[i * d + j] = sum;
        }
    }
    free(z);
}
