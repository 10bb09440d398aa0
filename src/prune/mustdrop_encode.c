/*
 * MustDrop, encode: windows of alike tokens become their mean.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' encoder loop.
 *
 *     similarity(w) = mean over i != j in w of cos(x_i, x_j)           score/window_similarity.c
 *     r = least over the batch of the number of windows with similarity >= threshold
 *     the r most similar windows of each image become one token each
 *     order: prefix, merged by falling similarity, untouched in raster order
 *
 * The authors' code takes square grids of whole windows; here any grid, and ragged edges where the
 * caller lets them be. It leaves ties open; here the lower window wins. It weighs a window's tokens
 * by sizes that are always 1 there; here by the masses given.
 *
 * Cost: one pass over the tokens. All else is O(N + r log W) on words.
 */
#include "mustdrop.h"

#include "../base/apart.h"
#include "../linalg/order.h"

#include <math.h>

/* ---- sizes ----------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_mustdrop_encode_params *from,
                              size_t grid_h, size_t grid_w, vtc_mustdrop_encode_params *p,
                              vtci_windows *w)
{
    static const vtc_mustdrop_encode_params defaults = VTC_MUSTDROP_ENCODE_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), from));
    VTCI_TRY(vtci_windows_open(call, grid_h, grid_w, p->win_h, p->win_w, p->ragged_edges != 0, w));
    VTCI_REQUIRE(call, !isnan(p->threshold), VTC_ERR_RANGE, "threshold is NaN");
    VTCI_REQUIRE(call, p->n_merge == VTC_MUSTDROP_BY_RULE || p->n_merge <= w->n, VTC_ERR_BUDGET,
                 "cannot merge %zu of %zu windows", p->n_merge, w->n);
    VTCI_REQUIRE(call, vtci_add(p->prefix, grid_h * grid_w) <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "%zu rows and a grid of %zu x %zu exceed int32", p->prefix, grid_h, grid_w);
    return VTC_OK;
}

/* Windows to merge so that at least `target` cells stay; more than there are when it is too low. */
size_t vtci_mustdrop_windows_for(const vtci_windows *w, size_t target)
{
    const size_t n = w->grid_h * w->grid_w;

    return target >= n ? 0 : (n - target) / (w->n_cells - 1);
}

vtc_status vtci_mustdrop_check_target(const vtci_call *call, const vtci_windows *w, size_t target)
{
    const size_t n = w->grid_h * w->grid_w, least = n - w->n * (w->n_cells - 1);

    VTCI_REQUIRE(call, target >= least, VTC_ERR_BUDGET,
                 "cannot keep %zu of %zu tokens: merging all %zu windows leaves %zu", target, n,
                 w->n, least);
    return VTC_OK;
}

/* With n_merge windows merged; exact says whether that number is known. */
vtc_plan_count vtci_mustdrop_count(const vtci_windows *w, size_t prefix, size_t n_merge, bool exact)
{
    const size_t n_in = prefix + w->grid_h * w->grid_w;

    if (!exact)
        return (vtc_plan_count){ n_in, n_in, n_in, 0 };
    return (vtc_plan_count){ n_in, n_in - n_merge * (w->n_cells - 1), n_merge == 0 ? 0 : n_in, 1 };
}

vtc_status vtc_mustdrop_target(const vtc_mustdrop_encode_params *params, size_t grid_h,
                               size_t grid_w, size_t target, size_t *n_merge, const vtc_exec *exec)
{
    vtc_mustdrop_encode_params p;
    vtci_windows w;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_target", exec));
    VTCI_REQUIRE_PTR(&call, n_merge);
    VTCI_TRY(open_params(&call, params, grid_h, grid_w, &p, &w));
    VTCI_TRY(vtci_mustdrop_check_target(&call, &w, target));
    *n_merge = vtci_mustdrop_windows_for(&w, target);
    return VTC_OK;
}

vtc_status vtc_mustdrop_encode_count(const vtc_mustdrop_encode_params *params, size_t grid_h,
                                     size_t grid_w, vtc_plan_count *count, const vtc_exec *exec)
{
    vtc_mustdrop_encode_params p;
    vtci_windows w;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(open_params(&call, params, grid_h, grid_w, &p, &w));
    *count = vtci_mustdrop_count(&w, p.prefix, vtci_min(p.n_merge, w.n),
                                 p.n_merge != VTC_MUSTDROP_BY_RULE || w.n == 0);
    return VTC_OK;
}

/* ---- checks and scratch ---------------------------------------------------------------------- */

