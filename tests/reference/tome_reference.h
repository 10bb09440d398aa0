/*
 * tome_reference.h: ToMe in doubles, from the paper. Tokens move in memory from round to round, and
 * merged rows are sums over matrices of shares, unlike in the library.
 */
#ifndef VTC_TESTS_TOME_REFERENCE_H
#define VTC_TESTS_TOME_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tome_reference {
    size_t n_in, n_out, r;
    int32_t *owner; /* [n_in] output of each row                              */
    int32_t *keep;  /* [n_in] row each output stands for, n_out of them       */
    double *score;  /* [n_in] largest cosine of even rows, infinite for others */
    int32_t *unmerged, *merged, *partner; /* of the last round, as in vtc_tome_trace */
} tome_reference;

/* One round. metric [n, d]. */
tome_reference tome_reference_round(const double *metric, size_t n, size_t d, size_t n_merge,
                                    bool class_token, bool distill_token);

/* Rounds until n_keep rows are left; mass [n]. The score is that of the first round. */
tome_reference tome_reference_rounds(const double *metric, const double *mass, size_t n, size_t d,
                                     size_t n_keep, bool class_token, bool distill_token);

void tome_reference_free(tome_reference *t);

#endif
