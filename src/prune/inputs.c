/* What planners look at: what is there, whether it fits, and one image of a batch. */
#include "inputs.h"

#include "../plan/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what is there --------------------------------------------------------------------------- */

static unsigned present(const vtc_plan_inputs *in)
{
    unsigned bits = 0;

    if (in->features != NULL)
        bits |= VTC_NEED_FEATURES;
    if (in->grid_h != 0 && in->grid_w != 0)
        bits |= VTC_NEED_GRID;
    if (in->keys != NULL)
        bits |= VTC_NEED_KEYS;
    if (in->cls_attention != NULL || (in->cls_query != NULL && in->keys != NULL))
        bits |= VTC_NEED_CLS;
    if (in->text != NULL)
        bits |= VTC_NEED_TEXT;
    if ((in->lm_query != NULL || in->text_query != NULL) && in->lm_keys != NULL)
        bits |= VTC_NEED_LM;
    if (in->lm_hidden != NULL)
        bits |= VTC_NEED_HIDDEN;
    if ((bits & (VTC_NEED_LM | VTC_NEED_HIDDEN)) != 0)
        bits |= VTC_NEED_LM_OR_HIDDEN;
    if (in->frame_rows != 0)
        bits |= VTC_NEED_FRAMES;
    if (in->queries != NULL)
        bits |= VTC_NEED_QUERIES;
    if (in->lm_embeddings != NULL)
        bits |= VTC_NEED_EMBEDDINGS;
    if (in->key_rows != NULL)
        bits |= VTC_NEED_KEY_ROWS;
    return bits;
}

unsigned vtc_plan_inputs_lack(const vtc_plan_inputs *inputs, unsigned needs)
{
    vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
    vtci_call call;

    if (vtci_begin(&call, "vtc_plan_inputs_lack", NULL) != VTC_OK ||
        vtci_params_read(&call, &in, sizeof(in), inputs) != VTC_OK)
        return needs;
    return needs & ~present(&in);
}

static const struct {
    vtc_need need;
    const char *name;
} need_names[] = {
    { VTC_NEED_FEATURES, "features" },
    { VTC_NEED_GRID, "grid" },
    { VTC_NEED_KEYS, "keys" },
    { VTC_NEED_CLS, "[CLS] attention" },
    { VTC_NEED_TEXT, "text" },
    { VTC_NEED_LM, "decoder Q and K" },
    { VTC_NEED_HIDDEN, "hidden states" },
    { VTC_NEED_FRAMES, "frames" },
    { VTC_NEED_QUERIES, "queries" },
    { VTC_NEED_EMBEDDINGS, "embeddings" },
    { VTC_NEED_KEY_ROWS, "key rows" },
    { VTC_NEED_LM_OR_HIDDEN, "decoder Q and K, or hidden states" },
    { VTC_NEED_IMAGE, "image" },
};

enum { N_NEEDS = sizeof(need_names) / sizeof(*need_names) };

const char *vtc_need_string(vtc_need need)
{
    for (size_t i = 0; i < N_NEEDS; i++)
        if (need_names[i].need == need)
            return need_names[i].name;
    return "?";
}

static vtc_status check_needs(const vtci_call *call, const vtc_planner *planner,
                              const vtc_plan_inputs *in)
{
    const unsigned lack = planner->needs & ~present(in) & ~(unsigned)VTC_NEED_IMAGE;
    char list[128] = "";
    size_t length = 0;

    for (size_t i = 0; i < N_NEEDS; i++)
        if ((lack & need_names[i].need) != 0 && length < sizeof(list))
            length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s",
                                       length == 0 ? "" : ", ", need_names[i].name);
    VTCI_REQUIRE(call, lack == 0, VTC_ERR_NULL, "the inputs of %s lack %s", planner->name, list);
    return VTC_OK;
}

/* ---- whether it fits ------------------------------------------------------------------------- */

/* Sets n_rows and n_images from whatever tells them. */
static void find_sizes(vtc_plan_inputs *in)
{
    if (in->begin == NULL)
        in->n_images = 1;
    if (in->n_rows != 0)
        return;
    if (in->features != NULL)
        in->n_rows = in->features->dim[0];
    else if (in->begin != NULL)
        in->n_rows = in->begin[in->n_images] < 0 ? 0 : (size_t)in->begin[in->n_images];
    else
        in->n_rows = vtci_mul(in->grid_h, in->grid_w);
}

