/* Writing .safetensors files: what comes back, the exact bytes, and what is refused. */
#include "../src/io/safetensors.h"
#include "support/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- round trips ----------------------------------------------------------------------------- */

static void assert_dense_equal(const vtc_safetensors *file, const char *name,
                               const vtc_tensor *want)
{
    vtc_tensor got;

    assert_int_equal(vtc_safetensors_tensor(file, name, &got, NULL), VTC_OK);
    assert_int_equal(got.dtype, want->dtype);
    assert_int_equal(got.rank, want->rank);
    for (int axis = 0; axis < want->rank; axis++)
        assert_int_equal(got.dim[axis], want->dim[axis]);
    if (vtci_count(want) > 0)
        assert_memory_equal(got.data, want->data, vtci_span_bytes(want));
}

static void every_dtype_and_rank_comes_back_equal(void **state)
{
    static const size_t dim[] = { 2, 1, 3, 1, 2, 2 };
    static const size_t none[] = { 3, 0 };
    const char *path = in_folder(state, "dtypes");
    vtc_named_tensor t[VTC_BOOL * 7 + 1];
    char names[VTC_BOOL * 7][16];
    unsigned char data[24 * 8];
    vtc_safetensors *file = NULL;
    size_t n = 0;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 37);
    for (int dtype = VTC_F32; dtype <= VTC_BOOL; dtype++)
        for (int rank = 0; rank <= VTC_MAX_RANK; rank++, n++) {
            snprintf(names[n], sizeof(names[n]), "%s.%d", vtc_dtype_string(dtype), rank);
            t[n].name = names[n];
            t[n].tensor = vtc_tensor_nd(data, (vtc_dtype)dtype, rank, dim);
        }
    t[n].name = "none";
    t[n++].tensor = vtc_tensor_nd(NULL, VTC_F32, 2, none);

    assert_int_equal(vtc_safetensors_write(path, t, n, NULL, 0, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_open(path, &file, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_count(file), n);
    for (size_t i = 0; i < n; i++)
        assert_dense_equal(file, t[i].name, &t[i].tensor);
    vtc_safetensors_close(file);
}

static void strided_views_are_packed(void **state)
{
    enum { A = 3, B = 2, C = 5, ROW = 7, PLANE = 20 };
    const char *path = in_folder(state, "strided");
    float wide[A * PLANE], packed[A * B * C];
    vtc_named_tensor t[2] = { { "x", vtc_f32_3d(wide, A, B, C) },
                              { "row", vtc_f32_2d(wide, 4, C) } };
    vtc_tensor want = vtc_f32_3d(packed, A, B, C), row;
    vtc_safetensors *file = NULL;

    for (int i = 0; i < A * PLANE; i++)
        wide[i] = (float)i;
    for (int i = 0; i < A * B * C; i++)
        packed[i] = wide[i / (B * C) * PLANE + i / C % B * ROW + i % C];
    t[0].tensor.stride[0] = PLANE;
    t[0].tensor.stride[1] = ROW;
    t[1].tensor.stride[0] = 0; /* one row, four times */
    assert_int_equal(vtc_safetensors_write(path, t, 2, NULL, 0, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_open(path, &file, NULL), VTC_OK);
    assert_dense_equal(file, "x", &want);
    assert_int_equal(vtc_safetensors_tensor(file, "row", &row, NULL), VTC_OK);
    for (int r = 0; r < 4; r++)
        assert_memory_equal((const float *)row.data + r * C, wide, C * sizeof(float));
    vtc_safetensors_close(file);
}

static void names_and_metadata_come_back_in_order(void **state)
{
    static const vtc_metadata_entry metadata[] = {
        { "z", "last letter first" },
        { "", "" },
        { "\"\\/\b\n\t\x1f\x7f", "a\nb" },
        { "\xc3\xa9\xf0\x9f\xa6\x99", "{\"json\": [1, 2.5, \"\xe2\x82\xac\"]}" },
    };
    static const char *const names[] = { "z", "", "\"\\/\n\x01", "\xe6\xbc\xa2.\xf0\x9f\xa6\x99",
                                         "a" };
    const char *path = in_folder(state, "names");
    const float x[5] = { 0, 1, 2, 3, 4 };
    vtc_named_tensor t[5];
    vtc_safetensors *file = NULL;

    for (size_t i = 0; i < 5; i++) {
        t[i].name = names[i];
        t[i].tensor = vtc_f32_1d(x + i, 1);
    }
    assert_int_equal(vtc_safetensors_write(path, t, 5, metadata, 4, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_open(path, &file, NULL), VTC_OK);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(vtc_safetensors_name(file, i), names[i]);
        assert_dense_equal(file, names[i], &t[i].tensor);
    }
    assert_null(vtc_safetensors_name(file, 5));
    assert_int_equal(vtc_safetensors_metadata_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(vtc_safetensors_metadata_key(file, i), metadata[i].key);
        assert_string_equal(vtc_safetensors_metadata(file, metadata[i].key), metadata[i].value);
    }
    assert_null(vtc_safetensors_metadata(file, "absent"));
    assert_null(vtc_safetensors_metadata_key(file, 4));
    vtc_safetensors_close(file);
}

static void wide_elements_come_first_and_data_begins_at_a_multiple_of_8(void **state)
{
    const uint8_t u[3] = { 1, 2, 3 };
    const int64_t i64[1] = { -4 };
    const float f[2] = { 0.5f, -2.0f };
    const vtc_named_tensor t[] = { { "u", vtc_tensor_1d(u, VTC_U8, 3) },
                                   { "f", vtc_f32_1d(f, 2) },
                                   { "i", vtc_tensor_1d(i64, VTC_I64, 1) } };
    const char want[] = "{\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                        "\"f\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
                        "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}      ";
    const char *path = in_folder(state, "order");
    size_t size;
    unsigned char *bytes;

    assert_int_equal((sizeof(want) - 1) % 8, 0);
    for (int time = 0; time < 2; time++) {
        assert_int_equal(vtc_safetensors_write(path, t, 3, NULL, 0, NULL), VTC_OK);
        bytes = get_file(path, &size);
        assert_int_equal(size, 8 + sizeof(want) - 1 + 19);
        assert_int_equal(vtci_load_le(bytes, 8), sizeof(want) - 1);
        assert_memory_equal(bytes + 8, want, sizeof(want) - 1);
        assert_memory_equal(bytes + size - 19, i64, 8);
        assert_memory_equal(bytes + size - 11, f, 8);
        assert_memory_equal(bytes + size - 3, u, 3);
        free(bytes);
    }
}

static void each_of_many_tensors_is_found(void **state)
{
    enum { N = 5000 };
    const char *path = in_folder(state, "many");
    vtc_named_tensor *t = malloc(N * sizeof(*t));
    int32_t value[N];
    char name[N][16];
    vtc_safetensors *file = NULL;

    assert_non_null(t);
    for (int i = 0; i < N; i++) {
        value[i] = i;
        snprintf(name[i], sizeof(name[i]), "t%d", i * 7919 % N);
        t[i].name = name[i];
        t[i].tensor = vtc_tensor_1d(&value[i], VTC_I32, 1);
    }
    assert_int_equal(vtc_safetensors_write(path, t, N, NULL, 0, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_open(path, &file, NULL), VTC_OK);
    for (int i = 0; i < N; i++)
        assert_dense_equal(file, name[i], &t[i].tensor);
    vtc_safetensors_close(file);
    free(t);
}

/* ---- what the writer refuses ----------------------------------------------------------------- */

static void write_is_refused(void **state, const vtc_named_tensor *t, size_t n,
                             const vtc_metadata_entry *metadata, size_t n_metadata, vtc_status want,
                             const char *part)
{
    const char *path = in_folder(state, "refused");
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log = { 0 };
    size_t size;
    unsigned char *bytes;

    record_errors(&exec, &log);
    put_file(path, "old", 3);
    assert_failed(&log, vtc_safetensors_write(path, t, n, metadata, n_metadata, &exec), want, part);
    bytes = get_file(path, &size);
    assert_int_equal(size, 3);
    assert_memory_equal(bytes, "old", 3);
    free(bytes);
}

static void bad_tensors_are_not_written(void **state)
{
    const float x[4] = { 0 };
    const size_t huge[] = { SIZE_MAX / 4, SIZE_MAX / 4, 0 };
    vtc_named_tensor t[2] = { { "a", vtc_f32_1d(x, 4) }, { "a", vtc_f32_1d(x, 4) } };

    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_RANGE, "second \"a\"");
    write_is_refused(state, NULL, 1, NULL, 0, VTC_ERR_NULL, "tensors");
    t[1].name = NULL;
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_NULL, "name of tensor 1");
    t[1].name = "__metadata__";
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_RANGE, "reserved");
    t[1].name = "\xff";
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_RANGE, "UTF-8");
    t[1].name = "b";
    t[1].tensor.dtype = (vtc_dtype)99;
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_DTYPE, "99");
    t[1].tensor = vtc_f32_1d(NULL, 4);
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_NULL, "b has no data");
    t[1].tensor = vtc_f32_1d(x, 2);
    t[1].tensor.stride[0] = 2;
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_SHAPE, "stride 2");
    t[1].tensor = vtc_tensor_nd(x, VTC_F32, 3, huge);
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_OVERFLOW, "b");
    t[1].tensor = vtc_f32_1d(x, 4);
    t[1].tensor.rank = 7;
    write_is_refused(state, t, 2, NULL, 0, VTC_ERR_SHAPE, "rank 7");
}

