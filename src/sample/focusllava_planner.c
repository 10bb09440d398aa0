/*
 * The planner table's row of the vision-guided sampler. A budget is met exactly by the best of all
 * pooled tokens. How many an adaptive route gives, the image decides: there the budget is the most
 * it may give, and an image that needs more is an error.
 */
#include "../prune/planners.h"
#include "focusllava.h"

/* The caller's parameters; a route that needs weights is not for a table without weights. */
static vtc_status read_params(const void *from, vtc_focusllava_vision_params *p,
                              const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "focusllava-vision", exec));
    VTCI_TRY(vtci_focus_params(&call, p, from));
    VTCI_REQUIRE(&call, !p->adaptive || p->route != VTC_FOCUSLLAVA_LINEAR, VTC_ERR_UNSUPPORTED,
                 "the linear route needs a router: call vtc_focusllava_vision()");
    return VTC_OK;
}

/* The features as a map. */
static vtc_tensor map_of(const vtc_plan_inputs *image)
{
    const vtc_tensor *x = image->features;
    vtc_tensor map = vtc_tensor_3d(x->data, x->dtype, image->grid_h, image->grid_w, x->dim[1]);

    map.stride[0] = vtci_mul(image->grid_w, x->stride[0]);
    map.stride[1] = x->stride[0];
    return map;
}

/* An adaptive route never gives more than the budget, and needs room for no more. */
static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_focusllava_vision_params p;
    vtc_focusllava_size size;
    vtci_call call;

    VTCI_TRY(read_params(params, &p, exec));
    if (!p.adaptive)
        return vtc_focusllava_topk_count(&p, image->grid_h, image->grid_w, n_keep, count, exec);
    VTCI_TRY(vtci_begin(&call, "focusllava-vision", exec));
    VTCI_TRY(vtc_focusllava_vision_size(&p, image->grid_h, image->grid_w, &size, exec));
    VTCI_REQUIRE(&call, n_keep >= size.least, VTC_ERR_BUDGET,
                 "an adaptive route gives at least %zu tokens, the budget is %zu", size.least,
                 n_keep);
    *count = (vtc_plan_count){ image->n_rows, vtci_min(n_keep, size.most), image->n_rows,
                               size.least == vtci_min(n_keep, size.most) };
    return VTC_OK;
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    const vtc_tensor map = map_of(image);
    vtc_focusllava_vision_params p;

    VTCI_TRY(read_params(params, &p, exec));
    if (!p.adaptive)
        return vtc_focusllava_topk_scratch(&p, &map, n_keep, exec, bytes);
    return vtc_focusllava_vision_scratch(&p, &map, NULL, exec, bytes);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    const vtc_tensor map = map_of(image);
    vtc_focusllava_vision_params p;

    VTCI_TRY(read_params(params, &p, exec));
    if (!p.adaptive)
        return vtci_focusllava_topk_check(&p, &map, n_keep, exec);
    return vtci_focusllava_vision_within(&p, &map, NULL, NULL, n_keep, NULL, NULL, exec);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    const vtc_tensor map = map_of(image);
    vtc_focusllava_vision_params p;

    VTCI_TRY(read_params(params, &p, exec));
    if (!p.adaptive)
        return vtc_focusllava_topk(&p, &map, n_keep, image->mass, plan, NULL, exec);
    return vtci_focusllava_vision_within(&p, &map, NULL, image->mass, n_keep, plan, NULL, exec);
}

#define FIELD(name) offsetof(vtc_focusllava_vision_params, name)
#define POOL_MAX    1000000

static const vtc_param planner_params[] = {
    { "adaptive", VTC_PARAM_FLAG, FIELD(adaptive), 0, 1, 0,
      "1: one scale per region by `route`, the budget being the most it may give; "
      "0: the best of all pooled tokens, as many as the budget says" },
    { "route", VTC_PARAM_FLAG, FIELD(route), 0, 2, 0, "0: similarity, 2: fidelity" },
    { "tau", VTC_PARAM_F32, FIELD(tau), -2, 2, 0.9f, "least score of the fidelity route" },
    { "pool", VTC_PARAM_FLAG, FIELD(pool), 0, 1, 0, "0: maximum, 1: mean" },
    { "gate_scale", VTC_PARAM_FLAG, FIELD(gate_scale), -1, 1, -1,
      "1: adaptive tokens are multiplied by the probability of their scale" },
    { "window", VTC_PARAM_SIZE, FIELD(window), 1, POOL_MAX, 4, "side of a region" },
    { "n_pools", VTC_PARAM_SIZE, FIELD(n_pools), 1, VTC_FOCUSLLAVA_MAX_SCALES, 3,
      "number of scales" },
    { "pool_0", VTC_PARAM_SIZE, FIELD(pools[0]), 0, POOL_MAX, 4,
      "side of the first scale's cells" },
    { "pool_1", VTC_PARAM_SIZE, FIELD(pools[1]), 0, POOL_MAX, 2, "of the second's" },
    { "pool_2", VTC_PARAM_SIZE, FIELD(pools[2]), 0, POOL_MAX, 1, "of the third's" },
    { "pool_3", VTC_PARAM_SIZE, FIELD(pools[3]), 0, POOL_MAX, 0, "of the fourth's" },
    { "pool_4", VTC_PARAM_SIZE, FIELD(pools[4]), 0, POOL_MAX, 0, "of the fifth's" },
    { "pool_5", VTC_PARAM_SIZE, FIELD(pools[5]), 0, POOL_MAX, 0, "of the sixth's" },
    { "pool_6", VTC_PARAM_SIZE, FIELD(pools[6]), 0, POOL_MAX, 0, "of the seventh's" },
    { "pool_7", VTC_PARAM_SIZE, FIELD(pools[7]), 0, POOL_MAX, 0, "of the eighth's" },
};

const vtc_planner vtci_planner_focusllava_vision = {
    .struct_size = sizeof(vtc_planner),
    .name = "focusllava-vision",
    .title = "FocusLLaVA, vision-guided",
    .paper = "Zhu et al., FocusLLaVA, arXiv 2411.14228",
    .checked = "our NumPy oracle, written from a description: no official code exists",
    .needs = VTC_NEED_FEATURES | VTC_NEED_GRID,
    .merges = 1,
    .exact = 0, /* vtc_plan_count.exact tells: 1 unless adaptive */
    .params_size = sizeof(vtc_focusllava_vision_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
};
