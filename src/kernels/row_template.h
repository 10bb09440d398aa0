/*
 * The row kernels, once for all vector instruction sets. A file that includes this one defines
 *
 *   SUFFIX      ends the name of every kernel: _avx2
 *   NAME        the table's name: "avx2"
 *   ATTRIBUTES  what lets a function use the instructions: __attribute__((target("avx2,fma")))
 *   VL          floats per vector
 *   vec         type of a vector of VL floats
 *   GEMM_ROWS, GEMM_VECTORS  sums of a matrix tile that fit the registers
 *   GEMM_DEPTH, GEMM_IS_FAST  see gemm_tile in kernels.h
 *   HEAD_VECTORS  of each of four rows, whose sums fit the registers too
 *
 * and, as static inline functions (m is a number of lanes, 0 < m <= VL; those from m on must
 * not touch memory):
 *
 *   vec load(const float *p)                    void store(float *p, vec v)
 *   vec load_some(const float *p, size_t m, float fill), the lanes from m on are `fill`
 *   void store_some(float *p, size_t m, vec v)
 *   vec fill(float a)                           all lanes a
 *   vec add(a, b), sub(a, b), mul(a, b)
 *   vec fma3(a, b, c)                           a * b + c, rounded once
 *   vec divide(a, b), magnitude(v)
 *   vec larger(a, b)                            b > a ? b : a, so a when b is NaN
 *   vec larger_or_nan(a, b)                     b > a || isnan(b) ? b : a
 *   vec at_least(v, bound), at_most(v, bound)   v, or bound where v is beyond it; NaN stays
 *   vec by_sign(x, a, b)                        a where x has its sign bit, else b
 *   vec nearest(v)                              rounded to integers
 *   vec times_pow2(v, n)                        v * 2^n for integers n in [-126, 0]
 *   vec zero_below(v, x, bound)                 x < bound ? 0 : v
 *   float sum_lanes(v), top_lane(v)
 *   int has_nan(v)
 *   void sum_lanes_of_4(float *y, a, b, c, d)   the sums of four, all formed in one order
 *   size_t first_equal(a, b)                    first lane where a == b, VL when there is none
 *   vec load_f16(const uint16_t *p), void store_f16(uint16_t *p, vec v), the same for bf16
 *   void stream_line(void *to, const void *from)  copies 64 bytes to a multiple of 64, past the
 *                                               caches
 *   void stream_end(void)                       stores from here on are seen after those
 *
 * It then defines the table vtci_kernels<SUFFIX>. Sums are formed in an order that depends on the
 * length alone. function_template.h, which has exp() and the norms, and gemm_template.h are
 * parts of it.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

#define JOIN_(a, b)  a##b
#define JOIN(a, b)   JOIN_(a, b)
#define KERNEL(name) JOIN(name, SUFFIX)

/* Loops over arrays of vectors must go, or these do not live in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Four vectors in flight hide the latency of fma3(), and are what one row gives in a visit. */
enum { BLOCK = 4 * VL };

/* Lanes of the next vector when `left` floats are left. */
#define LANES(left) ((left) < VL ? (left) : VL)

/* For functions of vectors: they must vanish into the loops that use them, all the more where they
 * are an argument. */
#define INLINE ATTRIBUTES static inline __attribute__((always_inline))

/* The next vector when `left` floats are left. */
INLINE vec KERNEL(load_next)(const float *p, size_t left, float rest)
{
    return left >= VL ? load(p) : load_some(p, left, rest);
}

INLINE void KERNEL(store_next)(float *p, size_t left, vec v)
{
    if (left >= VL)
        store(p, v);
    else
        store_some(p, left, v);
}

ATTRIBUTES static float KERNEL(dot)(const float *x, const float *y, size_t n)
{
    vec s0 = fill(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        s0 = fma3(load(x + i), load(y + i), s0);
        s1 = fma3(load(x + i + VL), load(y + i + VL), s1);
        s2 = fma3(load(x + i + 2 * VL), load(y + i + 2 * VL), s2);
        s3 = fma3(load(x + i + 3 * VL), load(y + i + 3 * VL), s3);
    }
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);

        s0 = fma3(load_some(x + i, m, 0.0f), load_some(y + i, m, 0.0f), s0);
    }
    return sum_lanes(add(add(s0, s1), add(s2, s3)));
}

/* measure_rows() of n_x rows, a constant as the other sizes. Sums have one vector each, whatever
 * n_x, so that a row's bits do not depend on its company. */
