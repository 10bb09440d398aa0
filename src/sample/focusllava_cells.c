/*
 * FocusLLaVA's regions and cells, and the tokens pooled from them. See vtc/sample.h for what is
 * known of the method and what is this library's choice.
 *
 * Cells start at their region's corner and are clipped to it, and regions to the grid: there is no
 * padding. The mean of the map is summed in double, some grid rows at a time in float.
 */
#include "focusllava.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../plan/plan.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- checks ---------------------------------------------------------------------------------- */

vtc_status vtci_focus_params(const vtci_call *call, vtc_focusllava_vision_params *params,
                             const vtc_focusllava_vision_params *from)
{
    static const vtc_focusllava_vision_params defaults = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;

    *params = defaults;
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_REQUIRE(call, params->window != 0, VTC_ERR_RANGE, "window is 0");
    VTCI_REQUIRE(call, params->n_pools >= 1 && params->n_pools <= VTC_FOCUSLLAVA_MAX_SCALES,
                 VTC_ERR_RANGE, "n_pools is %zu, 1 to %d is needed", params->n_pools,
                 VTC_FOCUSLLAVA_MAX_SCALES);
    for (size_t s = 0; s < params->n_pools; s++)
        VTCI_REQUIRE(call, params->pools[s] >= 1 && params->pools[s] <= params->window,
                     VTC_ERR_RANGE, "pools[%zu] is %zu, 1 to the window's %zu is needed", s,
                     params->pools[s], params->window);
    VTCI_REQUIRE(call, params->pool == VTC_FOCUSLLAVA_MAX || params->pool == VTC_FOCUSLLAVA_AVERAGE,
                 VTC_ERR_RANGE, "pool is %d", (int)params->pool);
    VTCI_REQUIRE(call,
                 params->route == VTC_FOCUSLLAVA_SIMILARITY ||
                     params->route == VTC_FOCUSLLAVA_LINEAR ||
                     params->route == VTC_FOCUSLLAVA_FIDELITY,
                 VTC_ERR_RANGE, "route is %d", (int)params->route);
    VTCI_REQUIRE(call, params->tau == params->tau, VTC_ERR_RANGE, "tau is NaN");
    VTCI_REQUIRE(call, params->gate_scale >= -1 && params->gate_scale <= 1, VTC_ERR_RANGE,
                 "gate_scale is %d, -1 to 1 is needed", params->gate_scale);
    return VTC_OK;
}

vtc_status vtci_focus_grid(const vtci_call *call, size_t grid_h, size_t grid_w, vtci_focus *f)
{
    const size_t n = vtci_mul(grid_h, grid_w);

    f->call = call;
    f->grid_h = grid_h;
    f->grid_w = grid_w;
    f->n_down = vtci_ceil_div(grid_h, f->params.window);
    f->n_across = vtci_ceil_div(grid_w, f->params.window);
    VTCI_REQUIRE(call, vtci_mul(n, f->params.n_pools) <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "a grid of %zux%zu pooled at %zu scales exceeds int32", grid_h, grid_w,
                 f->params.n_pools);
    return VTC_OK;
}

/* Whether scale s can be pooled from the cells of scale b. Positions are read where they are. */
static bool is_finer(const vtci_focus *f, size_t b, size_t s)
{
    const size_t *pools = f->params.pools;

    return pools[b] > 1 && pools[b] < pools[s] && pools[s] % pools[b] == 0;
}

/* The coarsest scale that s can be pooled from. */
static size_t find_base(const vtci_focus *f, size_t s)
{
    size_t base = f->params.n_pools;

    if (f->params.pool != VTC_FOCUSLLAVA_MAX)
        return base;
    for (size_t b = 0; b < f->params.n_pools; b++)
        if (is_finer(f, b, s) &&
            (base == f->params.n_pools || f->params.pools[b] > f->params.pools[base]))
            base = b;
    return base;
}

