/* Products against a triple loop in double, over odd shapes, all dtypes, strides and workers. */
#include "../src/linalg/gemm.h"
#include "support/support.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

/* Rows of random numbers in memory of their own; `pad` elements lie between rows. */
static vtci_rows random_rows(uint64_t *seed, vtc_dtype dtype, size_t n_batch, size_t n_rows,
                             size_t n_cols, size_t pad)
{
    const size_t size = vtc_dtype_size(dtype);
    const size_t row_stride = (n_cols + pad) * size;
    const size_t bytes = n_batch * n_rows * row_stride;
    vtci_rows rows = { NULL, dtype, n_batch, n_rows, n_cols, n_rows * row_stride, row_stride };

    rows.data = guard_alloc(bytes);
    poison(rows.data, bytes);
    for (size_t i = 0; i < n_batch * n_rows; i++)
        for (size_t j = 0; j < n_cols; j++)
            set_element(rows.data + i * row_stride, dtype, j, rng_f32(seed));
    return rows;
}

static float at(const vtci_rows *rows, size_t batch, size_t row, size_t col)
{
    return get_element(vtci_row(rows, rows->n_batch > 1 ? batch : 0, row), rows->dtype, col);
}

static double relative_step(vtc_dtype dtype)
{
    return dtype == VTC_F32 ? 0x1p-24 : dtype == VTC_F16 ? 0x1p-11 : 0x1p-8;
}

/* One element of A B, and the sum of the magnitudes of its terms. */
static double product_at(const vtci_gemm *g, size_t b, size_t i, size_t j, double *magnitude)
{
    double sum = 0.0;

    *magnitude = 0.0;
    for (size_t s = 0; s < g->a.n_cols; s++) {
        const float w = g->trans_b ? at(&g->b, b, j, s) : at(&g->b, b, s, j);
        const double term = (double)at(&g->a, b, i, s) * w;

        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

/* The functions used here, none of which is steeper than 3 / 2. */
static double activation(vtci_activation act, double x)
{
    if (act == VTCI_ACT_GELU_ERF)
        return x / 2 * (1 + erf(x / sqrt(2.0)));
    if (act == VTCI_ACT_HARD_SWISH)
        return x * fmin(fmax(x + 3, 0), 6) / 6;
    assert_true(act == VTCI_ACT_NONE);
    return x;
}

static void assert_element(const vtci_gemm *g, size_t b, size_t i, size_t j)
{
    const double bias = g->bias.dtype == (vtc_dtype)0 ? 0.0 : (double)at(&g->bias, 0, 0, j);
    const double residual = g->residual.dtype == (vtc_dtype)0 ? 0.0 : at(&g->residual, b, i, j);
    double magnitude;
    const double x = product_at(g, b, i, j, &magnitude) + bias;
    const double want = activation(g->act, x) + residual;
    const double before = (double)(g->a.n_cols + 3) * 0x1p-24 * (magnitude + fabs(bias));
    const double after = g->act == VTCI_ACT_NONE ? 0.0 : 0x1p-22 * fabs(x);
    /* subnormal F16 results round in steps of 2^-24 */
    const double bound = 1.5 * before + after + 0x1p-24 * fabs(residual) +
                         relative_step(g->c.dtype) * fabs(want) +
                         (g->c.dtype == VTC_F16 ? 0x1p-24 : 0.0);

    if (!(fabs(at(&g->c, b, i, j) - want) <= bound))
        fail_msg("[%zu, %zu, %zu] of a product over %zu is %g, not %g", b, i, j, g->a.n_cols,
                 (double)at(&g->c, b, i, j), want);
}

static void assert_product(const vtci_gemm *g)
{
    for (size_t b = 0; b < g->c.n_batch; b++)
        for (size_t i = 0; i < g->c.n_rows; i++)
            for (size_t j = 0; j < g->c.n_cols; j++)
                assert_element(g, b, i, j);
}

/* Runs the product with exactly the scratch it asks for. */
static void run_product(vtci_gemm *g, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtci_arena arena;
    vtci_call call;
    size_t bytes;

    assert_int_equal(vtci_begin_query(&call, "product", &exec, &bytes), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, g);
    assert_int_equal(vtci_end_query(&call, &arena, &bytes), VTC_OK);

    exec_scratch(&exec, bytes);
    assert_int_equal(vtci_begin(&call, "product", &exec), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_gemm_lay_out(&arena, &call, g);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    assert_int_equal(arena.used, bytes);
    vtci_gemm_run(&call, g);
    exec_scratch_free(&exec);
}

static void assert_gap_untouched(const vtci_rows *rows)
{
    const size_t used = rows->n_cols * vtc_dtype_size(rows->dtype);

    for (size_t i = 0; i < rows->n_batch * rows->n_rows; i++)
        assert_true(is_poisoned(rows->data + i * rows->row_stride + used, rows->row_stride - used));
}

static void free_product(vtci_gemm *g)
{
    guard_free(g->a.data);
    guard_free(g->b.data);
    guard_free(g->c.data);
    if (g->bias.data != NULL)
        guard_free(g->bias.data);
    if (g->residual.data != NULL)
        guard_free(g->residual.data);
}

struct shape {
    size_t batch, m, n, k, pad;
};

static vtci_gemm make_product(uint64_t *seed, struct shape s, bool trans_b, const vtc_dtype *dtype)
{
    vtci_gemm g = { .trans_b = trans_b };

    g.a = random_rows(seed, dtype[0], s.batch, s.m, s.k, s.pad);
    /* one B for each batch, or one for all */
    if (trans_b)
        g.b = random_rows(seed, dtype[1], s.batch, s.n, s.k, s.pad);
    else
        g.b = random_rows(seed, dtype[1], 1, s.k, s.n, s.pad);
    g.c = random_rows(seed, dtype[2], s.batch, s.m, s.n, s.pad);
    guard_readonly(g.a.data);
    guard_readonly(g.b.data);
    return g;
}

static void check_product(uint64_t *seed, struct shape s, bool trans_b, const vtc_dtype *dtype)
{
    vtci_gemm g = make_product(seed, s, trans_b, dtype);

    run_product(&g, 1);
    assert_product(&g);
    assert_gap_untouched(&g.c);
    free_product(&g);
}

/* ---- shapes and dtypes ----------------------------------------------------------------------- */

static void odd_shapes_match_the_triple_loop(void **state)
{
    static const struct shape shapes[] = {
        { 1, 1, 1, 1, 0 },      { 1, 1, 70, 33, 0 },  { 1, 33, 1, 70, 0 }, { 1, 1, 1200, 18, 3 },
        { 1, 2, 2, 2, 1 },      { 1, 17, 19, 23, 0 }, { 1, 5, 705, 7, 0 }, { 1, 1025, 3, 9, 0 },
        { 1, 1030, 720, 3, 2 }, { 1, 3, 4, 300, 0 },  { 3, 7, 11, 13, 0 }, { 2, 1, 40, 50, 1 },
    };
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        check_product(&seed, shapes[i], false, f32);
        check_product(&seed, shapes[i], true, f32);
    }
}

static void any_mix_of_dtypes_is_widened_and_narrowed(void **state)
{
    static const struct shape shapes[] = {
        { 1, 9, 21, 35, 0 }, { 2, 5, 710, 6, 3 }, { 1, 1, 34, 20, 0 }, { 1, 1030, 2, 3, 1 }
    };
    uint64_t seed = 2;

    (void)state;
    for (size_t mix = 0; mix < 27; mix++) {
        const vtc_dtype dtype[3] = { dtypes[mix % 3], dtypes[mix / 3 % 3], dtypes[mix / 9] };

        for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
            check_product(&seed, shapes[i], false, dtype);
            check_product(&seed, shapes[i], true, dtype);
        }
    }
}

static void an_empty_sum_gives_zeros(void **state)
{
    static const struct shape shape = { 1, 3, 5, 0, 2 };
    uint64_t seed = 3;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const vtc_dtype dtype[3] = { VTC_F32, VTC_F32, dtypes[i] };

        check_product(&seed, shape, false, dtype);
        check_product(&seed, shape, true, dtype);
    }
}

