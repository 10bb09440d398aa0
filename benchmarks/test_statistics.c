/* The numbers that decide whether a goal is met. */
#include "statistics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { MOST = 101 };

/* x = n, n - 1, ..., 1: the k-th smallest is k. */
static void falling(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (double)(n - i);
}

static void quartiles_lie_between_neighbours(void **state)
{
    double x[MOST];

    (void)state;
    falling(x, 6);
    const bench_spread spread = bench_spread_of(x, 6);

    assert_true(spread.min == 1.0 && spread.q1 == 2.25);
    assert_true(spread.median == 3.5 && spread.q3 == 4.75);
}

/* Ranks as tables of the sign test give them for 95 %. */
static void interval_has_the_ranks_of_the_sign_test(void **state)
{
    static const struct {
        size_t n, low;
    } table[] = { { 6, 1 }, { 8, 1 }, { 9, 2 }, { 15, 4 }, { 20, 6 }, { 25, 8 }, { 50, 18 } };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        double x[MOST];

        falling(x, table[i].n);
        const bench_interval interval = bench_interval_of(x, table[i].n);

        assert_int_equal(interval.low, table[i].low);
        assert_int_equal(interval.high, table[i].n + 1 - table[i].low);
        assert_true(interval.median == (double)(table[i].n + 1) / 2.0);
    }
}

static void five_values_are_too_few_for_an_interval(void **state)
{
    double x[MOST];

    (void)state;
    for (size_t n = 1; n <= 5; n++) {
        falling(x, n);
        const bench_interval interval = bench_interval_of(x, n);

        assert_true(isnan(interval.low) && isnan(interval.high));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quartiles_lie_between_neighbours),
        cmocka_unit_test(interval_has_the_ranks_of_the_sign_test),
        cmocka_unit_test(five_values_are_too_few_for_an_interval),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
