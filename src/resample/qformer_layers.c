/*
 * The Q-Former's layers, for groups of batch items.
 *
 *   x = LN([queries ; words + positions])
 *   layer   x = LN(Wo attention(x, x) + x)                all rows
 *           x = LN(Wo attention(x, image) + x)            queries, in the layers that read the
 * image x = LN(W2 gelu(W1 x) + x)                     queries and text by weights of their own
 *
 * A masked token of text has weight 0, to which the published -10000 comes in F32. Where all of an
 * image is masked the published fill makes all logits equal: the mean of its values.
 */
#include "../kernels/kernels.h"
#include "../linalg/operands.h"
#include "../linalg/rows.h"
#include "qformer.h"

#include <math.h>
#include <string.h>

/* ---- views of the buffers -------------------------------------------------------------------- */

static vtci_rows matrix(float *floats, size_t n_batch, size_t n_rows, size_t n_cols)
{
    vtci_rows rows = vtci_float_rows(floats, n_rows, n_cols);

    rows.n_batch = n_batch;
    return rows;
}

/* Rows first .. first + count - 1 of each item of a buffer [n, per_item, n_cols]. All rows are one
 * matrix, so that the items of a group share their products. */
static vtci_rows part_of(const vtci_qformer_job *job, float *floats, size_t per_item, size_t n_cols,
                         size_t first, size_t count)
{
    vtci_rows rows;

    if (count == job->n_rows)
        return matrix(floats, 1, job->n * per_item, n_cols);
    rows = matrix(vtci_skip(floats, first * n_cols), job->n, per_item, n_cols);
    rows.n_rows = count;
    return rows;
}

/* The heads in D columns from `first` on. */
static vtci_heads heads_of(const vtci_qformer_job *job, vtci_rows rows, size_t first)
{
    rows = vtci_cols_part(rows, first, job->m.d);
    return vtci_heads_of_rows(&rows, job->m.params.n_heads);
}

