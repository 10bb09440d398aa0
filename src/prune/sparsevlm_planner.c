/*
 * The planner table's row of SparseVLM, from a decoder layer's Q and K and the decoder's input
 * embeddings: raters, their attention to the image, the step. What is clustered are the layer's
 * hidden states where the inputs have them, else the features. A budget is the whole output, kept
 * and recycled: the most rows are kept that leave room for their clusters.
 */
#include "../base/tensor.h"
#include "lm_score.h"
#include "planners.h"
#include "selection.h"
#include "sparsevlm.h"

struct row {
    vtci_call call;
    const vtc_plan_inputs *image;
    vtc_sparsevlm_params params; /* n_keep such that the outputs are the budget            */
    vtc_tensor vision, text;     /* embeddings                                             */
    vtc_tensor hidden;           /* what is clustered                                      */
    const vtc_tensor *clustered; /* that view, or NULL without recycling                   */
    float *score;                /* [N]                                                    */
    int32_t *raters;             /* [T]                                                    */
};

/* Sets n_keep. Outputs grow by 0 or 1 with each row that is kept, so every number from that of the
 * clusters alone on is met. */
static vtc_status meet_budget(struct row *r, size_t n_rows, size_t budget)
{
    const bool recycles = r->params.recycle != 0;
    const vtc_sparsevlm_size least = vtci_sparsevlm_sizes(n_rows, 0, recycles);
    size_t n_keep = budget;

    VTCI_TRY(vtci_check_keep(&r->call, n_rows, budget));
    VTCI_REQUIRE(&r->call, budget >= least.n_clusters, VTC_ERR_BUDGET,
                 "recycling alone gives %zu tokens of %zu rows, the budget is %zu",
                 least.n_clusters, n_rows, budget);
    VTCI_REQUIRE(&r->call, recycles || budget < n_rows || n_rows == 0, VTC_ERR_BUDGET,
                 "at most %zu of %zu rows are kept, the budget is %zu", n_rows - 1, n_rows, budget);
    for (;; n_keep--) {
        const vtc_sparsevlm_size size = vtci_sparsevlm_sizes(n_rows, n_keep, recycles);

        if (size.n_kept + size.n_clusters <= budget)
            break;
    }
    r->params.n_keep = n_keep;
    return VTC_OK;
}

static vtc_status read_params(const void *from, size_t n_rows, size_t budget, struct row *r,
                              const vtc_exec *exec)
{
    static const vtc_sparsevlm_params defaults = VTC_SPARSEVLM_PARAMS_INIT;

    VTCI_TRY(vtci_begin(&r->call, "sparsevlm", exec));
    r->params = defaults;
    VTCI_TRY(vtci_params_read(&r->call, &r->params, sizeof(r->params), from));
    return meet_budget(r, n_rows, budget);
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    struct row r;

    VTCI_TRY(read_params(params, image->n_rows, n_keep, &r, exec));
    return vtc_sparsevlm_count(&r.params, image->n_rows, count, exec);
}

/* The views that the steps run on. */
static vtc_status open_row(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                           struct row *r, const vtc_exec *exec)
{
    const vtc_tensor *e = image->lm_embeddings;

    VTCI_TRY(read_params(params, image->n_rows, n_keep, r, exec));
    VTCI_REQUIRE(&r->call, image->n_text != 0, VTC_ERR_NULL,
                 "the inputs have no text: n_text is 0");
    r->image = image;
    r->vision = vtci_slice_rows(e, image->v_start, image->n_rows);
    r->text = vtci_slice_rows(e, e->dim[0] - image->n_text, image->n_text);
    r->clustered = NULL;
    if (r->params.recycle == 0)
        return VTC_OK;
    VTCI_REQUIRE(&r->call, image->lm_hidden != NULL || image->features != NULL, VTC_ERR_NULL,
                 "recycling needs hidden states or features");
    r->hidden = image->lm_hidden != NULL
                    ? vtci_slice_rows(image->lm_hidden, image->v_start, image->n_rows)
                    : *image->features;
    r->clustered = &r->hidden;
    return VTC_OK;
}

