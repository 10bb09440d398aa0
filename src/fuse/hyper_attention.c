/*
 * Hyper Attention: the text's rows of one layer.
 *
 *   q, k, v = projections of RMSNorm(hidden), q and k rotated; k and v join the text's cache
 *   s       = causal attention over the text, c = attention over the visual keys that are seen
 *   fused:    one softmax over both: s and c joined by their log-sum-exps
 *   gated:    o = (1 - g) s + g c where any image is seen
 *   attn    = o_proj(o),  out = hidden + attn
 *
 * Images ascend, so the visual keys that a row sees are the first ones: a range. All rows of all
 * sequences share the products, in blocks; each sequence attends to its own caches.
 *
 * Source: mPLUG-Owl3, section 3.2, and its code. The order of a block's steps is ours: with the
 * caches filled before any row attends, a chunk of a prompt is an ordinary case.
 */
#include "../kernels/kernels.h"
#include "../linalg/rope.h"
#include "../linalg/rows.h"
#include "hyper_layer.h"

#include <math.h>
#include <string.h>

struct job {
    vtci_hyper_layer layer;
    vtci_rows hidden, attn, out; /* [rows, C]; without data: not wanted */
    const vtc_hyper_sequence *sequences;
    size_t n_sequences;
    bool has_images;

    size_t block_rows;
    float *frequency;       /* [D/2]                                                       */
    float *wide;            /* [block, max(C, Q)] normed input, then gates, then output     */
    float *q, *k, *v;       /* [block, Q], [block, E], [block, E]                           */
    float *s, *c;           /* [block, Q] over text, over images                            */
    float *gate;            /* [Q] of the variant `gate`                                    */
    float *s_lse, *c_lse;   /* [n_heads, rows of a part]                                    */
    int32_t *range;         /* [block, 2] visual keys of each row                           */
    int32_t *owner, *place; /* [block] sequence, index in it                               */
    char *slices;           /* per worker [max(C, D)]                                       */
    size_t slice_stride;
};

/* Rows of one sequence in a block. */
struct part {
    const vtc_hyper_sequence *sequence;
    size_t first, n; /* rows of the block                    */
    size_t position; /* of the first one in its sequence     */
    size_t n_visual; /* keys that its last row sees          */
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_sequence(const vtci_call *call, const struct job *job,
                                 const vtc_hyper_sequence *s)
{
    const size_t end = vtci_add(s->position, s->n_rows);
    const size_t n_visual = vtci_mul(s->n_images, s->n_image_rows);

    VTCI_REQUIRE(call, end < INT32_MAX && n_visual < INT32_MAX, VTC_ERR_OVERFLOW,
                 "%zu rows at position %zu, %zu images of %zu rows: int32 does not hold them",
                 s->n_rows, s->position, s->n_images, s->n_image_rows);
    VTCI_TRY(vtci_hyper_check_kv(call, &job->layer, "text", &s->text, end, VTCI_OUT));
    if (s->n_images == 0)
        return VTC_OK;
    VTCI_TRY(vtci_hyper_check_kv(call, &job->layer, "visual", &s->visual, n_visual, VTCI_IN));
    return vtci_hyper_check_starts(call, s->media_starts, s->n_images);
}

static vtc_status check_output(const vtci_call *call, const struct job *job,
                               const vtc_prepared *prepared, const char *name,
                               const vtc_tensor *output, const vtc_tensor *hidden, vtci_rows *rows)
{
    if (output == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, name, output, VTCI_FLOATS, 2, 2, VTCI_OUT));
    VTCI_REQUIRE(call, output->dim[0] == hidden->dim[0] && output->dim[1] == hidden->dim[1],
                 VTC_ERR_SHAPE, "%s is %zux%zu, hidden %zux%zu", name, output->dim[0],
                 output->dim[1], hidden->dim[0], hidden->dim[1]);
    VTCI_TRY(vtci_check_apart(call, name, output, "hidden", hidden));
    VTCI_TRY(vtci_hyper_check_apart(call, &job->layer, prepared, name, output));
    *rows = vtci_rows_of(output);
    return VTC_OK;
}

