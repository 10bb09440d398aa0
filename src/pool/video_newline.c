/*
 * Newline vectors between the pooled frames of a video.
 *
 *   GRID       after every row of every frame: row i of frame f begins at (f h + i) (w + 1)
 *   FRAME      after every frame:                                        f (h w + 1) + i w
 *   ONE_TOKEN  after the last frame, NO_TOKEN never:                     f h w + i w
 *
 * Source: LLaVA-NeXT's add_token_per_grid and add_token_per_frame. A copy: a task is one row of one
 * frame. Scratch: one token per worker where dtypes are to be converted.
 */
#include "../../include/vtc/pool.h"

#include "../base/call.h"
#include "../base/tensor.h"
#include "window.h"

struct job {
    vtc_video_newline_params params;
    bool has_newline;
    vtci_rows x, newline, y;
    vtci_slices slices;
};

static vtc_status open_params(const vtci_call *call, const vtc_video_newline_params *params,
                              struct job *job)
{
    static const vtc_video_newline_params defaults = VTC_VIDEO_NEWLINE_PARAMS_INIT;
    const vtc_video_newline_params *p = &job->params;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_REQUIRE(call, p->grid_h != 0 && p->grid_w != 0, VTC_ERR_RANGE, "grid is %zux%zu",
                 p->grid_h, p->grid_w);
    VTCI_REQUIRE(call, (unsigned)p->position <= VTC_NEWLINE_NO_TOKEN, VTC_ERR_RANGE,
                 "position %d is unknown", (int)p->position);
    job->has_newline = p->position != VTC_NEWLINE_NO_TOKEN;
    return VTC_OK;
}

static vtc_status count_tokens(const vtci_call *call, const vtc_video_newline_params *p,
                               size_t n_frames, size_t *n_tokens)
{
    const size_t per_row = vtci_add(p->grid_w, p->position == VTC_NEWLINE_GRID);
    const size_t per_frame =
        vtci_add(vtci_mul(p->grid_h, per_row), p->position == VTC_NEWLINE_FRAME);
    const size_t n = vtci_add(vtci_mul(n_frames, per_frame), p->position == VTC_NEWLINE_ONE_TOKEN);

    VTCI_REQUIRE(call, n != SIZE_MAX, VTC_ERR_OVERFLOW, "%zu frames of %zux%zu tokens overflow",
                 n_frames, p->grid_h, p->grid_w);
    *n_tokens = n;
    return VTC_OK;
}

vtc_status vtc_video_newline_count(const vtc_video_newline_params *params, size_t n_frames,
                                   size_t *n_tokens, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_video_newline_count", exec));
    VTCI_REQUIRE_PTR(&call, n_tokens);
    VTCI_TRY(open_params(&call, params, &job));
    return count_tokens(&call, &job.params, n_frames, n_tokens);
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status check_views(const vtci_call *call, const struct job *job, const vtc_tensor *x,
                              const vtc_tensor *newline, const vtc_tensor *y)
{
    const vtc_video_newline_params *p = &job->params;
    size_t n_tokens = 0;

    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, x->dim[1] == vtci_mul(p->grid_h, p->grid_w), VTC_ERR_SHAPE,
                 "grid %zux%zu needs %zu rows, x has %zu", p->grid_h, p->grid_w,
                 vtci_mul(p->grid_h, p->grid_w), x->dim[1]);
    VTCI_TRY(count_tokens(call, p, x->dim[0], &n_tokens));
    VTCI_REQUIRE(call, y->dim[0] == n_tokens && y->dim[1] == x->dim[2], VTC_ERR_SHAPE,
                 "y is %zux%zu, %zux%zu is needed", y->dim[0], y->dim[1], n_tokens, x->dim[2]);
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    return job->has_newline ? vtci_check_newline(call, newline, y) : VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_video_newline_params *params,
                           const vtc_tensor *x, const vtc_tensor *newline, const vtc_tensor *y,
                           struct job *job)
{
    VTCI_TRY(open_params(call, params, job));
    VTCI_TRY(check_views(call, job, x, newline, y));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    if (job->has_newline)
        job->newline = vtci_rows_of(newline);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    job->slices = vtci_take_floats(arena, call, vtci_pool_floats(job->y.dtype, job->y.n_cols));
}

static void write_newline(const struct job *job, size_t row, float *scratch)
{
    vtci_copy_token(job->newline.data, job->newline.dtype, &job->y, 0, row, scratch);
}

/* Where row i of frame f begins in y. */
static size_t first_token(const vtc_video_newline_params *p, size_t f, size_t i)
{
    const size_t frame = p->grid_h * p->grid_w;

    if (p->position == VTC_NEWLINE_GRID)
        return (f * p->grid_h + i) * (p->grid_w + 1);
    if (p->position == VTC_NEWLINE_FRAME)
        return f * (frame + 1) + i * p->grid_w;
    return f * frame + i * p->grid_w;
}

static void copy_row(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t h = job->params.grid_h, w = job->params.grid_w;
    const size_t f = index / h, i = index % h, first = first_token(&job->params, f, i);
    const bool ends_frame = i + 1 == h && job->params.position == VTC_NEWLINE_FRAME;
    float *scratch = vtci_slice_of(&job->slices, worker);

    for (size_t j = 0; j < w; j++)
        vtci_copy_token(vtci_row(&job->x, f, i * w + j), job->x.dtype, &job->y, 0, first + j,
                        scratch);
    if (ends_frame || job->params.position == VTC_NEWLINE_GRID)
        write_newline(job, first + w, scratch);
}

static void run(const vtci_call *call, struct job *job)
{
    vtci_parallel(call, job->x.n_batch * job->params.grid_h, copy_row, job);
    if (job->params.position == VTC_NEWLINE_ONE_TOKEN)
        write_newline(job, job->y.n_rows - 1, vtci_slice_of(&job->slices, 0));
}

vtc_status vtc_video_newline_scratch(const vtc_video_newline_params *params, const vtc_tensor *x,
                                     const vtc_tensor *newline, const vtc_tensor *y,
                                     const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_video_newline_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, x, newline, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_video_newline(const vtc_video_newline_params *params, const vtc_tensor *x,
                             const vtc_tensor *newline, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_video_newline", exec));
    VTCI_TRY(open_job(&call, params, x, newline, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) != 0)
        run(&call, &job);
    return VTC_OK;
}
