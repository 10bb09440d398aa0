/*
 * A smaller picture: the control of giving the encoder fewer patches to begin with.
 *
 * Antialiased bilinear resampling, one direction after the other: output j of m from n pixels has
 * its centre at (j + 1/2) n / m and a triangle of half-width `reach` = max(n / m, 1) around it.
 *
 *     taps    int(centre - reach + 1/2) .. int(centre + reach + 1/2) - 1, within the picture
 *     weight  1 - |tap + 1/2 - centre| / reach, divided by their sum
 *
 * Each output row first gathers its taps of input rows, which runs at full vector width, then its
 * columns, so no intermediate picture is stored.
 *
 * Source: the filter of Pillow and of PyTorch's interpolate(antialias=True), which FastVLM, Qwen-VL
 * and others resize with; without their rounding to 8 bit.
 */
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "planners.h"

#include <math.h>

enum { BLOCK = 8 }; /* output rows of one task */

/* The taps of one direction. */
struct taps {
    size_t n_in, n_out, most; /* at most so many taps                            */
    size_t *first, *count;    /* [n_out]                                         */
    float *weight;            /* [n_out, most]                                   */
};

struct resize {
    vtci_rows image, out; /* [P, H, W], [P, H', W'] */
    struct taps rows, columns;
    char *slices;
    size_t slice_stride;
};

/* ---- taps ------------------------------------------------------------------------------------ */

static double reach_of(const struct taps *t)
{
    return fmax((double)t->n_in / (double)t->n_out, 1.0);
}

static struct taps lay_out_taps(vtci_arena *arena, size_t n_in, size_t n_out)
{
    struct taps t = { n_in, n_out, 0, NULL, NULL, NULL };

    if (n_out != 0)
        t.most = vtci_min(n_in, (size_t)(2.0 * reach_of(&t)) + 2);
    t.first = vtci_take(arena, n_out, sizeof(*t.first));
    t.count = vtci_take(arena, n_out, sizeof(*t.count));
    t.weight = vtci_take(arena, vtci_mul(n_out, t.most), sizeof(*t.weight));
    return t;
}

static double triangle(double tap, double center, double reach)
{
    return fmax(0.0, 1.0 - fabs((tap - center + 0.5) / reach));
}

static void weigh_taps(struct taps *t, size_t j)
{
    const double reach = reach_of(t);
    const double center = (double)t->n_in / (double)t->n_out * ((double)j + 0.5);
    const double lowest = center - reach + 0.5, highest = center + reach + 0.5;
    size_t first = lowest > 0.0 ? (size_t)lowest : 0;
    size_t last = vtci_min((size_t)highest, t->n_in);
    double sum = 0.0;

    /* a tap of weight 0 is not read: an infinite pixel beside the filter does no harm */
    while (triangle((double)first, center, reach) == 0.0)
        first++;
    while (triangle((double)(last - 1), center, reach) == 0.0)
        last--;
    for (size_t tap = first; tap < last; tap++)
        sum += triangle((double)tap, center, reach);
    for (size_t tap = first; tap < last; tap++)
        t->weight[j * t->most + tap - first] = (float)(triangle((double)tap, center, reach) / sum);
    t->first[j] = first;
    t->count[j] = last - first;
}

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status open_job(const vtci_call *call, const vtc_tensor *image, const vtc_tensor *out,
                           struct resize *r)
{
    VTCI_TRY(vtci_check_tensor(call, "image", image, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "out", out, VTCI_FLOATS, 3, 3, VTCI_OUT));
    VTCI_REQUIRE(call, image->dim[0] == out->dim[0], VTC_ERR_SHAPE,
                 "image has %zu planes, out has %zu", image->dim[0], out->dim[0]);
    VTCI_REQUIRE(call, (image->dim[1] != 0 && image->dim[2] != 0) || vtci_count(out) == 0,
                 VTC_ERR_SHAPE, "image is %zu x %zu, out wants %zu x %zu of it", image->dim[1],
                 image->dim[2], out->dim[1], out->dim[2]);
    VTCI_TRY(vtci_check_apart(call, "out", out, "image", image));
    r->image = vtci_rows_of(image);
    r->out = vtci_rows_of(out);
    return VTC_OK;
}

