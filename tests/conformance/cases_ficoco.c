/* FiCoCo in a vision encoder and in a language model. */
#include "methods.h"

#include <string.h>

/* ---- what both have -------------------------------------------------------------------------- */

/* Rows of heads side by side, [N, H d], as [H, N, d]. Keys may have fewer heads. */
static vtc_tensor heads_of(run *r, const char *name)
{
    const vtc_tensor rows = run_input(r, name);
    const size_t d = case_size(r->c, "head_dim");
    const size_t n_heads = d == 0 || rows.rank != 2 ? 0 : rows.dim[1] / d;
    vtc_tensor heads =
        vtc_tensor_3d(rows.data, rows.dtype, n_heads, rows.rank == 2 ? rows.dim[0] : 0, d);

    if (rows.rank != 2 || rows.dim[1] != n_heads * d ||
        (strcmp(name, "in.q") == 0 && case_has_param(r->c, "heads") &&
         n_heads != case_size(r->c, "heads")))
        case_fault(r->c, "%s does not consist of heads of %zu", name, d);
    heads.stride[0] = d;
    heads.stride[1] = rows.stride[0];
    return heads;
}

static bool has_matrix(const run *r)
{
    return case_has_tensor(r->c, "in.s");
}

static float scale_of(run *r)
{
    return case_has_param(r->c, "scale") ? (float)case_double(r->c, "scale") : 0.0f;
}

static size_t profile_of(run *r)
{
    static const char *const names[] = { "fixed", "official", "paper", NULL };

    return (size_t)case_choice(r->c, "profile", names);
}

static void read_float(run *r, const char *name, float *value)
{
    if (case_has_param(r->c, name))
        *value = (float)case_double(r->c, name);
}

static void read_switch(run *r, const char *name, size_t *value)
{
    if (case_has_param(r->c, name))
        *value = case_flag(r->c, name) ? VTC_FICOCO_ON : VTC_FICOCO_OFF;
}

/* Memory for all that the file may ask for. */
static vtc_ficoco_trace open_trace(run *r, const vtc_plan_count *count, size_t n, size_t n_discard)
{
    const size_t room[] = { count->n_nnz == 0 ? 0 : count->n_nnz - count->n_out };
    const size_t n_kept = n_discard > n ? 0 : n - n_discard;
    vtc_ficoco_trace trace = VTC_FICOCO_TRACE_INIT;

    trace.discard = run_temporary(r, VTC_I32, 1, &n_discard).data;
    trace.target = run_temporary(r, VTC_I32, 1, room).data;
    trace.weight = run_temporary(r, VTC_F32, 1, room).data;
    trace.alpha = run_temporary(r, VTC_F32, 2, (const size_t[]){ n_discard, n_kept }).data;
    trace.pos = run_temporary(r, VTC_I32, 1, &n_kept).data;
    trace.a_cls = run_temporary(r, VTC_F32, 1, &n).data;
    return trace;
}

