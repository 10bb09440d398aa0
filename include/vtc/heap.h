/*
 * vtc/heap.h: scratch memory and plans from malloc, so that a prototype is ten lines. Header only;
 * the library itself never allocates. Not for several threads at once: give each its own.
 *
 *     vtc_exec exec = VTC_EXEC_INIT;
 *     size_t bytes;
 *     if (vtc_pool2d_scratch(&params, &x, &y, &exec, &bytes) == VTC_OK &&
 *         vtc_heap_scratch(&exec, bytes) == VTC_OK)
 *         status = vtc_pool2d(&params, &x, &y, &exec);
 *     vtc_heap_free(&exec);
 */
#ifndef VTC_HEAP_H
#define VTC_HEAP_H

#include "plan.h"

#include <stdlib.h>

/* Makes exec->scratch at least `bytes` large; it only ever grows, and its contents are lost then.
 * VTC_ERR_SCRATCH when memory is short; exec is unchanged then. exec->scratch must be NULL or from
 * here. Neither this nor vtc_heap_plan() tells on_error that memory is short. */
VTC_NODISCARD static inline vtc_status vtc_heap_scratch(vtc_exec *exec, size_t bytes)
{
    unsigned char *block, *aligned;

    if (bytes <= exec->scratch_size)
        return VTC_OK;
    if (bytes > SIZE_MAX - 64 || (block = (unsigned char *)malloc(bytes + 64)) == NULL)
        return VTC_ERR_SCRATCH;
    /* the byte in front of the aligned memory says how far it is from the block */
    aligned = block + (64 - (uintptr_t)block % 64);
    aligned[-1] = (unsigned char)(aligned - block);
    if (exec->scratch != NULL)
        free((unsigned char *)exec->scratch - ((unsigned char *)exec->scratch)[-1]);
    exec->scratch = aligned;
    exec->scratch_size = bytes;
    return VTC_OK;
}

static inline void vtc_heap_free(vtc_exec *exec)
{
    if (exec->scratch != NULL)
        free((unsigned char *)exec->scratch - ((unsigned char *)exec->scratch)[-1]);
    exec->scratch = NULL;
    exec->scratch_size = 0;
}

/* A plan with room for `count` in one block, over a VTC_PLAN_INIT. Free it with
 * vtc_heap_plan_free(). VTC_ERR_ROOM when memory is short, and the errors of vtc_plan_init(); the
 * plan is unchanged then. */
VTC_NODISCARD static inline vtc_status vtc_heap_plan(vtc_plan *plan, const vtc_plan_count *count,
                                                     const vtc_exec *exec)
{
    size_t bytes;
    void *memory;
    vtc_status status = vtc_plan_size(count, &bytes, exec);

    if (status != VTC_OK)
        return status;
    memory = malloc(bytes == 0 ? 1 : bytes);
    if (memory == NULL)
        return VTC_ERR_ROOM;
    status = vtc_plan_init(plan, count, memory, bytes, exec);
    if (status != VTC_OK)
        free(memory);
    return status;
}

/* `keep` is the start of the block that vtc_plan_init() laid out. */
static inline void vtc_heap_plan_free(vtc_plan *plan)
{
    const vtc_plan empty = VTC_PLAN_INIT;

    free(plan->keep);
    *plan = empty;
}

#endif
