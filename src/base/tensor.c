/* Checks of tensor views. */
#include "tensor.h"

size_t vtci_count(const vtc_tensor *t)
{
    size_t count = 1;

    for (int axis = 0; axis < t->rank; axis++)
        count = vtci_mul(count, t->dim[axis]);
    return count;
}

/* An empty axis makes the view empty whatever the others are, so overflow is only looked for when
 * every extent is at least 1. */
static bool is_empty(const vtc_tensor *t)
{
    for (int axis = 0; axis < t->rank; axis++)
        if (t->dim[axis] == 0)
            return true;
    return false;
}

size_t vtci_span_bytes(const vtc_tensor *t)
{
    size_t last = 0;

    if (is_empty(t))
        return 0;
    for (int axis = 0; axis < t->rank; axis++)
        last = vtci_add(last, vtci_mul(t->dim[axis] - 1, t->stride[axis]));
    return vtci_mul(vtci_add(last, 1), vtc_dtype_size(t->dtype));
}

bool vtci_strides_overlap(size_t piece, int n_axes, const size_t *dim, const size_t *stride)
{
    size_t reach = piece;
    unsigned taken = 0;

    for (;;) {
        int low = -1;

        for (int a = 0; a < n_axes; a++)
            if (dim[a] > 1 && (taken & 1u << a) == 0 && (low < 0 || stride[a] < stride[low]))
                low = a;
        if (low < 0)
            return false;
        if (stride[low] < reach)
            return true;
        reach = vtci_add(reach, vtci_mul(dim[low] - 1, stride[low]));
        taken |= 1u << low;
    }
}

static vtc_status check_layout(const vtci_call *call, const char *what, const vtc_tensor *t,
                               vtci_access access)
{
    const int inner = t->rank - 1;

    if (is_empty(t))
        return VTC_OK;
    VTCI_REQUIRE(call, t->rank == 0 || t->dim[inner] == 1 || t->stride[inner] == 1, VTC_ERR_SHAPE,
                 "%s has inner stride %zu, 1 is needed", what, t->stride[inner]);
    VTCI_REQUIRE(call,
                 vtci_mul(vtci_count(t), vtc_dtype_size(t->dtype)) <= PTRDIFF_MAX &&
                     vtci_span_bytes(t) <= PTRDIFF_MAX,
                 VTC_ERR_OVERFLOW, "the size of %s overflows", what);
    VTCI_REQUIRE(call, access == VTCI_IN || !vtci_strides_overlap(1, t->rank, t->dim, t->stride),
                 VTC_ERR_OVERLAP, "%s has strides that make it overlap itself", what);
    return VTC_OK;
}

vtc_status vtci_check_tensor(const vtci_call *call, const char *what, const vtc_tensor *t,
                             unsigned dtypes, int min_rank, int max_rank, vtci_access access)
{
    VTCI_REQUIRE(call, t != NULL, VTC_ERR_NULL, "%s is NULL", what);
    VTCI_REQUIRE(call, vtc_dtype_size(t->dtype) != 0 && (dtypes & VTCI_BIT(t->dtype)) != 0,
                 VTC_ERR_DTYPE, "%s has dtype %s (%d)", what, vtc_dtype_string(t->dtype),
                 (int)t->dtype);
    VTCI_REQUIRE(call, t->rank >= min_rank && t->rank <= max_rank && t->rank <= VTC_MAX_RANK,
                 VTC_ERR_SHAPE, "%s has rank %d, %d to %d is needed", what, t->rank, min_rank,
                 max_rank);
    VTCI_REQUIRE(call, t->reserved[0] == 0 && t->reserved[1] == 0, VTC_ERR_UNSUPPORTED,
                 "%s has reserved words that are not 0", what);
    VTCI_TRY(check_layout(call, what, t, access));
    if (call->query || is_empty(t))
        return VTC_OK;
    VTCI_REQUIRE(call, t->data != NULL, VTC_ERR_NULL, "%s has no data", what);
    VTCI_REQUIRE(call, (uintptr_t)t->data % vtc_dtype_size(t->dtype) == 0, VTC_ERR_SHAPE,
                 "%s is not aligned to its element size", what);
    return VTC_OK;
}

bool vtci_ranges_meet(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    const uintptr_t a0 = (uintptr_t)a, b0 = (uintptr_t)b;

    return a_bytes != 0 && b_bytes != 0 && (a0 < b0 ? b0 - a0 < a_bytes : a0 - b0 < b_bytes);
}

vtc_status vtci_check_apart(const vtci_call *call, const char *out_name, const vtc_tensor *out,
                            const char *in_name, const vtc_tensor *in)
{
    VTCI_REQUIRE(call,
                 call->query || !vtci_ranges_meet(out->data, vtci_span_bytes(out), in->data,
                                                  vtci_span_bytes(in)),
                 VTC_ERR_OVERLAP, "%s overlaps %s", out_name, in_name);
    return VTC_OK;
}

vtci_rows vtci_rows_of(const vtc_tensor *t)
{
    const size_t size = vtc_dtype_size(t->dtype);
    const int inner = t->rank - 1;
    vtci_rows rows = { t->data, t->dtype, 1, 1, 1, 0, 0 };

    if (t->rank >= 1)
        rows.n_cols = t->dim[inner];
    if (t->rank >= 2) {
        rows.n_rows = t->dim[inner - 1];
        rows.row_stride = t->stride[inner - 1] * size;
    }
    if (t->rank >= 3) {
        rows.n_batch = t->dim[inner - 2];
        rows.batch_stride = t->stride[inner - 2] * size;
    }
    return rows;
}
