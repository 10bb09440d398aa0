/* Tokens by a plan, and back. */
#include "../linalg/rows.h"
#include "pieces.h"
#include "plan.h"

#include <string.h>

/* ---- apply ----------------------------------------------------------------------------------- */

struct job {
    vtc_plan plan;
    vtci_rows x, y;
    size_t rows_per_task;
    char *slices; /* per worker one row to compute in */
    size_t slice_stride;
};

static vtc_status open_job(const vtci_call *call, const vtc_plan *plan, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    static const vtc_plan none = VTC_PLAN_INIT;

    job->plan = none;
    VTCI_TRY(vtci_plan_read(call, "plan", plan, &job->plan));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, x->dim[0] == job->plan.n_in, VTC_ERR_SHAPE,
                 "x has %zu rows, the plan has %zu", x->dim[0], job->plan.n_in);
    VTCI_REQUIRE(call, y->dim[0] == job->plan.n_out, VTC_ERR_SHAPE,
                 "y has %zu rows, the plan has %zu outputs", y->dim[0], job->plan.n_out);
    VTCI_REQUIRE(call, x->dim[1] == y->dim[1], VTC_ERR_SHAPE, "x has %zu channels, y has %zu",
                 x->dim[1], y->dim[1]);
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    VTCI_TRY(vtci_plan_check_output(call, &job->plan, "y", y->data, vtci_span_bytes(y)));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    job->rows_per_task = vtci_per_task(y->dim[0], vtci_mul(y->dim[1], sizeof(float)));
    return VTC_OK;
}

/* A pure selection copies, and converts through a row only between the two 16-bit dtypes. */
static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    const bool pure = job->plan.begin == NULL;
    const bool direct = job->y.dtype == VTC_F32 ||
                        (pure && (job->x.dtype == VTC_F32 || job->x.dtype == job->y.dtype));
    const size_t row_floats = direct ? 0 : job->y.n_cols;

    job->slices =
        vtci_take_slices(arena, call, vtci_mul(row_floats, sizeof(float)), &job->slice_stride);
}

static void apply_row(const struct job *job, size_t j, float *tmp)
{
    const vtci_entries row = vtci_plan_entries(&job->plan, j);
    const vtc_dtype dtype = job->y.dtype;
    const size_t n = job->y.n_cols;
    char *y = vtci_row(&job->y, 0, j);
    vtci_combine combine;

    if (row.n == 0) {
        memset(y, 0, n * vtc_dtype_size(dtype));
        return;
    }
    if (row.n == 1 && row.weight[0] == 1.0f) {
        vtci_copy_row(y, dtype, vtci_row(&job->x, 0, (size_t)row.source[0]), job->x.dtype, n, tmp);
        return;
    }
    float *sum = vtci_row_buffer(y, dtype, tmp);
    vtci_combine_begin(&combine, sum, n, job->x.dtype, job->plan.reduce == VTC_MAX);
    for (size_t e = 0; e < row.n; e++)
        vtci_combine_add(&combine, vtci_row(&job->x, 0, (size_t)row.source[e]), row.weight[e]);
    vtci_combine_end(&combine);
    vtci_store_row(y, dtype, n, sum);
}

static void apply_block(void *data, size_t index, size_t worker)
{
    const struct job *job = data;
    const size_t begin = index * job->rows_per_task;
    const size_t end = vtci_min(begin + job->rows_per_task, job->plan.n_out);
    float *tmp = NULL;

    if (job->slice_stride != 0)
        tmp = (float *)(void *)(job->slices + worker * job->slice_stride);
    for (size_t j = begin; j < end; j++)
        apply_row(job, j, tmp);
}

vtc_status vtc_plan_apply_scratch(const vtc_plan *plan, const vtc_tensor *x, const vtc_tensor *y,
                                  const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_plan_apply_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, plan, x, y, &job));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_plan_apply(const vtc_plan *plan, const vtc_tensor *x, vtc_tensor *y,
                          const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_apply", exec));
    VTCI_TRY(open_job(&call, plan, x, y, &job));
    VTCI_TRY(vtci_plan_check_entries(&call, "plan", &job.plan));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (job.y.n_cols != 0)
        vtci_parallel(&call, vtci_ceil_div(job.plan.n_out, job.rows_per_task), apply_block, &job);
    return VTC_OK;
}

