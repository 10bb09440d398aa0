/* Every table's norms against their formulas in double: odd lengths, rows far from zero, constant
 * rows, in place, at the edge of readable memory. */
#include "kernel_tables.h"

static float x[MAX_LENGTH], w[MAX_LENGTH], b[MAX_LENGTH], y[MAX_LENGTH];

static void fill_row(uint64_t *seed, size_t n, float middle, float spread)
{
    rng_fill(seed, w, n);
    rng_fill(seed, b, n);
    for (size_t i = 0; i < n; i++)
        x[i] = middle + spread * rng_f32(seed);
}

/* ---- LayerNorm ------------------------------------------------------------------------------- */

static void assert_layer_norm(const vtci_kernels *k, const float *weight, const float *bias,
                              float eps, size_t n)
{
    double mean = 0.0, var = 0.0;

    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++) {
        const double unit = (x[i] - mean) / sqrt(var + (double)eps);
        const double scale = weight == NULL ? 1.0 : (double)weight[i];
        const double want = unit * scale + (bias == NULL ? 0.0 : (double)bias[i]);
        /* the statistics' share and the last additions' */
        const double bound =
            (16 + (double)n / 128) * UNIT * fabs(scale) * (1 + fabs(unit)) + 2 * UNIT * fabs(want);

        if (!(fabs(y[i] - want) <= bound))
            fail_msg("%s: length %zu: [%zu] is %g, not %g: off by %g units", k->name, n, i,
                     (double)y[i], want, fabs(y[i] - want) / UNIT / (1 + fabs(unit)));
    }
}

static void check_layer_norm_at(const vtci_kernels *k, size_t n, float eps)
{
    k->layer_norm(y, x, w, b, eps, n);
    assert_layer_norm(k, w, b, eps, n);
    k->layer_norm(y, x, NULL, NULL, eps, n);
    assert_layer_norm(k, NULL, NULL, eps, n);
    k->layer_norm(y, x, w, NULL, eps, n);
    assert_layer_norm(k, w, NULL, eps, n);
}

static void layer_norm_is_near_the_double_result(const vtci_kernels *k)
{
    static const float middle[] = { 0.0f, 1.0f, -1000.0f, 3e7f, 0.0f, 0.0f, 1e-3f };
    static const float spread[] = { 1.0f, 0.1f, 0.01f, 1e3f, 1e15f, 1e-15f, 1e-3f };
    uint64_t seed = 1;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t kind = 0; kind < sizeof(middle) / sizeof(*middle); kind++) {
            fill_row(&seed, length_at(i), middle[kind], spread[kind]);
            check_layer_norm_at(k, length_at(i), 1e-5f);
            check_layer_norm_at(k, length_at(i), 1e-12f);
        }
}

/* One value far from all others: the first, around which the first pass sums, or another. */
static void an_outlier_does_not_spoil_the_statistics(const vtci_kernels *k)
{
    uint64_t seed = 2;

    for (size_t i = 2; i < N_LENGTHS; i++)
        for (size_t place = 0; place < 2; place++) {
            fill_row(&seed, length_at(i), 0.0f, 1.0f);
            x[place] = 1e6f;
            check_layer_norm_at(k, length_at(i), 1e-6f);
        }
}

static void a_constant_row_gives_the_bias_exactly(const vtci_kernels *k)
{
    static const float constants[] = { 0.0f, 1.0f, -0.1f, 1234.567f, 3e-30f, 1e30f, 3e38f };
    uint64_t seed = 3;

    rng_fill(&seed, w, MAX_LENGTH);
    rng_fill(&seed, b, MAX_LENGTH);
    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t c = 0; c < sizeof(constants) / sizeof(*constants); c++) {
            const size_t n = length_at(i);

            for (size_t j = 0; j < n; j++)
                x[j] = constants[c];
            k->layer_norm(y, x, w, b, 1e-6f, n);
            assert_memory_equal(y, b, n * sizeof(*y));
        }
}

/* ---- RMSNorm --------------------------------------------------------------------------------- */

static void check_rms_norm_at(const vtci_kernels *k, float offset, float eps, size_t n)
{
    double square = 0.0;

    for (size_t i = 0; i < n; i++)
        square += (double)x[i] * x[i] / (double)n;
    k->rms_norm(y, x, w, offset, eps, n);
    for (size_t i = 0; i < n; i++) {
        const double unit = x[i] / sqrt(square + (double)eps);
        const double want = unit * ((double)offset + w[i]);
        /* offset + w rounds once at the size of its operands */
        const double bound = (8 + (double)n / 128) * UNIT * fabs(want) +
                             UNIT * fabs(unit) * (fabs((double)offset) + fabs((double)w[i]));

        if (!(fabs(y[i] - want) <= bound))
            fail_msg("%s: length %zu: [%zu] is %g, not %g", k->name, n, i, (double)y[i], want);
    }
}

