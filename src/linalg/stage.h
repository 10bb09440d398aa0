/*
 * stage.h: the steps of a model, one after another in the same piece of scratch memory.
 *
 * A method takes its own arrays from the arena first and then walks through its steps twice: a
 * stage that measures lays each step out and keeps the largest, one that runs does the work. Query
 * and run take the same walk, so they cannot drift apart.
 *
 *     vtci_stage_open(&stage, call, &arena);      from here on it measures
 *     walk(job, &stage);
 *     vtci_stage_close(&stage, &arena);           the arena has room for the largest step
 *     vtci_arena_check(call, &arena) or vtci_end_query()
 *     stage.runs = true;
 *     walk(job, &stage);
 */
#ifndef VTCI_STAGE_H
#define VTCI_STAGE_H

#include "attention.h"
#include "gemm.h"
#include "norm.h"

typedef struct vtci_stage {
    const vtci_call *call;
    vtci_arena arena; /* where every step's scratch begins */
    size_t peak;
    bool overflow, runs;
} vtci_stage;

void vtci_stage_open(vtci_stage *stage, const vtci_call *call, const vtci_arena *arena);
void vtci_stage_close(const vtci_stage *stage, vtci_arena *arena);

void vtci_stage_norm(vtci_stage *stage, vtci_norm norm);
void vtci_stage_product(vtci_stage *stage, vtci_gemm product);
void vtci_stage_attention(vtci_stage *stage, vtci_attention attention);

/* A step of the method's own, without scratch; nothing while measuring. */
void vtci_stage_tasks(const vtci_stage *stage, size_t n_tasks,
                      void (*task)(void *job, size_t index, size_t worker), void *job);

/* ---- views of a method's own arrays ---------------------------------------------------------- */

/* p + n; NULL, while there is no memory, stays NULL. */
static inline float *vtci_skip(float *p, size_t n)
{
    return p == NULL ? NULL : p + n;
}

/* Dense floats [n_rows, n_cols]. */
vtci_rows vtci_float_rows(const float *data, size_t n_rows, size_t n_cols);

/* x W^T, both as they stand; `packed` NULL: no packed weights. What follows is for the caller to
 * add. */
vtci_gemm vtci_linear_product(vtci_rows x, const vtc_tensor *weight, const vtci_packed *packed,
                              vtci_rows y);

#endif