/* The items of the group among those of the batch. */
static vtci_rows group_of(const vtci_qformer_job *job, vtci_rows rows)
{
    return vtci_batch_part(rows, job->first, job->n);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The layers of a stack, all at once. */
static void multiply_stack(vtci_steps *steps, const vtci_packed *packed, float *bias,
                           const vtci_rows *a, const vtci_rows *c)
{
    vtci_gemm g = { .a = *a, .c = *c };

    g.trans_b = true;
    g.packed = packed;
    g.bias = vtci_float_rows(bias, 1, packed->n);
    vtci_steps_gemm(steps, &g);
}

/* x = LN(t) */
static void normalize(vtci_qformer_job *job, const vtc_norm *weights, const vtci_rows *t,
                      const vtci_rows *x)
{
    vtci_norm norm = { .x = *t, .y = *x, .kind = VTC_NORM_LAYER, .norm = weights };

    norm.eps = job->m.params.eps;
    vtci_steps_norm(job->steps, &norm);
}

/* x = LN(layer(a) + x) for rows of x */
static void add_and_normalize(vtci_qformer_job *job, const vtc_linear *layer,
                              const vtci_packed *packed, const vtc_norm *norm, vtci_rows a,
                              size_t first, size_t count)
{
    const size_t n_rows = job->n_rows, d = job->m.d;
    const vtci_rows x = part_of(job, job->x, n_rows, d, first, count);
    const vtci_rows t = part_of(job, job->t, n_rows, d, first, count);
    vtci_gemm g = vtci_layer_product(a, layer, packed, t);

    g.residual = x;
    vtci_steps_gemm(job->steps, &g);
    normalize(job, norm, &t, &x);
}

/* ---- the first rows -------------------------------------------------------------------------- */

/* The same rows into the first rows of each item of a buffer [n, n_rows, n_cols]. */
static void repeat(const vtci_qformer_job *job, float *to, const float *from, size_t n_cols)
{
    for (size_t i = 0; !job->steps->measure && i < job->n; i++)
        memcpy(to + i * job->n_rows * n_cols, from, job->m.n_queries * n_cols * sizeof(*to));
}

/* One token: its word and its place, which counts from the first token of the text. */
static void embed_token(void *p, size_t index, size_t worker)
{
    const vtci_qformer_job *job = p;
    const size_t i = index / job->n_text, j = index % job->n_text, d = job->m.d;
    const size_t row = (i * job->n_rows + job->m.n_queries + j) * d;
    const size_t id = (size_t)vtci_qformer_id(job->input_ids, job->first + i, j);
    const vtci_rows words = vtci_rows_of(&job->m.w->word_embeddings);
    const vtci_rows places = vtci_rows_of(&job->m.w->position_embeddings);
    const float *word = vtci_load_row(vtci_row(&words, 0, id), words.dtype, d, job->x + row);
    const float *place = vtci_load_row(vtci_row(&places, 0, j), places.dtype, d, job->t + row);

    (void)worker;
    vtci_kernels_get()->add(job->x + row, word, place, d);
}

static void embed(vtci_qformer_job *job)
{
    const size_t nq = job->m.n_queries, d = job->m.d;
    const vtc_norm *norm = &job->m.w->embedding_norm;
    const vtci_rows text = part_of(job, job->x, job->n_rows, d, nq, job->n_text);

    if (job->object.given && job->m.lacks == NULL) {
        repeat(job, job->x, job->object.queries, d);
    } else if (!job->object.given) {
        vtci_rows queries = vtci_rows_of(&job->m.w->query_tokens);
        vtci_rows x = matrix(job->x, job->n, job->n_rows, d);

        queries.n_batch = job->n;
        queries.batch_stride = 0;
        queries.n_rows = x.n_rows = nq;
        normalize(job, norm, &queries, &x);
    }
    if (job->n_text == 0)
        return;
    if (!job->steps->measure)
        vtci_parallel(job->m.call, job->n * job->n_text, embed_token, job);
    normalize(job, norm, &text, &text);
}

/* ---- attention among the rows ---------------------------------------------------------------- */

/* q, k and v of rows of x, side by side. */
static void project_rows(vtci_qformer_job *job, const vtc_qformer_attention *w,
                         const vtci_qformer_layer_object *object, size_t first, size_t count)
{
    const size_t d = job->m.d;
    const vtc_linear *const layers[] = { &w->query, &w->key, &w->value };
    const vtci_rows x = part_of(job, job->x, job->n_rows, d, first, count);
    const vtci_rows qkv = part_of(job, job->qkv, job->n_rows, 3 * d, first, count);

    if (object->qkv.dtype != (vtc_dtype)0) {
        multiply_stack(job->steps, &object->qkv, object->qkv_bias, &x, &qkv);
        return;
    }
    for (size_t i = 0; i < 3; i++)
        vtci_steps_layer(job->steps, x, layers[i], NULL, vtci_cols_part(qkv, i * d, d));
}

/* What `count` rows of each item read from all rows. */
static void attend_rows(vtci_qformer_job *job, size_t count)
{
    const size_t d = job->m.d;
    const vtci_rows qkv = matrix(job->qkv, job->n, job->n_rows, 3 * d);
    const vtci_rows context = matrix(job->context, job->n, job->n_rows, d);
    vtci_attention a = { .q = heads_of(job, qkv, 0), .k = heads_of(job, qkv, d) };

    a.v = heads_of(job, qkv, 2 * d);
    a.y = heads_of(job, context, 0);
    a.q.n_rows = a.y.n_rows = count;
    a.scale = 1.0f / sqrtf((float)a.q.n_cols);
    if (job->text_mask != NULL) {
        a.sees.key_mask = job->sees;
        a.sees.key_mask_batch_stride = job->n_rows;
    }
    vtci_steps_attention(job->steps, &a);
}

static void self_attention(vtci_qformer_job *job, size_t i, const vtci_qformer_layer_object *object,
                           size_t n_wanted)
{
    const vtc_qformer_attention *w = &job->m.w->layers[i].self;
    const size_t nq = job->m.n_queries, d = job->m.d;

    if (job->object.given && vtci_qformer_is_constant(&job->m, i)) {
        repeat(job, job->x, job->object.rows, d);
        return;
    }
    if (job->object.given && i == 0) {
        repeat(job, job->qkv, job->object.qkv, 3 * d);
        if (job->n_text != 0)
            project_rows(job, w, object, nq, job->n_text);
    } else {
        project_rows(job, w, object, 0, job->n_rows);
    }
    attend_rows(job, n_wanted);
    add_and_normalize(job, &w->output, &object->output, &w->norm,
                      part_of(job, job->context, job->n_rows, d, 0, n_wanted), 0, n_wanted);
}

/* ---- attention over the image ---------------------------------------------------------------- */

/* q of the queries, [n, nq, D] where q, k and v of all rows have been. */
static void project_queries(vtci_qformer_job *job, const vtc_linear *layer,
                            const vtci_packed *packed)
{
    const size_t nq = job->m.n_queries, d = job->m.d;

    vtci_steps_layer(job->steps, part_of(job, job->x, job->n_rows, d, 0, nq), layer, packed,
                     part_of(job, job->qkv, nq, d, 0, nq));
}

/* Layer `cross` of those that read the image. */
static void attend_image(vtci_qformer_job *job, const vtc_qformer_attention *w, bool constant,
                         size_t cross)
{
    const size_t nq = job->m.n_queries, d = job->m.d;
    const vtci_rows context = matrix(job->context, job->n, nq, d);
    vtci_rows q = matrix(constant ? job->object.query : job->qkv, job->n, nq, d);
    vtci_rows kv = group_of(job, job->kv);
    vtci_attention a = { .scale = 1.0f / sqrtf((float)(d / job->m.params.n_heads)) };

    if (constant)
        q.batch_stride = 0;
    if (job->once) {
        vtci_qformer_read_once(job, w, &q, &context);
        return;
    }
    if (job->image.dtype != (vtc_dtype)0)
        kv = matrix(job->own_kv, job->n, job->n_image, job->m.n_kv);
    a.q = heads_of(job, q, 0);
    a.k = heads_of(job, kv, 2 * cross * d);
    a.v = heads_of(job, kv, (2 * cross + 1) * d);
    a.y = heads_of(job, context, 0);
    a.sees.blind = VTCI_BLIND_MEAN;
    if (job->image_mask != NULL) {
        a.sees.key_mask = job->sees_image;
        a.sees.key_mask_batch_stride = job->n_image;
    }
    vtci_steps_attention(job->steps, &a);
}

static void cross_attention(vtci_qformer_job *job, size_t i,
                            const vtci_qformer_layer_object *object, size_t cross)
{
    const vtc_qformer_attention *w = &job->m.w->layers[i].cross;
    const bool constant = job->object.given && vtci_qformer_is_constant(&job->m, i);
    const size_t nq = job->m.n_queries;

    if (!constant)
        project_queries(job, &w->query, &object->cross_query);
    attend_image(job, w, constant, cross);
    add_and_normalize(job, &w->output, &object->cross_output, &w->norm,
                      part_of(job, job->context, nq, job->m.d, 0, nq), 0, nq);
}

/* Layers one by one without an object, else all at once. */
void vtci_qformer_encode(const vtci_qformer *m, const vtci_qformer_object *object,
                         vtci_steps *steps, const vtci_rows *image, const vtci_rows *kv)
{
    size_t first = 0;

    if (object->given) {
        multiply_stack(steps, &object->kv, object->kv_bias, image, kv);
        return;
    }
    for (size_t i = 0; i < m->w->n_layers; i++) {
        const vtc_qformer_attention *w = &m->w->layers[i].cross;
        const vtc_linear *const layers[] = { &w->key, &w->value };

        for (size_t j = 0; vtci_qformer_reads_image(&m->w->layers[i]) && j < 2; j++) {
            vtci_steps_layer(steps, *image, layers[j], NULL, vtci_cols_part(*kv, first, m->d));
            first += m->d;
        }
    }
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

static void feed_forward(vtci_qformer_job *job, const vtc_qformer_mlp *w, const vtci_packed *up,
                         const vtci_packed *down, size_t first, size_t count)
{
    vtci_gemm g;

    if (count == 0)
        return;
    g = vtci_layer_product(part_of(job, job->x, job->n_rows, job->m.d, first, count), &w->up, up,
                           part_of(job, job->wide, count, w->up.weight.dim[0], 0, count));
    g.act = VTCI_ACT_GELU_ERF;
    vtci_steps_gemm(job->steps, &g);
    add_and_normalize(job, &w->down, down, &w->norm, g.c, first, count);
}

/* ---- a group --------------------------------------------------------------------------------- */

static bool is_set(const vtc_tensor *mask, size_t b, size_t n)
{
    const vtci_rows rows = vtci_rows_of(mask);
    const size_t size = vtc_dtype_size(mask->dtype);
    const char *bytes = vtci_row(&rows, 0, b) + n * size;

    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return true;
    return false;
}

/* What the items of the group see of `n` tokens, behind `n_seen` that all see. */
static void read_mask(const vtci_qformer_job *job, const vtc_tensor *mask, size_t n_seen, size_t n,
                      uint8_t *sees)
{
    for (size_t i = 0; mask != NULL && i < job->n; i++, sees += n_seen + n) {
        memset(sees, 1, n_seen);
        for (size_t j = 0; j < n; j++)
            sees[n_seen + j] = is_set(mask, job->first + i, j);
    }
}

static void run_layer(vtci_qformer_job *job, size_t i, const vtci_qformer_layer_object *object,
                      size_t *cross)
{
    const vtc_qformer_layer *layer = &job->m.w->layers[i];
    const size_t n_wanted = i + 1 == job->m.w->n_layers ? job->n_last : job->n_rows;
    const size_t nq = job->m.n_queries;

    self_attention(job, i, object, n_wanted);
    if (vtci_qformer_reads_image(layer))
        cross_attention(job, i, object, (*cross)++);
    feed_forward(job, &layer->query, &object->query_up, &object->query_down, 0, nq);
    feed_forward(job, &layer->text, &object->text_up, &object->text_down, nq, n_wanted - nq);
}

static void store_row(void *p, size_t index, size_t worker)
{
    const vtci_qformer_job *job = p;
    const size_t n = job->hidden.n_rows, i = index / n, row = index % n, d = job->m.d;

    (void)worker;
    vtci_store_row(vtci_row(&job->hidden, job->first + i, row), job->hidden.dtype, d,
                   job->x + (i * job->n_rows + row) * d);
}

static void store(vtci_qformer_job *job)
{
    const vtci_rows x = matrix(job->x, job->n, job->n_rows, job->m.d);

    if (job->hidden.dtype != (vtc_dtype)0 && !job->steps->measure)
        vtci_parallel(job->m.call, job->n * job->hidden.n_rows, store_row, job);
    if (job->tokens.dtype == (vtc_dtype)0)
        return;
    vtci_steps_layer(job->steps, vtci_rows_part(x, 0, job->m.n_queries), &job->m.w->projection,
                     &job->object.projection, group_of(job, job->tokens));
}

static void run_group(vtci_qformer_job *job, size_t first, size_t n)
{
    vtci_arena arena = job->object.layers;
    size_t cross = 0;

    job->first = first;
    job->n = n;
    if (!job->steps->measure) {
        read_mask(job, job->text_mask, job->m.n_queries, job->n_text, job->sees);
        read_mask(job, job->image_mask, 0, job->n_image, job->sees_image);
    }
    if (job->once) {
        vtci_qformer_pack_images(job);
    } else if (job->image.dtype != (vtc_dtype)0) {
        const vtci_rows image = group_of(job, job->image);
        const vtci_rows kv = matrix(job->own_kv, n, job->n_image, job->m.n_kv);

        vtci_qformer_encode(&job->m, &job->object, job->steps, &image, &kv);
    }
    embed(job);
    for (size_t i = 0; i < job->m.w->n_layers; i++) {
        vtci_qformer_layer_object object = { 0 };

        if (job->object.given)
            vtci_qformer_lay_out_layer(&arena, &job->m, i, &object);
        run_layer(job, i, &object, &cross);
    }
    store(job);
}

/* ---- the walk -------------------------------------------------------------------------------- */

static float *take(vtci_qformer_job *job, size_t n_rows, size_t n_cols)
{
    return vtci_take(&job->steps->arena, vtci_mul(job->n_group, vtci_mul(n_rows, n_cols)),
                     sizeof(float));
}

static void lay_out(vtci_qformer_job *job)
{
    const size_t n_rows = job->n_rows, d = job->m.d;
    const bool encodes = job->image.dtype != (vtc_dtype)0 && !job->once;

    job->x = take(job, n_rows, d);
    job->t = take(job, n_rows, d);
    job->context = take(job, n_rows, d);
    job->qkv = take(job, n_rows, vtci_mul(3, d));
    job->wide = take(job, vtci_max(job->m.n_queries, job->n_text), job->m.n_hidden);
    job->own_kv = encodes ? take(job, job->n_image, job->m.n_kv) : NULL;
    job->sees = vtci_take(&job->steps->arena, vtci_mul(job->n_group, n_rows), 1);
    job->sees_image = vtci_take(&job->steps->arena, vtci_mul(job->n_group, job->n_image), 1);
    if (job->once)
        vtci_qformer_lay_out_once(job);
}

/* All groups, or of those that differ in size one each. */
static void walk(void *p, vtci_steps *steps)
{
    vtci_qformer_job *job = p;
    const size_t n_left = job->n_batch == 0 ? 0 : job->n_batch % job->n_group;

    job->steps = steps;
    lay_out(job);
    if (job->n_batch == 0)
        return;
    if (steps->measure) {
        run_group(job, 0, job->n_group);
        if (n_left != 0)
            run_group(job, 0, n_left);
        return;
    }
    for (size_t b = 0; b < job->n_batch; b += job->n_group)
        run_group(job, b, vtci_min(job->n_group, job->n_batch - b));
}

vtc_status vtci_qformer_walk(vtci_qformer_job *job, size_t *bytes)
{
    return vtci_steps_walk(job->m.call, walk, job, bytes);
}

/* ---- constants ------------------------------------------------------------------------------- */

/* x behind the embedding and then q, k and v, or x behind the first self-attention and then q. */
static void walk_constants(void *p, vtci_steps *steps)
{
    vtci_qformer_job *job = p;
    const vtci_qformer_layer_object none = { 0 };
    const vtc_qformer_layer *layer = &job->m.w->layers[0];

    job->steps = steps;
    lay_out(job);
    embed(job);
    if (job->m.lacks == NULL) {
        project_rows(job, &layer->self, &none, 0, job->n_rows);
        return;
    }
    self_attention(job, 0, &none, job->n_rows);
    if (vtci_qformer_reads_image(layer))
        project_queries(job, &layer->cross.query, NULL);
}

vtc_status vtci_qformer_constants(vtci_qformer_job *job, size_t *bytes, vtci_qformer_object *to)
{
    const bool takes_text = job->m.lacks == NULL;
    const size_t n = job->m.n_queries * job->m.d;

    job->n_batch = job->n = job->n_group = 1;
    job->n_rows = job->n_last = job->m.n_queries;
    VTCI_TRY(vtci_steps_walk(job->m.call, walk_constants, job, bytes));
    if (job->m.call->query)
        return VTC_OK;
    memcpy(takes_text ? to->queries : to->rows, job->x, n * sizeof(float));
    memcpy(takes_text ? to->qkv : to->query, job->qkv, (takes_text ? 3 : 1) * n * sizeof(float));
    return VTC_OK;
}
