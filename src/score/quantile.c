/* The quantile of a row of scores, with linear interpolation. */
#include "quantile.h"

#include "../../include/vtc/score.h"
#include "../base/call.h"
#include "../linalg/order.h"

#include <math.h>

vtci_quantile vtci_quantile_rank(size_t n, float q)
{
    const size_t last = n - 1;
    const float place = q * (float)last;
    vtci_quantile rank = { last, last, 0.0 };

    if (place < (float)last)
        rank =
            (vtci_quantile){ (size_t)floorf(place), (size_t)ceilf(place), place - floorf(place) };
    rank.lo = vtci_min(rank.lo, last); /* (float)last may be above last */
    rank.hi = vtci_min(rank.hi, last);
    return rank;
}

double vtci_quantile_value(const vtci_quantile *rank, float lo, float hi)
{
    const double gap = (double)hi - lo, w = rank->w;

    return w < 0.5 ? lo + w * gap : hi - gap * (1.0 - w);
}

static vtc_status open_values(const vtci_call *call, const float *x, size_t n, float q)
{
    VTCI_REQUIRE(call, n != 0, VTC_ERR_SHAPE, "there are no values, so no quantile");
    VTCI_REQUIRE(call, n <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu values exceed int32", n);
    VTCI_REQUIRE(call, q >= 0.0f && q <= 1.0f, VTC_ERR_RANGE, "q is %g, 0 to 1 is needed",
                 (double)q);
    if (call->query)
        return VTC_OK;
    VTCI_REQUIRE_PTR(call, x);

    const size_t nan = vtci_find_nan(x, n);

    VTCI_REQUIRE(call, nan == n, VTC_ERR_DATA, "x[%zu] is NaN", nan);
    return VTC_OK;
}

vtc_status vtc_quantile_scratch(size_t n, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_quantile_scratch", exec, bytes));
    VTCI_TRY(open_values(&call, NULL, n, 0.0f));
    arena = vtci_arena_open(&call);
    vtci_take(&arena, n, sizeof(int32_t));
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_quantile(const float *x, size_t n, float q, double *value, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    int32_t *order;

    VTCI_TRY(vtci_begin(&call, "vtc_quantile", exec));
    VTCI_TRY(open_values(&call, x, n, q));
    VTCI_REQUIRE_PTR(&call, value);
    arena = vtci_arena_open(&call);
    order = vtci_take(&arena, n, sizeof(*order));
    VTCI_TRY(vtci_arena_check(&call, &arena));

    const vtci_quantile rank = vtci_quantile_rank(n, q);

    vtci_top_k(order, x, n, n - rank.lo);
    *value = vtci_quantile_value(&rank, x[order[n - 1 - rank.lo]], x[order[n - 1 - rank.hi]]);
    return VTC_OK;
}
