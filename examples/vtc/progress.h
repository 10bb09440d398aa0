/*
 * How far a long run is: a bar where a person watches, nothing elsewhere.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress {
    bool bar; /* several inputs, and the standard error output is a terminal */
    size_t n_total;
};

void progress_start(struct progress *progress, size_t n_total);

/* Shows that `n_done` are done and `name` is next. */
void progress_show(const struct progress *progress, size_t n_done, const char *name);

/* Removes the bar so that a line can be printed. */
void progress_clear(const struct progress *progress);

#endif
