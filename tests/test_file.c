/* What both formats share: which files are opened, and files that appear whole or not at all. */
#define _POSIX_C_SOURCE 200809L

#include "../src/io/file.h"
#include "support/files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vtc/io.h>

/* ---- opening --------------------------------------------------------------------------------- */

/* Both readers refuse the path and say why. */
static void expect_not_opened(const char *path, vtc_status want, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_safetensors *tensors = NULL;
    vtc_npy *array = NULL;
    error_log log = { 0 };

    record_errors(&exec, &log);
    assert_refused(&log, vtc_safetensors_open(path, &tensors, &exec), want, part);
    assert_null(tensors);
    assert_refused(&log, vtc_npy_open(path, &array, &exec), want, part);
    assert_null(array);
}

static void what_is_no_regular_file_is_not_opened(void **state)
{
    const char *fifo = in_folder(state, "fifo");

    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_not_opened(fifo, VTC_ERR_IO, "regular");
    expect_not_opened(*state, VTC_ERR_IO, "regular");
    expect_not_opened("/dev/zero", VTC_ERR_IO, "regular");
}

static void an_empty_file_is_not_opened(void **state)
{
    const char *path = in_folder(state, "empty");

    put_file(path, "", 0);
    expect_not_opened(path, VTC_ERR_FORMAT, "empty");
}

static void the_systems_reason_is_in_the_message(void **state)
{
    const char *secret = in_folder(state, "secret");

    expect_not_opened(in_folder(state, "absent"), VTC_ERR_IO, "No such file");
    expect_not_opened("", VTC_ERR_IO, "No such file");
    put_file(secret, "x", 1);
    expect_not_opened(in_folder(state, "secret/x"), VTC_ERR_IO, "Not a directory");
    assert_int_equal(chmod(secret, 0), 0);
    if (geteuid() != 0)
        expect_not_opened(secret, VTC_ERR_IO, "Permission denied");
}

/* ---- writing --------------------------------------------------------------------------------- */

static const float values[4096] = { 1.0f, 2.0f, 3.0f };

static vtc_status write_values(const char *path, size_t n, const vtc_exec *exec)
{
    const vtc_named_tensor t = { "x", vtc_f32_1d(values, n) };
    return vtc_safetensors_write(path, &t, 1, NULL, 0, exec);
}

/* Both writers fail for the same reason, and the number of files stays. */
static void expect_not_written(void **state, const char *path, const char *part)
{
    const vtc_tensor x = vtc_f32_1d(values, 4096);
    const size_t n_files = count_files(state);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log = { 0 };

    record_errors(&exec, &log);
    assert_failed(&log, write_values(path, 4096, &exec), VTC_ERR_IO, part);
    assert_refused(&log, vtc_npy_write(path, &x, &exec), VTC_ERR_IO, part);
    assert_int_equal(count_files(state), n_files);
}

static void a_full_disk_leaves_the_old_file_and_nothing_else(void **state)
{
    const char *path = in_folder(state, "full");
    unsigned char *bytes;
    size_t size;

    put_file(path, "old", 3);
    for (size_t limit = 0; limit <= 16384; limit += 4096) {
        limit_file_size(limit);
        expect_not_written(state, path, "File too large");
        lift_file_size_limit();
    }
    bytes = get_file(path, &size);
    assert_int_equal(size, 3);
    assert_memory_equal(bytes, "old", 3);
    free(bytes);
}

static void a_missing_folder_is_not_made(void **state)
{
    expect_not_written(state, in_folder(state, "absent/x"), "No such file");
    expect_not_written(state, "", "No such file");
}

