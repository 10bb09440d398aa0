/*
 * MustDrop, encode: the key tokens, which no later step drops.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' encoder loop.
 *
 *     score_j = mean over heads of the attention [CLS] -> j in the encoder's last layer
 *     keys    = the ceil(0.08 N) best
 *
 * The rate is applied in double precision, as the authors' code does; the figure of the paper says
 * about 5 % of all tokens before merging. Ties, open there, go to the lower token.
 */
#include "../../include/vtc/mustdrop.h"
#include "../base/apart.h"
#include "../base/tensor.h"
#include "../linalg/order.h"
#include "../linalg/rows.h"
#include "../score/cls_attention.h"

#include <math.h>

struct keys {
    const vtci_call *call;
    vtc_mustdrop_keys_params p;
    size_t n_images, n_vision, n_keys;
    float *score;   /* [B, N] */
    int32_t *order; /* [N]    */
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static vtc_status open_params(const vtci_call *call, const vtc_mustdrop_keys_params *from,
                              struct keys *k)
{
    static const vtc_mustdrop_keys_params defaults = VTC_MUSTDROP_KEYS_PARAMS_INIT;

    k->call = call;
    k->p = defaults;
    VTCI_TRY(vtci_params_read(call, &k->p, sizeof(k->p), from));
    VTCI_REQUIRE(call, k->p.rate >= 0.0 && k->p.rate <= 1.0, VTC_ERR_RANGE,
                 "rate is %g, 0 to 1 is needed", k->p.rate);
    return VTC_OK;
}

static vtc_status set_sizes(struct keys *k, size_t n_images, size_t n_rows)
{
    VTCI_REQUIRE(k->call, n_rows >= k->p.prefix, VTC_ERR_SHAPE, "there are %zu keys, prefix is %zu",
                 n_rows, k->p.prefix);
    k->n_images = n_images;
    k->n_vision = n_rows - k->p.prefix;
    VTCI_REQUIRE(k->call, vtci_mul(n_images, k->n_vision) <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "%zu images of %zu tokens exceed int32", n_images, k->n_vision);
    k->n_keys = k->p.n_keys != VTC_MUSTDROP_BY_RULE ? k->p.n_keys
                                                    : (size_t)ceil(k->p.rate * (double)k->n_vision);
    VTCI_REQUIRE(k->call, k->n_keys <= k->n_vision, VTC_ERR_BUDGET,
                 "cannot name %zu key tokens of %zu", k->n_keys, k->n_vision);
    return VTC_OK;
}

vtc_status vtc_mustdrop_key_count(const vtc_mustdrop_keys_params *params, size_t n_vision,
                                  size_t *n_keys, const vtc_exec *exec)
{
    struct keys k;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_key_count", exec));
    VTCI_REQUIRE_PTR(&call, n_keys);
    VTCI_TRY(open_params(&call, params, &k));
    k.p.prefix = 0;
    VTCI_TRY(set_sizes(&k, 1, n_vision));
    *n_keys = k.n_keys;
    return VTC_OK;
}

/* ---- checks, scratch, ranking ---------------------------------------------------------------- */

static void lay_out(vtci_arena *arena, struct keys *k)
{
    k->score = vtci_take(arena, vtci_mul(k->n_images, k->n_vision), sizeof(*k->score));
    k->order = vtci_take(arena, k->n_vision, sizeof(*k->order));
}

static vtc_status check_outputs(const struct keys *k, const int32_t *keys, const float *score,
                                const vtc_tensor *const *view, const char *const *name,
                                size_t n_views)
{
    const vtci_memory out[2] = {
        { "keys", keys, k->n_images * k->n_keys * sizeof(*keys) },
        { "score", score, k->n_images * k->n_vision * sizeof(*score) },
    };
    vtci_memory in[3];
    size_t n_in = 0;

    VTCI_REQUIRE(k->call, keys != NULL || out[0].bytes == 0, VTC_ERR_NULL, "keys is NULL");
    for (size_t i = 0; i < n_views; i++)
        if (view[i] != NULL)
            in[n_in++] = (vtci_memory){ name[i], view[i]->data, vtci_span_bytes(view[i]) };
    return vtci_check_all_apart(k->call, out, 2, in, n_in);
}

static vtc_status check_scores(const struct keys *k)
{
    for (size_t i = 0; i < k->n_images * k->n_vision; i++)
        VTCI_REQUIRE(k->call, isfinite(k->score[i]), VTC_ERR_DATA,
                     "the attention to token %zu of image %zu is not finite", i % k->n_vision,
                     i / k->n_vision);
    return VTC_OK;
}

/* The scores are checked; nothing fails any more. */
static void write_keys(const struct keys *k, int32_t *keys, float *score)
{
    for (size_t b = 0; b < k->n_images; b++) {
        const size_t first = b * k->n_vision;
        const int32_t shift = k->p.end_to_end != 0 ? (int32_t)first : 0;

        if (k->n_keys != 0)
            vtci_top_k(k->order, k->score + first, k->n_vision, k->n_keys);
        for (size_t i = 0; i < k->n_keys; i++)
            keys[b * k->n_keys + i] = k->order[i] + shift;
        for (size_t j = 0; score != NULL && j < k->n_vision; j++)
            score[first + j] = k->score[first + j];
    }
}

/* ---- from a row of attention ----------------------------------------------------------------- */

static vtc_status open_attention(const vtci_call *call, const vtc_mustdrop_keys_params *params,
                                 const vtc_tensor *attention, struct keys *k)
{
    VTCI_TRY(open_params(call, params, k));
    VTCI_TRY(vtci_check_tensor(call, "attention", attention, VTCI_FLOATS, 2, 3, VTCI_IN));

    const vtci_rows a = vtci_rows_of(attention);

    VTCI_REQUIRE(call, a.n_rows != 0 || a.n_batch == 0, VTC_ERR_SHAPE, "attention has no heads");
    return set_sizes(k, a.n_batch, a.n_cols);
}

static void average_heads(struct keys *k, const vtc_tensor *attention)
{
    const vtci_rows a = vtci_rows_of(attention);
    const size_t skipped = k->p.prefix * vtc_dtype_size(a.dtype);

    for (size_t b = 0; b < a.n_batch && k->n_vision != 0; b++) {
        vtci_combine mean;

        vtci_combine_begin(&mean, k->score + b * k->n_vision, k->n_vision, a.dtype, false);
        for (size_t h = 0; h < a.n_rows; h++)
            vtci_combine_add(&mean, vtci_row(&a, b, h) + skipped, 1.0f / (float)a.n_rows);
        vtci_combine_end(&mean);
    }
}

vtc_status vtc_mustdrop_keys_scratch(const vtc_mustdrop_keys_params *params,
                                     const vtc_tensor *attention, const vtc_exec *exec,
                                     size_t *bytes)
{
    struct keys k;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_keys_scratch", exec, bytes));
    VTCI_TRY(open_attention(&call, params, attention, &k));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &k);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mustdrop_keys(const vtc_mustdrop_keys_params *params, const vtc_tensor *attention,
                             int32_t *keys, float *score, const vtc_exec *exec)
{
    const char *const name[] = { "attention" };
    struct keys k;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_keys", exec));
    VTCI_TRY(open_attention(&call, params, attention, &k));
    VTCI_TRY(check_outputs(&k, keys, score, &attention, name, 1));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &k);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    average_heads(&k, attention);
    VTCI_TRY(check_scores(&k));
    write_keys(&k, keys, score);
    return VTC_OK;
}

