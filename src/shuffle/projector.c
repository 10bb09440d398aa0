/* Grids of shuffled tokens as the rows of a chain; no shuffled copy is stored. */
#include "projector.h"

static vtc_status check_grid(const vtci_call *call, const vtc_shuffle_projector_params *p)
{
    VTCI_REQUIRE(call, p->grid_h != 0 && p->grid_w != 0 && p->down != 0, VTC_ERR_RANGE,
                 "grid is %zux%zu, down is %zu", p->grid_h, p->grid_w, p->down);
    VTCI_REQUIRE(call, p->grid_h % p->down == 0 && p->grid_w % p->down == 0, VTC_ERR_SHAPE,
                 "grid %zux%zu is not divisible by %zu", p->grid_h, p->grid_w, p->down);
    VTCI_REQUIRE(call, vtci_mul(p->grid_h, p->grid_w) < SIZE_MAX, VTC_ERR_OVERFLOW,
                 "grid %zux%zu overflows", p->grid_h, p->grid_w);
    return VTC_OK;
}

vtc_status vtci_projector_params(const vtci_call *call, const vtc_shuffle_projector_params *from,
                                 vtc_shuffle_projector_params *params)
{
    VTCI_TRY(vtci_params_read(call, params, sizeof(*params), from));
    VTCI_REQUIRE(call, (unsigned)params->version <= VTC_SHUFFLE_V1, VTC_ERR_RANGE,
                 "version %d is unknown", (int)params->version);
    VTCI_REQUIRE(call, (unsigned)params->class_token <= VTC_CLASS_TOKEN_LAST, VTC_ERR_RANGE,
                 "class_token %d is unknown", (int)params->class_token);
    VTCI_TRY(vtci_check_activation(call, params->act));
    VTCI_TRY(vtci_check_norm(call, params->norm, params->eps));
    return check_grid(call, params);
}

vtc_status vtc_shuffle_projector_count(const vtc_shuffle_projector_params *params, size_t *n_tokens,
                                       const vtc_exec *exec)
{
    vtc_shuffle_projector_params p = VTC_INTERNVL_PARAMS_INIT;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_shuffle_projector_count", exec));
    VTCI_REQUIRE_PTR(&call, n_tokens);
    VTCI_TRY(vtci_projector_params(&call, params, &p));
    *n_tokens = p.grid_h / p.down * (p.grid_w / p.down);
    return VTC_OK;
}

vtc_status vtci_projector_open(const vtci_call *call, const vtc_shuffle_projector_params *params,
                               const vtc_tensor *x, const vtc_tensor *y, vtci_chain *chain)
{
    const size_t n = params->grid_h * params->grid_w;
    const size_t n_class = params->class_token != VTC_CLASS_TOKEN_NONE;

    VTCI_TRY(vtci_check_tokens(call, x, y));

    vtci_rows rows = vtci_rows_of(x);

    VTCI_REQUIRE(call, rows.n_rows == n + n_class, VTC_ERR_SHAPE,
                 "grid %zux%zu and %zu class tokens need %zu rows, x has %zu", params->grid_h,
                 params->grid_w, n_class, n + n_class, rows.n_rows);
    if (params->class_token == VTC_CLASS_TOKEN_FIRST && rows.data != NULL)
        rows.data += rows.row_stride;
    chain->x = vtci_join_grid(&rows, params->grid_h, params->grid_w, params->down);
    chain->x.columns_first = params->version == VTC_SHUFFLE_V1;
    return VTC_OK;
}
