/* FiCoCo-V as released: score memory, score order, outputs that are not the target. */
#include "ficoco_cases.h"

static bool check_case(uint64_t *seed, size_t n, size_t side, float *memory, size_t r)
{
    static const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const vtc_dtype dtype = dtypes[rng_below(seed, 3)];
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_OFFICIAL, r);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    qk a = make_qk(seed, dtype, n + 1, false);
    float *expected = malloc(side * side * sizeof(*expected));
    double mass[400];
    float *masses = random_masses(seed, n + 1, mass);
    ficoco_rules rules = { .r = r,
                           .official = true,
                           .l2 = true,
                           .lam = 0.65,
                           .coef = 2.0,
                           .side = side,
                           .memory = expected };
    vtc_tensor s = { 0 };

    params.eps = (float[]){ 0.998f, 0.9f, 0.6f, 1.0f }[rng_below(seed, 4)];
    rules.eps = params.eps;
    memcpy(expected, memory, side * side * sizeof(*expected));
    in.q = &a.q;
    in.k = &a.k;
    in.scale = a.scale;
    in.mass = masses;
    in.memory = memory;
    in.n_cells = side * side;
    if (rng_below(seed, 3) == 0) {
        s = matrix_of(a.s, n + 1, dtype, 1);
        in.s = &s;
    }
    ficoco_reference want = ficoco_reference_v(a.s, n + 1, NULL, mass, &rules);
    const bool clear = want.margin > FICOCO_MARGIN && !want.impossible && r != 0;

    if (clear) {
        vtc_plan plan = plan_v(&params, &in, NULL, rng_below(seed, 4));

        assert_ficoco_plan(&plan, &want);
        for (size_t c = 0; c < side * side; c++)
            assert_near("memory", c, memory[c], expected[c]);
        assert_true(plan.keep[plan.n_out - 1] == 0); /* [CLS] goes last */
        free_plan(&plan);
    }
    free(expected);
    ficoco_reference_free(&want);
    free_qk(&a);
    guard_free(masses);
    guard_free(s.data);
    return clear;
}

static void random_layers_on_one_memory_equal_the_reference(void **state)
{
    uint64_t seed = 1;
    int n_clear = 0;

    (void)state;
    for (int image = 0; image < 60; image++) {
        const size_t side = 2 + rng_below(&seed, 9);
        size_t n = 1 + rng_below(&seed, 2 * side * side);
        float *memory = guard_alloc(side * side * sizeof(*memory));

        for (size_t c = 0; c < side * side; c++)
            memory[c] = 1e9f;
        for (int layer = 0; layer < 5; layer++) {
            const size_t r = rng_below(&seed, n / 2 + 2);

            if (r > n)
                break;
            n_clear += check_case(&seed, n, side, memory, r);
            n -= r;
            if (n == 0)
                break;
        }
        guard_free(memory);
    }
    assert_true(n_clear > 80);
}

static vtc_plan official(const qk *a, float *memory, size_t n_cells, size_t r, float eps,
                         vtc_ficoco_cls cls)
{
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_OFFICIAL, r);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    const vtc_tensor cls_q = row_of_heads(&a->q, 0), cls_k = row_of_heads(&a->k, 0);
    const vtc_tensor q = rows_from(&a->q, 1), k = rows_from(&a->k, 1);

    params.eps = eps;
    in.cls = cls;
    in.q = cls == VTC_FICOCO_CLS_APART ? &q : &a->q;
    in.k = cls == VTC_FICOCO_CLS_APART ? &k : &a->k;
    in.cls_q = &cls_q;
    in.cls_k = &cls_k;
    in.memory = memory;
    in.n_cells = n_cells;
    return plan_v(&params, &in, NULL, 1);
}

