/*
 * FocusLLaVA's score without attention weights: the mean cosine of a visual token's hidden state
 * with those of the text.
 *
 *     score_v = mean over i of h_i h_v / max(|h_i| |h_v|, 1e-12)
 *
 * Unless lengths are so small that the bound matters, this is u h_v / |h_v| with u the mean of the
 * unit rows of text: V + M rows are read, once, instead of V M pairs multiplied.
 */
#include "../../include/vtc/sample.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "focusllava.h"

#include <float.h>
#include <math.h>

enum { BLOCK = 16 }; /* rows of a task */

static const double LEAST_LENGTH = 1e-12;  /* of a product of two                             */
static const double LEAST_TEXT = 0x1p-100; /* of a row of text whose reciprocal is an F32 weight */

struct hidden {
    const vtci_call *call;
    vtci_rows visual, text; /* [V, D], [M, D] */
    float *score;
    float *direction; /* [D] mean of the unit rows of text */
    double *length;   /* [V + M] those of visual first      */
    double *product;  /* [V] of the direction and visual    */
    char *slices;     /* per worker VTCI_MEASURED rows      */
    size_t slice_stride;
};

static vtc_status open_hidden(const vtci_call *call, const vtc_tensor *visual,
                              const vtc_tensor *text, struct hidden *h)
{
    VTCI_TRY(vtci_check_tensor(call, "visual", visual, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "text", text, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, visual->dim[1] == text->dim[1], VTC_ERR_SHAPE,
                 "visual has %zu channels, text has %zu", visual->dim[1], text->dim[1]);
    VTCI_REQUIRE(call, text->dim[0] != 0, VTC_ERR_SHAPE, "text has no row");
    *h = (struct hidden){ 0 };
    h->call = call;
    h->visual = vtci_rows_of(visual);
    h->text = vtci_rows_of(text);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct hidden *h)
{
    const size_t d = h->visual.n_cols;

    h->direction = vtci_take(arena, d, sizeof(*h->direction));
    h->length = vtci_take(arena, vtci_add(h->visual.n_rows, h->text.n_rows), sizeof(*h->length));
    h->product = vtci_take(arena, h->visual.n_rows, sizeof(*h->product));
    h->slices =
        vtci_take_slices(arena, h->call, vtci_mul(vtci_mul(VTCI_MEASURED, d), sizeof(float)),
                         &h->slice_stride);
}

vtc_status vtc_focusllava_hidden_score_scratch(const vtc_tensor *visual, const vtc_tensor *text,
                                               const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct hidden h;

    VTCI_TRY(vtci_begin_query(&call, "vtc_focusllava_hidden_score_scratch", exec, bytes));
    VTCI_TRY(open_hidden(&call, visual, text, &h));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &h);
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- lengths --------------------------------------------------------------------------------- */

static const float *row_of(const vtci_rows *rows, size_t i, float *tmp)
{
    return vtci_load_row(vtci_row(rows, 0, i), rows->dtype, rows->n_cols, tmp);
}

static float *slice_of(const struct hidden *h, size_t worker)
{
    return (float *)(void *)(h->slices + worker * h->slice_stride);
}

static void measure_text(void *job, size_t index, size_t worker)
{
    const struct hidden *h = job;
    const size_t begin = index * BLOCK, end = vtci_min(begin + BLOCK, h->text.n_rows);

    for (size_t i = begin; i < end; i++)
        h->length[h->visual.n_rows + i] =
            vtci_focus_length(row_of(&h->text, i, slice_of(h, worker)), h->text.n_cols);
}

static void measure_visual(void *job, size_t index, size_t worker)
{
    const struct hidden *h = job;
    const size_t begin = index * BLOCK, end = vtci_min(begin + BLOCK, h->visual.n_rows);
    const size_t c = h->visual.n_cols;

    for (size_t v = begin; v < end; v += VTCI_MEASURED) {
        const size_t n = vtci_min(VTCI_MEASURED, end - v);
        const float *x[VTCI_MEASURED];

        for (size_t r = 0; r < n; r++)
            x[r] = row_of(&h->visual, v + r, slice_of(h, worker) + r * c);
        vtci_focus_measure(x, n, true, NULL, h->direction, c, h->product + v, h->length + v);
        for (size_t r = v; r < v + n; r++)
            h->length[r] = sqrt(h->length[r]);
    }
}

/* The smallest length that is not 0, of n. */
static double smallest(const double *length, size_t n)
{
    double least = INFINITY;

    for (size_t i = 0; i < n; i++)
        if (length[i] > 0.0 && length[i] < least)
            least = length[i];
    return least;
}

static vtc_status check_lengths(const struct hidden *h, const char *name, const double *length,
                                size_t n)
{
    for (size_t i = 0; i < n; i++)
        VTCI_REQUIRE(h->call, length[i] <= DBL_MAX, VTC_ERR_DATA, "%s row %zu has NaN or Inf", name,
                     i);
    return VTC_OK;
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* Rows of text so short that their reciprocals are no weights are left out: then pairs are summed.
 */
static void find_direction(struct hidden *h)
{
    const size_t m = h->text.n_rows;
    const double *length = h->length + h->visual.n_rows;
    vtci_combine mean;

    vtci_combine_begin(&mean, h->direction, h->text.n_cols, h->text.dtype, false);
    for (size_t i = 0; i < m; i++)
        if (length[i] >= LEAST_TEXT)
            vtci_combine_add(&mean, vtci_row(&h->text, 0, i),
                             (float)(1.0 / (length[i] * (double)m)));
    vtci_combine_end(&mean);
}

/* The sum of cosines pair by pair. */
static double sum_pairs(const struct hidden *h, size_t v, const float *x, float *tmp)
{
    const double *length = h->length + h->visual.n_rows;
    double sum = 0.0;

    for (size_t i = 0; i < h->text.n_rows; i++)
        sum +=
            vtci_focus_cosine(row_of(&h->text, i, tmp), length[i], x, h->length[v], h->text.n_cols);
    return sum;
}

static void score_pairs(void *job, size_t index, size_t worker)
{
    const struct hidden *h = job;
    const size_t begin = index * BLOCK, end = vtci_min(begin + BLOCK, h->visual.n_rows);
    float *tmp = slice_of(h, worker);

    for (size_t v = begin; v < end; v++) {
        const float *x = row_of(&h->visual, v, tmp);

        h->score[v] = (float)(sum_pairs(h, v, x, tmp + h->visual.n_cols) / (double)h->text.n_rows);
    }
}

/* Whether a length is so small that the bound on products of two matters. */
static bool needs_pairs(const struct hidden *h)
{
    const double least_text = smallest(h->length + h->visual.n_rows, h->text.n_rows);

    return least_text < LEAST_TEXT ||
           least_text * smallest(h->length, h->visual.n_rows) < LEAST_LENGTH;
}

/* All that can fail; writes nothing but scratch. */
static vtc_status measure(struct hidden *h)
{
    const size_t v = h->visual.n_rows, m = h->text.n_rows;

    vtci_parallel(h->call, vtci_ceil_div(m, BLOCK), measure_text, h);
    VTCI_TRY(check_lengths(h, "text", h->length + v, m));
    find_direction(h);
    vtci_parallel(h->call, vtci_ceil_div(v, BLOCK), measure_visual, h);
    return check_lengths(h, "visual", h->length, v);
}

static void write_scores(struct hidden *h)
{
    if (needs_pairs(h)) {
        vtci_parallel(h->call, vtci_ceil_div(h->visual.n_rows, BLOCK), score_pairs, h);
        return;
    }
    for (size_t v = 0; v < h->visual.n_rows; v++)
        h->score[v] = h->length[v] == 0.0 ? 0.0f : (float)(h->product[v] / h->length[v]);
}

vtc_status vtc_focusllava_hidden_score(const vtc_tensor *visual, const vtc_tensor *text,
                                       float *score, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct hidden h;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_hidden_score", exec));
    VTCI_TRY(open_hidden(&call, visual, text, &h));
    if (h.visual.n_rows == 0)
        return VTC_OK;
    VTCI_REQUIRE_PTR(&call, score);
    h.score = score;
    const vtc_tensor out = vtc_f32_1d(score, h.visual.n_rows);
    VTCI_TRY(vtci_check_apart(&call, "score", &out, "visual", visual));
    VTCI_TRY(vtci_check_apart(&call, "score", &out, "text", text));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &h);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(measure(&h));
    write_scores(&h);
    return VTC_OK;
}