/* A worker holds one row of the picture's width, and an output row where those are not F32. */
static void lay_out(vtci_arena *arena, const vtci_call *call, struct resize *r)
{
    const size_t n = r->out.dtype == VTC_F32 ? 0 : r->out.n_cols;
    const size_t floats = vtci_add(r->image.n_cols, n);

    r->rows = lay_out_taps(arena, r->image.n_rows, r->out.n_rows);
    r->columns = lay_out_taps(arena, r->image.n_cols, r->out.n_cols);
    r->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &r->slice_stride);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void resize_row(const struct resize *r, size_t plane, size_t j, float *slice)
{
    const struct taps *rows = &r->rows, *columns = &r->columns;
    const size_t w = r->image.n_cols;
    void *row = vtci_row(&r->out, plane, j);
    float *y = vtci_row_buffer(row, r->out.dtype, slice + w);
    vtci_combine sum;

    vtci_combine_begin(&sum, slice, w, r->image.dtype, false);
    for (size_t t = 0; t < rows->count[j]; t++)
        vtci_combine_add(&sum, vtci_row(&r->image, plane, rows->first[j] + t),
                         rows->weight[j * rows->most + t]);
    vtci_combine_end(&sum);
    for (size_t i = 0; i < columns->n_out; i++)
        y[i] = vtci_kernels_get()->dot(columns->weight + i * columns->most,
                                       slice + columns->first[i], columns->count[i]);
    vtci_store_row(row, r->out.dtype, r->out.n_cols, y);
}

static void resize_block(void *job, size_t index, size_t worker)
{
    const struct resize *r = job;
    const size_t n_blocks = vtci_ceil_div(r->out.n_rows, BLOCK);
    const size_t plane = index / n_blocks, begin = index % n_blocks * BLOCK;
    const size_t end = vtci_min(begin + BLOCK, r->out.n_rows);
    float *slice = (float *)(void *)(r->slices + worker * r->slice_stride);

    for (size_t j = begin; j < end; j++)
        resize_row(r, plane, j, slice);
}

vtc_status vtc_image_resize_scratch(const vtc_tensor *image, const vtc_tensor *out,
                                    const vtc_exec *exec, size_t *bytes)
{
    struct resize r;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_image_resize_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, image, out, &r));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &r);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_image_resize(const vtc_tensor *image, vtc_tensor *out, const vtc_exec *exec)
{
    struct resize r;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_image_resize", exec));
    VTCI_TRY(open_job(&call, image, out, &r));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &r);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(out) == 0)
        return VTC_OK;
    for (size_t j = 0; j < r.rows.n_out; j++)
        weigh_taps(&r.rows, j);
    for (size_t j = 0; j < r.columns.n_out; j++)
        weigh_taps(&r.columns, j);
    vtci_parallel(&call, r.image.n_batch * vtci_ceil_div(r.out.n_rows, BLOCK), resize_block, &r);
    return VTC_OK;
}

/* ---- the planner: sizes only ----------------------------------------------------------------- */

vtc_status vtc_image_resize_count(size_t image_h, size_t image_w, size_t unit, size_t budget,
                                  size_t *out_h, size_t *out_w, const vtc_exec *exec)
{
    size_t h, w;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_image_resize_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_REQUIRE(&call, unit != 0 && image_h >= unit && image_w >= unit, VTC_ERR_RANGE,
                 "an image of %zu x %zu pixels has no unit of %zu", image_h, image_w, unit);
    VTCI_TRY(vtc_budget_grid(image_h / unit, image_w / unit, budget, &h, &w, exec));
    *out_h = h * unit;
    *out_w = w * unit;
    return VTC_OK;
}

/* Tokens of the smaller picture, for a picture of grid_h x grid_w tokens. */
static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    size_t h, w;

    (void)params;
    VTCI_TRY(vtc_budget_grid(image->grid_h, image->grid_w, n_keep, &h, &w, exec));
    *count = (vtc_plan_count){ image->n_rows, h * w, 0, 1 };
    return VTC_OK;
}

const vtc_planner vtci_planner_image_resize = {
    .struct_size = sizeof(vtc_planner),
    .name = "image_resize",
    .title = "smaller image",
    .paper = "control",
    .checked = "PyTorch 1.13's antialiased interpolation, run",
    .needs = VTC_NEED_GRID | VTC_NEED_IMAGE,
    .merges = 1,
    .exact = 1,
    .count = planner_count,
};
