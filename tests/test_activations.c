/*
 * Every table's activations against their formulas in double, over all of the floats, at odd
 * lengths, with and without bias, in place, at the edge of readable memory.
 */
#include "kernel_tables.h"

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double definition(vtci_activation act, double x)
{
    const double root = 0.79788456080286535588; /* sqrt(2 / pi) */

    switch (act) {
    case VTCI_ACT_GELU_ERF:
        return x / 2 * erfc(-x / sqrt(2.0));
    case VTCI_ACT_GELU_TANH:
        /* tanh() itself where nothing cancels, its exponential form where 1 + tanh() would */
        return x > -1 ? x / 2 * (1 + tanh(root * (x + 0.044715 * x * x * x)))
                      : x * sigmoid(2 * root * (x + 0.044715 * x * x * x));
    case VTCI_ACT_GELU_QUICK:
        return x * sigmoid(1.702 * x);
    case VTCI_ACT_SILU:
        return x * sigmoid(x);
    case VTCI_ACT_HARD_SWISH:
        return x * fmin(fmax(x + 3, 0), 6) / 6;
    case VTCI_ACT_RELU2:
        return x > 0 ? x * x : 0;
    case VTCI_ACT_RELU:
        return x > 0 ? x : 0;
    case VTCI_ACT_SIGMOID:
        return sigmoid(x);
    case VTCI_ACT_HARD_SIGMOID:
        return fmin(fmax(x + 3, 0), 6) / 6;
    default:
        return x;
    }
}

/* What kernels.h promises, in ULP. */
static double bound_in_ulp(vtci_activation act, double x)
{
    switch (act) {
    case VTCI_ACT_GELU_ERF:
        return 8;
    case VTCI_ACT_GELU_TANH:
    case VTCI_ACT_GELU_QUICK:
        return x >= 0 ? 3 : INFINITY;
    case VTCI_ACT_SILU:
    case VTCI_ACT_SIGMOID:
        return 3;
    case VTCI_ACT_HARD_SWISH:
    case VTCI_ACT_HARD_SIGMOID:
        return 2;
    default:
        return 0.5;
    }
}

static double ulp_of(double x)
{
    int exponent;

    frexp(x, &exponent);
    return ldexp(1.0, exponent < -125 ? -149 : exponent - 24);
}

static void assert_value(const vtci_kernels *k, vtci_activation act, float x, float got)
{
    const double want = definition(act, (double)x), error = fabs(got - want);
    double bound = bound_in_ulp(act, (double)x) * ulp_of(want);

    if (act == VTCI_ACT_GELU_ERF)
        bound = fmin(bound, 7.5e-8 * (1 + fabs(want)));
    else
        bound = fmin(bound, 1.5e-7 * (1 + fabs(want)));
    if (fabs(want) < 0x1p-119 && act != VTCI_ACT_NONE)
        bound = fmax(bound, 0x1p-119);
    if (isfinite((float)want) && !(error <= bound))
        fail_msg("%s: function %d of %a is %a, not %a: off by %g ULP, %g", k->name, (int)act,
                 (double)x, (double)got, want, error / ulp_of(want), error);
    /* a result that overflows may stay finite by its rounding error only */
    if (!isfinite((float)want) && !isnan(want))
        assert_true(got >= 0x1.fffff0p127f);
}

static void assert_row(const vtci_kernels *k, vtci_activation act, const float *x, const float *y,
                       size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_value(k, act, x[i], y[i]);
}

/* ---- values ---------------------------------------------------------------------------------- */

enum { ROW = 512 };

/* Every 50021st finite float, of both signs. */
static void errors_stay_within_the_stated_bounds_over_all_floats(const vtci_kernels *k)
{
    float x[ROW], y[ROW];

    for (uint32_t bits = 0; bits < 0x7f800000;) {
        size_t n = 0;

        for (; n < ROW && bits < 0x7f800000; n += 2, bits += 50021) {
            x[n] = float_of(bits);
            x[n + 1] = -x[n];
        }
        for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
            k->activate(act, y, x, NULL, n);
            assert_row(k, act, x, y, n);
        }
    }
}

/* Even steps where the functions bend. */
static void errors_stay_within_the_stated_bounds_around_zero(const vtci_kernels *k)
{
    float x[ROW], y[ROW];

    for (int step = -100; step < 100; step++) {
        for (size_t i = 0; i < ROW; i++)
            x[i] = 0.15f * ((float)step + (float)i / ROW);
        for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
            k->activate(act, y, x, NULL, ROW);
            assert_row(k, act, x, y, ROW);
        }
    }
}

