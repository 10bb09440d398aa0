#include "contest.h"

#include "descriptor.h"
#include "run.h"
#include "stand_in.h"

#include <vtc/heap.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one run of a method makes of the tokens and of the raw patches. */
struct outputs {
    size_t n_out;
    float *tokens;  /* [n_out, DESCRIPTOR_WIDTH] */
    float *patches; /* [n_out, PATCH_VALUES]     */
};

static bool outputs_allocate(struct tool *tool, struct outputs *outputs, size_t n_out)
{
    outputs->n_out = n_out;
    outputs->tokens = tool_new(tool, n_out * DESCRIPTOR_WIDTH, sizeof(float));
    outputs->patches = tool_new(tool, n_out * PATCH_VALUES, sizeof(float));
    return outputs->tokens != NULL && outputs->patches != NULL;
}

static void outputs_free(struct outputs *outputs)
{
    free(outputs->tokens);
    free(outputs->patches);
}

/* ---- figures --------------------------------------------------------------------------------- */

static float clip(float value)
{
    return value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
}

static bool rebuild(struct tool *tool, const struct source *source, const struct outputs *outputs,
                    const int32_t *owner, const int32_t *nearest, float *rebuilt)
{
    float *patches = tool_new(tool, source->n_tokens * PATCH_VALUES, sizeof(float));

    if (patches == NULL)
        return false;
    for (size_t n = 0; n < source->n_tokens; n++) {
        const size_t from = (size_t)(owner[n] >= 0 ? owner[n] : nearest[n]);

        for (size_t i = 0; i < PATCH_VALUES; i++)
            patches[n * PATCH_VALUES + i] = clip(outputs->patches[from * PATCH_VALUES + i]);
    }
    join_patches(patches, source->grid_h, source->grid_w, rebuilt);
    free(patches);
    return true;
}

/* The smaller picture in the size of the original */
static bool enlarge(struct tool *tool, const struct source *source, const struct result *result,
                    float *rebuilt)
{
    const vtc_tensor from = vtc_f32_3d(result->smaller, 3, result->smaller_h, result->smaller_w);
    vtc_tensor to =
        vtc_f32_3d(rebuilt, 3, source->grid_h * PATCH_SIDE, source->grid_w * PATCH_SIDE);

    return run_image_resize(tool, &from, &to, NULL);
}

/* Figures of one run; all but the time, which the caller knows. */
static bool measure(struct tool *tool, const struct source *source, const struct outputs *outputs,
                    struct result *result, double figures[N_FIGURES])
{
    const size_t n = source->n_tokens;
    int32_t *nearest = tool_new(tool, n, sizeof(*nearest));
    float *cosine = tool_new(tool, n, sizeof(*cosine));
    bool done = nearest != NULL && cosine != NULL &&
                find_nearest_outputs(tool, source->tokens, n, outputs->tokens, outputs->n_out,
                                     DESCRIPTOR_WIDTH, nearest, cosine);

    if (done)
        done = result->smaller != NULL
                   ? enlarge(tool, source, result, result->rebuilt)
                   : rebuild(tool, source, outputs, result->owner, nearest, result->rebuilt);
    if (done) {
        double sum = 0.0;

        for (size_t i = 0; i < n; i++)
            sum += cosine[i];
        figures[FIGURE_COSINE] = sum / (double)n;
        figures[FIGURE_COSINE_P5] = quantile_of(cosine, n, 0.05);
        figures[FIGURE_PSNR] = psnr_of(source->planes, result->rebuilt, n * PATCH_VALUES);
    }
    free(nearest);
    free(cosine);
    return done;
}

static bool result_allocate(struct tool *tool, const struct source *source, struct result *result)
{
    result->owner = tool_new(tool, source->n_tokens, sizeof(*result->owner));
    result->rebuilt = tool_new(tool, source->n_tokens * PATCH_VALUES, sizeof(float));
    return result->owner != NULL && result->rebuilt != NULL;
}

static void result_clear_arrays(struct result *result)
{
    free(result->owner);
    free(result->keep);
    free(result->score);
    free(result->rebuilt);
    free(result->smaller);
    result->owner = result->keep = NULL;
    result->score = result->rebuilt = result->smaller = NULL;
}

