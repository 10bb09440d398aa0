#include "run.h"

#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Elements between two rows, and between two planes, of padded inputs. Odd, so that rows begin at
 * every alignment. */
enum { ROW_GAP = 3, PLANE_GAP = 5 };

void run_open(run *r, test_case *c, size_t n_workers, bool padded)
{
    memset(r, 0, sizeof(*r));
    r->c = c;
    r->padded = padded;
    r->exec = test_exec(n_workers);
    r->exec.on_error = case_record_error;
    r->exec.user = c;
}

void run_close(run *r)
{
    exec_scratch_free(&r->exec);
    for (size_t i = 0; i < r->n_blocks; i++)
        guard_free(r->blocks[i]);
    free(r->blocks);
    free(r->outputs);
}

static void *grow(void *array, size_t n, size_t size)
{
    void *grown = realloc(array, n * size);

    if (grown == NULL)
        abort();
    return grown;
}

static void *run_alloc(run *r, size_t bytes)
{
    void *block = guard_alloc(bytes);

    r->blocks = grow(r->blocks, r->n_blocks + 1, sizeof(*r->blocks));
    r->blocks[r->n_blocks++] = block;
    poison(block, bytes);
    return block;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static void widen_strides(vtc_tensor *t)
{
    t->stride[t->rank - 2] = t->dim[t->rank - 1] + ROW_GAP;
    for (int axis = t->rank - 3; axis >= 0; axis--)
        t->stride[axis] = t->dim[axis + 1] * t->stride[axis + 1] + PLANE_GAP;
}

/* Elements from the start of a tensor to its row `row`, counting rows of all leading axes. */
static size_t row_offset(const vtc_tensor *t, size_t row)
{
    size_t offset = 0;

    for (int axis = t->rank - 2; axis >= 0; axis--) {
        offset += row % t->dim[axis] * t->stride[axis];
        row /= t->dim[axis];
    }
    return offset;
}

/* A copy that ends with its last element, so that reading into the padding behind it faults. */
static vtc_tensor padded_copy(run *r, const vtc_tensor *dense)
{
    const size_t n_rows = element_count(dense) / dense->dim[dense->rank - 1];
    const size_t size = vtc_dtype_size(dense->dtype);
    const size_t row_bytes = dense->dim[dense->rank - 1] * size;
    vtc_tensor t = *dense;

    widen_strides(&t);
    t.data = run_alloc(r, row_offset(&t, n_rows - 1) * size + row_bytes);
    for (size_t row = 0; row < n_rows; row++)
        memcpy((char *)t.data + row_offset(&t, row) * size,
               (const char *)dense->data + row * row_bytes, row_bytes);
    guard_readonly(t.data);
    return t;
}

vtc_tensor run_input(run *r, const char *name)
{
    const vtc_tensor dense = case_tensor(r->c, name);

    if (!r->padded || dense.rank < 2 || element_count(&dense) == 0)
        return dense;
    return padded_copy(r, &dense);
}

/* Matrices may have gaps between their rows, the kernels of convolutions have none. */
static int find_weight(void *source, const char *name, vtc_tensor *view)
{
    run *r = source;

    if (!case_has_tensor(r->c, name))
        return 0;
    *view = case_tensor(r->c, name);
    if (view->rank <= 2)
        *view = run_input(r, name);
    return 1;
}

vtc_status run_weights(run *r, const vtc_weight_table *table, const char *prefix, void *weights)
{
    return vtc_weights_bind(table, find_weight, r, prefix, weights, &r->exec);
}

void run_prefix(run *r, const char *name, char *prefix, size_t size)
{
    const char *stem = json_string_value(json_object_get(r->c->params, "prefix"));
    char full[256];

    snprintf(full, sizeof(full), "w.%s%s", stem == NULL ? "" : stem, name);
    snprintf(prefix, size, "w.%s", stem != NULL && case_has_tensor(r->c, full) ? stem : "");
}

const float *run_floats(run *r, const char *name, size_t n)
{
    vtc_tensor t;
    float *values;

    if (!case_has_tensor(r->c, name))
        return NULL;
    t = case_tensor(r->c, name);
    if (t.rank != 1 || t.dim[0] != n || t.dtype < VTC_F32 || t.dtype > VTC_BF16) {
        case_fault(r->c, "\"%s\" is %s, expected %zu floats", name, describe(&t).s, n);
        return NULL;
    }
    values = run_alloc(r, n * sizeof(*values));
    for (size_t i = 0; i < n; i++)
        values[i] = get_element(t.data, t.dtype, i);
    return values;
}

const int32_t *run_ints(run *r, const char *name, size_t *n)
{
    const vtc_tensor t = case_tensor(r->c, name);
    int32_t *values;

    if (t.rank != 1 || (t.dtype != VTC_I32 && t.dtype != VTC_I64)) {
        case_fault(r->c, "\"%s\" is %s, expected a list of integers", name, describe(&t).s);
        *n = 0;
        return NULL;
    }
    *n = t.dim[0];
    values = run_alloc(r, *n * sizeof(*values));
    for (size_t i = 0; i < *n; i++)
        values[i] = t.dtype == VTC_I64 ? (int32_t)((const int64_t *)t.data)[i]
                                       : ((const int32_t *)t.data)[i];
    return values;
}

/* ---- outputs --------------------------------------------------------------------------------- */

vtc_tensor run_temporary(run *r, vtc_dtype dtype, int rank, const size_t *dim)
{
    vtc_tensor t = vtc_tensor_nd(NULL, dtype, rank, dim);

    t.data = run_alloc(r, element_count(&t) * vtc_dtype_size(dtype));
    return t;
}

vtc_tensor run_output(run *r, const char *name, int rank, const size_t *dim)
{
    vtc_dtype dtype = VTC_F32;
    vtc_tensor t;

    if (case_has_tensor(r->c, name))
        dtype = case_tensor(r->c, name).dtype;
    t = run_temporary(r, dtype, rank, dim);
    run_show(r, name, t);
    return t;
}

vtc_tensor run_output_like(run *r, const char *name, const vtc_tensor *x, size_t n, size_t c)
{
    const size_t dim[] = { x->dim[0], n, c };

    return x->rank == 3 ? run_output(r, name, 3, dim) : run_output(r, name, 2, dim + 1);
}

void run_show(run *r, const char *name, vtc_tensor view)
{
    output *o;

    r->outputs = grow(r->outputs, r->n_outputs + 1, sizeof(*r->outputs));
    o = &r->outputs[r->n_outputs++];
    snprintf(o->name, sizeof(o->name), "%s", name);
    o->view = view;
}

void run_show_i32(run *r, const char *name, const int32_t *data, size_t n)
{
    run_show(r, name, vtc_tensor_1d(data, VTC_I32, n));
}

const vtc_tensor *run_find(const run *r, const char *name)
{
    for (size_t i = 0; i < r->n_outputs; i++)
        if (strcmp(r->outputs[i].name, name) == 0)
            return &r->outputs[i].view;
    return NULL;
}

/* ---- plans and scratch memory ---------------------------------------------------------------- */

vtc_status run_plan(run *r, const vtc_plan_count *count, vtc_plan *plan)
{
    const vtc_plan empty = VTC_PLAN_INIT;
    size_t bytes;

    *plan = empty;
    TRY(vtc_plan_size(count, &bytes, &r->exec));
    return vtc_plan_init(plan, count, run_alloc(r, bytes), bytes, &r->exec);
}

void run_scratch(run *r, size_t bytes)
{
    exec_scratch_free(&r->exec);
    exec_scratch(&r->exec, bytes);
}
