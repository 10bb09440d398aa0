/* cpu.h: what this CPU can do, as far as the kernels ask. */
#ifndef VTCI_CPU_H
#define VTCI_CPU_H

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define VTCI_X86 1
#else
#define VTCI_X86 0
#endif

enum {
    VTCI_CPU_AVX2 = 1u << 0,  /* AVX2, FMA and F16C       */
    VTCI_CPU_AVX512 = 1u << 1 /* AVX-512 F, BW, DQ and VL */
};

/* Features of the CPU and the operating system. A test build leaves out those that the environment
 * variable VTC_DISABLE_CPU lists ("avx512,avx2"). */
unsigned vtci_cpu_features(void);

#endif
