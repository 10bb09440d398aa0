#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* [n_heads, n, d] over memory of either layout. */
static vtc_tensor make_heads(uint64_t *seed, const stats_case *c, vtc_dtype dtype, size_t n_heads,
                             size_t n)
{
    const size_t outer[3] = { n_heads, n, c->shape.d }, inner[3] = { n, n_heads, c->shape.d };
    vtc_tensor t = make_random(seed, dtype, 3, c->heads_inner ? inner : outer, c->gap);

    if (c->heads_inner) {
        const size_t stride = t.stride[0];

        t.dim[0] = n_heads;
        t.dim[1] = n;
        t.stride[0] = t.stride[1];
        t.stride[1] = stride;
    }
    return t;
}

/* Rows of each kind: all (NULL), the last, or about two in three. */
static int32_t *make_list(uint64_t *seed, stats_rows kind, size_t n_rows, size_t *n)
{
    int32_t *list = malloc((n_rows + 1) * sizeof(*list)), *copy;

    *n = 0;
    for (size_t m = 0; m < n_rows; m++)
        if (kind == ROWS_ALL || (kind == ROWS_LAST && m + 1 == n_rows) ||
            (kind == ROWS_SOME && rng_below(seed, 3) != 0))
            list[(*n)++] = (int32_t)m;
    copy = guard_copy_readonly(list, *n * sizeof(*list));
    free(list);
    return copy;
}

static int32_t *make_positions(uint64_t *seed, const stats_case *c)
{
    int32_t *list = malloc((c->shape.n_rows + 1) * sizeof(*list)), *copy;

    for (size_t m = 0; m < c->shape.n_rows; m++)
        list[m] = (int32_t)rng_below(seed, c->shape.n_keys + 3);
    copy = guard_copy_readonly(list, c->shape.n_rows * sizeof(*list));
    free(list);
    return copy;
}

static vtc_tensor make_lse(const stats_case *c, const double *values)
{
    const size_t dim[2] = { c->shape.n_heads, c->shape.n_rows };
    vtc_tensor t = make_tensor(VTC_F32, 2, dim, c->gap);

    for (size_t i = 0; i < n_elements(&t); i++)
        ((float *)t.data)[element_at(&t, i)] = (float)values[i];
    guard_readonly(t.data);
    return t;
}

/* Columns of the mean over heads [M, N], over the voters. */
static void reduce(const stats_case *c, stats_data *data, const double *a)
{
    const size_t n = c->shape.n_keys, n_voters = data->params.n_voters;
    const int32_t *voters = data->voters;

    data->sum = calloc(data->n_cols + 1, sizeof(double));
    data->mean = calloc(data->n_cols + 1, sizeof(double));
    data->max = calloc(data->n_cols + 1, sizeof(double));
    data->rows = calloc(data->params.n_chosen * data->n_cols + 1, sizeof(double));
    for (size_t j = 0; j < data->n_cols; j++) {
        const double *column = a + c->first_col + j;

        for (size_t i = 0; i < n_voters; i++) {
            data->sum[j] += column[(size_t)voters[i] * n];
            data->max[j] = fmax(data->max[j], column[(size_t)voters[i] * n]);
        }
        data->mean[j] = n_voters == 0 ? 0.0 : data->sum[j] / (double)n_voters;
        for (size_t i = 0; i < data->params.n_chosen; i++)
            data->rows[i * data->n_cols + j] = column[(size_t)data->chosen[i] * n];
    }
}

static void expect(const stats_case *c, stats_data *data)
{
    const attention_shape *shape = &c->shape;
    size_t *seen = malloc((shape->n_rows + 1) * sizeof(*seen));
    double *lse = calloc(shape->n_heads * shape->n_rows + 1, sizeof(*lse));
    double *q = values_of(&data->q), *k = values_of(&data->k), *weights, *mean;

    for (size_t m = 0; m < shape->n_rows; m++) {
        const size_t at = c->positions ? (size_t)data->positions[m] : c->row_offset + m;

        seen[m] = c->causal && at + 1 < shape->n_keys ? at + 1 : shape->n_keys;
    }
    weights = attention_reference(shape, q, k, data->params.scale, seen, lse);
    mean = attention_reference_head_mean(shape, weights);
    reduce(c, data, mean);
    if (c->lse)
        data->lse = make_lse(c, lse);
    free(seen);
    free(lse);
    free(q);
    free(k);
    free(weights);
    free(mean);
}

