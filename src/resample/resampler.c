/*
 * The resamplers of Qwen-VL and MiniCPM-V.
 *
 *   v = LN(kv_proj x)      k = v + P_k      q = LN(query) + P_q
 *   a = softmax(Q_h K_h^T / sqrt(d)) V_h    for each head, over all patches of an image or group
 *   tokens = LN(Wo a + bo) proj
 *
 * The keys' bias adds the same to all scores of a query and is left out; the values' bias passes
 * through the softmax and is added to what the queries gather. Cheaper order, exact as well:
 *
 *   Q_h K_h^T = (Q_h Wk_h) k^T             the first factor does not depend on the image
 *   softmax(.) V_h = (softmax(.) v) Wv_h^T
 *
 * so heads attend to k and v themselves, which all of them share. Sources: vtc/resampler.h.
 */
#include "resampler.h"

#include "../kernels/kernels.h"
#include "../linalg/operands.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

/* Rows that the last two products take at a time: those of a few images. */
enum { TAIL_ROWS = 512 };

struct job {
    vtci_resampler m;
    vtci_resampler_object object;
    vtc_resampler_images images;
    vtci_steps *steps;
    vtci_rows x, y;
    size_t n_groups, n_keys; /* n_keys: patches of the largest group      */
    size_t side;             /* the longest side of a grid                */
    size_t n_tail;           /* groups whose last products are one        */

    vtci_resampler_queries b;
    float *queries;   /* vtci_resampler_query_floats()                             */
    float *values;    /* [n_keys, D] v                                             */
    float *keys;      /* [n_keys, D] v + P                                         */
    float *table;     /* positions                                                 */
    float *projected; /* [2, n_keys, D] K and V, in the direct order               */
    float *gathered;  /* [H, M, D] softmax(.) v, in the cheaper order              */
    float *mix;       /* [n_tail, M, D]                                            */
    float *out;       /* [n_tail, M, D]                                            */
    float *v_bias;    /* [D]                                                       */
};

/* ---- images ---------------------------------------------------------------------------------- */

struct grid {
    size_t rows, cols;
};

static struct grid grid_of(const struct job *job, size_t b)
{
    const int32_t *grids = job->images.grids;
    bool exact;

    if (grids == NULL) {
        const size_t side = vtci_square_side(job->x.n_rows, &exact);

        return (struct grid){ side, side };
    }
    return (struct grid){ (size_t)grids[2 * b], (size_t)grids[2 * b + 1] };
}

static size_t group_size(const struct job *job, size_t g)
{
    return job->images.group_sizes == NULL ? 1 : (size_t)job->images.group_sizes[g];
}

static int32_t frame_of(const struct job *job, size_t b)
{
    return job->images.frame_ids == NULL ? -1 : job->images.frame_ids[b];
}

static vtc_status check_square(const struct job *job)
{
    const size_t n = job->x.n_rows;
    bool exact;

    vtci_square_side(n, &exact);
    VTCI_REQUIRE(job->m.call, exact && (n != 0 || job->x.n_batch == 0), VTC_ERR_SHAPE,
                 "x has %zu patches, no square; give the grids", n);
    return VTC_OK;
}

static vtc_status check_grids(struct job *job)
{
    const vtci_call *call = job->m.call;
    const int32_t *grids = job->images.grids;

    if (grids == NULL)
        VTCI_TRY(check_square(job));
    for (size_t b = 0; b < job->x.n_batch; b++) {
        const struct grid grid = grid_of(job, b);

        VTCI_REQUIRE(call, grids == NULL || (grids[2 * b] >= 1 && grids[2 * b + 1] >= 1),
                     VTC_ERR_RANGE, "image %zu has a grid of %dx%d", b, (int)grids[2 * b],
                     (int)grids[2 * b + 1]);
        VTCI_REQUIRE(call, vtci_mul(grid.rows, grid.cols) <= job->x.n_rows, VTC_ERR_SHAPE,
                     "image %zu has a grid of %zux%zu, x has %zu patches", b, grid.rows, grid.cols,
                     job->x.n_rows);
        VTCI_REQUIRE(call, job->m.params.variant != VTC_RESAMPLER_QWEN_VL || grid.rows == grid.cols,
                     VTC_ERR_SHAPE, "image %zu has a grid of %zux%zu, Qwen-VL reads squares", b,
                     grid.rows, grid.cols);
        job->side = vtci_max(job->side, vtci_max(grid.rows, grid.cols));
    }
    return VTC_OK;
}

