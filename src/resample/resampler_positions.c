/*
 * Positions of the resamplers' keys.
 *
 * Sin-cos tables: the first half of a row encodes the column, the second the row of the grid, so
 * one table of 1-D rows serves both. Stored square tables are resized by bicubic interpolation with
 * a = -0.75, half-pixel centres and indices clamped at the border, without antialiasing.
 */
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "resampler.h"

#include <math.h>
#include <string.h>

enum { TASK_ROWS = 16, TAPS = 4 };

void vtci_sincos_row(float *row, size_t c, int32_t p)
{
    const size_t half = c / 2;

    /* every step is rounded to F32, as in the models' tables: at large p it shows */
    for (size_t i = 0; i < half; i++) {
        const float omega = 1.0f / powf(10000.0f, (float)i / (float)half);
        const float angle = (float)p * omega;

        row[i] = sinf(angle);
        row[half + i] = cosf(angle);
    }
}

size_t vtci_resampler_table_floats(const vtci_resampler *m, size_t side)
{
    return vtci_add(vtci_mul(side, m->d / 2), m->d);
}

/* ---- fresh tables ---------------------------------------------------------------------------- */

static void fill_row(void *job, size_t index, size_t worker)
{
    const vtci_resampler_positions *p = job;
    const size_t half = p->m->d / 2;

    (void)worker;
    vtci_sincos_row(p->table + index * half, half, (int32_t)index);
}

static float *frame_row(const vtci_resampler_positions *p)
{
    return p->table + vtci_max(p->n_rows, p->n_cols) * (p->m->d / 2);
}

static void add_fresh(const vtci_resampler_positions *p, size_t i)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t d = p->m->d, half = d / 2;
    const float *column = p->table + i % p->n_cols * half, *row = p->table + i / p->n_cols * half;
    const float *x = p->x + i * d;
    float *y = p->y + i * d;

    k->add(y, x, column, half);
    k->add(y + half, x + half, row, half);
    if (p->frame >= 0)
        k->add(y, y, frame_row(p), d);
}

/* ---- resized tables -------------------------------------------------------------------------- */

/* The four neighbours of output o of `n` on an axis of g stored positions. */
struct taps {
    size_t at[TAPS];
    float weight[TAPS];
};

static double cubic(double t)
{
    const double a = -0.75;

    t = fabs(t);
    if (t <= 1.0)
        return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    return ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
}

static struct taps taps_of(size_t o, size_t n, size_t g)
{
    const double s = ((double)o + 0.5) * (double)g / (double)n - 0.5, base = floor(s);
    struct taps taps;

    for (int i = 0; i < TAPS; i++) {
        const double at = base + i - 1;

        taps.at[i] = (size_t)fmax(0.0, fmin((double)(g - 1), at));
        taps.weight[i] = (float)cubic(s - at);
    }
    return taps;
}

size_t vtci_square_side(size_t n, bool *exact)
{
    const size_t side = (size_t)nearbyint(sqrt((double)n));

    *exact = vtci_mul(side, side) == n;
    return side;
}

static void add_resized(const vtci_resampler_positions *p, size_t i)
{
    const vtci_rows stored = vtci_rows_of(&p->m->w.pos_embed);
    const size_t g = p->side, d = p->m->d;
    const struct taps down = taps_of(i / p->n_cols, p->n_rows, g);
    const struct taps across = taps_of(i % p->n_cols, p->n_cols, g);
    float *y = p->y + i * d;
    vtci_combine c;

    vtci_combine_begin(&c, y, d, stored.dtype, false);
    for (int r = 0; r < TAPS; r++)
        for (int s = 0; s < TAPS; s++)
            if (down.weight[r] != 0.0f && across.weight[s] != 0.0f)
                vtci_combine_add(&c, vtci_row(&stored, 0, down.at[r] * g + across.at[s]),
                                 down.weight[r] * across.weight[s]);
    vtci_combine_end(&c);
    vtci_kernels_get()->add(y, y, p->x + i * d, d);
}

/* ---- all keys -------------------------------------------------------------------------------- */

static void add_rows(void *job, size_t index, size_t worker)
{
    const vtci_resampler_positions *p = job;
    const size_t end = vtci_min(p->n_rows * p->n_cols, (index + 1) * TASK_ROWS);

    (void)worker;
    for (size_t i = index * TASK_ROWS; i < end; i++)
        if (p->m->params.variant == VTC_RESAMPLER_QWEN_VL)
            add_resized(p, i);
        else
            add_fresh(p, i);
}

void vtci_resampler_add_positions(const vtci_resampler_positions *positions)
{
    vtci_resampler_positions p = *positions;
    const vtci_call *call = p.m->call;
    bool exact;

    p.side = vtci_square_side(p.m->n_queries, &exact);

    if (p.m->params.variant != VTC_RESAMPLER_QWEN_VL)
        vtci_parallel(call, vtci_max(p.n_rows, p.n_cols), fill_row, &p);
    if (p.frame >= 0)
        vtci_sincos_row(frame_row(&p), p.m->d, p.frame);
    vtci_parallel(call, vtci_ceil_div(p.n_rows * p.n_cols, TASK_ROWS), add_rows, &p);
}
