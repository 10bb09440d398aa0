/* The machine's own limits, so that a reader sees them beside the cases. */
#include "bench.h"

static void set_up_product(bench_set *set, const void *argument)
{
    const size_t side = *(const size_t *)argument;

    bench_limit_product(set, 1, side, side, side, false);
}

static void set_up_copy(bench_set *set, const void *argument)
{
    bench_limit_traffic(set, 2 * *(const size_t *)argument);
}

static const size_t side = 2048, l2_bytes = 256 << 10, memory_bytes = 128 << 20;

const bench_case bench_machine_cases[] = {
    { "machine/sgemm_2048x2048x2048", set_up_product, NULL, &side, false, 0.0 },
    { "machine/memcpy_128MiB", set_up_copy, NULL, &memory_bytes, true, 0.0 },
    { "machine/memcpy_256KiB", set_up_copy, NULL, &l2_bytes, false, 0.0 },
    { NULL, NULL, NULL, NULL, false, 0.0 },
};
