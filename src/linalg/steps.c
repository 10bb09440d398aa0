/* Steps that share scratch memory. */
#include "steps.h"

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

void vtci_steps_tasks(const vtci_steps *steps, size_t n_tasks,
                      void (*task)(void *job, size_t index, size_t worker), void *job)
{
    if (!steps->measure)
        vtci_parallel(steps->call, n_tasks, task, job);
}

/* After measuring: an arena that has used what all steps need. */
static vtci_arena used_by(const vtci_steps *steps)
{
    const vtci_arena used = { steps->call->query ? NULL : steps->call->exec.scratch,
                              vtci_max(steps->most, steps->arena.used),
                              steps->overflow || steps->arena.overflow };

    return used;
}

vtc_status vtci_steps_walk(const vtci_call *call, void (*walk)(void *job, vtci_steps *steps),
                           void *job, size_t *bytes)
{
    vtci_steps measuring = { .call = call, .measure = true };
    vtci_steps computing = { .call = call, .arena.base = call->exec.scratch };
    vtci_arena used;

    walk(job, &measuring);
    used = used_by(&measuring);
    if (call->query)
        return vtci_end_query(call, &used, bytes);
    VTCI_TRY(vtci_arena_check(call, &used));
    walk(job, &computing);
    return VTC_OK;
}

float *vtci_take_matrix(vtci_arena *arena, size_t n_rows, size_t n_cols)
{
    return vtci_take(arena, vtci_mul(n_rows, n_cols), sizeof(float));
}

vtci_rows vtci_float_rows(const float *data, size_t n_rows, size_t n_cols)
{
    const size_t row = vtci_mul(n_cols, sizeof(*data));
    const vtci_rows rows = { (char *)(uintptr_t)data, VTC_F32, 1, n_rows, n_cols,
                             vtci_mul(n_rows, row),   row };

    return rows;
}

vtci_gemm vtci_linear_product(vtci_rows x, const vtc_tensor *weight, const vtci_packed *packed,
                              vtci_rows y)
{
    const vtci_gemm product = {
        .a = x, .b = vtci_rows_of(weight), .c = y, .trans_b = true, .packed = packed
    };

    return product;
}

void vtci_steps_linear(vtci_steps *steps, vtci_rows x, const vtc_tensor *weight,
                       const vtci_packed *packed, vtci_rows y)
{
    vtci_gemm product = vtci_linear_product(x, weight, packed, y);

    vtci_steps_gemm(steps, &product);
}

vtci_gemm vtci_layer_product(vtci_rows x, const vtc_linear *layer, const vtci_packed *packed,
                             vtci_rows y)
{
    vtci_gemm product = vtci_linear_product(x, &layer->weight, packed, y);

    if (!vtc_tensor_is_absent(&layer->bias))
        product.bias = vtci_rows_of(&layer->bias);
    return product;
}

void vtci_steps_layer(vtci_steps *steps, vtci_rows x, const vtc_linear *layer,
                      const vtci_packed *packed, vtci_rows y)
{
    vtci_gemm product = vtci_layer_product(x, layer, packed, y);

    vtci_steps_gemm(steps, &product);
}
