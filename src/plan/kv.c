/* K/V rows of many caches and layers, moved to new memory or together in place. */
#include "pieces.h"
#include "plan.h"

struct job {
    const vtc_plan *const *plan_of_layer;
    const vtc_kv *src, *dst;
    size_t n_per_layer; /* views of each layer */
    size_t n_views;     /* of all layers       */
    bool in_place;      /* rows must then move in order, so a task takes all of them */
    size_t bytes;       /* that all tasks write */
};

/* Elements of a view array are as far apart as the first one says they are large. */
static const vtc_kv *view_at(const vtc_kv *views, size_t v)
{
    return (const vtc_kv *)(const void *)((const char *)views + v * views->struct_size);
}

/* The plan by which view v moves; NULL: it stays. Once a plan was read, the fields used here may be
 * taken from the caller's struct: every version has them. */
static const vtc_plan *plan_of(const struct job *job, size_t v)
{
    return job->plan_of_layer[v / job->n_per_layer];
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

/* keep is in range for a cache and, in place, ascends. */
static vtc_status check_plan(const vtci_call *call, const vtc_plan *from, bool in_place)
{
    vtc_plan plan = VTC_PLAN_INIT;

    VTCI_TRY(vtci_plan_read(call, "plan", from, &plan));
    VTCI_TRY(vtci_plan_check_keep(call, "plan", &plan, 0));
    for (size_t j = 1; in_place && j < plan.n_out; j++)
        VTCI_REQUIRE(call, plan.keep[j - 1] < plan.keep[j], VTC_ERR_RANGE,
                     "keep must ascend in place, keep[%zu] is %d after %d", j, (int)plan.keep[j],
                     (int)plan.keep[j - 1]);
    return VTC_OK;
}

/* Layers mostly come in runs of the same plan: each run is looked at once. */
static vtc_status check_plans(const vtci_call *call, const struct job *job, size_t n_layers)
{
    for (size_t l = 0; l < n_layers; l++) {
        const vtc_plan *plan = job->plan_of_layer[l];

        if (plan != NULL && (l == 0 || plan != job->plan_of_layer[l - 1]))
            VTCI_TRY(check_plan(call, plan, job->in_place));
    }
    return VTC_OK;
}

/* Every view of a layer with a plan has the rows that the plan counts: those that go in (of `src`,
 * and of caches in place), or those that come out. */
static vtc_status check_views(const vtci_call *call, const struct job *job, const char *what,
                              const vtc_kv *views, bool out)
{
    for (size_t v = 0; v < job->n_views; v++) {
        const vtc_plan *plan = plan_of(job, v);

        if (plan == NULL)
            continue;
        VTCI_REQUIRE(call, views != NULL, VTC_ERR_NULL, "%s is NULL", what);

        const size_t n_needed = out ? plan->n_out : plan->n_in;

        VTCI_TRY(check_struct(call, what, views, v));
        VTCI_TRY(check_memory(call, what, view_at(views, v), v, n_needed));
        VTCI_TRY(check_slots(call, what, view_at(views, v), v, n_needed));
    }
    return VTC_OK;
}

/* View v is written: it must not be part of view u's list of slots, or be view u. */
static vtc_status check_written_pair(const vtci_call *call, const struct job *job, const char *what,
                                     size_t v, size_t u)
{
    const vtc_kv *kv = view_at(job->dst, v), *other = view_at(job->dst, u);
    const size_t n_slots = job->in_place ? plan_of(job, u)->n_in : plan_of(job, u)->n_out;

    VTCI_REQUIRE(call,
                 other->row_slot == NULL ||
                     !vtci_ranges_meet(kv->data, span_of(kv), other->row_slot,
                                       n_slots * sizeof(*other->row_slot)),
                 VTC_ERR_OVERLAP, "%s[%zu] overlaps row_slot of %s[%zu]", what, v, what, u);
    VTCI_REQUIRE(call, u >= v || kv->data != other->data || kv->row_slot != other->row_slot,
                 VTC_ERR_OVERLAP, "%s[%zu] is the same memory as %s[%zu]", what, v, what, u);
    return VTC_OK;
}

/* Memory of views that are written: pieces apart, not part of a plan or of a list of slots, no
 * view twice. Views may lie between each other (K and V of one page), so whether these share bytes
 * is not known. */
static vtc_status check_written(const vtci_call *call, const struct job *job, const char *what)
{
    for (size_t v = 0; v < job->n_views; v++) {
        if (plan_of(job, v) == NULL)
            continue;

        const vtc_kv *kv = view_at(job->dst, v);

        VTCI_TRY(check_pieces_apart(call, what, kv, v));
        for (size_t u = 0; u < job->n_views && span_of(kv) != 0; u++) {
            if (plan_of(job, u) == NULL)
                continue;
            if (u % job->n_per_layer == 0)
                VTCI_TRY(
                    vtci_plan_check_output(call, plan_of(job, u), what, kv->data, span_of(kv)));
            VTCI_TRY(check_written_pair(call, job, what, v, u));
        }
    }
    return VTC_OK;
}

/* The memory of dst[v] is apart from src[u] and its list of slots. */
static vtc_status check_apart(const vtci_call *call, const struct job *job, size_t v, size_t u)
{
    const vtc_kv *d = view_at(job->dst, v), *in = view_at(job->src, u);

    VTCI_REQUIRE(call, !vtci_ranges_meet(d->data, span_of(d), in->data, span_of(in)),
                 VTC_ERR_OVERLAP, "dst[%zu] overlaps src[%zu]", v, u);
    VTCI_REQUIRE(call,
                 in->row_slot == NULL ||
                     !vtci_ranges_meet(d->data, span_of(d), in->row_slot,
                                       plan_of(job, u)->n_in * sizeof(*in->row_slot)),
                 VTC_ERR_OVERLAP, "dst[%zu] overlaps row_slot of src[%zu]", v, u);
    return VTC_OK;
}

static vtc_status check_pairs(const vtci_call *call, const struct job *job)
{
    for (size_t v = 0; v < job->n_views; v++) {
        if (plan_of(job, v) == NULL)
            continue;

        const vtc_kv *s = view_at(job->src, v), *d = view_at(job->dst, v);

        VTCI_REQUIRE(call,
                     s->piece == d->piece && s->n_outer == d->n_outer && s->n_inner == d->n_inner,
                     VTC_ERR_SHAPE,
                     "src[%zu] has %zu x %zu pieces of %zu bytes, dst[%zu] %zu x %zu of %zu", v,
                     s->n_outer, s->n_inner, s->piece, v, d->n_outer, d->n_inner, d->piece);
        for (size_t u = 0; u < job->n_views; u++)
            if (plan_of(job, u) != NULL)
                VTCI_TRY(check_apart(call, job, v, u));
    }
    return VTC_OK;
}

/* ---- the work -------------------------------------------------------------------------------- */

/* How a view is cut into tasks: n_outer x groups of inner pieces x blocks of rows. */
struct cut {
    size_t inner_per_task, n_groups;
    size_t rows_per_task, n_blocks;
    size_t n_tasks;
};

static struct cut cut_view(const struct job *job, size_t v)
{
    static const struct cut none;
    struct cut cut = none;

    if (plan_of(job, v) == NULL)
        return cut;

    const vtc_kv *kv = view_at(job->dst, v);
    const size_t n_out = plan_of(job, v)->n_out;

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
    struct cut cut = cut_view(job, 0);

    (void)worker;
    while (index >= cut.n_tasks) {
        index -= cut.n_tasks;
        cut = cut_view(job, ++v);
    }
    const vtc_kv *src = view_at(job->src, v), *dst = view_at(job->dst, v);
    const vtc_plan *plan = plan_of(job, v);
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
        vtci_move_pieces(&p, plan->keep, row, vtci_min(row + cut.rows_per_task, plan->n_out));
    }
}

