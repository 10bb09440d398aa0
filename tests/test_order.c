/* Rankings against counting: the place of an index is the number of indices that go before it. */
#include "../src/linalg/order.h"
#include "support/support.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { MAX_N = 700 };

static bool goes_before(const float *score, bool rising, size_t a, size_t b)
{
    if (score[a] == score[b])
        return a < b;
    return rising ? score[a] < score[b] : score[a] > score[b];
}

static void assert_ranked(const float *score, bool rising, const int32_t *order, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++) {
        size_t place = 0;

        for (size_t j = 0; j < n; j++)
            place += goes_before(score, rising, j, i);
        if (place < k && order[place] != (int32_t)i)
            fail_msg("place %zu of %zu holds %d, not %zu", place, n, (int)order[place], i);
    }
}

/* The indices with fewer than k before them, ascending. */
static void assert_selected(const float *score, const int32_t *chosen, size_t n, size_t k)
{
    size_t n_chosen = 0;

    for (size_t i = 0; i < n; i++) {
        size_t place = 0;

        for (size_t j = 0; j < n; j++)
            place += goes_before(score, false, j, i);
        if (place < k && chosen[n_chosen++] != (int32_t)i)
            fail_msg("%zu is among the best %zu of %zu and not chosen", i, k, n);
    }
    assert_int_equal(n_chosen, k);
}

static void check_selection(const float *readonly, size_t n, size_t k)
{
    int32_t *chosen = guard_alloc(k * sizeof(*chosen));

    poison(chosen, k * sizeof(*chosen));
    vtci_select_top(chosen, readonly, n, k);
    assert_selected(readonly, chosen, n, k);
    guard_free(chosen);
}

static void check_all(const float *score, size_t n)
{
    int32_t *order = guard_alloc(n * sizeof(*order));
    const float *readonly = guard_copy_readonly(score, n * sizeof(*score));
    const size_t ks[] = { 0, n != 0, n / 3, n / 2, n };

    vtci_argsort_falling(order, readonly, n);
    assert_ranked(score, false, order, n, n);
    vtci_argsort_rising(order, readonly, n);
    assert_ranked(score, true, order, n, n);
    for (size_t i = 0; i < sizeof(ks) / sizeof(*ks); i++) {
        poison(order, n * sizeof(*order));
        vtci_top_k(order, readonly, n, ks[i]);
        assert_ranked(score, false, order, n, ks[i]);
        check_selection(readonly, n, ks[i]);
    }
    guard_free(order);
    guard_free((void *)(uintptr_t)readonly);
}

static void random_scores_are_ranked(void **state)
{
    float score[MAX_N];
    uint64_t seed = 1;

    (void)state;
    for (size_t n = 0; n <= MAX_N; n = n < 40 ? n + 1 : n * 3 / 2) {
        rng_fill(&seed, score, n);
        check_all(score, n);
    }
}

static void ties_go_to_the_lower_index(void **state)
{
    float score[MAX_N];
    uint64_t seed = 2;

    (void)state;
    for (size_t n = 0; n <= MAX_N; n = n < 40 ? n + 1 : n * 3 / 2)
        for (size_t values = 1; values <= 5; values++) {
            for (size_t i = 0; i < n; i++)
                score[i] = (float)rng_below(&seed, values);
            check_all(score, n);
        }
}

static void ordered_input_is_ranked(void **state)
{
    float up[200], down[200];

    (void)state;
    for (size_t i = 0; i < 200; i++) {
        up[i] = (float)(i / 3);
        down[i] = -up[i];
    }
    check_all(up, 200);
    check_all(down, 200);
}

static void zeros_of_both_signs_are_equal_and_infinities_are_last(void **state)
{
    static const float value[] = { 0.0f,       -0.0f, INFINITY, -INFINITY, 0x1p-149f,
                                   -0x1p-149f, 3e38f, -3e38f,   INFINITY,  -INFINITY };
    float score[90];
    uint64_t seed = 3;

    (void)state;
    for (int repeat = 0; repeat < 20; repeat++) {
        for (size_t i = 0; i < 90; i++)
            score[i] = value[rng_below(&seed, 10)];
        check_all(score, 90);
    }
}

static void top_k_leaves_a_permutation(void **state)
{
    float score[100];
    int32_t order[100];
    uint64_t seed = 4;

    (void)state;
    rng_fill(&seed, score, 100);
    vtci_top_k(order, score, 100, 7);
    vtci_sort_i32(order, 100);
    for (int32_t i = 0; i < 100; i++)
        assert_int_equal(order[i], i);
}

static void integers_are_sorted(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (size_t n = 0; n < 200; n++) {
        int32_t *x = guard_alloc(n * sizeof(*x));
        int64_t sum = 0;

        for (size_t i = 0; i < n; i++) {
            x[i] = (int32_t)(uint32_t)(rng(&seed) >> (n % 2 == 0 ? 32 : 62));
            if (i % 17 == 3)
                x[i] = i % 2 == 0 ? INT_MIN : INT_MAX;
            sum += x[i];
        }
        vtci_sort_i32(x, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(i == 0 || x[i - 1] <= x[i]);
            sum -= x[i];
        }
        assert_int_equal(sum, 0);
        guard_free(x);
    }
}

static void the_first_nan_is_found(void **state)
{
    (void)state;
    for (size_t n = 0; n < 200; n++) {
        float *x = guard_alloc(n * sizeof(*x));

        for (size_t i = 0; i < n; i++)
            x[i] = i % 2 == 0 ? INFINITY : 0.0f;
        assert_int_equal(vtci_find_nan(x, n), n);
        for (size_t i = n; i-- > 0;) {
            x[i] = i % 3 == 0 ? -NAN : NAN;
            assert_int_equal(vtci_find_nan(x, n), i);
        }
        guard_free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_scores_are_ranked),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(ordered_input_is_ranked),
        cmocka_unit_test(zeros_of_both_signs_are_equal_and_infinities_are_last),
        cmocka_unit_test(top_k_leaves_a_permutation),
        cmocka_unit_test(integers_are_sorted),
        cmocka_unit_test(the_first_nan_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
