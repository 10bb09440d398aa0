/* Statistics of attention at the sizes of CLIP-L/14-336 and of LLaVA-1.5-7B with 128 text tokens.
 */
#include "bench.h"

#include <vtc/score.h>

struct stats_shape {
    unsigned want;
    size_t n_heads, n_rows, n_keys, d;
    bool causal;      /* the rows are the last ones       */
    size_t first_col; /* of the image; n_cols 0: all keys */
    size_t n_cols;
    bool lse;
};

struct stats {
    vtc_attention_stats_params params;
    vtc_tensor q, k, lse;
    bool has_lse;
    int32_t last;
    vtc_attention_stats_out out;
};

static void set_up_stats(bench_set *set, const void *argument)
{
    const struct stats_shape *shape = argument;
    const vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;
    struct stats *s = set->state = bench_zeros(set, sizeof(*s));
    const size_t n_cols = shape->n_cols == 0 ? shape->n_keys : shape->n_cols;
    const size_t halves = shape->causal && shape->n_rows == shape->n_keys ? 2 : 1;
    size_t bytes;

    s->params = params;
    s->params.want = shape->want;
    s->params.causal = shape->causal;
    s->params.row_offset = shape->n_keys - shape->n_rows;
    s->params.first_col = shape->first_col;
    s->params.n_cols = n_cols;
    s->params.chosen = &s->last;
    s->params.n_chosen = 1;
    s->last = (int32_t)shape->n_rows - 1;
    s->q = bench_random_3d(set, VTC_F32, shape->n_heads, shape->n_rows, shape->d);
    s->k = bench_random_3d(set, VTC_F32, shape->n_heads, shape->n_keys, shape->d);
    s->has_lse = shape->lse;
    s->lse = vtc_f32_2d(bench_zeros(set, shape->n_heads * shape->n_rows * sizeof(float)),
                        shape->n_heads, shape->n_rows);
    for (size_t i = 0; i < shape->n_heads * shape->n_rows; i++)
        ((float *)s->lse.data)[i] = 8.0f;
    s->out.struct_size = sizeof(s->out);
    s->out.col_sum = bench_zeros(set, n_cols * sizeof(float));
    s->out.col_mean = bench_zeros(set, n_cols * sizeof(float));
    s->out.col_max = bench_zeros(set, n_cols * sizeof(float));
    s->out.rows = bench_zeros(set, n_cols * sizeof(float));
    bench_must(vtc_attention_stats_scratch(&s->params, &s->q, &s->k, &set->exec, &bytes));
    bench_scratch(set, bytes);
    if (shape->n_rows == 1)
        bench_limit_traffic(set, shape->n_heads * shape->n_keys * shape->d * sizeof(float));
    else
        bench_limit_product(set, shape->n_heads, shape->n_rows / halves,
                            shape->lse ? n_cols : shape->n_keys, shape->d, true);
}

static void run_stats(bench_set *set)
{
    struct stats *s = set->state;

    bench_must(vtc_attention_stats(&s->params, &s->q, &s->k, s->has_lse ? &s->lse : NULL, &s->out,
                                   &set->exec));
}

struct cls {
    vtc_tensor q, k;
    float *a;
};

static void set_up_cls(bench_set *set, const void *argument)
{
    const struct stats_shape *shape = argument;
    struct cls *c = set->state = bench_zeros(set, sizeof(*c));
    size_t bytes;

    c->q = bench_random_2d(set, VTC_F32, shape->n_heads, shape->d);
    c->k = bench_random_3d(set, VTC_F32, shape->n_heads, shape->n_keys, shape->d);
    c->a = bench_zeros(set, shape->n_keys * sizeof(*c->a));
    bench_must(vtc_cls_attention_scratch(NULL, &c->q, &c->k, NULL, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_traffic(set, shape->n_heads * shape->n_keys * shape->d * sizeof(float));
}

static void run_cls(bench_set *set)
{
    struct cls *c = set->state;

    bench_must(vtc_cls_attention(NULL, &c->q, &c->k, NULL, c->a, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

enum { SUM_MAX = VTC_STATS_COL_SUM | VTC_STATS_COL_MAX };

static const struct stats_shape decoder = {
    VTC_STATS_COL_MEAN, 32, 704, 704, 128, true, 0, 0, false
};
static const struct stats_shape encoder = {
    VTC_STATS_COL_MEAN, 16, 577, 577, 64, false, 0, 0, false
};
static const struct stats_shape last_row = { VTC_STATS_ROWS, 32, 1, 704, 128, true, 0, 0, false };
static const struct stats_shape text_rows = { SUM_MAX, 32, 93, 704, 128, true, 35, 576, false };
static const struct stats_shape text_lse = { SUM_MAX, 32, 93, 704, 128, true, 35, 576, true };
static const struct stats_shape cls_row = { VTC_STATS_ROWS, 16, 1, 577, 64, false, 0, 0, false };

/* Q and K were written just before, but those of a decoder's layer do not fit the caches. */
enum { WARM = false, COLD = true };

const bench_case bench_score_cases[] = {
    { "score/column_mean_32x704x128_causal", set_up_stats, run_stats, &decoder, COLD, 2.0 },
    { "score/column_mean_16x577x64", set_up_stats, run_stats, &encoder, WARM, 2.0 },
    { "score/last_row_32x704x128", set_up_stats, run_stats, &last_row, COLD, 0.0 },
    { "score/text_rows_32x93x704x128", set_up_stats, run_stats, &text_rows, COLD, 0.0 },
    { "score/text_rows_32x93x704x128_lse", set_up_stats, run_stats, &text_lse, COLD, 0.0 },
    { "score/cls_16x577x64", set_up_cls, run_cls, &cls_row, WARM, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
