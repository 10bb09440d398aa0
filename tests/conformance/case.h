/*
 * case.h: one conformance case: what its file holds, and typed access to its parameters.
 *
 * The first fault is kept in the case and decides it. Accessors that fail return 0 or an empty
 * view, which the library then refuses, so a method needs no check after each of them.
 */
#ifndef VTC_CONFORMANCE_CASE_H
#define VTC_CONFORMANCE_CASE_H

#include <jansson.h>
#include <stdbool.h>
#include <vtc/io.h>
#include <vtc/vtc.h>

typedef struct test_case {
    vtc_safetensors *file;
    const char *method, *variant;
    const char *params_text;
    json_t *params;
    double atol;
    char fault[512]; /* "" while all is well */
} test_case;

/* False, with the fault set, when the file is not a case. Close it in any event. */
bool case_open(test_case *c, const char *path);
void case_close(test_case *c);

/* Sets the fault unless there is one. Always returns false. */
bool case_fault(test_case *c, const char *format, ...) VTC_PRINTF(2, 3);

/* A vtc_exec.on_error that makes the library's message the fault of the case `user`. */
void case_record_error(void *user, vtc_status status, const char *message);

/* ---- parameters ------------------------------------------------------------------------------ */

bool case_has_param(const test_case *c, const char *name); /* neither absent nor null */
size_t case_size(test_case *c, const char *name);
uint64_t case_u64(test_case *c, const char *name);
double case_double(test_case *c, const char *name);
bool case_flag(test_case *c, const char *name);
void case_sizes(test_case *c, const char *name, size_t *sizes, size_t n); /* a list of n */
void case_grid(test_case *c, const char *name, size_t *height, size_t *width);

/* The place of the parameter's text among `names`, a list that NULL ends. */
int case_choice(test_case *c, const char *name, const char *const *names);

/* The parameter "act"; without it the exact GELU. */
vtc_activation case_activation(test_case *c);

/* ---- tensors --------------------------------------------------------------------------------- */

bool case_has_tensor(const test_case *c, const char *name);
vtc_tensor case_tensor(test_case *c, const char *name);

#endif
