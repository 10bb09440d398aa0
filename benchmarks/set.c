/* Working sets: memory, data and the executor of one call. */
#include "set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

struct bench_block {
    struct bench_block *next;
    void *memory;
};

/* ---- life ------------------------------------------------------------------------------------ */

static void print_error(void *user, vtc_status status, const char *message)
{
    fprintf(stderr, "vtc_bench: %s: %s (%s)\n", (const char *)user, message,
            vtc_status_string(status));
}

void bench_must(vtc_status status)
{
    if (status != VTC_OK)
        exit(EXIT_FAILURE);
}

void bench_set_open(bench_set *set, bench_workers *workers, const bench_case *c)
{
    static const vtc_exec fresh = VTC_EXEC_INIT;

    memset(set, 0, sizeof(*set));
    set->exec = fresh;
    set->exec.on_error = print_error;
    set->exec.user = (void *)(uintptr_t)c->name;
    bench_workers_attach(workers, &set->exec);
    c->setup(set, c->argument);
}

void bench_set_close(bench_set *set)
{
    while (set->blocks != NULL) {
        struct bench_block *block = set->blocks;

        set->blocks = block->next;
        free(block->memory);
        free(block);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *bench_zeros(bench_set *set, size_t bytes)
{
    const size_t rounded = (bytes / ALIGNMENT + 1) * ALIGNMENT;
    struct bench_block *block = malloc(sizeof(*block));
    void *memory = aligned_alloc(ALIGNMENT, rounded);

    if (block == NULL || memory == NULL) {
        fprintf(stderr, "vtc_bench: %s: no memory for %zu bytes\n", (char *)set->exec.user, bytes);
        exit(EXIT_FAILURE);
    }
    memset(memory, 0, rounded);
    block->memory = memory;
    block->next = set->blocks;
    set->blocks = block;
    set->bytes += rounded;
    return memory;
}

void bench_scratch(bench_set *set, size_t bytes)
{
    set->exec.scratch = bench_zeros(set, bytes);
    set->exec.scratch_size = bytes;
}

vtc_plan bench_plan(bench_set *set, const vtc_plan_count *count)
{
    vtc_plan plan = VTC_PLAN_INIT;
    size_t bytes;

    bench_must(vtc_plan_size(count, &bytes, &set->exec));
    bench_must(vtc_plan_init(&plan, count, bench_zeros(set, bytes), bytes, &set->exec));
    return plan;
}

/* ---- data ------------------------------------------------------------------------------------ */

/* SplitMix64 */
static uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fill_f32(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int64_t)random_bits(&seed) * 0x1p-63f;
}

/* Any sign and mantissa under the exponent that `half`, the bits of 0.5, has. */
static void fill_16(uint16_t *x, size_t n, unsigned half, unsigned mantissa, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (uint16_t)((random_bits(&seed) & (0x8000u | mantissa)) | half);
}

vtc_tensor bench_random(bench_set *set, vtc_dtype dtype, int rank, const size_t *dim)
{
    size_t n = 1;

    for (int axis = 0; axis < rank; axis++)
        n *= dim[axis];
    void *data = bench_zeros(set, n * vtc_dtype_size(dtype));

    if (dtype == VTC_F16)
        fill_16(data, n, 0x3800, 0x03ff, set->bytes);
    else if (dtype == VTC_BF16)
        fill_16(data, n, 0x3f00, 0x007f, set->bytes);
    else
        fill_f32(data, n, set->bytes);
    return vtc_tensor_nd(data, dtype, rank, dim);
}

vtc_tensor bench_random_2d(bench_set *set, vtc_dtype dtype, size_t rows, size_t cols)
{
    const size_t dim[] = { rows, cols };

    return bench_random(set, dtype, 2, dim);
}

vtc_tensor bench_random_3d(bench_set *set, vtc_dtype dtype, size_t d0, size_t d1, size_t d2)
{
    const size_t dim[] = { d0, d1, d2 };

    return bench_random(set, dtype, 3, dim);
}

vtc_norm bench_random_norm(bench_set *set, size_t n)
{
    vtc_norm norm;

    norm.weight = bench_random(set, VTC_F32, 1, &n);
    norm.bias = bench_random(set, VTC_F32, 1, &n);
    return norm;
}

int32_t *bench_random_rows(bench_set *set, size_t n, size_t n_keep)
{
    int32_t *rows = bench_zeros(set, n_keep * sizeof(*rows));
    uint64_t seed = n;
    size_t kept = 0;

    /* row i is taken with the chance that gives every choice of n_keep rows the same weight */
    for (size_t i = 0; i < n; i++)
        if (random_bits(&seed) % (n - i) < n_keep - kept)
            rows[kept++] = (int32_t)i;
    return rows;
}

void bench_parallel(const bench_set *set, size_t n_tasks,
                    void (*task)(void *job, size_t index, size_t worker), void *job)
{
    if (set->exec.parallel_for != NULL) {
        set->exec.parallel_for(set->exec.pool, n_tasks, task, job);
        return;
    }
    for (size_t i = 0; i < n_tasks; i++)
        task(job, i, 0);
}
