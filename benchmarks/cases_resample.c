/* OpenFlamingo's Perceiver Resampler at its own size. The limit: its products with weights, by the
 * same OpenBLAS. */
#include "bench.h"

#include <vtc/resample.h>

enum { D = 1024, INNER = 512, HIDDEN = 4 * D, N_LATENTS = 64, N_LAYERS = 6, N_TOKENS = 256 };

struct shape {
    vtc_dtype dtype; /* of the weights */
    size_t n_items;
    bool prepared;
};

struct perceiver {
    vtc_perceiver_layer layers[N_LAYERS];
    vtc_perceiver_weights weights;
    vtc_prepared prepared;
    const vtc_prepared *used; /* NULL: the weights as they stand */
    vtc_tensor x, y;
};

/* Of the size that trained weights have, so that no activation is denormal. */
static vtc_tensor make_matrix(bench_set *set, vtc_dtype dtype, size_t n_out, size_t n_in)
{
    const vtc_tensor f32 = bench_random_2d(set, VTC_F32, n_out, n_in);
    float *value = f32.data;

    for (size_t i = 0; i < n_out * n_in; i++)
        value[i] *= 0.05f;
    /* 16-bit ones are of the size that bench_random() gives, and the norms take care of it */
    return dtype == VTC_F32 ? f32 : bench_random_2d(set, dtype, n_out, n_in);
}

static void make_layer(bench_set *set, vtc_dtype dtype, vtc_perceiver_layer *layer)
{
    layer->norm_media = bench_random_norm(set, D);
    layer->norm_latents = bench_random_norm(set, D);
    layer->to_q = make_matrix(set, dtype, INNER, D);
    layer->to_kv = make_matrix(set, dtype, 2 * INNER, D);
    layer->to_out = make_matrix(set, dtype, D, INNER);
    layer->ff_norm = bench_random_norm(set, D);
    layer->ff_up = make_matrix(set, dtype, HIDDEN, D);
    layer->ff_down = make_matrix(set, dtype, D, HIDDEN);
}

static void prepare(bench_set *set, struct perceiver *p)
{
    size_t bytes;

    bench_must(vtc_perceiver_prepare_size(NULL, &p->weights, &set->exec, &p->prepared.bytes));
    p->prepared.data = bench_zeros(set, p->prepared.bytes);
    bench_must(vtc_perceiver_prepare_scratch(NULL, &p->weights, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_must(vtc_perceiver_prepare(NULL, &p->weights, &p->prepared, &set->exec));
    p->used = &p->prepared;
}

/* Queries and outputs of the latents together are as many products as their keys and values. */
static void limit(bench_set *set, size_t n_items)
{
    const size_t n_rows = n_items * N_LATENTS;

    bench_limit_product(set, N_LAYERS, n_items * N_TOKENS, 2 * INNER, D, true);
    bench_limit_product(set, 2 * N_LAYERS, n_rows, 2 * INNER, D, true);
    bench_limit_product(set, N_LAYERS, n_rows, HIDDEN, D, true);
    bench_limit_product(set, N_LAYERS, n_rows, D, HIDDEN, true);
}

static void set_up(bench_set *set, const void *argument)
{
    const struct shape *shape = argument;
    struct perceiver *p = set->state = bench_zeros(set, sizeof(*p));
    const size_t x[] = { 1, shape->n_items, 1, N_TOKENS, D };
    const size_t y[] = { 1, shape->n_items, N_LATENTS, D };
    size_t bytes;

    p->weights.latents = bench_random_2d(set, VTC_F32, N_LATENTS, D);
    p->weights.norm = bench_random_norm(set, D);
    p->weights.layers = p->layers;
    p->weights.n_layers = N_LAYERS;
    for (size_t i = 0; i < N_LAYERS; i++)
        make_layer(set, shape->dtype, &p->layers[i]);
    if (shape->prepared)
        prepare(set, p);
    p->x = bench_random(set, VTC_F32, 5, x);
    p->y = bench_random(set, VTC_F32, 4, y);
    bench_must(vtc_perceiver_scratch(NULL, &p->weights, p->used, &p->x, &p->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    limit(set, shape->n_items);
}

static void run(bench_set *set)
{
    struct perceiver *p = set->state;

    bench_must(vtc_perceiver(NULL, &p->weights, p->used, &p->x, &p->y, &set->exec));
}

static const struct shape raw = { VTC_F32, 1, false }, prepared = { VTC_F32, 1, true };
static const struct shape bf16 = { VTC_BF16, 1, true }, four = { VTC_F32, 4, true };

/* The language model and the encoder run between two images: weights come from main memory. */
enum { COLD = true };

const bench_case bench_resample_cases[] = {
    { "resample/perceiver_256x1024_64_raw_f32", set_up, run, &raw, COLD, 0.0 },
    { "resample/perceiver_256x1024_64_f32", set_up, run, &prepared, COLD, 1.0 },
    { "resample/perceiver_256x1024_64_bf16", set_up, run, &bf16, COLD, 1.0 },
    { "resample/perceiver_4x256x1024_64_f32", set_up, run, &four, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
