/* vtc/resample.h: the resample family, learned queries that attend to the visual tokens. */
#ifndef VTC_RESAMPLE_H
#define VTC_RESAMPLE_H

#include "idefics2.h"
#include "perceiver.h"
#include "qformer.h"
#include "resampler.h"

#endif
