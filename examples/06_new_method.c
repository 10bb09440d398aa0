/*
 * 06_new_method.c: the next method, in a page.
 *
 * A researcher's idea: keep the visual tokens that the question looks at and that differ from the
 * average token. The statistics are libvtc's (vtc/score.h: attention without an N x N array, cosine
 * of rows), and with a row of its own the method gets batches, budgets, checks, K/V moves,
 * positions and pictures like all others.
 */
#include "example.h"

#include <string.h>
#include <vtc/heap.h>
#include <vtc/vtc.h>

/* ---- the method ------------------------------------------------------------------------------ */

enum { MAX_CHANNELS = 256 };

static int is_f32(const vtc_tensor *t)
{
    return t != NULL && t->dtype == VTC_F32;
}

/* What the library does not know of a method, the method checks: this sketch reads dense F32 rows,
 * and its mean row stands on the stack. */
static vtc_status check(const vtc_plan_inputs *image)
{
    const vtc_tensor *x = image->features;

    if (!is_f32(x) || x->stride[0] != x->dim[1] || x->dim[1] > MAX_CHANNELS ||
        !is_f32(image->lm_query))
        return VTC_ERR_UNSUPPORTED;
    return VTC_OK;
}

static vtc_status count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                        vtc_plan_count *n, const vtc_exec *exec)
{
    (void)params, (void)exec;
    n->n_in = image->n_rows;
    n->n_out = n_keep;
    n->n_nnz = 0; /* a pure selection: no entries */
    n->exact = 1;
    if (n_keep > image->n_rows)
        return VTC_ERR_BUDGET;
    return check(image);
}

/* The text rows, behind the visual ones, look at the visual columns. */
static vtc_attention_stats_params looks(const vtc_plan_inputs *image, vtc_tensor *text)
{
    const size_t first = image->v_start + image->n_rows;
    vtc_attention_stats_params p = VTC_ATTENTION_STATS_PARAMS_INIT;

    *text = *image->lm_query;
    text->dim[1] = image->n_text;
    if (text->data != NULL) /* a scratch query has none */
        text->data = (float *)text->data + first * text->stride[1];
    p.causal = 1;
    p.row_offset = first;
    p.first_col = image->v_start;
    p.n_cols = image->n_rows;
    return p;
}

static vtc_status scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                          const vtc_exec *exec, size_t *bytes)
{
    vtc_tensor text;
    vtc_attention_stats_params p;
    vtc_status status = check(image);

    (void)params, (void)n_keep;
    if (status != VTC_OK)
        return status;
    p = looks(image, &text);
    status = vtc_attention_stats_scratch(&p, &text, image->lm_keys, exec, bytes);
    if (status == VTC_OK)
        *bytes +=
            3 * 64 * (image->n_rows / 16 + 1); /* ours: three arrays of rows, 64-byte aligned */
    return status;
}

static void mean_row(const vtc_tensor *x, float *mean)
{
    memset(mean, 0, x->dim[1] * sizeof(*mean));
    for (size_t i = 0; i < x->dim[0] * x->dim[1]; i++)
        mean[i % x->dim[1]] += ((const float *)x->data)[i] / (float)x->dim[0];
}

/* Row n is kept when fewer than n_keep rows are better; of equal ones the lower is. */
static size_t rank_of(const float *score, size_t n_rows, size_t n)
{
    size_t better = 0;

    for (size_t i = 0; i < n_rows; i++)
        better += score[i] > score[n] || (i < n && score[i] == score[n]);
    return better;
}