static void lay_out(vtci_arena *arena, struct row *r)
{
    r->score = vtci_take(arena, r->image->n_rows, sizeof(*r->score));
    r->raters = vtci_take(arena, r->image->n_text, sizeof(*r->raters));
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    size_t most = 0, need;
    vtci_arena arena;
    struct row r;

    VTCI_TRY(open_row(params, image, n_keep, &r, exec));
    r.call.query = true;
    arena = vtci_arena_open(&r.call);
    lay_out(&arena, &r);
    if (image->n_rows != 0) {
        VTCI_TRY(vtc_sparsevlm_raters_scratch(&r.vision, &r.text, exec, &need));
        vtci_at_least(&most, need);
        VTCI_TRY(vtci_text_score_scratch(&r.call, image, &need));
        vtci_at_least(&most, need);
    }
    VTCI_TRY(vtc_sparsevlm_scratch(&r.params, image->n_rows, r.clustered, exec, &need));
    vtci_at_least(&most, need);
    vtci_take_bytes(&arena, most);
    return vtci_end_query(&r.call, &arena, bytes);
}

/* The image's scores in the scratch memory, and an executor with the rest of it. */
static vtc_status look(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                       struct row *r, vtc_exec *rest, const vtc_exec *exec)
{
    vtci_arena arena;
    size_t n_raters;

    VTCI_TRY(open_row(params, image, n_keep, r, exec));
    arena = vtci_arena_open(&r->call);
    lay_out(&arena, r);
    VTCI_TRY(vtci_arena_check(&r->call, &arena));
    *rest = vtci_exec_behind(&r->call, &arena);
    if (image->n_rows == 0)
        return VTC_OK;
    VTCI_TRY(vtc_sparsevlm_raters(&r->vision, &r->text, r->raters, &n_raters, rest));
    return vtci_text_score(&r->call, image, r->raters, n_raters, r->score, rest);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    vtc_exec rest;
    struct row r;

    VTCI_TRY(look(params, image, n_keep, &r, &rest, exec));
    return vtci_sparsevlm_check(&r.params, r.score, image->n_rows, r.clustered, &rest);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    vtc_exec rest;
    struct row r;

    VTCI_TRY(look(params, image, n_keep, &r, &rest, exec));
    return vtc_sparsevlm(&r.params, r.score, image->n_rows, r.clustered, NULL, image->mass, plan,
                         NULL, &rest);
}

static const vtc_param planner_params[] = {
    { "recycle", VTC_PARAM_FLAG, offsetof(vtc_sparsevlm_params, recycle), 0, 1, 1,
      "1: the best of the dropped tokens come back in clusters" },
};

/* Raters among the text, then at most all text rows of attention. Clusters of what is recycled are
 * few. */
static double planner_cost(const void *params, const vtc_plan_inputs *image, size_t n_keep)
{
    const vtc_tensor *e = image->lm_embeddings;
    const double raters =
        e == NULL ? 0.0 : (double)image->n_rows * (double)image->n_text * (double)e->dim[1];

    (void)params;
    (void)n_keep;
    return raters + vtci_text_rows_cost(image);
}

const vtc_planner vtci_planner_sparsevlm = {
    .struct_size = sizeof(vtc_planner),
    .name = "sparsevlm",
    .title = "SparseVLM",
    .paper = "Zhang et al., SparseVLM: Visual Token Sparsification for Efficient VLM Inference, "
             "ICML 2025",
    .checked = "the authors' decoder loop and clustering, run with the same noise (PyTorch 1.13)",
    .needs = VTC_NEED_LM | VTC_NEED_EMBEDDINGS,
    .uses = VTC_NEED_HIDDEN | VTC_NEED_FEATURES,
    .merges = 1,
    .exact = 1,
    .params_size = sizeof(vtc_sparsevlm_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
    .cost = planner_cost,
};
