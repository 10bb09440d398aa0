/* visionzip.h: VisionZip's checks for its row of the planner table. */
#ifndef VTCI_VISIONZIP_H
#define VTCI_VISIONZIP_H

#include "../../include/vtc/guided.h"

/* The error in the data for which vtc_visionzip() would refuse them. */
VTC_NODISCARD vtc_status vtci_visionzip_check(const vtc_visionzip_params *params,
                                              const vtc_tensor *cls_attention,
                                              const vtc_tensor *metric, const vtc_exec *exec);

#endif
