#include "conv_reference.h"

#include "pool_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- functions of one number ----------------------------------------------------------------- */

static double identity(double x)
{
    return x;
}

static double relu(double x)
{
    return x > 0.0 ? x : 0.0;
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double silu(double x)
{
    return x * sigmoid(x);
}

static double hard_sigmoid(double x)
{
    return fmin(fmax(x + 3.0, 0.0), 6.0) / 6.0;
}

static double hard_swish(double x)
{
    return x * hard_sigmoid(x);
}

static double gelu_erf(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void apply(double (*f)(double), double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = f(x[i]);
}

static double (*gelu(vtc_activation act))(double)
{
    return act == VTC_ACT_GELU_TANH ? gelu_tanh : gelu_erf;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static double *zeros(size_t n)
{
    double *x = calloc(n + 1, sizeof(*x));

    if (x == NULL)
        abort();
    return x;
}

/* A vector of weights, `missing` throughout when it is absent. */
static double *vector(const vtc_tensor *t, size_t n, double missing)
{
    double *x;

    if (!vtc_tensor_is_absent(t))
        return values_of(t);
    x = zeros(n);
    for (size_t i = 0; i < n; i++)
        x[i] = missing;
    return x;
}

/* y [n, D] = x [n, C] W^T + b, as a new array. */
static double *linear(const double *x, size_t n, const vtc_tensor *weight, const vtc_tensor *bias)
{
    const size_t n_out = weight->dim[0], n_in = weight->dim[1];
    double *y = zeros(n * n_out), *w = values_of(weight), *b = vector(bias, n_out, 0.0);

    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < n_out; o++) {
            double sum = b[o];

            for (size_t c = 0; c < n_in; c++)
                sum += x[i * n_in + c] * w[o * n_in + c];
            y[i * n_out + o] = sum;
        }
    free(w);
    free(b);
    return y;
}

static double *convolve_1x1(const double *x, size_t n, const vtc_tensor *weight)
{
    static const vtc_tensor no_bias = { NULL, (vtc_dtype)0, 0, { 0 }, { 0 }, { 0 } };

    return linear(x, n, weight, &no_bias);
}

static void layer_norm(double *x, size_t n, const vtc_norm *norm, double eps)
{
    const size_t c = norm->weight.dim[0];
    double *w = values_of(&norm->weight), *b = vector(&norm->bias, c, 0.0);

    for (size_t i = 0; i < n; i++, x += c) {
        double mean = 0.0, variance = 0.0;

        for (size_t ch = 0; ch < c; ch++)
            mean += x[ch] / (double)c;
        for (size_t ch = 0; ch < c; ch++)
            variance += (x[ch] - mean) * (x[ch] - mean) / (double)c;
        for (size_t ch = 0; ch < c; ch++)
            x[ch] = (x[ch] - mean) / sqrt(variance + eps) * w[ch] + b[ch];
    }
    free(w);
    free(b);
}

void ref_depthwise(const double *x, size_t h, size_t w, const vtc_tensor *taps, size_t stride,
                   double *y)
{
    const size_t c = taps->dim[0];
    double *t = values_of(taps);

    for (size_t row = 0; row < h; row += stride)
        for (size_t col = 0; col < w; col += stride)
            for (size_t ch = 0; ch < c; ch++) {
                double sum = 0.0;

                for (int i = 0; i < 9; i++) {
                    const long r = (long)row + i / 3 - 1, s = (long)col + i % 3 - 1;

                    if (r >= 0 && r < (long)h && s >= 0 && s < (long)w)
                        sum += t[ch * 9 + (size_t)i] * x[((size_t)r * w + (size_t)s) * c + ch];
                }
                *y++ = sum;
            }
    free(t);
}

static void squeeze_excite(double *x, size_t n, const vtc_squeeze_excite *se, double (*act)(double),
                           double (*gate)(double))
{
    const size_t c = se->fc1.weight.dim[1];
    double *mean = zeros(c), *hidden, *scale;

    for (size_t i = 0; i < n * c; i++)
        mean[i % c] += x[i] / (double)n;
    hidden = linear(mean, 1, &se->fc1.weight, &se->fc1.bias);
    apply(act, hidden, se->fc1.weight.dim[0]);
    scale = linear(hidden, 1, &se->fc2.weight, &se->fc2.bias);
    apply(gate, scale, c);
    for (size_t i = 0; i < n * c; i++)
        x[i] *= scale[i % c];
    free(mean);
    free(hidden);
    free(scale);
}

/* Adds b to a and frees it. */
static void add(double *a, double *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] += b[i];
    free(b);
}

/* ---- LDP ------------------------------------------------------------------------------------- */

/* Two linear layers with the activation between them. */
static double *mlp(const double *x, size_t n, const vtc_linear *first, const vtc_linear *second,
                   vtc_activation act)
{
    double *hidden = linear(x, n, &first->weight, &first->bias);
    double *y;

    apply(gelu(act), hidden, n * first->weight.dim[0]);
    y = linear(hidden, n, &second->weight, &second->bias);
    free(hidden);
    return y;
}

static double *ldp_block(const double *x, size_t h, size_t w, const vtc_ldp_block *block,
                         size_t stride, double eps)
{
    const size_t n = (h + stride - 1) / stride * ((w + stride - 1) / stride);
    const size_t d = block->depthwise.conv.dim[0];
    double *z = zeros(n * d), *y;

    ref_depthwise(x, h, w, &block->depthwise.conv, stride, z);
    layer_norm(z, n, &block->depthwise.norm, eps);
    apply(hard_swish, z, n * d);
    squeeze_excite(z, n, &block->se, relu, hard_sigmoid);
    y = convolve_1x1(z, n, &block->pointwise.conv);
    layer_norm(y, n, &block->pointwise.norm, eps);
    free(z);
    return y;
}

void ref_ldp(const vtc_ldp_params *p, const vtc_ldp_weights *weights, const double *x, double *y)
{
    const size_t h = p->grid_h, w = p->grid_w, d = weights->mlp_3.weight.dim[0];
    double *z = mlp(x, h * w, &weights->mlp_1, &weights->mlp_3, p->act);
    double *last;

    add(z, ldp_block(z, h, w, &weights->block[0], 1, (double)p->eps), h * w * d);
    last = ldp_block(z, h, w, &weights->block[1], 2, (double)p->eps);
    memcpy(y, last, (h + 1) / 2 * ((w + 1) / 2) * d * sizeof(*y));
    free(z);
    free(last);
}

/* ---- LDPv2 ----------------------------------------------------------------------------------- */

void ref_ldpv2(const vtc_ldpv2_params *p, const vtc_ldpv2_weights *weights, const double *x,
               double *y)
{
    const size_t n = p->out_h * p->out_w, d = weights->mlp_2.weight.dim[0];
    double *z = mlp(x, p->grid_h * p->grid_w, &weights->mlp_0, &weights->mlp_2, p->act);
    double *pooled = zeros(n * d), *bias = vector(&weights->peg.bias, d, 0.0);

    ref_pool_adaptive(z, p->grid_h, p->grid_w, d, p->out_h, p->out_w, false, pooled);
    ref_depthwise(pooled, p->out_h, p->out_w, &weights->peg.weight, 1, y);
    for (size_t i = 0; i < n * d; i++)
        y[i] += bias[i % d];
    add(y, pooled, n * d);
    free(z);
    free(bias);
}

/* ---- C-Abstractor ---------------------------------------------------------------------------- */

static double *conv_norm(const double *x, size_t n, const vtc_conv_norm *layer, double eps,
                         double (*act)(double))
{
    double *y = convolve_1x1(x, n, &layer->conv);

    layer_norm(y, n, &layer->norm, eps);
    apply(act, y, n * layer->conv.dim[0]);
    return y;
}

/* Frees x. */
static double *c_abstractor_block(double *x, size_t h, size_t w, const vtc_c_abstractor_block *b,
                                  double eps)
{
    const size_t n = h * w, d = b->conv1.conv.dim[0];
    double *first = conv_norm(x, n, &b->conv1, eps, silu), *second = zeros(n * d), *y;

    ref_depthwise(first, h, w, &b->conv2.conv, 1, second);
    layer_norm(second, n, &b->conv2.norm, eps);
    apply(silu, second, n * d);
    squeeze_excite(second, n, &b->se, silu, sigmoid);
    y = conv_norm(second, n, &b->conv3, eps, identity);
    if (vtc_tensor_is_absent(&b->downsample.conv)) {
        add(y, x, n * d);
    } else {
        add(y, conv_norm(x, n, &b->downsample, eps, identity), n * d);
        free(x);
    }
    apply(silu, y, n * d);
    free(first);
    free(second);
    return y;
}

/* x [n, c] after prenorm and position embedding. */
static double *prepare(const vtc_c_abstractor_params *p, const vtc_c_abstractor_weights *weights,
                       const double *x, size_t c)
{
    const size_t n = p->grid_h * p->grid_w;
    double *z = zeros(n * c);

    memcpy(z, x, n * c * sizeof(*z));
    if (!vtc_tensor_is_absent(&weights->prenorm.weight))
        layer_norm(z, n, &weights->prenorm, (double)p->prenorm_eps);
    if (!vtc_tensor_is_absent(&weights->pos_emb)) {
        double *embedding = values_of(&weights->pos_emb);
        const size_t first = weights->pos_emb.dim[1] == n + 1 ? c : 0;

        for (size_t i = 0; i < n * c; i++)
            z[i] += embedding[first + i];
        free(embedding);
    }
    return z;
}

void ref_c_abstractor(const vtc_c_abstractor_params *p, const vtc_c_abstractor_weights *weights,
                      const double *x, double *y)
{
    const size_t n = p->out_h * p->out_w;
    size_t c = weights->n_before > 0  ? weights->before[0].conv1.conv.dim[1]
               : weights->n_after > 0 ? weights->after[0].conv1.conv.dim[1]
                                      : weights->readout[0].weight.dim[1];
    double *z = prepare(p, weights, x, c), *pooled;

    for (size_t i = 0; i < weights->n_before; i++) {
        z = c_abstractor_block(z, p->grid_h, p->grid_w, &weights->before[i], (double)p->eps);
        c = weights->before[i].conv1.conv.dim[0];
    }
    pooled = zeros(n * c);
    ref_pool_adaptive(z, p->grid_h, p->grid_w, c, p->out_h, p->out_w, false, pooled);
    free(z);
    z = pooled;
    for (size_t i = 0; i < weights->n_after; i++)
        z = c_abstractor_block(z, p->out_h, p->out_w, &weights->after[i], (double)p->eps);
    for (size_t i = 0; i < weights->n_readout; i++) {
        const vtc_linear *layer = &weights->readout[i];
        double *next;

        if (i > 0)
            apply(silu, z, n * layer->weight.dim[1]);
        next = linear(z, n, &layer->weight, &layer->bias);
        free(z);
        z = next;
        c = layer->weight.dim[0];
    }
    memcpy(y, z, n * c * sizeof(*y));
    free(z);
    if (!vtc_tensor_is_absent(&weights->eos_tokens)) {
        double *eos = values_of(&weights->eos_tokens);

        memcpy(y + n * c, eos, n_elements(&weights->eos_tokens) * sizeof(*y));
        free(eos);
    }
}
