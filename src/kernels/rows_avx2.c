/* The row kernels for AVX2, FMA and F16C: what row_template.h asks of an instruction set. */
#include "cpu.h"
#include "kernels.h"

#if VTCI_X86
#include <immintrin.h>

#define SUFFIX     _avx2
#define NAME       "avx2"
#define ATTRIBUTES __attribute__((target("avx2,fma,f16c")))
#define VL         8

/* sums of a matrix tile, in registers */
#define GEMM_ROWS    4
#define GEMM_VECTORS 3
#define GEMM_DEPTH   192
#define GEMM_IS_FAST 1
#define HEAD_VECTORS 2

typedef __m256 vec;

ATTRIBUTES static inline vec fill(float a)
{
    return _mm256_set1_ps(a);
}

ATTRIBUTES static inline vec load(const float *p)
{
    return _mm256_loadu_ps(p);
}

ATTRIBUTES static inline void store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}

ATTRIBUTES static inline __m256i first_lanes(size_t m)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)m), lane);
}

ATTRIBUTES static inline vec load_some(const float *p, size_t m, float rest)
{
    const __m256i mask = first_lanes(m);

    return _mm256_blendv_ps(fill(rest), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}

ATTRIBUTES static inline void store_some(float *p, size_t m, vec v)
{
    _mm256_maskstore_ps(p, first_lanes(m), v);
}

ATTRIBUTES static inline vec add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

ATTRIBUTES static inline vec sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

ATTRIBUTES static inline vec mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

ATTRIBUTES static inline vec fma3(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

ATTRIBUTES static inline vec divide(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

ATTRIBUTES static inline vec magnitude(vec v)
{
    return _mm256_andnot_ps(fill(-0.0f), v);
}

/* MAXPS returns its second operand when the two are equal or one is NaN */
ATTRIBUTES static inline vec larger(vec a, vec b)
{
    return _mm256_max_ps(b, a);
}

ATTRIBUTES static inline vec larger_or_nan(vec a, vec b)
{
    return _mm256_blendv_ps(_mm256_max_ps(b, a), b, _mm256_cmp_ps(b, b, _CMP_UNORD_Q));
}

ATTRIBUTES static inline vec at_least(vec v, float bound)
{
    return _mm256_max_ps(fill(bound), v);
}

ATTRIBUTES static inline vec at_most(vec v, float bound)
{
    return _mm256_min_ps(fill(bound), v);
}

ATTRIBUTES static inline vec by_sign(vec x, vec a, vec b)
{
    return _mm256_blendv_ps(b, a, x);
}

ATTRIBUTES static inline vec nearest(vec v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n is the float whose exponent field is n + 127 */
ATTRIBUTES static inline vec times_pow2(vec v, vec n)
{
    const __m256i field = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));

    return mul(v, _mm256_castsi256_ps(_mm256_slli_epi32(field, 23)));
}

ATTRIBUTES static inline vec zero_below(vec v, vec x, float bound)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, fill(bound), _CMP_LT_OQ), v);
}

ATTRIBUTES static inline float sum_lanes(vec v)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Pairs of vectors are interleaved and added until every four lanes hold a part of each sum. */
ATTRIBUTES static inline void sum_lanes_of_4(float *y, vec a, vec b, vec c, vec d)
{
    const vec ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const vec cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const vec sums = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));

    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
}

ATTRIBUTES static inline int has_nan(vec v)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0;
}

ATTRIBUTES static inline float top_lane(vec v)
{
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ATTRIBUTES static inline size_t first_equal(vec a, vec b)
{
    const int equal = _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));

    return equal == 0 ? VL : (size_t)__builtin_ctz((unsigned)equal);
}

ATTRIBUTES static inline vec load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

ATTRIBUTES static inline void store_f16(uint16_t *p, vec v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

ATTRIBUTES static inline vec load_bf16(const uint16_t *p)
{
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

/* Adding 0x7fff and the lowest kept bit makes the cut a rounding to nearest, ties to even; a NaN,
 * which that could carry to Inf, gets its quiet bit instead. */
ATTRIBUTES static inline void store_bf16(uint16_t *p, vec v)
{
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i lowest = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    const __m128i low = _mm256_castsi256_si128(kept), high = _mm256_extracti128_si256(kept, 1);

    _mm_storeu_si128((void *)p, _mm_packus_epi32(low, high));
}

ATTRIBUTES static inline void stream_line(void *to, const void *from)
{
    const __m256i *half = from;
    __m256i *out = to;

    _mm256_stream_si256(out, _mm256_loadu_si256(half));
    _mm256_stream_si256(out + 1, _mm256_loadu_si256(half + 1));
}

ATTRIBUTES static inline void stream_end(void)
{
    _mm_sfence();
}

#include "row_template.h"
#endif