static vtc_status check_frames(const struct job *job)
{
    const int32_t *ids = job->images.frame_ids;

    VTCI_REQUIRE(job->m.call, ids == NULL || job->m.params.variant == VTC_RESAMPLER_MINICPMV,
                 VTC_ERR_UNSUPPORTED, "only MiniCPM-V from 2.5 on knows frames");
    for (size_t b = 0; ids != NULL && b < job->x.n_batch; b++)
        VTCI_REQUIRE(job->m.call, ids[b] >= -1, VTC_ERR_RANGE, "frame id %zu is %d", b,
                     (int)ids[b]);
    return VTC_OK;
}

/* What is known of the images is read while tokens are written. */
static vtc_status check_images_apart(const struct job *job, const vtc_tensor *tokens)
{
    const vtc_resampler_images *images = &job->images;
    const struct {
        const char *name;
        const int32_t *data;
        size_t n;
    } arrays[] = { { "grids", images->grids, vtci_mul(2, job->x.n_batch) },
                   { "frame_ids", images->frame_ids, job->x.n_batch },
                   { "group_sizes", images->group_sizes, job->n_groups } };

    for (size_t i = 0; i < 3 && !job->m.call->query; i++)
        VTCI_REQUIRE(job->m.call,
                     arrays[i].data == NULL ||
                         !vtci_ranges_meet(tokens->data, vtci_span_bytes(tokens), arrays[i].data,
                                           vtci_mul(arrays[i].n, sizeof(int32_t))),
                     VTC_ERR_OVERLAP, "tokens overlaps %s", arrays[i].name);
    return VTC_OK;
}

/* Sets the number of groups and the keys of the largest. */
static vtc_status check_groups(struct job *job)
{
    const vtci_call *call = job->m.call;
    const vtc_resampler_images *images = &job->images;
    size_t b = 0;

    VTCI_REQUIRE(call, images->group_sizes != NULL || images->n_groups == 0, VTC_ERR_NULL,
                 "group_sizes is NULL, n_groups is %zu", images->n_groups);
    job->n_groups = images->group_sizes == NULL ? job->x.n_batch : images->n_groups;
    for (size_t g = 0; g < job->n_groups; g++) {
        size_t n = 0, end;

        VTCI_REQUIRE(call, images->group_sizes == NULL || images->group_sizes[g] >= 1,
                     VTC_ERR_RANGE, "group %zu has %d images", g, (int)images->group_sizes[g]);
        end = vtci_add(b, group_size(job, g));
        VTCI_REQUIRE(call, end <= job->x.n_batch, VTC_ERR_SHAPE,
                     "groups hold more than the %zu images of x", job->x.n_batch);
        for (; b < end; b++)
            n = vtci_add(n, vtci_mul(grid_of(job, b).rows, grid_of(job, b).cols));
        job->n_keys = vtci_max(job->n_keys, n);
    }
    VTCI_REQUIRE(call, b == job->x.n_batch, VTC_ERR_SHAPE, "groups hold %zu images, x has %zu", b,
                 job->x.n_batch);
    return VTC_OK;
}

/* ---- scratch --------------------------------------------------------------------------------- */

static void lay_out(vtci_arena *arena, struct job *job)
{
    const vtci_resampler *m = &job->m;
    const size_t n = job->n_keys, d = m->d, rows = vtci_mul(job->n_tail, m->n_queries);

    job->queries = job->object.queries;
    if (!job->object.given) {
        vtci_resampler_lay_out_queries(arena, m, &job->b);
        job->queries = vtci_take_matrix(arena, vtci_resampler_query_floats(m), 1);
    }
    job->values = vtci_take_matrix(arena, n, d);
    job->keys = vtci_take_matrix(arena, n, d);
    job->table = vtci_take_matrix(arena, vtci_resampler_table_floats(m, job->side), 1);
    job->projected = m->cheap ? NULL : vtci_take_matrix(arena, vtci_mul(2, n), d);
    job->gathered =
        m->cheap ? vtci_take_matrix(arena, vtci_mul(m->n_heads, m->n_queries), d) : NULL;
    job->mix = vtci_take_matrix(arena, rows, d);
    job->out = vtci_take_matrix(arena, rows, d);
    job->v_bias = vtci_take_matrix(arena, 1, d);
}

