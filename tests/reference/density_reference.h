/* density_reference.h: clustering by density peaks in double precision, by definition. */
#ifndef VTC_TESTS_DENSITY_REFERENCE_H
#define VTC_TESTS_DENSITY_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

/* x [n, c], k clusters, noise [n] or NULL; centre [k] and cluster [n] are written. */
void density_reference(const double *x, size_t n, size_t c, size_t k, const float *noise,
                       int32_t *centre, int32_t *cluster);

#endif
