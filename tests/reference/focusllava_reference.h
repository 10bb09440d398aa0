/* focusllava_reference.h: FocusLLaVA's vision-guided sampler in double precision, by definition:
 * every cell is pooled from its positions and compared. Memory comes from malloc. */
#ifndef VTC_TESTS_FOCUSLLAVA_REFERENCE_H
#define VTC_TESTS_FOCUSLLAVA_REFERENCE_H

#include <vtc/sample.h>

typedef struct focus_cell {
    int32_t box[4]; /* r0, c0, r1, c1 */
    size_t region, scale;
    double *token; /* [C] */
} focus_cell;

/* All pooled tokens in list order: regions, scales, cells. */
typedef struct focus_reference {
    size_t h, w, c, n_regions, n_cells;
    focus_cell *cells;
    double *mean; /* [C] of the map */
} focus_reference;

/* x [h, w, c] row-major */
focus_reference focus_reference_pool(const vtc_focusllava_vision_params *p, const double *x,
                                     size_t h, size_t w, size_t c);
void focus_reference_free(focus_reference *f);

double focus_reference_cosine(const double *a, const double *b, size_t n);

/* The score of a region at a scale; weight [S, 2 C] and bias [S] for the linear route. */
double focus_reference_score(const focus_reference *f, const vtc_focusllava_vision_params *p,
                             const double *x, size_t region, size_t scale, const double *weight,
                             const double *bias);

#endif
