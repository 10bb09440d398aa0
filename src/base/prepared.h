/*
 * prepared.h: the immutable objects that vtc_<thing>_prepare() makes in caller memory.
 *
 * An object is a header and then what the method lays out behind it with an arena, so that size
 * query, preparation and use share one layout. It holds no pointers: it may be moved to another
 * 64-byte aligned address or be mapped from a file. What it depends on stands in the header:
 * version and instruction set of the library, the model and a fingerprint of its shapes.
 *
 *     static void lay_out_prepared(vtci_arena *arena, struct job *job);     the method's own
 *
 *     vtc_<thing>_prepare_size():  vtci_begin_query(), open, vtci_prepared_measure(),
 *                                  lay_out_prepared(), vtci_end_query()
 *     vtc_<thing>_prepare():       vtci_begin(), open, vtci_prepared_create(), lay_out_prepared(),
 *                                  vtci_prepared_check_room(), fill, vtci_prepared_seal()
 *     vtc_<thing>():               vtci_begin(), open, vtci_prepared_open(), lay_out_prepared(),
 *                                  the work
 */
#ifndef VTCI_PREPARED_H
#define VTCI_PREPARED_H

#include "../../include/vtc/weights.h"
#include "call.h"

/* What an object belongs to. */
typedef struct vtci_prepared_key {
    const char *model;    /* "perceiver", at most 23 characters             */
    uint64_t fingerprint; /* of all shapes, dtypes and parameters it hangs on */
} vtci_prepared_key;

/* Fingerprints: start from VTCI_FINGERPRINT, then mix in whatever matters. */
#define VTCI_FINGERPRINT UINT64_C(0xcbf29ce484222325)
uint64_t vtci_mix(uint64_t fingerprint, uint64_t value);
uint64_t vtci_mix_float(uint64_t fingerprint, float value);          /* its bits */
uint64_t vtci_mix_tensor(uint64_t fingerprint, const vtc_tensor *t); /* dtype, rank, extents */

/* An arena that measures, with the header taken. */
vtci_arena vtci_prepared_measure(void);

/* An arena over the caller's memory, with the header taken. VTC_ERR_NULL, SHAPE (alignment). */
VTC_NODISCARD vtc_status vtci_prepared_create(const vtci_call *call, const vtc_prepared *prepared,
                                              vtci_arena *arena);

/* VTC_ERR_ROOM unless what was laid out fits. Before anything is written. */
VTC_NODISCARD vtc_status vtci_prepared_check_room(const vtci_call *call,
                                                  const vtc_prepared *prepared,
                                                  const vtci_arena *arena);

/* Writes the header, when all else is there. */
void vtci_prepared_seal(const vtc_prepared *prepared, const vtci_prepared_key *key,
                        const vtci_arena *arena);

/* Checks the header and gives an arena behind it, to be laid out as in vtci_prepared_create(). In a
 * scratch query without memory it measures. VTC_ERR_NULL, SHAPE, DATA (no prepared object, or
 * another model's), UNSUPPORTED (made by another version or for another instruction set). */
VTC_NODISCARD vtc_status vtci_prepared_open(const vtci_call *call, const vtc_prepared *prepared,
                                            const vtci_prepared_key *key, vtci_arena *arena);

/* VTC_ERR_OVERLAP when output `t` shares memory with the object. No object, or a query: VTC_OK. */
VTC_NODISCARD vtc_status vtci_prepared_check_apart(const vtci_call *call, const char *name,
                                                   const vtc_tensor *t,
                                                   const vtc_prepared *prepared);

#endif
