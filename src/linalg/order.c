/*
 * Rankings by a heap of (score, index) pairs. The pair order is total, so the result is unique and
 * needs neither a stable sort nor scratch memory.
 */
#include "order.h"

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
