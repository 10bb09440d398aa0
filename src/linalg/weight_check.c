/* Checks of a model's weights. */
#include "weight_check.h"

#include "gemm.h"

#include <math.h>
#include <stdio.h>

vtci_label vtci_label_of(const vtci_owner *of, const char *name, const char *part)
{
    vtci_label l;

    /* a name that is cut is still a name */
    if (snprintf(l.s, sizeof(l.s), "%s%s%s", of->prefix, name, part) < 0)
        l.s[0] = '\0';
    return l;
}

vtci_label vtci_layer_label(const char *stem, size_t layer)
{
    vtci_label l;

    if (snprintf(l.s, sizeof(l.s), "%s%zu.", stem, layer) < 0)
        l.s[0] = '\0';
    return l;
}

static vtc_status check_apart(const vtci_owner *of, const char *name, const vtc_tensor *w)
{
    return of->y == NULL ? VTC_OK : vtci_check_apart(of->call, "y", of->y, name, w);
}

vtc_status vtci_check_vector(const vtci_owner *of, const char *name, const char *part,
                             const vtc_tensor *v, size_t n)
{
    const vtci_label l = vtci_label_of(of, name, part);

    VTCI_TRY(vtci_check_tensor(of->call, l.s, v, VTCI_FLOATS, 1, 1, VTCI_IN));
    VTCI_REQUIRE(of->call, v->dim[0] == n, VTC_ERR_SHAPE, "%s has %zu elements, %zu are needed",
                 l.s, v->dim[0], n);
    return check_apart(of, l.s, v);
}

vtc_status vtci_check_matrix(const vtci_owner *of, const char *name, const char *part,
                             const vtc_tensor *w, size_t n_rows, size_t n_cols)
{
    const vtci_label l = vtci_label_of(of, name, part);

    VTCI_TRY(vtci_check_tensor(of->call, l.s, w, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(of->call, w->dim[0] == n_rows && w->dim[1] == n_cols, VTC_ERR_SHAPE,
                 "%s is %zux%zu, %zux%zu is needed", l.s, w->dim[0], w->dim[1], n_rows, n_cols);
    return check_apart(of, l.s, w);
}

vtc_status vtci_check_rows(const vtci_owner *of, const char *name, const vtc_tensor *w, size_t n_in,
                           size_t *n_rows)
{
    const vtci_label l = vtci_label_of(of, name, ".weight");

    VTCI_TRY(vtci_check_tensor(of->call, l.s, w, VTCI_FLOATS, 2, 2, VTCI_IN));
    *n_rows = w->dim[0];
    return vtci_check_matrix(of, name, ".weight", w, *n_rows, n_in);
}

vtc_status vtci_check_bias(const vtci_owner *of, const char *name, const vtc_tensor *bias, size_t n)
{
    return vtc_tensor_is_absent(bias) ? VTC_OK : vtci_check_vector(of, name, ".bias", bias, n);
}

vtc_status vtci_check_pointwise(const vtci_owner *of, const char *name, const vtc_tensor *weight,
                                size_t n_in)
{
    const vtci_call *call = of->call;
    const vtci_label l = vtci_label_of(of, name, ".weight");
    vtc_tensor w;

    VTCI_TRY(vtci_check_tensor(call, l.s, weight, VTCI_FLOATS, 2, 4, VTCI_IN));
    w = *weight;
    for (; w.rank > 2; w.rank--)
        VTCI_REQUIRE(call, w.dim[w.rank - 1] == 1, VTC_ERR_SHAPE,
                     "%s has extent %zu along axis %d of a 1x1 convolution", l.s, w.dim[w.rank - 1],
                     w.rank - 1);
    VTCI_REQUIRE(call, w.dim[1] == n_in, VTC_ERR_SHAPE, "%s is %zux%zu, its input has %zu channels",
                 l.s, w.dim[0], w.dim[1], n_in);
    VTCI_TRY(vtci_check_tensor(call, l.s, &w, VTCI_FLOATS, 2, 2, VTCI_IN)); /* stride[1] */
    VTCI_TRY(vtci_check_gemm(call, of->n_tokens, w.dim[0], n_in));
    return check_apart(of, l.s, weight);
}

vtc_status vtci_check_linear(const vtci_owner *of, const char *name, const vtc_linear *layer,
                             size_t n_in)
{
    VTCI_TRY(vtci_check_pointwise(of, name, &layer->weight, n_in));
    return vtci_check_bias(of, name, &layer->bias, layer->weight.dim[0]);
}

vtc_status vtci_check_linear_to(const vtci_owner *of, const char *name, const vtc_linear *layer,
                                size_t n_out, size_t n_in)
{
    VTCI_TRY(vtci_check_matrix(of, name, ".weight", &layer->weight, n_out, n_in));
    VTCI_TRY(vtci_check_gemm(of->call, of->n_tokens, n_out, n_in));
    return vtci_check_bias(of, name, &layer->bias, n_out);
}

vtc_status vtci_check_channel_norm(const vtci_owner *of, const char *name, const vtc_norm *norm,
                                   size_t n)
{
    VTCI_TRY(vtci_check_vector(of, name, ".weight", &norm->weight, n));
    return vtci_check_bias(of, name, &norm->bias, n);
}

vtc_status vtci_check_width(const vtci_owner *of, const char *name, const vtc_tensor *weight,
                            size_t n)
{
    VTCI_REQUIRE(of->call, weight->dim[0] == n, VTC_ERR_SHAPE,
                 "%s gives %zu channels, %zu are needed", vtci_label_of(of, name, ".weight").s,
                 weight->dim[0], n);
    return VTC_OK;
}

vtc_status vtci_check_eps(const vtci_call *call, const char *name, float eps)
{
    VTCI_REQUIRE(call, eps >= 0.0f && isfinite(eps), VTC_ERR_RANGE, "%s is %g", name, (double)eps);
    return VTC_OK;
}
