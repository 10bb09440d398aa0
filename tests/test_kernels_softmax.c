/* Every table's softmax and exponentials against the definitions in double. */
#include "kernel_tables.h"

/* ---- softmax --------------------------------------------------------------------------------- */

static double logit(const float *x, const float *bias, float scale, size_t i)
{
    return (double)scale * x[i] + (bias == NULL ? 0.0 : bias[i]);
}

/* An error of the logit is an error of the result's logarithm: one rounding at the largest size of
 * a logit, then 8 units for exp, the sum and the division. */
static void check_softmax_at(const vtci_kernels *k, const float *x, const float *bias, float scale,
                             size_t n)
{
    static float p[MAX_LENGTH];
    double top = -INFINITY, sum = 0.0, largest = 0.0;

    for (size_t i = 0; i < n; i++) {
        top = fmax(top, logit(x, bias, scale, i));
        if (isfinite(x[i]))
            largest = fmax(largest, fabs((double)scale * x[i]) +
                                        (bias == NULL ? 0.0 : fabs((double)bias[i])));
    }
    for (size_t i = 0; i < n; i++)
        sum += exp(logit(x, bias, scale, i) - top);

    k->softmax(p, x, bias, scale, n);
    for (size_t i = 0; i < n; i++) {
        const double want = exp(logit(x, bias, scale, i) - top) / sum;

        if (!(fabs(p[i] - want) <= (8 + (double)n / 32 + 4 * largest) * UNIT * want + 0x1p-126))
            fail_msg("%s: softmax of %zu: [%zu] is %g, not %g", k->name, n, i, (double)p[i], want);
    }
}

static void softmax_is_near_the_double_result(const vtci_kernels *k)
{
    static float x[MAX_LENGTH], bias[MAX_LENGTH];
    uint64_t seed = 8;

    for (size_t i = 1; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        fill_scaled(&seed, x, n, 4.0f);
        fill_scaled(&seed, bias, n, 2.0f);
        check_softmax_at(k, x, NULL, 1.0f, n);
        check_softmax_at(k, x, bias, 0.125f, n);
        check_softmax_at(k, x, NULL, -30.0f, n); /* from 1 to below the smallest float */
        x[rng_below(&seed, n)] = 1e30f;
        check_softmax_at(k, x, NULL, 1.0f, n);
        x[n - 1] = n > 1 ? -INFINITY : 0.0f;
        check_softmax_at(k, x, bias, 1.0f, n);
    }
}

/* softmax of (0, x, x, ...) shows exp(x) itself where exp(x) vanishes beside 1. */
static void exp_is_within_about_one_ulp(const vtci_kernels *k)
{
    enum { STEPS = 100000 };
    float x[16], p[16];

    for (int step = 0; step < STEPS; step++) {
        const float a = -87.3f + 60.0f * (float)step / STEPS;
        const double want = exp((double)a);
        int exponent;

        for (size_t i = 0; i < 16; i++)
            x[i] = i == 0 ? 0.0f : a;
        k->softmax(p, x, NULL, 1.0f, 16);
        frexp(want, &exponent);
        const double ulps = fabs(p[5] - want) / ldexp(1.0, exponent - 24);
        if (!(ulps <= 1.02))
            fail_msg("%s: exp(%a) is %a, off by %g ULP", k->name, (double)a, (double)p[5], ulps);
    }
}

static void softmax_keeps_infinities_and_nan_in_their_place(const vtci_kernels *k)
{
    float x[40], y[40], p[40];

    for (size_t n = 1; n <= 40; n++) {
        for (size_t i = 0; i < n; i++)
            x[i] = -INFINITY;
        k->softmax(p, x, NULL, 1.0f, n);
        for (size_t i = 0; i < n; i++)
            assert_true(isnan(p[i]));

        x[n - 1] = 5.0f; /* the only one: all of the probability, exactly */
        k->softmax(p, x, NULL, 1.0f, n);
        for (size_t i = 0; i < n; i++)
            assert_true(p[i] == (i == n - 1 ? 1.0f : 0.0f));

        for (size_t i = 0; i < n; i++)
            y[i] = i == n / 2 ? NAN : x[i];
        k->softmax(y, y, NULL, 1.0f, n);
        for (size_t i = 0; i < n; i++)
            assert_true(isnan(y[i]));

        memcpy(y, x, n * sizeof(*x));
        k->softmax(y, y, NULL, 1.0f, n); /* in place */
        assert_same_row(k->name, y, p, n);
    }
}

/* ---- exponentials and their sum ---------------------------------------------------------------
 */

static void check_exp_sum_at(const vtci_kernels *k, const float *x, float scale, float top,
                             size_t n)
{
    static float p[MAX_LENGTH];
    const float got = k->exp_sum(p, x, scale, top, n);
    double sum = 0.0;

    for (size_t i = 0; i < n; i++) {
        const double logit = (double)scale * x[i] - top, want = exp(fmin(logit, 0.0));

        sum += p[i];
        if (!(fabs(p[i] - want) <= (2 + 2 * fabs(logit)) * UNIT * want + 0x1p-126))
            fail_msg("%s: exp_sum of %zu: [%zu] is %g, not %g", k->name, n, i, (double)p[i], want);
    }
    if (!(fabs(got - sum) <= (2 + (double)n / 16) * UNIT * sum))
        fail_msg("%s: exp_sum of %zu is %g, not %g", k->name, n, (double)got, sum);
}

static void exponentials_and_their_sum_are_near_the_double_result(const vtci_kernels *k)
{
    static float x[MAX_LENGTH], y[MAX_LENGTH], p[MAX_LENGTH];
    uint64_t seed = 9;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i);

        fill_scaled(&seed, x, n, 4.0f);
        check_exp_sum_at(k, x, 1.0f, 4.0f, n);
        check_exp_sum_at(k, x, 0.125f, -0.2f, n); /* some are above and count 1 */
        check_exp_sum_at(k, x, 30.0f, 120.0f, n); /* from 1 to below the smallest float */
        memcpy(y, x, n * sizeof(*x));
        k->exp_sum(p, x, 1.0f, 4.0f, n);
        k->exp_sum(y, y, 1.0f, 4.0f, n); /* in place */
        assert_same_row(k->name, y, p, n);
    }
}

static void exponentials_end_at_1_and_nan_stays(const vtci_kernels *k)
{
    float x[40], p[40];

    for (size_t n = 1; n <= 40; n++) {
        for (size_t i = 0; i < n; i++)
            x[i] = i % 3 == 0 ? 3e38f : i % 3 == 1 ? -INFINITY : INFINITY;
        assert_true(k->exp_sum(p, x, 1.0f, 5.0f, n) == (float)(n - (n + 1) / 3));
        for (size_t i = 0; i < n; i++)
            assert_true(p[i] == (i % 3 == 1 ? 0.0f : 1.0f));
        x[n - 1] = NAN;
        assert_true(isnan(k->exp_sum(p, x, 1.0f, 5.0f, n)) && isnan(p[n - 1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(softmax_is_near_the_double_result),
        on_every_table(exp_is_within_about_one_ulp),
        on_every_table(softmax_keeps_infinities_and_nan_in_their_place),
        on_every_table(exponentials_and_their_sum_are_near_the_double_result),
        on_every_table(exponentials_end_at_1_and_nan_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