/* Visits scales from fine to coarse, and keeps the tokens that coarser ones are pooled from. */
static void arrange_scales(vtci_focus *f)
{
    const size_t n = f->params.n_pools;
    const vtci_box largest = { 0, 0, vtci_min(f->params.window, f->grid_h),
                               vtci_min(f->params.window, f->grid_w) };

    for (size_t s = 0; s < n; s++) {
        size_t at = s;

        for (; at > 0 && f->params.pools[f->order[at - 1]] > f->params.pools[s]; at--)
            f->order[at] = f->order[at - 1];
        f->order[at] = s;
        f->base[s] = find_base(f, s);
        f->store[s] = SIZE_MAX;
    }
    for (size_t s = 0; s < n; s++)
        if (f->base[s] != n && f->store[f->base[s]] == SIZE_MAX) {
            f->store[f->base[s]] = f->n_stored;
            f->n_stored += vtci_focus_cells(f, &largest, f->base[s]).n;
        }
}

vtc_status vtci_focus_open(const vtci_call *call, const vtc_focusllava_vision_params *params,
                           const vtc_tensor *x, vtci_focus *f)
{
    *f = (vtci_focus){ 0 };
    VTCI_TRY(vtci_focus_params(call, &f->params, params));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 3, 3, VTCI_IN));
    f->x = vtci_rows_of(x);
    VTCI_TRY(vtci_focus_grid(call, x->dim[0], x->dim[1], f));
    arrange_scales(f);
    return VTC_OK;
}

/* ---- regions and cells ----------------------------------------------------------------------- */

vtci_box vtci_focus_region(const vtci_focus *f, size_t region)
{
    const size_t w = f->params.window;
    const size_t r0 = region / f->n_across * w, c0 = region % f->n_across * w;

    /* as differences: a window may be far larger than the grid */
    return (vtci_box){ r0, c0, r0 + vtci_min(w, f->grid_h - r0), c0 + vtci_min(w, f->grid_w - c0) };
}

vtci_cells vtci_focus_cells(const vtci_focus *f, const vtci_box *region, size_t s)
{
    const size_t p = f->params.pools[s], n_across = vtci_ceil_div(region->c1 - region->c0, p);

    return (vtci_cells){ *region, p, n_across,
                         vtci_ceil_div(region->r1 - region->r0, p) * n_across };
}

vtci_box vtci_cell(const vtci_cells *cells, size_t index)
{
    const vtci_box *region = &cells->region;
    const size_t p = cells->pool, row = index / cells->n_across;
    const size_t r0 = region->r0 + row * p, c0 = region->c0 + (index - row * cells->n_across) * p;

    return (vtci_box){ r0, c0, r0 + vtci_min(p, region->r1 - r0),
                       c0 + vtci_min(p, region->c1 - c0) };
}

size_t vtci_focus_first_cell(const vtci_focus *f, const vtci_box *region, size_t scale)
{
    size_t n = 0;

    for (size_t s = 0; s < scale; s++)
        n += vtci_focus_cells(f, region, s).n;
    return n;
}

/* Pooled tokens of a region at all scales. */
static size_t n_candidates(const vtci_focus *f, const vtci_box *region)
{
    return vtci_focus_first_cell(f, region, f->params.n_pools);
}

/* Those of the first n regions in a row of regions: all but the last are alike. */
static size_t candidates_across(const vtci_focus *f, size_t down, size_t n)
{
    const size_t first = down * f->n_across;
    const vtci_box whole = vtci_focus_region(f, first);
    const vtci_box last = vtci_focus_region(f, first + f->n_across - 1);

    if (n < f->n_across)
        return n * n_candidates(f, &whole);
    return (n - 1) * n_candidates(f, &whole) + n_candidates(f, &last);
}

size_t vtci_focus_first_candidate(const vtci_focus *f, size_t region)
{
    const size_t down = region / f->n_across;
    const size_t above = down == 0 ? 0 : down * candidates_across(f, 0, f->n_across);
    const size_t left = region % f->n_across;

    return left == 0 ? above : above + candidates_across(f, down, left);
}

