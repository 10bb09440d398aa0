/* cpu.h: what this CPU can do, as far as the kernels ask. */
#ifndef VTCI_CPU_H
#define VTCI_CPU_H

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define VTCI_X86 1
#else
#define VTCI_X86 0
#endif

/* Advanced SIMD is part of AArch64; vectors are described for little endian only. */
#if defined(__aarch64__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define VTCI_NEON 1
#else
#define VTCI_NEON 0
#endif

enum {
    VTCI_CPU_AVX2 = 1u << 0,   /* AVX2, FMA and F16C       */
    VTCI_CPU_AVX512 = 1u << 1, /* AVX-512 F, BW, DQ and VL */
    VTCI_CPU_NEON = 1u << 2    /* Advanced SIMD of AArch64 */
};

/* Features of the CPU and the operating system. A test build leaves out those that the environment
 * variable VTC_DISABLE_CPU lists ("avx512,avx2" or "neon"). */
unsigned vtci_cpu_features(void);

#endif