static void rms_norm_is_near_the_double_result(const vtci_kernels *k)
{
    static const float spread[] = { 1.0f, 1e-3f, 1e-8f, 1e15f };
    uint64_t seed = 4;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t kind = 0; kind < sizeof(spread) / sizeof(*spread); kind++) {
            fill_row(&seed, length_at(i), 0.0f, spread[kind]);
            check_rms_norm_at(k, 0.0f, 1e-6f, length_at(i));
            check_rms_norm_at(k, 1.0f, 1e-6f, length_at(i));
        }
}

/* ---- both ------------------------------------------------------------------------------------ */

static void nan_and_infinities_are_not_hidden(const vtci_kernels *k)
{
    static const float special[] = { NAN, INFINITY, -INFINITY };
    uint64_t seed = 5;

    for (size_t n = 1; n < 70; n++)
        for (size_t kind = 0; kind < 3; kind++)
            for (size_t place = 0; place < n; place += 7) {
                fill_row(&seed, n, 0.0f, 1.0f);
                x[place] = special[kind];
                k->layer_norm(y, x, w, b, 1e-5f, n);
                for (size_t i = 0; i < n; i++)
                    assert_true(isnan(y[i]));
                k->rms_norm(y, x, w, 0.0f, 1e-5f, n);
                assert_true(isnan(y[place]));
            }
}

static void rows_may_be_replaced(const vtci_kernels *k)
{
    static float want[MAX_LENGTH];
    uint64_t seed = 6;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        fill_row(&seed, n, 0.5f, 1.0f);
        memcpy(y, x, n * sizeof(*x));
        k->layer_norm(want, x, w, b, 1e-5f, n);
        k->layer_norm(y, y, w, b, 1e-5f, n);
        assert_memory_equal(y, want, n * sizeof(*y));
        memcpy(y, x, n * sizeof(*x));
        k->rms_norm(want, x, w, 1.0f, 1e-5f, n);
        k->rms_norm(y, y, w, 1.0f, 1e-5f, n);
        assert_memory_equal(y, want, n * sizeof(*y));
    }
}

static void bits_do_not_depend_on_alignment(const vtci_kernels *k)
{
    enum { N = 301 };
    float at[N + 16], to[N + 16], want[N];
    uint64_t seed = 7;

    fill_row(&seed, N, 0.5f, 1.0f);
    k->layer_norm(want, x, w, b, 1e-5f, N);
    for (size_t offset = 0; offset < 16; offset++) {
        memcpy(at + offset, x, sizeof(want));
        k->layer_norm(to + 15 - offset, at + offset, w, b, 1e-5f, N);
        assert_memory_equal(to + 15 - offset, want, sizeof(want));
    }
    k->rms_norm(want, x, w, 0.0f, 1e-5f, N);
    for (size_t offset = 0; offset < 16; offset++) {
        memcpy(at + offset, x, sizeof(want));
        k->rms_norm(to + 15 - offset, at + offset, w, 0.0f, 1e-5f, N);
        assert_memory_equal(to + 15 - offset, want, sizeof(want));
    }
}

static void run_guarded(const vtci_kernels *k, size_t n, void *(*alloc)(size_t bytes))
{
    float *in = alloc(n * sizeof(float)), *out = alloc(n * sizeof(float));

    guard_readonly(in);
    k->layer_norm(out, in, in, in, 1e-5f, n);
    k->layer_norm(out, in, NULL, NULL, 1e-5f, n);
    k->rms_norm(out, in, in, 1.0f, 1e-5f, n);
    guard_free(in);
    guard_free(out);
}

static void no_norm_leaves_its_rows(const vtci_kernels *k)
{
    for (size_t n = 0; n < 140; n++) {
        run_guarded(k, n, guard_alloc);
        run_guarded(k, n, guard_alloc_front);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(layer_norm_is_near_the_double_result),
        on_every_table(an_outlier_does_not_spoil_the_statistics),
        on_every_table(a_constant_row_gives_the_bias_exactly),
        on_every_table(rms_norm_is_near_the_double_result),
        on_every_table(nan_and_infinities_are_not_hidden),
        on_every_table(rows_may_be_replaced),
        on_every_table(bits_do_not_depend_on_alignment),
        on_every_table(no_norm_leaves_its_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
