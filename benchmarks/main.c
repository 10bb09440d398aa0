/* vtc_bench: runs the cases that were asked for and reports each as it ends. */
#include "measure.h"
#include "report.h"

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const bench_case *const families[] = {
    bench_machine_cases,
    bench_ficoco_cases,
    bench_fuse_cases,
    bench_guided_cases,
    bench_hyper_attention_cases,
    bench_linalg_cases,
    bench_mustdrop_cases,
    bench_plan_cases,
    bench_pool_cases,
    bench_project_cases,
    bench_prune_cases,
    bench_qformer_cases,
    bench_resample_cases,
    bench_resampler_cases,
    bench_score_cases,
    bench_shuffle_cases,
    bench_vlora_cases,
    bench_kernel_cases,
};
/* clang-format on */

enum { MAX_THREAD_COUNTS = 8, N_FAMILIES = sizeof(families) / sizeof(families[0]) };

struct options {
    const char *filter;
    const char *csv;
    size_t rounds;
    size_t threads[MAX_THREAD_COUNTS];
    size_t n_threads;
    bool list;
};

static const char help[] =
    "usage: vtc_bench [--filter TEXT] [--threads 1,2] [--rounds N] [--csv FILE] [--list]\n"
    "\n"
    "  --filter TEXT   only cases whose name contains TEXT\n"
    "  --threads LIST  numbers of workers, each case with every one (default 1)\n"
    "  --rounds N      pairs of turns, case and limit, 1 to 999 (default 31)\n"
    "  --csv FILE      write CSV too; - writes it to standard output instead of lines\n"
    "  --list          print the names of the cases and stop\n"
    "\n"
    "Each case is timed in turns with its limit: memcpy of half of the bytes that the case reads\n"
    "and writes, or sgemm of the same shapes by the same OpenBLAS, on as many workers (a memcpy\n"
    "and a single product are cut into as many parts). \"time / limit\" is the median of the "
    "ratios\n"
    "of neighbouring turns with its 95 % interval; a goal is met when the whole interval is below\n"
    "it, missed when above. \"+- %\" is half the distance between the quartiles. Rates count the\n"
    "limit's work: GB/s read and written, GFLOP/s.\n";

/* ---- options --------------------------------------------------------------------------------- */

static void stop(const char *what, const char *value)
{
    fprintf(stderr, "vtc_bench: %s \"%s\"; see vtc_bench --help\n", what, value);
    exit(2);
}

static size_t number(const char *text, size_t most, const char **end, const char *option)
{
    char *rest;
    const unsigned long value = strtoul(text, &rest, 10);

    if (rest == text || *text == '-' || value == 0 || value > most)
        stop(option, text);
    *end = rest;
    return value;
}

static void parse_threads(struct options *options, const char *list)
{
    const char *rest = list;

    options->n_threads = 0;
    do {
        if (options->n_threads == MAX_THREAD_COUNTS)
            stop("too many numbers in --threads", list);
        options->threads[options->n_threads++] =
            number(rest, BENCH_MAX_WORKERS, &rest, "bad --threads");
    } while (*rest++ == ',');
    if (rest[-1] != '\0')
        stop("bad --threads", list);
}

static void parse_rounds(struct options *options, const char *text)
{
    const char *rest;

    options->rounds = number(text, BENCH_MAX_ROUNDS, &rest, "bad --rounds");
    if (*rest != '\0')
        stop("bad --rounds", text);
}

static void parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];

        if (strcmp(name, "--help") == 0) {
            fputs(help, stdout);
            exit(EXIT_SUCCESS);
        }
        if (strcmp(name, "--list") == 0) {
            options->list = true;
            continue;
        }
        const char *value = argv[++i];

        if (value == NULL)
            stop("unknown option, or one that needs a value:", name);
        if (strcmp(name, "--filter") == 0)
            options->filter = value;
        else if (strcmp(name, "--csv") == 0)
            options->csv = value;
        else if (strcmp(name, "--threads") == 0)
            parse_threads(options, value);
        else if (strcmp(name, "--rounds") == 0)
            parse_rounds(options, value);
        else
            stop("unknown option", name);
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void run_case(const bench_case *c, const struct options *options, FILE *lines, FILE *csv)
{
    for (size_t i = 0; i < options->n_threads; i++) {
        bench_workers *workers = bench_workers_start(options->threads[i]);

        if (workers == NULL) {
            fprintf(stderr, "vtc_bench: cannot start %zu workers\n", options->threads[i]);
            exit(EXIT_FAILURE);
        }
        const bench_result result = bench_measure(c, workers, options->rounds);

        bench_workers_stop(workers);
        if (lines != NULL)
            bench_print_result(lines, &result);
        if (csv != NULL)
            bench_csv_result(csv, &result);
    }
}

/* Returns the number of cases that the filter lets through. */
static size_t run_cases(const struct options *options, FILE *lines, FILE *csv)
{
    size_t n = 0;

    for (size_t f = 0; f < N_FAMILIES; f++)
        for (const bench_case *c = families[f]; c->name != NULL; c++) {
            if (strstr(c->name, options->filter) == NULL)
                continue;
            n++;
            if (options->list)
                puts(c->name);
            else
                run_case(c, options, lines, csv);
        }
    return n;
}

static FILE *open_csv(const char *path)
{
    FILE *csv = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");

    if (csv == NULL) {
        fprintf(stderr, "vtc_bench: cannot write %s: %s\n", path, strerror(errno));
        exit(EXIT_FAILURE);
    }
    return csv;
}

int main(int argc, char **argv)
{
    struct options options = { "", NULL, 31, { 1 }, 1, false };

    parse(&options, argc, argv);
    openblas_set_num_threads(1);

    FILE *csv = options.csv == NULL || options.list ? NULL : open_csv(options.csv);
    FILE *lines = csv == stdout ? NULL : stdout;

    if (csv != NULL)
        bench_csv_header(csv);
    if (lines != NULL && !options.list)
        bench_print_machine(lines);
    if (run_cases(&options, lines, csv) == 0)
        stop("no case has a name with", options.filter);
    if (csv != NULL && (ferror(csv) != 0 || fclose(csv) != 0)) {
        fprintf(stderr, "vtc_bench: cannot write %s: %s\n", options.csv, strerror(errno));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
