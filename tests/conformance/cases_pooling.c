/* The pool family. */
#include "methods.h"

/* 0 for the empty view of a missing input, which the library will refuse. */
static size_t n_channels(const vtc_tensor *x)
{
    return x->rank == 0 ? 0 : x->dim[x->rank - 1];
}

/* ---- 2-D pooling ----------------------------------------------------------------------------- */

static vtc_status pool2d(run *r, vtc_pool_mode mode)
{
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    size_t out_h, out_w, bytes;
    vtc_tensor y;

    params.mode = mode;
    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    if (case_has_param(r->c, "stride"))
        params.stride = case_size(r->c, "stride");
    if (case_has_param(r->c, "out_grid"))
        case_grid(r->c, "out_grid", &params.out_h, &params.out_w);

    TRY(vtc_pool2d_count(&params, &out_h, &out_w, &r->exec));
    y = run_output_like(r, "out.y", &x, out_h * out_w, n_channels(&x));
    TRY(vtc_pool2d_scratch(&params, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_pool2d(&params, &x, &y, &r->exec);
}

static vtc_status average(run *r)
{
    return pool2d(r, VTC_POOL_AVERAGE);
}

static vtc_status max(run *r)
{
    return pool2d(r, VTC_POOL_MAX);
}

static vtc_status bilinear(run *r)
{
    return pool2d(r, VTC_POOL_BILINEAR);
}

static vtc_status adaptive_average(run *r)
{
    return pool2d(r, VTC_POOL_ADAPTIVE_AVERAGE);
}

static vtc_status adaptive_max(run *r)
{
    return pool2d(r, VTC_POOL_ADAPTIVE_MAX);
}

/* ---- sequences with newlines ----------------------------------------------------------------- */

/* The newline vector, or NULL where the case has none. */
static const vtc_tensor *newline_input(run *r, vtc_tensor *storage)
{
    if (!case_has_tensor(r->c, "w.image_newline"))
        return NULL;
    *storage = run_input(r, "w.image_newline");
    return storage;
}

static vtc_status anyres_unpad(run *r)
{
    static const char *const roundings[] = { "hf", "original", NULL };
    vtc_anyres_params params = VTC_ANYRES_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_tensor storage, y;
    const vtc_tensor *newline = newline_input(r, &storage);
    vtc_anyres_layout layout;
    size_t bytes;

    case_grid(r->c, "tiles", &params.tiles_h, &params.tiles_w);
    case_grid(r->c, "tile_grid", &params.tile_h, &params.tile_w);
    params.image_h = case_size(r->c, "image_height");
    params.image_w = case_size(r->c, "image_width");
    params.max_tiles = case_has_param(r->c, "max_tiles") ? case_size(r->c, "max_tiles") : 0;
    params.rounding = (vtc_anyres_rounding)case_choice(r->c, "rounding", roundings);
    params.no_newline = newline == NULL;

    TRY(vtc_anyres_count(&params, &layout, &r->exec));
    y = run_output(r, "out.y", 2, (const size_t[]){ layout.n_tokens, n_channels(&x) });
    TRY(vtc_anyres_pack_scratch(&params, &x, newline, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_anyres_pack(&params, &x, newline, &y, &r->exec);
}

static vtc_status video_newline(run *r)
{
    static const char *const positions[] = { "grid", "frame", "one_token", "no_token", NULL };
    vtc_video_newline_params params = VTC_VIDEO_NEWLINE_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_tensor storage, y;
    const vtc_tensor *newline = newline_input(r, &storage);
    size_t n_tokens, bytes;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    params.position = (vtc_newline_position)case_choice(r->c, "position", positions);
    if (params.position == VTC_NEWLINE_NO_TOKEN)
        newline = NULL; /* a file may hold the vector all the same */

    TRY(vtc_video_newline_count(&params, x.dim[0], &n_tokens, &r->exec));
    y = run_output(r, "out.y", 2, (const size_t[]){ n_tokens, n_channels(&x) });
    TRY(vtc_video_newline_scratch(&params, &x, newline, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_video_newline(&params, &x, newline, &y, &r->exec);
}

/* ---- Gemma 3 --------------------------------------------------------------------------------- */

static vtc_status gemma3(run *r)
{
    vtc_gemma3_params params = VTC_GEMMA3_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_gemma3_weights weights;
    size_t n_tokens, bytes;
    vtc_tensor y;

    params.patches_per_side = case_size(r->c, "patches_per_side");
    params.tokens_per_side = case_size(r->c, "tokens_per_side");
    params.eps = (float)case_double(r->c, "eps");
    params.norm_offset = (float)case_double(r->c, "norm_offset");
    weights.mm_soft_emb_norm = run_input(r, "w.mm_soft_emb_norm.weight");
    weights.mm_input_projection_weight = run_input(r, "w.mm_input_projection_weight");

    TRY(vtc_gemma3_count(&params, &n_tokens, &r->exec));
    y = run_output_like(r, "out.y", &x, n_tokens, weights.mm_input_projection_weight.dim[1]);
    TRY(vtc_gemma3_project_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_gemma3_project(&params, &weights, &x, &y, &r->exec);
}

const method pooling_methods[] = {
    { "pooling", "average", average },
    { "pooling", "max", max },
    { "pooling", "bilinear", bilinear },
    { "pooling", "adaptive_average", adaptive_average },
    { "pooling", "adaptive_max", adaptive_max },
    { "pooling", "anyres_unpad", anyres_unpad },
    { "pooling", "video_newline", video_newline },
    { "pooling", "gemma3", gemma3 },
    { NULL, NULL, NULL },
};
