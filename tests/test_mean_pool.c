/* Average pooling as a plan. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>

static vtc_plan pool(size_t h, size_t w, size_t out_h, size_t out_w, const float *mass)
{
    vtc_plan_count count;

    assert_int_equal(vtc_mean_pool_count(h, w, out_h, out_w, &count, NULL), VTC_OK);

    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    assert_int_equal(vtc_mean_pool(h, w, out_h, out_w, mass, &plan, NULL), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_int_equal(plan.begin[plan.n_out], count.n_nnz);
    return plan;
}

/* One dimension by the definition: is cell i in window j? */
static bool inside(size_t i, size_t j, size_t n, size_t m)
{
    const double cell = (double)i;

    return cell >= floor((double)(j * n) / (double)m) &&
           cell < ceil((double)((j + 1) * n) / (double)m);
}

static void check_window(const vtc_plan *plan, size_t j, size_t h, size_t w, size_t out_h,
                         size_t out_w)
{
    int32_t at = plan->begin[j];
    const float weight = plan->weight[at];

    for (size_t r = 0; r < h; r++)
        for (size_t c = 0; c < w; c++)
            if (inside(r, j / out_w, h, out_h) && inside(c, j % out_w, w, out_w)) {
                assert_int_equal(plan->source[at], r * w + c);
                assert_true(plan->weight[at++] == weight);
            }
    assert_int_equal(at, plan->begin[j + 1]);
    assert_true(close_to((double)weight * (at - plan->begin[j]), 1.0, 1e-6, 0.0));
}

static void windows_are_those_of_adaptive_pooling(void **state)
{
    uint64_t seed = 61;

    (void)state;
    for (int round = 0; round < 100; round++) {
        const size_t h = 1 + rng_below(&seed, 15), w = 1 + rng_below(&seed, 15);
        const size_t out_h = 1 + rng_below(&seed, 17), out_w = 1 + rng_below(&seed, 17);
        vtc_plan plan = pool(h, w, out_h, out_w, NULL);

        for (size_t j = 0; j < plan.n_out; j++)
            check_window(&plan, j, h, w, out_h, out_w);
        free_plan(&plan);
    }
}

/* The same windows by another route: the library's pooling of tokens. */
static void applied_to_tokens_it_is_vtc_pool2d(void **state)
{
    enum { H = 11, W = 7, OUT_H = 4, OUT_W = 5, C = 6 };
    const size_t in_dim[2] = { H * W, C }, out_dim[2] = { OUT_H * OUT_W, C };
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;
    uint64_t seed = 62;
    vtc_tensor x = make_random(&seed, VTC_F32, 2, in_dim, 0);
    vtc_tensor y = make_tensor(VTC_F32, 2, out_dim, 0), want = make_tensor(VTC_F32, 2, out_dim, 0);
    vtc_plan plan = pool(H, W, OUT_H, OUT_W, NULL);
    vtc_exec exec = VTC_EXEC_INIT;
    size_t bytes;

    (void)state;
    params.mode = VTC_POOL_ADAPTIVE_AVERAGE;
    params.grid_h = H;
    params.grid_w = W;
    params.out_h = OUT_H;
    params.out_w = OUT_W;
    assert_int_equal(vtc_pool2d_scratch(&params, &x, &want, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_pool2d(&params, &x, &want, &exec), VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_apply_scratch(&plan, &x, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_plan_apply(&plan, &x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    double *values = values_of(&want);

    assert_tensor_near(&y, values, 1e-6);
    free(values);
    free_plan(&plan);
    guard_free(x.data);
    guard_free(y.data);
    guard_free(want.data);
}

static void mass_is_conserved_where_windows_overlap(void **state)
{
    float mass[15 * 13];
    uint64_t seed = 63;

    (void)state;
    for (size_t out = 1; out < 20; out++) {
        double in = 0.0, all = 0.0;

        for (size_t i = 0; i < 15 * 13; i++)
            in += mass[i] = 1.5f + rng_f32(&seed);
        vtc_plan plan = pool(15, 13, out, 21 - out, mass);

        for (size_t j = 0; j < plan.n_out; j++)
            all += plan.mass[j];
        assert_true(close_to(all, in, 0.0, 1e-5));
        free_plan(&plan);
    }
}

static void an_output_stands_for_the_middle_of_its_window(void **state)
{
    const int32_t want[4] = { 1 * 5 + 1, 1 * 5 + 3, 3 * 5 + 1, 3 * 5 + 3 };
    vtc_plan plan = pool(5, 5, 2, 2, NULL);

    (void)state;
    assert_memory_equal(plan.keep, want, sizeof(want));
    free_plan(&plan);
}

static void empty_sides_and_short_room_are_refused(void **state)
{
    vtc_plan plan = empty_plan(36, 4, 35);
    vtc_plan_count count = { 7, 7, 7, 7 };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(plan.keep, 4 * sizeof(int32_t));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_pool_count(6, 6, 0, 2, &count, &exec), VTC_ERR_RANGE, "0 x 2");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_pool_count((size_t)1 << 40, (size_t)1 << 40, 1, 2, &count, &exec),
                  VTC_ERR_OVERFLOW, "exceed");
    assert_int_equal(count.n_in, 7);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mean_pool(6, 6, 2, 2, NULL, &plan, &exec), VTC_ERR_ROOM, "36");
    assert_true(is_poisoned(plan.keep, 4 * sizeof(int32_t)));
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_are_those_of_adaptive_pooling),
        cmocka_unit_test(applied_to_tokens_it_is_vtc_pool2d),
        cmocka_unit_test(mass_is_conserved_where_windows_overlap),
        cmocka_unit_test(an_output_stands_for_the_middle_of_its_window),
        cmocka_unit_test(empty_sides_and_short_room_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
