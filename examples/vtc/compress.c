/*
 * vtc compress: one planner on photographs and token files; tokens, plan and overlay as files.
 */
#include "commands.h"
#include "descriptor.h"
#include "heat.h"
#include "overlay.h"
#include "progress.h"
#include "run.h"
#include "save.h"

#include <vtc/heap.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OVERLAY_SIDE ((size_t)7168) /* pixels */

static const struct option options_of_compress[] = {
    { "method", "NAME", OPTION_TEXT, offsetof(struct options, method), 0,
      "a planner of 'vtc methods'" },
    { "keep", "K", OPTION_COUNT, offsetof(struct options, keep), INT32_MAX,
      "tokens to keep of each input" },
    { "keep-ratio", "R", OPTION_RATIO, offsetof(struct options, keep_ratio), 0,
      "or the share to keep, above 0 and at most 1" },
    { "set", "NAME=VALUE", OPTION_SETTING, offsetof(struct options, settings), 0,
      "a parameter of the method; may be repeated" },
    { "out", "DIR", OPTION_TEXT, offsetof(struct options, out), 0, "folder for the files" },
    { "grid", "RxC", OPTION_GRID, offsetof(struct options, grid_h), 0,
      "patches of a photograph (default 24x24), or the grid of token files" },
    { "about", "X,Y,W,H", OPTION_REGION, offsetof(struct options, about), 0,
      "pixels of a photograph that play the question, for text-guided methods" },
    { "threads", "N", OPTION_COUNT, offsetof(struct options, threads), MAX_THREADS,
      "threads (default: one for each processor)" },
};

/* What is the same for all inputs */
struct job {
    const struct options *options;
    const vtc_planner *planner;
    void *params;
    vtc_budget budget;
    char settings[512]; /* "seed=1 ...", for the plan's metadata */
    char caption[128];  /* of the input at hand: what stands in for a model's insides */
};

/* The files of one input */
struct outputs {
    char *tokens, *plan, *overlay, *score;
};

/* ---- options --------------------------------------------------------------------------------- */

static void list_planners(void)
{
    const vtc_planner *planner;

    fputs("Planners:", stderr);
    for (size_t i = 0; (planner = vtc_planner_at(i)) != NULL; i++)
        if (planner->plan != NULL)
            fprintf(stderr, " %s", planner->name);
    fputs(". 'vtc methods' tells about them.\n", stderr);
}

static bool is_pooling(const char *name)
{
    for (size_t i = 0; i < n_poolings; i++)
        if (strcmp(poolings[i].name, name) == 0)
            return true;
    return false;
}

static bool find_planner(struct job *job)
{
    const char *name = job->options->method;

    job->planner = name != NULL ? vtc_planner_find(name) : NULL;
    if (job->planner != NULL && job->planner->plan != NULL)
        return true;
    if (name == NULL)
        usage_error("compress", "give a method with --method NAME");
    else if (job->planner != NULL)
        usage_error("compress", "%s acts on pixels in front of the encoder and makes no plan",
                    name);
    else if (is_pooling(name))
        usage_error("compress", "%s is a pooling and makes no plan; mean_pool is its like", name);
    else
        usage_error("compress", "there is no method '%s'", name);
    list_planners();
    return false;
}

static bool check_budget(struct job *job)
{
    const struct options *options = job->options;

    if ((options->keep == 0) == (options->keep_ratio <= 0.0)) {
        usage_error("compress", "give either --keep K or --keep-ratio R");
        return false;
    }
    job->budget = options->keep > 0 ? vtc_budget_keep(options->keep)
                                    : vtc_budget_keep_ratio(options->keep_ratio);
    return true;
}

static bool check_outputs(const struct options *options)
{
    size_t first, second;

    if (options->out == NULL) {
        usage_error("compress", "say where to write with --out DIR");
        return false;
    }
    if (find_equal_stems(options->inputs, options->n_inputs, &first, &second)) {
        usage_error("compress",
                    "%s and %s would write the same files; give them folders of their "
                    "own with --out",
                    options->inputs[first], options->inputs[second]);
        return false;
    }
    return true;
}

