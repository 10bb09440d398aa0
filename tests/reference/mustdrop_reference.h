/*
 * mustdrop_reference.h: MustDrop in doubles, from the paper: all pairs of cosines, whole matrices
 * of attention, sets as lists that are searched. Memory comes from malloc.
 */
#ifndef VTC_TESTS_MUSTDROP_REFERENCE_H
#define VTC_TESTS_MUSTDROP_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mustdrop_grid {
    size_t h, w, win_h, win_w;
} mustdrop_grid;

/* Whole windows; the rest of a ragged grid belongs to none. */
size_t mustdrop_windows(const mustdrop_grid *g);

/* similarity[W]: mean of the cosines of all ordered pairs of different cells. x [h * w, c]. */
void mustdrop_similarity(const mustdrop_grid *g, const double *x, size_t c, double *similarity);

typedef struct mustdrop_merge {
    size_t n_in, n_out;
    int32_t *owner;   /* [n_in] output of each row             */
    int32_t *keep;    /* [n_out] first row of each output      */
    int32_t *windows; /* [r] by falling similarity             */
} mustdrop_merge;

/* The r most similar windows of one image with `prefix` rows in front. */
mustdrop_merge mustdrop_merge_windows(const mustdrop_grid *g, const double *similarity, size_t r,
                                      size_t prefix, bool raster);
void mustdrop_merge_free(mustdrop_merge *m);

/*
 * Sum and maximum over the last n_text rows of the head mean of causal attention, for n columns
 * from `first` on. q [heads, n_text, d], k [kv_heads, length, d].
 */
typedef struct mustdrop_attention {
    size_t heads, kv_heads, n_text, length, d, first, n;
    double scale;
    const double *q, *k;
} mustdrop_attention;

void mustdrop_statistics(const mustdrop_attention *a, double *sum, double *max);

/* log of the sum of exponentials of one text row's logits */
double mustdrop_log_sum_exp(const mustdrop_attention *a, size_t head, size_t row);

#endif
