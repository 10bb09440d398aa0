/* Two products whose results are multiplied, then a third. */
#include "gated_mlp.h"

#include "../kernels/kernels.h"

#include <stdio.h>

enum { TASK_ROWS = 16 };

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
    const vtci_packed *packed[3] = { NULL, NULL, NULL };
    const size_t n = mlp->x.n_rows, inner = w->gate.weight.dim[0];
    const vtci_rows hidden = vtci_float_rows(mlp->hidden[0], n, inner);
    const vtci_rows factor = vtci_float_rows(mlp->hidden[1], n, inner);
    struct gating g = { mlp->hidden[0], mlp->hidden[1], n, inner };
    vtci_gemm gate, down;

    for (int i = 0; i < 3 && mlp->packed != NULL; i++)
        packed[i] = &mlp->packed[i];
    gate = vtci_layer_product(mlp->x, &w->gate, packed[0], hidden);
    gate.act = mlp->act;
    vtci_steps_gemm(steps, &gate);
    vtci_steps_layer(steps, mlp->x, &w->up, packed[1], factor);
    vtci_steps_tasks(steps, vtci_ceil_div(n, TASK_ROWS), gate_rows, &g);
    down = vtci_layer_product(hidden, &w->down, packed[2], mlp->y);
    down.residual = mlp->extra;
    vtci_steps_gemm(steps, &down);
}

vtc_status vtci_check_gated_mlp(const vtci_owner *of, const char *name, const vtc_gated_mlp *mlp,
                                size_t n_in, size_t n_out)
{
    char gate[48], up[48], down[48];
    size_t n_inner;

    snprintf(gate, sizeof(gate), "%sgate_proj", name);
    snprintf(up, sizeof(up), "%sup_proj", name);
    snprintf(down, sizeof(down), "%sdown_proj", name);
    VTCI_TRY(vtci_check_rows(of, gate, &mlp->gate.weight, n_in, &n_inner));
    VTCI_TRY(vtci_check_linear_to(of, gate, &mlp->gate, n_inner, n_in));
    VTCI_TRY(vtci_check_linear_to(of, up, &mlp->up, n_inner, n_in));
    return vtci_check_linear_to(of, down, &mlp->down, n_out, n_inner);
}
