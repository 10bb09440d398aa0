/* window.h: windows of a grid, and how alike the tokens of each are. */
#ifndef VTCI_SCORE_WINDOW_H
#define VTCI_SCORE_WINDOW_H

#include "../../include/vtc/score.h"
#include "../base/tensor.h"

/* Whole windows of a grid, numbered row by row; so are the cells of one. */
typedef struct vtci_windows {
    size_t grid_h, grid_w, win_h, win_w;
    size_t n_across; /* windows in a row */
    size_t n;        /* of all           */
    size_t n_cells;  /* of each          */
} vtci_windows;

/* VTC_ERR_RANGE, SHAPE or OVERFLOW as vtc_window_count(). */
VTC_NODISCARD vtc_status vtci_windows_open(const vtci_call *call, size_t grid_h, size_t grid_w,
                                           size_t win_h, size_t win_w, bool ragged_edges,
                                           vtci_windows *w);

/* Cell i of a window, as a raster index. */
static inline size_t vtci_window_cell(const vtci_windows *w, size_t window, size_t i)
{
    const size_t row = window / w->n_across * w->win_h + i / w->win_w;
    const size_t column = window % w->n_across * w->win_w + i % w->win_w;

    return row * w->grid_w + column;
}

typedef struct vtci_window_similarity {
    vtci_rows x;      /* [B, first_row + grid, C] */
    size_t first_row; /* rows in front of the grid */
    vtci_windows windows;
    float *similarity; /* [B, W] out */

    /* set by vtci_window_similarity_lay_out() */
    char *slices;
    size_t slice_stride;
} vtci_window_similarity;

void vtci_window_similarity_lay_out(vtci_arena *arena, const vtci_call *call,
                                    vtci_window_similarity *s);
void vtci_window_similarity_run(const vtci_call *call, vtci_window_similarity *s);

#endif
