/*
 * Clustering by density peaks (DPC-KNN) as SparseVLM uses it.
 *
 * Source: Rodriguez and Laio, "Clustering by fast search and find of density peaks", Science 2014;
 * Du et al., 2016, for the k nearest neighbours; the form of SparseVLM's code.
 *
 *     distance  = |x_i - x_j| / sqrt(C)
 *     density   = exp(-mean of the k smallest squared distances, the row itself included) + noise
 *     indicator = distance to the nearest denser row, else the largest distance of all
 *     centres   = the k largest density * indicator; other rows join the nearest centre
 *
 * Ties go to the row or centre that comes first; of two rows of equal density the first is denser.
 * Distances are sums of squared differences, each pair once: lengths and dot products would lose
 * near rows to cancellation, and mutual neighbours would no longer tie exactly.
 */
#include "density_cluster.h"

#include "../kernels/kernels.h"
#include "../linalg/order.h"
#include "../linalg/rows.h"

#include <float.h>
#include <math.h>

enum { BLOCK = 8 }; /* rows of a side of a task's pairs: 8 of 1024 channels fit the nearest cache */

void vtci_density_lay_out(vtci_arena *arena, vtci_density *d)
{
    d->wide = NULL;
    if (d->x.dtype != VTC_F32)
        d->wide = vtci_take(arena, vtci_mul(d->n, d->x.n_cols), sizeof(*d->wide));
    d->distance = vtci_take(arena, vtci_mul(d->n, d->n), sizeof(*d->distance));
    d->nearest = vtci_take(arena, d->k, sizeof(*d->nearest));
    d->density = vtci_take(arena, d->n, sizeof(*d->density));
    d->product = vtci_take(arena, d->n, sizeof(*d->product));
    d->order = vtci_take(arena, d->n, sizeof(*d->order));
    d->centre = vtci_take(arena, d->k, sizeof(*d->centre));
    d->cluster = vtci_take(arena, d->n, sizeof(*d->cluster));
}

/* ---- distances ------------------------------------------------------------------------------- */

static const float *row_at(const vtci_density *d, size_t i)
{
    if (d->wide != NULL)
        return d->wide + i * d->x.n_cols;
    return (const float *)(const void *)vtci_row(&d->x, 0, (size_t)d->row[i]);
}

static void widen_block(void *job, size_t index, size_t worker)
{
    const vtci_density *d = job;

    (void)worker;
    for (size_t i = index * BLOCK; i < vtci_min(d->n, (index + 1) * BLOCK); i++)
        vtci_load_row(vtci_row(&d->x, 0, (size_t)d->row[i]), d->x.dtype, d->x.n_cols,
                      d->wide + i * d->x.n_cols);
}

/* A square that float32 has found, formed again in double if it left the range. */
static double in_range(float fast, const float *x, const float *y, size_t n)
{
    double sum = 0.0;

    if (fast == 0.0f || (fast > 0x1p-80f && fast <= FLT_MAX))
        return fast;
    for (size_t c = 0; c < n; c++)
        sum += ((double)x[c] - y[c]) * ((double)x[c] - y[c]);
    return sum;
}

/* Distances of row i from rows begin .. end - 1. */
static void measure_row(const vtci_density *d, size_t i, size_t begin, size_t end)
{
    const size_t n = d->n, channels = d->x.n_cols;
    const double width = sqrt((double)vtci_max(1, channels));
    const float *x = row_at(d, i), *y[BLOCK];
    float square[BLOCK];

    for (size_t j = begin; j < end; j++)
        y[j - begin] = row_at(d, j);
    vtci_kernels_get()->square_distances(square, x, y, end - begin, channels);
    for (size_t j = begin; j < end; j++) {
        const double exact = in_range(square[j - begin], x, y[j - begin], channels);

        d->distance[i * n + j] = d->distance[j * n + i] = (float)(sqrt(exact) / width);
    }
}

