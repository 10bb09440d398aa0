#include "tool.h"

#include <cblas.h>
#include <vtc/heap.h>
#include <vtc/openmp.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void remember(void *user, vtc_status status, const char *message)
{
    struct tool *tool = user;

    (void)status;
    snprintf(tool->why, sizeof(tool->why), "%s", message);
}

/* libvtc never touches the thread count of OpenBLAS, which belongs to the application. This is the
 * application: its threads are OpenMP's, and a second pool of OpenBLAS beside them costs 2-4x. An
 * environment variable would come too late, OpenBLAS reads it while it is loaded. */
static void keep_blas_single_threaded(void)
{
#ifdef OPENBLAS_VERSION
    openblas_set_num_threads(1);
#endif
}

static size_t count_processors(void)
{
#ifdef _OPENMP
    return (size_t)omp_get_num_procs();
#else
    return 1;
#endif
}

void tool_start(struct tool *tool, size_t n_threads)
{
    const vtc_exec exec = VTC_EXEC_INIT;

    memset(tool, 0, sizeof(*tool));
    tool->exec = exec;
    tool->exec.on_error = remember;
    tool->exec.user = tool;
    keep_blas_single_threaded();
    vtc_openmp_use(&tool->exec, (int)(n_threads > 0 ? n_threads : count_processors()));
}

void tool_end(struct tool *tool)
{
    vtc_heap_free(&tool->exec);
}

bool tool_fail(struct tool *tool, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(tool->why, sizeof(tool->why), format, arguments);
    va_end(arguments);
    return false;
}

bool tool_check(struct tool *tool, vtc_status status)
{
    if (status == VTC_OK)
        return true;
    if (tool->why[0] == '\0')
        tool_fail(tool, "%s", vtc_status_string(status));
    return false;
}

bool tool_scratch(struct tool *tool, vtc_status status, size_t bytes)
{
    if (!tool_check(tool, status))
        return false;
    if (vtc_heap_scratch(&tool->exec, bytes) != VTC_OK)
        return tool_fail(tool, "no memory for %zu bytes of scratch", bytes);
    return true;
}

void *tool_new(struct tool *tool, size_t n, size_t size)
{
    /* calloc() checks the product; 0 elements are one, so that NULL always means failure */
    void *memory = calloc(n > 0 ? n : 1, size);

    if (memory == NULL)
        tool_fail(tool, "no memory for %zu elements of %zu bytes", n, size);
    return memory;
}

void print_error(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fputs("vtc: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}
