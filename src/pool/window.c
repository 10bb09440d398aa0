/* Taps along an axis, cells of a grid, and the pooled row made of them. */
#include "window.h"

#include "../linalg/rows.h"

/* ---- one axis -------------------------------------------------------------------------------- */

vtci_axis vtci_axis_identity(size_t n)
{
    const vtci_axis axis = { VTCI_SAMPLE_WINDOWS, n, n, 1, 1 };

    return axis;
}

vtc_status vtci_check_axis(const vtci_call *call, const vtci_axis *axis)
{
    if (axis->sampling == VTCI_SAMPLE_WINDOWS)
        return VTC_OK;
    VTCI_REQUIRE(call, vtci_mul(2, vtci_mul(axis->n_in, axis->n_out)) != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "resizing %zu cells to %zu overflows", axis->n_in, axis->n_out);
    return VTC_OK;
}

static vtci_taps even_taps(size_t first, size_t count)
{
    const double weight = 1.0 / (double)count;
    const vtci_taps taps = { first, count, weight, weight };

    return taps;
}

/*
 * The half-pixel centre (i + 1/2) n_in / n_out - 1/2, held as a fraction of 2 n_out: integers find
 * the cell without rounding, so a position that falls on a cell takes that cell alone and what is
 * beside it, Inf or NaN, is not read.
 */
static vtci_taps bilinear_taps(size_t n_in, size_t n_out, size_t i)
{
    const size_t unit = 2 * n_out;
    const size_t centre = (2 * i + 1) * n_in;
    const size_t position = centre > n_out ? centre - n_out : 0;
    const double f = (double)(position % unit) / (double)unit;
    const vtci_taps two = { position / unit, 2, 1.0 - f, f };

    return two.tail > 0.0 && two.first + 1 < n_in ? two : even_taps(two.first, 1);
}

vtci_taps vtci_axis_taps(const vtci_axis *axis, size_t i)
{
    if (axis->sampling == VTCI_SAMPLE_BILINEAR)
        return bilinear_taps(axis->n_in, axis->n_out, i);
    if (axis->sampling == VTCI_SAMPLE_ADAPTIVE) {
        const size_t first = i * axis->n_in / axis->n_out;

        return even_taps(first, vtci_ceil_div((i + 1) * axis->n_in, axis->n_out) - first);
    }
    return even_taps(i * axis->stride, axis->kernel);
}

/* ---- the grid -------------------------------------------------------------------------------- */

vtci_grid vtci_grid_of(const vtci_rows *x, size_t b, size_t h, size_t w)
{
    const vtci_grid grid = { *x, b, h, w, 1, 0, 0 };

    return grid;
}

static const char *cell(const vtci_grid *grid, size_t row, size_t col)
{
    const size_t r = row + grid->row0, c = col + grid->col0;
    const size_t tile = r / grid->tile_h * grid->tiles_w + c / grid->tile_w;

    return vtci_row(&grid->x, grid->first_tile + tile,
                    r % grid->tile_h * grid->tile_w + c % grid->tile_w);
}

size_t vtci_pool_floats(vtc_dtype to, size_t n)
{
    return to == VTC_F32 ? 0 : n;
}

void vtci_copy_token(const void *from, vtc_dtype dtype, const vtci_rows *y, size_t b, size_t first,
                     float *scratch)
{
    vtci_copy_row(vtci_row(y, b, first), y->dtype, from, dtype, y->n_cols, scratch);
}

static void pool_token(const vtci_grid *grid, const vtci_taps *down, const vtci_taps *across,
                       bool max, void *to, vtc_dtype to_dtype, float *scratch)
{
    const size_t n = grid->x.n_cols;
    float *y = vtci_row_buffer(to, to_dtype, scratch);
    vtci_combine sum;

    vtci_combine_begin(&sum, y, n, grid->x.dtype, max);
    for (size_t r = 0; r < down->count; r++)
        for (size_t c = 0; c < across->count; c++) {
            const double weight =
                (r == 0 ? down->head : down->tail) * (c == 0 ? across->head : across->tail);

            vtci_combine_add(&sum, cell(grid, down->first + r, across->first + c),
                             max ? 1.0f : (float)weight);
        }
    vtci_combine_end(&sum);
    vtci_store_row(to, to_dtype, n, y);
}

void vtci_pool_row(const vtci_grid *grid, const vtci_pooling *pooling, size_t i, const vtci_rows *y,
                   size_t b, size_t first, float *scratch)
{
    const vtci_taps down = vtci_axis_taps(&pooling->down, i);

    for (size_t j = 0; j < pooling->across.n_out; j++) {
        const vtci_taps across = vtci_axis_taps(&pooling->across, j);

        if (down.count == 1 && across.count == 1)
            vtci_copy_token(cell(grid, down.first, across.first), grid->x.dtype, y, b, first + j,
                            scratch);
        else
            pool_token(grid, &down, &across, pooling->max, vtci_row(y, b, first + j), y->dtype,
                       scratch);
    }
}

/* ---- what the functions of this family share ------------------------------------------------- */

static vtc_status check_rows(const vtci_call *call, const char *what, const vtci_rows *rows,
                             size_t h, size_t w)
{
    VTCI_REQUIRE(call, rows->n_rows == vtci_mul(h, w), VTC_ERR_SHAPE,
                 "grid %zux%zu needs %zu rows, %s has %zu", h, w, vtci_mul(h, w), what,
                 rows->n_rows);
    return VTC_OK;
}

vtc_status vtci_check_grids(const vtci_call *call, const vtc_tensor *x, size_t in_h, size_t in_w,
                            const vtc_tensor *y, size_t out_h, size_t out_w)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_REQUIRE(call, x->rank == y->rank, VTC_ERR_SHAPE, "x has rank %d, y has rank %d", x->rank,
                 y->rank);

    const vtci_rows from = vtci_rows_of(x), to = vtci_rows_of(y);

    VTCI_TRY(check_rows(call, "x", &from, in_h, in_w));
    VTCI_TRY(check_rows(call, "y", &to, out_h, out_w));
    VTCI_REQUIRE(call, from.n_batch == to.n_batch, VTC_ERR_SHAPE, "x has %zu images, y has %zu",
                 from.n_batch, to.n_batch);
    return vtci_check_apart(call, "y", y, "x", x);
}

vtc_status vtci_check_newline(const vtci_call *call, const vtc_tensor *newline, const vtc_tensor *y)
{
    const size_t n_channels = y->dim[y->rank - 1];

    VTCI_TRY(vtci_check_tensor(call, "newline", newline, VTCI_FLOATS, 1, 1, VTCI_IN));
    VTCI_REQUIRE(call, newline->dim[0] == n_channels, VTC_ERR_SHAPE,
                 "newline has %zu channels, y has %zu", newline->dim[0], n_channels);
    return vtci_check_apart(call, "y", y, "newline", newline);
}

vtci_slices vtci_take_floats(vtci_arena *arena, const vtci_call *call, size_t n_floats)
{
    vtci_slices slices = { NULL, 0 };

    slices.data = vtci_take_slices(arena, call, vtci_mul(n_floats, sizeof(float)), &slices.stride);
    return slices;
}

float *vtci_slice_of(const vtci_slices *slices, size_t worker)
{
    if (slices->stride == 0)
        return NULL;
    return (float *)(void *)(slices->data + worker * slices->stride);
}
