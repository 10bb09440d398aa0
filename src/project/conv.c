/* The steps of light convolutional projectors. */
#include "conv.h"

#include "../linalg/operands.h"
#include "../linalg/rows.h"
#include "../pool/window.h"

#include <string.h>

enum { BLOCK = VTCI_CONV_BLOCK, N_TAPS = 9 };

/* ---- tokens ---------------------------------------------------------------------------------- */

vtci_map vtci_conv_map(vtci_conv *conv, size_t buffer, size_t h, size_t w, size_t n_channels)
{
    const size_t n = vtci_mul(h, w);
    const vtci_map map = { vtci_float_rows(conv->map[buffer], n, n_channels), h, w };

    if (conv->measuring) {
        conv->map_floats[buffer] = vtci_max(conv->map_floats[buffer], vtci_mul(n, n_channels));
        conv->n_blocks = vtci_max(conv->n_blocks, vtci_ceil_div(n, BLOCK));
        conv->n_channels = vtci_max(conv->n_channels, n_channels);
    }
    return map;
}

vtci_rows vtci_image_rows(const vtci_rows *rows, size_t b, size_t n)
{
    return vtci_rows_part(vtci_batch_part(*rows, b, 1), 0, n);
}

float *vtci_map_token(const vtci_map *map, size_t i)
{
    return (float *)(void *)vtci_row(&map->rows, 0, i);
}

static size_t n_blocks(const vtci_map *map)
{
    return vtci_ceil_div(map->rows.n_rows, BLOCK);
}

size_t vtci_block_end(const vtci_map *map, size_t index)
{
    return vtci_min((index + 1) * BLOCK, map->rows.n_rows);
}

void vtci_conv_blocks(const vtci_conv *conv, const vtci_map *map,
                      void (*block)(void *job, size_t index, size_t worker), void *job)
{
    if (!conv->measuring)
        vtci_parallel(conv->call, n_blocks(map), block, job);
}

/* ---- layout ---------------------------------------------------------------------------------- */

void vtci_conv_lay_out(vtci_arena *arena, const vtci_call *call, vtci_conv *conv,
                       void (*image)(void *job), void *job)
{
    memset(conv, 0, sizeof(*conv));
    conv->call = call;
    conv->measuring = true;
    image(job);
    conv->measuring = false;

    for (size_t i = 0; i < VTCI_CONV_BUFFERS; i++)
        conv->map[i] = vtci_take_matrix(arena, 1, conv->map_floats[i]);
    conv->taps = vtci_take_matrix(arena, N_TAPS, conv->n_channels);
    conv->weight = vtci_take_matrix(arena, 1, conv->n_channels);
    conv->bias = vtci_take_matrix(arena, 1, conv->n_channels);
    conv->sums = vtci_take_matrix(arena, conv->n_blocks, conv->n_channels);
    conv->mean = vtci_take_matrix(arena, 1, conv->n_channels);
    conv->gate = vtci_take_matrix(arena, 1, conv->n_channels);
    conv->hidden = vtci_take_matrix(arena, 1, conv->n_hidden);
    conv->products.base = vtci_take(arena, conv->product_bytes, 1);
}

vtc_status vtci_conv_walk(const vtci_call *call, vtci_conv *conv, void (*image)(void *job),
                          void *job, const vtci_rows *y, size_t *bytes)
{
    const size_t n = y->n_rows == 0 || y->n_cols == 0 ? 0 : y->n_batch;
    vtci_arena arena = vtci_arena_open(call);

    vtci_conv_lay_out(&arena, call, conv, image, job);
    if (call->query)
        return vtci_end_query(call, &arena, bytes);
    VTCI_TRY(vtci_arena_check(call, &arena));
    for (conv->image = 0; conv->image < n; conv->image++)
        image(job);
    return VTC_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* A vector as floats, widened into tmp if need be; NULL when it is absent. */
static const float *load_vector(const vtc_tensor *v, float *tmp)
{
    if (vtc_tensor_is_absent(v))
        return NULL;
    return vtci_load_row(v->data, v->dtype, v->dim[0], tmp);
}

static vtci_rows optional_row(const vtc_tensor *v)
{
    static const vtci_rows none = { 0 };

    return vtc_tensor_is_absent(v) ? none : vtci_rows_of(v);
}

/* [C, 1, 3, 3] as rows of channels, [9, C]. */
static void load_taps(const vtc_tensor *weight, float *taps)
{
    const size_t n = weight->dim[0], size = vtc_dtype_size(weight->dtype);

    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < 3; i++) {
            const size_t at = c * weight->stride[0] + i * weight->stride[2];
            float tmp[3];
            const float *row =
                vtci_load_row((const char *)weight->data + at * size, weight->dtype, 3, tmp);

            for (size_t j = 0; j < 3; j++)
                taps[(3 * i + j) * n + c] = row[j];
        }
}

