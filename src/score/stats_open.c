/*
 * What attention statistics are asked for, from what and where to: checked, and put into the job.
 */
#include "../linalg/gemm.h"
#include "stats.h"

#include <math.h>
#include <string.h>

enum { ALL = VTCI_STATS_SUMS | VTC_STATS_COL_MAX | VTC_STATS_ROWS };

/* Rows of a list ascend and are below n_rows. */
static vtc_status check_list(const vtci_call *call, const char *name, const int32_t *list, size_t n,
                             size_t n_rows)
{
    for (size_t i = 0; i < n; i++) {
        VTCI_REQUIRE(call, list[i] >= 0 && (size_t)list[i] < n_rows, VTC_ERR_RANGE,
                     "%s[%zu] is %d, there are %zu rows", name, i, (int)list[i], n_rows);
        VTCI_REQUIRE(call, i == 0 || list[i - 1] < list[i], VTC_ERR_RANGE,
                     "%s[%zu] is %d after %d: rows must ascend", name, i, (int)list[i],
                     (int)list[i - 1]);
    }
    return VTC_OK;
}

static vtc_status check_columns(const vtci_call *call, vtc_attention_stats_params *p, size_t n_keys)
{
    VTCI_REQUIRE(call, p->first_col <= n_keys, VTC_ERR_RANGE,
                 "first_col is %zu, there are %zu keys", p->first_col, n_keys);
    if (p->n_cols == SIZE_MAX)
        p->n_cols = n_keys - p->first_col;
    VTCI_REQUIRE(call, p->n_cols <= n_keys - p->first_col, VTC_ERR_RANGE,
                 "columns %zu to %zu are asked for, there are %zu keys", p->first_col,
                 vtci_add(p->first_col, p->n_cols), n_keys);
    return VTC_OK;
}

/* What is independent of the views and, when n_rows is SIZE_MAX, of the number of rows. */
vtc_status vtci_stats_open_params(const vtci_call *call, const vtc_attention_stats_params *from,
                                  size_t n_heads, size_t n_rows, size_t n_keys, vtci_stats *s)
{
    const vtc_attention_stats_params defaults = VTC_ATTENTION_STATS_PARAMS_INIT;
    vtc_attention_stats_params *p = &s->params;

    memset(s, 0, sizeof(*s));
    *p = defaults;
    VTCI_TRY(vtci_params_read(call, p, sizeof(*p), from));
    VTCI_REQUIRE(call, p->want != 0 && (p->want & ~(unsigned)ALL) == 0, VTC_ERR_RANGE,
                 "want is %#x, a set of VTC_STATS_... is needed", p->want);
    VTCI_REQUIRE(call, isfinite(p->scale) && p->scale >= 0.0f, VTC_ERR_RANGE,
                 "scale is %g, it must be positive, or 0 for 1 / sqrt(d)", (double)p->scale);
    VTCI_TRY(check_columns(call, p, n_keys));
    if ((p->want & VTC_STATS_ROWS) == 0)
        p->n_chosen = 0;
    VTCI_REQUIRE(call, p->chosen != NULL || p->n_chosen == 0, VTC_ERR_NULL,
                 "chosen is NULL, n_chosen %zu", p->n_chosen);
    VTCI_REQUIRE(call, n_heads == 0 || n_rows == 0 || n_rows == SIZE_MAX || n_keys != 0,
                 VTC_ERR_SHAPE, "there are %zu rows, but no keys", n_rows);
    if (n_rows != SIZE_MAX)
        VTCI_TRY(check_list(call, "chosen", p->chosen, p->n_chosen, n_rows));
    if (n_rows != SIZE_MAX && p->voters != NULL && (p->want & ~(unsigned)VTC_STATS_ROWS) != 0)
        VTCI_TRY(check_list(call, "voters", p->voters, p->n_voters, n_rows));
    for (size_t m = 0; n_rows != SIZE_MAX && p->causal && p->positions != NULL && m < n_rows; m++)
        VTCI_REQUIRE(call, p->positions[m] >= 0, VTC_ERR_RANGE, "positions[%zu] is %d", m,
                     (int)p->positions[m]);
    s->call = call;
    s->n_heads = n_heads;
    s->n_rows = n_rows;
    s->n_keys = n_keys;
    return VTC_OK;
}

/* ---- views ----------------------------------------------------------------------------------- */

