/*
 * FocusLLaVA's regions and cells, and the tokens pooled from them. See vtc/sample.h for what is
 * known of the method and what is this library's choice.
 *
 * Cells start at their region's corner and are clipped to it, and regions to the grid: there is no
 * padding. The mean of the map is summed in double, a grid row at a time in float.
 */
#include "focusllava.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../plan/plan.h"

#include <float.h>
#include <math.h>

static const double LEAST_LENGTH = 1e-12; /* of the product of two lengths, in cosines */

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
            f->n_stored += vtci_focus_n_cells(f, &largest, f->base[s]);
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

size_t vtci_focus_n_cells(const vtci_focus *f, const vtci_box *region, size_t s)
{
    const size_t p = f->params.pools[s];

    return vtci_ceil_div(region->r1 - region->r0, p) * vtci_ceil_div(region->c1 - region->c0, p);
}

vtci_box vtci_focus_cell(const vtci_focus *f, const vtci_box *region, size_t s, size_t index)
{
    const size_t p = f->params.pools[s], n_across = vtci_ceil_div(region->c1 - region->c0, p);
    const size_t r0 = region->r0 + index / n_across * p, c0 = region->c0 + index % n_across * p;

    return (vtci_box){ r0, c0, r0 + vtci_min(p, region->r1 - r0),
                       c0 + vtci_min(p, region->c1 - c0) };
}

