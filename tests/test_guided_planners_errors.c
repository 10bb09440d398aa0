/* The guided planners: data, views and memory that are refused. */
#include "guided_cases.h"

#include <math.h>

/* NaN in what only the second image looks at. */
static void bad_data_of_the_second_image_leave_outputs_untouched(void **state)
{
    inputs i;

    (void)state;
    make_map_inputs(&i, 111);
    guard_writable(i.features.data);
    guard_writable(i.keys.data);
    guard_writable(i.lm_keys.data);
    ((float *)i.features.data)[25 * i.features.stride[0] + 1] = NAN;
    ((float *)i.keys.data)[25 * i.keys.stride[1] + 1] = NAN;
    ((float *)i.lm_keys.data)[(BEFORE + 25) * i.lm_keys.stride[1] + 1] = NAN;
    for (size_t k = 0; k < sizeof(guided) / sizeof(*guided); k++)
        refused(guided[k], NULL, &i.in, 8, VTC_ERR_DATA, "");
    free_inputs(&i);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    inputs i;

    (void)state;
    make_inputs(&i, 113);
    i.lm_query.dim[1] = L - 1;
    refused("fastv", NULL, &i.in, 5, VTC_ERR_SHAPE, "lm_query has 55 rows");
    i.in.lm_query = NULL;
    i.in.text_query = &i.lm_query;
    i.lm_query.dim[1] = TEXT - 1;
    refused("focusllava-text", NULL, &i.in, 5, VTC_ERR_SHAPE, "text_query has 8 rows");
    i.in.lm_keys = NULL;
    refused("fastv", NULL, &i.in, 5, VTC_ERR_NULL, "decoder Q and K");
    i.in.keys = NULL;
    refused("visionzip", NULL, &i.in, 5, VTC_ERR_NULL, "keys");
    i.in.keys = &i.keys;
    i.cls_query.dim[0] = 0;
    refused("visionzip", NULL, &i.in, 5, VTC_ERR_SHAPE, "q_cls has no heads");
    i.keys.dim[0] = i.cls_key.dim[0] = 0;
    refused("visionzip", NULL, &i.in, 5, VTC_ERR_SHAPE, "no heads");
    free_inputs(&i);
}

static void a_plan_in_the_decoders_memory_is_refused(void **state)
{
    const vtc_budget budget = vtc_budget_keep(4);
    vtc_plan plan = empty_plan(N, 8, 0);
    vtc_exec exec = test_exec(1);
    int32_t *const keep = plan.keep;
    error_log log;
    inputs i;

    (void)state;
    make_inputs(&i, 114);
    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    plan.keep = i.lm_keys.data;
    assert_failed(&log,
                  vtc_planner_plan(vtc_planner_find("fastv"), NULL, &i.in, &budget, &plan, NULL,
                                   &exec),
                  VTC_ERR_OVERLAP, "lm_keys overlaps keep");
    plan.keep = keep;
    exec_scratch_free(&exec);
    free_plan(&plan);
    free_inputs(&i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_data_of_the_second_image_leave_outputs_untouched),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(a_plan_in_the_decoders_memory_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
