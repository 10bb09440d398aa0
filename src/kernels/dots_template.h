/* The part of row_template.h that forms all products of rows with rows. */

enum { TILE_X = 3, TILE_Z = 4 }; /* rows of a tile at most: 12 sums fit the registers */

struct KERNEL(tile) {
    float *y;
    size_t y_stride;
    const float *const *x, *const *z;
    size_t x_step, z_step, n_segments, n;
};

/* Adds m products of a vector to each sum. n_x and n_z are constants where this is called. */
INLINE void KERNEL(tile_step)(vec sum[TILE_X][TILE_Z], const float *const *x, const float *const *z,
                              size_t i, size_t m, const size_t n_x, const size_t n_z)
{
    vec v[TILE_X];

    for (size_t a = 0; a < n_x; a++)
        v[a] = m == VL ? load(x[a] + i) : load_some(x[a] + i, m, 0.0f);
    for (size_t b = 0; b < n_z; b++) {
        const vec w = m == VL ? load(z[b] + i) : load_some(z[b] + i, m, 0.0f);

        for (size_t a = 0; a < n_x; a++)
            sum[a][b] = fma3(v[a], w, sum[a][b]);
    }
}

/* One vector of sums for each pair, whatever the tile's size, so that its place is not seen. */
INLINE void KERNEL(dots_tile)(const struct KERNEL(tile) * t, const size_t n_x, const size_t n_z)
{
    const float *x[TILE_X], *z[TILE_Z];
    vec sum[TILE_X][TILE_Z];

    for (size_t a = 0; a < n_x; a++)
        for (size_t b = 0; b < n_z; b++)
            sum[a][b] = fill(0.0f);
    for (size_t s = 0; s < t->n_segments; s++) {
        size_t i = 0;

        for (size_t a = 0; a < n_x; a++)
            x[a] = t->x[a] + s * t->x_step;
        for (size_t b = 0; b < n_z; b++)
            z[b] = t->z[b] + s * t->z_step;
        for (; t->n - i >= VL; i += VL)
            KERNEL(tile_step)(sum, x, z, i, VL, n_x, n_z);
        if (i < t->n)
            KERNEL(tile_step)(sum, x, z, i, t->n - i, n_x, n_z);
    }
    for (size_t a = 0; a < n_x; a++) {
        float y[TILE_Z];

        sum_lanes_of_4(y, sum[a][0], sum[a][n_z > 1 ? 1 : 0], sum[a][n_z > 2 ? 2 : 0],
                       sum[a][n_z > 3 ? 3 : 0]);
        memcpy(t->y + a * t->y_stride, y, n_z * sizeof(*y));
    }
}

/* Rows of x against a few of z, which stay in the first-level cache. */
INLINE void KERNEL(dots_rows)(struct KERNEL(tile) t, size_t n_x, const size_t n_z)
{
    for (; n_x >= TILE_X; n_x -= TILE_X, t.x += TILE_X, t.y += TILE_X * t.y_stride)
        KERNEL(dots_tile)(&t, TILE_X, n_z);
    for (; n_x > 0; n_x--, t.x++, t.y += t.y_stride)
        KERNEL(dots_tile)(&t, 1, n_z);
}

ATTRIBUTES static void KERNEL(dots)(float *y, size_t y_stride, const float *const *x, size_t n_x,
                                    size_t x_step, const float *const *z, size_t n_z, size_t z_step,
                                    size_t n_segments, size_t n)
{
    struct KERNEL(tile) t = { y, y_stride, x, z, x_step, z_step, n_segments, n };

    for (; n_z >= TILE_Z; n_z -= TILE_Z, t.z += TILE_Z, t.y += TILE_Z)
        KERNEL(dots_rows)(t, n_x, TILE_Z);
    for (; n_z >= 2; n_z -= 2, t.z += 2, t.y += 2)
        KERNEL(dots_rows)(t, n_x, 2);
    if (n_z != 0)
        KERNEL(dots_rows)(t, n_x, 1);
}

/* ---- one row with each of many ----------------------------------------------------------------
 */

enum { LINE_FLOATS = VTCI_LINE / sizeof(float) };

/* Asks for the lines of `floats` floats, which need not exist: a prefetch does not fault. */
INLINE void KERNEL(ask_for)(const float *z, size_t ahead, const size_t floats)
{
    UNROLL for (size_t i = 0; i < floats; i += LINE_FLOATS)
        __builtin_prefetch((const void *)((uintptr_t)z + (ahead + i) * sizeof(*z)), 0, 2);
}

/* The lanes of x z of one row. Rows that follow each other are one stream, which the machine
 * foresees; others are asked for well before. */
INLINE vec KERNEL(dot_row)(const float *x, const float *z, size_t stride, size_t n,
                           const int is_stream)
{
    enum { STEP = 2 * VL > LINE_FLOATS ? 2 * VL : LINE_FLOATS, ROWS_AHEAD = 16 };
    vec s0 = fill(0.0f), s1 = s0;
    size_t i = 0;

    for (; n - i >= STEP; i += STEP) {
        if (!is_stream)
            KERNEL(ask_for)(z, ROWS_AHEAD * stride + i, STEP);
        UNROLL for (size_t j = i; j < i + STEP; j += 2 * VL)
        {
            s0 = fma3(load(x + j), load(z + j), s0);
            s1 = fma3(load(x + j + VL), load(z + j + VL), s1);
        }
    }
    for (; i < n; i += VL)
        s0 = fma3(KERNEL(load_next)(x + i, n - i, 0.0f), KERNEL(load_next)(z + i, n - i, 0.0f), s0);
    return add(s0, s1);
}

