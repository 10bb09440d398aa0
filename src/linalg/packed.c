/*
 * Products with packed weights.
 *
 * K is taken in pieces: of each piece, the rows of A are packed for the tile kernel, then every
 * panel of the weights passes once through the first-level cache while all rows use it. A product's
 * bits depend on its values and K alone, not on how rows and outputs are shared out.
 */
#include "packed.h"

#include "rows.h"

#include <string.h>

enum { K_PIECE = 256 };

static size_t panel_cols(void)
{
    return vtci_kernels_get()->gemm_cols;
}

size_t vtci_packed_bytes(vtc_dtype dtype, size_t n, size_t k)
{
    const size_t cols = vtci_mul(vtci_ceil_div(n, panel_cols()), panel_cols());

    return vtci_mul(vtci_mul(cols, k), vtc_dtype_size(dtype));
}

vtci_packed vtci_packed_take(vtci_arena *arena, const vtc_tensor *weight)
{
    const vtci_packed packed = {
        vtci_take(arena, vtci_packed_bytes(weight->dtype, weight->dim[0], weight->dim[1]), 1),
        weight->dtype, weight->dim[0], weight->dim[1]
    };

    return packed;
}

/* ---- packing -----------------------------------------------------------------------------------
 */

struct packing {
    const vtci_packed *packed;
    vtci_rows weight;
    size_t first; /* output that is the weight's row 0 */
};

static char *panel_at(const vtci_packed *packed, size_t panel)
{
    const size_t bytes = vtc_dtype_size(packed->dtype) * panel_cols() * packed->k;

    return (char *)(uintptr_t)packed->panels + panel * bytes;
}

/* Column j of a panel: elements of one row of the weight, converted when the panels are F32. */
static void pack_column(const struct packing *p, char *panel, size_t j, const char *row)
{
    enum { RUN = 64 };
    const size_t cols = panel_cols(), from_size = vtc_dtype_size(p->weight.dtype);
    const size_t size = vtc_dtype_size(p->packed->dtype);
    float tmp[RUN];

    for (size_t begin = 0; begin < p->packed->k; begin += RUN) {
        const size_t n = vtci_min(RUN, p->packed->k - begin);
        const char *from = row + begin * from_size;

        if (p->weight.dtype != p->packed->dtype)
            from = (const char *)vtci_load_row(from, p->weight.dtype, n, tmp);
        for (size_t i = 0; i < n; i++)
            memcpy(panel + ((begin + i) * cols + j) * size, from + i * size, size);
    }
}

static void pack_panel(void *job, size_t index, size_t worker)
{
    const struct packing *p = job;
    const size_t cols = panel_cols(), size = vtc_dtype_size(p->packed->dtype);
    const size_t panel_index = p->first / cols + index;
    char *panel = panel_at(p->packed, panel_index);

    (void)worker;
    for (size_t j = 0; j < cols; j++) {
        const size_t n = panel_index * cols + j;

        if (n >= p->first && n < p->first + p->weight.n_rows)
            pack_column(p, panel, j, vtci_row(&p->weight, 0, n - p->first));
        for (size_t i = 0; n >= p->packed->n && i < p->packed->k; i++)
            memset(panel + (i * cols + j) * size, 0, size);
    }
}

void vtci_packed_fill_part(const vtci_call *call, const vtci_packed *packed, size_t first,
                           const vtc_tensor *weight)
{
    struct packing p = { packed, vtci_rows_of(weight), first };
    const size_t end = first + weight->dim[0];

    if (weight->dim[0] != 0)
        vtci_parallel(call, vtci_ceil_div(end, panel_cols()) - first / panel_cols(), pack_panel,
                      &p);
}

void vtci_packed_fill(const vtci_call *call, const vtci_packed *packed, const vtc_tensor *weight)
{
    vtci_packed_fill_part(call, packed, 0, weight);
}

/* ---- products ----------------------------------------------------------------------------------
 */

static size_t padded_rows(size_t m)
{
    const size_t rows = vtci_kernels_get()->gemm_rows;

    return vtci_mul(vtci_ceil_div(m, rows), rows);
}

size_t vtci_packed_floats(const vtci_packed *packed, size_t m)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t piece = vtci_min(K_PIECE, packed->k);
    const size_t tile = k->gemm_rows * k->gemm_cols;
    const size_t panel = packed->dtype == VTC_F32 ? 0 : piece * k->gemm_cols;

    return vtci_add(vtci_mul(piece, padded_rows(m)), tile + panel);
}

/* Columns begin .. begin + k - 1 of A, gemm_rows rows to a block; rows that do not exist are 0. */
static void pack_rows(float *to, const float *a, size_t lda, size_t m, size_t begin, size_t k)
{
    const size_t rows = vtci_kernels_get()->gemm_rows;

    for (size_t first = 0; first < m; first += rows, to += rows * k)
        for (size_t i = 0; i < rows; i++)
            for (size_t p = 0; p < k; p++)
                to[p * rows + i] = first + i < m ? a[(first + i) * lda + begin + p] : 0.0f;
}

/* A tile at the edge of C goes through `tmp`. */
static void edge_tile(float *c, size_t ldc, size_t m, size_t n, const float *a, const float *b,
                      size_t k, bool accumulate, float *tmp)
{
    const vtci_kernels *kernels = vtci_kernels_get();
    const size_t ld = kernels->gemm_cols;

    for (size_t i = 0; accumulate && i < m; i++)
        memcpy(tmp + i * ld, c + i * ldc, n * sizeof(*c));
    kernels->gemm_tile(tmp, ld, a, b, k, accumulate);
    for (size_t i = 0; i < m; i++)
        memcpy(c + i * ldc, tmp + i * ld, n * sizeof(*c));
}

/* One panel's piece of K with all rows. */
static void multiply_panel(float *c, size_t ldc, size_t m, size_t n, const float *a, const float *b,
                           size_t k, bool accumulate, float *tmp)
{
    const vtci_kernels *kernels = vtci_kernels_get();
    const size_t rows = kernels->gemm_rows, cols = kernels->gemm_cols;

    for (size_t i = 0; i < m; i += rows, a += rows * k, c += rows * ldc)
        if (m - i >= rows && n == cols)
            kernels->gemm_tile(c, ldc, a, b, k, accumulate);
        else
            edge_tile(c, ldc, vtci_min(rows, m - i), n, a, b, k, accumulate, tmp);
}

void vtci_packed_multiply(const vtci_packed *packed, size_t first, size_t n, size_t m,
                          const float *a, size_t lda, float *c, size_t ldc, float *tmp)
{
    const vtci_kernels *kernels = vtci_kernels_get();
    const size_t cols = kernels->gemm_cols, size = vtc_dtype_size(packed->dtype);
    float *tile = tmp, *wide = tile + kernels->gemm_rows * cols;
    float *rows = packed->dtype == VTC_F32 ? wide : wide + vtci_min(K_PIECE, packed->k) * cols;

    for (size_t begin = 0; begin < packed->k; begin += K_PIECE) {
        const size_t k = vtci_min(K_PIECE, packed->k - begin);

        pack_rows(rows, a, lda, m, begin, k);
        for (size_t j = 0; j < n; j += cols) {
            const char *piece = panel_at(packed, (first + j) / cols) + begin * cols * size;
            const float *b = vtci_load_row(piece, packed->dtype, k * cols, wide);

            multiply_panel(c + j, ldc, m, vtci_min(cols, n - j), rows, b, k, begin != 0, tile);
        }
    }
}
