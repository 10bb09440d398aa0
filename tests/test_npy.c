/* Reading and writing .npy files. */
#include "../src/io/npy.h"
#include "support/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- files made by hand ---------------------------------------------------------------------- */

typedef struct image {
    unsigned char *bytes; /* end at a guard page, read-only */
    size_t size;
} image;

/* A file of a version with `n_data` bytes 0, 1, 2, ... after its header. */
static image image_of(int version, const char *header, size_t n_data)
{
    const size_t length = strlen(header), n_length = version == 1 ? 2 : 4;
    unsigned char bytes[512] = "\x93NUMPY";
    image file = { NULL, 8 + n_length + length + n_data };

    assert_true(file.size <= sizeof(bytes));
    bytes[6] = (unsigned char)version;
    bytes[8] = (unsigned char)(length & 0xff);
    bytes[9] = (unsigned char)(length >> 8);
    memcpy(bytes + 8 + n_length, header, length);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n_length + length + i] = (unsigned char)i;
    file.bytes = guard_copy_readonly(bytes, file.size);
    return file;
}

static vtc_status read_bytes(image file, vtc_npy **array, error_log *log)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtci_call call;

    record_errors(&exec, log);
    assert_int_equal(vtci_begin(&call, "read", &exec), VTC_OK);
    return vtci_npy_read(&call, file.bytes, file.size, array);
}

static volatile unsigned char seen;

static void walk(const vtc_npy *array)
{
    const vtc_tensor *x = vtc_npy_tensor(array);

    assert_int_equal((uintptr_t)x->data % vtc_dtype_size(x->dtype), 0);
    for (size_t b = 0; b < vtci_span_bytes(x); b++)
        seen = ((const unsigned char *)x->data)[b];
}

#define DICT(descr, order, shape) \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"

/* ---- headers --------------------------------------------------------------------------------- */

typedef struct read_case {
    int version;
    const char *header;
    vtc_dtype dtype;
    int rank;
    size_t dim[3];
} read_case;

static const read_case read_cases[] = {
    { 1, DICT("'<f4'", "False", "(2, 3)") "   \n", VTC_F32, 2, { 2, 3 } },
    { 2, DICT("'<f2'", "False", "(5,)") " \n", VTC_F16, 1, { 5 } },
    { 3, DICT("'<i4'", "False", "()") "\n", VTC_I32, 0, { 0 } },
    { 1, DICT("'<i8'", "False", "(0, 3)") "\n", VTC_I64, 2, { 0, 3 } },
    { 1, DICT("'|u1'", "False", "(2, 1, 3)") "\n", VTC_U8, 3, { 2, 1, 3 } },
    { 1, DICT("'|b1'", "False", "(7,)") "\n", VTC_BOOL, 1, { 7 } },
    { 1, DICT("'<f4'", "False", "(2, 3,)") "", VTC_F32, 2, { 2, 3 } },
    { 1, "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", VTC_F32, 2, { 2, 3 } },
    { 1, " { 'fortran_order' :False ,'shape' : ( 1 , ) , 'descr' : '<f4' } ", VTC_F32, 1, { 1 } },
};

static void headers_of_every_version_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(read_cases) / sizeof(*read_cases); i++) {
        const read_case *c = &read_cases[i];
        vtc_tensor want = vtc_tensor_nd(NULL, c->dtype, c->rank, c->dim);
        const size_t n_data = vtci_count(&want) * vtc_dtype_size(c->dtype);
        image file = image_of(c->version, c->header, n_data);
        vtc_npy *array = NULL;
        error_log log = { 0 };

        if (read_bytes(file, &array, &log) != VTC_OK)
            fail_msg("refused: %s: %s", c->header, log.message);
        want.data = vtc_npy_tensor(array)->data;
        assert_memory_equal(vtc_npy_tensor(array), &want, sizeof(want));
        walk(array);
        for (size_t b = 0; b < n_data; b++)
            assert_int_equal(((const unsigned char *)want.data)[b], b);
        vtc_npy_close(array);
        guard_free(file.bytes);
    }
}

typedef struct refused_case {
    const char *header;
    size_t n_data;
    vtc_status status;
    const char *part;
} refused_case;

