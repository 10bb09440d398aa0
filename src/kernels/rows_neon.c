/* The row kernels for the Advanced SIMD unit of AArch64: what row_template.h asks of an instruction
 * set. */
#include "cpu.h"
#include "kernels.h"

#if VTCI_NEON
#include <arm_neon.h>
#include <string.h>

#define SUFFIX _neon
#define NAME   "neon"
#define ATTRIBUTES
#define VL 4

/* sums of a matrix tile, in registers */
#define GEMM_ROWS    8
#define GEMM_VECTORS 3
#define GEMM_DEPTH   256
#define GEMM_IS_FAST 0
#define HEAD_VECTORS 4

typedef float32x4_t vec;

static inline vec fill(float a)
{
    return vdupq_n_f32(a);
}

static inline vec load(const float *p)
{
    return vld1q_f32(p);
}

static inline void store(float *p, vec v)
{
    vst1q_f32(p, v);
}

/* There are no masked loads: a part of a vector goes through memory of full length. */
static inline vec load_some(const float *p, size_t m, float rest)
{
    float lanes[VL] = { rest, rest, rest, rest };

    memcpy(lanes, p, m * sizeof(*p));
    return load(lanes);
}

static inline void store_some(float *p, size_t m, vec v)
{
    float lanes[VL];

    store(lanes, v);
    memcpy(p, lanes, m * sizeof(*p));
}

static inline vec add(vec a, vec b)
{
    return vaddq_f32(a, b);
}

static inline vec sub(vec a, vec b)
{
    return vsubq_f32(a, b);
}

static inline vec mul(vec a, vec b)
{
    return vmulq_f32(a, b);
}

static inline vec fma3(vec a, vec b, vec c)
{
    return vfmaq_f32(c, a, b);
}

static inline vec divide(vec a, vec b)
{
    return vdivq_f32(a, b);
}

static inline vec magnitude(vec v)
{
    return vabsq_f32(v);
}

static inline vec larger(vec a, vec b)
{
    return vbslq_f32(vcgtq_f32(b, a), b, a);
}

/* only a NaN differs from itself */
static inline vec larger_or_nan(vec a, vec b)
{
    return vbslq_f32(vceqq_f32(b, b), larger(a, b), b);
}

static inline vec at_least(vec v, float bound)
{
    return vbslq_f32(vcltq_f32(v, fill(bound)), fill(bound), v);
}

static inline vec at_most(vec v, float bound)
{
    return vbslq_f32(vcgtq_f32(v, fill(bound)), fill(bound), v);
}

static inline vec by_sign(vec x, vec a, vec b)
{
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), a, b);
}

static inline vec nearest(vec v)
{
    return vrndnq_f32(v);
}

/* 2^n is the float whose exponent field is n + 127 */
static inline vec times_pow2(vec v, vec n)
{
    const int32x4_t field = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));

    return mul(v, vreinterpretq_f32_s32(vshlq_n_s32(field, 23)));
}

static inline vec zero_below(vec v, vec x, float bound)
{
    return vbslq_f32(vcltq_f32(x, fill(bound)), fill(0.0f), v);
}

static inline float sum_lanes(vec v)
{
    return vaddvq_f32(v);
}

static inline void sum_lanes_of_4(float *y, vec a, vec b, vec c, vec d)
{
    vst1q_f32(y, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

static inline int has_nan(vec v)
{
    return vminvq_u32(vceqq_f32(v, v)) == 0;
}

static inline float top_lane(vec v)
{
    return vmaxnmvq_f32(v);
}

/* 16 bits are left of each lane's mask */
static inline size_t first_equal(vec a, vec b)
{
    const uint16x4_t equal = vmovn_u32(vceqq_f32(a, b));
    const uint64_t bits = vget_lane_u64(vreinterpret_u64_u16(equal), 0);

    return bits == 0 ? VL : (size_t)__builtin_ctzll(bits) / 16;
}

static inline vec load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static inline void store_f16(uint16_t *p, vec v)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

static inline vec load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

/* Adding 0x7fff and the lowest kept bit makes the cut a rounding to nearest, ties to even; a NaN,
 * which that could carry to Inf, gets its quiet bit instead. */
static inline void store_bf16(uint16_t *p, vec v)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t lowest = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(lowest, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint32x4_t kept = vbslq_u32(vceqq_f32(v, v), rounded, quiet);

    vst1_u16(p, vshrn_n_u32(kept, 16));
}

/* Stores that pass the caches exist only in pairs and as a hint; plain ones stream well here. */
static inline void stream_line(void *to, const void *from)
{
    memcpy(to, from, 64);
}

static inline void stream_end(void)
{
}

#include "row_template.h"
#endif
