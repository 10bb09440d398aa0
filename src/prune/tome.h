/*
 * tome.h: the state of ToMe's matching, shared by one round (tome.c) and many (tome_rounds.c).
 *
 * Tokens are the rows that are left, in the current order. Each is made of one or more input rows
 * (`owner`) and stands for one of them (`keep`), the odd one when rows merged. Rows never move in
 * memory: the metric of token t is row keep[t], whatever the round.
 */
#ifndef VTCI_TOME_H
#define VTCI_TOME_H

#include "../../include/vtc/prune.h"
#include "../linalg/packed.h"

typedef struct vtci_tome {
    const vtci_call *call;
    bool class_token, distill_token;
    size_t n_in;      /* N                                              */
    size_t n_tokens;  /* T, N at first; A = ceil(T/2) even, B = T/2 odd */
    vtci_rows metric; /* [N, D]                                         */
    int32_t *keep;    /* [N] the row each token stands for              */
    int32_t *owner;   /* [N] the token each row is part of              */

    /* of the last match */
    float *best;      /* [A] largest cosine of each even token          */
    int32_t *partner; /* [A] the odd token it belongs to, 2b + 1 as b   */
    int32_t *order;   /* [A] even tokens, 2a as a: first those to merge */

    /* inside a round */
    float *even, *odd;       /* [A, D], [B, D] unit rows                                        */
    vtci_packed packed;      /* the odd ones again, for the product                             */
    size_t *bad;             /* first token of each block whose metric has no direction, or T   */
    int32_t *number, *moved; /* [N] new number of each token; keep, renumbered               */
    char *slices;
    size_t slice_stride;
} vtci_tome;

/* Reads the parameters into *params (the defaults on entry) and checks the metric. */
VTC_NODISCARD vtc_status vtci_tome_open(const vtci_call *call, vtc_tome_params *params,
                                        const vtc_tome_params *from, const vtc_tensor *metric,
                                        vtci_tome *t);
void vtci_tome_lay_out(vtci_arena *arena, vtci_tome *t);

/* n_merge, clipped to what one round on n_tokens may merge. */
size_t vtci_tome_clip(bool class_token, bool distill_token, size_t n_tokens, size_t n_merge);

/* Every row its own token. */
void vtci_tome_start(vtci_tome *t);

/* Scales the metric of all tokens to length 1. Returns the first token whose metric is zero or not
 * finite (its unit row is all zeros then), or n_tokens. */
size_t vtci_tome_unit_rows(vtci_tome *t);

/* The message for a token that vtci_tome_unit_rows() returned. */
VTC_NODISCARD vtc_status vtci_tome_check_rows(const vtci_tome *t, size_t first_bad);

/* Finds best and partner of each even token and ranks: the n_merge best first in `order`, then the
 * others in output order. */
void vtci_tome_match(vtci_tome *t, size_t n_merge);

/* Merges the n_merge first of `order` into their partners and renumbers the tokens. */
void vtci_tome_merge(vtci_tome *t, size_t n_merge);

/* plan->score, right after the first match. NULL is fine. */
void vtci_tome_write_score(const vtci_tome *t, float *score);

/* Room for n_out tokens made of all rows, inputs apart from the plan, masses in order. */
VTC_NODISCARD vtc_status vtci_tome_check_plan(const vtci_tome *t, const vtc_plan *plan,
                                              size_t n_out, const vtc_tensor *metric,
                                              const float *mass);

/* The plan when nothing merges, and the plan of the tokens that are left. */
VTC_NODISCARD vtc_status vtci_tome_write_identity(const vtci_tome *t, const float *mass,
                                                  vtc_plan *plan);
VTC_NODISCARD vtc_status vtci_tome_write_plan(const vtci_tome *t, const float *mass,
                                              vtc_plan *plan);

#endif
