/* The planner table's rows of FastV, VisionZip, SparseVLM and FocusLLaVA: from Q and K, embeddings,
 * hidden states or a map, for single images and ragged batches. */
#include "guided_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- attention by definition ----------------------------------------------------------------- */

/* Softmax of one query against keys 0 .. n_keys - 1, added to p. */
static void add_attention(const double *q, const double *k, size_t n_keys, double *p)
{
    double e[L + 1], top = -INFINITY, sum = 0.0;

    for (size_t n = 0; n < n_keys; n++) {
        e[n] = 0.0;
        for (size_t c = 0; c < D; c++)
            e[n] += q[c] * k[n * D + c] / sqrt((double)D);
        top = fmax(top, e[n]);
    }
    for (size_t n = 0; n < n_keys; n++)
        sum += e[n] = exp(e[n] - top);
    for (size_t n = 0; n < n_keys; n++)
        p[n] += e[n] / sum;
}

/* Mean over heads and the rows of the sequence that `votes` marks. */
static void lm_attention(const inputs *i, const char votes[L], double p[L])
{
    double *q = values_of(&i->lm_query), *k = values_of(&i->lm_keys);
    size_t n_votes = 0;

    memset(p, 0, L * sizeof(*p));
    for (size_t row = 0; row < L; row++) {
        if (!votes[row])
            continue;
        n_votes++;
        for (size_t h = 0; h < H; h++)
            add_attention(q + (h * L + row) * D, k + h / (H / G) * L * D, row + 1, p);
    }
    for (size_t n = 0; n < L; n++)
        p[n] /= (double)(H * n_votes);
    free(q);
    free(k);
}

static void check_scores(const vtc_plan *plan, const double p[L])
{
    for (size_t n = 0; n < N; n++)
        assert_true(close_to(plan->score[n], p[BEFORE + n], 1e-6, 1e-6));
}

/* The kept rows of an image have no worse score than the dropped ones. */
static void check_best_are_kept(const vtc_plan *plan)
{
    for (int b = 0; b < 2; b++)
        for (int32_t i = begin[b]; i < begin[b + 1]; i++)
            for (int32_t k = begin[b]; k < begin[b + 1]; k++)
                assert_true(plan->fate[i] < 0 || plan->fate[k] >= 0 ||
                            plan->score[i] >= plan->score[k]);
}

/* ---- FastV ----------------------------------------------------------------------------------- */

static void fastv_looks_at_the_last_row_of_the_sequence(void **state)
{
    char votes[L] = { 0 };
    int32_t out_begin[3];
    double p[L];
    inputs i;

    (void)state;
    make_inputs(&i, 101);
    votes[L - 1] = 1;
    lm_attention(&i, votes, p);
    vtc_plan plan = run("fastv", NULL, &i.in, 7, out_begin, 2);

    check_scores(&plan, p);
    check_best_are_kept(&plan);
    assert_true(out_begin[1] == 7 && out_begin[2] == 14);
    refused("fastv", NULL, &i.in, 13, VTC_ERR_BUDGET, "13 of 12");
    free_plan(&plan);
    free_inputs(&i);
}

/* An engine that has the text's queries alone gets the same. */
static void queries_of_the_text_alone_are_enough(void **state)
{
    const char *const names[3] = { "fastv", "focusllava-text", "sparsevlm" };
    inputs i;

    (void)state;
    make_inputs(&i, 102);
    i.text_query = i.lm_query;
    i.text_query.dim[1] = TEXT;
    i.text_query.data = (float *)i.lm_query.data + (L - TEXT) * i.lm_query.stride[1];
    for (int k = 0; k < 3; k++) {
        vtc_plan all = run(names[k], NULL, &i.in, 6, NULL, 1);

        i.in.lm_query = NULL;
        i.in.text_query = &i.text_query;
        vtc_plan text = run(names[k], NULL, &i.in, 6, NULL, 1);

        assert_memory_equal(all.score, text.score, N * sizeof(float));
        assert_memory_equal(all.fate, text.fate, N * sizeof(int32_t));
        i.in.lm_query = &i.lm_query;
        i.in.text_query = NULL;
        free_plan(&all);
        free_plan(&text);
    }
    free_inputs(&i);
}

/* ---- FocusLLaVA, text-guided ----------------------------------------------------------------- */

