/* Prepared objects: what they refuse, and that they may be moved. */
#include "../src/base/prepared.h"
#include "support/support.h"

#include <string.h>

enum { N = 100 };

static const vtci_prepared_key key = { "model", 42 };

/* A method's object: N floats and N bytes. */
struct parts {
    float *numbers;
    char *letters;
};

static struct parts lay_out(vtci_arena *arena)
{
    struct parts p;

    p.numbers = vtci_take(arena, N, sizeof(*p.numbers));
    p.letters = vtci_take(arena, N, 1);
    return p;
}

static size_t object_bytes(void)
{
    vtci_arena arena = vtci_prepared_measure();

    lay_out(&arena);
    return arena.used;
}

/* 64-byte aligned, ends at a guard page. */
static vtc_prepared make_object(void)
{
    const vtc_prepared prepared = { guard_alloc(object_bytes()), object_bytes() };
    vtci_arena arena;
    struct parts p;
    vtci_call call;

    poison(prepared.data, prepared.bytes);
    assert_int_equal(vtci_begin(&call, "prepare", NULL), VTC_OK);
    assert_int_equal(vtci_prepared_create(&call, &prepared, &arena), VTC_OK);
    p = lay_out(&arena);
    assert_int_equal(vtci_prepared_check_room(&call, &prepared, &arena), VTC_OK);
    for (size_t i = 0; i < N; i++) {
        p.numbers[i] = (float)i;
        p.letters[i] = (char)i;
    }
    vtci_prepared_seal(&prepared, &key, &arena);
    return prepared;
}

static void assert_object(const vtc_prepared *prepared)
{
    vtci_arena arena;
    struct parts p;
    vtci_call call;

    assert_int_equal(vtci_begin(&call, "use", NULL), VTC_OK);
    assert_int_equal(vtci_prepared_open(&call, prepared, &key, &arena), VTC_OK);
    p = lay_out(&arena);
    assert_true((char *)p.letters + N <= (char *)prepared->data + prepared->bytes);
    for (size_t i = 0; i < N; i++)
        assert_true(p.numbers[i] == (float)i && p.letters[i] == (char)i);
}

static void an_object_is_read_back(void **state)
{
    const vtc_prepared prepared = make_object();

    (void)state;
    guard_readonly(prepared.data);
    assert_object(&prepared);
    guard_free(prepared.data);
}

static void a_moved_object_works(void **state)
{
    const vtc_prepared prepared = make_object();
    const vtc_prepared moved = { guard_copy_readonly(prepared.data, prepared.bytes),
                                 prepared.bytes };

    (void)state;
    poison(prepared.data, prepared.bytes);
    assert_object(&moved);
    guard_free(prepared.data);
    guard_free(moved.data);
}

static void more_room_than_needed_is_fine(void **state)
{
    vtc_prepared prepared = make_object(), large;
    char *block = guard_alloc(prepared.bytes + 640);

    (void)state;
    memcpy(block, prepared.data, prepared.bytes);
    large = (vtc_prepared){ block, prepared.bytes + 640 };
    assert_object(&large);
    guard_free(prepared.data);
    guard_free(block);
}

/* ---- what is refused ---------------------------------------------------------------------------
 */

static void assert_not_opened(const vtc_prepared *prepared, const vtci_prepared_key *of,
                              vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtci_arena arena;
    error_log log;
    vtci_call call;

    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "use", &exec), VTC_OK);
    assert_failed(&log, vtci_prepared_open(&call, prepared, of, &arena), want, part);
}

static void assert_not_created(const vtc_prepared *prepared, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtci_arena arena;
    error_log log;
    vtci_call call;

    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "prepare", &exec), VTC_OK);
    assert_failed(&log, vtci_prepared_create(&call, prepared, &arena), want, part);
}

static void memory_that_cannot_hold_an_object(void **state)
{
    char *block = guard_alloc(640);
    const vtc_prepared none = { NULL, 640 }, odd = { block + 4, 636 };

    (void)state;
    poison(block, 640);
    assert_not_created(NULL, VTC_ERR_NULL, "prepared is NULL");
    assert_not_created(&none, VTC_ERR_NULL, "prepared.data is NULL");
    assert_not_created(&odd, VTC_ERR_SHAPE, "64-byte aligned");
    assert_not_opened(NULL, &key, VTC_ERR_NULL, "prepared is NULL");
    assert_not_opened(&none, &key, VTC_ERR_NULL, "prepared.data is NULL");
    assert_not_opened(&odd, &key, VTC_ERR_SHAPE, "64-byte aligned");
    assert_true(is_poisoned(block, 640));
    guard_free(block);
}

static void too_little_room_is_refused_before_a_byte_is_written(void **state)
{
    const size_t room = object_bytes() - 64;
    const vtc_prepared prepared = { guard_alloc(room), room };
    vtc_exec exec = test_exec(0);
    vtci_arena arena;
    error_log log;
    vtci_call call;

    (void)state;
    poison(prepared.data, room);
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "prepare", &exec), VTC_OK);
    assert_int_equal(vtci_prepared_create(&call, &prepared, &arena), VTC_OK);
    lay_out(&arena);
    assert_failed(&log, vtci_prepared_check_room(&call, &prepared, &arena), VTC_ERR_ROOM,
                  "there are");
    record_errors(&exec, &log);
    vtci_take(&arena, SIZE_MAX, 8);
    assert_failed(&log, vtci_prepared_check_room(&call, &prepared, &arena), VTC_ERR_OVERFLOW,
                  "overflows");
    assert_true(is_poisoned(prepared.data, room));
    guard_free(prepared.data);
}

