/*
 * Cosines of rows of tokens: of listed pairs, and of every row with one vector.
 *
 *     cos(x, y) = x . y / (max(|x|, eps) max(|y|, eps)),  eps = 1e-8 as in PyTorch
 */
#include "../../include/vtc/score.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"

#include <math.h>

enum { BLOCK = 64 }; /* cosines of one task */

static const float SHORTEST = 1e-8f;

struct cosines {
    vtci_rows x, v;       /* [N, C], [1, C]                            */
    const int32_t *pairs; /* [n, 2]; NULL: row i and the vector        */
    size_t n;
    float *cosine;
    char *slices; /* two widened rows */
    size_t slice_stride;
};

static void lay_out(vtci_arena *arena, const vtci_call *call, struct cosines *c)
{
    const bool wide = c->x.dtype == VTC_F32 && c->v.dtype == VTC_F32;
    const size_t floats = wide ? 0 : vtci_mul(2, c->x.n_cols);

    c->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &c->slice_stride);
}

/* NaN lengths stay: no comparison holds for them. */
static float length(const float *x, size_t n)
{
    const float norm = vtci_row_norm(x, n);

    return norm < SHORTEST ? SHORTEST : norm;
}

static float cosine(const float *x, const float *y, size_t n)
{
    return vtci_kernels_get()->dot(x, y, n) / length(x, n) / length(y, n);
}

static void cosine_block(void *job, size_t index, size_t worker)
{
    const struct cosines *c = job;
    const size_t channels = c->x.n_cols, end = vtci_min((index + 1) * BLOCK, c->n);
    float *a =
        c->slice_stride == 0 ? NULL : (float *)(void *)(c->slices + worker * c->slice_stride);
    float *b = a == NULL ? NULL : a + channels;

    for (size_t i = index * BLOCK; i < end; i++) {
        const size_t first = c->pairs == NULL ? i : (size_t)c->pairs[2 * i];
        const char *other = c->pairs == NULL ? vtci_row(&c->v, 0, 0)
                                             : vtci_row(&c->x, 0, (size_t)c->pairs[2 * i + 1]);

        c->cosine[i] = cosine(vtci_load_row(vtci_row(&c->x, 0, first), c->x.dtype, channels, a),
                              vtci_load_row(other, c->v.dtype, channels, b), channels);
    }
}

static vtc_status run(const vtci_call *call, struct cosines *c, float *cosine)
{
    vtci_arena arena = vtci_arena_open(call);

    lay_out(&arena, call, c);
    VTCI_TRY(vtci_arena_check(call, &arena));
    c->cosine = cosine;
    vtci_parallel(call, vtci_ceil_div(c->n, BLOCK), cosine_block, c);
    return VTC_OK;
}

static vtc_status check_output(const vtci_call *call, const float *cosine, size_t n,
                               const char *name, const void *in, size_t in_bytes)
{
    VTCI_REQUIRE(call, cosine != NULL || n == 0, VTC_ERR_NULL, "cosine is NULL");
    VTCI_REQUIRE(call, !vtci_ranges_meet(cosine, vtci_mul(n, sizeof(*cosine)), in, in_bytes),
                 VTC_ERR_OVERLAP, "cosine overlaps %s", name);
    return VTC_OK;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static vtc_status open_pairs(const vtci_call *call, const vtc_tensor *x, size_t n_pairs,
                             struct cosines *c)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, n_pairs <= SIZE_MAX / 2 / sizeof(int32_t), VTC_ERR_OVERFLOW,
                 "%zu pairs do not fit size_t", n_pairs);
    c->x = c->v = vtci_rows_of(x);
    c->n = n_pairs;
    return VTC_OK;
}

static vtc_status check_pairs(const vtci_call *call, const struct cosines *c, const int32_t *pairs)
{
    VTCI_REQUIRE(call, pairs != NULL || c->n == 0, VTC_ERR_NULL, "pairs is NULL");
    for (size_t i = 0; i < 2 * c->n; i++)
        VTCI_REQUIRE(call, pairs[i] >= 0 && (size_t)pairs[i] < c->x.n_rows, VTC_ERR_RANGE,
                     "pairs[%zu][%zu] is %d, x has %zu rows", i / 2, i % 2, (int)pairs[i],
                     c->x.n_rows);
    return VTC_OK;
}

vtc_status vtc_pair_cosine_scratch(const vtc_tensor *x, size_t n_pairs, const vtc_exec *exec,
                                   size_t *bytes)
{
    struct cosines c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_pair_cosine_scratch", exec, bytes));
    VTCI_TRY(open_pairs(&call, x, n_pairs, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_pair_cosine(const vtc_tensor *x, const int32_t *pairs, size_t n_pairs, float *cosine,
                           const vtc_exec *exec)
{
    struct cosines c;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_pair_cosine", exec));
    VTCI_TRY(open_pairs(&call, x, n_pairs, &c));
    VTCI_TRY(check_pairs(&call, &c, pairs));
    VTCI_TRY(check_output(&call, cosine, n_pairs, "x", x->data, vtci_span_bytes(x)));
    VTCI_TRY(check_output(&call, cosine, n_pairs, "pairs", pairs, n_pairs * 2 * sizeof(*pairs)));
    c.pairs = pairs;
    return run(&call, &c, cosine);
}

/* ---- one vector ------------------------------------------------------------------------------ */

static vtc_status open_vector(const vtci_call *call, const vtc_tensor *x, const vtc_tensor *v,
                              struct cosines *c)
{
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "v", v, VTCI_FLOATS, 1, 1, VTCI_IN));
    VTCI_REQUIRE(call, x->dim[1] == v->dim[0], VTC_ERR_SHAPE, "v has %zu channels, x has %zu",
                 v->dim[0], x->dim[1]);
    c->x = vtci_rows_of(x);
    c->v = vtci_rows_of(v);
    c->n = x->dim[0];
    c->pairs = NULL;
    return VTC_OK;
}

vtc_status vtc_row_cosine_scratch(const vtc_tensor *x, const vtc_tensor *v, const vtc_exec *exec,
                                  size_t *bytes)
{
    struct cosines c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_row_cosine_scratch", exec, bytes));
    VTCI_TRY(open_vector(&call, x, v, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_row_cosine(const vtc_tensor *x, const vtc_tensor *v, float *cosine,
                          const vtc_exec *exec)
{
    struct cosines c;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_row_cosine", exec));
    VTCI_TRY(open_vector(&call, x, v, &c));
    VTCI_TRY(check_output(&call, cosine, c.n, "x", x->data, vtci_span_bytes(x)));
    VTCI_TRY(check_output(&call, cosine, c.n, "v", v->data, vtci_span_bytes(v)));
    return run(&call, &c, cosine);
}
