/* Two products whose results are multiplied, then a third. */
#include "gated_mlp.h"

#include "../kernels/kernels.h"

#include <stdio.h>

enum { TASK_ROWS = 16 };

static vtci_rows dense(float *data, size_t n_rows, size_t n_cols)
{
    const vtci_rows rows = {
        (char *)data, VTC_F32, 1, n_rows, n_cols, 0, vtci_mul(n_cols, sizeof(*data))
    };

    return rows;
}

static void multiply(vtci_steps *steps, const vtc_linear *layer, const vtci_packed *packed,
                     vtci_activation act, const vtci_rows *a, const vtci_rows *c,
                     const vtci_rows *extra)
{
    vtci_gemm g = { .a = *a, .b = vtci_rows_of(&layer->weight), .c = *c, .trans_b = true };

    g.packed = packed;
    g.act = act;
    if (!vtc_tensor_is_absent(&layer->bias))
        g.bias = vtci_rows_of(&layer->bias);
    if (extra != NULL)
        g.residual = *extra;
    vtci_steps_gemm(steps, &g);
}

struct gating {
    float *x;
    const float *factor;
    size_t n_rows, n_cols;
};

static void gate_rows(void *job, size_t index, size_t worker)
{
    const struct gating *g = job;
    const size_t end = vtci_min(g->n_rows, (index + 1) * TASK_ROWS);

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < end; r++) {
        float *row = g->x + r * g->n_cols;

        vtci_kernels_get()->multiply(row, row, g->factor + r * g->n_cols, g->n_cols);
    }
}

void vtci_gated_mlp_run(vtci_steps *steps, const vtci_gated_mlp *mlp)
{
    const vtc_gated_mlp *w = mlp->weights;
    const vtci_packed *packed = mlp->packed;
    const size_t n = mlp->x.n_rows, inner = w->gate.weight.dim[0];
    const vtci_rows gate = dense(mlp->hidden[0], n, inner), up = dense(mlp->hidden[1], n, inner);
    struct gating g = { mlp->hidden[0], mlp->hidden[1], n, inner };

    multiply(steps, &w->gate, packed, mlp->act, &mlp->x, &gate, NULL);
    multiply(steps, &w->up, packed == NULL ? NULL : packed + 1, VTCI_ACT_NONE, &mlp->x, &up, NULL);
    if (!steps->measure)
        vtci_parallel(steps->call, vtci_ceil_div(n, TASK_ROWS), gate_rows, &g);
    multiply(steps, &w->down, packed == NULL ? NULL : packed + 2, VTCI_ACT_NONE, &gate, &mlp->y,
             mlp->extra.dtype == (vtc_dtype)0 ? NULL : &mlp->extra);
}

vtc_status vtci_check_gated_mlp(const vtci_owner *of, const char *name, const vtc_gated_mlp *mlp,
                                size_t n_in, size_t n_out)
{
    char gate[48], up[48], down[48];

    snprintf(gate, sizeof(gate), "%sgate_proj", name);
    snprintf(up, sizeof(up), "%sup_proj", name);
    snprintf(down, sizeof(down), "%sdown_proj", name);
    VTCI_TRY(vtci_check_linear(of, gate, &mlp->gate, n_in));
    VTCI_TRY(vtci_check_linear_to(of, up, &mlp->up, mlp->gate.weight.dim[0], n_in));
    return vtci_check_linear_to(of, down, &mlp->down, n_out, mlp->gate.weight.dim[0]);
}
