/* Rows moved by index. */
#include "kernel_tables.h"

#include "../src/plan/pieces.h"

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
        vtci_pieces p = { .dst = (char *)dst,
                          .src = (const char *)src,
                          .piece = piece,
                          .dst_stride = piece + gap,
                          .src_stride = piece + gap,
                          .streaming = rng_below(&seed, 2) != 0 };

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
        vtci_pieces p = { .dst = (char *)x,
                          .src = (const char *)x,
                          .piece = piece,
                          .dst_stride = piece,
                          .src_stride = piece,
                          .streaming = rng_below(&seed, 2) != 0 };

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

/* Rows of `bytes` at random distances on both sides, in more rows than are asked for ahead. */
static void check_stream_at(const vtci_kernels *k, uint64_t *seed, size_t n_rows, size_t bytes)
{
    enum { ROOM = 70 * 1200 };
    static unsigned char src[ROOM], dst[ROOM], want[ROOM];
    const char *from[70];
    char *to[70];
    size_t at = 0, into = 0;

    for (size_t i = 0; i < ROOM; i++) {
        src[i] = (unsigned char)rng(seed);
        dst[i] = want[i] = (unsigned char)~src[i];
    }
    for (size_t r = 0; r < n_rows; r++) {
        at += rng_below(seed, 70);
        into += rng_below(seed, 2) * rng_below(seed, 70);
        from[n_rows - 1 - r] = (const char *)src + at;
        to[r] = (char *)dst + into;
        into += bytes;
        at += bytes;
    }
    for (size_t r = 0; r < n_rows; r++)
        memcpy(want + (to[r] - (char *)dst), from[r], bytes);
    k->stream_rows(to, from, n_rows, bytes);
    if (memcmp(dst, want, ROOM) != 0)
        fail_msg("%s: %zu rows of %zu bytes arrive wrong", k->name, n_rows, bytes);
}

static void streamed_rows_arrive_and_nothing_else_changes(const vtci_kernels *k)
{
    static const size_t n_rows[] = { 0, 1, 2, 31, 32, 33, 70 };
    static const size_t n_bytes[] = { 0, 1, 63, 64, 65, 127, 128, 200, 511, 512, 513, 640, 1130 };
    uint64_t seed = 10;

    for (size_t i = 0; i < sizeof(n_rows) / sizeof(*n_rows); i++)
        for (size_t b = 0; b < sizeof(n_bytes) / sizeof(*n_bytes); b++)
            check_stream_at(k, &seed, n_rows[i], n_bytes[b]);
}

/* More rows than one call of the kernel takes. */
static void streamed_rows_of_any_number_arrive(void **state)
{
    enum { MANY = 700, PIECE = 96 };
    static char src[MANY * PIECE], dst[MANY * PIECE];
    const vtci_pieces p = { .dst = dst,
                            .src = src,
                            .piece = PIECE,
                            .dst_stride = PIECE,
                            .src_stride = PIECE,
                            .streaming = true };
    static int32_t keep[MANY];
    uint64_t seed = 3;

    (void)state;
    fill_random(&seed, (unsigned char *)src, sizeof(src));
    for (int32_t j = 0; j < MANY; j++)
        keep[j] = MANY - 1 - j;
    for (size_t n = 0; n <= MANY; n = n * 2 + 1) {
        memset(dst, 0, sizeof(dst));
        vtci_move_pieces(&p, keep, 0, n);
        for (size_t j = 0; j < n; j++)
            assert_memory_equal(dst + j * PIECE, src + (size_t)keep[j] * PIECE, PIECE);
    }
}

static void large_moves_of_long_rows_stream(void **state)
{
    (void)state;
    assert_true(vtci_pays_to_stream((size_t)400 << 20, 512));
    assert_true(vtci_pays_to_stream(SIZE_MAX, SIZE_MAX));
    assert_false(vtci_pays_to_stream((size_t)400 << 20, 64));
    assert_false(vtci_pays_to_stream(1 << 20, 4096));
    assert_false(vtci_pays_to_stream(0, 0));
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
        on_every_table(streamed_rows_arrive_and_nothing_else_changes),
        cmocka_unit_test(streamed_rows_of_any_number_arrive),
        cmocka_unit_test(large_moves_of_long_rows_stream),
        cmocka_unit_test(tasks_cover_all_units_and_are_never_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
