/*
 * The combinations of rows, once for each dtype of the rows. row_template.h defines before it
 * includes this
 *
 *   ELEMENT               type of an element in memory: float, or uint16_t that holds F16 or BF16
 *   OF(name)              the kernel's name for this dtype
 *   LOAD(p)               vec of the VL elements at p
 *   LOAD_SOME(p, m)       the first m of them, the other lanes are any number
 *
 * 16-bit rows are widened, which is exact, on their way into a register: the bits are those of
 * combining floats, the traffic is half of theirs.
 */

/*
 * Asks for the block that stands AHEAD bytes after this one, mostly some tokens further on, to be
 * brought into the second-level cache. Rows end too soon for the CPU's own prefetchers: with this a
 * pooling of rows in main memory is a fifth to a third faster. A prefetch never faults, so the
 * address may lie outside the array.
 */
ATTRIBUTES static inline void OF(prefetch)(const ELEMENT *row)
{
    enum { AHEAD = 16384, LINE = 64 };
    const uintptr_t block = (uintptr_t)row + AHEAD;

    for (size_t line = 0; line < BLOCK * sizeof(*row); line += LINE)
        __builtin_prefetch((const void *)(block + line), 0, 2);
}

/* A block of the output stays in registers while all rows are added to it, so that each row is read
 * once and the output written once: the pace is that of memory. */
ATTRIBUTES static void OF(combine)(float *y, const ELEMENT *const *x, const float *w, size_t n_rows,
                                   size_t n, int accumulate)
{
    const vec zero = fill(0.0f);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        vec s0 = accumulate ? load(y + i) : zero;
        vec s1 = accumulate ? load(y + i + VL) : zero;
        vec s2 = accumulate ? load(y + i + 2 * VL) : zero;
        vec s3 = accumulate ? load(y + i + 3 * VL) : zero;

        for (size_t r = 0; r < n_rows; r++) {
            const ELEMENT *row = x[r] + i;
            const vec a = fill(w[r]);

            OF(prefetch)(row);
            s0 = fma3(a, LOAD(row), s0);
            s1 = fma3(a, LOAD(row + VL), s1);
            s2 = fma3(a, LOAD(row + 2 * VL), s2);
            s3 = fma3(a, LOAD(row + 3 * VL), s3);
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
            s = fma3(fill(w[r]), LOAD_SOME(x[r] + i, m), s);
        store_some(y + i, m, s);
    }
}

INLINE vec OF(weighted)(const ELEMENT *row, vec weight, const int weighs)
{
    return weighs ? mul(weight, LOAD(row)) : LOAD(row);
}

/*
 * Maxima of a block. To let a NaN win takes as long as all the rest, and there rarely is one:
 * unless `minds_nan` the block is also summed, which is free, and when that sum is NaN nothing is
 * stored and 0 returned.
 */
INLINE int OF(max_block)(float *y, const ELEMENT *const *x, const float *w, size_t n_rows, size_t i,
                         int accumulate, const int weighs, const int minds_nan)
{
    vec top[4], sum[4];

    UNROLL for (int j = 0; j < 4; j++)
    {
        top[j] = accumulate ? load(y + i + j * VL) : fill(-INFINITY);
        sum[j] = fill(0.0f);
    }
    for (size_t r = 0; r < n_rows; r++) {
        const ELEMENT *row = x[r] + i;
        const vec a = fill(weighs ? w[r] : 1.0f);

        OF(prefetch)(row);
        UNROLL for (int j = 0; j < 4; j++)
        {
            const vec v = OF(weighted)(row + j * VL, a, weighs);

            top[j] = minds_nan ? larger_or_nan(top[j], v) : larger(top[j], v);
            sum[j] = add(sum[j], v);
        }
    }
    if (!minds_nan && has_nan(add(add(sum[0], sum[1]), add(sum[2], sum[3]))))
        return 0;
    UNROLL for (int j = 0; j < 4; j++) store(y + i + j * VL, top[j]);
    return 1;
}

/* The same for maxima, of rows as they are unless it weighs them. */
INLINE void OF(combine_max_of)(float *y, const ELEMENT *const *x, const float *w, size_t n_rows,
                               size_t n, int accumulate, const int weighs)
{
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK)
        if (!OF(max_block)(y, x, w, n_rows, i, accumulate, weighs, 0))
            OF(max_block)(y, x, w, n_rows, i, accumulate, weighs, 1);
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);
        vec t = accumulate ? load_some(y + i, m, 0.0f) : fill(-INFINITY);

        for (size_t r = 0; r < n_rows; r++)
            t = larger_or_nan(t, mul(fill(weighs ? w[r] : 1.0f), LOAD_SOME(x[r] + i, m)));
        store_some(y + i, m, t);
    }
}

ATTRIBUTES static void OF(combine_max)(float *y, const ELEMENT *const *x, const float *w,
                                       size_t n_rows, size_t n, int accumulate)
{
    if (w == NULL)
        OF(combine_max_of)(y, x, w, n_rows, n, accumulate, 0);
    else
        OF(combine_max_of)(y, x, w, n_rows, n, accumulate, 1);
}

#undef ELEMENT
#undef OF
#undef LOAD
#undef LOAD_SOME
