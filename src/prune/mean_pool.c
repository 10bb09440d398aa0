/*
 * Adaptive average pooling as a plan: the control that every merging method must beat.
 *
 * Window i of m over n cells: floor(i n / m) .. ceil((i + 1) n / m) - 1. Neighbours share a cell
 * where m does not divide n, so there are more entries than rows, and a row's mass is divided among
 * the windows it is in.
 */
#include "planners.h"
#include "selection.h"

struct span {
    size_t begin, end;
};

/* Window i of n_out over n_in cells. */
static struct span window(size_t i, size_t n_in, size_t n_out)
{
    return (struct span){ i * n_in / n_out, vtci_ceil_div((i + 1) * n_in, n_out) };
}

/* Windows that hold cell i: with the grids exchanged they are the cells of window i. */
static size_t n_windows(size_t i, size_t n_in, size_t n_out)
{
    const struct span span = window(i, n_out, n_in);

    return span.end - span.begin;
}

/* Cells of all windows in one direction. */
static size_t n_cells(size_t n_in, size_t n_out)
{
    size_t n = 0;

    for (size_t i = 0; i < n_out; i++) {
        const struct span span = window(i, n_in, n_out);

        n += span.end - span.begin;
    }
    return n;
}

static vtc_status count_entries(const vtci_call *call, size_t grid_h, size_t grid_w, size_t out_h,
                                size_t out_w, vtc_plan_count *count)
{
    const size_t n_in = vtci_mul(grid_h, grid_w), n_out = vtci_mul(out_h, out_w);

    VTCI_REQUIRE(call, n_in != 0 && n_out != 0, VTC_ERR_RANGE,
                 "the grid is %zu x %zu and the output %zu x %zu, no side may be 0", grid_h, grid_w,
                 out_h, out_w);
    VTCI_REQUIRE(call, n_in <= INT32_MAX && n_out <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "%zu x %zu cells or %zu x %zu outputs exceed int32", grid_h, grid_w, out_h, out_w);
    *count = (vtc_plan_count){ n_in, n_out,
                               vtci_mul(n_cells(grid_h, out_h), n_cells(grid_w, out_w)), 1 };
    return VTC_OK;
}

vtc_status vtc_mean_pool_count(size_t grid_h, size_t grid_w, size_t out_h, size_t out_w,
                               vtc_plan_count *count, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mean_pool_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    return count_entries(&call, grid_h, grid_w, out_h, out_w, count);
}

struct pool {
    size_t grid_h, grid_w, out_h, out_w;
    const float *mass;
};

/* Output (i, j), its entries from `at` on; returns where they end. */
static int32_t pool_window(const struct pool *p, size_t i, size_t j, vtc_plan *plan, int32_t at)
{
    const struct span rows = window(i, p->grid_h, p->out_h);
    const struct span columns = window(j, p->grid_w, p->out_w);
    const size_t area = (rows.end - rows.begin) * (columns.end - columns.begin);
    const size_t out = i * p->out_w + j;
    double mass = 0.0;

    for (size_t r = rows.begin; r < rows.end; r++)
        for (size_t c = columns.begin; c < columns.end; c++) {
            const size_t cell = r * p->grid_w + c;
            const size_t n_shares =
                n_windows(r, p->grid_h, p->out_h) * n_windows(c, p->grid_w, p->out_w);

            plan->source[at] = (int32_t)cell;
            plan->weight[at++] = (float)(1.0 / (double)area);
            mass += (p->mass == NULL ? 1.0 : p->mass[cell]) / (double)n_shares;
        }
    plan->mass[out] = (float)mass;
    plan->keep[out] = (int32_t)((rows.begin + rows.end - 1) / 2 * p->grid_w +
                                (columns.begin + columns.end - 1) / 2);
    return at;
}

vtc_status vtc_mean_pool(size_t grid_h, size_t grid_w, size_t out_h, size_t out_w,
                         const float *mass, vtc_plan *plan, const vtc_exec *exec)
{
    const struct pool p = { grid_h, grid_w, out_h, out_w, mass };
    int32_t n_entries = 0;
    vtc_plan_count n;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mean_pool", exec));
    VTCI_TRY(count_entries(&call, grid_h, grid_w, out_h, out_w, &n));
    VTCI_TRY(vtci_plan_open(&call, plan, n.n_in, n.n_out, n.n_nnz));
    VTCI_TRY(vtci_plan_check_apart(&call, plan, n.n_in, n.n_out, n.n_nnz, "mass", mass,
                                   n.n_in * sizeof(*mass)));
    VTCI_TRY(vtci_check_masses(&call, mass, n.n_in));
    for (size_t out = 0; out < n.n_out; out++) {
        plan->begin[out] = n_entries;
        n_entries = pool_window(&p, out / out_w, out % out_w, plan, n_entries);
    }
    plan->begin[n.n_out] = n_entries;
    vtci_plan_no_score(plan, n.n_in);
    vtci_plan_finish(plan, n.n_in, n.n_out, n.n_nnz, VTC_SUM);
    return VTC_OK;
}

/* ---- the planner ----------------------------------------------------------------------------- */

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    size_t h, w;

    (void)params;
    VTCI_TRY(vtc_budget_grid(image->grid_h, image->grid_w, n_keep, &h, &w, exec));
    return vtc_mean_pool_count(image->grid_h, image->grid_w, h, w, count, exec);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    size_t h, w;

    (void)params;
    VTCI_TRY(vtc_budget_grid(image->grid_h, image->grid_w, n_keep, &h, &w, exec));
    return vtc_mean_pool(image->grid_h, image->grid_w, h, w, image->mass, plan, exec);
}

const vtc_planner vtci_planner_mean_pool = {
    .struct_size = sizeof(vtc_planner),
    .name = "mean_pool",
    .title = "mean pool",
    .paper = "control",
    .checked = "PyTorch 1.13's adaptive average pooling, run",
    .needs = VTC_NEED_GRID,
    .merges = 1,
    .exact = 1,
    .count = planner_count,
    .plan = planner_plan,
};
