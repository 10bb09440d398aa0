/*
 * The .safetensors reader: u64 N, N bytes of JSON, then the data that the JSON divides among the
 * tensors. Everything in a file may be hostile. Depth of the JSON is bounded by jansson (2048), and
 * so is memory by the file: at most some 50 bytes for each byte of the header.
 */
#include "safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_SIZE = 8, NO_DTYPE = 0 };

typedef struct format_dtype {
    const char *name;
    size_t size;
    int dtype; /* a vtc_dtype, or NO_DTYPE where libvtc has none */
} format_dtype;

typedef struct entry {
    const char *name; /* in the JSON tree */
    const format_dtype *dtype;
    size_t begin, end;         /* of its bytes, from the start of the data */
    const unsigned char *data; /* in the file, or in `copies` when that is not aligned */
    size_t rank;               /* may be over VTC_MAX_RANK, dim is then incomplete */
    size_t dim[VTC_MAX_RANK];
} entry;

struct vtc_safetensors {
    vtci_map map;   /* zeros when the bytes are someone else's */
    vtci_text path; /* for messages */
    json_t *header;
    size_t n_entries;
    entry *entries; /* in the order of their data */
    const entry **by_name;
    unsigned char *copies;
    size_t n_keys;
    const char **keys; /* of the metadata */
};

/* ---- the JSON header ------------------------------------------------------------------------- */

static vtc_status load_header(const vtci_call *call, const unsigned char *data, size_t size,
                              json_t **header, size_t *header_size)
{
    json_error_t error;
    uint64_t length;

    VTCI_REQUIRE(call, size >= LENGTH_SIZE, VTC_ERR_FORMAT,
                 "the file has %zu bytes, the length of its header alone takes %d", size,
                 LENGTH_SIZE);
    length = vtci_load_le(data, LENGTH_SIZE);
    VTCI_REQUIRE(call, length <= VTCI_SAFETENSORS_HEADER_MAX, VTC_ERR_FORMAT,
                 "a header of %" PRIu64 " bytes is over the limit of %d", length,
                 VTCI_SAFETENSORS_HEADER_MAX);
    VTCI_REQUIRE(call, length <= size - LENGTH_SIZE, VTC_ERR_FORMAT,
                 "the header takes %" PRIu64 " bytes, the file has %zu after its length", length,
                 size - LENGTH_SIZE);
    VTCI_REQUIRE(call, length > 0 && data[LENGTH_SIZE] == '{', VTC_ERR_FORMAT,
                 "the header does not begin with '{'");
    *header_size = (size_t)length;
    *header =
        json_loadb((const char *)data + LENGTH_SIZE, *header_size, JSON_REJECT_DUPLICATES, &error);
    VTCI_REQUIRE(call, *header != NULL, VTC_ERR_FORMAT,
                 "the header is not strict JSON: %s, byte %d", vtci_printable(error.text).s,
                 error.position);
    return VTC_OK;
}

static vtc_status read_metadata(const vtci_call *call, vtc_safetensors *file)
{
    json_t *metadata = json_object_get(file->header, VTCI_SAFETENSORS_METADATA);
    const char *key;
    json_t *value;

    if (metadata == NULL)
        return VTC_OK;
    VTCI_REQUIRE(call, json_is_object(metadata), VTC_ERR_FORMAT, "the metadata is not an object");
    file->keys = calloc(json_object_size(metadata) + 1, sizeof(*file->keys));
    if (file->keys == NULL)
        return vtci_fail_memory(call);
    json_object_foreach(metadata, key, value)
    {
        VTCI_REQUIRE(call, json_is_string(value), VTC_ERR_FORMAT,
                     "the value of metadata \"%s\" is not a string", vtci_printable(key).s);
        file->keys[file->n_keys++] = key;
    }
    return VTC_OK;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static const format_dtype *find_dtype(const char *name)
{
    static const format_dtype dtypes[] = {
        { "F32", 4, VTC_F32 },      { "F16", 2, VTC_F16 },  { "BF16", 2, VTC_BF16 },
        { "I32", 4, VTC_I32 },      { "I64", 8, VTC_I64 },  { "U8", 1, VTC_U8 },
        { "BOOL", 1, VTC_BOOL },    { "I8", 1, NO_DTYPE },  { "F8_E5M2", 1, NO_DTYPE },
        { "F8_E4M3", 1, NO_DTYPE }, { "I16", 2, NO_DTYPE }, { "U16", 2, NO_DTYPE },
        { "U32", 4, NO_DTYPE },     { "F64", 8, NO_DTYPE }, { "U64", 8, NO_DTYPE },
    };

    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

/* jansson has refused integers over 63 bits; 2.0 and 1e3 are no integers to it. */
static bool read_size(const json_t *value, size_t *size)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uintmax_t)json_integer_value(value) > SIZE_MAX)
        return false;
    *size = (size_t)json_integer_value(value);
    return true;
}

