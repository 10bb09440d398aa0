/*
 * vtc compare: every method on a photograph, at one budget, in one table and one picture.
 */
#include "commands.h"
#include "contest.h"
#include "descriptor.h"
#include "save.h"
#include "sheet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_KEEP 128
#define DEFAULT_OUT  "vtc-compare"

static const struct option options_of_compare[] = {
    { "keep", "K", OPTION_COUNT, offsetof(struct options, keep), MAX_GRID_SIDE *MAX_GRID_SIDE,
      "tokens to keep of each photograph (default 128)" },
    { "out", "DIR", OPTION_TEXT, offsetof(struct options, out), 0,
      "folder for the pictures (default " DEFAULT_OUT ")" },
    { "grid", "RxC", OPTION_GRID, offsetof(struct options, grid_h), 0,
      "patches of 14 x 14 pixels (default 24x24)" },
    { "about", "X,Y,W,H", OPTION_REGION, offsetof(struct options, about), 0,
      "pixels of the photograph that play the question, for text-guided methods" },
    { "threads", "N", OPTION_COUNT, offsetof(struct options, threads), MAX_THREADS,
      "threads (default: one for each processor)" },
};

/* ---- the table ------------------------------------------------------------------------------- */

/* Right-aligned to a number of characters, which UTF-8 text has fewer of than bytes */
static void print_right(const char *text, int width)
{
    int length = 0;

    for (const char *c = text; *c != '\0'; c++)
        length += ((unsigned char)*c & 0xc0) != 0x80;
    printf("%*s%s", width > length ? width - length : 0, "", text);
}

static void print_result(const struct contest *contest, const struct result *result)
{
    static const int widths[N_FIGURES] = { 10, 13, 15, 15 };
    char text[64];

    snprintf(text, sizeof(text), "%zu -> %zu", contest->source->n_tokens, result->n_out);
    printf("%-26s%14s", result->title, text);
    for (int f = 0; f < N_FIGURES; f++) {
        format_figure(result, (enum figure)f, text, sizeof(text));
        print_right(text, widths[f]);
    }
    printf("%9.2f%12.0f", result->cost.tera_flops,
           contest->cost.kv_megabytes - result->cost.kv_megabytes);
    printf("%s%s\n", result->caption[0] != '\0' ? "  " : "", result->caption);
}

static void print_table(const char *path, const struct contest *contest, size_t n_threads)
{
    const struct source *source = contest->source;
    const struct result *results = contest->results;

    printf("%s: %zu x %zu = %zu tokens, at most %zu kept, %zu thread%s\n\n", path, source->grid_h,
           source->grid_w, source->n_tokens, contest->n_keep, n_threads, n_threads == 1 ? "" : "s");
    printf("%-26s%14s%10s%13s%15s%15s%9s%12s\n", "method", "tokens", "time ms", "PSNR dB",
           "cosine mean", "cosine 5 %", "TFLOPs", "KV saved MB");
    printf("%-26s%14zu%10s%13s%15s%15s%9.2f%12d\n", "all tokens", source->n_tokens, "", "", "", "",
           contest->cost.tera_flops, 0);
    for (size_t i = 0; i < contest->n_results; i++)
        if (results[i].missing[0] == '\0')
            print_result(contest, &results[i]);
    for (size_t i = 0; i < contest->n_results; i++)
        if (results[i].missing[0] != '\0')
            printf("not run: %s: %s\n", results[i].title, results[i].missing);
    putchar('\n');
}

/* ---- the command ----------------------------------------------------------------------------- */

static bool save_and_print(struct tool *tool, const struct contest *contest, const char *input,
                           const char *folder)
{
    const char *slash = strrchr(input, '/');
    char *path = output_path(tool, folder, input, "compare.png");
    const bool done =
        path != NULL && save_sheet(tool, contest, slash != NULL ? slash + 1 : input, path);

    if (done) {
        print_table(input, contest, tool->exec.n_workers);
        printf("picture: %s\n\n", path);
    }
    free(path);
    return done;
}

static bool compare_photo(struct tool *tool, const struct options *options, const char *input)
{
    struct source source;
    struct contest contest = { 0 };
    bool done = source_open(tool, input, options->grid_h, options->grid_w, &source);

    if (done && source.planes == NULL)
        done = tool_fail(tool, "is a token file; compare takes photographs, see vtc compress");
    done = done && stand_ins_ask(tool, &source, options->about) &&
           contest_run(tool, &source, options->keep, &contest) &&
           save_and_print(tool, &contest, input, options->out);
    contest_free(&contest);
    source_close(&source);
    return done;
}

static bool check_options(const struct options *options)
{
    const size_t grid_h = options->grid_h > 0 ? options->grid_h : DEFAULT_GRID_SIDE;
    const size_t grid_w = options->grid_w > 0 ? options->grid_w : DEFAULT_GRID_SIDE;
    size_t first, second;

    if (options->keep > grid_h * grid_w) {
        usage_error("compare", "--keep %zu is more than the %zu x %zu = %zu tokens of a photograph",
                    options->keep, grid_h, grid_w, grid_h * grid_w);
        return false;
    }
    if (find_equal_stems(options->inputs, options->n_inputs, &first, &second)) {
        usage_error("compare",
                    "%s and %s would write the same file; give them folders of their "
                    "own with --out",
                    options->inputs[first], options->inputs[second]);
        return false;
    }
    return true;
}

static int compare_all(struct tool *tool, const struct options *options)
{
    size_t n_failed = 0;

    if (!make_folder(tool, options->out)) {
        print_error("%s", tool->why);
        return EXIT_INPUT;
    }
    for (size_t i = 0; i < options->n_inputs; i++)
        if (!compare_photo(tool, options, options->inputs[i])) {
            print_error("%s: %s", options->inputs[i], tool->why);
            n_failed++;
        }
    for (size_t i = 0; i < n_legend && n_failed < options->n_inputs; i++)
        puts(legend[i]);
    return n_failed == 0 ? EXIT_OK : EXIT_INPUT;
}

static int run_compare(const struct options *given)
{
    struct options options = *given;
    struct tool tool;
    int status;

    if (options.keep == 0)
        options.keep = DEFAULT_KEEP;
    if (options.out == NULL)
        options.out = DEFAULT_OUT;
    if (!check_options(&options))
        return EXIT_USAGE;
    tool_start(&tool, options.threads);
    status = compare_all(&tool, &options);
    tool_end(&tool);
    return status;
}

const struct command compare_command = {
    "compare",
    "PHOTO...",
    "every method on photographs at the same budget: a table and a picture",
    "Cuts the middle of each photograph (JPEG or PNG) into patches and compresses them with every\n"
    "planner and pooling that needs only features, all with at most K tokens; 2x2 poolings print\n"
    "their own count, and methods that lack inputs are listed with what they lack. Controls stand\n"
    "in the same table. Prints the figures and writes DIR/<name>.compare.png.\n"
    "\n"
    "Tokens are documented descriptors of patches (colour DCT, oriented gradients), not those of "
    "a\n"
    "neural network. There is no [CLS]: planners that need an attention row get centre-surround\n"
    "contrast, a stand-in salience, not attention; those that need keys get the descriptors. With\n"
    "--about a region of the photograph plays the question: its descriptors are the text rows of\n"
    "text-guided methods. All of this measures redundancy in pixels and descriptors, not a "
    "model's\n"
    "accuracy.\n",
    options_of_compare,
    sizeof(options_of_compare) / sizeof(options_of_compare[0]),
    true,
    run_compare,
};
