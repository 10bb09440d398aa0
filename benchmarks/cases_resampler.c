/* The resamplers of MiniCPM-V 2.6 and Qwen-VL on one image. The limit: the products that are left
 * when the query side is prepared, in the order that the library takes. */
#include "bench.h"

#include <vtc/resampler.h>

enum { N_PATCHES = 1024, HEAD = 128 };

struct model {
    vtc_resampler_variant variant;
    size_t n_queries, d, n_vision;
    vtc_dtype dtype; /* of matrices */
    bool prepared;
};

struct resampler {
    vtc_resampler_params params;
    vtc_resampler_weights weights;
    vtc_prepared prepared;
    const vtc_prepared *used;
    vtc_tensor x, tokens;
};

static vtc_tensor vector(bench_set *set, size_t n)
{
    return bench_random(set, VTC_F32, 1, &n);
}

static void make_weights(bench_set *set, const struct model *m, vtc_resampler_weights *w)
{
    const size_t d = m->d;

    w->query = bench_random_2d(set, VTC_F32, m->n_queries, d);
    if (m->variant != VTC_RESAMPLER_MINICPMV)
        w->pos_embed = bench_random_2d(set, VTC_F32, m->n_queries, d);
    w->kv_proj.weight = bench_random_2d(set, m->dtype, d, m->n_vision);
    w->ln_q = bench_random_norm(set, d);
    w->ln_kv = bench_random_norm(set, d);
    w->in_proj.weight = bench_random_2d(set, m->dtype, 3 * d, d);
    w->in_proj.bias = vector(set, 3 * d);
    w->out_proj.weight = bench_random_2d(set, m->dtype, d, d);
    w->out_proj.bias = vector(set, d);
    w->ln_post = bench_random_norm(set, d);
    w->proj = bench_random_2d(set, m->dtype, d, d);
}

static void prepare(bench_set *set, struct resampler *r)
{
    size_t bytes;

    bench_must(vtc_resampler_prepare_size(&r->params, &r->weights, &set->exec, &r->prepared.bytes));
    r->prepared.data = bench_zeros(set, r->prepared.bytes);
    bench_must(vtc_resampler_prepare_scratch(&r->params, &r->weights, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_must(vtc_resampler_prepare(&r->params, &r->weights, &r->prepared, &set->exec));
    r->used = &r->prepared;
}

/* Cheaper order: all heads read the same keys, so the rows of their queries are those of one
 * product. Direct order: logits and mix of a head are products of equal size. */
static void limit(bench_set *set, const struct model *m)
{
    const size_t d = m->d, n_heads = d / HEAD, rows = n_heads * m->n_queries;

    bench_limit_product(set, 1, N_PATCHES, d, m->n_vision, true);
    if (rows < d + m->n_queries) {
        bench_limit_product(set, 1, rows, N_PATCHES, d, true);
        bench_limit_product(set, 1, rows, d, N_PATCHES, false);
        bench_limit_product(set, 3, m->n_queries, d, d, true);
    } else {
        bench_limit_product(set, 2, N_PATCHES, d, d, true);
        bench_limit_product(set, 2 * n_heads, m->n_queries, N_PATCHES, HEAD, true);
        bench_limit_product(set, 2, m->n_queries, d, d, true);
    }
}

static void set_up(bench_set *set, const void *argument)
{
    static const vtc_resampler_params defaults = VTC_RESAMPLER_PARAMS_INIT;
    const struct model *m = argument;
    struct resampler *r = set->state = bench_zeros(set, sizeof(*r));
    size_t bytes;

    r->params = defaults;
    r->params.variant = m->variant;
    make_weights(set, m, &r->weights);
    if (m->prepared)
        prepare(set, r);
    r->x = bench_random_2d(set, VTC_F32, N_PATCHES, m->n_vision);
    r->tokens = bench_random_2d(set, VTC_F32, m->n_queries, m->d);
    bench_must(vtc_resampler_scratch(&r->params, &r->weights, r->used, &r->x, NULL, &r->tokens,
                                     &set->exec, &bytes));
    bench_scratch(set, bytes);
    limit(set, m);
}

static void run(bench_set *set)
{
    struct resampler *r = set->state;

    bench_must(
        vtc_resampler(&r->params, &r->weights, r->used, &r->x, NULL, &r->tokens, &set->exec));
}

static const struct model minicpmv = { VTC_RESAMPLER_MINICPMV, 64, 3584, 1152, VTC_F32, true };
static const struct model minicpmv_raw = { VTC_RESAMPLER_MINICPMV, 64, 3584, 1152, VTC_F32, false };
static const struct model minicpmv_bf16 = {
    VTC_RESAMPLER_MINICPMV, 64, 3584, 1152, VTC_BF16, true
};
static const struct model qwen_vl = { VTC_RESAMPLER_QWEN_VL, 256, 4096, 1664, VTC_F32, true };

/* Weights are far larger than any cache: one set is as cold as several. */
enum { COLD = false };

const bench_case bench_resampler_cases[] = {
    { "resample/minicpmv26_1024x1152_64x3584_f32", set_up, run, &minicpmv, COLD, 1.0 },
    { "resample/minicpmv26_1024x1152_64x3584_bf16", set_up, run, &minicpmv_bf16, COLD, 0.0 },
    { "resample/minicpmv26_1024x1152_64x3584_f32_raw", set_up, run, &minicpmv_raw, COLD, 0.0 },
    { "resample/qwenvl_1024x1664_256x4096_f32", set_up, run, &qwen_vl, COLD, 1.05 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
