#include "salience.h"

#include <math.h>

#define REACH 2 /* patches in each direction */

static size_t first_in_reach(size_t i)
{
    return i < REACH ? 0 : i - REACH;
}

static size_t end_of_reach(size_t i, size_t n)
{
    return i + REACH + 1 < n ? i + REACH + 1 : n;
}

/* Mean over the surround of channel c, less the centre's value */
static double difference(const float *tokens, size_t grid_h, size_t grid_w, size_t width, size_t n,
                         size_t c)
{
    const size_t row = n / grid_w, column = n % grid_w;
    const double centre = tokens[n * width + c];
    double sum = 0.0;
    size_t count = 0;

    for (size_t y = first_in_reach(row); y < end_of_reach(row, grid_h); y++)
        for (size_t x = first_in_reach(column); x < end_of_reach(column, grid_w); x++, count++)
            sum += tokens[(y * grid_w + x) * width + c];
    return count > 1 ? (sum - centre) / (double)(count - 1) - centre : 0.0;
}

void centre_surround(const float *tokens, size_t grid_h, size_t grid_w, size_t width,
                     float *salience)
{
    const size_t n_tokens = grid_h * grid_w;
    double total = 0.0;

    for (size_t n = 0; n < n_tokens; n++) {
        double square = 0.0;

        for (size_t c = 0; c < width; c++) {
            const double d = difference(tokens, grid_h, grid_w, width, n, c);

            square += d * d;
        }
        salience[n] = (float)sqrt(square);
        total += salience[n];
    }
    for (size_t n = 0; n < n_tokens; n++)
        salience[n] = total > 0.0 ? (float)(salience[n] / total) : 1.0f / (float)n_tokens;
}
