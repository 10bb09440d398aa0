/*
 * Pixel shuffle: blocks of tokens into channels (down) and back (up), v1 and v2.
 *
 *   down  y[i, j, (di r + dj) C + c] = x[i r + di, j r + dj, c]
 *   up    y[a u + da, b u + db, c]   = x[a, b, (db u + da) C/u^2 + c]
 *
 * v1 exchanges the two axes of the result. Source: InternVL's pixel_shuffle, whose two views and
 * permutes are the formulas above; `up` is not the inverse of `down` there either.
 *
 * A task is one row of the output grid; r C values that stand side by side are one memcpy.
 */
#include "../../include/vtc/shuffle.h"

#include "../base/tensor.h"

#include <string.h>

/* Tokens of [N, h, w, C], strides in bytes. */
struct grid {
    char *data;
    size_t n_batch, h, w, n_channels;
    size_t batch_stride, row_stride, token_stride;
};

struct job {
    vtc_pixel_shuffle_params params;
    struct grid x, y;
    size_t element; /* bytes */
};

static char *token_at(const struct grid *g, size_t n, size_t i, size_t j)
{
    return g->data + n * g->batch_stride + i * g->row_stride + j * g->token_stride;
}

/* ---- counts ---------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_pixel_shuffle_params *params,
                              vtc_pixel_shuffle_params *p)
{
    static const vtc_pixel_shuffle_params defaults = VTC_PIXEL_SHUFFLE_PARAMS_INIT;

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), params));
    VTCI_REQUIRE(call, p->grid_h != 0 && p->grid_w != 0, VTC_ERR_RANGE, "grid is %zux%zu",
                 p->grid_h, p->grid_w);
    VTCI_REQUIRE(call, p->down != 0 && p->up != 0 && (p->down == 1 || p->up == 1), VTC_ERR_RANGE,
                 "down is %zu and up is %zu, one of them must be 1", p->down, p->up);
    VTCI_REQUIRE(call, (unsigned)p->version <= VTC_SHUFFLE_V1, VTC_ERR_RANGE,
                 "version %d is unknown", (int)p->version);
    VTCI_REQUIRE(call, (unsigned)p->pad <= VTC_SHUFFLE_PAD_ZERO_BOTTOM_RIGHT, VTC_ERR_RANGE,
                 "pad %d is unknown", (int)p->pad);
    VTCI_REQUIRE(call,
                 p->pad != VTC_SHUFFLE_PAD_NONE ||
                     (p->grid_h % p->down == 0 && p->grid_w % p->down == 0),
                 VTC_ERR_SHAPE, "grid %zux%zu is not divisible by %zu", p->grid_h, p->grid_w,
                 p->down);
    return VTC_OK;
}

/* Extents of the result; v1's are exchanged. */
struct extents {
    size_t h, w, n_channels;
};

static vtc_status count(const vtci_call *call, const vtc_pixel_shuffle_params *p, size_t n_channels,
                        struct extents *out)
{
    const size_t down = vtci_mul(p->down, p->down), up = vtci_mul(p->up, p->up);
    const size_t h = vtci_mul(vtci_ceil_div(p->grid_h, p->down), p->up);
    const size_t w = vtci_mul(vtci_ceil_div(p->grid_w, p->down), p->up);

    VTCI_REQUIRE(call, n_channels % up == 0, VTC_ERR_SHAPE,
                 "%zu channels are not divisible by %zu squared", n_channels, p->up);
    out->n_channels = p->up > 1 ? n_channels / up : vtci_mul(n_channels, down);
    VTCI_REQUIRE(call, vtci_mul(h, w) != SIZE_MAX && out->n_channels != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "grid %zux%zu of %zu channels overflows", h, w, n_channels);
    out->h = p->version == VTC_SHUFFLE_V1 ? w : h;
    out->w = p->version == VTC_SHUFFLE_V1 ? h : w;
    return VTC_OK;
}