/* The patch of each place of the grid goes to the output cell that its centre falls into. */
static void own_by_cell(const struct source *source, size_t out_h, size_t out_w, int32_t *owner)
{
    for (size_t n = 0; n < source->n_tokens; n++) {
        const size_t y = n / source->grid_w, x = n % source->grid_w;
        const size_t cell_y = (2 * y + 1) * out_h / (2 * source->grid_h);
        const size_t cell_x = (2 * x + 1) * out_w / (2 * source->grid_w);

        owner[n] = (int32_t)(cell_y * out_w + cell_x);
    }
}

/* ---- planners -------------------------------------------------------------------------------- */

/* Pixels of outputs whose weights add up to more than 1, as in VisionZip's sums of two terms, are
 * shown as their average: the picture tells what an output is made of. */
static void average_pixels(const vtc_plan *plan, float *patches)
{
    for (size_t j = 0; plan->reduce == VTC_SUM && j < plan->n_out; j++) {
        float sum = 0.0f;

        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
            sum += plan->weight[e];
        for (size_t i = 0; sum > 1.0f && i < PATCH_VALUES; i++)
            patches[j * PATCH_VALUES + i] /= sum;
    }
}

static bool apply_to_both(struct tool *tool, const struct source *source, const vtc_plan *plan,
                          struct outputs *outputs)
{
    const vtc_tensor patches = vtc_f32_2d(source->patches, source->n_tokens, PATCH_VALUES);
    vtc_tensor y_tokens, y_patches;

    if (!outputs_allocate(tool, outputs, plan->n_out))
        return false;
    y_tokens = vtc_f32_2d(outputs->tokens, plan->n_out, DESCRIPTOR_WIDTH);
    y_patches = vtc_f32_2d(outputs->patches, plan->n_out, PATCH_VALUES);
    if (!run_plan(tool, plan, &source->features, &y_tokens) ||
        !run_plan(tool, plan, &patches, &y_patches))
        return false;
    average_pixels(plan, outputs->patches);
    return true;
}

static bool take_plan(struct tool *tool, const struct source *source, const vtc_plan *plan,
                      struct result *result)
{
    if (!result_allocate(tool, source, result))
        return false;
    result->keep = tool_new(tool, plan->n_out, sizeof(*result->keep));
    if (result->keep == NULL)
        return false;
    result->n_out = plan->n_out;
    memcpy(result->owner, plan->fate, plan->n_in * sizeof(*plan->fate));
    memcpy(result->keep, plan->keep, plan->n_out * sizeof(*plan->keep));
    if (plan->score == NULL)
        return true;
    result->score = tool_new(tool, plan->n_in, sizeof(*result->score));
    if (result->score != NULL)
        memcpy(result->score, plan->score, plan->n_in * sizeof(*plan->score));
    return result->score != NULL;
}

/* The largest budget that leaves at most n_keep tokens: MustDrop meets one from above where its
 * windows do not divide what goes, and all are to be compared at the same cost. */
static vtc_budget budget_within(const struct source *source, size_t n_keep,
                                const vtc_planner *planner, const void *params)
{
    vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_plan_count count;

    while (budget.tokens > 0 &&
           vtc_planner_count(planner, params, &source->inputs, &budget, &count, NULL) == VTC_OK &&
           count.exact && count.n_out > n_keep)
        budget.tokens--;
    return budget;
}

static bool run_planner_once(struct tool *tool, const struct source *source, size_t n_keep,
                             const vtc_planner *planner, const void *params, struct result *result,
                             double figures[N_FIGURES])
{
    const vtc_budget budget = budget_within(source, n_keep, planner, params);
    struct outputs outputs = { 0, NULL, NULL };
    vtc_plan plan;
    const bool done =
        run_planner(tool, source, planner, params, &budget, &plan, &figures[FIGURE_TIME]) &&
        take_plan(tool, source, &plan, result) && apply_to_both(tool, source, &plan, &outputs) &&
        measure(tool, source, &outputs, result, figures);

    outputs_free(&outputs);
    vtc_heap_plan_free(&plan);
    return done;
}

