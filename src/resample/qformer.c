/*
 * The Q-Former's calls: views and their checks.
 *
 * Sources: see vtc/qformer.h. Cost: vtc_qformer_cost(). Text may be given to weights that take it
 * or be left out; the queries never have a position.
 */
#include "qformer.h"

#include <string.h>

/* Rows of a group: as many as packed products take at once. */
enum { GROUP_ROWS = 64 };

/* The arguments of a call. */
struct views {
    const vtc_tensor *image, *image_kv; /* one of them */
    const vtc_tensor *image_mask, *input_ids, *text_mask;
    const vtc_tensor *hidden, *tokens;
};

/* ---- inputs ---------------------------------------------------------------------------------- */

/* A view of the batch: rank 3 or, without batch, 2; one less where there are no channels. */
static vtc_status check_batch(const vtci_call *call, const char *name, const vtc_tensor *t,
                              int n_inner, const vtc_tensor *image)
{
    VTCI_REQUIRE(call, t->rank - n_inner == image->rank - 2, VTC_ERR_SHAPE,
                 "%s has rank %d, the image has rank %d", name, t->rank, image->rank);
    VTCI_REQUIRE(call, t->rank == n_inner || t->dim[0] == image->dim[0], VTC_ERR_SHAPE,
                 "%s has %zu batch items, the image has %zu", name, t->dim[0], image->dim[0]);
    return VTC_OK;
}

static vtc_status check_image(vtci_qformer_job *job, const struct views *v)
{
    const bool encodes = v->image != NULL;
    const vtc_tensor *image = encodes ? v->image : v->image_kv;
    const char *name = encodes ? "image" : "image_kv";
    const size_t n_cols = encodes ? job->m.n_image_cols : job->m.n_kv;
    vtci_rows rows;

    VTCI_TRY(vtci_check_tensor(job->m.call, name, image, VTCI_FLOATS, 2, 3, VTCI_IN));
    rows = vtci_rows_of(image);
    VTCI_REQUIRE(job->m.call, rows.n_cols == n_cols, VTC_ERR_SHAPE,
                 "%s has %zu channels, the weights take %zu", name, rows.n_cols, n_cols);
    job->n_batch = rows.n_batch;
    job->n_image = rows.n_rows;
    if (encodes)
        job->image = rows;
    else
        job->kv = rows;
    return vtci_check_gemm(job->m.call, rows.n_rows, 1, 1);
}

/* Masks and ids: [B, n] of dtypes without channels. */
static vtc_status check_marks(const vtci_call *call, const char *name, const vtc_tensor *t,
                              unsigned dtypes, const vtc_tensor *image, size_t n)
{
    VTCI_TRY(vtci_check_tensor(call, name, t, dtypes, 1, 2, VTCI_IN));
    VTCI_TRY(check_batch(call, name, t, 1, image));
    VTCI_REQUIRE(call, t->dim[t->rank - 1] == n, VTC_ERR_SHAPE, "%s has %zu tokens, there are %zu",
                 name, t->dim[t->rank - 1], n);
    return VTC_OK;
}

int64_t vtci_qformer_id(const vtc_tensor *ids, size_t b, size_t j)
{
    const vtci_rows rows = vtci_rows_of(ids);
    const char *id = vtci_row(&rows, 0, b) + j * vtc_dtype_size(ids->dtype);

    return ids->dtype == VTC_I64 ? *(const int64_t *)(const void *)id
                                 : *(const int32_t *)(const void *)id;
}

static vtc_status check_ids(const vtci_qformer_job *job, const vtc_tensor *ids)
{
    const size_t n_words = job->m.w->word_embeddings.dim[0];

    for (size_t b = 0; !job->m.call->query && b < job->n_batch; b++)
        for (size_t j = 0; j < job->n_text; j++) {
            const int64_t id = vtci_qformer_id(ids, b, j);

            VTCI_REQUIRE(
                job->m.call, id >= 0 && (uint64_t)id < n_words, VTC_ERR_RANGE,
                "input_ids has %lld at token %zu of text %zu, word_embeddings has %zu rows",
                (long long)id, j, b, n_words);
        }
    return VTC_OK;
}

