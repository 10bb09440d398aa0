/*
 * ToMe: one round of bipartite soft matching.
 *
 * Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3, and the
 * authors' bipartite_soft_matching().
 *
 *     u_t = metric_t / |metric_t|                  A = even tokens, B = odd tokens
 *     partner(a) = argmax over b of u_a . u_b      the r best a merge into their partners
 *
 * The A x B cosines are T^2/4 numbers of which only a maximum and its place per row are needed:
 * they are computed in tiles and forgotten. The odd rows are packed once for all tiles. Equal rows
 * tie exactly: the bits of the tile kernel's cosines depend on two rows alone; those of an sgemm
 * do not, so that dot products decide between cosines within its error. Ranking the even tokens
 * and renumbering follow, O(T log T). Three quarters of the time and more are the product's.
 *
 * The authors leave ties open; here the lower row wins. Their clip of r would let three tokens with
 * a distillation token and no class token merge into the distillation token; here nothing merges.
 */
#include "tome.h"

#include "../kernels/kernels.h"
#include "../linalg/gemm.h"
#include "../linalg/order.h"
#include "../linalg/panels.h"
#include "../linalg/rows.h"
#include "../plan/plan.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK = 16,                  /* tokens of either parity scaled by one task */
    TILE = 3 * VTCI_PANELS_ROWS, /* even tokens of a task at most              */
    TILE_COLS = VTCI_PANELS_MOST
};

/* Far above what rounding does to the cosine of any two rows, far below what matters. */
static const float SGEMM_ERROR = 1e-5f;

static size_t n_even(const vtci_tome *t)
{
    return t->n_tokens - t->n_tokens / 2;
}

static size_t n_odd(const vtci_tome *t)
{
    return t->n_tokens / 2;
}

/* ---- checks and scratch ---------------------------------------------------------------------- */

size_t vtci_tome_clip(bool class_token, bool distill_token, size_t n_tokens, size_t n_merge)
{
    const size_t n_protected = (size_t)class_token + (size_t)distill_token;

    if (n_tokens <= n_protected || (distill_token && n_tokens < 4))
        return 0;
    return vtci_min(n_merge, (n_tokens - n_protected) / 2);
}

