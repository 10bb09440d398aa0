/* Clustering by density peaks. */
#include "support/tensors.h"

#include "../src/prune/density_cluster.h"
#include "reference/density_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 200 };

static vtc_status run(const vtc_tensor *x, const int32_t *row, size_t n, size_t k,
                      const float *noise, size_t n_workers, int32_t *centre, int32_t *cluster)
{
    vtc_exec exec = test_exec(n_workers);
    vtci_density d = { 0 };
    vtci_call call;
    vtci_arena arena;
    vtc_status status;

    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    d.call = &call;
    d.x = vtci_rows_of(x);
    d.n = n;
    d.k = k;
    d.row = row;
    d.noise = noise;
    arena = vtci_arena_open(&call);
    vtci_density_lay_out(&arena, &d);
    exec_scratch(&exec, arena.used);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_density_lay_out(&arena, &d);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    status = vtci_density_run(&d);
    if (status == VTC_OK && n != 0) {
        memcpy(centre, d.centre, k * sizeof(*centre));
        memcpy(cluster, d.cluster, n * sizeof(*cluster));
    }
    exec_scratch_free(&exec);
    return status;
}

static void check_case(uint64_t *seed, vtc_dtype dtype)
{
    const size_t n = 1 + rng_below(seed, 90), all = n + rng_below(seed, 20);
    const size_t dim[2] = { all, 2 + rng_below(seed, 60) },
                 k = 1 + rng_below(seed, n < 12 ? n : 12);
    vtc_tensor x = make_random(seed, dtype, 2, dim, rng_below(seed, 3));
    int32_t row[MOST], centre[MOST], cluster[MOST], want_centre[MOST], want_cluster[MOST];
    double *values = values_of(&x), *picked = malloc(n * dim[1] * sizeof(*picked));
    float noise[MOST];
    const bool noisy = rng_below(seed, 2) == 0;

    for (size_t i = 0; i < n; i++) {
        row[i] = (int32_t)((i * 7 + 3) % all); /* in no order */
        noise[i] = 0.25f + 0.25f * rng_f32(seed);
        memcpy(picked + i * dim[1], values + (size_t)row[i] * dim[1], dim[1] * sizeof(*picked));
    }
    density_reference(picked, n, dim[1], k, noisy ? noise : NULL, want_centre, want_cluster);
    assert_int_equal(run(&x, row, n, k, noisy ? noise : NULL, rng_below(seed, 3), centre, cluster),
                     VTC_OK);
    assert_memory_equal(centre, want_centre, k * sizeof(*centre));
    assert_memory_equal(cluster, want_cluster, n * sizeof(*cluster));
    free(values);
    free(picked);
    guard_free(x.data);
}

static void random_rows_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_F32 };
    uint64_t seed = 81;

    (void)state;
    for (int round = 0; round < 200; round++)
        check_case(&seed, dtypes[round % 3]);
}

/* With k = 2 mutual nearest neighbours have equal densities, in which the first counts as denser.
 */
static void mutual_neighbours_tie_and_the_first_is_denser(void **state)
{
    const float values[5] = { 10.0f, 0.0f, 0.5f, 10.5f, 30.0f };
    const vtc_tensor x = vtc_f32_2d(values, 5, 1);
    const int32_t row[5] = { 0, 1, 2, 3, 4 };
    int32_t centre[2], cluster[5], turned[5];

    (void)state;
    assert_int_equal(run(&x, row, 5, 2, NULL, 0, centre, cluster), VTC_OK);
    /* rows 0 and 1 are the denser of their pairs: 0 has no denser row at all */
    assert_true(centre[0] == 0 && centre[1] == 1);
    assert_true(cluster[3] == 0 && cluster[2] == 1 && cluster[4] == 0);
    for (int i = 0; i < 5; i++)
        turned[i] = 4 - i;
    assert_int_equal(run(&x, turned, 5, 2, NULL, 0, centre, cluster), VTC_OK);
    assert_true(turned[centre[0]] == 3 && turned[centre[1]] == 2);
}