/* What the sequences' caches must not meet. */
static vtc_status check_cache(const vtci_call *call, const struct job *job,
                              const vtc_prepared *prepared, const vtc_hyper_sequence *s,
                              const vtc_tensor *const *others)
{
    static const char *const names[] = { "hidden", "attn", "out" };
    const vtc_tensor *caches[] = { &s->text.k, &s->text.v, &s->visual.k, &s->visual.v };
    static const char *const cache_names[] = { "text.k", "text.v", "visual.k", "visual.v" };
    const size_t n = s->n_images == 0 ? 2 : 4;
    const vtc_tensor starts = vtc_tensor_1d(s->media_starts, VTC_I32, s->n_images);

    /* read for each block of rows */
    for (size_t o = 1; o < 3 && s->n_images != 0; o++)
        if (others[o] != NULL)
            VTCI_TRY(vtci_check_apart(call, names[o], others[o], "media_starts", &starts));
    for (size_t i = 0; i < n; i++) {
        for (size_t o = i < 2 ? 0 : 1; o < 3; o++)
            if (others[o] != NULL)
                VTCI_TRY(vtci_check_apart(call, cache_names[i], caches[i], names[o], others[o]));
        if (i < 2)
            VTCI_TRY(
                vtci_hyper_check_apart(call, &job->layer, prepared, cache_names[i], caches[i]));
    }
    return VTC_OK;
}

/* Caches may interleave, so that only the same start is surely wrong. */
static vtc_status check_caches_differ(const vtci_call *call, const struct job *job)
{
    for (size_t i = 0; !call->query && i < job->n_sequences; i++) {
        const vtc_hyper_sequence *s = &job->sequences[i];
        const void *k = s->text.k.data, *v = s->text.v.data;

        if (s->n_rows == 0)
            continue;
        for (size_t j = 0; j < job->n_sequences; j++) {
            const vtc_hyper_sequence *o = &job->sequences[j];
            const bool visual = o->n_images != 0 && o->n_image_rows != 0;

            VTCI_REQUIRE(call,
                         j == i || (o->text.k.data != k && o->text.v.data != k &&
                                    o->text.k.data != v && o->text.v.data != v),
                         VTC_ERR_OVERLAP, "sequences %zu and %zu have the same text cache", i, j);
            VTCI_REQUIRE(call,
                         !visual || (o->visual.k.data != k && o->visual.v.data != k &&
                                     o->visual.k.data != v && o->visual.v.data != v),
                         VTC_ERR_OVERLAP,
                         "the text cache of sequence %zu is the visual cache of sequence %zu", i,
                         j);
        }
    }
    return VTC_OK;
}

static vtc_status open_sequences(const vtci_call *call, const vtc_hyper_sequence *sequences,
                                 size_t n_sequences, struct job *job)
{
    size_t n_rows = 0;

    VTCI_REQUIRE(call, sequences != NULL || n_sequences == 0, VTC_ERR_NULL, "sequences is NULL");
    VTCI_REQUIRE(call, n_sequences <= INT32_MAX, VTC_ERR_OVERFLOW, "there are %zu sequences",
                 n_sequences);
    job->sequences = sequences;
    job->n_sequences = n_sequences;
    for (size_t i = 0; i < n_sequences; i++) {
        VTCI_TRY(check_sequence(call, job, &sequences[i]));
        n_rows = vtci_add(n_rows, sequences[i].n_rows);
        job->has_images = job->has_images || sequences[i].n_images != 0;
    }
    VTCI_REQUIRE(call, n_rows == job->hidden.n_rows, VTC_ERR_SHAPE,
                 "the sequences have %zu rows, hidden has %zu", n_rows, job->hidden.n_rows);
    return check_caches_differ(call, job);
}

