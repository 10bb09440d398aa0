/* The attention core against a naive one in double: heads, views, masks, statistics, laws. */
#include "../src/kernels/kernels.h"
#include "../src/linalg/attention.h"
#include "reference/attention_reference.h"
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a case is made of. Masks are random; a row in eight sees nothing. */
enum {
    CAUSAL = 1,
    RANGE = 2,
    KEY_MASK = 4,
    MASK = 8,
    BLIND_MEAN = 16,
    BIAS = 32,
    STATISTICS = 64,
    SHARED_MASKS = 128, /* one batch item of masks and ranges for all */
    SHARED_KEYS = 256   /* one batch item of keys and values for all  */
};

struct shape {
    size_t b, h, g, m, n, d, e;
    size_t gap, row_offset;
    unsigned options;
};

struct attention {
    struct shape s;
    vtc_tensor q, k, v, y;
    int32_t *range;
    uint8_t *key_mask, *mask;
    float *bias, *row_max, *log_sum_exp;
    vtci_attention job;
};

static void *bytes(size_t n)
{
    void *p = guard_alloc(n);

    poison(p, n);
    return p;
}

static size_t mask_batches(const struct shape *s)
{
    return (s->options & SHARED_MASKS) != 0 ? 1 : s->b;
}

static void fill_masks(uint64_t *seed, struct attention *a)
{
    const struct shape *s = &a->s;
    const size_t b = mask_batches(s);

    if ((s->options & RANGE) != 0)
        a->range = bytes(b * s->m * 2 * sizeof(*a->range));
    for (size_t i = 0; a->range != NULL && i < b * s->m; i++) {
        a->range[2 * i] = (int32_t)rng_below(seed, s->n + 1);
        a->range[2 * i + 1] = a->range[2 * i] + (int32_t)rng_below(seed, s->n + 1);
        if (rng_below(seed, 8) == 0)
            a->range[2 * i + 1] = a->range[2 * i] - 1;
    }
    if ((s->options & KEY_MASK) != 0)
        a->key_mask = bytes(b * s->n);
    for (size_t i = 0; a->key_mask != NULL && i < b * s->n; i++)
        a->key_mask[i] = rng_below(seed, 4) != 0 ? 1 + (uint8_t)rng_below(seed, 255) : 0;
    if ((s->options & MASK) != 0)
        a->mask = bytes(b * s->m * s->n);
    for (size_t i = 0; a->mask != NULL && i < b * s->m; i++) {
        const size_t rarely = rng_below(seed, 8);

        for (size_t n = 0; n < s->n; n++)
            a->mask[i * s->n + n] = rng_below(seed, 8) < rarely;
    }
}

static void set_job(struct attention *a)
{
    const struct shape *s = &a->s;
    const size_t one = (s->options & SHARED_MASKS) != 0 ? 0 : 1;
    vtci_attention job = { .q = vtci_heads_of(&a->q),
                           .k = vtci_heads_of(&a->k),
                           .v = vtci_heads_of(&a->v),
                           .y = vtci_heads_of(&a->y),
                           .scale = 0.7f,
                           .bias = a->bias,
                           .row_max = a->row_max,
                           .log_sum_exp = a->log_sum_exp };

    job.sees.causal = (s->options & CAUSAL) != 0;
    job.sees.row_offset = s->row_offset;
    job.sees.range = a->range;
    job.sees.range_batch_stride = one * s->m;
    job.sees.key_mask = a->key_mask;
    job.sees.key_mask_batch_stride = one * s->n;
    job.sees.mask = a->mask;
    job.sees.mask_batch_stride = one * s->m * s->n;
    job.sees.mask_row_stride = s->n;
    job.sees.blind = (s->options & BLIND_MEAN) != 0 ? VTCI_BLIND_MEAN : VTCI_BLIND_ZERO;
    a->job = job;
}

/* dtype: of q, k, v, y */
static struct attention make_attention(uint64_t *seed, struct shape s, const vtc_dtype *dtype)
{
    const size_t kb = (s.options & SHARED_KEYS) != 0 ? 1 : s.b, rows = s.b * s.h * s.m;
    const size_t q[4] = { s.b, s.h, s.m, s.d }, k[4] = { kb, s.g, s.n, s.d };
    const size_t v[4] = { kb, s.g, s.n, s.e }, y[4] = { s.b, s.h, s.m, s.e };
    struct attention a = { .s = s };

