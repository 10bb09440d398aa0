/*
 * Products by tiles, with weights packed before and with raw ones, against sums in double; every
 * table's matrix tile against the same.
 */
#include "../src/linalg/gemm.h"
#include "kernel_tables.h"
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

static double step_of(vtc_dtype dtype)
{
    return dtype == VTC_F32 ? 0x1p-24 : dtype == VTC_F16 ? 0x1p-11 : 0x1p-8;
}

/* ---- one tile ---------------------------------------------------------------------------------
 */

struct tile {
    size_t m, n, k;
    bool packed; /* A as [k][gemm_rows] and B as [k][gemm_cols], else rows with gaps */
    bool accumulate;
};

/* What is fetched ahead need not exist: it may lie behind the last panel. */
static const vtci_ahead nowhere = { (const char *)VTCI_LINE, 5 };

static void check_tile(const vtci_kernels *t, uint64_t *seed, struct tile s)
{
    const size_t lda = s.k + 3, step = s.packed ? t->gemm_rows : 1, ldc = s.n + 2;
    const size_t row_stride = s.packed ? 1 : lda, ldb = s.packed ? t->gemm_cols : s.n + 1;
    const size_t n_b = s.k == 0 ? 0 : (s.k - 1) * ldb + s.n;
    const size_t n_a = s.k == 0 ? 0 : (s.m - 1) * row_stride + (s.k - 1) * step + 1;
    float *a = guard_alloc(n_a * sizeof(*a));
    float *b = guard_alloc(n_b * sizeof(*b));
    float *c = guard_alloc(((s.m - 1) * ldc + s.n) * sizeof(*c));
    float before[64 * 16];

    rng_fill(seed, a, n_a);
    rng_fill(seed, b, n_b);
    poison(c, ((s.m - 1) * ldc + s.n) * sizeof(*c));
    for (size_t i = 0; i < s.m && s.accumulate; i++)
        rng_fill(seed, c + i * ldc, s.n);
    for (size_t i = 0; i < s.m; i++)
        memcpy(before + i * s.n, c + i * ldc, s.n * sizeof(*c));
    guard_readonly(a);
    guard_readonly(b);
    t->gemm_tile(c, ldc, a, row_stride, step, b, ldb, s.k, s.m, s.n, s.accumulate, nowhere);
    for (size_t i = 0; i < s.m; i++)
        for (size_t j = 0; j < s.n; j++) {
            double sum = s.accumulate ? before[i * s.n + j] : 0.0, magnitude = fabs(sum);

            for (size_t p = 0; p < s.k; p++) {
                const double term = (double)a[i * row_stride + p * step] * b[p * ldb + j];

                sum += term;
                magnitude += fabs(term);
            }
            if (!(fabs(c[i * ldc + j] - sum) <= (double)(s.k + 1) * 0x1p-24 * magnitude))
                fail_msg("%s: [%zu, %zu] of %zux%zux%zu is %g, not %g", t->name, i, j, s.m, s.n,
                         s.k, (double)c[i * ldc + j], sum);
        }
    for (size_t i = 0; i + 1 < s.m; i++)
        assert_true(is_poisoned(c + i * ldc + s.n, 2 * sizeof(*c)));
    guard_free(a);
    guard_free(b);
    guard_free(c);
}

static void every_part_of_a_tile_is_the_sum(const vtci_kernels *t)
{
    static const size_t depths[] = { 0, 1, 7, 64 };
    uint64_t seed = 1;

    assert_true(t->gemm_rows <= 16 && t->gemm_cols <= 64);
    for (size_t m = 1; m <= t->gemm_rows; m++)
        for (size_t n = 1; n <= t->gemm_cols; n++)
            for (unsigned form = 0; form < 16; form++)
                check_tile(t, &seed,
                           (struct tile){ m, n, depths[form / 4], form % 2 != 0,
                                          form / 2 % 2 != 0 });
}

/* Rows that do not exist may hold anything. */
static void rows_that_do_not_exist_are_not_read(const vtci_kernels *t)
{
    float a[16 * 8], b[8 * 64], c[64];

    for (size_t i = 0; i < 8 * t->gemm_cols; i++)
        b[i] = 1.0f;
    for (size_t p = 0; p < 8; p++)
        for (size_t i = 0; i < t->gemm_rows; i++)
            a[p * t->gemm_rows + i] = i == 0 ? 0.5f : NAN;
    t->gemm_tile(c, 64, a, 1, t->gemm_rows, b, t->gemm_cols, 8, 1, t->gemm_cols, 0, nowhere);
    for (size_t j = 0; j < t->gemm_cols; j++)
        assert_true(c[j] == 4.0f);
}

/* ---- products ----------------------------------------------------------------------------------
 */

struct shape {
    size_t batch, m, n, k, gap;
};

struct product {
    struct shape s;
    bool trans_b;
    vtc_tensor a, w, y;
    void *panels;
    vtci_packed packed;
};

