/*
 * Every method on one photograph at the same budget, with its figures and what is needed to draw
 * it.
 *
 * A plan is linear, so it is applied to the tokens and to the raw patches alike; poolings are run
 * on both. In the rebuilt photograph each patch shows the output patch that it went into: its
 * `fate` in the plan, its cell of a pooled grid. A patch that was dropped shows the output whose
 * token is most similar to its own. The smaller picture of image resize is enlarged again instead.
 */
#ifndef CONTEST_H
#define CONTEST_H

#include "measure.h"
#include "source.h"

#define N_SEEDS 5 /* runs of a planner that has a parameter "seed" */

enum figure { FIGURE_TIME, FIGURE_PSNR, FIGURE_COSINE, FIGURE_COSINE_P5, N_FIGURES };

struct result {
    const char *name, *title;
    char caption[128]; /* what a reader must know; empty: nothing   */
    char missing[256]; /* why it could not run; empty when it did */

    size_t n_out;
    size_t n_runs;
    double mean[N_FIGURES]; /* over the runs */
    double spread[N_FIGURES];
    struct model_cost cost;

    /* Of the first run */
    int32_t *owner; /* [N] the output each patch went into, -1: dropped            */
    int32_t *keep;  /* [n_out] the patch each output stands for, NULL: none      */
    float *score;   /* [N] NULL: the method ranks nothing                          */
    float *rebuilt; /* [3, 14 grid_h, 14 grid_w]                                   */
    float *smaller; /* image resize: [3, smaller_h, smaller_w], else NULL          */
    size_t smaller_h, smaller_w;
};

struct contest {
    const struct source *source;
    size_t n_keep;
    struct model_cost cost; /* of all tokens */
    struct result *results; /* planners in the order of their table, then poolings */
    size_t n_results;
};

/* A method that fails or lacks inputs is a result with `missing`; false only without memory.
 * contest_free() in either case. */
bool contest_run(struct tool *tool, struct source *source, size_t n_keep, struct contest *contest);
void contest_free(struct contest *contest);

#endif