static void tensors_that_together_overflow_are_not_written(void **state)
{
    const float x[1] = { 0 };
    vtc_named_tensor t[3] = { { "a", vtc_f32_2d(x, PTRDIFF_MAX / 8, 1) },
                              { "b", vtc_f32_2d(x, PTRDIFF_MAX / 8, 1) },
                              { "c", vtc_f32_2d(x, PTRDIFF_MAX / 8, 1) } };

    for (int i = 0; i < 3; i++)
        t[i].tensor.stride[0] = 0;
    write_is_refused(state, t, 3, NULL, 0, VTC_ERR_OVERFLOW, "up to 2");
}

static void bad_metadata_is_not_written(void **state)
{
    vtc_metadata_entry m[2] = { { "k", "v" }, { "k", "w" } };

    write_is_refused(state, NULL, 0, m, 2, VTC_ERR_RANGE, "second \"k\"");
    write_is_refused(state, NULL, 0, NULL, 1, VTC_ERR_NULL, "metadata");
    m[1].key = NULL;
    write_is_refused(state, NULL, 0, m, 2, VTC_ERR_NULL, "metadata 1");
    m[1].key = "\xc0\x80";
    write_is_refused(state, NULL, 0, m, 2, VTC_ERR_RANGE, "UTF-8");
    m[1].key = "l";
    m[1].value = "\xff";
    write_is_refused(state, NULL, 0, m, 2, VTC_ERR_RANGE, "UTF-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_and_rank_comes_back_equal),
        cmocka_unit_test(strided_views_are_packed),
        cmocka_unit_test(names_and_metadata_come_back_in_order),
        cmocka_unit_test(wide_elements_come_first_and_data_begins_at_a_multiple_of_8),
        cmocka_unit_test(each_of_many_tensors_is_found),
        cmocka_unit_test(bad_tensors_are_not_written),
        cmocka_unit_test(tensors_that_together_overflow_are_not_written),
        cmocka_unit_test(bad_metadata_is_not_written),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
