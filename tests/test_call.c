/* The door of every function: messages, parameter structs, scratch layout, executor. */
#include "support/support.h"

#include "../src/base/call.h"

#include <string.h>

typedef struct some_params {
    size_t struct_size;
    size_t first;
    size_t second;
} some_params;

static void a_shorter_params_struct_keeps_the_defaults_of_newer_fields(void **state)
{
    struct {
        size_t struct_size, first;
    } old = { sizeof(old), 7 };
    some_params params = { sizeof(params), 1, 2 };
    vtci_call call;

    (void)state;
    assert_int_equal(vtci_begin(&call, "test", NULL), VTC_OK);
    assert_int_equal(vtci_params_read(&call, &params, sizeof(params), &old), VTC_OK);
    assert_int_equal(params.first, 7);
    assert_int_equal(params.second, 2);
    assert_int_equal(params.struct_size, sizeof(params));
}

static void a_longer_params_struct_is_taken_while_its_unknown_tail_is_zero(void **state)
{
    struct {
        some_params known;
        size_t unknown;
    } newer = { { sizeof(newer), 3, 4 }, 0 };
    some_params params = { sizeof(params), 1, 2 };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    assert_int_equal(vtci_params_read(&call, &params, sizeof(params), &newer), VTC_OK);
    assert_int_equal(params.second, 4);

    newer.unknown = 1;
    params.second = 2;
    assert_failed(&log, vtci_params_read(&call, &params, sizeof(params), &newer),
                  VTC_ERR_UNSUPPORTED, "struct_size is 32");
    assert_int_equal(params.second, 2);
}

static void params_without_a_struct_size_are_refused(void **state)
{
    some_params zero = { 0, 0, 0 }, params = { sizeof(params), 1, 2 };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    assert_failed(&log, vtci_params_read(&call, &params, sizeof(params), &zero), VTC_ERR_RANGE,
                  "struct_size is 0");
}

static void a_struct_size_that_no_struct_has_is_refused(void **state)
{
    const size_t sizes[] = { sizeof(size_t) + 1, sizeof(some_params) - 4, SIZE_MAX - 7, 1u << 20 };
    some_params params = { sizeof(params), 1, 2 };
    vtc_exec exec = VTC_EXEC_INIT;
    vtci_call call;

    (void)state;
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        const some_params bad = { sizes[i], 0, 0 };
        error_log log;

        record_errors(&call.exec, &log);
        assert_failed(&log, vtci_params_read(&call, &params, sizeof(params), &bad), VTC_ERR_RANGE,
                      "struct_size");
    }
    assert_int_equal(params.first, 1);
}

static void an_exec_without_struct_size_is_refused_and_its_callback_not_called(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    exec.struct_size = 0;
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_ERR_RANGE);
    assert_int_equal(log.count, 0);
}

static void a_message_names_the_function_and_is_cut_when_too_long(void **state)
{
    char long_text[1000];
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;

    (void)state;
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "thing", &exec), VTC_OK);
    assert_failed(&log, vtci_fail(&call, VTC_ERR_SHAPE, "%d rows", 3), VTC_ERR_SHAPE,
                  "thing: 3 rows");
    log.count = 0;
    assert_failed(&log, vtci_fail(&call, VTC_ERR_SHAPE, "%s", long_text), VTC_ERR_SHAPE, "xxx");
    assert_true(strlen(log.message) < 400);
}

static void an_arena_that_measures_and_one_with_memory_agree(void **state)
{
    char memory[1024];
    vtci_arena measure = { NULL, 0, false }, real = { memory, 0, false };

    (void)state;
    assert_null(vtci_take(&measure, 3, 4));
    assert_null(vtci_take(&measure, 0, 4));
    assert_null(vtci_take(&measure, 17, 8));
    assert_ptr_equal(vtci_take(&real, 3, 4), memory);
    assert_ptr_equal(vtci_take(&real, 0, 4), memory + 64);
    assert_ptr_equal(vtci_take(&real, 17, 8), memory + 64);
    assert_int_equal(real.used, measure.used);
    assert_int_equal(real.used, 64 + 192);
}

