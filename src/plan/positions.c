/* Position ids by rule, where text resumes, and the log-mass bias of attention. */
#include "../linalg/rows.h"
#include "plan.h"

#include <float.h>
#include <math.h>

/* ---- positions ------------------------------------------------------------------------------- */

struct job {
    vtc_plan plan;
    vtc_positions_params params;
    const vtc_tensor *in; /* NULL: row i has base + i */
    vtc_tensor *out;
    size_t n_axes;
};

static vtc_status check_params(const vtci_call *call, const vtc_positions_params *p)
{
    VTCI_REQUIRE(call, p->visual == VTC_VISUAL_KEEP || p->visual == VTC_VISUAL_RENUMBER,
                 VTC_ERR_RANGE, "visual is %d, no rule", (int)p->visual);
    VTCI_REQUIRE(call, (int)p->text >= VTC_TEXT_CONTINUE && (int)p->text <= VTC_TEXT_AFTER_WIDTH,
                 VTC_ERR_RANGE, "text is %d, no rule", (int)p->text);
    VTCI_REQUIRE(call, (p->grid_h == 0) == (p->grid_w == 0), VTC_ERR_RANGE, "the grid is %zux%zu",
                 p->grid_h, p->grid_w);
    VTCI_REQUIRE(call, p->grid_t <= INT32_MAX && p->grid_h <= INT32_MAX && p->grid_w <= INT32_MAX,
                 VTC_ERR_OVERFLOW, "a grid of %zux%zux%zu exceeds int32", p->grid_t, p->grid_h,
                 p->grid_w);
    /* room for every base + n below */
    VTCI_REQUIRE(call, p->base <= INT64_MAX - INT32_MAX - 1, VTC_ERR_OVERFLOW,
                 "base %lld leaves no room for positions", (long long)p->base);
    return VTC_OK;
}

static vtc_status check_view(const vtci_call *call, const char *what, const vtc_tensor *t, size_t n,
                             const char *of)
{
    VTCI_REQUIRE(call, t->dim[t->rank - 1] == n, VTC_ERR_SHAPE, "%s has %zu ids, the plan %zu %s",
                 what, t->dim[t->rank - 1], n, of);
    return VTC_OK;
}

static vtc_status check_in(const vtci_call *call, const struct job *job)
{
    const vtc_tensor *in = job->in, *out = job->out;

    if (in == NULL)
        return VTC_OK;
    VTCI_TRY(
        vtci_check_tensor(call, "in", in, VTCI_BIT(out->dtype), out->rank, out->rank, VTCI_IN));
    VTCI_TRY(check_view(call, "in", in, job->plan.n_in, "input rows"));
    VTCI_REQUIRE(call, out->rank == 1 || in->dim[0] == out->dim[0], VTC_ERR_SHAPE,
                 "in has %zu axes, out has %zu", in->dim[0], out->dim[0]);
    return vtci_check_apart(call, "out", out, "in", in);
}

static vtc_status open_job(const vtci_call *call, struct job *job)
{
    const vtc_tensor *out = job->out;
    const bool renumber = job->params.visual == VTC_VISUAL_RENUMBER;

    VTCI_TRY(check_params(call, &job->params));
    VTCI_TRY(vtci_check_tensor(call, "out", out, VTCI_INTS, 1, 2, VTCI_OUT));
    VTCI_TRY(check_view(call, "out", out, job->plan.n_out, "outputs"));
    VTCI_TRY(check_in(call, job));
    VTCI_TRY(vtci_plan_check_output(call, &job->plan, "out", out->data, vtci_span_bytes(out)));
    VTCI_TRY(vtci_plan_check_keep(call, "plan", &job->plan, renumber ? -1 : 0));
    job->n_axes = out->rank == 2 ? out->dim[0] : 1;
    return VTC_OK;
}

static size_t element_of(const vtc_tensor *t, size_t axis, size_t i)
{
    return (t->rank == 2 ? axis * t->stride[0] : 0) + i;
}