static void move_all(const vtci_call *call, struct job *job)
{
    size_t n_tasks = 0;

    for (size_t v = 0; v < job->n_views; v++) {
        const vtc_plan *plan = plan_of(job, v);

        if (plan == NULL)
            continue;

        const vtc_kv *kv = view_at(job->dst, v);

        n_tasks += cut_view(job, v).n_tasks;
        job->bytes += kv->n_outer * kv->n_inner * plan->n_out * kv->piece;
    }
    vtci_parallel(call, n_tasks, move_task, job);
}

/* ---- the calls ------------------------------------------------------------------------------- */

static vtc_status open_layers(const vtci_call *call, struct job *job,
                              const vtc_plan *const *plan_of_layer, size_t n_layers, size_t n_views)
{
    VTCI_REQUIRE(call, plan_of_layer != NULL || n_layers == 0, VTC_ERR_NULL,
                 "plan_of_layer is NULL");
    job->plan_of_layer = plan_of_layer;
    job->n_per_layer = n_views;
    job->n_views = vtci_mul(n_layers, n_views);
    VTCI_REQUIRE(call, job->n_views != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "%zu layers of %zu views are too many", n_layers, n_views);
    return check_plans(call, job, n_layers);
}

static vtc_status gather(const vtci_call *call, const vtc_plan *const *plan_of_layer,
                         size_t n_layers, const vtc_kv *src, const vtc_kv *dst, size_t n_views)
{
    struct job job = { NULL, src, dst, 0, 0, false, 0 };

    VTCI_TRY(open_layers(call, &job, plan_of_layer, n_layers, n_views));
    VTCI_TRY(check_views(call, &job, "src", src, false));
    VTCI_TRY(check_views(call, &job, "dst", dst, true));
    VTCI_TRY(check_pairs(call, &job));
    VTCI_TRY(check_written(call, &job, "dst"));
    move_all(call, &job);
    return VTC_OK;
}

static vtc_status compact(const vtci_call *call, const vtc_plan *const *plan_of_layer,
                          size_t n_layers, const vtc_kv *views, size_t n_views)
{
    struct job job = { NULL, views, views, 0, 0, true, 0 };

    VTCI_TRY(open_layers(call, &job, plan_of_layer, n_layers, n_views));
    VTCI_TRY(check_views(call, &job, "views", views, false));
    VTCI_TRY(check_written(call, &job, "views"));
    move_all(call, &job);
    return VTC_OK;
}

vtc_status vtc_plan_gather_kv_layers(const vtc_plan *const *plan_of_layer, size_t n_layers,
                                     const vtc_kv *src, const vtc_kv *dst, size_t n_views,
                                     const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_gather_kv_layers", exec));
    return gather(&call, plan_of_layer, n_layers, src, dst, n_views);
}

vtc_status vtc_plan_compact_kv_layers(const vtc_plan *const *plan_of_layer, size_t n_layers,
                                      const vtc_kv *views, size_t n_views, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_compact_kv_layers", exec));
    return compact(&call, plan_of_layer, n_layers, views, n_views);
}

/* One layer, whose plan must be there. */

vtc_status vtc_plan_gather_kv(const vtc_plan *plan, const vtc_kv *src, const vtc_kv *dst,
                              size_t n_views, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_gather_kv", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    return gather(&call, &plan, 1, src, dst, n_views);
}

vtc_status vtc_plan_compact_kv(const vtc_plan *plan, const vtc_kv *views, size_t n_views,
                               const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_compact_kv", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    return compact(&call, &plan, 1, views, n_views);
}
