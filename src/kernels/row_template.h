/*
 * The row kernels, once for all vector instruction sets. A file that includes this one defines
 *
 *   SUFFIX      ends the name of every kernel: _avx2
 *   NAME        the table's name: "avx2"
 *   ATTRIBUTES  what lets a function use the instructions: __attribute__((target("avx2,fma")))
 *   VL          floats per vector
 *   vec         type of a vector of VL floats
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
 *   vec larger(a, b)                            b > a ? b : a; either one when a lane is NaN
 *   vec larger_or_nan(a, b)                     b > a || isnan(b) ? b : a
 *   vec at_least(v, bound), at_most(v, bound)   v, or bound where v is beyond it; NaN stays
 *   vec by_sign(x, a, b)                        a where x has its sign bit, else b
 *   vec nearest(v)                              rounded to integers
 *   vec times_pow2(v, n)                        v * 2^n for integers n in [-126, 0]
 *   vec zero_below(v, x, bound)                 x < bound ? 0 : v
 *   float sum_lanes(v), top_lane(v)
 *   size_t first_equal(a, b)                    first lane where a == b, VL when there is none
 *   vec load_f16(const uint16_t *p), void store_f16(uint16_t *p, vec v), the same for bf16
 *
 * It then defines the table vtci_kernels<SUFFIX>. Sums are formed in an order that depends on the
 * length alone. function_template.h, which has exp() and the norms, is the second half of it.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

#define JOIN_(a, b)  a##b
#define JOIN(a, b)   JOIN_(a, b)
#define KERNEL(name) JOIN(name, SUFFIX)

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

/*
 * Asks for the block that stands AHEAD floats after this one, mostly a token or two further on, to
 * be brought into the second-level cache. Rows end too soon for the CPU's own prefetchers: with
 * this a pooling of rows in main memory is a fifth to a third faster. A prefetch never faults, so
 * the address may lie outside the array.
 */
ATTRIBUTES static inline void KERNEL(prefetch)(const float *row)
{
    enum { AHEAD = 2048, LINE = 64 };
    const uintptr_t block = (uintptr_t)row + AHEAD * sizeof(*row);

    for (size_t line = 0; line < BLOCK * sizeof(*row); line += LINE)
        __builtin_prefetch((const void *)(block + line), 0, 2);
}

/* A block of the output stays in registers while all rows are added to it, so that each row is read
 * once and the output written once: the pace is that of memory. */
ATTRIBUTES static void KERNEL(combine)(float *y, const float *const *x, const float *w,
                                       size_t n_rows, size_t n, int accumulate)
{
    const vec zero = fill(0.0f);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        vec s0 = accumulate ? load(y + i) : zero;
        vec s1 = accumulate ? load(y + i + VL) : zero;
        vec s2 = accumulate ? load(y + i + 2 * VL) : zero;
        vec s3 = accumulate ? load(y + i + 3 * VL) : zero;

        for (size_t r = 0; r < n_rows; r++) {
            const float *row = x[r] + i;
            const vec a = fill(w[r]);

            KERNEL(prefetch)(row);
            s0 = fma3(a, load(row), s0);
            s1 = fma3(a, load(row + VL), s1);
            s2 = fma3(a, load(row + 2 * VL), s2);
            s3 = fma3(a, load(row + 3 * VL), s3);
        }
        store(y + i, s0);
        store(y + i + VL, s1);
        store(y + i + 2 * VL, s2);
        store(y + i + 3 * VL, s3);
    }
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);
        vec s = accumulate ? load_some(y + i, m, 0.0f) : zero;

        for (size_t r = 0; r < n_rows; r++)
            s = fma3(fill(w[r]), load_some(x[r] + i, m, 0.0f), s);
        store_some(y + i, m, s);
    }
}

/* The same with a weight for each element. */
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

