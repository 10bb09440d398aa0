/*
 * LDP, MobileVLM's projector.
 *
 *   z = mlp.3(gelu(mlp.1(x)))
 *   z = z + block_1(z)           stride 1
 *   y = block_2(z)               stride 2
 *
 *   block(z) = LayerNorm(pointwise(se(hard_swish(LayerNorm(depthwise(z))))))
 *   se(u)    = u * hard_sigmoid(fc2(relu(fc1(mean of u over the grid))))
 *
 * Source: MobileVLM's LDPNetProjector, whose blocks are MobileNetV3's with norms over channels.
 *
 * Cost: the products; everything else passes over tokens that fit the cache, half a dozen times.
 */
#include "chain.h"
#include "conv.h"
#include "conv_check.h"

#include <stddef.h>

#define AT(member) offsetof(vtc_ldp_weights, member)

static const vtc_weight names[] = {
    { "mlp.1.weight", AT(mlp_1.weight), 2, 0 },
    { "mlp.1.bias", AT(mlp_1.bias), 1, 1 },
    { "mlp.3.weight", AT(mlp_3.weight), 2, 0 },
    { "mlp.3.bias", AT(mlp_3.bias), 1, 1 },
    { "mb_block.1.block.0.0.weight", AT(block[0].depthwise.conv), 4, 0 },
    { "mb_block.1.block.0.1.weight", AT(block[0].depthwise.norm.weight), 1, 0 },
    { "mb_block.1.block.0.1.bias", AT(block[0].depthwise.norm.bias), 1, 1 },
    { "mb_block.1.block.1.fc1.weight", AT(block[0].se.fc1.weight), 2, 0 },
    { "mb_block.1.block.1.fc1.bias", AT(block[0].se.fc1.bias), 1, 1 },
    { "mb_block.1.block.1.fc2.weight", AT(block[0].se.fc2.weight), 2, 0 },
    { "mb_block.1.block.1.fc2.bias", AT(block[0].se.fc2.bias), 1, 1 },
    { "mb_block.1.block.2.0.weight", AT(block[0].pointwise.conv), 2, 0 },
    { "mb_block.1.block.2.1.weight", AT(block[0].pointwise.norm.weight), 1, 0 },
    { "mb_block.1.block.2.1.bias", AT(block[0].pointwise.norm.bias), 1, 1 },
    { "mb_block.2.block.0.0.weight", AT(block[1].depthwise.conv), 4, 0 },
    { "mb_block.2.block.0.1.weight", AT(block[1].depthwise.norm.weight), 1, 0 },
    { "mb_block.2.block.0.1.bias", AT(block[1].depthwise.norm.bias), 1, 1 },
    { "mb_block.2.block.1.fc1.weight", AT(block[1].se.fc1.weight), 2, 0 },
    { "mb_block.2.block.1.fc1.bias", AT(block[1].se.fc1.bias), 1, 1 },
    { "mb_block.2.block.1.fc2.weight", AT(block[1].se.fc2.weight), 2, 0 },
    { "mb_block.2.block.1.fc2.bias", AT(block[1].se.fc2.bias), 1, 1 },
    { "mb_block.2.block.2.0.weight", AT(block[1].pointwise.conv), 2, 0 },
    { "mb_block.2.block.2.1.weight", AT(block[1].pointwise.norm.weight), 1, 0 },
    { "mb_block.2.block.2.1.bias", AT(block[1].pointwise.norm.bias), 1, 1 },
};
const vtc_weight_table vtc_ldp_table = { "LDP", names, sizeof(names) / sizeof(*names) };

struct job {
    vtc_ldp_params params;
    const vtc_ldp_weights *weights;
    vtci_rows x, y;
    size_t out_h, out_w;
    vtci_conv conv;
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_ldp_params *params, struct job *job)
{
    static const vtc_ldp_params defaults = VTC_LDP_PARAMS_INIT;

    job->params = defaults;
    VTCI_TRY(vtci_params_read(call, &job->params, sizeof(job->params), params));
    VTCI_TRY(vtci_check_activation(call, job->params.act));
    job->out_h = vtci_ceil_div(job->params.grid_h, 2);
    job->out_w = vtci_ceil_div(job->params.grid_w, 2);
    return vtci_check_eps(call, "eps", job->params.eps);
}

static vtc_status check_block(vtci_owner of, const char *prefix, const vtc_ldp_block *block,
                              size_t d)
{
    of.prefix = prefix;
    VTCI_TRY(vtci_check_depthwise(&of, "block.0.0", &block->depthwise.conv, d));
    VTCI_TRY(vtci_check_channel_norm(&of, "block.0.1", &block->depthwise.norm, d));
    VTCI_TRY(vtci_check_squeeze_excite(&of, "block.1.", &block->se, d));
    VTCI_TRY(vtci_check_pointwise(&of, "block.2.0", &block->pointwise.conv, d));
    VTCI_TRY(vtci_check_width(&of, "block.2.0", &block->pointwise.conv, d));
    return vtci_check_channel_norm(&of, "block.2.1", &block->pointwise.norm, d);
}

