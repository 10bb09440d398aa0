/*
 * Tokens from pixels, without a model file: one descriptor for each patch of 14 x 14 pixels.
 *
 * This is no neural network. It tells similar patches from different ones, so that planners have
 * something to work on; it knows nothing about what a picture shows.
 *
 *   channel   what                                                               scaled by
 *   0         a constant, so that no token is a zero row                         0.5
 *   1         mean of Y, less 0.5                                                1
 *   2 - 10    the 9 lowest other DCT coefficients of Y, u + v <= 3               2
 *   11 - 13   mean and the 2 lowest other DCT coefficients of Cb                 2
 *   14 - 16   the same of Cr                                                     2
 *   17 - 24   mean gradient magnitude of Y in 8 directions (mod 180 degrees)     2
 *
 * Y, Cb and Cr are JPEG's, from 0 to 1 and -0.5 to 0.5. A DCT coefficient is the mean of pixel
 * times basis function, which has mean square 1. A gradient is half the difference of the two
 * neighbours inside the patch. The constants are the same for all pictures: nothing is centred or
 * normalised per image, and a token depends on the pixels of its own patch alone.
 */
#ifndef DESCRIPTOR_H
#define DESCRIPTOR_H

#include <stddef.h>

#define PATCH_SIDE       14
#define PATCH_PIXELS     (PATCH_SIDE * PATCH_SIDE)
#define PATCH_VALUES     (3 * PATCH_PIXELS)
#define DESCRIPTOR_WIDTH 25

#define DEFAULT_GRID_SIDE 24

/*
 * Between a picture and its raw patches, which a plan can be applied to like tokens.
 *
 *   planes   [3, 14 grid_h, 14 grid_w]     R, G, B from 0 to 1
 *   patches  [grid_h * grid_w, 3, 14, 14]
 */
void cut_patches(const float *planes, size_t grid_h, size_t grid_w, float *patches);
void join_patches(const float *patches, size_t grid_h, size_t grid_w, float *planes);

/*
 *   patches  [n_patches, 3, 14, 14]             in
 *   tokens   [n_patches, DESCRIPTOR_WIDTH]  out
 */
void describe_patches(const float *patches, size_t n_patches, float *tokens);

#endif
