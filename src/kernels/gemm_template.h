/*
 * The matrix tile of row_template.h, and included by it alone. GEMM_ROWS x GEMM_VECTORS sums stay
 * in registers over the whole of k.
 */

/* A tile of n columns that take `vectors` vectors, the last of which is cut when `cut`. Rows from m
 * on are computed from row m - 1 and not stored. */
INLINE void KERNEL(tile_of)(const int vectors, const int cut, float *c, size_t ldc,
                            const float *const *rows, size_t step, const float *b, size_t ldb,
                            size_t k, size_t m, size_t n, int accumulate, vtci_ahead ahead)
{
    const size_t last = n - (size_t)(vectors - 1) * VL;
    vec sum[GEMM_ROWS][GEMM_VECTORS];

    /* rows of a large C lie pages apart and would be waited for at the end */
    UNROLL for (int i = 0; i < GEMM_ROWS; i++)
        UNROLL for (int j = 0; j < vectors; j++) if ((size_t)i < m)
            __builtin_prefetch(c + (size_t)i * ldc + j * VL, 1, 3);

    UNROLL for (int i = 0; i < GEMM_ROWS; i++) UNROLL for (int j = 0; j < vectors; j++) sum[i][j] =
        fill(0.0f);
    for (size_t p = 0; p < k; p++, b += ldb) {
        vec row[GEMM_VECTORS];

        if (p < ahead.n_lines)
            __builtin_prefetch(ahead.at + p * VTCI_LINE, 0, 2);
        UNROLL for (int j = 0; j < vectors; j++) row[j] =
            cut && j == vectors - 1 ? load_some(b + j * VL, last, 0.0f) : load(b + j * VL);
        UNROLL for (int i = 0; i < GEMM_ROWS; i++)
        {
            const vec x = fill(rows[i][p * step]);

            UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = fma3(x, row[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < GEMM_ROWS; i++)
    {
        if ((size_t)i == m)
            return;
        UNROLL for (int j = 0; j < vectors; j++)
        {
            float *to = c + (size_t)i * ldc + j * VL;

            if (cut && j == vectors - 1)
                store_some(to, last,
                           accumulate ? add(load_some(to, last, 0.0f), sum[i][j]) : sum[i][j]);
            else
                store(to, accumulate ? add(load(to), sum[i][j]) : sum[i][j]);
        }
    }
}

/* C = A B, or C += A B: see gemm_tile in kernels.h. */
ATTRIBUTES static void KERNEL(gemm_tile)(float *c, size_t ldc, const float *a, size_t row_stride,
                                         size_t step, const float *b, size_t ldb, size_t k,
                                         size_t m, size_t n, int accumulate, vtci_ahead ahead)
{
    const float *rows[GEMM_ROWS];

    UNROLL for (int i = 0; i < GEMM_ROWS; i++) rows[i] =
        a + ((size_t)i < m ? (size_t)i : m - 1) * row_stride;
    if (n == GEMM_VECTORS * VL)
        KERNEL(tile_of)(GEMM_VECTORS, 0, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
    else if (n > (size_t)2 * VL)
        KERNEL(tile_of)(3, 1, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
    else if (n == (size_t)2 * VL)
        KERNEL(tile_of)(2, 0, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
    else if (n > VL)
        KERNEL(tile_of)(2, 1, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
    else if (n == VL)
        KERNEL(tile_of)(1, 0, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
    else
        KERNEL(tile_of)(1, 1, c, ldc, rows, step, b, ldb, k, m, n, accumulate, ahead);
}

#if GEMM_VECTORS != 3
#error "gemm_tile() names the vectors of a tile one by one"
#endif