/* ---- from Q and K ---------------------------------------------------------------------------- */

static vtc_status open_query(const vtci_call *call, const vtc_mustdrop_keys_params *params,
                             const vtc_tensor *q_cls, const vtc_tensor *k_view,
                             const vtc_tensor *k_cls, struct keys *k,
                             vtc_cls_attention_params *attention)
{
    static const vtc_cls_attention_params defaults = VTC_CLS_ATTENTION_PARAMS_INIT;

    VTCI_TRY(open_params(call, params, k));
    VTCI_TRY(vtci_check_tensor(call, "q_cls", q_cls, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_TRY(vtci_check_tensor(call, "k", k_view, VTCI_FLOATS, 3, 3, VTCI_IN));
    VTCI_REQUIRE(call, q_cls->dim[0] != 0, VTC_ERR_SHAPE, "q_cls has no heads");
    VTCI_TRY(set_sizes(k, 1, k_view->dim[1]));
    *attention = defaults;
    attention->scale = k->p.scale;
    attention->first_col = k->p.prefix;
    return vtci_cls_attention_check(call, attention, q_cls, k_view, k_cls);
}

vtc_status vtc_mustdrop_keys_of_query_scratch(const vtc_mustdrop_keys_params *params,
                                              const vtc_tensor *q_cls, const vtc_tensor *k_view,
                                              const vtc_tensor *k_cls, const vtc_exec *exec,
                                              size_t *bytes)
{
    vtc_cls_attention_params attention;
    size_t needed = 0;
    struct keys k;
    vtci_call call;

    VTCI_TRY(vtci_begin_query(&call, "vtc_mustdrop_keys_of_query_scratch", exec, bytes));
    VTCI_TRY(open_query(&call, params, q_cls, k_view, k_cls, &k, &attention));
    VTCI_TRY(vtc_cls_attention_scratch(&attention, q_cls, k_view, k_cls, &call.exec, &needed));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &k);
    vtci_take(&arena, needed, 1);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_mustdrop_keys_of_query(const vtc_mustdrop_keys_params *params,
                                      const vtc_tensor *q_cls, const vtc_tensor *k_view,
                                      const vtc_tensor *k_cls, int32_t *keys, float *score,
                                      const vtc_exec *exec)
{
    const vtc_tensor *const view[] = { q_cls, k_view, k_cls };
    const char *const name[] = { "q_cls", "k", "k_cls" };
    vtc_cls_attention_params attention;
    struct keys k;
    vtci_call call;
    size_t needed;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_keys_of_query", exec));
    VTCI_TRY(open_query(&call, params, q_cls, k_view, k_cls, &k, &attention));
    VTCI_TRY(check_outputs(&k, keys, score, view, name, 3));
    vtci_arena arena = vtci_arena_open(&call);
    vtc_exec rest = call.exec;

    VTCI_TRY(vtc_cls_attention_scratch(&attention, q_cls, k_view, k_cls, &call.exec, &needed));
    lay_out(&arena, &k);
    rest.scratch = vtci_take(&arena, needed, 1);
    rest.scratch_size = needed;
    VTCI_TRY(vtci_arena_check(&call, &arena));
    VTCI_TRY(vtc_cls_attention(&attention, q_cls, k_view, k_cls, k.score, &rest));
    VTCI_TRY(check_scores(&k));
    write_keys(&k, keys, score);
    return VTC_OK;
}
