/*
 * Runs a planner over all images of a batch.
 *
 * Each image is planned into what is left of the caller's arrays, then its rows and entries are
 * shifted to where they belong, so a batch needs no memory of its own. Whatever can fail is looked
 * at first, for all images: room against the sum of the counts, data by planner->check().
 */
#include "inputs.h"

#include "../plan/plan.h"

struct batch {
    const vtci_call *call;
    vtc_planner planner;
    const void *params;
    vtc_plan_inputs inputs;
    const vtc_budget *budget;
    size_t settled; /* tokens that every image keeps at least, once all were asked; else 0 */
};

/* ---- sizes ----------------------------------------------------------------------------------- */

/* The caller's row up to the size it knows, and the inputs that the row asks for. */
static vtc_status open_batch(const vtci_call *call, const vtc_planner *planner, const void *params,
                             const vtc_plan_inputs *inputs, const vtc_budget *budget,
                             struct batch *batch)
{
    static const vtc_planner none;

    batch->call = call;
    batch->planner = none;
    batch->params = params;
    batch->budget = budget;
    batch->settled = 0;
    VTCI_REQUIRE_PTR(call, planner);
    VTCI_TRY(vtci_params_read(call, &batch->planner, sizeof(batch->planner), planner));
    VTCI_REQUIRE(call, batch->planner.name != NULL && batch->planner.count != NULL, VTC_ERR_NULL,
                 "the planner lacks its name or count()");
    return vtci_inputs_read(call, &batch->planner, inputs, &batch->inputs);
}

/* Image b and its budget in tokens. */
static vtc_status open_image(const struct batch *batch, size_t b, vtci_image *image, size_t *n_keep)
{
    vtci_image_open(image, &batch->inputs, b);
    VTCI_TRY(vtc_budget_resolve(batch->budget, image->in.n_rows, n_keep, &batch->call->exec));
    *n_keep = vtci_max(*n_keep, batch->settled);
    return VTC_OK;
}

static vtc_status count_batch(const struct batch *batch, vtc_plan_count *total)
{
    size_t n_nnz = 0, n_nnz_or_out = 0;

    *total = (vtc_plan_count){ 0, 0, 0, 1 };
    for (size_t b = 0; b < batch->inputs.n_images; b++) {
        vtc_plan_count count = { 0, 0, 0, 1 };
        vtci_image image;
        size_t n_keep;

        VTCI_TRY(open_image(batch, b, &image, &n_keep));
        VTCI_TRY(
            batch->planner.count(batch->params, &image.in, n_keep, &count, &batch->call->exec));
        total->n_in = vtci_add(total->n_in, count.n_in);
        total->n_out = vtci_add(total->n_out, count.n_out);
        total->exact = total->exact && count.exact;
        n_nnz = vtci_add(n_nnz, count.n_nnz);
        n_nnz_or_out = vtci_add(n_nnz_or_out, count.n_nnz == 0 ? count.n_out : count.n_nnz);
    }
    /* beside an image that merges, a pure selection has entries too */
    total->n_nnz = n_nnz == 0 ? 0 : n_nnz_or_out;
    return VTC_OK;
}

vtc_status vtc_planner_count(const vtc_planner *planner, const void *params,
                             const vtc_plan_inputs *inputs, const vtc_budget *budget,
                             vtc_plan_count *count, const vtc_exec *exec)
{
    struct batch batch;
    vtc_plan_count total;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_planner_count", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(open_batch(&call, planner, params, inputs, budget, &batch));
    VTCI_TRY(count_batch(&batch, &total));
    *count = total;
    return VTC_OK;
}

/* Images run one after another, so the largest need is that of all. */
static vtc_status scratch_of_batch(const struct batch *batch, size_t *bytes)
{
    *bytes = 0;
    for (size_t b = 0; b < batch->inputs.n_images && batch->planner.scratch != NULL; b++) {
        vtci_image image;
        size_t n_keep, image_bytes = 0;

        VTCI_TRY(open_image(batch, b, &image, &n_keep));
        VTCI_TRY(batch->planner.scratch(batch->params, &image.in, n_keep, &batch->call->exec,
                                        &image_bytes));
        *bytes = vtci_max(*bytes, image_bytes);
    }
    return VTC_OK;
}

vtc_status vtc_planner_scratch(const vtc_planner *planner, const void *params,
                               const vtc_plan_inputs *inputs, const vtc_budget *budget,
                               const vtc_exec *exec, size_t *bytes)
{
    struct batch batch;
    vtci_call call;
    size_t most;

    VTCI_TRY(vtci_begin_query(&call, "vtc_planner_scratch", exec, bytes));
    VTCI_TRY(open_batch(&call, planner, params, inputs, budget, &batch));
    VTCI_TRY(scratch_of_batch(&batch, &most));
    *bytes = most;
    return VTC_OK;
}