static void an_empty_product_writes_nothing(void **state)
{
    static const struct shape shapes[] = { { 1, 0, 4, 5, 0 },
                                           { 1, 4, 0, 5, 1 },
                                           { 0, 4, 4, 4, 0 } };
    static const vtc_dtype f16[3] = { VTC_F16, VTC_F16, VTC_F16 };
    uint64_t seed = 4;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        check_product(&seed, shapes[i], false, f16);
        check_product(&seed, shapes[i], true, f16);
    }
}

/* ---- what follows the product ---------------------------------------------------------------- */

/* Options: 1 bias, 2 residual for each batch, 4 one residual for all. */
static vtci_gemm make_finished(uint64_t *seed, struct shape s, const vtc_dtype *dtype,
                               vtci_activation act, unsigned options)
{
    vtci_gemm g = make_product(seed, s, true, dtype);

    g.act = act;
    if ((options & 1) != 0)
        g.bias = random_rows(seed, dtype[3], 1, 1, s.n, 0);
    if ((options & 6) != 0)
        g.residual =
            random_rows(seed, dtype[4], (options & 4) != 0 ? 1 : s.batch, s.m, s.n, 2 * s.pad);
    return g;
}

static void bias_activation_and_residual_follow_the_product(void **state)
{
    static const struct shape shapes[] = { { 1, 7, 5, 3, 0 },    { 2, 3, 710, 4, 1 },
                                           { 1, 1026, 2, 3, 1 }, { 1, 1, 34, 20, 0 },
                                           { 1, 4, 6, 0, 0 },    { 1, 0, 6, 2, 0 } };
    static const vtci_activation acts[] = { VTCI_ACT_NONE, VTCI_ACT_GELU_ERF, VTCI_ACT_HARD_SWISH };
    uint64_t seed = 10;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (unsigned options = 0; options < 6; options++)
            for (size_t mix = 0; mix < 9; mix++) {
                const vtc_dtype c = dtypes[mix % 3], side = dtypes[mix / 3];
                const vtc_dtype dtype[5] = { VTC_F32, side, c, side, dtypes[(mix + 1) % 3] };
                vtci_gemm g =
                    make_finished(&seed, shapes[i], dtype, acts[(mix + options) % 3], options);

                run_product(&g, 2);
                assert_product(&g);
                assert_gap_untouched(&g.c);
                free_product(&g);
            }
}

