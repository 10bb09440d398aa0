/* vtc/heap.h: scratch that grows on demand, and plans from malloc. */
#include "support/support.h"

#include <vtc/heap.h>

#include <string.h>

static void scratch_grows_and_stays_aligned(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;

    (void)state;
    for (size_t bytes = 1; bytes < 5000; bytes = bytes * 3 + 1) {
        assert_int_equal(vtc_heap_scratch(&exec, bytes), VTC_OK);
        assert_int_equal((uintptr_t)exec.scratch % 64, 0);
        assert_true(exec.scratch_size >= bytes);
        memset(exec.scratch, 0xab, bytes);
    }
    vtc_heap_free(&exec);
    assert_null(exec.scratch);
    vtc_heap_free(&exec);
}

static void a_smaller_need_keeps_the_memory(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    void *first;

    (void)state;
    assert_int_equal(vtc_heap_scratch(&exec, 1000), VTC_OK);
    first = exec.scratch;
    assert_int_equal(vtc_heap_scratch(&exec, 10), VTC_OK);
    assert_int_equal(vtc_heap_scratch(&exec, 1000), VTC_OK);
    assert_ptr_equal(exec.scratch, first);
    vtc_heap_free(&exec);
}

static void no_need_allocates_nothing(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;

    (void)state;
    assert_int_equal(vtc_heap_scratch(&exec, 0), VTC_OK);
    assert_null(exec.scratch);
}

static void memory_that_no_machine_has_is_an_error_and_changes_nothing(void **state)
{
    /* volatile: GCC would warn of what the constant asks malloc() for */
    const volatile size_t too_much = SIZE_MAX;
    vtc_exec exec = VTC_EXEC_INIT;
    void *before;

    (void)state;
    assert_int_equal(vtc_heap_scratch(&exec, 100), VTC_OK);
    before = exec.scratch;
    assert_int_equal(vtc_heap_scratch(&exec, too_much), VTC_ERR_SCRATCH);
    assert_int_equal(vtc_heap_scratch(&exec, too_much - 64), VTC_ERR_SCRATCH);
    assert_ptr_equal(exec.scratch, before);
    assert_int_equal(exec.scratch_size, 100);
    vtc_heap_free(&exec);
}

static void a_plan_from_the_heap_has_the_room_asked_for(void **state)
{
    const vtc_plan_count count = { 10, 4, 10, 1 };
    vtc_plan plan = VTC_PLAN_INIT;

    (void)state;
    assert_int_equal(vtc_heap_plan(&plan, &count, NULL), VTC_OK);
    assert_int_equal(plan.cap_in, 10);
    assert_int_equal(plan.cap_out, 4);
    assert_int_equal(plan.cap_nnz, 10);
    memset(plan.keep, 1, 4 * sizeof(*plan.keep));
    memset(plan.begin, 1, 5 * sizeof(*plan.begin));
    memset(plan.source, 1, 10 * sizeof(*plan.source));
    memset(plan.weight, 1, 10 * sizeof(*plan.weight));
    memset(plan.mass, 1, 4 * sizeof(*plan.mass));
    memset(plan.score, 1, 10 * sizeof(*plan.score));
    memset(plan.fate, 1, 10 * sizeof(*plan.fate));
    vtc_heap_plan_free(&plan);
    assert_null(plan.keep);
}

static void a_selection_from_the_heap_has_no_entries(void **state)
{
    const vtc_plan_count count = { 10, 4, 0, 1 };
    vtc_plan plan = VTC_PLAN_INIT;

    (void)state;
    assert_int_equal(vtc_heap_plan(&plan, &count, NULL), VTC_OK);
    assert_null(plan.begin);
    vtc_heap_plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scratch_grows_and_stays_aligned),
        cmocka_unit_test(a_smaller_need_keeps_the_memory),
        cmocka_unit_test(no_need_allocates_nothing),
        cmocka_unit_test(memory_that_no_machine_has_is_an_error_and_changes_nothing),
        cmocka_unit_test(a_plan_from_the_heap_has_the_room_asked_for),
        cmocka_unit_test(a_selection_from_the_heap_has_no_entries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
