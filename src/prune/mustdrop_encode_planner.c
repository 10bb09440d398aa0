/*
 * MustDrop's encode step as a planner: the budget is a number of tokens that stay at least.
 *
 * By threshold an image of a batch may merge only as many windows as the one with the fewest. That
 * is settled before the first plan: vtc_planner_plan() hands every image the largest of the numbers
 * that planner_settle() names, and a budget is a bound from below here.
 */
#include "mustdrop.h"
#include "selection.h"

/* The encode parameters of a row's; *by_threshold as the row says. */
static vtc_status read_row(const vtci_call *call, const void *params,
                           vtc_mustdrop_encode_params *encode, bool *by_threshold)
{
    static const vtc_mustdrop_encode_params none = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    vtc_mustdrop_encode_planner_params row = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;

    VTCI_TRY(vtci_params_read(call, &row, sizeof(row), params));
    *encode = none;
    encode->win_h = row.win_h;
    encode->win_w = row.win_w;
    encode->threshold = row.threshold;
    encode->prefix = 0;
    encode->per_image = row.per_image;
    encode->raster_order = row.raster_order;
    encode->ragged_edges = row.ragged_edges;
    *by_threshold = row.use_threshold != 0;
    return VTC_OK;
}

/* One image of a batch: at most as many windows merge as leave n_keep tokens. */
static vtc_status open_image(const vtci_call *call, const void *params,
                             const vtc_plan_inputs *image, size_t n_keep, vtci_mustdrop_encode *e)
{
    const size_t n = image->n_rows;
    vtc_mustdrop_encode_params encode;
    bool by_threshold;

    VTCI_TRY(read_row(call, params, &encode, &by_threshold));
    VTCI_TRY(vtci_check_keep(call, n, n_keep));
    VTCI_TRY(
        vtci_mustdrop_encode_open(call, &encode, image->features, image->grid_h, image->grid_w, e));
    if (!by_threshold)
        VTCI_TRY(vtci_mustdrop_check_target(call, &e->sim.windows, n_keep));
    e->by_threshold = by_threshold;
    e->at_most = vtci_min(e->sim.windows.n, vtci_mustdrop_windows_for(&e->sim.windows, n_keep));
    return VTC_OK;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode", exec));
    call.query = true;
    VTCI_TRY(open_image(&call, params, image, n_keep, &e));
    *count = vtci_mustdrop_count(&e.sim.windows, 0, e.at_most, !e.by_threshold || e.at_most == 0);
    return VTC_OK;
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_encode", exec, bytes));
    VTCI_TRY(open_image(&call, params, image, n_keep, &e));
    vtci_arena arena = vtci_arena_open(&call);
    vtci_mustdrop_encode_lay_out(&arena, &e);
    return vtci_end_query(&call, &arena, bytes);
}

/* The similarities of one image, and the windows it would merge. */
static vtc_status measure_image(const vtci_call *call, const void *params,
                                const vtc_plan_inputs *image, size_t n_keep,
                                vtci_mustdrop_encode *e)
{
    VTCI_TRY(open_image(call, params, image, n_keep, e));
    vtci_arena arena = vtci_arena_open(call);
    vtci_mustdrop_encode_lay_out(&arena, e);
    VTCI_TRY(vtci_arena_check(call, &arena));
    return vtci_mustdrop_encode_measure(e);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode", exec));
    return measure_image(&call, params, image, n_keep, &e);
}

/* As many tokens as would stay of this image alone; 0: the others do not bind it. */
static vtc_status planner_settle(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                 size_t *settled, const vtc_exec *exec)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode", exec));
    VTCI_TRY(open_image(&call, params, image, n_keep, &e));
    *settled = 0;
    if (!e.by_threshold || e.p.per_image != 0)
        return VTC_OK;
    VTCI_TRY(measure_image(&call, params, image, n_keep, &e));
    *settled =
        vtci_mustdrop_count(&e.sim.windows, 0, vtci_mustdrop_windows_to_merge(&e, 0), true).n_out;
    return VTC_OK;
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode", exec));
    VTCI_TRY(open_image(&call, params, image, n_keep, &e));
    return vtci_mustdrop_encode_run(&e, image->features, image->mass, &plan, NULL);
}

/* The length and the sum of every token in a window. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    (void)params;
    (void)n_keep;
    return image->features == NULL ? 0.0
                                   : 2.0 * (double)image->n_rows * (double)image->features->dim[1];
}

#define FIELD(name) offsetof(vtc_mustdrop_encode_planner_params, name)
static const vtc_param planner_params[] = {
    { "win_h", VTC_PARAM_SIZE, FIELD(win_h), 1, 1024, 3, "height of a window" },
    { "win_w", VTC_PARAM_SIZE, FIELD(win_w), 1, 1024, 3, "width of a window" },
    { "use_threshold", VTC_PARAM_FLAG, FIELD(use_threshold), 0, 1, 0,
      "the threshold decides, the budget is the least that stays" },
    { "threshold", VTC_PARAM_F32, FIELD(threshold), -1, 1, 0.8,
      "windows of this mean cosine or more merge" },
    { "per_image", VTC_PARAM_FLAG, FIELD(per_image), 0, 1, 0,
      "by threshold, each image of a batch merges its own number of windows" },
    { "raster_order", VTC_PARAM_FLAG, FIELD(raster_order), 0, 1, 0,
      "merged tokens stay at their place instead of coming first" },
    { "ragged_edges", VTC_PARAM_FLAG, FIELD(ragged_edges), 0, 1, 0,
      "cells behind the last whole window are allowed, and stay" },
};

const vtc_planner vtci_planner_mustdrop_encode = {
    .struct_size = sizeof(vtc_planner),
    .name = "mustdrop-encode",
    .title = "MustDrop, encode",
    .paper = "Liu et al., Multi-Stage Vision Token Dropping, arXiv 2411.10803",
    .checked = "the authors' code, run; the target of tokens: our own",
    .needs = VTC_NEED_FEATURES | VTC_NEED_GRID,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_mustdrop_encode_planner_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
    .settle = planner_settle,
};