/* Rows so near each other that lengths and products could not tell them apart. */
static void near_rows_far_from_zero_are_told_apart(void **state)
{
    enum { C = 64 };
    float values[6 * C];
    const vtc_tensor x = vtc_f32_2d(values, 6, C);
    const int32_t row[6] = { 0, 1, 2, 3, 4, 5 };
    int32_t centre[2], cluster[6];

    (void)state;
    for (int i = 0; i < 6; i++)
        for (int c = 0; c < C; c++) /* two groups, 8 apart, of rows that are 1 apart, at 2^20 */
            values[i * C + c] = 0x1p20f + (float)(i % 3) + (i < 3 ? 0.0f : 8.0f);
    assert_int_equal(run(&x, row, 6, 2, NULL, 0, centre, cluster), VTC_OK);
    for (int i = 0; i < 6; i++)
        assert_int_equal(cluster[i] == cluster[0], i < 3);
}

static void equal_rows_are_one_cluster_each_centre_its_own(void **state)
{
    float values[8 * 3];
    const vtc_tensor x = vtc_f32_2d(values, 8, 3);
    const int32_t row[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    int32_t centre[3], cluster[8];

    (void)state;
    for (int i = 0; i < 24; i++)
        values[i] = 0.7f;
    assert_int_equal(run(&x, row, 8, 3, NULL, 0, centre, cluster), VTC_OK);
    for (int32_t g = 0; g < 3; g++)
        assert_true(centre[g] == g && cluster[g] == g);
    for (int i = 3; i < 8; i++)
        assert_int_equal(cluster[i], 0);
    assert_int_equal(run(&x, row, 0, 0, NULL, 0, centre, cluster), VTC_OK);
}

static void any_executor_gives_the_same_clusters(void **state)
{
    const size_t dim[2] = { 180, 96 };
    int32_t row[MOST], centre[18], cluster[MOST], one_centre[18], one[MOST];
    uint64_t seed = 82;
    vtc_tensor x = make_random(&seed, VTC_BF16, 2, dim, 1);

    (void)state;
    for (int32_t i = 0; i < 180; i++)
        row[i] = i;
    assert_int_equal(run(&x, row, 180, 18, NULL, 0, one_centre, one), VTC_OK);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        assert_int_equal(run(&x, row, 180, 18, NULL, n_workers, centre, cluster), VTC_OK);
        assert_memory_equal(centre, one_centre, sizeof(centre));
        assert_memory_equal(cluster, one, 180 * sizeof(*cluster));
    }
    guard_free(x.data);
}

static void distances_that_are_not_finite_are_refused(void **state)
{
    float values[6] = { 1.0f, 2.0f, NAN, 3.0f, 4.0f, 5.0f };
    const vtc_tensor x = vtc_f32_2d(values, 3, 2);
    const int32_t row[3] = { 0, 1, 2 };
    int32_t centre[1], cluster[3];

    (void)state;
    assert_int_equal(run(&x, row, 3, 1, NULL, 0, centre, cluster), VTC_ERR_DATA);
    assert_int_equal(run(&x, row + 1, 1, 1, NULL, 0, centre, cluster), VTC_ERR_DATA);
    values[2] = INFINITY;
    assert_int_equal(run(&x, row + 1, 1, 1, NULL, 0, centre, cluster), VTC_ERR_DATA);
    values[2] = 0x1p100f; /* its square is not finite, its distance is */
    assert_int_equal(run(&x, row, 3, 1, NULL, 0, centre, cluster), VTC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rows_equal_the_reference),
        cmocka_unit_test(mutual_neighbours_tie_and_the_first_is_denser),
        cmocka_unit_test(near_rows_far_from_zero_are_told_apart),
        cmocka_unit_test(equal_rows_are_one_cluster_each_centre_its_own),
        cmocka_unit_test(any_executor_gives_the_same_clusters),
        cmocka_unit_test(distances_that_are_not_finite_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
