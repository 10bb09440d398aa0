/* F16 and BF16 rows of every kernel table: all 16-bit patterns, random and halfway floats, against
 * conversions written from the formats' definitions. */
#include "kernel_tables.h"

enum { ALL_16 = 1 << 16 };

static void all_16_bit_patterns_survive_the_round_trip(const vtci_kernels *k)
{
    static uint16_t in[ALL_16], back[ALL_16];
    static float out[ALL_16];

    for (size_t i = 0; i < ALL_16; i++)
        in[i] = (uint16_t)i;
    k->f16_to_f32(out, in, ALL_16);
    k->f32_to_f16(back, out, ALL_16);
    for (size_t i = 0; i < ALL_16; i++) {
        assert_true(same_value(out[i], ref_f16_to_f32(in[i])));
        assert_true(isnan(out[i]) ? (back[i] & 0x7fff) > 0x7c00 : back[i] == in[i]);
    }
    k->bf16_to_f32(out, in, ALL_16);
    k->f32_to_bf16(back, out, ALL_16);
    for (size_t i = 0; i < ALL_16; i++) {
        assert_true(same_value(out[i], ref_bf16_to_f32(in[i])));
        assert_true(isnan(out[i]) ? (back[i] & 0x7fff) > 0x7f80 : back[i] == in[i]);
    }
}

static void assert_narrowed(const char *name, const float *x, const uint16_t *f16,
                            const uint16_t *bf16, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const bool nan = isnan(x[i]);

        if (nan ? (f16[i] & 0x7fff) <= 0x7c00 : f16[i] != ref_f32_to_f16(x[i]))
            fail_msg("%s: %a as F16 is 0x%04x", name, (double)x[i], f16[i]);
        if (nan ? (bf16[i] & 0x7fff) <= 0x7f80 : bf16[i] != ref_f32_to_bf16(x[i]))
            fail_msg("%s: %a as BF16 is 0x%04x", name, (double)x[i], bf16[i]);
    }
}

static void narrowing_rounds_random_bits_to_nearest(const vtci_kernels *k)
{
    enum { N = 4096, ROUNDS = 40 };
    static float x[N];
    static uint16_t f16[N], bf16[N];
    uint64_t seed = 9;

    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < N; i++) {
            const uint32_t random = (uint32_t)(rng(&seed) >> 32);
            const uint32_t in_f16_range =
                (random & 0x80000000) | (0x32000000 + random % 0x16000000);

            x[i] = float_of(i % 2 == 0 ? random : in_f16_range);
        }
        k->f32_to_f16(f16, x, N);
        k->f32_to_bf16(bf16, x, N);
        assert_narrowed(k->name, x, f16, bf16, N);
    }
}

/* Half way between neighbours and one float to either side, from every finite 16-bit value. */
static void narrowing_takes_ties_to_even(const vtci_kernels *k)
{
    static float x[6];
    uint16_t f16[6], bf16[6];

    for (uint32_t i = 0; i < 0x7f80; i++) {
        const uint32_t bf16_half = i << 16 | 0x8000;
        const float f16_half =
            0.5f * (ref_f16_to_f32((uint16_t)i) + ref_f16_to_f32((uint16_t)(i + 1)));

        for (uint32_t j = 0; j < 3; j++) {
            x[j] = float_of(bf16_half + j - 1);
            x[3 + j] = i < 0x7bff ? float_of(bits_of(f16_half) + j - 1) : 65519.0f + (float)j;
        }
        k->f32_to_f16(f16, x, 6);
        k->f32_to_bf16(bf16, x, 6);
        assert_narrowed(k->name, x, f16, bf16, 6);
    }
}

static void conversions_work_at_every_length(const vtci_kernels *k)
{
    static uint16_t in[MAX_LENGTH], out[MAX_LENGTH + 1];
    static float wide[MAX_LENGTH + 1];

    for (size_t i = 0; i < MAX_LENGTH; i++)
        in[i] = (uint16_t)(i * 7);
    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        wide[n] = 17.0f;
        out[n] = 17;
        k->f16_to_f32(wide, in, n);
        k->f32_to_f16(out, wide, n);
        assert_memory_equal(out, in, n * sizeof(*in));
        k->bf16_to_f32(wide, in, n);
        k->f32_to_bf16(out, wide, n);
        assert_memory_equal(out, in, n * sizeof(*in));
        assert_true(wide[n] == 17.0f && out[n] == 17);
    }
}

