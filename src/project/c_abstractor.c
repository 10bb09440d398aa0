/*
 * C-Abstractor, Honeybee's projector.
 *
 *   z = LayerNorm(x) + pos_emb                             both optional
 *   z = blocks of net.0 on the grid, adaptive average, blocks of net.2 on the output grid
 *   y = readout(z), eos_tokens                             linear layers with SiLU between them
 *
 *   block(z) = silu(LN(conv3(se(silu(LN(conv2(silu(LN(conv1(z)))))))) + shortcut(z))
 *   se(u)    = u * sigmoid(fc2(silu(fc1(mean of u over the grid))))
 *   shortcut = identity or LN(downsample(z));  conv1, conv3, downsample 1x1, conv2 depthwise 3x3
 *
 * Source: Honeybee's CAbstractor, whose blocks are timm's RegStage with bottle_ratio 1.
 *
 * Cost: the products of conv1, conv3, downsample and readout; the rest is passes over tokens.
 */
#include "../linalg/rows.h"
#include "../pool/window.h"
#include "chain.h"
#include "conv.h"
#include "conv_check.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const vtc_weight names[] = {
    { "prenorm.weight", offsetof(vtc_c_abstractor_weights, prenorm.weight), 1, 1 },
    { "prenorm.bias", offsetof(vtc_c_abstractor_weights, prenorm.bias), 1, 1 },
    { "pos_emb", offsetof(vtc_c_abstractor_weights, pos_emb), 3, 1 },
    { "eos_tokens", offsetof(vtc_c_abstractor_weights, eos_tokens), 3, 1 },
};
const vtc_weight_table vtc_c_abstractor_table = { "C-Abstractor", names,
                                                  sizeof(names) / sizeof(*names) };

#define AT(member) offsetof(vtc_c_abstractor_block, member)

static const vtc_weight block_names[] = {
    { "conv1.conv.weight", AT(conv1.conv), 2, 0 },
    { "conv1.bn.weight", AT(conv1.norm.weight), 1, 0 },
    { "conv1.bn.bias", AT(conv1.norm.bias), 1, 1 },
    { "conv2.conv.weight", AT(conv2.conv), 4, 0 },
    { "conv2.bn.weight", AT(conv2.norm.weight), 1, 0 },
    { "conv2.bn.bias", AT(conv2.norm.bias), 1, 1 },
    { "se.fc1.weight", AT(se.fc1.weight), 2, 0 },
    { "se.fc1.bias", AT(se.fc1.bias), 1, 1 },
    { "se.fc2.weight", AT(se.fc2.weight), 2, 0 },
    { "se.fc2.bias", AT(se.fc2.bias), 1, 1 },
    { "conv3.conv.weight", AT(conv3.conv), 2, 0 },
    { "conv3.bn.weight", AT(conv3.norm.weight), 1, 0 },
    { "conv3.bn.bias", AT(conv3.norm.bias), 1, 1 },
    { "downsample.conv.weight", AT(downsample.conv), 2, 1 },
    { "downsample.bn.weight", AT(downsample.norm.weight), 1, 1 },
    { "downsample.bn.bias", AT(downsample.norm.bias), 1, 1 },
};
const vtc_weight_table vtc_c_abstractor_block_table = {
    "C-Abstractor block", block_names, sizeof(block_names) / sizeof(*block_names)
};

struct job {
    vtc_c_abstractor_params params;
    const vtc_c_abstractor_weights *weights;
    vtci_rows x, y;
    vtci_rows embedding, eos; /* [h * w, C], [E, D]; no rows when absent */
    vtci_conv conv;
};

/* ---- parameters ------------------------------------------------------------------------------ */

static vtc_status open_params(const vtci_call *call, const vtc_c_abstractor_params *params,
                              struct job *job)
{
    static const vtc_c_abstractor_params defaults = VTC_C_ABSTRACTOR_PARAMS_INIT;
    const vtc_c_abstractor_params *p = &job->params;

