/* Output arrays must not share memory with anything else that a call takes. */
#include "apart.h"

#include "tensor.h"

static vtc_status check_pair(const vtci_call *call, const vtci_memory *a, const vtci_memory *b)
{
    VTCI_REQUIRE(call,
                 a->data == NULL || b->data == NULL ||
                     !vtci_ranges_meet(a->data, a->bytes, b->data, b->bytes),
                 VTC_ERR_OVERLAP, "%s overlaps %s", a->name, b->name);
    return VTC_OK;
}

vtc_status vtci_check_all_apart(const vtci_call *call, const vtci_memory *out, size_t n_out,
                                const vtci_memory *in, size_t n_in)
{
    for (size_t o = 0; o < n_out; o++) {
        for (size_t i = 0; i < n_in; i++)
            VTCI_TRY(check_pair(call, &out[o], &in[i]));
        for (size_t other = 0; other < o; other++)
            VTCI_TRY(check_pair(call, &out[o], &out[other]));
    }
    return VTC_OK;
}
