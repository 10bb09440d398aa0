/*
 * Average, max, bilinear and adaptive pooling of token grids.
 *
 *   average, max   y[i, j] = mean or maximum of x[i s .. i s + k - 1, j s .. j s + k - 1]
 *   adaptive       the same over rows floor(i h / oh) .. ceil((i + 1) h / oh) - 1
 *   bilinear       the 4 cells around ((i + 1/2) h / oh - 1/2, (j + 1/2) w / ow - 1/2)
 *
 * Source: LLaVA-NeXT's get_2dPool and PyTorch's adaptive pooling. One departure: PyTorch rounds
 * bilinear positions to F32, here they are exact; the results differ by about 1e-6 of |x|.
 *
 * A task is one row of the output grid. Scratch: none when y is F32; else one token per worker.
 * Cost: each output reads its k^2 (or 4) tokens once.
 */
#include "../../include/vtc/pool.h"

#include "../base/call.h"
#include "../base/tensor.h"
#include "window.h"

struct job {
    vtc_pool2d_params params;
    vtci_pooling pooling;
    vtci_rows x, y;
    vtci_slices slices;
};

/* ---- parameters ------------------------------------------------------------------------------ */

static vtc_status open_windows(const vtci_call *call, const vtc_pool2d_params *p, size_t out,
                               vtci_axis *axis)
{
    axis->sampling = VTCI_SAMPLE_WINDOWS;
    axis->stride = p->stride;
    axis->kernel = p->kernel != 0 ? p->kernel : p->stride;
    VTCI_REQUIRE(call, p->stride != 0, VTC_ERR_RANGE, "stride is 0");
    VTCI_REQUIRE(call, axis->kernel <= axis->n_in, VTC_ERR_RANGE,
                 "kernel %zu is larger than the grid, %zux%zu", axis->kernel, p->grid_h, p->grid_w);
    axis->n_out = (axis->n_in - axis->kernel) / axis->stride + 1;
    VTCI_REQUIRE(call, out == 0 || out == axis->n_out, VTC_ERR_RANGE,
                 "output extent %zu is asked, kernel %zu with stride %zu over %zu gives %zu", out,
                 axis->kernel, axis->stride, axis->n_in, axis->n_out);
    return VTC_OK;
}

static vtc_status open_resize(const vtci_call *call, const vtc_pool2d_params *p, size_t out,
                              vtci_axis *axis)
{
    const bool adaptive = p->mode != VTC_POOL_BILINEAR;

    VTCI_REQUIRE(call, (p->out_h == 0) == (p->out_w == 0), VTC_ERR_RANGE,
                 "output grid is %zux%zu, give both extents or none", p->out_h, p->out_w);
    VTCI_REQUIRE(call, out != 0 || !adaptive, VTC_ERR_RANGE,
                 "output grid is 0x0, adaptive pooling needs one");
    VTCI_REQUIRE(call, out != 0 || p->stride != 0, VTC_ERR_RANGE,
                 "stride and output grid are both 0");
    axis->sampling = adaptive ? VTCI_SAMPLE_ADAPTIVE : VTCI_SAMPLE_BILINEAR;
    axis->n_out = out != 0 ? out : vtci_ceil_div(axis->n_in, p->stride);
    return vtci_check_axis(call, axis);
}

static vtc_status open_axis(const vtci_call *call, const vtc_pool2d_params *p, size_t grid,
                            size_t out, vtci_axis *axis)
{
    axis->n_in = grid;
    if (p->mode == VTC_POOL_AVERAGE || p->mode == VTC_POOL_MAX)
        return open_windows(call, p, out, axis);
    return open_resize(call, p, out, axis);
}

static vtc_status open_pooling(const vtci_call *call, const vtc_pool2d_params *params,
                               struct job *job)
{
    static const vtc_pool2d_params defaults = VTC_POOL2D_PARAMS_INIT;
    const vtc_pool2d_params *p = &job->params;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_REQUIRE(call, p->grid_h != 0 && p->grid_w != 0, VTC_ERR_RANGE, "grid is %zux%zu",
                 p->grid_h, p->grid_w);
    VTCI_REQUIRE(call, (unsigned)p->mode <= VTC_POOL_ADAPTIVE_MAX, VTC_ERR_RANGE,
                 "mode %d is unknown", (int)p->mode);
    VTCI_TRY(open_axis(call, p, p->grid_h, p->out_h, &job->pooling.down));
    VTCI_TRY(open_axis(call, p, p->grid_w, p->out_w, &job->pooling.across));
    job->pooling.max = p->mode == VTC_POOL_MAX || p->mode == VTC_POOL_ADAPTIVE_MAX;
    return VTC_OK;
}

vtc_status vtc_pool2d_count(const vtc_pool2d_params *params, size_t *out_h, size_t *out_w,
                            const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_pool2d_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_TRY(open_pooling(&call, params, &job));
    *out_h = job.pooling.down.n_out;
    *out_w = job.pooling.across.n_out;
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status open_job(const vtci_call *call, const vtc_pool2d_params *params,
                           const vtc_tensor *x, const vtc_tensor *y, struct job *job)
{
    VTCI_TRY(open_pooling(call, params, job));
    VTCI_TRY(vtci_check_grids(call, x, job->params.grid_h, job->params.grid_w, y,
                              job->pooling.down.n_out, job->pooling.across.n_out));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_REQUIRE(call, job->x.n_cols == job->y.n_cols, VTC_ERR_SHAPE,
                 "x has %zu channels, y has %zu", job->x.n_cols, job->y.n_cols);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    job->slices = vtci_take_floats(arena, call, vtci_pool_floats(job->y.dtype, job->x.n_cols));
}

static void pool_row(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t out_h = job->pooling.down.n_out, out_w = job->pooling.across.n_out;
    const size_t f = index / out_h, i = index % out_h;
    const vtci_grid grid = vtci_grid_of(&job->x, f, job->params.grid_h, job->params.grid_w);

    vtci_pool_row(&grid, &job->pooling, i, &job->y, f, i * out_w,
                  vtci_slice_of(&job->slices, worker));
}

vtc_status vtc_pool2d_scratch(const vtc_pool2d_params *params, const vtc_tensor *x,
                              const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_pool2d_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, x, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_pool2d(const vtc_pool2d_params *params, const vtc_tensor *x, vtc_tensor *y,
                      const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_pool2d", exec));
    VTCI_TRY(open_job(&call, params, x, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) != 0)
        vtci_parallel(&call, job.y.n_batch * job.pooling.down.n_out, pool_row, &job);
    return VTC_OK;
}
