#include "weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vtc_dtype dtype_of(weight_set *set)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

    return set->mixed ? dtypes[rng_below(&set->seed, 3)] : VTC_F32;
}

static vtc_tensor scaled(weight_set *set, int rank, const size_t *dim, float scale, float offset)
{
    const vtc_tensor t = make_tensor(dtype_of(set), rank, dim, rank > 1 ? set->gap : 0);

    if (set->n == MAX_WEIGHTS)
        abort();
    set->data[set->n++] = t.data;
    for (size_t i = 0; i < n_elements(&t); i++)
        set_element(t.data, t.dtype, element_at(&t, i), offset + scale * rng_f32(&set->seed));
    guard_readonly(t.data);
    return t;
}

vtc_tensor weight_of(weight_set *set, int rank, const size_t *dim)
{
    size_t n_terms = 1;

    for (int axis = 1; axis < rank; axis++)
        n_terms *= dim[axis];
    return scaled(set, rank, dim, sqrtf(3.0f / (float)(n_terms > 0 ? n_terms : 1)), 0.0f);
}

vtc_tensor vector_of(weight_set *set, size_t n)
{
    return scaled(set, 1, &n, 0.5f, 0.0f);
}

vtc_tensor matrix_of(weight_set *set, size_t n_rows, size_t n_cols)
{
    return weight_of(set, 2, (const size_t[]){ n_rows, n_cols });
}

vtc_linear linear_of(weight_set *set, size_t n_out, size_t n_in)
{
    vtc_linear layer;

    layer.weight = matrix_of(set, n_out, n_in);
    layer.bias = vector_of(set, n_out);
    return layer;
}

vtc_linear plain_linear_of(weight_set *set, size_t n_out, size_t n_in)
{
    const vtc_linear layer = { .weight = matrix_of(set, n_out, n_in) };

    return layer;
}

vtc_norm norm_of(weight_set *set, size_t n)
{
    vtc_norm norm;

    norm.weight = scaled(set, 1, &n, 0.5f, 1.0f);
    norm.bias = vector_of(set, n);
    return norm;
}

vtc_tensor depthwise_of(weight_set *set, size_t n)
{
    const size_t dim[] = { n, 1, 3, 3 };

    return weight_of(set, 4, dim);
}

vtc_conv_norm conv_norm_of(weight_set *set, size_t n_out, size_t n_in)
{
    const size_t dim[] = { n_out, n_in };
    vtc_conv_norm layer;

    layer.conv = weight_of(set, 2, dim);
    layer.norm = norm_of(set, n_out);
    return layer;
}

vtc_conv_norm depthwise_norm_of(weight_set *set, size_t n)
{
    vtc_conv_norm layer;

    layer.conv = depthwise_of(set, n);
    layer.norm = norm_of(set, n);
    return layer;
}

vtc_squeeze_excite squeeze_excite_of(weight_set *set, size_t n, size_t n_hidden)
{
    vtc_squeeze_excite se;

    se.fc1 = linear_of(set, n_hidden, n);
    se.fc2 = linear_of(set, n, n_hidden);
    return se;
}

struct source {
    const vtc_weight_table *table;
    const char *weights;
};

static int find(void *p, const char *name, vtc_tensor *view)
{
    const struct source *source = p;

    for (size_t i = 0; i < source->table->n; i++)
        if (strcmp(source->table->weights[i].name, name) == 0) {
            memcpy(view, source->weights + source->table->weights[i].offset, sizeof(*view));
            return !vtc_tensor_is_absent(view);
        }
    return 0;
}

void bind_from(const vtc_weight_table *table, const void *from, void *to)
{
    struct source source = { table, from };

    assert_int_equal(vtc_weights_bind(table, find, &source, NULL, to, NULL), VTC_OK);
}

void weights_free(weight_set *set)
{
    while (set->n > 0)
        guard_free(set->data[--set->n]);
}
