/* apart.h: the output arrays of a call against each other and against what it reads. */
#ifndef VTCI_APART_H
#define VTCI_APART_H

#include "call.h"

/* Plain memory; NULL or 0 bytes meet nothing. */
typedef struct vtci_memory {
    const char *name;
    const void *data;
    size_t bytes;
} vtci_memory;

/* VTC_ERR_OVERLAP when an output shares a byte with another output or with an input. */
VTC_NODISCARD vtc_status vtci_check_all_apart(const vtci_call *call, const vtci_memory *out,
                                              size_t n_out, const vtci_memory *in, size_t n_in);

#endif
