/* vtc/fuse.h: the fuse family, where vision enters the language model otherwise than as tokens. */
#ifndef VTC_FUSE_H
#define VTC_FUSE_H

#include "gated_xattn.h"
#include "hyper_attention.h"
#include "vlora.h"

#endif
