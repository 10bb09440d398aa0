/* Checks of tensor views. */
#include "support/support.h"

#include "../src/base/tensor.h"

#include <string.h>

static float memory[64];

typedef struct door {
    vtc_exec exec;
    error_log log;
    vtci_call call;
} door;

static void open_door(door *d)
{
    const vtc_exec fresh = VTC_EXEC_INIT;

    d->exec = fresh;
    record_errors(&d->exec, &d->log);
    assert_int_equal(vtci_begin(&d->call, "test", &d->exec), VTC_OK);
}

static void expect(const vtc_tensor *t, vtci_access access, vtc_status want, const char *part)
{
    door d;
    vtc_status got;

    open_door(&d);
    got = vtci_check_tensor(&d.call, "x", t, VTCI_FLOATS, 1, 3, access);
    if (want == VTC_OK)
        assert_int_equal(got, VTC_OK);
    else
        assert_failed(&d.log, got, want, part);
}

static void a_dense_view_is_taken(void **state)
{
    vtc_tensor t = vtc_f32_3d(memory, 2, 3, 4);

    (void)state;
    expect(&t, VTCI_OUT, VTC_OK, NULL);
    assert_int_equal(t.stride[0], 12);
    assert_int_equal(t.stride[2], 1);
}

static void null_dtype_and_rank_are_checked(void **state)
{
    vtc_tensor t = vtc_f32_2d(memory, 4, 4);

    (void)state;
    expect(NULL, VTCI_IN, VTC_ERR_NULL, "x is NULL");
    t.dtype = VTC_I32;
    expect(&t, VTCI_IN, VTC_ERR_DTYPE, "I32");
    t.dtype = (vtc_dtype)0;
    expect(&t, VTCI_IN, VTC_ERR_DTYPE, "(0)");
    t.dtype = (vtc_dtype)-1;
    expect(&t, VTCI_IN, VTC_ERR_DTYPE, "(-1)");
    t.dtype = (vtc_dtype)40;
    expect(&t, VTCI_IN, VTC_ERR_DTYPE, "(40)");
    t.dtype = VTC_F32;
    t.rank = 0;
    expect(&t, VTCI_IN, VTC_ERR_SHAPE, "rank 0");
    t.rank = 4;
    expect(&t, VTCI_IN, VTC_ERR_SHAPE, "rank 4");
    t.rank = -1;
    expect(&t, VTCI_IN, VTC_ERR_SHAPE, "rank -1");
    t.rank = 2;
    t.data = NULL;
    expect(&t, VTCI_IN, VTC_ERR_NULL, "no data");
    t.data = (char *)memory + 1;
    expect(&t, VTCI_IN, VTC_ERR_SHAPE, "aligned");
    t.data = memory;
    t.reserved[1] = 1;
    expect(&t, VTCI_IN, VTC_ERR_UNSUPPORTED, "reserved");
}

static void the_inner_stride_must_be_one(void **state)
{
    vtc_tensor t = vtc_f32_2d(memory, 2, 4);

    (void)state;
    t.stride[1] = 2;
    expect(&t, VTCI_IN, VTC_ERR_SHAPE, "inner stride 2");
    t.dim[1] = 1; /* a single column has no inner step */
    expect(&t, VTCI_IN, VTC_OK, NULL);
}

static void an_input_may_repeat_rows_and_an_output_may_not(void **state)
{
    vtc_tensor t = vtc_f32_2d(memory, 3, 4);

    (void)state;
    t.stride[0] = 0;
    expect(&t, VTCI_IN, VTC_OK, NULL);
    expect(&t, VTCI_OUT, VTC_ERR_OVERLAP, "overlap itself");
    t.stride[0] = 3;
    expect(&t, VTCI_OUT, VTC_ERR_OVERLAP, "overlap itself");
    t.stride[0] = 5;
    expect(&t, VTCI_OUT, VTC_OK, NULL);
}

static void an_output_may_have_its_outer_axes_in_any_order(void **state)
{
    vtc_tensor t = vtc_f32_3d(memory, 2, 3, 4);

    (void)state;
    t.stride[0] = 4;
    t.stride[1] = 8;
    expect(&t, VTCI_OUT, VTC_OK, NULL);
    t.stride[1] = 7;
    expect(&t, VTCI_OUT, VTC_ERR_OVERLAP, "overlap itself");
}