/* Pooled tokens of a region at all scales. */
static size_t n_candidates(const vtci_focus *f, const vtci_box *region)
{
    size_t n = 0;

    for (size_t s = 0; s < f->params.n_pools; s++)
        n += vtci_focus_n_cells(f, region, s);
    return n;
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
            const size_t n = vtci_focus_n_cells(f, &region, s);

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

/* Positions of the largest region. */
static size_t region_area(const vtci_focus *f)
{
    return vtci_min(f->params.window, f->grid_h) * vtci_min(f->params.window, f->grid_w);
}

void vtci_focus_lay_out(vtci_arena *arena, vtci_focus *f)
{
    const size_t c = f->x.n_cols;
    const size_t bytes = vtci_add(vtci_mul(region_area(f), sizeof(double)),
                                  vtci_mul(vtci_mul(vtci_add(2, f->n_stored), c), sizeof(float)));

    f->mean = vtci_take(arena, c, sizeof(*f->mean));
    f->sums = vtci_take(arena, vtci_mul(f->n_down, c), sizeof(*f->sums));
    f->bad = vtci_take(arena, f->n_down, sizeof(*f->bad));
    f->slices = vtci_take_slices(arena, f->call, bytes, &f->slice_stride);
}

vtci_focus_slice vtci_focus_slice_of(const vtci_focus *f, size_t worker)
{
    char *at = f->slices + worker * f->slice_stride;
    double *length = (double *)(void *)at;
    float *token = (float *)(void *)(length + region_area(f));

    return (vtci_focus_slice){ token, token + f->x.n_cols, token + 2 * f->x.n_cols, length };
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

/* y = the largest of a cell's parts at the base of scale s. */
static void pool_parts(const vtci_focus *f, const vtci_box *region, size_t s, const vtci_box *cell,
                       const float *stored, float *y)
{
    const size_t base = f->base[s], p = f->params.pools[base];
    const size_t n_across = vtci_ceil_div(region->c1 - region->c0, p);
    const float *parts = stored + f->store[base] * f->x.n_cols;
    vtci_combine top;

    vtci_combine_begin(&top, y, f->x.n_cols, VTC_F32, true);
    for (size_t r = (cell->r0 - region->r0) / p; r * p + region->r0 < cell->r1; r++)
        for (size_t c = (cell->c0 - region->c0) / p; c * p + region->c0 < cell->c1; c++)
            vtci_combine_add(&top, parts + (r * n_across + c) * f->x.n_cols, 1.0f);
    vtci_combine_end(&top);
}

const float *vtci_focus_average(const vtci_focus *f, const vtci_box *box, float *tmp)
{
    if (vtci_box_area(box) == 1)
        return vtci_focus_row(f, box->r0, box->c0, tmp);
    pool_positions(f, box, true, tmp);
    return tmp;
}

const float *vtci_focus_token(const vtci_focus *f, const vtci_box *region, size_t s, size_t index,
                              const vtci_focus_slice *slice)
{
    const vtci_box cell = vtci_focus_cell(f, region, s, index);
    const bool is_base = f->store[s] != SIZE_MAX;
    float *y = slice->token;

    if (is_base)
        y = slice->stored + (f->store[s] + index) * f->x.n_cols;
    else if (vtci_box_area(&cell) == 1)
        return vtci_focus_row(f, cell.r0, cell.c0, y);
    if (f->base[s] != f->params.n_pools)
        pool_parts(f, region, s, &cell, slice->stored, y);
    else
        pool_positions(f, &cell, f->params.pool == VTC_FOCUSLLAVA_AVERAGE, y);
    return y;
}

double vtci_focus_dot(const float *a, const float *b, size_t n)
{
    const float fast = vtci_kernels_get()->dot(a, b, n);
    double sum = 0.0;

    if (fabsf(fast) <= FLT_MAX && n != 1) /* one product is exact in double, and so are its ties */
        return fast;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

double vtci_focus_length(const float *x, size_t n)
{
    return sqrt(vtci_focus_dot(x, x, n));
}

double vtci_focus_cosine(const float *a, double a_length, const float *b, double b_length, size_t n)
{
    return vtci_focus_dot(a, b, n) / fmax(a_length * b_length, LEAST_LENGTH);
}

/* ---- the mean of the map --------------------------------------------------------------------- */

/* The sums of a grid row when those in float are not finite: a position is not, or the sums leave
 * the range. Returns the first such position, or H W. */
static size_t add_row_slowly(const vtci_focus *f, size_t r, double *sum, float *tmp)
{
    for (size_t c = 0; c < f->grid_w; c++) {
        const float *x = vtci_focus_row(f, r, c, tmp);

        for (size_t i = 0; i < f->x.n_cols; i++) {
            if (!(fabsf(x[i]) <= FLT_MAX))
                return r * f->grid_w + c;
            sum[i] += x[i];
        }
    }
    return vtci_focus_rows(f);
}

/* sum += the positions of a grid row. */
static size_t add_row(const vtci_focus *f, size_t r, double *sum, const vtci_focus_slice *slice)
{
    const size_t n = f->x.n_cols;
    const float *row = slice->token;
    vtci_combine of_row;
    int finite = 1;

    vtci_combine_begin(&of_row, slice->token, n, f->x.dtype, false);
    for (size_t c = 0; c < f->grid_w; c++)
        vtci_combine_add(&of_row, vtci_row(&f->x, r, c), 1.0f);
    vtci_combine_end(&of_row);
    for (size_t i = 0; i < n; i++)
        finite &= fabsf(row[i]) <= FLT_MAX;
    if (!finite)
        return add_row_slowly(f, r, sum, slice->row);
    for (size_t i = 0; i < n; i++)
        sum[i] += row[i];
    return vtci_focus_rows(f);
}

static void sum_rows(void *job, size_t index, size_t worker)
{
    const vtci_focus *f = job;
    const vtci_focus_slice slice = vtci_focus_slice_of(f, worker);
    const vtci_box region = vtci_focus_region(f, index * f->n_across);
    double *sum = f->sums + index * f->x.n_cols;

    f->bad[index] = vtci_focus_rows(f);
    for (size_t i = 0; i < f->x.n_cols; i++)
        sum[i] = 0.0;
    for (size_t r = region.r0; r < region.r1; r++)
        f->bad[index] = vtci_min(f->bad[index], add_row(f, r, sum, &slice));
}

vtc_status vtci_focus_mean(vtci_focus *f)
{
    const size_t n = vtci_focus_rows(f);

    if (n == 0)
        return VTC_OK;
    vtci_parallel(f->call, f->n_down, sum_rows, f);
    for (size_t i = 0; i < f->n_down; i++)
        VTCI_REQUIRE(f->call, f->bad[i] == n, VTC_ERR_DATA,
                     "x has NaN or Inf at row %zu, column %zu", f->bad[i] / f->grid_w,
                     f->bad[i] % f->grid_w);
    for (size_t i = 1; i < f->n_down; i++)
        for (size_t c = 0; c < f->x.n_cols; c++)
            f->sums[c] += f->sums[i * f->x.n_cols + c];
    for (size_t c = 0; c < f->x.n_cols; c++)
        f->mean[c] = (float)(f->sums[c] / (double)n);
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
