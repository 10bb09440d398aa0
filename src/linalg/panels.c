/*
 * Products by tiles.
 *
 * Of a piece of K, a panel of B stays in the nearest cache while the packed rows of A pass it. Few
 * rows stay there beside it, so they take one panel through the whole of K and B is read in the
 * order of its memory; many rows do not, so they take all panels of a task through a piece, and
 * BLOCK_ROWS of them at a time stay in the second-level cache.
 */
#include "panels.h"

#include "rows.h"
#include "transpose.h"

enum { FEW_ROWS = 64, BLOCK_ROWS = 192, MAX_PANELS = VTCI_PANELS_MOST / 12 };

static size_t panel_cols(void)
{
    return vtci_kernels_get()->gemm_cols;
}

/* Equal pieces: a function of K alone. */
static size_t piece_depth(size_t k)
{
    const size_t n_pieces = vtci_max(1, vtci_ceil_div(k, vtci_kernels_get()->gemm_depth));
    const size_t depth = vtci_ceil_div(k, n_pieces);

    return vtci_ceil_div(depth, 8) * 8;
}

static size_t padded_rows(size_t m)
{
    const size_t rows = vtci_kernels_get()->gemm_rows;

    return vtci_mul(vtci_ceil_div(m, rows), rows);
}

/* ---- rows of A ---------------------------------------------------------------------------------
 */

size_t vtci_panels_rows_floats(size_t m, size_t k)
{
    return vtci_mul(padded_rows(m), k);
}

size_t vtci_panels_pack_floats(const vtci_rows *a)
{
    return a->dtype == VTC_F32 ? 0 : vtci_kernels_get()->gemm_rows * piece_depth(a->n_cols);
}

/* Columns begin .. begin + k - 1 of n rows as floats: in place, or widened into tmp [n, k]. */
static const float *load_piece(const vtci_rows *rows, size_t batch, size_t row, size_t n,
                               size_t begin, size_t k, float *tmp, size_t *stride)
{
    const size_t offset = begin * vtc_dtype_size(rows->dtype);

    *stride = rows->row_stride / sizeof(float);
    if (rows->dtype == VTC_F32)
        return (const float *)(const void *)(vtci_row(rows, batch, row) + offset);
    *stride = k;
    for (size_t i = 0; i < n; i++)
        vtci_load_row(vtci_row(rows, batch, row + i) + offset, rows->dtype, k, tmp + i * k);
    return tmp;
}

/* Of each piece of K [tile][k][gemm_rows]: a tile of rows is turned. Lanes of rows that do not
 * exist are never read. */
void vtci_panels_pack_rows(float *to, const vtci_rows *a, size_t batch, size_t row, size_t m,
                           size_t first, float *tmp)
{
    const size_t rows = vtci_kernels_get()->gemm_rows, padded = padded_rows(m);
    const size_t depth = piece_depth(a->n_cols), end = vtci_min(m, first + VTCI_PANELS_ROWS);

    for (size_t begin = 0; begin < a->n_cols; begin += depth) {
        const size_t k = vtci_min(depth, a->n_cols - begin);

        for (size_t i = first; i < end; i += rows) {
            const size_t n = vtci_min(rows, end - i);
            size_t stride;
            const float *from = load_piece(a, batch, row + i, n, begin, k, tmp, &stride);

            vtci_transpose(to + begin * padded + i * k, rows, from, stride, n, k);
        }
    }
}

/* ---- panels of B -------------------------------------------------------------------------------
 */

size_t vtci_panels_floats(const vtci_panels *b, size_t n)
{
    const size_t cols = panel_cols(), depth = piece_depth(b->k);
    const size_t n_panels = vtci_min(MAX_PANELS, vtci_ceil_div(n, cols));
    const bool wide = (b->packed != NULL ? b->packed->dtype : b->raw.dtype) == VTC_F32;

    if (b->packed != NULL && wide)
        return 0;
    /* raw rows are widened before they are turned */
    return (n_panels + (b->packed == NULL && b->trans_b && !wide)) * cols * depth;
}

/* A piece of a panel of raw B, columns col .. col + n - 1, filled up with zeros. */
static void pack_piece(const vtci_panels *b, size_t batch, size_t col, size_t n, size_t begin,
                       size_t k, float *to, float *tmp)
{
    const size_t cols = panel_cols();

    for (size_t p = 0; n < cols && p < k; p++)
        for (size_t j = n; j < cols; j++)
            to[p * cols + j] = 0.0f;
    if (b->trans_b) {
        size_t stride;
        const float *from = load_piece(&b->raw, batch, col, n, begin, k, tmp, &stride);

        vtci_transpose(to, cols, from, stride, n, k);
        return;
    }
    for (size_t p = 0; p < k; p++)
        vtci_copy_row(to + p * cols, VTC_F32,
                      vtci_row(&b->raw, batch, begin + p) + col * vtc_dtype_size(b->raw.dtype),
                      b->raw.dtype, n, NULL);
}

/* The panels of a group, and memory for those that are not floats in place. */
struct group {
    const vtci_panels *b;
    size_t batch, col, n; /* columns                             */
    size_t begin, k;      /* piece of K                          */
    float *tmp;
    const float *panel[MAX_PANELS];
};

