/*
 * vtc cost: what a model costs with all of its visual tokens and with those that a method leaves.
 * Nothing runs: every figure is a closed form of the library's cost.h.
 */
#include "commands.h"
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LAYERS = 128,
    MAX_TOKENS = 1000000,
    TEXT_TOKENS = 60, /* as the published tables of LLaVA-1.5-7B have it */
    NEW_TOKENS = 64,
    KV_BITS = 16,
    PER_LINE = 4, /* changes of the number of tokens */
    HEAD = 128    /* channels of a decoder head, in all of these models */
};

static const struct option options_of_cost[] = {
    { "model", "NAME", OPTION_TEXT, offsetof(struct options, model), 0,
      "one of those listed above" },
    { "method", "NAME", OPTION_TEXT, offsetof(struct options, method), 0,
      "the planner; see vtc methods" },
    { "keep", "K", OPTION_COUNT, offsetof(struct options, keep), MAX_TOKENS,
      "visual tokens left at the end" },
    { "visual", "N", OPTION_COUNT, offsetof(struct options, visual), MAX_TOKENS,
      "visual tokens before (default: the model's)" },
    { "text", "M", OPTION_COUNT, offsetof(struct options, text), MAX_TOKENS,
      "text tokens (default 60)" },
    { "new", "T", OPTION_COUNT, offsetof(struct options, new_tokens), MAX_TOKENS,
      "tokens that are generated (default 64)" },
    { "bits", "B", OPTION_COUNT, offsetof(struct options, bits), 64,
      "of a value in the K/V cache (default 16)" },
};

/* Decoder layers behind which methods inside the language model drop tokens; layers count from 0.
 * Methods that are not here work in front of it. */
static const struct stage {
    const char *method;
    size_t after[8];
    size_t n_steps;
    size_t last; /* in every layer from after[0] to this one; 0: in those listed */
} stages[] = {
    { "fastv", { 1 }, 1, 0 },
    { "focusllava-text", { 8 }, 1, 0 },
    { "sparsevlm", { 2, 6, 15 }, 3, 0 },
    { "mustdrop-prefill", { 2, 6, 10, 14 }, 4, 0 },
    { "ficoco-l", { 5 }, 1, 31 },
};

struct question {
    const vtc_model *model;
    const vtc_planner *planner; /* NULL: no method */
    const struct stage *stage;  /* NULL: in front of the language model */
    size_t n_visual, n_keep, n_text, n_new, bits;
    size_t seen[MAX_LAYERS]; /* visual tokens of each decoder layer */
};

/* ---- what is asked --------------------------------------------------------------------------- */

static int unknown_model(const char *name)
{
    char list[256] = "";
    size_t n, used = 0;
    const vtc_model *models = vtc_models(&n);

    for (size_t i = 0; i < n && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i == 0 ? "" : ", ",
                                 models[i].name);
    if (name == NULL)
        return usage_error("cost", "give a --model: %s", list);
    return usage_error("cost", "there is no model '%s'. Models: %s", name, list);
}

static const struct stage *find_stage(const char *method)
{
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++)
        if (strcmp(stages[i].method, method) == 0)
            return &stages[i];
    return NULL;
}

static int read_method(const struct options *options, struct question *q)
{
    q->n_keep = q->n_visual;
    if (options->method == NULL && options->keep == 0)
        return EXIT_OK;
    if (options->method == NULL || options->keep == 0)
        return usage_error("cost", "--method and --keep go together");
    q->planner = vtc_planner_find(options->method);
    if (q->planner == NULL)
        return usage_error("cost", "there is no planner '%s'; see vtc methods", options->method);
    if (options->keep > q->n_visual)
        return usage_error("cost", "--keep %zu is more than the %zu visual tokens", options->keep,
                           q->n_visual);
    q->stage = find_stage(options->method);
    q->n_keep = options->keep;
    return EXIT_OK;
}

