#include "run.h"

#include <vtc/heap.h>

#include <stdlib.h>
#include <time.h>

/* ---- the clock ------------------------------------------------------------------------------- */

#define FEWEST_RUNS       5
#define MOST_RUNS         21
#define MOST_MILLISECONDS 500.0

typedef vtc_status (*timed_call)(const void *call);

static double milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Runs the call once, and again when the time is asked for: 21 times, less often when that takes
 * over half a second, but at least 5 times. The first run pays for cold caches and is not counted.
 */
static bool run(struct tool *tool, timed_call call, const void *arguments, double *milliseconds)
{
    const double begin = milliseconds_now();
    double times[MOST_RUNS];
    size_t n = 0;

    if (!tool_check(tool, call(arguments)))
        return false;
    while (milliseconds != NULL && n < MOST_RUNS &&
           (n < FEWEST_RUNS || milliseconds_now() - begin < MOST_MILLISECONDS)) {
        const double start = milliseconds_now();

        if (!tool_check(tool, call(arguments)))
            return false;
        times[n++] = milliseconds_now() - start;
    }
    if (milliseconds != NULL) {
        qsort(times, n, sizeof(times[0]), compare_doubles);
        *milliseconds = times[n / 2];
    }
    return true;
}

/* ---- planners -------------------------------------------------------------------------------- */

struct planner_call {
    const struct tool *tool;
    const struct source *source;
    const vtc_planner *planner;
    const void *params;
    const vtc_budget *budget;
    vtc_plan *plan;
};

static vtc_status call_planner(const void *arguments)
{
    const struct planner_call *c = arguments;

    return vtc_planner_plan(c->planner, c->params, &c->source->inputs, c->budget, c->plan, NULL,
                            &c->tool->exec);
}

static bool make_room(struct tool *tool, const struct planner_call *c)
{
    const vtc_plan_inputs *inputs = &c->source->inputs;
    vtc_plan_count count;
    size_t bytes = 0;
    vtc_status status;

    status = vtc_planner_count(c->planner, c->params, inputs, c->budget, &count, &tool->exec);
    if (!tool_check(tool, status))
        return false;
    status = vtc_planner_scratch(c->planner, c->params, inputs, c->budget, &tool->exec, &bytes);
    if (!tool_scratch(tool, status, bytes))
        return false;
    if (count.n_nnz < count.n_out)
        count.n_nnz = count.n_out;
    return tool_check(tool, vtc_heap_plan(c->plan, &count, &tool->exec));
}

/* Methods that rank nothing score every row 0. */
static bool has_scores(const vtc_plan *plan)
{
    for (size_t i = 0; i < plan->n_in; i++)
        if (plan->score[i] != 0.0f)
            return true;
    return false;
}

bool run_planner(struct tool *tool, const struct source *source, const vtc_planner *planner,
                 const void *params, const vtc_budget *budget, vtc_plan *plan, double *milliseconds)
{
    const vtc_plan empty = VTC_PLAN_INIT;
    const struct planner_call call = { tool, source, planner, params, budget, plan };

    *plan = empty;
    tool->why[0] = '\0';
    if (!make_room(tool, &call) || !run(tool, call_planner, &call, milliseconds))
        return false;
    if (!has_scores(plan))
        plan->score = NULL;
    return tool_check(tool, vtc_plan_validate(plan, &tool->exec));
}

bool run_plan(struct tool *tool, const vtc_plan *plan, const vtc_tensor *x, vtc_tensor *y)
{
    size_t bytes = 0;
    const vtc_status status = vtc_plan_apply_scratch(plan, x, y, &tool->exec, &bytes);

    return tool_scratch(tool, status, bytes) &&
           tool_check(tool, vtc_plan_apply(plan, x, y, &tool->exec));
}

/* ---- poolings -------------------------------------------------------------------------------- */

#define ONEVISION  "Li et al., LLaVA-OneVision, 2024"
#define NEXT_VIDEO "Zhang et al., LLaVA-NeXT-Video, 2024"
#define POOL_CODE  "LLaVA-NeXT's get_2dPool as published"

const struct pooling poolings[] = {
    { "average_2x2", "average 2x2", VTC_POOL_AVERAGE, true, NEXT_VIDEO, POOL_CODE },
    { "max_2x2", "max 2x2", VTC_POOL_MAX, true, NEXT_VIDEO, POOL_CODE },
    { "bilinear", "bilinear", VTC_POOL_BILINEAR, false, ONEVISION, POOL_CODE },
    { "adaptive_average", "adaptive average", VTC_POOL_ADAPTIVE_AVERAGE, false,
      "Cha et al., Honeybee, CVPR 2024 (in its C-Abstractor)", "PyTorch 1.13" },
    { "adaptive_max", "adaptive max", VTC_POOL_ADAPTIVE_MAX, false, "as PyTorch", "PyTorch 1.13" },
};
const size_t n_poolings = sizeof(poolings) / sizeof(poolings[0]);

bool fit_pooling(struct tool *tool, const struct pooling *pooling, size_t grid_h, size_t grid_w,
                 size_t budget, vtc_pool2d_params *params)
{
    const vtc_pool2d_params initial = VTC_POOL2D_PARAMS_INIT;

    *params = initial;
    params->grid_h = grid_h;
    params->grid_w = grid_w;
    params->mode = pooling->mode;
    tool->why[0] = '\0';
    if (!pooling->fixed_ratio)
        return tool_check(tool, vtc_budget_grid(grid_h, grid_w, budget, &params->out_h,
                                                &params->out_w, &tool->exec));
    return tool_check(tool, vtc_pool2d_count(params, &params->out_h, &params->out_w, &tool->exec));
}

struct pooling_call {
    const struct tool *tool;
    const vtc_pool2d_params *params;
    const vtc_tensor *x;
    vtc_tensor *y;
};

static vtc_status call_pooling(const void *arguments)
{
    const struct pooling_call *c = arguments;

    return vtc_pool2d(c->params, c->x, c->y, &c->tool->exec);
}

bool run_pooling(struct tool *tool, const vtc_pool2d_params *params, const vtc_tensor *x,
                 vtc_tensor *y, double *milliseconds)
{
    const struct pooling_call call = { tool, params, x, y };
    size_t bytes = 0;
    const vtc_status status = vtc_pool2d_scratch(params, x, y, &tool->exec, &bytes);

    return tool_scratch(tool, status, bytes) && run(tool, call_pooling, &call, milliseconds);
}

/* ---- image resize ---------------------------------------------------------------------------- */

struct resize_call {
    const struct tool *tool;
    const vtc_tensor *from;
    vtc_tensor *to;
};

static vtc_status call_resize(const void *arguments)
{
    const struct resize_call *c = arguments;

    return vtc_image_resize(c->from, c->to, &c->tool->exec);
}

bool run_image_resize(struct tool *tool, const vtc_tensor *from, vtc_tensor *to,
                      double *milliseconds)
{
    const struct resize_call call = { tool, from, to };
    size_t bytes = 0;
    const vtc_status status = vtc_image_resize_scratch(from, to, &tool->exec, &bytes);

    return tool_scratch(tool, status, bytes) && run(tool, call_resize, &call, milliseconds);
}