    memset(job, 0, sizeof(*job));
    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_TRY(vtci_check_average(call, p->grid_h, p->grid_w, p->out_h, p->out_w));
    VTCI_TRY(vtci_check_eps(call, "eps", p->eps));
    return vtci_check_eps(call, "prenorm_eps", p->prenorm_eps);
}

/* The rows of an optional table [1, n, C]. */
static vtc_status open_table(const vtci_call *call, const char *name, const vtc_tensor *table,
                             vtci_rows *rows)
{
    if (vtc_tensor_is_absent(table))
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, name, table, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_REQUIRE(call, table->rank == 2 || table->dim[0] == 1, VTC_ERR_SHAPE,
                 "%s has %zu tables, 1 is needed", name, table->dim[0]);
    *rows = vtci_rows_of(table);
    return VTC_OK;
}

static vtc_status open_model(const vtci_call *call, const vtc_c_abstractor_params *params,
                             const vtc_c_abstractor_weights *weights, struct job *job)
{
    VTCI_TRY(open_params(call, params, job));
    VTCI_REQUIRE_PTR(call, weights);
    job->weights = weights;
    return open_table(call, "eos_tokens", &weights->eos_tokens, &job->eos);
}

static size_t n_averages(const struct job *job)
{
    return vtci_mul(job->params.out_h, job->params.out_w);
}

/* ---- checks of weights ----------------------------------------------------------------------- */

static vtc_status check_conv_norm(const vtci_owner *of, const char *conv, const char *norm,
                                  const vtc_conv_norm *layer, size_t n_in)
{
    VTCI_TRY(vtci_check_pointwise(of, conv, &layer->conv, n_in));
    return vtci_check_channel_norm(of, norm, &layer->norm, layer->conv.dim[0]);
}

/* *n_channels: before, then behind the block. */
static vtc_status check_block(const vtci_owner *of, const vtc_c_abstractor_block *b,
                              size_t *n_channels)
{
    const size_t n_inner = b->conv1.conv.dim[0], n_out = b->conv3.conv.dim[0];

    VTCI_TRY(check_conv_norm(of, "conv1.conv", "conv1.bn", &b->conv1, *n_channels));
    VTCI_TRY(vtci_check_depthwise(of, "conv2.conv", &b->conv2.conv, n_inner));
    VTCI_TRY(vtci_check_channel_norm(of, "conv2.bn", &b->conv2.norm, n_inner));
    VTCI_TRY(vtci_check_squeeze_excite(of, "se.", &b->se, n_inner));
    VTCI_TRY(check_conv_norm(of, "conv3.conv", "conv3.bn", &b->conv3, n_inner));
    if (vtc_tensor_is_absent(&b->downsample.conv)) {
        VTCI_TRY(vtci_check_width(of, "conv3.conv", &b->conv3.conv, *n_channels));
    } else {
        VTCI_TRY(
            check_conv_norm(of, "downsample.conv", "downsample.bn", &b->downsample, *n_channels));
        VTCI_TRY(vtci_check_width(of, "downsample.conv", &b->downsample.conv, n_out));
    }
    *n_channels = n_out;
    return VTC_OK;
}

static vtc_status check_stage(vtci_owner of, const char *stage, const vtc_c_abstractor_block *block,
                              size_t n, size_t *n_channels)
{
    char prefix[48];

    VTCI_REQUIRE(of.call, block != NULL || n == 0, VTC_ERR_NULL, "%zu blocks of %s are NULL", n,
                 stage);
    of.prefix = prefix;
    for (size_t i = 0; i < n; i++) {
        snprintf(prefix, sizeof(prefix), "%s.b%zu.", stage, i + 1);
        VTCI_TRY(check_block(&of, &block[i], n_channels));
    }
    return VTC_OK;
}

