#include "focusllava_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double focus_reference_cosine(const double *a, const double *b, size_t n)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;

    for (size_t i = 0; i < n; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return ab / fmax(sqrt(aa) * sqrt(bb), 1e-12);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The token of a box: the largest value or the mean of each channel. */
static double *pool_box(const focus_reference *f, const double *x, const int32_t box[4],
                        int average)
{
    double *token = malloc(f->c * sizeof(*token) + 1);

    for (size_t c = 0; c < f->c; c++) {
        double sum = 0.0, top = -INFINITY;
        int n = 0;

        for (int32_t i = box[0]; i < box[2]; i++)
            for (int32_t j = box[1]; j < box[3]; j++, n++) {
                const double value = x[((size_t)i * f->w + (size_t)j) * f->c + c];

                sum += value;
                top = fmax(top, value);
            }
        token[c] = average ? sum / n : top;
    }
    return token;
}

static void add_cells(focus_reference *f, const double *x, size_t r0, size_t c0, size_t window,
                      size_t p, size_t scale, int average)
{
    const size_t r1 = least(f->h, r0 + window), c1 = least(f->w, c0 + window);

    for (size_t r = r0; r < r1; r += p)
        for (size_t c = c0; c < c1; c += p) {
            const int32_t box[4] = { (int32_t)r, (int32_t)c, (int32_t)least(r + p, r1),
                                     (int32_t)least(c + p, c1) };
            focus_cell *cell = &f->cells[f->n_cells++];

            memcpy(cell->box, box, sizeof(box));
            cell->region = f->n_regions;
            cell->scale = scale;
            cell->token = pool_box(f, x, box, average);
        }
}

focus_reference focus_reference_pool(const vtc_focusllava_vision_params *p, const double *x,
                                     size_t h, size_t w, size_t c)
{
    focus_reference f = { h, w, c, 0, 0, NULL, NULL };
    const int32_t all[4] = { 0, 0, (int32_t)h, (int32_t)w };

    f.cells = malloc((h * w * p->n_pools + 1) * sizeof(*f.cells));
    f.mean = pool_box(&f, x, all, 1);
    for (size_t r = 0; r < h; r += p->window)
        for (size_t k = 0; k < w; k += p->window, f.n_regions++)
            for (size_t s = 0; s < p->n_pools; s++)
                add_cells(&f, x, r, k, p->window, p->pools[s], s,
                          p->pool == VTC_FOCUSLLAVA_AVERAGE);
    return f;
}

void focus_reference_free(focus_reference *f)
{
    for (size_t i = 0; i < f->n_cells; i++)
        free(f->cells[i].token);
    free(f->cells);
    free(f->mean);
}

static double fidelity_sum(const focus_reference *f, const double *x, const focus_cell *cell)
{
    double sum = 0.0;

    for (int32_t i = cell->box[0]; i < cell->box[2]; i++)
        for (int32_t j = cell->box[1]; j < cell->box[3]; j++)
            sum += focus_reference_cosine(x + ((size_t)i * f->w + (size_t)j) * f->c, cell->token,
                                          f->c);
    return sum;
}

static double linear_score(const focus_reference *f, const double *x, const int32_t region[4],
                           const double *weight, double bias)
{
    double *mean = pool_box(f, x, region, 1);
    double score = bias;

    for (size_t c = 0; c < f->c; c++)
        score += weight[c] * mean[c] + weight[f->c + c] * f->mean[c];
    free(mean);
    return score;
}

double focus_reference_score(const focus_reference *f, const vtc_focusllava_vision_params *p,
                             const double *x, size_t region, size_t scale, const double *weight,
                             const double *bias)
{
    int32_t box[4] = { INT32_MAX, INT32_MAX, 0, 0 };
    double sum = 0.0;
    size_t n = 0, n_positions = 0;

    for (size_t i = 0; i < f->n_cells; i++) {
        const focus_cell *cell = &f->cells[i];

        if (cell->region != region || cell->scale != scale)
            continue;
        for (int k = 0; k < 2; k++) {
            box[k] = cell->box[k] < box[k] ? cell->box[k] : box[k];
            box[k + 2] = cell->box[k + 2] > box[k + 2] ? cell->box[k + 2] : box[k + 2];
        }
        sum += p->route == VTC_FOCUSLLAVA_FIDELITY
                   ? fidelity_sum(f, x, cell)
                   : focus_reference_cosine(cell->token, f->mean, f->c);
        n++;
        n_positions +=
            (size_t)(cell->box[2] - cell->box[0]) * (size_t)(cell->box[3] - cell->box[1]);
    }
    if (p->route == VTC_FOCUSLLAVA_LINEAR)
        return linear_score(f, x, box, weight + scale * 2 * f->c, bias[scale]);
    return sum / (double)(p->route == VTC_FOCUSLLAVA_FIDELITY ? n_positions : n);
}
