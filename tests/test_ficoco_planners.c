/* FiCoCo's rows of the planner table, its schedule, and V followed by L. */
#include "ficoco_cases.h"
#include "support/cascade.h"

/* ---- the table ------------------------------------------------------------------------------- */

static vtc_plan plan_row(const char *name, const void *params, const vtc_plan_inputs *in,
                         size_t n_keep, int32_t *out_begin)
{
    const vtc_planner *planner = vtc_planner_find(name);
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_exec exec = test_exec(2);
    vtc_plan_count count;
    size_t bytes;

    assert_int_equal(vtc_planner_count(planner, params, in, &budget, &count, NULL), VTC_OK);
    assert_int_equal(count.exact, 1);
    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    assert_int_equal(vtc_planner_scratch(planner, params, in, &budget, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, params, in, &budget, &plan, out_begin, &exec),
                     VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static void the_row_of_v_is_the_function_on_patches(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (size_t profile = 0; profile < 3; profile++)
        for (int cls = 0; cls < 2; cls++) {
            vtc_ficoco_v_params params = make_v_params(profile, 11);
            vtc_ficoco_v_inputs v = VTC_FICOCO_V_INPUTS_INIT;
            vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
            qk a = make_qk(&seed, VTC_F32, 37, false);
            const vtc_tensor cls_q = row_of_heads(&a.q, 0), cls_k = row_of_heads(&a.k, 0);
            const vtc_tensor q = rows_from(&a.q, 1), k = rows_from(&a.k, 1);

            if (cls == 0 && profile == VTC_FICOCO_OFFICIAL) {
                free_qk(&a);
                continue;
            }
            v.cls = cls ? VTC_FICOCO_CLS_APART : VTC_FICOCO_CLS_NONE;
            v.q = in.queries = &q;
            v.k = in.keys = &k;
            v.cls_q = in.cls_query = cls ? &cls_q : NULL;
            v.cls_k = in.cls_key = cls ? &cls_k : NULL;
            v.scale = in.scale = a.scale;
            v.grid_h = v.grid_w = in.grid_h = in.grid_w = 6;
            vtc_plan x = plan_v(&params, &v, NULL, 1);
            params.n_discard = 99; /* the budget decides */
            vtc_plan y = plan_row("ficoco-v", &params, &in, 25, NULL);

            assert_same_plan(&x, &y);
            free_plan(&x);
            free_plan(&y);
            free_qk(&a);
        }
}

/* Two images in one sequence, text behind them. */
static void a_batch_of_l_is_its_images(void **state)
{
    enum { START = 3, N = 20, TEXT = 7 };
    const int32_t begin[3] = { 0, N, 2 * N };
    uint64_t seed = 2;

    (void)state;
    for (size_t profile = 0; profile < 3; profile++) {
        vtc_ficoco_l_params params = VTC_FICOCO_L_PARAMS_INIT;
        vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
        qk a = make_qk(&seed, VTC_F32, START + 2 * N + TEXT, false);
        int32_t out_begin[3];

        params.profile = profile;
        params.n_discard = 8;
        in.begin = begin;
        in.n_images = 2;
        in.lm_query = &a.q;
        in.lm_keys = &a.k;
        in.scale = a.scale;
        in.v_start = START;
        in.n_text = TEXT;
        vtc_plan both = plan_row("ficoco-l", &params, &in, 12, out_begin);

        assert_int_equal(out_begin[1], 12);
        assert_int_equal(out_begin[2], 24);
        for (size_t b = 0; b < 2; b++) {
            vtc_ficoco_l_inputs one = VTC_FICOCO_L_INPUTS_INIT;
            vtc_exec exec = test_exec(1);
            vtc_plan_count count;
            size_t bytes;

            one.q = &a.q;
            one.k = &a.k;
            one.scale = a.scale;
            one.v_start = START + b * N;
            one.n_visual = N;
            one.n_text = TEXT;
            assert_int_equal(vtc_ficoco_l_count(&params, N, &count, NULL), VTC_OK);
            vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
            assert_int_equal(vtc_ficoco_l_scratch(&params, &one, &exec, &bytes), VTC_OK);
            exec_scratch(&exec, bytes);
            assert_int_equal(vtc_ficoco_l(&params, &one, &plan, NULL, &exec), VTC_OK);
            for (size_t j = 0; j < 12; j++) {
                assert_int_equal(both.keep[12 * b + j], plan.keep[j] + (int32_t)(N * b));
                assert_true(both.mass[12 * b + j] == plan.mass[j]);
            }
            exec_scratch_free(&exec);
            free_plan(&plan);
        }
        free_plan(&both);
        free_qk(&a);
    }
}

static void bad_data_of_the_last_image_leave_the_plan_untouched(void **state)
{
    const int32_t begin[3] = { 0, 16, 32 };
    const vtc_planner *planner = vtc_planner_find("ficoco-v");
    const vtc_budget budget = vtc_budget_keep(10);
    vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
    uint64_t seed = 3;
    qk a = make_qk(&seed, VTC_F32, 32, false);
    vtc_exec exec = test_exec(2);
    error_log log;
    vtc_plan_count count;
    size_t bytes;

    (void)state;
    guard_writable(a.k.data);
    ((float *)a.k.data)[20 * a.k.stride[1]] = NAN;
    in.begin = begin;
    in.n_images = 2;
    in.queries = &a.q;
    in.keys = &a.k;
    in.grid_h = in.grid_w = 4;
    assert_int_equal(vtc_planner_count(planner, NULL, &in, &budget, &count, NULL), VTC_OK);
    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    assert_int_equal(vtc_planner_scratch(planner, NULL, &in, &budget, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    record_errors(&exec, &log);
    poison(plan.keep, count.n_out * sizeof(int32_t));
    assert_failed(&log, vtc_planner_plan(planner, NULL, &in, &budget, &plan, NULL, &exec),
                  VTC_ERR_DATA, "");
    assert_true(is_poisoned(plan.keep, count.n_out * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
    free_qk(&a);
}

static void without_n_text_all_behind_the_image_counts_as_text(void **state)
{
    enum { START = 3, N = 20, TEXT = 7 };
    const vtc_planner *planner = vtc_planner_find("ficoco-l");
    const vtc_budget budget = vtc_budget_keep(12);
    uint64_t seed = 5;
    qk a = make_qk(&seed, VTC_F32, START + N + TEXT, false);
    vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
    double told, found;

    (void)state;
    in.n_rows = N;
    in.lm_query = &a.q;
    in.lm_keys = &a.k;
    in.v_start = START;
    assert_int_equal(vtc_planner_cost(planner, NULL, &in, &budget, &found, NULL), VTC_OK);
    in.n_text = TEXT;
    assert_int_equal(vtc_planner_cost(planner, NULL, &in, &budget, &told, NULL), VTC_OK);
    assert_true(found == told);
    free_qk(&a);
}

static void what_a_row_lacks_is_refused(void **state)
{
    vtc_plan_inputs in = VTC_PLAN_INPUTS_INIT;
    const vtc_budget budget = vtc_budget_keep(10), high = vtc_budget_keep(17);
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_OFFICIAL, 0);
    uint64_t seed = 4;
    qk a = make_qk(&seed, VTC_F32, 16, false);
    vtc_exec exec = test_exec(1);
    error_log log;
    vtc_plan_count count;

    (void)state;
    in.keys = &a.k;
    in.grid_h = in.grid_w = 4;
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_planner_count(vtc_planner_find("ficoco-v"), NULL, &in, &budget, &count,
                                    &exec),
                  VTC_ERR_NULL, "queries");
    in.queries = &a.q;
    log.count = 0;
    assert_failed(&log,
                  vtc_planner_count(vtc_planner_find("ficoco-v"), &params, &in, &budget, &count,
                                    &exec),
                  VTC_ERR_UNSUPPORTED, "[CLS]");
    log.count = 0;
    assert_failed(&log,
                  vtc_planner_count(vtc_planner_find("ficoco-v"), NULL, &in, &high, &count, &exec),
                  VTC_ERR_BUDGET, "17 of 16");
    free_qk(&a);
}

static void parameters_are_set_by_name(void **state)
{
    const vtc_ficoco_v_params v = VTC_FICOCO_V_PARAMS_INIT;
    const vtc_ficoco_l_params l = VTC_FICOCO_L_PARAMS_INIT;
    vtc_ficoco_v_params v_table;
    vtc_ficoco_l_params l_table;

    (void)state;
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("ficoco-v"), &v_table, NULL), VTC_OK);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("ficoco-l"), &l_table, NULL), VTC_OK);
    assert_true(v_table.profile == v.profile && v_table.lam == v.lam && v_table.coef == v.coef &&
                v_table.eps == v.eps && v_table.window == v.window && v_table.l2 == v.l2 &&
                v_table.linear == v.linear && v_table.n_discard == v.n_discard);
    assert_true(l_table.profile == l.profile && l_table.beta == l.beta &&
                l_table.gamma == l.gamma && l_table.eps == l.eps && l_table.protect == l.protect &&
                l_table.mean_text == l.mean_text);
    assert_int_equal(vtc_planner_params_set(vtc_planner_find("ficoco-v"), &v_table, "profile", 2.0,
                                            NULL),
                     VTC_OK);
    assert_int_equal(v_table.profile, VTC_FICOCO_PAPER);
}