vtc_status vtci_mustdrop_encode_open(const vtci_call *call,
                                     const vtc_mustdrop_encode_params *params,
                                     const vtc_tensor *hidden, size_t grid_h, size_t grid_w,
                                     vtci_mustdrop_encode *e)
{
    e->call = call;
    VTCI_TRY(open_params(call, params, grid_h, grid_w, &e->p, &e->sim.windows));
    VTCI_TRY(vtci_check_tensor(call, "hidden", hidden, VTCI_FLOATS, 2, 3, VTCI_IN));
    e->by_threshold = e->p.n_merge == VTC_MUSTDROP_BY_RULE;
    e->at_most = e->by_threshold ? e->sim.windows.n : e->p.n_merge;
    e->sim.x = vtci_rows_of(hidden);
    e->sim.first_row = e->p.prefix;
    e->n_images = e->sim.x.n_batch;
    e->n_rows = e->p.prefix + grid_h * grid_w;
    VTCI_REQUIRE(call, e->sim.x.n_rows == e->n_rows, VTC_ERR_SHAPE,
                 "hidden has %zu rows, prefix %zu and a grid of %zu x %zu make %zu",
                 e->sim.x.n_rows, e->p.prefix, grid_h, grid_w, e->n_rows);
    return VTC_OK;
}

void vtci_mustdrop_encode_lay_out(vtci_arena *arena, vtci_mustdrop_encode *e)
{
    const size_t n_windows = e->sim.windows.n;

    e->sim.similarity =
        vtci_take(arena, vtci_mul(e->n_images, n_windows), sizeof(*e->sim.similarity));
    e->n_merge = vtci_take(arena, e->n_images, sizeof(*e->n_merge));
    e->order = vtci_take(arena, n_windows, sizeof(*e->order));
    e->number = vtci_take(arena, n_windows + 1, sizeof(*e->number));
    e->owner = vtci_take(arena, e->n_rows, sizeof(*e->owner));
    e->keep = vtci_take(arena, e->n_rows, sizeof(*e->keep));
    vtci_window_similarity_lay_out(arena, e->call, &e->sim);
}

/* ---- which windows --------------------------------------------------------------------------- */

static const float *similarity_of(const vtci_mustdrop_encode *e, size_t image)
{
    return e->sim.similarity + image * e->sim.windows.n;
}

vtc_status vtci_mustdrop_encode_measure(vtci_mustdrop_encode *e)
{
    const size_t n = e->n_images * e->sim.windows.n;

    vtci_window_similarity_run(e->call, &e->sim);
    for (size_t i = 0; i < n; i++)
        VTCI_REQUIRE(e->call, isfinite(e->sim.similarity[i]), VTC_ERR_DATA,
                     "window %zu of image %zu holds a token that is not finite",
                     i % e->sim.windows.n, i / e->sim.windows.n);
    return VTC_OK;
}

size_t vtci_mustdrop_windows_to_merge(const vtci_mustdrop_encode *e, size_t image)
{
    const float *similarity = similarity_of(e, image);
    size_t n = 0;

    if (!e->by_threshold)
        return e->at_most;
    for (size_t w = 0; w < e->sim.windows.n; w++)
        n += similarity[w] >= e->p.threshold;
    return vtci_min(n, e->at_most);
}

static void count_windows(vtci_mustdrop_encode *e)
{
    size_t least = SIZE_MAX;

    for (size_t b = 0; b < e->n_images; b++) {
        e->n_merge[b] = vtci_mustdrop_windows_to_merge(e, b);
        least = vtci_min(least, e->n_merge[b]);
    }
    for (size_t b = 0; b < e->n_images && e->p.per_image == 0; b++)
        e->n_merge[b] = least;
}

/* ---- one image: numbers ---------------------------------------------------------------------- */

/* Calls visit(context, cell, window) for each cell in raster order; window W: in none. */
static void for_each_cell(const vtci_windows *w,
                          void (*visit)(void *context, size_t cell, size_t window), void *context)
{
    size_t cell = 0;

    for (size_t row = 0; row < w->grid_h; row++) {
        const size_t first = row / w->win_h * w->n_across;

        for (size_t column = 0, across = 0, left = w->win_w; column < w->grid_w; column++, cell++) {
            visit(context, cell, first < w->n && across < w->n_across ? first + across : w->n);
            if (--left == 0) {
                left = w->win_w;
                across++;
            }
        }
    }
}

enum { UNMERGED = -1, UNNUMBERED = -2 };

/* The merged windows by falling similarity and, in the authors' order, their outputs. */
static void choose_windows(vtci_mustdrop_encode *e, size_t image)
{
    const size_t n = e->sim.windows.n, r = e->n_merge[image];

    for (size_t w = 0; w <= n; w++)
        e->number[w] = UNMERGED;
    if (r != 0)
        vtci_top_k(e->order, similarity_of(e, image), n, r);
    for (size_t i = 0; i < r; i++)
        e->number[e->order[i]] = e->p.raster_order != 0 ? UNNUMBERED : (int32_t)(e->p.prefix + i);
}

struct numbering {
    vtci_mustdrop_encode *e;
    int32_t next; /* output of the next token */
};

