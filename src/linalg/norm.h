/* norm.h: LayerNorm or RMSNorm of rows of any float dtype, in parallel. */
#ifndef VTCI_NORM_H
#define VTCI_NORM_H

#include "../../include/vtc/weights.h"
#include "../base/tensor.h"

/* y[r] = norm(x[r]). y may be x when both are F32. */
typedef struct vtci_norm {
    vtci_rows x, y;
    vtc_norm_kind kind;
    const vtc_norm *norm; /* weight, bias or not (RMS: none is read); NULL (LAYER only): neither */
    float eps;

    /* set by vtci_norm_lay_out() and vtci_norm_run() */
    float *wide;  /* [2, C] 16-bit weight and bias as floats */
    char *slices; /* per worker a widened row of each        */
    size_t slice_stride;
    const float *weight, *bias;
} vtci_norm;

void vtci_norm_lay_out(vtci_arena *arena, const vtci_call *call, vtci_norm *norm);
void vtci_norm_run(const vtci_call *call, vtci_norm *norm);

#endif