static vtc_status check_readout(const vtci_owner *of, const vtc_linear *layer, size_t n,
                                size_t *n_channels)
{
    char name[48];

    VTCI_REQUIRE(of->call, n != 0, VTC_ERR_RANGE, "the readout has no layer");
    VTCI_REQUIRE(of->call, layer != NULL, VTC_ERR_NULL, "%zu layers of readout are NULL", n);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "readout.%zu", 2 * i);
        VTCI_TRY(vtci_check_linear(of, name, &layer[i], *n_channels));
        *n_channels = layer[i].weight.dim[0];
    }
    return VTC_OK;
}

/* Norm and position table in front, whose rows become job->embedding. */
static vtc_status check_input(const vtci_owner *of, struct job *job)
{
    const vtc_c_abstractor_weights *w = job->weights;
    const vtc_c_abstractor_params *p = &job->params;
    vtci_rows *table = &job->embedding;

    if (!vtc_tensor_is_absent(&w->prenorm.weight))
        VTCI_TRY(vtci_check_channel_norm(of, "prenorm", &w->prenorm, job->x.n_cols));
    VTCI_TRY(open_table(of->call, "pos_emb", &w->pos_emb, table));
    if (vtc_tensor_is_absent(&w->pos_emb))
        return VTC_OK;
    if (table->n_rows == job->x.n_rows + 1) { /* of the class token */
        table->n_rows--;
        table->data += table->data == NULL ? 0 : table->row_stride;
    }
    VTCI_TRY(vtci_check_grid(of->call, "pos_emb", table, p->grid_h, p->grid_w, 0));
    VTCI_REQUIRE(of->call, table->n_cols == job->x.n_cols, VTC_ERR_SHAPE,
                 "pos_emb has %zu channels, x has %zu", table->n_cols, job->x.n_cols);
    return vtci_check_apart(of->call, "y", of->y, "pos_emb", &w->pos_emb);
}

static vtc_status check_weights(const vtci_call *call, const vtc_tensor *y, struct job *job)
{
    const vtc_c_abstractor_weights *w = job->weights;
    const vtci_owner of = { call, y, vtci_max(job->x.n_rows, job->y.n_rows), "" };
    size_t n_channels = job->x.n_cols;

    VTCI_TRY(check_input(&of, job));
    VTCI_TRY(check_stage(of, "net.0", w->before, w->n_before, &n_channels));
    VTCI_TRY(check_stage(of, "net.2", w->after, w->n_after, &n_channels));
    VTCI_TRY(check_readout(&of, w->readout, w->n_readout, &n_channels));
    VTCI_REQUIRE(call, job->y.n_cols == n_channels, VTC_ERR_SHAPE,
                 "y has %zu channels, the readout gives %zu", job->y.n_cols, n_channels);
    if (vtc_tensor_is_absent(&w->eos_tokens))
        return VTC_OK;
    VTCI_REQUIRE(call, job->eos.n_cols == n_channels, VTC_ERR_SHAPE,
                 "eos_tokens has %zu channels, the readout gives %zu", job->eos.n_cols, n_channels);
    return vtci_check_apart(call, "y", y, "eos_tokens", &w->eos_tokens);
}

static vtc_status open_job(const vtci_call *call, const vtc_c_abstractor_params *params,
                           const vtc_c_abstractor_weights *weights, const vtc_tensor *x,
                           const vtc_tensor *y, struct job *job)
{
    const vtc_c_abstractor_params *p = &job->params;

    VTCI_TRY(open_model(call, params, weights, job));
    VTCI_TRY(vtci_check_tokens(call, x, y));
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_TRY(vtci_check_grid(call, "x", &job->x, p->grid_h, p->grid_w, 0));
    VTCI_TRY(vtci_check_grid(call, "y", &job->y, p->out_h, p->out_w, job->eos.n_rows));
    return check_weights(call, y, job);
}

/* ---- the work -------------------------------------------------------------------------------- */

