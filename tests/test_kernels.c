/*
 * Every table of row kernels against definitions in double or naive loops, at odd lengths, at any
 * alignment, at the edge of readable memory, with extreme values. Errors are relative to the sum of
 * magnitudes.
 */
#include "kernel_tables.h"

enum { MAX_ROWS = 17 };

/* Random floats with zeros of both signs, infinities, subnormals, ties and, if asked, NaN. */
static void fill_odd(uint64_t *state, float *x, size_t n, bool with_nan)
{
    static const float odd[] = { 0.0f,       -0.0f, INFINITY, -INFINITY, 0x1p-140f,
                                 -0x1p-149f, 3e38f, -3e38f,   1.0f,      1.0f };

    for (size_t i = 0; i < n; i++) {
        const size_t kind = rng_below(state, 24);

        x[i] = kind < 10 ? odd[kind] : rng_f32(state);
        if (with_nan && kind == 23)
            x[i] = NAN;
    }
}

/* ---- the table ------------------------------------------------------------------------------- */

static void features_choose_the_table(void **state)
{
    (void)state;
    assert_string_equal(vtci_kernels_for(0)->name, "c");
#if VTCI_X86
    assert_string_equal(vtci_kernels_for(VTCI_CPU_AVX2)->name, "avx2");
    assert_string_equal(vtci_kernels_for(VTCI_CPU_AVX2 | VTCI_CPU_AVX512)->name, "avx512");
#endif
#if VTCI_NEON
    assert_string_equal(vtci_kernels_for(VTCI_CPU_NEON)->name, "neon");
#endif
    assert_string_equal(vtci_kernels_for(VTCI_CPU_AVX512)->name, "c");
    assert_ptr_equal(vtci_kernels_get(), vtci_kernels_for(vtci_cpu_features()));
}

/* ---- dot and scale --------------------------------------------------------------------------- */

static void check_dot_at(const vtci_kernels *k, uint64_t *seed, size_t n, float size)
{
    static float x[MAX_LENGTH], y[MAX_LENGTH];
    double want = 0.0, magnitude = 0.0;

    fill_scaled(seed, x, n, size);
    fill_scaled(seed, y, n, size);
    for (size_t i = 0; i < n; i++) {
        want += (double)x[i] * y[i];
        magnitude += fabs((double)x[i] * y[i]);
    }
    /* each of at least 32 lanes rounds n / 32 times, then they are added up in 7 steps */
    const double bound = ((double)n / 32 + 8) * UNIT * magnitude;
    const double error = fabs(k->dot(x, y, n) - want);
    if (!(error <= bound))
        fail_msg("%s: length %zu, size %g: error %g exceeds %g", k->name, n, (double)size, error,
                 bound);
}

static void dot_is_near_the_double_sum(const vtci_kernels *k)
{
    uint64_t seed = 1;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        check_dot_at(k, &seed, length_at(i), 1.0f);
        check_dot_at(k, &seed, length_at(i), 0x1p50f);
        check_dot_at(k, &seed, length_at(i), 0x1p-40f);
    }
}

static void dot_bits_do_not_depend_on_alignment(const vtci_kernels *k)
{
    static float x[1152], y[1152], xa[1152 + 16], ya[1152 + 16];
    uint64_t seed = 2;

    rng_fill(&seed, x, 1152);
    rng_fill(&seed, y, 1152);
    for (size_t i = 0; i < N_LENGTHS && length_at(i) <= 1152; i++) {
        const size_t n = length_at(i);
        const float want = k->dot(x, y, n);

        for (size_t offset = 0; offset < 16; offset++) {
            memcpy(xa + offset, x, n * sizeof(*x));
            memcpy(ya + 15 - offset, y, n * sizeof(*y));
            assert_true(same_value(k->dot(xa + offset, ya + 15 - offset, n), want));
        }
    }
}

enum { MOST_DISTANCES = 6 };

static void check_distances(const vtci_kernels *k, const float *x, const float *const *z,
                            size_t n_rows, size_t n)
{
    float y[MOST_DISTANCES + 1], back;

    y[n_rows] = 3.0f;
    k->square_distances(y, x, z, n_rows, n);
    assert_true(y[n_rows] == 3.0f);
    for (size_t r = 0; r < n_rows; r++) {
        double want = 0.0;

        for (size_t c = 0; c < n; c++)
            want += ((double)x[c] - z[r][c]) * ((double)x[c] - z[r][c]);
        /* each of at least 4 lanes rounds at every vector, and each difference is rounded */
        if (!(fabs(y[r] - want) <= ((double)n / 4 + 10) * UNIT * want))
            fail_msg("%s: length %zu: %.9g, not %.9g", k->name, n, (double)y[r], want);
        k->square_distances(&back, z[r], &x, 1, n);
        assert_true(same_value(y[r], back));
    }
}

