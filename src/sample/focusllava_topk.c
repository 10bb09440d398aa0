/*
 * FocusLLaVA's tokens of all regions and scales in one list, of which the best are kept: the
 * literal reading of "the pooled tokens are compared with the global feature map and the top ones
 * are kept".
 *
 *     score of a candidate = cos(token, mean of the map)
 *
 * Details are this library's choice, see vtc/sample.h. Candidates are pooled to be scored, and
 * again by vtc_plan_apply() where they are kept: none is stored.
 */
#include "focusllava.h"

#include "../linalg/order.h"
#include "../plan/plan.h"

#include <float.h>
#include <math.h>

struct topk {
    vtci_focus map;
    vtc_focusllava_size size;
    size_t n_keep, n_nnz;
    float *scores;   /* [n_candidates]                                        */
    int32_t *order;  /* [n_candidates] first the kept ones, ascending         */
    int32_t *shares; /* [H W] kept outputs that hold a position               */
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static vtc_status check_budget(const vtci_call *call, const vtc_focusllava_size *size,
                               size_t n_keep)
{
    VTCI_REQUIRE(call, n_keep <= size->n_candidates, VTC_ERR_BUDGET,
                 "cannot keep %zu of %zu pooled tokens", n_keep, size->n_candidates);
    return VTC_OK;
}

/* No more than every scale's cells, nor than n_keep of the largest. */
static size_t most_entries(const vtci_focus *f, size_t n_keep)
{
    size_t pool = 1;

    for (size_t s = 0; s < f->params.n_pools; s++)
        pool = vtci_max(pool, f->params.pools[s]);
    return vtci_min(f->params.n_pools * vtci_focus_rows(f),
                    vtci_mul(n_keep,
                             vtci_mul(vtci_min(pool, f->grid_h), vtci_min(pool, f->grid_w))));
}

vtc_status vtc_focusllava_topk_count(const vtc_focusllava_vision_params *params, size_t grid_h,
                                     size_t grid_w, size_t n_keep, vtc_plan_count *count,
                                     const vtc_exec *exec)
{
    vtci_focus f = { 0 };
    vtc_focusllava_size size;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_topk_count", exec));
    VTCI_TRY(vtci_focus_params(&call, &f.params, params));
    VTCI_TRY(vtci_focus_grid(&call, grid_h, grid_w, &f));
    VTCI_REQUIRE_PTR(&call, count);
    size = vtci_focus_size(&f);
    VTCI_TRY(check_budget(&call, &size, n_keep));
    *count = (vtc_plan_count){ vtci_focus_rows(&f), n_keep, most_entries(&f, n_keep), 1 };
    return VTC_OK;
}

static vtc_status open_topk(const vtci_call *call, const vtc_focusllava_vision_params *params,
                            const vtc_tensor *x, size_t n_keep, struct topk *t, vtci_arena *arena)
{
    *t = (struct topk){ 0 };
    VTCI_TRY(vtci_focus_open(call, params, x, &t->map));
    t->size = vtci_focus_size(&t->map);
    t->n_keep = n_keep;
    VTCI_TRY(check_budget(call, &t->size, n_keep));
    *arena = vtci_arena_open(call);
    vtci_focus_lay_out(arena, &t->map);
    t->scores = vtci_take(arena, t->size.n_candidates, sizeof(*t->scores));
    t->order = vtci_take(arena, t->size.n_candidates, sizeof(*t->order));
    t->shares = vtci_take(arena, vtci_focus_rows(&t->map), sizeof(*t->shares));
    return vtci_arena_check(call, arena);
}

vtc_status vtc_focusllava_topk_scratch(const vtc_focusllava_vision_params *params,
                                       const vtc_tensor *x, size_t n_keep, const vtc_exec *exec,
                                       size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct topk t;

    VTCI_TRY(vtci_begin_query(&call, "vtc_focusllava_topk_scratch", exec, bytes));
    VTCI_TRY(open_topk(&call, params, x, n_keep, &t, &arena));
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- candidates ------------------------------------------------------------------------------ */

static void score_region(void *job, size_t index, size_t worker)
{
    const struct topk *t = job;
    const vtci_focus_slice slice = vtci_focus_slice_of(&t->map, worker);
    const vtci_box region = vtci_focus_region(&t->map, index);
    const size_t n = vtci_focus_first_cell(&t->map, &region, t->map.params.n_pools);
    float *score = t->scores + vtci_focus_first_candidate(&t->map, index);

    vtci_focus_cosines(&t->map, &region, &slice);
    for (size_t i = 0; i < n; i++)
        score[i] = (float)slice.cosine[i];
}

/* Walks over all candidates in list order. */
struct walk {
    const vtci_focus *f;
    size_t region, scale;
    vtci_cells cells; /* of this region and scale */
    size_t begin;     /* the place of the first   */
};

static void open_cells(struct walk *w)
{
    const vtci_box region = vtci_focus_region(w->f, w->region);

    w->cells = vtci_focus_cells(w->f, &region, w->scale);
}

static struct walk first_candidate(const vtci_focus *f)
{
    struct walk w = { .f = f };

    if (vtci_focus_rows(f) != 0)
        open_cells(&w);
    return w;
}

static void next_scale(struct walk *w)
{
    w->begin += w->cells.n;
    if (++w->scale == w->f->params.n_pools) {
        w->scale = 0;
        w->region++;
    }
    open_cells(w);
}

/* The cell at a place of the list that is not before the last one asked for. */
static vtci_box cell_at(struct walk *w, size_t place)
{
    while (place - w->begin >= w->cells.n)
        next_scale(w);
    return vtci_cell(&w->cells, place - w->begin);
}

/* Scores all candidates, ranks them, and counts entries and shares. */
static vtc_status decide(struct topk *t)
{
    const size_t n = vtci_focus_rows(&t->map);
    struct walk w = first_candidate(&t->map);

    VTCI_TRY(vtci_focus_mean(&t->map));
    vtci_parallel(t->map.call, t->size.n_regions, score_region, t);
    for (size_t i = 0; i < t->size.n_candidates; i++)
        VTCI_REQUIRE(t->map.call, fabsf(t->scores[i]) <= FLT_MAX, VTC_ERR_DATA,
                     "the score of pooled token %zu is not finite", i);
    vtci_select_top(t->order, t->scores, t->size.n_candidates, t->n_keep);
    for (size_t i = 0; i < n; i++)
        t->shares[i] = 0;
    t->n_nnz = 0;
    for (size_t j = 0; j < t->n_keep; j++) {
        const vtci_box cell = cell_at(&w, (size_t)t->order[j]);

        t->n_nnz += vtci_box_area(&cell);
        for (size_t r = cell.r0; r < cell.r1; r++)
            for (size_t c = cell.c0; c < cell.c1; c++)
                t->shares[r * t->map.grid_w + c]++;
    }
    return VTC_OK;
}

/* ---- the plan -------------------------------------------------------------------------------- */

static double cell_mass(const struct topk *t, const vtci_box *cell, const float *mass)
{
    double sum = 0.0;

    for (size_t r = cell->r0; r < cell->r1; r++)
        for (size_t c = cell->c0; c < cell->c1; c++) {
            const size_t i = r * t->map.grid_w + c;

            sum += (mass == NULL ? 1.0 : mass[i]) / t->shares[i];
        }
    return sum;
}

/* Raises the scores of a cell's rows to that of its token. */
static void raise_scores(const struct topk *t, const vtci_box *cell, float score, float *best)
{
    for (size_t r = cell->r0; r < cell->r1; r++)
        for (size_t c = cell->c0; c < cell->c1; c++) {
            float *row = &best[r * t->map.grid_w + c];

            *row = score > *row ? score : *row;
        }
}

/* Each row's best candidate. */
static void write_score(const struct topk *t, const vtc_plan *plan)
{
    const float *score = t->scores;

    if (plan->score == NULL)
        return;
    for (size_t i = 0; i < vtci_focus_rows(&t->map); i++)
        plan->score[i] = -INFINITY;
    for (size_t i = 0; i < t->size.n_regions; i++) {
        const vtci_box region = vtci_focus_region(&t->map, i);

        for (size_t s = 0; s < t->map.params.n_pools; s++) {
            const vtci_cells cells = vtci_focus_cells(&t->map, &region, s);
            vtci_box cell = vtci_cell(&cells, 0);

            for (size_t k = 0; k < cells.n; k++, vtci_next_cell(&cells, &cell))
                raise_scores(t, &cell, *score++, plan->score);
        }
    }
}

static void write_plan(const struct topk *t, const float *mass, vtc_plan *plan, int32_t *boxes)
{
    struct walk w = first_candidate(&t->map);
    int32_t at = 0;

    write_score(t, plan);
    for (size_t j = 0; j < t->n_keep; j++) {
        const vtci_box cell = cell_at(&w, (size_t)t->order[j]);

        at = vtci_focus_write_cell(&t->map, &cell, vtci_focus_weight(&t->map, &cell), plan, j, at);
        plan->mass[j] = (float)cell_mass(t, &cell, mass);
        if (boxes != NULL)
            vtci_focus_write_box(boxes, j, &cell);
    }
    if (plan->begin != NULL)
        plan->begin[t->n_keep] = at;
    vtci_plan_finish(plan, vtci_focus_rows(&t->map), t->n_keep, t->n_nnz,
                     vtci_focus_reduce(&t->map));
}

static vtc_status check_outputs(const struct topk *t, const vtc_plan *plan, size_t n_nnz,
                                const vtc_tensor *x, const float *mass,
                                const vtc_focusllava_topk_trace *trace)
{
    const vtci_focus_array arrays[] = {
        { trace->boxes, 4 * t->n_keep * sizeof(*trace->boxes) },
        { trace->index, t->n_keep * sizeof(*trace->index) },
        { trace->scores, t->size.n_candidates * sizeof(*trace->scores) },
    };

    return vtci_focus_check_outputs(&t->map, plan, t->n_keep, n_nnz, x, mass, arrays, 3);
}

static void write_trace(const struct topk *t, const vtc_focusllava_topk_trace *trace)
{
    for (size_t j = 0; trace->index != NULL && j < t->n_keep; j++)
        trace->index[j] = t->order[j];
    for (size_t i = 0; trace->scores != NULL && i < t->size.n_candidates; i++)
        trace->scores[i] = t->scores[i];
}

vtc_status vtc_focusllava_topk(const vtc_focusllava_vision_params *params, const vtc_tensor *x,
                               size_t n_keep, const float *mass, vtc_plan *plan,
                               const vtc_focusllava_topk_trace *trace, const vtc_exec *exec)
{
    vtc_focusllava_topk_trace out = VTC_FOCUSLLAVA_TOPK_TRACE_INIT;
    vtci_call call;
    vtci_arena arena;
    struct topk t;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_topk", exec));
    VTCI_TRY(vtci_params_read(&call, &out, sizeof(out), trace));
    VTCI_TRY(open_topk(&call, params, x, n_keep, &t, &arena));
    /* how many entries the kept cells have, the data tell: at least one each */
    VTCI_TRY(check_outputs(&t, plan, n_keep, x, mass, &out));
    VTCI_TRY(vtci_check_masses(&call, mass, vtci_focus_rows(&t.map)));
    VTCI_TRY(decide(&t));
    VTCI_TRY(check_outputs(&t, plan, t.n_nnz, x, mass, &out));
    write_trace(&t, &out);
    write_plan(&t, mass, plan, out.boxes);
    return VTC_OK;
}

vtc_status vtci_focusllava_topk_check(const vtc_focusllava_vision_params *params,
                                      const vtc_tensor *x, size_t n_keep, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct topk t;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_topk", exec));
    VTCI_TRY(open_topk(&call, params, x, n_keep, &t, &arena));
    return vtci_focus_mean(&t.map);
}
