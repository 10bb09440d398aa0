/* ficoco_memory.h: the score memory of the released FiCoCo-V. */
#ifndef VTCI_FICOCO_MEMORY_H
#define VTCI_FICOCO_MEMORY_H

#include "ficoco.h"

/* The memory that a call works on: a copy of the caller's, or a fresh one. */
typedef struct vtci_ficoco_memory {
    const float *from; /* NULL: fresh */
    size_t n_cells, side;
    float *cell;  /* [n_cells]            */
    int32_t *hit; /* one for each window  */
} vtci_ficoco_memory;

/* SHAPE unless the cells are a square, OVERFLOW, DATA for NaN. */
VTC_NODISCARD vtc_status vtci_ficoco_memory_open(const vtci_call *call, const float *memory,
                                                 size_t n_cells, vtci_ficoco_memory *m);
void vtci_ficoco_memory_lay_out(vtci_arena *arena, vtci_ficoco_memory *m);

/* The local penalty as released, on score[n]. */
void vtci_ficoco_memory_penalty(vtci_ficoco_memory *m, float coef, float *score, size_t n);

/* Order, places, columns and outputs as released: rows by falling score, [CLS] last, all rows as
 * targets, each standing for the output of its own number. */
void vtci_ficoco_score_order(vtci_ficoco *f);

/* VTC_ERR_RANGE when a target has no output. */
VTC_NODISCARD vtc_status vtci_ficoco_check_slots(const vtci_ficoco *f);

#endif
