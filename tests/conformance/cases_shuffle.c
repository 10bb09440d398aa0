/* The shuffle family. */
#include "methods.h"

#include <math.h>
#include <string.h>
#include <vtc/shuffle.h>

/* ---- pixel shuffle --------------------------------------------------------------------------- */

/* Shuffles x into the output `name`, a grid or tokens as the file has it. */
static vtc_status shuffle_to(run *r, const char *name, const vtc_pixel_shuffle_params *params,
                             const vtc_tensor *x)
{
    const vtc_tensor want = case_tensor(r->c, name);
    size_t h, w, c;
    vtc_tensor y;

    TRY(vtc_pixel_shuffle_count(params, x->rank >= 1 ? x->dim[x->rank - 1] : 0, &h, &w, &c,
                                &r->exec));
    if (want.rank == 4)
        y = run_output(r, name, 4, (const size_t[]){ want.dim[0], h, w, c });
    else if (want.rank == 3)
        y = run_output(r, name, 3, (const size_t[]){ want.dim[0], h * w, c });
    else
        y = run_output(r, name, 2, (const size_t[]){ h * w, c });
    return vtc_pixel_shuffle(params, x, &y, &r->exec);
}

/* [numerator, denominator], or the side of the blocks. */
static void read_scale(run *r, size_t *up, size_t *down)
{
    *up = 1;
    if (case_has_param(r->c, "scale"))
        case_grid(r->c, "scale", up, down);
    else
        *down = case_size(r->c, "scale_factor");
}

static vtc_status shuffle(run *r, vtc_shuffle_version version)
{
    static const char *const pads[] = { "none", "zero_bottom_right", NULL };
    vtc_pixel_shuffle_params params = VTC_PIXEL_SHUFFLE_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");

    params.version = version;
    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    read_scale(r, &params.up, &params.down);
    if (case_has_param(r->c, "pad"))
        params.pad = (vtc_shuffle_pad)case_choice(r->c, "pad", pads);
    return shuffle_to(r, "out.y", &params, &x);
}

static vtc_shuffle_version version_param(run *r)
{
    static const char *const versions[] = { "v2", "v1", NULL };

    return case_has_param(r->c, "version")
               ? (vtc_shuffle_version)case_choice(r->c, "version", versions)
               : VTC_SHUFFLE_V2;
}

static vtc_status internvl_v1(run *r)
{
    return shuffle(r, VTC_SHUFFLE_V1);
}

static vtc_status internvl_v2(run *r)
{
    return shuffle(r, VTC_SHUFFLE_V2);
}

static vtc_status pad_zero(run *r)
{
    return shuffle(r, version_param(r));
}

/* ---- projectors ------------------------------------------------------------------------------ */

static vtc_tensor output_of(run *r, const vtc_shuffle_projector_params *params, const vtc_tensor *x,
                            size_t d)
{
    size_t n = 0;

    if (vtc_shuffle_projector_count(params, &n, &r->exec) != VTC_OK)
        n = 0; /* the message is recorded */
    return run_output_like(r, "out.y", x, n, d);
}

static vtc_status internvl_projector(run *r)
{
    vtc_shuffle_projector_params params = VTC_INTERNVL_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_norm_mlp_weights weights;
    size_t up, bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    read_scale(r, &up, &params.down);
    if (up != 1)
        case_fault(r->c, "scale %zu/%zu does not join tokens", up, params.down);
    params.version = version_param(r);
    params.act = case_activation(r->c);
    params.eps = (float)case_double(r->c, "eps");
    params.class_token =
        case_flag(r->c, "class_token") ? VTC_CLASS_TOKEN_FIRST : VTC_CLASS_TOKEN_NONE;
    TRY(run_weights(r, &vtc_internvl_table, "w.", &weights));
    y = output_of(r, &params, &x, weights.fc2.weight.dim[0]);
    TRY(vtc_internvl_projector_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_internvl_projector(&params, &weights, &x, &y, &r->exec);
}

static vtc_status idefics3(run *r)
{
    vtc_shuffle_projector_params params = VTC_IDEFICS3_PARAMS_INIT;
    vtc_pixel_shuffle_params shuffle_params = VTC_PIXEL_SHUFFLE_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_idefics3_weights weights;
    size_t bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    params.down = shuffle_params.down = case_size(r->c, "scale_factor");
    shuffle_params.grid_h = params.grid_h;
    shuffle_params.grid_w = params.grid_w;
    if (case_has_tensor(r->c, "out.shuffled"))
        TRY(shuffle_to(r, "out.shuffled", &shuffle_params, &x));
    TRY(run_weights(r, &vtc_idefics3_table, "w.", &weights));
    y = output_of(r, &params, &x, weights.proj.weight.dim[0]);
    TRY(vtc_idefics3_projector_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_idefics3_projector(&params, &weights, &x, &y, &r->exec);
}

static vtc_status llama4(run *r)
{
    vtc_shuffle_projector_params params = VTC_LLAMA4_PARAMS_INIT;
    const vtc_tensor x = run_input(r, "in.x");
    vtc_llama4_weights weights;
    const vtc_linear *last;
    size_t bytes;
    vtc_tensor y;

    case_grid(r->c, "grid", &params.grid_h, &params.grid_w);
    params.act = case_activation(r->c);
    params.down = (size_t)lround(1.0 / fmax(case_double(r->c, "ratio"), 1e-3));
    if (case_has_param(r->c, "class_token") && case_flag(r->c, "class_token"))
        params.class_token = VTC_CLASS_TOKEN_LAST;
    TRY(run_weights(r, &vtc_llama4_adapter_table, "w.", &weights));
    memset(&weights.linear_1, 0, sizeof(weights.linear_1));
    if (case_has_tensor(r->c, "w.linear_1.weight"))
        TRY(run_weights(r, &vtc_llama4_projector_table, "w.", &weights));
    last = vtc_tensor_is_absent(&weights.linear_1.weight) ? &weights.fc2 : &weights.linear_1;
    y = output_of(r, &params, &x, last->weight.dim[0]);
    TRY(vtc_llama4_projector_scratch(&params, &weights, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_llama4_projector(&params, &weights, &x, &y, &r->exec);
}

const method shuffle_methods[] = {
    { "pixel_shuffle", "internvl_v1", internvl_v1 },
    { "pixel_shuffle", "internvl_v2", internvl_v2 },
    { "pixel_shuffle", "pad_zero", pad_zero },
    { "pixel_shuffle", "internvl_projector_v1", internvl_projector },
    { "pixel_shuffle", "internvl_projector_v2", internvl_projector },
    { "pixel_shuffle", "idefics3", idefics3 },
    { "pixel_shuffle", "llama4", llama4 },
    { NULL, NULL, NULL },
};
