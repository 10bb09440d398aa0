/*
 * What is measured of a compressed photograph. These figures tell how redundant its pixels and
 * descriptors are; no model sees them, so they say nothing about a model's accuracy.
 */
#ifndef MEASURE_H
#define MEASURE_H

#include "tool.h"

#include <stdint.h>

/*
 * The output that is most similar to each token, and their cosine. Rows of zeros (padding) are
 * nobody's nearest output; a tie goes to the lower output.
 *
 *   x        [n, width]  in    tokens
 *   y        [m, width]  in    outputs
 *   nearest  [n]         out
 *   cosine   [n]         out   0 where there is no output to compare with
 */
bool find_nearest_outputs(struct tool *tool, const float *x, size_t n, const float *y, size_t m,
                          size_t width, int32_t *nearest, float *cosine);

double mean_of(const double *values, size_t n);

/* Sample standard deviation; 0 for one value. */
double spread_of(const double *values, size_t n);

/* The value that a share of `fraction` does not exceed: element floor(fraction n) of the sorted
 * values, which are sorted in place. */
double quantile_of(float *values, size_t n, double fraction);

/* Peak signal-to-noise ratio in dB of values from 0 to 1; infinite for equal pictures. */
double psnr_of(const float *a, const float *b, size_t n);

#define COST_MODEL       "llava-1.5-7b"
#define COST_TITLE       "LLaVA-1.5-7B"
#define COST_TEXT_TOKENS 60

struct model_cost {
    double
        tera_flops; /* prefill of the visual and COST_TEXT_TOKENS text tokens, gated convention */
    double kv_megabytes; /* 10^6 bytes of the visual tokens' K/V cache, 2 bytes per value */
};

bool measure_cost(struct tool *tool, size_t n_visual, struct model_cost *cost);

#endif
