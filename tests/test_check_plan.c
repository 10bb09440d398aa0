/* What vtc_plan_validate() accepts and refuses, and the door of functions that write plans. */
#include "support/support.h"

#include "../src/plan/plan.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <string.h>

/* The plan of the header's picture: a, (b+c+d)/3, f of six tokens. */
typedef struct picture {
    int32_t keep[3], begin[4], source[5], fate[6];
    float weight[5], mass[3], score[6];
    vtc_plan plan;
} picture;

static void draw(picture *p)
{
    static const picture fresh = {
        { 0, 2, 5 },
        { 0, 1, 4, 5 },
        { 0, 1, 2, 3, 5 },
        { 0, 1, 1, 1, -1, 2 },
        { 1.0f, 1.0f / 3, 1.0f / 3, 1.0f / 3, 1.0f },
        { 1, 3, 1 },
        { 0 },
        VTC_PLAN_INIT,
    };

    *p = fresh;
    p->plan.n_in = p->plan.cap_in = 6;
    p->plan.n_out = p->plan.cap_out = 3;
    p->plan.cap_nnz = 5;
    p->plan.keep = p->keep;
    p->plan.begin = p->begin;
    p->plan.source = p->source;
    p->plan.weight = p->weight;
    p->plan.mass = p->mass;
    p->plan.score = p->score;
    p->plan.fate = p->fate;
}

static void refuse(picture *p, vtc_status want, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_validate(&p->plan, &exec), want, part);
    draw(p);
}

static void the_picture_of_the_header_is_a_plan(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    assert_int_equal(vtc_plan_validate(&p.plan, NULL), VTC_OK);
    p.plan.fate = NULL;
    p.plan.score = NULL;
    p.plan.cap_in = 0;
    assert_int_equal(vtc_plan_validate(&p.plan, NULL), VTC_OK);
}

static void random_plans_are_plans(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 200; round++) {
        const size_t n_in = rng_below(&seed, 12);
        const plan_kind kind = (plan_kind)rng_below(&seed, N_PLAN_KINDS);
        vtc_plan plan = random_plan(&seed, kind, n_in, rng_below(&seed, n_in + 1));

        assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
        free_plan(&plan);
    }
}

static void sizes_and_structs_are_checked(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    picture p;

    (void)state;
    draw(&p);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_validate(NULL, &exec), VTC_ERR_NULL, "plan is NULL");
    p.plan.struct_size = 16;
    refuse(&p, VTC_ERR_RANGE, "struct_size 16");
    p.plan.cap_out = 2;
    refuse(&p, VTC_ERR_RANGE, "3 outputs, but room for 2");
    p.plan.cap_nnz = 4;
    refuse(&p, VTC_ERR_RANGE, "5 entries, but room for 4");
    p.plan.cap_in = 5;
    refuse(&p, VTC_ERR_RANGE, "6 input rows, but room for 5");
    p.plan.n_in = (size_t)INT32_MAX + 1;
    refuse(&p, VTC_ERR_OVERFLOW, "2147483648 rows");
    p.plan.reduce = (vtc_reduce)2;
    refuse(&p, VTC_ERR_RANGE, "reduce 2");
    p.plan.keep = NULL;
    refuse(&p, VTC_ERR_NULL, "keep");
    p.plan.weight = NULL;
    refuse(&p, VTC_ERR_NULL, "weight");
    p.plan.mass = NULL;
    refuse(&p, VTC_ERR_NULL, "mass");
}

static void a_longer_struct_with_a_used_tail_is_refused(void **state)
{
    struct {
        vtc_plan plan;
        size_t later_field;
    } newer;
    picture p;

    (void)state;
    draw(&p);
    newer.plan = p.plan;
    newer.plan.struct_size = sizeof(newer);
    newer.later_field = 0;
    assert_int_equal(vtc_plan_validate(&newer.plan, NULL), VTC_OK);
    newer.later_field = 1;
    assert_int_equal(vtc_plan_validate(&newer.plan, NULL), VTC_ERR_UNSUPPORTED);
}

static void indices_are_checked(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    p.keep[1] = 6;
    refuse(&p, VTC_ERR_RANGE, "keep[1] of plan is 6");
    p.keep[1] = -2;
    refuse(&p, VTC_ERR_RANGE, "keep[1] of plan is -2");
    p.begin[0] = 1;
    refuse(&p, VTC_ERR_RANGE, "begin[0]");
    p.begin[2] = 0;
    refuse(&p, VTC_ERR_RANGE, "falls from 1 to 0");
    p.source[4] = 6;
    refuse(&p, VTC_ERR_RANGE, "source[4] of plan is 6");
    p.source[0] = -1;
    refuse(&p, VTC_ERR_RANGE, "source[0] of plan is -1");
    p.source[2] = 3;
    refuse(&p, VTC_ERR_DATA, "do not ascend: 3, 3");
}