static vtc_status check_text(vtci_qformer_job *job, const struct views *v, const vtc_tensor *image)
{
    const vtci_call *call = job->m.call;
    const vtc_tensor *ids = v->input_ids;
    const unsigned masks = VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8) | VTCI_INTS;

    if (ids == NULL) {
        VTCI_REQUIRE(call, v->text_mask == NULL, VTC_ERR_NULL, "text_mask without input_ids");
        return VTC_OK;
    }
    VTCI_TRY(vtci_check_tensor(call, "input_ids", ids, VTCI_INTS, 1, 2, VTCI_IN));
    job->n_text = ids->dim[ids->rank - 1];
    VTCI_TRY(check_marks(call, "input_ids", ids, VTCI_INTS, image, job->n_text));
    if (v->text_mask != NULL)
        VTCI_TRY(check_marks(call, "text_mask", v->text_mask, masks, image, job->n_text));
    if (job->n_text == 0)
        return VTC_OK;
    VTCI_REQUIRE(call, job->m.lacks == NULL, VTC_ERR_UNSUPPORTED,
                 "these weights take no text: %s is absent (layer %zu)", job->m.lacks,
                 job->m.lacks_layer);
    VTCI_REQUIRE(call, job->n_text <= job->m.w->position_embeddings.dim[0], VTC_ERR_SHAPE,
                 "the text has %zu tokens, position_embeddings has %zu rows", job->n_text,
                 job->m.w->position_embeddings.dim[0]);
    return check_ids(job, ids);
}

static vtc_status check_inputs(vtci_qformer_job *job, const struct views *v)
{
    const vtc_tensor *image = v->image != NULL ? v->image : v->image_kv;
    const unsigned masks = VTCI_BIT(VTC_BOOL) | VTCI_BIT(VTC_U8) | VTCI_INTS;

    VTCI_TRY(check_image(job, v));
    if (v->image_mask != NULL)
        VTCI_TRY(check_marks(job->m.call, "image_mask", v->image_mask, masks, image, job->n_image));
    VTCI_TRY(check_text(job, v, image));
    job->image_mask = v->image_mask;
    job->input_ids = v->input_ids;
    job->text_mask = job->n_text == 0 ? NULL : v->text_mask;
    job->n_rows = vtci_add(job->m.n_queries, job->n_text);
    return vtci_check_gemm(job->m.call, job->n_rows, 1, 1);
}

/* ---- outputs --------------------------------------------------------------------------------- */

static vtc_status check_apart(const vtci_call *call, const char *name, const vtc_tensor *out,
                              const struct views *v, const vtc_prepared *prepared)
{
    const struct {
        const char *name;
        const vtc_tensor *t;
    } inputs[] = { { "image", v->image },
                   { "image_kv", v->image_kv },
                   { "image_mask", v->image_mask },
                   { "input_ids", v->input_ids },
                   { "text_mask", v->text_mask } };

    for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
        if (inputs[i].t != NULL)
            VTCI_TRY(vtci_check_apart(call, name, out, inputs[i].name, inputs[i].t));
    VTCI_TRY(vtci_prepared_check_apart(call, name, out, prepared));
    return VTC_OK;
}