static size_t or_default(size_t given, size_t otherwise)
{
    return given != 0 ? given : otherwise;
}

static int read_question(const struct options *options, struct question *q)
{
    q->model = vtc_model_find(options->model);
    if (q->model == NULL)
        return unknown_model(options->model);
    q->n_visual = or_default(options->visual, q->model->n_visual);
    q->n_text = or_default(options->text, TEXT_TOKENS);
    q->n_new = or_default(options->new_tokens, NEW_TOKENS);
    q->bits = or_default(options->bits, KV_BITS);
    return read_method(options, q);
}

/* ---- tokens per layer ------------------------------------------------------------------------ */

/* The same number goes in every step, so that n_keep are left behind the last. */
static bool make_schedule(struct tool *tool, struct question *q)
{
    const size_t n_layers = q->model->decoder.n_layers;
    size_t after[MAX_LAYERS], left[MAX_LAYERS], n_steps = 0;

    if (q->stage == NULL)
        return tool_check(tool, vtc_schedule_steps(n_layers, q->n_keep, NULL, NULL, 0, q->seen,
                                                   &tool->exec));
    if (q->stage->last != 0)
        for (size_t l = q->stage->after[0]; l <= q->stage->last && l < n_layers; l++)
            after[n_steps++] = l;
    else
        for (; n_steps < q->stage->n_steps; n_steps++)
            after[n_steps] = q->stage->after[n_steps];
    for (size_t i = 0; i < n_steps; i++)
        left[i] = q->n_visual - (q->n_visual - q->n_keep) * (i + 1) / n_steps;
    return tool_check(tool, vtc_schedule_steps(n_layers, q->n_visual, after, left, n_steps, q->seen,
                                               &tool->exec));
}

/* ---- the selector ---------------------------------------------------------------------------- */

/* Visual tokens that a planner sees at once: inside the language model all, in front of it those of
 * a tile or frame. */
static size_t tokens_of_image(const struct question *q)
{
    const size_t n_tile = q->model->encoder.n_tile_patches / q->model->projector.n_joined;

    return q->stage == NULL && n_tile != 0 && q->n_visual % n_tile == 0 ? n_tile : q->n_visual;
}

/* Several tiles are a batch, each of which keeps the same share. Returns inputs->begin to be freed,
 * or NULL with a reason. */
static int32_t *divide_into_images(struct tool *tool, const struct question *q,
                                   vtc_plan_inputs *inputs, vtc_budget *budget)
{
    const size_t n = tokens_of_image(q), side = (size_t)sqrt((double)n);
    const size_t n_images = q->n_visual / n;
    int32_t *begin = tool_new(tool, n_images + 1, sizeof(*begin));

    inputs->n_rows = q->n_visual;
    if (side * side == n)
        inputs->grid_h = inputs->grid_w = side;
    *budget = vtc_budget_keep(q->n_keep);
    if (begin == NULL || n_images == 1)
        return begin;
    for (size_t b = 0; b <= n_images; b++)
        begin[b] = (int32_t)(b * n);
    inputs->begin = begin;
    inputs->n_images = n_images;
    *budget = vtc_budget_keep_ratio((double)q->n_keep / (double)q->n_visual);
    return begin;
}

/* Multiply-adds of choosing the tokens once, and how many are left then: grids cannot meet every
 * number. The inputs are views of these sizes without data. */
