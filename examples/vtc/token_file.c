/*
 * Token files: what a model's hook saved, mapped to vtc_plan_inputs without a copy.
 *
 *   tokens         [N, C]      no [CLS] row
 *   q, k           [H, n, d]   of the vision encoder, n = N or N + 1 with [CLS] in front; of a
 *                              language model (metadata v_start), n = all its rows, k rotated
 *   cls_attention  [H, N]      after softmax
 *   q_cls          [H, d]      query of [CLS]
 *   text_q         [H, M, d]   queries of the text rows of a language model
 *   hidden         [L, D]      hidden states of all rows of a language model's layer
 *   embeddings     [L, D]      input of its first layer
 *   text           [M, E]      text embeddings
 *   mass           [N]         patches each token stands for
 *   grid, scale                [2] I32 or I64; one F32. scale may also be metadata
 *   metadata                   layer, rotated (0 or 1), v_start, n_text, scale
 */
#include "source.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors --------------------------------------------------------------------------------- */

static bool is_float(vtc_dtype dtype)
{
    return dtype == VTC_F32 || dtype == VTC_F16 || dtype == VTC_BF16;
}

/* "[16, 577, 64]" */
static const char *shape_text(const vtc_tensor *tensor, char *text, size_t size)
{
    size_t used = 0;

    snprintf(text, size, "[]");
    for (int axis = 0; axis < tensor->rank && used < size; axis++)
        used += (size_t)snprintf(text + used, size - used, "%s%zu%s", axis == 0 ? "[" : ", ",
                                 tensor->dim[axis], axis == tensor->rank - 1 ? "]" : "");
    return text;
}

static bool wrong_shape(struct tool *tool, const char *name, const vtc_tensor *tensor,
                        const char *expected)
{
    char shape[128];

    return tool_fail(tool, "tensor %s is %s %s, but must be %s", name,
                     vtc_dtype_string(tensor->dtype), shape_text(tensor, shape, sizeof(shape)),
                     expected);
}

static bool check_floats(struct tool *tool, const char *name, const vtc_tensor *tensor, int rank,
                         const char *expected)
{
    bool empty = false;

    for (int axis = 0; axis < tensor->rank; axis++)
        empty = empty || tensor->dim[axis] == 0;
    if (!is_float(tensor->dtype) || tensor->rank != rank || empty)
        return wrong_shape(tool, name, tensor, expected);
    return true;
}

/* An absent tensor is fine and leaves *tensor as it is, with rank 0. */
static bool read_floats(struct tool *tool, const vtc_safetensors *file, const char *name, int rank,
                        const char *expected, vtc_tensor *tensor)
{
    if (!vtc_safetensors_has(file, name))
        return true;
    return tool_check(tool, vtc_safetensors_tensor(file, name, tensor, &tool->exec)) &&
           check_floats(tool, name, tensor, rank, expected);
}

static bool read_grid(struct tool *tool, struct source *source)
{
    vtc_tensor grid;
    int64_t side[2];

    if (!vtc_safetensors_has(source->file, "grid"))
        return true;
    if (!tool_check(tool, vtc_safetensors_tensor(source->file, "grid", &grid, &tool->exec)))
        return false;
    if ((grid.dtype != VTC_I32 && grid.dtype != VTC_I64) || grid.rank != 1 || grid.dim[0] != 2)
        return wrong_shape(tool, "grid", &grid, "I32 or I64 [2]: rows, columns");
    for (int i = 0; i < 2; i++)
        side[i] = grid.dtype == VTC_I32 ? ((const int32_t *)grid.data)[i]
                                        : ((const int64_t *)grid.data)[i];
    if (side[0] < 1 || side[1] < 1 || side[0] > INT32_MAX || side[1] > INT32_MAX)
        return tool_fail(tool, "tensor grid holds %lld x %lld", (long long)side[0],
                         (long long)side[1]);
    if (source->grid_h != 0 &&
        (source->grid_h != (size_t)side[0] || source->grid_w != (size_t)side[1]))
        return tool_fail(tool, "--grid says %zux%zu, the file's grid %lldx%lld", source->grid_h,
                         source->grid_w, (long long)side[0], (long long)side[1]);
    source->grid_h = (size_t)side[0];
    source->grid_w = (size_t)side[1];
    return true;
}

static bool read_mass(struct tool *tool, struct source *source)
{
    vtc_tensor mass = { 0 };

    if (!read_floats(tool, source->file, "mass", 1, "F32 [N]", &mass))
        return false;
    if (mass.rank == 0)
        return true;
    if (mass.dtype != VTC_F32 || mass.dim[0] != source->n_tokens)
        return wrong_shape(tool, "mass", &mass, "F32 [N], a number for each token");
    source->inputs.mass = mass.data;
    return true;
}

