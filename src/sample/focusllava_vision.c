/*
 * FocusLLaVA's vision-guided sampler: one scale for each region of the map.
 *
 * Source: Zhu et al., arXiv 2411.14228, of which only summaries were at hand; vtc/sample.h says
 * what is known and what is this library's choice. There is no official code to depart from.
 *
 *     g = mean of the map        for each region and scale: tokens = pooled cells, then a score
 *     scale of a region = argmax of its scores (or the first that reaches tau)
 *
 * Tokens are pooled into a row of the worker's and forgotten: the plan names the positions, and
 * vtc_plan_apply() pools those that are kept. So the map is read once for g, and once for each
 * scale while the region is in cache.
 */
#include "focusllava.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../linalg/weight_check.h"
#include "../plan/plan.h"

#include <float.h>
#include <math.h>

static const vtc_weight router_weights[] = {
    { "router.weight", offsetof(vtc_linear, weight), 2, 0 },
    { "router.bias", offsetof(vtc_linear, bias), 1, 1 },
};

const vtc_weight_table vtc_focusllava_router_table = {
    "FocusLLaVA router", router_weights, sizeof(router_weights) / sizeof(*router_weights)
};

/* ---- sizes ----------------------------------------------------------------------------------- */

vtc_status vtc_focusllava_vision_size(const vtc_focusllava_vision_params *params, size_t grid_h,
                                      size_t grid_w, vtc_focusllava_size *size,
                                      const vtc_exec *exec)
{
    vtci_focus f = { 0 };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_vision_size", exec));
    VTCI_TRY(vtci_focus_params(&call, &f.params, params));
    VTCI_TRY(vtci_focus_grid(&call, grid_h, grid_w, &f));
    VTCI_REQUIRE_PTR(&call, size);
    *size = vtci_focus_size(&f);
    return VTC_OK;
}

vtc_status vtc_focusllava_vision_count(const vtc_focusllava_vision_params *params, size_t grid_h,
                                       size_t grid_w, vtc_plan_count *count, const vtc_exec *exec)
{
    vtci_focus f = { 0 };
    vtc_focusllava_size size;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_vision_count", exec));
    VTCI_TRY(vtci_focus_params(&call, &f.params, params));
    VTCI_TRY(vtci_focus_grid(&call, grid_h, grid_w, &f));
    VTCI_REQUIRE_PTR(&call, count);
    size = vtci_focus_size(&f);
    *count = (vtc_plan_count){ vtci_focus_rows(&f), size.most, vtci_focus_rows(&f),
                               size.least == size.most };
    return VTC_OK;
}

/* ---- one call -------------------------------------------------------------------------------- */

struct vision {
    vtci_focus map;
    vtci_rows weight; /* [S, 2 C] of the router */
    float bias[VTC_FOCUSLLAVA_MAX_SCALES];
    float *scores;  /* [n_regions, S] */
    int32_t *scale; /* [n_regions]    */
    size_t n_regions, n_out;
};

static size_t n_scales(const struct vision *v)
{
    return v->map.params.n_pools;
}

static vtc_status open_router(const vtci_call *call, const vtc_linear *router, struct vision *v)
{
    const vtci_owner owner = { call, NULL, 1, "router." };

    if (v->map.params.route != VTC_FOCUSLLAVA_LINEAR)
        return VTC_OK;
    VTCI_REQUIRE(call, router != NULL, VTC_ERR_NULL, "the linear route needs a router");
    VTCI_TRY(vtci_check_matrix(&owner, "", "weight", &router->weight, n_scales(v),
                               vtci_mul(2, v->map.x.n_cols)));
    VTCI_TRY(vtci_check_bias(&owner, "", &router->bias, n_scales(v)));
    v->weight = vtci_rows_of(&router->weight);
    for (size_t s = 0; s < n_scales(v); s++)
        v->bias[s] = 0.0f;
    if (!call->query && !vtc_tensor_is_absent(&router->bias)) {
        float tmp[VTC_FOCUSLLAVA_MAX_SCALES];
        const float *bias = vtci_load_row(router->bias.data, router->bias.dtype, n_scales(v), tmp);

        for (size_t s = 0; s < n_scales(v); s++)
            v->bias[s] = bias[s];
    }
    return VTC_OK;
}

