/* MustDrop at the sizes of LLaVA-1.5: a 24 x 24 grid of CLIP-L/14-336, a decoder of 32 heads. */
#include "bench.h"

#include <vtc/prune.h>

/* ---- encode ---------------------------------------------------------------------------------- */

enum { SIDE = 24, N_GRID = SIDE * SIDE, N_CHANNELS = 1024, WIN = 3, N_MERGE = 32 };

struct encode {
    vtc_mustdrop_encode_params params;
    vtc_tensor x, y;
    vtc_plan plan;
};

/* The tokens of every other window are alike. */
static vtc_tensor windows(bench_set *set)
{
    const vtc_tensor x = bench_random_2d(set, VTC_F32, 1 + N_GRID, N_CHANNELS);
    float *value = x.data;

    for (size_t cell = 0; cell < N_GRID; cell++) {
        const size_t row = cell / SIDE, column = cell % SIDE;
        const size_t first = row / WIN * WIN * SIDE + column / WIN * WIN;

        for (size_t c = 0; (row / WIN + column / WIN) % 2 == 0 && c < N_CHANNELS; c++) {
            float *at = value + (1 + cell) * N_CHANNELS + c;

            *at = value[(1 + first) * N_CHANNELS + c] + 0.2f * *at;
        }
    }
    return x;
}

static void set_up_encode(bench_set *set, const void *argument)
{
    const vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    struct encode *e = set->state = bench_zeros(set, sizeof(*e));
    const size_t n_out = 1 + N_GRID - N_MERGE * (WIN * WIN - 1);
    size_t plan_bytes, apply_bytes;
    vtc_plan_count count;
    vtc_plan *plans[1];

    (void)argument;
    e->params = params;
    e->x = windows(set);
    e->y = bench_random_2d(set, VTC_F32, n_out, N_CHANNELS);
    bench_must(vtc_mustdrop_encode_count(&e->params, SIDE, SIDE, &count, &set->exec));
    plans[0] = &e->plan;
    e->plan = bench_plan(set, &count);
    bench_must(vtc_mustdrop_encode_scratch(&e->params, &e->x, SIDE, SIDE, &set->exec, &plan_bytes));
    bench_scratch(set, plan_bytes);
    bench_must(vtc_mustdrop_encode(&e->params, &e->x, SIDE, SIDE, NULL, plans, NULL, &set->exec));
    bench_must(vtc_plan_apply_scratch(&e->plan, &e->x, &e->y, &set->exec, &apply_bytes));
    if (apply_bytes > plan_bytes)
        bench_scratch(set, apply_bytes);

    /* tokens are read for the decision and again to be merged; a length and a sum for each, and the
     * merge: 2 N C + r n C multiply-adds */
    bench_limit_traffic(set, (2 * (1 + N_GRID) + n_out) * N_CHANNELS * sizeof(float));
    bench_limit_product(set, 1, 2 * SIDE, (2 * N_GRID + N_MERGE * WIN * WIN) / (2 * SIDE),
                        N_CHANNELS, true);
}

/* What the encoder does behind its first layer: plan, then merge. */
static void run_encode(bench_set *set)
{
    struct encode *e = set->state;
    vtc_plan *plans[1] = { &e->plan };

    bench_must(vtc_mustdrop_encode(&e->params, &e->x, SIDE, SIDE, NULL, plans, NULL, &set->exec));
    bench_must(vtc_plan_apply(&e->plan, &e->x, &e->y, &set->exec));
}

/* ---- prefill --------------------------------------------------------------------------------- */

enum { N_HEADS = 32, HEAD = 128, N_BEFORE = 35, N_VISION = 320, N_TEXT = 64, N_KEYS = 26 };

struct prefill {
    vtc_mustdrop_prefill_params params;
    vtc_tensor q, k;
    int32_t *keys;
    vtc_plan plan;
};

static void set_up_prefill(bench_set *set, const void *argument)
{
    const vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    struct prefill *p = set->state = bench_zeros(set, sizeof(*p));
    const size_t length = N_BEFORE + N_VISION + N_TEXT;
    vtc_plan_count count;
    size_t bytes;

    (void)argument;
    p->params = params;
    p->params.v_start = N_BEFORE;
    bench_must(vtc_mustdrop_thresholds(VTC_MUSTDROP_TEXTVQA_192, &p->params, &set->exec));
    p->q = bench_random_3d(set, VTC_F32, N_HEADS, N_TEXT, HEAD);
    p->k = bench_random_3d(set, VTC_F32, N_HEADS, length, HEAD);
    p->keys = bench_random_rows(set, N_VISION, N_KEYS);
    bench_must(
        vtc_mustdrop_prefill_count(&p->params, N_VISION, length, N_KEYS, &count, &set->exec));
    p->plan = bench_plan(set, &count);
    bench_must(
        vtc_mustdrop_prefill_scratch(&p->params, &p->q, &p->k, NULL, N_VISION, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_product(set, N_HEADS, N_TEXT, length, HEAD, true);
}

static void run_prefill(bench_set *set)
{
    struct prefill *p = set->state;

    bench_must(vtc_mustdrop_prefill(&p->params, &p->q, &p->k, NULL, N_VISION, p->keys, N_KEYS, NULL,
                                    &p->plan, NULL, &set->exec));
}

/* ---- table ----------------------------------------------------------------------------------- */

/* What is planned from was written just before. */
enum { WARM = false };

const bench_case bench_mustdrop_cases[] = {
    { "mustdrop/encode_24x24x1024_3x3", set_up_encode, run_encode, NULL, WARM, 1.5 },
    { "mustdrop/prefill_32x64x419x128", set_up_prefill, run_prefill, NULL, WARM, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
