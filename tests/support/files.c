/* A temporary folder, whole files, and a disk that is full. */
#define _POSIX_C_SOURCE 200809L

#include "files.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_ROOM = 512 };

int make_folder(void **state)
{
    const char *parent = getenv("TMPDIR");
    char *folder = malloc(PATH_ROOM);

    if (folder == NULL)
        return -1;
    snprintf(folder, PATH_ROOM, "%s/vtc-test-XXXXXX", parent == NULL ? "/tmp" : parent);
    *state = mkdtemp(folder);
    return *state == NULL ? -1 : 0;
}

static bool is_file(const struct dirent *item)
{
    return strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0;
}

size_t count_files(void **state)
{
    DIR *folder = opendir(*state);
    const struct dirent *item;
    size_t n = 0;

    assert_non_null(folder);
    while ((item = readdir(folder)) != NULL)
        n += is_file(item);
    closedir(folder);
    return n;
}

int remove_folder(void **state)
{
    DIR *folder = opendir(*state);
    const struct dirent *item;
    int status;

    while (folder != NULL && (item = readdir(folder)) != NULL)
        if (is_file(item))
            remove(in_folder(state, item->d_name));
    if (folder != NULL)
        closedir(folder);
    status = rmdir(*state);
    free(*state);
    return status;
}

const char *in_folder(void **state, const char *name)
{
    static char path[4][PATH_ROOM];
    static unsigned turn;
    char *next = path[turn++ % 4];

    snprintf(next, PATH_ROOM, "%s/%s", (const char *)*state, name);
    return next;
}

void put_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

unsigned char *get_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static void set_file_size_limit(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

void limit_file_size(size_t bytes)
{
    signal(SIGXFSZ, SIG_IGN); /* else the process ends at the limit */
    set_file_size_limit(bytes);
}

void lift_file_size_limit(void)
{
    set_file_size_limit(RLIM_INFINITY);
    signal(SIGXFSZ, SIG_DFL);
}
