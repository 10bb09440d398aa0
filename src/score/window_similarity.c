/*
 * The mean cosine of the tokens of each window of a grid.
 *
 * Source: MustDrop (Liu et al., arXiv 2411.10803), whose code forms the n x n cosines of every
 * window. With unit vectors u_i and s = sum u_i their mean is
 *
 *     sum over i != j of u_i . u_j / (n (n - 1)) = (|s|^2 - sum |u_i|^2) / (n (n - 1))
 *
 * A token is read for its length and again, from the nearest cache, to be added to s.
 */
#include "window.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"

#include <math.h>

/* Floats of tokens that one task reads: few against the cost of a task, with work for many. */
enum { TASK_FLOATS = 32 << 10 };

/* PyTorch's bound of lengths in a cosine. */
static const float LEAST_NORM = 1e-8f;

/* ---- windows --------------------------------------------------------------------------------- */

vtc_status vtci_windows_open(const vtci_call *call, size_t grid_h, size_t grid_w, size_t win_h,
                             size_t win_w, bool ragged_edges, vtci_windows *w)
{
    const size_t n_cells = vtci_mul(grid_h, grid_w);

    VTCI_REQUIRE(call, win_h != 0 && win_w != 0 && vtci_mul(win_h, win_w) >= 2, VTC_ERR_RANGE,
                 "the window is %zu x %zu, it needs two cells", win_h, win_w);
    VTCI_REQUIRE(call,
                 n_cells <= INT32_MAX && vtci_max(grid_h, grid_w) <= INT32_MAX &&
                     vtci_mul(win_h, win_w) <= INT32_MAX,
                 VTC_ERR_OVERFLOW, "%zu x %zu cells or windows of %zu x %zu exceed int32", grid_h,
                 grid_w, win_h, win_w);
    VTCI_REQUIRE(call, ragged_edges || n_cells == 0 || (grid_h % win_h == 0 && grid_w % win_w == 0),
                 VTC_ERR_SHAPE, "the grid %zu x %zu is no whole number of windows of %zu x %zu",
                 grid_h, grid_w, win_h, win_w);
    *w = (vtci_windows){
        grid_h, grid_w, win_h, win_w, grid_w / win_w, grid_h / win_h, win_h * win_w
    };
    w->n = w->n_across * (grid_h / win_h);
    return VTC_OK;
}

