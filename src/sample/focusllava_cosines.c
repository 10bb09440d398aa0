/*
 * FocusLLaVA's cosines: of any two tokens, and of all tokens of a region with the mean of the map.
 *
 * Products are formed in F32 and, where they leave its range, again in double.
 */
#include "focusllava.h"

#include "../kernels/kernels.h"

#include <float.h>
#include <math.h>

static const double LEAST_LENGTH = 1e-12; /* of the product of two lengths */

double vtci_focus_dot(const float *a, const float *b, size_t n)
{
    const float fast = vtci_kernels_get()->dot(a, b, n);
    double sum = 0.0;

    if (fabsf(fast) <= FLT_MAX && n != 1) /* one product is exact in double, and so are its ties */
        return fast;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

double vtci_focus_length(const float *x, size_t n)
{
    return sqrt(vtci_focus_dot(x, x, n));
}

double vtci_focus_cosine(const float *a, double a_length, const float *b, double b_length, size_t n)
{
    return vtci_focus_dot(a, b, n) / fmax(a_length * b_length, LEAST_LENGTH);
}

void vtci_focus_products(const float *x, const float *y, size_t n, double *dot, double *square)
{
    float fast_square;
    const float fast = vtci_kernels_get()->dot_and_square(x, y, n, &fast_square);
    const bool ordinary = fabsf(fast) <= FLT_MAX && fast_square <= FLT_MAX && n != 1;

    *dot = ordinary ? fast : vtci_focus_dot(x, y, n);
    *square = ordinary ? fast_square : vtci_focus_dot(x, x, n);
}

/* ---- with the mean of the map ---------------------------------------------------------------- */

static void measure(const vtci_focus *f, const float *token, size_t place,
                    const vtci_focus_slice *slice)
{
    vtci_focus_products(token, f->mean, f->x.n_cols, &slice->cosine[place], &slice->square[place]);
}

static void measure_positions(const vtci_focus *f, const vtci_box *region, const vtci_box *box,
                              size_t first, const vtci_focus_slice *slice)
{
    const size_t across = region->c1 - region->c0;

    for (size_t r = box->r0; r < box->r1; r++)
        for (size_t c = box->c0; c < box->c1; c++)
            measure(f, vtci_focus_row(f, r, c, slice->token),
                    first + (r - region->r0) * across + c - region->c0, slice);
}

/* The tokens of a scale. Before each the positions of its cell, if a finer scale has these as its
 * tokens: they are near then when they are pooled. */
static void measure_scale(const vtci_focus *f, const vtci_box *region, size_t s, bool positions,
                          const vtci_focus_slice *slice)
{
    const size_t first = vtci_focus_first_cell(f, region, s);
    const size_t first_position = vtci_focus_first_cell(f, region, f->order[0]);

    for (size_t i = 0; i < vtci_focus_n_cells(f, region, s); i++) {
        if (positions) {
            const vtci_box cell = vtci_focus_cell(f, region, s, i);

            measure_positions(f, region, &cell, first_position, slice);
        }
        measure(f, vtci_focus_token(f, region, s, i, slice), first + i, slice);
    }
}

void vtci_focus_cosines(const vtci_focus *f, const vtci_box *region, const vtci_focus_slice *slice)
{
    const size_t n_scales = f->params.n_pools, n = vtci_focus_first_cell(f, region, n_scales);
    const bool joined = n_scales > 1 && f->params.pools[f->order[0]] == 1;

    for (size_t k = joined; k < n_scales; k++)
        measure_scale(f, region, f->order[k], joined && k == 1, slice);
    for (size_t i = 0; i < n; i++) {
        const double lengths = sqrt(slice->square[i]) * f->mean_length;

        slice->cosine[i] /= lengths > LEAST_LENGTH ? lengths : LEAST_LENGTH;
    }
}