static void summarise(struct result *result, double figures[][N_FIGURES], size_t n_runs)
{
    double values[N_SEEDS];

    result->n_runs = n_runs;
    for (int f = 0; f < N_FIGURES; f++) {
        for (size_t run = 0; run < n_runs; run++)
            values[run] = figures[run][f];
        result->mean[f] = mean_of(values, n_runs);
        result->spread[f] = spread_of(values, n_runs);
    }
}

static bool has_seed(const vtc_planner *planner)
{
    for (size_t i = 0; i < planner->n_params; i++)
        if (strcmp(planner->params[i].name, "seed") == 0)
            return true;
    return false;
}

static bool set_seed(struct tool *tool, const vtc_planner *planner, void *params, size_t seed)
{
    return tool_check(tool,
                      vtc_planner_params_set(planner, params, "seed", (double)seed, &tool->exec));
}

/* Runs a planner with its defaults; one that draws numbers with seeds 4 to 0, so that the picture
 * which remains is that of seed 0. */
static bool run_seeds(struct tool *tool, const struct source *source, size_t n_keep,
                      const vtc_planner *planner, void *params, struct result *result)
{
    double figures[N_SEEDS][N_FIGURES];
    const bool draws = has_seed(planner);
    const size_t n_runs = draws ? N_SEEDS : 1;

    for (size_t run = n_runs; run-- > 0;) {
        result_clear_arrays(result);
        if (draws && !set_seed(tool, planner, params, run))
            return false;
        if (!run_planner_once(tool, source, n_keep, planner, params, result, figures[run]))
            return false;
    }
    summarise(result, figures, n_runs);
    return true;
}

static bool enter_planner(struct tool *tool, const struct source *source, size_t n_keep,
                          const vtc_planner *planner, struct result *result)
{
    void *params = tool_new(tool, planner->params_size, 1);
    const bool done =
        params != NULL &&
        (planner->params_size == 0 ||
         tool_check(tool, vtc_planner_params_init(planner, params, &tool->exec))) &&
        run_seeds(tool, source, n_keep, planner, planner->params_size > 0 ? params : NULL, result);

    free(params);
    return done;
}

/* ---- poolings and image resize --------------------------------------------------------------- */

static bool pool_both(struct tool *tool, const struct source *source,
                      const vtc_pool2d_params *params, struct outputs *outputs,
                      double *milliseconds)
{
    const vtc_tensor patches = vtc_f32_2d(source->patches, source->n_tokens, PATCH_VALUES);
    const vtc_tensor y_tokens = vtc_f32_2d(outputs->tokens, outputs->n_out, DESCRIPTOR_WIDTH);
    const vtc_tensor y_patches = vtc_f32_2d(outputs->patches, outputs->n_out, PATCH_VALUES);
    vtc_tensor y = y_tokens;

    if (!run_pooling(tool, params, &source->features, &y, milliseconds))
        return false;
    y = y_patches;
    return run_pooling(tool, params, &patches, &y, NULL);
}

static bool enter_pooling(struct tool *tool, const struct source *source, size_t n_keep,
                          const struct pooling *pooling, struct result *result)
{
    double figures[1][N_FIGURES];
    struct outputs outputs = { 0, NULL, NULL };
    vtc_pool2d_params params;
    bool done;

    if (!fit_pooling(tool, pooling, source->grid_h, source->grid_w, n_keep, &params) ||
        !result_allocate(tool, source, result))
        return false;
    result->n_out = params.out_h * params.out_w;
    own_by_cell(source, params.out_h, params.out_w, result->owner);
    done = outputs_allocate(tool, &outputs, result->n_out) &&
           pool_both(tool, source, &params, &outputs, &figures[0][FIGURE_TIME]) &&
           measure(tool, source, &outputs, result, figures[0]);
    outputs_free(&outputs);
    if (done)
        summarise(result, figures, 1);
    return done;
}

static bool make_smaller(struct tool *tool, const struct source *source, size_t n_keep,
                         struct result *result, double *milliseconds)
{
    const size_t height = source->grid_h * PATCH_SIDE, width = source->grid_w * PATCH_SIDE;
    const vtc_tensor from = vtc_f32_3d(source->planes, 3, height, width);
    vtc_tensor to;