static void square_distances_are_near_the_double_sums_either_way(const vtci_kernels *k)
{
    static float x[MAX_LENGTH], z[MOST_DISTANCES][MAX_LENGTH];
    const float *rows[MOST_DISTANCES];
    uint64_t seed = 3;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        rng_fill(&seed, x, n);
        for (size_t r = 0; r < MOST_DISTANCES; r++) {
            rng_fill(&seed, z[r], n);
            rows[r] = z[r];
        }
        rows[4] = x;
        for (size_t n_rows = 0; n_rows <= MOST_DISTANCES; n_rows++)
            check_distances(k, x, rows, n_rows, n);
    }
}

static void scale_is_one_rounded_product(const vtci_kernels *k)
{
    static float x[MAX_LENGTH], y[MAX_LENGTH], want[MAX_LENGTH];
    uint64_t seed = 3;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);
        const float a = 3.0f * rng_f32(&seed);

        fill_odd(&seed, x, n, true);
        for (size_t j = 0; j < n; j++)
            want[j] = a * x[j];
        k->scale(y, x, a, n);
        assert_same_row(k->name, y, want, n);
        k->scale(x, x, a, n);
        assert_same_row(k->name, x, want, n);
    }
}

/* ---- combinations of rows -------------------------------------------------------------------- */

static float row_memory[MAX_ROWS][MAX_LENGTH];
static const float *rows[MAX_ROWS];
static float weight[MAX_ROWS];

static const size_t row_counts[] = { 0, 1, 2, 3, 4, 5, 16, MAX_ROWS };
enum { N_ROW_COUNTS = sizeof(row_counts) / sizeof(*row_counts) };

static void point_at_rows(void)
{
    for (size_t r = 0; r < MAX_ROWS; r++)
        rows[r] = row_memory[r];
}

static void check_combine_at(const vtci_kernels *k, uint64_t *seed, size_t n_rows, size_t n,
                             bool accumulate)
{
    static float y[MAX_LENGTH], before[MAX_LENGTH];

    rng_fill(seed, weight, n_rows);
    rng_fill(seed, before, n);
    for (size_t r = 0; r < n_rows; r++)
        rng_fill(seed, row_memory[r], n);
    memcpy(y, before, n * sizeof(*y));
    k->combine(y, rows, weight, n_rows, n, accumulate);

    for (size_t i = 0; i < n; i++) {
        double want = accumulate ? before[i] : 0.0, magnitude = fabs(want);

        for (size_t r = 0; r < n_rows; r++) {
            want += (double)weight[r] * rows[r][i];
            magnitude += fabs((double)weight[r] * rows[r][i]);
        }
        if (!(fabs(y[i] - want) <= (double)(2 * n_rows) * UNIT * magnitude))
            fail_msg("%s: %zu rows of %zu: [%zu] is %g, not %g", k->name, n_rows, n, i,
                     (double)y[i], want);
    }
}

static void combine_is_the_weighted_sum(const vtci_kernels *k)
{
    uint64_t seed = 4;

    point_at_rows();
    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t c = 0; c < N_ROW_COUNTS; c++) {
            check_combine_at(k, &seed, row_counts[c], length_at(i), false);
            check_combine_at(k, &seed, row_counts[c], length_at(i), true);
        }
}

/* Small integers make every sum exact, so any order and any split must give equal bits. */
static void combine_continues_where_it_stopped(const vtci_kernels *k)
{
    static float at_once[MAX_LENGTH], in_parts[MAX_LENGTH];
    uint64_t seed = 5;

    point_at_rows();
    for (size_t r = 0; r < MAX_ROWS; r++) {
        weight[r] = (float)rng_below(&seed, 9) - 4.0f;
        for (size_t i = 0; i < MAX_LENGTH; i++)
            row_memory[r][i] = (float)rng_below(&seed, 99);
    }
    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        k->combine(at_once, rows, weight, MAX_ROWS, n, 0);
        k->combine(in_parts, rows, weight, 5, n, 0);
        k->combine(in_parts, rows + 5, weight + 5, MAX_ROWS - 5, n, 1);
        assert_same_row(k->name, in_parts, at_once, n);
    }
}