vtc_focusllava_size vtci_focus_size(const vtci_focus *f)
{
    vtc_focusllava_size size = { f->n_down * f->n_across, 0, 0, 0 };

    for (size_t i = 0; i < size.n_regions; i++) {
        const vtci_box region = vtci_focus_region(f, i);
        size_t least = SIZE_MAX, most = 0;

        for (size_t s = 0; s < f->params.n_pools; s++) {
            const size_t n = vtci_focus_cells(f, &region, s).n;

            least = vtci_min(least, n);
            most = vtci_max(most, n);
            size.n_candidates += n;
        }
        size.least += least;
        size.most += most;
    }
    return size;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Positions and pooled tokens of the largest region. */
static void largest_region(const vtci_focus *f, size_t *n_positions, size_t *n_tokens)
{
    const vtci_box largest = { 0, 0, vtci_min(f->params.window, f->grid_h),
                               vtci_min(f->params.window, f->grid_w) };

    *n_positions = vtci_box_area(&largest);
    *n_tokens = n_candidates(f, &largest);
}

enum { SUMMED = 96 }; /* positions that are summed in float, or a grid row */

static size_t rows_of_sum(const vtci_focus *f)
{
    return vtci_max(1, SUMMED / vtci_max(1, f->grid_w));
}

static size_t n_sums(const vtci_focus *f)
{
    return vtci_ceil_div(f->grid_h, rows_of_sum(f));
}

void vtci_focus_lay_out(vtci_arena *arena, vtci_focus *f)
{
    const size_t c = f->x.n_cols, floats = vtci_mul(vtci_add(1 + VTCI_MEASURED, f->n_stored), c);
    size_t n_positions, n_tokens;

    largest_region(f, &n_positions, &n_tokens);
    f->mean = vtci_take(arena, c, sizeof(*f->mean));
    f->sums = vtci_take(arena, vtci_mul(n_sums(f), c), sizeof(*f->sums));
    f->total = vtci_take(arena, c, sizeof(*f->total));
    f->slices = vtci_take_slices(arena, f->call,
                                 vtci_add(vtci_mul(n_positions + 2 * n_tokens, sizeof(double)),
                                          vtci_mul(floats, sizeof(float))),
                                 &f->slice_stride);
}

vtci_focus_slice vtci_focus_slice_of(const vtci_focus *f, size_t worker)
{
    size_t n_positions, n_tokens;

    largest_region(f, &n_positions, &n_tokens);

    double *length = (double *)(void *)(f->slices + worker * f->slice_stride);
    double *cosine = length + n_positions, *square = cosine + n_tokens;
    float *token = (float *)(void *)(square + n_tokens);

    float *rows = token + f->x.n_cols;

    return (vtci_focus_slice){ token,  rows,   rows + VTCI_MEASURED * f->x.n_cols,
                               length, cosine, square };
}

const float *vtci_focus_row(const vtci_focus *f, size_t r, size_t c, float *tmp)
{
    return vtci_load_row(vtci_row(&f->x, r, c), f->x.dtype, f->x.n_cols, tmp);
}

/* y = the largest, or the mean, of a box of several positions. */
static void pool_positions(const vtci_focus *f, const vtci_box *box, bool average, float *y)
{
    const float weight = average ? (float)(1.0 / (double)vtci_box_area(box)) : 1.0f;
    vtci_combine sum;

    vtci_combine_begin(&sum, y, f->x.n_cols, f->x.dtype, !average);
    for (size_t r = box->r0; r < box->r1; r++)
        for (size_t c = box->c0; c < box->c1; c++)
            vtci_combine_add(&sum, vtci_row(&f->x, r, c), weight);
    vtci_combine_end(&sum);
}

const float *vtci_focus_average(const vtci_focus *f, const vtci_box *box, float *tmp)
{
    if (vtci_box_area(box) == 1)
        return vtci_focus_row(f, box->r0, box->c0, tmp);
    pool_positions(f, box, true, tmp);
    return tmp;
}

float *vtci_focus_place(const vtci_focus *f, size_t s, size_t index, const vtci_focus_slice *slice)
{
    return f->store[s] == SIZE_MAX ? slice->token
                                   : slice->stored + (f->store[s] + index) * f->x.n_cols;
}

vtci_parts vtci_focus_parts(const vtci_focus *f, const vtci_cells *cells, size_t s,
                            const vtci_box *cell)
{
    const vtci_box *region = &cells->region;
    const size_t base = f->base[s], p = f->params.pools[base];

    return (vtci_parts){ base,
                         vtci_ceil_div(region->c1 - region->c0, p),
                         { (cell->r0 - region->r0) / p, (cell->c0 - region->c0) / p,
                           vtci_ceil_div(cell->r1 - region->r0, p),
                           vtci_ceil_div(cell->c1 - region->c0, p) } };
}

/* y = the largest of a cell's parts. */
static void pool_parts(const vtci_focus *f, const vtci_parts *parts, const vtci_focus_slice *slice,
                       float *y)
{
    vtci_combine top;

    vtci_combine_begin(&top, y, f->x.n_cols, VTC_F32, true);
    for (size_t r = parts->box.r0; r < parts->box.r1; r++)
        for (size_t c = parts->box.c0; c < parts->box.c1; c++)
            vtci_combine_add(&top, vtci_focus_place(f, parts->base, r * parts->n_across + c, slice),
                             1.0f);
    vtci_combine_end(&top);
}

const float *vtci_focus_token(const vtci_focus *f, const vtci_cells *cells, size_t s, size_t index,
                              const vtci_focus_slice *slice)
{
    const vtci_box cell = vtci_cell(cells, index);
    float *y = vtci_focus_place(f, s, index, slice);

    if (f->store[s] == SIZE_MAX && vtci_box_area(&cell) == 1)
        return vtci_focus_row(f, cell.r0, cell.c0, y);
    if (vtci_focus_has_base(f, s)) {
        const vtci_parts parts = vtci_focus_parts(f, cells, s, &cell);

        pool_parts(f, &parts, slice, y);
    } else
        pool_positions(f, &cell, f->params.pool == VTC_FOCUSLLAVA_AVERAGE, y);
    return y;
}

/* ---- the mean of the map --------------------------------------------------------------------- */

enum { STREAMS = 4 }; /* positions that are read side by side: memory is slower with more */

/* sums[index] = the sum of some rows of the grid. */
static void sum_rows(void *job, size_t index, size_t worker)
{
    const vtci_focus *f = job;
    const size_t first = index * rows_of_sum(f);
    const size_t end = vtci_min(first + rows_of_sum(f), f->grid_h);
    vtci_combine sum;

    (void)worker;
    vtci_combine_begin(&sum, f->sums + index * f->x.n_cols, f->x.n_cols, f->x.dtype, false);
    for (size_t r = first; r < end; r++)
        for (size_t c = 0; c < f->grid_w; c++) {
            if (c % STREAMS == 0)
                vtci_combine_flush(&sum);
            vtci_combine_add(&sum, vtci_row(&f->x, r, c), 1.0f);
        }
    vtci_combine_end(&sum);
}

static void add_sums(vtci_focus *f)
{
    for (size_t i = 0; i < n_sums(f); i++) {
        const float *sum = f->sums + i * f->x.n_cols;

        for (size_t c = 0; c < f->x.n_cols; c++)
            f->total[c] += sum[c];
    }
}

/* Adds a position to the total. Whether it is finite. */
static bool add_position(vtci_focus *f, const float *x)
{
    for (size_t i = 0; i < f->x.n_cols; i++) {
        if (!(fabsf(x[i]) <= FLT_MAX))
            return false;
        f->total[i] += x[i];
    }
    return true;
}

/* For when sums in float are not finite: a position is not, or they left the range. */
static vtc_status add_positions(vtci_focus *f)
{
    const vtci_focus_slice slice = vtci_focus_slice_of(f, 0);

    for (size_t r = 0; r < f->grid_h; r++)
        for (size_t c = 0; c < f->grid_w; c++)
            VTCI_REQUIRE(f->call, add_position(f, vtci_focus_row(f, r, c, slice.rows)),
                         VTC_ERR_DATA, "x has NaN or Inf at row %zu, column %zu", r, c);
    return VTC_OK;
}

static bool is_finite(const double *x, size_t n)
{
    int finite = 1;

    for (size_t i = 0; i < n; i++)
        finite &= fabs(x[i]) <= DBL_MAX;
    return finite;
}

vtc_status vtci_focus_mean(vtci_focus *f)
{
    if (vtci_focus_rows(f) == 0)
        return VTC_OK;
    vtci_parallel(f->call, n_sums(f), sum_rows, f);
    memset(f->total, 0, f->x.n_cols * sizeof(*f->total));
    add_sums(f);
    if (!is_finite(f->total, f->x.n_cols)) {
        memset(f->total, 0, f->x.n_cols * sizeof(*f->total));
        VTCI_TRY(add_positions(f));
    }
    for (size_t c = 0; c < f->x.n_cols; c++)
        f->mean[c] = (float)(f->total[c] / (double)vtci_focus_rows(f));
    f->mean_length = vtci_focus_length(f->mean, f->x.n_cols);
    return VTC_OK;
}

/* ---- plans ----------------------------------------------------------------------------------- */

float vtci_focus_weight(const vtci_focus *f, const vtci_box *cell)
{
    if (f->params.pool == VTC_FOCUSLLAVA_MAX)
        return 1.0f;
    return (float)(1.0 / (double)vtci_box_area(cell));
}

vtc_reduce vtci_focus_reduce(const vtci_focus *f)
{
    return f->params.pool == VTC_FOCUSLLAVA_MAX ? VTC_MAX : VTC_SUM;
}

int32_t vtci_focus_write_cell(const vtci_focus *f, const vtci_box *cell, float weight,
                              vtc_plan *plan, size_t j, int32_t at)
{
    plan->begin[j] = at;
    plan->keep[j] =
        (int32_t)((cell->r0 + cell->r1 - 1) / 2 * f->grid_w + (cell->c0 + cell->c1 - 1) / 2);
    for (size_t r = cell->r0; r < cell->r1; r++)
        for (size_t c = cell->c0; c < cell->c1; c++) {
            plan->source[at] = (int32_t)(r * f->grid_w + c);
            plan->weight[at++] = weight;
        }
    return at;
}

void vtci_focus_write_box(int32_t *boxes, size_t j, const vtci_box *cell)
{
    boxes[4 * j] = (int32_t)cell->r0;
    boxes[4 * j + 1] = (int32_t)cell->c0;
    boxes[4 * j + 2] = (int32_t)cell->r1;
    boxes[4 * j + 3] = (int32_t)cell->c1;
}

/* One array of the trace against all else. */
static vtc_status check_trace(const vtci_focus *f, const vtc_plan *plan, size_t n_out, size_t n_nnz,
                              const vtc_tensor *x, const float *mass, const vtci_focus_array *trace)
{
    const size_t n = vtci_focus_rows(f);

    VTCI_TRY(
        vtci_plan_check_apart(f->call, plan, n, n_out, n_nnz, "trace", trace->data, trace->bytes));
    VTCI_REQUIRE(f->call, !vtci_ranges_meet(trace->data, trace->bytes, x->data, vtci_span_bytes(x)),
                 VTC_ERR_OVERLAP, "an array of trace overlaps x");
    VTCI_REQUIRE(f->call,
                 mass == NULL ||
                     !vtci_ranges_meet(trace->data, trace->bytes, mass, n * sizeof(*mass)),
                 VTC_ERR_OVERLAP, "an array of trace overlaps mass");
    return VTC_OK;
}

vtc_status vtci_focus_check_outputs(const vtci_focus *f, const vtc_plan *plan, size_t n_out,
                                    size_t n_nnz, const vtc_tensor *x, const float *mass,
                                    const vtci_focus_array *traces, size_t n_traces)
{
    const size_t n = vtci_focus_rows(f);

    VTCI_TRY(vtci_plan_open(f->call, plan, n, n_out, n_nnz));
    VTCI_TRY(
        vtci_plan_check_apart(f->call, plan, n, n_out, n_nnz, "x", x->data, vtci_span_bytes(x)));
    VTCI_TRY(
        vtci_plan_check_apart(f->call, plan, n, n_out, n_nnz, "mass", mass, n * sizeof(*mass)));
    for (size_t i = 0; i < n_traces; i++) {
        if (traces[i].data == NULL)
            continue;
        VTCI_TRY(check_trace(f, plan, n_out, n_nnz, x, mass, &traces[i]));
        for (size_t j = 0; j < i; j++)
            VTCI_REQUIRE(f->call,
                         traces[j].data == NULL ||
                             !vtci_ranges_meet(traces[i].data, traces[i].bytes, traces[j].data,
                                               traces[j].bytes),
                         VTC_ERR_OVERLAP, "arrays of trace overlap each other");
    }
    return VTC_OK;
}