/* ---- products -------------------------------------------------------------------------------- */

static void multiply(vtci_conv *conv, const vtci_rows *x, const vtc_tensor *weight, vtci_rows bias,
                     vtci_activation act, const vtci_rows *y)
{
    vtci_gemm g = { .a = *x, .c = *y, .trans_b = true, .bias = bias, .act = act };
    vtci_arena scratch = conv->products;
    vtc_tensor w = *weight;

    w.rank = 2; /* without the 1x1 of a convolution */
    g.b = vtci_rows_of(&w);
    vtci_gemm_lay_out(&scratch, conv->call, &g);
    if (!conv->measuring)
        vtci_gemm_run(conv->call, &g);
    else
        conv->product_bytes =
            scratch.overflow ? SIZE_MAX : vtci_max(conv->product_bytes, scratch.used);
}

void vtci_conv_linear(vtci_conv *conv, const vtci_rows *x, const vtc_linear *layer,
                      vtci_activation act, const vtci_rows *y)
{
    multiply(conv, x, &layer->weight, optional_row(&layer->bias), act, y);
}

void vtci_conv_pointwise(vtci_conv *conv, const vtci_map *x, const vtc_tensor *weight,
                         const vtci_map *y)
{
    static const vtci_rows no_bias = { 0 };

    multiply(conv, &x->rows, weight, no_bias, VTCI_ACT_NONE, &y->rows);
}

/* ---- norms ----------------------------------------------------------------------------------- */

struct norm_pass {
    const vtci_map *x, *skip;
    const float *weight, *bias;
    float eps;
    vtci_activation act;
    const vtci_rows *y;
};

static void norm_block(void *job, size_t index, size_t worker)
{
    const struct norm_pass *p = job;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t n = p->x->rows.n_cols;

    (void)worker;
    for (size_t i = index * BLOCK; i < vtci_block_end(p->x, index); i++) {
        float *row = vtci_map_token(p->x, i);

        k->layer_norm(row, row, p->weight, p->bias, p->eps, n);
        if (p->skip != NULL)
            k->add(row, row, vtci_map_token(p->skip, i), n);
        k->activate(p->act, row, row, NULL, n);
        vtci_store_row(vtci_row(p->y, 0, i), p->y->dtype, n, row);
    }
}

void vtci_conv_norm(vtci_conv *conv, const vtci_map *x, const vtc_norm *norm, float eps,
                    const vtci_map *skip, vtci_activation act, const vtci_rows *y)
{
    struct norm_pass p = { x, skip, NULL, NULL, eps, act, y };

    if (conv->measuring)
        return;
    p.weight = load_vector(&norm->weight, conv->weight);
    p.bias = load_vector(&norm->bias, conv->bias);
    vtci_conv_blocks(conv, x, norm_block, &p);
}

/* ---- depthwise convolution ------------------------------------------------------------------- */

struct depthwise_pass {
    const vtci_map *x, *y; /* y is ceil(h / stride) x ceil(w / stride) */
    size_t stride;
    const float *taps, *bias; /* bias of the convolution or NULL */

    /* of a bottleneck */
    const float *norm_weight, *norm_bias;
    float eps;
    vtci_activation act;
    float *sums;

    const vtci_rows *out; /* of vtci_conv_add_depthwise() */
};

/* row = the convolution at output token i. Cells outside the grid are zeros. */
static void convolve(const struct depthwise_pass *p, size_t i, float *row)
{
    const size_t n = p->x->rows.n_cols, h = p->x->h, w = p->x->w;
    const size_t top = i / p->y->w * p->stride, left = i % p->y->w * p->stride;
    const float *x[N_TAPS], *taps[N_TAPS];
    size_t n_inside = 0;

    for (size_t tap = 0; tap < N_TAPS; tap++) {
        /* the window's corner may be one row and column outside: subtract last */
        const size_t r = top + tap / 3, c = left + tap % 3;

        if (r < 1 || r > h || c < 1 || c > w)
            continue;
        x[n_inside] = vtci_map_token(p->x, (r - 1) * w + c - 1);
        taps[n_inside++] = p->taps + tap * n;
    }
    vtci_kernels_get()->combine_each(row, x, taps, p->bias, n_inside, n);
}

/* A block of tokens up to the activation, and their sum. */
static void bottleneck_block(void *job, size_t index, size_t worker)
{
    const struct depthwise_pass *p = job;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t n = p->y->rows.n_cols, begin = index * BLOCK, end = vtci_block_end(p->y, index);
    const float *rows[BLOCK];
    float ones[BLOCK];

    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float *row = vtci_map_token(p->y, i);

        convolve(p, i, row);
        k->layer_norm(row, row, p->norm_weight, p->norm_bias, p->eps, n);
        k->activate(p->act, row, row, NULL, n);
        rows[i - begin] = row;
        ones[i - begin] = 1.0f;
    }
    k->combine(p->sums + index * n, rows, ones, end - begin, n, 0);
}

