/*
 * The matrix tile of row_template.h, and included by it alone. GEMM_ROWS x GEMM_VECTORS sums stay
 * in registers over the whole of k.
 */

#define UNROLL _Pragma("GCC unroll 16")

/* C = A B, or C += A B: see gemm_tile in kernels.h. */
ATTRIBUTES static void KERNEL(gemm_tile)(float *c, size_t ldc, const float *a, const float *b,
                                         size_t k, int accumulate)
{
    vec sum[GEMM_ROWS][GEMM_VECTORS];

    UNROLL for (int i = 0; i < GEMM_ROWS; i++) UNROLL for (int j = 0; j < GEMM_VECTORS; j++)
        sum[i][j] = accumulate ? load(c + (size_t)i * ldc + j * VL) : fill(0.0f);
    for (size_t p = 0; p < k; p++, a += GEMM_ROWS, b += GEMM_VECTORS * VL) {
        vec row[GEMM_VECTORS];

        UNROLL for (int j = 0; j < GEMM_VECTORS; j++) row[j] = load(b + j * VL);
        UNROLL for (int i = 0; i < GEMM_ROWS; i++)
        {
            const vec x = fill(a[i]);

            UNROLL for (int j = 0; j < GEMM_VECTORS; j++) sum[i][j] = fma3(x, row[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < GEMM_ROWS; i++) UNROLL for (int j = 0; j < GEMM_VECTORS; j++)
        store(c + (size_t)i * ldc + j * VL, sum[i][j]);
}