struct input_pass {
    const vtci_rows *from;
    const vtci_map *z, *tmp;
};

/* z = the rows, widened */
static void load_block(void *job, size_t index, size_t worker)
{
    const struct input_pass *p = job;
    const size_t n = p->from->n_cols;

    (void)worker;
    for (size_t i = index * VTCI_CONV_BLOCK; i < vtci_block_end(p->z, index); i++) {
        float *row = vtci_map_token(p->z, i);

        vtci_store_row(row, VTC_F32, n,
                       vtci_load_row(vtci_row(p->from, 0, i), p->from->dtype, n, row));
    }
}

/* z += the rows; tmp takes them where they must be widened */
static void add_block(void *job, size_t index, size_t worker)
{
    const struct input_pass *p = job;
    const size_t n = p->from->n_cols;

    (void)worker;
    for (size_t i = index * VTCI_CONV_BLOCK; i < vtci_block_end(p->z, index); i++) {
        const float *embedding =
            vtci_load_row(vtci_row(p->from, 0, i), p->from->dtype, n, vtci_map_token(p->tmp, i));

        vtci_kernels_get()->add(vtci_map_token(p->z, i), vtci_map_token(p->z, i), embedding, n);
    }
}

/* The tokens of the image in buffer 0, normalised and with their positions. */
static vtci_map load_image(struct job *job)
{
    vtci_conv *conv = &job->conv;
    const size_t h = job->params.grid_h, w = job->params.grid_w;
    const vtci_map z = vtci_conv_map(conv, 0, h, w, job->x.n_cols);
    const vtci_map tmp = vtci_conv_map(conv, 1, h, w, job->x.n_cols);
    const vtci_rows x = vtci_image_rows(&job->x, job->conv.image, job->x.n_rows);
    struct input_pass load = { &x, &z, NULL }, add = { &job->embedding, &z, &tmp };

    vtci_conv_blocks(conv, &z, load_block, &load);
    if (!vtc_tensor_is_absent(&job->weights->prenorm.weight))
        vtci_conv_norm(conv, &z, &job->weights->prenorm, job->params.prenorm_eps, NULL,
                       VTCI_ACT_NONE, &z.rows);
    if (job->embedding.n_rows != 0)
        vtci_conv_blocks(conv, &z, add_block, &add);
    return z;
}

/* What the block's result is added to: z itself, or its shortcut in `buffer`. */
static vtci_map shortcut(struct job *job, const vtc_c_abstractor_block *b, const vtci_map *z,
                         size_t buffer)
{
    const vtc_conv_norm *layer = &b->downsample;

    if (vtc_tensor_is_absent(&layer->conv))
        return *z;

    const vtci_map y = vtci_conv_map(&job->conv, buffer, z->h, z->w, layer->conv.dim[0]);

    vtci_conv_pointwise(&job->conv, z, &layer->conv, &y);
    vtci_conv_norm(&job->conv, &y, &layer->norm, job->params.eps, NULL, VTCI_ACT_NONE, &y.rows);
    return y;
}

/* z is in `buffer`, 0 or 1, and so is the result; the other two are used. */
static vtci_map run_block(struct job *job, const vtc_c_abstractor_block *b, vtci_map z,
                          size_t buffer)
{
    const vtci_bottleneck bottleneck = { &b->conv2,      VTCI_ACT_SILU,    &b->se,
                                         VTCI_ACT_SILU,  VTCI_ACT_SIGMOID, 1,
                                         job->params.eps };
    vtci_conv *conv = &job->conv;
    const float eps = job->params.eps;
    const size_t n_inner = b->conv1.conv.dim[0], n_out = b->conv3.conv.dim[0];
    const vtci_map inner = vtci_conv_map(conv, 1 - buffer, z.h, z.w, n_inner);
    const vtci_map excited = vtci_conv_map(conv, 2, z.h, z.w, n_inner);
    const vtci_map outer = vtci_conv_map(conv, 1 - buffer, z.h, z.w, n_out);
    const vtci_map y = vtci_conv_map(conv, buffer, z.h, z.w, n_out);
    vtci_map skip;

    vtci_conv_pointwise(conv, &z, &b->conv1.conv, &inner);
    vtci_conv_norm(conv, &inner, &b->conv1.norm, eps, NULL, VTCI_ACT_SILU, &inner.rows);
    vtci_conv_bottleneck(conv, &bottleneck, &inner, &excited);
    vtci_conv_pointwise(conv, &excited, &b->conv3.conv, &outer);
    skip = shortcut(job, b, &z, 2);
    vtci_conv_norm(conv, &outer, &b->conv3.norm, eps, &skip, VTCI_ACT_SILU, &y.rows);
    return y;
}

