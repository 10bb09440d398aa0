#include "save.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

static const char *stem_of(const char *path, size_t *length)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(name, '.');

    /* a leading dot begins no extension */
    *length = dot != NULL && dot != name ? (size_t)(dot - name) : strlen(name);
    return name;
}

char *output_path(struct tool *tool, const char *folder, const char *input, const char *suffix)
{
    size_t length;
    const char *stem = stem_of(input, &length);
    const size_t size = strlen(folder) + 1 + length + 1 + strlen(suffix) + 1;
    char *path = tool_new(tool, size, 1);

    if (path != NULL)
        snprintf(path, size, "%s/%.*s.%s", folder, (int)length, stem, suffix);
    return path;
}

bool find_equal_stems(char *const *inputs, size_t n, size_t *first, size_t *second)
{
    for (size_t j = 1; j < n; j++)
        for (size_t i = 0; i < j; i++) {
            size_t length_i, length_j;
            const char *a = stem_of(inputs[i], &length_i);
            const char *b = stem_of(inputs[j], &length_j);

            if (length_i == length_j && memcmp(a, b, length_i) == 0) {
                *first = i;
                *second = j;
                return true;
            }
        }
    return false;
}

/* ---- folders --------------------------------------------------------------------------------- */

static bool make_one_folder(struct tool *tool, const char *path)
{
    struct stat status;

    if (mkdir(path, 0777) == 0)
        return true;
    if (errno == EEXIST && stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        return true;
    return tool_fail(tool, "cannot make the folder %s: %s", path, strerror(errno));
}

bool make_folder(struct tool *tool, const char *path)
{
    char *part = tool_new(tool, strlen(path) + 1, 1);
    bool done = part != NULL;

    for (size_t i = 0; done && path[i] != '\0'; i++) {
        part[i] = path[i];
        if (i > 0 && path[i] != '/' && path[i + 1] == '/')
            done = make_one_folder(tool, part);
    }
    done = done && make_one_folder(tool, path);
    free(part);
    if (done && access(path, W_OK | X_OK) != 0)
        return tool_fail(tool, "cannot write to the folder %s: %s", path, strerror(errno));
    return done;
}

/* ---- pictures -------------------------------------------------------------------------------- */

static cairo_status_t write_bytes(void *file, const unsigned char *bytes, unsigned length)
{
    return fwrite(bytes, 1, length, file) == length ? CAIRO_STATUS_SUCCESS
                                                    : CAIRO_STATUS_WRITE_ERROR;
}

/* Writes and closes the file. Only fsync() and fclose() tell that a disk was full. */
static bool write_png(struct tool *tool, cairo_surface_t *surface, FILE *file)
{
    const cairo_status_t status = cairo_surface_write_to_png_stream(surface, write_bytes, file);
    const bool written =
        status == CAIRO_STATUS_SUCCESS && fflush(file) == 0 && fsync(fileno(file)) == 0;
    const int error = errno;
    const bool closed = fclose(file) == 0;

    if (written && closed)
        return true;
    if (status != CAIRO_STATUS_SUCCESS && status != CAIRO_STATUS_WRITE_ERROR)
        return tool_fail(tool, "cannot draw: %s", cairo_status_to_string(status));
    return tool_fail(tool, "cannot write: %s", strerror(written ? errno : error));
}

bool save_picture(struct tool *tool, const char *path, cairo_surface_t *surface)
{
    const size_t size = strlen(path) + 32;
    char *temporary = tool_new(tool, size, 1);
    FILE *file;
    bool done;

    if (temporary == NULL)
        return false;
    snprintf(temporary, size, "%s.%ld.tmp", path, (long)getpid());
    file = fopen(temporary, "wbx");
    done = file != NULL && write_png(tool, surface, file);
    if (file == NULL || (done && rename(temporary, path) != 0))
        done = tool_fail(tool, "cannot write %s: %s", path, strerror(errno));
    if (file != NULL && !done)
        remove(temporary);
    free(temporary);
    return done;
}
