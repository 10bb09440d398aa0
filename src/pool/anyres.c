/*
 * Any-resolution packing: the tiles of one image, joined, cut to its aspect and put in one sequence
 * behind the tile that shows the whole image.
 *
 *   canvas   tiles_h x tiles_w tiles, or, FLAT, all of them in one column
 *   unpad    W / H > w / h:  n = whole(H (w / W)) rows are kept, else n = whole(W (h / H)) columns,
 *            (h - n) div 2 go at either side
 *   shrink   r = sqrt(h w / (M tile)); if r > 1.1: bilinear to int(h // r) x int(w // r)
 *   newline  one vector after each row
 *
 * Source: transformers' pack_image_features, unpad_image and select_best_resolution; LLaVA-NeXT's
 * prepare_inputs_labels_for_multimodal. All of it is in double and in their order of operations,
 * because one unit in the last place decides about a row. The canvas is never built, cells are read
 * where the tiles have them. A task is one row of tile 0 or of the output grid. Scratch as pool2d.
 */
#include "../../include/vtc/pool.h"

#include "../base/call.h"
#include "../base/tensor.h"
#include "window.h"

#include <math.h>

struct job {
    vtc_anyres_params params;
    vtc_anyres_layout layout;
    vtci_pooling pooling; /* from the kept part of the canvas to the output grid */
    bool has_newline;
    vtci_rows x, newline, y;
    vtci_slices slices;
};

static bool is_base_only(const vtc_anyres_params *p)
{
    return p->tiles_h == 0 && p->tiles_w == 0;
}

/* ---- layout ---------------------------------------------------------------------------------- */

/*
 * int(v), or int(round(v, 7)) as Python has it, for v >= 0. Python rounds the exact decimal value,
 * so the result is the next integer where that is nearer than half of 10^-7 and the integer below
 * everywhere else. The distance is exact in double from v = 1/2 on (Sterbenz's lemma), and never
 * equal to the bound, which has bits far below the last place of any such distance.
 */
static double whole(double v, vtc_anyres_rounding rounding)
{
    const double below = floor(v);

    return rounding == VTC_ANYRES_HF && below + 1.0 - v < 0.5e-7 ? below + 1.0 : below;
}

/* a // b of two positive floats in Python: the quotient without remainder, to the nearest integer
 * because the division may miss it by a rounding. */
static double floor_divide(double a, double b)
{
    const double quotient = (a - fmod(a, b)) / b;
    const double below = floor(quotient);

    return quotient - below > 0.5 ? below + 1.0 : below;
}

/* Rows to cut at either side so that about `content` of `extent` are left. */
static size_t padding(size_t extent, double content, vtc_anyres_rounding rounding)
{
    const double n = whole(content, rounding);

    return n < (double)extent ? (extent - (size_t)n) / 2 : 0;
}

static vtc_status unpad(const vtci_call *call, const vtc_anyres_params *p, vtc_anyres_layout *l)
{
    const double image_h = (double)p->image_h, image_w = (double)p->image_w;
    const double h = (double)l->rows, w = (double)l->cols;

    VTCI_REQUIRE(call, p->image_h != 0 && p->image_w != 0, VTC_ERR_RANGE,
                 "image is %zux%zu pixels (height x width)", p->image_h, p->image_w);
    if (image_w / image_h > w / h)
        l->row0 = padding(l->rows, image_h * (w / image_w), p->rounding);
    else
        l->col0 = padding(l->cols, image_w * (h / image_h), p->rounding);
    VTCI_REQUIRE(call, l->rows > 2 * l->row0 && l->cols > 2 * l->col0, VTC_ERR_RANGE,
                 "unpadding %zux%zu tokens to an image of %zux%zu pixels leaves none", l->rows,
                 l->cols, p->image_h, p->image_w);
    l->rows -= 2 * l->row0;
    l->cols -= 2 * l->col0;
    return VTC_OK;
}

