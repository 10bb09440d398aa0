/* Objects prepared from weights: header, fingerprint, checks. */
#include "prepared.h"

#include "../../include/vtc/vtc.h"
#include "../kernels/kernels.h"
#include "tensor.h"

#include <string.h>

enum { ALIGNMENT = 64 };

typedef struct header {
    char magic[8];
    char version[16];
    char isa[16];
    char model[24];
    uint64_t fingerprint;
    uint64_t bytes;
} header;

static const char magic[8] = "VTCPREP";

uint64_t vtci_mix(uint64_t fingerprint, uint64_t value)
{
    /* FNV-1a over the bytes of the value, lowest first */
    for (int i = 0; i < 8; i++, value >>= 8)
        fingerprint = (fingerprint ^ (value & 0xff)) * UINT64_C(0x100000001b3);
    return fingerprint;
}

uint64_t vtci_mix_float(uint64_t fingerprint, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return vtci_mix(fingerprint, bits);
}

uint64_t vtci_mix_tensor(uint64_t fingerprint, const vtc_tensor *t)
{
    fingerprint = vtci_mix(vtci_mix(fingerprint, (uint64_t)t->dtype), (uint64_t)t->rank);
    for (int axis = 0; axis < t->rank; axis++)
        fingerprint = vtci_mix(fingerprint, t->dim[axis]);
    return fingerprint;
}

static header header_of(const vtci_prepared_key *key, size_t bytes)
{
    header h = { .fingerprint = key->fingerprint, .bytes = bytes };

    memcpy(h.magic, magic, sizeof(h.magic));
    strncpy(h.version, VTC_VERSION_STRING, sizeof(h.version) - 1);
    strncpy(h.isa, vtci_kernels_get()->name, sizeof(h.isa) - 1);
    strncpy(h.model, key->model, sizeof(h.model) - 1);
    return h;
}

static vtc_status check_memory(const vtci_call *call, const vtc_prepared *prepared)
{
    VTCI_REQUIRE_PTR(call, prepared);
    VTCI_REQUIRE(call, prepared->data != NULL, VTC_ERR_NULL, "prepared.data is NULL");
    VTCI_REQUIRE(call, (uintptr_t)prepared->data % ALIGNMENT == 0, VTC_ERR_SHAPE,
                 "prepared.data must be %d-byte aligned", ALIGNMENT);
    return VTC_OK;
}

static vtci_arena arena_at(void *base)
{
    vtci_arena arena = { base, 0, false };

    vtci_take(&arena, 1, sizeof(header));
    return arena;
}

vtci_arena vtci_prepared_measure(void)
{
    return arena_at(NULL);
}

vtc_status vtci_prepared_create(const vtci_call *call, const vtc_prepared *prepared,
                                vtci_arena *arena)
{
    VTCI_TRY(check_memory(call, prepared));
    *arena = arena_at(prepared->data);
    return VTC_OK;
}

vtc_status vtci_prepared_check_room(const vtci_call *call, const vtc_prepared *prepared,
                                    const vtci_arena *arena)
{
    VTCI_REQUIRE(call, !arena->overflow, VTC_ERR_OVERFLOW, "the prepared size overflows size_t");
    VTCI_REQUIRE(call, prepared->bytes >= arena->used, VTC_ERR_ROOM,
                 "the prepared object needs %zu bytes, there are %zu", arena->used,
                 prepared->bytes);
    return VTC_OK;
}

void vtci_prepared_seal(const vtc_prepared *prepared, const vtci_prepared_key *key,
                        const vtci_arena *arena)
{
    const header h = header_of(key, arena->used);

    memcpy(prepared->data, &h, sizeof(h));
}

vtc_status vtci_prepared_open(const vtci_call *call, const vtc_prepared *prepared,
                              const vtci_prepared_key *key, vtci_arena *arena)
{
    header want, got;

    if (call->query && prepared != NULL && prepared->data == NULL) {
        *arena = vtci_prepared_measure();
        return VTC_OK;
    }
    VTCI_TRY(check_memory(call, prepared));
    want = header_of(key, 0);
    VTCI_REQUIRE(call, prepared->bytes >= sizeof(got), VTC_ERR_DATA,
                 "prepared has %zu bytes, no object is that small", prepared->bytes);
    memcpy(&got, prepared->data, sizeof(got));
    VTCI_REQUIRE(call, memcmp(got.magic, want.magic, sizeof(got.magic)) == 0, VTC_ERR_DATA,
                 "prepared.data holds no prepared object");
    VTCI_REQUIRE(call, memcmp(got.version, want.version, sizeof(got.version)) == 0,
                 VTC_ERR_UNSUPPORTED, "prepared by version %.15s, this is %s", got.version,
                 VTC_VERSION_STRING);
    VTCI_REQUIRE(call, memcmp(got.isa, want.isa, sizeof(got.isa)) == 0, VTC_ERR_UNSUPPORTED,
                 "prepared for %.15s, this machine uses %s", got.isa, want.isa);
    VTCI_REQUIRE(call, memcmp(got.model, want.model, sizeof(got.model)) == 0, VTC_ERR_DATA,
                 "prepared for a %.23s, not for a %s", got.model, key->model);
    VTCI_REQUIRE(call, got.fingerprint == want.fingerprint, VTC_ERR_DATA,
                 "prepared from weights of other shapes or parameters");
    VTCI_REQUIRE(call, got.bytes <= prepared->bytes, VTC_ERR_DATA,
                 "prepared has %zu bytes of an object of %llu", prepared->bytes,
                 (unsigned long long)got.bytes);
    *arena = arena_at(prepared->data);
    return VTC_OK;
}

vtc_status vtci_prepared_check_apart(const vtci_call *call, const char *name, const vtc_tensor *t,
                                     const vtc_prepared *prepared)
{
    VTCI_REQUIRE(call,
                 call->query || prepared == NULL ||
                     !vtci_ranges_meet(t->data, vtci_span_bytes(t), prepared->data,
                                       prepared->bytes),
                 VTC_ERR_OVERLAP, "%s overlaps the prepared object", name);
    return VTC_OK;
}
