/* MustDrop's encode step: what is refused. */
#include "mustdrop_encode_cases.h"

#include <math.h>

/* A call that can be spoilt in one place; every output is poisoned. */
typedef struct broken {
    merge m;
    result r;
    vtc_plan *plans[MAX_IMAGES];
    vtc_mustdrop_encode_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b)
{
    const vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    const mustdrop_grid g = { 4, 4, 2, 2 };
    uint64_t seed = 7;
    size_t bytes;

    b->m = make_merge(&seed, &g, 2, 1, 3, VTC_F32);
    guard_writable(b->m.hidden.data);
    if (b->m.mass == NULL)
        b->m.mass = guard_alloc(34 * sizeof(float));
    guard_writable(b->m.mass);
    for (size_t i = 0; i < 34; i++)
        b->m.mass[i] = 1.0f;
    b->m.params.n_merge = 3;
    b->r = open_result(&b->m);
    b->trace = trace;
    b->trace.similarity = b->r.similarity;
    b->trace.windows = b->r.windows;
    poison(b->r.similarity, 8 * sizeof(float));
    poison(b->r.windows, 8 * sizeof(float));
    for (size_t i = 0; i < 2; i++) {
        b->plans[i] = &b->r.plan[i];
        poison(b->r.plan[i].keep, 8 * sizeof(int32_t));
        poison(b->r.plan[i].source, 17 * sizeof(int32_t));
        poison(b->r.plan[i].score, 17 * sizeof(float));
    }
    b->exec = test_exec(2);
    assert_int_equal(vtc_mustdrop_encode_scratch(&b->m.params, &b->m.hidden, 4, 4, &b->exec,
                                                 &bytes),
                     VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
}

static void refused(broken *b, vtc_status status, const char *part)
{
    assert_failed(&b->log,
                  vtc_mustdrop_encode(&b->m.params, &b->m.hidden, b->m.grid.h, b->m.grid.w,
                                      b->m.mass, b->plans, &b->trace, &b->exec),
                  status, part);
    assert_true(is_poisoned(b->r.similarity, 8 * sizeof(float)));
    assert_true(is_poisoned(b->r.windows, 8 * sizeof(float)));
    for (size_t i = 0; i < 2; i++) {
        assert_true(is_poisoned(b->r.plan[i].keep, 8 * sizeof(int32_t)));
        assert_true(is_poisoned(b->r.plan[i].source, 17 * sizeof(int32_t)));
        assert_true(is_poisoned(b->r.plan[i].score, 17 * sizeof(float)));
    }
    exec_scratch_free(&b->exec);
    free_result(&b->m, &b->r);
    free_merge(&b->m);
}

#define REFUSE(change, want, part) \
    do {                           \
        broken b;                  \
        set_up(&b);                \
        change;                    \
        refused(&b, want, part);   \
    } while (0)

static void bad_shapes_and_parameters_are_refused(void **state)
{
    (void)state;
    REFUSE(b.m.grid.h = 5, VTC_ERR_SHAPE, "5 x 4 is no whole number of windows");
    REFUSE(b.m.params.ragged_edges = 1; b.m.grid.h = 5, VTC_ERR_SHAPE, "hidden has 17 rows");
    REFUSE(b.m.params.n_merge = 5, VTC_ERR_BUDGET, "cannot merge 5 of 4 windows");
    REFUSE(b.m.params.threshold = NAN, VTC_ERR_RANGE, "threshold is NaN");
    REFUSE(b.m.params.win_h = b.m.params.win_w = 1, VTC_ERR_RANGE, "window is 1 x 1");
    REFUSE(b.m.params.prefix = 2, VTC_ERR_SHAPE, "prefix 2");
    REFUSE(b.m.params.prefix = SIZE_MAX, VTC_ERR_OVERFLOW, "exceed int32");
    REFUSE(b.m.hidden.dtype = VTC_I32, VTC_ERR_DTYPE, "I32");
}

static void bad_data_are_refused_in_any_image(void **state)
{
    (void)state;
    REFUSE(((float *)b.m.hidden.data)[element_at(&b.m.hidden, 17 * 3 + 10 * 3)] = NAN, VTC_ERR_DATA,
           "window 2 of image 1");
    REFUSE(((float *)b.m.hidden.data)[element_at(&b.m.hidden, 4 * 3)] = -INFINITY, VTC_ERR_DATA,
           "window 1 of image 0");
    REFUSE(b.m.mass[30] = 0.0f, VTC_ERR_DATA, "mass[30]");
}

static void missing_and_overlapping_memory_is_refused(void **state)
{
    (void)state;
    REFUSE(b.plans[1] = NULL, VTC_ERR_NULL, "plans[1] is NULL");
    REFUSE(b.plans[1] = b.plans[0], VTC_ERR_OVERLAP,
           "keep of another plan overlaps keep of the plan");
    REFUSE(b.r.plan[1].cap_out = 7, VTC_ERR_ROOM, "needs 8 outputs");
    REFUSE(b.trace.windows = (int32_t *)(void *)b.trace.similarity, VTC_ERR_OVERLAP,
           "windows of trace overlaps similarity of trace");
    REFUSE(b.trace.unmerged = b.r.plan[1].source, VTC_ERR_OVERLAP,
           "unmerged of trace overlaps source of the plan");
    REFUSE(b.trace.unmerged = b.m.hidden.data, VTC_ERR_OVERLAP,
           "unmerged of trace overlaps hidden");
    REFUSE(b.exec.scratch_size -= 64, VTC_ERR_SCRATCH, "scratch");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_shapes_and_parameters_are_refused),
        cmocka_unit_test(bad_data_are_refused_in_any_image),
        cmocka_unit_test(missing_and_overlapping_memory_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
