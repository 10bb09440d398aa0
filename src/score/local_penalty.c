/*
 * FiCoCo's local penalty: of each window of the grid the most redundant patch becomes more so, so
 * that removal spreads over the image.
 *
 * Source: Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM
 * Acceleration", arXiv 2411.17686, section 3.
 */
#include "local_penalty.h"

#include "../../include/vtc/score.h"
#include "../linalg/order.h"

#include <math.h>
#include <string.h>

vtc_status vtci_windows_check(const vtci_call *call, const vtci_windows *w, float coef)
{
    VTCI_REQUIRE(call, w->window != 0, VTC_ERR_RANGE, "the window is 0 cells wide");
    VTCI_REQUIRE(call, coef > 0.0f && isfinite(coef), VTC_ERR_RANGE,
                 "the coefficient is %g, it must be positive and finite", (double)coef);
    VTCI_REQUIRE(call, vtci_mul(w->grid_h, w->grid_w) <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "grid %zux%zu exceeds int32", w->grid_h, w->grid_w);
    return VTC_OK;
}

size_t vtci_windows_count(const vtci_windows *w)
{
    return (w->grid_h / w->window) * (w->grid_w / w->window);
}

vtc_status vtci_windows_check_cells(const vtci_call *call, const vtci_windows *w,
                                    const int32_t *pos, size_t n)
{
    const size_t n_cells = w->grid_h * w->grid_w;

    VTCI_REQUIRE(call, pos != NULL || n <= n_cells, VTC_ERR_SHAPE, "%zu rows on a grid of %zux%zu",
                 n, w->grid_h, w->grid_w);
    for (size_t i = 0; pos != NULL && i < n; i++)
        VTCI_REQUIRE(call, pos[i] >= 0 && (size_t)pos[i] < n_cells, VTC_ERR_RANGE,
                     "pos[%zu] is %d, the grid is %zux%zu", i, (int)pos[i], w->grid_h, w->grid_w);
    return VTC_OK;
}

static size_t cell_of(const int32_t *pos, size_t i)
{
    return pos == NULL ? i : (size_t)pos[i];
}

/* Whether row i is the window's rather than row j: the larger score, then the first cell. */
static bool beats(const float *score, const int32_t *pos, size_t i, size_t j)
{
    return score[i] > score[j] || (score[i] == score[j] && cell_of(pos, i) < cell_of(pos, j));
}

void vtci_local_penalty(const vtci_windows *w, const int32_t *pos, size_t n, float coef,
                        float *score, int32_t *best)
{
    const size_t n_windows = vtci_windows_count(w);
    const size_t rows = w->grid_h / w->window, columns = w->grid_w / w->window;

    for (size_t i = 0; i < n_windows; i++)
        best[i] = -1;
    for (size_t i = 0; i < n; i++) {
        const size_t cell = cell_of(pos, i);
        const size_t y = cell / w->grid_w / w->window, x = cell % w->grid_w / w->window;
        int32_t *at = best + y * columns + x;

        if (y < rows && x < columns && (*at < 0 || beats(score, pos, i, (size_t)*at)))
            *at = (int32_t)i;
    }
    for (size_t i = 0; i < n_windows; i++)
        if (best[i] >= 0)
            score[best[i]] = vtci_penalised(score[best[i]], coef);
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_local_penalty_scratch(size_t grid_h, size_t grid_w, size_t window,
                                     const vtc_exec *exec, size_t *bytes)
{
    const vtci_windows w = { grid_h, grid_w, window };
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_local_penalty_scratch", exec, bytes));
    VTCI_TRY(vtci_windows_check(&call, &w, 1.0f));
    arena = vtci_arena_open(&call);
    vtci_take(&arena, vtci_windows_count(&w), sizeof(int32_t));
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_local_penalty(float *score, const int32_t *pos, size_t n, size_t grid_h,
                             size_t grid_w, size_t window, float coef, const vtc_exec *exec)
{
    const vtci_windows w = { grid_h, grid_w, window };
    vtci_call call;
    vtci_arena arena;
    int32_t *best;

    VTCI_TRY(vtci_begin(&call, "vtc_local_penalty", exec));
    VTCI_TRY(vtci_windows_check(&call, &w, coef));
    VTCI_REQUIRE(&call, score != NULL || n == 0, VTC_ERR_NULL, "score is NULL");
    VTCI_REQUIRE(&call, !vtci_ranges_meet(score, vtci_mul(n, 4), pos, pos == NULL ? 0 : n * 4),
                 VTC_ERR_OVERLAP, "score overlaps pos");
    VTCI_TRY(vtci_windows_check_cells(&call, &w, pos, n));
    VTCI_REQUIRE(&call, n == 0 || vtci_find_nan(score, n) == n, VTC_ERR_DATA, "score[%zu] is NaN",
                 vtci_find_nan(score, n));
    arena = vtci_arena_open(&call);
    best = vtci_take(&arena, vtci_windows_count(&w), sizeof(*best));
    VTCI_TRY(vtci_arena_check(&call, &arena));
    vtci_local_penalty(&w, pos, n, coef, score, best);
    return VTC_OK;
}
