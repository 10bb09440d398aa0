/* Planners guided by the attention of [CLS] or of a decoder. */
#include "methods.h"

/* ---- sequences ------------------------------------------------------------------------------- */

/* The plan of a sequence of `length` rows whose image, from row v_start on, has the plan `image`.
 */
static vtc_status lift(run *r, const vtc_plan *image, size_t v_start, size_t length,
                       vtc_plan *sequence)
{
    const size_t n_text = length - v_start - image->n_in;
    const size_t n_nnz = image->begin == NULL ? 0 : (size_t)image->begin[image->n_out];
    const vtc_plan_count before_count = { v_start, v_start, 0, 1 };
    const vtc_plan_count behind_count = { n_text, n_text, 0, 1 };
    const vtc_plan_count count = { length, v_start + image->n_out + n_text,
                                   n_nnz == 0 ? 0 : v_start + n_nnz + n_text, 1 };
    vtc_plan before, behind;
    const vtc_plan *const parts[] = { &before, image, &behind };

    TRY(run_plan(r, &before_count, &before));
    TRY(run_plan(r, &behind_count, &behind));
    TRY(vtc_plan_identity(&before, v_start, NULL, &r->exec));
    TRY(vtc_plan_identity(&behind, n_text, NULL, &r->exec));
    TRY(run_plan(r, &count, sequence));
    return vtc_plan_concat(sequence, parts, 3, &r->exec);
}

