/* Rows moved by index. */
#include "support/support.h"

#include "../src/plan/pieces.h"

#include <string.h>

enum { N = 40, MAX_PIECE = 40, BYTES = N * (MAX_PIECE + 8) };

static void fill_random(uint64_t *seed, unsigned char *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (unsigned char)rng(seed);
}

/* Runs and single rows, ascending. */
static size_t choose_rows(uint64_t *seed, int32_t *keep)
{
    size_t n = 0;

    for (int32_t i = 0; i < N; i++)
        if (rng_below(seed, 3) != 0)
            keep[n++] = i;
    return n;
}

static void shuffle_slots(uint64_t *seed, int32_t *slot)
{
    for (int32_t i = 0; i < N; i++)
        slot[i] = i;
    for (size_t i = N - 1; i > 0; i--) {
        const size_t other = rng_below(seed, i + 1);
        const int32_t kept = slot[i];

        slot[i] = slot[other];
        slot[other] = kept;
    }
}

static void every_row_arrives_and_nothing_else_changes(void **state)
{
    static unsigned char src[BYTES], dst[BYTES], want[BYTES];
    int32_t keep[N], src_slot[N], dst_slot[N];
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        const size_t piece = 1 + rng_below(&seed, MAX_PIECE), n = choose_rows(&seed, keep);
        const size_t gap = rng_below(&seed, 2) * 5;
        const size_t begin = rng_below(&seed, n + 1), end = begin + rng_below(&seed, n - begin + 1);
        vtci_pieces p = { (char *)dst, (const char *)src, piece, piece + gap, piece + gap, NULL,
                          NULL };

        shuffle_slots(&seed, src_slot);
        shuffle_slots(&seed, dst_slot);
        p.src_slot = rng_below(&seed, 2) ? src_slot : NULL;
        p.dst_slot = rng_below(&seed, 2) ? dst_slot : NULL;
        fill_random(&seed, src, BYTES);
        fill_random(&seed, dst, BYTES);
        memcpy(want, dst, BYTES);
        for (size_t j = begin; j < end; j++) {
            const size_t s = (size_t)(p.src_slot ? src_slot[keep[j]] : keep[j]);
            const size_t d = p.dst_slot ? (size_t)dst_slot[j] : j;

            memcpy(want + d * (piece + gap), src + s * (piece + gap), piece);
        }
        vtci_move_pieces(&p, keep, begin, end);
        assert_memory_equal(dst, want, BYTES);
    }
}

static void rows_move_down_in_the_same_memory(void **state)
{
    static unsigned char x[BYTES], before[BYTES];
    int32_t keep[N], slot[N];
    uint64_t seed = 2;

    (void)state;
    for (int round = 0; round < 1000; round++) {
        const size_t piece = 1 + rng_below(&seed, MAX_PIECE), n = choose_rows(&seed, keep);
        vtci_pieces p = { (char *)x, (const char *)x, piece, piece, piece, NULL, NULL };

        shuffle_slots(&seed, slot);
        if (rng_below(&seed, 2))
            p.src_slot = p.dst_slot = slot;
        fill_random(&seed, x, BYTES);
        memcpy(before, x, BYTES);
        vtci_move_pieces(&p, keep, 0, n);
        for (size_t j = 0; j < n; j++) {
            const size_t s = (size_t)(p.src_slot ? slot[keep[j]] : keep[j]);
            const size_t d = p.src_slot ? (size_t)slot[j] : j;

            assert_memory_equal(x + d * piece, before + s * piece, piece);
        }
    }
}

static void tasks_cover_all_units_and_are_never_empty(void **state)
{
    (void)state;
    assert_int_equal(vtci_per_task(0, 4), 1);
    assert_int_equal(vtci_per_task(7, 0), 7);
    assert_int_equal(vtci_per_task(7, SIZE_MAX), 1);
    assert_int_equal(vtci_per_task(1000, VTCI_TASK_BYTES / 4), 4);
    assert_int_equal(vtci_per_task(3, VTCI_TASK_BYTES / 4), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_arrives_and_nothing_else_changes),
        cmocka_unit_test(rows_move_down_in_the_same_memory),
        cmocka_unit_test(tasks_cover_all_units_and_are_never_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
