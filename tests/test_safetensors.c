/* Reading and writing .safetensors files, hostile ones above all. */
#include "../src/io/safetensors.h"
#include "support/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- files made by hand ---------------------------------------------------------------------- */

#define MEMBER(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define F32(name, shape, offsets) MEMBER(name, "\"F32\"", shape, offsets)
#define ONE                       F32("a", "[2]", "[0,8]")
#define ALIKE(name)               "{" F32(name, "[2]", "[0,8]") "}"

enum { FILE_ROOM = 1 << 19 };

typedef struct image {
    unsigned char *bytes; /* end at a guard page, read-only */
    size_t size;
} image;

/* A file with `n_data` bytes 0, 1, 2, ... whose header claims `length` bytes. */
static image make_image(const char *header, size_t header_size, uint64_t length, size_t n_data)
{
    image file = { NULL, 8 + header_size + n_data };
    unsigned char *bytes = malloc(file.size);

    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, header_size);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + header_size + i] = (unsigned char)i;
    file.bytes = guard_copy_readonly(bytes, file.size);
    free(bytes);
    return file;
}

static image image_of(const char *header, size_t n_data)
{
    return make_image(header, strlen(header), strlen(header), n_data);
}

static vtc_status read_bytes(const unsigned char *bytes, size_t size, vtc_safetensors **file,
                             error_log *log)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtci_call call;

    record_errors(&exec, log);
    assert_int_equal(vtci_begin(&call, "read", &exec), VTC_OK);
    return vtci_safetensors_read(&call, bytes, size, file);
}

static volatile unsigned char seen;

/* Reads every byte and every property of every tensor. */
static void walk(const vtc_safetensors *file)
{
    for (size_t i = 0; i < vtc_safetensors_count(file); i++) {
        const char *name = vtc_safetensors_name(file, i);
        vtc_tensor view;

        assert_true(vtc_safetensors_has(file, name));
        if (vtc_safetensors_tensor(file, name, &view, NULL) != VTC_OK)
            continue;
        assert_int_equal((uintptr_t)view.data % vtc_dtype_size(view.dtype), 0);
        for (size_t b = 0; b < vtci_span_bytes(&view); b++)
            seen = ((const unsigned char *)view.data)[b];
    }
    for (size_t i = 0; i < vtc_safetensors_metadata_count(file); i++)
        assert_non_null(vtc_safetensors_metadata(file, vtc_safetensors_metadata_key(file, i)));
}

/* `part` is in the message. */
static void expect_message(image file, const char *part)
{
    vtc_safetensors *read = NULL;
    error_log log = { 0 };

    assert_refused(&log, read_bytes(file.bytes, file.size, &read, &log), VTC_ERR_FORMAT, part);
    guard_free(file.bytes);
}

static void expect_refused(image file, const char *why)
{
    vtc_safetensors *read = NULL;
    error_log log = { 0 };
    const vtc_status status = read_bytes(file.bytes, file.size, &read, &log);

    if (status != VTC_ERR_FORMAT || read != NULL)
        fail_msg("not refused: %s", why);
    assert_failed(&log, status, VTC_ERR_FORMAT, "");
    guard_free(file.bytes);
}

static void expect_read(image file, const char *why)
{
    vtc_safetensors *read = NULL;
    error_log log = { 0 };

    if (read_bytes(file.bytes, file.size, &read, &log) != VTC_OK)
        fail_msg("refused: %s: %s", why, log.message);
    walk(read);
    vtc_safetensors_close(read);
    guard_free(file.bytes);
}

/* ---- hostile headers ------------------------------------------------------------------------- */

typedef struct header_case {
    const char *why, *header;
    size_t n_data;
} header_case;