vtc_status vtci_tome_open(const vtci_call *call, vtc_tome_params *params,
                          const vtc_tome_params *from, const vtc_tensor *metric, vtci_tome *t)
{
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_TRY(vtci_check_tensor(call, "metric", metric, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_gemm(call, metric->dim[0], metric->dim[0], metric->dim[1]));
    memset(t, 0, sizeof(*t));
    t->call = call;
    t->class_token = params->class_token != 0;
    t->distill_token = params->distill_token != 0;
    t->n_in = t->n_tokens = metric->dim[0];
    t->metric = vtci_rows_of(metric);
    return VTC_OK;
}

static size_t n_blocks(const vtci_tome *t)
{
    return vtci_ceil_div(n_even(t), BLOCK);
}

void vtci_tome_lay_out(vtci_arena *arena, vtci_tome *t)
{
    const size_t n = t->n_in, d = t->metric.n_cols;
    const size_t slice = vtci_add(vtci_panels_rows_floats(TILE, d), TILE * TILE_COLS);
    const vtc_tensor odd = vtc_f32_2d(NULL, n_odd(t), d);

    t->even = vtci_take(arena, vtci_mul(n_even(t), d), sizeof(*t->even));
    t->odd = vtci_take(arena, vtci_mul(n_odd(t), d), sizeof(*t->odd));
    t->packed = vtci_packed_take(arena, &odd); /* and where an sgemm makes it needless */
    t->best = vtci_take(arena, n_even(t), sizeof(*t->best));
    t->partner = vtci_take(arena, n_even(t), sizeof(*t->partner));
    t->order = vtci_take(arena, n_even(t), sizeof(*t->order));
    t->bad = vtci_take(arena, n_blocks(t), sizeof(*t->bad));
    t->keep = vtci_take(arena, n, sizeof(*t->keep));
    t->moved = vtci_take(arena, n, sizeof(*t->moved));
    t->owner = vtci_take(arena, n, sizeof(*t->owner));
    t->number = vtci_take(arena, n, sizeof(*t->number));
    t->slices = vtci_take_slices(arena, t->call, vtci_mul(slice, sizeof(float)), &t->slice_stride);
}

void vtci_tome_start(vtci_tome *t)
{
    for (size_t i = 0; i < t->n_in; i++)
        t->keep[i] = t->owner[i] = (int32_t)i;
}

/* ---- unit rows ------------------------------------------------------------------------------- */

/* y = the token's metric, scaled to length 1; zeros, and false, when it has no direction. */
static bool unit_row(const vtci_tome *t, size_t token, float *y)
{
    const size_t d = t->metric.n_cols;
    const char *row = vtci_row(&t->metric, 0, (size_t)t->keep[token]);

    if (vtci_unit_row(y, vtci_load_row(row, t->metric.dtype, d, y), d))
        return true;
    memset(y, 0, d * sizeof(*y));
    return false;
}

static void unit_block(void *job, size_t index, size_t worker)
{
    const vtci_tome *t = job;
    const size_t d = t->metric.n_cols, begin = index * BLOCK;
    const size_t even_end = vtci_min(begin + BLOCK, n_even(t));
    const size_t odd_end = vtci_min(begin + BLOCK, n_odd(t));
    size_t bad = t->n_tokens;

    (void)worker;
    for (size_t a = begin; a < even_end; a++)
        if (!unit_row(t, 2 * a, t->even + a * d))
            bad = vtci_min(bad, 2 * a);
    for (size_t b = begin; b < odd_end; b++)
        if (!unit_row(t, 2 * b + 1, t->odd + b * d))
            bad = vtci_min(bad, 2 * b + 1);
    t->bad[index] = bad;
}

size_t vtci_tome_unit_rows(vtci_tome *t)
{
    size_t bad = t->n_tokens;

    vtci_parallel(t->call, n_blocks(t), unit_block, t);
    for (size_t i = 0; i < n_blocks(t); i++)
        bad = vtci_min(bad, t->bad[i]);
    return bad;
}

vtc_status vtci_tome_check_rows(const vtci_tome *t, size_t first_bad)
{
    VTCI_REQUIRE(t->call, first_bad == t->n_tokens, VTC_ERR_DATA,
                 "metric row %zu is zero or not finite, so it has no cosine", first_bad);
    return VTC_OK;
}

/* ---- matching -------------------------------------------------------------------------------- */

/* Whether the product is by the caller's sgemm, or OpenBLAS's where our tiles are slower. */
static bool uses_sgemm(const vtci_tome *t)
{
    return t->call->exec.sgemm != NULL || !vtci_kernels_get()->gemm_is_fast;
}

/* Even tokens of a task, from the shape alone: whole tiles of the kernel, and some tasks. */
static size_t tile_rows(const vtci_tome *t)
{
    enum { MULTIPLE = 8, TASKS = 8, LEAST = 16 };
    const size_t rows = vtci_ceil_div(vtci_ceil_div(n_even(t), TASKS), MULTIPLE) * MULTIPLE;

    return vtci_min(TILE, vtci_max(LEAST, rows));
}

static void update_best(vtci_tome *t, size_t a, float cosine, size_t b)
{
    if (!(cosine > t->best[a]))
        return;
    t->best[a] = cosine;
    t->partner[a] = (int32_t)b;
}

/* Of a row's cosines with odd tokens first .. first + n - 1 the largest, or all that it may be. */
static void reduce_row(vtci_tome *t, size_t a, const float *cosine, size_t first, size_t n)
{
    const vtci_kernels *k = vtci_kernels_get();
    const size_t d = t->metric.n_cols;
    const float top = k->max(cosine, n);

    if (!uses_sgemm(t)) {
        update_best(t, a, top, first + k->first_at_least(cosine, n, top));
        return;
    }
    for (size_t b = 0; b < n; b++) {
        b += k->first_at_least(cosine + b, n - b, top - SGEMM_ERROR);
        if (b < n && cosine[b] > -INFINITY)
            update_best(t, a, k->dot(t->even + a * d, t->odd + (first + b) * d, d), first + b);
    }
}

/* rows: those of the tile, packed. */
static void multiply_tile(const vtci_tome *t, size_t a, size_t m, const float *rows, size_t b,
                          size_t n, float *cosine)
{
    const size_t d = t->metric.n_cols;
    const vtci_panels odd = { .packed = &t->packed, .k = d };

    if (uses_sgemm(t))
        vtci_sgemm(t->call, true, m, n, d, t->even + a * d, d, t->odd + b * d, d, cosine,
                   TILE_COLS);
    else
        vtci_panels_multiply(&odd, 0, b, n, rows, m, 0, m, cosine, TILE_COLS, NULL);
}

static void match_tile(void *job, size_t index, size_t worker)
{
    vtci_tome *t = job;
    const size_t d = t->metric.n_cols, a = index * tile_rows(t);
    const size_t m = vtci_min(tile_rows(t), n_even(t) - a);
    const vtc_tensor view = vtc_f32_2d(t->even, n_even(t), d);
    const vtci_rows even = vtci_rows_of(&view);
    float *rows = (float *)(void *)(t->slices + worker * t->slice_stride);
    float *cosine = rows + vtci_panels_rows_floats(TILE, d);

    for (size_t i = 0; i < m && !uses_sgemm(t); i += VTCI_PANELS_ROWS)
        vtci_panels_pack_rows(rows, &even, 0, a, m, i, NULL);
    for (size_t i = a; i < a + m; i++) {
        t->best[i] = -INFINITY;
        t->partner[i] = 0;
    }
    for (size_t b = 0; b < n_odd(t); b += TILE_COLS) {
        const size_t n = vtci_min(TILE_COLS, n_odd(t) - b);

        multiply_tile(t, a, m, rows, b, n, cosine);
        for (size_t i = 0; i < m; i++) {
            if (t->distill_token && b == 0)
                cosine[i * TILE_COLS] = -INFINITY;
            reduce_row(t, a + i, cosine + i * TILE_COLS, b, n);
        }
    }
}

/* The even tokens that are not among the first n_merge of `order`, ascending, behind those. */
static void append_ascending(vtci_tome *t, size_t n_merge)
{
    int32_t *merges = t->number; /* free until tokens are renumbered */

    memset(merges, 0, n_even(t) * sizeof(*merges));
    for (size_t i = 0; i < n_merge; i++)
        merges[t->order[i]] = 1;
    for (size_t a = 0; a < n_even(t); a++)
        if (merges[a] == 0)
            t->order[n_merge++] = (int32_t)a;
}

/* The n_merge best first; with a class token the others ascend, without one they fall. */
static void rank(vtci_tome *t, size_t n_merge)
{
    if (t->class_token) {
        t->best[0] = -INFINITY;
        vtci_top_k(t->order, t->best, n_even(t), n_merge);
        append_ascending(t, n_merge);
    } else {
        vtci_argsort_falling(t->order, t->best, n_even(t));
    }
}

void vtci_tome_match(vtci_tome *t, size_t n_merge)
{
    const vtc_tensor odd = vtc_f32_2d(t->odd, n_odd(t), t->metric.n_cols);

    t->packed.n = n_odd(t); /* fewer than in the first round */
    if (!uses_sgemm(t))
        vtci_packed_fill(t->call, &t->packed, &odd);
    vtci_parallel(t->call, vtci_ceil_div(n_even(t), tile_rows(t)), match_tile, t);
    rank(t, n_merge);
}

void vtci_tome_write_score(const vtci_tome *t, float *score)
{
    if (score == NULL)
        return;
    for (size_t i = 0; i < t->n_tokens; i++)
        score[i] = i % 2 == 0 ? t->best[i / 2] : INFINITY;
    if (t->class_token)
        score[0] = INFINITY;
}

/* ---- renumbering ----------------------------------------------------------------------------- */

/* Appends a token to the new order. */
static void place(vtci_tome *t, size_t token, size_t *n_placed)
{
    t->number[token] = (int32_t)*n_placed;
    t->moved[*n_placed] = t->keep[token];
    ++*n_placed;
}

/* The authors' order: unmerged even tokens, then all odd ones; with a distillation token the first
 * of each come first, so that both special tokens stay where they were. */
static void place_all(vtci_tome *t, size_t n_merge, size_t *n_placed)
{
    const int32_t *unmerged = t->order + n_merge;
    const size_t n_unmerged = n_even(t) - n_merge;
    const size_t first = t->distill_token ? 1 : 0;

    if (t->distill_token) {
        place(t, 2 * (size_t)unmerged[0], n_placed);
        place(t, 1, n_placed);
    }
    for (size_t i = first; i < n_unmerged; i++)
        place(t, 2 * (size_t)unmerged[i], n_placed);
    for (size_t b = first; b < n_odd(t); b++)
        place(t, 2 * b + 1, n_placed);
}

void vtci_tome_merge(vtci_tome *t, size_t n_merge)
{
    int32_t *keep = t->keep;
    size_t n_placed = 0;

    place_all(t, n_merge, &n_placed);
    for (size_t i = 0; i < n_merge; i++) {
        const int32_t a = t->order[i];

        t->number[2 * a] = t->number[2 * t->partner[a] + 1];
    }
    for (size_t i = 0; i < t->n_in; i++)
        t->owner[i] = t->number[t->owner[i]];
    t->keep = t->moved;
    t->moved = keep;
    t->n_tokens = n_placed;
}

/* ---- plans ----------------------------------------------------------------------------------- */

vtc_status vtci_tome_check_plan(const vtci_tome *t, const vtc_plan *plan, size_t n_out,
                                const vtc_tensor *metric, const float *mass)
{
    const size_t n = t->n_in, n_nnz = n_out == n ? 0 : n;

    VTCI_TRY(vtci_plan_open(t->call, plan, n, n_out, n_nnz));
    VTCI_TRY(vtci_plan_check_apart(t->call, plan, n, n_out, n_nnz, "metric", metric->data,
                                   vtci_span_bytes(metric)));
    VTCI_TRY(
        vtci_plan_check_apart(t->call, plan, n, n_out, n_nnz, "mass", mass, n * sizeof(*mass)));
    return vtci_check_masses(t->call, mass, n);
}

vtc_status vtci_tome_write_identity(const vtci_tome *t, const float *mass, vtc_plan *plan)
{
    for (size_t i = 0; plan->score != NULL && i < t->n_in; i++)
        plan->score[i] = INFINITY;
    return vtc_plan_identity(plan, t->n_in, mass, &t->call->exec);
}

vtc_status vtci_tome_write_plan(const vtci_tome *t, const float *mass, vtc_plan *plan)
{
    return vtc_plan_group(plan, t->n_in, t->owner, t->n_tokens, t->keep, mass, &t->call->exec);
}

/* ---- one round ------------------------------------------------------------------------------- */

vtc_status vtc_tome_count(const vtc_tome_params *params, size_t n_in, vtc_plan_count *count,
                          const vtc_exec *exec)
{
    vtc_tome_params p = VTC_TOME_PARAMS_INIT;
    vtci_call call;
    size_t r;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_count", exec));
    VTCI_TRY(vtci_params_read(&call, &p, sizeof(p), params));
    VTCI_REQUIRE_PTR(&call, count);
    r = vtci_tome_clip(p.class_token != 0, p.distill_token != 0, n_in, p.n_merge);
    *count = (vtc_plan_count){ n_in, n_in - r, r == 0 ? 0 : n_in, 1 };
    return VTC_OK;
}

/* The round that the parameters ask for, and its clipped r; no scratch when nothing merges. */
static vtc_status open_round(const vtci_call *call, const vtc_tome_params *params,
                             const vtc_tensor *metric, vtci_tome *t, size_t *r, vtci_arena *arena)
{
    vtc_tome_params p = VTC_TOME_PARAMS_INIT;

    VTCI_TRY(vtci_tome_open(call, &p, params, metric, t));
    *r = vtci_tome_clip(t->class_token, t->distill_token, t->n_in, p.n_merge);
    *arena = vtci_arena_open(call);
    if (*r != 0)
        vtci_tome_lay_out(arena, t);
    return VTC_OK;
}

vtc_status vtc_tome_scratch(const vtc_tome_params *params, const vtc_tensor *metric,
                            const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_tome t;
    size_t r;

    VTCI_TRY(vtci_begin_query(&call, "vtc_tome_scratch", exec, bytes));
    VTCI_TRY(open_round(&call, params, metric, &t, &r, &arena));
    return vtci_end_query(&call, &arena, bytes);
}

/* Reads the caller's trace; its arrays must be apart from the plan, the inputs and each other. */
static vtc_status open_trace(const vtci_call *call, const vtc_tome_trace *from, const vtci_tome *t,
                             size_t r, const vtc_plan *plan, const vtc_tensor *metric,
                             const float *mass, vtc_tome_trace *trace)
{
    VTCI_TRY(vtci_params_read(call, trace, sizeof(*trace), from));

    const size_t n = t->n_in, word = sizeof(int32_t);
    const int32_t *const array[] = { trace->unmerged, trace->merged, trace->partner };
    const size_t bytes[] = { (n_even(t) - r) * word, r * word, r * word };

    for (int i = 0; i < 3; i++) {
        if (array[i] == NULL)
            continue;
        VTCI_TRY(vtci_plan_check_apart(call, plan, n, n - r, r == 0 ? 0 : n, "trace", array[i],
                                       bytes[i]));
        VTCI_REQUIRE(call,
                     !vtci_ranges_meet(array[i], bytes[i], metric->data, vtci_span_bytes(metric)),
                     VTC_ERR_OVERLAP, "an array of trace overlaps metric");
        VTCI_REQUIRE(call,
                     mass == NULL || !vtci_ranges_meet(array[i], bytes[i], mass, n * sizeof(*mass)),
                     VTC_ERR_OVERLAP, "an array of trace overlaps mass");
        for (int j = 0; j < i; j++)
            VTCI_REQUIRE(call,
                         array[j] == NULL ||
                             !vtci_ranges_meet(array[i], bytes[i], array[j], bytes[j]),
                         VTC_ERR_OVERLAP, "arrays of trace overlap each other");
    }
    return VTC_OK;
}

static void write_trace(const vtc_tome_trace *trace, const vtci_tome *t, size_t r)
{
    const size_t n_unmerged = n_even(t) - r;

    for (size_t i = 0; trace->merged != NULL && i < r; i++)
        trace->merged[i] = t->order[i];
    for (size_t i = 0; trace->partner != NULL && i < r; i++)
        trace->partner[i] = t->partner[t->order[i]];
    for (size_t i = 0; trace->unmerged != NULL && i < n_unmerged; i++)
        trace->unmerged[i] = r == 0 ? (int32_t)i : t->order[r + i];
}

vtc_status vtc_tome(const vtc_tome_params *params, const vtc_tensor *metric, const float *mass,
                    vtc_plan *plan, vtc_tome_trace *trace, const vtc_exec *exec)
{
    vtc_tome_trace out = VTC_TOME_TRACE_INIT;
    vtci_call call;
    vtci_arena arena;
    vtci_tome t;
    size_t r;

    VTCI_TRY(vtci_begin(&call, "vtc_tome", exec));
    VTCI_TRY(open_round(&call, params, metric, &t, &r, &arena));
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(vtci_tome_check_plan(&t, plan, t.n_in - r, metric, mass));
    VTCI_TRY(open_trace(&call, trace, &t, r, plan, metric, mass, &out));
    if (r != 0) {
        vtci_tome_start(&t);
        VTCI_TRY(vtci_tome_check_rows(&t, vtci_tome_unit_rows(&t)));
        vtci_tome_match(&t, r);
    }
    if (trace != NULL) {
        write_trace(&out, &t, r);
        trace->r_used = r;
    }
    if (r == 0)
        return vtci_tome_write_identity(&t, mass, plan);
    vtci_tome_write_score(&t, plan->score);
    vtci_tome_merge(&t, r);
    return vtci_tome_write_plan(&t, mass, plan);
}

/* ---- schedule -------------------------------------------------------------------------------- */

vtc_status vtc_tome_schedule(size_t n_layers, size_t r, double inflect, size_t *per_layer,
                             const vtc_exec *exec)
{
    double low, step;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_tome_schedule", exec));
    VTCI_REQUIRE(&call, per_layer != NULL || n_layers == 0, VTC_ERR_NULL, "per_layer is NULL");
    VTCI_REQUIRE(&call, inflect >= -1.0 && inflect <= 1.0, VTC_ERR_RANGE,
                 "inflect is %g, -1 to 1 is needed", inflect);
    VTCI_REQUIRE(&call, r <= INT32_MAX, VTC_ERR_RANGE, "r is %zu, too large for any image", r);
    low = n_layers == 1 ? (double)r : floor((double)r * (1.0 - inflect));
    step = n_layers > 1 ? (2.0 * (double)r - low - low) / (double)(n_layers - 1) : 0.0;
    for (size_t i = 0; i < n_layers; i++)
        per_layer[i] = (size_t)fmax(0.0, low + step * (double)i);
    return VTC_OK;
}
