/*
 * VLoRA at its released sizes: a generator of one kind for one image (D 512, 8 decoders, 576
 * tokens, 8 layers of 4096 x 64), and a linear layer of 64 rows with its factors.
 *
 * The generator's limit is the authors' form of it as products, keys and values of all tokens
 * formed; the layer's limit is the layer without factors.
 */
#include "bench.h"

#include <vtc/vlora.h>

enum { D = 512, DEPTH = 8, TOKENS = 576, VISUAL = 1024, QUERIES = 8, WIDTH = 4096, RANK = 64 };

struct shape {
    vtc_dtype dtype;
    bool prepared;
};

struct model {
    vtc_vlora_params params;
    vtc_vlora_weights weights;
    vtc_vlora_generator generator;
    vtc_vlora_decoder decoders[DEPTH];
    vtc_prepared prepared;
    bool is_prepared;
    vtc_tensor features, a;
};

/* Small enough that hidden values are like those of a model. */
static vtc_linear make_linear(bench_set *set, vtc_dtype dtype, size_t n_out, size_t n_in)
{
    const vtc_linear linear = { bench_random_2d(set, dtype, n_out, n_in),
                                bench_random(set, dtype, 1, &n_out) };

    return linear;
}

static vtc_norm make_norm(bench_set *set)
{
    float *weight = bench_zeros(set, D * sizeof(*weight));
    vtc_norm norm;

    for (size_t i = 0; i < D; i++)
        weight[i] = 0.03f;
    norm.weight = vtc_f32_1d(weight, D);
    norm.bias = vtc_f32_1d(bench_zeros(set, D * sizeof(float)), D);
    return norm;
}

static void make_decoder(bench_set *set, vtc_dtype dtype, vtc_vlora_decoder *w)
{
    w->norm1 = make_norm(set);
    w->norm2 = make_norm(set);
    w->norm3 = make_norm(set);
    w->self_attn.in_proj = make_linear(set, dtype, 3 * D, D);
    w->self_attn.out_proj = make_linear(set, dtype, D, D);
    w->multihead_attn.in_proj = make_linear(set, dtype, 3 * D, D);
    w->multihead_attn.out_proj = make_linear(set, dtype, D, D);
    w->linear1 = make_linear(set, dtype, 4 * D, D);
    w->linear2 = make_linear(set, dtype, D, 4 * D);
}

static void make_model(bench_set *set, struct model *m, const struct shape *s)
{
    const vtc_vlora_params params = VTC_VLORA_PARAMS_INIT;
    const size_t width = (size_t)WIDTH * RANK;

    m->params = params;
    m->params.types = "q";
    m->weights.visual_proj = make_linear(set, s->dtype, D, VISUAL);
    m->weights.pos_embed = bench_random_3d(set, s->dtype, 1, TOKENS, D);
    m->weights.Bs = bench_random_3d(set, s->dtype, 1, QUERIES, width);
    m->weights.generators = &m->generator;
    m->weights.n_generators = 1;
    m->generator.queries = bench_random_3d(set, s->dtype, 1, QUERIES, D);
    m->generator.norm = make_norm(set);
    m->generator.weights_head = make_linear(set, s->dtype, width, D);
    m->generator.decoders = m->decoders;
    m->generator.n_decoders = DEPTH;
    for (int i = 0; i < DEPTH; i++)
        make_decoder(set, s->dtype, &m->decoders[i]);
    if (!s->prepared)
        return;
    bench_must(vtc_vlora_prepare_size(&m->params, &m->weights, &set->exec, &m->prepared.bytes));
    m->prepared.data = bench_zeros(set, m->prepared.bytes);
    bench_must(vtc_vlora_prepare(&m->params, &m->weights, &m->prepared, &set->exec));
    m->is_prepared = true;
}

static void set_up_generator(bench_set *set, const void *argument)
{
    struct model *m = set->state = bench_zeros(set, sizeof(*m));
    const size_t dim[] = { 1, QUERIES, WIDTH, RANK };
    size_t bytes;

    make_model(set, m, argument);
    m->features = bench_random_2d(set, VTC_F32, TOKENS, VISUAL);
    m->a = bench_random(set, VTC_F32, 4, dim);
    bench_must(vtc_vlora_generate_scratch(&m->params, &m->weights,
                                          m->is_prepared ? &m->prepared : NULL, &m->features, &m->a,
                                          &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, TOKENS, D, VISUAL, true);
    bench_limit_product(set, DEPTH, TOKENS, 2 * D, D, true);
    bench_limit_product(set, DEPTH, QUERIES, 14 * D, D, true);
    bench_limit_product(set, 1, QUERIES, (size_t)WIDTH * RANK, D, true);
}

static void run_generator(bench_set *set)
{
    struct model *m = set->state;

    bench_must(vtc_vlora_generate(&m->params, &m->weights, m->is_prepared ? &m->prepared : NULL,
                                  &m->features, &m->a, &set->exec));
}

/* ---- a linear layer -------------------------------------------------------------------------- */

struct layer {
    vtc_linear linear;
    vtc_tensor a, b, x, y;
};

static void set_up_linear(bench_set *set, const void *argument)
{
    const vtc_dtype dtype = *(const vtc_dtype *)argument;
    struct layer *l = set->state = bench_zeros(set, sizeof(*l));
    size_t bytes;

    l->linear = make_linear(set, dtype, WIDTH, WIDTH);
    l->a = bench_random_2d(set, VTC_F32, WIDTH, RANK);
    l->b = bench_random_2d(set, VTC_F32, WIDTH, RANK);
    l->x = bench_random_2d(set, VTC_F32, 64, WIDTH);
    l->y = bench_random_2d(set, VTC_F32, 64, WIDTH);
    bench_must(
        vtc_vlora_linear_scratch(&l->linear, &l->a, &l->b, &l->x, &l->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, 64, WIDTH, WIDTH, true);
}

static void run_linear(bench_set *set)
{
    struct layer *l = set->state;

    bench_must(vtc_vlora_linear(&l->linear, &l->a, &l->b, &l->x, &l->y, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const vtc_dtype f32 = VTC_F32;
static const struct shape raw_f32 = { VTC_F32, false }, raw_f16 = { VTC_F16, false };
static const struct shape packed_f32 = { VTC_F32, true }, packed_f16 = { VTC_F16, true };

enum { COLD = true };

const bench_case bench_vlora_cases[] = {
    { "vlora/generate_576_f32", set_up_generator, run_generator, &raw_f32, COLD, 0.0 },
    { "vlora/generate_576_f32_packed", set_up_generator, run_generator, &packed_f32, COLD, 0.0 },
    { "vlora/generate_576_f16", set_up_generator, run_generator, &raw_f16, COLD, 0.0 },
    { "vlora/generate_576_f16_packed", set_up_generator, run_generator, &packed_f16, COLD, 0.0 },
    { "vlora/linear_64x4096_r64_f32", set_up_linear, run_linear, &f32, COLD, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
