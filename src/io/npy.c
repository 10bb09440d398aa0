/*
 * .npy files: "\x93NUMPY", version, header length, a Python dictionary in text, then the elements.
 * Version 1 has a length of 2 bytes, 2 and 3 of 4; 3 allows UTF-8 in field names, which do not
 * matter here. The dictionary has exactly the keys descr, fortran_order and shape, in any order.
 */
#include "npy.h"

#include <stdlib.h>
#include <string.h>

enum { PREAMBLE_SIZE = 8, DATA_ALIGNMENT = 64, HEADER_ROOM = 256, TEXT_ROOM = 32 };

static const char magic[6] = { '\x93', 'N', 'U', 'M', 'P', 'Y' };

struct vtc_npy {
    vtci_map map; /* zeros when the bytes are someone else's */
    vtc_tensor tensor;
    void *copy; /* of data that is not aligned in the file */
};

static const struct npy_dtype {
    const char *descr;
    vtc_dtype dtype;
} dtypes[] = {
    { "<f4", VTC_F32 }, { "<f2", VTC_F16 }, { "<i4", VTC_I32 },
    { "<i8", VTC_I64 }, { "|u1", VTC_U8 },  { "|b1", VTC_BOOL },
};
enum { N_DTYPES = sizeof(dtypes) / sizeof(*dtypes) };

/* ---- the dictionary -------------------------------------------------------------------------- */

typedef struct header {
    char descr[TEXT_ROOM];
    bool structured, fortran_order;
    size_t rank; /* may be over VTC_MAX_RANK, dim is then incomplete */
    size_t dim[VTC_MAX_RANK];
} header;

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n'))
        c->at++;
}

/* Takes a token that `text` spells, after spaces. */
static bool take(cursor *c, const char *text)
{
    const size_t length = strlen(text);

    skip_space(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, text, length) != 0)
        return false;
    c->at += length;
    return true;
}

/* A short string of printable ASCII without escapes, in either kind of quotes. */
static bool take_string(cursor *c, char text[TEXT_ROOM])
{
    size_t n = 0;
    char quote;

    if (!take(c, "'") && !take(c, "\""))
        return false;
    for (quote = c->at[-1]; c->at < c->end && *c->at != quote; c->at++) {
        if (*c->at < ' ' || *c->at > '~' || *c->at == '\\' || n + 1 == TEXT_ROOM)
            return false;
        text[n++] = *c->at;
    }
    text[n] = '\0';
    return take(c, quote == '\'' ? "'" : "\"");
}

static bool take_size(cursor *c, size_t *size)
{
    const char *begin;

    skip_space(c);
    *size = 0;
    for (begin = c->at; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        const size_t digit = (size_t)(*c->at - '0');

        if (*size > (PTRDIFF_MAX - digit) / 10)
            return false;
        *size = *size * 10 + digit;
    }
    return c->at > begin && (*begin != '0' || c->at == begin + 1);
}

/* "()", "(3,)", "(3, 4)" or "(3, 4,)"; "(3)" is no tuple. */
static bool take_shape(cursor *c, header *h)
{
    bool comma = true;

    if (!take(c, "("))
        return false;
    for (h->rank = 0; !take(c, ")"); h->rank++) {
        size_t extent;

        if (!comma || !take_size(c, &extent))
            return false;
        if (h->rank < VTC_MAX_RANK)
            h->dim[h->rank] = extent;
        comma = take(c, ",");
    }
    return h->rank != 1 || comma;
}

static bool take_truth(cursor *c, bool *value)
{
    *value = take(c, "True");
    return *value || take(c, "False");
}

/* A list of fields is recognised and left: the array will be refused for it. */
static bool take_descr(cursor *c, header *h)
{
    h->structured = take(c, "[");
    return h->structured || take_string(c, h->descr);
}

/* One member. *seen has a bit for each key that has occurred. */
static bool take_member(cursor *c, header *h, unsigned *seen)
{
    static const char *const keys[] = { "descr", "fortran_order", "shape" };
    char key[TEXT_ROOM];
    unsigned k = 0;

    if (!take_string(c, key) || !take(c, ":"))
        return false;
    while (k < 3 && strcmp(key, keys[k]) != 0)
        k++;
    if (k == 3 || (*seen & 1u << k) != 0)
        return false;
    *seen |= 1u << k;
    if (k == 0)
        return take_descr(c, h);
    return k == 1 ? take_truth(c, &h->fortran_order) : take_shape(c, h);
}

