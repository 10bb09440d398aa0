/*
 * The second half of row_template.h, and included by it alone: exp() and what is made of it, and
 * the norms.
 */

/* Several vectors in step: the CPU looks no further ahead than some two of these chains are long.
 */
#define EACH UNROLL for (int j = 0; j < count; j++)

/*
 * e^x for x <= 0, to 1.01 ULP; 0 below ln 2^-126, where results would be subnormal. NaN stays NaN.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2, where n ln 2 is taken off in two steps (the first is exact:
 * the constant has trailing zeros). e^r is 1 + r + r^2 P(r), P of degree 4 from a minimax fit of
 * the relative error on that interval: 2^-28.
 */
INLINE void KERNEL(exp_falling_each)(vec *x, const int count)
{
    vec n[4], r[4], p[4];

    EACH n[j] = nearest(mul(x[j], fill(0x1.715476p+0f)));
    EACH r[j] = fma3(n[j], fill(-0x1.62e400p-1f), x[j]);
    EACH r[j] = fma3(n[j], fill(-0x1.7f7d1cp-20f), r[j]);
    EACH p[j] = fma3(fill(0x1.6a2434p-10f), r[j], fill(0x1.1239e2p-7f));
    EACH p[j] = fma3(p[j], r[j], fill(0x1.5558f2p-5f));
    EACH p[j] = fma3(p[j], r[j], fill(0x1.555492p-3f));
    EACH p[j] = fma3(p[j], r[j], fill(0x1.fffffcp-2f));
    EACH p[j] = add(fma3(mul(r[j], r[j]), p[j], r[j]), fill(1.0f));
    EACH x[j] = zero_below(times_pow2(p[j], n[j]), x[j], -0x1.5d589ep+6f);
}

INLINE vec KERNEL(exp_falling)(vec x)
{
    KERNEL(exp_falling_each)(&x, 1);
    return x;
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* scale * x + bias of the next vector, of which `left` lanes exist. */
INLINE vec KERNEL(logits)(const float *x, const float *bias, vec scale, size_t i, size_t left)
{
    const vec v = KERNEL(load_next)(x + i, left, 0.0f);

    return bias == NULL ? mul(scale, v) : fma3(scale, v, KERNEL(load_next)(bias + i, left, 0.0f));
}

ATTRIBUTES static float KERNEL(largest_logit)(const float *x, const float *bias, float scale,
                                              size_t n)
{
    const vec a = fill(scale);
    vec t0 = fill(-INFINITY), t1 = t0, t2 = t0, t3 = t0;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        t0 = larger(t0, KERNEL(logits)(x, bias, a, i, VL));
        t1 = larger(t1, KERNEL(logits)(x, bias, a, i + VL, VL));
        t2 = larger(t2, KERNEL(logits)(x, bias, a, i + 2 * VL, VL));
        t3 = larger(t3, KERNEL(logits)(x, bias, a, i + 3 * VL, VL));
    }
    for (; n - i >= VL; i += VL)
        t0 = larger(t0, KERNEL(logits)(x, bias, a, i, VL));
    if (i < n) {
        float last[VL];

        /* lanes beyond the row are no logits */
        store(last, t1);
        store_some(last, n - i, larger(t1, KERNEL(logits)(x, bias, a, i, n - i)));
        t1 = load(last);
    }
    return top_lane(larger(larger(t0, t1), larger(t2, t3)));
}

/* The next `count` vectors of exp_sum(), of which `left` lanes exist; adds them to sum. scale * x -
 * top is rounded once, and never above 0, where exp_falling() ends. */
