/* file.h: files mapped read-only, and files that appear whole or not at all. */
#ifndef VTCI_FILE_H
#define VTCI_FILE_H

#include "../base/tensor.h"

#include <stdio.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian and are mapped as they are"
#endif

/* ---- messages -------------------------------------------------------------------------------- */

/* Text from outside, fit for one line: control characters as '?', a long middle as "...". */
typedef struct vtci_text {
    char s[96];
} vtci_text;

vtci_text vtci_printable(const char *text);

/* vtci_begin() for a call about a file: each message begins with the function and the path. */
typedef struct vtci_file_call {
    vtci_call call;
    vtci_text path;
    char name[160]; /* what call.name points to */
} vtci_file_call;

VTC_NODISCARD vtc_status vtci_begin_file(vtci_file_call *f, const char *function, const char *path,
                                         const vtc_exec *exec);

/* VTC_ERR_IO, for when malloc() or jansson returns NULL. */
vtc_status vtci_fail_memory(const vtci_call *call);

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct vtci_map {
    const unsigned char *data;
    size_t size; /* at least 1 */
} vtci_map;

/* Maps a regular file that is not empty. */
VTC_NODISCARD vtc_status vtci_map_open(const vtci_call *call, const char *path, vtci_map *map);

/* A map of zeros is fine. */
void vtci_map_close(vtci_map *map);

/* A number of `n` bytes, least significant first. n <= 8. */
uint64_t vtci_load_le(const unsigned char *bytes, size_t n);

/* Appends `extent` to a product of extents. False when it does not fit, also where a later extent
 * of zero would hide that. */
bool vtci_grow_count(size_t *count, size_t extent);

/* ---- writing --------------------------------------------------------------------------------- */

/* The first failure is remembered and ends all writing: vtci_writer_commit() reports it. Whatever
 * may be refused must be checked before the writer is opened. */
typedef struct vtci_writer {
    const char *path;
    char *temporary;
    FILE *stream;
    int error; /* errno of the first failure, or 0 */
} vtci_writer;

VTC_NODISCARD vtc_status vtci_writer_open(const vtci_call *call, const char *path,
                                          vtci_writer *writer);
void vtci_write(vtci_writer *writer, const void *data, size_t size);

/* VTC_ERR_DTYPE, VTC_ERR_SHAPE or VTC_ERR_OVERFLOW unless the readers would take the tensor back;
 * *bytes is its packed size. */
VTC_NODISCARD vtc_status vtci_check_written(const vtci_call *call, const char *what,
                                            const vtc_tensor *t, unsigned dtypes, size_t *bytes);

/* The elements of a checked view, packed. */
void vtci_write_tensor(vtci_writer *writer, const vtc_tensor *t);

/* Ends every opened writer: the target has all that was written, or is as it was. */
VTC_NODISCARD vtc_status vtci_writer_commit(const vtci_call *call, vtci_writer *writer);

#endif
