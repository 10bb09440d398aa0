/* Steps that share scratch memory. */
#include "steps.h"

vtci_steps vtci_steps_measure(const vtci_call *call)
{
    const vtci_steps steps = { call, true, { NULL, 0, false }, 0, false };

    return steps;
}

vtci_steps vtci_steps_in(const vtci_call *call)
{
    const vtci_steps steps = { call, false, { call->exec.scratch, 0, false }, 0, false };

    return steps;
}

/* Whether to compute, once a step has laid itself out in a copy of the arena. */
static bool take(vtci_steps *steps, const vtci_arena *arena)
{
    steps->most = vtci_max(steps->most, arena->used);
    steps->overflow = steps->overflow || arena->overflow;
    return !steps->measure;
}

void vtci_steps_gemm(vtci_steps *steps, vtci_gemm *g)
{
    vtci_arena arena = steps->arena;

    vtci_gemm_lay_out(&arena, steps->call, g);
    if (take(steps, &arena))
        vtci_gemm_run(steps->call, g);
}

void vtci_steps_attention(vtci_steps *steps, vtci_attention *a)
{
    vtci_arena arena = steps->arena;

    vtci_attention_lay_out(&arena, steps->call, a);
    if (take(steps, &arena))
        vtci_attention_run(steps->call, a);
}

void vtci_steps_norm(vtci_steps *steps, vtci_norm *norm)
{
    vtci_arena arena = steps->arena;

    vtci_norm_lay_out(&arena, steps->call, norm);
    if (take(steps, &arena))
        vtci_norm_run(steps->call, norm);
}

vtci_arena vtci_steps_used(const vtci_steps *steps)
{
    const vtci_arena used = { steps->call->query ? NULL : steps->call->exec.scratch,
                              vtci_max(steps->most, steps->arena.used),
                              steps->overflow || steps->arena.overflow };

    return used;
}
