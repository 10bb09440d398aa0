/* pieces.h: rows moved by index between strided memory, whatever they hold. */
#ifndef VTCI_PIECES_H
#define VTCI_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that one task should move: much against the cost of a task, little against a cache. */
enum { VTCI_TASK_BYTES = 64 * 1024 };

/* Pieces of equal size at equal distances: one axis of any memory. Sizes in bytes. */
typedef struct vtci_pieces {
    char *dst;
    const char *src;
    size_t piece, dst_stride, src_stride;
    const int32_t *dst_slot, *src_slot; /* where row t lies; NULL: t */
    bool streaming; /* past the caches, see vtci_pays_to_stream(); rows must not overlap */
} vtci_pieces;

/*
 * Whether a move of this size is faster when what it writes does not go through the caches. What
 * is smaller may still be there when it is used next; and short rows would be written in parts of
 * lines.
 */
bool vtci_pays_to_stream(size_t bytes, size_t piece);

/*
 * Row j of dst becomes row keep[j] of src, for begin <= j < end, in this order; keep[j] >= 0. The
 * memory may be the same when `keep` ascends strictly and the slots are the same.
 */
void vtci_move_pieces(const vtci_pieces *p, const int32_t *keep, size_t begin, size_t end);

/* How many of n units one task takes so that it moves about VTCI_TASK_BYTES; 1 .. n (1 for 0). */
size_t vtci_per_task(size_t n, size_t bytes_each);

#endif