    a.q = make_random(seed, dtype[0], 4, q, s.gap);
    a.k = make_random(seed, dtype[1], 4, k, s.gap);
    a.v = make_random(seed, dtype[2], 4, v, s.gap);
    a.y = make_tensor(dtype[3], 4, y, s.gap);
    if ((s.options & BIAS) != 0) {
        a.bias = bytes(s.n * sizeof(*a.bias));
        rng_fill(seed, a.bias, s.n);
    }
    if ((s.options & STATISTICS) != 0) {
        a.row_max = bytes(rows * sizeof(*a.row_max));
        a.log_sum_exp = bytes(rows * sizeof(*a.log_sum_exp));
    }
    fill_masks(seed, &a);
    set_job(&a);
    return a;
}

static void free_attention(struct attention *a)
{
    guard_free(a->q.data);
    guard_free(a->k.data);
    guard_free(a->v.data);
    guard_free(a->y.data);
    guard_free(a->range);
    guard_free(a->key_mask);
    guard_free(a->mask);
    guard_free(a->bias);
    guard_free(a->row_max);
    guard_free(a->log_sum_exp);
}

static void run(vtci_attention *job, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtci_arena arena;
    vtci_call call;
    size_t size;

    assert_int_equal(vtci_begin_query(&call, "attention", &exec, &size), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_attention_lay_out(&arena, &call, job);
    assert_int_equal(vtci_end_query(&call, &arena, &size), VTC_OK);
    exec_scratch(&exec, size);
    assert_int_equal(vtci_begin(&call, "attention", &exec), VTC_OK);
    assert_int_equal(vtci_attention_check(&call, job), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_attention_lay_out(&arena, &call, job);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    vtci_attention_run(&call, job);
    exec_scratch_free(&exec);
}

/* ---- against the formula -----------------------------------------------------------------------
 */

static bool sees(const struct attention *a, size_t b, size_t m, size_t n)
{
    const struct shape *s = &a->s;
    const size_t of = (s->options & SHARED_MASKS) != 0 ? 0 : b;
    const int32_t *pair = a->range == NULL ? NULL : a->range + 2 * (of * s->m + m);

    return ((s->options & CAUSAL) == 0 || n <= s->row_offset + m) &&
           (pair == NULL || ((int32_t)n >= pair[0] && (int32_t)n < pair[1])) &&
           (a->key_mask == NULL || a->key_mask[of * s->n + n] != 0) &&
           (a->mask == NULL || a->mask[(of * s->m + m) * s->n + n] != 0);
}

static void assert_statistic(double got, double want)
{
    if (!(got == want || fabs(got - want) <= 3e-6 * (1 + fabs(want))))
        fail_msg("a statistic is %g, not %g", got, want);
}

static void assert_attention(const struct attention *a)
{
    const struct shape *s = &a->s;
    double *q = values_of(&a->q), *k = values_of(&a->k), *v = values_of(&a->v);
    double *want = malloc((s->b * s->h * s->m * s->e + 1) * sizeof(*want)), bias[600];
    bool seen[600];

    assert_true(s->n <= 600);
    for (size_t n = 0; a->bias != NULL && n < s->n; n++)
        bias[n] = (double)a->bias[n];
    for (size_t i = 0; i < s->b * s->h * s->m; i++) {
        const size_t b = i / s->m / s->h, h = i / s->m % s->h, m = i % s->m;
        const size_t kb = (s->options & SHARED_KEYS) != 0 ? 0 : b;
        const size_t head = (kb * s->g + h / (s->h / s->g)) * s->n;
        double top, lse;

        for (size_t n = 0; n < s->n; n++)
            seen[n] = sees(a, b, m, n);
        ref_attention_row(q + i * s->d, k + head * s->d, v + head * s->e,
                          a->bias == NULL ? NULL : bias, seen, (double)a->job.scale,
                          (s->options & BLIND_MEAN) != 0, s->n, s->d, s->e, want + i * s->e, &top,
                          &lse);
        if (a->row_max != NULL)
            assert_statistic((double)a->row_max[i], top);
        if (a->log_sum_exp != NULL)
            assert_statistic((double)a->log_sum_exp[i], lse);
    }
    assert_tensor_near(&a->y, want, 3e-6);
    free(q);
    free(k);
    free(v);
    free(want);
}

static const vtc_dtype f32[4] = { VTC_F32, VTC_F32, VTC_F32, VTC_F32 };

static void check(uint64_t *seed, struct shape s, const vtc_dtype *dtype)
{
    struct attention a = make_attention(seed, s, dtype);

    run(&a.job, s.m % 3);
    assert_attention(&a);
    free_attention(&a);
}

static void any_sizes_match_the_formula(void **state)
{
    static const struct shape shapes[] = {
        { 1, 1, 1, 1, 1, 1, 1, 0, 0, 0 },       { 1, 2, 2, 5, 7, 3, 5, 1, 0, 0 },
        { 2, 3, 1, 1, 50, 8, 4, 0, 0, 0 },      { 1, 1, 1, 1, 300, 17, 9, 0, 0, 0 },
        { 1, 1, 1, 2, 193, 64, 64, 0, 0, 0 },   { 1, 3, 3, 3, 40, 24, 30, 2, 0, 0 },
        { 1, 1, 1, 4, 385, 80, 72, 0, 0, 0 },   { 1, 7, 1, 1, 99, 128, 128, 0, 0, 0 },
        { 1, 14, 2, 1, 60, 16, 24, 1, 0, 0 },   { 2, 6, 2, 30, 33, 10, 25, 0, 0, 0 },
        { 1, 9, 3, 64, 70, 12, 7, 0, 0, 0 },    { 1, 4, 2, 65, 48, 33, 31, 3, 0, 0 },
        { 1, 2, 1, 200, 577, 64, 64, 0, 0, 0 }, { 3, 1, 1, 129, 24, 200, 12, 0, 0, 0 },
        { 1, 2, 2, 64, 600, 8, 49, 0, 0, 0 },   { 1, 5, 1, 13, 25, 16, 16, 0, 0, 0 },
    };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        check(&seed, shapes[i], f32);
    }
}

static void empty_calls(void **state)
{
    uint64_t seed = 2;

    (void)state;
    check(&seed, (struct shape){ 1, 2, 1, 0, 5, 4, 4, 0, 0, 0 }, f32);
    check(&seed, (struct shape){ 0, 2, 1, 3, 5, 4, 4, 0, 0, 0 }, f32);
    /* no keys: every row is blind */
    check(&seed, (struct shape){ 1, 2, 2, 1, 0, 4, 4, 0, 0, STATISTICS }, f32);
    check(&seed, (struct shape){ 1, 2, 1, 9, 0, 4, 4, 0, 0, STATISTICS }, f32);
}

static void any_mix_of_dtypes_and_gaps(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 3;

    (void)state;
    for (size_t mix = 0; mix < 81; mix++) {
        const vtc_dtype dtype[4] = { dtypes[mix % 3], dtypes[mix / 3 % 3], dtypes[mix / 9 % 3],
                                     dtypes[mix / 27] };

        check(&seed, (struct shape){ 1, 4, 2, 1, 31, 9, 11, 1, 0, 0 }, dtype);
        check(&seed, (struct shape){ 1, 4, 2, 11, 55, 40, 27, 3, 0, 0 }, dtype);
        check(&seed, (struct shape){ 2, 2, 1, 70, 26, 130, 7, 1, 0, CAUSAL }, dtype);
    }
}

static void all_that_hides_keys_together(void **state)
{
    static const struct shape shapes[] = { { 2, 4, 2, 1, 37, 8, 8, 0, 11, 0 },
                                           { 2, 4, 2, 9, 37, 8, 8, 0, 20, 0 },
                                           { 3, 1, 1, 70, 130, 16, 12, 1, 60, 0 },
                                           { 1, 2, 1, 150, 200, 8, 25, 0, 0, 0 } };
    uint64_t seed = 4;

    (void)state;
    for (unsigned options = 0; options < 512; options++)
        for (size_t i = 0; i < (options % 8 == 5 ? 4u : 2u); i++) {
            struct shape s = shapes[i];

            s.options = options;
            check(&seed, s, f32);
        }
}

/* ---- laws --------------------------------------------------------------------------------------
 */

static void workers_do_not_change_a_bit(void **state)
{
    static const struct shape shapes[] = {
        { 1, 2, 1, 300, 200, 16, 16, 0, 0, CAUSAL },
        { 2, 8, 2, 1, 90, 16, 8, 0, 0, KEY_MASK },
        { 1, 12, 12, 33, 77, 32, 32, 1, 0, 0 },
        { 1, 1, 1, 3, 50, 8, 8, 0, 0, MASK },
    };
    static const size_t n_workers[] = { 0, 2, 5 };
    uint64_t seed = 5;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        struct attention a = make_attention(&seed, shapes[i], f32);

        run(&a.job, 1);
        for (size_t w = 0; w < 3; w++) {
            struct attention b = a;

            b.y = make_tensor(VTC_F32, 4, a.y.dim, a.s.gap);
            set_job(&b);
            run(&b.job, n_workers[w]);
            assert_same_bits(&a.y, &b.y);
            guard_free(b.y.data);
        }
        free_attention(&a);
    }
}

