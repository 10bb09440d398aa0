/*
 * Gemma 3's projector.
 *
 *   z = average of k x k tokens, k = P div T                 [T T, C]
 *   z = z / sqrt(mean(z^2) + eps) * (norm_offset + w)        w = mm_soft_emb_norm [C]
 *   y = z W                                                  W = mm_input_projection_weight [C, D]
 *
 * Source: transformers' Gemma3MultiModalProjector; the norm is in F32 there too, and its weight is
 * stored as w in checkpoints, as 1 + w in GGUF.
 *
 * Scratch: z of one image and the norm's weight; per worker what the product needs.
 * Cost: one product T^2 x D x C per image, which the pooling's single pass over x precedes.
 */
#include "../../include/vtc/pool.h"

#include "../base/call.h"
#include "../base/tensor.h"
#include "../kernels/kernels.h"
#include "../linalg/gemm.h"
#include "../linalg/rows.h"
#include "window.h"

#include <math.h>

struct job {
    vtc_gemma3_params params;
    vtci_pooling pooling;
    vtci_rows x, norm, y;
    vtci_rows z;         /* [T T, C] F32, of the image at hand */
    float *wide_weight;  /* [C] the norm's weight, when it is not F32 */
    const float *weight; /* [C]                                       */
    size_t image;
    vtci_gemm gemm;
};

/* ---- parameters ------------------------------------------------------------------------------ */

static vtc_status open_pooling(const vtci_call *call, size_t side, size_t tokens,
                               vtci_pooling *pooling)
{
    VTCI_REQUIRE(call, tokens != 0 && tokens <= side, VTC_ERR_RANGE,
                 "%zu tokens per side of %zu patches", tokens, side);

    const size_t kernel = side / tokens;
    const vtci_axis axis = { VTCI_SAMPLE_WINDOWS, side, tokens, kernel, kernel };

    VTCI_REQUIRE(call, side / kernel == tokens, VTC_ERR_RANGE,
                 "%zu patches per side pooled by %zu give %zu tokens per side, not %zu", side,
                 kernel, side / kernel, tokens);
    VTCI_REQUIRE(call, vtci_mul(tokens, tokens) != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "%zu tokens per side overflow", tokens);
    pooling->down = pooling->across = axis;
    pooling->max = false;
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_gemma3_params *params,
                              struct job *job)
{
    static const vtc_gemma3_params defaults = VTC_GEMMA3_PARAMS_INIT;
    const vtc_gemma3_params *p = &job->params;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_REQUIRE(call, p->eps >= 0.0f && isfinite(p->eps) && isfinite(p->norm_offset),
                 VTC_ERR_RANGE, "eps is %g, norm_offset is %g", (double)p->eps,
                 (double)p->norm_offset);
    return open_pooling(call, p->patches_per_side, p->tokens_per_side, &job->pooling);
}

vtc_status vtc_gemma3_count(const vtc_gemma3_params *params, size_t *n_tokens, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_gemma3_count", exec));
    VTCI_REQUIRE_PTR(&call, n_tokens);
    VTCI_TRY(open_params(&call, params, &job));
    *n_tokens = job.params.tokens_per_side * job.params.tokens_per_side;
    return VTC_OK;
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status check_weights(const vtci_call *call, const vtc_gemma3_weights *weights,
                                const vtc_tensor *y, size_t n_in, size_t n_out)
{
    const vtc_tensor *norm = &weights->mm_soft_emb_norm;
    const vtc_tensor *projection = &weights->mm_input_projection_weight;

    VTCI_TRY(vtci_check_tensor(call, "mm_soft_emb_norm", norm, VTCI_FLOATS, 1, 1, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "mm_input_projection_weight", projection, VTCI_FLOATS, 2, 2,
                               VTCI_IN));
    VTCI_REQUIRE(call, norm->dim[0] == n_in, VTC_ERR_SHAPE,
                 "mm_soft_emb_norm has %zu channels, x has %zu", norm->dim[0], n_in);
    VTCI_REQUIRE(call, projection->dim[0] == n_in && projection->dim[1] == n_out, VTC_ERR_SHAPE,
                 "mm_input_projection_weight is %zux%zu, x and y need %zux%zu", projection->dim[0],
                 projection->dim[1], n_in, n_out);
    VTCI_TRY(vtci_check_apart(call, "y", y, "mm_soft_emb_norm", norm));
    return vtci_check_apart(call, "y", y, "mm_input_projection_weight", projection);
}

static vtc_status open_job(const vtci_call *call, const vtc_gemma3_params *params,
                           const vtc_gemma3_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    VTCI_TRY(open_params(call, params, job));
    VTCI_REQUIRE_PTR(call, weights);
    const size_t side = job->params.patches_per_side, tokens = job->params.tokens_per_side;

    VTCI_TRY(vtci_check_grids(call, x, side, side, y, tokens, tokens));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_TRY(check_weights(call, weights, y, job->x.n_cols, job->y.n_cols));
    job->norm = vtci_rows_of(&weights->mm_soft_emb_norm);
    job->gemm = (vtci_gemm){ .b = vtci_rows_of(&weights->mm_input_projection_weight) };
    return vtci_check_gemm(call, tokens * tokens, job->y.n_cols, job->x.n_cols);
}

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    const size_t n = job->y.n_rows, c = job->x.n_cols;
    const vtci_rows z = { vtci_take(arena, vtci_mul(n, c), sizeof(float)),
                          VTC_F32,
                          1,
                          n,
                          c,
                          0,
                          vtci_mul(c, sizeof(float)) };

    job->z = z;
    job->wide_weight = vtci_take(arena, c, sizeof(float));
    job->gemm.a = z;
    job->gemm.c = job->y;
    job->gemm.c.n_batch = 1;
    vtci_gemm_lay_out(arena, call, &job->gemm);
}

static void pool_and_normalize(void *p, size_t i, size_t worker)
{
    const struct job *job = p;
    const size_t side = job->params.patches_per_side, tokens = job->params.tokens_per_side;
    const vtci_grid grid = vtci_grid_of(&job->x, job->image, side, side);

    (void)worker;
    vtci_pool_row(&grid, &job->pooling, i, &job->z, 0, i * tokens, NULL);
    for (size_t j = 0; j < tokens; j++) {
        float *z = (float *)(void *)vtci_row(&job->z, 0, i * tokens + j);

        vtci_kernels_get()->rms_norm(z, z, job->weight, job->params.norm_offset, job->params.eps,
                                     job->z.n_cols);
    }
}

static void run(const vtci_call *call, struct job *job)
{
    job->weight =
        vtci_load_row(job->norm.data, job->norm.dtype, job->norm.n_cols, job->wide_weight);
    for (job->image = 0; job->image < job->x.n_batch; job->image++) {
        vtci_parallel(call, job->params.tokens_per_side, pool_and_normalize, job);
        job->gemm.c.data = vtci_row(&job->y, job->image, 0);
        vtci_gemm_run(call, &job->gemm);
    }
}

vtc_status vtc_gemma3_project_scratch(const vtc_gemma3_params *params,
                                      const vtc_gemma3_weights *weights, const vtc_tensor *x,
                                      const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_gemma3_project_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_gemma3_project(const vtc_gemma3_params *params, const vtc_gemma3_weights *weights,
                              const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    vtci_arena arena;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_gemma3_project", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &call, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    if (vtci_count(y) != 0)
        run(&call, &job);
    return VTC_OK;
}
