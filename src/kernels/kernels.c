/* The table of kernels, chosen once by CPU features. */
#include "kernels.h"

#include "cpu.h"

#include <stdatomic.h>

const vtci_kernels *vtci_kernels_for(unsigned cpu)
{
#if VTCI_X86
    if ((cpu & VTCI_CPU_AVX2) != 0 && (cpu & VTCI_CPU_AVX512) != 0)
        return &vtci_kernels_avx512;
    if ((cpu & VTCI_CPU_AVX2) != 0)
        return &vtci_kernels_avx2;
#endif
#if VTCI_NEON
    if ((cpu & VTCI_CPU_NEON) != 0)
        return &vtci_kernels_neon;
#endif
    (void)cpu; /* elsewhere there is nothing to choose from */
    return &vtci_kernels_c;
}

const vtci_kernels *vtci_kernels_get(void)
{
    /* every thread would compute the same pointer, so a race only costs a second detection */
    static _Atomic(const vtci_kernels *) chosen;
    const vtci_kernels *table = atomic_load_explicit(&chosen, memory_order_acquire);

    if (table == NULL) {
        table = vtci_kernels_for(vtci_cpu_features());
        atomic_store_explicit(&chosen, table, memory_order_release);
    }
    return table;
}
