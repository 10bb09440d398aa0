/*
 * Transposition by squares: both sides see whole cache lines. A square goes through a copy, because
 * rows a power of two apart would evict each other from the nearest cache before they are used up.
 */
#include "transpose.h"

#include <string.h>

enum { SIDE = 16 };

static void turn_square(float *to, size_t to_stride, const float *from, size_t from_stride)
{
    float square[SIDE][SIDE];

    for (size_t r = 0; r < SIDE; r++)
        memcpy(square[r], from + r * from_stride, sizeof(square[r]));
    for (size_t c = 0; c < SIDE; c++)
        for (size_t r = 0; r < SIDE; r++)
            to[c * to_stride + r] = square[r][c];
}

static void turn_edge(float *to, size_t to_stride, const float *from, size_t from_stride,
                      size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_cols; c++)
            to[c * to_stride + r] = from[r * from_stride + c];
}

void vtci_transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                    size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r += SIDE)
        for (size_t c = 0; c < n_cols; c += SIDE) {
            const size_t rows = n_rows - r < SIDE ? n_rows - r : SIDE;
            const size_t cols = n_cols - c < SIDE ? n_cols - c : SIDE;
            const float *square = from + r * from_stride + c;

            if (rows == SIDE && cols == SIDE)
                turn_square(to + c * to_stride + r, to_stride, square, from_stride);
            else
                turn_edge(to + c * to_stride + r, to_stride, square, from_stride, rows, cols);
        }
}
