/* Norms of many rows, a few rows to a task. */
#include "norm.h"

#include "../kernels/kernels.h"
#include "rows.h"

enum { TASK_ROWS = 16 };

/* An RMS norm has no bias, whatever its view holds. */
static bool has_bias(const vtci_norm *norm)
{
    return norm->kind == VTC_NORM_LAYER && !vtc_tensor_is_absent(&norm->norm->bias);
}

static bool is_narrow(const vtci_norm *norm)
{
    return norm->norm->weight.dtype != VTC_F32 ||
           (has_bias(norm) && norm->norm->bias.dtype != VTC_F32);
}

void vtci_norm_lay_out(vtci_arena *arena, const vtci_call *call, vtci_norm *norm)
{
    const size_t c = norm->x.n_cols;

    norm->wide = NULL;
    norm->slices = NULL;
    if (norm->norm != NULL && is_narrow(norm))
        norm->wide = vtci_take(arena, vtci_mul(2, c), sizeof(float));
    if (norm->x.dtype != VTC_F32 || norm->y.dtype != VTC_F32)
        norm->slices = vtci_take_slices(arena, call, vtci_mul(vtci_mul(2, c), sizeof(float)),
                                        &norm->slice_stride);
}

static void norm_rows(void *job, size_t index, size_t worker)
{
    const vtci_norm *norm = job;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t c = norm->x.n_cols, n = norm->x.n_rows, all = norm->x.n_batch * n;
    float *tmp =
        norm->slices == NULL ? NULL : (float *)(void *)(norm->slices + worker * norm->slice_stride);

    for (size_t r = index * TASK_ROWS; r < vtci_min(all, (index + 1) * TASK_ROWS); r++) {
        char *to = vtci_row(&norm->y, r / n, r % n);
        const float *x = vtci_load_row(vtci_row(&norm->x, r / n, r % n), norm->x.dtype, c, tmp);
        float *y = vtci_row_buffer(to, norm->y.dtype, tmp == NULL ? NULL : tmp + c);

        if (norm->kind == VTC_NORM_LAYER)
            k->layer_norm(y, x, norm->weight, norm->bias, norm->eps, c);
        else
            k->rms_norm(y, x, norm->weight, 0.0f, norm->eps, c);
        vtci_store_row(to, norm->y.dtype, c, y);
    }
}

static const float *widen(const vtc_tensor *t, float *tmp)
{
    return vtci_load_row(t->data, t->dtype, t->dim[0], tmp);
}

void vtci_norm_run(const vtci_call *call, vtci_norm *norm)
{
    norm->weight = norm->bias = NULL;
    if (norm->norm != NULL)
        norm->weight = widen(&norm->norm->weight, norm->wide);
    if (norm->norm != NULL && has_bias(norm))
        norm->bias =
            widen(&norm->norm->bias, norm->wide == NULL ? NULL : norm->wide + norm->x.n_cols);
    vtci_parallel(call, vtci_ceil_div(vtci_mul(norm->x.n_batch, norm->x.n_rows), TASK_ROWS),
                  norm_rows, norm);
}
