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

enum { LINE_FLOATS = VTCI_LINE / sizeof(float), ROWS_AHEAD = 16 };

/* Columns i .. i + m - 1 of four rows, the first n_rows of which are added to `total` [.., n]. */
INLINE void KERNEL(dot_step)(vec sum[4], const float *x, const float *z, size_t stride, size_t i,
                             size_t m, float *total, size_t n, float weight, const int n_rows)
{
    const vec v = KERNEL(load_next)(x + i, m, 0.0f);
    vec row[4];

    UNROLL for (size_t r = 0; r < 4; r++) row[r] = KERNEL(load_next)(z + r * stride + i, m, 0.0f);
    UNROLL for (size_t r = 0; r < 4; r++) sum[r] = fma3(v, row[r], sum[r]);
    UNROLL for (int r = 0; r < n_rows; r++)
    {
        float *to = total + (size_t)r * n + i;
        const vec before = KERNEL(load_next)(to, m, 0.0f);

        KERNEL(store_next)(to, m, fma3(fill(weight), row[r], before));
    }
}

/* Memory that is read in four places is not foreseen by the machine: rows are asked for well
 * before. The address of a prefetch may lie outside the array. */
INLINE void KERNEL(dot_four)(float *y, const float *x, const float *z, size_t stride, size_t n,
                             float *total, float weight, const int n_rows)
{
    vec sum[4] = { fill(0.0f), fill(0.0f), fill(0.0f), fill(0.0f) };
    size_t i = 0;

    for (; n - i >= LINE_FLOATS; i += LINE_FLOATS) {
        UNROLL for (size_t r = 0; r < 4; r++)
        {
            const size_t ahead = (ROWS_AHEAD + r) * stride + i;

            __builtin_prefetch((const void *)((uintptr_t)z + ahead * sizeof(*z)), 0, 2);
        }
        UNROLL for (size_t j = i; j < i + LINE_FLOATS; j += VL)
        {
            KERNEL(dot_step)(sum, x, z, stride, j, VL, total, n, weight, n_rows);
        }
    }
    for (; i < n; i += VL)
        KERNEL(dot_step)(sum, x, z, stride, i, n - i, total, n, weight, n_rows);
    sum_lanes_of_4(y, sum[0], sum[1], sum[2], sum[3]);
}

/* A last row alone is taken four times, so that its sum is formed in the same order. */
ATTRIBUTES static void KERNEL(dot_rows)(float *y, const float *x, const float *z, size_t stride,
                                        size_t n_rows, size_t n, float *total, float weight)
{
    size_t r = 0;

    for (; n_rows - r >= 4; r += 4)
        if (total == NULL)
            KERNEL(dot_four)(y + r, x, z + r * stride, stride, n, NULL, 0.0f, 0);
        else
            KERNEL(dot_four)(y + r, x, z + r * stride, stride, n, total + r * n, weight, 4);
    for (; r < n_rows; r++) {
        float same[4];

        if (total == NULL)
            KERNEL(dot_four)(same, x, z + r * stride, 0, n, NULL, 0.0f, 0);
        else
            KERNEL(dot_four)(same, x, z + r * stride, 0, n, total + r * n, weight, 1);
        y[r] = same[0];
    }
}
