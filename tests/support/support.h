/*
 * support.h: what every test uses. Memory that ends at a guard page, a thread pool that follows
 * vtc_exec's contract, seeded random data, and a recorder of error messages.
 */
#ifndef VTC_TESTS_SUPPORT_H
#define VTC_TESTS_SUPPORT_H

/* cmocka.h wants these four first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <vtc/vtc.h>

#include <stdbool.h>

/* ---- memory ---------------------------------------------------------------------------------- */

/* `bytes` that end exactly at an unreadable page (alignment: what `bytes` allows, 64 when it is a
 * multiple of 64). Aborts when memory is short. guard_free() takes them all back. */
void *guard_alloc(size_t bytes);
void guard_free(void *block);

/* The same with the unreadable page in front: page-aligned start. */
void *guard_alloc_front(size_t bytes);

/* Makes the block's pages read-only (or writable again). */
void guard_readonly(void *block);
void guard_writable(void *block);

/* Copies into guarded, read-only memory. */
void *guard_copy_readonly(const void *data, size_t bytes);

/* Fills with bytes that are NaN as F32, F16 and BF16 and far out of range as I32. */
void poison(void *block, size_t bytes);
bool is_poisoned(const void *block, size_t bytes); /* untouched since poison() */

/* ---- executors ------------------------------------------------------------------------------- */

/* A vtc_exec on `n_workers` threads, without scratch; n_workers 0: no parallel_for at all. Tasks
 * start in a scrambled order. Violations of the executor's contract by the library abort. */
vtc_exec test_exec(size_t n_workers);

/* Scratch of exactly `bytes`, guarded and poisoned; free with exec_scratch_free(). */
void exec_scratch(vtc_exec *exec, size_t bytes);
void exec_scratch_free(vtc_exec *exec);

/* The last message of a recorder; "" when there was none. */
typedef struct error_log {
    int count;
    vtc_status status;
    char message[512];
} error_log;

void record_errors(vtc_exec *exec, error_log *log);

/* The call failed with `status` and told why, and `part` is in the message. */
void assert_failed(const error_log *log, vtc_status got, vtc_status want, const char *part);

/* ---- data ------------------------------------------------------------------------------------ */

uint64_t rng(uint64_t *state);                   /* 64 random bits                  */
float rng_f32(uint64_t *state);                  /* uniform in [-1, 1)              */
size_t rng_below(uint64_t *state, size_t limit); /* uniform in 0 .. limit - 1       */
void rng_fill(uint64_t *state, float *x, size_t n);

/* Independent scalar conversions (double arithmetic, no bit tricks shared with the library). */
uint16_t ref_f32_to_f16(float x);
float ref_f16_to_f32(uint16_t bits);
uint16_t ref_f32_to_bf16(float x);
float ref_bf16_to_f32(uint16_t bits);

/* Element `i` of memory of a float dtype, and its storage. */
float get_element(const void *data, vtc_dtype dtype, size_t i);
void set_element(void *data, vtc_dtype dtype, size_t i, float value);

/* |got - want| <= abs_tol + rel_tol * |want|, with equal infinities equal and NaN only with NaN. */
bool close_to(double got, double want, double abs_tol, double rel_tol);

#endif