static bool ask_selector(struct tool *tool, struct question *q, double *macs)
{
    const vtc_model *m = q->model;
    const size_t n = q->n_visual, n_rows = n + q->n_text;
    const size_t heads = m->encoder.n_hidden / 64;
    const vtc_tensor features = vtc_f32_2d(NULL, n, m->encoder.n_hidden);
    const vtc_tensor keys = vtc_f32_3d(NULL, heads, n, 64), cls = vtc_f32_2d(NULL, heads, 64);
    const vtc_tensor lm_query = vtc_f32_3d(NULL, m->decoder.n_hidden / HEAD, n_rows, HEAD);
    const vtc_tensor lm_keys = vtc_f32_3d(NULL, m->decoder.n_kv / HEAD, n_rows, HEAD);
    const vtc_tensor hidden = vtc_f32_2d(NULL, n_rows, m->decoder.n_hidden);
    const vtc_tensor text = vtc_f32_2d(NULL, q->n_text, m->decoder.n_hidden);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_budget budget;
    vtc_plan_count count;
    int32_t *begin = divide_into_images(tool, q, &inputs, &budget);
    bool done;

    inputs.features = &features;
    inputs.keys = inputs.queries = &keys;
    inputs.cls_query = inputs.cls_key = &cls;
    inputs.lm_query = &lm_query;
    inputs.lm_keys = &lm_keys;
    inputs.lm_hidden = inputs.lm_embeddings = &hidden;
    inputs.text = &text;
    inputs.n_text = q->n_text;
    done =
        begin != NULL &&
        tool_check(tool, vtc_planner_cost(q->planner, NULL, &inputs, &budget, macs, &tool->exec)) &&
        tool_check(tool,
                   vtc_planner_count(q->planner, NULL, &inputs, &budget, &count, &tool->exec));
    if (done && q->stage == NULL)
        q->n_keep = count.n_out;
    free(begin);
    return done;
}

/* ---- the table ------------------------------------------------------------------------------- */

struct costs {
    double encoder, projector, prefill, decode; /* FLOPs, gated convention */
    double prefill_macs, prefill_printed;       /* multiply-adds, gated and of two matrices */
    double kv_bytes;
};

static bool compute(struct tool *tool, const struct question *q, const size_t *seen,
                    struct costs *c)
{
    const vtc_decoder *decoder = &q->model->decoder;
    const vtc_exec *exec = &tool->exec;
    vtc_token_schedule s = VTC_TOKEN_SCHEDULE_INIT;
    const vtc_cost_convention flops = VTC_COST_FLOPS_GATED;

    s.n_visual = seen;
    s.n_text = q->n_text;
    return tool_check(tool, vtc_cost_encoder(q->model, q->n_visual, flops, &c->encoder, exec)) &&
           tool_check(tool,
                      vtc_cost_projector(q->model, q->n_visual, flops, &c->projector, exec)) &&
           tool_check(tool, vtc_cost_prefill_schedule(decoder, &s, flops, &c->prefill, exec)) &&
           tool_check(tool, vtc_cost_prefill_schedule(decoder, &s, VTC_COST_MACS_GATED,
                                                      &c->prefill_macs, exec)) &&
           tool_check(tool, vtc_cost_prefill_schedule(decoder, &s, VTC_COST_MACS_UNGATED,
                                                      &c->prefill_printed, exec)) &&
           tool_check(tool, vtc_cost_decode(decoder, &s, q->n_new, flops, &c->decode, exec)) &&
           tool_check(tool, vtc_cost_kv_bytes_schedule(decoder, &s, q->n_new, q->bits, &c->kv_bytes,
                                                       exec));
}

/* `scale` makes the unit of `what`. Without a method there is one column. */
static void print_line(const struct question *q, const char *what, double before, double after,
                       double scale)
{
    const int digits = scale > 1e-9 ? 1 : 3;

    printf("  %-46s%12.*f", what, digits, before * scale);
    if (q->planner != NULL)
        printf("%12.*f%9.1f %%", digits, after * scale,
               before > 0.0 ? 100.0 * after / before : 0.0);
    putchar('\n');
}

