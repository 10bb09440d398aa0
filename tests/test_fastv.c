/* FastV. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

static vtc_plan fastv(const float *score, size_t n, size_t n_keep, const float *mass)
{
    vtc_plan plan = empty_plan(n, n_keep, 0);
    vtc_exec exec = VTC_EXEC_INIT;

    assert_int_equal(vtc_fastv(score, n, n_keep, mass, &plan, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    return plan;
}

static void the_best_rows_ascend_and_ties_go_to_the_lower(void **state)
{
    const float score[8] = { 0.1f, 0.3f, 0.2f, 0.3f, 0.3f, 0.0f, 0.2f, 0.1f };
    const float mass[8] = { 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f };
    static const int32_t want[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, four[4] = { 1, 2, 3, 4 };

    (void)state;
    vtc_plan plan = fastv(score, 8, 4, mass), all = fastv(score, 8, 8, NULL);
    vtc_plan none = fastv(score, 8, 0, NULL), empty = fastv(NULL, 0, 0, NULL);

    assert_memory_equal(plan.keep, four, sizeof(four));
    assert_memory_equal(all.keep, want, sizeof(want));
    assert_memory_equal(plan.score, score, sizeof(score));
    assert_true(plan.mass[3] == 5.0f && plan.fate[5] == -1 && plan.fate[4] == 3);
    assert_true(none.n_out == 0 && none.n_in == 8 && empty.n_in == 0);
    free_plan(&plan);
    free_plan(&all);
    free_plan(&none);
    free_plan(&empty);
}

static void permuting_tokens_permutes_the_plan(void **state)
{
    uint64_t seed = 51;
    float score[60], turned[60];

    (void)state;
    rng_fill(&seed, score, 60);
    for (size_t i = 0; i < 60; i++)
        turned[59 - i] = score[i];
    vtc_plan a = fastv(score, 60, 23, NULL), b = fastv(turned, 60, 23, NULL);

    for (size_t j = 0; j < 23; j++)
        assert_int_equal(a.keep[j], 59 - b.keep[22 - j]);
    free_plan(&a);
    free_plan(&b);
}

/* Values from Python: round(n * (1 - R)) and int(n * R). */
static void counts_are_those_of_the_ports(void **state)
{
    static const struct {
        size_t n;
        double value;
        size_t pruned, kept;
    } cases[] = { { 576, 0.5, 288, 288 }, { 576, 0.75, 144, 432 }, { 5, 0.5, 2, 2 },
                  { 7, 0.5, 4, 3 },       { 576, 0.0, 576, 0 },    { 576, 1.0, 0, 576 },
                  { 3, 0.3, 2, 0 },       { 0, 0.5, 0, 0 },        { 100, 0.29, 71, 28 } };
    size_t n;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(vtc_fastv_count(VTC_FASTV_PRUNED_SHARE, cases[i].n, cases[i].value, &n,
                                         NULL),
                         VTC_OK);
        assert_int_equal(n, cases[i].pruned);
        assert_int_equal(vtc_fastv_count(VTC_FASTV_KEPT_SHARE, cases[i].n, cases[i].value, &n,
                                         NULL),
                         VTC_OK);
        assert_int_equal(n, cases[i].kept);
    }
}

static void the_mask_hides_what_is_dropped(void **state)
{
    const float score[4] = { 0.4f, 0.1f, 0.3f, 0.2f };
    const uint8_t want[9] = { 1, 1, 1, 0, 1, 0, 1, 1, 1 };
    uint8_t *seen = guard_alloc(9);
    vtc_tensor mask = vtc_tensor_1d(seen, VTC_BOOL, 9);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan plan = fastv(score, 4, 2, NULL);
    error_log log;

    (void)state;
    assert_int_equal(vtc_fastv_mask(&plan, 2, &mask, NULL), VTC_OK);
    assert_memory_equal(seen, want, 9);
    poison(seen, 9);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_fastv_mask(&plan, 6, &mask, &exec), VTC_ERR_SHAPE, "9 rows");
    mask.dtype = VTC_I32;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_fastv_mask(&plan, 2, &mask, &exec), VTC_ERR_DTYPE, "mask");
    assert_true(is_poisoned(seen, 9));
    free_plan(&plan);
    guard_free(seen);
}

static void refused(const float *score, size_t n_keep, const float *mass, vtc_status status,
                    const char *part)
{
    vtc_plan plan = empty_plan(4, 4, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    poison(plan.keep, 4 * sizeof(int32_t));
    poison(plan.score, 4 * sizeof(float));
    assert_failed(&log, vtc_fastv(score, 4, n_keep, mass, &plan, &exec), status, part);
    assert_true(is_poisoned(plan.keep, 4 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.score, 4 * sizeof(float)));
    free_plan(&plan);
}

static void bad_arguments_leave_outputs_untouched(void **state)
{
    const float score[4] = { 1.0f, 2.0f, NAN, 4.0f }, fine[4] = { 1.0f, 2.0f, 3.0f, 4.0f };
    const float mass[4] = { 1.0f, -1.0f, 1.0f, 1.0f };
    vtc_exec exec = VTC_EXEC_INIT;
    size_t n = 7;
    error_log log;

    (void)state;
    refused(score, 2, NULL, VTC_ERR_DATA, "score[2]");
    refused(fine, 5, NULL, VTC_ERR_BUDGET, "5 of 4");
    refused(fine, 2, mass, VTC_ERR_DATA, "mass[1]");
    refused(NULL, 2, NULL, VTC_ERR_NULL, "score");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_fastv_count(VTC_FASTV_KEPT_SHARE, 9, NAN, &n, &exec), VTC_ERR_RANGE,
                  "nan");
    assert_int_equal(n, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_rows_ascend_and_ties_go_to_the_lower),
        cmocka_unit_test(permuting_tokens_permutes_the_plan),
        cmocka_unit_test(counts_are_those_of_the_ports),
        cmocka_unit_test(the_mask_hides_what_is_dropped),
        cmocka_unit_test(bad_arguments_leave_outputs_untouched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
