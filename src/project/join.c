/* Tokens of a grid joined into wide rows. */
#include "join.h"

#include "../linalg/rows.h"

#include <string.h>

vtci_join vtci_join_rows(const vtci_rows *x)
{
    return vtci_join_runs(x, 1);
}

vtci_join vtci_join_grid(const vtci_rows *x, size_t h, size_t w, size_t r)
{
    vtci_join j = { x->data,
                    x->dtype,
                    x->n_cols,
                    x->n_batch,
                    x->batch_stride,
                    0,
                    x->row_stride,
                    h,
                    w,
                    r,
                    r,
                    r == 0 ? 0 : h / r,
                    r == 0 ? 0 : w / r,
                    false,
                    false };

    j.down_stride = vtci_mul(w, x->row_stride);
    return j;
}

vtci_join vtci_join_runs(const vtci_rows *x, size_t n)
{
    vtci_join j = vtci_join_grid(x, x->n_rows / n, n, 1);

    j.block_w = n;
    j.out_w = 1;
    return j;
}

size_t vtci_join_n_rows(const vtci_join *j)
{
    return vtci_mul(j->n_batch, vtci_mul(j->out_h, j->out_w));
}

size_t vtci_join_width(const vtci_join *j)
{
    return vtci_mul(vtci_mul(j->block_h, j->block_w), j->n_channels);
}

vtci_block vtci_join_block(const vtci_join *j, size_t row)
{
    const size_t n = j->out_h * j->out_w, b = row / n, i = row % n;
    const size_t down = (j->columns_first ? i % j->out_h : i / j->out_w) * j->block_h;
    const size_t across = (j->columns_first ? i / j->out_h : i % j->out_w) * j->block_w;
    const vtci_block block = { j->data + b * j->batch_stride + down * j->down_stride +
                                   across * j->across_stride,
                               vtci_min(j->block_h, j->grid_h - down),
                               vtci_min(j->block_w, j->grid_w - across) };

    return block;
}

/* to[c * step] = channel c of a token */
static void load_token(const vtci_join *j, const char *token, float *to)
{
    const float *from = vtci_load_row(token, j->dtype, j->n_channels, to);

    if (from != to)
        memcpy(to, from, j->n_channels * sizeof(*to));
}

static void load_cells(const vtci_join *j, size_t row, float *to)
{
    const vtci_block block = vtci_join_block(j, row);

    for (size_t down = 0; down < j->block_h; down++)
        for (size_t across = 0; across < j->block_w; across++, to += j->n_channels)
            if (down < block.n_down && across < block.n_across)
                load_token(j, block.first + down * j->down_stride + across * j->across_stride, to);
            else
                memset(to, 0, j->n_channels * sizeof(*to));
}

static void interleave(const float *cells, size_t n_cells, size_t n_channels, float *to)
{
    for (size_t cell = 0; cell < n_cells; cell++)
        for (size_t c = 0; c < n_channels; c++)
            to[c * n_cells + cell] = cells[cell * n_channels + c];
}

void vtci_join_load(const vtci_join *j, size_t row, float *to, float *tmp)
{
    if (!j->channels_first) {
        load_cells(j, row, to);
        return;
    }
    load_cells(j, row, tmp);
    interleave(tmp, j->block_h * j->block_w, j->n_channels, to);
}

bool vtci_join_in_place(const vtci_join *j, vtci_rows *rows)
{
    const size_t token = j->n_channels * sizeof(float);
    const size_t stride = j->out_h == 1 ? j->batch_stride : j->down_stride;
    const bool one_run = j->block_w == 1 || j->across_stride == token;
    const bool one_stride =
        j->n_batch == 1 || j->out_h == 1 || j->batch_stride == j->out_h * j->down_stride;

    if (j->dtype != VTC_F32 || j->block_h != 1 || j->out_w != 1 || !one_run || !one_stride)
        return false;
    rows->data = j->data;
    rows->dtype = VTC_F32;
    rows->n_batch = 1;
    rows->n_rows = vtci_join_n_rows(j);
    rows->n_cols = vtci_join_width(j);
    rows->batch_stride = 0;
    rows->row_stride = stride;
    return true;
}
