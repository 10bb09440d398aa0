/* FiCoCo-V: the fixed and paper profiles, and the laws of its plans. */
#include "ficoco_cases.h"

static ficoco_rules rules_of(const vtc_ficoco_v_params *p, const vtc_ficoco_v_inputs *in)
{
    const bool paper = p->profile == VTC_FICOCO_PAPER;
    ficoco_rules rules = { .r = p->n_discard,
                           .eps = p->eps,
                           .lam = p->lam >= 0.0f ? p->lam
                                  : paper        ? 0.35
                                                 : 0.65,
                           .coef = p->coef,
                           .window = p->window,
                           .grid_h = in->grid_h,
                           .grid_w = in->grid_w,
                           .pos = in->pos };

    rules.l2 = p->l2 == VTC_FICOCO_BY_PROFILE ? !paper : p->l2 == VTC_FICOCO_ON;
    rules.linear = p->linear == VTC_FICOCO_BY_PROFILE ? paper : p->linear == VTC_FICOCO_ON;
    return rules;
}

/* ---- against the reference ------------------------------------------------------------------- */

static int32_t *random_cells(uint64_t *seed, size_t n, size_t n_cells)
{
    int32_t *all = calloc(n_cells + 1, sizeof(*all)), *pos = guard_alloc(n * sizeof(*pos));

    for (size_t i = 0; i < n_cells; i++)
        all[i] = (int32_t)i;
    for (size_t i = 0; i < n; i++) {
        const size_t other = i + rng_below(seed, n_cells - i);
        const int32_t cell = all[other];

        all[other] = all[i];
        pos[i] = all[i] = cell;
    }
    free(all);
    guard_readonly(pos);
    return pos;
}

static void check_trace(const vtc_ficoco_trace *t, const ficoco_reference *want, const int32_t *pos,
                        size_t head)
{
    const size_t n = want->n_in - head, n_kept = n - want->r;

    assert_int_equal(t->n_targets, want->n_targets);
    assert_memory_equal(t->discard, want->discard, want->r * sizeof(*t->discard));
    for (size_t j = 0; j < n_kept; j++) {
        const size_t i = (size_t)want->remain[j + head] - head;

        assert_int_equal(t->pos[j], pos == NULL ? (int32_t)i : pos[i]);
        for (size_t a = 0; a < want->r; a++) {
            const double *row = want->weight + (j + head) * want->n_in;
            const double own = row[want->remain[j + head]], share = row[want->discard[a]] / own;
            float listed = 0.0f;

            for (size_t e = 0; e < t->n_targets; e++)
                if (t->target[a * t->n_targets + e] == want->remain[j + head])
                    listed = t->weight[a * t->n_targets + e];
            assert_near("alpha", a * n_kept + j, t->alpha[a * n_kept + j], share);
            assert_true(listed == t->alpha[a * n_kept + j]);
        }
    }
}

/* Q, K and where [CLS] is in them; `given` takes S instead. Whether margins allowed a comparison.
 */
