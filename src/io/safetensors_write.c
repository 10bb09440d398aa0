/* The .safetensors writer. */
#include "safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Data in the order of falling element size keeps every tensor aligned without holes. */
static const size_t element_sizes[] = { 8, 4, 2, 1 };
enum { N_ELEMENT_SIZES = sizeof(element_sizes) / sizeof(*element_sizes) };

/* ---- the header ------------------------------------------------------------------------------ */

/* Takes over `value`. `what` and `i` tell in messages which argument the name is from. */
static vtc_status add_member(const vtci_call *call, json_t *object, const char *what, size_t i,
                             const char *name, json_t *value)
{
    if (json_object_get(object, name) != NULL) {
        json_decref(value);
        return vtci_fail(call, VTC_ERR_RANGE, "%s %zu is a second \"%s\"", what, i,
                         vtci_printable(name).s);
    }
    VTCI_REQUIRE(call, json_object_set_new(object, name, value) == 0, VTC_ERR_RANGE,
                 "%s %zu cannot be stored: it is not UTF-8, or memory is exhausted", what, i);
    return VTC_OK;
}

static vtc_status add_metadata(const vtci_call *call, json_t *header,
                               const vtc_metadata_entry *metadata, size_t n)
{
    json_t *object;

    if (n == 0)
        return VTC_OK;
    object = json_object();
    if (json_object_set_new(header, VTCI_SAFETENSORS_METADATA, object) != 0)
        return vtci_fail_memory(call);
    for (size_t i = 0; i < n; i++) {
        VTCI_REQUIRE(call, metadata[i].key != NULL && metadata[i].value != NULL, VTC_ERR_NULL,
                     "metadata %zu is NULL", i);
        VTCI_TRY(add_member(call, object, "metadata", i, metadata[i].key,
                            json_string(metadata[i].value)));
    }
    return VTC_OK;
}

static json_t *describe_tensor(const vtc_tensor *t, size_t begin, size_t end)
{
    json_t *shape = json_array();

    for (int axis = 0; axis < t->rank; axis++)
        if (json_array_append_new(shape, json_integer((json_int_t)t->dim[axis])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", vtc_dtype_string(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* *end: where the data of the tensors so far ends. */
static vtc_status add_tensor(const vtci_call *call, json_t *header, const vtc_named_tensor *tensor,
                             size_t i, size_t *end)
{
    const size_t begin = *end;
    size_t bytes = 0;

    VTCI_TRY(vtci_check_written(call, vtci_printable(tensor->name).s, &tensor->tensor, VTCI_ANY,
                                &bytes));
    *end = vtci_add(begin, bytes);
    VTCI_REQUIRE(call, *end <= PTRDIFF_MAX, VTC_ERR_OVERFLOW,
                 "the tensors up to %zu take more bytes than a file can have", i);
    return add_member(call, header, "tensor", i, tensor->name,
                      describe_tensor(&tensor->tensor, begin, *end));
}

static vtc_status add_tensors(const vtci_call *call, json_t *header,
                              const vtc_named_tensor *tensors, size_t n)
{
    size_t end = 0;

    for (size_t i = 0; i < n; i++) {
        VTCI_REQUIRE(call, tensors[i].name != NULL, VTC_ERR_NULL, "the name of tensor %zu is NULL",
                     i);
        VTCI_REQUIRE(call, strcmp(tensors[i].name, VTCI_SAFETENSORS_METADATA) != 0, VTC_ERR_RANGE,
                     "tensor %zu has the reserved name \"%s\"", i, VTCI_SAFETENSORS_METADATA);
        VTCI_REQUIRE(call, vtc_dtype_size(tensors[i].tensor.dtype) != 0, VTC_ERR_DTYPE,
                     "tensor %zu has dtype %d", i, (int)tensors[i].tensor.dtype);
    }
    for (int s = 0; s < N_ELEMENT_SIZES; s++)
        for (size_t i = 0; i < n; i++)
            if (vtc_dtype_size(tensors[i].tensor.dtype) == element_sizes[s])
                VTCI_TRY(add_tensor(call, header, &tensors[i], i, &end));
    return VTC_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static vtc_status write_file(const vtci_call *call, const char *path, const char *header,
                             const vtc_named_tensor *tensors, size_t n)
{
    const size_t text = strlen(header), padding = (8 - text % 8) % 8;
    const uint64_t length = text + padding;
    vtci_writer writer;

    VTCI_REQUIRE(call, length <= VTCI_SAFETENSORS_HEADER_MAX, VTC_ERR_OVERFLOW,
                 "the header takes %zu bytes, over the format's limit of %d", text + padding,
                 VTCI_SAFETENSORS_HEADER_MAX);
    VTCI_TRY(vtci_writer_open(call, path, &writer));
    vtci_write(&writer, &length, sizeof(length));
    vtci_write(&writer, header, text);
    vtci_write(&writer, "       ", padding);
    for (int s = 0; s < N_ELEMENT_SIZES; s++)
        for (size_t i = 0; i < n; i++)
            if (vtc_dtype_size(tensors[i].tensor.dtype) == element_sizes[s])
                vtci_write_tensor(&writer, &tensors[i].tensor);
    return vtci_writer_commit(call, &writer);
}

static vtc_status build_and_write(const vtci_call *call, const char *path, json_t *header,
                                  const vtc_named_tensor *tensors, size_t n,
                                  const vtc_metadata_entry *metadata, size_t n_metadata)
{
    vtc_status status;
    char *text;

    VTCI_TRY(add_metadata(call, header, metadata, n_metadata));
    VTCI_TRY(add_tensors(call, header, tensors, n));
    text = json_dumps(header, JSON_COMPACT);
    if (text == NULL)
        return vtci_fail_memory(call);
    status = write_file(call, path, text, tensors, n);
    free(text);
    return status;
}

vtc_status vtc_safetensors_write(const char *path, const vtc_named_tensor *tensors, size_t n,
                                 const vtc_metadata_entry *metadata, size_t n_metadata,
                                 const vtc_exec *exec)
{
    vtci_file_call f;
    vtc_status status;
    json_t *header;

    VTCI_TRY(vtci_begin_file(&f, "vtc_safetensors_write", path, exec));
    VTCI_REQUIRE(&f.call, tensors != NULL || n == 0, VTC_ERR_NULL, "tensors is NULL, n is %zu", n);
    VTCI_REQUIRE(&f.call, metadata != NULL || n_metadata == 0, VTC_ERR_NULL,
                 "metadata is NULL, n_metadata is %zu", n_metadata);
    header = json_object();
    if (header == NULL)
        return vtci_fail_memory(&f.call);
    status = build_and_write(&f.call, path, header, tensors, n, metadata, n_metadata);
    json_decref(header);
    return status;
}
