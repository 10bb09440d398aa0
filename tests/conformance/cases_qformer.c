/*
 * The Q-Former. Each case runs in four forms: in one call and in two (the image, then the query),
 * from the weights as they are and prepared. All must give what the file expects, and without an
 * object two calls the bits of one.
 */
#include "../support/tensors.h"
#include "compare.h"
#include "forms.h"
#include "methods.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <vtc/qformer.h>

enum { MAX_LAYERS = 64 };

/* A case bound to the library's structs. */
struct model {
    run *r;
    vtc_qformer_params params;
    vtc_qformer_layer layers[MAX_LAYERS];
    vtc_qformer_weights weights;
    vtc_prepared object;
    const vtc_prepared *prepared;
    vtc_tensor image, image_mask, input_ids, text_mask; /* absent: no data */
    vtc_tensor hidden, tokens;
};

static vtc_tensor optional_input(run *r, const char *name)
{
    const vtc_tensor absent = { 0 };

    return case_has_tensor(r->c, name) ? run_input(r, name) : absent;
}

/* The layers' names, and those of everything else. */
struct layout {
    const vtc_weight_table *table, *layer_table;
    const char *layer_format;
};

static vtc_status bind(struct model *m, const struct layout *layout)
{
    const char *stem = json_string_value(json_object_get(m->r->c->params, "proj"));
    char prefix[128];

    m->weights.layers = m->layers;
    m->weights.n_layers = case_size(m->r->c, "layers");
    if (m->weights.n_layers > MAX_LAYERS) {
        case_fault(m->r->c, "%zu layers", m->weights.n_layers);
        return VTC_ERR_UNSUPPORTED;
    }
    TRY(run_weights(m->r, layout->table, "w.", &m->weights));
    for (size_t i = 0; i < m->weights.n_layers; i++) {
        snprintf(prefix, sizeof(prefix), layout->layer_format, i);
        TRY(run_weights(m->r, layout->layer_table, prefix, &m->layers[i]));
    }
    if (stem == NULL)
        return VTC_OK;
    snprintf(prefix, sizeof(prefix), "w.%sweight", stem);
    if (!case_has_tensor(m->r->c, prefix))
        return VTC_OK;
    prefix[strlen(prefix) - strlen("weight")] = '\0';
    return run_weights(m->r, &vtc_linear_table, prefix, &m->weights.projection);
}

static void open_inputs(struct model *m)
{
    m->params.n_heads = case_size(m->r->c, "heads");
    if (case_has_param(m->r->c, "eps"))
        m->params.eps = (float)case_double(m->r->c, "eps");
    m->image = run_input(m->r, "in.image");
    m->image_mask = optional_input(m->r, "in.image_mask");
    m->input_ids = optional_input(m->r, "in.input_ids");
    m->text_mask = optional_input(m->r, "in.text_mask");
}

/* ---- forms ----------------------------------------------------------------------------------- */

