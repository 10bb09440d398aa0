/*
 * Hyper Attention at the sizes of a 7B model: 32 heads of 128, 64 rows of text, an image of 729
 * tokens.
 *
 * `core` is what lies between the projections: attention over text, attention over images, and one
 * softmax made of both. Its limit is a square product of as many multiply-adds, the rate of sgemm
 * at its best. The others are whole calls with their products, weights from main memory.
 */
#include "../src/linalg/attention.h"
#include "../src/linalg/steps.h"
#include "bench.h"

#include <math.h>
#include <vtc/hyper_attention.h>

enum { HEADS = 32, D = 128, WIDTH = HEADS * D, TEXT = 64, IMAGE = 729 };

/* ---- core ------------------------------------------------------------------------------------ */

struct core {
    vtc_tensor q, k, v, visual_k, visual_v, s, c;
    float *s_lse, *c_lse;
};

static vtc_tensor make_heads(bench_set *set, size_t n)
{
    return bench_random_3d(set, VTC_F32, HEADS, n, D);
}

static vtci_attention text_of(const struct core *core)
{
    vtci_attention a = { .q = vtci_heads_of(&core->q),
                         .k = vtci_heads_of(&core->k),
                         .v = vtci_heads_of(&core->v),
                         .y = vtci_heads_of(&core->s),
                         .scale = 1.0f / sqrtf((float)D) };

    a.sees.causal = true;
    a.log_sum_exp = core->s_lse;
    return a;
}

static vtci_attention images_of(const struct core *core)
{
    vtci_attention a = { .q = vtci_heads_of(&core->q),
                         .k = vtci_heads_of(&core->visual_k),
                         .v = vtci_heads_of(&core->visual_v),
                         .y = vtci_heads_of(&core->c),
                         .scale = 1.0f / sqrtf((float)D) };

    a.log_sum_exp = core->c_lse;
    return a;
}

static void attend(void *p, vtci_steps *steps)
{
    const struct core *core = p;
    vtci_attention text = text_of(core), images = images_of(core);

    vtci_steps_attention(steps, &text);
    vtci_steps_attention(steps, &images);
}

