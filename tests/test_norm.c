/* Norms of many rows, of any dtypes and strides, against double. */
#include "../src/linalg/norm.h"
#include "support/models.h"

#include <math.h>
#include <stdlib.h>

struct job {
    vtc_tensor x, y;
    vtc_norm weights;
    vtci_norm norm;
};

/* dtype: of x, y, weights */
static struct job make_job(uint64_t *seed, const size_t *dim, const vtc_dtype *dtype,
                           vtc_norm_kind kind, bool bias, size_t gap)
{
    struct job job = { .x = make_random(seed, dtype[0], 3, dim, gap),
                       .y = make_tensor(dtype[1], 3, dim, gap),
                       .weights = random_norm(seed, dtype[2], dim[2], bias) };

    job.norm = (vtci_norm){
        .x = vtci_rows_of(&job.x), .y = vtci_rows_of(&job.y), .kind = kind, .eps = 1e-5f
    };
    return job;
}

static void free_job(struct job *job)
{
    guard_free(job->x.data);
    guard_free(job->y.data);
    free_norm(&job->weights);
}

static void run(vtci_norm *norm, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtci_arena arena;
    vtci_call call;
    size_t bytes;

    assert_int_equal(vtci_begin_query(&call, "norm", &exec, &bytes), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_norm_lay_out(&arena, &call, norm);
    assert_int_equal(vtci_end_query(&call, &arena, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtci_begin(&call, "norm", &exec), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_norm_lay_out(&arena, &call, norm);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    vtci_norm_run(&call, norm);
    exec_scratch_free(&exec);
}

static void assert_norm(const struct job *job)
{
    double *x = values_of(&job->x);

    if (job->norm.norm != NULL)
        apply_norm(job->norm.norm, job->norm.kind, (double)job->norm.eps, x, n_elements(&job->x));
    else
        for (size_t i = 0, c = job->x.dim[2]; i < n_elements(&job->x); i += c) {
            double mean = 0.0, var = 0.0;

            for (size_t j = 0; j < c; j++)
                mean += x[i + j] / (double)c;
            for (size_t j = 0; j < c; j++)
                var += (x[i + j] - mean) * (x[i + j] - mean) / (double)c;
            for (size_t j = 0; j < c; j++)
                x[i + j] = (x[i + j] - mean) / sqrt(var + (double)job->norm.eps);
        }
    assert_tensor_near(&job->y, x, 4e-6);
    free(x);
}

static const size_t sizes[][3] = { { 1, 1, 1 },  { 1, 1, 70 },   { 2, 17, 33 }, { 3, 16, 8 },
                                   { 1, 49, 5 }, { 0, 5, 6 },    { 2, 0, 6 },   { 1, 130, 64 },
                                   { 5, 1, 9 },  { 1, 31, 1025 } };

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

static void any_dtypes_sizes_and_gaps(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (size_t mix = 0; mix < 27; mix++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
            const vtc_dtype dtype[3] = { dtypes[mix % 3], dtypes[mix / 3 % 3], dtypes[mix / 9] };
            const vtc_norm_kind kind = i % 2 == 0 ? VTC_NORM_LAYER : VTC_NORM_RMS;
            struct job job = make_job(&seed, sizes[i], dtype, kind,
                                      kind == VTC_NORM_LAYER && i % 4 == 0, mix % 3);

            job.norm.norm = &job.weights;
            run(&job.norm, i % 3);
            assert_norm(&job);
            free_job(&job);
        }
}

static void a_layer_norm_may_have_no_weights(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (size_t i = 0; i < 9; i++) {
        const vtc_dtype dtype[3] = { dtypes[i % 3], dtypes[i / 3], VTC_F32 };
        struct job job = make_job(&seed, sizes[2], dtype, VTC_NORM_LAYER, false, 1);

        run(&job.norm, 2);
        assert_norm(&job);
        free_job(&job);
    }
}

static void rows_may_be_normalised_in_place(void **state)
{
    static const vtc_dtype f32[3] = { VTC_F32, VTC_F32, VTC_F16 };
    const size_t dim[3] = { 1, 40, 19 };
    uint64_t seed = 3;
    struct job job = make_job(&seed, dim, f32, VTC_NORM_LAYER, true, 2);
    double *want = values_of(&job.x);

    (void)state;
    apply_norm(&job.weights, VTC_NORM_LAYER, 1e-5, want, 40 * 19);
    guard_writable(job.x.data);
    job.norm.norm = &job.weights;
    job.norm.y = job.norm.x;
    run(&job.norm, 5);
    assert_tensor_near(&job.x, want, 4e-6);
    assert_untouched(&job.y);
    free(want);
    free_job(&job);
}

static void workers_do_not_change_a_bit(void **state)
{
    static const vtc_dtype dtype[3] = { VTC_BF16, VTC_F16, VTC_F32 };
    const size_t dim[3] = { 2, 70, 33 };
    uint64_t seed = 4;
    struct job job = make_job(&seed, dim, dtype, VTC_NORM_RMS, false, 1);

    (void)state;
    job.norm.norm = &job.weights;
    run(&job.norm, 1);
    for (size_t n = 0; n < 6; n += 5) {
        vtc_tensor y = make_tensor(VTC_F16, 3, dim, 1);
        vtci_norm again = job.norm;

        again.y = vtci_rows_of(&y);
        run(&again, n);
        assert_same_bits(&job.y, &y);
        guard_free(y.data);
    }
    free_job(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_dtypes_sizes_and_gaps),
        cmocka_unit_test(a_layer_norm_may_have_no_weights),
        cmocka_unit_test(rows_may_be_normalised_in_place),
        cmocka_unit_test(workers_do_not_change_a_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
