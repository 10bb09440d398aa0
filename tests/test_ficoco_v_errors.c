/* FiCoCo-V: what is refused, with all outputs untouched. */
#include "ficoco_cases.h"

/* A call that can be spoilt in one place; every output is poisoned. */
typedef struct broken {
    vtc_ficoco_v_params params;
    vtc_ficoco_v_inputs in;
    qk a;
    float mass[17], memory[16];
    int32_t pos[16], discard[16];
    vtc_plan plan;
    vtc_plan_count count;
    vtc_ficoco_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b, size_t profile)
{
    const vtc_ficoco_v_inputs inputs = VTC_FICOCO_V_INPUTS_INIT;
    const vtc_ficoco_trace trace = VTC_FICOCO_TRACE_INIT;
    uint64_t seed = 10;
    size_t bytes;

    b->params = make_v_params(profile, 4);
    b->a = make_qk(&seed, VTC_F32, 17, false);
    guard_writable(b->a.q.data);
    guard_writable(b->a.k.data);
    b->in = inputs;
    b->in.q = &b->a.q;
    b->in.k = &b->a.k;
    b->in.grid_h = b->in.grid_w = 4;
    b->in.pos = b->pos;
    b->in.mass = b->mass;
    b->in.memory = b->memory;
    b->in.n_cells = 16;
    for (size_t i = 0; i < 17; i++)
        b->mass[i] = 1.0f;
    for (int32_t i = 0; i < 16; i++) {
        b->pos[i] = i;
        b->memory[i] = 1e9f;
    }
    b->trace = trace;
    b->trace.discard = b->discard;
    b->plan = v_plan_for(&b->params, &b->in, &b->count);
    b->exec = test_exec(2);
    assert_int_equal(vtc_ficoco_v_scratch(&b->params, &b->in, &b->exec, &bytes), VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->discard, sizeof(b->discard));
    poison(b->plan.keep, b->count.n_out * sizeof(int32_t));
    poison(b->plan.mass, b->count.n_out * sizeof(float));
    poison(b->plan.score, b->count.n_in * sizeof(float));
    poison(b->plan.begin, (b->count.n_out + 1) * sizeof(int32_t));
    poison(b->plan.weight, b->count.n_nnz * sizeof(float));
}

static void refuse(broken *b, vtc_status want, const char *part)
{
    assert_failed(&b->log, vtc_ficoco_v(&b->params, &b->in, &b->plan, &b->trace, &b->exec), want,
                  part);
    assert_true(is_poisoned(b->discard, sizeof(b->discard)));
    assert_true(is_poisoned(b->plan.keep, b->count.n_out * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.mass, b->count.n_out * sizeof(float)));
    assert_true(is_poisoned(b->plan.score, b->count.n_in * sizeof(float)));
    assert_true(is_poisoned(b->plan.begin, (b->count.n_out + 1) * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.weight, b->count.n_nnz * sizeof(float)));
    for (size_t i = 0; i < 16; i++)
        assert_true(b->memory[i] == 1e9f || isnan(b->memory[i]));
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    free_qk(&b->a);
}

static void bad_arguments_are_refused(void **state)
{
    broken b;
    vtc_tensor bent;

    (void)state;
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.n_discard = 17;
    refuse(&b, VTC_ERR_BUDGET, "17 of 16");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.profile = 3;
    refuse(&b, VTC_ERR_RANGE, "profile is 3");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.eps = 1.5f;
    refuse(&b, VTC_ERR_RANGE, "eps is 1.5");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.eps = NAN;
    refuse(&b, VTC_ERR_RANGE, "eps is");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.lam = 2.0f;
    refuse(&b, VTC_ERR_RANGE, "lam is 2");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.coef = 0.0f;
    refuse(&b, VTC_ERR_RANGE, "coefficient is 0");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.window = 0;
    refuse(&b, VTC_ERR_RANGE, "window");
    set_up(&b, VTC_FICOCO_FIXED);
    b.params.linear = 3;
    refuse(&b, VTC_ERR_RANGE, "linear is 3");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.q = NULL;
    refuse(&b, VTC_ERR_NULL, "q or k");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.cls = VTC_FICOCO_CLS_APART;
    refuse(&b, VTC_ERR_NULL, "cls_q");
    set_up(&b, VTC_FICOCO_OFFICIAL);
    b.in.cls = VTC_FICOCO_CLS_NONE;
    refuse(&b, VTC_ERR_UNSUPPORTED, "[CLS]");
    set_up(&b, VTC_FICOCO_OFFICIAL);
    b.in.n_cells = 15;
    refuse(&b, VTC_ERR_SHAPE, "15 cells");
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.grid_w = 3;
    refuse(&b, VTC_ERR_RANGE, "pos[12] is 12");
    set_up(&b, VTC_FICOCO_FIXED);
    b.pos[3] = -1;
    refuse(&b, VTC_ERR_RANGE, "pos[3] is -1");
    set_up(&b, VTC_FICOCO_FIXED);
    bent = rows_from(&b.a.k, 1);
    b.in.k = &bent;
    refuse(&b, VTC_ERR_SHAPE, "k has 16");
    set_up(&b, VTC_FICOCO_FIXED);
    bent = b.a.k;
    bent.dim[2]--;
    b.in.k = &bent;
    refuse(&b, VTC_ERR_SHAPE, "wide");
    set_up(&b, VTC_FICOCO_FIXED);
    bent = b.a.k;
    bent.dim[0] = 0;
    b.in.k = &bent;
    refuse(&b, VTC_ERR_SHAPE, "0 key heads");
    set_up(&b, VTC_FICOCO_FIXED);
    b.exec.scratch_size--;
    refuse(&b, VTC_ERR_SCRATCH, "needs");
    set_up(&b, VTC_FICOCO_FIXED);
    b.plan.cap_nnz--;
    refuse(&b, VTC_ERR_ROOM, "entries");
    set_up(&b, VTC_FICOCO_FIXED);
    b.mass[2] = -1.0f;
    refuse(&b, VTC_ERR_DATA, "mass[2]");
}