/* ---- one group ------------------------------------------------------------------------------- */

/* v and k of one image, from row `first` of the group's on. */
static void read_image(struct job *job, size_t b, size_t first)
{
    const vtci_resampler *m = &job->m;
    const struct grid grid = grid_of(job, b);
    const size_t n = grid.rows * grid.cols;
    const vtci_rows x = vtci_rows_part(vtci_batch_part(job->x, b, 1), 0, n); /* no padding */
    const vtci_rows v = vtci_float_rows(vtci_skip(job->values, first * m->d), n, m->d);
    const bool projects = !vtc_tensor_is_absent(&m->w.kv_proj.weight);
    vtci_norm norm = { .x = projects ? v : x, .y = v, .kind = VTC_NORM_LAYER };
    const vtci_resampler_positions positions = { .m = m,
                                                 .n_rows = grid.rows,
                                                 .n_cols = grid.cols,
                                                 .frame = frame_of(job, b),
                                                 .table = job->table,
                                                 .x = (const float *)(const void *)v.data,
                                                 .y = vtci_skip(job->keys, first * m->d) };

    if (projects)
        vtci_steps_layer(job->steps, x, &m->w.kv_proj, NULL, v);
    norm.norm = &m->w.ln_kv;
    norm.eps = m->params.eps;
    vtci_steps_norm(job->steps, &norm);
    if (!job->steps->measure)
        vtci_resampler_add_positions(&positions);
}

/* Every head reads its part of projected keys and values. */
static void attend_directly(struct job *job, size_t n, float *mix)
{
    const vtci_resampler *m = &job->m;
    const vtci_rows q = vtci_float_rows(job->queries, m->n_queries, m->d);
    const vtci_rows k = vtci_float_rows(job->projected, n, m->d);
    const vtci_rows v = vtci_float_rows(vtci_skip(job->projected, n * m->d), n, m->d);
    const vtci_rows y = vtci_float_rows(mix, m->n_queries, m->d);
    vtci_attention a = { .q = vtci_heads_of_rows(&q, m->n_heads) };

    vtci_steps_linear(job->steps, vtci_float_rows(job->keys, n, m->d), &m->k.weight, NULL, k);
    vtci_steps_layer(job->steps, vtci_float_rows(job->values, n, m->d), &m->v, NULL, v);
    a.k = vtci_heads_of_rows(&k, m->n_heads);
    a.v = vtci_heads_of_rows(&v, m->n_heads);
    a.y = vtci_heads_of_rows(&y, m->n_heads);
    a.scale = 1.0f / sqrtf((float)m->width);
    vtci_steps_attention(job->steps, &a);
}

/* [n_heads, n_rows, D] dense as heads that are D wide. */
static vtci_heads wide_heads(float *data, size_t n_heads, size_t n_rows, size_t d)
{
    const size_t row = d * sizeof(*data);
    const vtci_heads heads = { (char *)data, VTC_F32, 1, n_heads, n_rows, d, 0, n_rows * row, row };

    return heads;
}

/* What head h gathered, through its rows of Wv, into its columns of the mix. */
static void project_gathered(struct job *job, float *mix)
{
    const vtci_resampler *m = &job->m;
    const vtci_rows y = vtci_float_rows(mix, m->n_queries, m->d);
    vtci_gemm g = { .b = vtci_rows_split(vtci_rows_of(&m->v.weight), m->width), .trans_b = true };

    g.a = vtci_float_rows(job->gathered, m->n_queries, m->d);
    g.a.n_batch = m->n_heads;
    g.c = vtci_heads_as_batch(y, m->n_heads);
    vtci_steps_gemm(job->steps, &g);
}

/* All heads read the same k and v, which were never projected. */
static void attend_cheaply(struct job *job, size_t n, float *mix)
{
    const vtci_resampler *m = &job->m;
    vtci_attention a = { .q = wide_heads(job->queries, m->n_heads, m->n_queries, m->d) };

    a.k = wide_heads(job->keys, 1, n, m->d);
    a.v = wide_heads(job->values, 1, n, m->d);
    a.y = wide_heads(job->gathered, m->n_heads, m->n_queries, m->d);
    a.scale = 1.0f / sqrtf((float)m->width);
    vtci_steps_attention(job->steps, &a);
    project_gathered(job, mix);
    for (size_t r = 0; !job->steps->measure && r < m->n_queries; r++)
        vtci_kernels_get()->add(mix + r * m->d, mix + r * m->d, job->v_bias, m->d);
}

