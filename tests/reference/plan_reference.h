/*
 * plan_reference.h: a plan as a dense matrix of doubles, every operation from its definition, and
 * random plans to compare on. Memory comes from malloc.
 */
#ifndef VTC_TESTS_PLAN_REFERENCE_H
#define VTC_TESTS_PLAN_REFERENCE_H

#include <vtc/plan.h>

#include <stdbool.h>

typedef struct dense_plan {
    size_t n_in, n_out;
    bool max;
    bool *has;      /* [n_out, n_in] is there an entry */
    double *weight; /* [n_out, n_in]                   */
    int32_t *keep;  /* [n_out]                         */
} dense_plan;

dense_plan dense_of(const vtc_plan *plan);
void dense_free(dense_plan *d);

/* second x first; under MAX the largest product */
dense_plan dense_compose(const dense_plan *first, const dense_plan *second);
dense_plan dense_concat(const dense_plan *a, const dense_plan *b);

/* y [n_out, C] from x [n_in, C] */
void dense_apply(const dense_plan *d, const double *x, size_t c, double *y);

/* fate [n_in] */
void dense_fate(const dense_plan *d, int32_t *fate);

/* ---- random plans ---------------------------------------------------------------------------- */

typedef enum plan_kind {
    PLAN_SELECTION, /* without begin, rows in any order, some twice, some zero tokens */
    PLAN_ASCENDING, /* without begin, rows strictly ascending                         */
    PLAN_GROUPS,    /* every row in one output or in none                             */
    PLAN_OVERLAP,   /* any rows in any output, zero rows, weights of both signs       */
    PLAN_MAX,       /* the same with reduce MAX and weights > 0                       */
    N_PLAN_KINDS
} plan_kind;

/* Valid by vtc_plan_validate(), with score, fate and masses. n_out <= n_in for PLAN_ASCENDING. */
vtc_plan random_plan(uint64_t *state, plan_kind kind, size_t n_in, size_t n_out);

/* A plan with room for anything of this size; without begin when n_nnz is 0. */
vtc_plan empty_plan(size_t n_in, size_t n_out, size_t n_nnz);
void free_plan(vtc_plan *plan);

#endif