static const refused_case refused_cases[] = {
    /* another array than the library takes: what to do is said */
    { DICT("'<f8'", "False", "(1,)"), 8, VTC_ERR_DTYPE, "x.astype(np.float32)" },
    { DICT("'<i2'", "False", "(1,)"), 2, VTC_ERR_DTYPE, "x.astype(np.int64)" },
    { DICT("'<c8'", "False", "(1,)"), 8, VTC_ERR_DTYPE, "'<c8'" },
    { DICT("'|O'", "False", "(1,)"), 8, VTC_ERR_DTYPE, "'|O'" },
    { DICT("''", "False", "(1,)"), 8, VTC_ERR_DTYPE, "''" },
    { DICT("'|f4'", "False", "(1,)"), 4, VTC_ERR_DTYPE, "'|f4'" },
    { DICT("'>f4'", "False", "(1,)"), 4, VTC_ERR_DTYPE, "newbyteorder('<')" },
    { DICT("[('a', '<f4')]", "False", "(1,)"), 4, VTC_ERR_DTYPE, "x['name']" },
    { DICT("'<f4'", "True", "(2, 2)"), 16, VTC_ERR_UNSUPPORTED, "np.ascontiguousarray(x)" },
    { DICT("'|u1'", "False", "(1, 1, 1, 1, 1, 1, 1)"), 1, VTC_ERR_SHAPE, "7 axes" },
    /* sizes */
    { DICT("'<f4'", "False", "(2,)"), 7, VTC_ERR_FORMAT, "8 bytes, the file has 7" },
    { DICT("'<f4'", "False", "(2,)"), 9, VTC_ERR_FORMAT, "8 bytes, the file has 9" },
    { DICT("'<f4'", "False", "(4294967296, 4294967296)"), 0, VTC_ERR_FORMAT, "overflows" },
    { DICT("'<f4'", "False", "(4611686018427387904,)"), 0, VTC_ERR_FORMAT, "overflows" },
    { DICT("'<f4'", "False", "(4611686018427387904, 4, 0)"), 0, VTC_ERR_FORMAT, "overflows" },
    { DICT("'<f4'", "False", "(9223372036854775808,)"), 0, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(18446744073709551617,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    /* no dictionary of NumPy */
    { "", 0, VTC_ERR_FORMAT, "dictionary" },
    { "{", 0, VTC_ERR_FORMAT, "dictionary" },
    { "{}", 0, VTC_ERR_FORMAT, "dictionary" },
    { "{'descr': '<f4', 'fortran_order': False, }", 4, VTC_ERR_FORMAT, "dictionary" },
    { "{'descr': '<f4', 'shape': (1,), }", 4, VTC_ERR_FORMAT, "dictionary" },
    { "{'fortran_order': False, 'shape': (1,), }", 4, VTC_ERR_FORMAT, "dictionary" },
    { "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, VTC_ERR_FORMAT,
      "dictionary" },
    { "{'x': 1, 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, VTC_ERR_FORMAT,
      "dictionary" },
    { "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}", 4, VTC_ERR_FORMAT, "dictionary" },
    { "{'descr' '<f4', 'fortran_order': False, 'shape': (1,)}", 4, VTC_ERR_FORMAT, "dictionary" },
    { "{, 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, VTC_ERR_FORMAT,
      "dictionary" },
    { DICT("'<f4'", "False", "(1,)") "x", 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4\"", "False", "(1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'\\x3cf4'", "False", "(1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4\t'", "False", "(1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'................................'", "False", "(1,)"), 4, VTC_ERR_FORMAT,
      "dictionary" },
    { DICT("'<f4'", "0", "(1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "false", "(1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(1)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "1"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "[1]"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(-1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(+1,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(1.0,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(01,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(1 1)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(1,,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(,)"), 4, VTC_ERR_FORMAT, "dictionary" },
    { DICT("'<f4'", "False", "(1, "), 4, VTC_ERR_FORMAT, "dictionary" },
};

static void other_headers_are_refused_with_a_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused_cases) / sizeof(*refused_cases); i++) {
        const refused_case *c = &refused_cases[i];
        image file = image_of(1, c->header, c->n_data);
        vtc_npy *array = NULL;
        error_log log = { 0 };
        const vtc_status status = read_bytes(file, &array, &log);

        if (status != c->status)
            fail_msg("%s: status %d, %s", c->header, (int)status, log.message);
        assert_failed(&log, status, c->status, c->part);
        assert_null(array);
        guard_free(file.bytes);
    }
}

static void damaged_preambles_are_refused(void **state)
{
    static const struct {
        size_t at;
        unsigned char byte;
    } damage[] = { { 0, 'x' }, { 1, 'n' }, { 5, 'Z' }, { 6, 0 }, { 6, 4 }, { 7, 1 }, { 9, 1 } };

    (void)state;
    for (size_t i = 0; i < sizeof(damage) / sizeof(*damage); i++) {
        image file = image_of(1, DICT("'<f4'", "False", "(1,)"), 4);
        vtc_npy *array = NULL;
        error_log log = { 0 };

        guard_writable(file.bytes);
        file.bytes[damage[i].at] = damage[i].byte;
        assert_failed(&log, read_bytes(file, &array, &log), VTC_ERR_FORMAT, "");
        guard_free(file.bytes);
    }
}

static void a_header_length_near_4_GiB_is_refused(void **state)
{
    image file = image_of(2, DICT("'<f4'", "False", "(1,)"), 4);
    vtc_npy *array = NULL;
    error_log log = { 0 };

    (void)state;
    guard_writable(file.bytes);
    memset(file.bytes + 8, 0xff, 4);
    assert_failed(&log, read_bytes(file, &array, &log), VTC_ERR_FORMAT, "4294967295");
    guard_free(file.bytes);
}

/* ---- every small damage ---------------------------------------------------------------------- */

static void every_truncation_is_refused(void **state)
{
    (void)state;
    for (int version = 1; version <= 3; version++) {
        const image whole = image_of(version, DICT("'<f4'", "False", "(2, 3)") "\n", 24);

        for (size_t size = 0; size < whole.size; size++) {
            const image cut = { guard_copy_readonly(whole.bytes, size), size };
            vtc_npy *array = NULL;
            error_log log = { 0 };

            assert_failed(&log, read_bytes(cut, &array, &log), VTC_ERR_FORMAT, "");
            guard_free(cut.bytes);
        }
        guard_free(whole.bytes);
    }
}

static void no_change_of_a_byte_does_harm(void **state)
{
    const image file = image_of(1, DICT("'<f4'", "False", "(2, 3)") "\n", 24);
    size_t n_refused = 0;

    (void)state;
    guard_writable(file.bytes);
    for (size_t at = 0; at < file.size; at++) {
        const unsigned char kept = file.bytes[at];

        for (int change = 1; change < 256; change++) {
            vtc_npy *array = NULL;
            error_log log = { 0 };

            file.bytes[at] = (unsigned char)(kept ^ change);
            if (read_bytes(file, &array, &log) == VTC_OK)
                walk(array);
            else
                n_refused++;
            vtc_npy_close(array);
        }
        file.bytes[at] = kept;
    }
    assert_true(n_refused > file.size * 128);
    guard_free(file.bytes);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void the_bytes_are_those_of_numpy(void **state)
{
    /* numpy.save() of arange(6, dtype=float32).reshape(2, 3) */
    const char want[] = "\x93NUMPY\x01\x00\x76\x00" DICT("'<f4'", "False", "(2, 3)");
    const float x[6] = { 0, 1, 2, 3, 4, 5 };
    const vtc_tensor t = vtc_f32_2d(x, 2, 3);
    const char *path = in_folder(state, "numpy");
    size_t size;
    unsigned char *bytes;

    for (int time = 0; time < 2; time++) {
        assert_int_equal(vtc_npy_write(path, &t, NULL), VTC_OK);
        bytes = get_file(path, &size);
        assert_int_equal(size, 128 + sizeof(x));
        assert_memory_equal(bytes, want, sizeof(want) - 1);
        for (size_t i = sizeof(want) - 1; i < 127; i++)
            assert_int_equal(bytes[i], ' ');
        assert_int_equal(bytes[127], '\n');
        assert_memory_equal(bytes + 128, x, sizeof(x));
        free(bytes);
    }
}

static void every_dtype_and_rank_comes_back_equal(void **state)
{
    static const size_t dim[] = { 2, 1, 3, 1, 2, 2 };
    const char *path = in_folder(state, "dtypes");
    unsigned char data[24 * 8];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 37);
    for (int dtype = VTC_F32; dtype <= VTC_BOOL; dtype++)
        for (int rank = 0; rank <= VTC_MAX_RANK && dtype != VTC_BF16; rank++) {
            vtc_tensor want = vtc_tensor_nd(data, (vtc_dtype)dtype, rank, dim);
            vtc_npy *file = NULL;

            assert_int_equal(vtc_npy_write(path, &want, NULL), VTC_OK);
            assert_int_equal(vtc_npy_open(path, &file, NULL), VTC_OK);
            assert_memory_equal(vtc_npy_tensor(file)->data, data, vtci_span_bytes(&want));
            want.data = vtc_npy_tensor(file)->data;
            assert_memory_equal(vtc_npy_tensor(file), &want, sizeof(want));
            vtc_npy_close(file);
        }
}

static void strided_and_empty_views_come_back_packed(void **state)
{
    const char *path = in_folder(state, "strided");
    const float x[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, want[4] = { 0, 1, 4, 5 };
    vtc_tensor t = vtc_f32_2d(x, 2, 2);
    vtc_npy *file = NULL;

    t.stride[0] = 4;
    assert_int_equal(vtc_npy_write(path, &t, NULL), VTC_OK);
    assert_int_equal(vtc_npy_open(path, &file, NULL), VTC_OK);
    assert_memory_equal(vtc_npy_tensor(file)->data, want, sizeof(want));
    vtc_npy_close(file);

    t = vtc_f32_2d(NULL, 0, 9);
    assert_int_equal(vtc_npy_write(path, &t, NULL), VTC_OK);
    assert_int_equal(vtc_npy_open(path, &file, NULL), VTC_OK);
    assert_int_equal(vtc_npy_tensor(file)->dim[0], 0);
    assert_int_equal(vtc_npy_tensor(file)->dim[1], 9);
    vtc_npy_close(file);
}

static void the_longest_header_fits(void **state)
{
    const size_t dim[] = { 0, PTRDIFF_MAX, PTRDIFF_MAX, PTRDIFF_MAX, PTRDIFF_MAX, PTRDIFF_MAX };
    const vtc_tensor t = vtc_tensor_nd(NULL, VTC_U8, 6, dim);
    const char *path = in_folder(state, "long");
    vtc_npy *file = NULL;

    assert_int_equal(vtc_npy_write(path, &t, NULL), VTC_OK);
    assert_int_equal(vtc_npy_open(path, &file, NULL), VTC_OK);
    assert_memory_equal(vtc_npy_tensor(file)->dim, dim, sizeof(dim));
    vtc_npy_close(file);
}

static void what_numpy_lacks_is_not_written(void **state)
{
    const uint16_t x[2] = { 0, 0 };
    const char *path = in_folder(state, "refused");
    vtc_tensor t = vtc_tensor_1d(x, VTC_BF16, 2);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log = { 0 };

    record_errors(&exec, &log);
    assert_refused(&log, vtc_npy_write(path, &t, &exec), VTC_ERR_DTYPE, "BF16");
    t = vtc_tensor_1d(x, VTC_F16, 1);
    t.dtype = (vtc_dtype)99;
    assert_refused(&log, vtc_npy_write(path, &t, &exec), VTC_ERR_DTYPE, "99");
    t = vtc_tensor_1d(NULL, VTC_F16, 2);
    assert_refused(&log, vtc_npy_write(path, &t, &exec), VTC_ERR_NULL, "no data");
    t = vtc_tensor_2d(x, VTC_F16, SIZE_MAX / 2 + 1, 0);
    assert_refused(&log, vtc_npy_write(path, &t, &exec), VTC_ERR_OVERFLOW, "overflows");
    assert_refused(&log, vtc_npy_write(path, NULL, &exec), VTC_ERR_NULL, "tensor");
    assert_refused(&log, vtc_npy_write(NULL, &t, &exec), VTC_ERR_NULL, "path");
    assert_refused(&log, vtc_npy_open(path, NULL, &exec), VTC_ERR_NULL, "file");
    assert_null(vtc_npy_tensor(NULL));
    vtc_npy_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_of_every_version_are_read),
        cmocka_unit_test(other_headers_are_refused_with_a_reason),
        cmocka_unit_test(damaged_preambles_are_refused),
        cmocka_unit_test(a_header_length_near_4_GiB_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(no_change_of_a_byte_does_harm),
        cmocka_unit_test(the_bytes_are_those_of_numpy),
        cmocka_unit_test(every_dtype_and_rank_comes_back_equal),
        cmocka_unit_test(strided_and_empty_views_come_back_packed),
        cmocka_unit_test(the_longest_header_fits),
        cmocka_unit_test(what_numpy_lacks_is_not_written),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
