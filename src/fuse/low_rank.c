/* Low-rank increments of linear layers. */
#include "low_rank.h"

#include <stdio.h>

vtc_status vtci_low_rank_open(const vtci_call *call, const char *name, const vtc_tensor *a,
                              const vtc_tensor *b, size_t n_in, size_t n_out, vtci_low_rank *low)
{
    const char *dot = name[0] == '\0' ? "" : ".";
    char a_name[16], b_name[16];

    snprintf(a_name, sizeof(a_name), "%s%sa", name, dot);
    snprintf(b_name, sizeof(b_name), "%s%sb", name, dot);
    VTCI_TRY(vtci_check_tensor(call, a_name, a, VTCI_FLOATS, 2, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, b_name, b, VTCI_FLOATS, 2, 2, VTCI_IN));
    low->a = vtci_rows_of(a);
    low->b = vtci_rows_of(b);
    VTCI_REQUIRE(call, low->a.n_rows == n_in, VTC_ERR_SHAPE,
                 "%s has %zu rows, its layer takes %zu channels", a_name, low->a.n_rows, n_in);
    VTCI_REQUIRE(call, low->b.n_rows == n_out, VTC_ERR_SHAPE,
                 "%s has %zu rows, its layer gives %zu channels", b_name, low->b.n_rows, n_out);
    VTCI_REQUIRE(call, low->a.n_cols == low->b.n_cols, VTC_ERR_SHAPE, "%s has rank %zu, %s %zu",
                 a_name, low->a.n_cols, b_name, low->b.n_cols);
    return vtci_check_gemm(call, n_in, n_out, low->a.n_cols);
}

void vtci_low_rank_reduce(vtci_steps *steps, const vtci_low_rank *low, vtci_rows x, vtci_rows t)
{
    const vtci_gemm g = { .a = x, .b = low->a, .c = t };

    vtci_step_gemm(steps, g);
}

void vtci_low_rank_expand(vtci_steps *steps, const vtci_low_rank *low, vtci_rows t,
                          vtci_rows residual, vtci_rows y)
{
    const vtci_gemm g = { .a = t, .b = low->b, .c = y, .trans_b = true, .residual = residual };

    vtci_step_gemm(steps, g);
}
