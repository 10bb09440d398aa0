/*
 * focusllava.h: the map of FocusLLaVA's vision-guided sampler, cut into regions and cells, shared
 * by its adaptive routes (focusllava_vision.c) and the selection (focusllava_topk.c).
 */
#ifndef VTCI_FOCUSLLAVA_H
#define VTCI_FOCUSLLAVA_H

#include "../../include/vtc/sample.h"
#include "../base/tensor.h"

/* Rows r0 .. r1 - 1, columns c0 .. c1 - 1 of the grid. */
typedef struct vtci_box {
    size_t r0, c0, r1, c1;
} vtci_box;

typedef struct vtci_focus {
    const vtci_call *call;
    vtc_focusllava_vision_params params;
    size_t grid_h, grid_w;
    size_t n_down, n_across; /* regions */
    vtci_rows x;             /* [H, W, C] as batches, rows and columns */

    /* The largest of a cell is the largest of its parts: a scale whose cells are made of those of a
     * finer one is pooled from these. Scales are visited from fine to coarse. */
    size_t order[VTC_FOCUSLLAVA_MAX_SCALES]; /* scales by rising pool                            */
    size_t base[VTC_FOCUSLLAVA_MAX_SCALES];  /* of each scale the finer one; n_pools: positions  */
    size_t store[VTC_FOCUSLLAVA_MAX_SCALES]; /* first row of a base's tokens in a worker's slice */
    size_t n_stored;                         /* rows of tokens in a slice                        */

    float *mean;        /* [C] of the map */
    double mean_length; /* its length     */

    float *sums;   /* [.., C] of some rows of the grid    */
    double *total; /* [C] of all                          */
    char *slices;  /* per worker: see vtci_focus_slice    */
    size_t slice_stride;
} vtci_focus;

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Reads the parameters over the defaults and checks them. */
VTC_NODISCARD vtc_status vtci_focus_params(const vtci_call *call,
                                           vtc_focusllava_vision_params *params,
                                           const vtc_focusllava_vision_params *from);

/* A grid without data. VTC_ERR_OVERFLOW when rows or candidates exceed int32. */
VTC_NODISCARD vtc_status vtci_focus_grid(const vtci_call *call, size_t grid_h, size_t grid_w,
                                         vtci_focus *f);

/* Parameters, grid and the view x [H, W, C]. */
VTC_NODISCARD vtc_status vtci_focus_open(const vtci_call *call,
                                         const vtc_focusllava_vision_params *params,
                                         const vtc_tensor *x, vtci_focus *f);

vtc_focusllava_size vtci_focus_size(const vtci_focus *f);

static inline size_t vtci_focus_rows(const vtci_focus *f)
{
    return f->grid_h * f->grid_w;
}

/* ---- regions and cells ----------------------------------------------------------------------- */

vtci_box vtci_focus_region(const vtci_focus *f, size_t region);

/* The cells of one scale in a region, in raster order. */
typedef struct vtci_cells {
    vtci_box region;
    size_t pool, n_across, n;
} vtci_cells;

vtci_cells vtci_focus_cells(const vtci_focus *f, const vtci_box *region, size_t s);

vtci_box vtci_cell(const vtci_cells *cells, size_t index);

/* On to the next cell, without the division; behind the last one there is none. */
static inline void vtci_next_cell(const vtci_cells *cells, vtci_box *cell)
{
    const vtci_box *region = &cells->region;

    if (cell->c1 == region->c1) {
        cell->r0 = cell->r1;
        cell->r1 += vtci_min(cells->pool, region->r1 - cell->r1);
        cell->c1 = region->c0;
    }
    cell->c0 = cell->c1;
    cell->c1 += vtci_min(cells->pool, region->c1 - cell->c1);
}

/* The place of a scale's first token among those of its region. */
size_t vtci_focus_first_cell(const vtci_focus *f, const vtci_box *region, size_t scale);

/* Pooled tokens of all scales in front of a region. */
size_t vtci_focus_first_candidate(const vtci_focus *f, size_t region);