static bool set_params(struct tool *tool, struct job *job)
{
    const struct options *options = job->options;
    size_t used = 0;

    for (size_t i = 0; i < options->n_settings; i++) {
        const struct setting *setting = &options->settings[i];

        tool->why[0] = '\0';
        if (!tool_check(tool, vtc_planner_params_set(job->planner, job->params, setting->name,
                                                     setting->value, &tool->exec))) {
            usage_error("compress", "--set %s=%g: %s", setting->name, setting->value, tool->why);
            return false;
        }
        if (used < sizeof(job->settings))
            used += (size_t)snprintf(job->settings + used, sizeof(job->settings) - used,
                                     "%s%s=%.9g", i > 0 ? " " : "", setting->name, setting->value);
    }
    return true;
}

static bool make_params(struct tool *tool, struct job *job)
{
    if (job->planner->params_size == 0) {
        if (job->options->n_settings == 0)
            return true;
        usage_error("compress", "%s has no parameters", job->planner->name);
        return false;
    }
    job->params = tool_new(tool, job->planner->params_size, 1);
    if (job->params == NULL ||
        !tool_check(tool, vtc_planner_params_init(job->planner, job->params, &tool->exec))) {
        print_error("%s", tool->why);
        return false;
    }
    return set_params(tool, job);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool name_outputs(struct tool *tool, const char *folder, const char *input,
                         struct outputs *outputs)
{
    outputs->tokens = output_path(tool, folder, input, "tokens.safetensors");
    outputs->plan = output_path(tool, folder, input, "plan.safetensors");
    outputs->overlay = output_path(tool, folder, input, "overlay.png");
    outputs->score = output_path(tool, folder, input, "score.png");
    return outputs->tokens != NULL && outputs->plan != NULL && outputs->overlay != NULL &&
           outputs->score != NULL;
}

static void free_names(struct outputs *outputs)
{
    free(outputs->tokens);
    free(outputs->plan);
    free(outputs->overlay);
    free(outputs->score);
}

static bool save_tokens(struct tool *tool, const struct job *job, const struct source *source,
                        const vtc_plan *plan, const char *path)
{
    const size_t width = source->features.dim[1];
    const vtc_dtype dtype = source->features.dtype;
    void *data = tool_new(tool, plan->n_out * width, vtc_dtype_size(dtype));
    vtc_tensor tokens = vtc_tensor_2d(data, dtype, plan->n_out, width);
    const vtc_named_tensor tensors[] = {
        { "tokens", tokens },
        { "mass", vtc_f32_1d(plan->mass, plan->n_out) },
    };
    const vtc_metadata_entry metadata[] = { { "method", job->planner->name } };
    const bool done =
        data != NULL && run_plan(tool, plan, &source->features, &tokens) &&
        tool_check(tool, vtc_safetensors_write(path, tensors, 2, metadata, 1, &tool->exec));

    free(data);
    return done;
}

static bool save_plan(struct tool *tool, const struct job *job, const struct source *source,
                      const vtc_plan *plan, const char *path)
{
    const size_t n_entries = (size_t)plan->begin[plan->n_out];
    const int32_t grid[2] = { (int32_t)source->grid_h, (int32_t)source->grid_w };
    vtc_named_tensor tensors[8] = {
        { "keep", vtc_tensor_1d(plan->keep, VTC_I32, plan->n_out) },
        { "begin", vtc_tensor_1d(plan->begin, VTC_I32, plan->n_out + 1) },
        { "source", vtc_tensor_1d(plan->source, VTC_I32, n_entries) },
        { "weight", vtc_f32_1d(plan->weight, n_entries) },
        { "mass", vtc_f32_1d(plan->mass, plan->n_out) },
        { "fate", vtc_tensor_1d(plan->fate, VTC_I32, plan->n_in) },
    };
    char n_in[24];
    const vtc_metadata_entry metadata[] = {
        { "method", job->planner->name },
        { "params", job->settings },
        { "n_in", n_in },
        { "reduce", plan->reduce == VTC_MAX ? "max" : "sum" },
        { "note", job->caption },
    };
    const size_t n_metadata = job->caption[0] != '\0' ? 5 : 4;
    size_t n = 6;

    snprintf(n_in, sizeof(n_in), "%zu", plan->n_in);
    if (plan->score != NULL) {
        tensors[n].name = "score";
        tensors[n++].tensor = vtc_f32_1d(plan->score, plan->n_in);
    }
    if (source->grid_h > 0) {
        tensors[n].name = "grid";
        tensors[n++].tensor = vtc_tensor_1d(grid, VTC_I32, 2);
    }
    return tool_check(tool,
                      vtc_safetensors_write(path, tensors, n, metadata, n_metadata, &tool->exec));
}

/* The photograph, or plain gray for tokens that have a grid but no pixels */
static bool draw_backdrop(struct tool *tool, const struct source *source, cairo_t *cr, double width,
                          double height)
{
    cairo_surface_t *picture;

    cairo_set_source_rgb(cr, 0.8, 0.8, 0.8);
    cairo_paint(cr);
    if (source->planes == NULL)
        return true;
    picture = picture_from_planes(tool, source->planes, source->grid_h * PATCH_SIDE,
                                  source->grid_w * PATCH_SIDE);
    if (picture == NULL)
        return false;
    draw_picture(cr, picture, 0, 0, width, height);
    cairo_surface_destroy(picture);
    return true;
}

/* Pixels of a patch: twice a photograph's, fewer when the picture would be too large; 0 for a grid
 * that cannot be drawn, or is not known. */
static size_t overlay_scale(const struct source *source)
{
    const size_t side = source->grid_h > source->grid_w ? source->grid_h : source->grid_w;

    if (side == 0)
        return 0;
    return side * 2 * PATCH_SIDE <= MAX_OVERLAY_SIDE ? 2 * PATCH_SIDE : MAX_OVERLAY_SIDE / side;
}

/* What save_image() draws into a picture of that size */
typedef bool (*drawing)(struct tool *tool, const struct source *source, const vtc_plan *plan,
                        cairo_t *cr, double width, double height);

static bool draw_overlay(struct tool *tool, const struct source *source, const vtc_plan *plan,
                         cairo_t *cr, double width, double height)
{
    const struct fate_map map = { source->grid_h, source->grid_w, plan->n_out, plan->fate,
                                  plan->keep };

    return draw_backdrop(tool, source, cr, width, height) &&
           draw_fates(tool, cr, &map, 0, 0, width, height);
}

static bool draw_scores(struct tool *tool, const struct source *source, const vtc_plan *plan,
                        cairo_t *cr, double width, double height)
{
    return draw_heat(tool, cr, plan->score, source->grid_h, source->grid_w, 0, 0, width, height);
}

static bool save_image(struct tool *tool, const struct source *source, const vtc_plan *plan,
                       drawing draw, const char *path)
{
    const size_t width = overlay_scale(source) * source->grid_w;
    const size_t height = overlay_scale(source) * source->grid_h;
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)width, (int)height);
    cairo_t *cr = cairo_create(surface);
    const bool done = draw(tool, source, plan, cr, (double)width, (double)height) &&
                      save_picture(tool, path, surface);

    cairo_destroy(cr);
    cairo_surface_destroy(surface);
    return done;
}

