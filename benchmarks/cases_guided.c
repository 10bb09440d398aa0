/*
 * Guided planners through the planner table: Q and K, features or hidden states in, a plan out.
 * Sizes are 576 tokens of 1024 channels (16 heads of 64), and LLaVA-1.5 7B where a decoder is
 * involved (32 heads of 128, 35 rows before the image, 53 of text).
 *
 * The limit is what a method cannot do without: its multiply-adds at the rate of a square sgemm and
 * the bytes it reads at that of memcpy.
 */
#include "bench.h"

#include <math.h>
#include <vtc/planner.h>
#include <vtc/prune.h>
#include <vtc/sample.h>

enum { N = 576, SIDE = 24, BEFORE = 35, TEXT = 53, L = BEFORE + N + TEXT };

struct shape {
    const char *planner;
    size_t n_channels, n_heads, d; /* of tokens or hidden states; of Q and K */
    size_t n_keep;
    size_t n_multiply_adds, n_bytes; /* the limit                                      */
    const char *param;               /* set to `value`, or NULL                        */
    double value;
    bool apply; /* tokens are moved by the plan too */
};

struct guided {
    const vtc_planner *planner;
    void *params;
    vtc_plan_inputs inputs;
    vtc_budget budget;
    vtc_plan plan;
    vtc_tensor features, keys, cls_query, cls_key, lm_query, lm_keys, hidden, embeddings;
    vtc_tensor y;
};

static void make_inputs(bench_set *set, const struct shape *s, struct guided *g)
{
    const vtc_plan_inputs none = VTC_PLAN_INPUTS_INIT;
    const unsigned sees = g->planner->needs | g->planner->uses;

    g->inputs = none;
    g->inputs.n_rows = N;
    g->inputs.grid_h = g->inputs.grid_w = SIDE;
    g->inputs.v_start = BEFORE;
    g->inputs.n_text = TEXT;
    if ((sees & VTC_NEED_KEYS) != 0) {
        g->keys = bench_random_3d(set, VTC_F32, s->n_heads, N, s->d);
        g->cls_query = bench_random_2d(set, VTC_F32, s->n_heads, s->d);
        g->cls_key = bench_random_2d(set, VTC_F32, s->n_heads, s->d);
        g->inputs.keys = &g->keys;
        g->inputs.cls_query = &g->cls_query;
        g->inputs.cls_key = &g->cls_key;
    }
    if ((sees & VTC_NEED_LM) != 0 && s->value != VTC_FOCUSLLAVA_HIDDEN) {
        g->lm_query = bench_random_3d(set, VTC_F32, s->n_heads, L, s->d);
        g->lm_keys = bench_random_3d(set, VTC_F32, s->n_heads, L, s->d);
        g->inputs.lm_query = &g->lm_query;
        g->inputs.lm_keys = &g->lm_keys;
    }
    if ((sees & VTC_NEED_HIDDEN) != 0) {
        g->hidden = bench_random_2d(set, VTC_F32, L, s->n_channels);
        g->inputs.lm_hidden = &g->hidden;
    }
    if ((sees & VTC_NEED_EMBEDDINGS) != 0) {
        g->embeddings = bench_random_2d(set, VTC_F32, L, s->n_channels);
        g->inputs.lm_embeddings = &g->embeddings;
        for (size_t i = 0; i < L * s->n_channels; i++) /* raters rate by what is close to 0 */
            ((float *)g->embeddings.data)[i] *= 0.05f;
    }
    g->features = bench_random_2d(set, VTC_F32, N, s->n_channels);
    g->inputs.features = &g->features;
}

static void set_up(bench_set *set, const void *argument)
{
    const struct shape *s = argument;
    struct guided *g = set->state = bench_zeros(set, sizeof(*g));
    const size_t side = (size_t)cbrt((double)s->n_multiply_adds);
    vtc_plan_count count;
    size_t bytes, to_apply;

    g->planner = vtc_planner_find(s->planner);
    g->budget = vtc_budget_keep(s->n_keep);
    if (g->planner->params_size != 0)
        g->params = bench_zeros(set, g->planner->params_size);
    bench_must(vtc_planner_params_init(g->planner, g->params, &set->exec));
    if (s->param != NULL)
        bench_must(vtc_planner_params_set(g->planner, g->params, s->param, s->value, &set->exec));
    make_inputs(set, s, g);
    bench_must(
        vtc_planner_count(g->planner, g->params, &g->inputs, &g->budget, &count, &set->exec));
    g->plan = bench_plan(set, &count);
    bench_must(
        vtc_planner_scratch(g->planner, g->params, &g->inputs, &g->budget, &set->exec, &bytes));
    bench_scratch(set, bytes);
    if (s->apply) {
        g->y = bench_random_2d(set, VTC_F32, count.n_out, s->n_channels);
        bench_must(vtc_planner_plan(g->planner, g->params, &g->inputs, &g->budget, &g->plan, NULL,
                                    &set->exec));
        bench_must(vtc_plan_apply_scratch(&g->plan, &g->features, &g->y, &set->exec, &to_apply));
    }
    bench_limit_traffic(set, s->n_bytes);
    bench_limit_product(set, 1, side, side, side, false);
}

