/*
 * Rankings by a heap of (score, index) pairs. The pair order is total, so the result is unique and
 * needs neither a stable sort nor scratch memory. Where only the set of the best counts, the k-th
 * score is found digit by digit.
 */
#include "order.h"

#include <string.h>

/* Does index a stand before index b? `sign` -1 turns the ranking round, not the tie rule. */
static bool before(const float *score, float sign, int32_t a, int32_t b)
{
    const float x = sign * score[a], y = sign * score[b];

    return x > y || (x == y && a < b);
}

static void sift_down(int32_t *heap, size_t n, size_t at, const float *score, float sign)
{
    const int32_t moving = heap[at];

    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(score, sign, heap[child + 1], heap[child]))
            child++;
        if (before(score, sign, moving, heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void rank(int32_t *order, const float *score, size_t n, size_t k, float sign)
{
    for (size_t i = 0; i < n; i++)
        order[i] = (int32_t)i;
    for (size_t i = n / 2; i-- > 0;)
        sift_down(order, n, i, score, sign);

    /* the popped ones pile up at the end, best last: turn them round afterwards */
    for (size_t popped = 0; popped < k; popped++) {
        const size_t last = n - 1 - popped;
        const int32_t best = order[0];

        order[0] = order[last];
        order[last] = best;
        sift_down(order, last, 0, score, sign);
    }
    for (size_t i = 0, j = n - 1; i < n / 2; i++, j--) {
        const int32_t t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
}

void vtci_top_k(int32_t *order, const float *score, size_t n, size_t k)
{
    rank(order, score, n, k, 1.0f);
}

void vtci_argsort_falling(int32_t *order, const float *score, size_t n)
{
    rank(order, score, n, n, 1.0f);
}

void vtci_argsort_rising(int32_t *order, const float *score, size_t n)
{
    rank(order, score, n, n, -1.0f);
}

/* ---- the best, unranked ---------------------------------------------------------------------- */

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS };

/* An integer that orders like the score; both zeros have the same. */
static uint32_t key_of(float score)
{
    const float x = score + 0.0f;
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/* The k-th largest key, 0 < k <= n: of the keys that share its first digits those are counted that
 * have each next digit. *n_equal: how many of the keys equal to it are among the k. */
static uint32_t kth_key(const float *score, size_t n, size_t k, size_t *n_equal)
{
    uint32_t key = 0, mask = 0;

    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        size_t count[DIGITS] = { 0 };
        uint32_t digit = DIGITS - 1;

        for (size_t i = 0; i < n; i++) {
            const uint32_t other = key_of(score[i]);

            count[other >> shift & (DIGITS - 1)] += (other & mask) == key;
        }
        for (; count[digit] < k; digit--)
            k -= count[digit];
        key |= digit << shift;
        mask |= (uint32_t)(DIGITS - 1) << shift;
    }
    *n_equal = k;
    return key;
}

void vtci_select_top(int32_t *chosen, const float *score, size_t n, size_t k)
{
    size_t n_equal = 0, n_chosen = 0;
    const uint32_t least = k == 0 ? UINT32_MAX : kth_key(score, n, k, &n_equal);

    for (size_t i = 0; n_chosen < k; i++) {
        const uint32_t key = key_of(score[i]);
        const size_t equal = key == least && n_equal > 0;

        chosen[n_chosen] = (int32_t)i;
        n_chosen += (key > least) | equal;
        n_equal -= equal;
    }
}

void vtci_sort_i32(int32_t *x, size_t n)
{
    for (size_t end = n, start = n / 2; end > 1;) {
        int32_t moving;
        size_t at;

        if (start > 0) {
            at = --start;
            moving = x[at];
        } else {
            moving = x[--end];
            x[end] = x[0];
            at = 0;
        }
        for (size_t child; (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && x[child + 1] > x[child])
                child++;
            if (moving >= x[child])
                break;
            x[at] = x[child];
        }
        x[at] = moving;
    }
}

size_t vtci_find_nan(const float *x, size_t n)
{
    enum { BLOCK = 64 };
    size_t i = 0;

    /* no branch inside a block, so that compilers compare several floats at once */
    for (; n - i >= BLOCK; i += BLOCK) {
        int found = 0;

        for (size_t j = 0; j < BLOCK; j++)
            found |= x[i + j] != x[i + j];
        if (found)
            break;
    }
    while (i < n && x[i] == x[i])
        i++;
    return i;
}
