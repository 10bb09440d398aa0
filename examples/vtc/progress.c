#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 30

void progress_start(struct progress *progress, size_t n_total)
{
    progress->bar = n_total > 1 && isatty(STDERR_FILENO);
    progress->n_total = n_total;
}

void progress_clear(const struct progress *progress)
{
    if (progress->bar)
        fputs("\r\033[K", stderr); /* to the start of the line, and erase it */
}

void progress_show(const struct progress *progress, size_t n_done, const char *name)
{
    const int filled = (int)(n_done * BAR_WIDTH / progress->n_total);

    if (!progress->bar)
        return;
    fprintf(stderr, "\r\033[K[%.*s%.*s] %zu/%zu %.40s", filled, "##############################",
            BAR_WIDTH - filled, "..............................", n_done, progress->n_total, name);
    fflush(stderr);
}
