/*
 * What every step of the tool shares: how the library runs, and why the last step failed.
 *
 * A step returns true, or false with one line in `why`. Nothing is printed on the way: the command
 * that knows the name of the input prints it.
 */
#ifndef TOOL_H
#define TOOL_H

#include <vtc/vtc.h>

#include <stdbool.h>
#include <stddef.h>

enum exit_status {
    EXIT_OK = 0,
    EXIT_INPUT = 1, /* an input failed, or an output could not be written */
    EXIT_USAGE = 2  /* the command line makes no sense                     */
};

struct tool {
    vtc_exec exec; /* scratch memory grows on demand, see vtc/heap.h */
    char why[512];
};

/* Readies `tool` for n_threads threads; 0: one for each processor. */
void tool_start(struct tool *tool, size_t n_threads);
void tool_end(struct tool *tool);

/* Stores the reason and returns false. */
bool tool_fail(struct tool *tool, const char *format, ...) VTC_PRINTF(2, 3);

/* True for VTC_OK. Otherwise `why` is the message that the library sent. */
bool tool_check(struct tool *tool, vtc_status status);

/* For the result of a vtc_<thing>_scratch() call: true when `bytes` of scratch are there. */
bool tool_scratch(struct tool *tool, vtc_status status, size_t bytes);

/* n elements of zeroed memory, or NULL with a reason. free() it. */
void *tool_new(struct tool *tool, size_t n, size_t size);

/* Prints "vtc: ..." on the standard error output. */
void print_error(const char *format, ...) VTC_PRINTF(1, 2);

#endif