static void load_group(struct group *g)
{
    const size_t cols = panel_cols(), depth = piece_depth(g->b->k);

    for (size_t j = 0; j < g->n; j += cols) {
        float *to = g->tmp == NULL ? NULL : g->tmp + j * depth;

        if (g->b->packed != NULL) {
            g->panel[j / cols] = vtci_packed_piece(g->b->packed, g->col + j, g->begin, g->k, to);
            continue;
        }
        pack_piece(g->b, g->batch, g->col + j, vtci_min(cols, g->n - j), g->begin, g->k, to,
                   g->tmp + vtci_ceil_div(g->n, cols) * cols * depth);
        g->panel[j / cols] = to;
    }
}

/* ---- products ----------------------------------------------------------------------------------
 */

/* Memory that will be read next; asked for a little with every tile. */
struct ahead {
    const char *at;
    size_t n_lines, per_tile;
};

/* A tile's share. A tile fetches no more than a line with each step of k, which leaves a part over
 * when there are fewer rows than a tile or two: that is asked for at once. */
static vtci_ahead share_of_tile(struct ahead *ahead, size_t k)
{
    const size_t n = vtci_min(ahead->per_tile, ahead->n_lines), in_tile = vtci_min(n, k);
    const vtci_ahead share = { ahead->at, in_tile };

    if (n == 0) /* there may be nothing, and no address */
        return share;
    for (size_t i = in_tile; i < n; i++)
        __builtin_prefetch(ahead->at + i * VTCI_LINE, 0, 2);
    ahead->at += n * VTCI_LINE;
    ahead->n_lines -= n;
    return share;
}

static void multiply_panel(float *c, size_t ldc, const float *a, size_t row_stride, size_t step,
                           size_t tile_stride, const float *b, size_t ldb, size_t k, size_t m,
                           size_t n, bool accumulate, struct ahead ahead)
{
    const vtci_kernels *kernels = vtci_kernels_get();
    const size_t rows = kernels->gemm_rows;

    ahead.per_tile = vtci_ceil_div(ahead.n_lines, vtci_ceil_div(m, rows));
    for (size_t i = 0; i < m; i += rows, a += tile_stride, c += rows * ldc)
        kernels->gemm_tile(c, ldc, a, row_stride, step, b, ldb, k, vtci_min(rows, m - i), n,
                           accumulate, share_of_tile(&ahead, k));
}

void vtci_panel_multiply(float *c, size_t ldc, const float *a, size_t row_stride, size_t step,
                         size_t tile_stride, const float *b, size_t ldb, size_t k, size_t m,
                         size_t n, bool accumulate)
{
    const struct ahead none = { 0 };

    multiply_panel(c, ldc, a, row_stride, step, tile_stride, b, ldb, k, m, n, accumulate, none);
}

/* What follows panel `index` of the group: the next one, the group's next piece, or the panel
 * behind the group, with which this task or the next one goes on. */
static struct ahead after_panel(const struct group *g, size_t index)
{
    const vtci_packed *packed = g->b->packed;
    const size_t cols = panel_cols(), next = (index + 1) * cols;
    struct ahead ahead = { 0 };

    if (packed == NULL)
        return ahead;
    if (next < g->n)
        ahead.at = vtci_packed_at(packed, g->col + next, g->begin);
    else if (g->begin + g->k < packed->k)
        ahead.at = vtci_packed_at(packed, g->col, g->begin + g->k);
    else if (g->col + next < packed->n)
        ahead.at = vtci_packed_at(packed, g->col + next, 0);
    else
        return ahead;
    ahead.n_lines = vtci_ceil_div(g->k * cols * vtc_dtype_size(packed->dtype), VTCI_LINE);
    return ahead;
}

/* All rows with one piece of a group of panels. */
static void multiply_group(struct group *g, const float *rows, size_t m, float *c, size_t ldc)
{
    const size_t cols = panel_cols(), tile = vtci_kernels_get()->gemm_rows;
    const struct ahead none = { 0 };

    load_group(g);
    for (size_t i = 0; i < m; i += BLOCK_ROWS)
        for (size_t j = 0; j < g->n; j += cols)
            multiply_panel(c + i * ldc + j, ldc, rows + i * g->k, 1, tile, tile * g->k,
                           g->panel[j / cols], cols, g->k, vtci_min(BLOCK_ROWS, m - i),
                           vtci_min(cols, g->n - j), g->begin != 0,
                           i == 0 ? after_panel(g, j / cols) : none);
}

void vtci_panels_multiply(const vtci_panels *b, size_t batch, size_t col, size_t n,
                          const float *rows, size_t total, size_t first, size_t m, float *c,
                          size_t ldc, float *tmp)
{
    const size_t depth = piece_depth(b->k), padded = padded_rows(total);
    const size_t width = m <= FEW_ROWS ? panel_cols() : VTCI_PANELS_MOST;

    for (size_t j = 0; j < n; j += width)
        for (size_t begin = 0; begin < b->k; begin += depth) {
            const size_t k = vtci_min(depth, b->k - begin);
            struct group g = { .b = b,
                               .batch = batch,
                               .col = col + j,
                               .n = vtci_min(width, n - j),
                               .begin = begin,
                               .k = k,
                               .tmp = tmp };

            multiply_group(&g, rows + begin * padded + first * k, m, c + j, ldc);
        }
}
