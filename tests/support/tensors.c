#include "tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t span_bytes(const vtc_tensor *t)
{
    const size_t n = n_elements(t);

    return n == 0 ? 0 : (element_at(t, n - 1) + 1) * vtc_dtype_size(t->dtype);
}

const vtc_tensor *given(const vtc_tensor *t)
{
    return vtc_tensor_is_absent(t) ? NULL : t;
}

size_t n_elements(const vtc_tensor *t)
{
    size_t n = 1;

    for (int axis = 0; axis < t->rank; axis++)
        n *= t->dim[axis];
    return n;
}

size_t element_at(const vtc_tensor *t, size_t i)
{
    size_t at = 0;

    for (int axis = t->rank - 1; axis >= 0; axis--) {
        at += i % t->dim[axis] * t->stride[axis];
        i /= t->dim[axis];
    }
    return at;
}

vtc_tensor make_tensor(vtc_dtype dtype, int rank, const size_t *dim, size_t gap)
{
    vtc_tensor t = vtc_tensor_nd(NULL, dtype, rank, dim);

    for (int axis = rank - 2; axis >= 0; axis--)
        t.stride[axis] = dim[axis + 1] * t.stride[axis + 1] + gap;
    t.data = guard_alloc(span_bytes(&t));
    poison(t.data, span_bytes(&t));
    return t;
}

vtc_tensor make_random(uint64_t *seed, vtc_dtype dtype, int rank, const size_t *dim, size_t gap)
{
    const vtc_tensor t = make_tensor(dtype, rank, dim, gap);

    for (size_t i = 0; i < n_elements(&t); i++)
        set_element(t.data, dtype, element_at(&t, i), rng_f32(seed));
    guard_readonly(t.data);
    return t;
}

double *values_of(const vtc_tensor *t)
{
    const size_t n = n_elements(t);
    double *values = calloc(n + 1, sizeof(*values));

    if (values == NULL)
        abort();
    for (size_t i = 0; i < n; i++)
        values[i] = get_element(t->data, t->dtype, element_at(t, i));
    return values;
}

static void assert_gaps_poisoned(const vtc_tensor *t)
{
    const size_t size = vtc_dtype_size(t->dtype), n = span_bytes(t) / size;
    bool *used = calloc(n + 1, sizeof(*used));

    if (used == NULL)
        abort();
    for (size_t i = 0; i < n_elements(t); i++)
        used[element_at(t, i)] = true;
    for (size_t at = 0; at < n; at++)
        if (!used[at] && !is_poisoned((const char *)t->data + at * size, size))
            fail_msg("the gap at element %zu was written", at);
    free(used);
}

void assert_tensor_near(const vtc_tensor *t, const double *want, double tolerance)
{
    const double half_ulp = t->dtype == VTC_F16 ? 0x1p-11 : t->dtype == VTC_BF16 ? 0x1p-8 : 0.0;
    const double smallest = t->dtype == VTC_F16 ? 0x1p-25 : 0.0;

    for (size_t i = 0; i < n_elements(t); i++) {
        const double got = get_element(t->data, t->dtype, element_at(t, i));

        if (!close_to(got, want[i], tolerance + smallest, tolerance + half_ulp))
            fail_msg("element %zu is %.9g, expected %.9g", i, got, want[i]);
    }
    assert_gaps_poisoned(t);
}

void assert_tensors_near(const vtc_tensor *a, const vtc_tensor *b, double tolerance)
{
    double *want = values_of(b);

    assert_tensor_near(a, want, tolerance);
    free(want);
}

void assert_same_bits(const vtc_tensor *a, const vtc_tensor *b)
{
    const size_t size = vtc_dtype_size(a->dtype);

    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(n_elements(a), n_elements(b));
    for (size_t i = 0; i < n_elements(a); i++)
        if (memcmp((const char *)a->data + element_at(a, i) * size,
                   (const char *)b->data + element_at(b, i) * size, size) != 0)
            fail_msg("element %zu has other bits", i);
}

void assert_untouched(const vtc_tensor *t)
{
    assert_true(is_poisoned(t->data, span_bytes(t)));
}
