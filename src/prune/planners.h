/* planners.h: the rows of the table, each defined in its method's file and listed in planners.c. */
#ifndef VTCI_PLANNERS_H
#define VTCI_PLANNERS_H

#include "../../include/vtc/planner.h"
#include "../../include/vtc/prune.h"
#include "../../include/vtc/sample.h"

extern const vtc_planner vtci_planner_tome;
extern const vtc_planner vtci_planner_random;
extern const vtc_planner vtci_planner_strided;
extern const vtc_planner vtci_planner_mean_pool;
extern const vtc_planner vtci_planner_image_resize;
extern const vtc_planner vtci_planner_mustdrop_encode;
extern const vtc_planner vtci_planner_mustdrop_prefill;
extern const vtc_planner vtci_planner_ficoco_v;
extern const vtc_planner vtci_planner_ficoco_l;
extern const vtc_planner vtci_planner_fastv;
extern const vtc_planner vtci_planner_focusllava_text;
extern const vtc_planner vtci_planner_focusllava_vision;
extern const vtc_planner vtci_planner_sparsevlm;
extern const vtc_planner vtci_planner_visionzip;

#endif