/* The first cell of a window comes before its others. */
static void number_cell(void *context, size_t cell, size_t window)
{
    struct numbering *n = context;
    vtci_mustdrop_encode *e = n->e;
    const size_t row = e->p.prefix + cell;

    if (e->number[window] == UNNUMBERED)
        e->number[window] = n->next++;
    if (e->number[window] == UNMERGED) {
        e->owner[row] = n->next++;
        e->keep[e->owner[row]] = (int32_t)row;
    } else {
        e->owner[row] = e->number[window];
    }
}

/* owner and keep of one image. */
static void number_rows(vtci_mustdrop_encode *e, size_t image)
{
    const size_t in_front = e->p.raster_order != 0 ? 0 : e->n_merge[image];
    struct numbering n = { e, (int32_t)(e->p.prefix + in_front) };

    choose_windows(e, image);
    for (size_t i = 0; i < e->p.prefix; i++)
        e->owner[i] = e->keep[i] = (int32_t)i;
    for_each_cell(&e->sim.windows, number_cell, &n);
    for (size_t i = 0; i < e->n_merge[image]; i++) {
        const size_t window = (size_t)e->order[i];
        const size_t first = vtci_window_cell(&e->sim.windows, window, 0);

        e->keep[e->number[window]] = (int32_t)(e->p.prefix + first);
    }
}

/* ---- one image: outputs ---------------------------------------------------------------------- */

static vtci_plan_sizes sizes_of(const vtci_mustdrop_encode *e, size_t image)
{
    const vtc_plan_count n =
        vtci_mustdrop_count(&e->sim.windows, e->p.prefix, e->n_merge[image], true);

    return (vtci_plan_sizes){ n.n_in, n.n_out, n.n_nnz };
}

struct scoring {
    const float *similarity;
    float *score; /* of the first cell */
    size_t n_windows;
};

static void score_cell(void *context, size_t cell, size_t window)
{
    const struct scoring *s = context;

    s->score[cell] = window < s->n_windows ? s->similarity[window] : -INFINITY;
}

static void write_score(const vtci_mustdrop_encode *e, size_t image, float *score)
{
    struct scoring s = { similarity_of(e, image), score, e->sim.windows.n };

    if (score == NULL)
        return;
    for (size_t i = 0; i < e->p.prefix; i++)
        score[i] = -INFINITY;
    s.score = score + e->p.prefix;
    for_each_cell(&e->sim.windows, score_cell, &s);
}

struct listing {
    const vtci_mustdrop_encode *e;
    int32_t *at;
};

static void list_unmerged(void *context, size_t cell, size_t window)
{
    struct listing *list = context;

    if (list->e->number[window] == UNMERGED)
        *list->at++ = (int32_t)cell;
}

static void write_trace(const vtci_mustdrop_encode *e, size_t image,
                        const vtc_mustdrop_encode_trace *trace)
{
    const vtci_windows *w = &e->sim.windows;

    if (trace->n_merged != NULL)
        trace->n_merged[image] = e->n_merge[image];
    for (size_t i = 0; trace->similarity != NULL && i < w->n; i++)
        trace->similarity[image * w->n + i] = similarity_of(e, image)[i];
    for (size_t i = 0; trace->windows != NULL && i < e->n_merge[image]; i++)
        trace->windows[image * w->n + i] = e->order[i];
    if (trace->unmerged != NULL) {
        struct listing list = { e, trace->unmerged + image * w->grid_h * w->grid_w };

        for_each_cell(w, list_unmerged, &list);
    }
}

/* Everything has been checked: the plan has room and is apart from all else. */
static vtc_status write_image(vtci_mustdrop_encode *e, size_t image, const float *mass,
                              vtc_plan *plan, const vtc_mustdrop_encode_trace *trace)
{
    const vtci_plan_sizes n = sizes_of(e, image);
    const float *masses = mass == NULL ? NULL : mass + image * e->n_rows;

    number_rows(e, image);
    write_trace(e, image, trace);
    write_score(e, image, plan->score);
    if (n.n_nnz == 0)
        return vtc_plan_identity(plan, n.n_in, masses, &e->call->exec);
    return vtc_plan_group(plan, n.n_in, e->owner, n.n_out, e->keep, masses, &e->call->exec);
}

/* ---- before the first output ----------------------------------------------------------------- */

