#include "mustdrop_reference.h"

#include <math.h>
#include <stdlib.h>

size_t mustdrop_windows(const mustdrop_grid *g)
{
    return (g->h / g->win_h) * (g->w / g->win_w);
}

/* Is this cell in this window? */
static bool holds(const mustdrop_grid *g, size_t window, size_t row, size_t column)
{
    const size_t across = g->w / g->win_w;
    const size_t top = window / across * g->win_h, left = window % across * g->win_w;

    return row >= top && row < top + g->win_h && column >= left && column < left + g->win_w;
}

static double cosine(const double *x, const double *y, size_t c)
{
    double xy = 0.0, xx = 0.0, yy = 0.0;

    for (size_t i = 0; i < c; i++) {
        xy += x[i] * y[i];
        xx += x[i] * x[i];
        yy += y[i] * y[i];
    }
    return xy / fmax(sqrt(xx), 1e-8) / fmax(sqrt(yy), 1e-8);
}

void mustdrop_similarity(const mustdrop_grid *g, const double *x, size_t c, double *similarity)
{
    const size_t n = g->h * g->w, area = g->win_h * g->win_w;

    for (size_t window = 0; window < mustdrop_windows(g); window++) {
        similarity[window] = 0.0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                if (i != j && holds(g, window, i / g->w, i % g->w) &&
                    holds(g, window, j / g->w, j % g->w))
                    similarity[window] += cosine(x + i * c, x + j * c, c);
        similarity[window] /= (double)area * (double)(area - 1);
    }
}

/* Windows by falling similarity, by selection. */
static void choose(const double *similarity, size_t n, size_t r, int32_t *windows)
{
    bool *taken = calloc(n + 1, sizeof(*taken));

    for (size_t i = 0; i < r; i++) {
        size_t best = n;

        for (size_t w = n; w-- > 0;)
            if (!taken[w] && (best == n || similarity[w] >= similarity[best]))
                best = w;
        taken[best] = true;
        windows[i] = (int32_t)best;
    }
    free(taken);
}

static int find_window(const mustdrop_grid *g, const mustdrop_merge *m, size_t r, size_t cell)
{
    for (size_t i = 0; i < r; i++)
        if (holds(g, (size_t)m->windows[i], cell / g->w, cell % g->w))
            return (int)i;
    return -1;
}

/* An output is opened by the first row that goes there. */
static void open_output(mustdrop_merge *m, size_t row)
{
    m->keep[m->n_out] = (int32_t)row;
    m->owner[row] = (int32_t)m->n_out++;
}

static void place_merged_first(const mustdrop_grid *g, mustdrop_merge *m, size_t r, size_t prefix)
{
    for (size_t i = 0; i < r; i++) {
        bool opened = false;

        for (size_t cell = 0; cell < g->h * g->w; cell++) {
            if (!holds(g, (size_t)m->windows[i], cell / g->w, cell % g->w))
                continue;
            if (!opened)
                open_output(m, prefix + cell);
            m->owner[prefix + cell] = (int32_t)m->n_out - 1;
            opened = true;
        }
    }
    for (size_t cell = 0; cell < g->h * g->w; cell++)
        if (find_window(g, m, r, cell) < 0)
            open_output(m, prefix + cell);
}

static void place_in_raster_order(const mustdrop_grid *g, mustdrop_merge *m, size_t r,
                                  size_t prefix)
{
    int32_t *output = malloc((r + 1) * sizeof(*output));

    for (size_t i = 0; i < r; i++)
        output[i] = -1;
    for (size_t cell = 0; cell < g->h * g->w; cell++) {
        const int i = find_window(g, m, r, cell);

        if (i >= 0 && output[i] >= 0) {
            m->owner[prefix + cell] = output[i];
            continue;
        }
        open_output(m, prefix + cell);
        if (i >= 0)
            output[i] = m->owner[prefix + cell];
    }
    free(output);
}

mustdrop_merge mustdrop_merge_windows(const mustdrop_grid *g, const double *similarity, size_t r,
                                      size_t prefix, bool raster)
{
    const size_t n_in = prefix + g->h * g->w;
    mustdrop_merge m = { n_in, 0, malloc((n_in + 1) * sizeof(int32_t)),
                         malloc((n_in + 1) * sizeof(int32_t)), malloc((r + 1) * sizeof(int32_t)) };

    choose(similarity, mustdrop_windows(g), r, m.windows);
    for (size_t i = 0; i < prefix; i++)
        open_output(&m, i);
    (raster ? place_in_raster_order : place_merged_first)(g, &m, r, prefix);
    return m;
}

void mustdrop_merge_free(mustdrop_merge *m)
{
    free(m->owner);
    free(m->keep);
    free(m->windows);
}

/* ---- prefill --------------------------------------------------------------------------------- */

static double logit(const mustdrop_attention *a, size_t head, size_t row, size_t key)
{
    const double *q = a->q + (head * a->n_text + row) * a->d;
    const double *k = a->k + (head / (a->heads / a->kv_heads) * a->length + key) * a->d;
    double sum = 0.0;

    for (size_t i = 0; i < a->d; i++)
        sum += q[i] * k[i];
    return a->scale * sum;
}

double mustdrop_log_sum_exp(const mustdrop_attention *a, size_t head, size_t row)
{
    double sum = 0.0;

    for (size_t key = 0; key <= a->length - a->n_text + row; key++)
        sum += exp(logit(a, head, row, key));
    return log(sum);
}

void mustdrop_statistics(const mustdrop_attention *a, double *sum, double *max)
{
    for (size_t j = 0; j < a->n; j++) {
        sum[j] = 0.0;
        max[j] = -INFINITY;
    }
    for (size_t row = 0; row < a->n_text; row++)
        for (size_t j = 0; j < a->n; j++) {
            double mean = 0.0;

            for (size_t head = 0; head < a->heads; head++)
                mean += exp(logit(a, head, row, a->first + j) - mustdrop_log_sum_exp(a, head, row));
            mean /= (double)a->heads;
            sum[j] += mean;
            max[j] = fmax(max[j], mean);
        }
}
