/* ToMe in doubles. */
#include "tome_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *array_of(size_t n, size_t size)
{
    void *array = calloc(n + 1, size);

    if (array == NULL)
        abort();
    return array;
}

static tome_reference make(size_t n)
{
    const size_t word = sizeof(int32_t);
    tome_reference t = { n,
                         n,
                         0,
                         array_of(n, word),
                         array_of(n, word),
                         array_of(n, sizeof(double)),
                         array_of(n, word),
                         array_of(n, word),
                         array_of(n, word) };

    return t;
}

void tome_reference_free(tome_reference *t)
{
    free(t->owner);
    free(t->keep);
    free(t->score);
    free(t->unmerged);
    free(t->merged);
    free(t->partner);
}

static double cosine(const double *x, const double *y, size_t d)
{
    double xy = 0.0, xx = 0.0, yy = 0.0;

    for (size_t i = 0; i < d; i++) {
        xy += x[i] * y[i];
        xx += x[i] * x[i];
        yy += y[i] * y[i];
    }
    return xx == 0.0 || yy == 0.0 ? 0.0 : xy / sqrt(xx) / sqrt(yy);
}

/* The r best pairs, the largest first, by looking for the largest again and again. */
static void choose(tome_reference *t, const double *best, const int32_t *odd, size_t n_even)
{
    bool *taken = array_of(n_even, sizeof(*taken));

    for (size_t i = 0; i < n_even; i++) {
        size_t top = n_even;

        for (size_t a = 0; a < n_even; a++)
            if (!taken[a] && (top == n_even || best[a] > best[top]))
                top = a;
        taken[top] = true;
        if (i < t->r) {
            t->merged[i] = (int32_t)top;
            t->partner[i] = odd[top];
        } else {
            t->unmerged[i - t->r] = (int32_t)top;
        }
    }
    free(taken);
}

static int compare_i32(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

static void number_outputs(tome_reference *t, size_t n_unmerged, size_t n_odd, bool distill_token)
{
    size_t n = 0;

    if (distill_token) {
        t->keep[n++] = 2 * t->unmerged[0];
        t->keep[n++] = 1;
    }
    for (size_t i = distill_token; i < n_unmerged; i++)
        t->keep[n++] = 2 * t->unmerged[i];
    for (size_t b = distill_token; b < n_odd; b++)
        t->keep[n++] = (int32_t)(2 * b + 1);
    t->n_out = n;
    for (size_t j = 0; j < n; j++)
        t->owner[t->keep[j]] = (int32_t)j;
    for (size_t i = 0; i < t->r; i++)
        t->owner[2 * t->merged[i]] = t->owner[2 * t->partner[i] + 1];
}

static void find_best(tome_reference *t, const double *metric, size_t d, bool class_token,
                      bool distill_token, double *best, int32_t *odd)
{
    const size_t n_odd = t->n_in / 2, n_even = t->n_in - n_odd;

    for (size_t a = 0; a < n_even; a++) {
        best[a] = -INFINITY;
        for (size_t b = distill_token; b < n_odd; b++) {
            const double c = cosine(metric + 2 * a * d, metric + (2 * b + 1) * d, d);

            if (c > best[a]) {
                best[a] = c;
                odd[a] = (int32_t)b;
            }
        }
        t->score[2 * a] = best[a];
    }
    if (class_token) {
        best[0] = -INFINITY;
        t->score[0] = INFINITY;
    }
}

tome_reference tome_reference_round(const double *metric, size_t n, size_t d, size_t n_merge,
                                    bool class_token, bool distill_token)
{
    const size_t n_odd = n / 2, n_even = n - n_odd, n_protected = class_token + distill_token;
    const size_t most = n <= n_protected ? 0 : (n - n_protected) / 2;
    double *best = array_of(n, sizeof(*best));
    int32_t *odd = array_of(n, sizeof(*odd));
    tome_reference t = make(n);

    for (size_t i = 0; i < n; i++) {
        t.owner[i] = t.keep[i] = t.unmerged[i] = (int32_t)i;
        t.score[i] = INFINITY;
    }
    t.r = n_merge < most ? n_merge : most;
    if (distill_token && n_odd < 2)
        t.r = 0;
    if (t.r != 0) {
        find_best(&t, metric, d, class_token, distill_token, best, odd);
        choose(&t, best, odd, n_even);
        if (class_token)
            qsort(t.unmerged, n_even - t.r, sizeof(*t.unmerged), compare_i32);
        number_outputs(&t, n_even - t.r, n_odd, distill_token);
    }
    free(best);
    free(odd);
    return t;
}

/* Rows and masses of the outputs of one round. */
static void merge_rows(const tome_reference *t, double *metric, double *mass, size_t d)
{
    double *rows = array_of(t->n_out * d, sizeof(*rows));
    double *total = array_of(t->n_out, sizeof(*total));

    for (size_t i = 0; i < t->n_in; i++)
        total[t->owner[i]] += mass[i];
    for (size_t i = 0; i < t->n_in; i++)
        for (size_t c = 0; c < d; c++)
            rows[(size_t)t->owner[i] * d + c] += mass[i] / total[t->owner[i]] * metric[i * d + c];
    memcpy(metric, rows, t->n_out * d * sizeof(*rows));
    memcpy(mass, total, t->n_out * sizeof(*total));
    free(rows);
    free(total);
}

tome_reference tome_reference_rounds(const double *metric, const double *mass, size_t n, size_t d,
                                     size_t n_keep, bool class_token, bool distill_token)
{
    double *rows = array_of(n * d, sizeof(*rows)), *masses = array_of(n, sizeof(*masses));
    tome_reference all = tome_reference_round(metric, n, d, 0, class_token, distill_token);

    memcpy(rows, metric, n * d * sizeof(*rows));
    memcpy(masses, mass, n * sizeof(*masses));
    for (bool first = true; all.n_out > n_keep; first = false) {
        tome_reference t = tome_reference_round(rows, all.n_out, d, all.n_out - n_keep, class_token,
                                                distill_token);

        if (first)
            memcpy(all.score, t.score, n * sizeof(*t.score));
        for (size_t i = 0; i < n; i++)
            all.owner[i] = t.owner[all.owner[i]];
        for (size_t j = 0; j < t.n_out; j++)
            t.keep[j] = all.keep[t.keep[j]];
        memcpy(all.keep, t.keep, t.n_out * sizeof(*t.keep));
        all.n_out = t.n_out;
        merge_rows(&t, rows, masses, d);
        tome_reference_free(&t);
    }
    free(rows);
    free(masses);
    return all;
}
