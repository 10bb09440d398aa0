/*
 * vtc methods: the library's planner table, and the poolings that the tool offers.
 */
#include "commands.h"
#include "run.h"

#include <stdio.h>
#include <string.h>

static const struct option options_of_methods[] = {
    { "markdown", "", OPTION_FLAG, offsetof(struct options, markdown), 0,
      "the table \"which method can I run with what I have\" of the README" },
};

/* "features, grid", or "nothing" */
static const char *needs_text(unsigned needs, char *text, size_t size)
{
    size_t used = 0;

    snprintf(text, size, "nothing");
    for (unsigned bit = 1; bit <= VTC_NEED_IMAGE; bit <<= 1)
        if ((needs & bit) != 0 && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     vtc_need_string((vtc_need)bit));
    return text;
}

/* ---- text ------------------------------------------------------------------------------------ */

static void print_param(const vtc_param *param)
{
    /* seven digits: a float that was written as 0.998 prints as that */
    printf("    --set %s=%.*g", param->name, param->type == VTC_PARAM_F32 ? 7 : 16, param->initial);
    if (param->type == VTC_PARAM_FLAG && param->min == 0.0 && param->max == 1.0)
        printf(" (0 or 1)");
    else
        printf(" (%.16g to %.16g)", param->min, param->max);
    printf(": %s\n", param->meaning);
}

static void print_planner(const vtc_planner *planner)
{
    char text[200];

    printf("%s (%s)\n", planner->name, planner->title);
    printf("    paper    %s\n", planner->paper);
    printf("    checked  %s\n", planner->checked);
    printf("    needs    %s\n", needs_text(planner->needs, text, sizeof(text)));
    if (planner->uses != 0)
        printf("    uses     %s\n", needs_text(planner->uses, text, sizeof(text)));
    printf("    outputs  %s%s\n",
           planner->merges ? "may be made of several tokens" : "are input tokens",
           planner->exact ? "" : "; their number is an upper bound");
    for (size_t i = 0; i < planner->n_params; i++)
        print_param(&planner->params[i]);
    putchar('\n');
}

static void print_all(void)
{
    const vtc_planner *planner;

    puts("Planners, for vtc compress --method NAME and vtc compare\n");
    for (size_t i = 0; (planner = vtc_planner_at(i)) != NULL; i++)
        print_planner(planner);
    puts("Poolings on the token grid, in vtc compare; they make no plan\n");
    for (size_t i = 0; i < n_poolings; i++)
        printf("%s\n    paper    %s\n    checked  %s\n    outputs  %s\n\n", poolings[i].name,
               poolings[i].paper, poolings[i].checked,
               poolings[i].fixed_ratio ? "a quarter of the grid"
                                       : "the largest grid in the budget");
}

/* ---- markdown -------------------------------------------------------------------------------- */

/* One cell for each thing a caller may have: needed, used when given, or neither. */
static void print_row(const char *name, unsigned needs, unsigned uses, const char *paper,
                      const char *checked)
{
    printf("| `%s` |", name);
    for (unsigned bit = 1; bit <= VTC_NEED_IMAGE; bit <<= 1)
        printf(" %s |", (needs & bit) != 0 ? "needs" : (uses & bit) != 0 ? "uses" : "");
    printf(" %s | %s |\n", paper, checked);
}

static void print_markdown(void)
{
    const vtc_planner *planner;

    printf("| method |");
    for (unsigned bit = 1; bit <= VTC_NEED_IMAGE; bit <<= 1)
        printf(" %s |", vtc_need_string((vtc_need)bit));
    printf(" paper | checked against |\n|---|");
    for (unsigned bit = 1; bit <= VTC_NEED_IMAGE; bit <<= 1)
        printf("---|");
    puts("---|---|");
    for (size_t i = 0; (planner = vtc_planner_at(i)) != NULL; i++)
        print_row(planner->name, planner->needs, planner->uses, planner->paper, planner->checked);
    for (size_t i = 0; i < n_poolings; i++)
        print_row(poolings[i].name, VTC_NEED_FEATURES | VTC_NEED_GRID, 0, poolings[i].paper,
                  poolings[i].checked);
}

static int run_methods(const struct options *options)
{
    if (options->markdown)
        print_markdown();
    else
        print_all();
    return 0;
}

const struct command methods_command = {
    "methods",
    "",
    "what there is: papers, needs, parameters, what each was checked against",
    "Lists the library's planners with their parameters and defaults, and the poolings.\n",
    options_of_methods,
    sizeof(options_of_methods) / sizeof(options_of_methods[0]),
    false,
    run_methods,
};