static int64_t input_position(const struct job *job, size_t axis, size_t i)
{
    const vtc_tensor *in = job->in;

    if (in == NULL)
        return job->params.base + (int64_t)i;
    const size_t at = element_of(in, axis, i);
    return in->dtype == VTC_I32 ? ((const int32_t *)in->data)[at] : ((const int64_t *)in->data)[at];
}

static int64_t output_position(const struct job *job, size_t axis, size_t j)
{
    if (job->params.visual == VTC_VISUAL_RENUMBER)
        return job->params.base + (int64_t)j;
    return input_position(job, axis, (size_t)job->plan.keep[j]);
}

/* The largest position(job, axis, i) of n rows on all axes; INT64_MIN when there is none. */
static int64_t largest(const struct job *job, size_t n,
                       int64_t (*position)(const struct job *, size_t, size_t))
{
    int64_t top = INT64_MIN;

    for (size_t axis = 0; axis < job->n_axes; axis++)
        for (size_t i = 0; i < n; i++)
            if (position(job, axis, i) > top)
                top = position(job, axis, i);
    return top;
}

static vtc_status next_after(const vtci_call *call, int64_t top, int64_t base, int64_t *next)
{
    VTCI_REQUIRE(call, top != INT64_MAX, VTC_ERR_OVERFLOW, "position %lld has no next",
                 (long long)top);
    *next = top == INT64_MIN ? base : top + 1;
    return VTC_OK;
}

static vtc_status resume_text(const vtci_call *call, const struct job *job, int64_t *next)
{
    const vtc_positions_params *p = &job->params;
    const size_t most = vtci_max(p->grid_t, vtci_max(p->grid_h, p->grid_w));
    const size_t side = p->text == VTC_TEXT_AFTER_GRID ? most : p->grid_w;

    if (p->text == VTC_TEXT_CONTINUE || job->plan.n_in == 0) {
        *next = p->base + (int64_t)job->plan.n_out;
        return VTC_OK;
    }
    if (p->text == VTC_TEXT_AFTER_KEPT)
        return next_after(call, largest(job, job->plan.n_out, output_position), p->base, next);
    if (p->text == VTC_TEXT_ORIGINAL || p->grid_w == 0)
        return next_after(call, largest(job, job->plan.n_in, input_position), p->base, next);
    *next = p->base + (int64_t)side;
    return VTC_OK;
}

/* Ids that come from `in` fit already; those counted from base may not. */
static vtc_status check_i32(const vtci_call *call, const struct job *job)
{
    if (job->out->dtype != VTC_I32 || (job->in != NULL && job->params.visual == VTC_VISUAL_KEEP))
        return VTC_OK;
    for (size_t j = 0; j < job->plan.n_out; j++) {
        const int64_t position = output_position(job, 0, j);

        VTCI_REQUIRE(call, position >= INT32_MIN && position <= INT32_MAX, VTC_ERR_OVERFLOW,
                     "position %lld of output %zu does not fit I32", (long long)position, j);
    }
    return VTC_OK;
}

static void store_position(const vtc_tensor *t, size_t axis, size_t i, int64_t position)
{
    const size_t at = element_of(t, axis, i);

    if (t->dtype == VTC_I32)
        ((int32_t *)t->data)[at] = (int32_t)position;
    else
        ((int64_t *)t->data)[at] = position;
}

static void write_positions(const struct job *job)
{
    for (size_t axis = 0; axis < job->n_axes; axis++)
        for (size_t j = 0; j < job->plan.n_out; j++)
            store_position(job->out, axis, j, output_position(job, axis, j));
}

vtc_status vtc_plan_positions(const vtc_positions_params *params, const vtc_plan *plan,
                              const vtc_tensor *in, vtc_tensor *out, int64_t *text_next,
                              const vtc_exec *exec)
{
    struct job job = { VTC_PLAN_INIT, VTC_POSITIONS_PARAMS_INIT, in, out, 0 };
    int64_t next = 0;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_positions", exec));
    VTCI_TRY(vtci_params_read(&call, &job.params, sizeof(job.params), params));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &job.plan));
    VTCI_REQUIRE_PTR(&call, text_next);
    VTCI_TRY(open_job(&call, &job));
    VTCI_TRY(check_i32(&call, &job));
    VTCI_TRY(resume_text(&call, &job, &next));
    write_positions(&job);
    *text_next = next;
    return VTC_OK;
}

