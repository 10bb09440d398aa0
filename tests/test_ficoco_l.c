/* FiCoCo-L in all profiles. */
#include "ficoco_cases.h"

/* ---- running it ------------------------------------------------------------------------------ */

static vtc_plan plan_l(const vtc_ficoco_l_params *params, const vtc_ficoco_l_inputs *in,
                       vtc_ficoco_trace *trace, size_t n_workers)
{
    vtc_plan_count count;
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_ficoco_l_count(params, in->n_visual, &count, NULL), VTC_OK);
    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    assert_int_equal(vtc_ficoco_l_scratch(params, in, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_ficoco_l(params, in, &plan, trace, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static vtc_ficoco_l_params make_params(size_t profile, size_t r)
{
    vtc_ficoco_l_params params = VTC_FICOCO_L_PARAMS_INIT;

    params.profile = profile;
    params.n_discard = r;
    return params;
}

static bool is_on(size_t value, bool by_profile)
{
    return value == VTC_FICOCO_BY_PROFILE ? by_profile : value == VTC_FICOCO_ON;
}

static ficoco_rules rules_of(const vtc_ficoco_l_params *p)
{
    const bool paper = p->profile == VTC_FICOCO_PAPER;
    const bool official = p->profile == VTC_FICOCO_OFFICIAL;
    const ficoco_rules rules = { .r = p->n_discard,
                                 .official = official,
                                 .linear = !official && is_on(p->linear, paper),
                                 .eps = p->eps,
                                 .beta = p->beta,
                                 .gamma = p->gamma,
                                 .mean_vision = !official && is_on(p->mean_vision, paper),
                                 .mean_text = official || is_on(p->mean_text, true),
                                 .mean_bridge = !official && is_on(p->mean_bridge, paper),
                                 .protect = p->protect };

    return rules;
}

/* ---- against the reference ------------------------------------------------------------------- */

static bool check_case(uint64_t *seed, size_t profile, size_t n, size_t n_text, bool given)
{
    static const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const vtc_dtype dtype = dtypes[rng_below(seed, 3)];
    const size_t v_start = rng_below(seed, 4), gap = rng_below(seed, 3);
    const size_t l = v_start + n + gap + n_text;
    vtc_ficoco_l_params params = make_params(profile, rng_below(seed, n + 1));
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    qk a = make_qk(seed, dtype, l, profile == VTC_FICOCO_PAPER);
    vtc_tensor s = { 0 };
    double mass[300];
    float *masses = random_masses(seed, n, mass);

    params.eps = (float[]){ 0.998f, 0.9f, 0.5f, 0.0f, 1.0f }[rng_below(seed, 5)];
    params.beta = 0.3f + 0.3f * (float)rng_below(seed, 2);
    params.gamma = 0.6f + 0.2f * (float)rng_below(seed, 2);
    params.mean_vision = rng_below(seed, 3);
    params.mean_text = rng_below(seed, 3);
    params.mean_bridge = rng_below(seed, 3);
    params.protect = rng_below(seed, 3);
    in.q = &a.q;
    in.k = &a.k;
    in.scale = a.scale;
    in.v_start = v_start;
    in.n_visual = n;
    in.n_text = gap == 0 ? VTC_FICOCO_ALL_TEXT : n_text;
    in.mass = masses;
    if (given) {
        s = matrix_of(a.s, l, dtype, 3);
        in.s = &s;
        in.q = in.k = NULL;
    }

    const ficoco_rules rules = rules_of(&params);
    ficoco_reference want = ficoco_reference_l(a.s, l, v_start, n, l - n_text, mass, &rules);
    const bool clear = want.margin > FICOCO_MARGIN;
    vtc_ficoco_trace trace = VTC_FICOCO_TRACE_INIT;
    vtc_plan plan = plan_l(&params, &in, &trace, rng_below(seed, 4));

    if (clear) {
        for (size_t i = 0; i < n; i++)
            want.score[i] = fmax(want.score[i], (double)-INFINITY);
        assert_ficoco_plan(&plan, &want);
        assert_int_equal(trace.n_targets, want.n_targets);
    }
    free_plan(&plan);
    ficoco_reference_free(&want);
    free_qk(&a);
    guard_free(masses);
    guard_free(s.data);
    return clear;
}

static void random_plans_equal_the_reference(void **state)
{
    uint64_t seed = 1;
    int n_clear = 0;

    (void)state;
    for (int round = 0; round < 360; round++)
        n_clear += check_case(&seed, (size_t)round % 3, rng_below(&seed, 40), rng_below(&seed, 9),
                              rng_below(&seed, 3) == 0);
    assert_true(n_clear > 200);
}

/* Several panels of discarded rows, several blocks of keys and of text. */
static void large_plans_equal_the_reference(void **state)
{
    uint64_t seed = 2;
    int n_clear = 0;

    (void)state;
    for (int round = 0; round < 12; round++)
        n_clear += check_case(&seed, (size_t)round % 2, 200, 70, round % 4 == 3);
    assert_true(n_clear > 0);
}

static void any_executor_gives_the_same_bits(void **state)
{
    static const vtc_dtype dtypes[2] = { VTC_F32, VTC_BF16 };
    uint64_t seed = 3;

    (void)state;
    for (size_t round = 0; round < 6; round++) {
        vtc_ficoco_l_params params = make_params(round % 3, 90);
        vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
        qk a = make_qk(&seed, dtypes[round / 3], 290, false);

        params.eps = 0.97f;
        in.q = &a.q;
        in.k = &a.k;
        in.n_visual = 220;
        vtc_plan one = plan_l(&params, &in, NULL, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
            vtc_plan many = plan_l(&params, &in, NULL, n_workers);

            assert_same_plan(&one, &many);
            free_plan(&many);
        }
        free_plan(&one);
        free_qk(&a);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void mass_is_conserved_and_constants_stay(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (size_t profile = 0; profile < 3; profile += 2) {
        vtc_ficoco_l_params params = make_params(profile, 25);
        vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
        qk a = make_qk(&seed, VTC_F32, 70, false);
        double total = 60.0;

        params.linear = VTC_FICOCO_OFF;
        in.q = &a.q;
        in.k = &a.k;
        in.n_visual = 60;
        vtc_plan plan = plan_l(&params, &in, NULL, 1);

        for (size_t j = 0; j < plan.n_out; j++) {
            double sum = 0.0;

            for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++)
                sum += plan.weight[e];
            assert_near("sum of weights", j, sum, 1.0);
            assert_true(j == 0 || plan.keep[j] > plan.keep[j - 1]);
            total -= plan.mass[j];
        }
        assert_near("mass", 0, total, 0.0);
        free_plan(&plan);
        free_qk(&a);
    }
}

/* As released, kept rows only gain: their own weight stays 1, and shares of lost targets vanish. */
static void official_adds_without_dividing(void **state)
{
    uint64_t seed = 5;
    const vtc_ficoco_l_params params = make_params(VTC_FICOCO_OFFICIAL, 25);
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    qk a = make_qk(&seed, VTC_F32, 70, false);
    double given = 0.0;

    (void)state;
    in.q = &a.q;
    in.k = &a.k;
    in.n_visual = 60;
    vtc_plan plan = plan_l(&params, &in, NULL, 1);

    assert_int_equal(plan.keep[0], 0);
    assert_true(plan.score[0] == -INFINITY);
    for (size_t j = 0; j < plan.n_out; j++)
        for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++) {
            if (plan.source[e] == plan.keep[j])
                assert_true(plan.weight[e] == 1.0f);
            else
                given += plan.weight[e];
        }
    assert_true(given <= 25.0 + 1e-4);
    free_plan(&plan);
    free_qk(&a);
}

static void ties_go_to_the_lower_row(void **state)
{
    enum { V = 50, L = 57, R = 41 };
    const size_t dim[3] = { 2, L, 7 };
    vtc_ficoco_l_params params = make_params(VTC_FICOCO_FIXED, R);
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    vtc_tensor q = make_tensor(VTC_F32, 3, dim, 0);
    uint64_t seed = 6;
    float token[7];

    (void)state;
    rng_fill(&seed, token, 7);
    for (size_t i = 0; i < n_elements(&q); i++)
        ((float *)q.data)[i] = token[i % 7];
    params.eps = 0.75f;
    in.q = in.k = &q;
    in.n_visual = V;
    vtc_plan plan = plan_l(&params, &in, NULL, 2);

    for (size_t j = 0; j < plan.n_out; j++) {
        assert_int_equal(plan.keep[j], R + j);
        assert_int_equal(plan.begin[j + 1] - plan.begin[j], j < 3 ? 1 + R : 1);
    }
    free_plan(&plan);
    guard_free(q.data);
}

/* Without text and with nothing in front, each row of probabilities sums to 1: all scores tie. */
static void probabilities_of_visual_rows_alone_tie(void **state)
{
    enum { V = 61, R = 23 };
    const vtc_ficoco_l_params params = make_params(VTC_FICOCO_PAPER, R);
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    uint64_t seed = 9;
    qk a = make_qk(&seed, VTC_F32, V, false);

    (void)state;
    in.q = &a.q;
    in.k = &a.k;
    in.n_visual = V;
    vtc_plan plan = plan_l(&params, &in, NULL, 2);

    for (size_t i = 0; i < V; i++)
        assert_true(plan.score[i] == plan.score[0]);
    for (size_t j = 0; j < plan.n_out; j++)
        assert_int_equal(plan.keep[j], R + j);
    free_plan(&plan);
    free_qk(&a);
}

static void extremes_of_r_and_of_the_text(void **state)
{
    uint64_t seed = 7;

    (void)state;
    for (size_t n = 0; n < 12; n++)
        for (size_t profile = 0; profile < 3; profile++)
            for (int all = 0; all < 2; all++) {
                const vtc_ficoco_l_params params = make_params(profile, all ? n : 0);
                vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
                qk a = make_qk(&seed, VTC_F32, n + 2, false);

                in.q = &a.q;
                in.k = &a.k;
                in.v_start = n % 3;
                in.n_visual = n;
                vtc_plan plan = plan_l(&params, &in, NULL, 1);

                assert_int_equal(plan.n_out, all ? 0 : n);
                for (size_t i = 0; i < n; i++)
                    assert_int_equal(plan.fate[i], all ? -1 : (int32_t)i);
                free_plan(&plan);
                free_qk(&a);
            }
}

static void nothing_is_planned_without_memory(void **state)
{
    const vtc_tensor none = vtc_f32_2d(NULL, 0, 0);
    const vtc_ficoco_l_params params = make_params(VTC_FICOCO_FIXED, 0);
    vtc_ficoco_l_inputs in = VTC_FICOCO_L_INPUTS_INIT;
    vtc_plan plan = VTC_PLAN_INIT;
    size_t bytes;

    (void)state;
    in.s = &none;
    assert_int_equal(vtc_ficoco_l_scratch(&params, &in, NULL, &bytes), VTC_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(vtc_ficoco_l(&params, &in, &plan, NULL, NULL), VTC_OK);
    assert_int_equal(plan.n_out, 0);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct broken {
    vtc_ficoco_l_params params;
    vtc_ficoco_l_inputs in;
    qk a;
    vtc_plan plan;
    vtc_plan_count count;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b, size_t profile)
{
    const vtc_ficoco_l_inputs inputs = VTC_FICOCO_L_INPUTS_INIT;
    uint64_t seed = 8;
    size_t bytes;

    b->params = make_params(profile, 5);
    b->a = make_qk(&seed, VTC_F32, 20, false);
    guard_writable(b->a.q.data);
    guard_writable(b->a.k.data);
    b->in = inputs;
    b->in.q = &b->a.q;
    b->in.k = &b->a.k;
    b->in.v_start = 2;
    b->in.n_visual = 12;
    assert_int_equal(vtc_ficoco_l_count(&b->params, 12, &b->count, NULL), VTC_OK);
    b->plan = empty_plan(b->count.n_in, b->count.n_out, b->count.n_nnz);
    b->exec = test_exec(2);
    assert_int_equal(vtc_ficoco_l_scratch(&b->params, &b->in, &b->exec, &bytes), VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->plan.keep, b->count.n_out * sizeof(int32_t));
    poison(b->plan.mass, b->count.n_out * sizeof(float));
    poison(b->plan.score, b->count.n_in * sizeof(float));
}

static void refuse(broken *b, vtc_status want, const char *part)
{
    assert_failed(&b->log, vtc_ficoco_l(&b->params, &b->in, &b->plan, NULL, &b->exec), want, part);
    assert_true(is_poisoned(b->plan.keep, b->count.n_out * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.mass, b->count.n_out * sizeof(float)));
    assert_true(is_poisoned(b->plan.score, b->count.n_in * sizeof(float)));
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    free_qk(&b->a);
}

static void bad_calls_leave_outputs_untouched(void **state)
{
    broken b;

    (void)state;
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.n_discard = 13;
    refuse(&b, VTC_ERR_BUDGET, "13 of 12");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.v_start = 9;
    refuse(&b, VTC_ERR_SHAPE, "sequence of 20");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.n_text = 7;
    refuse(&b, VTC_ERR_SHAPE, "7 of text");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.n_visual = (size_t)-1;
    refuse(&b, VTC_ERR_SHAPE, "visual rows");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.gamma = NAN;
    refuse(&b, VTC_ERR_RANGE, "gamma");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.k = NULL;
    refuse(&b, VTC_ERR_NULL, "q or k");
    for (size_t profile = 0; profile < 3; profile++) {
        set_up(&b, profile);
        ((float *)b.a.k.data)[5 * b.a.k.stride[1]] = NAN;
        refuse(&b, VTC_ERR_DATA, "NaN");
    }
    set_up(&b, VTC_FICOCO_FIXED); /* only the correlations see the queries of the text */
    ((float *)b.a.q.data)[19 * b.a.q.stride[1]] = NAN;
    refuse(&b, VTC_ERR_DATA, "correlations");
    set_up(&b, VTC_FICOCO_FIXED);
    b.exec.scratch_size--;
    refuse(&b, VTC_ERR_SCRATCH, "needs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_equal_the_reference),
        cmocka_unit_test(large_plans_equal_the_reference),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mass_is_conserved_and_constants_stay),
        cmocka_unit_test(official_adds_without_dividing),
        cmocka_unit_test(ties_go_to_the_lower_row),
        cmocka_unit_test(probabilities_of_visual_rows_alone_tie),
        cmocka_unit_test(extremes_of_r_and_of_the_text),
        cmocka_unit_test(nothing_is_planned_without_memory),
        cmocka_unit_test(bad_calls_leave_outputs_untouched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