/* The definition, in words of its own. */
static float naive_max(const float *w, size_t n_rows, size_t i, bool accumulate, float before)
{
    float top = accumulate ? before : -INFINITY;

    for (size_t r = 0; r < n_rows; r++) {
        const float v = w == NULL ? rows[r][i] : w[r] * rows[r][i];

        if (isnan(v) || isnan(top))
            top = NAN;
        else if (v > top)
            top = v;
    }
    return top;
}

/* Plain numbers take another path than those whose sum is NaN. */
static void fill_plain_or_odd(uint64_t *seed, float *x, size_t n, bool odd)
{
    if (odd)
        fill_odd(seed, x, n, true);
    else
        rng_fill(seed, x, n);
}

static void check_max_at(const vtci_kernels *k, uint64_t *seed, size_t n_rows, size_t n,
                         bool weighted, bool accumulate, bool odd)
{
    static float y[MAX_LENGTH], want[MAX_LENGTH];
    const float *w = weighted ? weight : NULL;

    for (size_t r = 0; r < n_rows; r++) {
        weight[r] = 0.5f + fabsf(rng_f32(seed));
        fill_plain_or_odd(seed, row_memory[r], n, odd);
    }
    fill_plain_or_odd(seed, y, n, odd);
    for (size_t i = 0; i < n; i++)
        want[i] = naive_max(w, n_rows, i, accumulate, y[i]);
    k->combine_max(y, rows, w, n_rows, n, accumulate);
    assert_same_row(k->name, y, want, n);
}

static void combine_max_keeps_bits_and_nan_wins(const vtci_kernels *k)
{
    uint64_t seed = 6;

    point_at_rows();
    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t c = 1; c < N_ROW_COUNTS; c++)
            for (unsigned options = 0; options < 8; options++)
                check_max_at(k, &seed, row_counts[c], length_at(i), (options & 1) != 0,
                             (options & 2) != 0, (options & 4) != 0);
}

/* ---- the largest, and the first that is large -------------------------------------------------
 */

static void assert_max(const vtci_kernels *k, const float *x, size_t n)
{
    float want = -INFINITY;

    for (size_t i = 0; i < n; i++)
        if (x[i] > want)
            want = x[i];
    if (!(k->max(x, n) == want))
        fail_msg("%s: the largest of %zu is %g, not %g", k->name, n, (double)k->max(x, n),
                 (double)want);
}

static void assert_first(const vtci_kernels *k, const float *x, size_t n, float bound)
{
    size_t want = 0;

    while (want < n && !(x[want] >= bound))
        want++;
    if (k->first_at_least(x, n, bound) != want)
        fail_msg("%s: the first of %zu from %g on is %zu, not %zu", k->name, n, (double)bound,
                 k->first_at_least(x, n, bound), want);
}

static void the_largest_and_the_first_above_a_bound_are_found_among_nan(const vtci_kernels *k)
{
    static float x[MAX_LENGTH];
    uint64_t seed = 7;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (int repeat = 0; repeat < 4; repeat++) {
            const size_t n = length_at(i);

            fill_odd(&seed, x, n, repeat % 2 != 0);
            assert_max(k, x, n);
            assert_first(k, x, n, k->max(x, n));
            assert_first(k, x, n, rng_f32(&seed));
            assert_first(k, x, n, 0.0f);
            assert_first(k, x, n, -INFINITY);
            assert_first(k, x, n, NAN);
        }
}

static void every_place_is_found(const vtci_kernels *k)
{
    static float x[288];

    for (size_t n = 1; n <= 288; n = n < 40 ? n + 1 : 2 * n - 7)
        for (size_t place = 0; place < n; place++) {
            for (size_t i = 0; i < n; i++)
                x[i] = i < place ? -INFINITY : i == place ? -1.0f : -2.0f;
            assert_true(k->max(x, n) == -1.0f);
            assert_int_equal(k->first_at_least(x, n, -1.0f), place);
            assert_int_equal(k->first_at_least(x, n, -3.0f), place);
            assert_int_equal(k->first_at_least(x, n, -0.5f), n);
        }
}

/* ---- panels -----------------------------------------------------------------------------------
 */

