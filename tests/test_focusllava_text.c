/* FocusLLaVA's text-guided sampler and its score from hidden states. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vtc_plan sample(const vtc_focusllava_text_params *params, const float *score, size_t n,
                       const float *mass)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    assert_int_equal(vtc_focusllava_text_count(params, n, &count, NULL), VTC_OK);
    plan = empty_plan(n, count.n_out, count.n_nnz);
    assert_int_equal(vtc_focusllava_text_scratch(params, n, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_focusllava_text(params, score, n, mass, &plan, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_true(plan.n_out <= count.n_out && (!count.exact || plan.n_out == count.n_out));
    exec_scratch_free(&exec);
    return plan;
}

static vtc_focusllava_text_params make_params(double ratio, double top_p)
{
    vtc_focusllava_text_params params = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;

    params.ratio = ratio;
    params.top_p = top_p;
    return params;
}

/* ---- how many -------------------------------------------------------------------------------- */

static void the_ratio_is_rounded_up(void **state)
{
    static const struct {
        double ratio;
        size_t n, want;
    } cases[] = { { 0.5, 576, 288 }, { 0.5, 5, 3 }, { 0.4, 10, 4 }, { 0.1, 30, 3 },
                  { 0.0, 9, 1 },     { 1.0, 9, 9 }, { 0.3, 0, 0 },  { 0.001, 100, 1 },
                  { 0.7, 10, 7 },    { 1.0, 1, 1 } };
    vtc_plan_count count;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const vtc_focusllava_text_params params = make_params(cases[i].ratio, 0.0);

        assert_int_equal(vtc_focusllava_text_count(&params, cases[i].n, &count, NULL), VTC_OK);
        assert_int_equal(count.n_out, cases[i].want);
        assert_true(count.exact && count.n_nnz == 0);
    }
}

/* By adding one after the other, in falling order. */
static size_t fewest_for_share(const float *score, size_t n, double top_p)
{
    char *taken = calloc(n + 1, 1);
    double total = 0.0, sum = 0.0;
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        total += score[i];
    while (count < n) {
        size_t best = n;

        for (size_t i = 0; i < n; i++)
            if (!taken[i] && (best == n || score[i] > score[best]))
                best = i;
        taken[best] = 1;
        sum += score[best];
        count++;
        if (sum >= top_p * total - 1e-9)
            break;
    }
    free(taken);
    return count;
}

static void top_p_takes_the_fewest_that_reach_the_share(void **state)
{
    const double shares[5] = { 1e-6, 0.3, 0.7, 0.99, 1.0 };
    uint64_t seed = 31;
    float score[70];

    (void)state;
    for (int round = 0; round < 100; round++) {
        const size_t n = 1 + rng_below(&seed, 70);
        const vtc_focusllava_text_params params = make_params(0.5, shares[round % 5]);

        for (size_t i = 0; i < n; i++)
            score[i] = round % 2 == 0 ? 0.125f : 1.0f + rng_f32(&seed);
        vtc_plan plan = sample(&params, score, n, NULL);

        assert_int_equal(plan.n_out, fewest_for_share(score, n, shares[round % 5]));
        free_plan(&plan);
    }
}

/* Cosines may be negative; as long as their sum is positive the rule is the same. */
static void falling_sums_do_not_disturb_top_p(void **state)
{
    const float score[6] = { -0.2f, 0.9f, -0.1f, 0.4f, 0.3f, -0.3f };
    const vtc_focusllava_text_params params = make_params(0.5, 1.0);
    vtc_plan plan = sample(&params, score, 6, NULL);

    (void)state;
    assert_int_equal(plan.n_out, 2); /* 0.9 + 0.4 >= 1.0 */
    assert_true(plan.keep[0] == 1 && plan.keep[1] == 3);
    free_plan(&plan);
}

/* ---- which ----------------------------------------------------------------------------------- */

static void the_best_rows_ascend_and_ties_go_to_the_lower(void **state)
{
    const float score[7] = { 1.0f, 3.0f, 2.0f, 3.0f, 2.0f, 2.0f, 0.0f };
    const float mass[7] = { 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f };
    const int32_t want[4] = { 1, 2, 3, 4 };
    vtc_focusllava_text_params params = VTC_FOCUSLLAVA_TEXT_PARAMS_INIT;

    (void)state;
    params.n_keep = 4;
    vtc_plan plan = sample(&params, score, 7, mass);

    assert_memory_equal(plan.keep, want, sizeof(want));
    assert_memory_equal(plan.score, score, sizeof(score));
    for (size_t j = 0; j < 4; j++)
        assert_true(plan.mass[j] == mass[want[j]]);
    free_plan(&plan);
}

