/*
 * ficoco_reference.h: FiCoCo in doubles on a full T x T attention, from the paper and the released
 * code's description. A plan is a dense matrix of weights.
 */
#ifndef VTC_TESTS_FICOCO_REFERENCE_H
#define VTC_TESTS_FICOCO_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* S [T, T] of q [H, T, d] and k [G, T, d]: the mean over heads of logits or of their softmax. */
double *ficoco_attention(const double *q, const double *k, size_t n_heads, size_t n_groups,
                         size_t t, size_t d, double scale, bool probs);

/* Minus the cosine between keys [G, T, d] and their mean, both averaged over heads. */
double *ficoco_key_cosine(const double *k, size_t n_groups, size_t t, size_t d);

typedef struct ficoco_rules {
    size_t r;
    bool official, linear, l2;
    double eps, lam, coef;
    size_t window, grid_h, grid_w;
    const int32_t *pos; /* or NULL */
    float *memory;      /* official: in and out */
    size_t side;
    double beta, gamma; /* L */
    bool mean_vision, mean_text, mean_bridge;
    size_t protect;
} ficoco_rules;

typedef struct ficoco_reference {
    size_t n_in, n_out, r, n_targets;
    int32_t *discard; /* [r]                                                              */
    int32_t *remain;  /* [n_out]                                                          */
    double *score;    /* [n_in], -inf for [CLS]                                           */
    double *weight;   /* [n_out, n_in]                                                    */
    double *mass;     /* [n_out]                                                          */
    double margin;    /* smallest distance that decided an order, relative to its numbers */
    bool impossible;  /* the released code has no output for a target                     */
} ficoco_reference;

/* s [T, T]; with a_cls [T] there is no [CLS], else it is row 0. mass [T]. */
ficoco_reference ficoco_reference_v(const double *s, size_t t, const double *a_cls,
                                    const double *mass, const ficoco_rules *rules);

/* s [L, L], the text from `text` to the end. mass [V]. */
ficoco_reference ficoco_reference_l(const double *s, size_t l, size_t v_start, size_t n_visual,
                                    size_t text, const double *mass, const ficoco_rules *rules);

void ficoco_reference_free(ficoco_reference *f);

#endif