static vtc_status read_dtype(const vtci_call *call, const json_t *json, entry *e)
{
    const json_t *dtype = json_object_get(json, "dtype");

    VTCI_REQUIRE(call, json_is_string(dtype), VTC_ERR_FORMAT, "tensor \"%s\" has no dtype string",
                 vtci_printable(e->name).s);
    e->dtype = find_dtype(json_string_value(dtype));
    VTCI_REQUIRE(call, e->dtype != NULL, VTC_ERR_FORMAT,
                 "tensor \"%s\" has the unknown dtype \"%s\"", vtci_printable(e->name).s,
                 vtci_printable(json_string_value(dtype)).s);
    return VTC_OK;
}

static vtc_status read_shape(const vtci_call *call, const json_t *json, entry *e, size_t *bytes)
{
    const json_t *shape = json_object_get(json, "shape");

    VTCI_REQUIRE(call, json_is_array(shape), VTC_ERR_FORMAT, "tensor \"%s\" has no shape array",
                 vtci_printable(e->name).s);
    e->rank = json_array_size(shape);
    *bytes = e->dtype->size;
    for (size_t axis = 0; axis < e->rank; axis++) {
        size_t extent;

        VTCI_REQUIRE(call, read_size(json_array_get(shape, axis), &extent), VTC_ERR_FORMAT,
                     "axis %zu of tensor \"%s\" has an extent that is no size", axis,
                     vtci_printable(e->name).s);
        VTCI_REQUIRE(call, vtci_grow_count(bytes, extent), VTC_ERR_FORMAT,
                     "the size of tensor \"%s\" overflows", vtci_printable(e->name).s);
        if (axis < VTC_MAX_RANK)
            e->dim[axis] = extent;
    }
    return VTC_OK;
}

static vtc_status read_offsets(const vtci_call *call, const json_t *json, entry *e)
{
    const json_t *offsets = json_object_get(json, "data_offsets");

    VTCI_REQUIRE(call,
                 json_array_size(offsets) == 2 &&
                     read_size(json_array_get(offsets, 0), &e->begin) &&
                     read_size(json_array_get(offsets, 1), &e->end),
                 VTC_ERR_FORMAT, "the data_offsets of tensor \"%s\" are not two sizes",
                 vtci_printable(e->name).s);
    return VTC_OK;
}

static vtc_status read_entry(const vtci_call *call, const json_t *json, entry *e, size_t data_size)
{
    size_t bytes = 0;

    VTCI_REQUIRE(call, json_is_object(json), VTC_ERR_FORMAT,
                 "the entry of tensor \"%s\" is not an object", vtci_printable(e->name).s);
    VTCI_TRY(read_dtype(call, json, e));
    VTCI_TRY(read_shape(call, json, e, &bytes));
    VTCI_TRY(read_offsets(call, json, e));
    VTCI_REQUIRE(call, e->begin <= e->end && e->end <= data_size, VTC_ERR_FORMAT,
                 "tensor \"%s\" claims bytes %zu to %zu of %zu", vtci_printable(e->name).s,
                 e->begin, e->end, data_size);
    VTCI_REQUIRE(call, e->end - e->begin == bytes, VTC_ERR_FORMAT,
                 "tensor \"%s\" has %zu bytes, its shape and dtype need %zu",
                 vtci_printable(e->name).s, e->end - e->begin, bytes);
    return VTC_OK;
}

/* ---- all tensors ----------------------------------------------------------------------------- */