static void read_out(struct job *job, vtci_map z)
{
    const vtc_c_abstractor_weights *w = job->weights;
    const vtci_rows y = vtci_image_rows(&job->y, job->conv.image, n_averages(job));

    /* the tokens are in buffer 1 */
    for (size_t i = 0; i + 1 < w->n_readout; i++) {
        const vtci_map next =
            vtci_conv_map(&job->conv, i % 2 == 0 ? 0 : 1, z.h, z.w, w->readout[i].weight.dim[0]);

        vtci_conv_linear(&job->conv, &z.rows, &w->readout[i], VTCI_ACT_SILU, &next.rows);
        z = next;
    }
    vtci_conv_linear(&job->conv, &z.rows, &w->readout[w->n_readout - 1], VTCI_ACT_NONE, &y);
}

static void append_eos(struct job *job)
{
    const vtci_map tmp = vtci_conv_map(&job->conv, 0, 1, 1, job->eos.n_cols);

    for (size_t i = 0; i < job->eos.n_rows && !job->conv.measuring; i++)
        vtci_copy_token(vtci_row(&job->eos, 0, i), job->eos.dtype, &job->y, job->conv.image,
                        n_averages(job) + i, vtci_map_token(&tmp, 0));
}

static void project_image(void *p)
{
    struct job *job = p;
    const vtc_c_abstractor_weights *w = job->weights;
    vtci_map z = load_image(job), average;

    for (size_t i = 0; i < w->n_before; i++)
        z = run_block(job, &w->before[i], z, 0);
    average = vtci_conv_map(&job->conv, 1, job->params.out_h, job->params.out_w, z.rows.n_cols);
    vtci_conv_average(&job->conv, &z, &average);
    for (size_t i = 0; i < w->n_after; i++)
        average = run_block(job, &w->after[i], average, 1);
    read_out(job, average);
    append_eos(job);
}

/* ---- public functions ------------------------------------------------------------------------ */

vtc_status vtc_c_abstractor_count(const vtc_c_abstractor_params *params,
                                  const vtc_c_abstractor_weights *weights, size_t *n_tokens,
                                  const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_c_abstractor_count", exec));
    VTCI_REQUIRE_PTR(&call, n_tokens);
    call.query = true; /* extents will do */
    VTCI_TRY(open_model(&call, params, weights, &job));
    const size_t n = vtci_add(n_averages(&job), job.eos.n_rows);

    VTCI_REQUIRE(&call, n != SIZE_MAX, VTC_ERR_OVERFLOW, "the number of tokens overflows");
    *n_tokens = n;
    return VTC_OK;
}

vtc_status vtc_c_abstractor_scratch(const vtc_c_abstractor_params *params,
                                    const vtc_c_abstractor_weights *weights, const vtc_tensor *x,
                                    const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_c_abstractor_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, bytes);
}

vtc_status vtc_c_abstractor(const vtc_c_abstractor_params *params,
                            const vtc_c_abstractor_weights *weights, const vtc_tensor *x,
                            vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_c_abstractor", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, NULL);
}
