/* hyper.h: random hyper layers, and sequences that run through them in pieces. */
#ifndef VTC_TESTS_HYPER_H
#define VTC_TESTS_HYPER_H

#include "weights.h"

#include <vtc/hyper_attention.h>

enum { HYPER_MAX_IMAGES = 8 };

typedef struct hyper_model {
    vtc_hyper_attention_params params;
    vtc_hyper_attention_weights weights;
    vtc_hyper_variant variant;
    size_t c, n_kv, d;
    weight_set set;
    vtc_prepared prepared; /* without data: none */
} hyper_model;

/* A sequence: its inputs, its caches, and its state as the library wants it. */
typedef struct hyper_text {
    vtc_tensor hidden; /* [n, C]    */
    vtc_tensor images; /* [N, R, C] */
    int32_t starts[HYPER_MAX_IMAGES];
    vtc_hyper_sequence sequence;
} hyper_text;

hyper_model make_hyper_model(uint64_t seed, vtc_hyper_variant variant, size_t n_heads, size_t n_kv,
                             size_t d, size_t c, bool mixed);
void prepare_hyper_model(hyper_model *m);
void free_hyper_model(hyper_model *m);
const vtc_prepared *hyper_prepared(const hyper_model *m); /* or NULL */

/* Placeholders anywhere among the tokens. Caches of a dtype, heads first or tokens first. */
hyper_text make_hyper_text(uint64_t *seed, const hyper_model *m, size_t n, size_t n_images,
                           size_t n_image_rows, vtc_dtype dtype, vtc_dtype cache,
                           bool tokens_first);
void free_hyper_text(hyper_text *t);

/* K or V of `rows` rows. */
vtc_tensor make_hyper_cache(const hyper_model *m, vtc_dtype dtype, size_t rows, bool tokens_first);

/* Images first .. first + n - 1 into the visual cache. */
void encode_hyper_images(const hyper_model *m, hyper_text *t, size_t first, size_t n,
                         size_t n_workers);

/* The next n rows of the text, from where the sequence stands. `attn` and `out` hold those of all
 * the text; either may be NULL. */
void run_hyper_rows(const hyper_model *m, hyper_text *t, size_t n, const vtc_tensor *attn,
                    const vtc_tensor *out, size_t n_workers);

vtc_tensor hyper_rows(const vtc_tensor *t, size_t first, size_t n);

/* The attention of the whole text in double; free() it. */
double *expected_hyper(const hyper_model *m, const hyper_text *t);

#endif
