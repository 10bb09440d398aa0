/*
 * Attention statistics from Q and K.
 *
 *     a_mj = mean over heads of softmax(scale q_h k_h^T)[m, j]
 *     sum, mean and maximum of a_mj over voters m; rows a_m
 *
 * No array of queries x keys: blocks of 64 rows go through their logits while these are in the
 * second-level cache. The two ways to do that are in stats_sums.c and stats_means.c. Blocks are
 * counted from row 0 of the whole, whatever tiles it comes in, so that tiles do not show in the
 * bits. One call is one tile whose totals are the caller's outputs; with several, they are in the
 * caller's state.
 *
 * Sources: Liu et al., "Multi-Stage Vision Token Dropping" (MustDrop), arXiv 2411.10803, for sum
 * and maximum of head means; column means are HoloV's, the last row FastV's.
 */
#include "stats.h"

#include <string.h>

/* ---- totals ---------------------------------------------------------------------------------- */

/* Zeros: no weight is below. */
static void clear(float *x, size_t n)
{
    if (x != NULL)
        memset(x, 0, n * sizeof(*x));
}

void vtci_stats_start(vtci_stats *s)
{
    const size_t n = s->params.n_cols;

    clear(s->totals.head_sum, s->n_heads * n);
    clear(s->totals.sum, n);
    clear(s->totals.max, n);
    clear(s->totals.rows, s->params.n_chosen * n);
}

/* The sums over all heads' voters to the mean over heads, in double: it is once for each column. */
static double column_sum(const vtci_stats *s, size_t j)
{
    double sum = 0.0;

    if (s->totals.sum != NULL)
        return s->totals.sum[j];
    for (size_t h = 0; h < s->n_heads; h++)
        sum += s->totals.head_sum[h * s->params.n_cols + j];
    return s->n_heads == 0 ? 0.0 : sum / (double)s->n_heads;
}

void vtci_stats_write_sums(const vtci_stats *s, const vtc_attention_stats_out *out)
{
    const double n_voters = (double)vtci_max(1, vtci_stats_n_voters(s));

    if ((s->params.want & VTCI_STATS_SUMS) == 0)
        return;
    for (size_t j = 0; j < s->params.n_cols; j++) {
        const double sum = column_sum(s, j);

        if ((s->params.want & VTC_STATS_COL_SUM) != 0)
            out->col_sum[j] = (float)sum;
        if ((s->params.want & VTC_STATS_COL_MEAN) != 0)
            out->col_mean[j] = (float)(sum / n_voters);
    }
}

void vtci_stats_run(vtci_stats *s)
{
    if (vtci_stats_has_sums(s))
        vtci_stats_run_sums(s);
    if (vtci_stats_has_means(s))
        vtci_stats_run_means(s);
}

/* ---- one call -------------------------------------------------------------------------------- */

static vtc_status open_call(const vtci_call *call, const vtc_attention_stats_params *params,
                            const vtc_tensor *q, const vtc_tensor *k, vtci_stats *s)
{
    VTCI_TRY(vtci_stats_check_views(call, q, k));
    VTCI_TRY(vtci_stats_open_params(call, params, q->dim[0], q->dim[1], k->dim[1], s));
    vtci_stats_set_views(s, q, k);
    return VTC_OK;
}

static void lay_out_call(vtci_arena *arena, vtci_stats *s)
{
    vtci_stats_lay_out(arena, s);
    s->totals.head_sum = NULL;
    if (vtci_stats_has_sums(s))
        s->totals.head_sum =
            vtci_take(arena, vtci_mul(s->n_heads, s->params.n_cols), sizeof(float));
}

/* What can be is accumulated where it is wanted. */
static void use_outputs(vtci_stats *s, const vtc_attention_stats_out *out)
{
    const unsigned want = s->params.want;

    if ((want & VTCI_STATS_SUMS) != 0 && !vtci_stats_has_sums(s))
        s->totals.sum = (want & VTC_STATS_COL_SUM) != 0 ? out->col_sum : out->col_mean;
    if ((want & VTC_STATS_COL_MAX) != 0)
        s->totals.max = out->col_max;
    if ((want & VTC_STATS_ROWS) != 0)
        s->totals.rows = out->rows;
}

vtc_status vtc_attention_stats_scratch(const vtc_attention_stats_params *params,
                                       const vtc_tensor *q, const vtc_tensor *k,
                                       const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_stats s;

    VTCI_TRY(vtci_begin_query(&call, "vtc_attention_stats_scratch", exec, bytes));
    VTCI_TRY(open_call(&call, params, q, k, &s));
    arena = vtci_arena_open(&call);
    lay_out_call(&arena, &s);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_attention_stats(const vtc_attention_stats_params *params, const vtc_tensor *q,
                               const vtc_tensor *k, const vtc_tensor *lse,
                               const vtc_attention_stats_out *out, const vtc_exec *exec)
{
    vtc_attention_stats_out results;
    vtci_stats_piece inputs[VTCI_STATS_N_INPUTS];
    vtci_call call;
    vtci_arena arena;
    vtci_stats s;

    VTCI_TRY(vtci_begin(&call, "vtc_attention_stats", exec));
    VTCI_TRY(open_call(&call, params, q, k, &s));
    VTCI_TRY(vtci_stats_set_lse(&s, lse));
    vtci_stats_list_inputs(&s, q, k, lse, inputs);
    VTCI_TRY(vtci_stats_open_outputs(&s, out, inputs, &results));
    arena = vtci_arena_open(&call);
    lay_out_call(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    use_outputs(&s, &results);
    vtci_stats_start(&s);
    vtci_stats_run(&s);
    vtci_stats_write_sums(&s, &results);
    return VTC_OK;
}
