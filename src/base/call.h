/*
 * call.h: what every public function does at its door, and the executor behind it.
 *
 * A vtci_call carries the function's name (each message begins with it) and the caller's vtc_exec,
 * read up to the size the caller knows. The pattern of a method's file:
 *
 *     static vtc_status open_job(vtci_call *call, params, views..., struct job *job);  checks all
 *     static void lay_out(vtci_arena *arena, struct job *job);                         scratch
 *     vtc_<thing>_scratch():  vtci_begin_query(), open_job(), lay_out(), vtci_end_query()
 *     vtc_<thing>():          vtci_begin(), open_job(), lay_out(), vtci_arena_check(), the work
 *
 * What follows open_job() is one function for all methods of a kind, in a query and a run:
 * vtci_steps_walk() (linalg/steps.h), vtci_chain_walk() and vtci_conv_walk() (project).
 */
#ifndef VTCI_CALL_H
#define VTCI_CALL_H

#include "../../include/vtc/base.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct vtci_call {
    const char *name;
    vtc_exec exec;
    bool query; /* a scratch query: views may lack data, nothing is computed */
} vtci_call;

VTC_NODISCARD vtc_status vtci_begin(vtci_call *call, const char *name, const vtc_exec *exec);

/* Reports one line "name: message" to on_error and returns `status`. */
vtc_status vtci_fail(const vtci_call *call, vtc_status status, const char *format, ...)
    VTC_PRINTF(3, 4);

#define VTCI_TRY(expression)                    \
    do {                                        \
        vtc_status vtci_status_ = (expression); \
        if (vtci_status_ != VTC_OK)             \
            return vtci_status_;                \
    } while (0)

#define VTCI_REQUIRE(call, condition, status, ...)       \
    do {                                                 \
        if (!(condition))                                \
            return vtci_fail(call, status, __VA_ARGS__); \
    } while (0)

#define VTCI_REQUIRE_PTR(call, pointer) \
    VTCI_REQUIRE(call, (pointer) != NULL, VTC_ERR_NULL, #pointer " is NULL")

/*
 * Copies the parameters the caller knows over the defaults that `params` holds on entry. `from`
 * NULL leaves the defaults. A caller from a newer version may pass a longer struct as long as the
 * tail this version does not know is zero. Both structs begin with size_t struct_size.
 */
VTC_NODISCARD vtc_status vtci_params_read(const vtci_call *call, void *params, size_t size,
                                          const void *from);

/* ---- scratch memory -------------------------------------------------------------------------- */

/* Hands out 64-byte aligned pieces. Without memory it only measures, so that the size query and
 * the run share one layout. Failure is remembered: one check after the layout is enough. */
typedef struct vtci_arena {
    char *base; /* NULL: measure only */
    size_t used;
    bool overflow;
} vtci_arena;

void *vtci_take(vtci_arena *arena, size_t count, size_t size);

/* n_workers pieces of `size` bytes each; *stride is their distance. */
char *vtci_take_slices(vtci_arena *arena, const vtci_call *call, size_t size, size_t *stride);

/* An arena over the caller's scratch memory (or none, in a query). */
vtci_arena vtci_arena_open(const vtci_call *call);

/* VTC_ERR_OVERFLOW or VTC_ERR_SCRATCH when the layout did not fit. */
VTC_NODISCARD vtc_status vtci_arena_check(const vtci_call *call, const vtci_arena *arena);

/* The executor for a public function called inside, with what is left of the scratch memory behind
 * an arena; all of it when the arena does not fit, which vtci_arena_check() tells. */
vtc_exec vtci_exec_behind(const vtci_call *call, const vtci_arena *arena);

VTC_NODISCARD vtc_status vtci_begin_query(vtci_call *call, const char *name, const vtc_exec *exec,
                                          const size_t *bytes);
VTC_NODISCARD vtc_status vtci_end_query(const vtci_call *call, const vtci_arena *arena,
                                        size_t *bytes);

/* ---- workers --------------------------------------------------------------------------------- */

/* Runs all tasks through the caller's parallel_for, or in a loop. Any order, any worker: a task
 * must write only what belongs to its index and its worker's slice. */
void vtci_parallel(const vtci_call *call, size_t n_tasks,
                   void (*task)(void *job, size_t index, size_t worker), void *job);

size_t vtci_n_workers(const vtci_call *call);

/* ---- sizes ----------------------------------------------------------------------------------- */

/* a * b, or SIZE_MAX when it does not fit: a size no memory has, so checks against it fail. */
size_t vtci_mul(size_t a, size_t b);
size_t vtci_add(size_t a, size_t b);

static inline size_t vtci_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t vtci_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t vtci_ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

#endif
