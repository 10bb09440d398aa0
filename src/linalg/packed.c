/* Weights packed once. */
#include "packed.h"

#include "rows.h"
#include "transpose.h"

#include <string.h>

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

const char *vtci_packed_at(const vtci_packed *packed, size_t col, size_t begin)
{
    const size_t rows = col / panel_cols() * packed->k + begin;

    return packed->panels + rows * panel_cols() * vtc_dtype_size(packed->dtype);
}

const float *vtci_packed_piece(const vtci_packed *packed, size_t col, size_t begin, size_t k,
                               float *tmp)
{
    return vtci_load_row(vtci_packed_at(packed, col, begin), packed->dtype, k * panel_cols(), tmp);
}

/* ---- packing -----------------------------------------------------------------------------------
 */

struct packing {
    const vtci_packed *packed;
    vtci_rows weight;
    size_t first; /* output that is the weight's row 0 */
};

/* Rows first .. first + n - 1 of the weight become columns of a panel, from `panel` on. */
static void turn_f32(const struct packing *p, size_t first, size_t n, float *panel)
{
    const void *from = vtci_row(&p->weight, 0, first);

    vtci_transpose(panel, panel_cols(), from, p->weight.row_stride / sizeof(float), n,
                   p->packed->k);
}

static void turn_u16(const struct packing *p, size_t first, size_t n, uint16_t *panel)
{
    const size_t cols = panel_cols();

    for (size_t j = 0; j < n; j++) {
        const uint16_t *row = (const void *)vtci_row(&p->weight, 0, first + j);

        for (size_t i = 0; i < p->packed->k; i++)
            panel[i * cols + j] = row[i];
    }
}

/* 16-bit rows among panels of floats. */
static void turn_wider(const struct packing *p, size_t first, size_t n, float *panel)
{
    enum { RUN = 64 };
    const size_t cols = panel_cols(), size = vtc_dtype_size(p->weight.dtype);
    float tmp[RUN];

    for (size_t j = 0; j < n; j++)
        for (size_t begin = 0; begin < p->packed->k; begin += RUN) {
            const size_t count = vtci_min(RUN, p->packed->k - begin);
            const char *row = vtci_row(&p->weight, 0, first + j) + begin * size;
            const float *x = vtci_load_row(row, p->weight.dtype, count, tmp);

            for (size_t i = 0; i < count; i++)
                panel[(begin + i) * cols + j] = x[i];
        }
}

/* The columns of a panel that no output has. */
static void clear_columns(const vtci_packed *packed, char *panel, size_t first)
{
    const size_t size = vtc_dtype_size(packed->dtype), cols = panel_cols();

    for (size_t i = 0; i < packed->k; i++)
        memset(panel + (i * cols + first) * size, 0, (cols - first) * size);
}

static void pack_panel(void *job, size_t index, size_t worker)
{
    const struct packing *p = job;
    const size_t cols = panel_cols(), col = (p->first / cols + index) * cols;
    const size_t begin = vtci_max(col, p->first);
    const size_t end = vtci_min(col + cols, p->first + p->weight.n_rows);
    char *panel = (char *)(uintptr_t)vtci_packed_at(p->packed, col, 0);
    void *to = panel + (begin - col) * vtc_dtype_size(p->packed->dtype);

    (void)worker;
    if (end == p->packed->n && end < col + cols)
        clear_columns(p->packed, panel, end - col);
    if (p->packed->dtype != VTC_F32)
        turn_u16(p, begin - p->first, end - begin, to);
    else if (p->weight.dtype != VTC_F32)
        turn_wider(p, begin - p->first, end - begin, to);
    else
        turn_f32(p, begin - p->first, end - begin, to);
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
