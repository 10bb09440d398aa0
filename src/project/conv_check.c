/* Checks of the weights of light convolutional projectors. */
#include "conv_check.h"

#include "../pool/window.h"

vtc_status vtci_check_depthwise(const vtci_owner *of, const char *name, const vtc_tensor *w,
                                size_t n)
{
    const vtci_label l = vtci_label_of(of, name, ".weight");

    VTCI_TRY(vtci_check_tensor(of->call, l.s, w, VTCI_FLOATS, 4, 4, VTCI_IN));
    VTCI_REQUIRE(of->call, w->dim[0] == n && w->dim[1] == 1 && w->dim[2] == 3 && w->dim[3] == 3,
                 VTC_ERR_SHAPE, "%s is %zux%zux%zux%zu, %zux1x3x3 is needed", l.s, w->dim[0],
                 w->dim[1], w->dim[2], w->dim[3], n);
    return vtci_check_apart(of->call, "y", of->y, l.s, w);
}

vtc_status vtci_check_squeeze_excite(const vtci_owner *of, const char *name,
                                     const vtc_squeeze_excite *se, size_t n)
{
    const vtci_label fc1 = vtci_label_of(of, name, "fc1"), fc2 = vtci_label_of(of, name, "fc2");
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
