/* Rows in any dtype: load and store, lengths and cosines in double, combinations in batches. */
#include "../src/linalg/rows.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 200 };

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

/* ---- load and store -------------------------------------------------------------------------- */

static void f32_rows_are_used_in_place(void **state)
{
    float row[5] = { 1, 2, 3, 4, 5 }, tmp[5];

    (void)state;
    assert_ptr_equal(vtci_load_row(row, VTC_F32, 5, tmp), row);
    assert_ptr_equal(vtci_row_buffer(row, VTC_F32, tmp), row);
    vtci_store_row(row, VTC_F32, 5, row);
    assert_true(row[0] == 1.0f && row[4] == 5.0f);
    vtci_store_row(tmp, VTC_F32, 5, row);
    assert_memory_equal(tmp, row, sizeof(row));
}

static void narrow_rows_pass_through_floats(void **state)
{
    float x[MAX_N], tmp[MAX_N];
    uint64_t seed = 1;

    (void)state;
    for (size_t d = 1; d < 3; d++)
        for (size_t n = 0; n < MAX_N; n += 13) {
            void *row = guard_alloc(n * vtc_dtype_size(dtypes[d]));

            rng_fill(&seed, x, n);
            assert_ptr_equal(vtci_row_buffer(row, dtypes[d], tmp), tmp);
            vtci_store_row(row, dtypes[d], n, x);
            guard_readonly(row);
            assert_ptr_equal(vtci_load_row(row, dtypes[d], n, tmp), tmp);
            for (size_t i = 0; i < n; i++) {
                const float narrow = dtypes[d] == VTC_F16 ? ref_f16_to_f32(ref_f32_to_f16(x[i]))
                                                          : ref_bf16_to_f32(ref_f32_to_bf16(x[i]));

                assert_true(tmp[i] == narrow);
            }
            guard_free(row);
        }
}

/* ---- lengths --------------------------------------------------------------------------------- */

