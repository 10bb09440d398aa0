/*
 * Head-mean logits.
 *
 * Rows of F32 are read where they are, whatever their strides: a kernel multiplies several rows by
 * several, head by head, so a key is loaded once for three queries. Rows of 16 bit are widened once
 * for all queries of the call. Every sum is formed in one order, so equal rows have equal logits;
 * sgemm, no faster at these shapes, does not promise that.
 */
#include "logits.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* ---- rows ------------------------------------------------------------------------------------ */

size_t vtci_head_rows_count(const vtci_head_rows *r)
{
    return r->apart.n_rows + r->main.n_rows;
}

const char *vtci_head_rows_at(const vtci_head_rows *r, size_t h, size_t i, vtc_dtype *dtype)
{
    const vtci_heads *heads = i < r->apart.n_rows ? &r->apart : &r->main;

    if (heads == &r->main)
        i -= r->apart.n_rows;
    *dtype = heads->dtype;
    return heads->data + h * heads->head_stride + i * heads->row_stride;
}

static vtc_status open_rows(const vtci_call *call, const char *what, const vtc_tensor *t,
                            const char *apart_name, const vtc_tensor *apart, vtci_head_rows *r)
{
    static const vtci_head_rows none;

    *r = none;
    VTCI_TRY(vtci_check_tensor(call, what, t, VTCI_FLOATS, 3, 3, VTCI_IN));
    r->main = vtci_heads_of(t);
    if (apart == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, apart_name, apart, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, apart->dim[0] == t->dim[0] && apart->dim[1] == t->dim[2], VTC_ERR_SHAPE,
                 "%s is [%zu, %zu], the rows of %s are [%zu, %zu]", apart_name, apart->dim[0],
                 apart->dim[1], what, t->dim[0], t->dim[2]);
    r->apart =
        (vtci_heads){ .data = apart->data,
                      .dtype = apart->dtype,
                      .n_batch = 1,
                      .n_heads = apart->dim[0],
                      .n_rows = 1,
                      .n_cols = apart->dim[1],
                      .head_stride = vtci_mul(apart->stride[0], vtc_dtype_size(apart->dtype)) };
    return VTC_OK;
}

vtc_status vtci_logits_open(const vtci_call *call, const vtc_tensor *q, const vtc_tensor *k,
                            const vtc_tensor *apart_q, const vtc_tensor *apart_k, float scale,
                            vtci_logits *l)
{
    l->call = call;
    VTCI_TRY(open_rows(call, "q", q, "the query of [CLS]", apart_q, &l->q));
    VTCI_TRY(open_rows(call, "k", k, "the key of [CLS]", apart_k, &l->k));
    l->n_heads = q->dim[0];
    l->n_groups = k->dim[0];
    l->width = k->dim[2];
    VTCI_REQUIRE(call, q->dim[2] == l->width, VTC_ERR_SHAPE,
                 "query heads are %zu wide, key heads %zu", q->dim[2], l->width);
    VTCI_REQUIRE(call, l->width != 0, VTC_ERR_SHAPE, "the heads of q and k have no channels");
    VTCI_REQUIRE(call, l->n_groups != 0 && l->n_heads % l->n_groups == 0 && l->n_heads != 0,
                 VTC_ERR_SHAPE, "%zu query heads cannot share %zu key heads", l->n_heads,
                 l->n_groups);
    VTCI_REQUIRE(call, isfinite(scale), VTC_ERR_RANGE, "scale is %g", (double)scale);
    l->scale = scale == 0.0f ? 1.0f / sqrtf((float)l->width) : scale;
    return VTC_OK;
}

static bool is_wide(const vtci_head_rows *r)
{
    return r->main.dtype == VTC_F32 && (r->apart.n_rows == 0 || r->apart.dtype == VTC_F32);
}

void vtci_logits_lay_out(vtci_arena *arena, vtci_logits *l)
{
    const size_t q_floats = is_wide(&l->q) ? 0 : vtci_mul(l->n_heads, l->width);
    const size_t k_floats = is_wide(&l->k) ? 0 : vtci_mul(l->n_groups, l->width);
    const size_t floats = vtci_mul(VTCI_LOGITS_BLOCK, vtci_max(q_floats, k_floats));

    l->slices = vtci_take_slices(arena, l->call, vtci_mul(floats, sizeof(float)), &l->slice_stride);
}

/* ---- products -------------------------------------------------------------------------------- */

void vtci_logits_fold(const vtci_logits *l, size_t i, float factor, float *y)
{
    const size_t d = l->width, n_shared = l->n_heads / l->n_groups;

    for (size_t g = 0; g < l->n_groups; g++) {
        vtci_combine sum;
        vtc_dtype dtype;

        vtci_head_rows_at(&l->q, 0, i, &dtype);
        vtci_combine_begin(&sum, y + g * d, d, dtype, false);
        for (size_t h = g * n_shared; h < (g + 1) * n_shared; h++)
            vtci_combine_add(&sum, vtci_head_rows_at(&l->q, h, i, &dtype), factor);
        vtci_combine_end(&sum);
    }
}

/* Widens a row's heads into y [n_heads, d] unless they are floats already; the first of them, and
 * *step from one to the next. */
static const float *load_heads(const vtci_head_rows *r, size_t head, size_t n_heads, size_t i,
                               float *y, size_t *step)
{
    const size_t d = r->main.n_cols;
    const vtci_heads *heads = i < r->apart.n_rows ? &r->apart : &r->main;
    vtc_dtype dtype;
    const void *row = vtci_head_rows_at(r, head, i, &dtype);

    *step = dtype == VTC_F32 ? heads->head_stride / sizeof(float) : d;
    if (dtype == VTC_F32)
        return row;
    for (size_t h = 0; h < n_heads; h++)
        vtci_load_row(vtci_head_rows_at(r, head + h, i, &dtype), dtype, d, y + h * d);
    return y;
}

