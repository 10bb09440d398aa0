/*
 * VLoRA's factors in a linear layer.
 *
 *   linear   y = x W^T + bias + (x A) B^T
 *   add      y = y + (x A) B^T
 *   merge    y = W + B A^T
 *
 * x A is formed for all rows, its expansion for a block of them, which is then the residual of the
 * layer's own product. Rows of all sequences share W's reading where they have a common distance.
 *
 * Source: VLoRA, section 3.3, and the authors' code.
 */
#include "../../include/vtc/vlora.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "low_rank.h"

#include <string.h>

enum { BLOCK_ROWS = 512, TASK_ROWS = 16 };

struct job {
    const vtc_linear *linear; /* NULL: y has it already */
    vtci_low_rank low;
    vtci_rows x, y; /* [S, N, C], [S, N, D] */

    size_t block_rows;
    float *t;     /* [S, N, r]           */
    float *delta; /* [block, D]          */
    char *slices; /* per worker a row of y */
    size_t slice_stride;
};

/* ---- checks and scratch ---------------------------------------------------------------------- */

static vtc_status check_rows(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *y,
                             const vtc_tensor *a, const vtc_tensor *b)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_REQUIRE_PTR(call, a);
    VTCI_REQUIRE_PTR(call, b);

    const int tokens = x->rank - 2;

    VTCI_REQUIRE(call,
                 x->rank == y->rank && x->dim[tokens] == y->dim[tokens] && x->dim[0] == y->dim[0],
                 VTC_ERR_SHAPE, "x has rank %d and %zu rows, y rank %d and %zu", x->rank,
                 x->dim[tokens], y->rank, y->rank == x->rank ? y->dim[tokens] : y->dim[0]);
    VTCI_REQUIRE(call, a->rank != 3 || (x->rank == 3 && a->dim[0] == x->dim[0]), VTC_ERR_SHAPE,
                 "a has %zu batch items, x has %zu", a->dim[0], x->rank == 3 ? x->dim[0] : 1);
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    VTCI_TRY(vtci_check_apart(call, "y", y, "a", a));
    return vtci_check_apart(call, "y", y, "b", b);
}

static vtc_status check_linear(const vtci_call *call, const vtc_linear *linear, const vtc_tensor *y,
                               size_t n_out, size_t n_in)
{
    const vtci_owner of = { call, y, 0, "" };

    VTCI_REQUIRE_PTR(call, linear);
    VTCI_TRY(vtci_check_matrix(&of, "linear", ".weight", &linear->weight, n_out, n_in));
    return vtci_check_bias(&of, "linear", &linear->bias, n_out);
}

static vtc_status open_job(const vtci_call *call, const vtc_tensor *a, const vtc_tensor *b,
                           const vtc_tensor *x, const vtc_tensor *y, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(check_rows(call, x, y, a, b));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_TRY(vtci_low_rank_open(call, "", a, b, job->x.n_cols, job->y.n_cols, &job->low));
    return vtci_check_gemm(call, vtci_mul(job->x.n_batch, job->x.n_rows), job->y.n_cols,
                           job->x.n_cols);
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    const size_t n_rows = vtci_mul(job->x.n_batch, job->x.n_rows);
    const bool wide = job->linear == NULL && job->y.dtype != VTC_F32;

    job->block_rows = vtci_min(n_rows, BLOCK_ROWS);
    job->t = vtci_take(arena, vtci_mul(n_rows, job->low.a.n_cols), sizeof(float));
    job->delta = vtci_take(arena, vtci_mul(job->block_rows, job->y.n_cols), sizeof(float));
    job->slices = vtci_take_slices(arena, call, wide ? vtci_mul(job->y.n_cols, sizeof(float)) : 0,
                                   &job->slice_stride);
}

/* ---- the run --------------------------------------------------------------------------------- */

struct adding {
    const struct job *job;
    vtci_rows y;
};

static void add_rows(void *arg, size_t index, size_t worker)
{
    const struct adding *adding = arg;
    const struct job *job = adding->job;
    const vtci_rows *y = &adding->y;
    const size_t end = vtci_min(y->n_rows, (index + 1) * TASK_ROWS);
    float *tmp =
        job->slice_stride == 0 ? NULL : (float *)(void *)(job->slices + worker * job->slice_stride);

    for (size_t r = index * TASK_ROWS; r < end; r++) {
        char *to = vtci_row(y, 0, r);
        float *row = vtci_row_buffer(to, y->dtype, tmp);

        vtci_kernels_get()->add(row, vtci_load_row(to, y->dtype, y->n_cols, tmp),
                                job->delta + r * y->n_cols, y->n_cols);
        vtci_store_row(to, y->dtype, y->n_cols, row);
    }
}