INLINE void KERNEL(measure)(float *dot, float *square, float *top, const float *const *x,
                            const float *y, size_t n, const size_t n_x, const int own,
                            const int wants_top)
{
    const size_t n_own = own ? n_x : 0;
    vec dots[VTCI_MEASURED + 1], squares[VTCI_MEASURED + 1];

    UNROLL for (size_t r = 0; r <= n_x; r++) dots[r] = squares[r] = fill(0.0f);
    for (size_t i = 0; i < n; i += VL) {
        const vec v = KERNEL(load_next)(y + i, n - i, 0.0f);
        vec largest = fill(-INFINITY);

        UNROLL for (size_t r = 0; r < n_x; r++)
        {
            const vec row = KERNEL(load_next)(x[r] + i, n - i, 0.0f);

            if (own) {
                dots[r] = fma3(row, v, dots[r]);
                squares[r] = fma3(row, row, squares[r]);
            }
            largest = larger(largest, row);
        }
        if (wants_top) {
            KERNEL(store_next)(top + i, n - i, largest);
            dots[n_own] = fma3(largest, v, dots[n_own]);
            squares[n_own] = fma3(largest, largest, squares[n_own]);
        }
    }
    UNROLL for (size_t r = 0; r < n_own + (wants_top != 0); r++)
    {
        dot[r] = sum_lanes(dots[r]);
        square[r] = sum_lanes(squares[r]);
    }
}

/* Missing rows are stood in for by the first. */
ATTRIBUTES static void KERNEL(measure_rows)(float *dot, float *square, float *top,
                                            const float *const *x, size_t n_rows, int own,
                                            const float *y, size_t n)
{
    const float *four[VTCI_MEASURED];
    float dots[VTCI_MEASURED + 1], squares[VTCI_MEASURED + 1];
    const size_t n_own = own ? n_rows : 0;

    if (n_rows == 0 || n_own + (top != NULL) == 0)
        return;
    for (size_t r = 0; r < VTCI_MEASURED; r++)
        four[r] = x[r < n_rows ? r : 0];
    if (top == NULL && n_rows == 1)
        KERNEL(measure)(dots, squares, NULL, four, y, n, 1, 1, 0);
    else if (top == NULL)
        KERNEL(measure)(dots, squares, NULL, four, y, n, VTCI_MEASURED, 1, 0);
    else if (own)
        KERNEL(measure)(dots, squares, top, four, y, n, VTCI_MEASURED, 1, 1);
    else
        KERNEL(measure)(dots, squares, top, four, y, n, VTCI_MEASURED, 0, 1);
    memcpy(dot, dots, n_own * sizeof(*dot));
    memcpy(square, squares, n_own * sizeof(*square));
    if (top != NULL) {
        dot[n_own] = dots[own ? VTCI_MEASURED : 0];
        square[n_own] = squares[own ? VTCI_MEASURED : 0];
    }
}

/* Distances from x of four rows, which are read beside each other: x is loaded once for them. */
INLINE void KERNEL(four_square_distances)(float *y, const float *x, const float *const *z, size_t n)
{
    vec sum[4] = { fill(0.0f), fill(0.0f), fill(0.0f), fill(0.0f) };

    for (size_t i = 0; i < n; i += VL) {
        const vec v = KERNEL(load_next)(x + i, n - i, 0.0f);

        UNROLL for (size_t r = 0; r < 4; r++)
        {
            const vec difference = sub(v, KERNEL(load_next)(z[r] + i, n - i, 0.0f));

            sum[r] = fma3(difference, difference, sum[r]);
        }
    }
    sum_lanes_of_4(y, sum[0], sum[1], sum[2], sum[3]);
}

/* Missing rows are stood in for by the first. */
ATTRIBUTES static void KERNEL(square_distances)(float *y, const float *x, const float *const *z,
                                                size_t n_rows, size_t n)
{
    for (; n_rows >= 4; n_rows -= 4, y += 4, z += 4)
        KERNEL(four_square_distances)(y, x, z, n);
    if (n_rows != 0) {
        const float *four[4];
        float distance[4];

        for (size_t r = 0; r < 4; r++)
            four[r] = z[r < n_rows ? r : 0];
        KERNEL(four_square_distances)(distance, x, four, n);
        memcpy(y, distance, n_rows * sizeof(*y));
    }
}

