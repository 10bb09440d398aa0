/* The nearest of many unit rows, whatever the last bits of a product say. */
#include "support/support.h"

#include "../src/linalg/nearest.h"

#include <math.h>
#include <string.h>

enum { N = 9, D = 33 };

static void make_units(uint64_t *seed, float *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;

        rng_fill(seed, rows + i * D, D);
        for (size_t c = 0; c < D; c++)
            sum += (double)rows[i * D + c] * rows[i * D + c];
        for (size_t c = 0; c < D; c++)
            rows[i * D + c] = (float)(rows[i * D + c] / sqrt(sum));
    }
}

static float product_of(const float *a, const float *b)
{
    double sum = 0.0;

    for (size_t c = 0; c < D; c++)
        sum += (double)a[c] * b[c];
    return (float)sum;
}

static void errors_of_the_product_do_not_decide(void **state)
{
    float rows[N * D], x[D], product[N], best;
    uint64_t seed = 71;

    (void)state;
    make_units(&seed, rows, N);
    memcpy(x, rows + 2 * D, sizeof(x)); /* rows 2, 5 and 7 are the same */
    memcpy(rows + 5 * D, x, sizeof(x));
    memcpy(rows + 7 * D, x, sizeof(x));
    for (size_t i = 0; i < N; i++)
        product[i] = product_of(x, rows + i * D);
    product[5] += 4e-7f;
    product[7] += 8e-7f;
    assert_int_equal(vtci_nearest_row(x, rows, product, N, D, &best), 2);
    assert_true(fabsf(best - 1.0f) < 1e-6f);
}

static void excluded_and_no_rows(void **state)
{
    float rows[N * D], product[N], best;
    uint64_t seed = 72;

    (void)state;
    make_units(&seed, rows, N);
    for (size_t i = 0; i < N; i++)
        product[i] = product_of(rows + 4 * D, rows + i * D);
    product[4] = -INFINITY;
    assert_int_not_equal(vtci_nearest_row(rows + 4 * D, rows, product, N, D, &best), 4);
    assert_int_equal(vtci_nearest_row(rows, rows, product, 0, D, &best), 0);
    assert_true(best == -INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_of_the_product_do_not_decide),
        cmocka_unit_test(excluded_and_no_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
