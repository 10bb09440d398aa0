/* Hyper Attention: the prompt in one call, then each further row in a call of its own. */
#include "methods.h"

#include <string.h>
#include <vtc/hyper_attention.h>

enum { MAX_IMAGES = 64 };

struct layer {
    vtc_hyper_attention_params params;
    vtc_hyper_attention_weights weights;
    int32_t starts[MAX_IMAGES];
};

static vtc_status open_layer(run *r, struct layer *l)
{
    static const char *const variants[] = { "", "gate_proj", "gate", "fused" };
    const vtc_hyper_attention_params params = VTC_HYPER_ATTENTION_PARAMS_INIT;
    char prefix[128];

    l->params = params;
    l->params.n_heads = case_size(r->c, "num_heads");
    for (int v = VTC_HYPER_GATE_PROJ; v <= VTC_HYPER_FUSED; v++)
        if (strcmp(r->c->variant, variants[v]) == 0)
            l->params.variant = (vtc_hyper_variant)v;
    if (case_has_param(r->c, "rms_eps"))
        l->params.eps = (float)case_double(r->c, "rms_eps");
    if (case_has_param(r->c, "rope_theta"))
        l->params.rope_theta = (float)case_double(r->c, "rope_theta");
    run_prefix(r, "self_attn.q_proj.weight", prefix, sizeof(prefix));
    return run_weights(r, &vtc_hyper_attention_table, prefix, &l->weights);
}

/* A cache of exactly n_rows rows, of each token all heads. */
static vtc_hyper_kv make_cache(run *r, const struct layer *l, size_t n_rows)
{
    const size_t d =
        l->params.n_heads == 0 ? 0 : l->weights.q_proj.weight.dim[0] / l->params.n_heads;
    const size_t n_kv = d == 0 ? 0 : l->weights.k_proj.weight.dim[0] / d;
    const size_t dim[] = { n_rows, n_kv, d };
    vtc_hyper_kv kv = { run_temporary(r, VTC_F32, 3, dim), run_temporary(r, VTC_F32, 3, dim) };
    vtc_tensor *both[] = { &kv.k, &kv.v };

    for (int i = 0; i < 2; i++) {
        both[i]->dim[0] = n_kv;
        both[i]->dim[1] = n_rows;
        both[i]->stride[0] = d;
        both[i]->stride[1] = n_kv * d;
    }
    return kv;
}

static int64_t element(const vtc_tensor *t, size_t i)
{
    int32_t narrow;
    int64_t wide;

    if (t->dtype == VTC_I64) {
        memcpy(&wide, (const char *)t->data + i * sizeof(wide), sizeof(wide));
        return wide;
    }
    memcpy(&narrow, (const char *)t->data + i * sizeof(narrow), sizeof(narrow));
    return narrow;
}

static vtc_status encode(run *r, struct layer *l, vtc_hyper_sequence *s)
{
    const vtc_tensor images = run_input(r, "in.image_embeds");
    const vtc_tensor starts = case_tensor(r->c, "in.media_starts");
    size_t bytes;

    s->n_images = images.rank == 3 ? images.dim[0] : 0;
    s->n_image_rows = images.rank == 3 ? images.dim[1] : 0;
    if (s->n_images > MAX_IMAGES || starts.dim[0] != s->n_images) {
        case_fault(r->c, "%zu images, %zu media_starts", s->n_images, starts.dim[0]);
        return VTC_ERR_UNSUPPORTED;
    }
    for (size_t i = 0; i < s->n_images; i++)
        l->starts[i] = (int32_t)element(&starts, i);
    s->media_starts = l->starts;
    s->visual = make_cache(r, l, s->n_images * s->n_image_rows);
    if (s->n_images == 0)
        return VTC_OK;
    TRY(vtc_hyper_attention_encode_images_scratch(&l->params, &l->weights, NULL, &images, l->starts,
                                                  0, &s->visual, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_hyper_attention_encode_images(&l->params, &l->weights, NULL, &images, l->starts, 0,
                                             &s->visual, &r->exec);
}

static vtc_tensor rows_of(const vtc_tensor *t, size_t first, size_t n)
{
    vtc_tensor part = *t;

    part.data = (char *)t->data + first * t->stride[0] * vtc_dtype_size(t->dtype);
    part.dim[0] = n;
    return part;
}

/* The next n rows of the sequence. */
static vtc_status step(run *r, const struct layer *l, vtc_hyper_sequence *s, size_t n,
                       const vtc_tensor *all, const vtc_tensor *all_attn, const vtc_tensor *all_out)
{
    const vtc_tensor hidden = rows_of(all, s->position, n);
    vtc_tensor attn = rows_of(all_attn, s->position, n), out = rows_of(all_out, s->position, n);
    size_t bytes;

    s->n_rows = n;
    TRY(vtc_hyper_attention_scratch(&l->params, &l->weights, NULL, &hidden, s, 1, &attn, &out,
                                    &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_hyper_attention(&l->params, &l->weights, NULL, &hidden, s, 1, &attn, &out, &r->exec));
    s->position += n;
    return VTC_OK;
}

static vtc_status hyper_attention(run *r)
{
    const vtc_tensor hidden = run_input(r, "in.hidden");
    const size_t n_prompt = case_size(r->c, "prefill"), n_decode = case_size(r->c, "decode");
    vtc_hyper_sequence s = { 0 };
    struct layer l;
    vtc_tensor attn, out;

    if (hidden.rank != 2 || hidden.dim[0] != n_prompt + n_decode) {
        case_fault(r->c, "prefill is %zu, decode %zu, in.hidden has %zu rows", n_prompt, n_decode,
                   hidden.dim[0]);
        return VTC_ERR_SHAPE;
    }
    TRY(open_layer(r, &l));
    if (case_has_tensor(r->c, "in.image_embeds"))
        TRY(encode(r, &l, &s));
    s.text = make_cache(r, &l, hidden.dim[0]);
    attn = run_output(r, "out.attn", 2, hidden.dim);
    out = run_output(r, "out.hidden", 2, hidden.dim);
    if (n_prompt != 0)
        TRY(step(r, &l, &s, n_prompt, &hidden, &attn, &out));
    for (size_t i = 0; i < n_decode; i++)
        TRY(step(r, &l, &s, 1, &hidden, &attn, &out));
    return VTC_OK;
}

const method hyper_attention_methods[] = {
    { "hyper_attention", "gate_proj", hyper_attention },
    { "hyper_attention", "gate", hyper_attention },
    { "hyper_attention", "fused", hyper_attention },
    { NULL, NULL, NULL },
};