/* Block `index` of the pairs of blocks (a, b), a <= b, counted row by row. */
static void measure_block(void *job, size_t index, size_t worker)
{
    const vtci_density *d = job;
    const size_t n = d->n, n_blocks = vtci_ceil_div(n, BLOCK);
    size_t a = 0;

    (void)worker;
    for (; index >= n_blocks - a; a++)
        index -= n_blocks - a;
    const size_t b = a + index, end = vtci_min(n, (b + 1) * BLOCK);

    for (size_t i = a * BLOCK; i < vtci_min(n, (a + 1) * BLOCK); i++)
        measure_row(d, i, vtci_max(i, b * BLOCK), end);
}

static vtc_status measure(vtci_density *d)
{
    const size_t n_blocks = vtci_ceil_div(d->n, BLOCK);

    if (d->wide != NULL)
        vtci_parallel(d->call, n_blocks, widen_block, d);
    vtci_parallel(d->call, n_blocks * (n_blocks + 1) / 2, measure_block, d);
    for (size_t i = 0; i < d->n; i++)
        for (size_t j = i; j < d->n; j++)
            VTCI_REQUIRE(d->call, d->distance[i * d->n + j] <= FLT_MAX, VTC_ERR_DATA,
                         "the distance of hidden rows %d and %d is not finite", (int)d->row[i],
                         (int)d->row[j]);
    return VTC_OK;
}

/* ---- densities and centres ------------------------------------------------------------------- */

/* The mean of the k smallest squared distances of a row. */
static double mean_nearest(const vtci_density *d, const float *distance)
{
    float *nearest = d->nearest;
    size_t n_found = 0;
    double sum = 0.0;

    for (size_t j = 0; j < d->n; j++) {
        if (n_found == d->k && distance[j] >= nearest[d->k - 1])
            continue;
        size_t at = n_found < d->k ? n_found++ : d->k - 1;

        for (; at > 0 && nearest[at - 1] > distance[j]; at--)
            nearest[at] = nearest[at - 1];
        nearest[at] = distance[j];
    }
    for (size_t i = 0; i < d->k; i++)
        sum += (double)nearest[i] * nearest[i];
    return sum / (double)d->k;
}

static void find_densities(vtci_density *d)
{
    for (size_t i = 0; i < d->n; i++) {
        d->density[i] = (float)exp(-mean_nearest(d, d->distance + i * d->n));
        if (d->noise != NULL)
            d->density[i] += d->noise[i];
    }
}

/* With noise equal densities stay equal, as in the authors' code. */
static bool is_denser(const vtci_density *d, size_t j, size_t i)
{
    return d->density[j] > d->density[i] ||
           (d->noise == NULL && d->density[j] == d->density[i] && j < i);
}

static void find_centres(vtci_density *d)
{
    const size_t n = d->n;
    const float largest = vtci_kernels_get()->max(d->distance, n * n);

    for (size_t i = 0; i < n; i++) {
        float indicator = largest;

        for (size_t j = 0; j < n; j++)
            if (is_denser(d, j, i))
                indicator = fminf(indicator, d->distance[i * n + j]);
        d->product[i] = indicator * d->density[i];
    }
    vtci_top_k(d->order, d->product, n, d->k);
    for (size_t g = 0; g < d->k; g++)
        d->centre[g] = d->order[g];
}

static void join_centres(vtci_density *d)
{
    for (size_t i = 0; i < d->n; i++) {
        size_t best = 0;

        for (size_t g = 1; g < d->k; g++)
            if (d->distance[(size_t)d->centre[g] * d->n + i] <
                d->distance[(size_t)d->centre[best] * d->n + i])
                best = g;
        d->cluster[i] = (int32_t)best;
    }
    for (size_t g = 0; g < d->k; g++)
        d->cluster[d->centre[g]] = (int32_t)g;
}

vtc_status vtci_density_run(vtci_density *d)
{
    if (d->n == 0)
        return VTC_OK;
    VTCI_TRY(measure(d));
    find_densities(d);
    find_centres(d);
    join_centres(d);
    return VTC_OK;
}
