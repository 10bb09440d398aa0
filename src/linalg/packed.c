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
};

/* Rows first .. first + n - 1 of the weight become columns of a panel. */
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

static void pack_panel(void *job, size_t index, size_t worker)
{
    const struct packing *p = job;
    const size_t first = index * panel_cols(), n = vtci_min(panel_cols(), p->packed->n - first);
    const size_t bytes = panel_cols() * p->packed->k * vtc_dtype_size(p->packed->dtype);
    void *panel = (void *)(uintptr_t)vtci_packed_at(p->packed, first, 0);

    (void)worker;
    if (n < panel_cols())
        memset(panel, 0, bytes);
    if (p->packed->dtype == VTC_F32)
        turn_f32(p, first, n, panel);
    else
        turn_u16(p, first, n, panel);
}

void vtci_packed_fill(const vtci_call *call, const vtci_packed *packed, const vtc_tensor *weight)
{
    struct packing p = { packed, vtci_rows_of(weight) };

    vtci_parallel(call, vtci_ceil_div(packed->n, panel_cols()), pack_panel, &p);
}