/* ---- grids ----------------------------------------------------------------------------------- */

/* Whether base .. base + (n - 1) * step fits the dtype; n up to INT32_MAX,
 * step >= 0. */
static bool positions_fit(vtc_dtype dtype, int64_t base, size_t n, int64_t step)
{
    const int64_t low = dtype == VTC_I32 ? INT32_MIN : INT64_MIN;
    const int64_t high = dtype == VTC_I32 ? INT32_MAX : INT64_MAX;
    const int64_t steps = n == 0 ? 0 : (int64_t)n - 1;

    return base >= low && base <= high &&
           (steps == 0 || step <= (high - (base > 0 ? base : 0)) / steps);
}

static vtc_status check_grid_positions(const vtci_call *call, size_t t, size_t h, size_t w,
                                       int64_t base, int64_t t_step, const vtc_tensor *out)
{
    const size_t n = vtci_mul(t, vtci_mul(h, w));

    VTCI_TRY(vtci_check_tensor(call, "out", out, VTCI_INTS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, out->dim[0] == 3 && out->dim[1] == n, VTC_ERR_SHAPE,
                 "out is %zux%zu, a grid of %zux%zux%zu needs 3x%zu", out->dim[0], out->dim[1], t,
                 h, w, n);
    VTCI_REQUIRE(call, n <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu tokens exceed int32", n);
    VTCI_REQUIRE(call, t_step >= 0, VTC_ERR_RANGE, "t_step is %lld", (long long)t_step);
    VTCI_REQUIRE(call,
                 n == 0 || (positions_fit(out->dtype, base, t, t_step) &&
                            positions_fit(out->dtype, base, vtci_max(h, w), 1)),
                 VTC_ERR_OVERFLOW, "positions from %lld on do not fit %s", (long long)base,
                 vtc_dtype_string(out->dtype));
    return VTC_OK;
}

vtc_status vtc_grid_positions(size_t grid_t, size_t grid_h, size_t grid_w, int64_t base,
                              int64_t t_step, vtc_tensor *out, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_grid_positions", exec));
    VTCI_TRY(check_grid_positions(&call, grid_t, grid_h, grid_w, base, t_step, out));
    for (size_t i = 0; i < out->dim[1]; i++) {
        store_position(out, 0, i, base + (int64_t)(i / grid_w / grid_h) * t_step);
        store_position(out, 1, i, base + (int64_t)(i / grid_w % grid_h));
        store_position(out, 2, i, base + (int64_t)(i % grid_w));
    }
    return VTC_OK;
}

/* ---- log mass -------------------------------------------------------------------------------- */

vtc_status vtc_plan_log_mass(const vtc_plan *plan, vtc_tensor *bias, const vtc_exec *exec)
{
    enum { BLOCK = 64 };
    float log_mass[BLOCK];
    vtc_plan p = VTC_PLAN_INIT;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_log_mass", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &p));
    VTCI_TRY(vtci_check_tensor(&call, "bias", bias, VTCI_FLOATS, 1, 1, VTCI_OUT));
    VTCI_REQUIRE(&call, bias->dim[0] == p.n_out, VTC_ERR_SHAPE,
                 "bias has %zu elements, the plan %zu outputs", bias->dim[0], p.n_out);
    VTCI_TRY(vtci_plan_check_mass(&call, "plan", &p));
    VTCI_TRY(vtci_plan_check_output(&call, &p, "bias", bias->data, vtci_span_bytes(bias)));
    for (size_t begin = 0; begin < p.n_out; begin += BLOCK) {
        const size_t n = vtci_min(BLOCK, p.n_out - begin);

        for (size_t j = 0; j < n; j++)
            log_mass[j] = logf(p.mass[begin + j]);
        vtci_store_row((char *)bias->data + begin * vtc_dtype_size(bias->dtype), bias->dtype, n,
                       log_mass);
    }
    return VTC_OK;
}
