/* The fuse family. */
#include "forms.h"
#include "methods.h"

#include <string.h>
#include <vtc/fuse.h>

/* ---- gated cross-attention ------------------------------------------------------------------- */

struct gated {
    vtc_gated_xattn_params params;
    vtc_gated_xattn_weights weights;
    vtc_tensor x, media, locations;
    bool has_locations;
};

static vtc_status open_gated(run *r, struct gated *g)
{
    const vtc_gated_xattn_params defaults = VTC_GATED_XATTN_PARAMS_INIT;

    memset(g, 0, sizeof(*g));
    g->params = defaults;
    g->params.heads = case_size(r->c, "heads");
    if (case_has_param(r->c, "eps"))
        g->params.eps = (float)case_double(r->c, "eps");
    if (case_has_param(r->c, "only_attend_immediate_media") &&
        !case_flag(r->c, "only_attend_immediate_media"))
        g->params.rule = VTC_MEDIA_ALL_PREVIOUS;
    if (case_has_param(r->c, "use_cached_media"))
        g->params.cached_media = case_flag(r->c, "use_cached_media");
    TRY(run_model_weights(r, &vtc_gated_xattn_table, "", &g->weights));
    g->x = run_input(r, "in.x");
    g->media = run_input(r, "in.media");
    g->has_locations = case_has_tensor(r->c, "in.media_locations");
    if (g->has_locations)
        g->locations = run_input(r, "in.media_locations");
    return VTC_OK;
}

static vtc_status prepare_gated(run *r, const struct gated *g, vtc_prepared *prepared)
{

    TRY(vtc_gated_xattn_prepare_size(&g->params, &g->weights, &r->exec, &prepared->bytes));
    run_prepared(r, prepared);
    return vtc_gated_xattn_prepare(&g->params, &g->weights, prepared, &r->exec);
}

/* The block's keys and values of the media. */
static vtc_status encode(run *r, const struct gated *g, const vtc_prepared *prepared,
                         vtc_tensor *kv)
{
    size_t dim[VTC_MAX_RANK], bytes;

    memcpy(dim, g->media.dim, sizeof(dim));
    dim[g->media.rank - 1] = g->weights.to_kv.dim[0];
    *kv = run_temporary(r, VTC_F32, g->media.rank, dim);
    TRY(vtc_gated_xattn_encode_media_scratch(&g->params, &g->weights, prepared, &g->media, kv,
                                             &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_gated_xattn_encode_media(&g->params, &g->weights, prepared, &g->media, kv, &r->exec);
}

/* The block from the media themselves or, when kv is given, from their keys and values. */
static vtc_status attend(run *r, const struct gated *g, const vtc_prepared *prepared,
                         const vtc_tensor *kv, vtc_tensor *y)
{
    const vtc_tensor *media = kv == NULL ? &g->media : NULL;
    const vtc_tensor *locations = g->has_locations ? &g->locations : NULL;
    size_t bytes;

    TRY(vtc_gated_xattn_scratch(&g->params, &g->weights, prepared, &g->x, media, kv, locations, y,
                                &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_gated_xattn(&g->params, &g->weights, prepared, &g->x, media, kv, locations, y,
                           &r->exec);
}

static vtc_status attend_again(run *r, const struct gated *g, const vtc_prepared *prepared,
                               const vtc_tensor *kv, const char *form)
{
    vtc_tensor y = run_temporary(r, VTC_F32, g->x.rank, g->x.dim);

    if (case_has_tensor(r->c, "out.hidden"))
        y = run_temporary(r, case_tensor(r->c, "out.hidden").dtype, g->x.rank, g->x.dim);
    TRY(attend(r, g, prepared, kv, &y));
    run_check_form(r, "out.hidden", form, &y);
    return VTC_OK;
}

static vtc_status gated_xattn(run *r)
{
    struct gated g;
    vtc_prepared prepared;
    vtc_tensor y, kv;

    TRY(open_gated(r, &g));
    y = run_output(r, "out.hidden", g.x.rank, g.x.dim);
    TRY(attend(r, &g, NULL, NULL, &y));
    TRY(encode(r, &g, NULL, &kv));
    TRY(attend_again(r, &g, NULL, &kv, "from kv"));
    TRY(prepare_gated(r, &g, &prepared));
    TRY(attend_again(r, &g, &prepared, NULL, "prepared"));
    TRY(encode(r, &g, &prepared, &kv));
    return attend_again(r, &g, &prepared, &kv, "prepared, from kv");
}

const method fuse_methods[] = {
    { "gated_xattn_dense", "openflamingo", gated_xattn },
    { NULL, NULL, NULL },
};