vtc_status vtc_planner_cost(const vtc_planner *planner, const void *params,
                            const vtc_plan_inputs *inputs, const vtc_budget *budget,
                            double *multiply_adds, const vtc_exec *exec)
{
    struct batch batch;
    vtc_plan_count count;
    vtci_call call;
    double total = 0.0;

    VTCI_TRY(vtci_begin(&call, "vtc_planner_cost", exec));
    call.query = true;
    VTCI_REQUIRE_PTR(&call, multiply_adds);
    VTCI_TRY(open_batch(&call, planner, params, inputs, budget, &batch));
    VTCI_TRY(count_batch(&batch, &count)); /* refuses budgets that cannot be met */
    for (size_t b = 0; b < batch.inputs.n_images && batch.planner.cost != NULL; b++) {
        vtci_image image;
        size_t n_keep;

        VTCI_TRY(open_image(&batch, b, &image, &n_keep));
        total += batch.planner.cost(batch.params, &image.in, n_keep);
    }
    *multiply_adds = total;
    return VTC_OK;
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* The views that an image may be planned from are apart from the plan of all images. Those that
 * only some planners look at were checked only for them. */
static vtc_status check_views_apart(const struct batch *batch, const vtc_plan *plan,
                                    const vtc_plan_count *n)
{
    const vtc_plan_inputs *in = &batch->inputs;
    const unsigned sees = batch->planner.needs | batch->planner.uses;
    const bool lm = (sees & (VTC_NEED_LM | VTC_NEED_LM_OR_HIDDEN)) != 0;
    const bool cls = (sees & VTC_NEED_CLS) != 0;
    const struct {
        const char *name;
        const vtc_tensor *view;
        bool seen;
    } views[] = {
        { "features", in->features, true },
        { "keys", in->keys, cls || (sees & VTC_NEED_KEYS) != 0 },
        { "queries", in->queries, (sees & VTC_NEED_QUERIES) != 0 },
        { "cls_attention", in->cls_attention, cls },
        { "lm_query", in->lm_query, lm },
        { "lm_keys", in->lm_keys, lm },
        { "lm_log_sum_exp", in->lm_log_sum_exp, lm },
        { "text_query", in->text_query, lm },
        { "lm_hidden", in->lm_hidden, (sees & (VTC_NEED_HIDDEN | VTC_NEED_LM_OR_HIDDEN)) != 0 },
        { "lm_embeddings", in->lm_embeddings, (sees & VTC_NEED_EMBEDDINGS) != 0 },
    };

    for (size_t i = 0; i < sizeof(views) / sizeof(*views); i++)
        if (views[i].seen && views[i].view != NULL)
            VTCI_TRY(vtci_plan_check_apart(batch->call, plan, n->n_in, n->n_out, n->n_nnz,
                                           views[i].name, views[i].view->data,
                                           vtci_span_bytes(views[i].view)));
    return VTC_OK;
}

/* Room and memory, before anything is written. */
static vtc_status check_batch(const struct batch *batch, const vtc_plan *plan,
                              const int32_t *out_begin)
{
    const vtci_call *call = batch->call;
    const vtc_plan_inputs *in = &batch->inputs;
    const size_t begin_bytes = (in->n_images + 1) * sizeof(*out_begin);
    vtc_plan_count n;

    VTCI_REQUIRE(call, batch->planner.plan != NULL, VTC_ERR_UNSUPPORTED,
                 "%s acts on pixels, it has no plan of tokens", batch->planner.name);
    VTCI_TRY(count_batch(batch, &n));
    VTCI_TRY(vtci_plan_open(call, plan, n.n_in, n.n_out, n.n_nnz));
    VTCI_TRY(check_views_apart(batch, plan, &n));
    VTCI_TRY(vtci_plan_check_apart(call, plan, n.n_in, n.n_out, n.n_nnz, "begin", in->begin,
                                   begin_bytes));
    VTCI_TRY(vtci_plan_check_apart(call, plan, n.n_in, n.n_out, n.n_nnz, "out_begin", out_begin,
                                   begin_bytes));
    VTCI_TRY(vtci_plan_check_apart(call, plan, n.n_in, n.n_out, n.n_nnz, "key_rows", in->key_rows,
                                   in->n_key_rows * sizeof(*in->key_rows)));
    VTCI_REQUIRE(call,
                 out_begin == NULL || in->begin == NULL ||
                     !vtci_ranges_meet(out_begin, begin_bytes, in->begin, begin_bytes),
                 VTC_ERR_OVERLAP, "out_begin overlaps begin");
    return vtci_plan_check_apart(call, plan, n.n_in, n.n_out, n.n_nnz, "mass", in->mass,
                                 n.n_in * sizeof(*in->mass));
}

/* A single image needs no check of its own: plan() checks before it writes. */
static vtc_status check_data(const struct batch *batch)
{
    for (size_t b = 0; b < batch->inputs.n_images && batch->inputs.n_images > 1; b++) {
        vtci_image image;
        size_t n_keep;

        VTCI_TRY(open_image(batch, b, &image, &n_keep));
        if (batch->planner.check != NULL)
            VTCI_TRY(batch->planner.check(batch->params, &image.in, n_keep, &batch->call->exec));
    }
    return VTC_OK;
}

/* What the images agree on, where a method lets them depend on each other. */
static vtc_status settle(struct batch *batch)
{
    size_t most = 0;

    if (batch->planner.settle == NULL || batch->inputs.n_images < 2)
        return VTC_OK;
    for (size_t b = 0; b < batch->inputs.n_images; b++) {
        vtci_image image;
        size_t n_keep, settled = 0;

        VTCI_TRY(open_image(batch, b, &image, &n_keep));
        VTCI_TRY(
            batch->planner.settle(batch->params, &image.in, n_keep, &settled, &batch->call->exec));
        most = vtci_max(most, settled);
    }
    batch->settled = most;
    return VTC_OK;
}

/* What is left of the arrays of `plan` behind these rows, outputs and entries. `fate` is written
 * once at the end, for all images. */
static vtc_plan rest_of(const vtc_plan *plan, size_t n_in, size_t n_out, size_t n_nnz)
{
    vtc_plan rest = *plan;

    rest.struct_size = sizeof(rest);
    rest.fate = NULL;
    rest.cap_out -= n_out;
    if (n_out != 0) {
        rest.keep += n_out;
        rest.mass += n_out;
    }
    if (plan->score != NULL) {
        rest.cap_in -= n_in;
        rest.score += n_in;
    }
    if (plan->begin != NULL)
        rest.begin += n_out;
    if (n_nnz != 0) {
        rest.cap_nnz -= n_nnz;
        rest.source += n_nnz;
        rest.weight += n_nnz;
    }
    return rest;
}

/* From numbers within the image to numbers within the batch. */
static void shift(vtc_plan *image, size_t first_row, size_t n_nnz)
{
    const size_t image_nnz = image->begin == NULL ? 0 : (size_t)image->begin[image->n_out];

    for (size_t j = 0; j < image->n_out; j++)
        if (image->keep[j] >= 0)
            image->keep[j] += (int32_t)first_row;
    for (size_t e = 0; e < image_nnz; e++)
        image->source[e] += (int32_t)first_row;
    for (size_t j = 0; image->begin != NULL && j <= image->n_out; j++)
        image->begin[j] += (int32_t)n_nnz;
}

static vtc_status plan_images(const struct batch *batch, vtc_plan *plan, int32_t *out_begin)
{
    vtc_reduce reduce = VTC_SUM;
    size_t n_in = 0, n_out = 0, n_nnz = 0;

    for (size_t b = 0; b < batch->inputs.n_images; b++) {
        vtc_plan part = rest_of(plan, n_in, n_out, n_nnz);
        vtci_image image;
        size_t n_keep;

        VTCI_TRY(open_image(batch, b, &image, &n_keep));
        VTCI_TRY(batch->planner.plan(batch->params, &image.in, n_keep, &part, &batch->call->exec));
        shift(&part, n_in, n_nnz);
        if (out_begin != NULL)
            out_begin[b] = (int32_t)n_out;
        n_in += part.n_in;
        n_out += part.n_out;
        n_nnz = part.begin == NULL ? 0 : (size_t)part.begin[part.n_out];
        reduce = part.reduce;
    }
    if (out_begin != NULL)
        out_begin[batch->inputs.n_images] = (int32_t)n_out;
    vtci_plan_finish(plan, n_in, n_out, n_nnz, reduce);
    return VTC_OK;
}

vtc_status vtc_planner_plan(const vtc_planner *planner, const void *params,
                            const vtc_plan_inputs *inputs, const vtc_budget *budget, vtc_plan *plan,
                            int32_t *out_begin, const vtc_exec *exec)
{
    struct batch batch;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_planner_plan", exec));
    VTCI_TRY(open_batch(&call, planner, params, inputs, budget, &batch));
    VTCI_TRY(check_batch(&batch, plan, out_begin));
    VTCI_TRY(check_data(&batch));
    VTCI_TRY(settle(&batch));
    return plan_images(&batch, plan, out_begin);
}
