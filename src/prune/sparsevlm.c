/*
 * SparseVLM 1.x: one pruning step. The best tokens are kept, the best of the others come back as a
 * few clusters.
 *
 * Source: Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
 * Inference", ICML 2025, and the authors' code in its default mode.
 *
 *     score_j = mean over heads and raters of the attention to vision token j
 *     keep the min(n_keep, N - 1) best; of the p others cluster the m = int(0.3 p) + 1 best into
 *     m div 10 + 1 groups, each of which becomes sum / (count + 1e-6)
 *
 * The authors leave ties open and add random numbers to the clusters' densities; here the lower row
 * wins, and the noise is the caller's or none. The clustering is in density_cluster.c.
 */
#include "sparsevlm.h"
#include "../../include/vtc/guided.h"
#include "../linalg/order.h"
#include "../plan/plan.h"
#include "density_cluster.h"
#include "selection.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct sparse {
    const vtci_call *call;
    vtc_sparsevlm_size size;
    size_t n_in;
    vtci_density groups;
    int32_t *order;   /* [N] the kept rows, then the recycled ones by falling score */
    int32_t *cluster; /* [N] of each row; -1: none                                  */
    int32_t *count;   /* [n_clusters] rows of each                                  */
};

/* ---- sizes ----------------------------------------------------------------------------------- */

vtc_status vtc_sparsevlm_schedule(size_t average, size_t per_layer[3], const vtc_exec *exec)
{
    static const size_t counts[][4] = {
        { 192, 300, 200, 110 },
        { 128, 303, 110, 36 },
        { 96, 238, 48, 26 },
        { 64, 66, 30, 17 },
    };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm_schedule", exec));
    VTCI_REQUIRE_PTR(&call, per_layer);
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
        if (counts[i][0] == average) {
            memcpy(per_layer, counts[i] + 1, 3 * sizeof(*per_layer));
            return VTC_OK;
        }
    return vtci_fail(&call, VTC_ERR_RANGE, "the average is %zu, 192, 128, 96 or 64 is needed",
                     average);
}

