/* kernel_tables.h: what the tests of row kernels share: the tables of this CPU, and lengths. */
#ifndef VTC_TESTS_KERNEL_TABLES_H
#define VTC_TESTS_KERNEL_TABLES_H

#include "../src/kernels/cpu.h"
#include "../src/kernels/kernels.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

/* All short lengths, then some longer ones. */
enum { SHORT_LENGTHS = 71, MAX_LENGTH = 4099 };

static const size_t long_length[] = { 96, 127, 128, 129, 288, 577, 1152, MAX_LENGTH };

enum { N_LENGTHS = SHORT_LENGTHS + sizeof(long_length) / sizeof(*long_length) };

static inline size_t length_at(size_t i)
{
    return i < SHORT_LENGTHS ? i : long_length[i - SHORT_LENGTHS];
}

/* Runs a check on each table this CPU has. */
static inline void on_every_table(void (*check)(const vtci_kernels *k))
{
    static const unsigned ladder[] = { 0, VTCI_CPU_AVX2, VTCI_CPU_AVX2 | VTCI_CPU_AVX512,
                                       VTCI_CPU_NEON };
    const unsigned cpu = vtci_cpu_features();

    for (size_t i = 0; i < sizeof(ladder) / sizeof(*ladder); i++)
        if ((ladder[i] & cpu) == ladder[i])
            check(vtci_kernels_for(ladder[i]));
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

#endif
