/* Read-only mappings, atomic writes and messages that name the file. */
#define _POSIX_C_SOURCE 200809L

#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- messages -------------------------------------------------------------------------------- */

static bool continues_character(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The end of a path or a tensor name tells more than its middle. */
static void elide_middle(vtci_text *out, const char *text, size_t length)
{
    size_t head = 40, tail = length - 48;

    while (head > 0 && continues_character(text[head]))
        head--;
    while (continues_character(text[tail]))
        tail++;
    snprintf(out->s, sizeof(out->s), "%.*s...%s", (int)head, text, text + tail);
}

vtci_text vtci_printable(const char *text)
{
    const size_t length = strlen(text);
    vtci_text out;

    if (length < sizeof(out.s))
        memcpy(out.s, text, length + 1);
    else
        elide_middle(&out, text, length);
    for (char *c = out.s; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == '\x7f')
            *c = '?';
    return out;
}

vtc_status vtci_begin_file(vtci_file_call *f, const char *function, const char *path,
                           const vtc_exec *exec)
{
    VTCI_TRY(vtci_begin(&f->call, function, exec));
    VTCI_REQUIRE_PTR(&f->call, path);
    f->path = vtci_printable(path);
    snprintf(f->name, sizeof(f->name), "%s: %s", function, f->path.s);
    f->call.name = f->name;
    return VTC_OK;
}

static vtc_status fail_system(const vtci_call *call, const char *what, int error)
{
    return vtci_fail(call, VTC_ERR_IO, "cannot %s: %s", what, strerror(error));
}

vtc_status vtci_fail_memory(const vtci_call *call)
{
    return fail_system(call, "get memory", ENOMEM);
}

/* ---- reading --------------------------------------------------------------------------------- */

static vtc_status map_descriptor(const vtci_call *call, int descriptor, vtci_map *map)
{
    struct stat info;
    void *data;

    if (fstat(descriptor, &info) != 0)
        return fail_system(call, "get the size", errno);
    VTCI_REQUIRE(call, S_ISREG(info.st_mode), VTC_ERR_IO, "is not a regular file");
    VTCI_REQUIRE(call, info.st_size > 0, VTC_ERR_FORMAT, "the file is empty");
    VTCI_REQUIRE(call, (uintmax_t)info.st_size <= PTRDIFF_MAX, VTC_ERR_OVERFLOW,
                 "the file of %ju bytes does not fit the address space", (uintmax_t)info.st_size);
    data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED)
        return fail_system(call, "map", errno);
    map->data = data;
    map->size = (size_t)info.st_size;
    return VTC_OK;
}

vtc_status vtci_map_open(const vtci_call *call, const char *path, vtci_map *map)
{
    /* O_NONBLOCK: a FIFO without a writer must be refused, not waited for */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    vtc_status status;

    if (descriptor < 0)
        return fail_system(call, "open", errno);
    status = map_descriptor(call, descriptor, map);
    close(descriptor); /* the mapping stays */
    return status;
}

void vtci_map_close(vtci_map *map)
{
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, map->size);
    map->data = NULL;
    map->size = 0;
}

uint64_t vtci_load_le(const unsigned char *bytes, size_t n)
{
    uint64_t value = 0;

    while (n-- > 0)
        value = value << 8 | bytes[n];
    return value;
}

bool vtci_grow_count(size_t *count, size_t extent)
{
    if (extent != 0 && *count > SIZE_MAX / extent)
        return false;
    *count *= extent;
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void note(vtci_writer *writer, bool succeeded)
{
    if (!succeeded && writer->error == 0)
        writer->error = errno != 0 ? errno : EIO;
}

/* rename() would put a file in the place of a device or a socket. */
static vtc_status check_target(const vtci_call *call, const char *path)
{
    struct stat info;

    VTCI_REQUIRE(call, stat(path, &info) != 0 || S_ISREG(info.st_mode), VTC_ERR_IO,
                 "exists and is not a regular file");
    return VTC_OK;
}

/*
 * Opens a new file in the folder of `path`, whose name goes to `name`. O_EXCL makes concurrent
 * writers take different numbers. mkstemp() is no help: it makes private files, and the mode that
 * the user's umask asks for can not be had without changing the umask.
 */
static int create_beside(const char *path, char *name, size_t size)
{
    const char *slash = strrchr(path, '/');
    const int folder = slash == NULL ? 0 : (int)(slash + 1 - path);
    int descriptor = -1;

    for (int number = 0; number < 1000; number++) {
        snprintf(name, size, "%.*s.vtc-%ld-%d.tmp", folder, path, (long)getpid(), number);
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0 || errno != EEXIST)
            break;
    }
    return descriptor;
}

