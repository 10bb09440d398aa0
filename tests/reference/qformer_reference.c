#include "qformer_reference.h"

#include "../support/models.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *new_values(size_t n)
{
    double *values = calloc(n + 1, sizeof(*values));

    if (values == NULL)
        abort();
    return values;
}

static double *copy_of(const double *x, size_t n)
{
    return memcpy(new_values(n), x, n * sizeof(*x));
}

struct heads {
    size_t n_heads, d; /* d of all heads together */
};

/* One row of one head: context [d / n_heads] from k and v [n, d], `bias` added to each key's logit.
 * The published fill of -max swallows the logits, so that equal fills give equal weights. */
static void attend(const struct heads *h, const double *q, const double *k, const double *v,
                   size_t n, const double *bias, double *context)
{
    const size_t width = h->d / h->n_heads;
    double *logit = new_values(n), top = -INFINITY, sum = 0.0;

    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < width; c++)
            logit[i] += q[c] * k[i * h->d + c];
        logit[i] = logit[i] / sqrt((double)width) + bias[i];
        top = fmax(top, logit[i]);
    }
    for (size_t i = 0; i < n; i++)
        sum += exp(logit[i] - top);
    memset(context, 0, width * sizeof(*context));
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < width; c++)
            context[c] += exp(logit[i] - top) / sum * v[i * h->d + c];
    free(logit);
}

/* x [m, d] = LN(Wo attention(x, memory [n, e]) + x) */
static void attention(const vtc_qformer_params *params, const vtc_qformer_attention *w, double *x,
                      size_t m, const double *memory, size_t n, const double *bias)
{
    const struct heads h = { params->n_heads, w->query.weight.dim[0] };
    const size_t d = h.d, e = w->key.weight.dim[1], width = d / h.n_heads;
    double *q = apply_linear(&w->query, copy_of(x, m * d), m);
    double *k = apply_linear(&w->key, copy_of(memory, n * e), n);
    double *v = apply_linear(&w->value, copy_of(memory, n * e), n);
    double *out = new_values(m * d);

    for (size_t i = 0; i < m; i++)
        for (size_t c = 0; c < d; c += width)
            attend(&h, q + i * d + c, k + c, v + c, n, bias, out + i * d + c);
    out = apply_linear(&w->output, out, m);
    for (size_t i = 0; i < m * d; i++)
        x[i] += out[i];
    apply_norm(&w->norm, VTC_NORM_LAYER, (double)params->eps, x, m * d);
    free(q);
    free(k);
    free(v);
    free(out);
}

/* x [m, d] = LN(down(gelu(up(x))) + x) */
static void feed_forward(const vtc_qformer_params *params, const vtc_qformer_mlp *w, double *x,
                         size_t m)
{
    const size_t d = w->up.weight.dim[1], n_hidden = w->up.weight.dim[0];
    double *h;

    if (m == 0)
        return;
    h = apply_linear(&w->up, copy_of(x, m * d), m);
    apply_activation(VTC_ACT_GELU_ERF, h, m * n_hidden);
    h = apply_linear(&w->down, h, m);
    for (size_t i = 0; i < m * d; i++)
        x[i] += h[i];
    apply_norm(&w->norm, VTC_NORM_LAYER, (double)params->eps, x, m * d);
    free(h);
}

static double *biases_of(const bool *mask, size_t n_seen, size_t n, double fill)
{
    double *bias = new_values(n_seen + n);

    for (size_t i = 0; mask != NULL && i < n; i++)
        bias[n_seen + i] = mask[i] ? 0.0 : fill;
    return bias;
}

/* [queries ; words + positions], normalised */
static void embed(const vtc_qformer_params *params, const vtc_qformer_weights *w,
                  const ref_qformer_item *item, size_t nq, size_t d, double *x)
{
    double *queries = values_of(&w->query_tokens);

    memcpy(x, queries, nq * d * sizeof(*x));
    free(queries);
    for (size_t j = 0; j < item->n_text; j++)
        for (size_t c = 0; c < d; c++) {
            const vtc_tensor *words = &w->word_embeddings, *places = &w->position_embeddings;
            const size_t word = (size_t)item->ids[j];

            x[(nq + j) * d + c] =
                (double)get_element(words->data, words->dtype, element_at(words, word * d + c)) +
                (double)get_element(places->data, places->dtype, element_at(places, j * d + c));
        }
    apply_norm(&w->embedding_norm, VTC_NORM_LAYER, (double)params->eps, x, (nq + item->n_text) * d);
}

void ref_qformer(const vtc_qformer_params *params, const vtc_qformer_weights *weights,
                 const ref_qformer_item *item, double *hidden, double *tokens)
{
    const vtc_tensor *queries = &weights->query_tokens;
    const size_t nq = queries->dim[queries->rank - 2], d = queries->dim[queries->rank - 1];
    const size_t n = nq + item->n_text;
    double *self_bias = biases_of(item->text_mask, nq, item->n_text, -10000.0);
    double *image_bias = biases_of(item->image_mask, 0, item->n_image, -DBL_MAX);

    embed(params, weights, item, nq, d, hidden);
    for (size_t i = 0; i < weights->n_layers; i++) {
        const vtc_qformer_layer *layer = &weights->layers[i];
        double *before = copy_of(hidden, n * d);

        attention(params, &layer->self, hidden, n, before, n, self_bias);
        free(before);
        if (!vtc_tensor_is_absent(&layer->cross.query.weight))
            attention(params, &layer->cross, hidden, nq, item->image, item->n_image, image_bias);
        feed_forward(params, &layer->query, hidden, nq);
        feed_forward(params, &layer->text, hidden + nq * d, item->n_text);
    }
    if (tokens != NULL) {
        double *projected = apply_linear(&weights->projection, copy_of(hidden, nq * d), nq);

        memcpy(tokens, projected, nq * weights->projection.weight.dim[0] * sizeof(*tokens));
        free(projected);
    }
    free(self_bias);
    free(image_bias);
}