static vtc_status shrink(const vtci_call *call, const vtc_anyres_params *p, vtc_anyres_layout *l)
{
    const double most = (double)p->max_tiles * (double)(p->tile_h * p->tile_w);
    const double ratio = sqrt((double)(l->rows * l->cols) / most);

    if (!(ratio > 1.1))
        return VTC_OK;
    l->out_h = (size_t)floor_divide((double)l->rows, ratio);
    l->out_w = (size_t)floor_divide((double)l->cols, ratio);
    VTCI_REQUIRE(call, l->out_h != 0 && l->out_w != 0, VTC_ERR_RANGE,
                 "shrinking %zux%zu tokens by %.3f to fit %zu tiles leaves none", l->rows, l->cols,
                 ratio, p->max_tiles);
    return VTC_OK;
}

/* The whole canvas, before anything is cut off. */
static vtc_status open_canvas(const vtci_call *call, const vtc_anyres_params *p,
                              vtc_anyres_layout *l)
{
    const bool flat = p->merge == VTC_ANYRES_FLAT;
    const size_t tiles_h = flat ? vtci_mul(p->tiles_h, p->tiles_w) : p->tiles_h;

    l->rows = vtci_mul(tiles_h, p->tile_h);
    l->cols = vtci_mul(flat ? 1 : p->tiles_w, p->tile_w);
    VTCI_REQUIRE(call, vtci_mul(l->rows, l->cols) != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "%zux%zu tiles of %zux%zu tokens overflow", p->tiles_h, p->tiles_w, p->tile_h,
                 p->tile_w);
    return VTC_OK;
}

static vtc_status open_output(const vtci_call *call, const vtc_anyres_params *p,
                              vtc_anyres_layout *l)
{
    VTCI_TRY(open_canvas(call, p, l));
    if (p->merge == VTC_ANYRES_UNPAD)
        VTCI_TRY(unpad(call, p, l));
    l->out_h = l->rows;
    l->out_w = l->cols;
    if (p->merge == VTC_ANYRES_MAXPOOL2X2) {
        VTCI_REQUIRE(call, l->rows >= 2 && l->cols >= 2, VTC_ERR_RANGE,
                     "2x2 pooling needs a larger canvas than %zux%zu", l->rows, l->cols);
        l->out_h /= 2;
        l->out_w /= 2;
    }
    if (p->max_tiles != 0)
        VTCI_TRY(shrink(call, p, l));
    return VTC_OK;
}

static bool writes_newline(const vtc_anyres_params *p)
{
    return p->merge == VTC_ANYRES_UNPAD && !p->no_newline;
}

static vtc_status open_layout(const vtci_call *call, const vtc_anyres_params *p,
                              vtc_anyres_layout *l)
{
    static const vtc_anyres_layout none = { 0 };
    const size_t n_newlines = writes_newline(p) ? 1 : 0;

    *l = none;
    l->n_base = p->no_base && !is_base_only(p) ? 0 : vtci_mul(p->tile_h, p->tile_w);
    l->n_tokens = vtci_add(l->n_base, n_newlines);
    if (!is_base_only(p)) {
        VTCI_TRY(open_output(call, p, l));
        l->row_length = l->out_w + n_newlines;
        l->n_tokens = vtci_add(l->n_base, vtci_mul(l->out_h, l->row_length));
    }
    VTCI_REQUIRE(call, l->n_tokens != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "%zux%zu tiles of %zux%zu tokens overflow", p->tiles_h, p->tiles_w, p->tile_h,
                 p->tile_w);
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_anyres_params *params,
                              struct job *job)
{
    static const vtc_anyres_params defaults = VTC_ANYRES_PARAMS_INIT;
    const vtc_anyres_params *p = &job->params;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_REQUIRE(call, p->tile_h != 0 && p->tile_w != 0, VTC_ERR_RANGE, "a tile is %zux%zu tokens",
                 p->tile_h, p->tile_w);
    VTCI_REQUIRE(call, (p->tiles_h == 0) == (p->tiles_w == 0), VTC_ERR_RANGE,
                 "%zux%zu tiles: both or none may be 0", p->tiles_h, p->tiles_w);
    VTCI_REQUIRE(call, (unsigned)p->merge <= VTC_ANYRES_FLAT, VTC_ERR_RANGE, "merge %d is unknown",
                 (int)p->merge);
    VTCI_REQUIRE(call, (unsigned)p->rounding <= VTC_ANYRES_ORIGINAL, VTC_ERR_RANGE,
                 "rounding %d is unknown", (int)p->rounding);
    VTCI_REQUIRE(call, p->max_tiles == 0 || p->merge == VTC_ANYRES_UNPAD, VTC_ERR_UNSUPPORTED,
                 "max_tiles is %zu, only UNPAD shrinks", p->max_tiles);
    job->has_newline = writes_newline(p);
    return open_layout(call, p, &job->layout);
}

