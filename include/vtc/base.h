/*
 * vtc/base.h: what every other header of libvtc shares.
 *
 * These rules hold for the whole library unless a function says otherwise:
 *
 * - Tensors are views of caller memory, slowest axis first, innermost stride 1. libvtc never
 *   allocates, frees or keeps a pointer after a call returns.
 * - A `const vtc_tensor *` is never written through. Inputs may have any outer strides (0 repeats
 *   a row); outputs must not overlap themselves, an input or each other, else VTC_ERR_OVERLAP.
 * - Tokens go in and out as F32, F16 or BF16 in any mix; all arithmetic is F32.
 * - Arguments are checked before the first output byte is written. On any error the outputs are
 *   untouched and `exec->on_error` has received one line with the numbers that were wrong.
 * - A struct with `struct_size` starts from its _INIT macro; NULL params are the defaults. Fields
 *   are only ever appended: what an older caller's struct lacks has its default, and what this
 *   version does not know must be zero, else VTC_ERR_UNSUPPORTED. That is also returned for
 *   reserved words that are not 0, and VTC_ERR_RANGE for a struct_size that no struct has and for
 *   values that are none of their enum. The functions below do not list these again.
 * - The result depends on the arguments alone: equal inputs give equal bits for any number of
 *   workers (same CPU type, same BLAS build, BLAS single-threaded). Ties go to the lower row.
 * - Functions are re-entrant; concurrent calls need their own scratch memory and outputs.
 * - `vtc_<thing>_scratch()` takes the same views (their data may be NULL) and stores the bytes of
 *   scratch memory that vtc_<thing>() needs with the same arguments and number of workers.
 */
#ifndef VTC_BASE_H
#define VTC_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) || !defined(__GNUC__)
#define VTC_API
#define VTC_NODISCARD
#define VTC_PRINTF(text, first)
#else
#define VTC_API                 __attribute__((visibility("default")))
#define VTC_NODISCARD           __attribute__((warn_unused_result))
#define VTC_PRINTF(text, first) __attribute__((format(printf, text, first)))
#endif

/* Makers of views keep their first argument and do not look behind it. GCC must be told, and see
 * them inlined, or it warns of a view of memory that is still to be written. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define VTC_VIEW_MAKER __attribute__((always_inline, access(none, 1))) static inline
#else
#define VTC_VIEW_MAKER static inline
#endif

/* ---- status ---------------------------------------------------------------------------------- */

/* Values are part of the ABI and never renumbered. */
typedef enum vtc_status {
    VTC_OK = 0,
    VTC_ERR_NULL = -1,         /* a pointer that must be given is NULL                         */
    VTC_ERR_DTYPE = -2,        /* a tensor's dtype is not one the function takes               */
    VTC_ERR_SHAPE = -3,        /* rank, extents or strides do not fit the other arguments      */
    VTC_ERR_RANGE = -4,        /* a parameter or an index is outside its range                 */
    VTC_ERR_OVERLAP = -5,      /* an output shares memory with another argument or itself      */
    VTC_ERR_SCRATCH = -6,      /* scratch memory is missing, too small or not 64-byte aligned  */
    VTC_ERR_ROOM = -7,         /* the caller's plan has too little room                        */
    VTC_ERR_OVERFLOW = -8,     /* a size does not fit size_t, int32_t or the BLAS integer      */
    VTC_ERR_DATA = -9,         /* the values themselves: NaN or zero rows where order is decided */
    VTC_ERR_BUDGET = -10,      /* the method cannot meet the asked number of tokens            */
    VTC_ERR_UNSUPPORTED = -11, /* a known combination that this version does not do            */
    VTC_ERR_IO = -12,          /* the system refused to open, read or write (libvtc-io)        */
    VTC_ERR_FORMAT = -13       /* a file is not what its format demands (libvtc-io)            */
} vtc_status;

/* "VTC_ERR_SHAPE" for VTC_ERR_SHAPE; a fixed text for values that are no status. Never NULL. */
VTC_API const char *vtc_status_string(vtc_status status);

/* ---- tensor views ---------------------------------------------------------------------------- */

/* 0 is no dtype, so that a forgotten field is noticed. Values are part of the ABI. */
typedef enum vtc_dtype {
    VTC_F32 = 1,
    VTC_F16 = 2,  /* IEEE binary16                       */
    VTC_BF16 = 3, /* upper half of an IEEE binary32      */
    VTC_I32 = 4,
    VTC_I64 = 5,
    VTC_U8 = 6,
    VTC_BOOL = 7 /* one byte, 0 or 1                    */
} vtc_dtype;

#define VTC_MAX_RANK 6

