/*
 * Merge order: for every frame, for every block of m x m tokens, the block row by row.
 *
 *   position p -> (t, R, Q, dr, dc) with extents (T, h/m, w/m, m, m)
 *   raster     =  (t h + R m + dr) w + Q m + dc
 *
 * Since h is divisible by m, T frames are one grid of T h rows.
 */
#include "../../include/vtc/project.h"

#include "../base/tensor.h"
#include "merge_order.h"

#include <string.h>

vtc_status vtci_check_merge_grid(const vtci_call *call, size_t t, size_t h, size_t w, size_t merge)
{
    VTCI_REQUIRE(call, merge != 0, VTC_ERR_RANGE, "merge is 0");
    VTCI_REQUIRE(call, h % merge == 0 && w % merge == 0, VTC_ERR_SHAPE,
                 "grid %zux%zu is not divisible by %zu", h, w, merge);
    VTCI_REQUIRE(call, vtci_mul(t, vtci_mul(h, w)) != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "grid %zux%zux%zu overflows", t, h, w);
    return VTC_OK;
}

/* The raster token at position p; t and R are counted through as one. */
static size_t raster_of(size_t w, size_t merge, size_t p)
{
    const size_t cell = p % (merge * merge), block = p / (merge * merge);
    const size_t row = block / (w / merge) * merge + cell / merge;
    const size_t col = block % (w / merge) * merge + cell % merge;

    return row * w + col;
}

vtc_status vtc_merge_order(size_t grid_t, size_t grid_h, size_t grid_w, size_t merge,
                           int32_t *order, const vtc_exec *exec)
{
    const size_t n = vtci_mul(grid_t, vtci_mul(grid_h, grid_w));
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_merge_order", exec));
    VTCI_TRY(vtci_check_merge_grid(&call, grid_t, grid_h, grid_w, merge));
    VTCI_REQUIRE(&call, n <= INT32_MAX, VTC_ERR_OVERFLOW, "grid %zux%zux%zu has too many tokens",
                 grid_t, grid_h, grid_w);
    VTCI_REQUIRE(&call, order != NULL || n == 0, VTC_ERR_NULL, "order is NULL");
    for (size_t p = 0; p < n; p++)
        order[p] = (int32_t)raster_of(grid_w, merge, p);
    return VTC_OK;
}

/* ---- gather ---------------------------------------------------------------------------------- */

struct job {
    vtci_rows x, y;
    size_t grid_w, merge;
};

/* One row of blocks: its tokens, `merge` at a time, as they stand side by side in x. */
static void gather_blocks(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t per_row = job->grid_w * job->merge, n_down = job->y.n_rows / per_row;
    const size_t b = index / n_down, first = index % n_down * per_row;
    const size_t bytes = job->x.n_cols * vtc_dtype_size(job->x.dtype);

    (void)worker;
    for (size_t i = first; i < first + per_row; i++)
        memcpy(vtci_row(&job->y, b, i), vtci_row(&job->x, b, raster_of(job->grid_w, job->merge, i)),
               bytes);
}

static vtc_status open_job(const vtci_call *call, size_t n_tokens, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_ANY, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_ANY, 2, 3, VTCI_OUT));
    VTCI_REQUIRE(call, x->dtype == y->dtype, VTC_ERR_DTYPE, "x is %s, y is %s",
                 vtc_dtype_string(x->dtype), vtc_dtype_string(y->dtype));
    VTCI_REQUIRE(call, x->rank == y->rank, VTC_ERR_SHAPE, "x has rank %d, y has rank %d", x->rank,
                 y->rank);
    for (int axis = 0; axis < x->rank; axis++)
        VTCI_REQUIRE(call, x->dim[axis] == y->dim[axis], VTC_ERR_SHAPE,
                     "axis %d has extent %zu in x, %zu in y", axis, x->dim[axis], y->dim[axis]);
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_REQUIRE(call, job->x.n_rows == n_tokens, VTC_ERR_SHAPE,
                 "the grid has %zu tokens, x has %zu", n_tokens, job->x.n_rows);
    return VTC_OK;
}

vtc_status vtc_merge_order_gather(size_t grid_t, size_t grid_h, size_t grid_w, size_t merge,
                                  const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    struct job job;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_merge_order_gather", exec));
    VTCI_TRY(vtci_check_merge_grid(&call, grid_t, grid_h, grid_w, merge));
    VTCI_TRY(open_job(&call, grid_t * grid_h * grid_w, x, y, &job));
    job.grid_w = grid_w;
    job.merge = merge;
    if (vtci_count(y) != 0)
        vtci_parallel(&call, job.y.n_batch * (grid_t * grid_h / merge), gather_blocks, &job);
    return VTC_OK;
}