/* Rows first .. first + m - 1 as a call of their own. */
static void check_rows_alone(const struct attention *all, size_t first, size_t m)
{
    struct attention some = *all;
    const size_t dim[4] = { 1, all->s.h, m, all->s.e };

    some.s.m = m;
    some.s.row_offset += first;
    some.q.data = (float *)all->q.data + first * all->q.stride[2];
    some.q.dim[2] = m;
    some.y = make_tensor(VTC_F32, 4, dim, 0);
    set_job(&some);
    run(&some.job, 2);
    for (size_t h = 0; h < all->s.h; h++)
        assert_memory_equal((float *)some.y.data + h * m * all->s.e,
                            (float *)all->y.data + (h * all->s.m + first) * all->s.e,
                            m * all->s.e * sizeof(float));
    guard_free(some.y.data);
}

static void causal_chunks_equal_one_call_to_the_bit(void **state)
{
    uint64_t seed = 6;
    struct attention all =
        make_attention(&seed, (struct shape){ 1, 4, 2, 230, 300, 24, 40, 0, 70, CAUSAL }, f32);

    (void)state;
    run(&all.job, 1);
    for (size_t first = 0; first < 230; first += 46)
        check_rows_alone(&all, first, 46);
    check_rows_alone(&all, 227, 3);
    check_rows_alone(&all, 100, 2);
    free_attention(&all);
}

