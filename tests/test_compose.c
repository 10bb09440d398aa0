/* One plan of two. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

static vtc_status compose(vtc_plan *plan, const vtc_plan *first, const vtc_plan *second)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_status status;
    size_t bytes;

    assert_int_equal(vtc_plan_compose_scratch(first, second, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    status = vtc_plan_compose(plan, first, second, &exec);
    exec_scratch_free(&exec);
    return status;
}

static void assert_close_matrix(const vtc_plan *plan, const dense_plan *want)
{
    dense_plan got = dense_of(plan);

    for (size_t e = 0; e < want->n_in * want->n_out; e++) {
        assert_int_equal(got.has[e], want->has[e]);
        assert_true(close_to(got.weight[e], want->weight[e], 1e-6, 1e-6));
    }
    for (size_t j = 0; j < want->n_out; j++)
        if (want->keep[j] >= 0 && got.keep[j] >= 0)
            assert_int_equal(got.keep[j], want->keep[j]);
    dense_free(&got);
}

static void check_pair(const vtc_plan *first, const vtc_plan *second)
{
    dense_plan a = dense_of(first), b = dense_of(second), want = dense_compose(&a, &b);
    vtc_plan_count count;
    size_t n_entries = 0;

    for (size_t e = 0; e < want.n_in * want.n_out; e++)
        n_entries += want.has[e];
    assert_int_equal(vtc_plan_compose_count(first, second, &count, NULL), VTC_OK);
    assert_int_equal(count.n_out, want.n_out);
    if (first->begin != NULL || second->begin != NULL)
        assert_true(count.n_nnz >= n_entries);

    /* exactly the room that is needed is enough */
    const bool pure = first->begin == NULL && second->begin == NULL;
    vtc_plan plan = empty_plan(want.n_in, want.n_out, pure ? 0 : n_entries);
    assert_int_equal(compose(&plan, first, second), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_close_matrix(&plan, &want);
    assert_memory_equal(plan.mass, second->mass, want.n_out * sizeof(float));
    assert_memory_equal(plan.score, first->score, want.n_in * sizeof(float));
    free_plan(&plan);
    dense_free(&a);
    dense_free(&b);
    dense_free(&want);
}

static void random_plans_multiply_as_matrices(void **state)
{
    const plan_kind sums[4] = { PLAN_SELECTION, PLAN_ASCENDING, PLAN_GROUPS, PLAN_OVERLAP };
    uint64_t seed = 11;

    (void)state;
    for (int round = 0; round < 400; round++) {
        const size_t n = rng_below(&seed, 12), m = rng_below(&seed, n + 1);
        const plan_kind one = round % 5 == 0 ? PLAN_MAX : sums[rng_below(&seed, 4)];
        const plan_kind two = round % 5 == 0 ? PLAN_MAX : sums[rng_below(&seed, 4)];
        vtc_plan first = random_plan(&seed, one, n, m);
        vtc_plan second = random_plan(&seed, two, m, rng_below(&seed, m + 1));

        check_pair(&first, &second);
        free_plan(&first);
        free_plan(&second);
    }
}

static void a_composed_plan_does_to_tokens_what_the_two_do(void **state)
{
    enum { C = 5 };
    double x[12 * C], middle[12 * C], want[12 * C], got[12 * C];
    uint64_t seed = 12;

    (void)state;
    for (int round = 0; round < 100; round++) {
        vtc_plan first = random_plan(&seed, PLAN_OVERLAP, 12, 8);
        vtc_plan second = random_plan(&seed, PLAN_GROUPS, 8, 5);
        vtc_plan plan = empty_plan(12, 5, 60);
        dense_plan a = dense_of(&first), b = dense_of(&second);

        assert_int_equal(compose(&plan, &first, &second), VTC_OK);
        dense_plan both = dense_of(&plan);
        for (size_t i = 0; i < 12 * C; i++)
            x[i] = rng_f32(&seed);
        dense_apply(&a, x, C, middle);
        dense_apply(&b, middle, C, want);
        dense_apply(&both, x, C, got);
        for (size_t i = 0; i < 5 * C; i++)
            assert_true(close_to(got[i], want[i], 1e-5, 0.0));
        dense_free(&a);
        dense_free(&b);
        dense_free(&both);
        free_plan(&first);
        free_plan(&second);
        free_plan(&plan);
    }
}