/* Counts and scratch of sizes that no memory holds are errors or large numbers, never wrapped. */
static void enormous_sizes_do_not_wrap(void **state)
{
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_FIXED, (size_t)-1);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    const size_t dim[3] = { 1, (size_t)1 << 40, 1 };
    const vtc_tensor q = vtc_tensor_nd(NULL, VTC_F32, 3, dim);
    vtc_plan_count count;
    size_t bytes;

    (void)state;
    params.eps = 1.0f;
    assert_int_equal(vtc_ficoco_v_count(&params, (size_t)-1, VTC_FICOCO_CLS_NONE, &count, NULL),
                     VTC_OK);
    assert_int_equal(count.n_out, 0);
    params.n_discard = 5;
    assert_int_equal(vtc_ficoco_v_count(&params, (size_t)-1, VTC_FICOCO_CLS_NONE, &count, NULL),
                     VTC_OK);
    assert_true(count.n_nnz == (size_t)-1 || count.n_nnz == count.n_out + 5);
    params.eps = 0.0f;
    assert_int_equal(vtc_ficoco_v_count(&params, (size_t)-1, VTC_FICOCO_CLS_NONE, &count, NULL),
                     VTC_OK);
    assert_true(count.n_nnz == (size_t)-1);
    params.n_discard = (size_t)1 << 39;
    in.cls = VTC_FICOCO_CLS_NONE;
    in.q = in.k = &q;
    assert_int_equal(vtc_ficoco_v_scratch(&params, &in, NULL, &bytes), VTC_ERR_OVERFLOW);
}