static bool check_case(uint64_t *seed, size_t profile, vtc_ficoco_cls cls, size_t h, size_t w,
                       bool given)
{
    static const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    const vtc_dtype dtype = dtypes[rng_below(seed, 3)];
    const bool none = cls == VTC_FICOCO_CLS_NONE, apart = cls == VTC_FICOCO_CLS_APART;
    const size_t n = rng_below(seed, 2) == 0 ? h * w : 1 + rng_below(seed, h * w);
    vtc_ficoco_v_params params = make_v_params(profile, rng_below(seed, n + 1));
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    qk a = make_qk(seed, dtype, n + !none, profile == VTC_FICOCO_PAPER);
    vtc_tensor q = a.q, k = a.k, cls_q, cls_k, s = { 0 };
    double mass[300], *keys = values_of(&a.k), *a_cls = NULL;
    int32_t *pos = random_cells(seed, n, h * w);
    float *masses = random_masses(seed, n + !none, mass);
    vtc_plan_count count;

    params.eps = (float[]){ 0.998f, 0.9f, 0.5f, 0.0f, 1.0f }[rng_below(seed, 5)];
    params.window = 1 + rng_below(seed, 3);
    params.coef = 0.5f + (float)rng_below(seed, 3);
    params.l2 = rng_below(seed, 3);
    if (rng_below(seed, 3) == 0)
        params.lam = 0.25f;
    in.cls = cls;
    in.scale = a.scale;
    in.grid_h = h;
    in.grid_w = w;
    in.pos = pos;
    in.mass = masses;
    if (given) {
        s = matrix_of(a.s, a.t, dtype, 2);
        in.s = &s;
    }
    if (none)
        a_cls = ficoco_key_cosine(keys, a.n_groups, a.t, a.d);
    if (apart) { /* the plan has patches only: row 0 of the reference is dropped below */
        cls_q = row_of_heads(&a.q, 0);
        cls_k = row_of_heads(&a.k, 0);
        q = rows_from(&a.q, 1);
        k = rows_from(&a.k, 1);
        in.cls_q = &cls_q;
        in.cls_k = profile == VTC_FICOCO_FIXED && rng_below(seed, 2) == 0 ? NULL : &cls_k;
        in.mass = masses + 1;
    }
    in.q = &q;
    in.k = &k;

    const ficoco_rules rules = rules_of(&params, &in);
    ficoco_reference want = ficoco_reference_v(a.s, a.t, a_cls, mass, &rules);
    const bool clear = want.margin > FICOCO_MARGIN;

    assert_int_equal(vtc_ficoco_v_count(&params, n, cls, &count, NULL), VTC_OK);
    trace_room trace = make_trace(&count, params.n_discard, n);
    vtc_plan plan = plan_v(&params, &in, &trace.t, rng_below(seed, 4));

    if (clear && !apart) {
        assert_ficoco_plan(&plan, &want);
        check_trace(&trace.t, &want, pos, !none);
    } else if (clear) {
        assert_int_equal(plan.n_out + 1, want.n_out);
        for (size_t i = 0; i < n; i++)
            assert_near("score", i, plan.score[i], want.score[i + 1]);
        for (size_t j = 0; j < plan.n_out; j++) {
            assert_int_equal(plan.keep[j], want.remain[j + 1] - 1);
            assert_near("mass", j, plan.mass[j], want.mass[j + 1]);
        }
    }
    for (size_t i = 0; none && i < n; i++)
        assert_near("a_cls", i, trace.t.a_cls[i], a_cls[i]);
    free_plan(&plan);
    free_trace(&trace);
    ficoco_reference_free(&want);
    free_qk(&a);
    free(keys);
    free(a_cls);
    guard_free(pos);
    guard_free(masses);
    guard_free(s.data);
    return clear;
}

static void random_plans_equal_the_reference(void **state)
{
    uint64_t seed = 1;
    int n_clear = 0;

    (void)state;
    for (int round = 0; round < 360; round++) {
        const vtc_ficoco_cls cls = (vtc_ficoco_cls)(round % 3);
        const size_t h = 1 + rng_below(&seed, 6), w = 1 + rng_below(&seed, 6);
        const bool given = cls != VTC_FICOCO_CLS_APART && rng_below(&seed, 3) == 0;

        n_clear += check_case(&seed, round % 2 == 0 ? VTC_FICOCO_FIXED : VTC_FICOCO_PAPER, cls, h,
                              w, given);
    }
    assert_true(n_clear > 200);
}

/* More than a panel of discarded rows, more than a block of keys. */
static void large_plans_equal_the_reference(void **state)
{
    uint64_t seed = 2;
    int n_clear = 0;

    (void)state;
    for (int round = 0; round < 12; round++)
        n_clear += check_case(&seed, VTC_FICOCO_FIXED, (vtc_ficoco_cls)(round % 3), 15, 17, false);
    assert_true(n_clear > 0);
}

