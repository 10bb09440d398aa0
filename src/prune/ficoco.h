/*
 * ficoco.h: the steps that FiCoCo-V and -L share. A variant fills in what it asks for, writes
 * `score` (larger: more redundant) from the attention, ranks, and has the rest done:
 *
 *     vtci_ficoco_open_attention()   q and k, or S ficoco_attention.c vtci_ficoco_lay_out() scratch
 *     <the variant's filter>         score, then vtci_ficoco_rank() or its own order
 *     vtci_ficoco_correlate()        targets of each discarded row ficoco_correlate.c
 *     vtci_ficoco_measure()          what each output gets                        ficoco_compress.c
 *     vtci_ficoco_write()            plan and trace; cannot fail
 *
 * Numbers of rows: a candidate is 0 .. n - 1 (patches, visual rows); rows of Q, K and S begin at
 * q_first and k_first with candidate 0; rows of the plan at `head`, which is 1 with a [CLS] row.
 */
#ifndef VTCI_FICOCO_H
#define VTCI_FICOCO_H

#include "../../include/vtc/ficoco.h"
#include "../plan/plan.h"
#include "../score/logits.h"
#include "../score/probs.h"

/* Where elements of the attention come from. */
typedef enum vtci_ficoco_form {
    VTCI_FICOCO_LOGITS, /* head-mean logits, computed as they are needed */
    VTCI_FICOCO_PROBS,  /* head-mean probabilities, row by row           */
    VTCI_FICOCO_MATRIX  /* the caller's S                                */
} vtci_ficoco_form;

typedef struct vtci_ficoco {
    const vtci_call *call;
    bool official, linear, divide;
    float eps;
    size_t n, r, head; /* candidates, those to discard, rows of the plan before them */
    size_t n_out;
    size_t q_first, k_first;
    const float *mass;  /* [head + n] */
    const int32_t *pos; /* V: [n] cell of each patch, or NULL */

    /* attention */
    vtci_ficoco_form form;
    size_t n_keys; /* rows of K: columns of S */
    vtci_logits l;
    vtci_probs probs;
    vtci_rows s;

    /* L: the text between a discarded row and its targets; n_text 0: none */
    bool bridged;
    size_t text, n_text;
    float gamma, bridge; /* weights of the direct logit and of the sum over text */

    /* what a row is correlated with: rows of K, and the output that each stands for */
    size_t n_columns, n_best; /* n_best: places in a row's list of largest correlations */
    size_t n_targets;         /* of each row, at most n_best                            */
    bool skips_itself;        /* the column of the discarded row itself is -inf         */

    /* scratch */
    float *score;           /* [n]                                                      */
    float *a_cls;           /* [n] V: logits under [CLS], or what stands for them       */
    int32_t *order;         /* [n] candidates, discarded ones first                     */
    int32_t *columns;       /* [n_columns] rows of K, ascending                         */
    int32_t *slot;          /* [n_columns] output that a column's share goes to, or -1  */
    int32_t *place;         /* [head + n] output of a kept row, or -1 - rank            */
    float *best;            /* [r, n_best] largest correlations, then weights           */
    int32_t *best_column;   /* [r, n_best]                                              */
    int32_t *n_above;       /* [r] official: correlations above the quantile            */
    int32_t *bad;           /* [r] why a row cannot be used                             */
    float *size, *out_mass; /* [n_out] what an output is divided by, and its mass       */
    int32_t *at, *last;     /* [n_out] where its next entry goes, and whose was the last */
    float *x;               /* [panel, G d] queries of a panel                          */
    float *c;               /* [panel, n_columns] correlations of a panel               */
    float *text_logit;      /* [panel, n_text]                                          */
    float *text_rows;       /* [n_text, n] PROBS: A[text][visual]                       */
    float *row_term;        /* [max(H, G) d] a vector that all queries meet             */
    float *key_total;       /* [G d]                                                    */
    float *x_cls;           /* [G d] the query of [CLS]                                 */
    float *key_partial;     /* of vtci_key_sum()                                        */
    float *ones;            /* [n] or text                                              */
    char *slices;           /* per worker: rows of S widened, sums over text, an order  */
    size_t slice_stride;
} vtci_ficoco;

