/* merge_order.h: grids of patch mergers. */
#ifndef VTCI_MERGE_ORDER_H
#define VTCI_MERGE_ORDER_H

#include "../base/call.h"

/* VTC_ERR_RANGE for merge 0, VTC_ERR_SHAPE unless h and w are divisible by it, VTC_ERR_OVERFLOW. */
VTC_NODISCARD vtc_status vtci_check_merge_grid(const vtci_call *call, size_t t, size_t h, size_t w,
                                               size_t merge);

#endif