/* ---- forms and executors --------------------------------------------------------------------- */

static void plans_from_q_and_k_equal_those_from_the_matrix(void **state)
{
    uint64_t seed = 3;
    int n_clear = 0;

    (void)state;
    for (int round = 0; round < 40; round++) {
        const size_t profile = (size_t)round % 3, n = 36;
        vtc_ficoco_v_params params = make_v_params(profile, rng_below(&seed, 17));
        vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT, given;
        qk a = make_qk(&seed, VTC_F32, n + 1, profile == VTC_FICOCO_PAPER);
        vtc_tensor s = matrix_of(a.s, n + 1, VTC_F32, 0);

        params.eps = 0.9f;
        in.q = &a.q;
        in.k = &a.k;
        in.scale = a.scale;
        in.grid_h = in.grid_w = 6;
        given = in;
        given.s = &s;
        vtc_plan x = plan_v(&params, &in, NULL, 1), y = plan_v(&params, &given, NULL, 1);
        dense_plan dx = dense_of(&x), dy = dense_of(&y);

        if (memcmp(x.keep, y.keep, x.n_out * sizeof(*x.keep)) == 0) {
            n_clear++;
            for (size_t e = 0; e < x.n_out * x.n_in; e++)
                assert_near("weight", e, dx.weight[e], dy.weight[e]);
        }
        dense_free(&dx);
        dense_free(&dy);
        free_plan(&x);
        free_plan(&y);
        guard_free(s.data);
        free_qk(&a);
    }
    assert_true(n_clear >= 38);
}

static void any_executor_gives_the_same_bits(void **state)
{
    static const vtc_dtype dtypes[2] = { VTC_F32, VTC_F16 };
    uint64_t seed = 4;

    (void)state;
    for (size_t round = 0; round < 6; round++) {
        vtc_ficoco_v_params params = make_v_params(round % 3, 90);
        vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
        qk a = make_qk(&seed, dtypes[round / 3], 241, false);

        params.eps = 0.97f;
        in.q = &a.q;
        in.k = &a.k;
        in.grid_h = 15;
        in.grid_w = 16;
        vtc_plan one = plan_v(&params, &in, NULL, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
            vtc_plan many = plan_v(&params, &in, NULL, n_workers);

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
    uint64_t seed = 5;

    (void)state;
    for (size_t profile = 0; profile < 3; profile++) {
        vtc_ficoco_v_params params = make_v_params(profile, 20);
        vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
        qk a = make_qk(&seed, VTC_F32, 65, false);
        double total = 0.0, mass[65];

        in.q = &a.q;
        in.k = &a.k;
        in.grid_h = in.grid_w = 8;
        in.mass = random_masses(&seed, 65, mass);
        vtc_plan plan = plan_v(&params, &in, NULL, 1);

        for (size_t i = 0; i < 65; i++)
            total += mass[i];
        for (size_t j = 0; j < plan.n_out; j++) {
            double sum = 0.0;

            for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++)
                sum += plan.weight[e];
            assert_near("sum of weights", j, sum, 1.0);
            assert_true(profile == VTC_FICOCO_OFFICIAL || j == 0 ||
                        plan.keep[j] > plan.keep[j - 1]);
            total -= plan.mass[j];
        }
        assert_near("mass", 0, total, 0.0);
        free_plan(&plan);
        guard_free((void *)(uintptr_t)in.mass);
        free_qk(&a);
    }
}

static void permuted_patches_make_the_same_choice(void **state)
{
    enum { N = 30 };
    const vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_FIXED, 9);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT, moved;
    uint64_t seed = 6;
    qk a = make_qk(&seed, VTC_F32, N + 1, false);
    int32_t *order = random_cells(&seed, N, N);
    vtc_tensor q = make_tensor(VTC_F32, 3, a.q.dim, 0), k = make_tensor(VTC_F32, 3, a.k.dim, 0);

    (void)state;
    for (size_t i = 0; i < n_elements(&q); i++) {
        const size_t row = i / a.d % (N + 1), from = row == 0 ? 0 : 1 + (size_t)order[row - 1];

        ((float *)q.data)[i] =
            ((float *)a.q
                 .data)[element_at(&a.q, i / a.d / (N + 1) * (N + 1) * a.d + from * a.d + i % a.d)];
    }
    for (size_t i = 0; i < n_elements(&k); i++) {
        const size_t row = i / a.d % (N + 1), from = row == 0 ? 0 : 1 + (size_t)order[row - 1];

        ((float *)k.data)[i] =
            ((float *)a.k
                 .data)[element_at(&a.k, i / a.d / (N + 1) * (N + 1) * a.d + from * a.d + i % a.d)];
    }
    in.q = &a.q;
    in.k = &a.k;
    in.grid_h = 5;
    in.grid_w = 6;
    moved = in;
    moved.q = &q;
    moved.k = &k;
    moved.pos = order;
    vtc_plan x = plan_v(&params, &in, NULL, 1), y = plan_v(&params, &moved, NULL, 1);

    for (size_t j = 1; j < y.n_out; j++) {
        bool found = false;

        for (size_t i = 1; i < x.n_out; i++)
            found |= x.keep[i] == 1 + order[y.keep[j] - 1];
        assert_true(found);
    }
    free_plan(&x);
    free_plan(&y);
    guard_free(q.data);
    guard_free(k.data);
    guard_free(order);
    free_qk(&a);
}

