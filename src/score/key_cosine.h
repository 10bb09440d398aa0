/* key_cosine.h: what FiCoCo takes for the attention of [CLS] where there is none. */
#ifndef VTCI_KEY_COSINE_H
#define VTCI_KEY_COSINE_H

#include "../linalg/attention.h"

typedef struct vtci_key_cosine {
    const vtci_call *call;
    vtci_heads k;
    float *mean; /* [N, d] keys, averaged over heads */
    float *sum;  /* [d]                              */
    float *y;    /* [N] set by the caller            */
} vtci_key_cosine;

void vtci_key_cosine_lay_out(vtci_arena *arena, const vtci_call *call, const vtci_heads *k,
                             vtci_key_cosine *c);

/* The first row without a direction, or N. Then y is NaN there. */
size_t vtci_key_cosine_run(vtci_key_cosine *c);

#endif
