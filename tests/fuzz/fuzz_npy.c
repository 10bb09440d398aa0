/* libFuzzer target: any bytes through the .npy reader, then through every view it gives. */
#include "../../src/io/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void read_all(const vtc_tensor *view)
{
    for (size_t b = 0; b < vtci_span_bytes(view); b++)
        sink += ((const uint8_t *)view->data)[b];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vtc_npy *file = NULL;
    vtci_call call;

    if (vtci_begin(&call, "fuzz", NULL) == VTC_OK &&
        vtci_npy_read(&call, data, size, &file) == VTC_OK)
        read_all(vtc_npy_tensor(file));
    vtc_npy_close(file);
    return 0;
}