vtc_status vtc_pixel_shuffle_count(const vtc_pixel_shuffle_params *params, size_t n_channels,
                                   size_t *out_h, size_t *out_w, size_t *out_channels,
                                   const vtc_exec *exec)
{
    vtci_call call;
    vtc_pixel_shuffle_params p;
    struct extents out;

    VTCI_TRY(vtci_begin(&call, "vtc_pixel_shuffle_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_REQUIRE_PTR(&call, out_channels);
    VTCI_TRY(open_params(&call, params, &p));
    VTCI_TRY(count(&call, &p, n_channels, &out));
    *out_h = out.h;
    *out_w = out.w;
    *out_channels = out.n_channels;
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

/* The view as a grid, if it is one of h x w tokens. */
static vtc_status open_grid(const vtci_call *call, const char *what, const vtc_tensor *t, size_t h,
                            size_t w, struct grid *g)
{
    const size_t size = vtc_dtype_size(t->dtype);
    const vtci_rows rows = vtci_rows_of(t);
    const bool split = t->rank == 4;
    const struct grid grid = {
        t->data,
        split ? t->dim[0] : rows.n_batch,
        h,
        w,
        rows.n_cols,
        split ? t->stride[0] * size : rows.batch_stride,
        split ? rows.batch_stride : vtci_mul(w, rows.row_stride),
        rows.row_stride,
    };

    if (split)
        VTCI_REQUIRE(call, t->dim[1] == h && t->dim[2] == w, VTC_ERR_SHAPE,
                     "the grid is %zux%zu, %s is %zux%zu", h, w, what, t->dim[1], t->dim[2]);
    VTCI_REQUIRE(call, split || rows.n_rows == vtci_mul(h, w), VTC_ERR_SHAPE,
                 "grid %zux%zu needs %zu rows, %s has %zu", h, w, vtci_mul(h, w), what,
                 rows.n_rows);
    *g = grid;
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_pixel_shuffle_params *params,
                           const vtc_tensor *x, const vtc_tensor *y, struct job *job)
{
    struct extents out;

    VTCI_TRY(open_params(call, params, &job->params));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_ANY, 2, 4, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_ANY, 2, 4, VTCI_OUT));
    VTCI_REQUIRE(call, x->dtype == y->dtype, VTC_ERR_DTYPE, "x is %s, y is %s",
                 vtc_dtype_string(x->dtype), vtc_dtype_string(y->dtype));
    VTCI_TRY(open_grid(call, "x", x, job->params.grid_h, job->params.grid_w, &job->x));
    VTCI_TRY(count(call, &job->params, job->x.n_channels, &out));
    VTCI_TRY(open_grid(call, "y", y, out.h, out.w, &job->y));
    VTCI_REQUIRE(call, job->y.n_channels == out.n_channels, VTC_ERR_SHAPE,
                 "y has %zu channels, %zu are needed", job->y.n_channels, out.n_channels);
    VTCI_REQUIRE(call, job->x.n_batch == job->y.n_batch, VTC_ERR_SHAPE,
                 "x has %zu grids, y has %zu", job->x.n_batch, job->y.n_batch);
    job->element = vtc_dtype_size(x->dtype);
    return vtci_check_apart(call, "y", y, "x", x);
}

/* ---- moving ---------------------------------------------------------------------------------- */

/* n tokens from `from` on, side by side, and zeros up to r tokens. */
static void copy_run(const struct job *job, const char *from, size_t n, size_t r, char *to)
{
    const size_t bytes = job->x.n_channels * job->element;

    if (job->x.token_stride == bytes)
        memcpy(to, from, n * bytes);
    else
        for (size_t i = 0; i < n; i++)
            memcpy(to + i * bytes, from + i * job->x.token_stride, bytes);
    if (n < r)
        memset(to + n * bytes, 0, (r - n) * bytes);
}

/* The block at (i, j) of the joined grid as one token. */
static void join_block(const struct job *job, size_t n, size_t i, size_t j, char *to)
{
    const struct grid *x = &job->x;
    const size_t r = job->params.down, run = r * x->n_channels * job->element;
    const size_t n_down = vtci_min(r, x->h - i * r), n_across = vtci_min(r, x->w - j * r);

    for (size_t di = 0; di < n_down; di++)
        copy_run(job, token_at(x, n, i * r + di, j * r), n_across, r, to + di * run);
    memset(to + n_down * run, 0, (r - n_down) * run);
}

/* The piece of a token that stands at (i, j) of the split grid. */
static void copy_piece(const struct job *job, size_t n, size_t i, size_t j, char *to)
{
    const size_t u = job->params.up, piece = j % u * u + i % u;
    const size_t bytes = job->y.n_channels * job->element;

    memcpy(to, token_at(&job->x, n, i / u, j / u) + piece * bytes, bytes);
}

static void shuffle_row(void *p, size_t index, size_t worker)
{
    const struct job *job = p;
    const struct grid *y = &job->y;
    const bool exchanged = job->params.version == VTC_SHUFFLE_V1;
    const size_t n = index / y->h, row = index % y->h;

    (void)worker;
    for (size_t col = 0; col < y->w; col++) {
        const size_t i = exchanged ? col : row, j = exchanged ? row : col;
        char *to = token_at(y, n, row, col);

        if (job->params.up > 1)
            copy_piece(job, n, i, j, to);
        else
            join_block(job, n, i, j, to);
    }
}

vtc_status vtc_pixel_shuffle(const vtc_pixel_shuffle_params *params, const vtc_tensor *x,
                             vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_pixel_shuffle", exec));
    VTCI_TRY(open_job(&call, params, x, y, &job));
    if (vtci_count(y) != 0)
        vtci_parallel(&call, job.y.n_batch * job.y.h, shuffle_row, &job);
    return VTC_OK;
}
