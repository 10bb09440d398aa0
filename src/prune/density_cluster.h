/* density_cluster.h: clustering of a few rows by density peaks, as SparseVLM recycles tokens. */
#ifndef VTCI_DENSITY_CLUSTER_H
#define VTCI_DENSITY_CLUSTER_H

#include "../base/tensor.h"

typedef struct vtci_density {
    const vtci_call *call;
    vtci_rows x;        /* [N, C]                                                          */
    size_t n, k;        /* rows to cluster, clusters; 1 <= k <= n unless n is 0            */
    const int32_t *row; /* [n] which rows of x                                             */
    const float *noise; /* [n] added to densities, or NULL                                 */

    int32_t *centre;  /* [k] out: places in `row`, by falling density times distance       */
    int32_t *cluster; /* [n] out                                                           */

    float *wide;                        /* [n, C] 16-bit rows as floats                   */
    float *distance;                    /* [n, n]                                         */
    float *nearest, *density, *product; /* [n] each; nearest [k]                          */
    int32_t *order;                     /* [n]                                            */
} vtci_density;

/* Needs call, x, n and k; row and noise may come later. */
void vtci_density_lay_out(vtci_arena *arena, vtci_density *d);

/* VTC_ERR_DATA when a distance is not finite. Parallel over blocks of pairs. */
VTC_NODISCARD vtc_status vtci_density_run(vtci_density *d);

#endif
