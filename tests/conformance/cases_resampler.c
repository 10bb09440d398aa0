/* The resamplers of Qwen-VL and MiniCPM-V, from the weights as they are and prepared. */
#include "forms.h"
#include "methods.h"

#include <stdio.h>
#include <stdlib.h>
#include <vtc/resampler.h>

/* A case bound to the library's structs. */
struct model {
    vtc_resampler_params params;
    vtc_resampler_weights weights;
    vtc_resampler_images images;
};

static const char *text_param(run *r, const char *name, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(r->c->params, name));

    return text == NULL ? otherwise : text;
}

static vtc_status bind(run *r, struct model *m)
{
    const char *stem = text_param(r, "prefix", "resampler.");
    char prefix[160], tail[160];

    m->params.n_heads = case_size(r->c, "heads");
    if (case_has_param(r->c, "eps"))
        m->params.eps = (float)case_double(r->c, "eps");
    snprintf(prefix, sizeof(prefix), "w.%s", stem);
    snprintf(tail, sizeof(tail), "w.%s", text_param(r, "tail_prefix", stem));
    TRY(run_weights(r, &vtc_resampler_table, prefix, &m->weights));
    return run_weights(r, &vtc_resampler_tail_table, tail, &m->weights);
}

/* Integers of the file as I32, repeated `times`; NULL when it has none of that name. */
static const int32_t *numbers(run *r, const char *name, size_t times, size_t *n)
{
    const vtc_tensor t = case_has_tensor(r->c, name) ? case_tensor(r->c, name) : (vtc_tensor){ 0 };
    size_t count = 1, all;
    vtc_tensor memory;

    if (vtc_tensor_is_absent(&t))
        return NULL;
    for (int axis = 0; axis < t.rank; axis++)
        count *= t.dim[axis];
    all = count * times;
    memory = run_temporary(r, VTC_I32, 1, &all);
    for (size_t i = 0; i < all; i++)
        ((int32_t *)memory.data)[i] = t.dtype == VTC_I64
                                          ? (int32_t)((const int64_t *)t.data)[i % count]
                                          : ((const int32_t *)t.data)[i % count];
    *n = count;
    return memory.data;
}

static vtc_status prepare(run *r, const struct model *m, vtc_prepared *prepared)
{
    size_t bytes;

    TRY(vtc_resampler_prepare_size(&m->params, &m->weights, &r->exec, &prepared->bytes));
    run_prepared(r, prepared);
    TRY(vtc_resampler_prepare_scratch(&m->params, &m->weights, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_resampler_prepare(&m->params, &m->weights, prepared, &r->exec);
}

static vtc_status call(run *r, const struct model *m, const vtc_prepared *prepared, vtc_tensor *y)
{
    const vtc_tensor x = run_input(r, "in.x");
    size_t bytes;

    TRY(vtc_resampler_scratch(&m->params, &m->weights, prepared, &x, &m->images, y, &r->exec,
                              &bytes));
    run_scratch(r, bytes);
    return vtc_resampler(&m->params, &m->weights, prepared, &x, &m->images, y, &r->exec);
}

static vtc_status resample(run *r, struct model *m)
{
    const vtc_tensor x = case_tensor(r->c, "in.x");
    const size_t n_batch = x.rank == 3 ? x.dim[0] : 1;
    size_t dim[] = { n_batch, 0, 0 }, n = 0;
    vtc_prepared prepared;
    vtc_tensor y, again;

    TRY(bind(r, m));
    m->images.grids = numbers(r, "in.grids", 1, &n);
    if (m->images.grids == NULL)
        m->images.grids = numbers(r, "in.grid", n_batch, &n);
    m->images.frame_ids = numbers(r, "in.frame_ids", 1, &n);
    m->images.group_sizes = numbers(r, "in.group_sizes", 1, &m->images.n_groups);
    if (m->images.group_sizes != NULL)
        dim[0] = m->images.n_groups;
    dim[1] = m->weights.query.dim[0];
    dim[2] = m->weights.query.dim[1];
    y = x.rank == 3 ? run_output(r, "out.tokens", 3, dim) : run_output(r, "out.tokens", 2, dim + 1);
    TRY(call(r, m, NULL, &y));
    TRY(prepare(r, m, &prepared));
    again = run_temporary(r, y.dtype, y.rank, y.dim);
    TRY(call(r, m, &prepared, &again));
    run_check_form(r, "out.tokens", "prepared", &again);
    return VTC_OK;
}

static vtc_status resample_as(run *r, vtc_resampler_variant variant)
{
    struct model m = { VTC_RESAMPLER_PARAMS_INIT, { .query = { 0 } }, VTC_RESAMPLER_IMAGES_INIT };

    m.params.variant = variant;
    return resample(r, &m);
}

static vtc_status minicpmv(run *r)
{
    return resample_as(r, VTC_RESAMPLER_MINICPMV);
}

static vtc_status minicpmv_2_0(run *r)
{
    return resample_as(r, VTC_RESAMPLER_MINICPMV_2_0);
}

static vtc_status qwen_vl(run *r)
{
    return resample_as(r, VTC_RESAMPLER_QWEN_VL);
}

const method resampler_methods[] = {
    { "resampler", "qwen-vl", qwen_vl },
    { "resampler", "minicpm-v-2.0", minicpmv_2_0 },
    { "resampler", "minicpm-v-2.6", minicpmv },
    { "resampler", "minicpm-v-4.5", minicpmv },
    { NULL, NULL, NULL },
};