/* Keys cut in two, each half a call with statistics, joined. */
static void halves_are_joined_by_their_statistics(void **state)
{
    uint64_t seed = 7;
    const struct shape s = { 1, 2, 2, 10, 90, 16, 12, 0, 0, STATISTICS };
    struct attention all = make_attention(&seed, s, f32), half[2] = { all, all };

    (void)state;
    run(&all.job, 1);
    for (size_t i = 0; i < 2; i++) {
        const size_t begin = i == 0 ? 0 : 37;
        float *log_sum_exp = bytes(20 * sizeof(float));

        half[i].s.n = i == 0 ? 37 : 53;
        half[i].k.dim[2] = half[i].v.dim[2] = half[i].s.n;
        half[i].k.data = (float *)all.k.data + begin * s.d;
        half[i].v.data = (float *)all.v.data + begin * s.e;
        half[i].y = make_tensor(VTC_F32, 4, all.y.dim, 0);
        half[i].row_max = NULL;
        half[i].log_sum_exp = log_sum_exp;
        set_job(&half[i]);
        run(&half[i].job, 1);
    }
    for (size_t r = 0; r < 20; r++) {
        float *y = (float *)half[0].y.data + r * s.e;
        const float lse =
            vtci_attention_join(y, half[0].log_sum_exp[r], (float *)half[1].y.data + r * s.e,
                                half[1].log_sum_exp[r], s.e);

        assert_true(fabsf(lse - all.log_sum_exp[r]) < 3e-6f);
        for (size_t i = 0; i < s.e; i++)
            assert_true(fabsf(y[i] - ((float *)all.y.data)[r * s.e + i]) < 2e-6f);
    }
    for (size_t i = 0; i < 2; i++) {
        guard_free(half[i].y.data);
        guard_free(half[i].log_sum_exp);
    }
    free_attention(&all);
}

static void a_blind_side_adds_nothing_to_a_join(void **state)
{
    float y[2] = { 1.0f, -2.0f };
    const float other[2] = { 5.0f, 5.0f };

    (void)state;
    assert_true(vtci_attention_join(y, 0.5f, other, -INFINITY, 2) == 0.5f);
    assert_true(y[0] == 1.0f && y[1] == -2.0f);
    assert_true(vtci_attention_join(y, -INFINITY, other, 0.25f, 2) == 0.25f);
    assert_true(y[0] == 5.0f && y[1] == 5.0f);
    assert_true(vtci_attention_join(y, -INFINITY, other, -INFINITY, 2) == -INFINITY);
    assert_true(y[0] == 5.0f);
}