static void pack(struct product *p)
{
    const size_t bytes = vtci_packed_bytes(p->w.dtype, p->w.dim[0], p->w.dim[1]);
    vtc_exec exec = test_exec(2);
    vtci_arena arena, measure = { NULL, 0, false };
    vtci_call call;

    assert_int_equal(vtci_begin(&call, "packed", &exec), VTC_OK);
    vtci_packed_take(&measure, &p->w);
    assert_int_equal(measure.used, (bytes + 63) / 64 * 64);
    p->panels = guard_alloc(measure.used);
    poison(p->panels, measure.used);
    arena = (vtci_arena){ p->panels, 0, false };
    p->packed = vtci_packed_take(&arena, &p->w);
    vtci_packed_fill(&call, &p->packed, &p->w);
    guard_readonly(p->panels);
}

static struct product make_product(uint64_t *seed, struct shape s, const vtc_dtype *dtype,
                                   bool trans_b)
{
    const size_t a[3] = { s.batch, s.m, s.k }, y[3] = { s.batch, s.m, s.n };
    const size_t w[2] = { trans_b ? s.n : s.k, trans_b ? s.k : s.n };
    struct product p = { .s = s, .trans_b = trans_b };

    p.a = make_random(seed, dtype[0], 3, a, s.gap);
    p.w = make_random(seed, dtype[1], 2, w, s.gap);
    p.y = make_tensor(dtype[2], 3, y, s.gap);
    return p;
}

static void free_product(struct product *p)
{
    guard_free(p->a.data);
    guard_free(p->w.data);
    guard_free(p->y.data);
    guard_free(p->panels);
}

static void run(struct product *p, size_t n_workers)
{
    vtci_gemm g = { .trans_b = p->trans_b };
    vtc_exec exec = test_exec(n_workers);
    vtci_arena arena;
    vtci_call call;
    size_t bytes;

    g.a = vtci_rows_of(&p->a);
    g.b = vtci_rows_of(&p->w);
    g.c = vtci_rows_of(&p->y);
    g.packed = p->panels == NULL ? NULL : &p->packed;
    assert_int_equal(vtci_begin_query(&call, "packed", &exec, &bytes), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, &g);
    assert_int_equal(vtci_end_query(&call, &arena, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtci_begin(&call, "packed", &exec), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, &g);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    vtci_gemm_run(&call, &g);
    exec_scratch_free(&exec);
}

/* Within the error of a sum of k terms whose pieces are summed apart. */
static void assert_product(const struct product *p)
{
    const struct shape s = p->s;
    double *a = values_of(&p->a), *w = values_of(&p->w);

    for (size_t r = 0; r < s.batch * s.m; r++)
        for (size_t j = 0; j < s.n; j++) {
            double sum = 0.0, magnitude = 0.0, bound;
            const double got = get_element(p->y.data, p->y.dtype, element_at(&p->y, r * s.n + j));

            for (size_t i = 0; i < s.k; i++) {
                const double term = a[r * s.k + i] * w[p->trans_b ? j * s.k + i : i * s.n + j];

                sum += term;
                magnitude += fabs(term);
            }
            bound = (double)(s.k + 1) * 0x1p-24 * magnitude + 2 * step_of(p->y.dtype) * fabs(sum) +
                    (p->y.dtype == VTC_F16 ? 0x1p-24 : 0.0);
            if (!(fabs(got - sum) <= bound))
                fail_msg("[%zu, %zu] of %zux%zux%zu is %g, not %g", r, j, s.m, s.n, s.k, got, sum);
        }
    free(a);
    free(w);
}

static void check_packed(uint64_t *seed, struct shape s, const vtc_dtype *dtype)
{
    struct product p = make_product(seed, s, dtype, true);

    pack(&p);
    run(&p, s.m % 3);
    assert_product(&p);
    free_product(&p);
}

static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };

static void packed_products_of_1_to_130_rows(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (size_t m = 1; m <= 130; m++)
        check_packed(&seed, (struct shape){ 1, m, 1 + m * 7 % 53, 1 + m * 5 % 37, m % 3 }, f32);
}

static void packed_products_of_odd_shapes(void **state)
{
    static const struct shape shapes[] = {
        { 1, 3, 23, 193, 0 },   { 1, 65, 25, 400, 1 }, { 1, 33, 49, 192, 0 }, { 1, 5, 97, 1025, 2 },
        { 1, 193, 385, 11, 0 }, { 1, 64, 1, 300, 0 },  { 1, 1, 1, 1, 0 },     { 1, 200, 193, 3, 1 },
        { 1, 1030, 9, 5, 0 },   { 1, 2, 769, 257, 0 }, { 1, 7, 24, 0, 0 },    { 1, 70, 5, 0, 1 },
        { 1, 0, 24, 8, 0 },     { 1, 4, 0, 8, 0 },     { 3, 5, 30, 40, 0 },   { 2, 40, 100, 20, 3 },
    };
    uint64_t seed = 3;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        check_packed(&seed, shapes[i], f32);
}

