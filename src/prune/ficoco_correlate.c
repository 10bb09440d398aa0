/*
 * FiCoCo, Correlate: which rows resemble each discarded one, and how much of it they get.
 *
 * Of a row of correlations only the largest values matter: as many as lie at or above the lower
 * place of its quantile. FIXED and PAPER take those from the upper place on, of equal ones the
 * lower rows, which is exactly C >= tau but for ties. OFFICIAL counts what lies strictly above, and
 * all rows take as many as the one with the most.
 */
#include "ficoco.h"

#include "../kernels/kernels.h"
#include "../linalg/order.h"
#include "../score/quantile.h"

#include <math.h>
#include <string.h>

enum {
    FEW = 8,               /* places for which inserting beats a heap over the whole row */
    BLOCK = 16,            /* rows of one task that need the heap                        */
    SCAN_FLOATS = 32 << 10 /* of rows that one task only scans                           */
};

enum { GOOD = 0, NOT_A_NUMBER = 1, INFINITE = 2, NO_SUM = 3 };

size_t vtci_ficoco_n_best(float eps, size_t n_columns)
{
    return n_columns == 0 ? 0 : n_columns - vtci_quantile_rank(n_columns, eps).lo;
}

/* ---- the largest values of a row ------------------------------------------------------------- */

/* Puts c[b] where it belongs among the n first places. */
static void insert(float *best, int32_t *column, size_t n, float value, size_t b)
{
    while (n > 0 && best[n - 1] < value) {
        best[n] = best[n - 1];
        column[n] = column[n - 1];
        n--;
    }
    best[n] = value;
    column[n] = (int32_t)b;
}

static void find_few(const float *c, size_t n, size_t n_best, float *best, int32_t *column)
{
    const vtci_kernels *k = vtci_kernels_get();

    for (size_t b = 0; b < n_best; b++)
        insert(best, column, b, c[b], b);
    for (size_t b = n_best; b < n; b++) {
        b += k->first_at_least(c + b, n - b, best[n_best - 1]);
        if (b < n && c[b] > best[n_best - 1])
            insert(best, column, n_best - 1, c[b], b);
    }
}

static void find_best(const float *c, size_t n, size_t n_best, float *best, int32_t *column,
                      int32_t *order)
{
    if (n_best <= FEW) {
        find_few(c, n, n_best, best, column);
        return;
    }
    vtci_top_k(order, c, n, n_best);
    for (size_t e = 0; e < n_best; e++) {
        column[e] = order[e];
        best[e] = c[order[e]];
    }
}

/* ---- one discarded row ----------------------------------------------------------------------- */

/* Correlations above the quantile, which are all in the list. */
static int32_t count_above(const vtci_ficoco *f, const float *best)
{
    const vtci_quantile rank = vtci_quantile_rank(f->n_columns, f->eps);
    const size_t last = f->n_columns - 1;
    const double tau = vtci_quantile_value(&rank, best[last - rank.lo], best[last - rank.hi]);
    int32_t n = 0;

    while ((size_t)n < f->n_best && best[n] > tau)
        n++;
    return n;
}

struct panel {
    vtci_ficoco *f;
    size_t begin, n;
};

static void rank_row(vtci_ficoco *f, size_t rank, float *c, int32_t *order)
{
    const size_t n = f->n_columns;
    float *best = f->best + rank * f->n_best;

    f->bad[rank] = vtci_find_nan(c, n) == n ? GOOD : NOT_A_NUMBER;
    f->n_above[rank] = 0;
    if (f->bad[rank] != GOOD)
        return;
    for (size_t b = 0; f->skips_itself && b < n; b++)
        if ((size_t)f->columns[b] == f->k_first + (size_t)f->order[rank])
            c[b] = -INFINITY;
    find_best(c, n, f->n_best, best, f->best_column + rank * f->n_best, order);
    if (f->official)
        f->n_above[rank] = count_above(f, best);
}

static size_t block_rows(const vtci_ficoco *f)
{
    return f->n_best > FEW ? (size_t)BLOCK : vtci_max(1, SCAN_FLOATS / f->n_columns);
}

static void rank_rows(void *job, size_t index, size_t worker)
{
    const struct panel *p = job;
    vtci_ficoco *f = p->f;
    int32_t *order = (int32_t *)(void *)(f->slices + worker * f->slice_stride);

    const size_t block = block_rows(f);

    for (size_t a = index * block; a < vtci_min((index + 1) * block, p->n); a++)
        rank_row(f, p->begin + a, f->c + a * f->n_columns, order);
}

/* From correlations to shares that add up to 1. */
static int32_t weigh(float *w, size_t n, bool linear)
{
    const double top = w[0];
    double sum = 0.0;

    if (!isfinite(top))
        return INFINITE;
    for (size_t e = 0; e < n; e++)
        sum += linear ? w[e] : exp(w[e] - top);
    if (!(fabs(sum) > 0.0) || !isfinite(sum) || !isfinite(1.0 / sum))
        return NO_SUM;
    for (size_t e = 0; e < n; e++)
        w[e] = (float)((linear ? w[e] : exp(w[e] - top)) / sum);
    return GOOD;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static size_t count_targets(const vtci_ficoco *f)
{
    size_t most = 0;

    if (!f->official && f->n_columns != 0)
        return f->n_columns - vtci_quantile_rank(f->n_columns, f->eps).hi;
    for (size_t rank = 0; f->official && rank < f->r; rank++)
        most = vtci_max(most, (size_t)f->n_above[rank]);
    return most;
}

static vtc_status check_row(const vtci_ficoco *f, size_t rank)
{
    static const char *const why[] = { "", "a NaN", "an infinity", "no sum" };

    VTCI_REQUIRE(f->call, f->bad[rank] == GOOD, VTC_ERR_DATA,
                 "the correlations of row %zu have %s, so there are no weights",
                 f->head + (size_t)f->order[rank], why[f->bad[rank]]);
    return VTC_OK;
}

vtc_status vtci_ficoco_correlate(vtci_ficoco *f)
{
    f->n_targets = 0;
    if (f->r == 0 || f->n_columns == 0)
        return VTC_OK;
    vtci_ficoco_prepare_text(f);
    for (size_t begin = 0; begin < f->r; begin += VTCI_FICOCO_PANEL) {
        const size_t n = vtci_min(VTCI_FICOCO_PANEL, f->r - begin);
        struct panel p = { f, begin, n };

        vtci_ficoco_correlations(f, begin, n);
        vtci_parallel(f->call, vtci_ceil_div(n, block_rows(f)), rank_rows, &p);
    }
    for (size_t rank = 0; rank < f->r; rank++)
        VTCI_TRY(check_row(f, rank));
    f->n_targets = count_targets(f);
    for (size_t rank = 0; rank < f->r && f->n_targets != 0; rank++) {
        f->bad[rank] = weigh(f->best + rank * f->n_best, f->n_targets, f->linear);
        VTCI_TRY(check_row(f, rank));
    }
    return VTC_OK;
}