static vtc_status check_weights(const vtci_call *call, const vtc_ldp_weights *w,
                                const vtc_tensor *y, const struct job *job)
{
    const vtci_owner of = { call, y, job->x.n_rows, "" };
    const size_t d = job->y.n_cols;

    VTCI_TRY(vtci_check_linear(&of, "mlp.1", &w->mlp_1, job->x.n_cols));
    VTCI_TRY(vtci_check_linear(&of, "mlp.3", &w->mlp_3, w->mlp_1.weight.dim[0]));
    VTCI_TRY(vtci_check_width(&of, "mlp.3", &w->mlp_3.weight, d));
    VTCI_TRY(check_block(of, "mb_block.1.", &w->block[0], d));
    return check_block(of, "mb_block.2.", &w->block[1], d);
}

static vtc_status open_job(const vtci_call *call, const vtc_ldp_params *params,
                           const vtc_ldp_weights *weights, const vtc_tensor *x, const vtc_tensor *y,
                           struct job *job)
{
    VTCI_TRY(open_params(call, params, job));
    VTCI_REQUIRE_PTR(call, weights);
    VTCI_TRY(vtci_check_tokens(call, x, y));
    job->weights = weights;
    job->x = vtci_rows_of(x);
    job->y = vtci_rows_of(y);
    VTCI_TRY(vtci_check_grid(call, "x", &job->x, job->params.grid_h, job->params.grid_w, 0));
    VTCI_TRY(vtci_check_grid(call, "y", &job->y, job->out_h, job->out_w, 0));
    return check_weights(call, weights, y, job);
}

/* ---- the work -------------------------------------------------------------------------------- */

/* to = block(from) + skip; `from` is in buffer 1, the other two are used. */
static void run_block(struct job *job, const vtc_ldp_block *block, const vtci_map *from,
                      size_t stride, const vtci_map *skip, const vtci_rows *to)
{
    const vtci_bottleneck bottleneck = { &block->depthwise, VTCI_ACT_HARD_SWISH,   &block->se,
                                         VTCI_ACT_RELU,     VTCI_ACT_HARD_SIGMOID, stride,
                                         job->params.eps };
    const size_t h = vtci_ceil_div(from->h, stride), w = vtci_ceil_div(from->w, stride);
    const vtci_map inner = vtci_conv_map(&job->conv, 0, h, w, from->rows.n_cols);
    const vtci_map outer = vtci_conv_map(&job->conv, 2, h, w, from->rows.n_cols);

    vtci_conv_bottleneck(&job->conv, &bottleneck, from, &inner);
    vtci_conv_pointwise(&job->conv, &inner, &block->pointwise.conv, &outer);
    vtci_conv_norm(&job->conv, &outer, &block->pointwise.norm, job->params.eps, skip, VTCI_ACT_NONE,
                   to);
}

static void project_image(void *p)
{
    struct job *job = p;
    const vtc_ldp_weights *w = job->weights;
    const size_t grid_h = job->params.grid_h, grid_w = job->params.grid_w;
    const vtci_map hidden = vtci_conv_map(&job->conv, 0, grid_h, grid_w, w->mlp_1.weight.dim[0]);
    const vtci_map z = vtci_conv_map(&job->conv, 1, grid_h, grid_w, job->y.n_cols);
    const vtci_rows x = vtci_image_rows(&job->x, job->conv.image, job->x.n_rows);
    const vtci_rows y = vtci_image_rows(&job->y, job->conv.image, job->y.n_rows);

    vtci_conv_linear(&job->conv, &x, &w->mlp_1, (vtci_activation)job->params.act, &hidden.rows);
    vtci_conv_linear(&job->conv, &hidden.rows, &w->mlp_3, VTCI_ACT_NONE, &z.rows);
    run_block(job, &w->block[0], &z, 1, &z, &z.rows);
    run_block(job, &w->block[1], &z, 2, NULL, &y);
}

/* ---- public functions ------------------------------------------------------------------------ */

vtc_status vtc_ldp_count(const vtc_ldp_params *params, size_t *out_h, size_t *out_w,
                         const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_ldp_count", exec));
    VTCI_REQUIRE_PTR(&call, out_h);
    VTCI_REQUIRE_PTR(&call, out_w);
    VTCI_TRY(open_params(&call, params, &job));
    *out_h = job.out_h;
    *out_w = job.out_w;
    return VTC_OK;
}

vtc_status vtc_ldp_scratch(const vtc_ldp_params *params, const vtc_ldp_weights *weights,
                           const vtc_tensor *x, const vtc_tensor *y, const vtc_exec *exec,
                           size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_ldp_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, bytes);
}

vtc_status vtc_ldp(const vtc_ldp_params *params, const vtc_ldp_weights *weights,
                   const vtc_tensor *x, vtc_tensor *y, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_ldp", exec));
    VTCI_TRY(open_job(&call, params, weights, x, y, &job));
    return vtci_conv_walk(&call, &job.conv, project_image, &job, &job.y, NULL);
}
