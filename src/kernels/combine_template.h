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

/* The same for maxima. Multiplying by 1 changes no value, so one loop serves both cases. */
ATTRIBUTES static void OF(combine_max)(float *y, const ELEMENT *const *x, const float *w,
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
            const ELEMENT *row = x[r] + i;
            const vec a = fill(w == NULL ? 1.0f : w[r]);

            OF(prefetch)(row);
            t0 = larger_or_nan(t0, mul(a, LOAD(row)));
            t1 = larger_or_nan(t1, mul(a, LOAD(row + VL)));
            t2 = larger_or_nan(t2, mul(a, LOAD(row + 2 * VL)));
            t3 = larger_or_nan(t3, mul(a, LOAD(row + 3 * VL)));
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

            t = larger_or_nan(t, mul(a, LOAD_SOME(x[r] + i, m)));
        }
        store_some(y + i, m, t);
    }
}

#undef ELEMENT
#undef OF
#undef LOAD
#undef LOAD_SOME
