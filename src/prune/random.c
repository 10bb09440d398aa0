/*
 * Random rows: the control that every selection must beat.
 *
 * Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014
 * (SplitMix64); Lemire, "Fast Random Integer Generation in an Interval", 2019 (the high half of a
 * product instead of a remainder; its bias, below n / 2^64, is left in).
 */
#include "../linalg/order.h"
#include "planners.h"
#include "selection.h"

static uint64_t split_mix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* floor(a * b / 2^64), b < 2^32: the product is 96 bits long. */
static uint64_t high64(uint64_t a, uint64_t b)
{
    const uint64_t low = (a & 0xffffffffu) * b, high = (a >> 32) * b;

    return (high + (low >> 32)) >> 32;
}

/* The first n_keep places of a shuffle of 0 .. n - 1. */
static void shuffle(int32_t *row, size_t n, size_t n_keep, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        row[i] = (int32_t)i;
    for (size_t i = 0; i < n_keep; i++) {
        const size_t j = i + (size_t)high64(split_mix64(&seed), n - i);
        const int32_t taken = row[j];

        row[j] = row[i];
        row[i] = taken;
    }
}

static int32_t *lay_out(vtci_arena *arena, size_t n_in)
{
    return vtci_take(arena, n_in, sizeof(int32_t));
}

vtc_status vtc_random_scratch(size_t n_in, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_random_scratch", exec, bytes));
    arena = vtci_arena_open(&call);
    lay_out(&arena, n_in);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_random(const vtc_random_params *params, size_t n_in, size_t n_keep,
                      const float *mass, vtc_plan *plan, const vtc_exec *exec)
{
    vtc_random_params p = VTC_RANDOM_PARAMS_INIT;
    vtci_call call;
    vtci_arena arena;
    int32_t *row;

    VTCI_TRY(vtci_begin(&call, "vtc_random", exec));
    VTCI_TRY(vtci_params_read(&call, &p, sizeof(p), params));
    VTCI_TRY(vtci_selection_open(&call, plan, n_in, n_keep, mass));
    arena = vtci_arena_open(&call);
    row = lay_out(&arena, n_in);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    shuffle(row, n_in, n_keep, p.seed);
    vtci_sort_i32(row, n_keep);
    for (size_t j = 0; j < n_keep; j++)
        plan->keep[j] = row[j];
    vtci_plan_no_score(plan, n_in);
    vtci_selection_finish(plan, n_in, n_keep, mass);
    return VTC_OK;
}

/* ---- the planner ----------------------------------------------------------------------------- */

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    (void)params;
    return vtci_selection_count("vtc_random", image->n_rows, n_keep, count, exec);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    (void)params;
    (void)n_keep;
    return vtc_random_scratch(image->n_rows, exec, bytes);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    return vtc_random(params, image->n_rows, n_keep, image->mass, plan, exec);
}

static const vtc_param planner_params[] = {
    /* doubles, by which parameters are set, are whole up to 2^53 */
    { "seed", VTC_PARAM_U64, offsetof(vtc_random_params, seed), 0, 0x1p53, 0, "of SplitMix64" },
};

const vtc_planner vtci_planner_random = {
    .struct_size = sizeof(vtc_planner),
    .name = "random",
    .title = "random",
    .paper = "control",
    .checked = "our NumPy oracle; first outputs of SplitMix64 as published",
    .exact = 1,
    .params_size = sizeof(vtc_random_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .plan = planner_plan,
};