static vtc_status open_job(const vtci_call *call, const vtc_hyper_attention_params *params,
                           const vtc_hyper_attention_weights *weights, const vtc_prepared *prepared,
                           const vtc_tensor *hidden, const vtc_hyper_sequence *sequences,
                           size_t n_sequences, const vtc_tensor *attn, const vtc_tensor *out,
                           struct job *job)
{
    const vtc_tensor *const others[] = { hidden, attn, out };

    memset(job, 0, sizeof(*job));
    VTCI_TRY(vtci_hyper_open(call, params, weights, prepared, &job->layer));
    VTCI_TRY(vtci_check_tensor(call, "hidden", hidden, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, hidden->dim[1] == job->layer.c, VTC_ERR_SHAPE,
                 "hidden has %zu channels, the layer %zu", hidden->dim[1], job->layer.c);
    job->hidden = vtci_rows_of(hidden);
    VTCI_TRY(check_output(call, job, prepared, "attn", attn, hidden, &job->attn));
    VTCI_TRY(check_output(call, job, prepared, "out", out, hidden, &job->out));
    if (attn != NULL && out != NULL)
        VTCI_TRY(vtci_check_apart(call, "out", out, "attn", attn));
    VTCI_TRY(open_sequences(call, sequences, n_sequences, job));
    for (size_t i = 0; i < n_sequences; i++)
        VTCI_TRY(check_cache(call, job, prepared, &sequences[i], others));
    return VTC_OK;
}

/* ---- scratch --------------------------------------------------------------------------------- */

static void lay_out(vtci_arena *arena, const vtci_call *call, struct job *job)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t n = job->block_rows = vtci_min(job->hidden.n_rows, VTCI_HYPER_BLOCK_ROWS);
    const size_t q = l->n_heads * l->d, e = l->n_kv * l->d;

    job->frequency = vtci_take_matrix(arena, 1, l->d / 2);
    job->wide = vtci_take_matrix(arena, n, vtci_max(l->c, q));
    job->q = vtci_take_matrix(arena, n, q);
    job->k = vtci_take_matrix(arena, n, e);
    job->v = vtci_take_matrix(arena, n, e);
    job->s = vtci_take_matrix(arena, n, q);
    job->c = vtci_take_matrix(arena, n, q);
    job->gate = vtci_take_matrix(arena, 1, q);
    job->s_lse = vtci_take_matrix(arena, n, l->n_heads);
    job->c_lse = vtci_take_matrix(arena, n, l->n_heads);
    job->range = vtci_take(arena, 2 * n, sizeof(*job->range));
    job->owner = vtci_take(arena, n, sizeof(*job->owner));
    job->place = vtci_take(arena, n, sizeof(*job->place));
    job->slices = vtci_take_slices(arena, call, vtci_mul(vtci_max(l->c, l->d), sizeof(float)),
                                   &job->slice_stride);
}

static float *slice_of(const struct job *job, size_t worker)
{
    return (float *)(void *)(job->slices + worker * job->slice_stride);
}

/* ---- parts of a block ------------------------------------------------------------------------ */

/* The part of a sequence, whose rows begin at `begin` among all, in a block of n rows from `first`
 * on. False: it has none there. */
static bool part_of(const struct job *job, size_t sequence, size_t begin, size_t first, size_t n,
                    bool measures, struct part *part)
{
    const vtc_hyper_sequence *s = &job->sequences[sequence];
    const size_t from = vtci_max(begin, first), to = vtci_min(begin + s->n_rows, first + n);

    if (from >= to)
        return false;
    part->sequence = s;
    part->first = from - first;
    part->n = to - from;
    part->position = s->position + (from - begin);
    part->n_visual = s->n_images;
    /* a query does not know yet where images stand: all may be seen */
    if (!measures)
        part->n_visual = vtci_hyper_n_seen(&job->layer, s->media_starts, s->n_images,
                                           (int64_t)(part->position + part->n) - 1);
    part->n_visual *= s->n_image_rows;
    return true;
}