static void what_is_no_regular_file_is_not_replaced(void **state)
{
    const char *fifo = in_folder(state, "fifo2");
    struct stat info;

    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_not_written(state, fifo, "regular");
    assert_int_equal(stat(fifo, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    expect_not_written(state, *state, "regular");
}

static void an_open_file_outlives_its_replacement(void **state)
{
    const char *path = in_folder(state, "replaced");
    vtc_safetensors *file = NULL;
    vtc_tensor view;

    assert_int_equal(write_values(path, 4096, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_open(path, &file, NULL), VTC_OK);
    assert_int_equal(write_values(path, 1, NULL), VTC_OK);
    assert_int_equal(vtc_safetensors_tensor(file, "x", &view, NULL), VTC_OK);
    assert_int_equal(view.dim[0], 4096);
    assert_memory_equal(view.data, values, sizeof(values));
    vtc_safetensors_close(file);
}

static void the_mode_follows_the_umask(void **state)
{
    const char *path = in_folder(state, "mode");
    const mode_t before = umask(027);
    struct stat info;

    assert_int_equal(write_values(path, 1, NULL), VTC_OK);
    umask(before);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

static void a_long_file_name_leaves_room_for_the_temporary(void **state)
{
    char name[256];

    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(write_values(in_folder(state, name), 1, NULL), VTC_OK);
}

typedef struct round {
    char path[8][512];
    vtc_status status[64];
} round;

/* Eight targets, each written by several tasks at once and read in between. */
static void write_and_read(void *job, size_t index, size_t worker)
{
    round *r = job;
    vtc_safetensors *file = NULL;
    const char *path = r->path[index % 8];

    (void)worker;
    r->status[index] = write_values(path, 1 + index, NULL);
    if (r->status[index] == VTC_OK)
        r->status[index] = vtc_safetensors_open(path, &file, NULL);
    vtc_safetensors_close(file);
}

static void writers_at_once_do_not_disturb_each_other(void **state)
{
    const size_t n_files = count_files(state);
    vtc_exec exec = test_exec(4);
    round r;

    for (int i = 0; i < 8; i++) {
        char name[16];

        snprintf(name, sizeof(name), "round%d", i);
        /* cppcheck-suppress uninitvar ; strcpy writes the path */
        strcpy(r.path[i], in_folder(state, name));
    }
    exec.parallel_for(exec.pool, 64, write_and_read, &r);
    for (int i = 0; i < 64; i++)
        assert_int_equal(r.status[i], VTC_OK);
    assert_int_equal(count_files(state), n_files + 8);
}

/* ---- parts ----------------------------------------------------------------------------------- */

static void text_for_messages_is_printable_and_short(void **state)
{
    char text[400];

    (void)state;
    assert_string_equal(vtci_printable("").s, "");
    assert_string_equal(vtci_printable("a\n\x1b\x7f\xc3\xa9").s, "a???\xc3\xa9");
    for (size_t length = 0; length + 1 < sizeof(text); length++) {
        size_t shown;

        for (size_t i = 0; i < length; i++) /* characters of two bytes each */
            text[i] = i % 2 == 0 ? '\xc3' : '\xa9';
        text[length] = '\0';
        shown = strlen(vtci_printable(text).s);
        assert_int_equal(shown, length < sizeof(vtci_text) ? length : shown);
        assert_true(shown < sizeof(vtci_text));
    }
    memset(text, 'x', 300);
    strcpy(text + 300, "/the-end");
    assert_non_null(strstr(vtci_printable(text).s, "...x"));
    assert_non_null(strstr(vtci_printable(text).s, "/the-end"));
}

static void an_elided_text_is_cut_between_characters(void **state)
{
    char text[400];

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        vtci_text shown;
        const char *gap;

        memset(text, 'x', sizeof(text));
        for (size_t i = shift; i + 8 < sizeof(text); i += 4)
            memcpy(text + i, "\xf0\x9f\xa6\x99", 4);
        text[sizeof(text) - 1] = '\0';
        shown = vtci_printable(text);
        gap = strstr(shown.s, "...");
        assert_non_null(gap);
        assert_memory_equal(gap - 4, "\xf0\x9f\xa6\x99", 4);
        assert_memory_equal(gap + 3, "\xf0\x9f\xa6\x99", 4);
    }
}

static void counts_that_do_not_fit_are_noticed(void **state)
{
    size_t count = SIZE_MAX / 2;

    (void)state;
    assert_false(vtci_grow_count(&count, 3));
    assert_int_equal(count, SIZE_MAX / 2);
    assert_true(vtci_grow_count(&count, 2));
    assert_int_equal(count, SIZE_MAX - 1);
    assert_true(vtci_grow_count(&count, 0));
    assert_true(vtci_grow_count(&count, SIZE_MAX));
    assert_int_equal(count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_regular_file_is_not_opened),
        cmocka_unit_test(an_empty_file_is_not_opened),
        cmocka_unit_test(the_systems_reason_is_in_the_message),
        cmocka_unit_test(a_full_disk_leaves_the_old_file_and_nothing_else),
        cmocka_unit_test(a_missing_folder_is_not_made),
        cmocka_unit_test(what_is_no_regular_file_is_not_replaced),
        cmocka_unit_test(an_open_file_outlives_its_replacement),
        cmocka_unit_test(the_mode_follows_the_umask),
        cmocka_unit_test(a_long_file_name_leaves_room_for_the_temporary),
        cmocka_unit_test(writers_at_once_do_not_disturb_each_other),
        cmocka_unit_test(text_for_messages_is_printable_and_short),
        cmocka_unit_test(an_elided_text_is_cut_between_characters),
        cmocka_unit_test(counts_that_do_not_fit_are_noticed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
