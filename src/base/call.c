/* Messages, parameter structs, the scratch arena and the executor. */
#include "call.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* No struct of any version comes near STRUCT_MAX: garbage is told from a size before a tail of that
 * length is read. */
enum { ALIGNMENT = 64, MESSAGE_SIZE = 320, STRUCT_MAX = 4096 };

vtc_status vtci_begin(vtci_call *call, const char *name, const vtc_exec *exec)
{
    static const vtc_exec defaults = VTC_EXEC_INIT;

    call->name = name;
    call->exec = defaults;
    call->query = false;
    VTCI_TRY(vtci_params_read(call, &call->exec, sizeof(call->exec), exec));
    if (call->exec.n_workers == 0 || call->exec.parallel_for == NULL)
        call->exec.n_workers = 1;
    return VTC_OK;
}

vtc_status vtci_fail(const vtci_call *call, vtc_status status, const char *format, ...)
{
    char message[MESSAGE_SIZE];
    int length;
    va_list args;

    if (call->exec.on_error == NULL)
        return status;
    length = snprintf(message, sizeof(message), "%s: ", call->name);
    va_start(args, format);
    if (length >= 0 && (size_t)length < sizeof(message))
        vsnprintf(message + length, sizeof(message) - (size_t)length, format, args);
    va_end(args);
    call->exec.on_error(call->exec.user, status, message);
    return status;
}

vtc_status vtci_params_read(const vtci_call *call, void *params, size_t size, const void *from)
{
    size_t known = 0;

    if (from == NULL)
        return VTC_OK;
    memcpy(&known, from, sizeof(known));
    VTCI_REQUIRE(call, known != 0 && known % sizeof(known) == 0 && known <= STRUCT_MAX,
                 VTC_ERR_RANGE, "struct_size is %zu; start from the _INIT macro", known);
    for (size_t i = size; i < known; i++)
        VTCI_REQUIRE(call, ((const unsigned char *)from)[i] == 0, VTC_ERR_UNSUPPORTED,
                     "struct_size is %zu, this library knows %zu bytes and the rest is not zero",
                     known, size);
    memcpy(params, from, known < size ? known : size);
    memcpy(params, &size, sizeof(size));
    return VTC_OK;
}

void *vtci_take(vtci_arena *arena, size_t count, size_t size)
{
    const size_t bytes = vtci_mul(count, size);
    const size_t begin = arena->used;

    if (bytes > SIZE_MAX - ALIGNMENT || vtci_add(begin, bytes) > SIZE_MAX - ALIGNMENT) {
        arena->overflow = true;
        return NULL;
    }
    arena->used = begin + (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    /* in integers, because this may be behind the memory's end: vtci_arena_check() will tell */
    return arena->base == NULL ? NULL : (void *)((uintptr_t)arena->base + begin);
}

char *vtci_take_slices(vtci_arena *arena, const vtci_call *call, size_t size, size_t *stride)
{
    const size_t padded = vtci_add(size, ALIGNMENT - 1);

    *stride = padded == SIZE_MAX ? SIZE_MAX : padded / ALIGNMENT * ALIGNMENT;
    return vtci_take(arena, vtci_n_workers(call), *stride);
}

vtci_arena vtci_arena_open(const vtci_call *call)
{
    vtci_arena arena = { call->query ? NULL : call->exec.scratch, 0, false };
    return arena;
}

vtc_status vtci_arena_check(const vtci_call *call, const vtci_arena *arena)
{
    VTCI_REQUIRE(call, !arena->overflow, VTC_ERR_OVERFLOW, "the scratch size overflows size_t");
    if (call->query || arena->used == 0)
        return VTC_OK;
    VTCI_REQUIRE(call, arena->base != NULL, VTC_ERR_SCRATCH,
                 "needs %zu bytes of scratch memory, exec has none", arena->used);
    VTCI_REQUIRE(call, call->exec.scratch_size >= arena->used, VTC_ERR_SCRATCH,
                 "needs %zu bytes of scratch memory, exec has %zu", arena->used,
                 call->exec.scratch_size);
    VTCI_REQUIRE(call, (uintptr_t)arena->base % ALIGNMENT == 0, VTC_ERR_SCRATCH,
                 "scratch memory must be %d-byte aligned", ALIGNMENT);
    return VTC_OK;
}

vtc_exec vtci_exec_behind(const vtci_call *call, const vtci_arena *arena)
{
    vtc_exec rest = call->exec;

    if (rest.scratch != NULL && arena->used <= rest.scratch_size) {
        rest.scratch = (char *)rest.scratch + arena->used;
        rest.scratch_size -= arena->used;
    }
    return rest;
}

vtc_status vtci_begin_query(vtci_call *call, const char *name, const vtc_exec *exec,
                            const size_t *bytes)
{
    VTCI_TRY(vtci_begin(call, name, exec));
    call->query = true;
    VTCI_REQUIRE_PTR(call, bytes);
    return VTC_OK;
}

vtc_status vtci_end_query(const vtci_call *call, const vtci_arena *arena, size_t *bytes)
{
    VTCI_TRY(vtci_arena_check(call, arena));
    *bytes = arena->used;
    return VTC_OK;
}

void vtci_parallel(const vtci_call *call, size_t n_tasks,
                   void (*task)(void *job, size_t index, size_t worker), void *job)
{
    if (call->exec.parallel_for != NULL && n_tasks > 1) {
        call->exec.parallel_for(call->exec.pool, n_tasks, task, job);
        return;
    }
    for (size_t i = 0; i < n_tasks; i++)
        task(job, i, 0);
}

size_t vtci_n_workers(const vtci_call *call)
{
    return call->exec.n_workers;
}

size_t vtci_mul(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

size_t vtci_add(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}
