/*
 * vtc/weights.h: weights as structs of views into caller memory, and how they are found by name.
 *
 * A model's weights struct consists of vtc_linear, vtc_norm and the like; one table per model says
 * which tensor name goes into which view. A conformance case, a checkpoint reader and an engine
 * with its own loader use the same tables and give only a lookup by name.
 */
#ifndef VTC_WEIGHTS_H
#define VTC_WEIGHTS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor that a model may lack is absent when all its fields are 0. */
static inline int vtc_tensor_is_absent(const vtc_tensor *t)
{
    return t->dtype == (vtc_dtype)0;
}

/* y = x W^T + b */
typedef struct vtc_linear {
    vtc_tensor weight; /* [D, C], as PyTorch stores it */
    vtc_tensor bias;   /* [D]; absent: 0               */
} vtc_linear;

typedef struct vtc_norm {
    vtc_tensor weight; /* [C]                             */
    vtc_tensor bias;   /* [C]; absent: 0. RMS norm: absent */
} vtc_norm;

typedef enum vtc_norm_kind {
    VTC_NORM_LAYER = 0, /* (x - mean) / sqrt(var + eps) * weight + bias, biased variance */
    VTC_NORM_RMS = 1    /* x / sqrt(mean(x^2) + eps) * weight                            */
} vtc_norm_kind;

/*
 * A model made ready once: weights packed in their own dtype and whatever does not depend on the
 * image, in caller memory. vtc_<thing>_prepare_size() tells the bytes and vtc_<thing>_prepare()
 * fills them; from then on the object is immutable and may be shared by threads. It holds no
 * pointers, and names the library's version, the instruction set, and the model's shapes: an object
 * that does not fit the call is refused. The weights that it was made from must still be passed: it
 * does not hold all of them, and that they are the same ones is the caller's promise.
 */
typedef struct vtc_prepared {
    void *data; /* 64-byte aligned */
    size_t bytes;
} vtc_prepared;

/* What a model costs, as published: what a method saves on top of that is not counted. */
typedef struct vtc_model_cost {
    double parameters;
    double multiply_adds; /* of one call; FLOPs are twice that */
} vtc_model_cost;

/* One tensor of a weights struct. */
typedef struct vtc_weight {
    const char *name; /* below the prefix: "mlp.0.weight"                    */
    size_t offset;    /* of its vtc_tensor in the struct                     */
    int rank;         /* trailing axes of extent 1 beyond it are dropped     */
    int optional;     /* absent tensors stay absent; else VTC_ERR_NULL       */
} vtc_weight;

typedef struct vtc_weight_table {
    const char *model;
    const vtc_weight *weights;
    size_t n;
} vtc_weight_table;

/* Finds the tensor of that full name: 1 and the view, or 0. */
typedef int (*vtc_weight_lookup)(void *source, const char *name, vtc_tensor *view);

/*
 * vtc_weights_bind() fills the views of a weights struct.
 *
 *   lookup   called with `source` and the full name of each tensor, up to twice for each
 *   prefix   in front of every name, e.g. "visual.merger."; NULL: none
 *   weights  out: the struct that the table describes. Optional tensors not found become absent;
 *            views that the table does not list are left alone. Untouched on error.
 *
 *     vtc_norm_mlp_weights merger;
 *     status = vtc_weights_bind(&vtc_qwen2vl_merger_table, my_lookup, my_checkpoint,
 *                               "visual.merger.", &merger, NULL);
 *
 * Errors: VTC_ERR_NULL for a tensor that is missing (the message has its full name), VTC_ERR_SHAPE
 * for a wrong rank, VTC_ERR_DTYPE unless F32, F16 or BF16, VTC_ERR_RANGE for a name longer than 255
 * characters. Extents are checked by the method.
 */
VTC_API VTC_NODISCARD vtc_status vtc_weights_bind(const vtc_weight_table *table,
                                                  vtc_weight_lookup lookup, void *source,
                                                  const char *prefix, void *weights,
                                                  const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