static vtc_status open_vision(const vtci_call *call, const vtc_focusllava_vision_params *params,
                              const vtc_tensor *x, const vtc_linear *router, struct vision *v)
{
    *v = (struct vision){ 0 };
    VTCI_TRY(vtci_focus_open(call, params, x, &v->map));
    v->n_regions = v->map.n_down * v->map.n_across;
    return open_router(call, router, v);
}

static void lay_out(vtci_arena *arena, struct vision *v)
{
    vtci_focus_lay_out(arena, &v->map);
    v->scores = vtci_take(arena, vtci_mul(v->n_regions, n_scales(v)), sizeof(*v->scores));
    v->scale = vtci_take(arena, v->n_regions, sizeof(*v->scale));
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* The mean over a scale's tokens of their cosine with the mean of the map. */
static double similarity(const vtci_focus *f, const vtci_box *region, size_t s,
                         const vtci_focus_slice *slice)
{
    const size_t n = vtci_focus_cells(f, region, s).n;
    const double *cosine = slice->cosine + vtci_focus_first_cell(f, region, s);
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += cosine[i];
    return sum / (double)n;
}

static void measure_positions(const vtci_focus *f, const vtci_box *region,
                              const vtci_focus_slice *slice)
{
    double *length = slice->length;

    for (size_t r = region->r0; r < region->r1; r++)
        for (size_t c = region->c0; c < region->c1; c++)
            *length++ = vtci_focus_length(vtci_focus_row(f, r, c, slice->rows), f->x.n_cols);
}

/* The sum over a cell's positions of their cosine with its token. */
static double cell_fidelity(const vtci_focus *f, const vtci_box *region, const vtci_box *cell,
                            const float *token, const vtci_focus_slice *slice)
{
    const size_t n = f->x.n_cols, across = region->c1 - region->c0;
    const double token_length = vtci_focus_length(token, n);
    double sum = 0.0;

    for (size_t r = cell->r0; r < cell->r1; r++)
        for (size_t c = cell->c0; c < cell->c1; c++) {
            const float *x = vtci_focus_row(f, r, c, slice->rows);
            const double length = slice->length[(r - region->r0) * across + c - region->c0];

            sum += vtci_focus_cosine(x, length, token, token_length, n);
        }
    return sum;
}

/* How well a scale's tokens still describe the region. */
static double fidelity(const vtci_focus *f, const vtci_box *region, size_t s,
                       const vtci_focus_slice *slice)
{
    const vtci_cells cells = vtci_focus_cells(f, region, s);
    double sum = 0.0;

    for (size_t i = 0; i < cells.n; i++) {
        const vtci_box cell = vtci_cell(&cells, i);

        sum += cell_fidelity(f, region, &cell, vtci_focus_token(f, &cells, s, i, slice), slice);
    }
    return sum / (double)vtci_box_area(region);
}

/* router.weight [mean ; g] + router.bias; the region's mean lies in slice->token. */
static double linear(const struct vision *v, size_t s, const float *mean,
                     const vtci_focus_slice *slice)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t c = v->map.x.n_cols, size = vtc_dtype_size(v->weight.dtype);
    const char *row = vtci_row(&v->weight, 0, s);
    double score = v->bias[s];

    score += k->dot(vtci_load_row(row, v->weight.dtype, c, slice->rows), mean, c);
    score += k->dot(vtci_load_row(row + c * size, v->weight.dtype, c, slice->rows), v->map.mean, c);
    return score;
}

static int32_t choose(const struct vision *v, const float *scores)
{
    size_t best = 0;

    if (v->map.params.route == VTC_FOCUSLLAVA_FIDELITY) {
        while (best + 1 < n_scales(v) && !(scores[best] >= v->map.params.tau))
            best++;
        return (int32_t)best;
    }
    for (size_t s = 1; s < n_scales(v); s++)
        if (scores[s] > scores[best])
            best = s;
    return (int32_t)best;
}

