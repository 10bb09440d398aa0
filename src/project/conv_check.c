/* Checks of the weights of light convolutional projectors. */
#include "conv_check.h"

#include "../linalg/gemm.h"
#include "../pool/window.h"

#include <math.h>
#include <stdio.h>

/* What a message calls a tensor, as the checkpoint does: "net.0.b1.conv1.bn.weight". */
typedef struct label {
    char s[80];
} label;

static label name_of(const vtci_owner *of, const char *name, const char *part)
{
    label l;

    /* a name that is cut is still a name */
    if (snprintf(l.s, sizeof(l.s), "%s%s%s", of->prefix, name, part) < 0)
        l.s[0] = '\0';
    return l;
}

static vtc_status check_vector(const vtci_owner *of, const char *name, const char *part,
                               const vtc_tensor *v, size_t n)
{
    const label l = name_of(of, name, part);

    VTCI_TRY(vtci_check_tensor(of->call, l.s, v, VTCI_FLOATS, 1, 1, VTCI_IN));
    VTCI_REQUIRE(of->call, v->dim[0] == n, VTC_ERR_SHAPE, "%s has %zu elements, %zu are needed",
                 l.s, v->dim[0], n);
    return vtci_check_apart(of->call, "y", of->y, l.s, v);
}

vtc_status vtci_check_bias(const vtci_owner *of, const char *name, const vtc_tensor *bias, size_t n)
{
    return vtc_tensor_is_absent(bias) ? VTC_OK : check_vector(of, name, ".bias", bias, n);
}

vtc_status vtci_check_pointwise(const vtci_owner *of, const char *name, const vtc_tensor *weight,
                                size_t n_in)
{
    const vtci_call *call = of->call;
    const label l = name_of(of, name, ".weight");
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
    return vtci_check_apart(call, "y", of->y, l.s, weight);
}

vtc_status vtci_check_linear(const vtci_owner *of, const char *name, const vtc_linear *layer,
                             size_t n_in)
{
    VTCI_TRY(vtci_check_pointwise(of, name, &layer->weight, n_in));
    return vtci_check_bias(of, name, &layer->bias, layer->weight.dim[0]);
}

vtc_status vtci_check_channel_norm(const vtci_owner *of, const char *name, const vtc_norm *norm,
                                   size_t n)
{
    VTCI_TRY(check_vector(of, name, ".weight", &norm->weight, n));
    return vtci_check_bias(of, name, &norm->bias, n);
}

vtc_status vtci_check_depthwise(const vtci_owner *of, const char *name, const vtc_tensor *w,
                                size_t n)
{
    const label l = name_of(of, name, ".weight");

    VTCI_TRY(vtci_check_tensor(of->call, l.s, w, VTCI_FLOATS, 4, 4, VTCI_IN));
    VTCI_REQUIRE(of->call, w->dim[0] == n && w->dim[1] == 1 && w->dim[2] == 3 && w->dim[3] == 3,
                 VTC_ERR_SHAPE, "%s is %zux%zux%zux%zu, %zux1x3x3 is needed", l.s, w->dim[0],
                 w->dim[1], w->dim[2], w->dim[3], n);
    return vtci_check_apart(of->call, "y", of->y, l.s, w);
}

vtc_status vtci_check_width(const vtci_owner *of, const char *name, const vtc_tensor *weight,
                            size_t n)
{
    VTCI_REQUIRE(of->call, weight->dim[0] == n, VTC_ERR_SHAPE,
                 "%s gives %zu channels, %zu are needed", name_of(of, name, ".weight").s,
                 weight->dim[0], n);
    return VTC_OK;
}

vtc_status vtci_check_squeeze_excite(const vtci_owner *of, const char *name,
                                     const vtc_squeeze_excite *se, size_t n)
{
    const label fc1 = name_of(of, name, "fc1"), fc2 = name_of(of, name, "fc2");
    vtci_owner block = *of;

    block.prefix = "";
    VTCI_TRY(vtci_check_linear(&block, fc1.s, &se->fc1, n));
    VTCI_TRY(vtci_check_linear(&block, fc2.s, &se->fc2, se->fc1.weight.dim[0]));
    return vtci_check_width(&block, fc2.s, &se->fc2.weight, n);
}

vtc_status vtci_check_grid(const vtci_call *call, const char *name, const vtci_rows *rows, size_t h,
                           size_t w, size_t n_more)
{
    const size_t n = vtci_add(vtci_mul(h, w), n_more);

    VTCI_REQUIRE(call, rows->n_rows == n, VTC_ERR_SHAPE, "grid %zux%zu needs %zu rows, %s has %zu",
                 h, w, n, name, rows->n_rows);
    return VTC_OK;
}

vtc_status vtci_check_average(const vtci_call *call, size_t grid_h, size_t grid_w, size_t out_h,
                              size_t out_w)
{
    const vtci_axis down = { VTCI_SAMPLE_ADAPTIVE, grid_h, out_h, 0, 0 };
    const vtci_axis across = { VTCI_SAMPLE_ADAPTIVE, grid_w, out_w, 0, 0 };

    VTCI_REQUIRE(call, grid_h != 0 && grid_w != 0, VTC_ERR_RANGE, "grid is %zux%zu", grid_h,
                 grid_w);
    VTCI_REQUIRE(call, out_h != 0 && out_w != 0, VTC_ERR_RANGE, "output grid is %zux%zu", out_h,
                 out_w);
    VTCI_TRY(vtci_check_axis(call, &down));
    return vtci_check_axis(call, &across);
}

vtc_status vtci_check_eps(const vtci_call *call, const char *name, float eps)
{
    VTCI_REQUIRE(call, eps >= 0.0f && isfinite(eps), VTC_ERR_RANGE, "%s is %g", name, (double)eps);
    return VTC_OK;
}
