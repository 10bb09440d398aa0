/* FiCoCo at the size of CLIP-L/14-336 (577 tokens of 16 heads of 64) and of a 7B decoder. */
#include "bench.h"

#include <vtc/prune.h>

enum { HEADS = 16, D = 64, SIDE = 24, N_PATCHES = SIDE * SIDE, T = N_PATCHES + 1, C = HEADS * D };

struct shape {
    vtc_ficoco_profile profile;
    size_t n_discard;
    bool step; /* tokens are moved too */
};

struct ficoco {
    vtc_ficoco_v_params params;
    vtc_ficoco_v_inputs inputs;
    vtc_ficoco_l_params l_params;
    vtc_ficoco_l_inputs l_inputs;
    vtc_tensor q, k, x, y;
    vtc_plan plan;
    bool step;
};

/* Heads side by side in the rows of tokens, as a projection leaves them. */
static vtc_tensor heads_of_rows(bench_set *set, size_t n_rows, size_t n_heads, size_t d)
{
    vtc_tensor t = bench_random_3d(set, VTC_F32, n_heads, n_rows, d);

    t.stride[0] = d;
    t.stride[1] = n_heads * d;
    return t;
}

static void open_tokens(bench_set *set, struct ficoco *f, size_t n, size_t c)
{
    size_t bytes;

    f->x = bench_random_2d(set, VTC_F32, n, c);
    f->y = bench_random_2d(set, VTC_F32, f->plan.n_out, c);
    bench_must(vtc_plan_apply_scratch(&f->plan, &f->x, &f->y, &set->exec, &bytes));
}

/* ---- V --------------------------------------------------------------------------------------- */

static void run_v(bench_set *set)
{
    struct ficoco *f = set->state;

    bench_must(vtc_ficoco_v(&f->params, &f->inputs, &f->plan, NULL, &set->exec));
    if (f->step)
        bench_must(vtc_plan_apply(&f->plan, &f->x, &f->y, &set->exec));
}

static void set_up_v(bench_set *set, const void *argument)
{
    static const vtc_ficoco_v_params params = VTC_FICOCO_V_PARAMS_INIT;
    static const vtc_ficoco_v_inputs inputs = VTC_FICOCO_V_INPUTS_INIT;
    const struct shape *s = argument;
    struct ficoco *f = set->state = bench_zeros(set, sizeof(*f));
    vtc_plan_count count;
    size_t bytes;

    f->params = params;
    f->params.profile = s->profile;
    f->params.n_discard = s->n_discard;
    f->inputs = inputs;
    f->q = heads_of_rows(set, T, HEADS, D);
    f->k = heads_of_rows(set, T, HEADS, D);
    f->inputs.q = &f->q;
    f->inputs.k = &f->k;
    f->inputs.grid_h = f->inputs.grid_w = SIDE;
    bench_must(vtc_ficoco_v_count(&f->params, N_PATCHES, VTC_FICOCO_CLS_ROW, &count, &set->exec));
    f->plan = bench_plan(set, &count);
    bench_must(vtc_ficoco_v_scratch(&f->params, &f->inputs, &set->exec, &bytes));
    bench_scratch(set, bytes);
    if (s->step) {
        run_v(set); /* the sizes below are those of a finished plan */
        f->step = true;
        open_tokens(set, f, T, C);
    }
    /* q and k once, and where tokens move, those; the logits of discarded rows */
    bench_limit_traffic(set,
                        sizeof(float) * C * (2 * T + (s->step ? 2 * T - s->n_discard : (size_t)0)));
    bench_limit_product(set, 1, s->n_discard,
                        s->profile == VTC_FICOCO_OFFICIAL ? T : N_PATCHES - s->n_discard, C, true);
}

/* ---- L --------------------------------------------------------------------------------------- */

enum { L_HEADS = 32, L_D = 128, L_TEXT = 60, L_START = 35, L_ROWS = L_START + N_PATCHES + L_TEXT };

static void run_l(bench_set *set)
{
    struct ficoco *f = set->state;

    bench_must(vtc_ficoco_l(&f->l_params, &f->l_inputs, &f->plan, NULL, &set->exec));
}

static void set_up_l(bench_set *set, const void *argument)
{
    static const vtc_ficoco_l_params params = VTC_FICOCO_L_PARAMS_INIT;
    static const vtc_ficoco_l_inputs inputs = VTC_FICOCO_L_INPUTS_INIT;
    const struct shape *s = argument;
    struct ficoco *f = set->state = bench_zeros(set, sizeof(*f));
    vtc_plan_count count;
    size_t bytes;

    f->l_params = params;
    f->l_params.profile = s->profile;
    f->l_params.n_discard = s->n_discard;
    f->l_inputs = inputs;
    f->q = heads_of_rows(set, L_ROWS, L_HEADS, L_D);
    f->k = heads_of_rows(set, L_ROWS, L_HEADS, L_D);
    f->l_inputs.q = &f->q;
    f->l_inputs.k = &f->k;
    f->l_inputs.v_start = L_START;
    f->l_inputs.n_visual = N_PATCHES;
    bench_must(vtc_ficoco_l_count(&f->l_params, N_PATCHES, &count, &set->exec));
    f->plan = bench_plan(set, &count);
    bench_must(vtc_ficoco_l_scratch(&f->l_params, &f->l_inputs, &set->exec, &bytes));
    bench_scratch(set, bytes);
    bench_limit_traffic(set, sizeof(float) * 2 * (N_PATCHES + L_TEXT) * L_HEADS * L_D);
    bench_limit_product(set, 1, s->n_discard, N_PATCHES - s->n_discard, (size_t)L_HEADS * L_D,
                        true);
    bench_limit_product(set, 1, s->n_discard, L_TEXT, (size_t)L_HEADS * L_D, true);
    bench_limit_product(set, 1, s->n_discard, (size_t)L_HEADS * L_D, L_TEXT, false);
}

/* ---- table ----------------------------------------------------------------------------------- */

static const struct shape fixed = { VTC_FICOCO_FIXED, 64, false };
static const struct shape fixed_step = { VTC_FICOCO_FIXED, 64, true };
static const struct shape official = { VTC_FICOCO_OFFICIAL, 64, false };
static const struct shape official_step = { VTC_FICOCO_OFFICIAL, 64, true };
static const struct shape decoder = { VTC_FICOCO_FIXED, 64, false };

/* Queries, keys and tokens were written just before: their caches are warm. */
enum { WARM = false };

const bench_case bench_ficoco_cases[] = {
    { "ficoco_v/n577_c1024_r64_fixed", set_up_v, run_v, &fixed, WARM, 1.5 },
    { "ficoco_v/n577_c1024_r64_fixed_step", set_up_v, run_v, &fixed_step, WARM, 1.5 },
    { "ficoco_v/n577_c1024_r64_official", set_up_v, run_v, &official, WARM, 1.5 },
    { "ficoco_v/n577_c1024_r64_official_step", set_up_v, run_v, &official_step, WARM, 1.5 },
    { "ficoco_l/n576_t60_c4096_r64_fixed", set_up_l, run_l, &decoder, WARM, 1.5 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