/* Group g, whose first image is b. */
static void run_group(struct job *job, size_t g, size_t b, float *mix)
{
    size_t n = 0;

    for (size_t i = 0; i < group_size(job, g); i++) {
        const struct grid grid = grid_of(job, b + i);

        read_image(job, b + i, n);
        n += grid.rows * grid.cols;
    }
    if (job->m.cheap)
        attend_cheaply(job, n, mix);
    else
        attend_directly(job, n, mix);
}

/* ---- the last products ----------------------------------------------------------------------- */

/* The rows of all batch items as one matrix, if all rows have a common stride. */
static bool as_matrix(vtci_rows *rows)
{
    if (rows->n_batch != 1 && rows->batch_stride != rows->n_rows * rows->row_stride)
        return false;
    rows->n_rows *= rows->n_batch;
    rows->n_batch = 1;
    return true;
}

struct storing {
    vtci_rows to;
    const float *from;
};

static void store_row(void *job, size_t index, size_t worker)
{
    const struct storing *s = job;
    const vtci_rows *to = &s->to;

    (void)worker;
    vtci_store_row(vtci_row(to, index / to->n_rows, index % to->n_rows), to->dtype, to->n_cols,
                   s->from + index * to->n_cols);
}

/* out proj: one product whatever the strides of the tokens, so that they do not show in the bits.
 */
static void multiply_last(struct job *job, const vtci_rows *out, size_t first, size_t n)
{
    struct storing storing = { vtci_batch_part(job->y, first, n), job->mix };
    vtci_gemm g = { .a = *out, .b = vtci_rows_of(&job->m.w.proj), .c = storing.to };

    if (as_matrix(&g.c)) {
        vtci_steps_gemm(job->steps, &g);
        return;
    }
    g.c = vtci_float_rows(job->mix, out->n_rows, job->m.d);
    vtci_steps_gemm(job->steps, &g);
    if (!job->steps->measure)
        vtci_parallel(job->m.call, out->n_rows, store_row, &storing);
}

static void finish(struct job *job, size_t first, size_t n)
{
    const vtci_resampler *m = &job->m;
    const size_t n_rows = n * m->n_queries;
    const vtci_rows mix = vtci_float_rows(job->mix, n_rows, m->d);
    const vtci_rows out = vtci_float_rows(job->out, n_rows, m->d);
    vtci_norm norm = { .x = out, .y = out, .kind = VTC_NORM_LAYER, .norm = &m->w.ln_post };
    const vtci_packed *packed = job->object.given ? &job->object.out_proj : NULL;

    vtci_steps_layer(job->steps, mix, &m->w.out_proj, packed, out);
    norm.eps = m->params.eps;
    vtci_steps_norm(job->steps, &norm);
    multiply_last(job, &out, first, n);
}

static void load_value_bias(struct job *job)
{
    const vtc_tensor *bias = &job->m.v.bias;
    const size_t d = job->m.d;

    if (job->steps->measure)
        return;
    memset(job->v_bias, 0, d * sizeof(float));
    if (!vtc_tensor_is_absent(bias))
        vtci_copy_row(job->v_bias, VTC_F32, bias->data, bias->dtype, d, NULL);
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;
    const vtci_resampler *m = &job->m;
    size_t b = 0;

    job->steps = steps;
    lay_out(&steps->arena, job);
    if (job->n_groups == 0 || m->n_queries == 0 || m->d == 0)
        return;
    load_value_bias(job);
    if (!job->object.given)
        vtci_resampler_compute_queries(m, job->steps, &job->b, job->queries);
    for (size_t g = 0; g < job->n_groups; g++) {
        const size_t at = g % job->n_tail;

        run_group(job, g, b, vtci_skip(job->mix, at * m->n_queries * m->d));
        b += group_size(job, g);
        if (at + 1 == job->n_tail || g + 1 == job->n_groups)
            finish(job, g - at, at + 1);
    }
}

/* ---- calls ----------------------------------------------------------------------------------- */

static vtc_status read_images(const vtci_call *call, const vtc_resampler_images *from,
                              vtc_resampler_images *images)
{
    static const vtc_resampler_images none = VTC_RESAMPLER_IMAGES_INIT;

    *images = none;
    return vtci_params_read(call, images, sizeof(*images), from);
}

