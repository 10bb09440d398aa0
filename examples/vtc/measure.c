#include "measure.h"

#include <math.h>
#include <stdlib.h>

/* ---- nearest outputs ------------------------------------------------------------------------- */

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* 1 / length of each row, 0 for a row of zeros */
static void invert_lengths(const float *rows, size_t n, size_t width, double *inverse)
{
    for (size_t i = 0; i < n; i++) {
        const double square = dot(rows + i * width, rows + i * width, width);

        inverse[i] = square > 0.0 ? 1.0 / sqrt(square) : 0.0;
    }
}

bool find_nearest_outputs(struct tool *tool, const float *x, size_t n, const float *y, size_t m,
                          size_t width, int32_t *nearest, float *cosine)
{
    double *x_inverse = tool_new(tool, n, sizeof(*x_inverse));
    double *y_inverse = tool_new(tool, m, sizeof(*y_inverse));
    const bool done = x_inverse != NULL && y_inverse != NULL;

    if (done) {
        invert_lengths(x, n, width, x_inverse);
        invert_lengths(y, m, width, y_inverse);
    }
    for (size_t i = 0; done && i < n; i++) {
        double best = -2.0;

        nearest[i] = 0;
        for (size_t j = 0; j < m; j++) {
            const double value = dot(x + i * width, y + j * width, width) * y_inverse[j];

            if (y_inverse[j] > 0.0 && value * x_inverse[i] > best) {
                best = value * x_inverse[i];
                nearest[i] = (int32_t)j;
            }
        }
        cosine[i] = best < -1.5 ? 0.0f : (float)best;
    }
    free(x_inverse);
    free(y_inverse);
    return done;
}

/* ---- statistics ------------------------------------------------------------------------------ */

double mean_of(const double *values, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return sum / (double)n;
}

double spread_of(const double *values, size_t n)
{
    const double mean = mean_of(values, n);
    double sum = 0.0;

    for (size_t i = 0; i < n && n > 1; i++)
        sum += (values[i] - mean) * (values[i] - mean);
    return n > 1 ? sqrt(sum / (double)(n - 1)) : 0.0;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

double quantile_of(float *values, size_t n, double fraction)
{
    qsort(values, n, sizeof(*values), compare_floats);
    return values[(size_t)(fraction * (double)n)];
}

double psnr_of(const float *a, const float *b, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum > 0.0 ? -10.0 * log10(sum / (double)n) : HUGE_VAL;
}

/* ---- cost ------------------------------------------------------------------------------------ */

bool measure_cost(struct tool *tool, size_t n_visual, struct model_cost *cost)
{
    const vtc_decoder *decoder = vtc_decoder_find(COST_MODEL);
    double operations, bytes;

    if (!tool_check(tool, vtc_cost_prefill(decoder, n_visual, COST_TEXT_TOKENS,
                                           VTC_COST_FLOPS_GATED, &operations, &tool->exec)) ||
        !tool_check(tool, vtc_cost_kv_bytes(decoder, n_visual, 16, &bytes, &tool->exec)))
        return false;
    cost->tera_flops = operations * 1e-12;
    cost->kv_megabytes = bytes * 1e-6;
    return true;
}