static void sizes_that_wrap_are_refused(void **state)
{
    vtc_tensor t = vtc_f32_2d(memory, SIZE_MAX / 4, 8);

    (void)state;
    expect(&t, VTCI_IN, VTC_ERR_OVERFLOW, "overflows");
    t = vtc_f32_2d(memory, 3, 4);
    t.stride[0] = SIZE_MAX / 2;
    expect(&t, VTCI_IN, VTC_ERR_OVERFLOW, "overflows");
}

static void an_empty_view_needs_no_data(void **state)
{
    vtc_tensor t = vtc_f32_2d(NULL, 0, 4);

    (void)state;
    expect(&t, VTCI_OUT, VTC_OK, NULL);
    t = vtc_f32_2d(NULL, SIZE_MAX, 0);
    expect(&t, VTCI_OUT, VTC_OK, NULL);
    assert_int_equal(vtci_span_bytes(&t), 0);
}

static void ranges_meet_only_when_bytes_are_shared(void **state)
{
    vtc_tensor a = vtc_f32_2d(memory, 2, 4), b = vtc_f32_2d(memory + 8, 2, 4);
    vtc_tensor empty = vtc_f32_2d(memory, 0, 4);
    door d;

    (void)state;
    open_door(&d);
    assert_int_equal(vtci_check_apart(&d.call, "y", &a, "x", &b), VTC_OK);
    assert_int_equal(vtci_check_apart(&d.call, "y", &empty, "x", &a), VTC_OK);
    b.data = memory + 7;
    assert_failed(&d.log, vtci_check_apart(&d.call, "y", &a, "x", &b), VTC_ERR_OVERLAP,
                  "y overlaps x");
    assert_true(vtci_ranges_meet(memory, SIZE_MAX, memory + 7, 1));
    assert_true(vtci_ranges_meet(memory + 7, 1, memory, SIZE_MAX));
}

static void the_span_ends_with_the_last_element(void **state)
{
    vtc_tensor t = vtc_f32_2d(memory, 3, 4);

    (void)state;
    t.stride[0] = 10;
    assert_int_equal(vtci_span_bytes(&t), (2 * 10 + 4) * sizeof(float));
}

static void rows_of_every_rank_have_the_right_addresses(void **state)
{
    vtc_tensor t = vtc_tensor_3d(memory, VTC_F16, 2, 3, 4);
    vtci_rows rows;

    (void)state;
    t.stride[0] = 30;
    t.stride[1] = 7;
    rows = vtci_rows_of(&t);
    assert_ptr_equal(vtci_row(&rows, 1, 2), (char *)memory + 2 * (30 + 14));
    assert_int_equal(rows.n_batch, 2);

    t = vtc_f32_2d(memory, 3, 4);
    rows = vtci_rows_of(&t);
    assert_int_equal(rows.n_batch, 1);
    assert_ptr_equal(vtci_row(&rows, 0, 2), memory + 8);

    t = vtc_f32_1d(memory, 5);
    rows = vtci_rows_of(&t);
    assert_int_equal(rows.n_rows, 1);
    assert_int_equal(rows.n_cols, 5);
}

static void dtype_sizes_and_names_match_safetensors(void **state)
{
    (void)state;
    assert_int_equal(vtc_dtype_size(VTC_BF16), 2);
    assert_int_equal(vtc_dtype_size(VTC_I64), 8);
    assert_int_equal(vtc_dtype_size((vtc_dtype)8), 0);
    assert_string_equal(vtc_dtype_string(VTC_BOOL), "BOOL");
    assert_string_equal(vtc_dtype_string((vtc_dtype)99), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dense_view_is_taken),
        cmocka_unit_test(null_dtype_and_rank_are_checked),
        cmocka_unit_test(the_inner_stride_must_be_one),
        cmocka_unit_test(an_input_may_repeat_rows_and_an_output_may_not),
        cmocka_unit_test(an_output_may_have_its_outer_axes_in_any_order),
        cmocka_unit_test(sizes_that_wrap_are_refused),
        cmocka_unit_test(an_empty_view_needs_no_data),
        cmocka_unit_test(ranges_meet_only_when_bytes_are_shared),
        cmocka_unit_test(the_span_ends_with_the_last_element),
        cmocka_unit_test(rows_of_every_rank_have_the_right_addresses),
        cmocka_unit_test(dtype_sizes_and_names_match_safetensors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
