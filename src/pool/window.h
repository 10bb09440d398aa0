/*
 * window.h: output tokens of a grid, each a weighted sum or a maximum of a few input tokens.
 *
 * Average, max, adaptive and bilinear pooling differ only in the cells that an output position
 * reads along each axis and in their weights, and these are cheap to compute on the way: no tables.
 */
#ifndef VTCI_WINDOW_H
#define VTCI_WINDOW_H

#include "../base/tensor.h"

/* ---- one axis -------------------------------------------------------------------------------- */

typedef enum vtci_sampling {
    VTCI_SAMPLE_WINDOWS, /* kernel, stride; what does not fill a last window is dropped */
    VTCI_SAMPLE_ADAPTIVE,
    VTCI_SAMPLE_BILINEAR
} vtci_sampling;

typedef struct vtci_axis {
    vtci_sampling sampling;
    size_t n_in, n_out;    /* cells, both >= 1 */
    size_t kernel, stride; /* of VTCI_SAMPLE_WINDOWS */
} vtci_axis;

/* The cells an output position is made of: `count` >= 1 of them from `first` on. The weights sum to
 * 1, so a single cell is a copy. */
typedef struct vtci_taps {
    size_t first, count;
    double head, tail; /* weight of the first cell and of each further one */
} vtci_taps;

/* Every input cell unchanged. */
vtci_axis vtci_axis_identity(size_t n);

/* VTC_ERR_OVERFLOW when the positions of this axis leave size_t. */
VTC_NODISCARD vtc_status vtci_check_axis(const vtci_call *call, const vtci_axis *axis);

vtci_taps vtci_axis_taps(const vtci_axis *axis, size_t i);

/* ---- the grid -------------------------------------------------------------------------------- */

/* Cells (row, column) on a canvas of equal tiles, each tile one batch entry of x [B, N, C]. The
 * canvas is never built: a cell is found where it is. */
typedef struct vtci_grid {
    vtci_rows x;
    size_t first_tile;     /* batch entry of the tile in the upper left corner */
    size_t tile_h, tile_w; /* tokens of a tile                                 */
    size_t tiles_w;        /* tiles side by side                               */
    size_t row0, col0;     /* where on the canvas cell (0, 0) is               */
} vtci_grid;

/* The grid of a single tile, batch entry `b` of x. */
vtci_grid vtci_grid_of(const vtci_rows *x, size_t b, size_t h, size_t w);

typedef struct vtci_pooling {
    vtci_axis down, across;
    bool max; /* maximum of the cells; else their weighted sum */
} vtci_pooling;

/* Floats of worker scratch to pool or copy tokens of n channels: none where they become F32. */
size_t vtci_pool_floats(vtc_dtype to, size_t n);

/* Token `first` of batch entry b of y is a copy; equal dtypes keep every bit. */
void vtci_copy_token(const void *from, vtc_dtype dtype, const vtci_rows *y, size_t b, size_t first,
                     float *scratch);

/* Row i of the pooled grid: tokens `first` .. first + across.n_out - 1 of batch entry b of y. */
void vtci_pool_row(const vtci_grid *grid, const vtci_pooling *pooling, size_t i, const vtci_rows *y,
                   size_t b, size_t first, float *scratch);

/* ---- what the functions of this family share ------------------------------------------------- */

/* x [B, in_h * in_w, *] and y [B, out_h * out_w, *], both of rank 2 or both of rank 3. */
VTC_NODISCARD vtc_status vtci_check_grids(const vtci_call *call, const vtc_tensor *x, size_t in_h,
                                          size_t in_w, const vtc_tensor *y, size_t out_h,
                                          size_t out_w);

/* newline [C], C being the channels of y, and apart from y. */
VTC_NODISCARD vtc_status vtci_check_newline(const vtci_call *call, const vtc_tensor *newline,
                                            const vtc_tensor *y);

/* Worker scratch of any family member. */
typedef struct vtci_slices {
    char *data;
    size_t stride; /* bytes; 0: none is needed */
} vtci_slices;

vtci_slices vtci_take_floats(vtci_arena *arena, const vtci_call *call, size_t n_floats);

/* A worker's slice; NULL when none is needed. */
float *vtci_slice_of(const vtci_slices *slices, size_t worker);

#endif
