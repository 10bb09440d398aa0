/* Rows of tokens in any float dtype. */
#include "rows.h"

#include "../kernels/kernels.h"

#include <math.h>
#include <string.h>

const float *vtci_load_row(const void *row, vtc_dtype dtype, size_t n, float *tmp)
{
    if (dtype == VTC_F32)
        return row;
    if (dtype == VTC_F16)
        vtci_kernels_get()->f16_to_f32(tmp, row, n);
    else
        vtci_kernels_get()->bf16_to_f32(tmp, row, n);
    return tmp;
}

void vtci_store_row(void *row, vtc_dtype dtype, size_t n, const float *x)
{
    if (dtype == VTC_F16)
        vtci_kernels_get()->f32_to_f16(row, x, n);
    else if (dtype == VTC_BF16)
        vtci_kernels_get()->f32_to_bf16(row, x, n);
    else if (row != (const void *)x)
        memcpy(row, x, n * sizeof(*x));
}

float *vtci_row_buffer(void *row, vtc_dtype dtype, float *tmp)
{
    return dtype == VTC_F32 ? row : tmp;
}

void vtci_copy_row(void *to, vtc_dtype to_dtype, const void *from, vtc_dtype from_dtype, size_t n,
                   float *tmp)
{
    if (from_dtype == to_dtype)
        memcpy(to, from, n * vtc_dtype_size(to_dtype));
    else
        vtci_store_row(to, to_dtype, n,
                       vtci_load_row(from, from_dtype, n, vtci_row_buffer(to, to_dtype, tmp)));
}

float vtci_row_norm(const float *x, size_t n)
{
    const float square = vtci_kernels_get()->dot(x, x, n);

    /* inside these bounds neither a lost nor an overflowing square can show in the result */
    if (square > 0x1p-80f && square < 0x1p120f)
        return sqrtf(square);
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return (float)sqrt(sum);
}

bool vtci_unit_row(float *y, const float *x, size_t n)
{
    const float norm = vtci_row_norm(x, n);

    if (!(norm > 0.0f && norm <= 0x1.fffffep127f))
        return false;
    if (n == 1) { /* 1 or -1, which a product with the reciprocal need not be */
        y[0] = x[0] / norm;
        return true;
    }
    /* the reciprocal of a length below 2^-126 would overflow: scale such a row up first */
    if (norm < 0x1p-100f) {
        vtci_kernels_get()->scale(y, x, 0x1p100f, n);
        return vtci_unit_row(y, y, n);
    }
    vtci_kernels_get()->scale(y, x, 1.0f / norm, n);
    return true;
}

float vtci_cosine(const float *x, const float *y, size_t n)
{
    if (n == 1) /* 1 or -1 without rounding */
        return x[0] / vtci_row_norm(x, 1) * (y[0] / vtci_row_norm(y, 1));
    return vtci_kernels_get()->dot(x, y, n) / vtci_row_norm(x, n) / vtci_row_norm(y, n);
}

void vtci_combine_begin(vtci_combine *c, float *y, size_t n, vtc_dtype dtype, bool max)
{
    c->y = y;
    c->n = n;
    c->dtype = dtype;
    c->max = max;
    c->weighs = c->started = false;
    c->n_held = 0;
}

static void combine_held(vtci_combine *c)
{
    const vtci_kernels *k = vtci_kernels_get();
    const float *w = c->max && !c->weighs ? NULL : c->w;

    if (c->dtype == VTC_F32)
        (c->max ? k->combine_max : k->combine)(c->y, c->x.f32, w, c->n_held, c->n, c->started);
    else if (c->dtype == VTC_F16)
        (c->max ? k->combine_max_f16 : k->combine_f16)(c->y, c->x.u16, w, c->n_held, c->n,
                                                       c->started);
    else
        (c->max ? k->combine_max_bf16 : k->combine_bf16)(c->y, c->x.u16, w, c->n_held, c->n,
                                                         c->started);
    c->started = true;
    c->weighs = false;
    c->n_held = 0;
}

void vtci_combine_add(vtci_combine *c, const void *row, float weight)
{
    if (c->n_held == VTCI_COMBINE_BATCH)
        combine_held(c);
    if (c->dtype == VTC_F32)
        c->x.f32[c->n_held] = row;
    else
        c->x.u16[c->n_held] = row;
    c->weighs |= weight != 1.0f;
    c->w[c->n_held++] = weight;
}

void vtci_combine_flush(vtci_combine *c)
{
    if (c->n_held != 0)
        combine_held(c);
}

void vtci_combine_end(vtci_combine *c)
{
    vtci_combine_flush(c);
    if (!c->started && c->n != 0) /* y may be NULL when it has no elements */
        memset(c->y, 0, c->n * sizeof(*c->y));
}