static inline size_t vtci_box_area(const vtci_box *box)
{
    return (box->r1 - box->r0) * (box->c1 - box->c0);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

void vtci_focus_lay_out(vtci_arena *arena, vtci_focus *f);

/* The mean of the map and its length. VTC_ERR_DATA for NaN and Inf. */
VTC_NODISCARD vtc_status vtci_focus_mean(vtci_focus *f);

/* The worker's own memory. */
typedef struct vtci_focus_slice {
    float *token;   /* [C] */
    float *rows;    /* [VTCI_MEASURED, C] */
    float *stored;  /* [n_stored, C] */
    double *length; /* of positions of a region, in raster order */
    double *cosine; /* of a region's tokens, scale by scale      */
    double *square; /* of their lengths                          */
} vtci_focus_slice;

vtci_focus_slice vtci_focus_slice_of(const vtci_focus *f, size_t worker);

/* A position as floats, in place or in tmp [C]. */
const float *vtci_focus_row(const vtci_focus *f, size_t r, size_t c, float *tmp);

/* The mean of a box, in place or in tmp [C]. */
const float *vtci_focus_average(const vtci_focus *f, const vtci_box *box, float *tmp);

/* Where the pooled token of cell `index` of scale s goes: it stays there if a coarser one is pooled
 * from it. */
float *vtci_focus_place(const vtci_focus *f, size_t s, size_t index, const vtci_focus_slice *slice);

/* Whether the tokens of a scale are pooled from those of a finer one. */
static inline bool vtci_focus_has_base(const vtci_focus *f, size_t s)
{
    return f->base[s] != f->params.n_pools;
}

/* The cells of its base that a cell is made of, as a box of the n_across that a region has. */
typedef struct vtci_parts {
    size_t base, n_across;
    vtci_box box;
} vtci_parts;

vtci_parts vtci_focus_parts(const vtci_focus *f, const vtci_cells *cells, size_t s,
                            const vtci_box *cell);

/* The pooled token of cell `index` of scale s, at its place or where it is. Those of its base must
 * have been asked for before, in this region and by this worker. */
const float *vtci_focus_token(const vtci_focus *f, const vtci_cells *cells, size_t s, size_t index,
                              const vtci_focus_slice *slice);

/* slice->cosine = the cosines of all tokens of a region with the mean of the map. */
void vtci_focus_cosines(const vtci_focus *f, const vtci_box *region, const vtci_focus_slice *slice);

/* a b; in double where the sum leaves the range of F32. */
double vtci_focus_dot(const float *a, const float *b, size_t n);

double vtci_focus_length(const float *x, size_t n);

/* measure_rows() of finite rows, in double where a sum leaves the range of F32. */
void vtci_focus_measure(const float *const *x, size_t n_rows, bool own, float *top, const float *y,
                        size_t n, double *dot, double *square);

/* a b / max(|a| |b|, 1e-12) */
double vtci_focus_cosine(const float *a, double a_length, const float *b, double b_length,
                         size_t n);

/* ---- plans ----------------------------------------------------------------------------------- */

/* Output j of the plan: the cell, its entries of this weight from `at` on. Returns where they end.
 * Masses are left to the caller. */
int32_t vtci_focus_write_cell(const vtci_focus *f, const vtci_box *cell, float weight,
                              vtc_plan *plan, size_t j, int32_t at);

/* The weight of a cell's entries without a gate. */
float vtci_focus_weight(const vtci_focus *f, const vtci_box *cell);

void vtci_focus_write_box(int32_t *boxes, size_t j, const vtci_box *cell);

vtc_reduce vtci_focus_reduce(const vtci_focus *f);

/* An array of a trace, which must be apart from x, from the mass and from the plan's arrays. */
typedef struct vtci_focus_array {
    const void *data;
    size_t bytes;
} vtci_focus_array;

VTC_NODISCARD vtc_status vtci_focus_check_outputs(const vtci_focus *f, const vtc_plan *plan,
                                                  size_t n_out, size_t n_nnz, const vtc_tensor *x,
                                                  const float *mass, const vtci_focus_array *traces,
                                                  size_t n_traces);

/* ---- for the planner table --------------------------------------------------------------------
 */

/* vtc_focusllava_vision(), or VTC_ERR_BUDGET when the route gives more than `most` tokens. plan
 * NULL: only checks the data. */
VTC_NODISCARD vtc_status vtci_focusllava_vision_within(const vtc_focusllava_vision_params *params,
                                                       const vtc_tensor *x,
                                                       const vtc_linear *router, const float *mass,
                                                       size_t most, vtc_plan *plan,
                                                       const vtc_focusllava_vision_trace *trace,
                                                       const vtc_exec *exec);

/* The error in the data for which vtc_focusllava_topk() would refuse them. */
VTC_NODISCARD vtc_status vtci_focusllava_topk_check(const vtc_focusllava_vision_params *params,
                                                    const vtc_tensor *x, size_t n_keep,
                                                    const vtc_exec *exec);

#endif
