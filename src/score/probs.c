/*
 * Rows of head-mean attention probabilities, a few at a time: O(T) memory for each worker instead
 * of the T x T array. Whoever needs a row twice computes it twice.
 */
#include "probs.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"

#include <string.h>

static size_t n_keys(const vtci_probs *p)
{
    return vtci_head_rows_count(&p->l->k);
}

void vtci_probs_lay_out(vtci_arena *arena, const vtci_logits *l, vtci_probs *p)
{
    p->l = l;

    const size_t floats = vtci_mul(VTCI_PROBS_ROWS, vtci_add(vtci_mul(2, n_keys(p)), l->width));

    p->slices = vtci_take_slices(arena, l->call, vtci_mul(floats, sizeof(float)), &p->slice_stride);
}

/* Adds softmax / H of head h to the mean of each row. */
static void add_head(const vtci_probs *p, size_t h, size_t n, float *logit, const float *x,
                     float *mean, size_t worker)
{
    const vtci_logits *l = p->l;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t n_cols = n_keys(p), group = h / (l->n_heads / l->n_groups);
    const float weight = 1.0f / (float)l->n_heads;

    for (size_t b = 0; b < n_cols; b += VTCI_LOGITS_BLOCK)
        vtci_logits_block(l, &l->k, group, 1, x, n, NULL, b,
                          vtci_min(VTCI_LOGITS_BLOCK, n_cols - b), logit + b, n_cols, worker);
    for (size_t a = 0; a < n; a++) {
        float *row = logit + a * n_cols;

        k->softmax(row, row, NULL, l->scale, n_cols);
        k->combine(mean + a * n_cols, &(const float *){ row }, &weight, 1, n_cols, h != 0);
    }
}

const float *vtci_probs_rows(const vtci_probs *p, const int32_t *rows, size_t first, size_t n,
                             size_t worker)
{
    const size_t n_cols = n_keys(p), d = p->l->width;
    float *mean = (float *)(void *)(p->slices + worker * p->slice_stride);
    float *logit = mean + VTCI_PROBS_ROWS * n_cols, *x = logit + VTCI_PROBS_ROWS * n_cols;

    for (size_t h = 0; h < p->l->n_heads; h++) {
        for (size_t a = 0; a < n; a++) {
            const size_t i = rows == NULL ? first + a : (size_t)rows[a];
            vtc_dtype dtype;
            const void *row = vtci_head_rows_at(&p->l->q, h, i, &dtype);
            const float *loaded = vtci_load_row(row, dtype, d, x + a * d);

            if (loaded != x + a * d)
                memcpy(x + a * d, loaded, d * sizeof(*x));
        }
        add_head(p, h, n, logit, x, mean, worker);
    }
    return mean;
}