static void an_arena_remembers_an_overflow(void **state)
{
    const size_t cases[][2] = { { SIZE_MAX, 2 }, { SIZE_MAX / 2, 2 }, { SIZE_MAX - 10, 1 } };
    vtci_call call;

    (void)state;
    assert_int_equal(vtci_begin(&call, "test", NULL), VTC_OK);
    for (size_t i = 0; i < 3; i++) {
        vtci_arena arena = { NULL, 64, false };

        assert_null(vtci_take(&arena, cases[i][0], cases[i][1]));
        vtci_take(&arena, 1, 1);
        assert_int_equal(vtci_arena_check(&call, &arena), VTC_ERR_OVERFLOW);
    }
}

static void scratch_that_is_missing_small_or_misaligned_is_refused(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;
    _Alignas(64) char memory[256];

    (void)state;
    record_errors(&exec, &log);
    for (int wrong = 0; wrong < 3; wrong++) {
        exec.scratch = wrong == 0 ? NULL : memory + (wrong == 2);
        exec.scratch_size = wrong == 1 ? 127 : 128;
        log.count = 0;
        assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
        vtci_arena arena = vtci_arena_open(&call);
        vtci_take(&arena, 100, 1);
        assert_failed(&log, vtci_arena_check(&call, &arena), VTC_ERR_SCRATCH,
                      wrong == 2 ? "64-byte aligned" : "needs 128 bytes");
    }
}

typedef struct visits {
    int count[100];
    size_t largest_worker;
} visits;

static void visit(void *job, size_t index, size_t worker)
{
    visits *v = job;

    v->count[index]++;
    if (worker > v->largest_worker)
        v->largest_worker = worker;
}

static void every_task_runs_once_without_a_pool(void **state)
{
    visits v = { { 0 }, 0 };
    vtci_call call;

    (void)state;
    assert_int_equal(vtci_begin(&call, "test", NULL), VTC_OK);
    vtci_parallel(&call, 100, visit, &v);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(v.count[i], 1);
    assert_int_equal(v.largest_worker, 0);
}

static void workers_without_a_parallel_for_count_as_one(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtci_call call;

    (void)state;
    exec.n_workers = 9;
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    assert_int_equal(vtci_n_workers(&call), 1);
    exec = test_exec(3);
    exec.n_workers = 0;
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    assert_int_equal(vtci_n_workers(&call), 1);
}

static void sizes_saturate_instead_of_wrapping(void **state)
{
    (void)state;
    assert_true(vtci_mul(SIZE_MAX / 2, 3) == SIZE_MAX);
    assert_true(vtci_mul(0, SIZE_MAX) == 0);
    assert_true(vtci_mul(SIZE_MAX, 1) == SIZE_MAX);
    assert_true(vtci_add(SIZE_MAX, 1) == SIZE_MAX);
    assert_int_equal(vtci_ceil_div(7, 3), 3);
    assert_true(vtci_ceil_div(SIZE_MAX, 2) == SIZE_MAX / 2 + 1);
}

static void status_names_are_the_spelling_of_the_header(void **state)
{
    (void)state;
    assert_string_equal(vtc_status_string(VTC_OK), "VTC_OK");
    assert_string_equal(vtc_status_string(VTC_ERR_OVERLAP), "VTC_ERR_OVERLAP");
    assert_string_equal(vtc_status_string(VTC_ERR_FORMAT), "VTC_ERR_FORMAT");
    assert_string_equal(vtc_status_string((vtc_status)1), "unknown status");
    assert_string_equal(vtc_status_string((vtc_status)-14), "unknown status");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shorter_params_struct_keeps_the_defaults_of_newer_fields),
        cmocka_unit_test(a_longer_params_struct_is_taken_while_its_unknown_tail_is_zero),
        cmocka_unit_test(params_without_a_struct_size_are_refused),
        cmocka_unit_test(a_struct_size_that_no_struct_has_is_refused),
        cmocka_unit_test(an_exec_without_struct_size_is_refused_and_its_callback_not_called),
        cmocka_unit_test(a_message_names_the_function_and_is_cut_when_too_long),
        cmocka_unit_test(an_arena_that_measures_and_one_with_memory_agree),
        cmocka_unit_test(an_arena_remembers_an_overflow),
        cmocka_unit_test(scratch_that_is_missing_small_or_misaligned_is_refused),
        cmocka_unit_test(every_task_runs_once_without_a_pool),
        cmocka_unit_test(workers_without_a_parallel_for_count_as_one),
        cmocka_unit_test(sizes_saturate_instead_of_wrapping),
        cmocka_unit_test(status_names_are_the_spelling_of_the_header),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