/* All tokens alike: every decision is a tie. */
static void ties_go_to_the_lower_row(void **state)
{
    enum { N = 81, R = 70 };
    const size_t dim[3] = { 2, N + 1, 7 };
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_FIXED, R);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    vtc_tensor q = make_tensor(VTC_F32, 3, dim, 0);
    trace_room trace;
    vtc_plan_count count;
    uint64_t seed = 7;
    float token[7];

    (void)state;
    rng_fill(&seed, token, 7);
    for (size_t i = 0; i < n_elements(&q); i++)
        ((float *)q.data)[i] = token[i % 7];
    params.coef = 1.0f;
    params.eps = 0.7f;
    in.q = in.k = &q;
    in.grid_h = in.grid_w = 9;
    assert_int_equal(vtc_ficoco_v_count(&params, N, in.cls, &count, NULL), VTC_OK);
    trace = make_trace(&count, R, N);
    vtc_plan plan = plan_v(&params, &in, &trace.t, 2);

    for (size_t a = 0; a < R; a++) {
        assert_int_equal(trace.t.discard[a], 1 + a);
        for (size_t e = 0; e < trace.t.n_targets; e++)
            assert_int_equal(trace.t.target[a * trace.t.n_targets + e], 1 + R + e);
    }
    /* 11 kept ones: rank 7 exactly, n - ceil = 4 */
    assert_int_equal(trace.t.n_targets, 4);
    assert_int_equal(plan.begin[plan.n_out], plan.n_out + R * 4);
    free_plan(&plan);
    free_trace(&trace);
    guard_free(q.data);
}

/* ---- few rows and extremes of r -------------------------------------------------------------- */

/* Small integers, whose products and sums have no rounding: rows with other queries but equal sums
 * are ties, although 1 / 7 of them is no float. */