static void an_output_of_a_zero_token_stands_for_its_heaviest_row(void **state)
{
    const int32_t rows[3] = { -1, 2, 1 }, owner[3] = { 0, 0, 0 }, keep[1] = { 0 };
    const float mass[3] = { 1.0f, 2.0f, 3.0f };
    vtc_plan first = empty_plan(3, 3, 0), second = empty_plan(3, 1, 3), plan = empty_plan(3, 1, 3);

    (void)state;
    assert_int_equal(vtc_plan_select(&first, 3, rows, 3, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_group(&second, 3, owner, 1, keep, mass, NULL), VTC_OK);
    assert_int_equal(compose(&plan, &first, &second), VTC_OK);
    assert_int_equal(plan.begin[1], 2);
    assert_int_equal(plan.keep[0], 1);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    free_plan(&first);
    free_plan(&second);
    free_plan(&plan);
}

static void nothing_but_zero_tokens_is_a_selection_of_none(void **state)
{
    const int32_t zero[2] = { -1, -1 }, owner[2] = { 0, 0 };
    vtc_plan first = empty_plan(4, 2, 0), second = empty_plan(2, 1, 2), plan = empty_plan(4, 1, 0);

    (void)state;
    assert_int_equal(vtc_plan_select(&first, 4, zero, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_group(&second, 2, owner, 1, NULL, NULL, NULL), VTC_OK);
    assert_int_equal(compose(&plan, &first, &second), VTC_OK);
    assert_int_equal(plan.keep[0], -1);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    free_plan(&first);
    free_plan(&second);
    free_plan(&plan);
}

static void refuse(vtc_plan *plan, const vtc_plan *first, const vtc_plan *second, vtc_status want,
                   const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    exec_scratch(&exec, 4096);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compose(plan, first, second, &exec), want, part);
    exec_scratch_free(&exec);
}

static void what_does_not_fit_is_refused_and_nothing_written(void **state)
{
    uint64_t seed = 21;
    vtc_plan a = random_plan(&seed, PLAN_OVERLAP, 9, 6), b = random_plan(&seed, PLAN_GROUPS, 6, 4);
    vtc_plan max = random_plan(&seed, PLAN_MAX, 6, 4);
    vtc_plan plan = empty_plan(9, 4, 36), shared = plan;
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    poison(plan.keep, 4 * sizeof(int32_t));
    poison(plan.begin, 5 * sizeof(int32_t));
    refuse(&plan, &b, &a, VTC_ERR_SHAPE, "second has 9 input rows, first has 4 outputs");
    refuse(&plan, &a, &max, VTC_ERR_UNSUPPORTED, "reduce");
    refuse(&plan, NULL, &b, VTC_ERR_NULL, "first is NULL");
    refuse(NULL, &a, &b, VTC_ERR_NULL, "plan is NULL");
    refuse(&a, &a, &b, VTC_ERR_OVERLAP, "one of the two");
    shared.fate = b.fate;
    refuse(&shared, &a, &b, VTC_ERR_OVERLAP, "second overlaps fate");
    plan.cap_nnz = 1;
    refuse(&plan, &a, &b, VTC_ERR_ROOM, "plan has room for 1");
    plan.cap_nnz = 36;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compose(&plan, &a, &b, &exec), VTC_ERR_SCRATCH, "needs 128 bytes");
    b.source[0] = 6;
    refuse(&plan, &a, &b, VTC_ERR_RANGE, "source[0] of second is 6");
    assert_true(is_poisoned(plan.keep, 4 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.begin, 5 * sizeof(int32_t)));
    free_plan(&a);
    free_plan(&b);
    free_plan(&max);
    free_plan(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_multiply_as_matrices),
        cmocka_unit_test(a_composed_plan_does_to_tokens_what_the_two_do),
        cmocka_unit_test(an_output_of_a_zero_token_stands_for_its_heaviest_row),
        cmocka_unit_test(nothing_but_zero_tokens_is_a_selection_of_none),
        cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