static vtc_status open_stream(const vtci_call *call, vtci_writer *writer, size_t size)
{
    const int descriptor = create_beside(writer->path, writer->temporary, size);

    if (descriptor < 0)
        return fail_system(call, "create a file in its folder", errno);
    writer->stream = fdopen(descriptor, "wb");
    if (writer->stream == NULL) {
        close(descriptor);
        unlink(writer->temporary);
        return vtci_fail_memory(call);
    }
    return VTC_OK;
}

vtc_status vtci_writer_open(const vtci_call *call, const char *path, vtci_writer *writer)
{
    const size_t size = strlen(path) + 64; /* room for the temporary's own name */
    vtc_status status;

    VTCI_TRY(check_target(call, path));
    writer->path = path;
    writer->error = 0;
    writer->temporary = malloc(size);
    if (writer->temporary == NULL)
        return vtci_fail_memory(call);
    status = open_stream(call, writer, size);
    if (status != VTC_OK)
        free(writer->temporary);
    return status;
}

void vtci_write(vtci_writer *writer, const void *data, size_t size)
{
    if (size > 0 && writer->error == 0)
        note(writer, fwrite(data, 1, size, writer->stream) == size);
}

vtc_status vtci_check_written(const vtci_call *call, const char *what, const vtc_tensor *t,
                              unsigned dtypes, size_t *bytes)
{
    VTCI_TRY(vtci_check_tensor(call, what, t, dtypes, 0, VTC_MAX_RANK, VTCI_IN));
    *bytes = vtc_dtype_size(t->dtype);
    for (int axis = 0; axis < t->rank; axis++)
        VTCI_REQUIRE(call, t->dim[axis] <= PTRDIFF_MAX && vtci_grow_count(bytes, t->dim[axis]),
                     VTC_ERR_OVERFLOW, "the size of %s overflows", what);
    return VTC_OK;
}

static bool next_index(size_t *index, const size_t *dim, int n_axes)
{
    for (int axis = n_axes - 1; axis >= 0; axis--) {
        if (++index[axis] < dim[axis])
            return true;
        index[axis] = 0;
    }
    return false;
}

void vtci_write_tensor(vtci_writer *writer, const vtc_tensor *t)
{
    const size_t size = vtc_dtype_size(t->dtype);
    size_t index[VTC_MAX_RANK] = { 0 };
    size_t block = 1; /* elements of the innermost axes, which lie dense in memory */
    int n_outer = t->rank;

    if (vtci_count(t) == 0)
        return;
    while (n_outer > 0 && (t->dim[n_outer - 1] == 1 || t->stride[n_outer - 1] == block))
        block *= t->dim[--n_outer];
    do {
        size_t offset = 0;

        for (int axis = 0; axis < n_outer; axis++)
            offset += index[axis] * t->stride[axis];
        vtci_write(writer, (const char *)t->data + offset * size, block * size);
    } while (writer->error == 0 && next_index(index, t->dim, n_outer));
}

vtc_status vtci_writer_commit(const vtci_call *call, vtci_writer *writer)
{
    note(writer, fflush(writer->stream) == 0 && fsync(fileno(writer->stream)) == 0);
    note(writer, fclose(writer->stream) == 0);
    if (writer->error == 0)
        note(writer, rename(writer->temporary, writer->path) == 0);
    if (writer->error != 0)
        unlink(writer->temporary);
    free(writer->temporary);
    return writer->error == 0 ? VTC_OK : fail_system(call, "write", writer->error);
}