/* The same for maxima. Multiplying by 1 changes no value, so one loop serves both cases. */
ATTRIBUTES static void KERNEL(combine_max)(float *y, const float *const *x, const float *w,
                                           size_t n_rows, size_t n, int accumulate)
{
    const vec lowest = fill(-INFINITY);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        vec t0 = accumulate ? load(y + i) : lowest;
        vec t1 = accumulate ? load(y + i + VL) : lowest;
        vec t2 = accumulate ? load(y + i + 2 * VL) : lowest;
        vec t3 = accumulate ? load(y + i + 3 * VL) : lowest;

        for (size_t r = 0; r < n_rows; r++) {
            const float *row = x[r] + i;
            const vec a = fill(w == NULL ? 1.0f : w[r]);

            KERNEL(prefetch)(row);
            t0 = larger_or_nan(t0, mul(a, load(row)));
            t1 = larger_or_nan(t1, mul(a, load(row + VL)));
            t2 = larger_or_nan(t2, mul(a, load(row + 2 * VL)));
            t3 = larger_or_nan(t3, mul(a, load(row + 3 * VL)));
        }
        store(y + i, t0);
        store(y + i + VL, t1);
        store(y + i + 2 * VL, t2);
        store(y + i + 3 * VL, t3);
    }
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);
        vec t = accumulate ? load_some(y + i, m, 0.0f) : lowest;

        for (size_t r = 0; r < n_rows; r++) {
            const vec a = fill(w == NULL ? 1.0f : w[r]);

            t = larger_or_nan(t, mul(a, load_some(x[r] + i, m, 0.0f)));
        }
        store_some(y + i, m, t);
    }
}

/* The largest value; NaN are passed over. */
ATTRIBUTES static float KERNEL(row_max)(const float *x, size_t n)
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

/* First the value, then where it stands: going twice over a row in the nearest cache is several
 * times faster than carrying indices along. */
ATTRIBUTES static size_t KERNEL(argmax)(const float *x, size_t n, float *top)
{
    const vec largest = fill(KERNEL(row_max)(x, n));
    size_t at = 0; /* stays when no lane is equal: nothing but NaN */

    for (size_t i = 0; i < n; i += VL) {
        const size_t lane = first_equal(largest, load_some(x + i, LANES(n - i), NAN));

        if (lane < VL) {
            at = i + lane;
            break;
        }
    }
    *top = x[at];
    return at;
}

#include "function_template.h"

/* ---- conversions ----------------------------------------------------------------------------- */

/* A last part shorter than a vector goes through memory of full length. */

ATTRIBUTES static void KERNEL(f16_to_f32)(float *y, const uint16_t *x, size_t n)
{
    uint16_t tail[VL] = { 0 };
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store(y + i, load_f16(x + i));
    if (i < n) {
        memcpy(tail, x + i, (n - i) * sizeof(*x));
        store_some(y + i, n - i, load_f16(tail));
    }
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
    uint16_t tail[VL] = { 0 };
    size_t i = 0;

    for (; n - i >= VL; i += VL)
        store(y + i, load_bf16(x + i));
    if (i < n) {
        memcpy(tail, x + i, (n - i) * sizeof(*x));
        store_some(y + i, n - i, load_bf16(tail));
    }
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
    .scale = KERNEL(scale),
    .add = KERNEL(add),
    .multiply = KERNEL(multiply),
    .combine = KERNEL(combine),
    .combine_each = KERNEL(combine_each),
    .combine_max = KERNEL(combine_max),
    .argmax = KERNEL(argmax),
    .softmax = KERNEL(softmax),
    .activate = KERNEL(activate),
    .layer_norm = KERNEL(layer_norm),
    .rms_norm = KERNEL(rms_norm),
    .f16_to_f32 = KERNEL(f16_to_f32),
    .f32_to_f16 = KERNEL(f32_to_f16),
    .bf16_to_f32 = KERNEL(bf16_to_f32),
    .f32_to_bf16 = KERNEL(f32_to_bf16),
};
