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

void vtci_focus_measure(const float *const *x, size_t n_rows, float *top, const float *y, size_t n,
                        double *dot, double *square)
{
    float dots[VTCI_MEASURED + 1], squares[VTCI_MEASURED + 1];

    vtci_kernels_get()->measure_rows(dots, squares, top, x, n_rows, y, n);
    for (size_t r = 0; r < n_rows + (top != NULL); r++) {
        const float *row = r < n_rows ? x[r] : top;
        const bool ordinary = fabsf(dots[r]) <= FLT_MAX && squares[r] <= FLT_MAX && n != 1;

        dot[r] = ordinary ? dots[r] : vtci_focus_dot(row, y, n);
        square[r] = ordinary ? squares[r] : vtci_focus_dot(row, row, n);
    }
}

/* ---- with the mean of the map ---------------------------------------------------------------- */

/* Tokens that are measured side by side, and their places in the list of the region. */
struct batch {
    const float *x[VTCI_MEASURED];
    size_t place[VTCI_MEASURED], n;
};

/* Measures the rows held and, unless it is NULL, the largest of them, which is the token at
 * top_place. */
static void measure_batch(const vtci_focus *f, struct batch *b, float *top, size_t top_place,
                          const vtci_focus_slice *slice)
{
    double dot[VTCI_MEASURED + 1], square[VTCI_MEASURED + 1];

    vtci_focus_measure(b->x, b->n, top, f->mean, f->x.n_cols, dot, square);
    for (size_t r = 0; r < b->n + (top != NULL); r++) {
        const size_t place = r < b->n ? b->place[r] : top_place;

        slice->cosine[place] = dot[r];
        slice->square[place] = square[r];
    }
    b->n = 0;
}

/* The positions of a box, whose list starts at place `first`. The last of them are left in b. */
static void hold_positions(const vtci_focus *f, const vtci_box *region, const vtci_box *box,
                           size_t first, const vtci_focus_slice *slice, struct batch *b)
{
    const size_t across = region->c1 - region->c0;

    b->n = 0;
    for (size_t r = box->r0; r < box->r1; r++)
        for (size_t c = box->c0; c < box->c1; c++) {
            if (b->n == VTCI_MEASURED)
                measure_batch(f, b, NULL, 0, slice);
            b->x[b->n] = vtci_focus_row(f, r, c, slice->rows + b->n * f->x.n_cols);
            b->place[b->n++] = first + (r - region->r0) * across + c - region->c0;
        }
}

/* The tokens of a scale. Before each the positions of its cell, if a finer scale has these as its
 * tokens: they are near then when they are pooled, and a token that is the largest of few is found
 * while they are measured. */
static void measure_scale(const vtci_focus *f, const vtci_box *region, size_t s, bool positions,
                          const vtci_focus_slice *slice)
{
    const size_t first = vtci_focus_first_cell(f, region, s);
    const size_t first_position = vtci_focus_first_cell(f, region, f->order[0]);
    const vtci_cells cells = vtci_focus_cells(f, region, s);

    for (size_t i = 0; i < cells.n; i++) {
        struct batch b = { .n = 0 };

        if (positions) {
            const vtci_box cell = vtci_cell(&cells, i);
            const bool is_small =
                vtci_box_area(&cell) <= VTCI_MEASURED && f->params.pool == VTC_FOCUSLLAVA_MAX;

            hold_positions(f, region, &cell, first_position, slice, &b);
            measure_batch(f, &b, is_small ? vtci_focus_place(f, s, i, slice) : NULL, first + i,
                          slice);
            if (is_small)
                continue;
        }
        b.x[0] = vtci_focus_token(f, &cells, s, i, slice);
        b.place[0] = first + i;
        b.n = 1;
        measure_batch(f, &b, NULL, 0, slice);
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
