/*
 * The planner table's row of the text-guided sampler, from a decoder layer's Q and K or its hidden
 * states. A budget is the number of tokens, whatever ratio and top_p say.
 */
#include "../base/tensor.h"
#include "../prune/lm_score.h"
#include "../prune/planners.h"
#include "../prune/selection.h"

struct row {
    vtci_call call;
    const vtc_plan_inputs *image;
    vtc_focusllava_text_params params;
    vtc_tensor visual, text; /* hidden states, for the HIDDEN score */
};

static vtc_status open_row(const void *from, const vtc_plan_inputs *image, size_t n_keep,
                           struct row *r, const vtc_exec *exec)
{
    static const vtc_focusllava_text_params defaults = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;
    const bool attends =
        (image->lm_query != NULL || image->text_query != NULL) && image->lm_keys != NULL;
    vtc_focusllava_text_params *p = &r->params;

    VTCI_TRY(vtci_begin(&r->call, "focusllava-text", exec));
    r->image = image;
    *p = defaults;
    VTCI_TRY(vtci_params_read(&r->call, p, sizeof(*p), from));
    VTCI_REQUIRE(&r->call, n_keep != 0 || image->n_rows == 0, VTC_ERR_BUDGET,
                 "at least one of %zu tokens is kept, the budget is 0", image->n_rows);
    VTCI_REQUIRE(&r->call, image->n_text != 0, VTC_ERR_NULL,
                 "the inputs have no text: n_text is 0");
    p->n_keep = n_keep;
    p->top_p = 0.0;
    if (p->score == VTC_FOCUSLLAVA_ANY)
        p->score = attends ? VTC_FOCUSLLAVA_ATTENTION : VTC_FOCUSLLAVA_HIDDEN;
    VTCI_REQUIRE(&r->call, p->score != VTC_FOCUSLLAVA_ATTENTION || attends, VTC_ERR_NULL,
                 "the inputs lack decoder Q and K");
    if (p->score != VTC_FOCUSLLAVA_HIDDEN)
        return VTC_OK;
    VTCI_REQUIRE(&r->call, image->lm_hidden != NULL, VTC_ERR_NULL, "the inputs lack hidden states");
    r->visual = vtci_slice_rows(image->lm_hidden, image->v_start, image->n_rows);
    r->text =
        vtci_slice_rows(image->lm_hidden, image->lm_hidden->dim[0] - image->n_text, image->n_text);
    return VTC_OK;
}

static vtc_status planner_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                vtc_plan_count *count, const vtc_exec *exec)
{
    struct row r;

    VTCI_TRY(open_row(params, image, n_keep, &r, exec));
    return vtc_focusllava_text_count(&r.params, image->n_rows, count, exec);
}

static vtc_status planner_scratch(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                  const vtc_exec *exec, size_t *bytes)
{
    size_t of_score, of_plan;
    vtci_arena arena;
    struct row r;

    VTCI_TRY(open_row(params, image, n_keep, &r, exec));
    r.call.query = true;
    if (r.params.score == VTC_FOCUSLLAVA_HIDDEN)
        VTCI_TRY(vtc_focusllava_hidden_score_scratch(&r.visual, &r.text, exec, &of_score));
    else
        VTCI_TRY(vtci_text_score_scratch(&r.call, image, &of_score));
    VTCI_TRY(vtc_focusllava_text_scratch(&r.params, image->n_rows, exec, &of_plan));
    arena = vtci_arena_open(&r.call);
    vtci_take(&arena, image->n_rows, sizeof(float));
    vtci_take_bytes(&arena, vtci_max(of_score, of_plan));
    return vtci_end_query(&r.call, &arena, bytes);
}

/* The image's scores in the scratch memory, and an executor with the rest of it. */
static vtc_status score_image(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                              struct row *r, float **score, vtc_exec *rest, const vtc_exec *exec)
{
    vtci_arena arena;

    VTCI_TRY(open_row(params, image, n_keep, r, exec));
    arena = vtci_arena_open(&r->call);
    *score = vtci_take(&arena, image->n_rows, sizeof(**score));
    VTCI_TRY(vtci_arena_check(&r->call, &arena));
    *rest = vtci_exec_behind(&r->call, &arena);
    if (r->params.score == VTC_FOCUSLLAVA_HIDDEN)
        return vtc_focusllava_hidden_score(&r->visual, &r->text, *score, rest);
    return vtci_text_score(&r->call, image, NULL, 0, *score, rest);
}

static vtc_status planner_check(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                const vtc_exec *exec)
{
    vtc_exec rest;
    struct row r;
    float *score;

    VTCI_TRY(score_image(params, image, n_keep, &r, &score, &rest, exec));
    return vtci_check_scores(&r.call, score, image->n_rows);
}

static vtc_status planner_plan(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                               vtc_plan *plan, const vtc_exec *exec)
{
    vtc_exec rest;
    struct row r;
    float *score;

    VTCI_TRY(score_image(params, image, n_keep, &r, &score, &rest, exec));
    return vtc_focusllava_text(&r.params, score, image->n_rows, image->mass, plan, &rest);
}

static const vtc_param planner_params[] = {
    { "score", VTC_PARAM_FLAG, offsetof(vtc_focusllava_text_params, score), 0, 2, 0,
      "0: attention where the inputs have Q and K, else hidden states; 1: attention; "
      "2: hidden states" },
};

const vtc_planner vtci_planner_focusllava_text = {
    .struct_size = sizeof(vtc_planner),
    .name = "focusllava-text",
    .title = "FocusLLaVA, text-guided",
    .paper = "Zhu et al., FocusLLaVA, arXiv 2411.14228",
    .checked = "our NumPy oracle, written from a description: no official code exists",
    .needs = VTC_NEED_LM_OR_HIDDEN,
    .uses = VTC_NEED_LM | VTC_NEED_HIDDEN,
    .exact = 1,
    .params_size = sizeof(vtc_focusllava_text_params),
    .params = planner_params,
    .n_params = sizeof(planner_params) / sizeof(*planner_params),
    .count = planner_count,
    .scratch = planner_scratch,
    .check = planner_check,
    .plan = planner_plan,
};