static vtc_status check_tokens(const struct job *job, const vtc_tensor *x, const vtc_tensor *tokens)
{
    const vtci_call *call = job->m.call;

    VTCI_REQUIRE(call, job->x.n_cols == job->m.n_vision, VTC_ERR_SHAPE,
                 "x has %zu channels, the weights take %zu", job->x.n_cols, job->m.n_vision);
    VTCI_REQUIRE(call, x->rank == tokens->rank, VTC_ERR_SHAPE, "x has rank %d, tokens has rank %d",
                 x->rank, tokens->rank);
    VTCI_REQUIRE(call,
                 job->y.n_batch == job->n_groups && job->y.n_rows == job->m.n_queries &&
                     job->y.n_cols == job->m.d,
                 VTC_ERR_SHAPE, "tokens is %zux%zux%zu, %zux%zux%zu is needed", job->y.n_batch,
                 job->y.n_rows, job->y.n_cols, job->n_groups, job->m.n_queries, job->m.d);
    VTCI_TRY(vtci_check_gemm(call, job->n_keys, job->m.d, job->m.n_vision));
    return vtci_check_apart(call, "tokens", tokens, "x", x);
}

static vtc_status open_job(const vtci_call *call, const vtc_resampler_params *params,
                           const vtc_resampler_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *x, const vtc_resampler_images *images,
                           const vtc_tensor *tokens, struct job *job)
{
    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_check_tensor(call, "x", x, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "tokens", tokens, VTCI_FLOATS, 2, 3, VTCI_OUT));
    VTCI_TRY(vtci_resampler_open(call, params, weights, &job->m));
    VTCI_TRY(vtci_resampler_check_apart(&job->m, "tokens", tokens->data, vtci_span_bytes(tokens)));
    VTCI_TRY(vtci_resampler_open_object(&job->m, prepared, &job->object));
    VTCI_TRY(read_images(call, images, &job->images));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(tokens);
    VTCI_TRY(check_grids(job));
    VTCI_TRY(check_frames(job));
    VTCI_TRY(check_groups(job));
    VTCI_TRY(check_tokens(job, x, tokens));
    VTCI_TRY(check_images_apart(job, tokens));
    VTCI_TRY(vtci_prepared_check_apart(call, "tokens", tokens, prepared));
    job->n_tail = vtci_min(vtci_max(1, job->n_groups),
                           vtci_max(1, TAIL_ROWS / vtci_max(1, job->m.n_queries)));
    return VTC_OK;
}

vtc_status vtc_resampler_scratch(const vtc_resampler_params *params,
                                 const vtc_resampler_weights *weights, const vtc_prepared *prepared,
                                 const vtc_tensor *x, const vtc_resampler_images *images,
                                 const vtc_tensor *tokens, const vtc_exec *exec, size_t *bytes)
{
    struct job job;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_resampler_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, images, tokens, &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_resampler(const vtc_resampler_params *params, const vtc_resampler_weights *weights,
                         const vtc_prepared *prepared, const vtc_tensor *x,
                         const vtc_resampler_images *images, vtc_tensor *tokens,
                         const vtc_exec *exec)
{
    struct job job;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_resampler", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, x, images, tokens, &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}

/* ---- cost ------------------------------------------------------------------------------------ */

vtc_status vtc_resampler_cost(const vtc_resampler_params *params,
                              const vtc_resampler_weights *weights, size_t n_batch,
                              size_t n_patches, vtc_model_cost *cost, const vtc_exec *exec)
{
    const double n = (double)n_patches;
    vtci_resampler m;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_resampler_cost", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, cost);
    VTCI_TRY(vtci_resampler_open(&call, params, weights, &m));

    const double d = (double)m.d, q = (double)m.n_queries, h = (double)m.n_heads;
    const bool projects = !vtc_tensor_is_absent(&m.w.kv_proj.weight);
    const double patches = projects ? n * (double)m.n_vision * d : 0.0;
    const double attention =
        m.cheap ? 2.0 * h * q * n * d + q * d * d : 2.0 * n * d * d + 2.0 * q * n * d;

    cost->parameters = vtci_resampler_parameters(&m);
    cost->multiply_adds = (double)n_batch * (patches + attention + 2.0 * q * d * d);
    return VTC_OK;
}