static void nan_stays_and_infinities_go_where_the_formula_sends_them(const vtci_kernels *k)
{
    static const bool is_gate[VTCI_N_ACTIVATIONS] = { [VTCI_ACT_GELU_ERF] = true,
                                                      [VTCI_ACT_GELU_TANH] = true,
                                                      [VTCI_ACT_GELU_QUICK] = true,
                                                      [VTCI_ACT_SILU] = true,
                                                      [VTCI_ACT_HARD_SWISH] = true };
    const float x[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f };
    float y[5];

    for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
        const bool bounded = act == VTCI_ACT_SIGMOID || act == VTCI_ACT_HARD_SIGMOID;

        k->activate(act, y, x, NULL, 5);
        assert_true(isnan(y[0]));
        assert_true(y[1] == (bounded ? 1.0f : INFINITY));
        if (is_gate[act])
            assert_true(isnan(y[2])); /* -inf * 0 */
        else
            assert_true(y[2] == (act == VTCI_ACT_NONE ? -INFINITY : 0.0f));
        assert_true(y[3] == (bounded ? 0.5f : 0.0f));
        assert_true(y[4] == (bounded ? 0.5f : 0.0f));
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void bias_is_added_first_and_rows_may_be_replaced(const vtci_kernels *k)
{
    static float x[MAX_LENGTH], bias[MAX_LENGTH], sum[MAX_LENGTH], want[MAX_LENGTH], y[MAX_LENGTH];
    uint64_t seed = 1;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
            const size_t n = length_at(i);

            rng_fill(&seed, x, n);
            rng_fill(&seed, bias, n);
            for (size_t j = 0; j < n; j++)
                sum[j] = x[j] + bias[j];
            k->activate(act, want, sum, NULL, n);
            assert_row(k, act, sum, want, n);
            k->activate(act, y, x, bias, n);
            assert_memory_equal(y, want, n * sizeof(*y));
            k->activate(act, x, x, bias, n); /* in place */
            assert_memory_equal(x, want, n * sizeof(*x));
        }
}

static void bits_do_not_depend_on_alignment(const vtci_kernels *k)
{
    float x[16 + 77], y[16 + 77], want[77];
    uint64_t seed = 2;

    for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
        rng_fill(&seed, x, 77);
        k->activate(act, want, x, NULL, 77);
        for (size_t offset = 0; offset < 16; offset++) {
            memmove(x + offset, x + (offset == 0 ? 0 : offset - 1), 77 * sizeof(*x));
            k->activate(act, y + 15 - offset, x + offset, NULL, 77);
            assert_memory_equal(y + 15 - offset, want, sizeof(want));
        }
    }
}

/* A lane's bits must not depend on its place in the row: tiles cut rows anywhere. */
static void bits_do_not_depend_on_the_place_in_the_row(const vtci_kernels *k)
{
    float x[40], y[40];

    for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++)
        for (size_t n = 1; n <= 40; n++) {
            for (size_t i = 0; i < n; i++)
                x[i] = -0.7331f;
            k->activate(act, y, x, NULL, n);
            for (size_t i = 1; i < n; i++)
                assert_true(same_value(y[i], y[0]));
        }
}

static void run_guarded(const vtci_kernels *k, size_t n, void *(*alloc)(size_t bytes))
{
    float *x = alloc(n * sizeof(float)), *y = alloc(n * sizeof(float));

    guard_readonly(x);
    for (vtci_activation act = 0; act < VTCI_N_ACTIVATIONS; act++) {
        k->activate(act, y, x, NULL, n);
        k->activate(act, y, x, x, n);
    }
    guard_free(x);
    guard_free(y);
}

static void no_activation_leaves_its_rows(const vtci_kernels *k)
{
    for (size_t n = 0; n < 70; n++) {
        run_guarded(k, n, guard_alloc);
        run_guarded(k, n, guard_alloc_front);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(errors_stay_within_the_stated_bounds_over_all_floats),
        on_every_table(errors_stay_within_the_stated_bounds_around_zero),
        on_every_table(nan_stays_and_infinities_go_where_the_formula_sends_them),
        on_every_table(bias_is_added_first_and_rows_may_be_replaced),
        on_every_table(bits_do_not_depend_on_alignment),
        on_every_table(bits_do_not_depend_on_the_place_in_the_row),
        on_every_table(no_activation_leaves_its_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