static void score_region(void *job, size_t index, size_t worker)
{
    const struct vision *v = job;
    const vtci_focus *f = &v->map;
    const vtci_focus_slice slice = vtci_focus_slice_of(f, worker);
    const vtci_box region = vtci_focus_region(f, index);
    float *scores = v->scores + index * n_scales(v);
    const float *mean = NULL;

    if (f->params.route == VTC_FOCUSLLAVA_SIMILARITY)
        vtci_focus_cosines(f, &region, &slice);
    if (f->params.route == VTC_FOCUSLLAVA_FIDELITY)
        measure_positions(f, &region, &slice);
    if (f->params.route == VTC_FOCUSLLAVA_LINEAR)
        mean = vtci_focus_average(f, &region, slice.token);
    for (size_t k = 0; k < n_scales(v); k++) {
        const size_t s = f->order[k];

        if (f->params.route == VTC_FOCUSLLAVA_SIMILARITY)
            scores[s] = (float)similarity(f, &region, s, &slice);
        else if (f->params.route == VTC_FOCUSLLAVA_FIDELITY)
            scores[s] = (float)fidelity(f, &region, s, &slice);
        else
            scores[s] = (float)linear(v, s, mean, &slice);
    }
    v->scale[index] = choose(v, scores);
}

/* Scores, scales and the number of tokens. */
static vtc_status decide(struct vision *v)
{
    VTCI_TRY(vtci_focus_mean(&v->map));
    vtci_parallel(v->map.call, v->n_regions, score_region, v);
    v->n_out = 0;
    for (size_t i = 0; i < v->n_regions; i++) {
        const vtci_box region = vtci_focus_region(&v->map, i);

        for (size_t s = 0; s < n_scales(v); s++)
            VTCI_REQUIRE(v->map.call, fabsf(v->scores[i * n_scales(v) + s]) <= FLT_MAX,
                         VTC_ERR_DATA, "the score of region %zu at scale %zu is not finite", i, s);
        v->n_out += vtci_focus_cells(&v->map, &region, (size_t)v->scale[i]).n;
    }
    return VTC_OK;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* The chosen scale's share of the softmax, or 1 without a gate. */
static double gate(const struct vision *v, size_t region)
{
    const vtc_focusllava_vision_params *p = &v->map.params;
    const float *scores = v->scores + region * n_scales(v);
    const float chosen = scores[v->scale[region]];
    double sum = 0.0;

    if (p->gate_scale == 0 || (p->gate_scale < 0 && p->route != VTC_FOCUSLLAVA_LINEAR))
        return 1.0;
    for (size_t s = 0; s < n_scales(v); s++)
        sum += exp((double)scores[s] - chosen);
    return 1.0 / sum;
}

static double cell_mass(const vtci_focus *f, const vtci_box *cell, const float *mass)
{
    double sum = 0.0;

    if (mass == NULL)
        return (double)vtci_box_area(cell);
    for (size_t r = cell->r0; r < cell->r1; r++)
        for (size_t c = cell->c0; c < cell->c1; c++)
            sum += mass[r * f->grid_w + c];
    return sum;
}

static void write_score(const struct vision *v, const vtci_box *region, float score,
                        const vtc_plan *plan)
{
    for (size_t r = region->r0; plan->score != NULL && r < region->r1; r++)
        for (size_t c = region->c0; c < region->c1; c++)
            plan->score[r * v->map.grid_w + c] = score;
}

static void write_plan(const struct vision *v, const float *mass, vtc_plan *plan, int32_t *boxes)
{
    const vtci_focus *f = &v->map;
    int32_t at = 0;
    size_t j = 0;

    for (size_t i = 0; i < v->n_regions; i++) {
        const vtci_box region = vtci_focus_region(f, i);
        const size_t s = (size_t)v->scale[i];
        const vtci_cells cells = vtci_focus_cells(f, &region, s);
        const double scaled = gate(v, i);

        write_score(v, &region, v->scores[i * n_scales(v) + s], plan);
        for (size_t k = 0; k < cells.n; k++, j++) {
            const vtci_box cell = vtci_cell(&cells, k);
            const float weight = (float)(vtci_focus_weight(f, &cell) * scaled);

            at = vtci_focus_write_cell(f, &cell, weight, plan, j, at);
            plan->mass[j] = (float)cell_mass(f, &cell, mass);
            if (boxes != NULL)
                vtci_focus_write_box(boxes, j, &cell);
        }
    }
    if (plan->begin != NULL)
        plan->begin[j] = at;
    vtci_plan_finish(plan, vtci_focus_rows(f), j, (size_t)at, vtci_focus_reduce(f));
}

/* Room, and memory that must not be shared. */
static vtc_status check_outputs(const struct vision *v, const vtc_plan *plan, size_t n_out,
                                const vtc_tensor *x, const vtc_linear *router, const float *mass,
                                const vtc_focusllava_vision_trace *trace)
{
    const vtci_call *call = v->map.call;
    const size_t n = vtci_focus_rows(&v->map), n_scores = v->n_regions * n_scales(v);
    const vtci_focus_array arrays[] = {
        { trace->boxes, 4 * n_out * sizeof(*trace->boxes) },
        { trace->scale, v->n_regions * sizeof(*trace->scale) },
        { trace->scores, n_scores * sizeof(*trace->scores) },
    };

    VTCI_TRY(vtci_focus_check_outputs(&v->map, plan, n_out, n, x, mass, arrays, 3));
    if (v->map.params.route != VTC_FOCUSLLAVA_LINEAR)
        return VTC_OK;
    VTCI_TRY(vtci_plan_check_apart(call, plan, n, n_out, n, "router.weight", router->weight.data,
                                   vtci_span_bytes(&router->weight)));
    for (int i = 0; i < 3; i++)
        VTCI_REQUIRE(call,
                     arrays[i].data == NULL ||
                         !vtci_ranges_meet(arrays[i].data, arrays[i].bytes, router->weight.data,
                                           vtci_span_bytes(&router->weight)),
                     VTC_ERR_OVERLAP, "an array of trace overlaps router.weight");
    return VTC_OK;
}

static void write_trace(const struct vision *v, const vtc_focusllava_vision_trace *trace)
{
    for (size_t i = 0; trace->scale != NULL && i < v->n_regions; i++)
        trace->scale[i] = v->scale[i];
    for (size_t i = 0; trace->scores != NULL && i < v->n_regions * n_scales(v); i++)
        trace->scores[i] = v->scores[i];
}

vtc_status vtc_focusllava_vision_scratch(const vtc_focusllava_vision_params *params,
                                         const vtc_tensor *x, const vtc_linear *router,
                                         const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct vision v;

    VTCI_TRY(vtci_begin_query(&call, "vtc_focusllava_vision_scratch", exec, bytes));
    VTCI_TRY(open_vision(&call, params, x, router, &v));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &v);
    return vtci_end_query(&call, &arena, bytes);
}