/* ---- combinations ---------------------------------------------------------------------------- */

enum { MAX_ROWS = 17 };

typedef void widen(float *y, const uint16_t *x, size_t n);
typedef void combine(float *y, const float *const *x, const float *w, size_t n_rows, size_t n,
                     int accumulate);
typedef void combine_narrow(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                            size_t n, int accumulate);

/* Random bits as 16-bit rows, so NaN, infinities and subnormals of either format are among them. */
static void check_narrow_at(const vtci_kernels *k, combine *of_floats, combine_narrow *of_narrow,
                            widen *to_f32, uint64_t *seed, size_t n_rows, size_t n,
                            unsigned options)
{
    static uint16_t narrow[MAX_ROWS][MAX_LENGTH];
    static float wide[MAX_ROWS][MAX_LENGTH], y[MAX_LENGTH], want[MAX_LENGTH];
    const uint16_t *narrow_row[MAX_ROWS];
    const float *wide_row[MAX_ROWS];
    float weight[MAX_ROWS];

    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < n; i++)
            narrow[r][i] = (uint16_t)rng(seed);
        to_f32(wide[r], narrow[r], n);
        narrow_row[r] = narrow[r];
        wide_row[r] = wide[r];
        weight[r] = rng_f32(seed);
    }
    for (size_t i = 0; i < n; i++)
        y[i] = want[i] = rng_f32(seed);
    of_floats(want, wide_row, (options & 2) != 0 ? NULL : weight, n_rows, n, options & 1);
    of_narrow(y, narrow_row, (options & 2) != 0 ? NULL : weight, n_rows, n, options & 1);
    for (size_t i = 0; i < n; i++)
        if (!same_value(y[i], want[i]))
            fail_msg("%s: %zu rows of %zu: [%zu] is %a, not %a", k->name, n_rows, n, i,
                     (double)y[i], (double)want[i]);
}

static void narrow_rows_combine_to_the_bits_of_widened_ones(const vtci_kernels *k)
{
    static const size_t n_rows[] = { 1, 2, 4, MAX_ROWS };
    uint64_t seed = 12;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t r = 0; r < sizeof(n_rows) / sizeof(*n_rows); r++)
            for (unsigned options = 0; options < 4; options++) {
                const size_t rows = n_rows[r], n = length_at(i);

                check_narrow_at(k, k->combine_max, k->combine_max_f16, k->f16_to_f32, &seed, rows,
                                n, options);
                check_narrow_at(k, k->combine_max, k->combine_max_bf16, k->bf16_to_f32, &seed, rows,
                                n, options);
                if (options >= 2) /* a sum has weights */
                    continue;
                check_narrow_at(k, k->combine, k->combine_f16, k->f16_to_f32, &seed, rows, n,
                                options);
                check_narrow_at(k, k->combine, k->combine_bf16, k->bf16_to_f32, &seed, rows, n,
                                options);
            }
}

static void no_narrow_rows_give_zeros_or_change_nothing(const vtci_kernels *k)
{
    float y[3] = { 1.0f, 2.0f, 3.0f };

    k->combine_f16(y, NULL, NULL, 0, 3, 1);
    k->combine_bf16(y, NULL, NULL, 0, 3, 1);
    assert_true(y[0] == 1.0f && y[1] == 2.0f && y[2] == 3.0f);
    k->combine_f16(y, NULL, NULL, 0, 2, 0);
    k->combine_bf16(y + 1, NULL, NULL, 0, 2, 0);
    assert_true(y[0] == 0.0f && y[1] == 0.0f && y[2] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(all_16_bit_patterns_survive_the_round_trip),
        on_every_table(narrowing_rounds_random_bits_to_nearest),
        on_every_table(narrowing_takes_ties_to_even),
        on_every_table(conversions_work_at_every_length),
        on_every_table(narrow_rows_combine_to_the_bits_of_widened_ones),
        on_every_table(no_narrow_rows_give_zeros_or_change_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
