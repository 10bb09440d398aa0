/*
 * rope.h: rotary position embedding, channels i and i + d/2 forming a pair (Su et al., 2021).
 *
 *     y[i]       = x[i] cos a_i - x[i + d/2] sin a_i          a_i = position * theta^(-2i/d)
 *     y[i + d/2] = x[i + d/2] cos a_i + x[i] sin a_i
 *
 * Angles are rounded to F32 where the models' code rounds them: at the frequency, and at its
 * product with the position. At position 30000 this is a thousandth of a radian.
 */
#ifndef VTCI_ROPE_H
#define VTCI_ROPE_H

#include <stddef.h>
#include <stdint.h>

/* theta^(-2i/d) for i < d/2 */
void vtci_rope_frequencies(float *frequency, size_t d, float theta);

/* The d/2 cosines, then the d/2 sines of a position. */
void vtci_rope_angles(float *angle, const float *frequency, size_t d, int32_t position);

/* Rotates n_heads neighbouring heads of d channels in place. */
void vtci_rope_rotate(float *x, size_t n_heads, size_t d, const float *angle);

#endif