static double naive_norm(const float *x, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

static void norms_hold_at_every_size(void **state)
{
    float x[MAX_N];
    uint64_t seed = 2;

    (void)state;
    for (int exponent = -145; exponent <= 120; exponent += 5)
        for (size_t n = 1; n < MAX_N; n += 31) {
            rng_fill(&seed, x, n);
            for (size_t i = 0; i < n; i++)
                x[i] = ldexpf(x[i], exponent);
            /* a subnormal length has no more than an absolute precision */
            if (!close_to(vtci_row_norm(x, n), naive_norm(x, n), 0x1p-149, 0x1p-20))
                fail_msg("n %zu, size 2^%d: %g, not %g", n, exponent, (double)vtci_row_norm(x, n),
                         naive_norm(x, n));
        }
}

static void unit_rows_have_length_one_at_every_size(void **state)
{
    float x[MAX_N], y[MAX_N];
    uint64_t seed = 3;

    (void)state;
    for (int exponent = -125; exponent <= 120; exponent += 5)
        for (size_t n = 1; n < MAX_N; n += 31) {
            rng_fill(&seed, x, n);
            for (size_t i = 0; i < n; i++)
                x[i] = ldexpf(x[i], exponent);
            const double norm = naive_norm(x, n);

            assert_true(vtci_unit_row(y, x, n));
            for (size_t i = 0; i < n; i++)
                assert_true(close_to(y[i], x[i] / norm, 0x1p-24, 0x1p-20));
            assert_true(vtci_unit_row(x, x, n));
            assert_memory_equal(x, y, n * sizeof(*x));
        }
}

static void a_row_of_one_subnormal_has_a_direction(void **state)
{
    const float x[3] = { 0.0f, -0x1p-149f, 0.0f };
    float y[3];

    (void)state;
    assert_true(vtci_unit_row(y, x, 3));
    assert_true(y[0] == 0.0f && y[1] == -1.0f && y[2] == 0.0f);
}

static void rows_of_one_channel_are_a_sign(void **state)
{
    uint64_t seed = 9;
    float x, y, unit;

    (void)state;
    for (int round = 0; round < 1000; round++) {
        x = ldexpf(rng_f32(&seed), (int)rng_below(&seed, 240) - 120);
        y = rng_f32(&seed);
        assert_true(vtci_unit_row(&unit, &x, 1));
        assert_true(unit == copysignf(1.0f, x));
        assert_true(vtci_cosine(&x, &y, 1) == copysignf(1.0f, x) * copysignf(1.0f, y));
    }
}

static void rows_without_direction_are_refused_and_left_alone(void **state)
{
    static const float bad[] = { 0.0f, NAN, INFINITY, -INFINITY };
    float x[40], y[40];

    (void)state;
    for (size_t b = 0; b < 4; b++)
        for (size_t place = 0; place < 40; place++) {
            for (size_t i = 0; i < 40; i++)
                x[i] = b == 0 ? 0.0f : i == place ? bad[b] : 1.0f;
            poison(y, sizeof(y));
            assert_false(vtci_unit_row(y, x, 40));
            assert_true(is_poisoned(y, sizeof(y)));
        }
}

static void a_length_beyond_f32_is_infinite_and_has_no_direction(void **state)
{
    float x[4] = { 3e38f, 3e38f, 3e38f, 3e38f };

    (void)state;
    assert_true(isinf(vtci_row_norm(x, 4)));
    assert_false(vtci_unit_row(x, x, 4));
    assert_true(x[0] == 3e38f);
}

static void cosines_match_double(void **state)
{
    float x[MAX_N], y[MAX_N];
    uint64_t seed = 4;

    (void)state;
    for (size_t n = 1; n < MAX_N; n += 7) {
        double dot = 0.0;

        rng_fill(&seed, x, n);
        rng_fill(&seed, y, n);
        for (size_t i = 0; i < n; i++)
            dot += (double)x[i] * y[i];
        assert_true(
            close_to(vtci_cosine(x, y, n), dot / naive_norm(x, n) / naive_norm(y, n), 1e-6, 0.0));
    }
    memset(x, 0, sizeof(x));
    rng_fill(&seed, y, MAX_N);
    assert_true(isnan(vtci_cosine(x, y, MAX_N)));
}

/* ---- combinations ---------------------------------------------------------------------------- */

enum { MAX_ROWS = 3 * VTCI_COMBINE_BATCH + 1, COLS = 37 };

struct source {
    vtc_dtype dtype;
    char data[MAX_ROWS][COLS * sizeof(float)];
    float weight[MAX_ROWS];
};

static void fill_source(uint64_t *seed, struct source *s, vtc_dtype dtype)
{
    s->dtype = dtype;
    for (size_t r = 0; r < MAX_ROWS; r++) {
        s->weight[r] = 0.5f + 0.25f * rng_f32(seed);
        for (size_t i = 0; i < COLS; i++)
            set_element(s->data[r], dtype, i, rng_f32(seed));
    }
}

static void combine(const struct source *s, size_t n_rows, bool max, float *y)
{
    vtci_combine c;

    vtci_combine_begin(&c, y, COLS, s->dtype, max);
    for (size_t r = 0; r < n_rows; r++)
        vtci_combine_add(&c, s->data[r], s->weight[r]);
    vtci_combine_end(&c);
}

static double naive_combination(const struct source *s, size_t n_rows, bool max, size_t i)
{
    double y = n_rows != 0 && max ? -INFINITY : 0.0;

    for (size_t r = 0; r < n_rows; r++) {
        const double v = (double)s->weight[r] * get_element(s->data[r], s->dtype, i);

        y = max ? fmax(y, v) : y + v;
    }
    return y;
}

static void lists_of_any_length_are_combined(void **state)
{
    static struct source s;
    uint64_t seed = 5;
    float y[COLS];

    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (size_t n_rows = 0; n_rows <= MAX_ROWS; n_rows++)
            for (int max = 0; max < 2; max++) {
                fill_source(&seed, &s, dtypes[d]);
                poison(y, sizeof(y));
                combine(&s, n_rows, max != 0, y);
                for (size_t i = 0; i < COLS; i++)
                    if (!close_to(y[i], naive_combination(&s, n_rows, max != 0, i), 1e-5, 1e-6))
                        fail_msg("%zu rows of %s: [%zu] is %g, not %g", n_rows,
                                 vtc_dtype_string(dtypes[d]), i, (double)y[i],
                                 naive_combination(&s, n_rows, max != 0, i));
            }
}

static void a_maximum_of_nothing_but_minus_infinity_is_minus_infinity(void **state)
{
    static struct source s = { .dtype = VTC_F32 };
    float y[COLS];

    (void)state;
    for (size_t r = 0; r < MAX_ROWS; r++) {
        s.weight[r] = 1.0f;
        for (size_t i = 0; i < COLS; i++)
            set_element(s.data[r], VTC_F32, i, -INFINITY);
    }
    combine(&s, MAX_ROWS, true, y);
    for (size_t i = 0; i < COLS; i++)
        assert_true(y[i] == -INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_rows_are_used_in_place),
        cmocka_unit_test(narrow_rows_pass_through_floats),
        cmocka_unit_test(norms_hold_at_every_size),
        cmocka_unit_test(unit_rows_have_length_one_at_every_size),
        cmocka_unit_test(a_row_of_one_subnormal_has_a_direction),
        cmocka_unit_test(rows_of_one_channel_are_a_sign),
        cmocka_unit_test(rows_without_direction_are_refused_and_left_alone),
        cmocka_unit_test(a_length_beyond_f32_is_infinite_and_has_no_direction),
        cmocka_unit_test(cosines_match_double),
        cmocka_unit_test(lists_of_any_length_are_combined),
        cmocka_unit_test(a_maximum_of_nothing_but_minus_infinity_is_minus_infinity),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