INLINE void KERNEL(dot_four)(float *y, const float *x, const float *z, size_t stride, size_t n,
                             const int is_stream)
{
    vec sum[4];

    UNROLL for (size_t r = 0; r < 4; r++) sum[r] =
        KERNEL(dot_row)(x, z + r * stride, stride, n, is_stream);
    sum_lanes_of_4(y, sum[0], sum[1], sum[2], sum[3]);
}

/* A last row alone is taken four times, so that its sum is formed in the same order. */
ATTRIBUTES static void KERNEL(dot_rows)(float *y, const float *x, const float *z, size_t stride,
                                        size_t n_rows, size_t n)
{
    size_t r = 0;

    for (; n_rows - r >= 4; r += 4)
        if (stride == n)
            KERNEL(dot_four)(y + r, x, z + r * stride, stride, n, 1);
        else
            KERNEL(dot_four)(y + r, x, z + r * stride, stride, n, 0);
    for (; r < n_rows; r++) {
        float same[4];

        KERNEL(dot_four)(same, x, z + r * stride, 0, n, 1);
        y[r] = same[0];
    }
}

/* ---- the rows of all heads ------------------------------------------------------------------- */

/* y = the products of a query with some columns of four rows, which on their way are added to the
 * totals if this is the first query to see them. The last of the n_vectors has m lanes. */
INLINE void KERNEL(head_step)(float *y, const float *x, const float *const row[4], size_t m,
                              const size_t n_vectors, vec total[4][HEAD_VECTORS], vec weight,
                              const int is_first)
{
    vec sum[4] = { fill(0.0f), fill(0.0f), fill(0.0f), fill(0.0f) };

    UNROLL for (size_t j = 0; j < n_vectors; j++)
    {
        const vec v = KERNEL(load_next)(x + j * VL, m, 0.0f);

        UNROLL for (size_t r = 0; r < 4; r++)
        {
            const vec z = KERNEL(load_next)(row[r] + j * VL, m, 0.0f);

            sum[r] = fma3(v, z, sum[r]);
            if (is_first)
                total[r][j] = fma3(weight, z, total[r][j]);
        }
    }
    sum_lanes_of_4(y, sum[0], sum[1], sum[2], sum[3]);
}

/* y = the products of n_rows rows, or those on top of it. */
INLINE void KERNEL(head_products)(float *y, const float got[4], const size_t n_rows, int on_top)
{
    UNROLL for (size_t r = 0; r < n_rows; r++) y[r] = on_top ? y[r] + got[r] : got[r];
}

/* Columns from i on of n_rows rows: their means over the heads stay in registers while one query
 * after the other is multiplied by them. Visits as short as these start no stream of the machine's
 * own prefetching, which at the end of a worker's rows would take what is in another's cache. */
INLINE void KERNEL(head_block)(const vtci_shared_heads *h, float *y, size_t y_stride, float *mean,
                               const float *z, size_t i, size_t m, const size_t n_vectors,
                               const size_t n_rows)
{
    const vec weight = fill(1.0f / (float)h->n_groups);
    const float *x = h->x + i, *row[4];
    vec total[4][HEAD_VECTORS];
    float got[4];

    UNROLL for (size_t r = 0; r < 4; r++)
    {
        row[r] = z + i + (n_rows == 1 ? 0 : r * h->stride);
        UNROLL for (size_t j = 0; j < n_vectors; j++) total[r][j] = fill(0.0f);
    }
    for (size_t g = 0; g < h->n_groups; g++) {
        KERNEL(head_step)(got, x, row, m, n_vectors, total, weight, 1);
        KERNEL(head_products)(y, got, n_rows, i != 0);
        x += h->x_stride;
        y += y_stride;
        for (size_t s = 1; s < h->n_shared; s++, x += h->x_stride, y += y_stride) {
            KERNEL(head_step)(got, x, row, m, n_vectors, total, weight, 0);
            KERNEL(head_products)(y, got, n_rows, i != 0);
        }
        UNROLL for (size_t r = 0; r < 4; r++) row[r] += h->z_step;
    }
    UNROLL for (size_t r = 0; r < n_rows; r++) UNROLL for (size_t j = 0; j < n_vectors; j++)
        KERNEL(store_next)(mean + r * h->n + i + j * VL, m, total[r][j]);
}

INLINE void KERNEL(head_rows)(const vtci_shared_heads *h, float *y, size_t y_stride, float *mean,
                              const float *z, const size_t n_rows)
{
    const size_t n = h->n;
    size_t i = 0;

    for (; n - i >= HEAD_VECTORS * VL; i += HEAD_VECTORS * VL)
        KERNEL(head_block)(h, y, y_stride, mean, z, i, VL, HEAD_VECTORS, n_rows);
    for (; i < n; i += VL)
        KERNEL(head_block)(h, y, y_stride, mean, z, i, LANES(n - i), 1, n_rows);
}

ATTRIBUTES static void KERNEL(dot_heads)(float *y, size_t y_stride, float *mean,
                                         const vtci_shared_heads *h, size_t n_rows)
{
    size_t r = 0;

    for (; n_rows - r >= 4; r += 4)
        KERNEL(head_rows)(h, y + r, y_stride, mean + r * h->n, h->z + r * h->stride, 4);
    for (; r < n_rows; r++)
        KERNEL(head_rows)(h, y + r, y_stride, mean + r * h->n, h->z + r * h->stride, 1);
}
