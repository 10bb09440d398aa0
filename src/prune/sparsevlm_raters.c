/*
 * SparseVLM's raters: the text tokens that stand out against the image, found once per prompt.
 *
 *     P = softmax over text of V T^t      weight_t = mean over vision of P      raters: weight >
 * mean
 *
 * Text rows are turned into panels, vision rows pass them in tiles: logits, a softmax per row, sums
 * over the tile. Sums of tiles are added in order, in double. A logit of this product depends on
 * its two rows alone, not on where they stand, so that equal text tokens rate alike.
 */
#include "../../include/vtc/guided.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"
#include "../linalg/transpose.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TILE = 96, PANEL = VTCI_PANEL };

struct raters {
    const vtci_call *call;
    vtci_rows vision, text; /* [N, D], [T, D]                                                */
    float *panels;          /* [T' / 16, D, 16], T' being T to whole panels                  */
    double *sums;           /* per tile [T]                                                  */
    char *slices;           /* per worker logits [TILE, T'], and rows of either side         */
    size_t slice_stride;
};

/* Floats from one copied row to the next. Rows of vision are mostly a power of two apart and would
 * evict each other from the nearest cache, so they are copied a line further apart. */
static size_t row_stride(const struct raters *r)
{
    return vtci_add(r->text.n_cols, VTCI_LINE / sizeof(float));
}

static size_t n_tiles(const struct raters *r)
{
    return vtci_ceil_div(r->vision.n_rows, TILE);
}

static size_t n_panels(const struct raters *r)
{
    return vtci_ceil_div(r->text.n_rows, PANEL);
}

static vtc_status open_raters(const vtci_call *call, const vtc_tensor *vision,
                              const vtc_tensor *text, struct raters *r)
{
    VTCI_TRY(vtci_check_tensor(call, "vision", vision, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "text", text, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, vision->dim[1] == text->dim[1], VTC_ERR_SHAPE,
                 "vision has %zu channels, text has %zu", vision->dim[1], text->dim[1]);
    VTCI_REQUIRE(call, vision->dim[0] != 0 && text->dim[0] != 0, VTC_ERR_SHAPE,
                 "raters of %zu vision tokens among %zu text tokens are asked for", vision->dim[0],
                 text->dim[0]);
    *r = (struct raters){ 0 };
    r->call = call;
    r->vision = vtci_rows_of(vision);
    r->text = vtci_rows_of(text);
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct raters *r)
{
    const size_t d = r->text.n_cols, t = r->text.n_rows;
    const size_t floats = vtci_mul(TILE, vtci_add(vtci_mul(n_panels(r), PANEL), row_stride(r)));

    r->panels = vtci_take(arena, vtci_mul(vtci_mul(n_panels(r), PANEL), d), sizeof(*r->panels));
    r->sums = vtci_take(arena, vtci_mul(n_tiles(r), t), sizeof(*r->sums));
    r->slices = vtci_take_slices(arena, r->call, vtci_mul(floats, sizeof(float)), &r->slice_stride);
}

vtc_status vtc_sparsevlm_raters_scratch(const vtc_tensor *vision, const vtc_tensor *text,
                                        const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct raters r;

    VTCI_TRY(vtci_begin_query(&call, "vtc_sparsevlm_raters_scratch", exec, bytes));
    VTCI_TRY(open_raters(&call, vision, text, &r));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &r);
    return vtci_end_query(&call, &arena, bytes);
}

/* n rows from `first` on, behind the worker's logits. */
static const float *copy_rows(const struct raters *r, const vtci_rows *rows, size_t first, size_t n,
                              float *logits)
{
    float *to = logits + TILE * n_panels(r) * PANEL;

    for (size_t i = 0; i < n; i++)
        vtci_copy_row(to + i * row_stride(r), VTC_F32, vtci_row(rows, 0, first + i), rows->dtype,
                      rows->n_cols, NULL);
    return to;
}

