/*
 * methods.h: what the runner can execute. A method is one row in a family's table and one function
 * that reads like a caller of the library; an empty row ends each table.
 */
#ifndef VTC_CONFORMANCE_METHODS_H
#define VTC_CONFORMANCE_METHODS_H

#include "run.h"

typedef struct method {
    const char *name, *variant; /* as in the metadata of a case; # stands for any number */
    vtc_status (*run)(run *r);
} method;

extern const method mustdrop_methods[];
extern const method ficoco_methods[];
extern const method fuse_methods[];
extern const method hyper_attention_methods[];
extern const method idefics2_methods[];
extern const method guided_methods[];
extern const method pooling_methods[];
extern const method project_methods[];
extern const method project_conv_methods[];
extern const method prune_methods[];
extern const method qformer_methods[];
extern const method resampler_methods[];
extern const method resample_methods[];
extern const method sample_methods[];
extern const method shuffle_methods[];
extern const method vlora_methods[];

#endif