static void print_where(const struct question *q)
{
    const size_t n_layers = q->model->decoder.n_layers;
    size_t n_printed = 0;

    if (q->stage == NULL) {
        printf("%zu visual tokens reach the language model instead of %zu; savings inside the\n"
               "encoder, if the method works there, are not counted.\n",
               q->n_keep, q->n_visual);
        return;
    }
    printf("Visual tokens of decoder layers:");
    for (size_t l = 0; l < n_layers; l++) {
        if (l > 0 && q->seen[l] == q->seen[l - 1])
            continue;
        printf("%s%s%zu from layer %zu", n_printed == 0 ? "" : ",",
               n_printed % PER_LINE == 0 ? "\n  " : " ", q->seen[l], l);
        n_printed++;
    }
    puts(".");
}

static void print_table(const struct question *q, const struct costs *all, const struct costs *left)
{
    char label[64];

    printf("\n  %-46s%12s", "", "all tokens");
    printf(q->planner == NULL ? "\n" : "  compressed       left\n");
    print_line(q, "encoder, TFLOPs", all->encoder, left->encoder, 1e-12);
    print_line(q, "projector, TFLOPs", all->projector, left->projector, 1e-12);
    print_line(q, "prefill, TFLOPs (gated MLP)", all->prefill, left->prefill, 1e-12);
    print_line(q, "prefill, 10^12 multiply-adds (gated MLP)", all->prefill_macs, left->prefill_macs,
               1e-12);
    print_line(q, "prefill, 10^12 multiply-adds (2-matrix MLP)", all->prefill_printed,
               left->prefill_printed, 1e-12);
    snprintf(label, sizeof(label), "decode of %zu tokens, TFLOPs (gated MLP)", q->n_new);
    print_line(q, label, all->decode, left->decode, 1e-12);
    snprintf(label, sizeof(label), "K/V cache at the end, 10^6 bytes (%zu bits)", q->bits);
    print_line(q, label, all->kv_bytes, left->kv_bytes, 1e-6);
}

static bool answer(struct tool *tool, struct question *q)
{
    size_t all_seen[MAX_LAYERS];
    struct costs all, left;
    double selector = 0.0;

    if ((q->planner != NULL && !ask_selector(tool, q, &selector)) || !make_schedule(tool, q) ||
        !tool_check(tool, vtc_schedule_steps(q->model->decoder.n_layers, q->n_visual, NULL, NULL, 0,
                                             all_seen, &tool->exec)) ||
        !compute(tool, q, all_seen, &all) || !compute(tool, q, q->seen, &left))
        return false;
    printf("%s, %s: %zu visual tokens, %zu of text\n", q->model->name,
           q->n_visual == q->model->n_visual ? q->model->input : "as asked", q->n_visual,
           q->n_text);
    if (q->planner != NULL) {
        printf("%s keeps %zu. ", q->planner->title, q->n_keep);
        print_where(q);
    }
    print_table(q, &all, &left);
    if (q->planner != NULL)
        printf("\n  choosing the tokens once: %.3f 10^9 multiply-adds\n", selector * 1e-9);
    puts("\nA multiply-add is 2 FLOPs. Attention is not halved for causality; head, norms and "
         "softmax\n"
         "are not counted.");
    return true;
}

static int run_cost(const struct options *options)
{
    struct question q = { 0 };
    struct tool tool;
    int status = read_question(options, &q);

    if (status != EXIT_OK)
        return status;
    tool_start(&tool, 1);
    if (!answer(&tool, &q)) {
        print_error("cost: %s", tool.why);
        status = EXIT_INPUT;
    }
    tool_end(&tool);
    return status;
}

const struct command cost_command = {
    "cost",
    "",
    "what a model costs with all visual tokens and with those a method leaves",
    "Models: llava-1.5-7b, llava-1.5-13b, llava-next-7b, qwen2-vl-7b, internvl2-8b,\n"
    "video-llava-7b. Without --method and --keep it tells what all tokens cost.\n"
    "A method inside the language model drops behind its usual layers, as many in each.\n",
    options_of_cost,
    sizeof(options_of_cost) / sizeof(options_of_cost[0]),
    false,
    run_cost,
};