vtc_status vtc_window_count(size_t grid_h, size_t grid_w, size_t win_h, size_t win_w,
                            int ragged_edges, size_t *n_windows, const vtc_exec *exec)
{
    vtci_windows w = { 0, 0, 0, 0, 0, 0, 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_window_count", exec));
    VTCI_REQUIRE_PTR(&call, n_windows);
    VTCI_TRY(vtci_windows_open(&call, grid_h, grid_w, win_h, win_w, ragged_edges != 0, &w));
    *n_windows = w.n;
    return VTC_OK;
}

/* ---- the measure ----------------------------------------------------------------------------- */

/* A worker holds s and, unless tokens are F32, one widened token. */
void vtci_window_similarity_lay_out(vtci_arena *arena, const vtci_call *call,
                                    vtci_window_similarity *s)
{
    const size_t n_rows = s->x.dtype == VTC_F32 ? 1 : 2;

    s->slices =
        vtci_take_slices(arena, call, vtci_mul(vtci_mul(n_rows, s->x.n_cols), sizeof(float)),
                         &s->slice_stride);
}

/* Tokens that are added to s together. Their lengths were just taken: they must still be in the
 * nearest cache, beside s, while more at once would spare reading and writing s. */
static size_t rows_at_once(const vtci_window_similarity *s)
{
    enum { FLOATS = 3 << 10 };
    const size_t n = FLOATS / vtci_max(1, s->x.n_cols);

    return vtci_max(1, vtci_min(n, VTCI_COMBINE_BATCH));
}

/* The similarity of one window of tokens with one channel: unit vectors are 1 and -1, which
 * products with reciprocals need not be, and windows tie. */
static float measure_signs(const vtci_window_similarity *s, size_t image, size_t window, float *tmp)
{
    const size_t n = s->windows.n_cells;
    double sum = 0.0, own = 0.0;

    for (size_t i = 0; i < n; i++) {
        const size_t row = s->first_row + vtci_window_cell(&s->windows, window, i);
        const float x = *vtci_load_row(vtci_row(&s->x, image, row), s->x.dtype, 1, tmp);
        const float unit = x / (fabsf(x) < LEAST_NORM ? LEAST_NORM : fabsf(x));

        sum += unit;
        own += (double)unit * unit;
    }
    return (float)((sum * sum - own) / ((double)n * (double)(n - 1)));
}

/* The similarity of one window; `sum` holds one or two rows. */
static float measure(const vtci_window_similarity *s, size_t image, size_t window, float *sum)
{
    const size_t n = s->windows.n_cells, n_channels = s->x.n_cols, at_once = rows_at_once(s);
    double own = 0.0;
    vtci_combine combine;

    if (n_channels == 1)
        return measure_signs(s, image, window, sum);
    vtci_combine_begin(&combine, sum, n_channels, s->x.dtype, false);
    for (size_t i = 0; i < n; i++) {
        const size_t row = s->first_row + vtci_window_cell(&s->windows, window, i);
        const char *token = vtci_row(&s->x, image, row);
        const float norm =
            vtci_row_norm(vtci_load_row(token, s->x.dtype, n_channels, sum + n_channels),
                          n_channels);
        const float scale = 1.0f / (norm < LEAST_NORM ? LEAST_NORM : norm);

        vtci_combine_add(&combine, token, scale);
        if (combine.n_held == at_once)
            vtci_combine_flush(&combine);
        own += (double)(norm * scale) * (norm * scale);
    }
    vtci_combine_end(&combine);
    return (float)((vtci_kernels_get()->dot(sum, sum, n_channels) - own) /
                   ((double)n * (double)(n - 1)));
}

/* Windows of one task, from the shape alone. */
static size_t windows_per_task(const vtci_window_similarity *s)
{
    return vtci_max(1, TASK_FLOATS / vtci_max(1, vtci_mul(s->windows.n_cells, s->x.n_cols)));
}

static void measure_block(void *job, size_t index, size_t worker)
{
    const vtci_window_similarity *s = job;
    const size_t n = s->windows.n, per_task = windows_per_task(s);
    const size_t end = vtci_min((index + 1) * per_task, s->x.n_batch * n);
    float *sum = (float *)(void *)(s->slices + worker * s->slice_stride);

    for (size_t i = index * per_task; i < end; i++)
        s->similarity[i] = measure(s, i / n, i % n, sum);
}

void vtci_window_similarity_run(const vtci_call *call, vtci_window_similarity *s)
{
    vtci_parallel(call, vtci_ceil_div(s->x.n_batch * s->windows.n, windows_per_task(s)),
                  measure_block, s);
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status open_job(const vtci_call *call, const vtc_tensor *x, size_t grid_h, size_t grid_w,
                           size_t win_h, size_t win_w, int ragged_edges, vtci_window_similarity *s)
{
    VTCI_TRY(vtci_windows_open(call, grid_h, grid_w, win_h, win_w, ragged_edges != 0, &s->windows));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    s->x = vtci_rows_of(x);
    s->first_row = 0;
    s->similarity = NULL;
    VTCI_REQUIRE(call, s->x.n_rows == grid_h * grid_w, VTC_ERR_SHAPE,
                 "x has %zu rows, the grid %zu x %zu", s->x.n_rows, grid_h, grid_w);
    VTCI_REQUIRE(call, vtci_mul(s->x.n_batch, s->windows.n) <= PTRDIFF_MAX / sizeof(float),
                 VTC_ERR_OVERFLOW, "%zu images of %zu windows overflow", s->x.n_batch,
                 s->windows.n);
    return VTC_OK;
}

vtc_status vtc_window_similarity_scratch(const vtc_tensor *x, size_t grid_h, size_t grid_w,
                                         size_t win_h, size_t win_w, int ragged_edges,
                                         const vtc_exec *exec, size_t *bytes)
{
    vtci_window_similarity s;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_window_similarity_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, x, grid_h, grid_w, win_h, win_w, ragged_edges, &s));
    vtci_arena arena = vtci_arena_open(&call);
    vtci_window_similarity_lay_out(&arena, &call, &s);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_window_similarity(const vtc_tensor *x, size_t grid_h, size_t grid_w, size_t win_h,
                                 size_t win_w, int ragged_edges, float *similarity,
                                 const vtc_exec *exec)
{
    vtci_window_similarity s;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_window_similarity", exec));
    VTCI_TRY(open_job(&call, x, grid_h, grid_w, win_h, win_w, ragged_edges, &s));
    const size_t n = s.x.n_batch * s.windows.n;
    VTCI_REQUIRE(&call, similarity != NULL || n == 0, VTC_ERR_NULL, "similarity is NULL");
    VTCI_REQUIRE(&call,
                 !vtci_ranges_meet(similarity, n * sizeof(*similarity), x->data,
                                   vtci_span_bytes(x)),
                 VTC_ERR_OVERLAP, "similarity overlaps x");
    vtci_arena arena = vtci_arena_open(&call);
    vtci_window_similarity_lay_out(&arena, &call, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    s.similarity = similarity;
    vtci_window_similarity_run(&call, &s);
    return VTC_OK;
}
