/* safetensors.h: the reader over plain memory, for vtc_safetensors_open() and the fuzzer. */
#ifndef VTCI_SAFETENSORS_H
#define VTCI_SAFETENSORS_H

#include "../../include/vtc/io.h"
#include "file.h"

enum { VTCI_SAFETENSORS_HEADER_MAX = 100000000 }; /* as the format's reference implementation */

#define VTCI_SAFETENSORS_METADATA "__metadata__"

/* Checks and indexes a file's bytes, which must outlive *file. */
VTC_NODISCARD vtc_status vtci_safetensors_read(const vtci_call *call, const unsigned char *data,
                                               size_t size, vtc_safetensors **file);

#endif
