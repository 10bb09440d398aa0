/* local_penalty.h: the largest score of each window of a grid is raised. */
#ifndef VTCI_LOCAL_PENALTY_H
#define VTCI_LOCAL_PENALTY_H

#include "../base/tensor.h"

typedef struct vtci_windows {
    size_t grid_h, grid_w, window;
} vtci_windows;

/* VTC_ERR_RANGE for a window of 0 or a coefficient that is not positive, OVERFLOW for a grid beyond
 * int32. */
VTC_NODISCARD vtc_status vtci_windows_check(const vtci_call *call, const vtci_windows *w,
                                            float coef);

/* Windows of a checked grid: places of `best` below. */
size_t vtci_windows_count(const vtci_windows *w);

/* VTC_ERR_RANGE unless pos[0 .. n-1] (NULL: 0 .. n-1) are cells of the grid. */
VTC_NODISCARD vtc_status vtci_windows_check_cells(const vtci_call *call, const vtci_windows *w,
                                                  const int32_t *pos, size_t n);

/* score[i] > 0 ? coef * score[i] : score[i] / coef for the largest of each whole window that has
 * a row. best: one place for each window, in scratch. */
void vtci_local_penalty(const vtci_windows *w, const int32_t *pos, size_t n, float coef,
                        float *score, int32_t *best);

/* What a penalty makes of one score. */
static inline float vtci_penalised(float score, float coef)
{
    return score > 0.0f ? score * coef : score / coef;
}

#endif
