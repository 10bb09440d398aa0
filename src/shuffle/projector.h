/* projector.h: what the projectors behind a pixel shuffle share. */
#ifndef VTCI_PROJECTOR_H
#define VTCI_PROJECTOR_H

#include "../../include/vtc/shuffle.h"
#include "../project/chain.h"

/* Copies the parameters over a model's defaults and checks them. */
VTC_NODISCARD vtc_status vtci_projector_params(const vtci_call *call,
                                               const vtc_shuffle_projector_params *from,
                                               vtc_shuffle_projector_params *params);

/* Checks x and y, and makes the shuffled tokens of x the rows of a chain that is all 0 yet. */
VTC_NODISCARD vtc_status vtci_projector_open(const vtci_call *call,
                                             const vtc_shuffle_projector_params *params,
                                             const vtc_tensor *x, const vtc_tensor *y,
                                             vtci_chain *chain);

#endif