vtc_status vtc_anyres_count(const vtc_anyres_params *params, vtc_anyres_layout *layout,
                            const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_anyres_count", exec));
    VTCI_REQUIRE_PTR(&call, layout);
    VTCI_TRY(open_params(&call, params, &job));
    *layout = job.layout;
    return VTC_OK;
}

/* ---- choice of the canvas -------------------------------------------------------------------- */

/* Pixels of the image that a canvas shows. Extents are at most INT32_MAX. */
static uint64_t useful_pixels(size_t image_h, size_t image_w, const size_t canvas[2])
{
    const double h = (double)image_h, w = (double)image_w;
    const double scale = fmin((double)canvas[1] / w, (double)canvas[0] / h);
    const uint64_t shown = (uint64_t)(w * scale) * (uint64_t)(h * scale);
    const uint64_t all = (uint64_t)image_h * image_w;

    return shown < all ? shown : all;
}

static vtc_status check_pixels(const vtci_call *call, const char *what, size_t h, size_t w)
{
    VTCI_REQUIRE(call, h != 0 && w != 0, VTC_ERR_RANGE, "%s is %zux%zu pixels", what, h, w);
    VTCI_REQUIRE(call, h <= INT32_MAX && w <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "%s is %zux%zu pixels, at most %d are meant", what, h, w, INT32_MAX);
    return VTC_OK;
}

vtc_status vtc_anyres_canvas(size_t image_h, size_t image_w, const size_t (*candidates)[2],
                             size_t n_candidates, size_t *best, const vtc_exec *exec)
{
    uint64_t best_useful = 0, best_waste = 0;
    size_t choice = 0;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_anyres_canvas", exec));
    VTCI_REQUIRE_PTR(&call, candidates);
    VTCI_REQUIRE_PTR(&call, best);
    VTCI_REQUIRE(&call, n_candidates != 0, VTC_ERR_RANGE, "n_candidates is 0");
    VTCI_TRY(check_pixels(&call, "the image", image_h, image_w));
    for (size_t i = 0; i < n_candidates; i++) {
        VTCI_TRY(check_pixels(&call, "a candidate", candidates[i][0], candidates[i][1]));

        const uint64_t useful = useful_pixels(image_h, image_w, candidates[i]);
        const uint64_t waste = (uint64_t)candidates[i][0] * candidates[i][1] - useful;

        if (i == 0 || useful > best_useful || (useful == best_useful && waste < best_waste)) {
            choice = i;
            best_useful = useful;
            best_waste = waste;
        }
    }
    *best = choice;
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status check_views(const vtci_call *call, const struct job *job, const vtc_tensor *x,
                              const vtc_tensor *newline, const vtc_tensor *y)
{
    const vtc_anyres_params *p = &job->params;
    const size_t n_tiles = vtci_add(1, vtci_mul(p->tiles_h, p->tiles_w));

    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, x->dim[0] == n_tiles && x->dim[1] == vtci_mul(p->tile_h, p->tile_w),
                 VTC_ERR_SHAPE, "1 + %zux%zu tiles of %zux%zu tokens are needed, x is %zux%zu",
                 p->tiles_h, p->tiles_w, p->tile_h, p->tile_w, x->dim[0], x->dim[1]);
    VTCI_REQUIRE(call, y->dim[0] == job->layout.n_tokens && y->dim[1] == x->dim[2], VTC_ERR_SHAPE,
                 "y is %zux%zu, %zux%zu is needed", y->dim[0], y->dim[1], job->layout.n_tokens,
                 x->dim[2]);
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    return job->has_newline ? vtci_check_newline(call, newline, y) : VTC_OK;
}

