/*
 * join.h: tokens of a grid joined block by block into wide rows.
 *
 * Patch merging, pixel shuffle and the pooler's convolution all begin so; plain tokens are the case
 * of 1 x 1 blocks. No joined copy is stored: a row is read when it is needed.
 */
#ifndef VTCI_JOIN_H
#define VTCI_JOIN_H

#include "../base/tensor.h"

typedef struct vtci_join {
    char *data; /* of the first token of the grid */
    vtc_dtype dtype;
    size_t n_channels;                     /* of a token                                  */
    size_t n_batch;                        /* grids                                       */
    size_t batch_stride;                   /* bytes, as the next two                      */
    size_t down_stride, across_stride;     /* from a token to the one below, to the right */
    size_t grid_h, grid_w;                 /* tokens; cells beyond them are zeros         */
    size_t block_h, block_w, out_h, out_w; /* cells of a block, blocks of a grid          */
    bool columns_first;                    /* blocks in column order: pixel shuffle v1    */
    bool channels_first; /* all cells of channel 0, then of channel 1, ...: a convolution's weights
                          */
} vtci_join;

/* Tokens [B, N, C] as they are. */
vtci_join vtci_join_rows(const vtci_rows *x);

/* Blocks of r x r cells of tokens [B, h * w, C]; what does not fill a block is left out. */
vtci_join vtci_join_grid(const vtci_rows *x, size_t h, size_t w, size_t r);

/* Blocks of n tokens that stand one after another in [B, N, C]. */
vtci_join vtci_join_runs(const vtci_rows *x, size_t n);

size_t vtci_join_n_rows(const vtci_join *j);
size_t vtci_join_width(const vtci_join *j);

/* The cells of a block that are on the grid. */
typedef struct vtci_block {
    const char *first; /* token in the upper left corner */
    size_t n_down, n_across;
} vtci_block;

/* Row `row`, all grids counted through. */
vtci_block vtci_join_block(const vtci_join *j, size_t row);

/* Row `row` as floats. tmp [width] is used only for channels_first. */
void vtci_join_load(const vtci_join *j, size_t row, float *to, float *tmp);

/* True when the joined rows lie in memory as an F32 matrix; *rows is its view. */
bool vtci_join_in_place(const vtci_join *j, vtci_rows *rows);

#endif