static bool take_dictionary(cursor *c, header *h)
{
    bool comma = true;
    unsigned seen = 0;

    if (!take(c, "{"))
        return false;
    while (!take(c, "}")) {
        if (!comma || !take_member(c, h, &seen))
            return false;
        if (h->structured)
            return true;
        comma = take(c, ",");
    }
    skip_space(c);
    return seen == 7 && c->at == c->end;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* *end: where the header ends and the data begins. */
static vtc_status read_header(const vtci_call *call, const unsigned char *data, size_t size,
                              header *h, size_t *end)
{
    size_t begin;
    uint64_t length;
    cursor c;

    VTCI_REQUIRE(call, size >= PREAMBLE_SIZE && memcmp(data, magic, sizeof(magic)) == 0,
                 VTC_ERR_FORMAT, "is not a .npy file: it does not begin with \\x93NUMPY");
    VTCI_REQUIRE(call, data[6] >= 1 && data[6] <= 3 && data[7] == 0, VTC_ERR_FORMAT,
                 "has .npy version %d.%d, 1.0 to 3.0 are known", data[6], data[7]);
    begin = data[6] == 1 ? PREAMBLE_SIZE + 2 : PREAMBLE_SIZE + 4;
    VTCI_REQUIRE(call, size >= begin, VTC_ERR_FORMAT, "the file of %zu bytes ends in the header",
                 size);
    length = vtci_load_le(data + PREAMBLE_SIZE, begin - PREAMBLE_SIZE);
    VTCI_REQUIRE(call, length <= size - begin, VTC_ERR_FORMAT,
                 "the header takes %zu bytes, the file has %zu after its length", (size_t)length,
                 size - begin);
    *end = begin + (size_t)length;
    c = (cursor){ (const char *)data + begin, (const char *)data + *end };
    VTCI_REQUIRE(call, take_dictionary(&c, h), VTC_ERR_FORMAT,
                 "the header is not the dictionary that NumPy writes: look at byte %td",
                 c.at - (const char *)data);
    return VTC_OK;
}

static vtc_status find_dtype(const vtci_call *call, const header *h, vtc_dtype *dtype)
{
    const char kind = h->descr[0] == '\0' ? '\0' : h->descr[1];

    VTCI_REQUIRE(call, !h->structured, VTC_ERR_DTYPE,
                 "is a structured array; save one field x['name'] of it");
    for (int i = 0; i < N_DTYPES; i++)
        if (strcmp(dtypes[i].descr, h->descr) == 0) {
            *dtype = dtypes[i].dtype;
            return VTC_OK;
        }
    VTCI_REQUIRE(call, h->descr[0] != '>', VTC_ERR_DTYPE,
                 "has big-endian dtype '%s'; save x.astype(x.dtype.newbyteorder('<'))", h->descr);
    return vtci_fail(call, VTC_ERR_DTYPE,
                     "has dtype '%s'; save %s (float32, float16, int32, int64, uint8 and bool are "
                     "read)",
                     h->descr,
                     kind == 'i' || kind == 'u' ? "x.astype(np.int64)" : "x.astype(np.float32)");
}

static vtc_status check_data(const vtci_call *call, const header *h, vtc_dtype dtype, size_t size)
{
    size_t bytes = vtc_dtype_size(dtype);

    VTCI_REQUIRE(call, !h->fortran_order, VTC_ERR_UNSUPPORTED,
                 "is in Fortran order; save np.ascontiguousarray(x)");
    VTCI_REQUIRE(call, h->rank <= VTC_MAX_RANK, VTC_ERR_SHAPE,
                 "has %zu axes, at most %d are read; save x.reshape(...)", h->rank, VTC_MAX_RANK);
    for (size_t axis = 0; axis < h->rank; axis++)
        VTCI_REQUIRE(call, vtci_grow_count(&bytes, h->dim[axis]), VTC_ERR_FORMAT,
                     "the size of the array overflows");
    VTCI_REQUIRE(call, bytes == size, VTC_ERR_FORMAT,
                 "the array takes %zu bytes, the file has %zu after the header", bytes, size);
    return VTC_OK;
}

static vtc_status parse(const vtci_call *call, const unsigned char *data, size_t size,
                        vtc_npy *file)
{
    header h = { "", false, false, 0, { 0 } };
    vtc_dtype dtype = VTC_F32;
    size_t begin = 0;

    VTCI_TRY(read_header(call, data, size, &h, &begin));
    VTCI_TRY(find_dtype(call, &h, &dtype));
    VTCI_TRY(check_data(call, &h, dtype, size - begin));
    data += begin;
    if ((uintptr_t)data % vtc_dtype_size(dtype) != 0) {
        file->copy = malloc(size - begin + 1); /* an empty array gets an aligned place, too */
        if (file->copy == NULL)
            return vtci_fail_memory(call);
        data = memcpy(file->copy, data, size - begin);
    }
    file->tensor = vtc_tensor_nd(data, dtype, (int)h.rank, h.dim);
    return VTC_OK;
}

vtc_status vtci_npy_read(const vtci_call *call, const unsigned char *data, size_t size,
                         vtc_npy **file)
{
    vtc_npy *read = calloc(1, sizeof(*read));
    vtc_status status;

    if (read == NULL)
        return vtci_fail_memory(call);
    status = parse(call, data, size, read);
    if (status == VTC_OK)
        *file = read;
    else
        vtc_npy_close(read);
    return status;
}

vtc_status vtc_npy_open(const char *path, vtc_npy **file, const vtc_exec *exec)
{
    vtci_file_call f;
    vtci_map map;
    vtc_status status;

    VTCI_TRY(vtci_begin_file(&f, "vtc_npy_open", path, exec));
    VTCI_REQUIRE_PTR(&f.call, file);
    VTCI_TRY(vtci_map_open(&f.call, path, &map));
    status = vtci_npy_read(&f.call, map.data, map.size, file);
    if (status != VTC_OK) {
        vtci_map_close(&map);
        return status;
    }
    (*file)->map = map;
    return VTC_OK;
}

const vtc_tensor *vtc_npy_tensor(const vtc_npy *file)
{
    return file == NULL ? NULL : &file->tensor;
}

void vtc_npy_close(vtc_npy *file)
{
    if (file == NULL)
        return;
    free(file->copy);
    vtci_map_close(&file->map);
    free(file);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The preamble, the dictionary, and spaces up to a newline that ends at a multiple of 64. Six
 * extents of 20 digits fit by far. Returns the bytes. */
static size_t compose_header(char text[HEADER_ROOM], const char *descr, const vtc_tensor *t)
{
    const size_t begin = PREAMBLE_SIZE + 2;
    size_t end = begin, total;

    memset(text, ' ', HEADER_ROOM);
    end += (size_t)snprintf(text + end, HEADER_ROOM - end,
                            "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int axis = 0; axis < t->rank; axis++)
        end += (size_t)snprintf(text + end, HEADER_ROOM - end, axis == 0 ? "%zu," : " %zu,",
                                t->dim[axis]);
    if (t->rank > 1)
        end--; /* only a tuple of one needs the comma */
    end += (size_t)snprintf(text + end, HEADER_ROOM - end, "), }");
    text[end] = ' ';
    total = (end + DATA_ALIGNMENT) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    text[total - 1] = '\n';
    memcpy(text, magic, sizeof(magic));
    text[6] = 1;
    text[7] = 0;
    text[8] = (char)((total - begin) & 0xff);
    text[9] = (char)((total - begin) >> 8);
    return total;
}

static const char *descr_of(vtc_dtype dtype)
{
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].descr;
    return NULL;
}

vtc_status vtc_npy_write(const char *path, const vtc_tensor *tensor, const vtc_exec *exec)
{
    char text[HEADER_ROOM];
    vtci_file_call f;
    vtci_writer writer;
    size_t bytes = 0, header_size;

    VTCI_TRY(vtci_begin_file(&f, "vtc_npy_write", path, exec));
    VTCI_TRY(vtci_check_written(&f.call, "tensor", tensor, VTCI_ANY, &bytes));
    VTCI_REQUIRE(&f.call, tensor->dtype != VTC_BF16, VTC_ERR_DTYPE,
                 "tensor has dtype BF16, which NumPy does not have; convert it to F32");
    header_size = compose_header(text, descr_of(tensor->dtype), tensor);
    VTCI_TRY(vtci_writer_open(&f.call, path, &writer));
    vtci_write(&writer, text, header_size);
    vtci_write_tensor(&writer, tensor);
    return vtci_writer_commit(&f.call, &writer);
}