/* ---- spread ---------------------------------------------------------------------------------- */

struct spread {
    vtc_plan plan;
    vtci_rows y, x;
    const void *fill; /* NULL: zeros */
    size_t row_bytes, rows_per_task;
};

static vtc_status check_fate(const vtci_call *call, const vtc_plan *plan)
{
    VTCI_REQUIRE(call, plan->fate != NULL || plan->n_in == 0, VTC_ERR_NULL, "the plan has no fate");
    for (size_t i = 0; i < plan->n_in; i++)
        VTCI_REQUIRE(call, plan->fate[i] >= -1 && plan->fate[i] < (int64_t)plan->n_out,
                     VTC_ERR_RANGE, "fate[%zu] is %d, not within -1 .. %lld", i, (int)plan->fate[i],
                     (long long)plan->n_out - 1);
    return VTC_OK;
}

static vtc_status check_fill(const vtci_call *call, const vtc_tensor *fill, const vtc_tensor *x)
{
    if (fill == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "fill", fill, VTCI_BIT(x->dtype), 1, 1, VTCI_IN));
    VTCI_REQUIRE(call, fill->dim[0] == x->dim[1], VTC_ERR_SHAPE, "fill has %zu channels, x has %zu",
                 fill->dim[0], x->dim[1]);
    return vtci_check_apart(call, "x", x, "fill", fill);
}

static vtc_status open_spread(const vtci_call *call, const vtc_plan *plan, const vtc_tensor *y,
                              const vtc_tensor *fill, const vtc_tensor *x, struct spread *s)
{
    VTCI_TRY(vtci_plan_read(call, "plan", plan, &s->plan));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_ANY, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_BIT(y->dtype), 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, y->dim[0] == s->plan.n_out && x->dim[0] == s->plan.n_in, VTC_ERR_SHAPE,
                 "y has %zu rows and x %zu, the plan has %zu outputs and %zu input rows", y->dim[0],
                 x->dim[0], s->plan.n_out, s->plan.n_in);
    VTCI_REQUIRE(call, x->dim[1] == y->dim[1], VTC_ERR_SHAPE, "x has %zu channels, y has %zu",
                 x->dim[1], y->dim[1]);
    VTCI_TRY(vtci_check_apart(call, "x", x, "y", y));
    VTCI_TRY(check_fill(call, fill, x));
    VTCI_TRY(vtci_plan_check_output(call, &s->plan, "x", x->data, vtci_span_bytes(x)));
    VTCI_TRY(check_fate(call, &s->plan));
    s->y = vtci_rows_of(y);
    s->x = vtci_rows_of(x);
    s->fill = fill == NULL ? NULL : fill->data;
    s->row_bytes = x->dim[1] * vtc_dtype_size(x->dtype);
    s->rows_per_task = vtci_per_task(s->plan.n_in, s->row_bytes);
    return VTC_OK;
}

static void spread_block(void *data, size_t index, size_t worker)
{
    const struct spread *s = data;
    const size_t begin = index * s->rows_per_task;
    const size_t end = vtci_min(begin + s->rows_per_task, s->plan.n_in);

    (void)worker;
    for (size_t i = begin; i < end; i++) {
        char *x = vtci_row(&s->x, 0, i);

        if (s->plan.fate[i] >= 0)
            memcpy(x, vtci_row(&s->y, 0, (size_t)s->plan.fate[i]), s->row_bytes);
        else if (s->fill != NULL)
            memcpy(x, s->fill, s->row_bytes);
        else
            memset(x, 0, s->row_bytes);
    }
}

vtc_status vtc_plan_spread(const vtc_plan *plan, const vtc_tensor *y, const vtc_tensor *fill,
                           vtc_tensor *x, const vtc_exec *exec)
{
    struct spread s = { .plan = VTC_PLAN_INIT };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_spread", exec));
    VTCI_TRY(open_spread(&call, plan, y, fill, x, &s));
    if (s.row_bytes != 0)
        vtci_parallel(&call, vtci_ceil_div(s.plan.n_in, s.rows_per_task), spread_block, &s);
    return VTC_OK;
}
