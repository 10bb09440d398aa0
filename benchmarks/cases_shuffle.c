/* Pixel shuffle of eight InternVL tiles. */
#include "bench.h"

#include <vtc/shuffle.h>

enum { N_TILES = 8, SIDE = 32, N_IN = SIDE * SIDE, N_OUT = N_IN / 4, WIDTH = 1024 };

struct shuffle {
    vtc_pixel_shuffle_params params;
    vtc_tensor x, y;
};

static void set_up_shuffle(bench_set *set, const void *argument)
{
    const vtc_dtype dtype = *(const vtc_dtype *)argument;
    const vtc_pixel_shuffle_params params = VTC_PIXEL_SHUFFLE_PARAMS_INIT;
    struct shuffle *s = set->state = bench_zeros(set, sizeof(*s));

    s->params = params;
    s->params.grid_h = s->params.grid_w = SIDE;
    s->x = bench_random_3d(set, dtype, N_TILES, N_IN, WIDTH);
    s->y = bench_random_3d(set, dtype, N_TILES, N_OUT, 4 * WIDTH);
    bench_limit_traffic(set, (size_t)2 * N_TILES * N_IN * WIDTH * vtc_dtype_size(dtype));
}

static void run_shuffle(bench_set *set)
{
    struct shuffle *s = set->state;

    bench_must(vtc_pixel_shuffle(&s->params, &s->x, &s->y, &set->exec));
}

static const vtc_dtype f32 = VTC_F32, bf16 = VTC_BF16;

enum { COLD = true };

/* 90 % of the rate of memcpy */
#define RATE_90 (1.0 / 0.9)

const bench_case bench_shuffle_cases[] = {
    { "shuffle/pixel_8x32x32x1024_f32", set_up_shuffle, run_shuffle, &f32, COLD, RATE_90 },
    { "shuffle/pixel_8x32x32x1024_bf16", set_up_shuffle, run_shuffle, &bf16, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
