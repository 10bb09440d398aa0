/* Planners at the sizes of CLIP-L/14-336: 577 tokens with [CLS], keys of 64 or 1024 channels. */
#include "bench.h"

#include <vtc/prune.h>

/* ---- ToMe ------------------------------------------------------------------------------------ */

struct tome_shape {
    size_t n, n_channels;
    size_t n_merge; /* in one round, or            */
    size_t n_keep;  /* in as many as it takes      */
    bool class_token;
};

struct tome {
    vtc_tome_params params;
    vtc_tensor metric;
    size_t n_keep;
    vtc_plan plan;
    vtc_tensor x, y; /* tokens, where the plan is applied too */
};

static struct tome *open_tome(bench_set *set, const struct tome_shape *shape)
{
    const vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    struct tome *t = bench_zeros(set, sizeof(*t));

    t->params = params;
    t->params.n_merge = shape->n_merge;
    t->params.class_token = shape->class_token;
    t->n_keep = shape->n_keep;
    t->metric = bench_random_2d(set, VTC_F32, shape->n, shape->n_channels);
    return t;
}

static void set_up_tome(bench_set *set, const void *argument)
{
    const struct tome_shape *shape = argument;
    struct tome *t = set->state = open_tome(set, shape);
    vtc_plan_count count;
    size_t bytes;

    bench_must(vtc_tome_count(&t->params, shape->n, &count, &set->exec));
    t->plan = bench_plan(set, &count);
    bench_must(vtc_tome_scratch(&t->params, &t->metric, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, 1, shape->n - shape->n / 2, shape->n / 2, shape->n_channels, true);
}

static void run_tome(bench_set *set)
{
    struct tome *t = set->state;

    bench_must(vtc_tome(&t->params, &t->metric, NULL, &t->plan, NULL, &set->exec));
}

/* What an encoder layer does: plan, then merge tokens as wide as the metric. */
static void set_up_merge(bench_set *set, const void *argument)
{
    const struct tome_shape *shape = argument;
    size_t bytes;

    set_up_tome(set, argument);
    run_tome(set); /* the sizes below are those of a finished plan */
    struct tome *t = set->state;

    t->x = bench_random_2d(set, VTC_F32, shape->n, shape->n_channels);
    t->y = bench_random_2d(set, VTC_F32, shape->n - shape->n_merge, shape->n_channels);
    bench_must(vtc_plan_apply_scratch(&t->plan, &t->x, &t->y, &set->exec, &bytes));
    if (bytes > set->exec.scratch_size)
        bench_scratch(set, bytes);
}

static void run_merge(bench_set *set)
{
    struct tome *t = set->state;

    run_tome(set);
    bench_must(vtc_plan_apply(&t->plan, &t->x, &t->y, &set->exec));
}

/* Each round halves the rows as long as that leaves enough of them. */
static void set_up_rounds(bench_set *set, const void *argument)
{
    const struct tome_shape *shape = argument;
    struct tome *t = set->state = open_tome(set, shape);
    const vtc_plan_count count = { shape->n, shape->n_keep, shape->n, 1 };
    size_t bytes;

    t->plan = bench_plan(set, &count);
    bench_must(vtc_tome_rounds_scratch(&t->params, &t->metric, shape->n_keep, &set->exec, &bytes));
    bench_scratch(set, bytes);
    for (size_t n = shape->n; n > shape->n_keep; n -= n / 2)
        bench_limit_product(set, 1, n - n / 2, n / 2, shape->n_channels, true);
}

static void run_rounds(bench_set *set)
{
    struct tome *t = set->state;

    bench_must(vtc_tome_rounds(&t->params, &t->metric, NULL, t->n_keep, &t->plan, &set->exec));
}

/* ---- proportional attention ------------------------------------------------------------------ */

struct attention_shape {
    size_t n_heads, n, n_channels;
};

struct attention {
    vtc_tensor q, k, v, y;
    float *mass;
};

static void set_up_attention(bench_set *set, const void *argument)
{
    const struct attention_shape *s = argument;
    struct attention *a = set->state = bench_zeros(set, sizeof(*a));
    size_t bytes;

    a->q = bench_random_3d(set, VTC_F32, s->n_heads, s->n, s->n_channels);
    a->k = bench_random_3d(set, VTC_F32, s->n_heads, s->n, s->n_channels);
    a->v = bench_random_3d(set, VTC_F32, s->n_heads, s->n, s->n_channels);
    a->y = bench_random_3d(set, VTC_F32, s->n_heads, s->n, s->n_channels);
    a->mass = bench_zeros(set, s->n * sizeof(*a->mass));
    for (size_t i = 0; i < s->n; i++)
        a->mass[i] = (float)(1 + i % 3);
    bench_must(vtc_proportional_attention_scratch(&a->q, &a->k, &a->v, &a->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, s->n_heads, s->n, s->n, s->n_channels, true);
    bench_limit_product(set, s->n_heads, s->n, s->n_channels, s->n, false);
}

static void run_attention(bench_set *set)
{
    struct attention *a = set->state;

    bench_must(vtc_proportional_attention(&a->q, &a->k, &a->v, a->mass, 0.125f, &a->y, &set->exec));
}

/* ---- controls -------------------------------------------------------------------------------- */

enum { SIDE = 24, N_GRID = SIDE * SIDE, SIDE_KEPT = 8, N_KEPT = SIDE_KEPT * SIDE_KEPT };

static void set_up_random(bench_set *set, const void *argument)
{
    const vtc_plan_count count = { N_GRID, N_KEPT, 0, 1 };
    vtc_plan *plan = set->state = bench_zeros(set, sizeof(*plan));
    size_t bytes;

    (void)argument;
    *plan = bench_plan(set, &count);
    bench_must(vtc_random_scratch(N_GRID, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_random(bench_set *set)
{
    bench_must(vtc_random(NULL, N_GRID, N_KEPT, NULL, set->state, &set->exec));
}

static void set_up_strided(bench_set *set, const void *argument)
{
    const vtc_plan_count count = { N_GRID, N_KEPT, 0, 1 };
    vtc_plan *plan = set->state = bench_zeros(set, sizeof(*plan));

    (void)argument;
    *plan = bench_plan(set, &count);
}

static void run_strided(bench_set *set)
{
    bench_must(vtc_strided(N_GRID, N_KEPT, NULL, set->state, &set->exec));
}

static void set_up_mean_pool(bench_set *set, const void *argument)
{
    vtc_plan *plan = set->state = bench_zeros(set, sizeof(*plan));
    vtc_plan_count count;

    (void)argument;
    bench_must(vtc_mean_pool_count(SIDE, SIDE, SIDE_KEPT, SIDE_KEPT, &count, &set->exec));
    *plan = bench_plan(set, &count);
}

static void run_mean_pool(bench_set *set)
{
    bench_must(vtc_mean_pool(SIDE, SIDE, SIDE_KEPT, SIDE_KEPT, NULL, set->state, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct tome_shape head_mean = { 577, 64, 64, 0, true };
static const struct tome_shape features = { 577, 1024, 64, 0, true };
static const struct tome_shape rounds_64 = { 576, 64, 0, 64, false };
static const struct tome_shape rounds_1024 = { 576, 1024, 0, 64, false };
static const struct attention_shape clip_layer = { 16, 577, 64 };

/* The keys were written just before: their caches are warm. */
enum { WARM = false };

const bench_case bench_prune_cases[] = {
    { "tome/n577_c64_r64", set_up_tome, run_tome, &head_mean, WARM, 1.5 },
    { "tome/n577_c1024_r64", set_up_tome, run_tome, &features, WARM, 1.5 },
    { "tome/n577_c1024_r64_merge", set_up_merge, run_merge, &features, WARM, 0.0 },
    { "tome_rounds/n576_c64_keep64", set_up_rounds, run_rounds, &rounds_64, WARM, 0.0 },
    { "tome_rounds/n576_c1024_keep64", set_up_rounds, run_rounds, &rounds_1024, WARM, 0.0 },
    { "attention/proportional_16x577x64", set_up_attention, run_attention, &clip_layer, WARM, 0.0 },
    { "random/n576_keep64", set_up_random, run_random, NULL, WARM, 0.0 },
    { "strided/n576_keep64", set_up_strided, run_strided, NULL, WARM, 0.0 },
    { "mean_pool/24x24_8x8", set_up_mean_pool, run_mean_pool, NULL, WARM, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
