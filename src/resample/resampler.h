/* resampler.h: what the files of the resamplers share. */
#ifndef VTCI_RESAMPLER_H
#define VTCI_RESAMPLER_H

#include "../../include/vtc/resampler.h"
#include "../base/prepared.h"
#include "../linalg/steps.h"

/* A model whose weights were checked. */
typedef struct vtci_resampler {
    const vtci_call *call;
    vtc_resampler_params params;
    vtc_resampler_weights w;       /* views that the model does not use are absent            */
    vtc_linear q, k, v;            /* the rows of in_proj, or the three matrices of their own */
    size_t n_queries, d, n_vision; /* M, D, Dv                                                 */
    size_t n_heads, width;         /* H, d = D / H                                             */
    bool cheap;                    /* matrices act on queries and gathered rows, not on patches */
} vtci_resampler;

/* Checks everything that depends on the weights alone. */
VTC_NODISCARD vtc_status vtci_resampler_open(const vtci_call *call,
                                             const vtc_resampler_params *params,
                                             const vtc_resampler_weights *weights,
                                             vtci_resampler *m);

/* VTC_ERR_OVERLAP when `bytes` that are to be written meet a weight. */
VTC_NODISCARD vtc_status vtci_resampler_check_apart(const vtci_resampler *m, const char *name,
                                                    const void *memory, size_t bytes);

/* Parameters of all tensors that are used. */
double vtci_resampler_parameters(const vtci_resampler *m);

/* ---- the query side -------------------------------------------------------------------------- */

/* Floats of the query side: [M, D] projected queries or, in the cheaper order, [H, M, D] queries
 * that went through the keys' matrices of their heads. */
size_t vtci_resampler_query_floats(const vtci_resampler *m);

/* Buffers of computing it. */
typedef struct vtci_resampler_queries {
    float *normed, *projected; /* [M, D] */
} vtci_resampler_queries;

void vtci_resampler_lay_out_queries(vtci_arena *arena, const vtci_resampler *m,
                                    vtci_resampler_queries *b);
void vtci_resampler_compute_queries(const vtci_resampler *m, vtci_steps *steps,
                                    const vtci_resampler_queries *b, float *queries);

/* ---- prepared objects ------------------------------------------------------------------------ */

typedef struct vtci_resampler_object {
    bool given;
    float *queries; /* vtci_resampler_query_floats() */
    vtci_packed out_proj;
} vtci_resampler_object;

VTC_NODISCARD vtc_status vtci_resampler_open_object(const vtci_resampler *m,
                                                    const vtc_prepared *prepared,
                                                    vtci_resampler_object *object);

/* ---- positions ------------------------------------------------------------------------------- */

/* [sin(p w_0) .. sin(p w_{c/2 - 1}), cos(p w_0) ..] with w_i = 10000^(-2 i / c), in F32 as the
 * models tabulate them. c is even. */
void vtci_sincos_row(float *row, size_t c, int32_t p);

/* Adds the positions of an image's keys: y[i] = x[i] + P[i], rows of D floats, in parallel. */
typedef struct vtci_resampler_positions {
    const vtci_resampler *m;
    size_t n_rows, n_cols; /* the grid                                                        */
    int32_t frame;         /* -1: none                                                        */
    float *table;          /* scratch: [max(n_rows, n_cols), D / 2] and one row [D]           */
    const float *x;
    float *y;
    size_t side; /* set inside: of the stored square, where there is one */
} vtci_resampler_positions;

/* Floats of `table` for grids with no side longer than `side`. */
size_t vtci_resampler_table_floats(const vtci_resampler *m, size_t side);
void vtci_resampler_add_positions(const vtci_resampler_positions *p);

/* The side of a square of n; *exact tells whether n is one. */
size_t vtci_square_side(size_t n, bool *exact);

#endif
