/*
 * The Q-Former's attention over an image that is read once.
 *
 *   logits    q k^T = (q_h Wk_h) image^T                   of each head h
 *   context   p v   = (p_h image) Wv_h^T + bv              the weights of a row have sum 1
 *
 * With n_heads * nq rows, fewer than D, this takes 2 H nq S E + 2 nq D E multiply-adds in place of
 * 2 S E D + 2 nq S D for the keys and values: 0.6 of them for BLIP-2. The bias of the keys adds the
 * same to all logits of a row and is left out. A product of all heads shares the packed image.
 */
#include "../kernels/kernels.h"
#include "../linalg/operands.h"
#include "qformer.h"

#include <math.h>
#include <string.h>

enum { TASK_ROWS = 16 };

bool vtci_qformer_reads_once(const vtci_qformer *m, size_t n_image)
{
    const double h = (double)m->params.n_heads, nq = (double)m->n_queries, d = (double)m->d;
    const double s = (double)n_image, e = (double)m->n_image_cols;

    return h * nq * s * e + nq * d * e < s * e * d + nq * s * d;
}

static size_t panel_bytes(const vtci_qformer_job *job)
{
    return vtci_packed_bytes(job->image.dtype, job->n_image, job->m.n_image_cols);
}

void vtci_qformer_lay_out_once(vtci_qformer_job *job)
{
    const size_t n_rows = vtci_mul(job->m.params.n_heads, job->m.n_queries);
    vtci_arena *arena = &job->steps->arena;

    job->folded = vtci_take(arena, vtci_mul(n_rows, job->m.n_image_cols), sizeof(float));
    job->weights = vtci_take(arena, vtci_mul(n_rows, job->n_image), sizeof(float));
    job->hides = vtci_take(arena, job->n_image, sizeof(float));
    job->panels = vtci_take(arena, vtci_mul(job->n_group, panel_bytes(job)), 1);
}

/* ---- the image ------------------------------------------------------------------------------- */

/* The image of item i of the group, packed. */
static vtci_packed packed_image(const vtci_qformer_job *job, size_t i)
{
    vtci_packed packed = { job->panels, job->image.dtype, job->n_image, job->m.n_image_cols };

    if (packed.panels != NULL)
        packed.panels += i * panel_bytes(job);
    return packed;
}

static vtci_rows image_of(const vtci_qformer_job *job, size_t i)
{
    return vtci_batch_part(job->image, job->first + i, 1);
}

void vtci_qformer_pack_images(const vtci_qformer_job *job)
{
    for (size_t i = 0; !job->steps->measure && i < job->n; i++) {
        const vtci_rows rows = image_of(job, i);
        const vtci_packed packed = packed_image(job, i);
        vtc_tensor image = vtc_tensor_2d(rows.data, rows.dtype, rows.n_rows, rows.n_cols);

        image.stride[0] = rows.row_stride / vtc_dtype_size(rows.dtype);
        vtci_packed_fill(job->m.call, &packed, &image);
    }
}

/* ---- views ----------------------------------------------------------------------------------- */

/* [H, n_rows, n_cols]: heads below one another. */
static vtci_rows stacked(const vtci_qformer_job *job, float *floats, size_t n_cols)
{
    vtci_rows rows = vtci_float_rows(floats, job->m.n_queries, n_cols);

    rows.n_batch = job->m.params.n_heads;
    return rows;
}

/* The same rows as one matrix. */
static vtci_rows all_of(vtci_rows rows)
{
    rows.n_rows *= rows.n_batch;
    rows.n_batch = 1;
    return rows;
}

/* [H, D / H, E]: a weight's rows head by head. */
static vtci_rows by_head(const vtci_qformer_job *job, const vtc_tensor *weight)
{
    return vtci_rows_split(vtci_rows_of(weight), job->m.d / job->m.params.n_heads);
}

/* ---- weights of the image's tokens ----------------------------------------------------------- */

struct weighing {
    const vtci_qformer_job *job;
    float scale;
    bool blind;
};

/* An image with every token hidden counts as one with none hidden and equal logits. */
static void weigh_rows(void *p, size_t index, size_t worker)
{
    const struct weighing *w = p;
    const vtci_qformer_job *job = w->job;
    const size_t n = job->n_image, n_rows = job->m.params.n_heads * job->m.n_queries;

    (void)worker;
    for (size_t r = index * TASK_ROWS; r < vtci_min(n_rows, (index + 1) * TASK_ROWS); r++) {
        float *row = job->weights + r * n;

        for (size_t j = 0; w->blind && j < n; j++)
            row[j] = 1.0f / (float)n;
        if (!w->blind)
            vtci_kernels_get()->softmax(row, row, job->image_mask == NULL ? NULL : job->hides,
                                        w->scale, n);
    }
}

static void weigh(const vtci_qformer_job *job, size_t i)
{
    const size_t n = job->n_image, n_rows = job->m.params.n_heads * job->m.n_queries;
    struct weighing w = { job, 1.0f / sqrtf((float)(job->m.d / job->m.params.n_heads)), false };

    if (job->steps->measure)
        return;
    if (job->image_mask != NULL) {
        w.blind = memchr(job->sees_image + i * n, 1, n) == NULL;
        for (size_t j = 0; j < n; j++)
            job->hides[j] = job->sees_image[i * n + j] != 0 ? 0.0f : -INFINITY;
    }
    vtci_parallel(job->m.call, vtci_ceil_div(n_rows, TASK_ROWS), weigh_rows, &w);
}

/* ---- one item -------------------------------------------------------------------------------- */

/* q and context [nq, D] of item i of the group. */
static void read_image(vtci_qformer_job *job, const vtc_qformer_attention *w, size_t i, vtci_rows q,
                       vtci_rows context)
{
    const size_t n_heads = job->m.params.n_heads;
    const vtci_rows folded = stacked(job, job->folded, job->m.n_image_cols);
    const vtci_rows weights = stacked(job, job->weights, job->n_image);
    const vtci_packed image = packed_image(job, i);
    vtci_gemm fold = { .a = vtci_heads_as_batch(q, n_heads),
                       .b = by_head(job, &w->key.weight),
                       .c = folded };
    vtci_gemm logits = { .a = all_of(folded), .c = all_of(weights), .trans_b = true };
    vtci_gemm mix = { .a = all_of(weights), .b = image_of(job, i), .c = all_of(folded) };
    vtci_gemm unfold = { .a = folded, .b = by_head(job, &w->value.weight), .trans_b = true };

    logits.packed = &image;
    unfold.c = vtci_heads_as_batch(context, n_heads);
    if (!vtc_tensor_is_absent(&w->value.bias)) {
        vtci_rows bias = vtci_rows_of(&w->value.bias);

        bias.n_rows = job->m.n_queries; /* the same row for all */
        bias.row_stride = 0;
        unfold.residual = vtci_heads_as_batch(bias, n_heads);
    }
    vtci_steps_gemm(job->steps, &fold);
    vtci_steps_gemm(job->steps, &logits);
    weigh(job, i);
    vtci_steps_gemm(job->steps, &mix);
    vtci_steps_gemm(job->steps, &unfold);
}

void vtci_qformer_read_once(vtci_qformer_job *job, const vtc_qformer_attention *w,
                            const vtci_rows *q, const vtci_rows *context)
{
    for (size_t i = 0; i < job->n; i++)
        read_image(job, w, i, vtci_batch_part(*q, i, 1), vtci_batch_part(*context, i, 1));
}