/* All that can fail; writes nothing but scratch. plan NULL: only what the data decide. */
static vtc_status prepare(const vtci_call *call, const vtc_focusllava_vision_params *params,
                          const vtc_tensor *x, const vtc_linear *router, const float *mass,
                          size_t most, const vtc_plan *plan,
                          const vtc_focusllava_vision_trace *trace, struct vision *v)
{
    vtci_arena arena;

    VTCI_TRY(open_vision(call, params, x, router, v));
    arena = vtci_arena_open(call);
    lay_out(&arena, v);
    VTCI_TRY(vtci_arena_check(call, &arena));
    if (plan != NULL) {
        const vtc_focusllava_size size = vtci_focus_size(&v->map);

        VTCI_TRY(check_outputs(v, plan, size.least, x, router, mass, trace));
        VTCI_TRY(vtci_check_masses(call, mass, vtci_focus_rows(&v->map)));
    }
    VTCI_TRY(decide(v));
    VTCI_REQUIRE(call, v->n_out <= most, VTC_ERR_BUDGET,
                 "the route gives %zu tokens, the budget is %zu", v->n_out, most);
    return plan == NULL ? VTC_OK : check_outputs(v, plan, v->n_out, x, router, mass, trace);
}

vtc_status vtci_focusllava_vision_within(const vtc_focusllava_vision_params *params,
                                         const vtc_tensor *x, const vtc_linear *router,
                                         const float *mass, size_t most, vtc_plan *plan,
                                         const vtc_focusllava_vision_trace *trace,
                                         const vtc_exec *exec)
{
    vtc_focusllava_vision_trace t = VTC_FOCUSLLAVA_VISION_TRACE_INIT;
    vtci_call call;
    struct vision v;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_vision", exec));
    VTCI_TRY(vtci_params_read(&call, &t, sizeof(t), trace));
    VTCI_TRY(prepare(&call, params, x, router, mass, most, plan, &t, &v));
    if (plan == NULL)
        return VTC_OK;
    write_trace(&v, &t);
    write_plan(&v, mass, plan, t.boxes);
    return VTC_OK;
}

vtc_status vtc_focusllava_vision(const vtc_focusllava_vision_params *params, const vtc_tensor *x,
                                 const vtc_linear *router, const float *mass, vtc_plan *plan,
                                 const vtc_focusllava_vision_trace *trace, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_vision", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    return vtci_focusllava_vision_within(params, x, router, mass, SIZE_MAX, plan, trace, exec);
}
