#include "options.h"

#include "tool.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const char *command, const char *format, ...)
{
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    print_error("%s: %s", command, message);
    fprintf(stderr, "Run 'vtc %s --help' for its options.\n", command);
    return EXIT_USAGE;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Digits alone: strtoull() would also take blanks, signs and "-1" as a huge number. */
static bool parse_count(const char *text, char **end, size_t max, size_t *count)
{
    unsigned long long value;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    value = strtoull(text, end, 10);
    *count = (size_t)value;
    return errno == 0 && value >= 1 && value <= max;
}

static bool parse_number(const char *text, double *number)
{
    char *end;

    *number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*number);
}

static bool parse_grid(const char *text, size_t *grid)
{
    char *end;

    return parse_count(text, &end, MAX_GRID_SIDE, &grid[0]) && *end == 'x' &&
           parse_count(end + 1, &end, MAX_GRID_SIDE, &grid[1]) && *end == '\0';
}

/* Four whole numbers; the last two, width and height, are at least 1. */
static bool parse_region(const char *text, size_t *region)
{
    const size_t max = 1000000;
    char *end = NULL;

    for (int i = 0; i < 4; i++) {
        if (i < 2 && text[0] == '0' && (text[1] < '0' || text[1] > '9')) {
            region[i] = 0;
            end = (char *)(uintptr_t)text + 1;
        } else if (!parse_count(text, &end, max, &region[i])) {
            return false;
        }
        if (*end != (i < 3 ? ',' : '\0'))
            return false;
        text = end + 1;
    }
    return true;
}

static bool parse_setting(const char *text, struct options *options)
{
    const char *equals = strchr(text, '=');
    struct setting *setting = &options->settings[options->n_settings];

    if (equals == NULL || options->n_settings == MAX_SETTINGS ||
        (size_t)(equals - text) >= sizeof(setting->name))
        return false;
    memcpy(setting->name, text, (size_t)(equals - text));
    setting->name[equals - text] = '\0';
    options->n_settings++;
    return parse_number(equals + 1, &setting->value);
}

/* False after printing what the option takes. */
static bool store(const struct command *command, const struct option *option, const char *value,
                  struct options *options)
{
    void *field = (char *)options + option->offset;
    double *ratio = field;
    char *end = NULL;

    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case OPTION_TEXT:
        *(const char **)field = value;
        if (*value != '\0')
            return true;
        break;
    case OPTION_COUNT:
        if (parse_count(value, &end, option->max, field) && *end == '\0')
            return true;
        usage_error(command->name, "--%s takes a whole number from 1 to %zu, not '%s'",
                    option->name, option->max, value);
        return false;
    case OPTION_RATIO:
        if (parse_number(value, ratio) && *ratio > 0.0 && *ratio <= 1.0)
            return true;
        usage_error(command->name, "--%s takes a number above 0 and at most 1, not '%s'",
                    option->name, value);
        return false;
    case OPTION_GRID:
        if (parse_grid(value, field))
            return true;
        usage_error(command->name, "--%s takes rows x columns, as in 24x32, each 1 to %d, not '%s'",
                    option->name, MAX_GRID_SIDE, value);
        return false;
    case OPTION_REGION:
        if (parse_region(value, field))
            return true;
        usage_error(command->name,
                    "--%s takes x, y, width and height in pixels, as in 60,20,200,100, not '%s'",
                    option->name, value);
        return false;
    case OPTION_SETTING:
        if (parse_setting(value, options))
            return true;
        break;
    }
    usage_error(command->name, "--%s takes %s, not '%s'", option->name, option->value, value);
    return false;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const struct option *find_option(const struct command *command, const char *name,
                                        size_t length)
{
    for (size_t i = 0; i < command->n_options; i++) {
        const struct option *option = &command->options[i];

        if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
            return option;
    }
    return NULL;
}

/* `--name value`, `--name=value` or a flag at argv[*i]; moves *i to the last word it used. */
static bool parse_option(const struct command *command, int argc, char **argv, int *i,
                         struct options *options)
{
    const char *name = argv[*i] + 2;
    const size_t length = strcspn(name, "=");
    const struct option *option = find_option(command, name, length);
    const char *value = name[length] == '=' ? name + length + 1 : NULL;

    if (option == NULL) {
        usage_error(command->name, "there is no option --%.*s", (int)length, name);
        return false;
    }
    if (option->kind == OPTION_FLAG && value != NULL) {
        usage_error(command->name, "--%s takes no value", option->name);
        return false;
    }
    if (option->kind != OPTION_FLAG && value == NULL) {
        if (*i + 1 == argc) {
            usage_error(command->name, "--%s needs %s", option->name, option->value);
            return false;
        }
        value = argv[++*i];
    }
    return store(command, option, value, options);
}

static bool check_inputs(const struct command *command, const struct options *options)
{
    if (options->help)
        return true;
    if (command->takes_inputs && options->n_inputs == 0) {
        usage_error(command->name, "nothing to do: give %s", command->operands);
        return false;
    }
    if (!command->takes_inputs && options->n_inputs > 0) {
        usage_error(command->name, "'%s' is one word too many", options->inputs[0]);
        return false;
    }
    return true;
}

bool options_parse(const struct command *command, int argc, char **argv, struct options *options)
{
    bool only_inputs = false; /* behind "--" */

    options->inputs = argv;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];

        if (only_inputs || word[0] != '-' || word[1] == '\0') {
            options->inputs[options->n_inputs++] = argv[i];
        } else if (strcmp(word, "--") == 0) {
            only_inputs = true;
        } else if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            options->help = true;
        } else if (word[1] != '-') {
            usage_error(command->name, "there is no option %s", word);
            return false;
        } else if (!parse_option(command, argc, argv, &i, options)) {
            return false;
        }
    }
    return check_inputs(command, options);
}

void options_print_help(const struct command *command)
{
    printf("Usage: vtc %s %s%s[options]\n\n%s\n", command->name, command->operands,
           command->operands[0] != '\0' ? " " : "", command->text);
    printf("Options:\n");
    for (size_t i = 0; i < command->n_options; i++) {
        const struct option *option = &command->options[i];
        const int width = printf("  --%s %s", option->name, option->value);

        printf("%*s%s\n", width < 24 ? 24 - width : 1, "", option->help);
    }
    printf("  %-22s%s\n", "--help", "this text");
}