/* A query knows no addresses: what is absent must show in the dtype, not in the data. */
static void a_query_without_data_asks_for_the_same_scratch(void **state)
{
    static const vtc_dtype dtype[5] = { VTC_F16, VTC_BF16, VTC_F16, VTC_BF16, VTC_F16 };
    uint64_t seed = 11;
    vtci_gemm g =
        make_finished(&seed, (struct shape){ 1, 9, 300, 8, 0 }, dtype, VTCI_ACT_GELU_ERF, 3);
    vtci_gemm blind = g;
    vtci_arena full = { NULL, 0, false }, empty = full;
    vtci_call call;

    (void)state;
    blind.a.data = blind.b.data = blind.c.data = blind.bias.data = blind.residual.data = NULL;
    assert_int_equal(vtci_begin(&call, "product", NULL), VTC_OK);
    vtci_gemm_lay_out(&full, &call, &g);
    vtci_gemm_lay_out(&empty, &call, &blind);
    assert_int_equal(full.used, empty.used);
    assert_true(full.used > 0);
    free_product(&g);
}

/* ---- strides --------------------------------------------------------------------------------- */

static void a_repeated_row_is_copied_for_sgemm(void **state)
{
    static const struct shape shape = { 1, 6, 20, 12, 0 };
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };
    uint64_t seed = 5;

    (void)state;
    for (int trans_b = 0; trans_b < 2; trans_b++) {
        vtci_gemm g = make_product(&seed, shape, trans_b != 0, f32);

        g.a.row_stride = 0; /* every row is the first */
        g.b.row_stride = 0;
        run_product(&g, 2);
        assert_product(&g);
        free_product(&g);
    }
}

static void overlapping_rows_are_copied_for_sgemm(void **state)
{
    static const struct shape shape = { 1, 6, 20, 12, 0 };
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };
    uint64_t seed = 6;
    vtci_gemm g = make_product(&seed, shape, true, f32);

    (void)state;
    g.a.row_stride = 4 * sizeof(float); /* a sliding window */
    run_product(&g, 2);
    assert_product(&g);
    free_product(&g);
}

/* ---- determinism ----------------------------------------------------------------------------- */

static void check_workers(uint64_t *seed, struct shape s, bool trans_b, const vtc_dtype *dtype)
{
    static const size_t n_workers[] = { 0, 2, 5 };
    vtci_gemm g = trans_b ? make_finished(seed, s, dtype, VTCI_ACT_GELU_ERF, 3)
                          : make_product(seed, s, false, dtype);
    const size_t bytes = s.batch * g.c.batch_stride;
    void *first = malloc(bytes);

    assert_non_null(first);
    run_product(&g, 1);
    memcpy(first, g.c.data, bytes);
    for (size_t i = 0; i < 3; i++) {
        poison(g.c.data, bytes);
        run_product(&g, n_workers[i]);
        assert_memory_equal(first, g.c.data, bytes);
    }
    free(first);
    free_product(&g);
}

static void any_number_of_workers_gives_the_same_bits(void **state)
{
    static const struct shape shapes[] = { { 1, 1030, 720, 10, 0 },
                                           { 1, 1, 1500, 40, 0 },
                                           { 3, 20, 600, 65, 0 } };
    static const vtc_dtype mixes[2][5] = { { VTC_F32, VTC_F32, VTC_F32, VTC_F32, VTC_F32 },
                                           { VTC_F16, VTC_BF16, VTC_F16, VTC_BF16, VTC_F16 } };
    uint64_t seed = 7;

    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (size_t mix = 0; mix < 2; mix++) {
            check_workers(&seed, shapes[i], false, mixes[mix]);
            check_workers(&seed, shapes[i], true, mixes[mix]);
        }
}

/* ---- scratch, the caller's sgemm, limits ----------------------------------------------------- */

