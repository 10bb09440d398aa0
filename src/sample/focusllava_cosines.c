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

void vtci_focus_measure(const float *const *x, size_t n_rows, bool own, float *top, const float *y,
                        size_t n, double *dot, double *square)
{
    float dots[VTCI_MEASURED + 1], squares[VTCI_MEASURED + 1];
    const size_t n_own = own ? n_rows : 0;

    vtci_kernels_get()->measure_rows(dots, squares, top, x, n_rows, own, y, n);
    for (size_t r = 0; r < n_own + (top != NULL); r++) {
        const float *row = r < n_own ? x[r] : top;
        const bool ordinary = fabsf(dots[r]) <= FLT_MAX && squares[r] <= FLT_MAX && n != 1;

        dot[r] = ordinary ? dots[r] : vtci_focus_dot(row, y, n);
        square[r] = ordinary ? squares[r] : vtci_focus_dot(row, row, n);
    }
}

/* ---- with the mean of the map ---------------------------------------------------------------- */

/* Rows that are measured side by side, and their places in the list of the region's tokens. */
struct batch {
    const float *x[VTCI_MEASURED];
    size_t place[VTCI_MEASURED], n;
    bool own; /* the rows are tokens themselves */
};

/* Measures the rows held and, unless it is NULL, the largest of them, which is the token at
 * top_place. */
static void measure_batch(const vtci_focus *f, struct batch *b, float *top, size_t top_place,
                          const vtci_focus_slice *slice)
{
    const size_t n_own = b->own ? b->n : 0;
    double dot[VTCI_MEASURED + 1], square[VTCI_MEASURED + 1];

    vtci_focus_measure(b->x, b->n, b->own, top, f->mean, f->x.n_cols, dot, square);
    for (size_t r = 0; r < n_own + (top != NULL); r++) {
        const size_t place = r < n_own ? b->place[r] : top_place;

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

    for (size_t r = box->r0; r < box->r1; r++)
        for (size_t c = box->c0; c < box->c1; c++) {
            if (b->n == VTCI_MEASURED)
                measure_batch(f, b, NULL, 0, slice);
            b->x[b->n] = vtci_focus_row(f, r, c, slice->rows + b->n * f->x.n_cols);
            b->place[b->n++] = first + (r - region->r0) * across + c - region->c0;
        }
}

static void hold_parts(const vtci_focus *f, const vtci_parts *parts, const vtci_focus_slice *slice,
                       struct batch *b)
{
    for (size_t r = parts->box.r0; r < parts->box.r1; r++)
        for (size_t c = parts->box.c0; c < parts->box.c1; c++)
            b->x[b->n++] = vtci_focus_place(f, parts->base, r * parts->n_across + c, slice);
}

/* Where the tokens of a scale, and those of the finest one, begin in a region's list. */
struct places {
    size_t tokens, positions;
    bool measures_positions; /* the finest scale's tokens, before they are pooled */
};

/* The token of a cell. If it is the largest of few rows it is found while these are read. */
static void measure_cell(const vtci_focus *f, const vtci_cells *cells, size_t s, size_t index,
                         const struct places *at, const vtci_focus_slice *slice)
{
    const vtci_box cell = vtci_cell(cells, index);
    const size_t place = at->tokens + index;
    struct batch b = { .own = at->measures_positions };
    bool few = f->params.pool == VTC_FOCUSLLAVA_MAX && vtci_box_area(&cell) <= VTCI_MEASURED;

    if (vtci_focus_has_base(f, s)) {
        const vtci_parts parts = vtci_focus_parts(f, cells, s, &cell);

        few = vtci_box_area(&parts.box) <= VTCI_MEASURED;
        if (few)
            hold_parts(f, &parts, slice, &b);
    } else if (few || at->measures_positions)
        hold_positions(f, &cells->region, &cell, at->positions, slice, &b);
    measure_batch(f, &b, few ? vtci_focus_place(f, s, index, slice) : NULL, place, slice);
    if (few)
        return;
    b = (struct batch){ { vtci_focus_token(f, cells, s, index, slice) }, { place }, 1, true };
    measure_batch(f, &b, NULL, 0, slice);
}

/* The tokens of all scales but the finest, if that has the positions as its tokens: these are
 * measured with the next one's cells, and are near when they are pooled. */
void vtci_focus_cosines(const vtci_focus *f, const vtci_box *region, const vtci_focus_slice *slice)
{
    const size_t n_scales = f->params.n_pools, n = vtci_focus_first_cell(f, region, n_scales);
    const bool joined = n_scales > 1 && f->params.pools[f->order[0]] == 1;

    for (size_t k = joined; k < n_scales; k++) {
        const vtci_cells cells = vtci_focus_cells(f, region, f->order[k]);
        const struct places at = { vtci_focus_first_cell(f, region, f->order[k]),
                                   vtci_focus_first_cell(f, region, f->order[0]),
                                   joined && k == 1 };

        for (size_t i = 0; i < cells.n; i++)
            measure_cell(f, &cells, f->order[k], i, &at, slice);
    }
    for (size_t i = 0; i < n; i++) {
        const double lengths = sqrt(slice->square[i]) * f->mean_length;

        slice->cosine[i] /= lengths > LEAST_LENGTH ? lengths : LEAST_LENGTH;
    }
}
