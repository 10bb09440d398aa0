/* Parts of row views. */
#include "operands.h"

/* Nothing is added to NULL. */
static char *moved(char *data, size_t bytes)
{
    return data == NULL ? NULL : data + bytes;
}

vtci_rows vtci_rows_part(vtci_rows rows, size_t first, size_t n)
{
    rows.data = moved(rows.data, first * rows.row_stride);
    rows.n_rows = n;
    return rows;
}

vtci_rows vtci_cols_part(vtci_rows rows, size_t first, size_t n)
{
    rows.data = moved(rows.data, first * vtc_dtype_size(rows.dtype));
    rows.n_cols = n;
    return rows;
}

vtci_rows vtci_batch_part(vtci_rows rows, size_t first, size_t n)
{
    rows.data = moved(rows.data, first * rows.batch_stride);
    rows.n_batch = n;
    return rows;
}

vtci_rows vtci_rows_split(vtci_rows rows, size_t n_rows)
{
    rows.n_batch = n_rows == 0 ? 0 : rows.n_rows / n_rows;
    rows.n_rows = n_rows;
    rows.batch_stride = vtci_mul(n_rows, rows.row_stride);
    return rows;
}

bool vtci_rows_join(const vtci_rows *rows, vtci_rows *joined)
{
    *joined = *rows;
    joined->n_batch = 1;
    joined->n_rows = vtci_mul(rows->n_batch, rows->n_rows);
    if (rows->n_rows == 1)
        joined->row_stride = rows->batch_stride;
    return rows->n_batch <= 1 || rows->n_rows <= 1 ||
           rows->batch_stride == rows->n_rows * rows->row_stride;
}

vtci_rows vtci_heads_as_batch(vtci_rows rows, size_t n_heads)
{
    rows.n_batch = n_heads;
    rows.n_cols /= n_heads;
    rows.batch_stride = rows.n_cols * vtc_dtype_size(rows.dtype);
    return rows;
}

vtci_heads vtci_heads_part(vtci_heads heads, size_t first, size_t n)
{
    heads.data = moved(heads.data, first * heads.row_stride);
    heads.n_rows = n;
    return heads;
}
