/*
 * The command line. Every command describes its options in a table; parsing, checking and --help
 * are the same code for all.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#define MAX_SETTINGS  32
#define MAX_GRID_SIDE 128
#define MAX_THREADS   1024

struct setting {
    char name[64];
    double value;
};

/* Everything that can be asked for; a command reads what its table has. */
struct options {
    size_t keep;       /* 0: not given */
    double keep_ratio; /* 0: not given */
    const char *method;
    const char *out;
    size_t grid_h, grid_w; /* 0: not given */
    size_t about[4];       /* x, y, width, height; width 0: not given */
    size_t threads;        /* 0: not given */
    struct setting settings[MAX_SETTINGS];
    size_t n_settings;
    const char *model;
    size_t visual, text, new_tokens, bits; /* 0: not given */
    bool markdown;
    bool help;
    char **inputs;
    size_t n_inputs;
};

enum option_kind {
    OPTION_FLAG,    /* bool                                */
    OPTION_COUNT,   /* size_t, 1 .. max                    */
    OPTION_RATIO,   /* double, 0 < ratio <= 1              */
    OPTION_TEXT,    /* const char *                        */
    OPTION_GRID,    /* "24x32": grid_h, then grid_w        */
    OPTION_REGION,  /* "60,20,200,100": x, y, width, height */
    OPTION_SETTING, /* "name=value", appended to settings  */
};

struct option {
    const char *name;  /* without the dashes          */
    const char *value; /* how --help shows its value  */
    enum option_kind kind;
    size_t offset; /* of the field in struct options */
    size_t max;    /* of OPTION_COUNT                */
    const char *help;
};

struct command {
    const char *name;
    const char *operands; /* "PHOTO..." */
    const char *summary;  /* one line   */
    const char *text;     /* the body of --help, in front of the options */
    const struct option *options;
    size_t n_options;
    bool takes_inputs; /* at least one; else none */
    int (*run)(const struct options *options);
};

/* argv begins behind the command's name. False after printing what was wrong. The order of argv
 * changes: inputs move to the front. */
bool options_parse(const struct command *command, int argc, char **argv, struct options *options);

void options_print_help(const struct command *command);

/* Prints the message and where to find help; returns EXIT_USAGE. */
int usage_error(const char *command, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;

#endif
