/* Transposition. */
#include "support/support.h"

#include "../src/linalg/transpose.h"

static void check_transpose(uint64_t *seed, size_t n_rows, size_t n_cols, size_t gap)
{
    const size_t from_stride = n_cols + gap, to_stride = n_rows + gap;
    float *from = guard_alloc((n_rows * from_stride - gap) * sizeof(*from));
    float *to = guard_alloc((n_cols * to_stride - gap) * sizeof(*to));

    rng_fill(seed, from, n_rows * from_stride - gap);
    guard_readonly(from);
    poison(to, (n_cols * to_stride - gap) * sizeof(*to));
    vtci_transpose(to, to_stride, from, from_stride, n_rows, n_cols);
    for (size_t c = 0; c < n_cols; c++) {
        for (size_t r = 0; r < n_rows; r++)
            assert_true(to[c * to_stride + r] == from[r * from_stride + c]);
        if (c + 1 < n_cols)
            assert_true(is_poisoned(to + c * to_stride + n_rows, gap * sizeof(*to)));
    }
    guard_free(from);
    guard_free(to);
}

static void every_element_moves_and_gaps_stay(void **state)
{
    const size_t sides[8] = { 1, 2, 15, 16, 17, 32, 50, 64 };
    uint64_t seed = 91;

    (void)state;
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            for (size_t gap = 0; gap < 3; gap++)
                check_transpose(&seed, sides[r], sides[c], gap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_moves_and_gaps_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
