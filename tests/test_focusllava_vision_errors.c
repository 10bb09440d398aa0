/* FocusLLaVA's vision-guided sampler: what is refused. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

static const vtc_focusllava_vision_params defaults = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;

typedef struct broken {
    vtc_focusllava_vision_params params;
    vtc_tensor x;
    vtc_linear router;
    float mass[20];
    vtc_plan plan;
    int32_t boxes[80];
    vtc_focusllava_vision_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b, vtc_focusllava_route route)
{
    const vtc_focusllava_vision_trace trace = VTC_FOCUSLLAVA_VISION_TRACE_INIT;
    const size_t dim[3] = { 4, 5, 3 }, router_dim[2] = { 3, 6 };
    size_t bytes;

    b->params = defaults;
    b->params.route = route;
    b->x = make_tensor(VTC_F32, 3, dim, 0);
    b->router.weight = make_tensor(VTC_F32, 2, router_dim, 0);
    b->router.bias = make_tensor(VTC_F32, 1, router_dim, 0);
    for (size_t i = 0; i < 60; i++)
        ((float *)b->x.data)[i] = (float)(i % 7) - 2.0f;
    for (size_t i = 0; i < 18; i++)
        ((float *)b->router.weight.data)[i] = (float)i;
    memset(b->router.bias.data, 0, 3 * sizeof(float));
    for (size_t i = 0; i < 20; i++)
        b->mass[i] = 1.0f;
    b->plan = empty_plan(20, 20, 20);
    b->trace = trace;
    b->trace.boxes = b->boxes;
    b->exec = test_exec(2);
    assert_int_equal(vtc_focusllava_vision_scratch(&b->params, &b->x, &b->router, &b->exec, &bytes),
                     VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->plan.keep, 20 * sizeof(int32_t));
    poison(b->plan.begin, 21 * sizeof(int32_t));
    poison(b->plan.source, 20 * sizeof(int32_t));
    poison(b->plan.score, 20 * sizeof(float));
    poison(b->boxes, sizeof(b->boxes));
}

static void refused(broken *b, vtc_status status, const char *part)
{
    assert_failed(&b->log,
                  vtc_focusllava_vision(&b->params, &b->x, &b->router, b->mass, &b->plan, &b->trace,
                                        &b->exec),
                  status, part);
    assert_true(is_poisoned(b->plan.keep, 20 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.begin, 21 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.source, 20 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.score, 20 * sizeof(float)));
    assert_true(is_poisoned(b->boxes, sizeof(b->boxes)));
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    guard_free(b->x.data);
    guard_free(b->router.weight.data);
    guard_free(b->router.bias.data);
}

#define REFUSE(route, change, want, part)   \
    do {                                    \
        broken b;                           \
        set_up(&b, VTC_FOCUSLLAVA_##route); \
        change;                             \
        refused(&b, want, part);            \
    } while (0)

static void data_that_decide_nothing_are_refused(void **state)
{
    const float bad[3] = { NAN, INFINITY, -INFINITY };

    (void)state;
    for (int i = 0; i < 3; i++)
        REFUSE(SIMILARITY, ((float *)b.x.data)[13 * 3 + 2] = bad[i], VTC_ERR_DATA,
               "row 2, column 3");
    REFUSE(SIMILARITY, b.mass[3] = 0.0f, VTC_ERR_DATA, "mass[3]");
    REFUSE(LINEAR, ((float *)b.router.weight.data)[7] = NAN, VTC_ERR_DATA, "region 0 at scale 1");
}

static void parameters_are_checked(void **state)
{
    (void)state;
    REFUSE(SIMILARITY, b.params.window = 0, VTC_ERR_RANGE, "window");
    REFUSE(SIMILARITY, b.params.pools[1] = 5, VTC_ERR_RANGE, "pools[1] is 5");
    REFUSE(SIMILARITY, b.params.n_pools = 9, VTC_ERR_RANGE, "n_pools");
    REFUSE(SIMILARITY, b.params.tau = NAN, VTC_ERR_RANGE, "tau");
    REFUSE(SIMILARITY, b.params.route = (vtc_focusllava_route)3, VTC_ERR_RANGE, "route");
    REFUSE(LINEAR, b.router.weight.dim[0] = 2, VTC_ERR_SHAPE, "router.weight");
}

static void arguments_are_checked_before_anything_is_written(void **state)
{
    (void)state;
    REFUSE(SIMILARITY, b.exec.scratch_size -= 64, VTC_ERR_SCRATCH, "scratch");
    REFUSE(SIMILARITY, b.plan.cap_out = 1, VTC_ERR_ROOM, "outputs");
    REFUSE(SIMILARITY, b.plan.cap_nnz = 19, VTC_ERR_ROOM, "needs 20 entries");
    REFUSE(SIMILARITY, b.x.rank = 2, VTC_ERR_SHAPE, "rank 2");
    REFUSE(SIMILARITY, b.trace.scores = b.mass, VTC_ERR_OVERLAP, "trace overlaps mass");
    REFUSE(SIMILARITY, b.trace.scale = b.x.data, VTC_ERR_OVERLAP, "trace overlaps x");
}

static void a_linear_route_without_router_is_refused(void **state)
{
    vtc_focusllava_vision_params params = defaults;
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan plan = VTC_PLAN_INIT;
    const size_t dim[3] = { 0, 0, 3 };
    const vtc_tensor x = vtc_tensor_nd(NULL, VTC_F32, 3, dim);
    error_log log;

    (void)state;
    params.route = VTC_FOCUSLLAVA_LINEAR;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_vision(&params, &x, NULL, NULL, &plan, NULL, &exec),
                  VTC_ERR_NULL, "router");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_that_decide_nothing_are_refused),
        cmocka_unit_test(parameters_are_checked),
        cmocka_unit_test(arguments_are_checked_before_anything_is_written),
        cmocka_unit_test(a_linear_route_without_router_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
