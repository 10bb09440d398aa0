/* Room for plans; select, identity and group. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

static const vtc_exec quiet = VTC_EXEC_INIT;

/* ---- room ------------------------------------------------------------------------------------ */

static void a_plan_fits_exactly_the_size_that_is_asked_for(void **state)
{
    const vtc_plan_count count = { 7, 3, 5, 1 };
    const int32_t owner[7] = { 0, 1, 1, 1, -1, 2, -1 };
    vtc_plan plan = VTC_PLAN_INIT;
    size_t bytes;
    void *memory;

    (void)state;
    assert_int_equal(vtc_plan_size(&count, &bytes, NULL), VTC_OK);
    memory = guard_alloc(bytes);
    assert_int_equal(vtc_plan_init(&plan, &count, memory, bytes, NULL), VTC_OK);
    assert_int_equal(plan.n_in + plan.n_out, 0);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_ptr_equal(plan.keep, memory);
    assert_int_equal(vtc_plan_group(&plan, 7, owner, 3, NULL, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    guard_free(memory);
}

static void a_count_without_entries_makes_room_for_a_pure_selection(void **state)
{
    const vtc_plan_count count = { 4, 2, 0, 1 };
    vtc_plan plan = VTC_PLAN_INIT;
    int32_t memory[12];

    (void)state;
    assert_int_equal(vtc_plan_init(&plan, &count, memory, sizeof(memory), NULL), VTC_OK);
    assert_null(plan.begin);
    assert_null(plan.source);
    assert_non_null(plan.fate);
}

static void room_that_is_missing_or_crooked_is_refused(void **state)
{
    const vtc_plan_count count = { 4, 2, 3, 1 };
    const vtc_plan_count huge = { 4, 2, (size_t)INT32_MAX + 1, 1 };
    vtc_exec exec = quiet;
    vtc_plan plan = VTC_PLAN_INIT;
    const vtc_plan before = plan;
    int32_t memory[64];
    size_t bytes = 77;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_init(&plan, &count, memory, 83, &exec), VTC_ERR_ROOM,
                  "needs 84 bytes, memory has 83");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_init(&plan, &count, (char *)memory + 1, 200, &exec), VTC_ERR_SHAPE,
                  "aligned");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_init(&plan, &count, NULL, 200, &exec), VTC_ERR_NULL, "memory");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_size(&huge, &bytes, &exec), VTC_ERR_OVERFLOW, "2147483648");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_size(NULL, &bytes, &exec), VTC_ERR_NULL, "count");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_size(&count, NULL, &exec), VTC_ERR_NULL, "bytes");
    assert_int_equal(bytes, 77);
    assert_memory_equal(&plan, &before, sizeof(plan));
}

/* ---- selections ------------------------------------------------------------------------------ */

static void a_selection_keeps_rows_and_masses(void **state)
{
    const int32_t rows[5] = { 3, -1, 0, 3, 1 };
    const float mass[4] = { 1, 2, 4, 8 };

    (void)state;
    for (int with_entries = 0; with_entries < 2; with_entries++) {
        vtc_plan plan = empty_plan(4, 5, with_entries ? 5 : 0);
        const int32_t fate[4] = { 2, 4, -1, 0 };

        assert_int_equal(vtc_plan_select(&plan, 4, rows, 5, mass, NULL), VTC_OK);
        assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
        assert_memory_equal(plan.keep, rows, sizeof(rows));
        assert_memory_equal(plan.fate, fate, sizeof(fate));
        assert_true(plan.mass[0] == 8 && plan.mass[1] == 0 && plan.mass[4] == 2);
        if (with_entries)
            assert_int_equal(plan.begin[5], 4);
        assert_int_equal(vtc_plan_select(&plan, 4, rows, 5, NULL, NULL), VTC_OK);
        assert_true(plan.mass[0] == 1 && plan.mass[1] == 0);
        free_plan(&plan);
    }
}

static void identity_is_every_row_once(void **state)
{
    vtc_plan plan = empty_plan(3, 3, 0);

    (void)state;
    assert_int_equal(vtc_plan_identity(&plan, 3, NULL, NULL), VTC_OK);
    for (int32_t i = 0; i < 3; i++)
        assert_true(plan.keep[i] == i && plan.fate[i] == i && plan.mass[i] == 1.0f);
    assert_int_equal(vtc_plan_identity(&plan, 0, NULL, NULL), VTC_OK);
    assert_int_equal(plan.n_out, 0);
    free_plan(&plan);
}

