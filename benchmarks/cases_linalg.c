/*
 * Products of few rows with packed weights, and the attention core. The limit: the same products by
 * OpenBLAS, which for attention are those of each head.
 */
#include "bench.h"

#include "../src/linalg/attention.h"
#include "../src/linalg/gemm.h"

/* ---- packed products ---------------------------------------------------------------------------
 */

struct product_shape {
    size_t m, n, k;
    vtc_dtype dtype; /* of the weights */
};

struct product {
    vtci_packed packed;
    vtci_gemm gemm;
    vtci_call call;
};

static void set_up_product(bench_set *set, const void *argument)
{
    const struct product_shape *s = argument;
    struct product *p = set->state = bench_zeros(set, sizeof(*p));
    const vtc_tensor w = bench_random_2d(set, s->dtype, s->n, s->k);
    const vtc_tensor a = bench_random_2d(set, VTC_F32, s->m, s->k);
    const vtc_tensor y = bench_random_2d(set, VTC_F32, s->m, s->n);
    vtci_arena arena = { bench_zeros(set, vtci_packed_bytes(s->dtype, s->n, s->k)), 0, false };

    bench_must(vtci_begin(&p->call, "packed", &set->exec));
    p->packed = vtci_packed_take(&arena, &w);
    vtci_packed_fill(&p->call, &p->packed, &w);
    p->gemm.a = vtci_rows_of(&a);
    p->gemm.b = vtci_rows_of(&w);
    p->gemm.c = vtci_rows_of(&y);
    p->gemm.trans_b = true;
    p->gemm.packed = &p->packed;
    arena = (vtci_arena){ NULL, 0, false };
    vtci_gemm_lay_out(&arena, &p->call, &p->gemm);
    arena = (vtci_arena){ bench_zeros(set, arena.used), 0, false };
    vtci_gemm_lay_out(&arena, &p->call, &p->gemm);
    bench_limit_product(set, 1, s->m, s->n, s->k, true);
}

static void run_product(bench_set *set)
{
    struct product *p = set->state;

    vtci_gemm_run(&p->call, &p->gemm);
}

/* ---- attention ---------------------------------------------------------------------------------
 */

struct attention_shape {
    size_t h, g, m, n, d;
};

struct attention {
    vtci_attention attention;
    vtci_call call;
};

static vtci_heads random_heads(bench_set *set, size_t h, size_t n, size_t d)
{
    const vtc_tensor t = bench_random_3d(set, VTC_F32, h, n, d);

    return vtci_heads_of(&t);
}

static void set_up_attention(bench_set *set, const void *argument)
{
    const struct attention_shape *s = argument;
    struct attention *a = set->state = bench_zeros(set, sizeof(*a));
    vtci_arena arena = { NULL, 0, false };

    bench_must(vtci_begin(&a->call, "attention", &set->exec));
    a->attention.q = random_heads(set, s->h, s->m, s->d);
    a->attention.k = random_heads(set, s->g, s->n, s->d);
    a->attention.v = random_heads(set, s->g, s->n, s->d);
    a->attention.y = random_heads(set, s->h, s->m, s->d);
    a->attention.scale = 0.1f;
    vtci_attention_lay_out(&arena, &a->call, &a->attention);
    arena = (vtci_arena){ bench_zeros(set, arena.used), 0, false };
    vtci_attention_lay_out(&arena, &a->call, &a->attention);
    bench_limit_product(set, s->h, s->m, s->n, s->d, true);
    bench_limit_product(set, s->h, s->m, s->d, s->n, false);
}

static void run_attention(bench_set *set)
{
    struct attention *a = set->state;

    vtci_attention_run(&a->call, &a->attention);
}

/* ---- table -------------------------------------------------------------------------------------
 */

/* Projections of the Q-Former, then of the Perceiver. */
static const struct product_shape products[] = {
    { 32, 768, 768, VTC_F32 },   { 32, 3072, 768, VTC_F32 },  { 32, 768, 3072, VTC_F32 },
    { 64, 512, 1024, VTC_F32 },  { 64, 4096, 1024, VTC_F32 }, { 64, 1024, 4096, VTC_F32 },
    { 64, 4096, 1024, VTC_BF16 }
};

/* Cross-attention of a 7B model, an encoder, grouped queries at decoding. */
static const struct attention_shape cross = { 32, 32, 64, 729, 128 };
static const struct attention_shape encoder = { 16, 16, 577, 577, 64 };
static const struct attention_shape latents = { 16, 16, 64, 320, 64 };
static const struct attention_shape decoding = { 28, 4, 1, 2048, 128 };

enum { COLD = true };

const bench_case bench_linalg_cases[] = {
    { "linalg/packed_32x768x768", set_up_product, run_product, &products[0], COLD, 0.0 },
    { "linalg/packed_32x3072x768", set_up_product, run_product, &products[1], COLD, 0.0 },
    { "linalg/packed_32x768x3072", set_up_product, run_product, &products[2], COLD, 0.0 },
    { "linalg/packed_64x512x1024", set_up_product, run_product, &products[3], COLD, 0.0 },
    { "linalg/packed_64x4096x1024", set_up_product, run_product, &products[4], COLD, 0.0 },
    { "linalg/packed_64x1024x4096", set_up_product, run_product, &products[5], COLD, 0.0 },
    { "linalg/packed_64x4096x1024_bf16", set_up_product, run_product, &products[6], COLD, 0.0 },
    { "linalg/attention_32x64x729x128", set_up_attention, run_attention, &cross, COLD, 0.0 },
    { "linalg/attention_16x577x577x64", set_up_attention, run_attention, &encoder, COLD, 0.0 },
    { "linalg/attention_16x64x320x64", set_up_attention, run_attention, &latents, COLD, 0.0 },
    { "linalg/attention_28of4x1x2048x128", set_up_attention, run_attention, &decoding, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