INLINE void KERNEL(exp_sum_step)(float *p, const float *x, vec scale, vec top, size_t left,
                                 const int count, vec sum[2])
{
    vec e[4];

    EACH e[j] =
        at_most(fma3(scale, KERNEL(load_next)(x + j * VL, left - (size_t)j * VL, 0.0f), top), 0.0f);
    KERNEL(exp_falling_each)(e, count);
    EACH KERNEL(store_next)(p + j * VL, left - (size_t)j * VL, e[j]);
    if (left < (size_t)count * VL) /* lanes beyond the row are no exponentials */
        e[count - 1] = load_some(p + (count - 1) * VL, left - (size_t)(count - 1) * VL, 0.0f);
    EACH sum[j / 2] = add(sum[j / 2], e[j]);
}

ATTRIBUTES static float KERNEL(exp_sum)(float *p, const float *x, float scale, float top, size_t n)
{
    const vec a = fill(scale), b = fill(-top);
    vec sum[2] = { fill(0.0f), fill(0.0f) };
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK)
        KERNEL(exp_sum_step)(p + i, x + i, a, b, BLOCK, 4, sum);
    if (n - i > 3 * VL)
        KERNEL(exp_sum_step)(p + i, x + i, a, b, n - i, 4, sum);
    else if (n - i > 2 * VL)
        KERNEL(exp_sum_step)(p + i, x + i, a, b, n - i, 3, sum);
    else if (n - i > VL)
        KERNEL(exp_sum_step)(p + i, x + i, a, b, n - i, 2, sum);
    else if (n != i)
        KERNEL(exp_sum_step)(p + i, x + i, a, b, n - i, 1, sum);
    return sum_lanes(add(sum[0], sum[1]));
}

ATTRIBUTES static void KERNEL(softmax)(float *p, const float *x, const float *bias, float scale,
                                       size_t n)
{
    const vec a = fill(scale), top = fill(KERNEL(largest_logit)(x, bias, scale, n));
    vec s0 = fill(0.0f), s1 = s0;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        vec e[4];

        UNROLL for (int j = 0; j < 4; j++) e[j] =
            sub(KERNEL(logits)(x, bias, a, i + (size_t)j * VL, VL), top);
        KERNEL(exp_falling_each)(e, 4);
        UNROLL for (int j = 0; j < 4; j++) store(p + i + (size_t)j * VL, e[j]);
        s0 = add(s0, add(e[0], e[1]));
        s1 = add(s1, add(e[2], e[3]));
    }
    for (; i < n; i += VL) {
        const size_t m = LANES(n - i);

        store_some(p + i, m, KERNEL(exp_falling)(sub(KERNEL(logits)(x, bias, a, i, n - i), top)));
        s0 = add(s0, load_some(p + i, m, 0.0f));
    }
    KERNEL(scale)(p, p, 1.0f / sum_lanes(add(s0, s1)), n);
}

/* ---- activations ----------------------------------------------------------------------------- */

/* 1 / (1 + e^-x), to 3 ULP; 0 below -87.3, where e^x is no normal float. */
INLINE vec KERNEL(sigmoid)(vec x)
{
    const vec one = fill(1.0f);
    const vec e = KERNEL(exp_falling)(sub(fill(0.0f), magnitude(x)));

    return divide(by_sign(x, e, one), add(one, e));
}

/*
 * x Phi(x), Phi the cumulative normal distribution. Phi(-a) = e^(-a^2 / 2) R(a) for a >= 0, where R
 * (half the scaled complementary error function of a / sqrt 2) falls slowly from 1/2: it is t P(t),
 * t = 3.5 / (a + 3.5), P of degree 9 from a minimax fit of the relative error on a <= 13.3: 2^-27.
 * Unlike 1 + erf this does not cancel for negative x, so that all results are good to 8 ULP.
 */
