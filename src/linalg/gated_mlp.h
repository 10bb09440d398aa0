/* gated_mlp.h: y = down(act(gate x) * up x), as LLaMA's feed-forward has it. */
#ifndef VTCI_GATED_MLP_H
#define VTCI_GATED_MLP_H

#include "steps.h"
#include "weight_check.h"

typedef struct vtci_gated_mlp {
    const vtc_gated_mlp *weights;
    const vtci_packed *packed; /* [3] gate, up, down; NULL: not packed                         */
    vtci_activation act;
    vtci_rows x, y;   /* [R, C], [R, D], one batch                                              */
    vtci_rows extra;  /* [R, D] added to y, apart from it; absent: none                         */
    float *hidden[2]; /* [R, I] each, the caller's; NULL while steps are measured               */
} vtci_gated_mlp;

void vtci_gated_mlp_run(vtci_steps *steps, const vtci_gated_mlp *mlp);

/* VTC_ERR_SHAPE and so on unless the three fit: `n_in` channels in, `n_out` out. Bias is allowed.
 */
VTC_NODISCARD vtc_status vtci_check_gated_mlp(const vtci_owner *of, const char *name,
                                              const vtc_gated_mlp *mlp, size_t n_in, size_t n_out);

#endif
