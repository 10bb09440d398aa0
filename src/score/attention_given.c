/*
 * The mean over heads and rows of attention weights that are at hand, for engines whose attention
 * keeps them. Tasks are spans of columns, each summed in double in the same order.
 */
#include "../../include/vtc/guided.h"
#include "../base/tensor.h"
#include "../linalg/attention.h"
#include "../linalg/rows.h"

#include <string.h>

enum { SPAN = 256 }; /* columns of a task */

struct given {
    vtc_attention_given_params params; /* n_rows and n_cols as they are used */
    vtci_heads a;                      /* [H, M, N] */
    float *score;
};

static vtc_status check_list(const vtci_call *call, const char *name, const int32_t *list, size_t n,
                             size_t end)
{
    for (size_t i = 0; list != NULL && i < n; i++)
        VTCI_REQUIRE(call, list[i] >= 0 && (size_t)list[i] < end, VTC_ERR_RANGE,
                     "%s[%zu] is %d, attention has %zu", name, i, (int)list[i], end);
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_attention_given_params *from,
                              const vtc_tensor *a, vtc_attention_given_params *p)
{
    static const vtc_attention_given_params defaults = VTC_ATTENTION_GIVEN_PARAMS_INIT;
    const size_t n = a->dim[2];

    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), from));
    if (p->rows == NULL)
        p->n_rows = a->dim[1];
    VTCI_REQUIRE(call, a->dim[0] != 0 && p->n_rows != 0, VTC_ERR_SHAPE,
                 "a mean over %zu heads and %zu rows is asked for", a->dim[0], p->n_rows);
    VTCI_TRY(check_list(call, "rows", p->rows, p->n_rows, a->dim[1]));
    if (p->cols != NULL)
        return check_list(call, "cols", p->cols, p->n_cols, n);
    VTCI_REQUIRE(call, p->first_col <= n, VTC_ERR_RANGE, "first_col is %zu, attention has %zu keys",
                 p->first_col, n);
    if (p->n_cols == SIZE_MAX)
        p->n_cols = n - p->first_col;
    VTCI_REQUIRE(call, p->n_cols <= n - p->first_col, VTC_ERR_RANGE,
                 "%zu columns from %zu on are asked for, attention has %zu keys", p->n_cols,
                 p->first_col, n);
    return VTC_OK;
}

static vtc_status check_output(const vtci_call *call, const struct given *g, const vtc_tensor *a)
{
    const size_t n = g->params.n_cols, bytes = vtci_mul(n, sizeof(*g->score));

    VTCI_REQUIRE(call, g->score != NULL || n == 0, VTC_ERR_NULL, "score is NULL");
    VTCI_REQUIRE(call, !vtci_ranges_meet(g->score, bytes, a->data, vtci_span_bytes(a)),
                 VTC_ERR_OVERLAP, "score overlaps attention");
    VTCI_REQUIRE(call,
                 g->params.rows == NULL || !vtci_ranges_meet(g->score, bytes, g->params.rows,
                                                             g->params.n_rows * sizeof(int32_t)),
                 VTC_ERR_OVERLAP, "score overlaps rows");
    VTCI_REQUIRE(call,
                 g->params.cols == NULL ||
                     !vtci_ranges_meet(g->score, bytes, g->params.cols, n * sizeof(int32_t)),
                 VTC_ERR_OVERLAP, "score overlaps cols");
    return VTC_OK;
}

/* n weights of a row from the span's first column on, as floats, in place or in tmp. */
static const float *load_span(const struct given *g, const char *row, size_t first, size_t n,
                              float *tmp)
{
    const size_t size = vtc_dtype_size(g->a.dtype);
    const int32_t *cols = g->params.cols;

    if (cols == NULL)
        return vtci_load_row(row + (g->params.first_col + first) * size, g->a.dtype, n, tmp);
    for (size_t i = 0; i < n; i++)
        tmp[i] = *vtci_load_row(row + (size_t)cols[first + i] * size, g->a.dtype, 1, &tmp[i]);
    return tmp;
}

static void average_span(void *job, size_t index, size_t worker)
{
    const struct given *g = job;
    const size_t first = index * SPAN, n = vtci_min(SPAN, g->params.n_cols - first);
    double sum[SPAN];
    float tmp[SPAN];

    (void)worker;
    memset(sum, 0, sizeof(sum));
    for (size_t h = 0; h < g->a.n_heads; h++)
        for (size_t m = 0; m < g->params.n_rows; m++) {
            const size_t row = g->params.rows == NULL ? m : (size_t)g->params.rows[m];
            const float *a = load_span(g, vtci_head_row(&g->a, 0, h, row), first, n, tmp);

            for (size_t i = 0; i < n; i++)
                sum[i] += a[i];
        }
    for (size_t i = 0; i < n; i++)
        g->score[first + i] = (float)(sum[i] / ((double)g->a.n_heads * (double)g->params.n_rows));
}

vtc_status vtc_attention_given(const vtc_attention_given_params *params,
                               const vtc_tensor *attention, float *score, const vtc_exec *exec)
{
    struct given g;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_attention_given", exec));
    VTCI_TRY(vtci_check_tensor(&call, "attention", attention, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(open_params(&call, params, attention, &g.params));
    g.a = vtci_heads_of(attention);
    g.score = score;
    VTCI_TRY(check_output(&call, &g, attention));
    vtci_parallel(&call, vtci_ceil_div(g.params.n_cols, SPAN), average_span, &g);
    return VTC_OK;
}