static void packed_products_of_any_mix_of_dtypes(void **state)
{
    static const struct shape shapes[] = { { 1, 9, 50, 210, 0 }, { 2, 67, 31, 45, 1 } };
    uint64_t seed = 4;

    (void)state;
    for (size_t mix = 0; mix < 27; mix++) {
        const vtc_dtype dtype[3] = { dtypes[mix % 3], dtypes[mix / 3 % 3], dtypes[mix / 9] };

        check_packed(&seed, shapes[0], dtype);
        check_packed(&seed, shapes[1], dtype);
    }
}

static void raw_products_by_tiles(void **state)
{
    static const struct shape shapes[] = {
        { 1, 12, 16, 1, 0 },   { 1, 17, 100, 195, 0 }, { 1, 128, 193, 30, 1 },
        { 1, 64, 97, 401, 0 }, { 3, 13, 31, 40, 0 },   { 2, 40, 17, 20, 3 },
    };
    uint64_t seed = 5;

    (void)state;
    for (size_t mix = 0; mix < 27; mix++)
        for (size_t i = 0; i < 2 * sizeof(shapes) / sizeof(*shapes); i++) {
            const vtc_dtype dtype[3] = { dtypes[mix % 3], dtypes[mix / 3 % 3], dtypes[mix / 9] };
            struct product p = make_product(&seed, shapes[i / 2], dtype, i % 2 == 0);

            run(&p, i % 3);
            assert_product(&p);
            free_product(&p);
        }
}

/* ---- laws --------------------------------------------------------------------------------------
 */

static void workers_do_not_change_a_bit(void **state)
{
    static const size_t n_workers[] = { 0, 2, 5 };
    static const vtc_dtype mixes[2][3] = { { VTC_F32, VTC_F32, VTC_F32 },
                                           { VTC_F16, VTC_BF16, VTC_F32 } };
    uint64_t seed = 6;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct product p = make_product(&seed, (struct shape){ 1, i < 2 ? 33 : 210, 500, 410, 1 },
                                        mixes[i % 2], true);
        struct product q = p;

        pack(&p);
        run(&p, 1);
        q.packed = p.packed;
        q.panels = p.panels;
        for (size_t w = 0; w < 3; w++) {
            q.y = make_tensor(p.y.dtype, 3, p.y.dim, 1);
            run(&q, n_workers[w]);
            assert_same_bits(&p.y, &q.y);
            guard_free(q.y.data);
        }
        free_product(&p);
    }
}

/* On the tables whose tiles serve products of any size. */
static void a_row_does_not_depend_on_the_others(void **state)
{
    uint64_t seed = 7;
    struct product all = make_product(&seed, (struct shape){ 1, 230, 210, 777, 0 }, f32, true);

    (void)state;
    pack(&all);
    run(&all, 1);
    for (size_t first = 0; vtci_kernels_get()->gemm_is_fast && first < 230; first += 46) {
        struct product some = all;
        const size_t dim[3] = { 1, 45, 210 };

        some.a.data = (float *)all.a.data + first * all.a.stride[1];
        some.a.dim[1] = 45;
        some.y = make_tensor(VTC_F32, 3, dim, 0);
        run(&some, 1);
        assert_memory_equal(some.y.data, (float *)all.y.data + first * 210,
                            45 * 210 * sizeof(float));
        guard_free(some.y.data);
    }
    free_product(&all);
}

/* A long sum of equal terms: pieces that are summed apart keep the error small. */
static void pieces_are_summed_apart(void **state)
{
    enum { K = 20000 };
    uint64_t seed = 8;
    struct product p = make_product(&seed, (struct shape){ 1, 16, 24, K, 0 }, f32, true);
    const double third = (float)(1.0 / 3.0);

    (void)state;
    guard_writable(p.a.data);
    guard_writable(p.w.data);
    for (size_t i = 0; i < 16 * (size_t)K; i++)
        ((float *)p.a.data)[i] = 1.0f;
    for (size_t i = 0; i < 24 * (size_t)K; i++)
        ((float *)p.w.data)[i] = (float)third;
    pack(&p);
    run(&p, 1);
    for (size_t i = 0; i < 16 * 24; i++)
        assert_true(fabs(((float *)p.y.data)[i] / (K * third) - 1.0) < 1e-5);
    free_product(&p);
}

static void sizes_beyond_size_t_are_noticed(void **state)
{
    (void)state;
    assert_true(vtci_packed_bytes(VTC_F32, SIZE_MAX / 2, 8) == SIZE_MAX);
    assert_true(vtci_packed_bytes(VTC_F16, 8, SIZE_MAX / 4) == SIZE_MAX);
    assert_int_equal(vtci_packed_bytes(VTC_F16, 0, 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(every_part_of_a_tile_is_the_sum),
        on_every_table(rows_that_do_not_exist_are_not_read),
        cmocka_unit_test(packed_products_of_1_to_130_rows),
        cmocka_unit_test(packed_products_of_odd_shapes),
        cmocka_unit_test(packed_products_of_any_mix_of_dtypes),
        cmocka_unit_test(raw_products_by_tiles),
        cmocka_unit_test(workers_do_not_change_a_bit),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(pieces_are_summed_apart),
        cmocka_unit_test(sizes_beyond_size_t_are_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
