/*
 * vtc: compresses the visual tokens of photographs and of token files, and shows what is lost.
 */
#include "commands.h"
#include "tool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = { &compare_command, &compress_command,
                                                  &cost_command, &methods_command };
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_commands(FILE *out)
{
    fputs("Usage: vtc COMMAND ...\n\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s%s\n", commands[i]->name, commands[i]->summary);
    fputs("\nvtc COMMAND --help tells about a command, vtc --version the version.\n"
          "Exit status: 0 done, 1 an input failed, 2 the command line makes no sense.\n",
          out);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int run_command(const struct command *command, int argc, char **argv)
{
    struct options options = { 0 };

    if (!options_parse(command, argc, argv, &options))
        return EXIT_USAGE;
    if (options.help) {
        options_print_help(command);
        return EXIT_OK;
    }
    return command->run(&options);
}

static int run(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    const struct command *command = find_command(word);

    if (command != NULL)
        return run_command(command, argc - 2, argv + 2);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_commands(stdout);
        return EXIT_OK;
    }
    if (strcmp(word, "--version") == 0) {
        printf("vtc %s\n", vtc_version());
        return EXIT_OK;
    }
    if (argc > 1)
        print_error("there is no command '%s'", word);
    print_commands(stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    int status;

#ifdef SIGXFSZ
    signal(SIGXFSZ,
           SIG_IGN); /* a file that may not grow is an error to report, not a reason to die */
#endif
    status = run(argc, argv);
    /* tables go to the standard output: a full disk behind it is noticed here */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        print_error("cannot write to the standard output: %s", strerror(errno));
        return status == EXIT_OK ? EXIT_INPUT : status;
    }
    return status;
}