static void permuting_tokens_permutes_the_plan(void **state)
{
    const vtc_focusllava_text_params params = make_params(0.4, 0.0);
    uint64_t seed = 32;
    float score[50], turned[50];

    (void)state;
    rng_fill(&seed, score, 50);
    for (size_t i = 0; i < 50; i++)
        turned[49 - i] = score[i];
    vtc_plan a = sample(&params, score, 50, NULL), b = sample(&params, turned, 50, NULL);

    for (size_t j = 0; j < a.n_out; j++)
        assert_int_equal(a.keep[j], 49 - b.keep[b.n_out - 1 - j]);
    free_plan(&a);
    free_plan(&b);
}

static void refused(const vtc_focusllava_text_params *params, const float *score, size_t n,
                    vtc_status status, const char *part)
{
    vtc_plan plan = empty_plan(4, 4, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    exec_scratch(&exec, 64);
    record_errors(&exec, &log);
    poison(plan.keep, 4 * sizeof(int32_t));
    assert_failed(&log, vtc_focusllava_text(params, score, n, NULL, &plan, &exec), status, part);
    assert_true(is_poisoned(plan.keep, 4 * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
}

static void bad_arguments_are_refused(void **state)
{
    const float score[4] = { 1.0f, NAN, 2.0f, 0.0f }, fine[4] = { 1.0f, 2.0f, 3.0f, 4.0f };
    vtc_focusllava_text_params params = make_params(0.5, 0.0);

    (void)state;
    refused(&params, score, 4, VTC_ERR_DATA, "score[1]");
    refused(&params, NULL, 4, VTC_ERR_NULL, "score");
    params.ratio = 1.5;
    refused(&params, fine, 4, VTC_ERR_RANGE, "ratio is 1.5");
    params = make_params(0.5, NAN);
    refused(&params, fine, 4, VTC_ERR_RANGE, "top_p");
    params = make_params(0.5, 0.0);
    params.n_keep = 5;
    refused(&params, fine, 4, VTC_ERR_BUDGET, "5 of 4");
}

/* ---- hidden states --------------------------------------------------------------------------- */

static void run_hidden(const vtc_tensor *visual, const vtc_tensor *text, float *score,
                       size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_focusllava_hidden_score_scratch(visual, text, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_focusllava_hidden_score(visual, text, score, &exec), VTC_OK);
    exec_scratch_free(&exec);
}

static double mean_cosine(const double *v, const double *text, size_t m, size_t d)
{
    double sum = 0.0;

    for (size_t i = 0; i < m; i++) {
        double ab = 0.0, aa = 0.0, bb = 0.0;

        for (size_t c = 0; c < d; c++) {
            ab += v[c] * text[i * d + c];
            aa += v[c] * v[c];
            bb += text[i * d + c] * text[i * d + c];
        }
        sum += ab / fmax(sqrt(aa) * sqrt(bb), 1e-12);
    }
    return sum / (double)m;
}

static void check_hidden(uint64_t *seed, vtc_dtype dtype, float size)
{
    const size_t d = 1 + rng_below(seed, 70);
    const size_t v_dim[2] = { rng_below(seed, 40), d }, t_dim[2] = { 1 + rng_below(seed, 20), d };
    vtc_tensor visual = make_random(seed, dtype, 2, v_dim, rng_below(seed, 3));
    vtc_tensor text = make_random(seed, dtype, 2, t_dim, rng_below(seed, 3));
    float *score = guard_alloc(v_dim[0] * sizeof(*score));

    guard_writable(visual.data);
    guard_writable(text.data);
    for (size_t i = 0; i < n_elements(&visual); i++)
        set_element(visual.data, dtype, element_at(&visual, i),
                    size * get_element(visual.data, dtype, element_at(&visual, i)));
    for (size_t c = 0; c < d; c++) /* one zero row */
        set_element(text.data, dtype, element_at(&text, c), 0.0f);
    for (size_t i = 0; i < n_elements(&text); i++)
        set_element(text.data, dtype, element_at(&text, i),
                    size * get_element(text.data, dtype, element_at(&text, i)));
    double *v = values_of(&visual), *t = values_of(&text);

    run_hidden(&visual, &text, score, rng_below(seed, 3));
    for (size_t i = 0; i < v_dim[0]; i++)
        assert_true(close_to(score[i], mean_cosine(v + i * d, t, t_dim[0], d), 1e-6, 1e-6));
    free(v);
    free(t);
    guard_free(score);
    guard_free(visual.data);
    guard_free(text.data);
}

/* Tiny rows, where the bound of 1e-12 matters, go another way; huge ones leave F32. */
static void hidden_scores_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const float sizes[5] = { 1.0f, 100.0f, 1e-3f, 1e-6f, 0x1p-20f };
    uint64_t seed = 33;

    (void)state;
    for (int round = 0; round < 150; round++)
        check_hidden(&seed, dtypes[round % 3], sizes[round % 5]);
    for (int round = 0; round < 20; round++) {
        check_hidden(&seed, VTC_F32, 1e18f);
        check_hidden(&seed, VTC_F32, 1e30f);
        check_hidden(&seed, VTC_F32, 1e-30f);
    }
}

static void any_executor_gives_the_same_scores(void **state)
{
    const size_t v_dim[2] = { 75, 130 }, t_dim[2] = { 21, 130 };
    uint64_t seed = 34;
    vtc_tensor visual = make_random(&seed, VTC_BF16, 2, v_dim, 1);
    vtc_tensor text = make_random(&seed, VTC_F16, 2, t_dim, 0);
    float one[75], many[75];

    (void)state;
    run_hidden(&visual, &text, one, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        run_hidden(&visual, &text, many, n_workers);
        assert_memory_equal(many, one, sizeof(one));
    }
    guard_free(visual.data);
    guard_free(text.data);
}

/* Cosines are 1 and -1: there are two scores, and none between them. */
static void rows_of_one_channel_tie_by_their_sign(void **state)
{
    enum { V = 90, M = 31 };
    const size_t v_dim[2] = { V, 1 }, m_dim[2] = { M, 1 };
    uint64_t seed = 23;
    vtc_tensor visual = make_random(&seed, VTC_F32, 2, v_dim, 0);
    vtc_tensor text = make_random(&seed, VTC_F32, 2, m_dim, 0);
    const float *x = visual.data;
    float score[V];

    (void)state;
    run_hidden(&visual, &text, score, 0);
    for (size_t v = 1; v < V; v++)
        assert_true(score[v] == (signbit(x[v]) == signbit(x[0]) ? score[0] : -score[0]));
    guard_free(visual.data);
    guard_free(text.data);
}

static void rows_that_are_not_finite_are_refused(void **state)
{
    const size_t dim[2] = { 3, 4 };
    vtc_tensor visual = make_tensor(VTC_F32, 2, dim, 0), text = make_tensor(VTC_F32, 2, dim, 0);
    vtc_exec exec = VTC_EXEC_INIT;
    float score[3];
    error_log log;
    size_t bytes;

    (void)state;
    memset(visual.data, 0, 12 * sizeof(float));
    memset(text.data, 0, 12 * sizeof(float));
    ((float *)text.data)[9] = INFINITY;
    poison(score, sizeof(score));
    assert_int_equal(vtc_focusllava_hidden_score_scratch(&visual, &text, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_hidden_score(&visual, &text, score, &exec), VTC_ERR_DATA,
                  "text row 2");
    text.dim[0] = 0;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_hidden_score(&visual, &text, score, &exec), VTC_ERR_SHAPE,
                  "text has no row");
    assert_true(is_poisoned(score, sizeof(score)));
    exec_scratch_free(&exec);
    guard_free(visual.data);
    guard_free(text.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ratio_is_rounded_up),
        cmocka_unit_test(top_p_takes_the_fewest_that_reach_the_share),
        cmocka_unit_test(falling_sums_do_not_disturb_top_p),
        cmocka_unit_test(the_best_rows_ascend_and_ties_go_to_the_lower),
        cmocka_unit_test(permuting_tokens_permutes_the_plan),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(hidden_scores_equal_the_definition),
        cmocka_unit_test(any_executor_gives_the_same_scores),
        cmocka_unit_test(rows_of_one_channel_tie_by_their_sign),
        cmocka_unit_test(rows_that_are_not_finite_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
