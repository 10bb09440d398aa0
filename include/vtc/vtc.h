/*
 * vtc/vtc.h: all of libvtc, a library that compresses the visual tokens of multimodal LLMs.
 *
 * vtc/base.h states the rules that hold for every function. Three headers stand apart and are
 * included on their own: vtc/heap.h and vtc/openmp.h (conveniences that the caller compiles) and
 * vtc/io.h (libvtc-io: .safetensors and .npy files).
 */
#ifndef VTC_VTC_H
#define VTC_VTC_H

#define VTC_VERSION_MAJOR  0
#define VTC_VERSION_MINOR  1
#define VTC_VERSION_PATCH  0
#define VTC_VERSION_STRING "0.1.0"

#include "base.h"
#include "cost.h"
#include "fuse.h"
#include "plan.h"
#include "planner.h"
#include "pool.h"
#include "project.h"
#include "prune.h"
#include "resample.h"
#include "sample.h"
#include "score.h"
#include "shuffle.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the linked library, VTC_VERSION_STRING of its header. */
VTC_API const char *vtc_version(void);

#ifdef __cplusplus
}
#endif
#endif
