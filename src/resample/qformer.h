/* qformer.h: what the files of the Q-Former share: the checked model, its prepared object, and the
 * walk through its layers. */
#ifndef VTCI_QFORMER_H
#define VTCI_QFORMER_H

#include "../../include/vtc/qformer.h"
#include "../base/prepared.h"
#include "../linalg/steps.h"

/* ---- qformer_weights.c: the model ------------------------------------------------------------ */

typedef struct vtci_qformer {
    const vtci_call *call;
    vtc_qformer_params params;
    const vtc_qformer_weights *w;
    size_t n_queries, d; /* [nq, D]                        */
    size_t n_image_cols; /* E                              */
    size_t n_hidden;     /* the widest I                   */
    size_t n_cross;      /* layers that read the image     */
    size_t n_kv;         /* n_cross * 2 * D                */
    const char *lacks;   /* what text would need; NULL: takes text */
    size_t lacks_layer;
} vtci_qformer;

/* Reads the parameters and checks all weights. */
VTC_NODISCARD vtc_status vtci_qformer_open(const vtci_call *call, const vtc_qformer_params *params,
                                           const vtc_qformer_weights *weights, vtci_qformer *m);

bool vtci_qformer_reads_image(const vtc_qformer_layer *layer);

/* VTC_ERR_OVERLAP when the output meets a weight. */
VTC_NODISCARD vtc_status vtci_qformer_check_apart(const vtci_qformer *m, const char *name,
                                                  const vtc_tensor *out);

vtci_prepared_key vtci_qformer_key(const vtci_qformer *m);

/* ---- qformer_prepare.c: the object ----------------------------------------------------------- */

/* Pieces that a call has no need of are absent. */
typedef struct vtci_qformer_object {
    bool given;        /* there is an object                                                 */
    vtci_arena layers; /* where its layers begin                                            */
    float *queries;    /* [nq, D]  normalised                                                */
    float *qkv;        /* [nq, 3D] of the first layer, for weights that take text            */
    float *rows;       /* [nq, D]  behind the first self-attention, for those that take none */
    float *query;      /* [nq, D]  of the first layer's attention over the image, likewise   */
    vtci_packed kv;    /* [n_cross * 2 * D, E]                                               */
    float *kv_bias;
    vtci_packed projection;
} vtci_qformer_object;

typedef struct vtci_qformer_layer_object {
    vtci_packed qkv; /* [3D, D] */
    float *qkv_bias;
    vtci_packed output, cross_query, cross_output;
    vtci_packed query_up, query_down, text_up, text_down;
} vtci_qformer_layer_object;

/* Whether the object has replaced a layer's self-attention, and the query of its attention over the
 * image, by their results. */
bool vtci_qformer_is_constant(const vtci_qformer *m, size_t layer);

void vtci_qformer_lay_out(vtci_arena *arena, const vtci_qformer *m, vtci_qformer_object *object);

/* Layer after layer, from object->layers on. */
void vtci_qformer_lay_out_layer(vtci_arena *arena, const vtci_qformer *m, size_t layer,
                                vtci_qformer_layer_object *object);

/* Opens the object behind `prepared`, or none. */
VTC_NODISCARD vtc_status vtci_qformer_open_object(const vtci_qformer *m,
                                                  const vtc_prepared *prepared,
                                                  vtci_qformer_object *object);

/* ---- qformer_layers.c: the walk -------------------------------------------------------------- */

/* A batch, and the buffers of a group of its items. */
typedef struct vtci_qformer_job {
    vtci_qformer m;
    vtci_qformer_object object;
    vtci_steps *steps;
    size_t n_batch, n_image, n_text; /* B, S, L                                */
    size_t n_rows;                   /* nq + L                                 */
    size_t n_last;                   /* of them wanted behind the last layer   */
    size_t n_group;                  /* items taken together                   */

    vtci_rows image; /* [B, S, E]: keys and values are computed on the way. Absent: */
    vtci_rows kv;    /* [B, S, n_kv] are given                                      */
    const vtc_tensor *image_mask, *input_ids, *text_mask; /* or NULL */
    vtci_rows hidden, tokens;                             /* or absent */

    /* of the group that is computed */
    size_t first, n;            /* its batch items                               */
    float *x, *t, *context;     /* [n, n_rows, D]                                */
    float *qkv;                 /* [n, n_rows, 3D]                               */
    float *wide;                /* [n, max(nq, L), I]                            */
    float *own_kv;              /* [n, S, n_kv]                                  */
    uint8_t *sees, *sees_image; /* [n, n_rows], [n, S]                         */

    /* of an image that is read once (qformer_once.c) */
    bool once;
    float *folded;  /* [H * nq, E] */
    float *weights; /* [H * nq, S] */
    float *hides;   /* [S]         */
    char *panels;   /* [n] images, packed */
} vtci_qformer_job;

/* Id of token j of text b, from checked ids. */
int64_t vtci_qformer_id(const vtc_tensor *ids, size_t b, size_t j);

/* What all layers give, into hidden and tokens. `bytes` as in vtci_steps_walk(). */
VTC_NODISCARD vtc_status vtci_qformer_walk(vtci_qformer_job *job, size_t *bytes);

/* Keys and values of the image, C = [B, S, n_kv], as one product where they are packed. */
void vtci_qformer_encode(const vtci_qformer *m, const vtci_qformer_object *object,
                         vtci_steps *steps, const vtci_rows *image, const vtci_rows *kv);

/* The constants of the object, from the weights as they are. */
VTC_NODISCARD vtc_status vtci_qformer_constants(vtci_qformer_job *job, size_t *bytes,
                                                vtci_qformer_object *to);

/* ---- qformer_once.c: attention without keys and values --------------------------------------- */

/* Whether that takes fewer multiply-adds. */
bool vtci_qformer_reads_once(const vtci_qformer *m, size_t n_image);
void vtci_qformer_lay_out_once(vtci_qformer_job *job);
void vtci_qformer_pack_images(const vtci_qformer_job *job);

/* context = attention of q over the images of the group; both [n, nq, D]. */
void vtci_qformer_read_once(vtci_qformer_job *job, const vtc_qformer_attention *w,
                            const vtci_rows *q, const vtci_rows *context);

#endif
