/* qformers.h: random Q-Formers with their inputs, and every way to run them. */
#ifndef VTC_TESTS_QFORMERS_H
#define VTC_TESTS_QFORMERS_H

#include "weights.h"

#include <vtc/qformer.h>

enum { MAX_QFORMER_LAYERS = 5 };

typedef struct qformer_case {
    size_t n_heads, width;  /* of a head                                     */
    size_t n_layers, every; /* layers 0, every, 2 * every, ... read the image */
    size_t n_queries, n_image, n_in, n_hidden, n_out; /* nq, S, E, I, D_lm   */
    size_t n_text;
    bool takes_text;
    size_t n_batch;                    /* 0: tensors without batch */
    bool image_mask, text_mask, blind; /* blind: the last image is masked throughout */
    vtc_dtype from, mask, id, to;
    bool mixed; /* dtypes of the weights */
    size_t gap;
    float eps;
} qformer_case;

typedef struct qformer_model {
    qformer_case c;
    vtc_qformer_params params;
    vtc_qformer_weights weights;
    vtc_qformer_layer layers[MAX_QFORMER_LAYERS];
    weight_set set;
    vtc_tensor image, image_mask, ids, text_mask; /* absent: none */
} qformer_model;

/* BLIP-2 and InstructBLIP in small. */
extern const qformer_case small_blip2, small_instructblip;
qformer_case random_qformer(uint64_t *seed);

qformer_model *make_qformer(const qformer_case *c, uint64_t seed);
void free_qformer(qformer_model *m);
size_t qformer_channels(const qformer_model *m);
size_t qformer_items(const qformer_model *m);

vtc_tensor qformer_hidden(const qformer_model *m, size_t gap); /* poisoned */
vtc_tensor qformer_tokens(const qformer_model *m, size_t gap);
vtc_tensor qformer_kv(const qformer_model *m, vtc_dtype dtype, size_t gap);

/* With exactly the scratch memory that is asked for. The object: guard_free(prepared.data). */
vtc_prepared qformer_prepare(const qformer_model *m, size_t n_workers);
void qformer_run(const qformer_model *m, const vtc_prepared *prepared, vtc_tensor *hidden,
                 vtc_tensor *tokens, size_t n_workers);
void qformer_encode(const qformer_model *m, const vtc_prepared *prepared, vtc_tensor *kv,
                    size_t n_workers);
void qformer_query(const qformer_model *m, const vtc_prepared *prepared, const vtc_tensor *kv,
                   vtc_tensor *hidden, vtc_tensor *tokens, size_t n_workers);

/* Both results, by one call or by two with keys and values of a dtype between them. */
typedef struct qformer_outputs {
    vtc_tensor hidden, tokens;
} qformer_outputs;

qformer_outputs qformer_room(const qformer_model *m, size_t gap);
void free_qformer_outputs(qformer_outputs *out);
qformer_outputs qformer_once(const qformer_model *m, const vtc_prepared *prepared,
                             size_t n_workers);
qformer_outputs qformer_twice(const qformer_model *m, const vtc_prepared *prepared, vtc_dtype dtype,
                              size_t n_workers);
void assert_same_qformer_outputs(const qformer_outputs *a, const qformer_outputs *b);

/* What the reference gives for the whole batch; free() both. */
void qformer_expected(const qformer_model *m, double **hidden, double **tokens);

#endif