/* Rows of a tile of one panel, and of one of WIDE panels: up to 16 or 24 vectors in flight. */
enum {
    PANEL_VECTORS = VTCI_PANEL / VL,
    TILE_ROWS = VL == 16 ? 16 : 6,
    WIDE = VL == 16 ? 3 : 1,
    WIDE_ROWS = VL == 16 ? 8 : TILE_ROWS
};

/* `rows` and `n_panels` are constants where this vanishes into its caller, and the sums stay in
 * registers. */
INLINE void KERNEL(multiply_tile)(float *c, size_t ldc, const float *a, size_t lda,
                                  const float *panels, const size_t rows, const size_t n_panels,
                                  size_t k)
{
    const size_t n_vectors = n_panels * PANEL_VECTORS;
    vec sum[TILE_ROWS][WIDE * PANEL_VECTORS];

    UNROLL for (size_t r = 0; r < rows; r++) UNROLL for (size_t v = 0; v < n_vectors; v++)
        sum[r][v] = fill(0.0f);
    for (size_t l = 0; l < k; l++, panels += VTCI_PANEL) {
        vec b[WIDE * PANEL_VECTORS];

        UNROLL for (size_t v = 0; v < n_vectors; v++) b[v] =
            load(panels + v / PANEL_VECTORS * k * VTCI_PANEL + v % PANEL_VECTORS * VL);
        UNROLL for (size_t r = 0; r < rows; r++)
        {
            const vec x = fill(a[r * lda + l]);

            UNROLL for (size_t v = 0; v < n_vectors; v++) sum[r][v] = fma3(x, b[v], sum[r][v]);
        }
    }
    UNROLL for (size_t r = 0; r < rows; r++) UNROLL for (size_t v = 0; v < n_vectors; v++)
        store(c + r * ldc + v * VL, sum[r][v]);
}

/* All rows pass some panels, which stay in the first-level cache where k is a head's width. */
INLINE void KERNEL(multiply_strip)(float *c, size_t ldc, const float *a, size_t lda,
                                   const float *panels, size_t m, const size_t rows,
                                   const size_t n_panels, size_t k)
{
    size_t i = 0;

    for (; m - i >= rows; i += rows)
        KERNEL(multiply_tile)(c + i * ldc, ldc, a + i * lda, lda, panels, rows, n_panels, k);
    for (; m - i >= 4; i += 4)
        KERNEL(multiply_tile)(c + i * ldc, ldc, a + i * lda, lda, panels, 4, n_panels, k);
    for (; i < m; i++)
        KERNEL(multiply_tile)(c + i * ldc, ldc, a + i * lda, lda, panels, 1, n_panels, k);
}

/* Several panels at a time where there are: a load of A serves them all. */
ATTRIBUTES static void KERNEL(multiply_panels)(float *c, size_t ldc, const float *a, size_t lda,
                                               const float *panels, size_t m, size_t n_panels,
                                               size_t k)
{
    for (; n_panels >= WIDE; n_panels -= WIDE, c += WIDE * VTCI_PANEL) {
        KERNEL(multiply_strip)(c, ldc, a, lda, panels, m, WIDE_ROWS, WIDE, k);
        panels += WIDE * k * VTCI_PANEL;
    }
    for (; n_panels > 0; n_panels--, c += VTCI_PANEL) {
        KERNEL(multiply_strip)(c, ldc, a, lda, panels, m, TILE_ROWS, 1, k);
        panels += k * VTCI_PANEL;
    }
}

ATTRIBUTES static void KERNEL(scale)(float *y, const float *x, float a, size_t n)
{
    const vec va = fill(a);
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store(y + i, mul(va, load(x + i)));
    if (i < n)
        store_some(y + i, n - i, mul(va, load_some(x + i, n - i, 0.0f)));
}

ATTRIBUTES static void KERNEL(add)(float *y, const float *x, const float *z, size_t n)
{
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        const vec a = KERNEL(load_next)(x + i, left, 0.0f),
                  b = KERNEL(load_next)(z + i, left, 0.0f);

        KERNEL(store_next)(y + i, left, add(a, b));
    }
}

ATTRIBUTES static void KERNEL(multiply)(float *y, const float *x, const float *z, size_t n)
{
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        const vec a = KERNEL(load_next)(x + i, left, 0.0f),
                  b = KERNEL(load_next)(z + i, left, 0.0f);

        KERNEL(store_next)(y + i, left, mul(a, b));
    }
}

/* The last part of a 16-bit row, shorter than a vector, goes through memory of full length. */
ATTRIBUTES static inline vec KERNEL(load_some_f16)(const uint16_t *p, size_t m)
{
    uint16_t part[VL] = { 0 };

    memcpy(part, p, m * sizeof(*p));
    return load_f16(part);
}