static const header_case refused_headers[] = {
    { "header is empty", "", 0 },
    { "header is not an object", "[]", 0 },
    { "header begins with a space", " {" ONE "}", 8 },
    { "closing brace missing", "{" ONE, 8 },
    { "text after the object", "{" ONE "}x", 8 },
    { "second object", "{" ONE "}{}", 8 },
    { "comma before the closing brace", "{" ONE ",}", 8 },
    { "comment", "{/**/" ONE "}", 8 },
    { "raw control character in a name", ALIKE("a\nb"), 8 },
    { "name is not UTF-8", ALIKE("\xff\xfe"), 8 },
    { "overlong UTF-8", ALIKE("\xc0\xaf"), 8 },
    { "surrogate in UTF-8", ALIKE("\xed\xa0\x80"), 8 },
    { "half a surrogate pair", ALIKE("\\ud800"), 8 },
    { "zero character in a name", ALIKE("a\\u0000b"), 8 },
    { "zero character in a value", "{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0 },
    { "the same tensor twice", "{" ONE "," ONE "}", 8 },
    { "the same tensor twice, escaped", "{" ONE "," F32("\\u0061", "[2]", "[0,8]") "}", 8 },
    { "the same field twice",
      "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],"
      "\"data_offsets\":[0,8]}}",
      8 },
    { "two metadata", "{\"__metadata__\":{},\"__metadata__\":{}}", 0 },
    { "unknown dtype", "{" MEMBER("a", "\"F33\"", "[2]", "[0,8]") "}", 8 },
    { "dtype in lower case", "{" MEMBER("a", "\"f32\"", "[2]", "[0,8]") "}", 8 },
    { "dtype is a number", "{" MEMBER("a", "7", "[2]", "[0,8]") "}", 8 },
    { "no dtype", "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8 },
    { "no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8 },
    { "no data_offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8 },
    { "one data_offset", "{" F32("a", "[2]", "[8]") "}", 8 },
    { "three data_offsets", "{" F32("a", "[2]", "[0,8,8]") "}", 8 },
    { "data_offsets is an object", "{" F32("a", "[2]", "{\"0\":0,\"1\":8}") "}", 8 },
    { "end before begin", "{" F32("a", "[2]", "[8,0]") "}", 8 },
    { "end past the file", "{" F32("a", "[4]", "[0,16]") "}", 8 },
    { "negative offset", "{" F32("a", "[2]", "[-8,0]") "}", 8 },
    { "offset is a fraction", "{" F32("a", "[2]", "[0,8.5]") "}", 8 },
    { "offset is written as a fraction", "{" F32("a", "[2]", "[0,8.0]") "}", 8 },
    { "offset is a string", "{" F32("a", "[2]", "[0,\"8\"]") "}", 8 },
    { "offsets over 64 bits",
      "{" F32("a", "[2]", "[18446744073709551616,18446744073709551624]") "}", 8 },
    { "offsets over 63 bits", "{" F32("a", "[2]", "[9223372036854775808,9223372036854775816]") "}",
      8 },
    { "tensors overlap", "{" ONE "," F32("b", "[2]", "[4,12]") "}", 12 },
    { "two tensors on the same bytes", "{" ONE "," F32("b", "[2]", "[0,8]") "}", 8 },
    { "empty tensor inside another", "{" ONE "," F32("b", "[0]", "[4,4]") "}", 8 },
    { "hole", "{" ONE "," F32("b", "[2]", "[16,24]") "}", 24 },
    { "hole in front", "{" F32("a", "[2]", "[8,16]") "}", 16 },
    { "bytes left over", "{" ONE "}", 64 },
    { "one byte left over", "{" ONE "}", 9 },
    { "bytes without tensors", "{}", 1 },
    { "data shorter than the header says", "{" ONE "}", 5 },
    { "3 floats in 8 bytes", "{" F32("a", "[3]", "[0,8]") "}", 8 },
    { "2 halves in 8 bytes", "{" MEMBER("a", "\"F16\"", "[2]", "[0,8]") "}", 8 },
    { "negative extent", "{" F32("a", "[-2]", "[0,8]") "}", 8 },
    { "two negative extents", "{" F32("a", "[-2,-1]", "[0,8]") "}", 8 },
    { "extent written as a fraction", "{" F32("a", "[2.0]", "[0,8]") "}", 8 },
    { "extent written with an exponent", "{" F32("a", "[2e0]", "[0,8]") "}", 8 },
    { "shape is a string", "{" F32("a", "\"2\"", "[0,8]") "}", 8 },
    { "shape is nested", "{" F32("a", "[[2]]", "[0,8]") "}", 8 },
    { "product of extents is 2^64", "{" F32("a", "[4294967296,4294967296]", "[0,0]") "}", 0 },
    { "bytes are 2^64", "{" F32("a", "[4611686018427387904]", "[0,0]") "}", 0 },
    { "overflow hidden by a later zero", "{" F32("a", "[4611686018427387904,4,0]", "[0,0]") "}",
      0 },
    { "extent over 63 bits, then zero", "{" F32("a", "[9223372036854775808,0]", "[0,0]") "}", 0 },
    { "metadata value is a number", "{\"__metadata__\":{\"a\":1}," ONE "}", 8 },
    { "metadata is an array", "{\"__metadata__\":[\"a\"]," ONE "}", 8 },
    { "metadata is null", "{\"__metadata__\":null," ONE "}", 8 },
    { "entry is a number", "{\"a\":1}", 0 },
};

static void hostile_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused_headers) / sizeof(*refused_headers); i++) {
        const header_case *c = &refused_headers[i];
        expect_refused(image_of(c->header, c->n_data), c->why);
    }
}

static void odd_but_valid_headers_are_read(void **state)
{
    static const header_case cases[] = {
        { "no tensor at all", "{}", 0 },
        { "padded with spaces", "{" ONE "}     ", 8 },
        { "data not at a multiple of 8", "{" ONE "} ", 8 },
        { "rank 0", "{" F32("a", "[]", "[0,4]") "}", 4 },
        { "no elements", "{" F32("a", "[0,7]", "[0,0]") "," F32("b", "[2]", "[0,8]") "}", 8 },
        { "no elements at the end", "{" ONE "," F32("b", "[3,0]", "[8,8]") "}", 8 },
        { "zero before huge extents",
          "{" F32("a", "[0,4611686018427387904,4611686018427387904]", "[0,0]") "}", 0 },
        { "names not in the order of their data",
          "{" F32("b", "[2]", "[8,16]") "," F32("a", "[2]", "[0,8]") "}", 16 },
        { "escapes in a name", ALIKE("\\u0061\\/\\u00e9"), 8 },
        { "empty name", ALIKE(""), 8 },
        { "a field more",
          "{\"a\":{\"dtype\":\"F32\",\"x\":[{}],\"shape\":[2],"
          "\"data_offsets\":[0,8]}}",
          8 },
        { "dtypes without a name in libvtc",
          "{" MEMBER("a", "\"F64\"", "[1]", "[0,8]") "," MEMBER("b", "\"F8_E4M3\"", "[1]",
                                                                "[8,9]") "}",
          9 },
        { "rank 9", "{" F32("a", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        expect_read(image_of(cases[i].header, cases[i].n_data), cases[i].why);
}

static void header_lengths_beyond_the_limit_or_the_file_are_refused(void **state)
{
    static const uint64_t over_limit[] = { 100000001, UINT64_MAX, UINT64_MAX - 7,
                                           UINT64_C(1) << 63 };
    const char *header = "{" ONE "}";
    const size_t size = strlen(header);

    (void)state;
    for (size_t i = 0; i < sizeof(over_limit) / sizeof(*over_limit); i++)
        expect_message(make_image(header, size, over_limit[i], 8), "over the limit");
    expect_message(make_image(header, size, 100000000, 8), "the file has 62");
    expect_message(make_image(header, size, size + 9, 8), "the file has 62");
    expect_message(make_image(header, size, 0, 8), "'{'");
    expect_message(make_image(header, size, 1, 8), "JSON");
}

/* `depth` times `open`, a number, `depth` times `close`. */
static image nested_image(const char *open, const char *close, size_t depth)
{
    const size_t n_open = strlen(open), n_close = strlen(close);
    char *header = malloc(FILE_ROOM);
    size_t n = 0;
    image file;

    assert_non_null(header);
    assert_true(depth * (n_open + n_close) + 16 < FILE_ROOM);
    n += (size_t)sprintf(header, "{\"a\":");
    for (size_t i = 0; i < depth; i++, n += n_open)
        memcpy(header + n, open, n_open);
    header[n++] = '1';
    for (size_t i = 0; i < depth; i++, n += n_close)
        memcpy(header + n, close, n_close);
    header[n++] = '}';
    file = make_image(header, n, n, 0);
    free(header);
    return file;
}

static void deeply_nested_headers_are_refused(void **state)
{
    (void)state;
    expect_refused(nested_image("[", "]", 200000), "200000 nested arrays");
    expect_refused(nested_image("{\"a\":", "}", 50000), "50000 nested objects");
}

/* ---- every small damage ---------------------------------------------------------------------- */

static const char valid_header[] = "{\"__metadata__\":{\"k\":\"v\"},\"h\":{\"dtype\":\"F16\","
                                   "\"shape\":[1,3],\"data_offsets\":[8,14]}," ONE "}";

static void every_truncation_is_refused(void **state)
{
    const image whole = image_of(valid_header, 14);

    (void)state;
    for (size_t size = 0; size < whole.size; size++) {
        image cut = { guard_copy_readonly(whole.bytes, size), size };
        expect_refused(cut, "a truncated file");
    }
    expect_read(whole, "the whole file");
}

static void no_change_of_a_byte_does_harm(void **state)
{
    image file = image_of(valid_header, 14);
    size_t n_refused = 0;

    (void)state;
    guard_writable(file.bytes);
    for (size_t at = 0; at < file.size; at++) {
        const unsigned char kept = file.bytes[at];

        for (int change = 1; change < 256; change++) {
            vtc_safetensors *read = NULL;
            error_log log = { 0 };

            file.bytes[at] = (unsigned char)(kept ^ change);
            if (read_bytes(file.bytes, file.size, &read, &log) == VTC_OK)
                walk(read);
            else
                n_refused++;
            vtc_safetensors_close(read);
        }
        file.bytes[at] = kept;
    }
    assert_true(n_refused > file.size * 128);
    expect_read(file, "the unchanged file");
}

/* ---- views ----------------------------------------------------------------------------------- */

static void aligned_data_is_not_copied(void **state)
{
    const image file = image_of("{" ONE "," F32("b", "[]", "[8,12]") "}", 12);
    vtc_safetensors *read = NULL;
    error_log log = { 0 };
    vtc_tensor view;

    (void)state;
    assert_int_equal(read_bytes(file.bytes, file.size, &read, &log), VTC_OK);
    assert_int_equal(vtc_safetensors_tensor(read, "b", &view, NULL), VTC_OK);
    assert_ptr_equal(view.data, file.bytes + file.size - 4);
    vtc_safetensors_close(read);
    guard_free(file.bytes);
}

static void misaligned_data_is_copied_to_aligned_memory(void **state)
{
    const char *header =
        "{" MEMBER("u", "\"U8\"", "[1]", "[0,1]") "," F32("a", "[1]", "[1,5]") "," MEMBER(
            "i", "\"I64\"", "[1]", "[5,13]") "," F32("z", "[0]", "[13,13]") "}";
    vtc_safetensors *read = NULL;
    unsigned char want[13];
    vtc_tensor view;

    for (size_t i = 0; i < sizeof(want); i++)
        want[i] = (unsigned char)i;
    {
        const image file = image_of(header, 13);
        put_file(in_folder(state, "odd"), file.bytes, file.size);
        guard_free(file.bytes);
    }
    assert_int_equal(vtc_safetensors_open(in_folder(state, "odd"), &read, NULL), VTC_OK);
    walk(read);
    assert_int_equal(vtc_safetensors_tensor(read, "u", &view, NULL), VTC_OK);
    assert_memory_equal(view.data, want, 1);
    assert_int_equal(vtc_safetensors_tensor(read, "a", &view, NULL), VTC_OK);
    assert_memory_equal(view.data, want + 1, 4);
    assert_int_equal(vtc_safetensors_tensor(read, "i", &view, NULL), VTC_OK);
    assert_memory_equal(view.data, want + 5, 8);
    vtc_safetensors_close(read);
}

static void a_tensor_that_cannot_be_viewed_is_an_error(void **state)
{
    const image file = image_of("{" MEMBER("d", "\"F64\"", "[1]",
                                           "[0,8]") "," F32("r", "[1,1,1,1,1,1,2]", "[8,16]") "}",
                                16);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_safetensors *read = NULL;
    error_log log = { 0 };
    vtc_tensor view;

    (void)state;
    poison(&view, sizeof(view));
    record_errors(&exec, &log);
    assert_int_equal(read_bytes(file.bytes, file.size, &read, &log), VTC_OK);
    assert_refused(&log, vtc_safetensors_tensor(read, "d", &view, &exec), VTC_ERR_DTYPE, "F64");
    assert_refused(&log, vtc_safetensors_tensor(read, "r", &view, &exec), VTC_ERR_SHAPE, "rank 7");
    assert_refused(&log, vtc_safetensors_tensor(read, "x", &view, &exec), VTC_ERR_RANGE, "\"x\"");
    assert_refused(&log, vtc_safetensors_tensor(read, NULL, &view, &exec), VTC_ERR_NULL, "name");
    assert_refused(&log, vtc_safetensors_tensor(NULL, "d", &view, &exec), VTC_ERR_NULL, "file");
    assert_refused(&log, vtc_safetensors_tensor(read, "d", NULL, &exec), VTC_ERR_NULL, "view");
    assert_true(is_poisoned(&view, sizeof(view)));
    assert_true(vtc_safetensors_has(read, "d"));
    assert_false(vtc_safetensors_has(read, "x"));
    vtc_safetensors_close(read);
    guard_free(file.bytes);
}

static void no_file_has_nothing(void **state)
{
    (void)state;
    vtc_safetensors_close(NULL);
    assert_int_equal(vtc_safetensors_count(NULL), 0);
    assert_null(vtc_safetensors_name(NULL, 0));
    assert_false(vtc_safetensors_has(NULL, "a"));
    assert_null(vtc_safetensors_metadata(NULL, "a"));
    assert_int_equal(vtc_safetensors_metadata_count(NULL), 0);
    assert_null(vtc_safetensors_metadata_key(NULL, 0));
}

static void messages_stay_on_one_short_line(void **state)
{
    char name[600], header[1000];
    vtc_safetensors *read = NULL;
    error_log log = { 0 };
    image file;

    (void)state;
    memset(name, 'n', sizeof(name));
    memcpy(name, "\\n\\u001b", 8);
    name[sizeof(name) - 1] = '\0';
    snprintf(header, sizeof(header), "{\"%s\":1}", name);
    file = image_of(header, 0);
    assert_failed(&log, read_bytes(file.bytes, file.size, &read, &log), VTC_ERR_FORMAT, "...");
    assert_null(strchr(log.message, '\n'));
    assert_null(strchr(log.message, '\x1b'));
    assert_true(strlen(log.message) < 200);
    guard_free(file.bytes);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void open_needs_a_place_for_the_file(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_safetensors *file = NULL;
    error_log log = { 0 };

    (void)state;
    record_errors(&exec, &log);
    assert_refused(&log, vtc_safetensors_open(NULL, &file, &exec), VTC_ERR_NULL, "path");
    assert_refused(&log, vtc_safetensors_open("x", NULL, &exec), VTC_ERR_NULL, "file");
}

static void a_refused_file_is_named(void **state)
{
    const char *path = in_folder(state, "refused");
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_safetensors *file = NULL;
    error_log log = { 0 };

    record_errors(&exec, &log);
    put_file(path, "short", 5);
    assert_refused(&log, vtc_safetensors_open(path, &file, &exec), VTC_ERR_FORMAT, "refused: ");
    assert_null(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(odd_but_valid_headers_are_read),
        cmocka_unit_test(header_lengths_beyond_the_limit_or_the_file_are_refused),
        cmocka_unit_test(deeply_nested_headers_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(no_change_of_a_byte_does_harm),
        cmocka_unit_test(aligned_data_is_not_copied),
        cmocka_unit_test(misaligned_data_is_copied_to_aligned_memory),
        cmocka_unit_test(a_tensor_that_cannot_be_viewed_is_an_error),
        cmocka_unit_test(no_file_has_nothing),
        cmocka_unit_test(messages_stay_on_one_short_line),
        cmocka_unit_test(open_needs_a_place_for_the_file),
        cmocka_unit_test(a_refused_file_is_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
