/* stats.h: cases of attention statistics with their results in doubles. */
#ifndef VTC_TESTS_STATS_H
#define VTC_TESTS_STATS_H

#include "../reference/attention_reference.h"
#include "tensors.h"

typedef enum stats_rows { ROWS_ALL, ROWS_LAST, ROWS_SOME } stats_rows;

typedef struct stats_case {
    attention_shape shape;
    bool causal;
    size_t row_offset;
    bool positions; /* given, in no order, instead of the offset */
    size_t first_col, n_cols;
    stats_rows voters, chosen;
    bool lse;
    vtc_dtype q, k;
    size_t gap;       /* between rows and heads                  */
    bool heads_inner; /* memory is [tokens, heads, d]            */
} stats_case;

typedef struct stats_data {
    vtc_attention_stats_params params;
    vtc_tensor q, k, lse;
    int32_t *positions, *voters, *chosen;
    size_t n_cols;
    double *sum, *mean, *max, *rows; /* what is right */
} stats_data;

/* Inputs are read-only and end at guard pages; every result is wanted. */
stats_data make_stats(uint64_t *seed, const stats_case *c);
void free_stats(stats_data *data);

/* NULL or the log-sum-exps. */
const vtc_tensor *stats_lse(const stats_data *data);

/* Results in guarded memory, poisoned. */
vtc_attention_stats_out make_out(const stats_data *data);
void free_out(vtc_attention_stats_out *out);

/* Those that params.want asks for are within the tolerance, relative, and the others poisoned. */
void assert_stats(const vtc_attention_stats_out *out, const stats_data *data, double tolerance);
void assert_same_stats(const vtc_attention_stats_out *a, const vtc_attention_stats_out *b,
                       const stats_data *data);

#endif
