/* npy.h: the .npy reader over plain memory, for vtc_npy_open() and the fuzzer. */
#ifndef VTCI_NPY_H
#define VTCI_NPY_H

#include "../../include/vtc/io.h"
#include "file.h"

/* Checks a file's bytes, which must outlive *file. */
VTC_NODISCARD vtc_status vtci_npy_read(const vtci_call *call, const unsigned char *data,
                                       size_t size, vtc_npy **file);

#endif
