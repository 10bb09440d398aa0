/* Rows moved by index. */
#include "pieces.h"

#include "../kernels/kernels.h"

#include <string.h>

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define PREFETCH(address) ((void)(address))
#endif

static inline size_t slot_of(const int32_t *slot, size_t t)
{
    return slot == NULL ? t : (size_t)slot[t];
}

/* Where single elements are moved a call of memcpy() each would cost most of the time: with `piece`
 * a constant the compiler makes it a load and a store. */
static inline void move_elements(const vtci_pieces *p, size_t piece, const int32_t *keep,
                                 size_t begin, size_t end)
{
    unsigned char element[8];

    for (size_t j = begin; j < end; j++) {
        memcpy(element, p->src + slot_of(p->src_slot, (size_t)keep[j]) * p->src_stride, piece);
        memcpy(p->dst + slot_of(p->dst_slot, j) * p->dst_stride, element, piece);
    }
}

/* Rows from j on that follow each other on both sides without a gap. */
static size_t run_length(const vtci_pieces *p, const int32_t *keep, size_t j, size_t end)
{
    const size_t s = slot_of(p->src_slot, (size_t)keep[j]), d = slot_of(p->dst_slot, j);
    size_t n = 1;

    if (p->src_stride != p->piece || p->dst_stride != p->piece)
        return 1;
    while (j + n < end && slot_of(p->src_slot, (size_t)keep[j + n]) == s + n &&
           slot_of(p->dst_slot, j + n) == d + n)
        n++;
    return n;
}

static inline const char *source(const vtci_pieces *p, int32_t kept)
{
    return p->src + slot_of(p->src_slot, (size_t)kept) * p->src_stride;
}

/* Rows that stay where they are, in place, are left out. */
static void stream_rows(const vtci_pieces *p, const int32_t *keep, size_t begin, size_t end)
{
    enum { BATCH = 256 };
    const char *from[BATCH];
    char *to[BATCH];
    size_t n = 0;

    for (size_t j = begin; j < end; j++) {
        from[n] = source(p, keep[j]);
        to[n] = p->dst + slot_of(p->dst_slot, j) * p->dst_stride;
        n += to[n] != from[n];
        if (n == BATCH || j + 1 == end) {
            vtci_kernels_get()->stream_rows(to, from, n, p->piece);
            n = 0;
        }
    }
}

/*
 * Rows of a few lines at irregular distances are what hardware does not foresee, so each is asked
 * for some rows before it is moved. That must stay in the function that moves: GCC 12 drops calls
 * of one that does nothing but prefetch.
 */
static void move_rows(const vtci_pieces *p, const int32_t *keep, size_t begin, size_t end)
{
    enum { ROWS_AHEAD = 32, LINE = 64, AT_MOST = 512 };
    const size_t n_asked = p->piece < AT_MOST ? p->piece : AT_MOST;
    size_t asked = begin;

    for (size_t j = begin, n; j < end; j += n) {
        const char *src = source(p, keep[j]);
        char *dst = p->dst + slot_of(p->dst_slot, j) * p->dst_stride;

        for (; asked < end && asked < j + ROWS_AHEAD; asked++)
            for (size_t line = 0; line < n_asked; line += LINE)
                PREFETCH(source(p, keep[asked]) + line);
        n = run_length(p, keep, j, end);
        if (dst != src)
            memmove(dst, src, n * p->piece);
    }
}

void vtci_move_pieces(const vtci_pieces *p, const int32_t *keep, size_t begin, size_t end)
{
    switch (p->piece) {
    case 1:
        move_elements(p, 1, keep, begin, end);
        break;
    case 2:
        move_elements(p, 2, keep, begin, end);
        break;
    case 4:
        move_elements(p, 4, keep, begin, end);
        break;
    case 8:
        move_elements(p, 8, keep, begin, end);
        break;
    default:
        (p->streaming ? stream_rows : move_rows)(p, keep, begin, end);
    }
}

bool vtci_pays_to_stream(size_t bytes, size_t piece)
{
    /* last-level caches hold tens of MiB; a row should be most of the lines that it touches */
    enum { MANY_BYTES = 32 << 20, FEW_BYTES = 256 };

    return bytes >= MANY_BYTES && piece >= FEW_BYTES;
}

size_t vtci_per_task(size_t n, size_t bytes_each)
{
    const size_t count = bytes_each == 0 ? n : VTCI_TASK_BYTES / bytes_each;

    if (count == 0 || n == 0)
        return 1;
    return count < n ? count : n;
}