static vtc_status check_output(const vtci_qformer_job *job, const char *name, const vtc_tensor *out,
                               const struct views *v, const vtc_prepared *prepared)
{
    const vtc_tensor *image = v->image != NULL ? v->image : v->image_kv;

    VTCI_TRY(vtci_check_tensor(job->m.call, name, out, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_TRY(check_batch(job->m.call, name, out, 2, image));
    VTCI_TRY(check_apart(job->m.call, name, out, v, prepared));
    return vtci_qformer_check_apart(&job->m, name, out);
}

static vtc_status check_hidden(vtci_qformer_job *job, const struct views *v,
                               const vtc_prepared *prepared)
{
    const vtci_call *call = job->m.call;

    job->n_last = job->m.n_queries;
    if (v->hidden == NULL)
        return VTC_OK;
    VTCI_TRY(check_output(job, "hidden", v->hidden, v, prepared));
    job->hidden = vtci_rows_of(v->hidden);
    VTCI_REQUIRE(call, job->hidden.n_cols == job->m.d, VTC_ERR_SHAPE,
                 "hidden has %zu channels, query_tokens have %zu", job->hidden.n_cols, job->m.d);
    VTCI_REQUIRE(call, job->hidden.n_rows == job->n_rows || job->hidden.n_rows == job->m.n_queries,
                 VTC_ERR_SHAPE, "hidden has %zu rows, there are %zu queries and %zu tokens of text",
                 job->hidden.n_rows, job->m.n_queries, job->n_text);
    job->n_last = job->hidden.n_rows;
    return VTC_OK;
}

static vtc_status check_tokens(vtci_qformer_job *job, const struct views *v,
                               const vtc_prepared *prepared)
{
    const vtci_call *call = job->m.call;
    const vtc_tensor *projection = &job->m.w->projection.weight;

    if (v->tokens == NULL)
        return VTC_OK;
    VTCI_REQUIRE(call, !vtc_tensor_is_absent(projection), VTC_ERR_NULL,
                 "tokens are asked for, but the projection is absent");
    VTCI_TRY(check_output(job, "tokens", v->tokens, v, prepared));
    job->tokens = vtci_rows_of(v->tokens);
    VTCI_REQUIRE(call,
                 job->tokens.n_rows == job->m.n_queries && job->tokens.n_cols == projection->dim[0],
                 VTC_ERR_SHAPE, "tokens is %zux%zu, %zux%zu is needed", job->tokens.n_rows,
                 job->tokens.n_cols, job->m.n_queries, projection->dim[0]);
    if (v->hidden != NULL)
        return vtci_check_apart(call, "tokens", v->tokens, "hidden", v->hidden);
    return VTC_OK;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static vtc_status run(const vtci_call *call, const vtc_qformer_params *params,
                      const vtc_qformer_weights *weights, const vtc_prepared *prepared,
                      const struct views *v, size_t *bytes)
{
    vtci_qformer_job job;

    memset(&job, 0, sizeof(job));
    VTCI_TRY(vtci_qformer_open(call, params, weights, &job.m));
    VTCI_TRY(vtci_qformer_open_object(&job.m, prepared, &job.object));
    VTCI_TRY(check_inputs(&job, v));
    VTCI_REQUIRE(call, v->hidden != NULL || v->tokens != NULL, VTC_ERR_NULL,
                 "hidden and tokens are both NULL");
    VTCI_TRY(check_hidden(&job, v, prepared));
    VTCI_TRY(check_tokens(&job, v, prepared));
    job.n_group = vtci_min(job.n_batch, vtci_max(1, GROUP_ROWS / job.n_rows));
    job.once = job.object.given && v->image != NULL && vtci_qformer_reads_once(&job.m, job.n_image);
    return vtci_qformer_walk(&job, bytes);
}

vtc_status vtc_qformer_scratch(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                               const vtc_prepared *prepared, const vtc_tensor *image,
                               const vtc_tensor *image_mask, const vtc_tensor *input_ids,
                               const vtc_tensor *text_mask, const vtc_tensor *hidden,
                               const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes)
{
    const struct views v = { image, NULL, image_mask, input_ids, text_mask, hidden, tokens };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_scratch", exec, bytes));
    VTCI_REQUIRE_PTR(&call, image);
    return run(&call, params, weights, prepared, &v, bytes);
}

vtc_status vtc_qformer(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                       const vtc_prepared *prepared, const vtc_tensor *image,
                       const vtc_tensor *image_mask, const vtc_tensor *input_ids,
                       const vtc_tensor *text_mask, vtc_tensor *hidden, vtc_tensor *tokens,
                       const vtc_exec *exec)
{
    const struct views v = { image, NULL, image_mask, input_ids, text_mask, hidden, tokens };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_qformer", exec));
    VTCI_REQUIRE_PTR(&call, image);
    return run(&call, params, weights, prepared, &v, NULL);
}

vtc_status vtc_qformer_query_scratch(const vtc_qformer_params *params,
                                     const vtc_qformer_weights *weights,
                                     const vtc_prepared *prepared, const vtc_tensor *image_kv,
                                     const vtc_tensor *image_mask, const vtc_tensor *input_ids,
                                     const vtc_tensor *text_mask, const vtc_tensor *hidden,
                                     const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes)
{
    const struct views v = { NULL, image_kv, image_mask, input_ids, text_mask, hidden, tokens };
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_query_scratch", exec, bytes));
    VTCI_REQUIRE_PTR(&call, image_kv);
    return run(&call, params, weights, prepared, &v, bytes);
}

vtc_status vtc_qformer_query(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                             const vtc_prepared *prepared, const vtc_tensor *image_kv,
                             const vtc_tensor *image_mask, const vtc_tensor *input_ids,
                             const vtc_tensor *text_mask, vtc_tensor *hidden, vtc_tensor *tokens,
                             const vtc_exec *exec)
{
    const struct views v = { NULL, image_kv, image_mask, input_ids, text_mask, hidden, tokens };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_qformer_query", exec));
    VTCI_REQUIRE_PTR(&call, image_kv);
    return run(&call, params, weights, prepared, &v, NULL);
}

/* ---- the image alone ------------------------------------------------------------------------- */

struct encoding {
    vtci_qformer_job job;
    vtci_rows kv;
};

static void walk(void *p, vtci_steps *steps)
{
    const struct encoding *e = p;

    vtci_qformer_encode(&e->job.m, &e->job.object, steps, &e->job.image, &e->kv);
}

static vtc_status encode(const vtci_call *call, const vtc_qformer_params *params,
                         const vtc_qformer_weights *weights, const vtc_prepared *prepared,
                         const vtc_tensor *image, const vtc_tensor *image_kv, size_t *bytes)
{
    const struct views v = { .image = image };
    struct encoding e;

    memset(&e, 0, sizeof(e));
    VTCI_TRY(vtci_qformer_open(call, params, weights, &e.job.m));
    VTCI_TRY(vtci_qformer_open_object(&e.job.m, prepared, &e.job.object));
    VTCI_TRY(check_image(&e.job, &v));
    VTCI_TRY(check_output(&e.job, "image_kv", image_kv, &v, prepared));
    e.kv = vtci_rows_of(image_kv);
    VTCI_REQUIRE(call, e.kv.n_rows == e.job.n_image && e.kv.n_cols == e.job.m.n_kv, VTC_ERR_SHAPE,
                 "image_kv is %zux%zu, %zux%zu is needed", e.kv.n_rows, e.kv.n_cols, e.job.n_image,
                 e.job.m.n_kv);
    return vtci_steps_walk(call, walk, &e, bytes);
}

vtc_status vtc_qformer_encode_image_scratch(const vtc_qformer_params *params,
                                            const vtc_qformer_weights *weights,
                                            const vtc_prepared *prepared, const vtc_tensor *image,
                                            const vtc_tensor *image_kv, const vtc_exec *exec,
                                            size_t *bytes)
{
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_qformer_encode_image_scratch", exec, bytes));
    VTCI_REQUIRE_PTR(&call, image);
    return encode(&call, params, weights, prepared, image, image_kv, bytes);
}

vtc_status vtc_qformer_encode_image(const vtc_qformer_params *params,
                                    const vtc_qformer_weights *weights,
                                    const vtc_prepared *prepared, const vtc_tensor *image,
                                    vtc_tensor *image_kv, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_qformer_encode_image", exec));
    VTCI_REQUIRE_PTR(&call, image);
    return encode(&call, params, weights, prepared, image, image_kv, NULL);
}