static vtc_status check_begin(const vtci_call *call, const vtc_plan_inputs *in)
{
    if (in->begin == NULL)
        return VTC_OK;
    VTCI_REQUIRE(call, in->begin[0] == 0, VTC_ERR_SHAPE, "begin[0] is %d", (int)in->begin[0]);
    for (size_t b = 0; b < in->n_images; b++)
        VTCI_REQUIRE(call, in->begin[b] <= in->begin[b + 1], VTC_ERR_SHAPE,
                     "begin falls from %d to %d at image %zu", (int)in->begin[b],
                     (int)in->begin[b + 1], b);
    VTCI_REQUIRE(call, (size_t)in->begin[in->n_images] == in->n_rows, VTC_ERR_SHAPE,
                 "begin ends at %d, there are %zu rows", (int)in->begin[in->n_images], in->n_rows);
    return VTC_OK;
}

static size_t image_rows(const vtc_plan_inputs *in, size_t b)
{
    return in->begin == NULL ? in->n_rows : (size_t)(in->begin[b + 1] - in->begin[b]);
}

static vtc_status check_grid(const vtci_call *call, const vtc_plan_inputs *in)
{
    if (in->grid_h == 0 || in->grid_w == 0)
        return VTC_OK;
    for (size_t b = 0; b < in->n_images; b++)
        VTCI_REQUIRE(call, image_rows(in, b) == vtci_mul(in->grid_h, in->grid_w), VTC_ERR_SHAPE,
                     "grid %zux%zu needs %zu rows, image %zu has %zu", in->grid_h, in->grid_w,
                     vtci_mul(in->grid_h, in->grid_w), b, image_rows(in, b));
    return VTC_OK;
}

/* A view, when there is one, has the rows of the batch at `axis`. */
static vtc_status check_view(const vtci_call *call, const char *what, const vtc_tensor *t, int rank,
                             int axis, const vtc_plan_inputs *in)
{
    if (t == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, what, t, VTCI_FLOATS, rank, rank, VTCI_IN));
    VTCI_REQUIRE(call, t->dim[axis] == in->n_rows, VTC_ERR_SHAPE,
                 "%s has %zu rows, the inputs have %zu", what, t->dim[axis], in->n_rows);
    return VTC_OK;
}

/* A view of the whole sequence, when there is one, reaches from v_start over the rows of the batch
 * and the text behind them. */
static vtc_status check_sequence(const vtci_call *call, const char *what, const vtc_tensor *t,
                                 int rank, const vtc_plan_inputs *in)
{
    const size_t end = vtci_add(vtci_add(in->v_start, in->n_rows), in->n_text);

    if (t == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, what, t, VTCI_FLOATS, rank, rank, VTCI_IN));
    VTCI_REQUIRE(call, t->dim[rank == 3] >= end, VTC_ERR_SHAPE,
                 "%s has %zu rows, %zu before the image, %zu of it and %zu of text are needed",
                 what, t->dim[rank == 3], in->v_start, in->n_rows, in->n_text);
    return VTC_OK;
}

/* The views of the language model. */
static vtc_status check_decoder(const vtci_call *call, unsigned sees, const vtc_plan_inputs *in)
{
    if ((sees & VTC_NEED_LM) != 0) {
        VTCI_TRY(check_sequence(call, "lm_query", in->lm_query, 3, in));
        VTCI_TRY(check_sequence(call, "lm_keys", in->lm_keys, 3, in));
        if (in->text_query != NULL)
            VTCI_TRY(
                vtci_check_tensor(call, "text_query", in->text_query, VTCI_FLOATS, 3, 3, VTCI_IN));
        if (in->lm_log_sum_exp != NULL)
            VTCI_TRY(vtci_check_tensor(call, "lm_log_sum_exp", in->lm_log_sum_exp,
                                       VTCI_BIT(VTC_F32), 2, 2, VTCI_IN));
    }
    if ((sees & VTC_NEED_HIDDEN) != 0)
        VTCI_TRY(check_sequence(call, "lm_hidden", in->lm_hidden, 2, in));
    if ((sees & VTC_NEED_EMBEDDINGS) != 0)
        VTCI_TRY(check_sequence(call, "lm_embeddings", in->lm_embeddings, 2, in));
    return VTC_OK;
}

/* Rows that are never dropped: inside the batch, ascending. */
static vtc_status check_key_rows(const vtci_call *call, const vtc_plan_inputs *in)
{
    for (size_t i = 0; in->key_rows != NULL && i < in->n_key_rows; i++) {
        const int32_t row = in->key_rows[i];

        VTCI_REQUIRE(call, row >= 0 && (size_t)row < in->n_rows, VTC_ERR_RANGE,
                     "key_rows[%zu] is %d, there are %zu rows", i, (int)row, in->n_rows);
        VTCI_REQUIRE(call, i == 0 || row > in->key_rows[i - 1], VTC_ERR_RANGE,
                     "key_rows[%zu] is %d behind %d", i, (int)row, (int)in->key_rows[i - 1]);
    }
    return VTC_OK;
}