typedef struct vtc_tensor {
    void *data; /* caller memory, aligned to the element size     */
    vtc_dtype dtype;
    int rank;                    /* 0 (a scalar) to VTC_MAX_RANK                   */
    size_t dim[VTC_MAX_RANK];    /* slowest axis first; an extent may be 0         */
    size_t stride[VTC_MAX_RANK]; /* in elements; the innermost is 1                */
    size_t reserved[2];          /* 0                                              */
} vtc_tensor;

/* Bytes of one element; 0 for a value that is no dtype. */
VTC_API size_t vtc_dtype_size(vtc_dtype dtype);

/* "F32" for VTC_F32, as safetensors spells it; "?" for a value that is no dtype. */
VTC_API const char *vtc_dtype_string(vtc_dtype dtype);

/* A densely packed view. `data` is const here so that one maker serves inputs and outputs. */
VTC_VIEW_MAKER vtc_tensor vtc_tensor_nd(const void *data, vtc_dtype dtype, int rank,
                                        const size_t *dim)
{
    vtc_tensor t = { NULL, dtype, rank, { 0 }, { 0 }, { 0 } };
    size_t stride = 1;
    int axis;

    t.data = (void *)(uintptr_t)data;
    for (axis = rank - 1; axis >= 0 && rank <= VTC_MAX_RANK; axis--) {
        t.dim[axis] = dim[axis];
        t.stride[axis] = stride;
        stride *= dim[axis];
    }
    return t;
}

VTC_VIEW_MAKER vtc_tensor vtc_tensor_1d(const void *data, vtc_dtype dtype, size_t n)
{
    return vtc_tensor_nd(data, dtype, 1, &n);
}

VTC_VIEW_MAKER vtc_tensor vtc_tensor_2d(const void *data, vtc_dtype dtype, size_t rows, size_t cols)
{
    size_t dim[2];
    dim[0] = rows;
    dim[1] = cols;
    return vtc_tensor_nd(data, dtype, 2, dim);
}

VTC_VIEW_MAKER vtc_tensor vtc_tensor_3d(const void *data, vtc_dtype dtype, size_t d0, size_t d1,
                                        size_t d2)
{
    size_t dim[3];
    dim[0] = d0;
    dim[1] = d1;
    dim[2] = d2;
    return vtc_tensor_nd(data, dtype, 3, dim);
}

VTC_VIEW_MAKER vtc_tensor vtc_f32_1d(const float *data, size_t n)
{
    return vtc_tensor_1d(data, VTC_F32, n);
}

VTC_VIEW_MAKER vtc_tensor vtc_f32_2d(const float *data, size_t rows, size_t cols)
{
    return vtc_tensor_2d(data, VTC_F32, rows, cols);
}

VTC_VIEW_MAKER vtc_tensor vtc_f32_3d(const float *data, size_t d0, size_t d1, size_t d2)
{
    return vtc_tensor_3d(data, VTC_F32, d0, d1, d2);
}

/* ---- execution ------------------------------------------------------------------------------- */

/*
 * A matrix product that an engine supplies in place of OpenBLAS: C = A B, or A B^T when `trans_b`.
 * Row-major; A [m, k] with row stride lda, B [k, n] (or [n, k]) with ldb, C [m, n] with ldc. Called
 * from several workers at once, so it must be re-entrant and must not start threads of its own.
 */
typedef void (*vtc_sgemm)(void *cookie, int trans_b, size_t m, size_t n, size_t k, const float *a,
                          size_t lda, const float *b, size_t ldb, float *c, size_t ldc);

/* How a call runs. A NULL vtc_exec means: no scratch, the calling thread, no messages. */
typedef struct vtc_exec {
    size_t struct_size;
    void *scratch;       /* 64-byte aligned; any contents on entry, none meant afterwards      */
    size_t scratch_size; /* at least what vtc_<thing>_scratch() stored                         */
    size_t n_workers;    /* each has its own slice of the scratch memory; 0 counts as 1        */

    /*
     * Runs task(job, index, worker) once for each index < n_tasks and returns when all have ended;
     * worker < n_workers, and two tasks that run at once never have the same worker. NULL: a loop
     * in the calling thread.
     */
    void (*parallel_for)(void *pool, size_t n_tasks,
                         void (*task)(void *job, size_t index, size_t worker), void *job);
    void *pool; /* passed to parallel_for */

    /* Receives one line, without newline, for each call that fails; valid during the callback. Not
     * called when this struct itself is refused. */
    void (*on_error)(void *user, vtc_status status, const char *message);
    void *user; /* passed to on_error */

    vtc_sgemm sgemm; /* NULL: libvtc's own tiles or cblas_sgemm, whose thread count it never
                      * touches. A scratch query must know whether there will be one. */
    void *sgemm_cookie;
} vtc_exec;

/* clang-format off */
#define VTC_EXEC_INIT { sizeof(vtc_exec), NULL, 0, 1, NULL, NULL, NULL, NULL, NULL, NULL }
/* clang-format on */

#ifdef __cplusplus
}
#endif
#endif
