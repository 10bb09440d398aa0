/* Walks over the tensors of a weights struct. */
#include "weight_tables.h"

#include "../base/prepared.h"
#include "../base/tensor.h"

static const vtc_tensor *tensor_of(const vtc_weight_table *table, const void *weights, size_t i)
{
    return (const void *)((const char *)weights + table->weights[i].offset);
}

double vtci_count_weights(const vtc_weight_table *table, const void *weights)
{
    double count = 0.0;

    for (size_t i = 0; i < table->n; i++) {
        const vtc_tensor *t = tensor_of(table, weights, i);

        if (!vtc_tensor_is_absent(t))
            count += (double)vtci_count(t);
    }
    return count;
}

uint64_t vtci_mix_weights(uint64_t fingerprint, const vtc_weight_table *table, const void *weights)
{
    for (size_t i = 0; i < table->n; i++)
        fingerprint = vtci_mix_tensor(fingerprint, tensor_of(table, weights, i));
    return fingerprint;
}

vtc_status vtci_check_weights_apart(const vtci_call *call, const char *prefix,
                                    const vtc_weight_table *table, const void *weights,
                                    const char *name, const void *memory, size_t bytes)
{
    for (size_t i = 0; i < table->n; i++) {
        const vtc_tensor *t = tensor_of(table, weights, i);

        VTCI_REQUIRE(call,
                     vtc_tensor_is_absent(t) ||
                         !vtci_ranges_meet(memory, bytes, t->data, vtci_span_bytes(t)),
                     VTC_ERR_OVERLAP, "%s overlaps %s%s", name, prefix, table->weights[i].name);
    }
    return VTC_OK;
}