/* The mean over all tokens, from the sums of their blocks. */
static void average_sums(vtci_conv *conv, const vtci_map *y)
{
    const float share = 1.0f / (float)y->rows.n_rows;

    for (size_t b = 0; b < n_blocks(y); b++) {
        const float *row = conv->sums + b * y->rows.n_cols;

        vtci_kernels_get()->combine(conv->mean, &row, &share, 1, y->rows.n_cols, b != 0);
    }
}

struct gate_pass {
    const vtci_map *y;
    const float *gate;
};

static void gate_block(void *job, size_t index, size_t worker)
{
    const struct gate_pass *p = job;

    (void)worker;
    for (size_t i = index * BLOCK; i < vtci_block_end(p->y, index); i++)
        vtci_kernels_get()->multiply(vtci_map_token(p->y, i), vtci_map_token(p->y, i), p->gate,
                                     p->y->rows.n_cols);
}

static void squeeze_excite(vtci_conv *conv, const vtci_bottleneck *b, const vtci_map *y)
{
    const size_t n_hidden = b->se->fc1.weight.dim[0];
    const vtci_rows mean = vtci_float_rows(conv->mean, 1, y->rows.n_cols);
    const vtci_rows hidden = vtci_float_rows(conv->hidden, 1, n_hidden);
    const vtci_rows gate = vtci_float_rows(conv->gate, 1, y->rows.n_cols);
    struct gate_pass p = { y, conv->gate };

    conv->n_hidden = vtci_max(conv->n_hidden, n_hidden);
    vtci_conv_linear(conv, &mean, &b->se->fc1, b->se_act, &hidden);
    vtci_conv_linear(conv, &hidden, &b->se->fc2, b->se_gate, &gate);
    vtci_conv_blocks(conv, y, gate_block, &p);
}

void vtci_conv_bottleneck(vtci_conv *conv, const vtci_bottleneck *b, const vtci_map *x,
                          const vtci_map *y)
{
    struct depthwise_pass p = { .x = x, .y = y, .stride = b->stride, .taps = conv->taps };

    if (!conv->measuring) {
        load_taps(&b->depthwise->conv, conv->taps);
        p.norm_weight = load_vector(&b->depthwise->norm.weight, conv->weight);
        p.norm_bias = load_vector(&b->depthwise->norm.bias, conv->bias);
        p.eps = b->eps;
        p.act = b->act;
        p.sums = conv->sums;
        vtci_conv_blocks(conv, y, bottleneck_block, &p);
        average_sums(conv, y);
    }
    squeeze_excite(conv, b, y);
}

static void add_depthwise_block(void *job, size_t index, size_t worker)
{
    const struct depthwise_pass *p = job;
    const size_t n = p->x->rows.n_cols;

    (void)worker;
    for (size_t i = index * BLOCK; i < vtci_block_end(p->y, index); i++) {
        char *to = vtci_row(p->out, 0, i);
        float *row = vtci_row_buffer(to, p->out->dtype, vtci_map_token(p->y, i));

        convolve(p, i, row);
        vtci_kernels_get()->add(row, row, vtci_map_token(p->x, i), n);
        vtci_store_row(to, p->out->dtype, n, row);
    }
}

void vtci_conv_add_depthwise(vtci_conv *conv, const vtci_map *x, const vtc_linear *depthwise,
                             const vtci_map *tmp, const vtci_rows *y)
{
    struct depthwise_pass p = { .x = x, .y = tmp, .stride = 1, .taps = conv->taps, .out = y };

    if (conv->measuring)
        return;
    load_taps(&depthwise->weight, conv->taps);
    p.bias = load_vector(&depthwise->bias, conv->bias);
    vtci_conv_blocks(conv, x, add_depthwise_block, &p);
}

/* ---- average --------------------------------------------------------------------------------- */

struct average_pass {
    vtci_grid grid;
    vtci_pooling pooling;
    vtci_rows y;
};

static void average_row(void *job, size_t i, size_t worker)
{
    const struct average_pass *p = job;

    (void)worker;
    vtci_pool_row(&p->grid, &p->pooling, i, &p->y, 0, i * p->pooling.across.n_out, NULL);
}

void vtci_conv_average(vtci_conv *conv, const vtci_map *x, const vtci_map *y)
{
    const vtci_axis down = { VTCI_SAMPLE_ADAPTIVE, x->h, y->h, 0, 0 };
    const vtci_axis across = { VTCI_SAMPLE_ADAPTIVE, x->w, y->w, 0, 0 };
    struct average_pass p = { vtci_grid_of(&x->rows, 0, x->h, x->w),
                              { down, across, false },
                              y->rows };

    if (!conv->measuring)
        vtci_parallel(conv->call, y->h, average_row, &p);
}