stats_data make_stats(uint64_t *seed, const stats_case *c)
{
    const vtc_attention_stats_params defaults = VTC_ATTENTION_STATS_PARAMS_INIT;
    stats_data data;

    memset(&data, 0, sizeof(data));
    data.q = make_heads(seed, c, c->q, c->shape.n_heads, c->shape.n_rows);
    data.k = make_heads(seed, c, c->k, c->shape.n_key_heads, c->shape.n_keys);
    data.params = defaults;
    data.params.want = VTC_STATS_COL_SUM | VTC_STATS_COL_MEAN | VTC_STATS_COL_MAX | VTC_STATS_ROWS;
    data.params.scale = c->shape.d == 0 ? 1.0f : (float)(1.0 / sqrt((double)c->shape.d));
    data.params.causal = c->causal;
    data.params.row_offset = c->row_offset;
    data.params.first_col = c->first_col;
    data.params.n_cols = c->n_cols;
    data.n_cols = c->n_cols == SIZE_MAX ? c->shape.n_keys - c->first_col : c->n_cols;
    data.voters = make_list(seed, c->voters, c->shape.n_rows, &data.params.n_voters);
    data.chosen = make_list(seed, c->chosen, c->shape.n_rows, &data.params.n_chosen);
    if (c->voters != ROWS_ALL)
        data.params.voters = data.voters;
    data.params.chosen = data.chosen;
    if (c->positions)
        data.params.positions = data.positions = make_positions(seed, c);
    expect(c, &data);
    return data;
}

void free_stats(stats_data *data)
{
    guard_free(data->q.data);
    guard_free(data->k.data);
    guard_free(data->lse.data);
    guard_free(data->positions);
    guard_free(data->voters);
    guard_free(data->chosen);
    free(data->sum);
    free(data->mean);
    free(data->max);
    free(data->rows);
}

const vtc_tensor *stats_lse(const stats_data *data)
{
    return data->lse.dtype == (vtc_dtype)0 ? NULL : &data->lse;
}

static float *make_row(size_t n)
{
    float *row = guard_alloc(n * sizeof(*row));

    poison(row, n * sizeof(*row));
    return row;
}

vtc_attention_stats_out make_out(const stats_data *data)
{
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;

    out.col_sum = make_row(data->n_cols);
    out.col_mean = make_row(data->n_cols);
    out.col_max = make_row(data->n_cols);
    out.rows = make_row(data->params.n_chosen * data->n_cols);
    return out;
}

void free_out(vtc_attention_stats_out *out)
{
    guard_free(out->col_sum);
    guard_free(out->col_mean);
    guard_free(out->col_max);
    guard_free(out->rows);
}

static void assert_row(const char *what, bool wanted, const float *got, const double *want,
                       size_t n, double tolerance)
{
    if (!wanted) {
        assert_true(is_poisoned(got, n * sizeof(*got)));
        return;
    }
    for (size_t j = 0; j < n; j++)
        if (!close_to(got[j], want[j], 1e-30, tolerance))
            fail_msg("%s[%zu] is %.9g, not %.9g: off by %.2g", what, j, (double)got[j], want[j],
                     fabs(got[j] / want[j] - 1.0));
}

void assert_stats(const vtc_attention_stats_out *out, const stats_data *data, double tolerance)
{
    const unsigned want = data->params.want;
    const size_t n = data->n_cols;

    assert_row("col_sum", want & VTC_STATS_COL_SUM, out->col_sum, data->sum, n, tolerance);
    assert_row("col_mean", want & VTC_STATS_COL_MEAN, out->col_mean, data->mean, n, tolerance);
    assert_row("col_max", want & VTC_STATS_COL_MAX, out->col_max, data->max, n, tolerance);
    assert_row("rows", want & VTC_STATS_ROWS, out->rows, data->rows, n * data->params.n_chosen,
               tolerance);
}

void assert_same_stats(const vtc_attention_stats_out *a, const vtc_attention_stats_out *b,
                       const stats_data *data)
{
    const size_t bytes = data->n_cols * sizeof(float);

    assert_memory_equal(a->col_sum, b->col_sum, bytes);
    assert_memory_equal(a->col_mean, b->col_mean, bytes);
    assert_memory_equal(a->col_max, b->col_max, bytes);
    assert_memory_equal(a->rows, b->rows, bytes * data->params.n_chosen);
}
