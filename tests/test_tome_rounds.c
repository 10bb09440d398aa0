/* ToMe in rounds, and the planner "tome". */
#include "support/tensors.h"

#include "reference/plan_reference.h"
#include "reference/tome_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vtc_tome_params make_params(int class_token, int distill_token)
{
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;

    params.class_token = class_token;
    params.distill_token = distill_token;
    return params;
}

static vtc_plan rounds(const vtc_tome_params *params, const vtc_tensor *metric, const float *mass,
                       size_t n_keep, size_t n_workers)
{
    const size_t n = metric->dim[0];
    vtc_plan plan = empty_plan(n, n_keep, n_keep == n ? 0 : n);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_tome_rounds_scratch(params, metric, n_keep, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_tome_rounds(params, metric, mass, n_keep, &plan, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static vtc_tensor random_metric(uint64_t *seed, vtc_dtype dtype, size_t n, size_t d)
{
    const size_t dim[2] = { n, d };

    return make_random(seed, dtype, 2, dim, 2);
}

/* ---- the rounds ------------------------------------------------------------------------------ */

static void check_case(uint64_t *seed, size_t n, size_t n_keep, const vtc_tome_params *params,
                       vtc_dtype dtype)
{
    const size_t d = 6 + rng_below(seed, 10);
    vtc_tensor metric = random_metric(seed, dtype, n, d);
    double *values = values_of(&metric), masses[64];
    float mass[64];

    for (size_t i = 0; i < n; i++)
        masses[i] = mass[i] = (float)(1 + rng_below(seed, 5));
    tome_reference want = tome_reference_rounds(values, masses, n, d, n_keep, params->class_token,
                                                params->distill_token);
    vtc_plan plan = rounds(params, &metric, mass, n_keep, 2);

    assert_int_equal(plan.n_out, n_keep);
    assert_memory_equal(plan.keep, want.keep, n_keep * sizeof(*plan.keep));
    assert_memory_equal(plan.fate, want.owner, n * sizeof(*plan.fate));
    for (size_t i = 0; i < n; i++)
        assert_true(close_to(plan.score[i], want.score[i], 1e-6, 1e-6));
    free_plan(&plan);
    tome_reference_free(&want);
    free(values);
    guard_free(metric.data);
}

static void random_rounds_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 21;

    (void)state;
    for (int round = 0; round < 200; round++) {
        const vtc_tome_params params =
            make_params((int)rng_below(&seed, 2), (int)rng_below(&seed, 2));
        const size_t n = 3 + rng_below(&seed, 60);

        check_case(&seed, n, 3 + rng_below(&seed, n - 2), &params, dtypes[round % 3]);
    }
}

static void one_round_is_tome(void **state)
{
    vtc_tome_params params = make_params(1, 0);
    uint64_t seed = 22;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 61, 12);
    vtc_plan got = rounds(&params, &metric, NULL, 41, 1), want = empty_plan(61, 41, 61);
    vtc_exec exec = test_exec(1);
    size_t bytes;

    (void)state;
    params.n_merge = 20;
    assert_int_equal(vtc_tome_scratch(&params, &metric, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_tome(&params, &metric, NULL, &want, NULL, &exec), VTC_OK);
    assert_memory_equal(got.keep, want.keep, 41 * sizeof(*want.keep));
    assert_memory_equal(got.source, want.source, 61 * sizeof(*want.source));
    assert_memory_equal(got.score, want.score, 61 * sizeof(*want.score));
    exec_scratch_free(&exec);
    free_plan(&got);
    free_plan(&want);
    guard_free(metric.data);
}

static void all_special_tokens_survive_down_to_the_fewest(void **state)
{
    uint64_t seed = 23;

    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        const vtc_tome_params params = make_params(flags & 1, flags >> 1);
        const size_t fewest = flags >= 2 ? 3 : flags == 1 ? 2 : 1;
        vtc_tensor metric = random_metric(&seed, VTC_F32, 50, 7);
        vtc_plan plan = rounds(&params, &metric, NULL, fewest, 1);

        if (params.class_token)
            assert_true(plan.keep[0] == 0 && plan.mass[0] == 1.0f);
        if (params.distill_token)
            assert_true(plan.keep[1] == 1 && plan.mass[1] == 1.0f);
        free_plan(&plan);
        guard_free(metric.data);
    }
}

/* The first round merges row 0 into row 1, which is its opposite: nothing is left of both. */
static void rows_that_cancel_out_are_no_error(void **state)
{
    const float rows[6] = { 1.0f, 0.0f, -1.0f, 0.0f, 1.0f, 0.0f };
    const vtc_tensor metric = vtc_f32_2d(rows, 3, 2);
    vtc_plan two = rounds(NULL, &metric, NULL, 2, 1), one = rounds(NULL, &metric, NULL, 1, 1);

    (void)state;
    assert_int_equal(two.fate[0], two.fate[1]);
    assert_true(one.mass[0] == 3.0f);
    free_plan(&two);
    free_plan(&one);
}

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 24;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 700, 64);
    vtc_plan one = rounds(NULL, &metric, NULL, 90, 0), five = rounds(NULL, &metric, NULL, 90, 5);

    (void)state;
    assert_memory_equal(one.keep, five.keep, 90 * sizeof(*one.keep));
    assert_memory_equal(one.source, five.source, 700 * sizeof(*one.source));
    assert_memory_equal(one.weight, five.weight, 700 * sizeof(*one.weight));
    assert_memory_equal(one.score, five.score, 700 * sizeof(*one.score));
    free_plan(&one);
    free_plan(&five);
    guard_free(metric.data);
}