/* Where each row stands, and what it sees. */
static void place_rows(struct job *job, const struct part *part)
{
    const vtc_hyper_sequence *s = part->sequence;

    for (size_t m = 0; m < part->n; m++) {
        const size_t row = part->first + m, t = part->position + m;
        const size_t seen =
            vtci_hyper_n_seen(&job->layer, s->media_starts, s->n_images, (int64_t)t);

        job->owner[row] = (int32_t)(s - job->sequences);
        job->place[row] = (int32_t)t;
        job->range[2 * row] = 0;
        job->range[2 * row + 1] = (int32_t)(seen * s->n_image_rows);
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Rotates a row's queries and keys, and puts keys and values into its cache. */
static void append_row(void *arg, size_t r, size_t worker)
{
    const struct job *job = arg;
    const vtci_hyper_layer *l = &job->layer;
    const vtc_hyper_kv *text = &job->sequences[job->owner[r]].text;
    const size_t d = l->d, row = (size_t)job->place[r];
    float *angle = slice_of(job, worker), *k = job->k + r * l->n_kv * d;

    vtci_rope_angles(angle, job->frequency, d, job->place[r]);
    vtci_rope_rotate(job->q + r * l->n_heads * d, l->n_heads, d, angle);
    vtci_rope_rotate(k, l->n_kv, d, angle);
    for (size_t g = 0; g < l->n_kv; g++) {
        vtci_hyper_store(&text->k, g, row, k + g * d);
        vtci_hyper_store(&text->v, g, row, job->v + (r * l->n_kv + g) * d);
    }
}

static bool sees_images(const struct job *job, size_t row)
{
    return job->range[2 * row + 1] != 0;
}

/* o = (1 - g) s + g c */
static void mix_row(void *arg, size_t r, size_t worker)
{
    const struct job *job = arg;
    const size_t q = job->layer.n_heads * job->layer.d;
    const float *g = job->layer.variant == VTC_HYPER_GATE ? job->gate : job->wide + r * q;
    const float *c = job->c + r * q;
    float *s = job->s + r * q;

    (void)worker;
    if (!sees_images(job, r))
        return;
    for (size_t i = 0; i < q; i++)
        s[i] = s[i] * (1.0f - g[i]) + c[i] * g[i];
}

struct joining {
    const struct job *job;
    const struct part *part;
};

/* One softmax over what s and c have attended to. */
static void join_row(void *arg, size_t m, size_t worker)
{
    const struct joining *j = arg;
    const vtci_hyper_layer *l = &j->job->layer;
    const size_t at = (j->part->first + m) * l->n_heads * l->d, n = j->part->n;

    (void)worker;
    for (size_t h = 0; h < l->n_heads; h++)
        (void)vtci_attention_join(j->job->s + at + h * l->d, j->job->s_lse[h * n + m],
                                  j->job->c + at + h * l->d, j->job->c_lse[h * n + m], l->d);
}

struct storing {
    const struct job *job;
    size_t first, n;
};

/* Some rows of the last product to where they were asked for. */
static void store_rows(void *arg, size_t index, size_t worker)
{
    const struct storing *s = arg;
    const struct job *job = s->job;
    const size_t c = job->layer.c, begin = index * VTCI_HYPER_TASK_ROWS;
    const size_t end = vtci_min(s->n, begin + VTCI_HYPER_TASK_ROWS);

    for (size_t r = begin; r < end; r++) {
        float *x = job->wide + r * c;
        const size_t row = s->first + r;

        if (job->attn.dtype != (vtc_dtype)0)
            vtci_store_row(vtci_row(&job->attn, 0, row), job->attn.dtype, c, x);
        if (job->out.dtype == (vtc_dtype)0)
            continue;
        vtci_kernels_get()->add(x, x,
                                vtci_load_row(vtci_row(&job->hidden, 0, row), job->hidden.dtype, c,
                                              slice_of(job, worker)),
                                c);
        vtci_store_row(vtci_row(&job->out, 0, row), job->out.dtype, c, x);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

static vtci_attention attention_of(const struct job *job, const struct part *part, float *y)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t q = l->n_heads * l->d;
    const vtci_rows from = vtci_float_rows(job->q, job->block_rows, q);
    const vtci_rows to = vtci_float_rows(y, job->block_rows, q);
    vtci_attention a = { .scale = 1.0f / sqrtf((float)l->d) };

    a.q = vtci_heads_part(vtci_heads_of_rows(&from, l->n_heads), part->first, part->n);
    a.y = vtci_heads_part(vtci_heads_of_rows(&to, l->n_heads), part->first, part->n);
    return a;
}

static void attend_to_text(const struct job *job, const struct part *part, bool joins,
                           vtci_steps *steps)
{
    const vtc_hyper_kv *text = &part->sequence->text;
    const size_t n_keys = part->position + part->n;
    vtci_attention a = attention_of(job, part, job->s);

    a.k = vtci_heads_part(vtci_heads_of(&text->k), 0, n_keys);
    a.v = vtci_heads_part(vtci_heads_of(&text->v), 0, n_keys);
    a.sees.causal = true;
    a.sees.row_offset = part->position;
    a.log_sum_exp = joins ? job->s_lse : NULL;
    vtci_step_attention(steps, a);
}

static void attend_to_images(const struct job *job, const struct part *part, bool joins,
                             vtci_steps *steps)
{
    const vtc_hyper_kv *visual = &part->sequence->visual;
    vtci_attention a = attention_of(job, part, job->c);

    a.k = vtci_heads_part(vtci_heads_of(&visual->k), 0, part->n_visual);
    a.v = vtci_heads_part(vtci_heads_of(&visual->v), 0, part->n_visual);
    a.sees.range = steps->measure ? job->range : job->range + 2 * part->first;
    a.log_sum_exp = joins ? job->c_lse : NULL;
    vtci_step_attention(steps, a);
}

/* Both attentions of a part; True when images took part. */
static bool attend(const struct job *job, const struct part *part, vtci_steps *steps)
{
    const bool joins = part->n_visual != 0 && job->layer.variant == VTC_HYPER_FUSED;
    struct joining joining = { job, part };

    attend_to_text(job, part, joins, steps);
    if (part->n_visual == 0)
        return false;
    attend_to_images(job, part, joins, steps);
    if (joins)
        vtci_steps_tasks(steps, part->n, join_row, &joining);
    return true;
}

/* The gates of all rows of a block, each head on its own, and the mixing. */
static void mix(struct job *job, size_t n, vtci_steps *steps)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t n_heads = vtci_mul(n, l->n_heads);

    if (l->variant == VTC_HYPER_FUSED)
        return;
    if (l->variant == VTC_HYPER_GATE_PROJ) {
        vtci_gemm g = vtci_layer_product(vtci_float_rows(job->s, n_heads, l->d), &l->w->gate_proj,
                                         NULL, vtci_float_rows(job->wide, n_heads, l->d));

        g.act = VTCI_ACT_SIGMOID;
        vtci_step_gemm(steps, g);
    }
    vtci_steps_tasks(steps, n, mix_row, job);
}

/* ---- a block --------------------------------------------------------------------------------- */

static void project(const struct job *job, size_t first, size_t n, vtci_steps *steps)
{
    const vtci_hyper_layer *l = &job->layer;
    const size_t q = l->n_heads * l->d, e = l->n_kv * l->d;
    const vtci_rows x = vtci_float_rows(job->wide, n, l->c);
    const vtci_norm norm = { .x = vtci_rows_part(job->hidden, first, n),
                             .y = x,
                             .kind = VTC_NORM_RMS,
                             .norm = &l->norm,
                             .eps = l->params.eps };

    vtci_step_norm(steps, norm);
    vtci_step_gemm(steps,
                   vtci_layer_product(x, &l->w->q_proj, &l->q, vtci_float_rows(job->q, n, q)));
    vtci_step_gemm(steps,
                   vtci_layer_product(x, &l->w->k_proj, &l->k, vtci_float_rows(job->k, n, e)));
    vtci_step_gemm(steps,
                   vtci_layer_product(x, &l->w->v_proj, &l->v, vtci_float_rows(job->v, n, e)));
}

static void for_each_part(struct job *job, size_t first, size_t n, vtci_steps *steps, bool *seen)
{
    size_t begin = 0;
    struct part part;

    for (size_t i = 0; i < job->n_sequences; begin += job->sequences[i++].n_rows) {
        if (!part_of(job, i, begin, first, n, steps->measure, &part))
            continue;
        if (seen == NULL)
            place_rows(job, &part);
        else
            *seen = attend(job, &part, steps) || *seen;
    }
}

static void run_block(struct job *job, size_t first, size_t n, vtci_steps *steps)
{
    const vtci_hyper_layer *l = &job->layer;
    struct storing storing = { job, first, n };
    bool seen = false;

    if (!steps->measure)
        for_each_part(job, first, n, steps, NULL);
    project(job, first, n, steps);
    vtci_steps_tasks(steps, n, append_row, job);
    for_each_part(job, first, n, steps, &seen);
    if (seen)
        mix(job, n, steps);
    vtci_step_gemm(steps,
                   vtci_layer_product(vtci_float_rows(job->s, n, l->n_heads * l->d), &l->w->o_proj,
                                      &l->o, vtci_float_rows(job->wide, n, l->c)));
    vtci_steps_tasks(steps, vtci_ceil_div(n, VTCI_HYPER_TASK_ROWS), store_rows, &storing);
}

static void set_gate(struct job *job)
{
    const size_t q = job->layer.n_heads * job->layer.d;
    const vtc_tensor *gate = &job->layer.w->gate;

    if (job->layer.variant == VTC_HYPER_GATE)
        vtci_kernels_get()->activate(VTCI_ACT_SIGMOID, job->gate,
                                     vtci_load_row(gate->data, gate->dtype, q, job->gate), NULL, q);
}

static void walk(void *p, vtci_steps *steps)
{
    struct job *job = p;

    lay_out(&steps->arena, steps->call, job);
    if (!steps->measure && job->hidden.n_rows != 0) {
        vtci_rope_frequencies(job->frequency, job->layer.d, job->layer.params.rope_theta);
        set_gate(job);
    }
    for (size_t first = 0; first < job->hidden.n_rows; first += job->block_rows)
        run_block(job, first, vtci_min(job->block_rows, job->hidden.n_rows - first), steps);
}

/* ---- public ---------------------------------------------------------------------------------- */

vtc_status vtc_hyper_attention_scratch(const vtc_hyper_attention_params *params,
                                       const vtc_hyper_attention_weights *weights,
                                       const vtc_prepared *prepared, const vtc_tensor *hidden,
                                       const vtc_hyper_sequence *sequences, size_t n_sequences,
                                       const vtc_tensor *attn, const vtc_tensor *out,
                                       const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_hyper_attention_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, prepared, hidden, sequences, n_sequences, attn, out,
                      &job));
    return vtci_steps_walk(&call, walk, &job, bytes);
}

vtc_status vtc_hyper_attention(const vtc_hyper_attention_params *params,
                               const vtc_hyper_attention_weights *weights,
                               const vtc_prepared *prepared, const vtc_tensor *hidden,
                               vtc_hyper_sequence *sequences, size_t n_sequences, vtc_tensor *attn,
                               vtc_tensor *out, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_hyper_attention", exec));
    VTCI_TRY(open_job(&call, params, weights, prepared, hidden, sequences, n_sequences, attn, out,
                      &job));
    return vtci_steps_walk(&call, walk, &job, NULL);
}