static vtc_status show(run *r, const vtc_plan *plan, const vtc_ficoco_trace *trace, size_t n,
                       size_t n_discard, bool official)
{
    const vtc_tensor x = run_input(r, "in.x");
    vtc_tensor y = run_output(r, "out.y", 2, (const size_t[]){ plan->n_out, x.dim[1] });
    const size_t shares[] = { n_discard, trace->n_targets };
    size_t bytes;

    run_show_i32(r, "out.discard", trace->discard, n_discard);
    run_show_i32(r, "out.remain", plan->keep, plan->n_out);
    run_show(r, "out.score", vtc_f32_1d(plan->score + (plan->n_in - n), n));
    run_show(r, "out.target", vtc_tensor_nd(trace->target, VTC_I32, 2, shares));
    run_show(r, "out.weight", vtc_tensor_nd(trace->weight, VTC_F32, 2, shares));
    if (!official)
        run_show(r, "out.alpha", vtc_f32_2d(trace->alpha, n_discard, n - n_discard));
    TRY(vtc_plan_apply_scratch(plan, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_plan_apply(plan, &x, &y, &r->exec);
}

/* ---- V --------------------------------------------------------------------------------------- */

static vtc_ficoco_v_params v_params(run *r)
{
    vtc_ficoco_v_params params = VTC_FICOCO_V_PARAMS_INIT;

    params.profile = profile_of(r);
    params.n_discard = case_size(r->c, "r");
    read_float(r, "lam", &params.lam);
    if (case_has_param(r->c, "w_cls"))
        params.lam = (float)(1.0 - case_double(r->c, "w_cls"));
    read_float(r, "coef", &params.coef);
    read_float(r, "eps", &params.eps);
    if (case_has_param(r->c, "window"))
        params.window = case_size(r->c, "window");
    read_switch(r, "l2", &params.l2);
    read_switch(r, "linear", &params.linear);
    return params;
}

/* The memory is changed in place: work on a copy, or on a fresh one where none is given. */
static void open_memory(run *r, vtc_ficoco_v_inputs *in)
{
    const float *from = NULL;
    vtc_tensor state;

    in->n_cells = VTC_FICOCO_CELLS;
    if (case_has_tensor(r->c, "in.state"))
        in->n_cells = case_tensor(r->c, "in.state").dim[0];
    else if (case_has_param(r->c, "state_cells"))
        in->n_cells = case_size(r->c, "state_cells");
    state = run_temporary(r, VTC_F32, 1, &in->n_cells);
    in->memory = state.data;
    if (case_has_tensor(r->c, "in.state"))
        from = run_floats(r, "in.state", in->n_cells);
    for (size_t i = 0; i < in->n_cells; i++)
        in->memory[i] = from == NULL ? VTC_FICOCO_FAR_SCORE : from[i];
    run_show(r, "out.state", state);
}

static vtc_status encoder(run *r)
{
    const vtc_ficoco_v_params params = v_params(r);
    const bool no_cls = case_has_param(r->c, "cls") && !case_flag(r->c, "cls");
    const bool official = params.profile == VTC_FICOCO_OFFICIAL;
    const size_t n = case_tensor(r->c, "in.x").dim[0] - !no_cls;
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    vtc_tensor q, k, s;
    vtc_ficoco_trace trace;
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes, n_pos;

    in.cls = no_cls ? VTC_FICOCO_CLS_NONE : VTC_FICOCO_CLS_ROW;
    in.scale = scale_of(r);
    if (has_matrix(r)) {
        s = run_input(r, "in.s");
        in.s = &s;
    } else {
        q = heads_of(r, "in.q");
        in.q = &q;
    }
    if (case_has_tensor(r->c, "in.k")) {
        k = heads_of(r, "in.k");
        in.k = &k;
    }
    if (case_has_param(r->c, "grid"))
        case_grid(r->c, "grid", &in.grid_h, &in.grid_w);
    if (case_has_tensor(r->c, "in.pos"))
        in.pos = run_ints(r, "in.pos", &n_pos);
    if (official)
        open_memory(r, &in);

    TRY(vtc_ficoco_v_count(&params, n, in.cls, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    trace = open_trace(r, &count, n, params.n_discard);
    TRY(vtc_ficoco_v_scratch(&params, &in, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_ficoco_v(&params, &in, &plan, &trace, &r->exec));
    if (!official)
        run_show_i32(r, "out.pos", trace.pos, n - params.n_discard);
    if (no_cls)
        run_show(r, "out.a_cls", vtc_f32_1d(trace.a_cls, n));
    return show(r, &plan, &trace, n, params.n_discard, official);
}

/* ---- L --------------------------------------------------------------------------------------- */

static vtc_ficoco_l_params l_params(run *r)
{
    vtc_ficoco_l_params params = VTC_FICOCO_L_PARAMS_INIT;

    params.profile = profile_of(r);
    params.n_discard = case_size(r->c, "r");
    read_float(r, "beta", &params.beta);
    read_float(r, "gamma", &params.gamma);
    read_float(r, "eps", &params.eps);
    read_switch(r, "mean_vision", &params.mean_vision);
    read_switch(r, "mean_text", &params.mean_text);
    read_switch(r, "mean_bridge", &params.mean_bridge);
    read_switch(r, "linear", &params.linear);
    if (case_has_param(r->c, "protect"))
        params.protect = case_size(r->c, "protect");
    return params;
}

static vtc_status decoder(run *r)
{
    const vtc_ficoco_l_params params = l_params(r);
    const bool official = params.profile == VTC_FICOCO_OFFICIAL;
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    vtc_tensor q, k, s;
    vtc_ficoco_trace trace;
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    in.n_visual = case_size(r->c, "n_vis");
    if (case_has_param(r->c, "vis0"))
        in.v_start = case_size(r->c, "vis0");
    in.scale = scale_of(r);
    if (has_matrix(r)) {
        s = run_input(r, "in.s");
        in.s = &s;
    } else {
        q = heads_of(r, "in.q");
        k = heads_of(r, "in.k");
        in.q = &q;
        in.k = &k;
    }

    TRY(vtc_ficoco_l_count(&params, in.n_visual, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    trace = open_trace(r, &count, in.n_visual, params.n_discard);
    TRY(vtc_ficoco_l_scratch(&params, &in, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_ficoco_l(&params, &in, &plan, &trace, &r->exec));
    return show(r, &plan, &trace, in.n_visual, params.n_discard, official);
}

const method ficoco_methods[] = {
    { "ficoco", "v", encoder },
    { "ficoco", "l", decoder },
    { NULL, NULL, NULL },
};
