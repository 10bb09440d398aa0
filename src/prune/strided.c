/*
 * Strided rows: the control of keeping every n-th token. The middles of equal spans, in a row or in
 * both directions of the grid.
 */
#include "planners.h"
#include "selection.h"

/* Row i of n_keep among n: the middle of its span. */
static size_t middle(size_t i, size_t n, size_t n_keep)
{
    return (size_t)((2 * (uint64_t)i + 1) * n / (2 * (uint64_t)n_keep));
}

vtc_status vtc_strided(size_t n_in, size_t n_keep, const float *mass, vtc_plan *plan,
                       const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_strided", exec));
    VTCI_TRY(vtci_selection_open(&call, plan, n_in, n_keep, mass));
    for (size_t i = 0; i < n_keep; i++)
        plan->keep[i] = (int32_t)middle(i, n_in, n_keep);
    vtci_plan_no_score(plan, n_in);
    vtci_selection_finish(plan, n_in, n_keep, mass);
    return VTC_OK;
}

vtc_status vtc_strided_grid(size_t grid_h, size_t grid_w, size_t out_h, size_t out_w,
                            const float *mass, vtc_plan *plan, const vtc_exec *exec)
{
    const size_t n_in = vtci_mul(grid_h, grid_w), n_out = vtci_mul(out_h, out_w);
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_strided_grid", exec));
    VTCI_REQUIRE(&call, out_h <= grid_h && out_w <= grid_w, VTC_ERR_BUDGET,
                 "cannot keep %zu x %zu cells of %zu x %zu", out_h, out_w, grid_h, grid_w);
    VTCI_TRY(vtci_selection_open(&call, plan, n_in, n_out, mass));
    for (size_t j = 0; j < n_out; j++) {
        const size_t row = middle(j / out_w, grid_h, out_h);
        const size_t column = middle(j % out_w, grid_w, out_w);

        plan->keep[j] = (int32_t)(row * grid_w + column);
    }
    vtci_plan_no_score(plan, n_in);
    vtci_selection_finish(plan, n_in, n_out, mass);
    return VTC_OK;
}

/* ---- the planner: in the grid when there is one, else in the row ----------------------------- */

static bool has_grid(const vtc_plan_inputs *image)
{
    return image->grid_h != 0 && image->grid_w != 0;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    size_t h, w;

    (void)params;
    if (!has_grid(image))
        return vtci_selection_count("vtc_strided", image->n_rows, n_keep, count, exec);
    VTCI_TRY(vtc_budget_grid(image->grid_h, image->grid_w, n_keep, &h, &w, exec));
    *count = (vtc_plan_count){ image->n_rows, h * w, 0, 1 };
    return VTC_OK;
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    const size_t grid_h = image->grid_h, grid_w = image->grid_w;
    size_t h, w;

    (void)params;
    if (!has_grid(image))
        return vtc_strided(image->n_rows, n_keep, image->mass, plan, exec);
    VTCI_TRY(vtc_budget_grid(grid_h, grid_w, n_keep, &h, &w, exec));
    return vtc_strided_grid(grid_h, grid_w, h, w, image->mass, plan, exec);
}

const vtc_planner vtci_planner_strided = {
    .struct_size = sizeof(vtc_planner),
    .name = "strided",
    .title = "strided",
    .paper = "control",
    .checked = "our NumPy oracle",
    .uses = VTC_NEED_GRID,
    .exact = 1,
    .count = planner_count,
    .plan = planner_plan,
};
