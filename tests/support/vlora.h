/* vlora.h: random models of VLoRA. */
#ifndef VTC_TESTS_VLORA_H
#define VTC_TESTS_VLORA_H

#include "weights.h"

#include <vtc/vlora.h>

enum { VLORA_MAX_KINDS = 5, VLORA_MAX_DEPTH = 2 };

typedef struct vlora_sizes {
    const char *types;
    bool separate;
    size_t n_layers, llm_dim, rank, n_heads, d, depth, n_tokens, visual_dim, hidden;
} vlora_sizes;

typedef struct vlora_model {
    vlora_sizes sizes;
    size_t n_kinds;
    vtc_vlora_params params;
    vtc_vlora_weights weights;
    vtc_vlora_generator generators[VLORA_MAX_KINDS];
    vtc_vlora_decoder decoders[VLORA_MAX_KINDS][VLORA_MAX_DEPTH];
    weight_set set;
    weight_set sets[VLORA_MAX_KINDS]; /* of each generator */
    vtc_prepared prepared;
} vlora_model;

/* Fills memory of the caller, into which the weights point. */
void make_vlora_model(vlora_model *m, uint64_t seed, vlora_sizes sizes, bool mixed);
void prepare_vlora_model(vlora_model *m);
void free_vlora_model(vlora_model *m);
const vtc_prepared *vlora_prepared(const vlora_model *m); /* or NULL */

#endif
