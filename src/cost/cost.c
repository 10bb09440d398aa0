/*
 * Operations and cache of a decoder's prefill, in closed form. Doubles throughout: the counts are
 * far beyond 32 bits, and exact below 2^53.
 */
#include "../../include/vtc/cost.h"
#include "../base/call.h"

#include <string.h>

/* ---- models ---------------------------------------------------------------------------------- */

static const vtc_decoder decoders[] = {
    { "llava-1.5-7b", 32, 4096, 11008, 4096 },
    { "llava-1.5-13b", 40, 5120, 13824, 5120 },
};

const vtc_decoder *vtc_decoders(size_t *n)
{
    if (n != NULL)
        *n = sizeof(decoders) / sizeof(*decoders);
    return decoders;
}

const vtc_decoder *vtc_decoder_find(const char *name)
{
    for (size_t i = 0; name != NULL && i < sizeof(decoders) / sizeof(*decoders); i++)
        if (strcmp(decoders[i].name, name) == 0)
            return &decoders[i];
    return NULL;
}

/* ---- costs ----------------------------------------------------------------------------------- */

static vtc_status check_decoder(const vtci_call *call, const vtc_decoder *decoder)
{
    VTCI_REQUIRE_PTR(call, decoder);
    VTCI_REQUIRE(call,
                 decoder->n_layers != 0 && decoder->n_hidden != 0 && decoder->n_mlp != 0 &&
                     decoder->n_kv != 0,
                 VTC_ERR_RANGE, "the decoder has %zu layers of width %zu, %zu, %zu; none may be 0",
                 decoder->n_layers, decoder->n_hidden, decoder->n_mlp, decoder->n_kv);
    return VTC_OK;
}

vtc_status vtc_cost_prefill(const vtc_decoder *decoder, size_t n_visual, size_t n_text,
                            vtc_cost_convention convention, double *operations,
                            const vtc_exec *exec)
{
    const double n = (double)n_visual + (double)n_text;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_prefill", exec));
    VTCI_TRY(check_decoder(&call, decoder));
    VTCI_REQUIRE_PTR(&call, operations);
    VTCI_REQUIRE(&call, convention == VTC_COST_FLOPS_GATED || convention == VTC_COST_MACS_UNGATED,
                 VTC_ERR_RANGE, "convention is %d", (int)convention);

    const bool gated = convention == VTC_COST_FLOPS_GATED;
    const double d = (double)decoder->n_hidden;
    const double projections = 2.0 * n * d * (d + (double)decoder->n_kv); /* q, o and k, v */
    const double attention = 2.0 * n * n * d;                             /* logits, values */
    const double mlp = (gated ? 3.0 : 2.0) * n * d * (double)decoder->n_mlp;
    const double macs = (double)decoder->n_layers * (projections + attention + mlp);

    *operations = gated ? 2.0 * macs : macs;
    return VTC_OK;
}

vtc_status vtc_cost_kv_bytes(const vtc_decoder *decoder, size_t n_tokens, size_t bytes_per_element,
                             double *bytes, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_kv_bytes", exec));
    VTCI_TRY(check_decoder(&call, decoder));
    VTCI_REQUIRE_PTR(&call, bytes);
    *bytes = 2.0 * (double)decoder->n_layers * (double)decoder->n_kv * (double)n_tokens *
             (double)bytes_per_element;
    return VTC_OK;
}
