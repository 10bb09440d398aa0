/*
 * vtc/cost.h: what a multimodal model costs before anything runs: encoder, projector, prefill,
 * decode and K/V cache, for as many visual tokens as each decoder layer sees.
 *
 * Published tables disagree by 2x and more because they do not say what they count. Here every
 * figure names its convention. All results are doubles, exact below 2^53. Norms, softmax, rotary
 * embeddings, activations and the output head are not counted.
 *
 *     const vtc_model *model = vtc_model_find("llava-1.5-7b");
 *     size_t seen[32], after = 2, left = 128;                     FastV: 576 tokens up to layer 2
 *     vtc_schedule_steps(model->decoder.n_layers, 576, &after, &left, 1, seen, NULL);
 *     vtc_token_schedule schedule = VTC_TOKEN_SCHEDULE_INIT;
 *     schedule.n_visual = seen;
 *     schedule.n_text = 60;
 *     vtc_cost_prefill_schedule(&model->decoder, &schedule, VTC_COST_FLOPS_GATED, &flops, NULL);
 */
#ifndef VTC_COST_H
#define VTC_COST_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- models ---------------------------------------------------------------------------------- */

/* A vision transformer of n_layers: patches of a tile (or frame) and special rows attend to each
 * other. MLPs have two matrices. */
typedef struct vtc_encoder {
    size_t n_layers;       /* all that run, also behind the one whose output is used            */
    size_t n_hidden;       /* C                                                                 */
    size_t n_mlp;          /* M, inner width of the MLP                                         */
    size_t n_patch;        /* values of a patch: 3 * 14 * 14                                    */
    size_t n_special;      /* rows beside the patches of a tile: 1 for [CLS]                    */
    size_t n_tile_patches; /* patches of a tile; 0: all patches are one tile                    */
    size_t n_frames;       /* frames whose equal patches attend to each other too; 0: no video  */
} vtc_encoder;

/* n_joined patches become one visual token, by two layers of these widths. */
typedef struct vtc_projector {
    size_t n_joined;
    size_t n_hidden;
    size_t n_out;
} vtc_projector;

typedef struct vtc_decoder {
    const char *name; /* "llava-1.5-7b"                                      */
    size_t n_layers;
    size_t n_hidden; /* D                                                   */
    size_t n_mlp;    /* D', inner width of the MLP                          */
    size_t n_kv;     /* channels of K (and of V) per token: kv heads * d    */
} vtc_decoder;

typedef struct vtc_model {
    const char *name;
    vtc_encoder encoder;
    vtc_projector projector;
    vtc_decoder decoder;
    size_t n_visual; /* visual tokens of its usual input, see `input`  */
    const char *input;
} vtc_model;

/* Known models; *n is their number. The table is constant. Extents are those of the released
 * configurations. */
VTC_API const vtc_model *vtc_models(size_t *n);

/* The model of that name, or NULL; and its decoder alone. */
VTC_API const vtc_model *vtc_model_find(const char *name);
VTC_API const vtc_decoder *vtc_decoder_find(const char *name);

/* ---- conventions ----------------------------------------------------------------------------- */

/* What counts as an operation of one decoder layer on n tokens. G is the width of K and V, n_kv. */
typedef enum vtc_cost_convention {
    /* FLOPs, 2 per multiply-add, gated MLP (three matrices), attention not halved for causality:
     * what the LLM-Viewer tool and most tables count.   4 n D^2 + 4 n D G + 6 n D D' + 4 n^2 D
     * With G = D that is their 8 n D^2 + 6 n D D' + 4 n^2 D. */
    VTC_COST_FLOPS_GATED = 0,
    /* Multiply-adds, MLP of two matrices: the formula that FastV, FiCoCo and others print.
     * 2 n D^2 + 2 n D G + 2 n D D' + 2 n^2 D;   with G = D   4 n D^2 + 2 n D D' + 2 n^2 D */
    VTC_COST_MACS_UNGATED = 1,
    /* Multiply-adds, gated MLP: half of FLOPS_GATED; SparseVLM and MustDrop count so.
     * With G = D   4 n D^2 + 3 n D D' + 2 n^2 D */
    VTC_COST_MACS_GATED = 2,
    /* FLOPs, MLP of two matrices: twice MACS_UNGATED. */
    VTC_COST_FLOPS_UNGATED = 3
} vtc_cost_convention;