static void run(bench_set *set)
{
    struct guided *g = set->state;

    bench_must(vtc_planner_plan(g->planner, g->params, &g->inputs, &g->budget, &g->plan, NULL,
                                &set->exec));
    if (g->y.data != NULL)
        bench_must(vtc_plan_apply(&g->plan, &g->features, &g->y, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

/* The map is read for its mean, and again for the tokens, which are measured and multiplied by it.
 */
#define FOCUS(keep, param, value)                                                                  \
    {                                                                                              \
        "focusllava-vision", 1024, 0, 0, keep, (size_t)(N + 2 * 756) * 1024, (size_t)8 * N * 1024, \
            param, value, false                                                                    \
    }
static const struct shape focus_topk = FOCUS(128, NULL, 0);
static const struct shape focus_similarity = FOCUS(N, "adaptive", 1);

/* Text rows against all keys before them; K and the rows of Q are read. */
#define READ_K(heads, d, rows) ((size_t)4 * (heads) * (d) * (L + (rows)))
static const struct shape focus_attention = { "focusllava-text",
                                              1024,
                                              16,
                                              64,
                                              288,
                                              (size_t)16 * 64 * TEXT *L,
                                              READ_K(16, 64, TEXT),
                                              "score",
                                              VTC_FOCUSLLAVA_ATTENTION,
                                              false };
static const struct shape focus_hidden = { "focusllava-text",
                                           1024,
                                           0,
                                           0,
                                           288,
                                           (size_t)2 * (N + TEXT) * 1024,
                                           (size_t)4 * (N + TEXT) * 1024,
                                           "score",
                                           VTC_FOCUSLLAVA_HIDDEN,
                                           false };
static const struct shape fastv_1024 = {
    "fastv", 1024, 16, 64, 288, (size_t)16 * 64 * L, READ_K(16, 64, 1), NULL, 0, false
};
static const struct shape fastv_llava = {
    "fastv", 4096, 32, 128, 288, (size_t)32 * 128 * L, READ_K(32, 128, 1), NULL, 0, false
};

/* The row of [CLS], the mean of the keys, and the others against 10 targets; K is read. */
#define ZIP_MACS ((size_t)2 * 16 * 64 * N + (size_t)522 * 10 * 64)
static const struct shape visionzip_plan = {
    "visionzip", 1024, 16, 64, 64, ZIP_MACS, (size_t)4 * 16 * 64 * N, NULL, 0, false
};
static const struct shape visionzip_merge = { "visionzip",
                                              1024,
                                              16,
                                              64,
                                              64,
                                              ZIP_MACS + (size_t)N * 1024,
                                              (size_t)4 * (16 * 64 * N + (N + 64) * 1024),
                                              NULL,
                                              0,
                                              true };

/* Embeddings of image and text, about half of the text rows against all keys, distances of the 83
 * recycled rows; embeddings, K and recycled rows are read. */
#define SPARSE(c, heads, d)                                                                        \
    {                                                                                              \
        "sparsevlm", c, heads, d, 309,                                                             \
            (size_t)N *TEXT *(c) + (size_t)(heads) * (d) * (TEXT / 2) * L + (size_t)83 * 42 * (c), \
            READ_K(heads, d, TEXT / 2) + (size_t)4 * (N + TEXT + 83) * (c), NULL, 0, false         \
    }
static const struct shape sparse_1024 = SPARSE(1024, 16, 64);
static const struct shape sparse_llava = SPARSE(4096, 32, 128);

/* What they look at was written just before: their caches are warm. */
enum { WARM = false };

const bench_case bench_guided_cases[] = {
    { "focusllava_vision/24x24x1024_topk128", set_up, run, &focus_topk, WARM, 1.5 },
    { "focusllava_vision/24x24x1024_similarity", set_up, run, &focus_similarity, WARM, 1.5 },
    { "focusllava_text/n576_c1024_attention", set_up, run, &focus_attention, WARM, 1.5 },
    { "focusllava_text/n576_c1024_hidden", set_up, run, &focus_hidden, WARM, 1.5 },
    { "fastv/n576_c1024_keep288", set_up, run, &fastv_1024, WARM, 1.5 },
    { "fastv/llava15_keep288", set_up, run, &fastv_llava, WARM, 1.5 },
    { "visionzip/n576_c1024_54_10", set_up, run, &visionzip_plan, WARM, 1.5 },
    { "visionzip/n576_c1024_54_10_merge", set_up, run, &visionzip_merge, WARM, 0.0 },
    { "sparsevlm/n576_c1024_keep300", set_up, run, &sparse_1024, WARM, 1.5 },
    { "sparsevlm/llava15_keep300", set_up, run, &sparse_llava, WARM, 1.5 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