static vtci_axis open_axis(const vtc_anyres_params *p, size_t n_in, size_t n_out)
{
    const vtci_axis halved = { VTCI_SAMPLE_WINDOWS, n_in, n_out, 2, 2 };
    const vtci_axis resized = { VTCI_SAMPLE_BILINEAR, n_in, n_out, 0, 0 };

    return p->merge == VTC_ANYRES_MAXPOOL2X2 ? halved : resized;
}

static vtc_status open_job(const vtci_call *call, const vtc_anyres_params *params,
                           const vtc_tensor *x, const vtc_tensor *newline, const vtc_tensor *y,
                           struct job *job)
{
    VTCI_TRY(open_params(call, params, job));
    VTCI_TRY(check_views(call, job, x, newline, y));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    if (job->has_newline)
        job->newline = vtci_rows_of(newline);
    job->pooling.down = open_axis(&job->params, job->layout.rows, job->layout.out_h);
    job->pooling.across = open_axis(&job->params, job->layout.cols, job->layout.out_w);
    job->pooling.max = job->params.merge == VTC_ANYRES_MAXPOOL2X2;
    VTCI_TRY(vtci_check_axis(call, &job->pooling.down));
    return vtci_check_axis(call, &job->pooling.across);
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    job->slices = vtci_take_floats(arena, call, vtci_pool_floats(job->y.dtype, job->x.n_cols));
}

static void write_newline(const struct job *job, size_t row, float *scratch)
{
    vtci_copy_token(job->newline.data, job->newline.dtype, &job->y, 0, row, scratch);
}

static void pack_base_row(const struct job *job, size_t i, float *scratch)
{
    const size_t h = job->params.tile_h, w = job->params.tile_w;
    const vtci_grid base = vtci_grid_of(&job->x, 0, h, w);
    const vtci_pooling copy = { vtci_axis_identity(h), vtci_axis_identity(w), false };

    vtci_pool_row(&base, &copy, i, &job->y, 0, i * w, scratch);
}

static void pack_grid_row(const struct job *job, size_t i, float *scratch)
{
    const vtc_anyres_params *p = &job->params;
    const vtc_anyres_layout *l = &job->layout;
    const size_t tiles_w = p->merge == VTC_ANYRES_FLAT ? 1 : p->tiles_w;
    const vtci_grid canvas = { job->x, 1, p->tile_h, p->tile_w, tiles_w, l->row0, l->col0 };
    const size_t row = l->n_base + i * l->row_length;

    vtci_pool_row(&canvas, &job->pooling, i, &job->y, 0, row, scratch);
    if (job->has_newline)
        write_newline(job, row + l->out_w, scratch);
}

static void pack_row(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const size_t n_base_rows = job->layout.n_base != 0 ? job->params.tile_h : 0;
    float *scratch = vtci_slice_of(&job->slices, worker);

    if (index < n_base_rows)
        pack_base_row(job, index, scratch);
    else
        pack_grid_row(job, index - n_base_rows, scratch);
}

static void run(const vtci_call *call, struct job *job)
{
    const size_t n_base_rows = job->layout.n_base != 0 ? job->params.tile_h : 0;

    vtci_parallel(call, n_base_rows + job->layout.out_h, pack_row, job);
    if (job->has_newline && is_base_only(&job->params))
        write_newline(job, job->layout.n_base, vtci_slice_of(&job->slices, 0));
}

vtc_status vtc_anyres_pack_scratch(const vtc_anyres_params *params, const vtc_tensor *x,
                                   const vtc_tensor *newline, const vtc_tensor *y,
                                   const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_anyres_pack_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, x, newline, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_anyres_pack(const vtc_anyres_params *params, const vtc_tensor *x,
                           const vtc_tensor *newline, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_anyres_pack", exec));
    VTCI_TRY(open_job(&call, params, x, newline, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) != 0)
        run(&call, &job);
    return VTC_OK;
}