static vtc_status prepare(struct model *m, vtc_prepared *prepared)
{
    run *r = m->r;
    size_t bytes;

    TRY(vtc_qformer_prepare_size(&m->params, &m->weights, &r->exec, &prepared->bytes));
    run_prepared(r, prepared);
    TRY(vtc_qformer_prepare_scratch(&m->params, &m->weights, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_qformer_prepare(&m->params, &m->weights, prepared, &r->exec);
}

static vtc_status one_call(struct model *m, vtc_tensor *hidden, vtc_tensor *tokens)
{
    const vtc_tensor *image_mask = given(&m->image_mask), *ids = given(&m->input_ids);
    const vtc_tensor *text_mask = given(&m->text_mask);
    run *r = m->r;
    size_t bytes;

    TRY(vtc_qformer_scratch(&m->params, &m->weights, m->prepared, &m->image, image_mask, ids,
                            text_mask, hidden, tokens, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_qformer(&m->params, &m->weights, m->prepared, &m->image, image_mask, ids, text_mask,
                       hidden, tokens, &r->exec);
}

static vtc_status encode(struct model *m, vtc_tensor *kv)
{
    size_t dim[] = { m->image.dim[0], m->image.dim[1], 0 }, bytes;
    run *r = m->r;

    TRY(vtc_qformer_kv_channels(&m->params, &m->weights, &dim[2], &r->exec));
    *kv = run_temporary(r, VTC_F32, 3, dim);
    TRY(vtc_qformer_encode_image_scratch(&m->params, &m->weights, m->prepared, &m->image, kv,
                                         &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_qformer_encode_image(&m->params, &m->weights, m->prepared, &m->image, kv, &r->exec);
}

static vtc_status two_calls(struct model *m, vtc_tensor *hidden, vtc_tensor *tokens)
{
    const vtc_tensor *image_mask = given(&m->image_mask), *ids = given(&m->input_ids);
    const vtc_tensor *text_mask = given(&m->text_mask);
    run *r = m->r;
    vtc_tensor kv;
    size_t bytes;

    TRY(encode(m, &kv));
    TRY(vtc_qformer_query_scratch(&m->params, &m->weights, m->prepared, &kv, image_mask, ids,
                                  text_mask, hidden, tokens, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_qformer_query(&m->params, &m->weights, m->prepared, &kv, image_mask, ids, text_mask,
                             hidden, tokens, &r->exec);
}

/* ---- what the forms must agree in ------------------------------------------------------------ */

static vtc_tensor like(run *r, const vtc_tensor *t)
{
    const vtc_tensor absent = { 0 };

    return vtc_tensor_is_absent(t) ? absent : run_temporary(r, t->dtype, t->rank, t->dim);
}

static vtc_tensor *wanted(vtc_tensor *t)
{
    return vtc_tensor_is_absent(t) ? NULL : t;
}

static void compare_with_file(run *r, const char *name, const vtc_tensor *got, const char *form)
{
    difference diff;
    vtc_tensor want;

    if (vtc_tensor_is_absent(got))
        return;
    want = case_tensor(r->c, name);
    if (!compare(got, &want, r->c->atol, &diff))
        case_fault(r->c, "%s, %s: %s", name, form, diff.reason);
}

/* Two calls give the bits of one; with an object, where one call may take another way through the
 * image, what the file expects. */
static vtc_status check_two_calls(struct model *m, const vtc_tensor *hidden,
                                  const vtc_tensor *tokens)
{
    run *r = m->r;
    vtc_tensor hidden2 = like(r, hidden), tokens2 = like(r, tokens);

    TRY(two_calls(m, wanted(&hidden2), wanted(&tokens2)));
    compare_with_file(r, "out.hidden", &hidden2, "in two calls");
    compare_with_file(r, "out.tokens", &tokens2, "in two calls");
    if (m->prepared != NULL)
        return VTC_OK;
    if (!vtc_tensor_is_absent(hidden) && !same_bits(hidden, &hidden2))
        case_fault(r->c, "out.hidden: other bits in two calls");
    if (!vtc_tensor_is_absent(tokens) && !same_bits(tokens, &tokens2))
        case_fault(r->c, "out.tokens: other bits in two calls");
    return VTC_OK;
}

static vtc_status check_prepared(struct model *m)
{
    run *r = m->r;
    vtc_tensor hidden = like(r, &m->hidden), tokens = like(r, &m->tokens);

    TRY(prepare(m, &m->object));
    m->prepared = &m->object;
    TRY(one_call(m, wanted(&hidden), wanted(&tokens)));
    compare_with_file(r, "out.hidden", &hidden, "prepared");
    compare_with_file(r, "out.tokens", &tokens, "prepared");
    TRY(check_two_calls(m, &hidden, &tokens));
    m->prepared = NULL;
    return VTC_OK;
}

/* Without the rows of the text, the queries must be the same. */
static vtc_status check_tokens_alone(struct model *m)
{
    run *r = m->r;
    vtc_tensor tokens = like(r, &m->tokens);

    if (vtc_tensor_is_absent(&tokens))
        return VTC_OK;
    TRY(one_call(m, NULL, &tokens));
    compare_with_file(r, "out.tokens", &tokens, "without hidden");
    return VTC_OK;
}

/* ---- methods --------------------------------------------------------------------------------- */

static vtc_tensor expected_output(run *r, const char *name, size_t n_rows, size_t n_cols)
{
    const size_t dim[] = { case_tensor(r->c, "in.image").dim[0], n_rows, n_cols };
    const vtc_tensor absent = { 0 };

    return case_has_tensor(r->c, name) ? run_output(r, name, 3, dim) : absent;
}

static vtc_status qformer(run *r, const struct layout *layout)
{
    static const vtc_qformer_params defaults = VTC_QFORMER_PARAMS_INIT;
    struct model m;
    size_t n_text;

    memset(&m, 0, sizeof(m));
    m.r = r;
    m.params = defaults;
    TRY(bind(&m, layout));
    open_inputs(&m);
    n_text = vtc_tensor_is_absent(&m.input_ids) ? 0 : m.input_ids.dim[1];
    m.hidden = expected_output(r, "out.hidden", m.weights.query_tokens.dim[1] + n_text,
                               m.weights.query_tokens.dim[2]);
    m.tokens = expected_output(r, "out.tokens", m.weights.query_tokens.dim[1],
                               m.weights.projection.weight.dim[0]);
    TRY(one_call(&m, wanted(&m.hidden), wanted(&m.tokens)));
    TRY(check_two_calls(&m, &m.hidden, &m.tokens));
    TRY(check_tokens_alone(&m));
    return check_prepared(&m);
}

static vtc_status lavis(run *r)
{
    static const struct layout layout = { &vtc_qformer_lavis_table, &vtc_qformer_lavis_layer_table,
                                          "w.Qformer.bert.encoder.layer.%zu." };

    return qformer(r, &layout);
}

static vtc_status blip2(run *r)
{
    static const struct layout layout = { &vtc_qformer_blip2_table, &vtc_qformer_hf_layer_table,
                                          "w.qformer.encoder.layer.%zu." };

    return qformer(r, &layout);
}

static vtc_status instructblip(run *r)
{
    static const struct layout layout = { &vtc_qformer_instructblip_table,
                                          &vtc_qformer_hf_layer_table,
                                          "w.qformer.encoder.layer.%zu." };

    return qformer(r, &layout);
}

const method qformer_methods[] = {
    { "qformer", "lavis", lavis },
    { "qformer", "hf_blip2", blip2 },
    { "qformer", "hf_instructblip", instructblip },
    { NULL, NULL, NULL },
};
