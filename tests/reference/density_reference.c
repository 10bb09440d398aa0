#include "density_reference.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static double distance(const double *a, const double *b, size_t c)
{
    double sum = 0.0;

    for (size_t i = 0; i < c; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum) / sqrt((double)c);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* dist [n, n]; the density in F32, as the authors' tensors are: ties are ties there. */
static float density_of(const double *row, size_t n, size_t k, double *tmp)
{
    double sum = 0.0;

    for (size_t j = 0; j < n; j++)
        tmp[j] = row[j];
    qsort(tmp, n, sizeof(*tmp), by_value);
    for (size_t j = 0; j < k; j++)
        sum += tmp[j] * tmp[j];
    return (float)exp(-sum / (double)k);
}

static double indicator_of(const double *dist, const float *density, size_t n, size_t i,
                           bool by_index, double largest)
{
    double indicator = largest;

    for (size_t j = 0; j < n; j++)
        if (density[j] > density[i] || (by_index && density[j] == density[i] && j < i))
            indicator = fmin(indicator, dist[i * n + j]);
    return indicator;
}

void density_reference(const double *x, size_t n, size_t c, size_t k, const float *noise,
                       int32_t *centre, int32_t *cluster)
{
    double *dist = malloc((n * n + 1) * sizeof(*dist)), *product = malloc((n + 1) * sizeof(*dist));
    double *tmp = malloc((n + 1) * sizeof(*tmp)), largest = 0.0;
    float *density = malloc((n + 1) * sizeof(*density));

    for (size_t i = 0; i < n * n; i++) {
        dist[i] = distance(x + i / n * c, x + i % n * c, c);
        largest = fmax(largest, dist[i]);
    }
    for (size_t i = 0; i < n; i++)
        density[i] = density_of(dist + i * n, n, k, tmp) + (noise == NULL ? 0.0f : noise[i]);
    for (size_t i = 0; i < n; i++)
        product[i] = indicator_of(dist, density, n, i, noise == NULL, largest) * density[i];
    for (size_t g = 0; g < k; g++) {
        size_t best = n;

        for (size_t i = 0; i < n; i++)
            if (product[i] >= 0.0 && (best == n || product[i] > product[best]))
                best = i;
        centre[g] = (int32_t)best;
        product[best] = -1.0;
    }
    for (size_t i = 0; i < n; i++) {
        cluster[i] = 0;
        for (size_t g = 0; g < k; g++)
            if (dist[i * n + (size_t)centre[g]] < dist[i * n + (size_t)centre[cluster[i]]])
                cluster[i] = (int32_t)g;
    }
    for (size_t g = 0; g < k; g++)
        cluster[centre[g]] = (int32_t)g;
    free(dist);
    free(product);
    free(tmp);
    free(density);
}