    if (!tool_check(tool,
                    vtc_image_resize_count(height, width, PATCH_SIDE, n_keep, &result->smaller_h,
                                           &result->smaller_w, &tool->exec)))
        return false;
    result->smaller = tool_new(tool, 3 * result->smaller_h * result->smaller_w, sizeof(float));
    if (result->smaller == NULL)
        return false;
    to = vtc_f32_3d(result->smaller, 3, result->smaller_h, result->smaller_w);
    return run_image_resize(tool, &from, &to, milliseconds);
}

/* Describing the smaller picture stands for encoding it. */
static bool enter_image_resize(struct tool *tool, const struct source *source, size_t n_keep,
                               struct result *result)
{
    double figures[1][N_FIGURES];
    struct outputs outputs = { 0, NULL, NULL };
    size_t out_h, out_w;
    bool done;

    if (!result_allocate(tool, source, result) ||
        !make_smaller(tool, source, n_keep, result, &figures[0][FIGURE_TIME]))
        return false;
    out_h = result->smaller_h / PATCH_SIDE;
    out_w = result->smaller_w / PATCH_SIDE;
    result->n_out = out_h * out_w;
    own_by_cell(source, out_h, out_w, result->owner);
    done = outputs_allocate(tool, &outputs, result->n_out);
    if (done) {
        cut_patches(result->smaller, out_h, out_w, outputs.patches);
        describe_patches(outputs.patches, result->n_out, outputs.tokens);
        done = measure(tool, source, &outputs, result, figures[0]);
    }
    outputs_free(&outputs);
    if (done)
        summarise(result, figures, 1);
    return done;
}

/* ---- the contest ----------------------------------------------------------------------------- */

/* Completes a result, or turns it into one that says why there is none. */
static void close_entry(struct tool *tool, struct result *result, bool done)
{
    done = done && measure_cost(tool, result->n_out, &result->cost);
    if (!done) {
        snprintf(result->missing, sizeof(result->missing), "%.*s", (int)sizeof(result->missing) - 1,
                 tool->why);
        result_clear_arrays(result);
    }
}

static void enter_any_planner(struct tool *tool, struct source *source, size_t n_keep,
                              const vtc_planner *planner, struct result *result)
{
    char lacks[200];
    bool done;

    result->name = planner->name;
    result->title = planner->title;
    tool->why[0] = '\0';
    if (stand_ins_lack(source, planner, lacks, sizeof(lacks))) {
        snprintf(result->missing, sizeof(result->missing), "lacks %s", lacks);
        return;
    }
    if ((planner->needs & VTC_NEED_IMAGE) != 0) {
        snprintf(result->caption, sizeof(result->caption), "the smaller picture, enlarged");
        close_entry(tool, result, enter_image_resize(tool, source, n_keep, result));
        return;
    }
    done = stand_ins_lend(tool, source, planner, result->caption, sizeof(result->caption)) &&
           enter_planner(tool, source, n_keep, planner, result);
    close_entry(tool, result, done);
}

bool contest_run(struct tool *tool, struct source *source, size_t n_keep, struct contest *contest)
{
    size_t n_planners = 0;

    while (vtc_planner_at(n_planners) != NULL)
        n_planners++;
    contest->source = source;
    contest->n_keep = n_keep;
    contest->n_results = n_planners + n_poolings;
    contest->results = tool_new(tool, contest->n_results, sizeof(*contest->results));
    if (contest->results == NULL || !measure_cost(tool, source->n_tokens, &contest->cost))
        return false;
    for (size_t i = 0; i < n_planners; i++)
        enter_any_planner(tool, source, n_keep, vtc_planner_at(i), &contest->results[i]);
    for (size_t i = 0; i < n_poolings; i++) {
        struct result *result = &contest->results[n_planners + i];

        result->name = poolings[i].name;
        result->title = poolings[i].title;
        close_entry(tool, result, enter_pooling(tool, source, n_keep, &poolings[i], result));
    }
    return true;
}

void contest_free(struct contest *contest)
{
    for (size_t i = 0; i < contest->n_results && contest->results != NULL; i++)
        result_clear_arrays(&contest->results[i]);
    free(contest->results);
    memset(contest, 0, sizeof(*contest));
}
