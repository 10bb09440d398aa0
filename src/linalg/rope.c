/* Rotary position embedding. */
#include "rope.h"

#include <math.h>

void vtci_rope_frequencies(float *frequency, size_t d, float theta)
{
    for (size_t i = 0; i < d / 2; i++) {
        const float exponent = (float)(2 * i) / (float)d;

        /* correctly rounded, which powf() need not be: an error here grows with the position */
        frequency[i] = 1.0f / (float)pow((double)theta, (double)exponent);
    }
}

void vtci_rope_angles(float *angle, const float *frequency, size_t d, int32_t position)
{
    for (size_t i = 0; i < d / 2; i++) {
        const float a = (float)position * frequency[i];

        angle[i] = cosf(a);
        angle[d / 2 + i] = sinf(a);
    }
}

void vtci_rope_rotate(float *x, size_t n_heads, size_t d, const float *angle)
{
    const float *cosine = angle, *sine = angle + d / 2;

    for (size_t h = 0; h < n_heads; h++, x += d) {
        float *low = x, *high = x + d / 2;

        for (size_t i = 0; i < d / 2; i++) {
            const float a = low[i], b = high[i];

            low[i] = a * cosine[i] - b * sine[i];
            high[i] = b * cosine[i] + a * sine[i];
        }
    }
}