static void a_refused_selection_writes_nothing(void **state)
{
    const int32_t rows[3] = { 0, 1, 4 };
    const int32_t below[1] = { -2 };
    const float mass[4] = { 1, NAN, 1, 1 };
    vtc_exec exec = quiet;
    error_log log;
    vtc_plan plan = empty_plan(4, 3, 3);
    vtc_plan before = plan;

    (void)state;
    poison(plan.keep, 3 * sizeof(int32_t));
    poison(plan.fate, 4 * sizeof(int32_t));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_select(&plan, 4, rows, 3, NULL, &exec), VTC_ERR_RANGE,
                  "rows[2] is 4");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_select(&plan, 4, below, 1, NULL, &exec), VTC_ERR_RANGE,
                  "rows[0] is -2");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_select(&plan, 4, rows, 2, mass, &exec), VTC_ERR_DATA, "mass[1]");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_select(&plan, 4, NULL, 2, mass, &exec), VTC_ERR_NULL, "rows");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_select(&plan, 4, plan.keep, 2, NULL, &exec), VTC_ERR_OVERLAP,
                  "rows overlaps keep");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_identity(&plan, 4, NULL, &exec), VTC_ERR_ROOM,
                  "needs 4 outputs, plan has room for 3");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_identity(NULL, 4, NULL, &exec), VTC_ERR_NULL, "plan is NULL");
    assert_true(is_poisoned(plan.keep, 3 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.fate, 4 * sizeof(int32_t)));
    assert_memory_equal(&plan, &before, sizeof(plan));
    free_plan(&plan);
}

/* ---- groups ---------------------------------------------------------------------------------- */

static void a_group_is_the_mass_weighted_mean(void **state)
{
    const int32_t owner[6] = { 1, 0, 1, -1, 0, 1 };
    const float mass[6] = { 1, 3, 2, 9, 1, 1 };
    const int32_t source[5] = { 1, 4, 0, 2, 5 };
    const float weight[5] = { 0.75f, 0.25f, 0.25f, 0.5f, 0.25f };
    vtc_plan plan = empty_plan(6, 2, 5);

    (void)state;
    assert_int_equal(vtc_plan_group(&plan, 6, owner, 2, NULL, mass, NULL), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_memory_equal(plan.source, source, sizeof(source));
    assert_memory_equal(plan.weight, weight, sizeof(weight));
    assert_memory_equal(plan.fate, owner, sizeof(owner));
    assert_true(plan.mass[0] == 4 && plan.mass[1] == 4);
    assert_true(plan.keep[0] == 1 && plan.keep[1] == 0);
    free_plan(&plan);
}

static void a_group_stands_for_the_row_that_is_asked_for(void **state)
{
    const int32_t owner[4] = { 0, 0, 1, 0 };
    const int32_t keep[2] = { 3, 2 }, foreign[2] = { 2, 2 }, outside[2] = { 3, 4 };
    vtc_exec exec = quiet;
    error_log log;
    vtc_plan plan = empty_plan(4, 2, 4);

    (void)state;
    assert_int_equal(vtc_plan_group(&plan, 4, owner, 2, keep, NULL, NULL), VTC_OK);
    assert_memory_equal(plan.keep, keep, sizeof(keep));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 4, owner, 2, foreign, NULL, &exec), VTC_ERR_RANGE,
                  "keep[0] is row 2, which goes to output 1");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 4, owner, 2, outside, NULL, &exec), VTC_ERR_RANGE,
                  "keep[1] is 4");
    assert_memory_equal(plan.keep, keep, sizeof(keep));
    free_plan(&plan);
}