static void without_a_memory_there_is_a_fresh_one(void **state)
{
    float memory[VTC_FICOCO_CELLS];
    uint64_t seed = 2;
    qk a = make_qk(&seed, VTC_F32, 60, false);

    (void)state;
    for (size_t c = 0; c < VTC_FICOCO_CELLS; c++)
        memory[c] = VTC_FICOCO_FAR_SCORE;
    vtc_plan x = official(&a, NULL, 0, 20, 0.9f, VTC_FICOCO_CLS_ROW);
    vtc_plan y = official(&a, memory, VTC_FICOCO_CELLS, 20, 0.9f, VTC_FICOCO_CLS_ROW);
    vtc_plan z = official(&a, memory, VTC_FICOCO_CELLS, 20, 0.9f, VTC_FICOCO_CLS_ROW);

    assert_same_plan(&x, &y);
    /* the memory of the first call shows in the second */
    assert_true(memcmp(y.score, z.score, y.n_in * sizeof(*y.score)) != 0);
    free_plan(&x);
    free_plan(&y);
    free_plan(&z);
    free_qk(&a);
}

/* With [CLS] apart the plan is the same without row and column of it. */
static void an_absent_cls_takes_its_shares_with_it(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 20; round++) {
        qk a = make_qk(&seed, round % 2 == 0 ? VTC_F32 : VTC_F16, 50, false);
        vtc_plan x = official(&a, NULL, 0, 15, 0.9f, VTC_FICOCO_CLS_ROW);
        vtc_plan y = official(&a, NULL, 0, 15, 0.9f, VTC_FICOCO_CLS_APART);
        dense_plan dx = dense_of(&x), dy = dense_of(&y);

        assert_int_equal(y.n_out + 1, x.n_out);
        for (size_t j = 0; j < y.n_out; j++) {
            assert_int_equal(y.keep[j] + 1, x.keep[j]);
            assert_true(y.mass[j] == x.mass[j]);
            for (size_t i = 0; i < y.n_in; i++)
                assert_true(dy.weight[j * y.n_in + i] == dx.weight[j * x.n_in + i + 1]);
        }
        dense_free(&dx);
        dense_free(&dy);
        free_plan(&x);
        free_plan(&y);
        free_qk(&a);
    }
}

static void no_correlation_above_the_quantile_recycles_nothing(void **state)
{
    uint64_t seed = 4;
    qk a = make_qk(&seed, VTC_F32, 30, false);
    vtc_plan plan = official(&a, NULL, 0, 10, 1.0f, VTC_FICOCO_CLS_ROW);

    (void)state;
    for (size_t j = 0; j < plan.n_out; j++)
        assert_true(plan.mass[j] == 1.0f);
    free_plan(&plan);
    free_qk(&a);
}

/* Of 10 rows 8 are discarded: targets 2 .. 7 have no output in the released code. */
static void a_target_without_an_output_is_refused(void **state)
{
    const vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_OFFICIAL, 8);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    uint64_t seed = 5;
    int n_refused = 0;

    (void)state;
    for (int round = 0; round < 5; round++) {
        qk a = make_qk(&seed, VTC_F32, 10, false);
        vtc_plan_count count;
        vtc_exec exec = test_exec(1);
        error_log log;
        size_t bytes;

        in.q = &a.q;
        in.k = &a.k;
        vtc_plan plan = v_plan_for(&params, &in, &count);

        poison(plan.keep, count.n_out * sizeof(int32_t));
        assert_int_equal(vtc_ficoco_v_scratch(&params, &in, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        record_errors(&exec, &log);
        const vtc_status status = vtc_ficoco_v(&params, &in, &plan, NULL, &exec);

        if (status != VTC_OK) {
            assert_failed(&log, status, VTC_ERR_RANGE, "of 10 rows, 8 of them");
            assert_true(is_poisoned(plan.keep, count.n_out * sizeof(int32_t)));
            n_refused++;
        }
        exec_scratch_free(&exec);
        free_plan(&plan);
        free_qk(&a);
    }
    assert_true(n_refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_layers_on_one_memory_equal_the_reference),
        cmocka_unit_test(without_a_memory_there_is_a_fresh_one),
        cmocka_unit_test(an_absent_cls_takes_its_shares_with_it),
        cmocka_unit_test(no_correlation_above_the_quantile_recycles_nothing),
        cmocka_unit_test(a_target_without_an_output_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