static void budgets_out_of_reach_are_refused(void **state)
{
    const vtc_tome_params params = make_params(1, 0);
    uint64_t seed = 25;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 10, 4);
    vtc_plan plan = empty_plan(10, 10, 10);
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_rounds(&params, &metric, NULL, 11, &plan, &exec), VTC_ERR_BUDGET,
                  "cannot keep 11 of 10 rows");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_rounds(&params, &metric, NULL, 1, &plan, &exec), VTC_ERR_BUDGET,
                  "2 or more");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_rounds(&params, &metric, NULL, 5, &plan, &exec), VTC_ERR_SCRATCH,
                  "scratch");
    assert_int_equal(plan.n_out, 0);
    free_plan(&plan);
    guard_free(metric.data);
}

static void bad_rows_are_refused_before_anything_is_written(void **state)
{
    const size_t dim[2] = { 12, 2 };
    vtc_tensor metric = make_tensor(VTC_F32, 2, dim, 0);
    vtc_plan plan = empty_plan(12, 2, 12);
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t bytes;

    (void)state;
    for (size_t i = 0; i < 24; i++)
        ((float *)metric.data)[i] = i / 2 == 4 ? 0.0f : 1.0f + (float)i;
    poison(plan.keep, 2 * sizeof(int32_t));
    poison(plan.score, 12 * sizeof(float));
    assert_int_equal(vtc_tome_rounds_scratch(NULL, &metric, 2, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_rounds(NULL, &metric, NULL, 2, &plan, &exec), VTC_ERR_DATA,
                  "metric row 4");
    assert_true(is_poisoned(plan.keep, 2 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.score, 12 * sizeof(float)));
    exec_scratch_free(&exec);
    free_plan(&plan);
    guard_free(metric.data);
}

/* ---- the planner ----------------------------------------------------------------------------- */

static vtc_plan run_planner(const vtc_plan_inputs *inputs, size_t n_keep)
{
    const vtc_planner *planner = vtc_planner_find("tome");
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_exec exec = test_exec(2);
    vtc_plan_count count;
    size_t bytes;

    assert_int_equal(vtc_planner_count(planner, NULL, inputs, &budget, &count, &exec), VTC_OK);
    assert_int_equal(count.n_out, n_keep);
    assert_int_equal(vtc_planner_scratch(planner, NULL, inputs, &budget, &exec, &bytes), VTC_OK);

    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, NULL, inputs, &budget, &plan, NULL, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static void the_planner_measures_features_or_mean_keys(void **state)
{
    const size_t dim[3] = { 3, 40, 8 }, mean_dim[2] = { 40, 8 };
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    uint64_t seed = 26;
    vtc_tensor features = random_metric(&seed, VTC_F32, 40, 9);
    vtc_tensor keys = make_random(&seed, VTC_F32, 3, dim, 1),
               mean = make_tensor(VTC_F32, 2, mean_dim, 0);

    (void)state;
    assert_int_equal(vtc_mean_keys(&keys, &mean, NULL), VTC_OK);
    inputs.features = &features;
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        inputs.keys = with_keys ? &keys : NULL;
        vtc_plan want = rounds(NULL, with_keys ? &mean : &features, NULL, 13, 1);
        vtc_plan got = run_planner(&inputs, 13);

        assert_memory_equal(got.keep, want.keep, 13 * sizeof(*want.keep));
        assert_memory_equal(got.source, want.source, 40 * sizeof(*want.source));
        free_plan(&want);
        free_plan(&got);
    }
    guard_free(features.data);
    guard_free(keys.data);
    guard_free(mean.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rounds_equal_the_reference),
        cmocka_unit_test(one_round_is_tome),
        cmocka_unit_test(all_special_tokens_survive_down_to_the_fewest),
        cmocka_unit_test(rows_that_cancel_out_are_no_error),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(budgets_out_of_reach_are_refused),
        cmocka_unit_test(bad_rows_are_refused_before_anything_is_written),
        cmocka_unit_test(the_planner_measures_features_or_mean_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
