/* Steps of a model in shared scratch memory. */
#include "stage.h"

void vtci_stage_open(vtci_stage *stage, const vtci_call *call, const vtci_arena *arena)
{
    const vtci_stage fresh = { call, *arena, arena->used, arena->overflow, false };

    *stage = fresh;
}

void vtci_stage_close(const vtci_stage *stage, vtci_arena *arena)
{
    arena->used = stage->peak;
    arena->overflow = stage->overflow;
}

/* What a step has taken, while measuring. False: nothing is to be done. */
static bool keep_peak(vtci_stage *stage, const vtci_arena *arena)
{
    if (stage->runs)
        return true;
    stage->peak = vtci_max(stage->peak, arena->used);
    stage->overflow = stage->overflow || arena->overflow;
    return false;
}

void vtci_stage_norm(vtci_stage *stage, vtci_norm norm)
{
    vtci_arena arena = stage->arena;

    vtci_norm_lay_out(&arena, stage->call, &norm);
    if (keep_peak(stage, &arena))
        vtci_norm_run(stage->call, &norm);
}

void vtci_stage_product(vtci_stage *stage, vtci_gemm product)
{
    vtci_arena arena = stage->arena;

    vtci_gemm_lay_out(&arena, stage->call, &product);
    if (keep_peak(stage, &arena))
        vtci_gemm_run(stage->call, &product);
}

void vtci_stage_attention(vtci_stage *stage, vtci_attention attention)
{
    vtci_arena arena = stage->arena;

    vtci_attention_lay_out(&arena, stage->call, &attention);
    if (keep_peak(stage, &arena))
        vtci_attention_run(stage->call, &attention);
}

void vtci_stage_tasks(const vtci_stage *stage, size_t n_tasks,
                      void (*task)(void *job, size_t index, size_t worker), void *job)
{
    if (stage->runs)
        vtci_parallel(stage->call, n_tasks, task, job);
}

vtci_rows vtci_float_rows(const float *data, size_t n_rows, size_t n_cols)
{
    const size_t row = vtci_mul(n_cols, sizeof(*data));
    const vtci_rows rows = { (char *)(uintptr_t)data, VTC_F32, 1, n_rows, n_cols,
                             vtci_mul(n_rows, row), row };

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