void vtci_logits_block(const vtci_logits *l, const vtci_head_rows *r, size_t head, size_t n_heads,
                       const float *x, size_t n_x, const int32_t *rows, size_t first, size_t n,
                       float *y, size_t y_stride, size_t worker)
{
    enum { ROWS = 16 }; /* of x at a time: their pointers are on the stack */
    const vtci_kernels *kernels = vtci_kernels_get();
    const size_t d = l->width;
    float *wide = (float *)(void *)(l->slices + worker * l->slice_stride);
    const float *z[VTCI_LOGITS_BLOCK], *x_row[ROWS];
    size_t step = 0, n_apart = 0, apart_step = 0;

    for (size_t b = 0; b < n; b++) {
        const size_t i = rows == NULL ? first + b : (size_t)rows[b];
        const bool apart = i < r->apart.n_rows;

        z[b] = load_heads(r, head, n_heads, i, l->slice_stride == 0 ? NULL : wide + b * n_heads * d,
                          apart ? &apart_step : &step);
        n_apart += apart; /* rows ascend: it is the first one */
    }
    for (size_t a = 0; a < n_x; a += ROWS) {
        const size_t n_rows = vtci_min(ROWS, n_x - a);

        for (size_t i = 0; i < n_rows; i++)
            x_row[i] = x + (a + i) * n_heads * d;
        if (n_apart != 0)
            kernels->dots(y + a * y_stride, y_stride, x_row, n_rows, d, z, n_apart, apart_step,
                          n_heads, d);
        kernels->dots(y + a * y_stride + n_apart, y_stride, x_row, n_rows, d, z + n_apart,
                      n - n_apart, step, n_heads, d);
    }
}

struct product {
    const vtci_logits *l;
    const vtci_head_rows *r;
    size_t n_heads;
    const float *x;
    size_t n_x;
    const int32_t *rows;
    size_t first, n;
    float *y;
    size_t y_stride;
};

static void multiply_block(void *job, size_t index, size_t worker)
{
    const struct product *p = job;
    const size_t begin = index * VTCI_LOGITS_BLOCK;

    vtci_logits_block(p->l, p->r, 0, p->n_heads, p->x, p->n_x,
                      p->rows == NULL ? NULL : p->rows + begin, p->first + begin,
                      vtci_min(VTCI_LOGITS_BLOCK, p->n - begin), p->y + begin, p->y_stride, worker);
}

static void multiply(struct product *p)
{
    vtci_parallel(p->l->call, vtci_ceil_div(p->n, VTCI_LOGITS_BLOCK), multiply_block, p);
}

void vtci_logits_of_keys(const vtci_logits *l, const float *x, size_t n_x, const int32_t *rows,
                         size_t first, size_t n, float *y, size_t y_stride)
{
    struct product p = { l, &l->k, l->n_groups, x, n_x, rows, first, n, y, y_stride };

    multiply(&p);
}

void vtci_logits_of_queries(const vtci_logits *l, const float *x, size_t n_x, size_t first,
                            size_t n, float *y, size_t y_stride)
{
    struct product p = { l, &l->q, l->n_heads, x, n_x, NULL, first, n, y, y_stride };

    multiply(&p);
}

/* ---- sums of keys ---------------------------------------------------------------------------- */

struct key_sum {
    const vtci_logits *l;
    size_t first, n;
    const float *x;
    float *y, *partial; /* partial [blocks, G d] */
};

size_t vtci_key_sum_floats(const vtci_logits *l, size_t n)
{
    return vtci_mul(vtci_ceil_div(n, VTCI_LOGITS_BLOCK), vtci_mul(l->n_groups, l->width));
}

static void sum_block(void *job, size_t index, size_t worker)
{
    const struct key_sum *s = job;
    const vtci_logits *l = s->l;
    const size_t d = l->width, begin = index * VTCI_LOGITS_BLOCK;
    const size_t end = vtci_min(begin + VTCI_LOGITS_BLOCK, s->n);

    for (size_t g = 0; g < l->n_groups; g++) {
        vtci_combine sum;
        vtc_dtype dtype;

        vtci_combine_begin(&sum, s->partial + (index * l->n_groups + g) * d, d, l->k.main.dtype,
                           false);
        for (size_t i = begin; i < end; i++)
            vtci_combine_add(&sum, vtci_head_rows_at(&l->k, g, s->first + i, &dtype), 1.0f);
        vtci_combine_end(&sum);
    }
    if (s->x != NULL)
        vtci_logits_block(l, &l->k, 0, l->n_groups, s->x, 1, NULL, s->first + begin, end - begin,
                          s->y + begin, s->n, worker);
}

void vtci_key_sum(const vtci_logits *l, size_t first, size_t n, const float *x, float *y,
                  float *partial, float *sum)
{
    struct key_sum s = { l, first, n, x, y, partial };
    const size_t width = l->n_groups * l->width, n_blocks = vtci_ceil_div(n, VTCI_LOGITS_BLOCK);
    vtci_combine total;

    vtci_parallel(l->call, n_blocks, sum_block, &s);
    vtci_combine_begin(&total, sum, width, VTC_F32, false);
    for (size_t b = 0; b < n_blocks; b++)
        vtci_combine_add(&total, partial + b * width, 1.0f);
    vtci_combine_end(&total);
}