static void sums_that_are_equal_without_rounding_are_ties(void **state)
{
    enum { N = 7, T = N + 1, D = 4 };
    const size_t dim[3] = { 1, T, D };
    vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_FIXED, N);
    vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
    uint64_t seed = 11;
    int n_ties = 0;

    (void)state;
    params.lam = 1.0f;
    params.coef = 1.0f;
    for (int round = 0; round < 60; round++) {
        vtc_tensor q = make_tensor(VTC_F32, 3, dim, 0), k = make_tensor(VTC_F32, 3, dim, 0);
        const float *x = q.data, *y = k.data;
        int32_t sum[N] = { 0 };
        vtc_plan_count count;

        for (size_t i = 0; i < T * D; i++) {
            ((float *)q.data)[i] = (float)rng_below(&seed, 5) - 2.0f;
            ((float *)k.data)[i] = (float)rng_below(&seed, 5) - 2.0f;
        }
        for (size_t e = 0; e < N * N * D; e++)
            sum[e / D / N] +=
                (int32_t)(x[D + e / D / N * D + e % D] * y[D + e / D % N * D + e % D]);
        in.q = &q;
        in.k = &k;
        in.scale = 1.0f;
        in.grid_h = 1;
        in.grid_w = N;
        assert_int_equal(vtc_ficoco_v_count(&params, N, in.cls, &count, NULL), VTC_OK);
        trace_room trace = make_trace(&count, N, N);
        vtc_plan plan = plan_v(&params, &in, &trace.t, 1);

        for (size_t a = 1; a < N; a++) {
            const int32_t before = trace.t.discard[a - 1] - 1, here = trace.t.discard[a] - 1;

            assert_true(sum[before] >= sum[here]);
            if (sum[before] == sum[here]) {
                assert_true(before < here);
                n_ties++;
            }
        }
        free_plan(&plan);
        free_trace(&trace);
        guard_free(q.data);
        guard_free(k.data);
    }
    assert_true(n_ties > 10);
}

static void nothing_to_discard_is_the_identity_with_scores(void **state)
{
    uint64_t seed = 8;

    (void)state;
    for (size_t n = 0; n < 20; n += 6)
        for (size_t profile = 0; profile < 3; profile++) {
            const vtc_ficoco_v_params params = make_v_params(profile, 0);
            vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
            qk a = make_qk(&seed, VTC_F32, n + 1, false);
            float memory[16];

            for (size_t c = 0; c < 16; c++)
                memory[c] = (float)c;
            in.q = &a.q;
            in.k = &a.k;
            in.grid_h = 1;
            in.grid_w = n;
            in.memory = memory;
            in.n_cells = 16;
            vtc_plan plan = plan_v(&params, &in, NULL, 1);

            assert_int_equal(plan.n_out, n + 1);
            for (size_t i = 0; i <= n; i++)
                assert_int_equal(plan.keep[i], i);
            for (size_t c = 0; c < 16; c++)
                assert_true(memory[c] == (float)c);
            assert_true(plan.score[0] == -INFINITY);
            free_plan(&plan);
            free_qk(&a);
        }
}

static void discarding_all_recycles_nothing(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (size_t n = 0; n < 14; n++)
        for (int none = 0; none < 2; none++) {
            const vtc_ficoco_v_params params = make_v_params(VTC_FICOCO_FIXED, n);
            vtc_ficoco_v_inputs in = VTC_FICOCO_V_INPUTS_INIT;
            qk a = make_qk(&seed, VTC_F32, n + !none, false);

            in.cls = none ? VTC_FICOCO_CLS_NONE : VTC_FICOCO_CLS_ROW;
            in.q = &a.q;
            in.k = &a.k;
            in.grid_h = 1;
            in.grid_w = n;
            vtc_plan plan = plan_v(&params, &in, NULL, 1);

            assert_int_equal(plan.n_out, !none);
            for (size_t i = !none; i < plan.n_in; i++)
                assert_int_equal(plan.fate[i], -1);
            free_plan(&plan);
            free_qk(&a);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_equal_the_reference),
        cmocka_unit_test(large_plans_equal_the_reference),
        cmocka_unit_test(plans_from_q_and_k_equal_those_from_the_matrix),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mass_is_conserved_and_constants_stay),
        cmocka_unit_test(permuted_patches_make_the_same_choice),
        cmocka_unit_test(ties_go_to_the_lower_row),
        cmocka_unit_test(sums_that_are_equal_without_rounding_are_ties),
        cmocka_unit_test(nothing_to_discard_is_the_identity_with_scores),
        cmocka_unit_test(discarding_all_recycles_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
