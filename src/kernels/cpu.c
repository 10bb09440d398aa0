/* CPU detection. __builtin_cpu_supports also asks the operating system (XGETBV). */
#include "cpu.h"

#if VTCI_X86
#include <cpuid.h>

/* F16C by hand: Clang 14's __builtin_cpu_supports does not know its name. Its registers are those
 * of AVX, so the operating system need not be asked again. */
static int has_f16c(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

#ifdef VTC_TEST_HOOKS
#include <stdlib.h>
#include <string.h>

static unsigned disabled_features(void)
{
    const char *list = getenv("VTC_DISABLE_CPU");
    unsigned mask = 0;

    if (list != NULL && strstr(list, "avx512") != NULL)
        mask |= VTCI_CPU_AVX512;
    if (list != NULL && strstr(list, "avx2") != NULL)
        mask |= VTCI_CPU_AVX2;
    if (list != NULL && strstr(list, "neon") != NULL)
        mask |= VTCI_CPU_NEON;
    return mask;
}
#else
static unsigned disabled_features(void)
{
    return 0;
}
#endif

unsigned vtci_cpu_features(void)
{
    unsigned cpu = 0;

#if VTCI_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        cpu |= VTCI_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        cpu |= VTCI_CPU_AVX512;
#endif
#if VTCI_NEON
    cpu |= VTCI_CPU_NEON;
#endif
    return cpu & ~disabled_features();
}
