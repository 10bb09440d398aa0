/* A budget of tokens as a grid of about the picture's shape. */
#include "../../include/vtc/prune.h"
#include "../base/call.h"

#include <math.h>

/* floor(sqrt(x)), x < 2^62 */
static size_t integer_sqrt(uint64_t x)
{
    uint64_t root = (uint64_t)sqrt((double)x);

    while (root * root > x)
        root--;
    while ((root + 1) * (root + 1) <= x)
        root++;
    return (size_t)root;
}

vtc_status vtc_budget_grid(size_t grid_h, size_t grid_w, size_t budget, size_t *out_h,
                           size_t *out_w, const vtc_exec *exec)
{
    const size_t n_cells = vtci_mul(grid_h, grid_w), cells = vtci_min(budget, n_cells);
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_budget_grid", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_REQUIRE(&call, grid_h != 0 && grid_w != 0 && n_cells <= INT32_MAX, VTC_ERR_RANGE,
                 "the grid is %zu x %zu, 1 to 2^31 - 1 cells are needed", grid_h, grid_w);
    VTCI_REQUIRE(&call, budget != 0, VTC_ERR_BUDGET, "a grid has at least one cell, budget is 0");

    /* the shape first, then each side as long as the other one leaves room for */
    const size_t ideal = integer_sqrt((uint64_t)cells * grid_h / grid_w);
    const size_t h = vtci_min(grid_h, vtci_max(1, ideal));
    const size_t w = vtci_min(grid_w, vtci_max(1, cells / h));

    *out_h = vtci_min(grid_h, vtci_max(1, cells / w));
    *out_w = w;
    return VTC_OK;
}
