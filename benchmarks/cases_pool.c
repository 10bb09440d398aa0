/* Pooling at the sizes of LLaVA-OneVision and LLaVA-Video, LLaVA-NeXT and Gemma 3. */
#include "bench.h"

#include <vtc/pool.h>

/* ---- grids ----------------------------------------------------------------------------------- */

struct pool_shape {
    vtc_dtype dtype;
    size_t n_frames, n_channels;
    vtc_pool2d_params params;
};

struct pool {
    vtc_pool2d_params params;
    vtc_tensor x, y;
};

static void set_up_pool(bench_set *set, const void *argument)
{
    const struct pool_shape *shape = argument;
    struct pool *p = set->state = bench_zeros(set, sizeof(*p));
    const size_t n_in = shape->params.grid_h * shape->params.grid_w;
    const size_t element = vtc_dtype_size(shape->dtype);
    size_t out_h, out_w, bytes;

    p->params = shape->params;
    bench_must(vtc_pool2d_count(&p->params, &out_h, &out_w, &set->exec));
    p->x = bench_random_3d(set, shape->dtype, shape->n_frames, n_in, shape->n_channels);
    p->y = bench_random_3d(set, shape->dtype, shape->n_frames, out_h * out_w, shape->n_channels);
    bench_must(vtc_pool2d_scratch(&p->params, &p->x, &p->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_traffic(set,
                        shape->n_frames * (n_in + out_h * out_w) * shape->n_channels * element);
}

static void run_pool(bench_set *set)
{
    struct pool *p = set->state;

    bench_must(vtc_pool2d(&p->params, &p->x, &p->y, &set->exec));
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* LLaVA-NeXT: a 480 x 640 photograph on a 672 x 672 canvas, packed behind the projector. */
struct tiles {
    vtc_anyres_params params;
    vtc_tensor x, newline, y;
};

static void set_up_tiles(bench_set *set, const void *argument)
{
    struct tiles *t = set->state = bench_zeros(set, sizeof(*t));
    const size_t side = 24, n_channels = *(const size_t *)argument;
    vtc_anyres_params params = VTC_ANYRES_PARAMS_INIT;
    vtc_anyres_layout layout;
    size_t bytes;

    params.tiles_h = params.tiles_w = 2;
    params.tile_h = params.tile_w = side;
    params.image_h = 480;
    params.image_w = 640;
    t->params = params;
    bench_must(vtc_anyres_count(&t->params, &layout, &set->exec));
    t->x = bench_random_3d(set, VTC_F32, 5, side * side, n_channels);
    t->newline = bench_random(set, VTC_F32, 1, &n_channels);
    t->y = bench_random_2d(set, VTC_F32, layout.n_tokens, n_channels);
    bench_must(vtc_anyres_pack_scratch(&t->params, &t->x, &t->newline, &t->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_traffic(set, 2 * layout.n_tokens * n_channels * sizeof(float));
}

static void run_tiles(bench_set *set)
{
    struct tiles *t = set->state;

    bench_must(vtc_anyres_pack(&t->params, &t->x, &t->newline, &t->y, &set->exec));
}

/* ---- Gemma 3 --------------------------------------------------------------------------------- */

struct gemma3 {
    vtc_gemma3_params params;
    vtc_gemma3_weights weights;
    vtc_tensor x, y;
};

static void set_up_gemma3(bench_set *set, const void *argument)
{
    const vtc_dtype dtype = *(const vtc_dtype *)argument;
    const vtc_gemma3_params params = VTC_GEMMA3_PARAMS_INIT;
    const size_t n_channels = 1152, n_hidden = 2560;
    struct gemma3 *g = set->state = bench_zeros(set, sizeof(*g));
    size_t bytes;

    g->params = params;
    g->params.patches_per_side = 64;
    g->params.tokens_per_side = 16;
    g->weights.mm_soft_emb_norm = bench_random(set, dtype, 1, &n_channels);
    g->weights.mm_input_projection_weight = bench_random_2d(set, dtype, n_channels, n_hidden);
    g->x = bench_random_2d(set, VTC_F32, 4096, n_channels);
    g->y = bench_random_2d(set, VTC_F32, 256, n_hidden);
    bench_must(
        vtc_gemma3_project_scratch(&g->params, &g->weights, &g->x, &g->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, 256, n_hidden, n_channels, false);
}

static void run_gemma3(bench_set *set)
{
    struct gemma3 *g = set->state;

    bench_must(vtc_gemma3_project(&g->params, &g->weights, &g->x, &g->y, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

/* 32 frames of SigLIP, 27 x 27, dtype by dtype */
#define FRAMES(dtype, mode, out)                                    \
    {                                                               \
        dtype, 32, 1152,                                            \
        {                                                           \
            sizeof(vtc_pool2d_params), 27, 27, mode, 0, 2, out, out \
        }                                                           \
    }
static const struct pool_shape bilinear_f32 = FRAMES(VTC_F32, VTC_POOL_BILINEAR, 14);
static const struct pool_shape bilinear_f16 = FRAMES(VTC_F16, VTC_POOL_BILINEAR, 14);
static const struct pool_shape bilinear_bf16 = FRAMES(VTC_BF16, VTC_POOL_BILINEAR, 14);
static const struct pool_shape average_f32 = FRAMES(VTC_F32, VTC_POOL_AVERAGE, 0);
static const struct pool_shape average_f16 = FRAMES(VTC_F16, VTC_POOL_AVERAGE, 0);
static const struct pool_shape average_bf16 = FRAMES(VTC_BF16, VTC_POOL_AVERAGE, 0);
static const struct pool_shape max_f32 = FRAMES(VTC_F32, VTC_POOL_MAX, 0);
static const struct pool_shape max_f16 = FRAMES(VTC_F16, VTC_POOL_MAX, 0);
static const struct pool_shape max_bf16 = FRAMES(VTC_BF16, VTC_POOL_MAX, 0);
static const struct pool_shape adaptive_f32 = { VTC_F32,
                                                32,
                                                1024,
                                                { sizeof(vtc_pool2d_params), 24, 24,
                                                  VTC_POOL_ADAPTIVE_AVERAGE, 0, 0, 12, 12 } };
static const size_t llama_width = 4096;
static const vtc_dtype f32 = VTC_F32, bf16 = VTC_BF16;

/* The input of 32 frames is larger than any cache, whichever set it is; the output is written where
 * it was before, as PyTorch's careful form does it. */
enum { ONE_SET = false, COLD = true };

/* 90 % of the rate of memcpy */
#define RATE_90 (1.0 / 0.9)

const bench_case bench_pool_cases[] = {
    { "pool/bilinear_32x27x27x1152_f32", set_up_pool, run_pool, &bilinear_f32, ONE_SET, RATE_90 },
    { "pool/average_32x27x27x1152_f32", set_up_pool, run_pool, &average_f32, ONE_SET, RATE_90 },
    { "pool/max_32x27x27x1152_f32", set_up_pool, run_pool, &max_f32, ONE_SET, RATE_90 },
    { "pool/bilinear_32x27x27x1152_f16", set_up_pool, run_pool, &bilinear_f16, COLD, 0.0 },
    { "pool/average_32x27x27x1152_f16", set_up_pool, run_pool, &average_f16, COLD, 0.0 },
    { "pool/max_32x27x27x1152_f16", set_up_pool, run_pool, &max_f16, COLD, 0.0 },
    { "pool/bilinear_32x27x27x1152_bf16", set_up_pool, run_pool, &bilinear_bf16, COLD, 0.0 },
    { "pool/average_32x27x27x1152_bf16", set_up_pool, run_pool, &average_bf16, COLD, 0.0 },
    { "pool/max_32x27x27x1152_bf16", set_up_pool, run_pool, &max_bf16, COLD, 0.0 },
    { "pool/adaptive_average_32x24x24x1024_f32", set_up_pool, run_pool, &adaptive_f32, COLD, 0.0 },
    { "pool/anyres_pack_5x24x24x4096_f32", set_up_tiles, run_tiles, &llama_width, COLD, 0.0 },
    { "pool/gemma3_4096x1152_256x2560_f32", set_up_gemma3, run_gemma3, &f32, COLD, 0.0 },
    { "pool/gemma3_4096x1152_256x2560_bf16", set_up_gemma3, run_gemma3, &bf16, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