static void set_up_core(bench_set *set, const void *argument)
{
    /* as many multiply-adds as both attentions have: 2 HEADS TEXT (IMAGE + TEXT / 2) D */
    enum { SIDE = 736 };
    struct core *core = set->state = bench_zeros(set, sizeof(*core));
    vtci_call call;
    size_t bytes;

    (void)argument;
    core->q = make_heads(set, TEXT);
    core->k = make_heads(set, TEXT);
    core->v = make_heads(set, TEXT);
    core->visual_k = make_heads(set, IMAGE);
    core->visual_v = make_heads(set, IMAGE);
    core->s = make_heads(set, TEXT);
    core->c = make_heads(set, TEXT);
    core->s_lse = bench_zeros(set, HEADS * TEXT * sizeof(float));
    core->c_lse = bench_zeros(set, HEADS * TEXT * sizeof(float));
    bench_must(vtci_begin_query(&call, "core", &set->exec, &bytes));
    bench_must(vtci_steps_walk(&call, attend, core, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, SIDE, SIDE, SIDE, false);
}

static void join_row(void *arg, size_t index, size_t worker)
{
    struct core *core = arg;
    float *s = core->s.data, *c = core->c.data;

    (void)worker;
    (void)vtci_attention_join(s + index * D, core->s_lse[index], c + index * D, core->c_lse[index],
                              D);
}

static void run_core(bench_set *set)
{
    struct core *core = set->state;
    vtci_call call;

    bench_must(vtci_begin(&call, "core", &set->exec));
    bench_must(vtci_steps_walk(&call, attend, core, NULL));
    bench_parallel(set, HEADS * TEXT, join_row, core);
}

/* ---- a layer --------------------------------------------------------------------------------- */

struct shape {
    vtc_dtype dtype;
    size_t n_kv, n_rows;
    bool prepared, encodes;
};

struct layer {
    vtc_hyper_attention_params params;
    vtc_hyper_attention_weights weights;
    vtc_prepared prepared;
    vtc_tensor hidden, images, out;
    vtc_hyper_sequence sequence;
    int32_t start;
    bool is_prepared;
};

static vtc_linear make_linear(bench_set *set, vtc_dtype dtype, size_t n_out, size_t n_in)
{
    const vtc_linear linear = { bench_random_2d(set, dtype, n_out, n_in),
                                bench_random(set, dtype, 1, &n_out) };

    return linear;
}

static vtc_hyper_kv make_cache(bench_set *set, size_t n_kv, size_t n_rows)
{
    const vtc_hyper_kv kv = { bench_random_3d(set, VTC_F32, n_kv, n_rows, D),
                              bench_random_3d(set, VTC_F32, n_kv, n_rows, D) };

    return kv;
}

static void make_weights(bench_set *set, struct layer *l, const struct shape *s)
{
    const vtc_hyper_attention_params params = VTC_HYPER_ATTENTION_PARAMS_INIT;
    const size_t width = WIDTH, kv = s->n_kv * D;

    l->params = params;
    l->params.n_heads = HEADS;
    l->weights.input_layernorm = bench_random(set, VTC_F32, 1, &width);
    l->weights.q_proj = make_linear(set, s->dtype, WIDTH, WIDTH);
    l->weights.k_proj = make_linear(set, s->dtype, kv, WIDTH);
    l->weights.v_proj = make_linear(set, s->dtype, kv, WIDTH);
    l->weights.o_proj = make_linear(set, s->dtype, WIDTH, WIDTH);
    l->weights.v_kv_proj = make_linear(set, s->dtype, 2 * kv, WIDTH);
    if (!s->prepared)
        return;
    bench_must(
        vtc_hyper_attention_prepare_size(&l->params, &l->weights, &set->exec, &l->prepared.bytes));
    l->prepared.data = bench_zeros(set, l->prepared.bytes);
    bench_must(vtc_hyper_attention_prepare(&l->params, &l->weights, &l->prepared, &set->exec));
    l->is_prepared = true;
}

static void set_up_layer(bench_set *set, const void *argument)
{
    const struct shape *s = argument;
    struct layer *l = set->state = bench_zeros(set, sizeof(*l));
    const vtc_prepared *prepared;
    size_t bytes, most;

    make_weights(set, l, s);
    prepared = l->is_prepared ? &l->prepared : NULL;
    l->hidden = bench_random_2d(set, VTC_F32, s->n_rows, WIDTH);
    l->out = bench_random_2d(set, VTC_F32, s->n_rows, WIDTH);
    l->images = bench_random_3d(set, VTC_F32, 1, IMAGE, WIDTH);
    l->sequence.n_rows = s->n_rows;
    l->sequence.position = TEXT - s->n_rows;
    l->sequence.text = make_cache(set, s->n_kv, TEXT);
    l->sequence.n_images = 1;
    l->sequence.n_image_rows = IMAGE;
    l->sequence.media_starts = &l->start;
    l->sequence.visual = make_cache(set, s->n_kv, IMAGE);
    bench_must(vtc_hyper_attention_scratch(&l->params, &l->weights, prepared, &l->hidden,
                                           &l->sequence, 1, NULL, &l->out, &set->exec, &bytes));
    most = bytes;
    bench_must(vtc_hyper_attention_encode_images_scratch(&l->params, &l->weights, prepared,
                                                         &l->images, &l->start, 0,
                                                         &l->sequence.visual, &set->exec, &bytes));
    bench_scratch(set, most > bytes ? most : bytes);
    if (s->encodes) {
        bench_limit_product(set, 1, IMAGE, 2 * s->n_kv * D, WIDTH, true);
        return;
    }
    bench_limit_product(set, 1, s->n_rows, 2 * WIDTH, WIDTH, true);
    bench_limit_product(set, 1, s->n_rows, 2 * s->n_kv * D, WIDTH, true);
    bench_limit_product(set, HEADS, s->n_rows, IMAGE + TEXT, D, true);
    bench_limit_product(set, HEADS, s->n_rows, D, IMAGE + TEXT, false);
}

static void run_layer(bench_set *set)
{
    struct layer *l = set->state;

    bench_must(vtc_hyper_attention(&l->params, &l->weights, l->is_prepared ? &l->prepared : NULL,
                                   &l->hidden, &l->sequence, 1, NULL, &l->out, &set->exec));
}

static void run_encode(bench_set *set)
{
    struct layer *l = set->state;

    bench_must(vtc_hyper_attention_encode_images(&l->params, &l->weights,
                                                 l->is_prepared ? &l->prepared : NULL, &l->images,
                                                 &l->start, 0, &l->sequence.visual, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct shape encode_f32 = { VTC_F32, HEADS, TEXT, false, true };
static const struct shape prompt_f32 = { VTC_F32, HEADS, TEXT, false, false };
static const struct shape prompt_packed = { VTC_F32, HEADS, TEXT, true, false };
static const struct shape prompt_f16 = { VTC_F16, HEADS, TEXT, true, false };
static const struct shape token_f32 = { VTC_F32, 4, 1, false, false };
static const struct shape token_f16 = { VTC_F16, 4, 1, true, false };

enum { COLD = true, WARM = false };

/* 50 % of the rate of sgemm */
#define RATE_50 2.0

const bench_case bench_hyper_attention_cases[] = {
    { "hyper_attention/core_64x793_32x128", set_up_core, run_core, NULL, WARM, RATE_50 },
    { "hyper_attention/encode_729x4096_f32", set_up_layer, run_encode, &encode_f32, COLD, 0.0 },
    { "hyper_attention/prompt_64x4096_f32", set_up_layer, run_layer, &prompt_f32, COLD, 0.0 },
    { "hyper_attention/prompt_64x4096_f32_packed", set_up_layer, run_layer, &prompt_packed, COLD,
      0.0 },
    { "hyper_attention/prompt_64x4096_f16_packed", set_up_layer, run_layer, &prompt_f16, COLD,
      0.0 },
    { "hyper_attention/token_4096_gqa_f32", set_up_layer, run_layer, &token_f32, COLD, 0.0 },
    { "hyper_attention/token_4096_gqa_f16_packed", set_up_layer, run_layer, &token_f16, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
