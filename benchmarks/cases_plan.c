/* Plans applied to the tokens and the K/V cache of LLaVA-1.5-7B. */
#include "bench.h"

/* ---- tokens ---------------------------------------------------------------------------------- */

struct tokens_shape {
    vtc_dtype dtype;
    size_t n_in, n_out, n_channels;
};

struct tokens {
    vtc_plan plan;
    vtc_tensor x, y;
};

/* Every input row goes somewhere, to outputs in no order: the way clusters are. */
static struct tokens *open_tokens(bench_set *set, const struct tokens_shape *s)
{
    struct tokens *t = bench_zeros(set, sizeof(*t));
    const vtc_plan_count count = { s->n_in, s->n_out, s->n_in, 1 };
    int32_t *owner = bench_zeros(set, s->n_in * sizeof(*owner));

    for (size_t i = 0; i < s->n_in; i++)
        owner[i] = (int32_t)(i * 37 % s->n_out);
    t->plan = bench_plan(set, &count);
    bench_must(vtc_plan_group(&t->plan, s->n_in, owner, s->n_out, NULL, NULL, &set->exec));
    t->x = bench_random_2d(set, s->dtype, s->n_in, s->n_channels);
    t->y = bench_random_2d(set, s->dtype, s->n_out, s->n_channels);
    bench_limit_traffic(set, (s->n_in + s->n_out) * s->n_channels * vtc_dtype_size(s->dtype));
    return t;
}

static void set_up_apply(bench_set *set, const void *argument)
{
    struct tokens *t = set->state = open_tokens(set, argument);
    size_t bytes;

    bench_must(vtc_plan_apply_scratch(&t->plan, &t->x, &t->y, &set->exec, &bytes));
    bench_scratch(set, bytes);
}

static void run_apply(bench_set *set)
{
    struct tokens *t = set->state;

    bench_must(vtc_plan_apply(&t->plan, &t->x, &t->y, &set->exec));
}

static void set_up_spread(bench_set *set, const void *argument)
{
    set->state = open_tokens(set, argument);
}

static void run_spread(bench_set *set)
{
    struct tokens *t = set->state;

    bench_must(vtc_plan_spread(&t->plan, &t->y, NULL, &t->x, &set->exec));
}

/* ---- K/V ------------------------------------------------------------------------------------- */

enum {
    N_LAYERS = 32,
    N_VIEWS = 2 * N_LAYERS,
    N_HEADS = 32,
    HEAD = 128,
    N_CACHED = 704,
    N_KEPT = 192
};

struct kv {
    vtc_plan plan;
    vtc_kv full[N_VIEWS], kept[N_VIEWS];
};

/* One cache [heads, rows, head width] of floats. */
static vtc_kv make_cache(bench_set *set, size_t n_rows)
{
    vtc_kv kv = VTC_KV_INIT;

    kv.data = bench_random_3d(set, VTC_F32, N_HEADS, n_rows, HEAD).data;
    kv.n_outer = N_HEADS;
    kv.outer_stride = n_rows * HEAD * sizeof(float);
    kv.piece = HEAD * sizeof(float);
    kv.row_stride = HEAD * sizeof(float);
    kv.n_rows = n_rows;
    return kv;
}

static struct kv *open_kv(bench_set *set)
{
    const vtc_plan_count count = { N_CACHED, N_KEPT, 0, 1 };
    const int32_t *rows = bench_random_rows(set, N_CACHED, N_KEPT);
    struct kv *kv = bench_zeros(set, sizeof(*kv));

    kv->plan = bench_plan(set, &count);
    bench_must(vtc_plan_select(&kv->plan, N_CACHED, rows, N_KEPT, NULL, &set->exec));
    for (size_t v = 0; v < N_VIEWS; v++)
        kv->full[v] = make_cache(set, N_CACHED);
    bench_limit_traffic(set, 2 * (size_t)N_VIEWS * N_HEADS * N_KEPT * HEAD * sizeof(float));
    return kv;
}

static void set_up_gather(bench_set *set, const void *argument)
{
    struct kv *kv = set->state = open_kv(set);

    (void)argument;
    for (size_t v = 0; v < N_VIEWS; v++)
        kv->kept[v] = make_cache(set, N_KEPT);
}

static void run_gather(bench_set *set)
{
    struct kv *kv = set->state;

    bench_must(vtc_plan_gather_kv(&kv->plan, kv->full, kv->kept, N_VIEWS, &set->exec));
}

static void set_up_compact(bench_set *set, const void *argument)
{
    (void)argument;
    set->state = open_kv(set);
}

/* Repeating it moves other values by the same ways. */
static void run_compact(bench_set *set)
{
    struct kv *kv = set->state;

    bench_must(vtc_plan_compact_kv(&kv->plan, kv->full, N_VIEWS, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct tokens_shape apply_f32 = { VTC_F32, 576, 64, 4096 };
static const struct tokens_shape apply_f16 = { VTC_F16, 576, 64, 4096 };

enum { COLD = true };

const bench_case bench_plan_cases[] = {
    { "plan/apply_576x4096_64_f32", set_up_apply, run_apply, &apply_f32, COLD, 0.0 },
    { "plan/apply_576x4096_64_f16", set_up_apply, run_apply, &apply_f16, COLD, 0.0 },
    { "plan/spread_64x4096_576_f32", set_up_spread, run_spread, &apply_f32, COLD, 0.0 },
    { "kv/gather_64x32x704x128_192_f32", set_up_gather, run_gather, NULL, COLD, 1.0 / 0.7 },
    { "kv/compact_64x32x704x128_192_f32", set_up_compact, run_compact, NULL, COLD, 1.0 / 0.8 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
