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

struct mlp_form {
    vtc_dtype dtype;
    bool prepared;
};

struct mlp {
    vtc_linear linear[2];
    vtc_mlp_weights weights;
    vtc_prepared prepared;
    vtc_mlp_params params;
    vtc_tensor x, y;
};

static void prepare_mlp(bench_set *set, struct mlp *m)
{
    bench_must(vtc_mlp_prepare_size(&m->weights, &set->exec, &m->prepared.bytes));
    m->prepared.data = bench_zeros(set, m->prepared.bytes);
    bench_must(vtc_mlp_prepare(&m->weights, &m->prepared, &set->exec));
    m->params.prepared = &m->prepared;
}

static void set_up_mlp(bench_set *set, const void *argument)
{
    static const vtc_mlp_params defaults = VTC_MLP_PARAMS_INIT;
    const struct mlp_form *form = argument;
    const size_t n = 576, c = 1024, d = 4096;
    struct mlp *m = set->state = bench_zeros(set, sizeof(*m));
    size_t bytes;

    m->linear[0] = make_linear(set, form->dtype, d, c);
    m->linear[1] = make_linear(set, form->dtype, d, d);
    m->weights.linear = m->linear;
    m->weights.n_linear = 2;
    m->x = make_tokens(set, n, c);
    m->y = bench_random_2d(set, VTC_F32, n, d);
    m->params = defaults;
    if (form->prepared)
        prepare_mlp(set, m);
    bench_must(vtc_mlp_scratch(&m->params, &m->weights, &m->x, &m->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, n, d, c, true);
    bench_limit_product(set, 1, n, d, d, true);
}

static void run_mlp(bench_set *set)
{
    struct mlp *m = set->state;

    bench_must(vtc_mlp(&m->params, &m->weights, &m->x, &m->y, &set->exec));
}

/* ---- 2 x 2 tokens joined, norm and two layers ------------------------------------------------ */

enum { N_IN = 1024, SIDE = 32, N_OUT = N_IN / 4 };

struct joined_shape {
    vtc_dtype dtype;
    size_t c, n_norm, n_hidden, d;
    bool prepared;
};

struct joined {
    vtc_norm_mlp_weights weights;
    vtc_prepared prepared;
    bool is_prepared;
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
    j->is_prepared = s->prepared;
    if (!s->prepared)
        return j;
    bench_must(vtc_norm_mlp_prepare_size(&j->weights, &set->exec, &j->prepared.bytes));
    j->prepared.data = bench_zeros(set, j->prepared.bytes);
    bench_must(vtc_norm_mlp_prepare(&j->weights, &j->prepared, &set->exec));
    return j;
}

static vtc_patch_merger_params merger_params(const struct joined *j)
{
    vtc_patch_merger_params params = VTC_PATCH_MERGER_PARAMS_INIT;

    params.prepared = j->is_prepared ? &j->prepared : NULL;
    return params;
}

static void set_up_merger(bench_set *set, const void *argument)
{
    struct joined *j = set->state = open_joined(set, argument);
    const vtc_patch_merger_params params = merger_params(j);
    size_t bytes;

    bench_must(vtc_patch_merger_scratch(&params, &j->weights, &j->x, &j->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_merger(bench_set *set)
{
    struct joined *j = set->state;
    const vtc_patch_merger_params params = merger_params(j);

    bench_must(vtc_patch_merger(&params, &j->weights, &j->x, &j->y, &set->exec));
}

/* One tile, its class token gone already. */
static vtc_shuffle_projector_params internvl_params(const struct joined *j)
{
    vtc_shuffle_projector_params params = VTC_INTERNVL_PARAMS_INIT;

    params.grid_h = params.grid_w = SIDE;
    params.class_token = VTC_CLASS_TOKEN_NONE;
    params.prepared = j->is_prepared ? &j->prepared : NULL;
    return params;
}

static void set_up_internvl(bench_set *set, const void *argument)
{
    struct joined *j = set->state = open_joined(set, argument);
    const vtc_shuffle_projector_params params = internvl_params(j);
    size_t bytes;

    bench_must(
        vtc_internvl_projector_scratch(&params, &j->weights, &j->x, &j->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_internvl(bench_set *set)
{
    struct joined *j = set->state;
    const vtc_shuffle_projector_params params = internvl_params(j);

    bench_must(vtc_internvl_projector(&params, &j->weights, &j->x, &j->y, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct mlp_form f32 = { VTC_F32, false }, f16 = { VTC_F16, false };
static const struct mlp_form bf16 = { VTC_BF16, false }, f32_prepared = { VTC_F32, true };
static const struct mlp_form bf16_prepared = { VTC_BF16, true };
static const struct joined_shape qwen2vl_f32 = { VTC_F32, 1280, 1280, 5120, 3584, false };
static const struct joined_shape qwen2vl_bf16 = { VTC_BF16, 1280, 1280, 5120, 3584, false };
static const struct joined_shape qwen2vl_prepared = { VTC_F32, 1280, 1280, 5120, 3584, true };
static const struct joined_shape internvl_f32 = { VTC_F32, 1024, 4096, 4096, 4096, false };
static const struct joined_shape internvl_bf16 = { VTC_BF16, 1024, 4096, 4096, 4096, false };
static const struct joined_shape internvl_prepared = { VTC_F32, 1024, 4096, 4096, 4096, true };

/* The language model and the encoder run between two images: weights come from main memory. */
enum { COLD = true };

/* 90 % of the rate of sgemm */
#define RATE_90 (1.0 / 0.9)

const bench_case bench_project_cases[] = {
    { "project/llava_576x1024_4096_f32", set_up_mlp, run_mlp, &f32, COLD, RATE_90 },
    { "project/llava_576x1024_4096_f16", set_up_mlp, run_mlp, &f16, COLD, 0.0 },
    { "project/llava_576x1024_4096_bf16", set_up_mlp, run_mlp, &bf16, COLD, 0.0 },
    { "project/llava_576x1024_4096_f32_prepared", set_up_mlp, run_mlp, &f32_prepared, COLD,
      RATE_90 },
    { "project/llava_576x1024_4096_bf16_prepared", set_up_mlp, run_mlp, &bf16_prepared, COLD, 0.0 },
    { "project/qwen2vl_1024x1280_256x3584_f32", set_up_merger, run_merger, &qwen2vl_f32, COLD,
      RATE_90 },
    { "project/qwen2vl_1024x1280_256x3584_bf16", set_up_merger, run_merger, &qwen2vl_bf16, COLD,
      0.0 },
    { "project/qwen2vl_1024x1280_256x3584_f32_prepared", set_up_merger, run_merger,
      &qwen2vl_prepared, COLD, RATE_90 },
    { "project/internvl_1024x1024_256x4096_f32", set_up_internvl, run_internvl, &internvl_f32, COLD,
      RATE_90 },
    { "project/internvl_1024x1024_256x4096_bf16", set_up_internvl, run_internvl, &internvl_bf16,
      COLD, 0.0 },
    { "project/internvl_1024x1024_256x4096_f32_prepared", set_up_internvl, run_internvl,
      &internvl_prepared, COLD, RATE_90 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
