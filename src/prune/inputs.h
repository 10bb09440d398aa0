/* inputs.h: the caller's vtc_plan_inputs, checked, and one image of them. */
#ifndef VTCI_INPUTS_H
#define VTCI_INPUTS_H

#include "../../include/vtc/planner.h"
#include "../base/tensor.h"

/*
 * Reads the inputs up to the size the caller knows and checks what `planner` needs or uses: that
 * nothing needed is missing, and that views, begin and grid fit each other. n_rows and n_images of
 * the result are set. Errors as vtc_planner_count() lists them.
 */
VTC_NODISCARD vtc_status vtci_inputs_read(const vtci_call *call, const vtc_planner *planner,
                                          const vtc_plan_inputs *from, vtc_plan_inputs *inputs);

/* Image b of checked inputs. The struct holds the views that `in` points to: do not copy it. */
typedef struct vtci_image {
    vtc_plan_inputs in;
    size_t first_row;
    vtc_tensor features, keys, cls_attention, queries;
} vtci_image;

void vtci_image_open(vtci_image *image, const vtc_plan_inputs *inputs, size_t b);

#endif