/* Heads in the columns of rows are the same heads. */
static void heads_may_stand_in_columns(void **state)
{
    uint64_t seed = 8;
    const size_t dim[3] = { 2, 9, 12 };
    vtc_tensor x = make_random(&seed, VTC_F32, 3, dim, 1);
    const vtci_rows rows = vtci_rows_of(&x);
    const vtci_heads heads = vtci_heads_of_rows(&rows, 3);

    (void)state;
    assert_int_equal(heads.n_batch, 2);
    assert_int_equal(heads.n_heads, 3);
    assert_int_equal(heads.n_rows, 9);
    assert_int_equal(heads.n_cols, 4);
    assert_ptr_equal(heads.data + heads.batch_stride + 2 * heads.head_stride + 5 * heads.row_stride,
                     vtci_row(&rows, 1, 5) + 8 * sizeof(float));
    guard_free(x.data);
}

static void larger_shapes_need_no_less_scratch(void **state)
{
    vtci_call call;
    size_t before = 0;

    (void)state;
    assert_int_equal(vtci_begin(&call, "attention", NULL), VTC_OK);
    for (size_t m = 1; m < 90; m += 4) {
        const vtci_heads q = { NULL, VTC_F16, 1, 4, m, 32, 0, 0, 0 };
        const vtci_heads k = { NULL, VTC_F16, 1, 2, m + 9, 32, 0, 0, 0 };
        vtci_attention a = { .q = q, .k = k, .v = k, .y = q, .scale = 1.0f };
        vtci_arena arena = { NULL, 0, false };

        vtci_attention_lay_out(&arena, &call, &a);
        assert_true(arena.used >= before);
        before = arena.used;
    }
}

/* ---- checks ------------------------------------------------------------------------------------
 */

static void assert_refused(vtci_attention a, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;
    vtci_call call;

    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "attention", &exec), VTC_OK);
    assert_failed(&log, vtci_attention_check(&call, &a), want, part);
}

static void views_that_disagree_are_refused(void **state)
{
    const vtci_heads q = { NULL, VTC_F32, 2, 4, 5, 8, 0, 0, 0 };
    const vtci_heads k = { NULL, VTC_F32, 2, 2, 9, 8, 0, 0, 0 };
    const vtci_attention good = { .q = q, .k = k, .v = k, .y = q, .scale = 1.0f };
    vtci_attention a;

    (void)state;
    a = good, a.k.n_heads = 3;
    assert_refused(a, VTC_ERR_SHAPE, "4 query heads cannot share 3");
    a = good, a.k.n_heads = 0;
    assert_refused(a, VTC_ERR_SHAPE, "4 query heads cannot share 0");
    a = good, a.k.n_cols = 7;
    assert_refused(a, VTC_ERR_SHAPE, "8 wide, key heads 7");
    a = good, a.v.n_rows = 8;
    assert_refused(a, VTC_ERR_SHAPE, "2 x 9 keys, but 2 x 8 values");
    a = good, a.y.n_rows = 6;
    assert_refused(a, VTC_ERR_SHAPE, "2 x 4 x 5 queries, but 2 x 4 x 6");
    a = good, a.y.n_cols = 9;
    assert_refused(a, VTC_ERR_SHAPE, "value heads are 8 wide, output heads 9");
    a = good, a.k.n_batch = 3;
    assert_refused(a, VTC_ERR_SHAPE, "2 batch items of queries, 3 of keys");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_sizes_match_the_formula),
        cmocka_unit_test(empty_calls),
        cmocka_unit_test(any_mix_of_dtypes_and_gaps),
        cmocka_unit_test(all_that_hides_keys_together),
        cmocka_unit_test(workers_do_not_change_a_bit),
        cmocka_unit_test(causal_chunks_equal_one_call_to_the_bit),
        cmocka_unit_test(halves_are_joined_by_their_statistics),
        cmocka_unit_test(a_blind_side_adds_nothing_to_a_join),
        cmocka_unit_test(heads_may_stand_in_columns),
        cmocka_unit_test(larger_shapes_need_no_less_scratch),
        cmocka_unit_test(views_that_disagree_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
