/*
 * A stand-in for an attention row, for planners that want to know what [CLS] looks at: how much a
 * patch differs from those around it. It is salience, not attention, and is captioned so.
 */
#ifndef SALIENCE_H
#define SALIENCE_H

#include <stddef.h>

#define SALIENCE_CAPTION "stand-in salience, not attention"

/*
 * Centre-surround contrast: the distance of a token to the mean of the others in the 5 x 5 patches
 * around it, divided by the sum over the picture. A picture of equal patches gives 1 / N each.
 *
 *   tokens    [grid_h * grid_w, width]  in
 *   salience  [grid_h * grid_w]         out   not negative, sum 1
 */
void centre_surround(const float *tokens, size_t grid_h, size_t grid_w, size_t width,
                     float *salience);

#endif