static void many_f32_rows_need_no_scratch(void **state)
{
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };
    uint64_t seed = 8;
    vtci_gemm g = make_product(&seed, (struct shape){ 1, 129, 80, 90, 3 }, true, f32);
    vtci_arena arena = { NULL, 0, false };
    vtci_call call;

    (void)state;
    assert_int_equal(vtci_begin(&call, "product", NULL), VTC_OK);
    vtci_gemm_lay_out(&arena, &call, &g);
    assert_int_equal(arena.used, 0);
    free_product(&g);
}

/* Stands in for an engine's sgemm: counts its calls, computes in double. */
static void counting_sgemm(void *cookie, int trans_b, size_t m, size_t n, size_t k, const float *a,
                           size_t lda, const float *b, size_t ldb, float *c, size_t ldc)
{
    *(int *)cookie += 1;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;

            for (size_t s = 0; s < k; s++)
                sum += (double)a[i * lda + s] * (trans_b ? b[j * ldb + s] : b[s * ldb + j]);
            c[i * ldc + j] = (float)sum;
        }
}

static void check_callers_sgemm(bool trans_b, size_t m, size_t n, int want_calls)
{
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F32 };
    uint64_t seed = 9;
    vtci_gemm g = make_product(&seed, (struct shape){ 1, m, n, 21, 2 }, trans_b, f32);
    vtc_exec exec = VTC_EXEC_INIT;
    vtci_arena arena = { NULL, 0, false };
    int n_calls = 0;
    vtci_call call;

    exec.sgemm = counting_sgemm;
    exec.sgemm_cookie = &n_calls;
    assert_int_equal(vtci_begin(&call, "product", &exec), VTC_OK);
    vtci_gemm_lay_out(&arena, &call, &g);
    vtci_gemm_run(&call, &g);
    assert_product(&g);
    assert_int_equal(n_calls, want_calls);
    free_product(&g);
}

static void the_callers_sgemm_is_called_once_per_tile(void **state)
{
    (void)state;
    check_callers_sgemm(false, 20, 30, 1);
    check_callers_sgemm(true, 20, 30, 1);
    check_callers_sgemm(true, 20, 255, 1);
    check_callers_sgemm(true, 20, 256, 2);  /* wide enough for two workers */
    check_callers_sgemm(true, 20, 1409, 4); /* three would suffice: an even number */
    check_callers_sgemm(false, 1025, 20, 2);
    check_callers_sgemm(true, 1025, 705, 4);
    check_callers_sgemm(true, 1, 30, 0); /* a single row never is a matrix product */
}

static void extents_beyond_the_blas_integer_are_refused(void **state)
{
    const size_t most = INT_MAX;
    vtc_exec exec = test_exec(0);
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "product", &exec), VTC_OK);
    assert_int_equal(vtci_check_gemm(&call, most, most, most), VTC_OK);
    assert_int_equal(log.count, 0);
    for (int i = 0; i < 3; i++) {
        const vtc_status got =
            vtci_check_gemm(&call, most + (i == 0), most + (i == 1), most + (i == 2));

        assert_failed(&log, got, VTC_ERR_OVERFLOW, "2147483648");
        record_errors(&exec, &log);
    }
}

static void scratch_beyond_size_t_is_noticed(void **state)
{
    vtci_gemm g = { .trans_b = true };
    vtci_arena arena = { NULL, 0, false };
    vtci_call call;

    (void)state;
    g.a = (vtci_rows){ NULL, VTC_F16, 1, 600, SIZE_MAX / 16, 0, 0 };
    g.b = (vtci_rows){ NULL, VTC_F16, 1, 600, SIZE_MAX / 16, 0, 0 };
    g.c = (vtci_rows){ NULL, VTC_F16, 1, 600, 600, 0, 1200 };
    assert_int_equal(vtci_begin(&call, "product", NULL), VTC_OK);
    vtci_gemm_lay_out(&arena, &call, &g);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_ERR_OVERFLOW);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_shapes_match_the_triple_loop),
        cmocka_unit_test(any_mix_of_dtypes_is_widened_and_narrowed),
        cmocka_unit_test(an_empty_sum_gives_zeros),
        cmocka_unit_test(an_empty_product_writes_nothing),
        cmocka_unit_test(bias_activation_and_residual_follow_the_product),
        cmocka_unit_test(a_query_without_data_asks_for_the_same_scratch),
        cmocka_unit_test(a_repeated_row_is_copied_for_sgemm),
        cmocka_unit_test(overlapping_rows_are_copied_for_sgemm),
        cmocka_unit_test(any_number_of_workers_gives_the_same_bits),
        cmocka_unit_test(many_f32_rows_need_no_scratch),
        cmocka_unit_test(the_callers_sgemm_is_called_once_per_tile),
        cmocka_unit_test(extents_beyond_the_blas_integer_are_refused),
        cmocka_unit_test(scratch_beyond_size_t_is_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