static void random_groups_conserve_mass(void **state)
{
    enum { MAX_IN = 60 };
    int32_t owner[MAX_IN];
    float mass[MAX_IN];
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 100; round++) {
        const size_t n_out = rng_below(&seed, 12), n_in = n_out + rng_below(&seed, MAX_IN - 12);
        vtc_plan plan = empty_plan(n_in, n_out, n_in + 1);
        double in = 0.0, out = 0.0;

        for (size_t i = 0; i < n_in; i++) {
            owner[i] = i < n_out ? (int32_t)i : (int32_t)rng_below(&seed, n_out + 1) - 1;
            mass[i] = (float)(1 + rng_below(&seed, 5));
            in += owner[i] < 0 ? 0.0 : mass[i];
        }
        assert_int_equal(vtc_plan_group(&plan, n_in, owner, n_out, NULL, mass, NULL), VTC_OK);
        assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
        for (size_t j = 0; j < n_out; j++) {
            double sum = 0.0;

            for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++)
                sum += plan.weight[e];
            assert_true(fabs(sum - 1.0) < 1e-6);
            out += plan.mass[j];
        }
        assert_true(in == out);
        free_plan(&plan);
    }
}

static void an_output_without_rows_is_found_among_many(void **state)
{
    enum { N = 70000 };
    static int32_t owner[N];
    const size_t gaps[] = { 0, 32767, 32768, 65535, 65536, N - 2 };
    vtc_plan plan = empty_plan(N, N - 1, N);

    (void)state;
    for (size_t g = 0; g < sizeof(gaps) / sizeof(*gaps); g++) {
        for (size_t i = 0; i < N; i++)
            owner[i] = (int32_t)(i == N - 1 || i == gaps[g] ? (gaps[g] + 1) % (N - 1) : i);
        assert_int_equal(vtc_plan_group(&plan, N, owner, N - 1, NULL, NULL, NULL), VTC_ERR_RANGE);
        owner[gaps[g]] = (int32_t)gaps[g];
        assert_int_equal(vtc_plan_group(&plan, N, owner, N - 1, NULL, NULL, NULL), VTC_OK);
    }
    free_plan(&plan);
}

static void a_refused_group_writes_nothing(void **state)
{
    const int32_t owner[3] = { 0, 0, 1 }, wrong[3] = { 0, 2, 1 }, gap[3] = { 1, 1, 1 };
    const float zero[3] = { 1, 0, 1 }, huge[3] = { 3e38f, 3e38f, 1 };
    vtc_exec exec = quiet;
    error_log log;
    vtc_plan plan = empty_plan(3, 2, 3), small = empty_plan(3, 2, 2);

    (void)state;
    poison(plan.begin, 3 * sizeof(int32_t));
    poison(plan.keep, 2 * sizeof(int32_t));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, wrong, 2, NULL, NULL, &exec), VTC_ERR_RANGE,
                  "owner[1] is 2");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, gap, 2, NULL, NULL, &exec), VTC_ERR_RANGE,
                  "output 0 of 2 owns no row");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, owner, 2, NULL, zero, &exec), VTC_ERR_DATA,
                  "mass[1] is 0");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, owner, 2, NULL, huge, &exec), VTC_ERR_DATA,
                  "add up");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, NULL, 2, NULL, NULL, &exec), VTC_ERR_NULL,
                  "owner");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&plan, 3, owner, 2, NULL, plan.weight, &exec),
                  VTC_ERR_OVERLAP, "mass overlaps weight");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_group(&small, 3, owner, 2, NULL, NULL, &exec), VTC_ERR_ROOM,
                  "needs 3 entries, plan has room for 2");
    assert_true(is_poisoned(plan.begin, 3 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.keep, 2 * sizeof(int32_t)));
    assert_int_equal(plan.n_out, 0);
    free_plan(&plan);
    free_plan(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_fits_exactly_the_size_that_is_asked_for),
        cmocka_unit_test(a_count_without_entries_makes_room_for_a_pure_selection),
        cmocka_unit_test(room_that_is_missing_or_crooked_is_refused),
        cmocka_unit_test(a_selection_keeps_rows_and_masses),
        cmocka_unit_test(identity_is_every_row_once),
        cmocka_unit_test(a_refused_selection_writes_nothing),
        cmocka_unit_test(a_group_is_the_mass_weighted_mean),
        cmocka_unit_test(a_group_stands_for_the_row_that_is_asked_for),
        cmocka_unit_test(random_groups_conserve_mass),
        cmocka_unit_test(an_output_without_rows_is_found_among_many),
        cmocka_unit_test(a_refused_group_writes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
