/* files.h: a temporary folder for tests of readers and writers, and whole files. */
#ifndef VTC_TESTS_FILES_H
#define VTC_TESTS_FILES_H

#include "support.h"

/* cmocka group fixtures: *state becomes the path of a new folder, removed with its files. */
int make_folder(void **state);
int remove_folder(void **state);

/* "folder/name" of the fixture. Valid until the fourth call after this one. */
const char *in_folder(void **state, const char *name);

/* Number of files in the fixture's folder, temporary ones too. */
size_t count_files(void **state);

void put_file(const char *path, const void *bytes, size_t size);

/* The whole file; free() it. */
unsigned char *get_file(const char *path, size_t *size);

/* Between the two, files of this process cannot grow beyond `bytes`: writes fail as on a full disk
 * (EFBIG instead of ENOSPC). */
void limit_file_size(size_t bytes);
void lift_file_size_limit(void);

/* assert_failed() of the call alone: messages from before it do not count. */
#define assert_refused(log, call, want, part) \
    do {                                      \
        (log)->count = 0;                     \
        assert_failed(log, call, want, part); \
    } while (0)

#endif