vtc_status vtci_inputs_read(const vtci_call *call, const vtc_planner *planner,
                            const vtc_plan_inputs *from, vtc_plan_inputs *inputs)
{
    static const vtc_plan_inputs none = VTC_PLAN_INPUTS_INIT;
    const unsigned sees = planner->needs | planner->uses;

    *inputs = none;
    VTCI_REQUIRE(call, from != NULL, VTC_ERR_NULL, "inputs is NULL");
    VTCI_TRY(vtci_params_read(call, inputs, sizeof(*inputs), from));
    VTCI_TRY(check_needs(call, planner, inputs));
    find_sizes(inputs);
    VTCI_TRY(check_begin(call, inputs));
    VTCI_TRY(check_view(call, "features", inputs->features, 2, 0, inputs));
    if ((sees & (VTC_NEED_KEYS | VTC_NEED_CLS)) != 0)
        VTCI_TRY(check_view(call, "keys", inputs->keys, 3, 1, inputs));
    if ((sees & VTC_NEED_CLS) != 0)
        VTCI_TRY(check_view(call, "cls_attention", inputs->cls_attention, 2, 1, inputs));
    if ((sees & VTC_NEED_QUERIES) != 0)
        VTCI_TRY(check_view(call, "queries", inputs->queries, 3, 1, inputs));
    VTCI_TRY(check_decoder(call, sees, inputs));
    if ((sees & VTC_NEED_KEY_ROWS) != 0)
        VTCI_TRY(check_key_rows(call, inputs));
    if ((sees & VTC_NEED_GRID) != 0)
        VTCI_TRY(check_grid(call, inputs));
    return call->query ? VTC_OK : vtci_check_masses(call, inputs->mass, inputs->n_rows);
}

/* ---- one image ------------------------------------------------------------------------------- */

/* *slice = rows first .. first + n - 1 of t along `axis`; NULL when there is no t. */
static const vtc_tensor *slice_view(vtc_tensor *slice, const vtc_tensor *t, int axis, size_t first,
                                    size_t n)
{
    if (t == NULL)
        return NULL;
    *slice = *t;
    slice->dim[axis] = n;
    if (n != 0 && t->data != NULL)
        slice->data = (char *)t->data + first * t->stride[axis] * vtc_dtype_size(t->dtype);
    return slice;
}

/* Those key rows that lie in rows first .. first + n - 1. */
static void slice_key_rows(vtc_plan_inputs *in, size_t first, size_t n)
{
    size_t begin = 0, end = in->n_key_rows;

    if (in->key_rows == NULL)
        return;
    while (begin < end && (size_t)in->key_rows[begin] < first)
        begin++;
    while (end > begin && (size_t)in->key_rows[end - 1] >= first + n)
        end--;
    in->key_rows += begin;
    in->n_key_rows = end - begin;
}

void vtci_image_open(vtci_image *image, const vtc_plan_inputs *inputs, size_t b)
{
    const size_t first = inputs->begin == NULL ? 0 : (size_t)inputs->begin[b];
    const size_t n = image_rows(inputs, b);
    vtc_plan_inputs *in = &image->in;

    *in = *inputs;
    in->begin = NULL;
    in->n_images = 1;
    in->n_rows = n;
    in->v_start += first;
    in->first_row = first;
    slice_key_rows(in, first, n);
    image->first_row = first;
    if (in->mass != NULL)
        in->mass += first;
    in->features = slice_view(&image->features, inputs->features, 0, first, n);
    in->keys = slice_view(&image->keys, inputs->keys, 1, first, n);
    in->cls_attention = slice_view(&image->cls_attention, inputs->cls_attention, 1, first, n);
    in->queries = slice_view(&image->queries, inputs->queries, 1, first, n);
}

/* ---- budget ---------------------------------------------------------------------------------- */

vtc_status vtc_budget_resolve(const vtc_budget *budget, size_t n_rows, size_t *n_keep,
                              const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_budget_resolve", exec));
    VTCI_REQUIRE_PTR(&call, budget);
    VTCI_REQUIRE_PTR(&call, n_keep);
    VTCI_REQUIRE(&call, budget->kind == VTC_BUDGET_TOKENS || budget->kind == VTC_BUDGET_RATIO,
                 VTC_ERR_RANGE, "the kind of the budget is %d", (int)budget->kind);
    if (budget->kind == VTC_BUDGET_TOKENS) {
        *n_keep = budget->tokens;
        return VTC_OK;
    }
    VTCI_REQUIRE(&call, budget->ratio > 0.0 && budget->ratio <= 1.0, VTC_ERR_RANGE,
                 "ratio is %g, above 0 and up to 1 is needed", budget->ratio);

    const size_t nearest = (size_t)nearbyint(budget->ratio * (double)n_rows);

    *n_keep = vtci_min(n_rows, vtci_max(1, nearest));
    return VTC_OK;
}