static void run_block(const struct job *job, vtci_rows x, vtci_rows y, vtci_rows t,
                      vtci_steps *steps)
{
    const vtci_rows delta = vtci_float_rows(job->delta, y.n_rows, y.n_cols), none = { 0 };
    struct adding adding = { job, y };
    vtci_gemm g;

    vtci_low_rank_expand(steps, &job->low, t, none, delta);
    if (job->linear == NULL) {
        vtci_steps_tasks(steps, vtci_ceil_div(y.n_rows, TASK_ROWS), add_rows, &adding);
        return;
    }
    g = vtci_layer_product(x, job->linear, NULL, y);
    g.residual = delta;
    vtci_step_gemm(steps, g);
}

static void run_rows(const struct job *job, vtci_rows x, vtci_rows y, vtci_rows t,
                     vtci_steps *steps)
{
    for (size_t first = 0; first < x.n_rows; first += job->block_rows) {
        const size_t n = vtci_min(job->block_rows, x.n_rows - first);

        run_block(job, vtci_rows_part(x, first, n), vtci_rows_part(y, first, n),
                  vtci_rows_part(t, first, n), steps);
    }
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;
    const size_t n_batch = job->x.n_batch, n = job->x.n_rows;
    vtci_rows x, y, t;

    lay_out(&steps->arena, steps->call, job);
    if (n == 0 || n_batch == 0)
        return;
    t = vtci_float_rows(job->t, vtci_mul(n_batch, n), job->low.a.n_cols);
    vtci_low_rank_reduce(steps, &job->low, job->x, vtci_rows_split(t, n));
    if (vtci_rows_join(&job->x, &x) && vtci_rows_join(&job->y, &y)) {
        run_rows(job, x, y, t, steps);
        return;
    }
    for (size_t b = 0; b < n_batch; b++)
        run_rows(job, vtci_batch_part(job->x, b, 1), vtci_batch_part(job->y, b, 1),
                 vtci_rows_part(t, b * n, n), steps);
}

/* ---- public ---------------------------------------------------------------------------------- */

static vtc_status open_linear(const vtci_call *call, const vtc_linear *linear, const vtc_tensor *a,
                              const vtc_tensor *b, const vtc_tensor *x, const vtc_tensor *y,
                              struct job *job)
{
    VTCI_TRY(open_job(call, a, b, x, y, job));
    job->linear = linear;
    return check_linear(call, linear, y, job->y.n_cols, job->x.n_cols);
}

vtc_status vtc_vlora_linear_scratch(const vtc_linear *linear, const vtc_tensor *a,
                                    const vtc_tensor *b, const vtc_tensor *x, const vtc_tensor *y,
                                    const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_linear_scratch", exec, bytes));
    VTCI_TRY(open_linear(&call, linear, a, b, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_vlora_linear(const vtc_linear *linear, const vtc_tensor *a, const vtc_tensor *b,
                            const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_linear", exec));
    VTCI_TRY(open_linear(&call, linear, a, b, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}

vtc_status vtc_vlora_add_scratch(const vtc_tensor *a, const vtc_tensor *b, const vtc_tensor *x,
                                 const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_add_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, a, b, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_vlora_add(const vtc_tensor *a, const vtc_tensor *b, const vtc_tensor *x,
                         vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_add", exec));
    VTCI_TRY(open_job(&call, a, b, x, y, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}

/* ---- the dense increment --------------------------------------------------------------------- */

static vtc_status open_merge(const vtci_call *call, const vtc_tensor *w, const vtc_tensor *a,
                             const vtc_tensor *b, const vtc_tensor *y, vtci_gemm *g)
{
    const vtci_owner of = { call, y, 0, "" };
    vtci_low_rank low;

    memset(g, 0, sizeof(*g));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE_PTR(call, a);
    VTCI_REQUIRE_PTR(call, b);
    VTCI_REQUIRE(call, a->rank == 2, VTC_ERR_SHAPE, "a has rank %d, 2 is needed", a->rank);
    VTCI_TRY(vtci_low_rank_open(call, "", a, b, y->dim[1], y->dim[0], &low));
    VTCI_TRY(vtci_check_apart(call, "y", y, "a", a));
    VTCI_TRY(vtci_check_apart(call, "y", y, "b", b));
    g->a = low.b;
    g->b = low.a;
    g->c = vtci_rows_of(y);
    g->trans_b = true;
    if (w == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_matrix(&of, "w", "", w, y->dim[0], y->dim[1]));
    g->residual = vtci_rows_of(w);
    return VTC_OK;
}

vtc_status vtc_vlora_merge_scratch(const vtc_tensor *w, const vtc_tensor *a, const vtc_tensor *b,
                                   const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_gemm g;

    VTCI_TRY(vtci_begin_query(&call, "vtc_vlora_merge_scratch", exec, bytes));
    VTCI_TRY(open_merge(&call, w, a, b, y, &g));
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, &g);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_vlora_merge(const vtc_tensor *w, const vtc_tensor *a, const vtc_tensor *b,
                           vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    vtci_gemm g;

    VTCI_TRY(vtci_begin(&call, "vtc_vlora_merge", exec));
    VTCI_TRY(open_merge(&call, w, a, b, y, &g));
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, &g);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    vtci_gemm_run(&call, &g);
    return VTC_OK;
}