/* ---- tokens per layer ------------------------------------------------------------------------ */

/* Visual tokens that each decoder layer sees. A layer computes on n_visual[l] + n_text tokens. */
typedef struct vtc_token_schedule {
    size_t struct_size;
    const size_t *n_visual; /* [n_layers]                                                        */
    const size_t *n_cached; /* [n_layers] visual rows of each cache while decoding; NULL: those  */
                            /* that the layer saw                                                */
    size_t n_text;
} vtc_token_schedule;

/* clang-format off */
#define VTC_TOKEN_SCHEDULE_INIT { sizeof(vtc_token_schedule), NULL, NULL, 0 }
/* clang-format on */

/*
 * vtc_schedule_steps() fills in what layers see when tokens are dropped behind some of them.
 *
 *   after     [n_steps]   in    layers, counted from 0, ascending strictly, behind which tokens go
 *   n_left    [n_steps]   in    visual tokens left then, never more than before
 *   n_visual  [n_layers]  out   the first layers see n_first
 *
 * FastV with K = 2 drops behind layer 1; MustDrop and SparseVLM name the layer behind which they
 * drop. VTC_ERR_NULL, RANGE or OVERLAP.
 */
VTC_API VTC_NODISCARD vtc_status vtc_schedule_steps(size_t n_layers, size_t n_first,
                                                    const size_t *after, const size_t *n_left,
                                                    size_t n_steps, size_t *n_visual,
                                                    const vtc_exec *exec);

/* ---- operations ------------------------------------------------------------------------------ */

/*
 * Operations of one prefill of n_visual + n_text tokens, all layers. The heads together are taken
 * to be D wide.
 * Checked against: the TFLOPs that FiCoCo prints for its own and the baselines' token counts, and
 * the multiply-adds that MustDrop's formula gives.
 * Source: Han et al., "Filter, Correlate, Compress" (FiCoCo), AAAI 2026; Yuan et al., "LLM
 * Inference Unveiled: Survey and Roofline Model Insights" (LLM-Viewer), 2024.
 */
VTC_API VTC_NODISCARD vtc_status vtc_cost_prefill(const vtc_decoder *decoder, size_t n_visual,
                                                  size_t n_text, vtc_cost_convention convention,
                                                  double *operations, const vtc_exec *exec);

/* The same with a number of tokens for each layer. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_prefill_schedule(const vtc_decoder *decoder,
                                                           const vtc_token_schedule *schedule,
                                                           vtc_cost_convention convention,
                                                           double *operations,
                                                           const vtc_exec *exec);

/* Operations of generating n_new tokens behind such a prefill, one at a time: each attends to what
 * its layer has cached, the tokens before it and itself. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_decode(const vtc_decoder *decoder,
                                                 const vtc_token_schedule *schedule, size_t n_new,
                                                 vtc_cost_convention convention, double *operations,
                                                 const vtc_exec *exec);

/* Operations of the encoder, patch embedding included, on the patches of n_visual visual tokens
 * (n_joined each). Its MLP has two matrices, so gated and ungated conventions give the same.
 * VTC_ERR_RANGE unless the patches fill whole tiles and tiles whole groups of frames, OVERFLOW for
 * more patches than size_t counts. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_encoder(const vtc_model *model, size_t n_visual,
                                                  vtc_cost_convention convention,
                                                  double *operations, const vtc_exec *exec);

/* Operations of the projector that makes n_visual tokens. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_projector(const vtc_model *model, size_t n_visual,
                                                    vtc_cost_convention convention,
                                                    double *operations, const vtc_exec *exec);

/* What choosing the tokens costs itself: vtc_planner_cost() in vtc/planner.h, in multiply-adds. */

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Bytes of the K/V cache of n_tokens in every layer: 2 * layers * n_kv * n_tokens values of 32, 16,
 * 8 or 4 bits (any number from 1 to 64); scales of quantised caches are not counted. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_kv_bytes(const vtc_decoder *decoder, size_t n_tokens,
                                                   size_t bits, double *bytes,
                                                   const vtc_exec *exec);

/* The same while decoding behind a schedule: cached visual rows, text and n_new tokens. */
VTC_API VTC_NODISCARD vtc_status vtc_cost_kv_bytes_schedule(const vtc_decoder *decoder,
                                                            const vtc_token_schedule *schedule,
                                                            size_t n_new, size_t bits,
                                                            double *bytes, const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