static void check_panels_at(const vtci_kernels *k, uint64_t *seed, size_t m, size_t n_panels,
                            size_t depth)
{
    const size_t lda = depth + 3, n = n_panels * VTCI_PANEL, ldc = n + 5;
    float *a = guard_alloc(m * lda * sizeof(*a)), *c = guard_alloc(m * ldc * sizeof(*c));
    float *b = guard_alloc(n * depth * sizeof(*b)), one[VTCI_PANEL];

    fill_scaled(seed, a, m * lda, 1.0f);
    fill_scaled(seed, b, n * depth, 1.0f);
    poison(c, m * ldc * sizeof(*c));
    guard_readonly(a);
    guard_readonly(b);
    k->multiply_panels(c, ldc, a, lda, b, m, n_panels, depth);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            const float *column = b + j / VTCI_PANEL * depth * VTCI_PANEL + j % VTCI_PANEL;
            double want = 0.0, size = 0.0;

            for (size_t l = 0; l < depth; l++) {
                want += (double)a[i * lda + l] * column[l * VTCI_PANEL];
                size += fabs((double)a[i * lda + l] * column[l * VTCI_PANEL]);
            }
            if (!(fabs(c[i * ldc + j] - want) <= (1 + (double)depth) * UNIT * size))
                fail_msg("%s: panels, row %zu, column %zu: %g, not %g", k->name, i, j,
                         (double)c[i * ldc + j], want);
        }
        assert_true(is_poisoned(c + i * ldc + n, (ldc - n) * sizeof(*c)));
        /* the same bits wherever the row stands, and beside whichever panels */
        for (size_t j = 0; j < n_panels; j++) {
            k->multiply_panels(one, VTCI_PANEL, a + i * lda, lda, b + j * depth * VTCI_PANEL, 1, 1,
                               depth);
            assert_same_row(k->name, c + i * ldc + j * VTCI_PANEL, one, VTCI_PANEL);
        }
    }
    guard_free(a);
    guard_free(b);
    guard_free(c);
}

static void products_by_panels_are_near_the_double_sum(const vtci_kernels *k)
{
    uint64_t seed = 10;

    for (size_t m = 0; m <= 30; m++)
        for (size_t depth = 0; depth <= 9; depth += 3)
            check_panels_at(k, &seed, m, m % 4, depth);
    check_panels_at(k, &seed, 64, 5, 128);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Calls every kernel with rows that touch an unreadable page at one end; inputs are read-only. */
static void run_guarded(const vtci_kernels *k, size_t n, void *(*alloc)(size_t bytes))
{
    float *x = alloc(n * sizeof(float)), *y = alloc(n * sizeof(float));
    uint16_t *in = alloc(n * sizeof(uint16_t)), *out = alloc(n * sizeof(uint16_t));
    const float *two[2] = { x, x };
    const uint16_t *narrow[2] = { in, in };
    const float w[2] = { 1.0f, 2.0f };
    float distances[2];
    const char *from = (const char *)x;
    char *to = (char *)y;

    guard_readonly(x);
    guard_readonly(in);
    k->dot(x, x, n);
    k->square_distances(distances, x, two, 2, n);
    k->scale(y, x, 2.0f, n);
    k->combine(y, two, w, 2, n, 0);
    k->combine(y, two, w, 2, n, 1);
    k->combine_max(y, two, w, 2, n, 0);
    k->combine_max(y, two, NULL, 2, n, 1);
    k->combine_f16(y, narrow, w, 2, n, 0);
    k->combine_bf16(y, narrow, w, 2, n, 1);
    k->combine_max_f16(y, narrow, w, 2, n, 0);
    k->combine_max_bf16(y, narrow, NULL, 2, n, 1);
    k->max(x, n);
    k->first_at_least(x, n, INFINITY);
    if (n != 0)
        k->softmax(y, x, x, 1.0f, n);
    k->exp_sum(y, x, 1.0f, 0.0f, n);
    k->f16_to_f32(y, in, n);
    k->bf16_to_f32(y, in, n);
    k->f32_to_f16(out, x, n);
    k->f32_to_bf16(out, x, n);
    k->stream_rows(&to, &from, 1, n * sizeof(float));
    guard_free(x);
    guard_free(y);
    guard_free(in);
    guard_free(out);
}

static void no_kernel_leaves_its_rows(const vtci_kernels *k)
{
    for (size_t n = 0; n < 140; n++) {
        run_guarded(k, n, guard_alloc);
        run_guarded(k, n, guard_alloc_front);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_choose_the_table),
        on_every_table(dot_is_near_the_double_sum),
        on_every_table(dot_bits_do_not_depend_on_alignment),
        on_every_table(square_distances_are_near_the_double_sums_either_way),
        on_every_table(scale_is_one_rounded_product),
        on_every_table(combine_is_the_weighted_sum),
        on_every_table(combine_continues_where_it_stopped),
        on_every_table(combine_max_keeps_bits_and_nan_wins),
        on_every_table(the_largest_and_the_first_above_a_bound_are_found_among_nan),
        on_every_table(every_place_is_found),
        on_every_table(products_by_panels_are_near_the_double_sum),
        on_every_table(no_kernel_leaves_its_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
