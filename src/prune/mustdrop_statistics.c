/*
 * MustDrop, prefill: how much the text looks at each vision token, from an attention that is there.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' prefill loop.
 *
 *     a = mean over heads of A[:, text rows, columns]     sum_j = sum_t a_tj    max_j = max_t a_tj
 *
 * Heads are averaged first: the maximum is of means. From Q and K vtc_attention_stats() computes
 * the same without an array of attention.
 */
#include "../../include/vtc/mustdrop.h"
#include "../base/apart.h"
#include "../kernels/kernels.h"
#include "../linalg/rows.h"

enum { GROUP = 256 }; /* columns of one task */

struct statistics {
    vtci_rows a; /* [H, M, L] */
    size_t first_row, first_col, n_cols;
    float *col_sum, *col_max;
    char *slices; /* per worker the means of one group */
    size_t slice_stride;
};

static vtc_status open_job(const vtci_call *call, const vtc_tensor *attention, size_t n_text,
                           size_t first_col, size_t n_cols, struct statistics *s)
{
    VTCI_TRY(vtci_check_tensor(call, "attention", attention, VTCI_FLOATS, 3, 3, VTCI_IN));
    s->a = vtci_rows_of(attention);
    VTCI_REQUIRE(call, s->a.n_batch != 0, VTC_ERR_SHAPE, "attention has no heads");
    VTCI_REQUIRE(call, n_text != 0 && n_text <= s->a.n_rows, VTC_ERR_SHAPE,
                 "%zu text rows of %zu rows of attention", n_text, s->a.n_rows);
    VTCI_REQUIRE(call, vtci_add(first_col, n_cols) <= s->a.n_cols, VTC_ERR_SHAPE,
                 "columns %zu to %zu are asked for, attention has %zu", first_col,
                 vtci_add(first_col, n_cols), s->a.n_cols);
    s->first_row = s->a.n_rows - n_text;
    s->first_col = first_col;
    s->n_cols = n_cols;
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct statistics *s)
{
    s->slices =
        vtci_take_slices(arena, call, vtci_min(s->n_cols, GROUP) * sizeof(float), &s->slice_stride);
}

/* mean[0 .. n - 1] of one text row over the heads, columns from `begin` on */
static void average_heads(const struct statistics *s, size_t row, size_t begin, size_t n,
                          float *mean)
{
    const size_t skipped = (s->first_col + begin) * vtc_dtype_size(s->a.dtype);
    vtci_combine combine;

    vtci_combine_begin(&combine, mean, n, s->a.dtype, false);
    for (size_t h = 0; h < s->a.n_batch; h++)
        vtci_combine_add(&combine, vtci_row(&s->a, h, row) + skipped, 1.0f / (float)s->a.n_batch);
    vtci_combine_end(&combine);
}

static void reduce_group(void *job, size_t index, size_t worker)
{
    const struct statistics *s = job;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t begin = index * GROUP, n = vtci_min(GROUP, s->n_cols - begin);
    float *mean = (float *)(void *)(s->slices + worker * s->slice_stride);
    float *sum = s->col_sum + begin, *max = s->col_max + begin;
    const float *rows[1] = { mean };

    average_heads(s, s->first_row, begin, n, sum);
    average_heads(s, s->first_row, begin, n, max);
    for (size_t row = s->first_row + 1; row < s->a.n_rows; row++) {
        average_heads(s, row, begin, n, mean);
        k->add(sum, sum, mean, n);
        k->combine_max(max, rows, NULL, 1, n, 1);
    }
}

vtc_status vtc_mustdrop_statistics_scratch(const vtc_tensor *attention, size_t n_text,
                                           size_t first_col, size_t n_cols, const vtc_exec *exec,
                                           size_t *bytes)
{
    struct statistics s;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_statistics_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, attention, n_text, first_col, n_cols, &s));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &s);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mustdrop_statistics(const vtc_tensor *attention, size_t n_text, size_t first_col,
                                   size_t n_cols, float *col_sum, float *col_max,
                                   const vtc_exec *exec)
{
    struct statistics s;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_statistics", exec));
    VTCI_TRY(open_job(&call, attention, n_text, first_col, n_cols, &s));
    VTCI_REQUIRE(&call, n_cols == 0 || (col_sum != NULL && col_max != NULL), VTC_ERR_NULL,
                 "col_sum or col_max is NULL");
    const vtci_memory out[2] = { { "col_sum", col_sum, n_cols * sizeof(float) },
                                 { "col_max", col_max, n_cols * sizeof(float) } };
    const vtci_memory in = { "attention", attention->data, vtci_span_bytes(attention) };

    VTCI_TRY(vtci_check_all_apart(&call, out, 2, &in, 1));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    s.col_sum = col_sum;
    s.col_max = col_max;
    vtci_parallel(&call, vtci_ceil_div(n_cols, GROUP), reduce_group, &s);
    return VTC_OK;
}
