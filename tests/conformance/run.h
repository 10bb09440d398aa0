/*
 * run.h: one execution of a case. A method takes inputs from it, calls the library with its
 * executor, and leaves outputs in it. Memory lives until the run is closed.
 */
#ifndef VTC_CONFORMANCE_RUN_H
#define VTC_CONFORMANCE_RUN_H

#include "../support/support.h"
#include "case.h"

#include <vtc/weights.h>

typedef struct output {
    char name[64];
    vtc_tensor view;
} output;

typedef struct run {
    test_case *c;
    bool padded; /* inputs have wider strides than their rows, NaN between them */
    vtc_exec exec;
    void **blocks;
    size_t n_blocks;
    output *outputs;
    size_t n_outputs;
} run;

/* What a method's function does with each library call. */
#define TRY(call)                       \
    do {                                \
        vtc_status try_status = (call); \
        if (try_status != VTC_OK)       \
            return try_status;          \
    } while (0)

void run_open(run *r, test_case *c, size_t n_workers, bool padded);
void run_close(run *r);

/* The output of that name, or NULL. */
const vtc_tensor *run_find(const run *r, const char *name);

/* ---- for methods ----------------------------------------------------------------------------- */

/* An input or a weight, by its full name ("in.x", "w.image_newline"); read-only. */
vtc_tensor run_input(run *r, const char *name);

/* Binds the weights whose names begin with `prefix` ("w.", "w.mlp."). */
vtc_status run_weights(run *r, const vtc_weight_table *table, const char *prefix, void *weights);

/* "w.", or "w." and the parameter "prefix" where the weight `name` is found below that. */
void run_prefix(run *r, const char *name, char *prefix, size_t size);

/* A 1-D float input as plain F32 of `n` elements; NULL when the file has none of that name. */
const float *run_floats(run *r, const char *name, size_t n);

/* A 1-D input of I32 or I64 as I32; the fault is set when the file has none of that name. */
const int32_t *run_ints(run *r, const char *name, size_t *n);

/* Memory for a result of the library: NaN everywhere, a guard page behind it. */
vtc_tensor run_temporary(run *r, vtc_dtype dtype, int rank, const size_t *dim);

/* The same, to be compared with the file's tensor `name`, whose float dtype it takes. */
vtc_tensor run_output(run *r, const char *name, int rank, const size_t *dim);

/* An output [n, c], or one for each batch item where x has rank 3. */
vtc_tensor run_output_like(run *r, const char *name, const vtc_tensor *x, size_t n, size_t c);

/* Names a tensor that the library has written to be compared. */
void run_show(run *r, const char *name, vtc_tensor view);
void run_show_i32(run *r, const char *name, const int32_t *data, size_t n);

/* A plan with exactly the room that `count` asks for. */
vtc_status run_plan(run *r, const vtc_plan_count *count, vtc_plan *plan);

/* Scratch memory of exactly `bytes`, guarded, for the next call. */
void run_scratch(run *r, size_t bytes);

#endif
