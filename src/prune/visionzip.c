/*
 * VisionZip: dominant tokens are kept, the others become a few contextual ones.
 *
 * Source: Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models",
 * CVPR 2025, section 3, and the authors' code.
 *
 *     score_j = sum over heads of [CLS]'s attention to j      the `dominant` best are kept
 *     targets = every (M div contextual)-th of the M others, the rest join the nearest by cosine
 *     contextual token = target + mean of those that joined
 *
 * The authors leave ties open; here the lower row wins, and the lower target. Their count of
 * dominant tokens includes [CLS], ours does not. Cosines are M x contextual numbers, computed in
 * tiles of rows and reduced to a place per row.
 */
#include "visionzip.h"
#include "../../include/vtc/prune.h"
#include "../kernels/kernels.h"
#include "../linalg/order.h"
#include "../linalg/rows.h"
#include "../plan/plan.h"
#include "selection.h"

#include <math.h>
#include <string.h>

enum { TILE = 32 }; /* rows whose targets one task finds */

struct zip {
    const vtci_call *call;
    vtc_visionzip_params params;
    size_t n_in, first;    /* rows; the first that is no [CLS]                            */
    size_t n_rest;         /* M                                                           */
    const vtc_tensor *cls; /* [H, N] or [N]                                               */
    vtci_rows attention;   /* [H, N]                                                      */
    vtci_rows metric;      /* [N, d]; only with contextual tokens                         */
    float *score;          /* [N]                                                         */
    int32_t *order;        /* [N] the dominant rows, by falling score first               */
    int32_t *owner;        /* [N] -1: dominant or [CLS]; else the number of its target    */
    int32_t *rest;         /* [M] the others, ascending                                   */
    int32_t *joined;       /* [contextual] rows that joined a target                      */
    float *share;          /* [contextual] the weight of each                             */
    float *targets;        /* [contextual, d] their unit rows                             */
    size_t *bad;           /* per tile the first place without a direction, or M           */
    char *slices;          /* per worker rows [TILE, d], products [contextual, TILE]      */
    size_t slice_stride;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static vtc_status read_params(const vtci_call *call, const vtc_visionzip_params *from, size_t n_in,
                              struct zip *z)
{
    static const vtc_visionzip_params defaults = VTC_VISIONZIP_PARAMS_INIT;
    const vtc_visionzip_params *p = &z->params;

