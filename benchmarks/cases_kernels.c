/* Row kernels, by themselves, on blocks of rows that the workers share out. */
#include "bench.h"

#include "../src/kernels/kernels.h"

struct rows {
    const vtci_kernels *k;
    vtc_tensor x, y;
    float *sums; /* [n_rows] */
};

static size_t n_rows(const struct rows *r)
{
    return r->x.dim[0];
}

static size_t n_cols(const struct rows *r)
{
    return r->x.dim[1];
}

static float *f32_row(const vtc_tensor *t, size_t row)
{
    return (float *)t->data + row * t->stride[0];
}

static uint16_t *row_16(const vtc_tensor *t, size_t row)
{
    return (uint16_t *)t->data + row * t->stride[0];
}

static struct rows *open_rows(bench_set *set, size_t rows, size_t cols, vtc_dtype from,
                              vtc_dtype to)
{
    struct rows *r = bench_zeros(set, sizeof(*r));

    r->k = vtci_kernels_get();
    r->x = bench_random_2d(set, from, rows, cols);
    r->y = bench_random_2d(set, to, rows, cols);
    r->sums = bench_zeros(set, rows * sizeof(*r->sums));
    bench_limit_traffic(set, rows * cols * (vtc_dtype_size(from) + vtc_dtype_size(to)));
    return r;
}

/* Tasks of several rows: one row is too little to hand out. */
enum { ROWS_PER_TASK = 16 };

static void run_rows(bench_set *set, void (*task)(void *job, size_t index, size_t worker))
{
    struct rows *r = set->state;

    bench_parallel(set, (n_rows(r) + ROWS_PER_TASK - 1) / ROWS_PER_TASK, task, r);
}

static size_t end_of_task(const struct rows *r, size_t index)
{
    const size_t end = (index + 1) * ROWS_PER_TASK;

    return end < n_rows(r) ? end : n_rows(r);
}

/* ---- dot ------------------------------------------------------------------------------------- */

/* Norms of 576 token rows: one read of each. */
static void set_up_dot(bench_set *set, const void *argument)
{
    struct rows *r = set->state = bench_zeros(set, sizeof(*r));

    (void)argument;
    r->k = vtci_kernels_get();
    r->x = bench_random_2d(set, VTC_F32, 576, 4096);
    r->sums = bench_zeros(set, 576 * sizeof(*r->sums));
    bench_limit_traffic(set, 576 * 4096 * sizeof(float));
}

static void dot_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        r->sums[i] = r->k->dot(f32_row(&r->x, i), f32_row(&r->x, i), n_cols(r));
}

static void run_dot(bench_set *set)
{
    run_rows(set, dot_task);
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* In place, as logits become weights. */
static void set_up_softmax(bench_set *set, const void *argument)
{
    struct rows *r = set->state = bench_zeros(set, sizeof(*r));

    (void)argument;
    r->k = vtci_kernels_get();
    r->x = r->y = bench_random_2d(set, VTC_F32, 16 * 577, 577);
    bench_limit_traffic(set, (size_t)2 * 16 * 577 * 577 * sizeof(float));
}

static void softmax_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        r->k->softmax(f32_row(&r->y, i), f32_row(&r->x, i), NULL, 0.125f, n_cols(r));
}

static void run_softmax(bench_set *set)
{
    run_rows(set, softmax_task);
}

/* ---- LayerNorm and GELU ---------------------------------------------------------------------- */

static void set_up_layer_norm(bench_set *set, const void *argument)
{
    (void)argument;
    set->state = open_rows(set, 576, 1024, VTC_F32, VTC_F32);
}

/* The first two rows of x serve as weight and bias. */
static void layer_norm_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        r->k->layer_norm(f32_row(&r->y, i), f32_row(&r->x, i), f32_row(&r->x, 0), f32_row(&r->x, 1),
                         1e-5f, n_cols(r));
}

static void run_layer_norm(bench_set *set)
{
    run_rows(set, layer_norm_task);
}

/* Values in [-4, 4): both branches of erf. */
static void set_up_gelu(bench_set *set, const void *argument)
{
    struct rows *r = set->state = open_rows(set, 576, 4096, VTC_F32, VTC_F32);

    (void)argument;
    for (size_t i = 0; i < n_rows(r); i++)
        r->k->scale(f32_row(&r->x, i), f32_row(&r->x, i), 4.0f, n_cols(r));
}

static void gelu_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        r->k->activate(VTCI_ACT_GELU_ERF, f32_row(&r->y, i), f32_row(&r->x, i), NULL, n_cols(r));
}

static void run_gelu(bench_set *set)
{
    run_rows(set, gelu_task);
}

/* ---- conversions ----------------------------------------------------------------------------- */

static void set_up_widen(bench_set *set, const void *argument)
{
    set->state = open_rows(set, 576, 4096, *(const vtc_dtype *)argument, VTC_F32);
}

static void set_up_narrow(bench_set *set, const void *argument)
{
    set->state = open_rows(set, 576, 4096, VTC_F32, *(const vtc_dtype *)argument);
}

static void widen_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        (r->x.dtype == VTC_F16 ? r->k->f16_to_f32 : r->k->bf16_to_f32)(f32_row(&r->y, i),
                                                                       row_16(&r->x, i), n_cols(r));
}

static void narrow_task(void *job, size_t index, size_t worker)
{
    const struct rows *r = job;

    (void)worker;
    for (size_t i = index * ROWS_PER_TASK; i < end_of_task(r, index); i++)
        (r->y.dtype == VTC_F16 ? r->k->f32_to_f16
                               : r->k->f32_to_bf16)(row_16(&r->y, i), f32_row(&r->x, i), n_cols(r));
}

static void run_widen(bench_set *set)
{
    run_rows(set, widen_task);
}

static void run_narrow(bench_set *set)
{
    run_rows(set, narrow_task);
}

/* ---- table ----------------------------------------------------------------------------------- */

static const vtc_dtype f16 = VTC_F16, bf16 = VTC_BF16;

/* What works on rows that a product has just written finds them in a cache, as the same rows are
 * when PyTorch is timed; conversions are for weights and whole tensors. */
enum { WARM = false, COLD = true };

const bench_case bench_kernel_cases[] = {
    { "kernels/dot_576x4096", set_up_dot, run_dot, NULL, COLD, 0.0 },
    { "kernels/softmax_16x577x577", set_up_softmax, run_softmax, NULL, WARM, 0.0 },
    { "kernels/layer_norm_576x1024", set_up_layer_norm, run_layer_norm, NULL, WARM, 0.0 },
    { "kernels/gelu_erf_576x4096", set_up_gelu, run_gelu, NULL, WARM, 0.0 },
    { "kernels/f16_to_f32_576x4096", set_up_widen, run_widen, &f16, COLD, 0.0 },
    { "kernels/f32_to_f16_576x4096", set_up_narrow, run_narrow, &f16, COLD, 0.0 },
    { "kernels/bf16_to_f32_576x4096", set_up_widen, run_widen, &bf16, COLD, 0.0 },
    { "kernels/f32_to_bf16_576x4096", set_up_narrow, run_narrow, &bf16, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
