/*
 * kernels.h: the row kernels that SIMD pays for, one table per instruction set.
 *
 * Kernels know rows of floats and nothing of tokens. All rows are contiguous, need no alignment and
 * may have any length, 0 included. Within one table the bits depend on the values and the length
 * alone, never on alignment. Inputs and outputs do not overlap unless a comment says so.
 */
#ifndef VTCI_KERNELS_H
#define VTCI_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Element-wise functions. The first values are those of the public vtc_activation. */
typedef enum vtci_activation {
    VTCI_ACT_NONE = 0,
    VTCI_ACT_GELU_ERF = 1,   /* x/2 (1 + erf(x / sqrt 2))                     */
    VTCI_ACT_GELU_TANH = 2,  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    VTCI_ACT_GELU_QUICK = 3, /* x sigmoid(1.702 x)                            */
    VTCI_ACT_SILU = 4,       /* x sigmoid(x)                                  */
    VTCI_ACT_HARD_SWISH = 5, /* x clamp(x + 3, 0, 6) / 6                      */
    VTCI_ACT_RELU2 = 6,      /* max(x, 0)^2                                   */
    VTCI_ACT_RELU,           /* max(x, 0)                                     */
    VTCI_ACT_SIGMOID,        /* 1 / (1 + e^-x)                                */
    VTCI_ACT_HARD_SIGMOID,   /* clamp(x + 3, 0, 6) / 6                        */
    VTCI_N_ACTIVATIONS
} vtci_activation;

/* Memory that is read soon, to be fetched into the second-level cache: the first one is in use. */
typedef struct vtci_ahead {
    const char *at; /* NULL: none */
    size_t n_lines;
} vtci_ahead;

enum { VTCI_LINE = 64 }; /* bytes */

/* Queries, and the rows of keys that each n_shared of them share. */
typedef struct vtci_shared_heads {
    const float *x; /* [n_groups n_shared, x_stride] of which n are used */
    size_t x_stride;
    const float *z; /* [n_groups] z_step apart, rows `stride` apart, of n */
    size_t z_step, stride;
    size_t n_groups, n_shared, n;
} vtci_shared_heads;

enum { VTCI_MEASURED = 4 }; /* rows, see measure_rows */

enum { VTCI_PANEL = 16 }; /* columns, see multiply_panels */