ATTRIBUTES static inline vec KERNEL(load_some_bf16)(const uint16_t *p, size_t m)
{
    uint16_t part[VL] = { 0 };

    memcpy(part, p, m * sizeof(*p));
    return load_bf16(part);
}

#define ELEMENT         float
#define OF(name)        KERNEL(name)
#define LOAD(p)         load(p)
#define LOAD_SOME(p, m) load_some(p, m, 0.0f)
#include "combine_template.h"

#define ELEMENT         uint16_t
#define OF(name)        KERNEL(name##_f16)
#define LOAD(p)         load_f16(p)
#define LOAD_SOME(p, m) KERNEL(load_some_f16)(p, m)
#include "combine_template.h"

#define ELEMENT         uint16_t
#define OF(name)        KERNEL(name##_bf16)
#define LOAD(p)         load_bf16(p)
#define LOAD_SOME(p, m) KERNEL(load_some_bf16)(p, m)
#include "combine_template.h"

/* A combination with a weight for each element. */
ATTRIBUTES static void KERNEL(combine_each)(float *y, const float *const *x, const float *const *w,
                                            const float *bias, size_t n_rows, size_t n)
{
    const vec zero = fill(0.0f);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        vec s0 = bias == NULL ? zero : load(bias + i);
        vec s1 = bias == NULL ? zero : load(bias + i + VL);
        vec s2 = bias == NULL ? zero : load(bias + i + 2 * VL);
        vec s3 = bias == NULL ? zero : load(bias + i + 3 * VL);

        for (size_t r = 0; r < n_rows; r++) {
            const float *row = x[r] + i, *tap = w[r] + i;

            s0 = fma3(load(tap), load(row), s0);
            s1 = fma3(load(tap + VL), load(row + VL), s1);
            s2 = fma3(load(tap + 2 * VL), load(row + 2 * VL), s2);
            s3 = fma3(load(tap + 3 * VL), load(row + 3 * VL), s3);
        }
        store(y + i, s0);
        store(y + i + VL, s1);
        store(y + i + 2 * VL, s2);
        store(y + i + 3 * VL, s3);
    }
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);
        vec s = bias == NULL ? zero : load_some(bias + i, m, 0.0f);

        for (size_t r = 0; r < n_rows; r++)
            s = fma3(load_some(w[r] + i, m, 0.0f), load_some(x[r] + i, m, 0.0f), s);
        store_some(y + i, m, s);
    }
}

ATTRIBUTES static float KERNEL(max)(const float *x, size_t n)
{
    const vec lowest = fill(-INFINITY);
    vec t0 = lowest, t1 = lowest, t2 = lowest, t3 = lowest;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        t0 = larger(t0, load(x + i));
        t1 = larger(t1, load(x + i + VL));
        t2 = larger(t2, load(x + i + 2 * VL));
        t3 = larger(t3, load(x + i + 3 * VL));
    }
    for (; i < n; i += VL)
        t0 = larger(t0, load_some(x + i, LANES(n - i), -INFINITY));
    return top_lane(larger(larger(t0, t1), larger(t2, t3)));
}

ATTRIBUTES static size_t KERNEL(first_at_least)(const float *x, size_t n, float bound)
{
    const vec least = fill(bound);

    for (size_t i = 0; i < n; i += VL) {
        const vec v = n - i >= VL ? load(x + i) : load_some(x + i, n - i, NAN);
        const size_t lane = first_equal(v, larger(least, v));

        if (lane < VL)
            return i + lane;
    }
    return n;
}

#include "dots_template.h"
#include "function_template.h"
#include "gemm_template.h"

/* ---- copies ---------------------------------------------------------------------------------- */

/* A row past the caches, while what will be copied later is asked for. Eight lines at a time: the
 * fewer instructions, the more of the traffic the CPU has in flight. */
ATTRIBUTES static inline void KERNEL(stream_row)(char *to, const char *from, size_t bytes,
                                                 const char *later)
{
    enum { LINE = 64, LINES = 8 };
    const size_t to_line = (LINE - (uintptr_t)to % LINE) % LINE;
    size_t i = to_line < bytes ? to_line : bytes;

    if (i != 0)
        memcpy(to, from, i);
    for (; bytes - i >= LINES * LINE; i += LINES * LINE) {
        for (size_t line = 0; line < LINES; line++)
            __builtin_prefetch(later + i + line * LINE, 0, 2);
        for (size_t line = 0; line < LINES; line++)
            stream_line(to + i + line * LINE, from + i + line * LINE);
    }
    for (; bytes - i >= LINE; i += LINE) {
        __builtin_prefetch(later + i, 0, 2);
        stream_line(to + i, from + i);
    }
    if (i < bytes)
        memcpy(to + i, from + i, bytes - i);
}

