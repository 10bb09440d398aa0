/* The part of row_template.h that forms all products of rows with rows. */

enum { TILE_X = 3, TILE_Z = 8 }; /* rows of a tile at most; at most 12 sums fit the registers */

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
    for (size_t a = 0; a < n_x; a++)
        for (size_t b = 0; b < n_z; b++)
            t->y[a * t->y_stride + b] = sum_lanes(sum[a][b]);
}

/* Rows of x against a few of z, which stay in the first-level cache. */
INLINE void KERNEL(dots_rows)(struct KERNEL(tile) t, size_t n_x, const size_t n_z)
{
    for (; n_x >= TILE_X; n_x -= TILE_X, t.x += TILE_X, t.y += TILE_X * t.y_stride)
        KERNEL(dots_tile)(&t, TILE_X, n_z);
    for (; n_x > 0; n_x--, t.x++, t.y += t.y_stride)
        KERNEL(dots_tile)(&t, 1, n_z);
}

/* The wide tiles are for a single row: fewer sums would wait for each other. */
ATTRIBUTES static void KERNEL(dots)(float *y, size_t y_stride, const float *const *x, size_t n_x,
                                    size_t x_step, const float *const *z, size_t n_z, size_t z_step,
                                    size_t n_segments, size_t n)
{
    enum { STEP = 4 };
    struct KERNEL(tile) t = { y, y_stride, x, z, x_step, z_step, n_segments, n };

    for (; n_x == 1 && n_z >= TILE_Z; n_z -= TILE_Z, t.z += TILE_Z, t.y += TILE_Z)
        KERNEL(dots_tile)(&t, 1, TILE_Z);
    for (; n_z >= STEP; n_z -= STEP, t.z += STEP, t.y += STEP)
        KERNEL(dots_rows)(t, n_x, STEP);
    for (; n_z > 0; n_z--, t.z++, t.y++)
        KERNEL(dots_rows)(t, n_x, 1);
}
