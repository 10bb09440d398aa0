/* FocusLLaVA's samplers. */
#include "methods.h"

#include <string.h>

/* out.tokens = plan x in.features, a map [H, W, C] */
static vtc_status pool_tokens(run *r, const vtc_plan *plan)
{
    const vtc_tensor map = run_input(r, "in.features");
    const size_t n = map.dim[0] * map.dim[1], c = map.dim[2];
    vtc_tensor x = run_temporary(r, map.dtype, 2, (const size_t[]){ n, c });
    vtc_tensor y = run_output(r, "out.tokens", 2, (const size_t[]){ plan->n_out, c });
    const size_t size = vtc_dtype_size(map.dtype);
    size_t bytes;

    /* a plan takes rows at one distance, a padded map has gaps of two kinds */
    for (size_t i = 0; i < n; i++)
        memcpy((char *)x.data + i * c * size,
               (const char *)map.data +
                   (i / map.dim[1] * map.stride[0] + i % map.dim[1] * map.stride[1]) * size,
               c * size);
    TRY(vtc_plan_apply_scratch(plan, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_plan_apply(plan, &x, &y, &r->exec);
}

/* A list of sizes of any length up to the most there may be. */
static void read_pools(run *r, vtc_focusllava_vision_params *params)
{
    params->n_pools = json_array_size(json_object_get(r->c->params, "pools"));
    if (params->n_pools > VTC_FOCUSLLAVA_MAX_SCALES)
        params->n_pools = 0; /* the library will refuse it */
    case_sizes(r->c, "pools", params->pools, params->n_pools);
}

static vtc_focusllava_vision_params vision_params(run *r)
{
    static const char *const pools[] = { "max", "avg", NULL };
    vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;

    if (case_has_param(r->c, "window"))
        params.window = case_size(r->c, "window");
    if (case_has_param(r->c, "pool"))
        params.pool = (vtc_focusllava_pool)case_choice(r->c, "pool", pools);
    if (case_has_param(r->c, "pools"))
        read_pools(r, &params);
    return params;
}

/* The variant names it, too. */
static vtc_focusllava_route route_of(run *r)
{
    static const char *const routes[] = { "similarity", "linear", "fidelity", NULL };

    if (case_has_param(r->c, "route"))
        return (vtc_focusllava_route)case_choice(r->c, "route", routes);
    for (int i = 0; routes[i] != NULL; i++)
        if (strcmp(r->c->variant + strlen("vision_"), routes[i]) == 0)
            return (vtc_focusllava_route)i;
    return VTC_FOCUSLLAVA_SIMILARITY;
}

static vtc_status vision(run *r)
{
    const vtc_tensor x = run_input(r, "in.features");
    vtc_focusllava_vision_params params = vision_params(r);
    vtc_focusllava_vision_trace trace = VTC_FOCUSLLAVA_VISION_TRACE_INIT;
    vtc_linear router;
    const vtc_linear *weights = NULL;
    vtc_focusllava_size size;
    vtc_plan_count count;
    vtc_tensor boxes, scores;
    vtc_plan plan;
    size_t bytes;

    params.route = route_of(r);
    if (case_has_param(r->c, "tau"))
        params.tau = (float)case_double(r->c, "tau");
    if (case_has_param(r->c, "gate_scale"))
        params.gate_scale = case_flag(r->c, "gate_scale");
    if (params.route == VTC_FOCUSLLAVA_LINEAR) {
        TRY(run_weights(r, &vtc_focusllava_router_table, "w.", &router));
        weights = &router;
    }
    TRY(vtc_focusllava_vision_size(&params, x.dim[0], x.dim[1], &size, &r->exec));
    TRY(vtc_focusllava_vision_count(&params, x.dim[0], x.dim[1], &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    boxes = run_temporary(r, VTC_I32, 2, (const size_t[]){ count.n_out, 4 });
    scores = run_temporary(r, VTC_F32, 2, (const size_t[]){ size.n_regions, params.n_pools });
    trace.boxes = boxes.data;
    trace.scores = scores.data;
    trace.scale = run_temporary(r, VTC_I32, 1, &size.n_regions).data;
    TRY(vtc_focusllava_vision_scratch(&params, &x, weights, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_focusllava_vision(&params, &x, weights, NULL, &plan, &trace, &r->exec));
    boxes.dim[0] = plan.n_out;
    run_show(r, "out.boxes", boxes);
    run_show(r, "out.scores", scores);
    run_show_i32(r, "out.scale", trace.scale, size.n_regions);
    return pool_tokens(r, &plan);
}

static vtc_status token_topk(run *r)
{
    const vtc_tensor x = run_input(r, "in.features");
    const vtc_focusllava_vision_params params = vision_params(r);
    const size_t n_keep = case_size(r->c, "keep");
    vtc_focusllava_topk_trace trace = VTC_FOCUSLLAVA_TOPK_TRACE_INIT;
    vtc_focusllava_size size;
    vtc_plan_count count;
    vtc_tensor boxes, scores;
    vtc_plan plan;
    size_t bytes;

    TRY(vtc_focusllava_vision_size(&params, x.dim[0], x.dim[1], &size, &r->exec));
    TRY(vtc_focusllava_topk_count(&params, x.dim[0], x.dim[1], n_keep, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    boxes = run_temporary(r, VTC_I32, 2, (const size_t[]){ n_keep, 4 });
    scores = run_temporary(r, VTC_F32, 1, &size.n_candidates);
    trace.boxes = boxes.data;
    trace.scores = scores.data;
    trace.index = run_temporary(r, VTC_I32, 1, &n_keep).data;
    TRY(vtc_focusllava_topk_scratch(&params, &x, n_keep, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_focusllava_topk(&params, &x, n_keep, NULL, &plan, &trace, &r->exec));
    run_show(r, "out.boxes", boxes);
    run_show(r, "out.scores", scores);
    run_show_i32(r, "out.index", trace.index, n_keep);
    return pool_tokens(r, &plan);
}

/* ---- text-guided ----------------------------------------------------------------------------- */

/* Rows of in.hidden by a plan that keeps them as they are. */
static vtc_status gather_rows(run *r, const char *list_name, vtc_tensor *rows)
{
    const vtc_tensor hidden = run_input(r, "in.hidden");
    size_t n;
    const int32_t *list = run_ints(r, list_name, &n);
    const vtc_plan_count count = { hidden.dim[0], n, 0, 1 };
    vtc_plan plan;

    TRY(run_plan(r, &count, &plan));
    TRY(vtc_plan_select(&plan, hidden.dim[0], list, n, NULL, &r->exec));
    *rows = run_temporary(r, hidden.dtype, 2, (const size_t[]){ n, hidden.dim[1] });
    return vtc_plan_gather(&plan, 0, &hidden, NULL, rows, &r->exec);
}

static vtc_status hidden_scores(run *r, float *score)
{
    vtc_tensor visual, text;
    size_t bytes;

    TRY(gather_rows(r, "in.visual_index", &visual));
    TRY(gather_rows(r, "in.text_index", &text));
    TRY(vtc_focusllava_hidden_score_scratch(&visual, &text, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_focusllava_hidden_score(&visual, &text, score, &r->exec);
}

static vtc_status attention_scores(run *r, float *score)
{
    vtc_attention_given_params params = VTC_ATTENTION_GIVEN_PARAMS_INIT;
    const vtc_tensor attention = run_input(r, "in.attention");

    params.rows = run_ints(r, "in.text_index", &params.n_rows);
    params.cols = run_ints(r, "in.visual_index", &params.n_cols);
    return vtc_attention_given(&params, &attention, score, &r->exec);
}

static vtc_status sample_by_text(run *r, vtc_status (*rate)(run *r, float *score))
{
    const size_t n = case_tensor(r->c, "in.visual_index").dim[0];
    const vtc_tensor score = run_output(r, "out.scores", 1, &n);
    vtc_focusllava_text_params params = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    if (case_has_param(r->c, "ratio"))
        params.ratio = case_double(r->c, "ratio");
    else if (case_has_param(r->c, "top_p"))
        params.top_p = case_double(r->c, "top_p");
    TRY(rate(r, score.data));
    TRY(vtc_focusllava_text_count(&params, n, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    TRY(vtc_focusllava_text_scratch(&params, n, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_focusllava_text(&params, score.data, n, NULL, &plan, &r->exec));
    run_show_i32(r, "out.keep", plan.keep, plan.n_out);
    return VTC_OK;
}

static vtc_status text_attention(run *r)
{
    return sample_by_text(r, attention_scores);
}

static vtc_status text_hidden(run *r)
{
    return sample_by_text(r, hidden_scores);
}

const method sample_methods[] = {
    { "focusllava", "vision_similarity", vision },
    { "focusllava", "vision_linear", vision },
    { "focusllava", "vision_fidelity", vision },
    { "focusllava", "vision_token_topk", token_topk },
    { "focusllava", "text_attention", text_attention },
    { "focusllava", "text_hidden", text_hidden },
    { NULL, NULL, NULL },
};
