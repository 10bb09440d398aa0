/*
 * steps.h: products, attentions and norms that follow one another and share one piece of scratch.
 *
 * A method walks through its steps twice. The first walk computes nothing and finds what the
 * largest step needs behind the method's own buffers, the second one computes: the steps are
 * written down once, and size and use cannot drift apart.
 */
#ifndef VTCI_STEPS_H
#define VTCI_STEPS_H

#include "attention.h"
#include "gemm.h"
#include "norm.h"

typedef struct vtci_steps {
    const vtci_call *call;
    bool measure;
    vtci_arena arena; /* behind what lives through all steps; without memory when measuring */
    size_t most;      /* bytes that the steps so far reach up to                            */
    bool overflow;
} vtci_steps;

void vtci_steps_gemm(vtci_steps *steps, vtci_gemm *g);
void vtci_steps_attention(vtci_steps *steps, vtci_attention *a);
void vtci_steps_norm(vtci_steps *steps, vtci_norm *norm);

/* A step of the method's own that takes no scratch. */
void vtci_steps_tasks(const vtci_steps *steps, size_t n_tasks,
                      void (*task)(void *job, size_t index, size_t worker), void *job);

/*
 * How functions that are nothing but steps end. walk(job, steps) lays out the method's own buffers
 * with steps->arena and takes the steps. A query measures and stores the size in *bytes; else the
 * scratch memory is measured, checked and used, and `bytes` is not.
 */
VTC_NODISCARD vtc_status vtci_steps_walk(const vtci_call *call,
                                         void (*walk)(void *job, vtci_steps *steps), void *job,
                                         size_t *bytes);

/* ---- views of what a method has laid out ----------------------------------------------------- */

/* p + n; NULL, while measuring, stays NULL. */
static inline float *vtci_skip(float *p, size_t n)
{
    return p == NULL ? NULL : p + n;
}

/* Memory for floats [n_rows, n_cols]. */
float *vtci_take_matrix(vtci_arena *arena, size_t n_rows, size_t n_cols);

/* Dense floats [n_rows, n_cols]. */
vtci_rows vtci_float_rows(const float *data, size_t n_rows, size_t n_cols);

/* y = x W^T, W as it stands or packed; what follows the product is for the caller to add. */
vtci_gemm vtci_linear_product(vtci_rows x, const vtc_tensor *weight, const vtci_packed *packed,
                              vtci_rows y);

/* y = x W^T + b, unless the bias is absent. */
vtci_gemm vtci_layer_product(vtci_rows x, const vtc_linear *layer, const vtci_packed *packed,
                             vtci_rows y);

/* Such products as steps. */
void vtci_steps_linear(vtci_steps *steps, vtci_rows x, const vtc_tensor *weight,
                       const vtci_packed *packed, vtci_rows y);
void vtci_steps_layer(vtci_steps *steps, vtci_rows x, const vtc_linear *layer,
                      const vtci_packed *packed, vtci_rows y);

#endif
