/* Attention statistics fed by tiles of rows. */
#include "support/stats.h"

#include <stdlib.h>
#include <string.h>

static void run_whole(const stats_data *data, vtc_attention_stats_out *out)
{
    vtc_exec exec = test_exec(0);
    size_t bytes;

    assert_int_equal(vtc_attention_stats_scratch(&data->params, &data->q, &data->k, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_attention_stats(&data->params, &data->q, &data->k, stats_lse(data), out,
                                         &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static vtc_tensor rows_of(const vtc_tensor *t, size_t begin, size_t n)
{
    vtc_tensor part = *t;
    const int axis = t->rank - (t->rank == 3 ? 2 : 1);

    part.data = (char *)t->data + begin * t->stride[axis] * vtc_dtype_size(t->dtype);
    part.dim[axis] = n;
    return part;
}

/* Keys that rows 0 .. end - 1 see, all when not causal. */
static size_t keys_until(const stats_data *data, size_t end)
{
    const size_t n = data->k.dim[1];
    size_t seen = 0;

    if (!data->params.causal)
        return n;
    for (size_t m = 0; m < end; m++) {
        const size_t at = data->params.positions == NULL ? data->params.row_offset + m
                                                         : (size_t)data->params.positions[m];

        seen = at + 1 > seen ? at + 1 : seen;
    }
    return seen < n ? seen : n;
}

/* The first n keys in memory of their own, behind which lies a guard page. */
static vtc_tensor first_keys(const vtc_tensor *k, size_t n)
{
    const size_t size = vtc_dtype_size(k->dtype), bytes = k->dim[2] * size;
    vtc_tensor copy = *k;
    char *to = guard_alloc(k->dim[0] * n * bytes);

    copy.data = to;
    copy.dim[1] = n;
    copy.stride[0] = n * k->dim[2];
    copy.stride[1] = k->dim[2];
    for (size_t g = 0; g < k->dim[0]; g++)
        for (size_t j = 0; j < n; j++, to += bytes)
            memcpy(to, (const char *)k->data + (g * k->stride[0] + j * k->stride[1]) * size, bytes);
    return copy;
}

static void feed(const stats_data *data, void *state, size_t begin, size_t n, size_t n_workers)
{
    const vtc_tensor q = rows_of(&data->q, begin, n);
    const vtc_tensor k = first_keys(&data->k, keys_until(data, begin + n));
    vtc_tensor lse = data->lse;
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    if (stats_lse(data) != NULL)
        lse = rows_of(&data->lse, begin, n);
    assert_int_equal(vtc_attention_stats_update_scratch(&data->params, data->k.dim[1], &q, &k,
                                                        &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_attention_stats_update(&data->params, state, &q, &k,
                                                stats_lse(data) == NULL ? NULL : &lse, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    guard_free(k.data);
}

static void *begin_stats(const stats_data *data, size_t *bytes)
{
    const size_t h = data->q.dim[0], m = data->q.dim[1], n = data->k.dim[1];
    void *state;

    assert_int_equal(vtc_attention_stats_state(&data->params, h, m, n, NULL, bytes), VTC_OK);
    state = guard_alloc(*bytes);
    poison(state, *bytes);
    assert_int_equal(vtc_attention_stats_begin(&data->params, h, m, n, state, *bytes, NULL),
                     VTC_OK);
    return state;
}

/* In tiles of `step` rows, or of random numbers of rows when 0; the state moves on the way. */
static void run_tiles(uint64_t *seed, const stats_data *data, size_t step,
                      vtc_attention_stats_out *out, size_t n_workers)
{
    const size_t n_rows = data->q.dim[1];
    size_t bytes, n;
    void *state = begin_stats(data, &bytes), *moved;

    for (size_t begin = 0; begin < n_rows; begin += n) {
        n = step == 0 ? rng_below(seed, 90) : step;
        n = n < n_rows - begin ? n : n_rows - begin;
        feed(data, state, begin, n, n_workers);
        moved = guard_alloc(bytes);
        memcpy(moved, state, bytes);
        guard_free(state);
        state = moved;
    }
    guard_readonly(state);
    assert_int_equal(vtc_attention_stats_finish(&data->params, state, out, NULL), VTC_OK);
    guard_free(state);
}

static void check_case(uint64_t *seed, const stats_case *c, unsigned want)
{
    static const size_t steps[] = { 64, 17, 100, 0, 0, 1000, 1 };
    const size_t n_steps = c->shape.n_rows > 300 ? 4 : 7;
    stats_data data = make_stats(seed, c);
    vtc_attention_stats_out whole, tiles;

    data.params.want = want;
    whole = make_out(&data);
    run_whole(&data, &whole);
    for (size_t i = 0; i < n_steps; i++) {
        tiles = make_out(&data);
        run_tiles(seed, &data, steps[i], &tiles, i % 4);
        assert_stats(&tiles, &data, 2e-6);
        assert_same_stats(&tiles, &whole, &data);
        free_out(&tiles);
    }
    free_out(&whole);
    free_stats(&data);
}

static void tiles_of_any_height_give_the_bits_of_one_call(void **state)
{
    const stats_case cases[] = {
        { .shape = { 4, 4, 150, 170, 16 }, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
        { .shape = { 4, 2, 200, 200, 24 },
          .causal = true,
          .n_cols = SIZE_MAX,
          .q = VTC_F32,
          .k = VTC_F32,
          .chosen = ROWS_LAST,
          .heads_inner = true },
        { .shape = { 6, 2, 130, 193, 8 },
          .causal = true,
          .row_offset = 63,
          .first_col = 5,
          .n_cols = 64,
          .q = VTC_F16,
          .k = VTC_BF16,
          .gap = 3,
          .chosen = ROWS_SOME },
        { .shape = { 3, 1, 130, 67, 5 },
          .causal = true,
          .first_col = 30,
          .n_cols = 11,
          .voters = ROWS_SOME,
          .chosen = ROWS_SOME,
          .lse = true,
          .q = VTC_F32,
          .k = VTC_F16 },
        { .shape = { 5, 5, 140, 90, 12 },
          .causal = true,
          .positions = true,
          .first_col = 20,
          .n_cols = 50,
          .voters = ROWS_SOME,
          .chosen = ROWS_LAST,
          .q = VTC_BF16,
          .k = VTC_F32 },
        { .shape = { 3, 1, 145, 220, 6 },
          .lse = true,
          .causal = true,
          .positions = true,
          .first_col = 12,
          .n_cols = 190,
          .k = VTC_F32,
          .q = VTC_F16 },
        { .shape = { 9, 9, 10, 90, 12 },
          .causal = true,
          .row_offset = 80,
          .n_cols = SIZE_MAX,
          .voters = ROWS_SOME,
          .chosen = ROWS_SOME,
          .q = VTC_F32,
          .k = VTC_F32 },
        { .shape = { 2, 2, 0, 5, 4 }, .n_cols = SIZE_MAX, .q = VTC_F32, .k = VTC_F32 },
    };
    static const unsigned wants[] = { VTC_STATS_COL_SUM | VTC_STATS_COL_MEAN,
                                      VTC_STATS_COL_MAX | VTC_STATS_COL_MEAN,
                                      VTC_STATS_ROWS | VTC_STATS_COL_SUM, VTC_STATS_ROWS, 15 };
    uint64_t seed = 71;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (size_t j = 0; j < sizeof(wants) / sizeof(*wants); j++)
            check_case(&seed, &cases[i], wants[j]);
}

static void real_chunks_give_the_bits_of_one_call(void **state)
{
    const stats_case c = { .shape = { 2, 1, 704, 704, 128 },
                           .causal = true,
                           .n_cols = SIZE_MAX,
                           .chosen = ROWS_LAST,
                           .q = VTC_F32,
                           .k = VTC_F32 };
    uint64_t seed = 72;

    (void)state;
    check_case(&seed, &c, VTC_STATS_COL_MEAN);
    check_case(&seed, &c, 15);
}

static void refused(const stats_data *data, void *state, size_t begin, size_t n, size_t n_keys,
                    bool lse, vtc_status status, const char *part)
{
    const vtc_tensor q = rows_of(&data->q, begin, n), k = rows_of(&data->k, 0, n_keys);
    const vtc_tensor some_lse = rows_of(&data->lse, begin, n);
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 18);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_attention_stats_update(&data->params, state, &q, &k, lse ? &some_lse : NULL,
                                             &exec),
                  status, part);
    exec_scratch_free(&exec);
}

static void a_wrong_tile_leaves_the_state(void **state)
{
    const stats_case c = { .shape = { 2, 1, 20, 20, 4 },
                           .causal = true,
                           .n_cols = SIZE_MAX,
                           .lse = true,
                           .q = VTC_F32,
                           .k = VTC_F32 };
    uint64_t seed = 73;
    stats_data data = make_stats(&seed, &c), other = data;
    vtc_attention_stats_out out = make_out(&data);
    size_t bytes;
    void *s = begin_stats(&data, &bytes), *copy = malloc(bytes);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    feed(&data, s, 0, 8, 0);
    memcpy(copy, s, bytes);
    refused(&data, s, 8, 4, 20, false, VTC_ERR_NULL, "lse is NULL, but was given before");
    refused(&data, s, 8, 4, 11, true, VTC_ERR_SHAPE, "rows 8 to 12 see 12 keys, k has 11");
    refused(&data, s, 0, 13, 20, true, VTC_ERR_RANGE, "13 rows after 8 are more than the 20");
    other.params.first_col = 1;
    other.params.n_cols = 19;
    refused(&other, s, 8, 4, 20, true, VTC_ERR_RANGE, "other parameters");
    other = data;
    other.q.dim[0] = 1;
    refused(&other, s, 8, 4, 20, true, VTC_ERR_SHAPE, "q has 1 heads, the state 2");
    refused(&data, (char *)s + 8, 8, 4, 20, true, VTC_ERR_SCRATCH, "64-byte aligned");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_attention_stats_finish(&data.params, s, &out, &exec), VTC_ERR_RANGE,
                  "8 of 20 rows have come");
    assert_memory_equal(s, copy, bytes);
    memset(s, 0, 8);
    refused(&data, s, 8, 4, 20, true, VTC_ERR_RANGE, "not begun");
    assert_true(is_poisoned(out.col_sum, data.n_cols * sizeof(float)));
    free(copy);
    guard_free(s);
    free_out(&out);
    free_stats(&data);
}

static void a_bad_begin_is_refused(void **state)
{
    vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    char *memory = guard_alloc(4096);
    error_log log;
    size_t bytes;

    (void)state;
    poison(memory, 4096);
    assert_int_equal(vtc_attention_stats_state(&params, 2, 9, 12, NULL, &bytes), VTC_OK);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_attention_stats_begin(&params, 2, 9, 12, memory, bytes - 1, &exec),
                  VTC_ERR_SCRATCH, "needs a state of");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_attention_stats_begin(&params, 2, 9, 12, NULL, bytes, &exec),
                  VTC_ERR_NULL, "state is NULL");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_attention_stats_begin(&params, 2, 9, 0, memory, 4096, &exec),
                  VTC_ERR_SHAPE, "9 rows, but no keys");
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_attention_stats_begin(&params, SIZE_MAX, 9, SIZE_MAX / 8, memory, 4096,
                                            &exec),
                  VTC_ERR_OVERFLOW, "overflow");
    assert_true(is_poisoned(memory, 4096));
    guard_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_of_any_height_give_the_bits_of_one_call),
        cmocka_unit_test(real_chunks_give_the_bits_of_one_call),
        cmocka_unit_test(a_wrong_tile_leaves_the_state),
        cmocka_unit_test(a_bad_begin_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
