/* Projectors of LLaVA-1.5, Qwen2-VL and InternVL. The limit: their matrix products, by the same
 * OpenBLAS. */
#include "bench.h"

#include <vtc/shuffle.h>

/*
 * Weights in [-1, 1) make hidden values of about sqrt(K)/2, where GELU's tail is denormal. What
 * goes into the first product is made smaller by this, so that they are like those of a model.
 */
static const float typical = 0.03f;

static vtc_linear make_linear(bench_set *set, vtc_dtype dtype, size_t n_out, size_t n_in)
{
    vtc_linear linear;

    linear.weight = bench_random_2d(set, dtype, n_out, n_in);
    linear.bias = bench_random(set, dtype, 1, &n_out);
    return linear;
}

static vtc_norm make_norm(bench_set *set, size_t n)
{
    float *weight = bench_zeros(set, n * sizeof(*weight));
    vtc_norm norm;

    for (size_t i = 0; i < n; i++)
        weight[i] = typical;
    norm.weight = vtc_f32_1d(weight, n);
    norm.bias = vtc_f32_1d(bench_zeros(set, n * sizeof(float)), n);
    return norm;
}

static vtc_tensor make_tokens(bench_set *set, size_t n, size_t n_channels)
{
    const vtc_tensor x = bench_random_2d(set, VTC_F32, n, n_channels);
    float *value = x.data;

    for (size_t i = 0; i < n * n_channels; i++)
        value[i] *= typical;
    return x;
}

/* ---- LLaVA-1.5 ------------------------------------------------------------------------------- */

struct mlp {
    vtc_linear linear[2];
    vtc_mlp_weights weights;
    vtc_tensor x, y;
};

static void set_up_mlp(bench_set *set, const void *argument)
{
    const vtc_dtype dtype = *(const vtc_dtype *)argument;
    const size_t n = 576, c = 1024, d = 4096;
    struct mlp *m = set->state = bench_zeros(set, sizeof(*m));
    size_t bytes;

    m->linear[0] = make_linear(set, dtype, d, c);
    m->linear[1] = make_linear(set, dtype, d, d);
    m->weights.linear = m->linear;
    m->weights.n_linear = 2;
    m->x = make_tokens(set, n, c);
    m->y = bench_random_2d(set, VTC_F32, n, d);
    bench_must(vtc_mlp_scratch(NULL, &m->weights, &m->x, &m->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, n, d, c, true);
    bench_limit_product(set, 1, n, d, d, true);
}

static void run_mlp(bench_set *set)
{
    struct mlp *m = set->state;

    bench_must(vtc_mlp(NULL, &m->weights, &m->x, &m->y, &set->exec));
}

/* ---- 2 x 2 tokens joined, norm and two layers ------------------------------------------------ */

enum { N_IN = 1024, SIDE = 32, N_OUT = N_IN / 4 };

struct joined_shape {
    vtc_dtype dtype;
    size_t c, n_norm, n_hidden, d;
};

struct joined {
    vtc_norm_mlp_weights weights;
    vtc_tensor x, y;
};

static struct joined *open_joined(bench_set *set, const struct joined_shape *s)
{
    struct joined *j = bench_zeros(set, sizeof(*j));

    j->weights.norm = make_norm(set, s->n_norm);
    j->weights.fc1 = make_linear(set, s->dtype, s->n_hidden, 4 * s->c);
    j->weights.fc2 = make_linear(set, s->dtype, s->d, s->n_hidden);
    j->x = bench_random_2d(set, VTC_F32, N_IN, s->c);
    j->y = bench_random_2d(set, VTC_F32, N_OUT, s->d);
    bench_limit_product(set, 1, N_OUT, s->n_hidden, 4 * s->c, true);
    bench_limit_product(set, 1, N_OUT, s->d, s->n_hidden, true);
    return j;
}

static void set_up_merger(bench_set *set, const void *argument)
{
    struct joined *j = set->state = open_joined(set, argument);
    size_t bytes;

    bench_must(vtc_patch_merger_scratch(NULL, &j->weights, &j->x, &j->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_merger(bench_set *set)
{
    struct joined *j = set->state;

    bench_must(vtc_patch_merger(NULL, &j->weights, &j->x, &j->y, &set->exec));
}

/* One tile, its class token gone already. */
static vtc_shuffle_projector_params internvl_params(void)
{
    vtc_shuffle_projector_params params = VTC_INTERNVL_PARAMS_INIT;

    params.grid_h = params.grid_w = SIDE;
    params.class_token = VTC_CLASS_TOKEN_NONE;
    return params;
}

static void set_up_internvl(bench_set *set, const void *argument)
{
    struct joined *j = set->state = open_joined(set, argument);
    const vtc_shuffle_projector_params params = internvl_params();
    size_t bytes;

    bench_must(
        vtc_internvl_projector_scratch(&params, &j->weights, &j->x, &j->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_internvl(bench_set *set)
{
    struct joined *j = set->state;
    const vtc_shuffle_projector_params params = internvl_params();

    bench_must(vtc_internvl_projector(&params, &j->weights, &j->x, &j->y, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const vtc_dtype f32 = VTC_F32, f16 = VTC_F16, bf16 = VTC_BF16;
static const struct joined_shape qwen2vl_f32 = { VTC_F32, 1280, 1280, 5120, 3584 };
static const struct joined_shape qwen2vl_bf16 = { VTC_BF16, 1280, 1280, 5120, 3584 };
static const struct joined_shape internvl_f32 = { VTC_F32, 1024, 4096, 4096, 4096 };
static const struct joined_shape internvl_bf16 = { VTC_BF16, 1024, 4096, 4096, 4096 };

/* The language model and the encoder run between two images: weights come from main memory. */
enum { COLD = true };

/* 90 % of the rate of sgemm */
#define RATE_90 (1.0 / 0.9)

const bench_case bench_project_cases[] = {
    { "project/llava_576x1024_4096_f32", set_up_mlp, run_mlp, &f32, COLD, RATE_90 },
    { "project/llava_576x1024_4096_f16", set_up_mlp, run_mlp, &f16, COLD, 0.0 },
    { "project/llava_576x1024_4096_bf16", set_up_mlp, run_mlp, &bf16, COLD, 0.0 },
    { "project/qwen2vl_1024x1280_256x3584_f32", set_up_merger, run_merger, &qwen2vl_f32, COLD,
      RATE_90 },
    { "project/qwen2vl_1024x1280_256x3584_bf16", set_up_merger, run_merger, &qwen2vl_bf16, COLD,
      0.0 },
    { "project/internvl_1024x1024_256x4096_f32", set_up_internvl, run_internvl, &internvl_f32, COLD,
      RATE_90 },
    { "project/internvl_1024x1024_256x4096_bf16", set_up_internvl, run_internvl, &internvl_bf16,
      COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
