/*
 * Transposition by squares: both sides see whole cache lines. Of each square, four rows of the
 * result are finished before the next, because rows a power of two apart evict each other from the
 * nearest cache.
 */
#include "transpose.h"

#include <string.h>

enum { SIDE = 16, STEP = 4 };

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAVE_SHUFFLE 1
#endif
#endif

#ifdef HAVE_SHUFFLE
typedef float four __attribute__((vector_size(STEP * sizeof(float))));

static inline four load(const float *p)
{
    four v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void turn_step(float *to, size_t to_stride, const float *from, size_t from_stride)
{
    const four a = load(from), b = load(from + from_stride);
    const four c = load(from + 2 * from_stride), d = load(from + 3 * from_stride);
    const four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const four gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const four row[STEP] = { __builtin_shufflevector(ab, cd, 0, 1, 4, 5),
                             __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                             __builtin_shufflevector(ef, gh, 0, 1, 4, 5),
                             __builtin_shufflevector(ef, gh, 2, 3, 6, 7) };

    for (size_t r = 0; r < STEP; r++)
        memcpy(to + r * to_stride, &row[r], sizeof(row[r]));
}
#else
static inline void turn_step(float *to, size_t to_stride, const float *from, size_t from_stride)
{
    for (size_t c = 0; c < STEP; c++)
        for (size_t r = 0; r < STEP; r++)
            to[c * to_stride + r] = from[r * from_stride + c];
}
#endif

static void turn_edge(float *to, size_t to_stride, const float *from, size_t from_stride,
                      size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_cols; c++)
            to[c * to_stride + r] = from[r * from_stride + c];
}

/* At most SIDE rows and columns. */
static void turn_square(float *to, size_t to_stride, const float *from, size_t from_stride,
                        size_t n_rows, size_t n_cols)
{
    const size_t rows = n_rows / STEP * STEP, cols = n_cols / STEP * STEP;

    for (size_t c = 0; c < cols; c += STEP)
        for (size_t r = 0; r < rows; r += STEP)
            turn_step(to + c * to_stride + r, to_stride, from + r * from_stride + c, from_stride);
    turn_edge(to + rows, to_stride, from + rows * from_stride, from_stride, n_rows - rows, cols);
    turn_edge(to + cols * to_stride, to_stride, from + cols, from_stride, n_rows, n_cols - cols);
}

void vtci_transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                    size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r += SIDE)
        for (size_t c = 0; c < n_cols; c += SIDE)
            turn_square(to + c * to_stride + r, to_stride, from + r * from_stride + c, from_stride,
                        n_rows - r < SIDE ? n_rows - r : SIDE,
                        n_cols - c < SIDE ? n_cols - c : SIDE);
}