/* ---- metadata -------------------------------------------------------------------------------- */

/* A whole number; an absent one leaves *value as it is. */
static bool read_whole(struct tool *tool, const vtc_safetensors *file, const char *key,
                       size_t *value)
{
    const char *text = vtc_safetensors_metadata(file, key);
    unsigned long long number;
    char *end;

    if (text == NULL)
        return true;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > INT32_MAX)
        return tool_fail(tool, "metadata %s is '%.40s', but must be a whole number", key, text);
    *value = (size_t)number;
    return true;
}

static bool read_scale(struct tool *tool, struct source *source)
{
    const char *text = vtc_safetensors_metadata(source->file, "scale");
    vtc_tensor tensor = { 0 };
    char *end = "";
    double scale;

    if (vtc_safetensors_has(source->file, "scale")) {
        if (!tool_check(tool, vtc_safetensors_tensor(source->file, "scale", &tensor, &tool->exec)))
            return false;
        if (tensor.dtype != VTC_F32 || tensor.rank > 1 || (tensor.rank == 1 && tensor.dim[0] != 1))
            return wrong_shape(tool, "scale", &tensor, "one F32");
        scale = *(const float *)tensor.data;
    } else if (text != NULL) {
        scale = strtod(text, &end);
    } else {
        return true;
    }
    if (*end != '\0' || !(scale > 0.0) || !isfinite(scale))
        return tool_fail(tool, "scale must be a number above 0, not %s",
                         text != NULL ? text : "the tensor's value");
    source->inputs.scale = (float)scale;
    return true;
}

/* ---- queries and keys ------------------------------------------------------------------------ */

/* The same rows of every head without row 0, [CLS]. */
static vtc_tensor without_first_row(const vtc_tensor *x)
{
    vtc_tensor rest = *x;

    rest.data = (char *)x->data + x->stride[1] * vtc_dtype_size(x->dtype);
    rest.dim[1]--;
    return rest;
}

/* [H, d] of row 0 in [H, n, d] */
static vtc_tensor first_row(const vtc_tensor *x)
{
    const size_t dim[2] = { x->dim[0], x->dim[2] };
    vtc_tensor row = vtc_tensor_nd(x->data, x->dtype, 2, dim);

    row.stride[0] = x->stride[0];
    return row;
}

static bool map_encoder(struct tool *tool, struct source *source, const vtc_tensor *q,
                        const vtc_tensor *k)
{
    char expected[160];

    if (k->rank == 0)
        return true;
    snprintf(expected, sizeof(expected),
             "[H, n, d] with n %zu, or %zu with [CLS] in front (keys of a language model need "
             "metadata v_start)",
             source->n_tokens, source->n_tokens + 1);
    if (k->dim[1] != source->n_tokens && k->dim[1] != source->n_tokens + 1)
        return wrong_shape(tool, "k", k, expected);
    source->keys = k->dim[1] == source->n_tokens ? *k : without_first_row(k);
    source->inputs.keys = &source->keys;
    if (k->dim[1] != source->n_tokens) {
        source->cls_key = first_row(k);
        source->inputs.cls_key = &source->cls_key;
    }
    if (q->rank != 0) {
        source->queries = q->dim[1] == source->n_tokens ? *q : without_first_row(q);
        source->inputs.queries = &source->queries;
    }
    if (q->rank != 0 && q->dim[1] == source->n_tokens + 1 && source->inputs.cls_query == NULL) {
        source->cls_query = first_row(q);
        source->inputs.cls_query = &source->cls_query;
    }
    return true;
}

static bool map_language_model(struct tool *tool, struct source *source, const vtc_tensor *q,
                               const vtc_tensor *k)
{
    size_t rotated = 1;

    if (!read_whole(tool, source->file, "v_start", &source->inputs.v_start) ||
        !read_whole(tool, source->file, "rotated", &rotated))
        return false;
    if (k->rank == 0)
        return true;
    if (rotated != 1)
        return tool_fail(tool,
                         "metadata rotated is %zu: save q and k of a language model behind "
                         "its rotary embedding",
                         rotated);
    if (k->dim[1] < source->n_tokens || k->dim[1] - source->n_tokens < source->inputs.v_start)
        return tool_fail(tool, "tensor k has %zu rows, fewer than v_start %zu and %zu tokens",
                         k->dim[1], source->inputs.v_start, source->n_tokens);
    source->lm_keys = *k;
    source->inputs.lm_keys = &source->lm_keys;
    if (q->rank != 0) {
        source->lm_query = *q;
        source->inputs.lm_query = &source->lm_query;
    }
    return true;
}