static vtc_status read_params(const vtci_call *call, const vtc_sparsevlm_params *from, size_t n_in,
                              vtc_sparsevlm_size *size)
{
    vtc_sparsevlm_params p = VTC_SPARSEVLM_PARAMS_INIT;

    VTCI_TRY(vtci_params_read(call, &p, sizeof(p), from));
    VTCI_REQUIRE(call, n_in <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu rows exceed int32", n_in);
    *size = vtci_sparsevlm_sizes(n_in, p.n_keep, p.recycle != 0);
    return VTC_OK;
}

vtc_sparsevlm_size vtci_sparsevlm_sizes(size_t n_in, size_t n_keep, bool recycle)
{
    vtc_sparsevlm_size size = { 0, 0, 0 };

    if (n_in == 0)
        return size;
    size.n_kept = vtci_min(n_keep, n_in - 1);
    if (recycle) {
        size.n_recycled = (size_t)((double)(n_in - size.n_kept) * 0.3) + 1;
        size.n_clusters = size.n_recycled / 10 + 1;
    }
    return size;
}

vtc_status vtc_sparsevlm_sizes(const vtc_sparsevlm_params *params, size_t n_in,
                               vtc_sparsevlm_size *size, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm_sizes", exec));
    VTCI_REQUIRE_PTR(&call, size);
    return read_params(&call, params, n_in, size);
}

static vtc_plan_count count_of(const vtc_sparsevlm_size *size, size_t n_in)
{
    const size_t n_nnz = size->n_recycled == 0 ? 0 : size->n_kept + size->n_recycled;

    return (vtc_plan_count){ n_in, size->n_kept + size->n_clusters, n_nnz, 1 };
}

vtc_status vtc_sparsevlm_count(const vtc_sparsevlm_params *params, size_t n_in,
                               vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_sparsevlm_size size = { 0, 0, 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(read_params(&call, params, n_in, &size));
    *count = count_of(&size, n_in);
    return VTC_OK;
}

static vtc_status open_step(const vtci_call *call, const vtc_sparsevlm_params *params, size_t n_in,
                            const vtc_tensor *hidden, struct sparse *s)
{
    *s = (struct sparse){ 0 };
    s->call = call;
    s->n_in = n_in;
    VTCI_TRY(read_params(call, params, n_in, &s->size));
    s->groups.call = call;
    s->groups.n = s->size.n_recycled;
    s->groups.k = s->size.n_clusters;
    if (s->size.n_recycled == 0)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "hidden", hidden, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, hidden->dim[0] == n_in, VTC_ERR_SHAPE, "hidden has %zu rows, score %zu",
                 hidden->dim[0], n_in);
    s->groups.x = vtci_rows_of(hidden);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct sparse *s)
{
    s->order = vtci_take(arena, s->n_in, sizeof(*s->order));
    s->cluster = vtci_take(arena, s->n_in, sizeof(*s->cluster));
    s->count = vtci_take(arena, s->size.n_clusters, sizeof(*s->count));
    if (s->size.n_recycled != 0)
        vtci_density_lay_out(arena, &s->groups);
}

vtc_status vtc_sparsevlm_scratch(const vtc_sparsevlm_params *params, size_t n_in,
                                 const vtc_tensor *hidden, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct sparse s;

    VTCI_TRY(vtci_begin_query(&call, "vtc_sparsevlm_scratch", exec, bytes));
    VTCI_TRY(open_step(&call, params, n_in, hidden, &s));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- the decision ---------------------------------------------------------------------------- */

static vtc_status recycle(struct sparse *s, const float *noise)
{
    vtci_density *d = &s->groups;

    d->row = s->order + s->size.n_kept;
    d->noise = noise;
    for (size_t i = 0; noise != NULL && i < d->n; i++)
        VTCI_REQUIRE(s->call, fabsf(noise[i]) <= FLT_MAX, VTC_ERR_DATA, "noise[%zu] is %g", i,
                     (double)noise[i]);
    VTCI_TRY(vtci_density_run(d));
    memset(s->count, 0, d->k * sizeof(*s->count));
    for (size_t i = 0; i < d->n; i++) {
        s->cluster[d->row[i]] = d->cluster[i];
        s->count[d->cluster[i]]++;
    }
    return VTC_OK;
}

/* The kept rows ascending, then the recycled ones by falling score, in `order`. */
static vtc_status decide(struct sparse *s, const float *score, const float *noise)
{
    VTCI_TRY(vtci_check_scores(s->call, score, s->n_in));
    vtci_top_k(s->order, score, s->n_in, s->size.n_kept + s->size.n_recycled);
    vtci_sort_i32(s->order, s->size.n_kept);
    for (size_t i = 0; i < s->n_in; i++)
        s->cluster[i] = -1;
    return s->size.n_recycled == 0 ? VTC_OK : recycle(s, noise);
}

/* ---- the plan -------------------------------------------------------------------------------- */

static float mass_of(const float *mass, int32_t row)
{
    return mass == NULL ? 1.0f : mass[row];
}

static void write_kept(const struct sparse *s, const float *mass, vtc_plan *plan)
{
    for (size_t j = 0; j < s->size.n_kept; j++) {
        plan->keep[j] = s->order[j];
        plan->mass[j] = mass_of(mass, s->order[j]);
        if (s->size.n_recycled != 0) {
            plan->begin[j] = (int32_t)j;
            plan->source[j] = s->order[j];
            plan->weight[j] = 1.0f;
        }
    }
}

/* The clusters, behind the kept rows. begin[j + 1] is where the next row of output j goes, and so
 * at last where the output ends. */
static void write_clusters(const struct sparse *s, const float *mass, vtc_plan *plan)
{
    const size_t first = s->size.n_kept;
    int32_t *next = plan->begin + first + 1;
    int32_t at = (int32_t)first;

    plan->begin[first] = at;
    for (size_t g = 0; g < s->size.n_clusters; g++) {
        plan->keep[first + g] = s->groups.row[s->groups.centre[g]];
        next[g] = at;
        at += s->count[g];
    }
    for (size_t i = 0; i < s->n_in; i++) {
        const int32_t g = s->cluster[i];

        if (g < 0)
            continue;
        plan->source[next[g]] = (int32_t)i;
        plan->weight[next[g]++] = 1.0f / ((float)s->count[g] + 1e-6f);
    }
    for (size_t j = first; j < first + s->size.n_clusters; j++) {
        double total = 0.0;

        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
            total += mass_of(mass, plan->source[e]);
        plan->mass[j] = (float)total;
    }
}

static void write_plan(const struct sparse *s, const float *score, const float *mass,
                       vtc_plan *plan)
{
    const vtc_plan_count n = count_of(&s->size, s->n_in);

    write_kept(s, mass, plan);
    if (s->size.n_recycled != 0)
        write_clusters(s, mass, plan);
    for (size_t i = 0; plan->score != NULL && i < s->n_in; i++)
        plan->score[i] = score[i];
    vtci_plan_finish(plan, n.n_in, n.n_out, n.n_nnz, VTC_SUM);
}

/* ---- the call -------------------------------------------------------------------------------- */

struct input {
    const char *name;
    const void *data;
    size_t bytes;
};

enum { N_INPUTS = 4 };

static void list_inputs(const struct sparse *s, const float *score, const vtc_tensor *hidden,
                        const float *noise, const float *mass, struct input list[N_INPUTS])
{
    const bool recycles = s->size.n_recycled != 0;
    const struct input all[N_INPUTS] = {
        { "score", score, s->n_in * sizeof(*score) },
        { "hidden", recycles ? hidden->data : NULL, recycles ? vtci_span_bytes(hidden) : 0 },
        { "noise", recycles ? noise : NULL, s->size.n_recycled * sizeof(*noise) },
        { "mass", mass, s->n_in * sizeof(*mass) },
    };

    memcpy(list, all, sizeof(all));
}

/* Room for the plan, and inputs apart from it. */
static vtc_status check_plan(const struct sparse *s, const struct input list[N_INPUTS],
                             const float *mass, const vtc_plan *plan)
{
    const vtc_plan_count n = count_of(&s->size, s->n_in);

    VTCI_TRY(vtci_plan_open(s->call, plan, n.n_in, n.n_out, n.n_nnz));
    for (size_t i = 0; i < N_INPUTS; i++)
        VTCI_TRY(vtci_plan_check_apart(s->call, plan, n.n_in, n.n_out, n.n_nnz, list[i].name,
                                       list[i].data, list[i].bytes));
    return vtci_check_masses(s->call, mass, s->n_in);
}

static vtc_status check_trace_array(const struct sparse *s, const struct input list[N_INPUTS],
                                    const vtc_plan *plan, const int32_t *array)
{
    const vtc_plan_count n = count_of(&s->size, s->n_in);
    const size_t bytes = s->size.n_recycled * sizeof(*array);

    VTCI_TRY(vtci_plan_check_apart(s->call, plan, n.n_in, n.n_out, n.n_nnz, "trace", array, bytes));
    for (size_t i = 0; i < N_INPUTS; i++)
        VTCI_REQUIRE(s->call,
                     array == NULL || list[i].data == NULL ||
                         !vtci_ranges_meet(array, bytes, list[i].data, list[i].bytes),
                     VTC_ERR_OVERLAP, "an array of trace overlaps %s", list[i].name);
    return VTC_OK;
}

static vtc_status open_trace(const struct sparse *s, const struct input list[N_INPUTS],
                             const vtc_plan *plan, const vtc_sparsevlm_trace *from,
                             vtc_sparsevlm_trace *trace)
{
    const size_t bytes = s->size.n_recycled * sizeof(int32_t);

    VTCI_TRY(vtci_params_read(s->call, trace, sizeof(*trace), from));
    VTCI_TRY(check_trace_array(s, list, plan, trace->recycled));
    VTCI_TRY(check_trace_array(s, list, plan, trace->cluster));
    VTCI_REQUIRE(s->call,
                 trace->recycled == NULL || trace->cluster == NULL ||
                     !vtci_ranges_meet(trace->recycled, bytes, trace->cluster, bytes),
                 VTC_ERR_OVERLAP, "arrays of trace overlap each other");
    return VTC_OK;
}

static void write_trace(const struct sparse *s, const vtc_sparsevlm_trace *trace)
{
    for (size_t i = 0; trace->recycled != NULL && i < s->groups.n; i++)
        trace->recycled[i] = s->groups.row[i];
    for (size_t i = 0; trace->cluster != NULL && i < s->groups.n; i++)
        trace->cluster[i] = s->groups.cluster[i];
}

vtc_status vtc_sparsevlm(const vtc_sparsevlm_params *params, const float *score, size_t n_in,
                         const vtc_tensor *hidden, const float *noise, const float *mass,
                         vtc_plan *plan, const vtc_sparsevlm_trace *trace, const vtc_exec *exec)
{
    vtc_sparsevlm_trace out = VTC_SPARSEVLM_TRACE_INIT;
    struct input inputs[N_INPUTS];
    vtci_call call;
    vtci_arena arena;
    struct sparse s;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm", exec));
    VTCI_REQUIRE(&call, score != NULL || n_in == 0, VTC_ERR_NULL, "score is NULL");
    VTCI_TRY(open_step(&call, params, n_in, hidden, &s));
    list_inputs(&s, score, hidden, noise, mass, inputs);
    VTCI_TRY(check_plan(&s, inputs, mass, plan));
    VTCI_TRY(open_trace(&s, inputs, plan, trace, &out));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(decide(&s, score, noise));
    write_trace(&s, &out);
    write_plan(&s, score, mass, plan);
    return VTC_OK;
}

vtc_status vtci_sparsevlm_check(const vtc_sparsevlm_params *params, const float *score, size_t n_in,
                                const vtc_tensor *hidden, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct sparse s;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm", exec));
    VTCI_TRY(open_step(&call, params, n_in, hidden, &s));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    return decide(&s, score, NULL);
}