    *z = (struct zip){ 0 };
    z->call = call;
    z->params = defaults;
    VTCI_TRY(vtci_params_read(call, &z->params, sizeof(z->params), from));
    VTCI_REQUIRE(call, n_in <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu rows exceed int32", n_in);
    z->n_in = n_in;
    z->first = p->class_token != 0;
    VTCI_REQUIRE(call, z->first <= n_in, VTC_ERR_SHAPE, "there is no row for [CLS]");
    VTCI_REQUIRE(call, p->dominant <= n_in - z->first, VTC_ERR_BUDGET,
                 "cannot keep %zu dominant of %zu tokens", p->dominant, n_in - z->first);
    z->n_rest = n_in - z->first - p->dominant;
    VTCI_REQUIRE(call, p->contextual <= z->n_rest, VTC_ERR_BUDGET,
                 "%zu contextual tokens from the %zu that are left beside %zu dominant ones",
                 p->contextual, z->n_rest, p->dominant);
    return VTC_OK;
}

static vtc_plan_count count_of(const struct zip *z)
{
    const size_t n_kept = z->first + z->params.dominant, contextual = z->params.contextual;
    const size_t n_nnz = contextual == 0 ? 0 : n_kept + z->n_rest;

    return (vtc_plan_count){ z->n_in, n_kept + contextual, n_nnz, 1 };
}

vtc_status vtc_visionzip_count(const vtc_visionzip_params *params, size_t n_in,
                               vtc_plan_count *count, const vtc_exec *exec)
{
    vtci_call call;
    struct zip z;

    VTCI_TRY(vtci_begin(&call, "vtc_visionzip_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(read_params(&call, params, n_in, &z));
    *count = count_of(&z);
    return VTC_OK;
}

static vtc_status open_zip(const vtci_call *call, const vtc_visionzip_params *params,
                           const vtc_tensor *cls_attention, const vtc_tensor *metric, struct zip *z)
{
    const vtc_tensor *a = cls_attention;

    VTCI_TRY(vtci_check_tensor(call, "cls_attention", a, VTCI_FLOATS, 1, 2, VTCI_IN));
    VTCI_TRY(read_params(call, params, a->dim[a->rank - 1], z));
    z->attention = vtci_rows_of(a);
    z->cls = a;
    if (z->params.contextual == 0)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "metric", metric, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, metric->dim[0] == z->n_in, VTC_ERR_SHAPE,
                 "metric has %zu rows, cls_attention %zu", metric->dim[0], z->n_in);
    z->metric = vtci_rows_of(metric);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct zip *z)
{
    const size_t contextual = z->params.contextual, d = z->metric.n_cols;
    const size_t slice = vtci_mul(vtci_mul(TILE, vtci_add(d, contextual)), sizeof(float));

    z->score = vtci_take(arena, z->n_in, sizeof(*z->score));
    z->order = vtci_take(arena, z->n_in, sizeof(*z->order));
    z->owner = vtci_take(arena, z->n_in, sizeof(*z->owner));
    z->rest = vtci_take(arena, z->n_rest, sizeof(*z->rest));
    if (contextual == 0)
        return;
    z->joined = vtci_take(arena, contextual, sizeof(*z->joined));
    z->share = vtci_take(arena, contextual, sizeof(*z->share));
    z->targets = vtci_take(arena, vtci_mul(contextual, d), sizeof(*z->targets));
    z->bad = vtci_take(arena, vtci_ceil_div(z->n_rest, TILE), sizeof(*z->bad));
    z->slices = vtci_take_slices(arena, z->call, slice, &z->slice_stride);
}

vtc_status vtc_visionzip_scratch(const vtc_visionzip_params *params,
                                 const vtc_tensor *cls_attention, const vtc_tensor *metric,
                                 const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct zip z;

    VTCI_TRY(vtci_begin_query(&call, "vtc_visionzip_scratch", exec, bytes));
    VTCI_TRY(open_zip(&call, params, cls_attention, metric, &z));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &z);
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- dominant rows --------------------------------------------------------------------------- */

/* Sums of attention over heads. */
static void sum_heads(struct zip *z)
{
    const size_t size = vtc_dtype_size(z->attention.dtype);
    vtci_combine sum;

    vtci_combine_begin(&sum, z->score + z->first, z->n_in - z->first, z->attention.dtype, false);
    for (size_t h = 0; h < z->attention.n_rows; h++)
        vtci_combine_add(&sum, vtci_row(&z->attention, 0, h) + z->first * size, 1.0f);
    vtci_combine_end(&sum);
    if (z->first != 0)
        z->score[0] = INFINITY;
}

static vtc_status rank_rows(struct zip *z)
{
    const float *score = z->score + z->first;
    const size_t n = z->n_in - z->first;
    size_t n_rest = 0;

    sum_heads(z);
    VTCI_TRY(vtci_check_scores(z->call, score, n));
    vtci_top_k(z->order, score, n, z->params.dominant);
    for (size_t i = 0; i < z->n_in; i++)
        z->owner[i] = i < z->first ? -1 : 0;
    for (size_t i = 0; i < z->params.dominant; i++) {
        z->order[i] += (int32_t)z->first;
        z->owner[z->order[i]] = -1;
    }
    for (size_t i = 0; i < z->n_in; i++)
        if (z->owner[i] == 0)
            z->rest[n_rest++] = (int32_t)i;
    return VTC_OK;
}

/* ---- contextual rows ------------------------------------------------------------------------- */

/* Between two targets among the rest. */
static size_t target_step(const struct zip *z)
{
    return z->n_rest / z->params.contextual;
}

/* y = the metric of the rest's row `place`, scaled to length 1; zeros without a direction. */
static void unit_row(const struct zip *z, size_t place, float *y)
{
    const size_t d = z->metric.n_cols;
    const char *row = vtci_row(&z->metric, 0, (size_t)z->rest[place]);

    if (!vtci_unit_row(y, vtci_load_row(row, z->metric.dtype, d, y), d))
        memset(y, 0, d * sizeof(*y));
}

/* product [contextual, TILE] of the targets with m rows: equal targets have equal bits. */
static void compare_targets(const struct zip *z, const float *const *x, size_t m, float *product)
{
    enum { TARGETS = 16 }; /* whose pointers are on the stack */
    const size_t d = z->metric.n_cols, n = z->params.contextual;

    for (size_t t = 0; t < n; t += TARGETS) {
        const size_t n_targets = vtci_min(TARGETS, n - t);
        const float *y[TARGETS];

        for (size_t r = 0; r < n_targets; r++)
            y[r] = z->targets + (t + r) * d;
        vtci_kernels_get()->dots(product + t * TILE, TILE, y, n_targets, 0, x, m, 0, 1, d);
    }
}

/* The largest product of each of m rows, the first target that has it, and the sum of all sizes. */
struct nearest {
    int32_t target[TILE];
    float product[TILE], size[TILE];
};

static void find_nearest(const float *product, size_t n, size_t m, struct nearest *best)
{
    for (size_t i = 0; i < TILE; i++) {
        best->target[i] = 0;
        best->product[i] = -INFINITY;
        best->size[i] = 0.0f;
    }
    for (size_t t = 0; t < n; t++, product += TILE)
        for (size_t i = 0; i < m; i++) {
            const float p = product[i], largest = best->product[i];
            const int32_t target = best->target[i], is_more = p > largest;

            best->product[i] = p > largest ? p : largest;
            best->target[i] = target + is_more * ((int32_t)t - target);
            best->size[i] += fabsf(p);
        }
}

/* Products of a row say which of n targets is nearest if none left the range, nor were all lost
 * below it: so not those of a row with NaN or Inf, or of zeros. */
static bool is_in_range(float size, size_t n)
{
    return size < 0x1p80f && size > 0x1p-80f * (float)n;
}

/* The target nearest to a row of any length, of which tmp gets a copy of length 1; -1: the row has
 * no direction. */
static int32_t nearest_to_unit(const struct zip *z, const float *x, float *tmp, float *product)
{
    const float *const unit = tmp;
    int32_t best = 0;

    if (!vtci_unit_row(tmp, x, z->metric.n_cols))
        return -1;
    compare_targets(z, &unit, 1, product);
    for (size_t t = 1; t < z->params.contextual; t++)
        if (product[t * TILE] > product[(size_t)best * TILE])
            best = (int32_t)t;
    return best;
}

static void assign_tile(void *job, size_t index, size_t worker)
{
    const struct zip *z = job;
    const size_t d = z->metric.n_cols, begin = index * TILE, step = target_step(z);
    const size_t m = vtci_min(TILE, z->n_rest - begin);
    float *rows = (float *)(void *)(z->slices + worker * z->slice_stride);
    float *product = rows + TILE * d;
    const float *x[TILE];
    struct nearest best;

    for (size_t i = 0; i < m; i++)
        x[i] = vtci_load_row(vtci_row(&z->metric, 0, (size_t)z->rest[begin + i]), z->metric.dtype,
                             d, rows + i * d);
    compare_targets(z, x, m, product);
    find_nearest(product, z->params.contextual, m, &best);
    for (size_t t = vtci_ceil_div(begin, step); t < z->params.contextual && t * step < begin + m;
         t++)
        best.size[t * step - begin] = 0.0f; /* a target must have a direction of its own */
    z->bad[index] = z->n_rest;
    for (size_t i = m; i-- > 0;) {
        const size_t place = begin + i;

        if (!is_in_range(best.size[i], z->params.contextual))
            best.target[i] = nearest_to_unit(z, x[i], rows + i * d, product);
        if (best.target[i] < 0)
            z->bad[index] = place;
        z->owner[z->rest[place]] = best.target[i];
    }
}

static vtc_status assign_rest(struct zip *z)
{
    const size_t n_tiles = vtci_ceil_div(z->n_rest, TILE), contextual = z->params.contextual;

    if (contextual == 0)
        return VTC_OK;
    for (size_t t = 0; t < contextual; t++)
        unit_row(z, t * target_step(z), z->targets + t * z->metric.n_cols);
    vtci_parallel(z->call, n_tiles, assign_tile, z);
    for (size_t i = 0; i < n_tiles; i++)
        VTCI_REQUIRE(z->call, z->bad[i] == z->n_rest, VTC_ERR_DATA,
                     "metric row %d is zero or not finite, so it has no cosine",
                     (int)z->rest[z->bad[i]]);
    for (size_t t = 0; t < contextual; t++) {
        z->owner[z->rest[t * target_step(z)]] = (int32_t)t;
        z->joined[t] = -1; /* the target itself is counted too */
    }
    for (size_t i = 0; i < z->n_rest; i++)
        z->joined[z->owner[z->rest[i]]]++;
    for (size_t t = 0; t < contextual; t++)
        z->share[t] = z->joined[t] == 0 ? 0.0f : (float)(1.0 / z->joined[t]);
    return VTC_OK;
}

/* ---- the plan -------------------------------------------------------------------------------- */

static float mass_of(const float *mass, int32_t row)
{
    return mass == NULL ? 1.0f : mass[row];
}

/* [CLS] and the dominant rows; returns their number. */
static size_t write_kept(const struct zip *z, const float *mass, vtc_plan *plan, bool entries)
{
    size_t j = 0;

    for (size_t i = 0; i < z->n_in; i++) {
        if (z->owner[i] >= 0)
            continue;
        plan->keep[j] = (int32_t)i;
        plan->mass[j] = mass_of(mass, (int32_t)i);
        if (entries) {
            plan->begin[j] = (int32_t)j;
            plan->source[j] = (int32_t)i;
            plan->weight[j] = 1.0f;
        }
        j++;
    }
    return j;
}

/* The contextual outputs from output `first` on, whose entries begin there too. begin[j + 1] is
 * where the next row of output j goes, and so at last where the output ends. */
static void write_contextual(const struct zip *z, size_t first, const float *mass, vtc_plan *plan)
{
    int32_t *next = plan->begin + first + 1;
    int32_t at = (int32_t)first;

    plan->begin[first] = at;
    for (size_t t = 0; t < z->params.contextual; t++) {
        next[t] = at;
        at += z->joined[t] + 1;
    }
    for (size_t i = 0, n_targets = 0; i < z->n_rest; i++) {
        const int32_t row = z->rest[i], t = z->owner[row], e = next[t]++;

        plan->source[e] = row;
        plan->weight[e] = z->share[t];
        if (n_targets < z->params.contextual && i == n_targets * target_step(z)) {
            plan->weight[e] = 1.0f;
            plan->keep[first + n_targets++] = row;
        }
    }
    for (size_t t = 0; t < z->params.contextual; t++) {
        double total = 0.0;

        for (int32_t e = plan->begin[first + t]; e < plan->begin[first + t + 1]; e++)
            total += mass_of(mass, plan->source[e]);
        plan->mass[first + t] = (float)total;
    }
}

static void write_plan(const struct zip *z, const float *mass, vtc_plan *plan)
{
    const vtc_plan_count n = count_of(z);
    const size_t n_kept = write_kept(z, mass, plan, n.n_nnz != 0);

    if (z->params.contextual != 0)
        write_contextual(z, n_kept, mass, plan);
    for (size_t i = 0; plan->score != NULL && i < z->n_in; i++)
        plan->score[i] = z->score[i];
    vtci_plan_finish(plan, n.n_in, n.n_out, n.n_nnz, VTC_SUM);
}

/* ---- the call -------------------------------------------------------------------------------- */

/* Room for the plan, and inputs apart from it. */
static vtc_status check_plan(const struct zip *z, const vtc_tensor *metric, const float *mass,
                             const vtc_plan *plan)
{
    const vtc_plan_count n = count_of(z);

    VTCI_TRY(vtci_plan_open(z->call, plan, n.n_in, n.n_out, n.n_nnz));
    VTCI_TRY(vtci_plan_check_apart(z->call, plan, n.n_in, n.n_out, n.n_nnz, "cls_attention",
                                   z->cls->data, vtci_span_bytes(z->cls)));
    if (z->params.contextual != 0)
        VTCI_TRY(vtci_plan_check_apart(z->call, plan, n.n_in, n.n_out, n.n_nnz, "metric",
                                       metric->data, vtci_span_bytes(metric)));
    VTCI_TRY(vtci_plan_check_apart(z->call, plan, n.n_in, n.n_out, n.n_nnz, "mass", mass,
                                   n.n_in * sizeof(*mass)));
    return vtci_check_masses(z->call, mass, n.n_in);
}

/* One array of the trace, apart from the plan and the inputs. */
static vtc_status check_trace_array(const struct zip *z, const vtc_tensor *metric,
                                    const float *mass, const vtc_plan *plan, const int32_t *array,
                                    size_t bytes)
{
    const vtc_plan_count n = count_of(z);
    const vtc_tensor *const views[] = { z->cls, z->params.contextual == 0 ? NULL : metric };

    VTCI_TRY(vtci_plan_check_apart(z->call, plan, n.n_in, n.n_out, n.n_nnz, "trace", array, bytes));
    for (int i = 0; i < 2; i++)
        VTCI_REQUIRE(z->call,
                     array == NULL || views[i] == NULL ||
                         !vtci_ranges_meet(array, bytes, views[i]->data, vtci_span_bytes(views[i])),
                     VTC_ERR_OVERLAP, "an array of trace overlaps an input");
    VTCI_REQUIRE(z->call,
                 array == NULL || mass == NULL ||
                     !vtci_ranges_meet(array, bytes, mass, n.n_in * sizeof(*mass)),
                 VTC_ERR_OVERLAP, "an array of trace overlaps mass");
    return VTC_OK;
}

static vtc_status open_trace(const struct zip *z, const vtc_visionzip_trace *from,
                             const vtc_tensor *metric, const float *mass, const vtc_plan *plan,
                             vtc_visionzip_trace *trace)
{
    const size_t selected = (z->first + z->params.dominant) * sizeof(int32_t);
    const size_t targets = z->params.contextual * sizeof(int32_t);

    VTCI_TRY(vtci_params_read(z->call, trace, sizeof(*trace), from));
    VTCI_TRY(check_trace_array(z, metric, mass, plan, trace->selected, selected));
    VTCI_TRY(check_trace_array(z, metric, mass, plan, trace->targets, targets));
    VTCI_REQUIRE(z->call,
                 trace->selected == NULL || trace->targets == NULL ||
                     !vtci_ranges_meet(trace->selected, selected, trace->targets, targets),
                 VTC_ERR_OVERLAP, "arrays of trace overlap each other");
    return VTC_OK;
}

static void write_trace(const struct zip *z, const vtc_visionzip_trace *trace)
{
    for (size_t i = 0; trace->selected != NULL && i < z->first; i++)
        trace->selected[i] = 0;
    for (size_t i = 0; trace->selected != NULL && i < z->params.dominant; i++)
        trace->selected[z->first + i] = z->order[i];
    for (size_t t = 0; trace->targets != NULL && t < z->params.contextual; t++)
        trace->targets[t] = z->rest[t * target_step(z)];
}

/* Owners of all rows, or the error in the data. */
static vtc_status decide(struct zip *z)
{
    vtci_arena arena = vtci_arena_open(z->call);

    lay_out(&arena, z);
    VTCI_TRY(vtci_arena_check(z->call, &arena));
    VTCI_TRY(rank_rows(z));
    return assign_rest(z);
}

vtc_status vtci_visionzip_check(const vtc_visionzip_params *params, const vtc_tensor *cls_attention,
                                const vtc_tensor *metric, const vtc_exec *exec)
{
    vtci_call call;
    struct zip z;

    VTCI_TRY(vtci_begin(&call, "vtc_visionzip", exec));
    VTCI_TRY(open_zip(&call, params, cls_attention, metric, &z));
    return decide(&z);
}

vtc_status vtc_visionzip(const vtc_visionzip_params *params, const vtc_tensor *cls_attention,
                         const vtc_tensor *metric, const float *mass, vtc_plan *plan,
                         const vtc_visionzip_trace *trace, const vtc_exec *exec)
{
    vtc_visionzip_trace out = VTC_VISIONZIP_TRACE_INIT;
    vtci_call call;
    struct zip z;

    VTCI_TRY(vtci_begin(&call, "vtc_visionzip", exec));
    VTCI_TRY(open_zip(&call, params, cls_attention, metric, &z));
    VTCI_TRY(check_plan(&z, metric, mass, plan));
    VTCI_TRY(open_trace(&z, trace, metric, mass, plan, &out));
    VTCI_TRY(decide(&z));
    write_trace(&z, &out);
    write_plan(&z, mass, plan);
    return VTC_OK;
}