INLINE vec KERNEL(gelu_erf)(vec x)
{
    const vec a = magnitude(x);
    const vec t = divide(fill(3.5f), add(a, fill(3.5f)));
    vec p = fill(-0x1.1544a0p-6f);

    p = fma3(p, t, fill(0x1.b920a6p-4f));
    p = fma3(p, t, fill(-0x1.0aab44p-2f));
    p = fma3(p, t, fill(0x1.1bc20cp-2f));
    p = fma3(p, t, fill(-0x1.271468p-3f));
    p = fma3(p, t, fill(0x1.15583ap-3f));
    p = fma3(p, t, fill(0x1.0b5158p-4f));
    p = fma3(p, t, fill(0x1.bba764p-4f));
    p = fma3(p, t, fill(0x1.d16430p-4f));
    p = fma3(p, t, fill(0x1.d2f0d8p-4f));

    /* the rounding of a^2, magnified by exp(), is known and taken off; beyond 16 all is 0 */
    const vec b = at_most(a, 16.0f), square = mul(b, b), lost = fma3(b, b, sub(fill(0.0f), square));
    const vec e = KERNEL(exp_falling)(mul(fill(-0.5f), square));
    const vec tail = mul(mul(p, t), fma3(mul(e, fill(-0.5f)), lost, e));

    return mul(x, by_sign(x, tail, sub(fill(1.0f), tail)));
}

/* (1 + tanh(t)) / 2 = sigmoid(2 t); the factors are sqrt(8 / pi) and 0.044715 of it */
INLINE vec KERNEL(gelu_tanh)(vec x)
{
    const vec slope = fma3(mul(x, x), fill(0x1.2444f2p-4f), fill(0x1.988454p+0f));

    return mul(x, KERNEL(sigmoid)(mul(x, slope)));
}

INLINE vec KERNEL(gelu_quick)(vec x)
{
    return mul(x, KERNEL(sigmoid)(mul(fill(1.702f), x)));
}

INLINE vec KERNEL(silu)(vec x)
{
    return mul(x, KERNEL(sigmoid)(x));
}

INLINE vec KERNEL(hard_sigmoid)(vec x)
{
    return divide(at_most(at_least(add(x, fill(3.0f)), 0.0f), 6.0f), fill(6.0f));
}

INLINE vec KERNEL(hard_swish)(vec x)
{
    return mul(x, KERNEL(hard_sigmoid)(x));
}

INLINE vec KERNEL(relu)(vec x)
{
    return at_least(x, 0.0f);
}

INLINE vec KERNEL(relu2)(vec x)
{
    return mul(at_least(x, 0.0f), at_least(x, 0.0f));
}

INLINE vec KERNEL(identity)(vec x)
{
    return x;
}

/* y = f(x + bias) */
INLINE void KERNEL(map)(vec (*f)(vec), float *y, const float *x, const float *bias, size_t n)
{
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        vec v = KERNEL(load_next)(x + i, left, 0.0f);

        if (bias != NULL)
            v = add(v, KERNEL(load_next)(bias + i, left, 0.0f));
        KERNEL(store_next)(y + i, left, f(v));
    }
}