typedef struct vtci_kernels {
    const char *name; /* "c", "avx2", "avx512", "neon" */

    /* sum of x[i] * y[i] */
    float (*dot)(const float *x, const float *y, size_t n);

    /*
     * dot[r] = sum of x[r][i] * y[i] and square[r] = sum of x[r][i]^2, r < n_rows <= VTCI_MEASURED.
     * Unless `top` is NULL, top[i] is the largest of x[r][i], without regard to NaN, and its dot
     * and square come behind those of the rows, or alone if the rows' `own` are not wanted. The
     * bits of a sum depend on its row and y alone.
     */
    void (*measure_rows)(float *dot, float *square, float *top, const float *const *x,
                         size_t n_rows, int own, const float *y, size_t n);

    /* y[r] = sum of x[i] * z[r * stride + i], r < n_rows: one row with each of many. The bits of a
     * sum depend on its two rows alone, not on its place among the others. */
    void (*dot_rows)(float *y, const float *x, const float *z, size_t stride, size_t n_rows,
                     size_t n);

    /*
     * The same for the heads of keys and the queries that share them, y [.., y_stride] a row for
     * each query, while the rows are read once for the mean over heads as well: mean [n_rows, n], n
     * > 0. The bits of a sum or a mean depend on the rows that it is formed of alone.
     */
    void (*dot_heads)(float *y, size_t y_stride, float *mean, const vtci_shared_heads *heads,
                      size_t n_rows);

    /* y[r] = sum of (x[i] - z[r][i])^2, r < n_rows. The bits depend on the two rows alone, in
     * either order. */
    void (*square_distances)(float *y, const float *x, const float *const *z, size_t n_rows,
                             size_t n);

    /*
     * y[a * y_stride + b] = sum over s < n_segments, i < n of x[a][s * x_step + i] *
     * z[b][s * z_step + i], for a < n_x and b < n_z: all products of some rows with others, where a
     * row may lie in segments (the heads of a token). The bits of one sum depend on its two rows,
     * on n_segments and on n alone, not on its place among the others: equal rows give equal sums,
     * which sgemm does not promise.
     */
    void (*dots)(float *y, size_t y_stride, const float *const *x, size_t n_x, size_t x_step,
                 const float *const *z, size_t n_z, size_t z_step, size_t n_segments, size_t n);

    /*
     * C [m, 16 n_panels] = A [m, k] B, with B cut into panels of 16 columns, each dense: [n_panels,
     * k, 16]. For matrices of a few dozen rows, where sgemm spends a quarter of its time packing.
     * Each element is one chain of multiply-adds over k in order: its bits depend on its row of A
     * and its column of B alone, not on where they stand.
     */
    void (*multiply_panels)(float *c, size_t ldc, const float *a, size_t lda, const float *panels,
                            size_t m, size_t n_panels, size_t k);

    /* y[i] = a * x[i]; y may be x */
    void (*scale)(float *y, const float *x, float a, size_t n);

    /* y[i] = x[i] + z[i] and y[i] = x[i] * z[i]; y may be x or z */
    void (*add)(float *y, const float *x, const float *z, size_t n);
    void (*multiply)(float *y, const float *x, const float *z, size_t n);

    /*
     * y[i] = sum over r < n_rows of w[r] * x[r][i], rows added in order, starting from 0 or, when
     * `accumulate`, from y[i]. One pass over the output however many rows there are.
     */
    void (*combine)(float *y, const float *const *x, const float *w, size_t n_rows, size_t n,
                    int accumulate);

    /* The same of 16-bit rows: the bits are those of widening the rows first. */
    void (*combine_f16)(float *y, const uint16_t *const *x, const float *w, size_t n_rows, size_t n,
                        int accumulate);
    void (*combine_bf16)(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                         size_t n, int accumulate);

    /* y[i] = bias[i] + sum over r < n_rows of w[r][i] * x[r][i] (bias NULL: 0), in order: a
     * depthwise convolution, where the rows are the neighbours of a token and w their taps. */
    void (*combine_each)(float *y, const float *const *x, const float *const *w, const float *bias,
                         size_t n_rows, size_t n);

    /* y[i] = max over r of w[r] * x[r][i] (w NULL: all 1, values unchanged); a NaN wins. When
     * `accumulate`, y[i] itself takes part. n_rows >= 1 unless accumulating. */
    void (*combine_max)(float *y, const float *const *x, const float *w, size_t n_rows, size_t n,
                        int accumulate);

    /* The same of 16-bit rows. */
    void (*combine_max_f16)(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                            size_t n, int accumulate);
    void (*combine_max_bf16)(float *y, const uint16_t *const *x, const float *w, size_t n_rows,
                             size_t n, int accumulate);

    /* The largest value; -inf where there is none. NaN are passed over. */
    float (*max)(const float *x, size_t n);

    /* The first i with x[i] >= bound; n when there is none. */
    size_t (*first_at_least)(const float *x, size_t n, float bound);

    /* p[i] = softmax of scale * x[i] + bias[i] over the row (bias NULL: none). p may be x. A row
     * that is -inf throughout gives NaN, as in PyTorch. n >= 1. */
    void (*softmax)(float *p, const float *x, const float *bias, float scale, size_t n);

    /* p[i] = exp(scale * x[i] - top), 1 where that is more; returns their sum. p may be x. Softmax
     * before its division when `top` is the largest logit, and after it when `top` is the logarithm
     * of the sum. Values below 2^-126 are 0. */
    float (*exp_sum)(float *p, const float *x, float scale, float top, size_t n);

    /*
     * y[i] = act(x[i] + bias[i]) (bias NULL: none). y may be x. NaN stays NaN; -inf gives NaN where
     * the formula multiplies it by 0, as in PyTorch. Results are within
     *
     *     NONE, RELU, RELU2             1/2 ULP (NONE and RELU exact)
     *     HARD_SWISH, HARD_SIGMOID      2 ULP
     *     SILU, SIGMOID                 3 ULP
     *     GELU_TANH, GELU_QUICK         3 ULP for x >= 0, 1.5e-7 for x < 0
     *     GELU_ERF                      8 ULP, and 7.5e-8 (1 + |y|)
     *
     * where those below 2^-119 may be 0.
     */
    void (*activate)(vtci_activation act, float *y, const float *x, const float *bias, size_t n);

    /*
     * y = (x - mean) / sqrt(var + eps) * w + b over the row, var biased, w NULL: 1, b NULL: 0. y
     * may be x. A constant row gives exactly b when eps > 0. With u the normalised value the error
     * is within (16 + n / 128) 2^-24 |w| (1 + |u|) and an ULP of y, however far the row is from
     * zero, as long as squares of x - mean are finite.
     */
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, float eps,
                       size_t n);

    /* y = x / sqrt(mean of x^2 + eps) * (offset + w), within (8 + n / 128) 2^-24 |y|, where
     * offset + w is rounded before. y may be x. */
    void (*rms_norm)(float *y, const float *x, const float *w, float offset, float eps, size_t n);

    /* Conversions. Narrowing rounds to nearest, ties to even; NaN stays NaN, overflow gives Inf. */
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n);
    void (*bf16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*f32_to_bf16)(uint16_t *y, const float *x, size_t n);

    /*
     * A tile of a matrix product: C [m, n] = A B, or C += A B when `accumulate`, 0 < m <= gemm_rows
     * and 0 < n <= gemm_cols. Element (i, p) of A is a[i * row_stride + p * step], element (p, j)
     * of B is b[p * ldb + j]. Each sum is formed from 0 over p in order, then stored or added. It
     * is fast when gemm_depth rows of B, gemm_cols of each, stay in the nearest cache.
     * gemm_is_fast: whether a product of such tiles is as fast as a good sgemm.
     *
     * Meanwhile the lines of `ahead` are fetched, one with each step of k and no more than k: a few
     * at a time do not fill the queues that the tile's own loads need.
     */
    size_t gemm_rows, gemm_cols, gemm_depth;
    int gemm_is_fast;
    void (*gemm_tile)(float *c, size_t ldc, const float *a, size_t row_stride, size_t step,
                      const float *b, size_t ldb, size_t k, size_t m, size_t n, int accumulate,
                      vtci_ahead ahead);

    /*
     * Copies to[r] = from[r], `bytes` each, for r < n_rows in order; neither row of a pair may
     * overlap the other. What is written does not stay in the caches, nor is it read first, which
     * pays where a move is larger than those.
     */
    void (*stream_rows)(char *const *to, const char *const *from, size_t n_rows, size_t bytes);
} vtci_kernels;

/* The table for this machine, chosen once. */
const vtci_kernels *vtci_kernels_get(void);

/* The table for a set of CPU features (cpu.h), for tests. */
const vtci_kernels *vtci_kernels_for(unsigned cpu);

extern const vtci_kernels vtci_kernels_c;
extern const vtci_kernels vtci_kernels_avx2;
extern const vtci_kernels vtci_kernels_avx512;
extern const vtci_kernels vtci_kernels_neon;

#endif
