/*
 * vtc/cost.h: what a decoder's prefill and cache cost, before anything runs.
 *
 * Published tables disagree by 2x and more because they do not say what they count. Here every
 * figure names its convention.
 */
#ifndef VTC_COST_H
#define VTC_COST_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vtc_decoder {
    const char *name; /* "llava-1.5-7b"                                      */
    size_t n_layers;
    size_t n_hidden; /* D                                                   */
    size_t n_mlp;    /* D', inner width of the MLP                          */
    size_t n_kv;     /* channels of K (and of V) per token: kv heads * d    */
} vtc_decoder;

/* Known models; *n is their number. The table is constant. */
VTC_API const vtc_decoder *vtc_decoders(size_t *n);

/* The model of that name, or NULL. */
VTC_API const vtc_decoder *vtc_decoder_find(const char *name);

/* What counts as an operation of one layer on n tokens. G is the width of K and V, n_kv. */
typedef enum vtc_cost_convention {
    /* FLOPs, 2 per multiply-add, gated MLP, attention not halved for causality: what the LLM-Viewer
     * tool and most tables count.   4 n D^2 + 4 n D G + 6 n D D' + 4 n^2 D
     * With G = D that is their 8 n D^2 + 6 n D D' + 4 n^2 D. */
    VTC_COST_FLOPS_GATED = 0,
    /* Multiply-adds, MLP of two matrices: the formula that FastV, FiCoCo and others print.
     * 2 n D^2 + 2 n D G + 2 n D D' + 2 n^2 D;   with G = D   4 n D^2 + 2 n D D' + 2 n^2 D */
    VTC_COST_MACS_UNGATED = 1
} vtc_cost_convention;

/*
 * Operations of one prefill of n_visual + n_text tokens, all layers. Head, norms, softmax, encoder
 * and projector are not counted. The heads together are taken to be D wide.
 * Checked against: the TFLOPs that FiCoCo prints for its own and the baselines' token counts.
 * Source: Han et al., "Filter, Correlate, Compress" (FiCoCo), AAAI 2026; Yuan et al., "LLM
 * Inference Unveiled: Survey and Roofline Model Insights" (LLM-Viewer), 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_cost_prefill(const vtc_decoder *decoder, size_t n_visual,
                                                  size_t n_text, vtc_cost_convention convention,
                                                  double *operations, const vtc_exec *exec);

/* Bytes of the K/V cache of n_tokens: 2 * layers * n_kv * n_tokens * bytes_per_element. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_kv_bytes(const vtc_decoder *decoder, size_t n_tokens,
                                                   size_t bytes_per_element, double *bytes,
                                                   const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
