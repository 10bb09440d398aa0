#include "compare.h"

#include "../support/support.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double rtol = 1e-5;

size_t element_count(const vtc_tensor *t)
{
    size_t count = 1;

    for (int axis = 0; axis < t->rank; axis++)
        count *= t->dim[axis];
    return count;
}

shape_text describe(const vtc_tensor *t)
{
    shape_text text;
    size_t used = (size_t)snprintf(text.s, sizeof(text.s), "%s [", vtc_dtype_string(t->dtype));

    for (int axis = 0; axis < t->rank; axis++)
        used += (size_t)snprintf(text.s + used, sizeof(text.s) - used, axis == 0 ? "%zu" : ", %zu",
                                 t->dim[axis]);
    snprintf(text.s + used, sizeof(text.s) - used, "]");
    return text;
}

static bool same_shape(const vtc_tensor *a, const vtc_tensor *b)
{
    bool same = a->rank == b->rank;

    for (int axis = 0; same && axis < a->rank; axis++)
        same = a->dim[axis] == b->dim[axis];
    return same;
}

bool same_bits(const vtc_tensor *a, const vtc_tensor *b)
{
    const size_t bytes = element_count(a) * vtc_dtype_size(a->dtype);

    return a->dtype == b->dtype && same_shape(a, b) &&
           (bytes == 0 || memcmp(a->data, b->data, bytes) == 0);
}

/* ---- integers -------------------------------------------------------------------------------- */

static bool is_float(vtc_dtype dtype)
{
    return dtype == VTC_F32 || dtype == VTC_F16 || dtype == VTC_BF16;
}

static int64_t get_integer(const vtc_tensor *t, size_t i)
{
    int32_t narrow;
    int64_t wide;

    switch (t->dtype) {
    case VTC_I32:
        memcpy(&narrow, (const char *)t->data + i * sizeof(narrow), sizeof(narrow));
        return narrow;
    case VTC_I64:
        memcpy(&wide, (const char *)t->data + i * sizeof(wide), sizeof(wide));
        return wide;
    default: /* U8, BOOL */
        return ((const uint8_t *)t->data)[i];
    }
}

static void compare_integers(const vtc_tensor *got, const vtc_tensor *want, size_t i,
                             difference *diff)
{
    const int64_t g = get_integer(got, i), w = get_integer(want, i);

    diff->max_abs = fmax(diff->max_abs, fabs((double)g - (double)w));
    if (g != w && diff->reason[0] == '\0')
        snprintf(diff->reason, sizeof(diff->reason),
                 "element %zu is %" PRId64 ", expected %" PRId64, i, g, w);
}

/* ---- floats ---------------------------------------------------------------------------------- */

/* Distance of `value` to the next larger magnitude in its dtype; F32 has no such allowance. */
static double unit_in_last_place(double value, vtc_dtype dtype)
{
    const int fraction = dtype == VTC_F16 ? 10 : 7;
    const int lowest = dtype == VTC_F16 ? -14 : -126;
    const int exponent = value == 0.0 ? lowest : ilogb(value);

    if (dtype == VTC_F32)
        return 0.0;
    return ldexp(1.0, (exponent < lowest ? lowest : exponent) - fraction);
}

static bool within(double got, double want, vtc_dtype dtype, double atol)
{
    const double off = fabs(got - want);

    if (isnan(got) || isnan(want))
        return false;
    if (isinf(got) || isinf(want))
        return got == want;
    if (atol == 0.0)
        return got == want && !signbit(got) == !signbit(want);
    return off <= atol + rtol * fabs(want) || off <= unit_in_last_place(want, dtype);
}

static void compare_floats(const vtc_tensor *got, const vtc_tensor *want, size_t i, double atol,
                           difference *diff)
{
    const double g = get_element(got->data, got->dtype, i);
    const double w = get_element(want->data, want->dtype, i);

    if (isfinite(g) && isfinite(w)) {
        diff->max_abs = fmax(diff->max_abs, fabs(g - w));
        if (w != 0.0)
            diff->max_rel = fmax(diff->max_rel, fabs(g - w) / fabs(w));
    }
    if (!within(g, w, want->dtype, atol) && diff->reason[0] == '\0')
        snprintf(diff->reason, sizeof(diff->reason), "element %zu is %.9g, expected %.9g", i, g, w);
}

bool compare(const vtc_tensor *got, const vtc_tensor *want, double atol, difference *diff)
{
    const bool floats = is_float(want->dtype);
    const size_t n = element_count(want);

    memset(diff, 0, sizeof(*diff));
    if (!same_shape(got, want) || is_float(got->dtype) != floats)
        snprintf(diff->reason, sizeof(diff->reason), "the library gives %.140s", describe(got).s);
    else
        for (size_t i = 0; i < n; i++)
            if (floats)
                compare_floats(got, want, i, atol, diff);
            else
                compare_integers(got, want, i, diff);
    return diff->reason[0] == '\0';
}
