/* kernel_tables.h: what the tests of row kernels share: the tables of this CPU, lengths and rows.
 */
#ifndef VTC_TESTS_KERNEL_TABLES_H
#define VTC_TESTS_KERNEL_TABLES_H

#include "../src/kernels/cpu.h"
#include "../src/kernels/kernels.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

/* Errors are counted in units of 2^-24, half an ULP of 1. */
#define UNIT 0x1p-24

/* All short lengths, then some longer ones. */
enum { SHORT_LENGTHS = 71, MAX_LENGTH = 4099 };

static const size_t long_length[] = { 96, 127, 128, 129, 288, 577, 1152, MAX_LENGTH };

enum { N_LENGTHS = SHORT_LENGTHS + sizeof(long_length) / sizeof(*long_length) };

static inline size_t length_at(size_t i)
{
    return i < SHORT_LENGTHS ? i : long_length[i - SHORT_LENGTHS];
}

/* A fact that holds on each table this CPU has; on_every_table() is its row among the tests. */
typedef struct table_fact {
    void (*check)(const vtci_kernels *k);
} table_fact;

#define on_every_table(fact) test_of_tables(#fact, &(table_fact){ fact })

static inline void check_tables(void **state)
{
    static const unsigned ladder[] = { 0, VTCI_CPU_AVX2, VTCI_CPU_AVX2 | VTCI_CPU_AVX512,
                                       VTCI_CPU_NEON };
    const table_fact *fact = *state;
    const unsigned cpu = vtci_cpu_features();

    for (size_t i = 0; i < sizeof(ladder) / sizeof(*ladder); i++)
        if ((ladder[i] & cpu) == ladder[i])
            fact->check(vtci_kernels_for(ladder[i]));
}

static inline struct CMUnitTest test_of_tables(const char *name, table_fact *fact)
{
    return (struct CMUnitTest){ name, check_tables, NULL, NULL, fact };
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* The same bits, or both NaN. */
static inline bool same_value(float a, float b)
{
    return isnan(a) || isnan(b) ? isnan(a) && isnan(b) : bits_of(a) == bits_of(b);
}

static inline void assert_same_row(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same_value(got[i], want[i]))
            fail_msg("%s, length %zu: [%zu] is %a, not %a", what, n, i, (double)got[i],
                     (double)want[i]);
}

/* Random floats whose magnitude is about `size`. */
static inline void fill_scaled(uint64_t *state, float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * rng_f32(state);
}

#endif