static void text_rows_vote_by_attention_or_by_hidden_states(void **state)
{
    vtc_focusllava_text_params params = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;
    char votes[L] = { 0 };
    double p[L];
    inputs i;

    (void)state;
    make_inputs(&i, 103);
    memset(votes + L - TEXT, 1, TEXT);
    lm_attention(&i, votes, p);
    vtc_plan plan = run("focusllava-text", NULL, &i.in, 5, NULL, 2);

    check_scores(&plan, p);
    check_best_are_kept(&plan);
    free_plan(&plan);
    params.score = VTC_FOCUSLLAVA_HIDDEN;
    plan = run("focusllava-text", &params, &i.in, 5, NULL, 2);
    check_best_are_kept(&plan);
    i.in.lm_keys = NULL;
    vtc_plan by_default = run("focusllava-text", NULL, &i.in, 5, NULL, 1);

    assert_memory_equal(by_default.score, plan.score, N * sizeof(float));
    params.score = VTC_FOCUSLLAVA_ATTENTION;
    refused("focusllava-text", &params, &i.in, 5, VTC_ERR_NULL, "lack decoder Q and K");
    refused("focusllava-text", NULL, &i.in, 0, VTC_ERR_BUDGET, "at least one of 30");
    refused("focusllava-text", NULL, &i.in, 31, VTC_ERR_BUDGET, "31 of 30");
    i.in.lm_hidden = NULL;
    refused("focusllava-text", NULL, &i.in, 5, VTC_ERR_NULL, "decoder Q and K, or hidden states");
    free_plan(&by_default);
    free_plan(&plan);
    free_inputs(&i);
}

/* With what a fused attention keeps of each row the scores are the same. */
static void a_log_sum_exp_at_hand_changes_nothing(void **state)
{
    const size_t dim[2] = { H, L };
    inputs i;

    (void)state;
    make_inputs(&i, 104);
    i.lse = make_tensor(VTC_F32, 2, dim, 1);
    double *q = values_of(&i.lm_query), *k = values_of(&i.lm_keys);

    for (size_t h = 0; h < H; h++)
        for (size_t row = 0; row < L; row++) {
            double sum = 0.0;

            for (size_t n = 0; n <= row; n++) {
                double dot = 0.0;

                for (size_t c = 0; c < D; c++)
                    dot += q[(h * L + row) * D + c] * k[(h / 2 * L + n) * D + c];
                sum += exp(dot / sqrt((double)D));
            }
            ((float *)i.lse.data)[h * i.lse.stride[0] + row] = (float)log(sum);
        }
    vtc_plan without = run("focusllava-text", NULL, &i.in, 5, NULL, 1);

    i.in.lm_log_sum_exp = &i.lse;
    vtc_plan with = run("focusllava-text", NULL, &i.in, 5, NULL, 1);

    for (size_t n = 0; n < N; n++)
        assert_true(close_to(with.score[n], without.score[n], 1e-6, 1e-5));
    assert_memory_equal(with.fate, without.fate, N * sizeof(int32_t));
    free(q);
    free(k);
    free_plan(&with);
    free_plan(&without);
    guard_free(i.lse.data);
    free_inputs(&i);
}

/* ---- SparseVLM ------------------------------------------------------------------------------- */

static void sparsevlm_meets_its_budget_with_clusters(void **state)
{
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    int32_t out_begin[3];
    inputs i;

    (void)state;
    make_inputs(&i, 105);
    for (size_t n_keep = 2; n_keep <= 12; n_keep++) {
        vtc_plan plan = run("sparsevlm", NULL, &i.in, n_keep, out_begin, 2);

        assert_true(out_begin[1] == (int32_t)n_keep && out_begin[2] == 2 * (int32_t)n_keep);
        free_plan(&plan);
    }
    refused("sparsevlm", NULL, &i.in, 1, VTC_ERR_BUDGET, "recycling alone gives 2 tokens of 30");
    refused("sparsevlm", NULL, &i.in, 13, VTC_ERR_BUDGET, "13 of 12");
    params.recycle = 0;
    i.in.lm_hidden = NULL;
    i.in.features = NULL;
    vtc_plan plan = run("sparsevlm", &params, &i.in, 11, out_begin, 1);

    assert_int_equal(out_begin[2], 22);
    refused("sparsevlm", &params, &i.in, 12, VTC_ERR_BUDGET, "at most 11 of 12");
    refused("sparsevlm", NULL, &i.in, 4, VTC_ERR_NULL, "hidden states or features");
    i.in.n_text = 0;
    refused("sparsevlm", &params, &i.in, 4, VTC_ERR_NULL, "no text");
    free_plan(&plan);
    free_inputs(&i);
}