/* ---- V, then L ------------------------------------------------------------------------------- */

static two_steps plan_vl(uint64_t *seed, size_t profile, size_t kept_v, size_t kept_l)
{
    enum { SIDE = 6, N = SIDE * SIDE, TEXT = 5 };
    vtc_ficoco_v_params v = make_v_params(profile, 0);
    vtc_ficoco_l_params l = VTC_FICOCO_L_PARAMS_INIT;
    vtc_plan_inputs encoder = VTC_PLAN_INPUTS_INIT, decoder = VTC_PLAN_INPUTS_INIT;
    qk a = make_qk(seed, VTC_F32, N + 1, false);
    qk b = make_qk(seed, VTC_F32, kept_v + TEXT, false);
    const vtc_tensor cls_q = row_of_heads(&a.q, 0), cls_k = row_of_heads(&a.k, 0);
    const vtc_tensor q = rows_from(&a.q, 1), k = rows_from(&a.k, 1);
    two_steps s;

    v.eps = l.eps = 0.9f;
    l.profile = profile;
    encoder.queries = &q;
    encoder.keys = &k;
    encoder.cls_query = &cls_q;
    encoder.cls_key = &cls_k;
    encoder.grid_h = encoder.grid_w = SIDE;
    s.first = plan_row("ficoco-v", &v, &encoder, kept_v, NULL);
    decoder.n_rows = kept_v;
    decoder.mass = s.first.mass;
    decoder.lm_query = &b.q;
    decoder.lm_keys = &b.k;
    decoder.n_text = TEXT;
    s.second = plan_row("ficoco-l", &l, &decoder, kept_l, NULL);
    compose_steps(&s);
    free_qk(&a);
    free_qk(&b);
    return s;
}

static void v_then_l_is_their_composition(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (int round = 0; round < 30; round++) {
        const size_t kept_v = 20 + rng_below(&seed, 17), kept_l = 10 + rng_below(&seed, 11);
        two_steps s = plan_vl(&seed, (size_t)round % 3, kept_v, kept_l);

        check_steps(&s, &seed);
        free_steps(&s);
    }
}

/* ---- schedule -------------------------------------------------------------------------------- */

static void a_schedule_meets_its_target(void **state)
{
    vtc_exec exec = test_exec(1);
    error_log log;

    (void)state;
    for (size_t n_layers = 1; n_layers < 30; n_layers++)
        for (size_t n_keep = 0; n_keep <= 576; n_keep += 64) {
            size_t per_layer[30], total = 0;

            assert_int_equal(vtc_ficoco_schedule(n_layers, 576, n_keep, per_layer, NULL), VTC_OK);
            for (size_t i = 0; i < n_layers; i++) {
                total += per_layer[i];
                assert_true(i == 0 || per_layer[i] <= per_layer[i - 1]);
                assert_true(per_layer[0] - per_layer[i] <= 1);
            }
            assert_int_equal(total, 576 - n_keep);
        }
    assert_int_equal(vtc_ficoco_schedule(0, 5, 5, NULL, NULL), VTC_OK);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_ficoco_schedule(0, 5, 4, NULL, &exec), VTC_ERR_BUDGET, "4 of 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_row_of_v_is_the_function_on_patches),
        cmocka_unit_test(a_batch_of_l_is_its_images),
        cmocka_unit_test(bad_data_of_the_last_image_leave_the_plan_untouched),
        cmocka_unit_test(without_n_text_all_behind_the_image_counts_as_text),
        cmocka_unit_test(what_a_row_lacks_is_refused),
        cmocka_unit_test(parameters_are_set_by_name),
        cmocka_unit_test(enormous_sizes_do_not_wrap),
        cmocka_unit_test(v_then_l_is_their_composition),
        cmocka_unit_test(a_schedule_meets_its_target),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