static void shared_memory_is_refused(void **state)
{
    broken b;

    (void)state;
    set_up(&b, VTC_FICOCO_FIXED);
    b.trace.target = (int32_t *)b.a.q.data;
    refuse(&b, VTC_ERR_OVERLAP, "target of the trace overlaps q");
    set_up(&b, VTC_FICOCO_FIXED);
    b.trace.pos = b.discard + 1;
    refuse(&b, VTC_ERR_OVERLAP, "pos of the trace overlaps discard");
    for (size_t profile = 0; profile < 2; profile++) { /* the memory is written by one of them */
        set_up(&b, profile);
        float *mass = b.plan.mass;

        b.plan.mass = profile == VTC_FICOCO_OFFICIAL ? b.memory : b.mass;
        assert_failed(&b.log, vtc_ficoco_v(&b.params, &b.in, &b.plan, &b.trace, &b.exec),
                      VTC_ERR_OVERLAP, "overlaps mass of the plan");
        b.plan.mass = mass;
        exec_scratch_free(&b.exec);
        free_plan(&b.plan);
        free_qk(&b.a);
    }
}

static void bad_data_are_refused(void **state)
{
    broken b;

    (void)state;
    for (size_t profile = 0; profile < 3; profile++) {
        set_up(&b, profile);
        ((float *)b.a.q.data)[b.a.q.stride[1] * 5] = NAN;
        refuse(&b, VTC_ERR_DATA, "NaN");
        set_up(&b, profile);
        ((float *)b.a.k.data)[b.a.k.stride[1] * 7 + 1] = INFINITY;
        refuse(&b, VTC_ERR_DATA, "row");
        set_up(&b, profile);
        ((float *)b.a.q.data)[0] = NAN; /* the query of [CLS] */
        refuse(&b, VTC_ERR_DATA, "NaN");
    }
    set_up(&b, VTC_FICOCO_OFFICIAL); /* only the correlations see the key of [CLS] */
    ((float *)b.a.k.data)[0] = NAN;
    refuse(&b, VTC_ERR_DATA, "correlations");
    set_up(&b, VTC_FICOCO_OFFICIAL);
    b.memory[4] = NAN;
    refuse(&b, VTC_ERR_DATA, "memory[4]");
}

static void a_key_without_direction_stands_for_no_cls(void **state)
{
    broken b;

    (void)state;
    set_up(&b, VTC_FICOCO_FIXED);
    b.in.cls = VTC_FICOCO_CLS_NONE;
    b.in.grid_h = 5;
    b.in.pos = NULL;
    b.in.mass = NULL;
    for (size_t g = 0; g < b.a.n_groups; g++)
        memset((float *)b.a.k.data + g * b.a.k.stride[0] + 3 * b.a.k.stride[1], 0,
               b.a.d * sizeof(float));
    free_plan(&b.plan);
    exec_scratch_free(&b.exec);
    b.plan = v_plan_for(&b.params, &b.in, &b.count);
    size_t bytes;

    assert_int_equal(vtc_ficoco_v_scratch(&b.params, &b.in, &b.exec, &bytes), VTC_OK);
    exec_scratch(&b.exec, bytes);
    assert_failed(&b.log, vtc_ficoco_v(&b.params, &b.in, &b.plan, NULL, &b.exec), VTC_ERR_DATA,
                  "key 3");
    exec_scratch_free(&b.exec);
    free_plan(&b.plan);
    free_qk(&b.a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(shared_memory_is_refused),
        cmocka_unit_test(bad_data_are_refused),
        cmocka_unit_test(a_key_without_direction_stands_for_no_cls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
