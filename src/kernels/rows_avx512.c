/* The row kernels for AVX-512 F, BW, DQ and VL: what row_template.h asks of an instruction set. */
#include "cpu.h"
#include "kernels.h"

#if VTCI_X86
#include <immintrin.h>

#define SUFFIX     _avx512
#define NAME       "avx512"
#define ATTRIBUTES __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define VL         16

/* sums of a matrix tile, in registers */
#define GEMM_ROWS    8
#define GEMM_VECTORS 3
#define GEMM_DEPTH   128
#define GEMM_IS_FAST 1
#define HEAD_VECTORS 4

typedef __m512 vec;

ATTRIBUTES static inline vec fill(float a)
{
    return _mm512_set1_ps(a);
}

ATTRIBUTES static inline vec load(const float *p)
{
    return _mm512_loadu_ps(p);
}

ATTRIBUTES static inline void store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}

ATTRIBUTES static inline __mmask16 first_lanes(size_t m)
{
    return (__mmask16)((1u << m) - 1);
}

ATTRIBUTES static inline vec load_some(const float *p, size_t m, float rest)
{
    return _mm512_mask_loadu_ps(fill(rest), first_lanes(m), p);
}

ATTRIBUTES static inline void store_some(float *p, size_t m, vec v)
{
    _mm512_mask_storeu_ps(p, first_lanes(m), v);
}

ATTRIBUTES static inline vec add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

ATTRIBUTES static inline vec sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

ATTRIBUTES static inline vec mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

ATTRIBUTES static inline vec fma3(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

ATTRIBUTES static inline vec divide(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

ATTRIBUTES static inline vec magnitude(vec v)
{
    return _mm512_andnot_ps(fill(-0.0f), v);
}

/* MAXPS returns its second operand when the two are equal or one is NaN */
ATTRIBUTES static inline vec larger(vec a, vec b)
{
    return _mm512_max_ps(b, a);
}

ATTRIBUTES static inline vec larger_or_nan(vec a, vec b)
{
    const __mmask16 is_nan = _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q);

    return _mm512_mask_mov_ps(_mm512_max_ps(b, a), is_nan, b);
}

ATTRIBUTES static inline vec at_least(vec v, float bound)
{
    return _mm512_max_ps(fill(bound), v);
}

ATTRIBUTES static inline vec at_most(vec v, float bound)
{
    return _mm512_min_ps(fill(bound), v);
}

ATTRIBUTES static inline vec by_sign(vec x, vec a, vec b)
{
    return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(x)), a);
}

ATTRIBUTES static inline vec nearest(vec v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

ATTRIBUTES static inline vec times_pow2(vec v, vec n)
{
    return _mm512_scalef_ps(v, n);
}

ATTRIBUTES static inline vec zero_below(vec v, vec x, float bound)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, fill(bound), _CMP_NLT_UQ), v);
}

ATTRIBUTES static inline float sum_lanes(vec v)
{
    return _mm512_reduce_add_ps(v);
}

/* Pairs of vectors are interleaved and added until every four lanes hold a part of each sum. */
ATTRIBUTES static inline void sum_lanes_of_4(float *y, vec a, vec b, vec c, vec d)
{
    const vec ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const vec cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const vec sums = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));

    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

ATTRIBUTES static inline int has_nan(vec v)
{
    return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0;
}

ATTRIBUTES static inline float top_lane(vec v)
{
    return _mm512_reduce_max_ps(v);
}

ATTRIBUTES static inline size_t first_equal(vec a, vec b)
{
    const unsigned equal = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);

    return equal == 0 ? VL : (size_t)__builtin_ctz(equal);
}

ATTRIBUTES static inline vec load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

ATTRIBUTES static inline void store_f16(uint16_t *p, vec v)
{
    _mm256_storeu_si256((void *)p,
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

ATTRIBUTES static inline vec load_bf16(const uint16_t *p)
{
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* Adding 0x7fff and the lowest kept bit makes the cut a rounding to nearest, ties to even; a NaN,
 * which that could carry to Inf, gets its quiet bit instead. */
ATTRIBUTES static inline void store_bf16(uint16_t *p, vec v)
{
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i lowest = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));

    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

ATTRIBUTES static inline void stream_line(void *to, const void *from)
{
    _mm512_stream_si512(to, _mm512_loadu_si512(from));
}

ATTRIBUTES static inline void stream_end(void)
{
    _mm_sfence();
}

#include "row_template.h"
#endif