/* The image's own raters vote: those of its embeddings. */
static void sparsevlm_scores_are_those_of_its_raters(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    int32_t raters[TEXT];
    size_t n_raters, bytes;
    inputs i;

    (void)state;
    make_inputs(&i, 106);
    vtc_plan plan = run("sparsevlm", NULL, &i.in, 6, NULL, 2);

    for (int b = 0; b < 2; b++) {
        vtc_tensor vision = i.embeddings, text = i.embeddings;
        char votes[L] = { 0 };
        double p[L];

        vision.data = (float *)vision.data + (size_t)(BEFORE + begin[b]) * vision.stride[0];
        vision.dim[0] = (size_t)(begin[b + 1] - begin[b]);
        text.data = (float *)text.data + (L - TEXT) * text.stride[0];
        text.dim[0] = TEXT;
        assert_int_equal(vtc_sparsevlm_raters_scratch(&vision, &text, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_sparsevlm_raters(&vision, &text, raters, &n_raters, &exec), VTC_OK);
        exec_scratch_free(&exec);
        for (size_t k = 0; k < n_raters; k++)
            votes[L - TEXT + raters[k]] = 1;
        lm_attention(&i, votes, p);
        for (int32_t n = begin[b]; n < begin[b + 1]; n++)
            assert_true(close_to(plan.score[n], p[BEFORE + n], 1e-6, 1e-6));
    }
    free_plan(&plan);
    free_inputs(&i);
}

/* ---- VisionZip ------------------------------------------------------------------------------- */

static void visionzip_divides_its_budget(void **state)
{
    vtc_visionzip_params params = VTC_VISIONZIP_PARAMS_INIT;
    int32_t out_begin[3];
    inputs i;

    (void)state;
    make_inputs(&i, 107);
    for (size_t n_keep = 0; n_keep <= 12; n_keep++) {
        vtc_plan plan = run("visionzip", NULL, &i.in, n_keep, out_begin, 2);
        const size_t n_contextual = (size_t)nearbyint((double)n_keep * 0.15625);
        size_t n_merged = 0;

        assert_true(out_begin[1] == (int32_t)n_keep && out_begin[2] == 2 * (int32_t)n_keep);
        for (size_t j = 0; j < n_keep && plan.begin != NULL; j++)
            n_merged += plan.begin[j + 1] - plan.begin[j] > 1;
        assert_true(n_merged <= n_contextual);
        free_plan(&plan);
    }
    params.contextual_share = 0.5f;
    vtc_plan plan = run("visionzip", &params, &i.in, 8, NULL, 1);
    double mass = 0.0;

    for (size_t j = 0; j < 16; j++)
        mass += plan.mass[j];
    assert_true(mass == N);
    refused("visionzip", NULL, &i.in, 13, VTC_ERR_BUDGET, "13 of 12");
    free_plan(&plan);
    free_inputs(&i);
}

/* The key of [CLS] takes part in the softmax of its row, as in an encoder. */
static void visionzip_sums_the_attention_of_cls(void **state)
{
    const size_t dim[2] = { H, 30 };
    double *q, *k, *k_cls, score[30] = { 0.0 };
    inputs i;

    (void)state;
    make_inputs(&i, 108);
    i.in.begin = NULL;
    i.keys.dim[1] = i.features.dim[0] = 30;
    q = values_of(&i.cls_query);
    k = values_of(&i.keys);
    k_cls = values_of(&i.cls_key);
    for (size_t h = 0; h < H; h++) {
        double keys[31 * D], p[31] = { 0.0 };

        memcpy(keys, k + h * 30 * D, 30 * D * sizeof(*k));
        memcpy(keys + 30 * D, k_cls + h * D, D * sizeof(*k));
        add_attention(q + h * D, keys, 31, p);
        for (size_t n = 0; n < 30; n++)
            score[n] += p[n];
    }
    vtc_plan plan = run("visionzip", NULL, &i.in, 12, NULL, 1);

    for (size_t n = 0; n < 30; n++)
        assert_true(close_to(plan.score[n], score[n], 1e-6, 1e-6));

    /* the same by weights at hand */
    vtc_tensor attention = make_tensor(VTC_F32, 2, dim, 2);
    for (size_t h = 0; h < H; h++)
        for (size_t n = 0; n < 30; n++)
            ((float *)attention.data)[h * attention.stride[0] + n] = (float)score[n] / H;
    i.in.cls_attention = &attention;
    i.in.cls_query = NULL;
    vtc_plan given = run("visionzip", NULL, &i.in, 12, NULL, 1);

    assert_memory_equal(given.fate, plan.fate, 30 * sizeof(int32_t));
    free(q);
    free(k);
    free(k_cls);
    free_plan(&plan);
    free_plan(&given);
    guard_free(attention.data);
    free_inputs(&i);
}

/* ---- FocusLLaVA, vision-guided --------------------------------------------------------------- */

static void the_vision_row_meets_budgets_or_says_why_not(void **state)
{
    vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;
    int32_t out_begin[3];
    inputs i;

    (void)state;
    make_map_inputs(&i, 109);
    for (size_t n_keep = 0; n_keep <= 21; n_keep += 3) {
        vtc_plan plan = run("focusllava-vision", NULL, &i.in, n_keep, out_begin, 2);

        assert_true(out_begin[1] == (int32_t)n_keep && out_begin[2] == 2 * (int32_t)n_keep);
        assert_true(n_keep == 0 || plan.reduce == VTC_MAX);
        free_plan(&plan);
    }
    /* 2 regions, and 2 + 2 x 2 + ... pooled tokens: 2 + 8 + 21 */
    refused("focusllava-vision", NULL, &i.in, 40, VTC_ERR_BUDGET, "pooled tokens");
    params.adaptive = 1;
    params.route = VTC_FOCUSLLAVA_FIDELITY;
    params.pool = VTC_FOCUSLLAVA_AVERAGE;
    params.tau = 2.0f; /* never reached: the finest scale */
    vtc_plan plan = run("focusllava-vision", &params, &i.in, 21, out_begin, 2);

    assert_true(out_begin[1] == 21 && plan.n_out == 42);
    refused("focusllava-vision", &params, &i.in, 20, VTC_ERR_BUDGET,
            "the route gives 21 tokens, the budget is 20");
    refused("focusllava-vision", &params, &i.in, 1, VTC_ERR_BUDGET, "at least 2");
    params.route = VTC_FOCUSLLAVA_LINEAR;
    refused("focusllava-vision", &params, &i.in, 21, VTC_ERR_UNSUPPORTED, "router");
    params.route = VTC_FOCUSLLAVA_FIDELITY;
    params.tau = -2.0f; /* always: the coarsest */
    free_plan(&plan);
    plan = run("focusllava-vision", &params, &i.in, 21, out_begin, 2);
    assert_true(out_begin[1] == 2 && plan.n_out == 4);
    free_plan(&plan);
    free_inputs(&i);
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* One image at a time, or both in a batch: the same plans. */
static void a_batch_is_its_images(void **state)
{
    const int32_t *two;
    inputs i;

    (void)state;
    make_map_inputs(&i, 110);
    two = i.in.begin;
    for (size_t k = 0; k < sizeof(guided) / sizeof(*guided); k++) {
        vtc_tensor features = i.features, keys = i.keys;
        int32_t out_begin[3];

        i.in.begin = two;
        vtc_plan batch = run(guided[k], NULL, &i.in, 8, out_begin, 1);

        features.data = (float *)features.data + 21 * features.stride[0];
        keys.data = (float *)keys.data + 21 * keys.stride[1];
        features.dim[0] = keys.dim[1] = 21;
        i.in.begin = NULL;
        i.in.features = &features;
        i.in.keys = &keys;
        i.in.v_start = BEFORE + 21;
        vtc_plan second = run(guided[k], NULL, &i.in, 8, NULL, 1);

        for (size_t n = 0; n < 21; n++) {
            assert_true(batch.score[21 + n] == second.score[n]);
            assert_int_equal(batch.fate[21 + n],
                             second.fate[n] < 0 ? -1 : second.fate[n] + out_begin[1]);
        }
        i.in.features = &i.features;
        i.in.keys = &i.keys;
        i.in.v_start = BEFORE;
        free_plan(&batch);
        free_plan(&second);
    }
    free_inputs(&i);
}

static void no_rows_give_no_tokens(void **state)
{
    const int32_t none[2] = { 0, 0 };
    const char *const names[4] = { "fastv", "focusllava-text", "sparsevlm", "visionzip" };
    inputs i;

    (void)state;
    make_inputs(&i, 112);
    i.in.begin = none;
    i.in.n_images = 1;
    i.features.dim[0] = i.keys.dim[1] = 0;
    for (int k = 0; k < 4; k++) {
        vtc_plan plan = run(names[k], NULL, &i.in, 0, NULL, 1);

        assert_int_equal(plan.n_out, 0);
        free_plan(&plan);
    }
    free_inputs(&i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fastv_looks_at_the_last_row_of_the_sequence),
        cmocka_unit_test(queries_of_the_text_alone_are_enough),
        cmocka_unit_test(text_rows_vote_by_attention_or_by_hidden_states),
        cmocka_unit_test(a_log_sum_exp_at_hand_changes_nothing),
        cmocka_unit_test(sparsevlm_meets_its_budget_with_clusters),
        cmocka_unit_test(sparsevlm_scores_are_those_of_its_raters),
        cmocka_unit_test(visionzip_divides_its_budget),
        cmocka_unit_test(visionzip_sums_the_attention_of_cls),
        cmocka_unit_test(the_vision_row_meets_budgets_or_says_why_not),
        cmocka_unit_test(a_batch_is_its_images),
        cmocka_unit_test(no_rows_give_no_tokens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
