/* example.h: how the examples from 01 on report errors. */
#ifndef VTC_EXAMPLE_H
#define VTC_EXAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <vtc/base.h>

/* A vtc_exec.on_error: libvtc says in one line what was wrong, with the numbers. */
static void print_error(void *user, vtc_status status, const char *message)
{
    (void)user;
    fprintf(stderr, "%s: %s\n", vtc_status_string(status), message);
}

/* Ends the program when a call has failed. */
static void must(vtc_status status)
{
    if (status != VTC_OK)
        exit(EXIT_FAILURE);
}

#endif