vtc_status vtci_stats_check_views(const vtci_call *call, const vtc_tensor *q, const vtc_tensor *k)
{
    VTCI_TRY(vtci_check_tensor(call, "q", q, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "k", k, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, q->dim[2] == k->dim[2], VTC_ERR_SHAPE, "q is %zu wide, k is %zu", q->dim[2],
                 k->dim[2]);
    VTCI_REQUIRE(call, q->dim[0] == 0 || (k->dim[0] != 0 && q->dim[0] % k->dim[0] == 0),
                 VTC_ERR_SHAPE, "%zu query heads cannot share %zu key heads", q->dim[0], k->dim[0]);
    return vtci_check_gemm(call, VTCI_STATS_BLOCK, k->dim[1], k->dim[2]);
}

/* Puts checked views into a job whose parameters are open. */
void vtci_stats_set_views(vtci_stats *s, const vtc_tensor *q, const vtc_tensor *k)
{
    s->q = vtci_heads_of(q);
    s->k = vtci_heads_of(k);
    if (s->params.scale == 0.0f)
        s->params.scale = s->q.n_cols == 0 ? 1.0f : (float)(1.0 / sqrt((double)s->q.n_cols));
}

vtc_status vtci_stats_set_lse(vtci_stats *s, const vtc_tensor *lse)
{
    if (lse == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(s->call, "lse", lse, VTCI_BIT(VTC_F32), 2, 2, VTCI_IN));
    VTCI_REQUIRE(s->call, lse->dim[0] == s->q.n_heads && lse->dim[1] == s->q.n_rows, VTC_ERR_SHAPE,
                 "lse is [%zu, %zu], q has %zu heads of %zu rows", lse->dim[0], lse->dim[1],
                 s->q.n_heads, s->q.n_rows);
    s->lse = lse->data;
    s->lse_stride = lse->stride[0];
    return VTC_OK;
}

/* ---- outputs --------------------------------------------------------------------------------- */

enum { N_OUT = 4 };

static void list_outputs(const vtci_stats *s, const vtc_attention_stats_out *out,
                         vtci_stats_piece pieces[N_OUT])
{
    const unsigned want = s->params.want;
    const size_t row = vtci_mul(s->params.n_cols, sizeof(float));
    const vtci_stats_piece all[N_OUT] = {
        { "col_sum", out->col_sum, want & VTC_STATS_COL_SUM ? row : 0 },
        { "col_mean", out->col_mean, want & VTC_STATS_COL_MEAN ? row : 0 },
        { "col_max", out->col_max, want & VTC_STATS_COL_MAX ? row : 0 },
        { "rows", out->rows, vtci_mul(s->params.n_chosen, row) },
    };

    memcpy(pieces, all, sizeof(all));
}

void vtci_stats_list_inputs(const vtci_stats *s, const vtc_tensor *q, const vtc_tensor *k,
                            const vtc_tensor *lse, vtci_stats_piece pieces[VTCI_STATS_N_INPUTS])
{
    const vtc_attention_stats_params *p = &s->params;
    const size_t word = sizeof(int32_t);
    const vtci_stats_piece all[VTCI_STATS_N_INPUTS] = {
        { "q", q == NULL ? NULL : q->data, q == NULL ? 0 : vtci_span_bytes(q) },
        { "k", k == NULL ? NULL : k->data, k == NULL ? 0 : vtci_span_bytes(k) },
        { "lse", lse == NULL ? NULL : lse->data, lse == NULL ? 0 : vtci_span_bytes(lse) },
        { "positions", p->positions, p->positions == NULL ? 0 : vtci_mul(s->n_rows, word) },
        { "voters", p->voters, p->voters == NULL ? 0 : vtci_mul(p->n_voters, word) },
        { "chosen", p->chosen, vtci_mul(p->n_chosen, word) },
    };

    memcpy(pieces, all, sizeof(all));
}

vtc_status vtci_stats_check_apart(const vtci_call *call, const vtci_stats_piece *a,
                                  const vtci_stats_piece *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        VTCI_REQUIRE(call, !vtci_ranges_meet(a->data, a->bytes, b[i].data, b[i].bytes),
                     VTC_ERR_OVERLAP, "%s overlaps %s", a->name, b[i].name);
    return VTC_OK;
}

/* Reads the caller's outputs: what is wanted is there, and apart from the rest. */
vtc_status vtci_stats_open_outputs(const vtci_stats *s, const vtc_attention_stats_out *from,
                                   const vtci_stats_piece inputs[VTCI_STATS_N_INPUTS],
                                   vtc_attention_stats_out *out)
{
    const vtc_attention_stats_out none = VTC_ATTENTION_STATS_OUT_INIT;
    vtci_stats_piece outputs[N_OUT];

    *out = none;
    VTCI_REQUIRE(s->call, from != NULL, VTC_ERR_NULL, "out is NULL");
    VTCI_TRY(vtci_params_read(s->call, out, sizeof(*out), from));
    list_outputs(s, out, outputs);
    for (size_t i = 0; i < N_OUT; i++) {
        VTCI_REQUIRE(s->call, outputs[i].data != NULL || outputs[i].bytes == 0, VTC_ERR_NULL,
                     "out->%s is NULL, but wanted", outputs[i].name);
        VTCI_TRY(vtci_stats_check_apart(s->call, &outputs[i], outputs, i));
        VTCI_TRY(vtci_stats_check_apart(s->call, &outputs[i], inputs, VTCI_STATS_N_INPUTS));
    }
    return VTC_OK;
}