ATTRIBUTES static void KERNEL(activate)(vtci_activation act, float *y, const float *x,
                                        const float *bias, size_t n)
{
    switch (act) {
    case VTCI_ACT_GELU_ERF:
        KERNEL(map)(KERNEL(gelu_erf), y, x, bias, n);
        break;
    case VTCI_ACT_GELU_TANH:
        KERNEL(map)(KERNEL(gelu_tanh), y, x, bias, n);
        break;
    case VTCI_ACT_GELU_QUICK:
        KERNEL(map)(KERNEL(gelu_quick), y, x, bias, n);
        break;
    case VTCI_ACT_SILU:
        KERNEL(map)(KERNEL(silu), y, x, bias, n);
        break;
    case VTCI_ACT_HARD_SWISH:
        KERNEL(map)(KERNEL(hard_swish), y, x, bias, n);
        break;
    case VTCI_ACT_RELU2:
        KERNEL(map)(KERNEL(relu2), y, x, bias, n);
        break;
    case VTCI_ACT_RELU:
        KERNEL(map)(KERNEL(relu), y, x, bias, n);
        break;
    case VTCI_ACT_SIGMOID:
        KERNEL(map)(KERNEL(sigmoid), y, x, bias, n);
        break;
    case VTCI_ACT_HARD_SIGMOID:
        KERNEL(map)(KERNEL(hard_sigmoid), y, x, bias, n);
        break;
    default:
        KERNEL(map)(KERNEL(identity), y, x, bias, n);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

ATTRIBUTES static float KERNEL(sum_around)(const float *x, float shift, size_t n)
{
    const vec c = fill(shift);
    vec s0 = fill(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        s0 = add(s0, sub(load(x + i), c));
        s1 = add(s1, sub(load(x + i + VL), c));
        s2 = add(s2, sub(load(x + i + 2 * VL), c));
        s3 = add(s3, sub(load(x + i + 3 * VL), c));
    }
    for (; i < n; i += VL)
        s0 = add(s0, sub(KERNEL(load_next)(x + i, n - i, shift), c));
    return sum_lanes(add(add(s0, s1), add(s2, s3)));
}

/*
 * The sums of x - shift and of its squares. Subtracting an estimate of the mean first keeps what
 * rounding takes in proportion to the spread of the row instead of its size.
 */
ATTRIBUTES static void KERNEL(moments)(const float *x, float shift, size_t n, float *sum,
                                       float *square)
{
    const vec zero = fill(0.0f), c = fill(shift);
    vec s0 = zero, s1 = zero, q0 = zero, q1 = zero, q2 = zero, q3 = zero;
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        const vec d0 = sub(load(x + i), c), d1 = sub(load(x + i + VL), c);
        const vec d2 = sub(load(x + i + 2 * VL), c), d3 = sub(load(x + i + 3 * VL), c);

        s0 = add(s0, add(d0, d1));
        s1 = add(s1, add(d2, d3));
        q0 = fma3(d0, d0, q0);
        q1 = fma3(d1, d1, q1);
        q2 = fma3(d2, d2, q2);
        q3 = fma3(d3, d3, q3);
    }
    for (; i < n; i += VL) {
        const vec d = sub(KERNEL(load_next)(x + i, n - i, shift), c);

        s0 = add(s0, d);
        q0 = fma3(d, d, q0);
    }
    *sum = sum_lanes(add(s0, s1));
    *square = sum_lanes(add(add(q0, q1), add(q2, q3)));
}

/* Twice over the row: around its first element, which gives the mean (exactly, when all elements
 * are equal), then around that mean, whose own error `rest` is taken off as well. */
ATTRIBUTES static void KERNEL(layer_norm)(float *y, const float *x, const float *w, const float *b,
                                          float eps, size_t n)
{
    const float count = (float)n;
    float sum, square;

    if (n == 0)
        return;
    const float mean = x[0] + KERNEL(sum_around)(x, x[0], n) / count;
    KERNEL(moments)(x, mean, n, &sum, &square);
    const float rest = sum / count;
    const float inverse = 1.0f / sqrtf(square / count - rest * rest + eps);

    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        const vec d = sub(sub(KERNEL(load_next)(x + i, left, 0.0f), fill(mean)), fill(rest));
        const vec factor = w == NULL ? fill(1.0f) : KERNEL(load_next)(w + i, left, 0.0f);
        const vec offset = b == NULL ? fill(0.0f) : KERNEL(load_next)(b + i, left, 0.0f);

        KERNEL(store_next)(y + i, left, fma3(mul(d, fill(inverse)), factor, offset));
    }
}

ATTRIBUTES static void KERNEL(rms_norm)(float *y, const float *x, const float *w, float offset,
                                        float eps, size_t n)
{
    const float mean_square = KERNEL(dot)(x, x, n) / (float)n;
    const vec inverse = fill(1.0f / sqrtf(mean_square + eps));

    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        const vec unit = mul(KERNEL(load_next)(x + i, left, 0.0f), inverse);
        const vec factor = add(fill(offset), KERNEL(load_next)(w + i, left, 0.0f));

        KERNEL(store_next)(y + i, left, mul(unit, factor));
    }
}