static void turn_panel(void *job, size_t index, size_t worker)
{
    const struct raters *r = job;
    const size_t d = r->text.n_cols, begin = index * PANEL;
    const size_t n = vtci_min(PANEL, r->text.n_rows - begin);
    float *logits = (float *)(void *)(r->slices + worker * r->slice_stride);
    float *panel = r->panels + index * PANEL * d;
    const float *text = copy_rows(r, &r->text, begin, n, logits);

    if (n < PANEL)
        memset(panel, 0, d * PANEL * sizeof(*panel));
    vtci_transpose(panel, PANEL, text, row_stride(r), n, d);
}

static void rate_tile(void *job, size_t index, size_t worker)
{
    const struct raters *r = job;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t d = r->text.n_cols, t = r->text.n_rows, ldl = n_panels(r) * PANEL;
    const size_t begin = index * TILE, n = vtci_min(TILE, r->vision.n_rows - begin);
    float *logits = (float *)(void *)(r->slices + worker * r->slice_stride);
    const float *vision = copy_rows(r, &r->vision, begin, n, logits);
    double *sum = r->sums + index * t;

    k->multiply_panels(logits, ldl, vision, row_stride(r), r->panels, n, n_panels(r), d);
    for (size_t j = 0; j < t; j++)
        sum[j] = 0.0;
    for (size_t i = 0; i < n; i++, logits += ldl) {
        k->softmax(logits, logits, NULL, 1.0f, t);
        for (size_t j = 0; j < t; j++)
            sum[j] += logits[j];
    }
}

/* The mean of all weights, which are in sums [T] afterwards. */
static double add_tiles(const struct raters *r)
{
    const size_t t = r->text.n_rows;
    double total = 0.0;

    for (size_t i = 1; i < n_tiles(r); i++)
        for (size_t j = 0; j < t; j++)
            r->sums[j] += r->sums[i * t + j];
    for (size_t j = 0; j < t; j++)
        total += r->sums[j];
    return total / (double)t;
}

/* Text tokens whose weight, in F32, is above the mean. */
static size_t find_raters(const struct raters *r, double mean, int32_t *raters)
{
    size_t n = 0;

    for (size_t j = 0; j < r->text.n_rows; j++) {
        if (!((float)r->sums[j] > (float)mean))
            continue;
        if (raters != NULL)
            raters[n] = (int32_t)j;
        n++;
    }
    return n;
}

static vtc_status check_output(const vtci_call *call, const vtc_tensor *vision,
                               const vtc_tensor *text, const int32_t *raters)
{
    const vtc_tensor out = vtc_tensor_1d(raters, VTC_I32, text->dim[0]);

    VTCI_REQUIRE_PTR(call, raters);
    VTCI_TRY(vtci_check_apart(call, "raters", &out, "vision", vision));
    return vtci_check_apart(call, "raters", &out, "text", text);
}

vtc_status vtc_sparsevlm_raters(const vtc_tensor *vision, const vtc_tensor *text, int32_t *raters,
                                size_t *n_raters, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct raters r;
    double mean;

    VTCI_TRY(vtci_begin(&call, "vtc_sparsevlm_raters", exec));
    VTCI_TRY(open_raters(&call, vision, text, &r));
    VTCI_REQUIRE_PTR(&call, n_raters);
    VTCI_TRY(check_output(&call, vision, text, raters));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &r);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    vtci_parallel(&call, n_panels(&r), turn_panel, &r);
    vtci_parallel(&call, n_tiles(&r), rate_tile, &r);
    mean = add_tiles(&r);
    VTCI_REQUIRE(&call, fabs(mean) <= DBL_MAX, VTC_ERR_DATA,
                 "products of vision and text are not finite");
    VTCI_REQUIRE(&call, find_raters(&r, mean, NULL) != 0, VTC_ERR_DATA,
                 "none of %zu text tokens lies above the mean", r.text.n_rows);
    *n_raters = find_raters(&r, mean, raters);
    return VTC_OK;
}
