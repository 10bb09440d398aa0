/* Training-free planners. */
#include "methods.h"

/* out.<name> = plan x in.x */
static vtc_status apply_plan(run *r, const vtc_plan *plan, const char *name)
{
    const vtc_tensor x = run_input(r, "in.x");
    vtc_tensor y = run_output(r, name, 2, (const size_t[]){ plan->n_out, x.dim[1] });
    size_t bytes;

    TRY(vtc_plan_apply_scratch(plan, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_plan_apply(plan, &x, &y, &r->exec);
}

static void show_grid(run *r, const char *name, size_t height, size_t width)
{
    vtc_tensor grid = run_temporary(r, VTC_I32, 1, (const size_t[]){ 2 });

    ((int32_t *)grid.data)[0] = (int32_t)height;
    ((int32_t *)grid.data)[1] = (int32_t)width;
    run_show(r, name, grid);
}

/* ---- ToMe ------------------------------------------------------------------------------------ */

static vtc_status mean_keys(run *r, vtc_tensor *metric)
{
    const vtc_tensor k = run_input(r, "in.k");
    size_t bytes;

    TRY(vtc_mean_keys_scratch(&k, metric, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_mean_keys(&k, metric, &r->exec);
}

/* Matching runs on the metric in F32, whatever dtype the file stores it in. */
static vtc_status match_tokens(run *r, const float *mass, vtc_plan *plan)
{
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    vtc_tome_trace trace = VTC_TOME_TRACE_INIT;
    const vtc_tensor k = case_tensor(r->c, "in.k");
    const size_t dim[] = { k.dim[1], k.dim[2] };
    vtc_tensor metric = run_temporary(r, VTC_F32, 2, dim);
    vtc_tensor shown = run_output(r, "out.metric", 2, dim);
    const size_t room[] = { dim[0] };
    vtc_plan_count count;
    size_t bytes;

    params.n_merge = case_size(r->c, "r");
    params.class_token = case_flag(r->c, "class_token");
    params.distill_token = case_flag(r->c, "distill_token");
    TRY(mean_keys(r, &metric));
    TRY(mean_keys(r, &shown));

    trace.unmerged = run_temporary(r, VTC_I32, 1, room).data;
    trace.merged = run_temporary(r, VTC_I32, 1, room).data;
    trace.partner = run_temporary(r, VTC_I32, 1, room).data;
    TRY(vtc_tome_count(&params, dim[0], &count, &r->exec));
    TRY(run_plan(r, &count, plan));
    TRY(vtc_tome_scratch(&params, &metric, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_tome(&params, &metric, mass, plan, &trace, &r->exec));

    if (trace.r_used != case_size(r->c, "r_used"))
        case_fault(r->c, "r_used is %zu, the case has another", trace.r_used);
    /* with nothing merged there was no matching, and cases list no rows of it */
    run_show_i32(r, "out.kept", trace.unmerged,
                 trace.r_used == 0 ? 0 : (dim[0] + 1) / 2 - trace.r_used);
    run_show_i32(r, "out.src", trace.merged, trace.r_used);
    run_show_i32(r, "out.dst", trace.partner, trace.r_used);
    return VTC_OK;
}

static vtc_status proportional_attention(run *r, const float *mass)
{
    const vtc_tensor q = run_input(r, "in.q"), k = run_input(r, "in.k"), v = run_input(r, "in.v");
    const float scale = (float)case_double(r->c, "scale");
    vtc_tensor y = run_output(r, "out.attention", 3, q.dim);
    size_t bytes;

    TRY(vtc_proportional_attention_scratch(&q, &k, &v, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_proportional_attention(&q, &k, &v, mass, scale, &y, &r->exec);
}

static vtc_status tome(run *r)
{
    const size_t n = case_tensor(r->c, "in.k").dim[1];
    const float *mass = run_floats(r, "in.size", n);
    vtc_plan plan;

    TRY(match_tokens(r, mass, &plan));
    run_show_i32(r, "out.owner", plan.fate, plan.n_in);
    run_show(r, "out.size", vtc_f32_1d(plan.mass, plan.n_out));
    TRY(apply_plan(r, &plan, "out.x"));
    return proportional_attention(r, mass);
}

/* ---- controls -------------------------------------------------------------------------------- */

/* A plan of n_keep whole rows of n_in. */
static vtc_status selection(run *r, size_t n_in, size_t n_keep, vtc_plan *plan)
{
    const vtc_plan_count count = { n_in, n_keep, 0, 1 };

    return run_plan(r, &count, plan);
}

static vtc_status random_rows(run *r)
{
    vtc_random_params params = VTC_RANDOM_PARAMS_INIT;
    const size_t n = case_size(r->c, "n"), n_keep = case_size(r->c, "keep");
    vtc_plan plan;
    size_t bytes;

    params.seed = case_u64(r->c, "seed");
    TRY(selection(r, n, n_keep, &plan));
    TRY(vtc_random_scratch(n, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_random(&params, n, n_keep, NULL, &plan, &r->exec));
    run_show_i32(r, "out.keep", plan.keep, plan.n_out);
    return VTC_OK;
}

static vtc_status strided_rows(run *r)
{
    const size_t n = case_size(r->c, "n"), n_keep = case_size(r->c, "keep");
    vtc_plan plan;

    TRY(selection(r, n, n_keep, &plan));
    TRY(vtc_strided(n, n_keep, NULL, &plan, &r->exec));
    run_show_i32(r, "out.keep", plan.keep, plan.n_out);
    return VTC_OK;
}

static vtc_status strided_grid(run *r)
{
    size_t height, width, out_h, out_w;
    vtc_plan plan;

    case_grid(r->c, "grid", &height, &width);
    TRY(vtc_budget_grid(height, width, case_size(r->c, "budget"), &out_h, &out_w, &r->exec));
    TRY(selection(r, height * width, out_h * out_w, &plan));
    TRY(vtc_strided_grid(height, width, out_h, out_w, NULL, &plan, &r->exec));
    show_grid(r, "out.out_grid", out_h, out_w);
    run_show_i32(r, "out.keep", plan.keep, plan.n_out);
    return VTC_OK;
}

static vtc_status mean_pool(run *r)
{
    size_t height, width, out_h, out_w, n_nnz;
    vtc_plan_count count;
    vtc_plan plan;

    case_grid(r->c, "grid", &height, &width);
    TRY(vtc_budget_grid(height, width, case_size(r->c, "budget"), &out_h, &out_w, &r->exec));
    TRY(vtc_mean_pool_count(height, width, out_h, out_w, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    TRY(vtc_mean_pool(height, width, out_h, out_w, NULL, &plan, &r->exec));
    n_nnz = (size_t)plan.begin[plan.n_out];
    show_grid(r, "out.out_grid", out_h, out_w);
    run_show_i32(r, "out.keep", plan.keep, plan.n_out);
    run_show_i32(r, "out.begin", plan.begin, plan.n_out + 1);
    run_show_i32(r, "out.source", plan.source, n_nnz);
    run_show(r, "out.weight", vtc_f32_1d(plan.weight, n_nnz));
    return apply_plan(r, &plan, "out.tokens");
}

static vtc_status image_resize(run *r)
{
    const vtc_tensor image = run_input(r, "in.image");
    const size_t unit = case_size(r->c, "unit"), budget = case_size(r->c, "budget");
    size_t out_h, out_w, bytes;
    vtc_tensor out;

    TRY(vtc_image_resize_count(image.dim[1], image.dim[2], unit, budget, &out_h, &out_w, &r->exec));
    show_grid(r, "out.size", out_h, out_w);
    out = run_output(r, "out.image", 3, (const size_t[]){ image.dim[0], out_h, out_w });
    TRY(vtc_image_resize_scratch(&image, &out, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_image_resize(&image, &out, &r->exec);
}

const method prune_methods[] = {
    { "tome", "merge+proportional_attention", tome },
    { "random", "splitmix64", random_rows },
    { "strided", "rows", strided_rows },
    { "strided", "grid", strided_grid },
    { "mean_pool", "adaptive", mean_pool },
    { "image_resize", "antialias_bilinear", image_resize },
    { NULL, NULL, NULL },
};
