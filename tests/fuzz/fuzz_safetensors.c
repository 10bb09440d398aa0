/* libFuzzer target: any bytes through the .safetensors reader, then through every view it gives. */
#include "../../src/io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void read_all(const vtc_tensor *view)
{
    for (size_t b = 0; b < vtci_span_bytes(view); b++)
        sink += ((const uint8_t *)view->data)[b];
}

static void read_tensors(const vtc_safetensors *file)
{
    for (size_t i = 0; i < vtc_safetensors_count(file); i++) {
        vtc_tensor view;

        if (vtc_safetensors_tensor(file, vtc_safetensors_name(file, i), &view, NULL) == VTC_OK)
            read_all(&view);
    }
    for (size_t i = 0; i < vtc_safetensors_metadata_count(file); i++)
        sink += (unsigned)*vtc_safetensors_metadata(file, vtc_safetensors_metadata_key(file, i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vtc_safetensors *file = NULL;
    vtci_call call;

    if (vtci_begin(&call, "fuzz", NULL) == VTC_OK &&
        vtci_safetensors_read(&call, data, size, &file) == VTC_OK)
        read_tensors(file);
    vtc_safetensors_close(file);
    return 0;
}
