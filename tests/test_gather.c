/* Anything by `keep`, along any axis. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <string.h>

static const vtc_dtype dtypes[7] = {
    VTC_F32, VTC_F16, VTC_BF16, VTC_I32, VTC_I64, VTC_U8, VTC_BOOL
};

/* A view with random gaps between rows, planes and so on, in memory that ends at a guard page. */
static vtc_tensor strided(uint64_t *seed, vtc_dtype dtype, int rank, const size_t *dim)
{
    vtc_tensor t = vtc_tensor_nd(NULL, dtype, rank, dim);
    size_t stride = 1, last = 0;
    bool empty = false;

    for (int axis = rank - 1; axis >= 0; axis--) {
        t.stride[axis] = stride;
        stride = stride * dim[axis] + (rng_below(seed, 3) == 0 ? rng_below(seed, 4) : 0);
        last += dim[axis] == 0 ? 0 : (dim[axis] - 1) * t.stride[axis];
        empty = empty || dim[axis] == 0;
    }
    t.data = guard_alloc(empty ? 0 : (last + 1) * vtc_dtype_size(dtype));
    return t;
}

/* The bytes of one element. */
static unsigned char *element(const vtc_tensor *t, const size_t *index)
{
    size_t at = 0;

    for (int axis = 0; axis < t->rank; axis++)
        at += index[axis] * t->stride[axis];
    return (unsigned char *)t->data + at * vtc_dtype_size(t->dtype);
}

/* The next index in row-major order; false behind the last. */
static bool advance(const vtc_tensor *t, size_t *index)
{
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        if (++index[axis] < t->dim[axis])
            return true;
        index[axis] = 0;
    }
    return false;
}

static size_t count_of(const vtc_tensor *t)
{
    size_t n = 1;

    for (int axis = 0; axis < t->rank; axis++)
        n *= t->dim[axis];
    return n;
}

static void assert_gathered(const vtc_plan *plan, int axis, const vtc_tensor *x, const void *fill,
                            const vtc_tensor *y)
{
    const size_t size = vtc_dtype_size(x->dtype);
    size_t index[VTC_MAX_RANK] = { 0 };

    if (count_of(y) == 0)
        return;
    do {
        const unsigned char zero[8] = { 0 };
        size_t from[VTC_MAX_RANK];
        const int32_t row = plan->keep[index[axis]];
        const void *want = fill == NULL ? zero : fill;

        memcpy(from, index, sizeof(from));
        if (row >= 0) {
            from[axis] = (size_t)row;
            want = element(x, from);
        }
        assert_memory_equal(element(y, index), want, size);
    } while (advance(y, index));
}

static void any_dtype_rank_and_axis_is_gathered(void **state)
{
    const unsigned char fill[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 600; round++) {
        const size_t n_in = rng_below(&seed, 9), n_out = rng_below(&seed, n_in + 1);
        const plan_kind kind = round % 2 ? PLAN_SELECTION : PLAN_OVERLAP;
        vtc_plan plan = random_plan(&seed, kind, n_in, n_out);
        const int rank = 1 + (int)rng_below(&seed, VTC_MAX_RANK);
        const int axis = (int)rng_below(&seed, (size_t)rank);
        const vtc_dtype dtype = dtypes[rng_below(&seed, 7)];
        vtc_exec exec = test_exec(rng_below(&seed, 4));
        size_t dim[VTC_MAX_RANK], index[VTC_MAX_RANK] = { 0 };

        for (int a = 0; a < rank; a++)
            dim[a] = a == axis ? n_in : rng_below(&seed, 5);
        vtc_tensor x = strided(&seed, dtype, rank, dim);
        dim[axis] = n_out;
        vtc_tensor y = strided(&seed, dtype, rank, dim);
        if (count_of(&x) != 0) {
            do
                for (size_t b = 0; b < vtc_dtype_size(dtype); b++)
                    element(&x, index)[b] = (unsigned char)rng(&seed);
            while (advance(&x, index));
        }
        guard_readonly(x.data);
        const void *with = round % 3 == 0 ? NULL : fill;
        assert_int_equal(vtc_plan_gather(&plan, axis, &x, with, &y, &exec), VTC_OK);
        assert_gathered(&plan, axis, &x, with, &y);
        guard_free(x.data);
        guard_free(y.data);
        free_plan(&plan);
    }
}