/* ---- the door -------------------------------------------------------------------------------- */

/* VTC_ERR_RANGE for a profile or an eps that is none. */
VTC_NODISCARD vtc_status vtci_ficoco_check_params(const vtci_call *call, size_t profile, float eps);

/* What a switch comes to; VTC_ERR_RANGE for a value that is none. */
VTC_NODISCARD vtc_status vtci_ficoco_switch(const vtci_call *call, const char *name, size_t value,
                                            bool by_profile, bool *on);

/* Sizes of the plan and the lists, from sizes alone. n_columns as above. */
size_t vtci_ficoco_n_best(float eps, size_t n_columns);
vtc_plan_count vtci_ficoco_count(bool official, float eps, size_t n, size_t r, size_t head,
                                 size_t n_columns);

/* S [n_keys, n_keys], where the caller has it. */
VTC_NODISCARD vtc_status vtci_ficoco_open_matrix(vtci_ficoco *f, const vtc_tensor *s);

/* An array that must lie apart from all that is written. */
typedef struct vtci_ficoco_array {
    const char *name;
    const void *data;
    size_t bytes;
} vtci_ficoco_array;

vtci_ficoco_array vtci_ficoco_view(const char *name, const vtc_tensor *t);

/* Room, masses, and outputs apart from each other and from inputs. `extra` are further outputs. */
VTC_NODISCARD vtc_status vtci_ficoco_check_outputs(const vtci_ficoco *f, const vtc_plan *plan,
                                                   const vtc_ficoco_trace *trace,
                                                   const vtci_ficoco_array *inputs, size_t n_inputs,
                                                   const vtci_ficoco_array *extra);

void vtci_ficoco_lay_out(vtci_arena *arena, vtci_ficoco *f);
void vtci_ficoco_lay_out_attention(vtci_arena *arena, vtci_ficoco *f);

/* ---- attention ------------------------------------------------------------------------------- */

/* y[i] = weight * sum of S[q_first + i][k_first .. k_first + n - 1] + text_weight * that over the
 * text, for all candidates; and cls[j] = S[0][k_first + j], unless cls is NULL. */
void vtci_ficoco_row_sums(vtci_ficoco *f, float weight, float text_weight, float *y, float *cls);

/* ---- the steps ------------------------------------------------------------------------------- */

/* VTC_ERR_DATA for a score that is NaN. */
VTC_NODISCARD vtc_status vtci_ficoco_check_scores(const vtci_ficoco *f);

/* order: the r largest scores, then the others ascending. place: kept rows in input order. */
void vtci_ficoco_rank(vtci_ficoco *f);

/* Columns: the kept candidates (places as ranked), each its own output. */
void vtci_ficoco_kept_columns(vtci_ficoco *f);

/* Discarded rows whose correlations are computed together, so that keys are read once for them. */
enum { VTCI_FICOCO_PANEL = 64 };

/* Once, then correlations of ranks begin .. begin + n - 1 of the discarded rows, into c. */
void vtci_ficoco_prepare_text(vtci_ficoco *f);
void vtci_ficoco_correlations(vtci_ficoco *f, size_t begin, size_t n);

/* Targets and weights of all discarded rows. VTC_ERR_DATA for NaN, and infinities that leave a row
 * without weights. */
VTC_NODISCARD vtc_status vtci_ficoco_correlate(vtci_ficoco *f);

/* Sizes and masses of outputs. VTC_ERR_DATA when shares of both signs leave one without a size. */
VTC_NODISCARD vtc_status vtci_ficoco_measure(vtci_ficoco *f);

/* `keep` and, where asked for, everything else. */
void vtci_ficoco_write(vtci_ficoco *f, vtc_plan *plan, vtc_ficoco_trace *trace);

#endif
