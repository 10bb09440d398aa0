/* Scores of vision tokens from the inputs of the planner table. */
#include "lm_score.h"

#include "../../include/vtc/score.h"
#include "../base/tensor.h"

void vtci_take_bytes(vtci_arena *arena, size_t bytes)
{
    vtci_take(arena, bytes, 1);
}

vtc_tensor vtci_slice_rows(const vtc_tensor *t, size_t first, size_t n)
{
    vtc_tensor rows = *t;

    if (n != 0 && rows.data != NULL)
        rows.data = (char *)rows.data + first * t->stride[0] * vtc_dtype_size(t->dtype);
    rows.dim[0] = n;
    return rows;
}

/* ---- rows of queries ------------------------------------------------------------------------- */

/* The last n rows of a view [H, L, d] of queries, or of the text's own. */
static vtc_status last_queries(const vtci_call *call, const vtc_plan_inputs *image, size_t n,
                               vtc_tensor *q)
{
    const vtc_tensor *from = image->lm_query != NULL ? image->lm_query : image->text_query;
    const char *name = image->lm_query != NULL ? "lm_query" : "text_query";

    VTCI_REQUIRE(call, from != NULL && image->lm_keys != NULL, VTC_ERR_NULL,
                 "the inputs lack decoder Q and K");
    VTCI_TRY(vtci_check_tensor(call, name, from, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "lm_keys", image->lm_keys, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, image->lm_query == NULL || from->dim[1] == image->lm_keys->dim[1],
                 VTC_ERR_SHAPE, "lm_query has %zu rows, lm_keys has %zu", from->dim[1],
                 image->lm_keys->dim[1]);
    VTCI_REQUIRE(call, from->dim[1] >= n && image->lm_keys->dim[1] >= n, VTC_ERR_SHAPE,
                 "%s has %zu rows and lm_keys %zu, %zu of text are needed", name, from->dim[1],
                 image->lm_keys->dim[1], n);
    *q = *from;
    if (q->data != NULL)
        q->data =
            (char *)q->data + (from->dim[1] - n) * from->stride[1] * vtc_dtype_size(from->dtype);
    q->dim[1] = n;
    return VTC_OK;
}

/* Those rows of the log-sum-exps, or NULL without any. */
static vtc_status last_lse(const vtci_call *call, const vtc_plan_inputs *image, size_t n,
                           vtc_tensor *lse, const vtc_tensor **view)
{
    const vtc_tensor *from = image->lm_log_sum_exp;

    *view = NULL;
    if (from == NULL)
        return VTC_OK;
    VTCI_TRY(vtci_check_tensor(call, "lm_log_sum_exp", from, VTCI_BIT(VTC_F32), 2, 2, VTCI_IN));
    VTCI_REQUIRE(call, from->dim[1] == image->lm_keys->dim[1], VTC_ERR_SHAPE,
                 "lm_log_sum_exp has %zu rows, lm_keys has %zu", from->dim[1],
                 image->lm_keys->dim[1]);
    *lse = *from;
    if (lse->data != NULL)
        lse->data = (float *)lse->data + (from->dim[1] - n);
    lse->dim[1] = n;
    *view = lse;
    return VTC_OK;
}

/* ---- text rows ------------------------------------------------------------------------------- */

static vtc_attention_stats_params text_params(const vtc_plan_inputs *image)
{
    vtc_attention_stats_params params = VTC_ATTENTION_STATS_PARAMS_INIT;

    params.scale = image->scale;
    params.causal = 1;
    params.row_offset = image->lm_keys->dim[1] - image->n_text;
    params.first_col = image->v_start;
    params.n_cols = image->n_rows;
    return params;
}

static vtc_status check_text(const vtci_call *call, const vtc_plan_inputs *image)
{
    VTCI_REQUIRE(call, image->n_text != 0, VTC_ERR_NULL, "the inputs have no text: n_text is 0");
    return VTC_OK;
}

vtc_status vtci_text_score_scratch(const vtci_call *call, const vtc_plan_inputs *image,
                                   size_t *bytes)
{
    vtc_attention_stats_params params;
    vtc_tensor q;

    VTCI_TRY(check_text(call, image));
    VTCI_TRY(last_queries(call, image, image->n_text, &q));
    params = text_params(image);
    return vtc_attention_stats_scratch(&params, &q, image->lm_keys, &call->exec, bytes);
}

vtc_status vtci_text_score(const vtci_call *call, const vtc_plan_inputs *image,
                           const int32_t *voters, size_t n_voters, float *score,
                           const vtc_exec *exec)
{
    vtc_attention_stats_out out = VTC_ATTENTION_STATS_OUT_INIT;
    vtc_attention_stats_params params;
    const vtc_tensor *lse_view;
    vtc_tensor q, lse;

    VTCI_TRY(check_text(call, image));
    VTCI_TRY(last_queries(call, image, image->n_text, &q));
    VTCI_TRY(last_lse(call, image, image->n_text, &lse, &lse_view));
    params = text_params(image);
    params.voters = voters;
    params.n_voters = n_voters;
    out.col_mean = score;
    return vtc_attention_stats(&params, &q, image->lm_keys, lse_view, &out, exec);
}

/* ---- the last row ---------------------------------------------------------------------------- */

/* The last row's queries, and where the image is. */
static vtc_status open_last_row(const vtci_call *call, const vtc_plan_inputs *image,
                                vtc_cls_attention_params *params, vtc_tensor *q)
{
    const vtc_cls_attention_params defaults = VTC_CLS_ATTENTION_PARAMS_INIT;
    vtc_tensor rows;

    VTCI_TRY(last_queries(call, image, 1, &rows));
    *q = vtc_tensor_2d(rows.data, rows.dtype, rows.dim[0], rows.dim[2]);
    q->stride[0] = rows.stride[0];
    *params = defaults;
    params->scale = image->scale;
    params->first_col = image->v_start;
    params->n_cols = image->n_rows;
    return VTC_OK;
}

vtc_status vtci_last_row_score_scratch(const vtci_call *call, const vtc_plan_inputs *image,
                                       size_t *bytes)
{
    vtc_cls_attention_params params;
    vtc_tensor q;

    VTCI_TRY(open_last_row(call, image, &params, &q));
    return vtc_cls_attention_scratch(&params, &q, image->lm_keys, NULL, &call->exec, bytes);
}

vtc_status vtci_last_row_score(const vtci_call *call, const vtc_plan_inputs *image, float *score,
                               const vtc_exec *exec)
{
    vtc_cls_attention_params params;
    vtc_tensor q;

    VTCI_TRY(open_last_row(call, image, &params, &q));
    return vtc_cls_attention(&params, &q, image->lm_keys, NULL, score, exec);
}
