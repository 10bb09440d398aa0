/* K/V rows of many caches, moved to new memory or together in place. */
#include "pieces.h"
#include "plan.h"

/* Elements of a view array are as far apart as the first one says they are large. */
static const vtc_kv *view_at(const vtc_kv *views, size_t v)
{
    return (const vtc_kv *)(const void *)((const char *)views + v * views->struct_size);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Bytes from `data` to the end of the last piece; 0 for a view without bytes. */
static size_t span_of(const vtc_kv *kv)
{
    if (kv->n_outer == 0 || kv->n_inner == 0 || kv->n_rows == 0 || kv->piece == 0)
        return 0;
    return vtci_add(vtci_add(vtci_mul(kv->n_outer - 1, kv->outer_stride),
                             vtci_mul(kv->n_inner - 1, kv->inner_stride)),
                    vtci_add(vtci_mul(kv->n_rows - 1, kv->row_stride), kv->piece));
}

static vtc_status check_struct(const vtci_call *call, const char *what, const vtc_kv *views,
                               size_t v)
{
    const size_t size = views->struct_size;
    vtc_kv copy = VTC_KV_INIT;

    VTCI_REQUIRE(call, size >= sizeof(vtc_kv), VTC_ERR_RANGE,
                 "%s[0] has struct_size %zu; start from VTC_KV_INIT", what, size);
    VTCI_REQUIRE(call, view_at(views, v)->struct_size == size, VTC_ERR_RANGE,
                 "%s[%zu] has struct_size %zu, %s[0] has %zu", what, v,
                 view_at(views, v)->struct_size, what, size);
    return vtci_params_read(call, &copy, sizeof(copy), view_at(views, v));
}

static vtc_status check_memory(const vtci_call *call, const char *what, const vtc_kv *kv, size_t v,
                               size_t n_needed)
{
    VTCI_REQUIRE(call, kv->n_rows >= n_needed, VTC_ERR_SHAPE,
                 "%s[%zu] has %zu rows, the plan needs %zu", what, v, kv->n_rows, n_needed);
    VTCI_REQUIRE(call, kv->n_rows <= INT32_MAX || kv->row_slot == NULL, VTC_ERR_OVERFLOW,
                 "%s[%zu] has %zu slots, more than int32 holds", what, v, kv->n_rows);
    VTCI_REQUIRE(call, span_of(kv) <= PTRDIFF_MAX, VTC_ERR_OVERFLOW,
                 "the size of %s[%zu] overflows", what, v);
    VTCI_REQUIRE(call, span_of(kv) == 0 || kv->data != NULL, VTC_ERR_NULL, "%s[%zu] has no data",
                 what, v);
    return VTC_OK;
}

static vtc_status check_pieces_apart(const vtci_call *call, const char *what, const vtc_kv *kv,
                                     size_t v)
{
    const size_t count[3] = { kv->n_outer, kv->n_inner, kv->n_rows };
    const size_t stride[3] = { kv->outer_stride, kv->inner_stride, kv->row_stride };

    VTCI_REQUIRE(call, span_of(kv) == 0 || !vtci_strides_overlap(kv->piece, 3, count, stride),
                 VTC_ERR_OVERLAP,
                 "%s[%zu] has strides %zu, %zu and %zu that make pieces of %zu bytes overlap", what,
                 v, kv->outer_stride, kv->inner_stride, kv->row_stride, kv->piece);
    return VTC_OK;
}

static vtc_status check_slots(const vtci_call *call, const char *what, const vtc_kv *kv, size_t v,
                              size_t n_needed)
{
    for (size_t t = 0; kv->row_slot != NULL && t < n_needed; t++)
        VTCI_REQUIRE(call, kv->row_slot[t] >= 0 && kv->row_slot[t] < (int64_t)kv->n_rows,
                     VTC_ERR_RANGE, "row_slot[%zu] of %s[%zu] is %d of %zu slots", t, what, v,
                     (int)kv->row_slot[t], kv->n_rows);
    return VTC_OK;
}

static vtc_status check_views(const vtci_call *call, const char *what, const vtc_kv *views,
                              size_t n_views, size_t n_needed)
{
    VTCI_REQUIRE(call, views != NULL || n_views == 0, VTC_ERR_NULL, "%s is NULL", what);
    for (size_t v = 0; v < n_views; v++) {
        VTCI_TRY(check_struct(call, what, views, v));
        VTCI_TRY(check_memory(call, what, view_at(views, v), v, n_needed));
        VTCI_TRY(check_slots(call, what, view_at(views, v), v, n_needed));
    }
    return VTC_OK;
}

/* Memory of views that are written: pieces apart, not part of the plan or of a list of slots, no
 * view twice. Views may lie between each other (K and V of one page), so whether these share bytes
 * is not known. */
static vtc_status check_written(const vtci_call *call, const vtc_plan *plan, const char *what,
                                const vtc_kv *views, size_t n_views, size_t n_slots)
{
    for (size_t v = 0; v < n_views; v++) {
        const vtc_kv *kv = view_at(views, v);
        const size_t span = span_of(kv);

        VTCI_TRY(check_pieces_apart(call, what, kv, v));
        VTCI_TRY(vtci_plan_check_output(call, plan, what, kv->data, span));
        for (size_t u = 0; u < n_views && span != 0; u++) {
            const vtc_kv *other = view_at(views, u);

            VTCI_REQUIRE(call,
                         other->row_slot == NULL ||
                             !vtci_ranges_meet(kv->data, span, other->row_slot,
                                               n_slots * sizeof(*other->row_slot)),
                         VTC_ERR_OVERLAP, "%s[%zu] overlaps row_slot of %s[%zu]", what, v, what, u);
            VTCI_REQUIRE(call, u >= v || kv->data != other->data || kv->row_slot != other->row_slot,
                         VTC_ERR_OVERLAP, "%s[%zu] is the same memory as %s[%zu]", what, v, what,
                         u);
        }
    }
    return VTC_OK;
}

static vtc_status check_pairs(const vtci_call *call, const vtc_plan *plan, const vtc_kv *src,
                              const vtc_kv *dst, size_t n_views)
{
    for (size_t v = 0; v < n_views; v++) {
        const vtc_kv *s = view_at(src, v), *d = view_at(dst, v);

        VTCI_REQUIRE(call,
                     s->piece == d->piece && s->n_outer == d->n_outer && s->n_inner == d->n_inner,
                     VTC_ERR_SHAPE,
                     "src[%zu] has %zu x %zu pieces of %zu bytes, dst[%zu] %zu x %zu of %zu", v,
                     s->n_outer, s->n_inner, s->piece, v, d->n_outer, d->n_inner, d->piece);
        for (size_t u = 0; u < n_views; u++) {
            const vtc_kv *in = view_at(src, u);

            VTCI_REQUIRE(call, !vtci_ranges_meet(d->data, span_of(d), in->data, span_of(in)),
                         VTC_ERR_OVERLAP, "dst[%zu] overlaps src[%zu]", v, u);
            VTCI_REQUIRE(call,
                         in->row_slot == NULL ||
                             !vtci_ranges_meet(d->data, span_of(d), in->row_slot,
                                               plan->n_in * sizeof(*in->row_slot)),
                         VTC_ERR_OVERLAP, "dst[%zu] overlaps row_slot of src[%zu]", v, u);
        }
    }
    return VTC_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

struct job {
    vtc_plan plan;
    const vtc_kv *src, *dst;
    size_t n_views;
    bool in_place; /* rows must then move in order, so a task takes all of them */
    size_t bytes;  /* that all tasks write */
};

/* How a view is cut into tasks: n_outer x groups of inner pieces x blocks of rows. */
struct cut {
    size_t inner_per_task, n_groups;
    size_t rows_per_task, n_blocks;
    size_t n_tasks;
};

static struct cut cut_view(const struct job *job, const vtc_kv *kv)
{
    const size_t n_out = job->plan.n_out;
    struct cut cut;

    cut.rows_per_task = job->in_place ? n_out : vtci_per_task(n_out, kv->piece);
    cut.n_blocks = cut.rows_per_task == 0 ? 0 : vtci_ceil_div(n_out, cut.rows_per_task);
    cut.inner_per_task = vtci_per_task(kv->n_inner, n_out * kv->piece);
    cut.n_groups = vtci_ceil_div(kv->n_inner, cut.inner_per_task);
    cut.n_tasks = kv->piece == 0 ? 0 : kv->n_outer * cut.n_groups * cut.n_blocks;
    return cut;
}

static void move_task(void *data, size_t index, size_t worker)
{
    const struct job *job = data;
    size_t v = 0;
    struct cut cut = cut_view(job, view_at(job->dst, 0));

    (void)worker;
    while (index >= cut.n_tasks) {
        index -= cut.n_tasks;
        cut = cut_view(job, view_at(job->dst, ++v));
    }
    const vtc_kv *src = view_at(job->src, v), *dst = view_at(job->dst, v);
    const size_t row = index % cut.n_blocks * cut.rows_per_task;
    const size_t inner = index / cut.n_blocks % cut.n_groups * cut.inner_per_task;
    const size_t outer = index / cut.n_blocks / cut.n_groups;
    const size_t inner_end = vtci_min(inner + cut.inner_per_task, dst->n_inner);
    vtci_pieces p = { .piece = dst->piece,
                      .dst_stride = dst->row_stride,
                      .src_stride = src->row_stride,
                      .dst_slot = dst->row_slot,
                      .src_slot = src->row_slot,
                      .streaming = vtci_pays_to_stream(job->bytes, dst->piece) };

    for (size_t i = inner; i < inner_end; i++) {
        p.src = (const char *)src->data + outer * src->outer_stride + i * src->inner_stride;
        p.dst = (char *)dst->data + outer * dst->outer_stride + i * dst->inner_stride;
        vtci_move_pieces(&p, job->plan.keep, row,
                         vtci_min(row + cut.rows_per_task, job->plan.n_out));
    }
}

static void move_all(const vtci_call *call, struct job *job)
{
    size_t n_tasks = 0;

    for (size_t v = 0; v < job->n_views; v++) {
        const vtc_kv *kv = view_at(job->dst, v);

        n_tasks += cut_view(job, kv).n_tasks;
        job->bytes += kv->n_outer * kv->n_inner * job->plan.n_out * kv->piece;
    }
    vtci_parallel(call, n_tasks, move_task, job);
}

vtc_status vtc_plan_gather_kv(const vtc_plan *plan, const vtc_kv *src, const vtc_kv *dst,
                              size_t n_views, const vtc_exec *exec)
{
    struct job job = { VTC_PLAN_INIT, src, dst, n_views, false, 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_gather_kv", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &job.plan));
    VTCI_TRY(vtci_plan_check_keep(&call, "plan", &job.plan, 0));
    VTCI_TRY(check_views(&call, "src", src, n_views, job.plan.n_in));
    VTCI_TRY(check_views(&call, "dst", dst, n_views, job.plan.n_out));
    VTCI_TRY(check_pairs(&call, &job.plan, src, dst, n_views));
    VTCI_TRY(check_written(&call, &job.plan, "dst", dst, n_views, job.plan.n_out));
    move_all(&call, &job);
    return VTC_OK;
}

vtc_status vtc_plan_compact_kv(const vtc_plan *plan, const vtc_kv *views, size_t n_views,
                               const vtc_exec *exec)
{
    struct job job = { VTC_PLAN_INIT, views, views, n_views, true, 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_compact_kv", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &job.plan));
    VTCI_TRY(vtci_plan_check_keep(&call, "plan", &job.plan, 0));
    for (size_t j = 1; j < job.plan.n_out; j++)
        VTCI_REQUIRE(&call, job.plan.keep[j - 1] < job.plan.keep[j], VTC_ERR_RANGE,
                     "keep must ascend in place, keep[%zu] is %d after %d", j,
                     (int)job.plan.keep[j], (int)job.plan.keep[j - 1]);
    VTCI_TRY(check_views(&call, "views", views, n_views, job.plan.n_in));
    VTCI_TRY(check_written(&call, &job.plan, "views", views, n_views, job.plan.n_in));
    move_all(&call, &job);
    return VTC_OK;
}