static vtc_status read_entries(const vtci_call *call, vtc_safetensors *file, size_t data_size)
{
    const size_t n_members = json_object_size(file->header);
    const char *name;
    json_t *json;

    file->entries = calloc(n_members + 1, sizeof(*file->entries));
    file->by_name = calloc(n_members + 1, sizeof(*file->by_name));
    if (file->entries == NULL || file->by_name == NULL)
        return vtci_fail_memory(call);
    json_object_foreach(file->header, name, json)
    {
        entry *e = &file->entries[file->n_entries];

        if (strcmp(name, VTCI_SAFETENSORS_METADATA) == 0)
            continue;
        e->name = name;
        VTCI_TRY(read_entry(call, json, e, data_size));
        file->n_entries++;
    }
    return VTC_OK;
}

/* Empty tensors go before the one that begins in the same place. */
static int compare_places(const void *left, const void *right)
{
    const entry *a = left, *b = right;

    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int compare_names(const void *left, const void *right)
{
    const entry *const *a = left, *const *b = right;

    return strcmp((*a)->name, (*b)->name);
}

static int compare_to_name(const void *name, const void *element)
{
    const entry *const *e = element;

    return strcmp(name, (*e)->name);
}

static void sort_entries(vtc_safetensors *file)
{
    qsort(file->entries, file->n_entries, sizeof(*file->entries), compare_places);
    for (size_t i = 0; i < file->n_entries; i++)
        file->by_name[i] = &file->entries[i];
    qsort(file->by_name, file->n_entries, sizeof(*file->by_name), compare_names);
}

static vtc_status check_cover(const vtci_call *call, const vtc_safetensors *file, size_t data_size)
{
    size_t covered = 0;

    for (size_t i = 0; i < file->n_entries; i++) {
        const entry *e = &file->entries[i];

        VTCI_REQUIRE(call, e->begin == covered, VTC_ERR_FORMAT,
                     "tensor \"%s\" begins at byte %zu, the one before it ends at %zu",
                     vtci_printable(e->name).s, e->begin, covered);
        covered = e->end;
    }
    VTCI_REQUIRE(call, covered == data_size, VTC_ERR_FORMAT,
                 "the tensors end at byte %zu, the data at %zu", covered, data_size);
    return VTC_OK;
}

static const entry *find_entry(const vtc_safetensors *file, const char *name)
{
    const entry *const *found =
        bsearch(name, file->by_name, file->n_entries, sizeof(*file->by_name), compare_to_name);
    return found == NULL ? NULL : *found;
}

/* ---- alignment ------------------------------------------------------------------------------- */

static bool needs_copy(const entry *e)
{
    return e->dtype->dtype != NO_DTYPE && e->rank <= VTC_MAX_RANK &&
           (uintptr_t)e->data % e->dtype->size != 0;
}

/* Room in `copies`: a multiple of 8, and not 0 even for an empty tensor. The sum fits size_t: the
 * bytes are part of the file, and so is the tensor's entry, which takes more than 8. */
static size_t copy_room(const entry *e)
{
    return (e->end - e->begin) / 8 * 8 + 8;
}

static vtc_status align_data(const vtci_call *call, vtc_safetensors *file,
                             const unsigned char *data)
{
    unsigned char *copy;
    size_t room = 0;

    for (size_t i = 0; i < file->n_entries; i++) {
        file->entries[i].data = data + file->entries[i].begin;
        room += needs_copy(&file->entries[i]) ? copy_room(&file->entries[i]) : 0;
    }
    if (room == 0)
        return VTC_OK;
    copy = file->copies = malloc(room);
    if (copy == NULL)
        return vtci_fail_memory(call);
    for (size_t i = 0; i < file->n_entries; i++) {
        entry *e = &file->entries[i];

        if (!needs_copy(e))
            continue;
        memcpy(copy, e->data, e->end - e->begin);
        e->data = copy;
        copy += copy_room(e);
    }
    return VTC_OK;
}

/* ---- public functions ------------------------------------------------------------------------ */

static vtc_status parse(const vtci_call *call, const unsigned char *data, size_t size,
                        vtc_safetensors *file)
{
    size_t header_size = 0, data_size;

    VTCI_TRY(load_header(call, data, size, &file->header, &header_size));
    data += LENGTH_SIZE + header_size;
    data_size = size - LENGTH_SIZE - header_size;
    VTCI_TRY(read_metadata(call, file));
    VTCI_TRY(read_entries(call, file, data_size));
    sort_entries(file);
    VTCI_TRY(check_cover(call, file, data_size));
    return align_data(call, file, data);
}

vtc_status vtci_safetensors_read(const vtci_call *call, const unsigned char *data, size_t size,
                                 vtc_safetensors **file)
{
    vtc_safetensors *read = calloc(1, sizeof(*read));
    vtc_status status;

    if (read == NULL)
        return vtci_fail_memory(call);
    status = parse(call, data, size, read);
    if (status == VTC_OK)
        *file = read;
    else
        vtc_safetensors_close(read);
    return status;
}

vtc_status vtc_safetensors_open(const char *path, vtc_safetensors **file, const vtc_exec *exec)
{
    vtci_file_call f;
    vtci_map map;
    vtc_status status;

    VTCI_TRY(vtci_begin_file(&f, "vtc_safetensors_open", path, exec));
    VTCI_REQUIRE_PTR(&f.call, file);
    VTCI_TRY(vtci_map_open(&f.call, path, &map));
    status = vtci_safetensors_read(&f.call, map.data, map.size, file);
    if (status != VTC_OK) {
        vtci_map_close(&map);
        return status;
    }
    (*file)->map = map;
    (*file)->path = f.path;
    return VTC_OK;
}

void vtc_safetensors_close(vtc_safetensors *file)
{
    if (file == NULL)
        return;
    free(file->keys);
    free(file->copies);
    free(file->by_name);
    free(file->entries);
    json_decref(file->header);
    vtci_map_close(&file->map);
    free(file);
}

size_t vtc_safetensors_count(const vtc_safetensors *file)
{
    return file == NULL ? 0 : file->n_entries;
}

const char *vtc_safetensors_name(const vtc_safetensors *file, size_t i)
{
    return i < vtc_safetensors_count(file) ? file->entries[i].name : NULL;
}

int vtc_safetensors_has(const vtc_safetensors *file, const char *name)
{
    return file != NULL && name != NULL && find_entry(file, name) != NULL;
}

vtc_status vtc_safetensors_tensor(const vtc_safetensors *file, const char *name, vtc_tensor *view,
                                  const vtc_exec *exec)
{
    const entry *e;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_safetensors_tensor", exec));
    VTCI_REQUIRE_PTR(&call, file);
    VTCI_REQUIRE_PTR(&call, name);
    VTCI_REQUIRE_PTR(&call, view);
    e = find_entry(file, name);
    VTCI_REQUIRE(&call, e != NULL, VTC_ERR_RANGE, "%s has no tensor \"%s\"", file->path.s,
                 vtci_printable(name).s);
    VTCI_REQUIRE(&call, e->dtype->dtype != NO_DTYPE, VTC_ERR_DTYPE,
                 "tensor \"%s\" of %s has dtype %s, which libvtc does not have",
                 vtci_printable(name).s, file->path.s, e->dtype->name);
    VTCI_REQUIRE(&call, e->rank <= VTC_MAX_RANK, VTC_ERR_SHAPE,
                 "tensor \"%s\" of %s has rank %zu, %d is the highest", vtci_printable(name).s,
                 file->path.s, e->rank, VTC_MAX_RANK);
    *view = vtc_tensor_nd(e->data, (vtc_dtype)e->dtype->dtype, (int)e->rank, e->dim);
    return VTC_OK;
}

const char *vtc_safetensors_metadata(const vtc_safetensors *file, const char *key)
{
    const json_t *metadata;

    if (file == NULL || key == NULL)
        return NULL;
    metadata = json_object_get(file->header, VTCI_SAFETENSORS_METADATA);
    return json_string_value(json_object_get(metadata, key));
}

size_t vtc_safetensors_metadata_count(const vtc_safetensors *file)
{
    return file == NULL ? 0 : file->n_keys;
}

const char *vtc_safetensors_metadata_key(const vtc_safetensors *file, size_t i)
{
    return i < vtc_safetensors_metadata_count(file) ? file->keys[i] : NULL;
}