/* The plan of one image: there, with room, apart from inputs and the plans before it. */
static vtc_status check_plan(const vtci_mustdrop_encode *e, size_t image, const vtc_tensor *hidden,
                             const float *mass, vtc_plan *const *plans)
{
    const vtci_plan_sizes n = sizes_of(e, image);
    const vtc_plan *plan = plans[image];

    VTCI_REQUIRE(e->call, plan != NULL, VTC_ERR_NULL, "plans[%zu] is NULL", image);
    VTCI_TRY(vtci_plan_open(e->call, plan, n.n_in, n.n_out, n.n_nnz));
    VTCI_TRY(vtci_plan_check_apart(e->call, plan, n.n_in, n.n_out, n.n_nnz, "hidden", hidden->data,
                                   vtci_span_bytes(hidden)));
    VTCI_TRY(vtci_plan_check_apart(e->call, plan, n.n_in, n.n_out, n.n_nnz, "mass", mass,
                                   e->n_images * e->n_rows * sizeof(*mass)));
    for (size_t other = 0; other < image; other++) {
        const vtci_plan_sizes m = sizes_of(e, other);

        VTCI_TRY(vtci_plan_check_apart_written(e->call, plan, &n, plans[other], &m));
    }
    return VTC_OK;
}

/* Reads the caller's trace; its arrays are apart from all else. */
static vtc_status open_trace(const vtci_mustdrop_encode *e, const vtc_mustdrop_encode_trace *from,
                             const vtc_tensor *hidden, const float *mass, vtc_plan *const *plans,
                             vtc_mustdrop_encode_trace *trace)
{
    enum { N_OUT = 4 };
    const size_t n_cells = e->n_images * (e->n_rows - e->p.prefix);
    const size_t n_windows = e->n_images * e->sim.windows.n;

    VTCI_TRY(vtci_params_read(e->call, trace, sizeof(*trace), from));

    const vtci_memory out[N_OUT] = {
        { "n_merged of trace", trace->n_merged, e->n_images * sizeof(size_t) },
        { "similarity of trace", trace->similarity, n_windows * sizeof(float) },
        { "windows of trace", trace->windows, n_windows * sizeof(int32_t) },
        { "unmerged of trace", trace->unmerged, n_cells * sizeof(int32_t) },
    };
    const vtci_memory in[2] = {
        { "hidden", hidden->data, vtci_span_bytes(hidden) },
        { "mass", mass, e->n_images * e->n_rows * sizeof(*mass) },
    };

    VTCI_TRY(vtci_check_all_apart(e->call, out, N_OUT, in, 2));
    for (size_t b = 0; b < e->n_images; b++) {
        const vtci_plan_sizes n = sizes_of(e, b);

        for (size_t i = 0; i < N_OUT; i++)
            VTCI_TRY(vtci_plan_check_apart(e->call, plans[b], n.n_in, n.n_out, n.n_nnz, out[i].name,
                                           out[i].data, out[i].bytes));
    }
    return VTC_OK;
}

/* Measures, decides, checks what depends on the decision, writes. */
vtc_status vtci_mustdrop_encode_run(vtci_mustdrop_encode *e, const vtc_tensor *hidden,
                                    const float *mass, vtc_plan *const *plans,
                                    const vtc_mustdrop_encode_trace *from)
{
    vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    const vtci_call *call = e->call;
    vtci_arena arena = vtci_arena_open(call);

    vtci_mustdrop_encode_lay_out(&arena, e);
    VTCI_TRY(vtci_arena_check(call, &arena));
    VTCI_REQUIRE(call, plans != NULL || e->n_images == 0, VTC_ERR_NULL, "plans is NULL");
    VTCI_TRY(vtci_check_masses(call, mass, e->n_images * e->n_rows));
    VTCI_TRY(vtci_mustdrop_encode_measure(e));
    count_windows(e);
    for (size_t b = 0; b < e->n_images; b++)
        VTCI_TRY(check_plan(e, b, hidden, mass, plans));
    VTCI_TRY(open_trace(e, from, hidden, mass, plans, &trace));
    for (size_t b = 0; b < e->n_images; b++)
        VTCI_TRY(write_image(e, b, mass, plans[b], &trace));
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

vtc_status vtc_mustdrop_encode_scratch(const vtc_mustdrop_encode_params *params,
                                       const vtc_tensor *hidden, size_t grid_h, size_t grid_w,
                                       const vtc_exec *exec, size_t *bytes)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_encode_scratch", exec, bytes));
    VTCI_TRY(vtci_mustdrop_encode_open(&call, params, hidden, grid_h, grid_w, &e));
    vtci_arena arena = vtci_arena_open(&call);
    vtci_mustdrop_encode_lay_out(&arena, &e);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mustdrop_encode(const vtc_mustdrop_encode_params *params, const vtc_tensor *hidden,
                               size_t grid_h, size_t grid_w, const float *mass,
                               vtc_plan *const *plans, vtc_mustdrop_encode_trace *trace,
                               const vtc_exec *exec)
{
    vtci_mustdrop_encode e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_encode", exec));
    VTCI_TRY(vtci_mustdrop_encode_open(&call, params, hidden, grid_h, grid_w, &e));
    return vtci_mustdrop_encode_run(&e, hidden, mass, plans, trace);
}