static void another_model_or_shape_is_refused(void **state)
{
    static const vtci_prepared_key model = { "mode", 42 }, longer = { "models", 42 };
    static const vtci_prepared_key shape = { "model", 43 };
    const vtc_prepared prepared = make_object();

    (void)state;
    assert_not_opened(&prepared, &model, VTC_ERR_DATA, "prepared for a model, not for a mode");
    assert_not_opened(&prepared, &longer, VTC_ERR_DATA, "prepared for a model, not for a models");
    assert_not_opened(&prepared, &shape, VTC_ERR_DATA, "other shapes");
    guard_free(prepared.data);
}

/* Header: magic 8, version 16, ISA 16, model 24, fingerprint 8, bytes 8. */
static void check_damage(size_t offset, const char *bytes, vtc_status want, const char *part)
{
    const vtc_prepared prepared = make_object();

    memcpy((char *)prepared.data + offset, bytes, strlen(bytes) + 1);
    assert_not_opened(&prepared, &key, want, part);
    guard_free(prepared.data);
}

static void another_version_or_instruction_set_is_refused(void **state)
{
    (void)state;
    check_damage(0, "VTCPREQ", VTC_ERR_DATA, "no prepared object");
    check_damage(8, "0.0.0-old", VTC_ERR_UNSUPPORTED, "prepared by version 0.0.0-old");
    check_damage(24, "mmx", VTC_ERR_UNSUPPORTED, "prepared for mmx");
}

/* Whatever 16 bytes without an end are called, the message ends. */
static void names_without_an_end_are_cut(void **state)
{
    const vtc_prepared prepared = make_object();

    (void)state;
    memset((char *)prepared.data + 8, 'x', 16);
    assert_not_opened(&prepared, &key, VTC_ERR_UNSUPPORTED, "version xxxxxxxxxxxxxxx,");
    guard_free(prepared.data);
}

static void an_object_cut_short_is_refused(void **state)
{
    vtc_prepared prepared = make_object();

    (void)state;
    prepared.bytes -= 64;
    assert_not_opened(&prepared, &key, VTC_ERR_DATA, "of an object of");
    prepared.bytes = 79;
    assert_not_opened(&prepared, &key, VTC_ERR_DATA, "79 bytes");
    prepared.bytes = 0;
    assert_not_opened(&prepared, &key, VTC_ERR_DATA, "0 bytes");
    guard_free(prepared.data);
}

static void a_scratch_query_needs_no_object(void **state)
{
    const vtc_prepared none = { NULL, 0 };
    vtci_arena arena;
    vtci_call call;
    size_t bytes = 0;

    (void)state;
    assert_int_equal(vtci_begin_query(&call, "query", NULL, &bytes), VTC_OK);
    assert_int_equal(vtci_prepared_open(&call, &none, &key, &arena), VTC_OK);
    assert_null(arena.base);
    lay_out(&arena);
    assert_int_equal(arena.used, object_bytes());
}

/* ---- fingerprints ------------------------------------------------------------------------------
 */

static void fingerprints_tell_shapes_apart(void **state)
{
    const size_t a[2] = { 3, 4 }, b[2] = { 4, 3 }, c[3] = { 3, 4, 1 };
    const vtc_tensor t[] = { vtc_tensor_nd(NULL, VTC_F32, 2, a), vtc_tensor_nd(NULL, VTC_F16, 2, a),
                             vtc_tensor_nd(NULL, VTC_F32, 2, b), vtc_tensor_nd(NULL, VTC_F32, 3, c),
                             vtc_tensor_nd(NULL, VTC_F32, 1, a) };

    (void)state;
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(vtci_mix_tensor(VTCI_FINGERPRINT, &t[i]) !=
                        vtci_mix_tensor(VTCI_FINGERPRINT, &t[j]));
    assert_true(vtci_mix(vtci_mix(VTCI_FINGERPRINT, 1), 2) !=
                vtci_mix(vtci_mix(VTCI_FINGERPRINT, 2), 1));
}

/* Objects are kept in files: the hash must not change. */
static void the_fingerprint_is_fnv_1a(void **state)
{
    (void)state;
    assert_true(vtci_mix(VTCI_FINGERPRINT, 0) == UINT64_C(0xa8c7f832281a39c5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_is_read_back),
        cmocka_unit_test(a_moved_object_works),
        cmocka_unit_test(more_room_than_needed_is_fine),
        cmocka_unit_test(memory_that_cannot_hold_an_object),
        cmocka_unit_test(too_little_room_is_refused_before_a_byte_is_written),
        cmocka_unit_test(another_model_or_shape_is_refused),
        cmocka_unit_test(another_version_or_instruction_set_is_refused),
        cmocka_unit_test(names_without_an_end_are_cut),
        cmocka_unit_test(an_object_cut_short_is_refused),
        cmocka_unit_test(a_scratch_query_needs_no_object),
        cmocka_unit_test(fingerprints_tell_shapes_apart),
        cmocka_unit_test(the_fingerprint_is_fnv_1a),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
