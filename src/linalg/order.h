/* order.h: rankings with the library's tie rule (equal scores: lower index first). No NaN. */
#ifndef VTCI_ORDER_H
#define VTCI_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* order[0..k-1] = indices of the k largest of score[n], falling. order has room for n entries, the
 * rest is left in no meaningful order. k <= n. O(n + k log n), no scratch. */
void vtci_top_k(int32_t *order, const float *score, size_t n, size_t k);

/* chosen[0..k-1] = the same indices, ascending. O(n), no scratch. */
void vtci_select_top(int32_t *chosen, const float *score, size_t n, size_t k);

/* All n indices by falling (or rising) score. */
void vtci_argsort_falling(int32_t *order, const float *score, size_t n);
void vtci_argsort_rising(int32_t *order, const float *score, size_t n);

/* Ascending, in place. */
void vtci_sort_i32(int32_t *x, size_t n);

/* Index of the first NaN, or n. */
size_t vtci_find_nan(const float *x, size_t n);

#endif
