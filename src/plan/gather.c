/* Whatever must stay in step with the tokens, by `keep`, along one axis of any tensor. */
#include "pieces.h"
#include "plan.h"

#include <string.h>

/* The axes other than the gathered one: trailing ones that are dense on both sides make up a piece,
 * the others are walked over. Strides in bytes. */
struct walk {
    int rank;
    size_t dim[VTC_MAX_RANK], src_stride[VTC_MAX_RANK], dst_stride[VTC_MAX_RANK];
    size_t n_places; /* product of dim */
};

struct job {
    vtc_plan plan;
    vtci_pieces pieces;
    struct walk walk;
    const void *fill; /* one element; NULL: zero bytes */
    size_t element;   /* bytes */
    size_t rows_per_task, tasks_per_place;
};

static vtc_status check_views(const vtci_call *call, const vtc_plan *plan, int axis,
                              const vtc_tensor *x, const void *fill, const vtc_tensor *y)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_ANY, 1, VTC_MAX_RANK, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_BIT(x->dtype), x->rank, x->rank, VTCI_OUT));
    VTCI_REQUIRE(call, axis >= 0 && axis < x->rank, VTC_ERR_RANGE, "axis is %d of rank %d", axis,
                 x->rank);
    for (int a = 0; a < x->rank; a++) {
        const size_t x_dim = a == axis ? plan->n_in : y->dim[a];
        const size_t y_dim = a == axis ? plan->n_out : y->dim[a];

        VTCI_REQUIRE(call, x->dim[a] == x_dim && y->dim[a] == y_dim, VTC_ERR_SHAPE,
                     "axis %d has %zu in x and %zu in y, %zu and %zu are needed", a, x->dim[a],
                     y->dim[a], x_dim, y_dim);
    }
    VTCI_TRY(vtci_check_apart(call, "y", y, "x", x));
    VTCI_REQUIRE(call,
                 !vtci_ranges_meet(y->data, vtci_span_bytes(y), fill,
                                   fill == NULL ? 0 : vtc_dtype_size(x->dtype)),
                 VTC_ERR_OVERLAP, "y overlaps fill");
    return vtci_plan_check_output(call, plan, "y", y->data, vtci_span_bytes(y));
}

/* The first axis behind `axis` from where on both views are dense; *bytes is what they hold. */
static int dense_from(const vtc_tensor *x, const vtc_tensor *y, int axis, size_t *bytes)
{
    size_t n = 1;
    int a = x->rank;

    while (a - 1 > axis && (x->dim[a - 1] == 1 || (x->stride[a - 1] == n && y->stride[a - 1] == n)))
        n *= x->dim[--a];
    *bytes = n * vtc_dtype_size(x->dtype);
    return a;
}

static void walk_over(struct walk *walk, const vtc_tensor *x, const vtc_tensor *y, int axis,
                      int n_axes)
{
    const size_t element = vtc_dtype_size(x->dtype);

    walk->rank = 0;
    walk->n_places = 1;
    for (int a = 0; a < n_axes; a++) {
        if (a == axis)
            continue;
        walk->dim[walk->rank] = x->dim[a];
        walk->src_stride[walk->rank] = x->stride[a] * element;
        walk->dst_stride[walk->rank] = y->stride[a] * element;
        walk->n_places *= x->dim[a];
        walk->rank++;
    }
}

static void set_up(struct job *job, const vtc_tensor *x, const vtc_tensor *y, int axis)
{
    vtci_pieces *p = &job->pieces;

    walk_over(&job->walk, x, y, axis, dense_from(x, y, axis, &p->piece));
    p->src = x->data;
    p->dst = y->data;
    job->element = vtc_dtype_size(x->dtype);
    p->src_stride = x->stride[axis] * job->element;
    p->dst_stride = y->stride[axis] * job->element;
    job->rows_per_task = vtci_per_task(job->plan.n_out, p->piece);
    job->tasks_per_place = vtci_ceil_div(job->plan.n_out, job->rows_per_task);
    p->streaming = vtci_pays_to_stream(vtci_count(y) * job->element, p->piece);
}

static void fill_piece(const struct job *job, char *dst)
{
    if (job->fill == NULL) {
        memset(dst, 0, job->pieces.piece);
        return;
    }
    for (size_t i = 0; i < job->pieces.piece; i += job->element)
        memcpy(dst + i, job->fill, job->element);
}

static void gather_rows(const struct job *job, const vtci_pieces *p, size_t begin, size_t end)
{
    const int32_t *keep = job->plan.keep;

    for (size_t j = begin, next; j < end; j = next) {
        for (next = j; next < end && keep[next] >= 0; next++)
            ;
        vtci_move_pieces(p, keep, j, next);
        for (; next < end && keep[next] < 0; next++)
            fill_piece(job, p->dst + next * p->dst_stride);
    }
}

static void gather_task(void *data, size_t index, size_t worker)
{
    const struct job *job = data;
    const size_t begin = index % job->tasks_per_place * job->rows_per_task;
    size_t place = index / job->tasks_per_place;
    vtci_pieces p = job->pieces;

    (void)worker;
    for (int a = job->walk.rank - 1; a >= 0; a--) {
        p.src += place % job->walk.dim[a] * job->walk.src_stride[a];
        p.dst += place % job->walk.dim[a] * job->walk.dst_stride[a];
        place /= job->walk.dim[a];
    }
    gather_rows(job, &p, begin, vtci_min(begin + job->rows_per_task, job->plan.n_out));
}

vtc_status vtc_plan_gather(const vtc_plan *plan, int axis, const vtc_tensor *x, const void *fill,
                           vtc_tensor *y, const vtc_exec *exec)
{
    struct job job = { .plan = VTC_PLAN_INIT, .fill = fill };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_gather", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &job.plan));
    VTCI_TRY(check_views(&call, &job.plan, axis, x, fill, y));
    VTCI_TRY(vtci_plan_check_keep(&call, "plan", &job.plan, -1));
    if (vtci_count(y) == 0)
        return VTC_OK;
    set_up(&job, x, y, axis);
    vtci_parallel(&call, job.walk.n_places * job.tasks_per_place, gather_task, &job);
    return VTC_OK;
}
