/*
 * vtc/io.h: libvtc-io, tensors in .safetensors and .npy files. Link vtc::io; needs jansson.
 *
 * Unlike libvtc this library allocates and does input and output. These rules hold for all of it:
 *
 * - Readers map a regular file read-only and check all of its header before they return: any bytes
 *   may be given to them. Only the header is looked at, the values of the data are not.
 * - Views are dense, aligned to their element size, without a copy where the file allows it, and
 *   read-only: a write through one is a fault. They live until the file is closed. An open file is
 *   immutable, many threads may use it at once.
 * - As with every mapping, a file that another program makes shorter while it is open raises SIGBUS
 *   when the missing part is read. The writers below never do that: they replace the file.
 * - Writers write to a temporary file in the target's folder, flush it to the disk and rename it.
 *   The target holds either its old or its whole new content; after an error the temporary file is
 *   gone. A symbolic link is replaced, not followed; a target that exists must be a regular file.
 *   Equal arguments give equal bytes.
 * - `exec` is used for on_error alone and may be NULL. Errors: VTC_ERR_NULL; VTC_ERR_IO when the
 *   system refuses (the message holds its reason) or memory is exhausted; VTC_ERR_FORMAT when the
 *   file is not what its format demands; and those that a function names.
 */
#ifndef VTC_IO_H
#define VTC_IO_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- .safetensors ---------------------------------------------------------------------------- */

typedef struct vtc_safetensors vtc_safetensors;

/*
 * vtc_safetensors_open() maps a file and checks its header as strictly as the format is written:
 * at most 100,000,000 bytes of JSON that begin with `{`, no name twice, known dtypes, extents and
 * offsets that are whole numbers, sizes that fit, and data without overlap, hole or rest.
 *
 * A tensor whose data is not aligned to its element size, which the format allows, is copied to
 * aligned memory here, so opening such a file takes the time and memory of those tensors.
 * vtc_safetensors_write() never makes one.
 *
 *   path   a regular file
 *   file   out   close it with vtc_safetensors_close()
 *
 * Time O(header + n log n) for n tensors.
 * Source: github.com/huggingface/safetensors, "Format".
 */
VTC_API VTC_NODISCARD vtc_status vtc_safetensors_open(const char *path, vtc_safetensors **file,
                                                      const vtc_exec *exec);

/* Ends all views and strings of the file. NULL is fine. */
VTC_API void vtc_safetensors_close(vtc_safetensors *file);

/* Number of tensors of every dtype; 0 for NULL. */
VTC_API size_t vtc_safetensors_count(const vtc_safetensors *file);

/* Name of the i-th tensor in the order of the data, UTF-8; NULL when i is not below the count. */
VTC_API const char *vtc_safetensors_name(const vtc_safetensors *file, size_t i);

/* 1 when the file has a tensor of that name and any dtype, else 0. */
VTC_API int vtc_safetensors_has(const vtc_safetensors *file, const char *name);

/*
 * vtc_safetensors_tensor() makes a view of one tensor, found in O(log n).
 *
 *   view   out   dense; valid until the file is closed
 *
 * Errors: VTC_ERR_RANGE when no tensor has that name, VTC_ERR_DTYPE when vtc_dtype does not have
 * its dtype (F64, I16, F8_E4M3, ...), VTC_ERR_SHAPE when its rank is over VTC_MAX_RANK.
 */
VTC_API VTC_NODISCARD vtc_status vtc_safetensors_tensor(const vtc_safetensors *file,
                                                        const char *name, vtc_tensor *view,
                                                        const vtc_exec *exec);

/* Value of a key of the file's metadata, UTF-8; NULL when it is absent. */
VTC_API const char *vtc_safetensors_metadata(const vtc_safetensors *file, const char *key);

/* Number of metadata keys, and the i-th in the order of the file (NULL when there are fewer). */
VTC_API size_t vtc_safetensors_metadata_count(const vtc_safetensors *file);
VTC_API const char *vtc_safetensors_metadata_key(const vtc_safetensors *file, size_t i);

typedef struct vtc_named_tensor {
    const char *name; /* UTF-8, unique, not "__metadata__" */
    vtc_tensor tensor;
} vtc_named_tensor;

typedef struct vtc_metadata_entry {
    const char *key; /* UTF-8, unique */
    const char *value;
} vtc_metadata_entry;

/*
 * vtc_safetensors_write() writes tensors of any dtype, strided views packed.
 *
 * Data begins at a multiple of 8 bytes and lies in the order of falling element size, so that every
 * tensor is aligned; equal sizes, and the metadata, stay in the order given. Values of BOOL tensors
 * are written as they are.
 *
 *   tensors    [n]            in   may be NULL when n is 0
 *   metadata   [n_metadata]   in   may be NULL when n_metadata is 0
 *
 * Errors: VTC_ERR_DTYPE, VTC_ERR_SHAPE, VTC_ERR_RANGE (a name or key that is not UTF-8, reserved or
 * given twice), VTC_ERR_OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_safetensors_write(const char *path,
                                                       const vtc_named_tensor *tensors, size_t n,
                                                       const vtc_metadata_entry *metadata,
                                                       size_t n_metadata, const vtc_exec *exec);

/* ---- .npy ------------------------------------------------------------------------------------ */

typedef struct vtc_npy vtc_npy;

/*
 * vtc_npy_open() maps an array that numpy.save() wrote: format 1.0, 2.0 or 3.0, C order, of
 * float32, float16, int32, int64, uint8 or bool, little-endian. Data that is not aligned to its
 * element size is copied to aligned memory.
 *
 * Errors: VTC_ERR_DTYPE (float64, big-endian, structured and other dtypes), VTC_ERR_SHAPE (more
 * than VTC_MAX_RANK axes), VTC_ERR_UNSUPPORTED (Fortran order); the message says how to save the
 * array instead.
 * Source: numpy.lib.format, "Format Version 1.0" to "3.0".
 */
VTC_API VTC_NODISCARD vtc_status vtc_npy_open(const char *path, vtc_npy **file,
                                              const vtc_exec *exec);

/* The array, valid until the file is closed; NULL for NULL. */
VTC_API const vtc_tensor *vtc_npy_tensor(const vtc_npy *file);

/* Ends the view. NULL is fine. */
VTC_API void vtc_npy_close(vtc_npy *file);

/*
 * vtc_npy_write() writes one tensor in format 1.0, a strided view packed. Data begins at a multiple
 * of 64 bytes.
 *
 * Errors: VTC_ERR_DTYPE (also for BF16, which NumPy does not have), VTC_ERR_SHAPE,
 * VTC_ERR_OVERFLOW.
 */
VTC_API VTC_NODISCARD vtc_status vtc_npy_write(const char *path, const vtc_tensor *tensor,
                                               const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
