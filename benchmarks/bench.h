/*
 * bench.h: what a benchmark case is and what it may use.
 *
 * A case makes working sets and runs the library on one of them. A set holds all memory of one
 * call and the limit it is compared with: a copy of as many bytes, or the matrix products that the
 * method cannot do without. The runner (measure.c) times case and limit in turns and reports the
 * ratio, which a busy machine disturbs far less than either time.
 *
 * A new family adds cases_<family>.c with a table and names it in main.c.
 */
#ifndef VTC_BENCH_H
#define VTC_BENCH_H

#include <vtc/plan.h>
#include <vtc/weights.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- working sets ---------------------------------------------------------------------------- */

/* `count` products C [m, n] = A [m, k] B, with B [k, n] or, when trans_b, [n, k]. */
typedef struct bench_product {
    size_t count, m, n, k;
    bool trans_b;
    float *a, *b; /* of each product its own            */
    float *c;     /* one [m, n] for each worker         */
} bench_product;

enum { BENCH_MAX_PRODUCTS = 4 };

/* What the case is compared with: nothing, a copy, or products. */
typedef struct bench_limit {
    size_t copy_bytes;
    char *from, *to;
    size_t n_products;
    bench_product product[BENCH_MAX_PRODUCTS];
} bench_limit;

typedef struct bench_set {
    vtc_exec exec; /* the workers; scratch is the case's to add */
    void *state;   /* the case's own                            */
    bench_limit limit;
    struct bench_block *blocks; /* all memory of the set */
    size_t bytes;
} bench_set;

/* Memory that lives as long as the set, 64-byte aligned, every page touched. Programs end here when
 * there is none. */
void *bench_zeros(bench_set *set, size_t bytes);

/* Dense tensors of values in [-1, 1), none of them tiny. */
vtc_tensor bench_random(bench_set *set, vtc_dtype dtype, int rank, const size_t *dim);
vtc_tensor bench_random_2d(bench_set *set, vtc_dtype dtype, size_t rows, size_t cols);
vtc_tensor bench_random_3d(bench_set *set, vtc_dtype dtype, size_t d0, size_t d1, size_t d2);

/* Weight and bias of n channels. */
vtc_norm bench_random_norm(bench_set *set, size_t n);

/* `n_keep` of 0 .. n - 1, ascending, the same in every run. */
int32_t *bench_random_rows(bench_set *set, size_t n, size_t n_keep);

/* A plan with room for `count`. */
vtc_plan bench_plan(bench_set *set, const vtc_plan_count *count);

/* Gives set->exec scratch memory. */
void bench_scratch(bench_set *set, size_t bytes);

/* Ends the program, after the message that on_error has printed, unless status is VTC_OK. */
void bench_must(vtc_status status);

void bench_parallel(const bench_set *set, size_t n_tasks,
                    void (*task)(void *job, size_t index, size_t worker), void *job);

/* ---- limits ---------------------------------------------------------------------------------- */

/* memcpy of half of `moved` bytes, read and written ones together: equal traffic to main memory. */
void bench_limit_traffic(bench_set *set, size_t moved);

/* `count` products by the OpenBLAS that the library uses. Several calls: one after another. */
void bench_limit_product(bench_set *set, size_t count, size_t m, size_t n, size_t k, bool trans_b);

/* One worker: a single memcpy or sgemm. More: a copy and a lone product are cut into as many parts,
 * many products are shared out. */
void bench_limit_run(bench_set *set);

/* "memcpy 68.2 MB", "sgemm 289x288x64 nt" */
void bench_limit_name(const bench_limit *limit, char *name, size_t size);

double bench_limit_flops(const bench_limit *limit);

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct bench_case {
    const char *name;                                    /* "family/method_shape"                */
    void (*setup)(bench_set *set, const void *argument); /* sets state, scratch and limit        */
    void (*run)(bench_set *set);                         /* one call; NULL: the limit itself     */
    const void *argument;
    bool cold;   /* the data come from main memory in real use: sets are rotated                 */
    double goal; /* the ratio to the limit that is aimed at; 0: none                             */
} bench_case;

/* Tables end with a case without name. */
extern const bench_case bench_ficoco_cases[];
extern const bench_case bench_guided_cases[];
extern const bench_case bench_machine_cases[];
extern const bench_case bench_fuse_cases[];
extern const bench_case bench_hyper_attention_cases[];
extern const bench_case bench_pool_cases[];
extern const bench_case bench_mustdrop_cases[];
extern const bench_case bench_prune_cases[];
extern const bench_case bench_plan_cases[];
extern const bench_case bench_project_cases[];
extern const bench_case bench_score_cases[];
extern const bench_case bench_qformer_cases[];
extern const bench_case bench_resample_cases[];
extern const bench_case bench_resampler_cases[];
extern const bench_case bench_shuffle_cases[];
extern const bench_case bench_vlora_cases[];
extern const bench_case bench_kernel_cases[];
extern const bench_case bench_linalg_cases[];

#endif