static vtc_status plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                       vtc_plan *out, const vtc_exec *exec)
{
    const size_t n = image->n_rows, stride = 16 * (n / 16 + 1);
    float *look = exec->scratch, *alike = look + stride, mean[MAX_CHANNELS];
    int32_t *rows = (int32_t *)exec->scratch + 2 * stride;
    const vtc_tensor average = vtc_f32_1d(mean, image->features->dim[1]);
    vtc_attention_stats_out stats = VTC_ATTENTION_STATS_OUT_INIT;
    vtc_tensor text;
    const vtc_attention_stats_params p = looks(image, &text);
    vtc_exec inner = *exec;
    vtc_status status;
    size_t n_kept = 0;

    (void)params;
    inner.scratch = (float *)exec->scratch + 3 * stride;
    inner.scratch_size -= 3 * stride * sizeof(float);
    stats.col_mean = look;
    mean_row(image->features, mean);
    status = vtc_attention_stats(&p, &text, image->lm_keys, NULL, &stats, &inner);
    if (status == VTC_OK)
        status = vtc_row_cosine(image->features, &average, alike, &inner);
    for (size_t i = 0; i < n; i++)
        look[i] *= 1.0f - alike[i];
    for (size_t i = 0; i < n; i++)
        if (rank_of(look, n, i) < n_keep)
            rows[n_kept++] = (int32_t)i;
    if (status == VTC_OK)
        status = vtc_plan_select(out, n, rows, n_keep, image->mass, exec);
    if (status == VTC_OK && out->score != NULL)
        memcpy(out->score, look, n * sizeof(*look));
    return status;
}

static const vtc_planner asked_and_rare = {
    .struct_size = sizeof(vtc_planner),
    .name = "asked-and-rare",
    .title = "asked and rare",
    .paper = "none yet",
    .checked = "nothing",
    .needs = VTC_NEED_FEATURES | VTC_NEED_LM,
    .exact = 1,
    .count = count,
    .scratch = scratch,
    .plan = plan,
};

/* ---- its first run --------------------------------------------------------------------------- */

enum { N = 12, TEXT = 2, L = N + TEXT, H = 2, D = 4, KEEP = 4 };

/* Keys of rows 3 and 7 point where the question's queries do; rows 5 and 7 have rare features. */
static void make_inputs(float *features, float *q, float *k)
{
    for (int i = 0; i < H * L * D; i++) {
        const int row = i / D % L, channel = i % D;

        q[i] = row >= N && channel == 0 ? 3.0f : 0.1f;
        k[i] = (row == 3 || row == 7) && channel == 0 ? 2.0f : 0.01f * (float)(row % 5);
    }
    for (int i = 0; i < N * D; i++)
        features[i] =
            1.0f + (i / D == 5 || i / D == 7 ? (float)(3 * (i % D)) : 0.1f * (float)(i % 3));
}

int main(void)
{
    float features[N * D], q[H * L * D], k[H * L * D];
    const vtc_tensor x = vtc_f32_2d(features, N, D);
    const vtc_tensor query = vtc_f32_3d(q, H, L, D), keys = vtc_f32_3d(k, H, L, D);
    const vtc_budget budget = vtc_budget_keep(KEEP);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan kept = VTC_PLAN_INIT;
    vtc_plan_count size;
    size_t bytes;

    make_inputs(features, q, k);
    inputs.features = &x;
    inputs.lm_query = &query;
    inputs.lm_keys = &keys;
    inputs.n_text = TEXT;
    exec.on_error = print_error;
    must(vtc_planner_count(&asked_and_rare, NULL, &inputs, &budget, &size, &exec));
    must(vtc_heap_plan(&kept, &size, &exec));
    must(vtc_planner_scratch(&asked_and_rare, NULL, &inputs, &budget, &exec, &bytes));
    must(vtc_heap_scratch(&exec, bytes));
    must(vtc_planner_plan(&asked_and_rare, NULL, &inputs, &budget, &kept, NULL, &exec));

    printf("%s keeps rows", asked_and_rare.title);
    for (size_t j = 0; j < kept.n_out; j++)
        printf(" %d", (int)kept.keep[j]);
    printf("\nscores");
    for (size_t i = 0; i < kept.n_in; i++)
        printf(" %.3f", kept.score[i]);
    printf("\n");
    vtc_heap_plan_free(&kept);
    vtc_heap_free(&exec);
    return 0;
}
