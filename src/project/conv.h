/*
 * conv.h: the steps of light convolutional projectors.
 *
 * They work on one image at a time, whose tokens lie as F32 rows in three buffers of scratch
 * memory, raster order, channels last. A step is one matrix product or one pass over the tokens,
 * in blocks; sums over the grid are formed block by block and added in order, so that the bits
 * depend on the shape alone.
 *
 * A projector says in one function which steps an image takes. That function runs for each image,
 * and before, when the scratch is laid out: then steps note what they need and do nothing else.
 */
#ifndef VTCI_CONV_H
#define VTCI_CONV_H

#include "../../include/vtc/project.h"
#include "../kernels/kernels.h"
#include "../linalg/gemm.h"

enum { VTCI_CONV_BUFFERS = 3 };

typedef struct vtci_conv {
    const vtci_call *call;
    bool measuring;
    size_t image; /* the one at hand */

    /* the largest of all steps */
    size_t map_floats[VTCI_CONV_BUFFERS];
    size_t n_blocks, n_channels, n_hidden, product_bytes;

    float *map[VTCI_CONV_BUFFERS]; /* tokens                                               */
    float *taps;                   /* [9, C] of the depthwise convolution at hand, widened */
    float *weight, *bias;          /* [C] of the norm or the convolution at hand, widened  */
    float *sums;                   /* [n_blocks, C] of the tokens of a block               */
    float *mean, *gate;            /* [C]                                                  */
    float *hidden;                 /* [E]                                                  */
    vtci_arena products;           /* scratch of the product at hand                       */
} vtci_conv;

/* Takes all scratch; image(job) walks through the steps of an image. */
void vtci_conv_lay_out(vtci_arena *arena, const vtci_call *call, vtci_conv *conv,
                       void (*image)(void *job), void *job);

/* How the projectors' functions end. A query stores the size of the scratch in *bytes; else
 * image(job) runs for all images of y. */
VTC_NODISCARD vtc_status vtci_conv_walk(const vtci_call *call, vtci_conv *conv,
                                        void (*image)(void *job), void *job, const vtci_rows *y,
                                        size_t *bytes);

/* ---- tokens ---------------------------------------------------------------------------------- */

/* The tokens of a grid in one of the buffers. */
typedef struct vtci_map {
    vtci_rows rows; /* [h * w, C], dense F32 */
    size_t h, w;
} vtci_map;

vtci_map vtci_conv_map(vtci_conv *conv, size_t buffer, size_t h, size_t w, size_t n_channels);

float *vtci_map_token(const vtci_map *map, size_t i);

/* Tokens of a task: many enough to share out, few enough to stay in the cache. */
enum { VTCI_CONV_BLOCK = 16 };

/* Runs block(job, index, worker) for all blocks of tokens but while measuring. A block begins at
 * index * VTCI_CONV_BLOCK and ends before vtci_block_end(). */
void vtci_conv_blocks(const vtci_conv *conv, const vtci_map *map,
                      void (*block)(void *job, size_t index, size_t worker), void *job);
size_t vtci_block_end(const vtci_map *map, size_t index);

/* Image `b` of a batch, tokens 0 .. n - 1. */
vtci_rows vtci_image_rows(const vtci_rows *rows, size_t b, size_t n);

/* ---- steps ----------------------------------------------------------------------------------- */

/* y = act(x W^T + b); y in any dtype, apart from x. */
void vtci_conv_linear(vtci_conv *conv, const vtci_rows *x, const vtc_linear *layer,
                      vtci_activation act, const vtci_rows *y);

/* y = the 1x1 convolution of x, without bias. */
void vtci_conv_pointwise(vtci_conv *conv, const vtci_map *x, const vtc_tensor *weight,
                         const vtci_map *y);

/* y = act(LayerNorm(x) + skip); skip NULL: without. Computed in x, whose tokens are lost; y may be
 * x or skip, or the output in any dtype. */
void vtci_conv_norm(vtci_conv *conv, const vtci_map *x, const vtc_norm *norm, float eps,
                    const vtci_map *skip, vtci_activation act, const vtci_rows *y);

/* What the blocks of LDP and C-Abstractor have in common. */
typedef struct vtci_bottleneck {
    const vtc_conv_norm *depthwise; /* 3x3, padding 1, and its norm */
    vtci_activation act;            /* behind the norm              */
    const vtc_squeeze_excite *se;
    vtci_activation se_act, se_gate;
    size_t stride; /* of the convolution; y is ceil(h / stride) x ceil(w / stride) */
    float eps;
} vtci_bottleneck;

/* y = squeeze_excite(act(LayerNorm(convolution(x)))), apart from x. */
void vtci_conv_bottleneck(vtci_conv *conv, const vtci_bottleneck *b, const vtci_map *x,
                          const vtci_map *y);

/* y = x + depthwise convolution of x + bias, in any dtype. tmp has the extents of x. */
void vtci_conv_add_depthwise(vtci_conv *conv, const vtci_map *x, const vtc_linear *depthwise,
                             const vtci_map *tmp, const vtci_rows *y);

/* y = adaptive average of x, in another buffer. */
void vtci_conv_average(vtci_conv *conv, const vtci_map *x, const vtci_map *y);

#endif