/* out.<name> = plan x in.hidden */
static vtc_status apply_to_hidden(run *r, const vtc_plan *plan, const char *name)
{
    const vtc_tensor x = run_input(r, "in.hidden");
    vtc_tensor y = run_output(r, name, 2, (const size_t[]){ plan->n_out, x.dim[1] });
    size_t bytes;

    TRY(vtc_plan_apply_scratch(plan, &x, &y, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_plan_apply(plan, &x, &y, &r->exec);
}

/* Rows first .. first + n - 1 of an input [L, C]. */
static vtc_tensor slice(run *r, const char *name, size_t first, size_t n)
{
    vtc_tensor t = run_input(r, name);

    t.data = (char *)t.data + first * t.stride[0] * vtc_dtype_size(t.dtype);
    t.dim[0] = n;
    return t;
}

/* ---- FastV ----------------------------------------------------------------------------------- */

static vtc_status last_row_attention(run *r, size_t v_start, size_t n, float *score)
{
    const vtc_tensor q = run_input(r, "in.q_last"), k = run_input(r, "in.k");
    vtc_cls_attention_params params = VTC_CLS_ATTENTION_PARAMS_INIT;
    size_t bytes;

    if (case_has_param(r->c, "scale"))
        params.scale = (float)case_double(r->c, "scale");
    params.first_col = v_start;
    params.n_cols = n;
    TRY(vtc_cls_attention_scratch(&params, &q, &k, NULL, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_cls_attention(&params, &q, &k, NULL, score, &r->exec);
}

static vtc_status fastv_plan(run *r, size_t v_start, size_t n, vtc_plan *plan)
{
    const vtc_plan_count count = { n, case_size(r->c, "keep"), 0, 1 };
    const vtc_tensor score = run_output(r, "out.scores", 1, &n);

    TRY(last_row_attention(r, v_start, n, score.data));
    TRY(run_plan(r, &count, plan));
    return vtc_fastv(score.data, n, count.n_out, NULL, plan, &r->exec);
}

static vtc_status fastv_drop(run *r)
{
    const size_t v_start = case_size(r->c, "v_start"), n = case_size(r->c, "n_vision");
    const size_t length = case_tensor(r->c, "in.k").dim[1];
    vtc_positions_params rule = VTC_POSITIONS_PARAMS_INIT;
    vtc_plan image, sequence;
    vtc_tensor positions;
    int64_t next;

    TRY(fastv_plan(r, v_start, n, &image));
    TRY(lift(r, &image, v_start, length, &sequence));
    run_show_i32(r, "out.keep", sequence.keep, sequence.n_out);
    positions = run_temporary(r, VTC_I64, 1, &sequence.n_out);
    TRY(vtc_plan_positions(&rule, &sequence, NULL, &positions, &next, &r->exec));
    run_show(r, "out.positions", positions);
    return apply_to_hidden(r, &sequence, "out.hidden");
}

static vtc_status fastv_mask(run *r)
{
    const size_t v_start = case_size(r->c, "v_start"), n = case_size(r->c, "n_vision");
    const size_t length = case_tensor(r->c, "in.k").dim[1];
    vtc_tensor mask;
    vtc_plan image;

    TRY(fastv_plan(r, v_start, n, &image));
    mask = run_temporary(r, VTC_BOOL, 1, &length);
    TRY(vtc_fastv_mask(&image, v_start, &mask, &r->exec));
    run_show(r, "out.mask", mask);
    return VTC_OK;
}

/* ---- VisionZip ------------------------------------------------------------------------------- */

static vtc_status cls_attention(run *r, vtc_tensor *attention)
{
    const vtc_tensor q = run_input(r, "in.q_cls"), k = run_input(r, "in.k");
    vtc_cls_attention_params params = VTC_CLS_ATTENTION_PARAMS_INIT;
    size_t bytes;

    if (case_has_param(r->c, "scale"))
        params.scale = (float)case_double(r->c, "scale");
    params.heads = VTC_HEADS_EACH;
    *attention = run_output(r, "out.cls_attention", 2, k.dim);
    TRY(vtc_cls_attention_scratch(&params, &q, &k, NULL, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_cls_attention(&params, &q, &k, NULL, attention->data, &r->exec);
}

static vtc_status mean_keys(run *r, vtc_tensor *metric)
{
    const vtc_tensor k = run_input(r, "in.k");
    size_t bytes;

    *metric = run_temporary(r, VTC_F32, 2, &k.dim[1]);
    TRY(vtc_mean_keys_scratch(&k, metric, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_mean_keys(&k, metric, &r->exec);
}

static vtc_status visionzip(run *r)
{
    vtc_visionzip_params params = VTC_VISIONZIP_PARAMS_INIT;
    vtc_visionzip_trace trace = VTC_VISIONZIP_TRACE_INIT;
    vtc_tensor attention, metric;
    vtc_plan_count count;
    vtc_plan plan;
    size_t n_selected, bytes;

    params.dominant = case_size(r->c, "dominant");
    params.contextual = case_size(r->c, "contextual");
    params.class_token = 1;
    n_selected = 1 + params.dominant;
    TRY(cls_attention(r, &attention));
    TRY(mean_keys(r, &metric));
    TRY(vtc_visionzip_count(&params, attention.dim[1], &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    trace.selected = run_temporary(r, VTC_I32, 1, &n_selected).data;
    TRY(vtc_visionzip_scratch(&params, &attention, &metric, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_visionzip(&params, &attention, &metric, NULL, &plan, &trace, &r->exec));
    run_show_i32(r, "out.selected", trace.selected, n_selected);
    return apply_to_hidden(r, &plan, "out.tokens");
}

/* ---- SparseVLM ------------------------------------------------------------------------------- */

static vtc_status find_raters(run *r, size_t v_start, size_t n, int32_t *raters, size_t *n_raters)
{
    const size_t n_text = case_tensor(r->c, "in.embeddings").dim[0] - v_start - n;
    const vtc_tensor vision = slice(r, "in.embeddings", v_start, n);
    const vtc_tensor text = slice(r, "in.embeddings", v_start + n, n_text);
    size_t bytes;

    TRY(vtc_sparsevlm_raters_scratch(&vision, &text, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_sparsevlm_raters(&vision, &text, raters, n_raters, &r->exec));
    run_show_i32(r, "out.raters", raters, *n_raters);
    return VTC_OK;
}

/* The attention of the raters, whose rows lie behind the image. */
static vtc_status rate(run *r, size_t v_start, size_t n, const float **score)
{
    const vtc_tensor attention = run_input(r, "in.attention");
    vtc_attention_given_params params = VTC_ATTENTION_GIVEN_PARAMS_INIT;
    int32_t *raters = run_temporary(r, VTC_I32, 1, attention.dim + 1).data;
    int32_t *rows = run_temporary(r, VTC_I32, 1, attention.dim + 1).data;
    const vtc_tensor scores = run_output(r, "out.scores", 1, &n);

    TRY(find_raters(r, v_start, n, raters, &params.n_rows));
    for (size_t i = 0; i < params.n_rows; i++)
        rows[i] = (int32_t)(v_start + n) + raters[i];
    params.rows = rows;
    params.first_col = v_start;
    params.n_cols = n;
    *score = scores.data;
    return vtc_attention_given(&params, &attention, scores.data, &r->exec);
}

static vtc_status sparsevlm_step(run *r)
{
    const size_t v_start = case_size(r->c, "v_start"), n = case_size(r->c, "n_vision");
    const vtc_tensor hidden = slice(r, "in.hidden", v_start, n);
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    vtc_sparsevlm_trace trace = VTC_SPARSEVLM_TRACE_INIT;
    vtc_sparsevlm_size size;
    vtc_plan_count count;
    vtc_plan image, sequence;
    const float *score, *noise;
    size_t bytes;

    params.n_keep = case_size(r->c, "keep");
    params.recycle = case_flag(r->c, "recycle");
    TRY(rate(r, v_start, n, &score));
    TRY(vtc_sparsevlm_sizes(&params, n, &size, &r->exec));
    TRY(vtc_sparsevlm_count(&params, n, &count, &r->exec));
    TRY(run_plan(r, &count, &image));
    noise = size.n_recycled == 0 ? NULL : run_floats(r, "in.noise", size.n_recycled);
    trace.recycled = run_temporary(r, VTC_I32, 1, &size.n_recycled).data;
    TRY(vtc_sparsevlm_scratch(&params, n, &hidden, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_sparsevlm(&params, score, n, &hidden, noise, NULL, &image, &trace, &r->exec));
    run_show_i32(r, "out.keep", image.keep, size.n_kept);
    run_show_i32(r, "out.recycled", trace.recycled, size.n_recycled);
    TRY(lift(r, &image, v_start, case_tensor(r->c, "in.hidden").dim[0], &sequence));
    return apply_to_hidden(r, &sequence, "out.hidden");
}

const method guided_methods[] = {
    { "fastv", "drop", fastv_drop },
    { "fastv", "mask", fastv_mask },
    { "visionzip", "dominant+contextual", visionzip },
    { "sparsevlm", "step", sparsevlm_step },
    { NULL, NULL, NULL },
};