static void rows_of_many_tasks_are_gathered(void **state)
{
    enum { N = 3000, K = 2000, C = 70 };
    static float x_data[N * C], y_data[K * C];
    uint64_t seed = 2;
    vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, N, K);
    vtc_tensor x = vtc_f32_2d(x_data, N, C), y = vtc_f32_2d(y_data, K, C);
    vtc_exec exec = test_exec(3);

    (void)state;
    rng_fill(&seed, x_data, N * C);
    assert_int_equal(vtc_plan_gather(&plan, 0, &x, NULL, &y, &exec), VTC_OK);
    assert_gathered(&plan, 0, &x, NULL, &y);
    free_plan(&plan);
}

static void an_empty_input_gives_fill(void **state)
{
    const int32_t rows[2] = { -1, -1 };
    const int32_t pad = 151643;
    int32_t y_data[2] = { 0, 0 };
    vtc_plan plan = empty_plan(0, 2, 0);
    vtc_tensor x = vtc_tensor_1d(NULL, VTC_I32, 0), y = vtc_tensor_1d(y_data, VTC_I32, 2);

    (void)state;
    assert_int_equal(vtc_plan_select(&plan, 0, rows, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_gather(&plan, 0, &x, &pad, &y, NULL), VTC_OK);
    assert_true(y_data[0] == pad && y_data[1] == pad);
    free_plan(&plan);
}

static void refuse(const vtc_plan *plan, int axis, const vtc_tensor *x, const void *fill,
                   vtc_tensor *y, vtc_status want, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_gather(plan, axis, x, fill, y, &exec), want, part);
}

static void what_does_not_fit_is_refused_and_nothing_written(void **state)
{
    int32_t memory[80];
    uint64_t seed = 3;
    vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, 5, 3);
    vtc_tensor x = vtc_tensor_2d(memory, VTC_I32, 5, 4);
    vtc_tensor y = vtc_tensor_2d(memory + 40, VTC_I32, 3, 4), bad;

    (void)state;
    poison(memory + 20, 60 * sizeof(*memory));
    refuse(NULL, 0, &x, NULL, &y, VTC_ERR_NULL, "plan is NULL");
    refuse(&plan, 2, &x, NULL, &y, VTC_ERR_RANGE, "axis is 2 of rank 2");
    refuse(&plan, -1, &x, NULL, &y, VTC_ERR_RANGE, "axis is -1");
    refuse(&plan, 1, &x, NULL, &y, VTC_ERR_SHAPE, "axis 0 has 5 in x and 3 in y");
    bad = vtc_tensor_2d(memory + 40, VTC_F32, 3, 4);
    refuse(&plan, 0, &x, NULL, &bad, VTC_ERR_DTYPE, "y has dtype F32");
    bad = vtc_tensor_2d(memory + 40, VTC_I32, 3, 5);
    refuse(&plan, 0, &x, NULL, &bad, VTC_ERR_SHAPE, "axis 1 has 4 in x and 5 in y");
    bad = vtc_tensor_1d(memory + 40, VTC_I32, 3);
    refuse(&plan, 0, &x, NULL, &bad, VTC_ERR_SHAPE, "rank 1");
    bad = vtc_tensor_2d(memory + 19, VTC_I32, 3, 4);
    refuse(&plan, 0, &x, NULL, &bad, VTC_ERR_OVERLAP, "y overlaps x");
    refuse(&plan, 0, &x, memory + 51, &y, VTC_ERR_OVERLAP, "y overlaps fill");
    plan.keep[2] = 5;
    refuse(&plan, 0, &x, NULL, &y, VTC_ERR_RANGE, "keep[2] of plan is 5");
    assert_true(is_poisoned(memory + 20, 60 * sizeof(*memory)));
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_dtype_rank_and_axis_is_gathered),
        cmocka_unit_test(rows_of_many_tasks_are_gathered),
        cmocka_unit_test(an_empty_input_gives_fill),
        cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
