/* OpenFlamingo-9B's gated cross-attention: the whole block, and its attention alone. The limits:
 * products by the same OpenBLAS, and when decoding, a copy. */
#include "../src/linalg/attention.h"
#include "bench.h"

#include <math.h>
#include <vtc/fuse.h>

enum { D = 4096, D_MEDIA = 1024, INNER = 512, HEADS = 8, HIDDEN = 4 * D, N_PER_ITEM = 64 };

/* ---- the block ------------------------------------------------------------------------------- */

struct shape {
    vtc_dtype dtype; /* of the weights */
    size_t n_tokens, n_items;
    bool prepared;
};

struct block {
    vtc_gated_xattn_weights weights;
    vtc_gated_xattn_params params;
    vtc_prepared prepared;
    const vtc_prepared *used; /* NULL: the weights as they stand */
    vtc_tensor x, kv, locations, y;
};

static vtc_norm make_norm(bench_set *set)
{
    const size_t n = D;
    float *weight = bench_zeros(set, n * sizeof(*weight));
    vtc_norm norm;

    /* small, so that hidden values are like those of a model and no GELU is denormal */
    for (size_t i = 0; i < n; i++)
        weight[i] = 0.03f;
    norm.weight = vtc_f32_1d(weight, n);
    norm.bias = vtc_f32_1d(bench_zeros(set, n * sizeof(float)), n);
    return norm;
}

static vtc_tensor make_gate(bench_set *set)
{
    float *gate = bench_zeros(set, sizeof(*gate));

    *gate = 0.5f;
    return vtc_f32_1d(gate, 1);
}

static void make_weights(bench_set *set, vtc_dtype dtype, vtc_gated_xattn_weights *w)
{
    w->attn_norm = make_norm(set);
    w->to_q = bench_random_2d(set, dtype, INNER, D);
    w->to_kv = bench_random_2d(set, dtype, 2 * INNER, D_MEDIA);
    w->to_out = bench_random_2d(set, dtype, D, INNER);
    w->attn_gate = make_gate(set);
    w->ff_norm = make_norm(set);
    w->ff_up = bench_random_2d(set, dtype, HIDDEN, D);
    w->ff_down = bench_random_2d(set, dtype, D, HIDDEN);
    w->ff_gate = make_gate(set);
}

static void prepare(bench_set *set, struct block *b)
{
    bench_must(vtc_gated_xattn_prepare_size(NULL, &b->weights, &set->exec, &b->prepared.bytes));
    b->prepared.data = bench_zeros(set, b->prepared.bytes);
    bench_must(vtc_gated_xattn_prepare(NULL, &b->weights, &b->prepared, &set->exec));
    b->used = &b->prepared;
}

/* Media tokens at equal distances, the first one in front. */
static vtc_tensor make_locations(bench_set *set, size_t n_tokens, size_t n_items)
{
    uint8_t *location = bench_zeros(set, n_tokens + 1);

    for (size_t i = 0; i < n_items; i++)
        location[i * n_tokens / n_items] = 1;
    return vtc_tensor_1d(location, VTC_U8, n_tokens);
}