static bool save_pictures(struct tool *tool, const struct source *source, const vtc_plan *plan,
                          const struct outputs *outputs)
{
    if (overlay_scale(source) == 0)
        return true;
    return save_image(tool, source, plan, draw_overlay, outputs->overlay) &&
           (plan->score == NULL || save_image(tool, source, plan, draw_scores, outputs->score));
}

/* All files of an input, or none. */
static bool save_all(struct tool *tool, const struct job *job, const struct source *source,
                     const vtc_plan *plan, const struct outputs *outputs)
{
    if (save_tokens(tool, job, source, plan, outputs->tokens) &&
        save_plan(tool, job, source, plan, outputs->plan) &&
        save_pictures(tool, source, plan, outputs))
        return true;
    remove(outputs->tokens);
    remove(outputs->plan);
    remove(outputs->overlay);
    remove(outputs->score);
    return false;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static bool check_needs(struct tool *tool, const struct source *source, const vtc_planner *planner)
{
    char lacks[200];

    if (!stand_ins_lack(source, planner, lacks, sizeof(lacks)))
        return true;
    return tool_fail(tool, "%s needs %s, which the file does not have%s", planner->name, lacks,
                     source->grid_h == 0 && (planner->needs & VTC_NEED_GRID) != 0
                         ? " (--grid RxC tells the grid)"
                         : "");
}

static bool compress_source(struct tool *tool, struct job *job, struct source *source,
                            const char *input, size_t *n_out)
{
    struct outputs outputs = { NULL, NULL, NULL, NULL };
    vtc_plan plan = VTC_PLAN_INIT;
    const bool done =
        stand_ins_ask(tool, source, job->options->about) &&
        check_needs(tool, source, job->planner) &&
        stand_ins_lend(tool, source, job->planner, job->caption, sizeof(job->caption)) &&
        run_planner(tool, source, job->planner, job->params, &job->budget, &plan, NULL) &&
        name_outputs(tool, job->options->out, input, &outputs) &&
        save_all(tool, job, source, &plan, &outputs);

    *n_out = plan.n_out;
    free_names(&outputs);
    vtc_heap_plan_free(&plan);
    return done;
}

static bool compress_input(struct tool *tool, struct job *job, const char *input,
                           const struct progress *progress)
{
    const struct options *options = job->options;
    struct source source;
    size_t n_out = 0;
    const bool done = source_open(tool, input, options->grid_h, options->grid_w, &source) &&
                      compress_source(tool, job, &source, input, &n_out);

    progress_clear(progress);
    if (!done)
        print_error("%s: %s", input, tool->why);
    else if (!progress->bar)
        printf("%s: %zu -> %zu tokens%s\n", input, source.n_tokens, n_out,
               overlay_scale(&source) > 0 ? ""
               : source.grid_h > 0        ? ", no overlay: the grid is too large to draw"
                                          : ", no overlay: --grid RxC tells the grid");
    source_close(&source);
    return done;
}

static int compress_all(struct tool *tool, struct job *job)
{
    const struct options *options = job->options;
    struct progress progress;
    size_t n_failed = 0;

    if (!make_folder(tool, options->out)) {
        print_error("%s", tool->why);
        return EXIT_INPUT;
    }
    progress_start(&progress, options->n_inputs);
    for (size_t i = 0; i < options->n_inputs; i++) {
        progress_show(&progress, i, options->inputs[i]);
        n_failed += !compress_input(tool, job, options->inputs[i], &progress);
    }
    printf("%zu of %zu inputs compressed to %s by %s\n", options->n_inputs - n_failed,
           options->n_inputs, options->out, job->planner->title);
    return n_failed == 0 ? EXIT_OK : EXIT_INPUT;
}

static int run_compress(const struct options *options)
{
    struct job job = { options, NULL, NULL, vtc_budget_keep(0), "", "" };
    struct tool tool;
    int status = EXIT_USAGE;

    if (!find_planner(&job) || !check_budget(&job) || !check_outputs(options))
        return EXIT_USAGE;
    tool_start(&tool, options->threads);
    if (make_params(&tool, &job))
        status = compress_all(&tool, &job);
    free(job.params);
    tool_end(&tool);
    return status;
}

const struct command compress_command = {
    "compress",
    "INPUT...",
    "one method on photographs and token files: tokens, plan and overlay as files",
    "INPUT is a photograph (JPEG, PNG) or the tokens of a model:\n"
    "  .npy          [N, C]\n"
    "  .safetensors  tokens [N, C] without [CLS] row; optional q, k [H, n, d], scale,\n"
    "                cls_attention [H, N], q_cls [H, d], text_q [H, M, d], hidden and\n"
    "                embeddings [L, D], text [M, E], mass [N], grid [2];\n"
    "                metadata layer, rotated, v_start, n_text\n"
    "Keys of a vision encoder have N rows, or N + 1 with [CLS] in front. Metadata v_start marks q\n"
    "and k of a language model, with all its rows.\n"
    "\n"
    "Writes for each input\n"
    "  DIR/<name>.tokens.safetensors  tokens [n_out, C] in the input's dtype, mass [n_out]\n"
    "  DIR/<name>.plan.safetensors    keep, begin, source, weight, mass, fate; score, grid\n"
    "  DIR/<name>.overlay.png         the plan drawn, where the grid is known\n"
    "  DIR/<name>.score.png           the scores as a heat map, where there are any\n"
    "and replaces files of that name. A broken input is reported, the others are finished, and "
    "the\n"
    "exit status is 1.\n",
    options_of_compress,
    sizeof(options_of_compress) / sizeof(options_of_compress[0]),
    true,
    run_compress,
};
