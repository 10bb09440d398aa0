/*
 * plan.h: how planners write a vtc_plan and how its users read one.
 *
 * A planner's file: vtci_plan_open() and vtci_plan_check_apart() at its door, then it writes keep,
 * mass and, unless the plan is a pure selection, begin, source and weight (score when the caller
 * gave it), then vtci_plan_finish() does the rest. From a successful open on, all fields of the
 * caller's struct may be used.
 */
#ifndef VTCI_PLAN_H
#define VTCI_PLAN_H

#include "../../include/vtc/plan.h"
#include "../base/tensor.h"

/* ---- writing --------------------------------------------------------------------------------- */

/*
 * Checks before anything is written: struct_size, sizes that fit int32, arrays that are there,
 * apart and have room. n_nnz 0 opens a pure selection; one with `begin` needs n_out entries.
 * NULL, UNSUPPORTED, RANGE, OVERFLOW, ROOM or OVERLAP. Writes nothing.
 */
VTC_NODISCARD vtc_status vtci_plan_open(const vtci_call *call, const vtc_plan *plan, size_t n_in,
                                        size_t n_out, size_t n_nnz);

/* VTC_ERR_OVERLAP when `bytes` of the input array `what` meet any array that an opened plan of this
 * size will write. `data` may be NULL. */
VTC_NODISCARD vtc_status vtci_plan_check_apart(const vtci_call *call, const vtc_plan *plan,
                                               size_t n_in, size_t n_out, size_t n_nnz,
                                               const char *what, const void *data, size_t bytes);

/* The same for all arrays of another plan, `part`, that is only read. */
VTC_NODISCARD vtc_status vtci_plan_check_apart_from(const vtci_call *call, const vtc_plan *plan,
                                                    size_t n_in, size_t n_out, size_t n_nnz,
                                                    const char *what, const vtc_plan *part);

/* How large a plan will be, as vtci_plan_open() takes it. */
typedef struct vtci_plan_sizes {
    size_t n_in, n_out, n_nnz;
} vtci_plan_sizes;

/* VTC_ERR_OVERLAP when two opened plans, both to be written, share memory. */
VTC_NODISCARD vtc_status vtci_plan_check_apart_written(const vtci_call *call, const vtc_plan *plan,
                                                       const vtci_plan_sizes *sizes,
                                                       const vtc_plan *other,
                                                       const vtci_plan_sizes *other_sizes);

/* Sets the sizes and `reduce`. Writes the entries of a pure selection (n_nnz 0) when the plan has
 * `begin`, and `fate` when the plan has it. Sizes as given to vtci_plan_open(), or smaller. */
void vtci_plan_finish(vtc_plan *plan, size_t n_in, size_t n_out, size_t n_nnz, vtc_reduce reduce);

/* VTC_ERR_DATA unless mass[0..n-1] are finite and > 0 and their total fits F32. NULL is fine. */
VTC_NODISCARD vtc_status vtci_check_masses(const vtci_call *call, const float *mass, size_t n);

/* ---- reading --------------------------------------------------------------------------------- */

/* Reads the caller's struct into *plan and checks what every use needs: sizes within the room and
 * int32, a known `reduce`, keep, and with `begin` also source and weight. A scratch query does
 * without the arrays. `what` names the plan in messages. */
VTC_NODISCARD vtc_status vtci_plan_read(const vtci_call *call, const char *what,
                                        const vtc_plan *from, vtc_plan *plan);

/* keep within lowest .. n_in - 1; `lowest` is -1, or 0 where a zero token makes no sense. */
VTC_NODISCARD vtc_status vtci_plan_check_keep(const vtci_call *call, const char *what,
                                              const vtc_plan *plan, int32_t lowest);

/* begin rising from 0 within the room, sources within 0 .. n_in - 1. For a pure selection keep. */
VTC_NODISCARD vtc_status vtci_plan_check_entries(const vtci_call *call, const char *what,
                                                 const vtc_plan *plan);

/* VTC_ERR_DATA unless the sources of each output ascend, as vtci_plan_weight() needs them. For
 * entries that were checked. */
VTC_NODISCARD vtc_status vtci_plan_check_ascending(const vtci_call *call, const char *what,
                                                   const vtc_plan *plan);

/* VTC_ERR_DATA unless the masses are there, finite and not negative. */
VTC_NODISCARD vtc_status vtci_plan_check_mass(const vtci_call *call, const char *what,
                                              const vtc_plan *plan);

/* VTC_ERR_OVERLAP when an output's `bytes` at `data` meet an array of a plan that was read. */
VTC_NODISCARD vtc_status vtci_plan_check_output(const vtci_call *call, const vtc_plan *plan,
                                                const char *what, const void *data, size_t bytes);

/* The entries of one output, the same for plans with `begin` and for pure selections. */
typedef struct vtci_entries {
    size_t n;
    const int32_t *source;
    const float *weight;
} vtci_entries;

vtci_entries vtci_plan_entries(const vtc_plan *plan, size_t j);

/* The weight with which output j takes row `source`, or NULL. O(log) of the output's entries. */
const float *vtci_plan_weight(const vtc_plan *plan, size_t j, int32_t source);

/* Entries of a checked plan with `begin`, or the outputs of a pure selection that take a row. */
size_t vtci_plan_nnz(const vtc_plan *plan);

#endif