static void set_up_block(bench_set *set, const void *argument)
{
    const struct shape *shape = argument;
    const vtc_gated_xattn_params params = VTC_GATED_XATTN_PARAMS_INIT;
    struct block *b = set->state = bench_zeros(set, sizeof(*b));
    const size_t l = shape->n_tokens;
    size_t bytes;

    b->params = params;
    b->params.cached_media = l == 1;
    make_weights(set, shape->dtype, &b->weights);
    if (shape->prepared)
        prepare(set, b);
    b->x = bench_random_2d(set, VTC_F32, l, D);
    b->y = bench_random_2d(set, VTC_F32, l, D);
    b->kv = bench_random_3d(set, VTC_F32, shape->n_items, N_PER_ITEM, 2 * INNER);
    b->locations = make_locations(set, l, l == 1 ? 1 : shape->n_items);
    bench_must(vtc_gated_xattn_scratch(&b->params, &b->weights, b->used, &b->x, NULL, &b->kv,
                                       &b->locations, &b->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    if (l == 1) {
        bench_limit_traffic(set,
                            (size_t)(2 * INNER + 2 * HIDDEN) * D * vtc_dtype_size(shape->dtype));
        return;
    }
    bench_limit_product(set, 1, l, INNER, D, true);
    bench_limit_product(set, 1, l, D, INNER, true);
    bench_limit_product(set, 1, l, HIDDEN, D, true);
    bench_limit_product(set, 1, l, D, HIDDEN, true);
}

static void run_block(bench_set *set)
{
    struct block *b = set->state;

    bench_must(vtc_gated_xattn(&b->params, &b->weights, b->used, &b->x, NULL, &b->kv, &b->locations,
                               &b->y, &set->exec));
}

/* ---- its attention --------------------------------------------------------------------------- */

struct core_shape {
    size_t n_heads, n_channels, n_text, n_keys;
};

struct core {
    vtci_call call;
    vtci_attention attention;
};

static vtci_heads heads_of(const vtc_tensor *t, const struct core_shape *shape, size_t first)
{
    vtci_rows rows = vtci_rows_of(t);

    rows.data += first * sizeof(float);
    rows.n_cols = shape->n_heads * shape->n_channels;
    return vtci_heads_of_rows(&rows, shape->n_heads);
}

/* Text that sees all media. The limit: one large product of as many operations. */
static void set_up_core(bench_set *set, const void *argument)
{
    const struct core_shape *shape = argument;
    const size_t inner = shape->n_heads * shape->n_channels;
    struct core *c = set->state = bench_zeros(set, sizeof(*c));
    const vtc_tensor q = bench_random_2d(set, VTC_F32, shape->n_text, inner);
    const vtc_tensor kv = bench_random_2d(set, VTC_F32, shape->n_keys, 2 * inner);
    const vtc_tensor y = bench_random_2d(set, VTC_F32, shape->n_text, inner);
    vtci_arena arena = { NULL, 0, false };

    bench_must(vtci_begin(&c->call, "attention", &set->exec));
    c->attention.q = heads_of(&q, shape, 0);
    c->attention.k = heads_of(&kv, shape, 0);
    c->attention.v = heads_of(&kv, shape, inner);
    c->attention.y = heads_of(&y, shape, 0);
    c->attention.scale = 1.0f / sqrtf((float)shape->n_channels);
    vtci_attention_lay_out(&arena, &c->call, &c->attention);
    bench_scratch(set, arena.used);
    arena = (vtci_arena){ set->exec.scratch, 0, false };
    vtci_attention_lay_out(&arena, &c->call, &c->attention);
    bench_limit_product(set, 1, shape->n_text, inner, 2 * shape->n_keys, false);
}

static void run_core(bench_set *set)
{
    struct core *c = set->state;

    vtci_attention_run(&c->call, &c->attention);
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct shape prefill = { VTC_F32, 512, 4, false };
static const struct shape prefill_bf16 = { VTC_BF16, 512, 4, false };
static const struct shape few_bf16 = { VTC_BF16, 32, 1, true };
static const struct shape decode_f32 = { VTC_F32, 1, 1, false };
static const struct shape decode_raw = { VTC_BF16, 1, 1, false };
static const struct shape decode = { VTC_BF16, 1, 1, true };
static const struct core_shape four_images = { HEADS, INNER / HEADS, 1024, 4 * N_PER_ITEM };
static const struct core_shape size_7b = { 32, 128, 64, 729 };

/* The decoder's layers run between two blocks: weights come from main memory. */
enum { COLD = true };

#define RATE_90 (1.0 / 0.9)
#define RATE_50 2.0

const bench_case bench_fuse_cases[] = {
    { "fuse/gated_xattn_512x4096_f32", set_up_block, run_block, &prefill, COLD, RATE_90 },
    { "fuse/gated_xattn_512x4096_bf16", set_up_block, run_block, &prefill_bf16, COLD, 0.0 },
    { "fuse/gated_xattn_32x4096_bf16", set_up_block, run_block, &few_bf16, COLD, 0.0 },
    { "fuse/gated_xattn_1x4096_raw_f32", set_up_block, run_block, &decode_f32, COLD, 0.0 },
    { "fuse/gated_xattn_1x4096_raw_bf16", set_up_block, run_block, &decode_raw, COLD, 0.0 },
    { "fuse/gated_xattn_1x4096_bf16", set_up_block, run_block, &decode, COLD, 0.0 },
    { "fuse/gated_xattn_attention_8x1024x256x64", set_up_core, run_core, &four_images, false,
      RATE_50 },
    { "fuse/gated_xattn_attention_32x64x729x128", set_up_core, run_core, &size_7b, false, RATE_50 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
