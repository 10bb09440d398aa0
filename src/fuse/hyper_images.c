/*
 * Hyper Attention: keys and values of images.
 *
 *   u = v_kv_proj(RMSNorm(image)),  keys u[g, 0] rotated to the image's place in the text
 * (MI-RoPE), values u[g, 1] as they are;  u [rows, G, 2, D]
 *
 * Source: mPLUG-Owl3, section 3.2, and its code. All tokens of an image have one position.
 */
#include "../linalg/rope.h"
#include "hyper_layer.h"

#include <string.h>

struct job {
    vtci_hyper_layer layer;
    vtci_rows images; /* [N, R, C] */
    const int32_t *starts;
    size_t first_image;
    vtc_hyper_kv *visual;

    size_t n_block;   /* images at a time                */
    float *frequency; /* [D/2]                           */
    float *angle;     /* [n_block, D]                    */
    float *x;         /* [n_block R, C] normed           */
    float *u;         /* [n_block R, 2E]                 */
    size_t first;     /* image that the block begins with */
    size_t n_rows;    /* of the block                     */
};

static vtc_status open_job(const vtci_call *call, const vtc_hyper_attention_params *params,
                           const vtc_hyper_attention_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *images, const int32_t *starts, size_t first_image,
                           const vtc_hyper_kv *visual, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_hyper_open(call, params, weights, prepared, &job->layer));
    VTCI_TRY(vtci_check_tensor(call, "images", images, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_REQUIRE_PTR(call, visual);
    job->images = vtci_rows_of(images);
    job->starts = starts;
    job->first_image = first_image;

    const size_t n = job->images.n_batch, n_rows = job->images.n_rows;
    const size_t end = vtci_mul(vtci_add(first_image, n), n_rows);

    VTCI_REQUIRE(call, job->images.n_cols == job->layer.c, VTC_ERR_SHAPE,
                 "images have %zu channels, the layer %zu", job->images.n_cols, job->layer.c);
    VTCI_TRY(vtci_hyper_check_starts(call, starts, n));
    VTCI_TRY(vtci_check_gemm(call, vtci_max(n_rows, VTCI_HYPER_BLOCK_ROWS), job->layer.c, 1));
    VTCI_TRY(vtci_hyper_check_kv(call, &job->layer, "visual", visual, end, VTCI_OUT));
    VTCI_TRY(vtci_check_apart(call, "visual.k", &visual->k, "images", images));
    VTCI_TRY(vtci_check_apart(call, "visual.v", &visual->v, "images", images));
    VTCI_TRY(vtci_hyper_check_apart(call, &job->layer, prepared, "visual.k", &visual->k));
    return vtci_hyper_check_apart(call, &job->layer, prepared, "visual.v", &visual->v);
}

static void lay_out(vtci_arena *arena, struct job *job)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t most = VTCI_HYPER_BLOCK_ROWS / vtci_max(1, job->images.n_rows);

    job->n_block = vtci_min(job->images.n_batch, vtci_max(1, most));

    const size_t n_rows = vtci_mul(job->n_block, job->images.n_rows);

    job->frequency = vtci_take(arena, l->d / 2, sizeof(float));
    job->angle = vtci_take(arena, vtci_mul(job->n_block, l->d), sizeof(float));
    job->x = vtci_take(arena, vtci_mul(n_rows, l->c), sizeof(float));
    job->u = vtci_take(arena, vtci_mul(n_rows, 2 * l->n_kv * l->d), sizeof(float));
}

/* Keys and values of some rows of the block into the cache. */
static void store_rows(void *arg, size_t index, size_t worker)
{
    const struct job *job = arg;
    const vtci_hyper_layer *l = &job->layer;
    const size_t d = l->d, per_image = job->images.n_rows, width = 2 * l->n_kv * d;
    const size_t end = vtci_min(job->n_rows, (index + 1) * VTCI_HYPER_TASK_ROWS);

    (void)worker;
    for (size_t r = index * VTCI_HYPER_TASK_ROWS; r < end; r++) {
        const size_t row = (job->first_image + job->first) * per_image + r;

        for (size_t g = 0; g < l->n_kv; g++) {
            float *key = job->u + r * width + 2 * g * d;

            vtci_rope_rotate(key, 1, d, job->angle + r / per_image * d);
            vtci_hyper_store(&job->visual->k, g, row, key);
            vtci_hyper_store(&job->visual->v, g, row, key + d);
        }
    }
}

static void set_angles(const struct job *job, size_t n)
{
    const size_t d = job->layer.d;

    for (size_t i = 0; i < n; i++)
        vtci_rope_angles(job->angle + i * d, job->frequency, d,
                         vtci_hyper_image_position(&job->layer, job->starts[job->first + i]));
}

static void encode_block(struct job *job, vtci_steps *steps, size_t n)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t n_rows = n * job->images.n_rows;
    const vtci_rows x = vtci_float_rows(job->x, n_rows, l->c);
    const vtci_rows u = vtci_float_rows(job->u, n_rows, 2 * l->n_kv * l->d);
    const vtci_norm norm = { .x = vtci_batch_part(job->images, job->first, n),
                             .y = vtci_rows_split(x, job->images.n_rows),
                             .kind = VTC_NORM_RMS,
                             .norm = &l->norm,
                             .eps = l->params.eps };

    job->n_rows = n_rows;
    vtci_step_norm(steps, norm);
    vtci_step_gemm(steps, vtci_layer_product(x, &l->w->v_kv_proj, &l->visual, u));
    if (!steps->measure)
        set_angles(job, n);
    vtci_steps_tasks(steps, vtci_ceil_div(n_rows, VTCI_HYPER_TASK_ROWS), store_rows, job);
}

static void encode(void *p, vtci_steps *steps)
{
    struct job *job = p;
    const size_t n = job->images.n_rows == 0 ? 0 : job->images.n_batch;

    lay_out(&steps->arena, job);
    if (!steps->measure)
        vtci_rope_frequencies(job->frequency, job->layer.d, job->layer.params.rope_theta);
    for (job->first = 0; job->first < n; job->first += job->n_block)
        encode_block(job, steps, vtci_min(job->n_block, n - job->first));
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_hyper_attention_encode_images_scratch(
    const vtc_hyper_attention_params *params, const vtc_hyper_attention_weights *weights,
    const vtc_prepared *prepared, const vtc_tensor *images, const int32_t *media_starts,
    size_t first_image, const vtc_hyper_kv *visual, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_hyper_attention_encode_images_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, images, media_starts, first_image, visual,
                      &job));
    return vtci_steps_walk(&call, encode, &job, bytes);
}

vtc_status vtc_hyper_attention_encode_images(const vtc_hyper_attention_params *params,
                                             const vtc_hyper_attention_weights *weights,
                                             const vtc_prepared *prepared, const vtc_tensor *images,
                                             const int32_t *media_starts, size_t first_image,
                                             vtc_hyper_kv *visual, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_hyper_attention_encode_images", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, images, media_starts, first_image, visual,
                      &job));
    job.visual = visual;
    return vtci_steps_walk(&call, encode, &job, NULL);
}
