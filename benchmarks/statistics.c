/* Order statistics: no shape of the distribution is assumed, and one disturbed round moves none. */
#include "statistics.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Value at a share of the way through sorted x, between neighbours by proportion. */
static double quantile(const double *x, size_t n, double share)
{
    const double place = share * (double)(n - 1);
    const size_t i = (size_t)place;

    return i + 1 < n ? x[i] + (place - (double)i) * (x[i + 1] - x[i]) : x[n - 1];
}

bench_spread bench_spread_of(double *x, size_t n)
{
    qsort(x, n, sizeof(*x), compare);
    const bench_spread spread = { x[0], quantile(x, n, 0.25), quantile(x, n, 0.5),
                                  quantile(x, n, 0.75) };
    return spread;
}

/*
 * Each value is below the true median with chance 1/2, so the number that are is binomial. The
 * median lies outside [x[k], x[n - 1 - k]] when at most k values are below it, or at most k above:
 * the largest k is taken for which that has a chance of at most 5 %.
 */
bench_interval bench_interval_of(double *x, size_t n)
{
    bench_interval interval = { 0.0, NAN, NAN };
    double chance = exp2(-(double)n), tail = chance;

    qsort(x, n, sizeof(*x), compare);
    interval.median = quantile(x, n, 0.5);
    for (size_t k = 0; tail <= 0.025; k++) {
        interval.low = x[k];
        interval.high = x[n - 1 - k];
        chance *= (double)(n - k) / (double)(k + 1);
        tail += chance;
    }
    return interval;
}