static bool read_queries_and_keys(struct tool *tool, struct source *source)
{
    const vtc_safetensors *file = source->file;
    vtc_tensor q = { 0 }, k = { 0 }, *text_q = &source->text_query;

    if (!read_floats(tool, file, "q", 3, "floats [H, n, d]", &q) ||
        !read_floats(tool, file, "k", 3, "floats [H, n, d]", &k) ||
        !read_floats(tool, file, "text_q", 3, "floats [H, M, d]", text_q) ||
        !read_floats(tool, file, "q_cls", 2, "floats [H, d]", &source->cls_query))
        return false;
    if (q.rank != 0 && k.rank != 0 && (q.dim[1] != k.dim[1] || q.dim[2] != k.dim[2]))
        return tool_fail(tool, "tensors q and k differ: n %zu and %zu, d %zu and %zu", q.dim[1],
                         k.dim[1], q.dim[2], k.dim[2]);
    if (text_q->rank != 0 && k.rank != 0 && text_q->dim[2] != k.dim[2])
        return tool_fail(tool, "tensors text_q and k differ: d %zu and %zu", text_q->dim[2],
                         k.dim[2]);
    if (text_q->rank != 0)
        source->inputs.text_query = text_q;
    if (source->cls_query.rank != 0)
        source->inputs.cls_query = &source->cls_query;
    return vtc_safetensors_metadata(file, "v_start") != NULL
               ? map_language_model(tool, source, &q, &k)
               : map_encoder(tool, source, &q, &k);
}

/* A view of a model's rows that goes into the inputs as it is, when the file has it. */
static bool read_rows(struct tool *tool, const struct source *source, const char *name,
                      const char *expected, vtc_tensor *view, const vtc_tensor **input)
{
    if (!read_floats(tool, source->file, name, 2, expected, view))
        return false;
    if (view->rank != 0)
        *input = view;
    return true;
}

static bool read_language_rows(struct tool *tool, struct source *source)
{
    vtc_plan_inputs *in = &source->inputs;

    return read_rows(tool, source, "hidden", "floats [L, D]", &source->lm_hidden, &in->lm_hidden) &&
           read_rows(tool, source, "embeddings", "floats [L, D]", &source->lm_embeddings,
                     &in->lm_embeddings) &&
           read_rows(tool, source, "text", "floats [M, E]", &source->text, &in->text);
}

static bool read_cls_attention(struct tool *tool, struct source *source)
{
    vtc_tensor *row = &source->cls_attention;

    if (!read_floats(tool, source->file, "cls_attention", 2, "floats [H, N]", row))
        return false;
    if (row->rank == 0)
        return true;
    if (row->dim[1] != source->n_tokens)
        return wrong_shape(tool, "cls_attention", row, "[H, N] with a column for each token");
    source->inputs.cls_attention = row;
    return true;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool check_tokens(struct tool *tool, struct source *source)
{
    if (!check_floats(tool, "tokens", &source->features, 2, "F32, F16 or BF16 [N, C]"))
        return false;
    if (source->features.dim[0] > INT32_MAX)
        return tool_fail(tool, "%zu tokens are too many", source->features.dim[0]);
    source->n_tokens = source->features.dim[0];
    return true;
}

bool source_open_npy(struct tool *tool, const char *path, struct source *source)
{
    if (!tool_check(tool, vtc_npy_open(path, &source->array, &tool->exec)))
        return false;
    source->features = *vtc_npy_tensor(source->array);
    return check_tokens(tool, source);
}

bool source_open_safetensors(struct tool *tool, const char *path, struct source *source)
{
    size_t layer = 0;

    if (!tool_check(tool, vtc_safetensors_open(path, &source->file, &tool->exec)))
        return false;
    if (!vtc_safetensors_has(source->file, "tokens"))
        return tool_fail(tool, "has no tensor 'tokens' [N, C]");
    return tool_check(tool, vtc_safetensors_tensor(source->file, "tokens", &source->features,
                                                   &tool->exec)) &&
           check_tokens(tool, source) && read_grid(tool, source) && read_mass(tool, source) &&
           read_scale(tool, source) && read_whole(tool, source->file, "layer", &layer) &&
           read_whole(tool, source->file, "n_text", &source->inputs.n_text) &&
           read_queries_and_keys(tool, source) && read_cls_attention(tool, source) &&
           read_language_rows(tool, source);
}
