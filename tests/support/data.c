/* Random data, and scalar conversions written from the formats' definitions. */
#include "support.h"

#include <math.h>
#include <string.h>

uint64_t rng(uint64_t *state)
{
    /* xorshift64*, Vigna 2014 */
    uint64_t x = *state == 0 ? 88172645463325252u : *state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 2685821657736338717u;
}

float rng_f32(uint64_t *state)
{
    return (float)(rng(state) >> 40) / 8388608.0f - 1.0f;
}

size_t rng_below(uint64_t *state, size_t limit)
{
    return (size_t)((rng(state) >> 11) % limit);
}

void rng_fill(uint64_t *state, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = rng_f32(state);
}

/* A binary format with `fraction` fraction bits and exponents from `lowest` (of the smallest normal
 * number) to `highest`. rint() rounds halves to even. */
static uint16_t narrow(float x, int fraction, int lowest, int highest)
{
    const int sign = signbit(x) ? 0x8000 : 0;
    const int top = (highest - lowest + 2) << fraction; /* the pattern of infinity */
    double a = fabs((double)x), steps;
    int exponent;

    if (isnan(x))
        return (uint16_t)(sign | top | 1 << (fraction - 1));
    if (a == 0.0)
        return (uint16_t)sign;
    frexp(a, &exponent);
    exponent = isinf(x) || exponent - 1 > highest ? highest : exponent - 1;
    exponent = exponent < lowest ? lowest : exponent;
    steps = isinf(x) ? INFINITY : rint(ldexp(a, fraction - exponent));
    if (exponent == highest && steps >= ldexp(2.0, fraction))
        return (uint16_t)(sign | top);
    /* a carry out of the fraction lands in the exponent field, as it should */
    return (uint16_t)(sign | (((exponent - lowest) << fraction) + (int)steps));
}

static float widen(uint16_t bits, int fraction, int lowest, int highest)
{
    const int field = (bits & 0x7fff) >> fraction;
    const double part = bits & ((1 << fraction) - 1);
    const double sign = bits & 0x8000 ? -1.0 : 1.0;

    if (field == highest - lowest + 2)
        return part != 0.0 ? NAN : (float)(sign * INFINITY);
    if (field == 0)
        return (float)(sign * ldexp(part, lowest - fraction));
    return (float)(sign * ldexp(part + ldexp(1.0, fraction), field - 1 + lowest - fraction));
}

uint16_t ref_f32_to_f16(float x)
{
    return narrow(x, 10, -14, 15);
}

float ref_f16_to_f32(uint16_t bits)
{
    return widen(bits, 10, -14, 15);
}

uint16_t ref_f32_to_bf16(float x)
{
    return narrow(x, 7, -126, 127);
}

float ref_bf16_to_f32(uint16_t bits)
{
    return widen(bits, 7, -126, 127);
}

float get_element(const void *data, vtc_dtype dtype, size_t i)
{
    const char *at = (const char *)data + i * vtc_dtype_size(dtype);
    uint16_t bits;
    float value;

    if (dtype == VTC_F32) {
        memcpy(&value, at, sizeof(value));
        return value;
    }
    memcpy(&bits, at, sizeof(bits));
    return dtype == VTC_F16 ? ref_f16_to_f32(bits) : ref_bf16_to_f32(bits);
}

void set_element(void *data, vtc_dtype dtype, size_t i, float value)
{
    char *at = (char *)data + i * vtc_dtype_size(dtype);
    const uint16_t bits = dtype == VTC_F16 ? ref_f32_to_f16(value) : ref_f32_to_bf16(value);

    if (dtype == VTC_F32)
        memcpy(at, &value, sizeof(value));
    else
        memcpy(at, &bits, sizeof(bits));
}

bool close_to(double got, double want, double abs_tol, double rel_tol)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got))
        return want == got;
    return fabs(got - want) <= abs_tol + rel_tol * fabs(want);
}