static void values_are_checked(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    p.weight[2] = NAN;
    refuse(&p, VTC_ERR_DATA, "row 2 in output 1");
    p.weight[2] = INFINITY;
    refuse(&p, VTC_ERR_DATA, "not finite");
    p.plan.reduce = VTC_MAX;
    p.weight[4] = 0.0f;
    refuse(&p, VTC_ERR_DATA, "MAX needs > 0");
    p.mass[2] = -1.0f;
    refuse(&p, VTC_ERR_DATA, "mass[2] of plan is -1");
    p.mass[2] = INFINITY;
    refuse(&p, VTC_ERR_DATA, "mass[2]");
    p.keep[0] = -1;
    refuse(&p, VTC_ERR_DATA, "keep[0] is -1, but the output has 1");
    p.begin[1] = 0;
    refuse(&p, VTC_ERR_DATA, "keep[0] is 0, but the output has 0");
}

static void a_wrong_fate_is_found(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    p.fate[3] = 3;
    refuse(&p, VTC_ERR_RANGE, "fate[3] is 3");
    p.fate[3] = -1;
    refuse(&p, VTC_ERR_DATA, "fate[3] is -1");
    p.fate[4] = 0;
    refuse(&p, VTC_ERR_DATA, "fate[4] is 0, which has no entry");
}

static void the_heavier_and_then_the_lower_output_is_the_fate(void **state)
{
    picture p;

    (void)state;
    for (int heavier = 0; heavier < 2; heavier++) {
        draw(&p);
        /* row 3 goes to outputs 1 and 2 */
        p.source[4] = 3;
        p.keep[2] = 3;
        p.fate[5] = -1;
        p.weight[4] = heavier ? 0.5f : p.weight[3];
        p.fate[3] = heavier ? 2 : 1;
        assert_int_equal(vtc_plan_validate(&p.plan, NULL), VTC_OK);
        p.fate[3] = heavier ? 1 : 2;
        assert_int_equal(vtc_plan_validate(&p.plan, NULL), VTC_ERR_DATA);
    }
}

/* ---- the door of writers --------------------------------------------------------------------- */

static void try_open(picture *p, size_t n_in, size_t n_out, size_t n_nnz, vtc_status want,
                     const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtci_call call;
    vtc_status got;

    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    got = vtci_plan_open(&call, &p->plan, n_in, n_out, n_nnz);
    if (want == VTC_OK)
        assert_int_equal(got, VTC_OK);
    else
        assert_failed(&log, got, want, part);
    draw(p);
}

static void room_is_checked_before_writing(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    try_open(&p, 6, 3, 5, VTC_OK, NULL);
    try_open(&p, 6, 4, 5, VTC_ERR_ROOM, "needs 4 outputs, plan has room for 3");
    try_open(&p, 6, 3, 6, VTC_ERR_ROOM, "needs 6 entries, plan has room for 5");
    try_open(&p, 7, 3, 5, VTC_ERR_ROOM, "needs 7 input rows, score and fate have room for 6");
    p.plan.score = NULL;
    p.plan.fate = NULL;
    try_open(&p, 7, 3, 5, VTC_OK, NULL);
    p.plan.cap_nnz = 2;
    try_open(&p, 6, 3, 0, VTC_ERR_ROOM, "needs 3 entries, plan has room for 2");
    p.plan.cap_nnz = 0;
    p.plan.begin = NULL;
    try_open(&p, 6, 3, 0, VTC_OK, NULL);
    p.plan.begin = NULL;
    try_open(&p, 6, 3, 5, VTC_ERR_NULL, "5 entries, but begin");
    p.plan.mass = NULL;
    try_open(&p, 6, 3, 5, VTC_ERR_NULL, "keep or mass");
    try_open(&p, (size_t)1 << 31, 3, 5, VTC_ERR_OVERFLOW, "2147483648 rows");
}

static void arrays_of_a_plan_must_be_apart(void **state)
{
    picture p;

    (void)state;
    draw(&p);
    p.plan.keep = p.plan.fate + 3;
    try_open(&p, 6, 3, 5, VTC_ERR_OVERLAP, "keep of the plan overlaps fate of the plan");
    p.plan.keep = p.plan.fate + 5;
    try_open(&p, 5, 1, 1, VTC_OK, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_picture_of_the_header_is_a_plan),
        cmocka_unit_test(random_plans_are_plans),
        cmocka_unit_test(sizes_and_structs_are_checked),
        cmocka_unit_test(a_longer_struct_with_a_used_tail_is_refused),
        cmocka_unit_test(indices_are_checked),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(a_wrong_fate_is_found),
        cmocka_unit_test(the_heavier_and_then_the_lower_output_is_the_fate),
        cmocka_unit_test(room_is_checked_before_writing),
        cmocka_unit_test(arrays_of_a_plan_must_be_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