/* Rows at irregular distances are what hardware does not foresee: each is asked for ahead of time.
 * The second-level cache is the place, since more requests to it than to the first can be open. Of
 * rows longer than AHEAD, hardware does foresee the most part. */
ATTRIBUTES static void KERNEL(stream_rows)(char *const *to, const char *const *from, size_t n_rows,
                                           size_t bytes)
{
    enum { AHEAD = 16384, LINE = 64 };
    const size_t rows_ahead = bytes == 0 ? 0 : AHEAD / bytes;

    for (size_t r = 0; r < n_rows && r < rows_ahead; r++)
        for (size_t line = 0; line < bytes; line += LINE)
            __builtin_prefetch(from[r] + line, 0, 2);
    for (size_t r = 0; r < n_rows; r++) {
        const size_t later = n_rows - r > rows_ahead ? r + rows_ahead : r;

        KERNEL(stream_row)(to[r], from[r], bytes, from[later]);
    }
    stream_end();
}

/* ---- conversions ----------------------------------------------------------------------------- */

ATTRIBUTES static void KERNEL(f16_to_f32)(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store(y + i, load_f16(x + i));
    if (i < n)
        store_some(y + i, n - i, KERNEL(load_some_f16)(x + i, n - i));
}

ATTRIBUTES static void KERNEL(f32_to_f16)(uint16_t *y, const float *x, size_t n)
{
    uint16_t tail[VL];
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store_f16(y + i, load(x + i));
    if (i < n) {
        store_f16(tail, load_some(x + i, n - i, 0.0f));
        memcpy(y + i, tail, (n - i) * sizeof(*y));
    }
}

ATTRIBUTES static void KERNEL(bf16_to_f32)(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store(y + i, load_bf16(x + i));
    if (i < n)
        store_some(y + i, n - i, KERNEL(load_some_bf16)(x + i, n - i));
}

ATTRIBUTES static void KERNEL(f32_to_bf16)(uint16_t *y, const float *x, size_t n)
{
    uint16_t tail[VL];
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store_bf16(y + i, load(x + i));
    if (i < n) {
        store_bf16(tail, load_some(x + i, n - i, 0.0f));
        memcpy(y + i, tail, (n - i) * sizeof(*y));
    }
}

const vtci_kernels JOIN(vtci_kernels, SUFFIX) = {
    .name = NAME,
    .dot = KERNEL(dot),
    .measure_rows = KERNEL(measure_rows),
    .dot_rows = KERNEL(dot_rows),
    .dot_heads = KERNEL(dot_heads),
    .dots = KERNEL(dots),
    .square_distances = KERNEL(square_distances),
    .multiply_panels = KERNEL(multiply_panels),
    .scale = KERNEL(scale),
    .add = KERNEL(add),
    .multiply = KERNEL(multiply),
    .combine = KERNEL(combine),
    .combine_f16 = KERNEL(combine_f16),
    .combine_bf16 = KERNEL(combine_bf16),
    .combine_each = KERNEL(combine_each),
    .combine_max = KERNEL(combine_max),
    .combine_max_f16 = KERNEL(combine_max_f16),
    .combine_max_bf16 = KERNEL(combine_max_bf16),
    .max = KERNEL(max),
    .first_at_least = KERNEL(first_at_least),
    .softmax = KERNEL(softmax),
    .exp_sum = KERNEL(exp_sum),
    .activate = KERNEL(activate),
    .layer_norm = KERNEL(layer_norm),
    .rms_norm = KERNEL(rms_norm),
    .f16_to_f32 = KERNEL(f16_to_f32),
    .f32_to_f16 = KERNEL(f32_to_f16),
    .bf16_to_f32 = KERNEL(bf16_to_f32),
    .f32_to_bf16 = KERNEL(f32_to_bf16),
    .gemm_rows = GEMM_ROWS,
    .gemm_cols = GEMM_VECTORS * VL,
    .gemm_depth = GEMM_DEPTH,
    .gemm_is_fast = GEMM_IS_FAST,
    .gemm_tile = KERNEL(gemm_tile),
    .stream_rows = KERNEL(stream_rows),
};
