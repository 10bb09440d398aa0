/* cascade.h: two plans, the second made on what the first leaves, against their composition. */
#ifndef VTC_TESTS_CASCADE_H
#define VTC_TESTS_CASCADE_H

#include "support.h"

enum { MOST_CASCADE_ROWS = 64 };

typedef struct two_steps {
    vtc_plan first, second, both;
} two_steps;

/* Makes `both`, a valid plan. Fewer rows than MOST_CASCADE_ROWS. */
void compose_steps(two_steps *s);

/* `both` moves tokens, ids, positions, K/V rows and masses as the two steps do one after another.
 */
void check_steps(const two_steps *s, uint64_t *seed);

void free_steps(two_steps *s);

#endif
