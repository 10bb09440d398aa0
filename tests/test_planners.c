/* The table of planners, and parameters by name. */
#include "support/support.h"

#include <math.h>
#include <string.h>

static void rows_have_all_that_a_list_needs(void **state)
{
    size_t n = 0;

    (void)state;
    for (const vtc_planner *p; (p = vtc_planner_at(n)) != NULL; n++) {
        assert_int_equal(p->struct_size, sizeof(*p));
        assert_true(p->name != NULL && p->title != NULL && p->paper != NULL && p->checked != NULL);
        assert_non_null(p->count);
        assert_int_equal(p->plan == NULL, (p->needs & VTC_NEED_IMAGE) != 0);
        assert_ptr_equal(vtc_planner_find(p->name), p);
        assert_int_equal(p->params_size == 0, p->n_params == 0);
    }
    assert_true(n >= 5);
    assert_null(vtc_planner_at(n + 1));
    assert_null(vtc_planner_find("no such method"));
    assert_null(vtc_planner_find(NULL));
}

static void defaults_lie_within_their_ranges(void **state)
{
    (void)state;
    for (size_t i = 0; vtc_planner_at(i) != NULL; i++) {
        const vtc_planner *p = vtc_planner_at(i);

        for (size_t k = 0; k < p->n_params; k++) {
            const vtc_param *param = &p->params[k];

            assert_true(param->name != NULL && param->meaning != NULL);
            assert_true(param->min <= param->initial && param->initial <= param->max);
            assert_true(param->offset >= sizeof(size_t) && param->offset < p->params_size);
        }
    }
}

static void initial_parameters_are_those_of_the_macro(void **state)
{
    const vtc_tome_params tome = VTC_TOME_PARAMS_INIT;
    const vtc_random_params random = VTC_RANDOM_PARAMS_INIT;
    vtc_tome_params t;
    vtc_random_params r;

    (void)state;
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("tome"), &t, NULL), VTC_OK);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("random"), &r, NULL), VTC_OK);
    assert_true(t.struct_size == tome.struct_size && t.n_merge == tome.n_merge &&
                t.class_token == tome.class_token && t.distill_token == tome.distill_token);
    assert_true(r.struct_size == random.struct_size && r.seed == random.seed);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("strided"), NULL, NULL), VTC_OK);
}

/* Structs without padding before their last field, so that their bytes are their values. */
static void check_initial(const char *name, const void *macro, size_t size)
{
    unsigned char params[256];

    memset(params, 0, sizeof(params));
    assert_int_equal(vtc_planner_find(name)->params_size, size);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find(name), params, NULL), VTC_OK);
    assert_memory_equal(params, macro, size);
}

static void initial_parameters_of_guided_planners_are_those_of_the_macro(void **state)
{
    vtc_focusllava_vision_params vision;
    vtc_sparsevlm_params sparsevlm;
    vtc_visionzip_params visionzip;

    (void)state;
    memset(&vision, 0, sizeof(vision));
    memset(&sparsevlm, 0, sizeof(sparsevlm));
    vision.struct_size = sizeof(vision);
    vision.window = vision.pools[0] = 4;
    vision.pools[1] = 2;
    vision.pools[2] = 1;
    vision.n_pools = 3;
    vision.tau = 0.9f;
    vision.gate_scale = -1;
    check_initial("focusllava-vision", &vision, sizeof(vision));
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("visionzip"), &visionzip, NULL),
                     VTC_OK);
    assert_true(visionzip.contextual_share == 0.15625f && visionzip.class_token == 0);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("sparsevlm"), &sparsevlm, NULL),
                     VTC_OK);
    assert_int_equal(sparsevlm.recycle, 1);
}

static void named_fields_are_set_and_no_others(void **state)
{
    const vtc_planner *planner = vtc_planner_find("tome");
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    vtc_random_params random = VTC_RANDOM_PARAMS_INIT;

    (void)state;
    assert_int_equal(vtc_planner_params_set(planner, &params, "distill_token", 1.0, NULL), VTC_OK);
    assert_true(params.distill_token == 1 && params.class_token == 0 && params.n_merge == 0);
    assert_int_equal(vtc_planner_params_set(vtc_planner_find("random"), &random, "seed", 0x1p53,
                                            NULL),
                     VTC_OK);
    assert_true(random.seed == (uint64_t)1 << 53);
}

/* One parameter of every type, as a program's own planner may have. */
static void every_type_of_field_is_set(void **state)
{
    struct own_params {
        size_t struct_size, size;
        uint64_t u64;
        int flag;
        float f32;
    } own = { sizeof(own), 1, 1, 1, 1.0f };
    const vtc_param fields[] = {
        { "size", VTC_PARAM_SIZE, offsetof(struct own_params, size), 0, 100, 5, "" },
        { "u64", VTC_PARAM_U64, offsetof(struct own_params, u64), 0, 100, 6, "" },
        { "flag", VTC_PARAM_FLAG, offsetof(struct own_params, flag), -1, 1, 0, "" },
        { "f32", VTC_PARAM_F32, offsetof(struct own_params, f32), -2, 2, 0.5, "" },
    };
    vtc_planner planner = { 0 };

    (void)state;
    planner.struct_size = sizeof(planner);
    planner.name = "own";
    planner.params = fields;
    planner.n_params = 4;
    planner.params_size = sizeof(own);
    assert_int_equal(vtc_planner_params_init(&planner, &own, NULL), VTC_OK);
    assert_true(own.size == 5 && own.u64 == 6 && own.flag == 0 && own.f32 == 0.5f);
    assert_int_equal(vtc_planner_params_set(&planner, &own, "size", 7, NULL), VTC_OK);
    assert_int_equal(vtc_planner_params_set(&planner, &own, "u64", 8, NULL), VTC_OK);
    assert_int_equal(vtc_planner_params_set(&planner, &own, "flag", -1, NULL), VTC_OK);
    assert_int_equal(vtc_planner_params_set(&planner, &own, "f32", -1.25, NULL), VTC_OK);
    assert_true(own.size == 7 && own.u64 == 8 && own.flag == -1 && own.f32 == -1.25f);
}

static void refused(const char *name, double value, const char *part)
{
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    const vtc_tome_params before = params;
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_planner_params_set(vtc_planner_find("tome"), &params, name, value, &exec),
                  VTC_ERR_RANGE, part);
    assert_memory_equal(&params, &before, sizeof(params));
}

static void wrong_names_and_values_are_refused(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    error_log log;

    (void)state;
    refused("rate", 1.0, "tome has no parameter rate");
    refused("class_token", 2.0, "class_token is 2, 0 to 1 is needed");
    refused("class_token", 0.5, "whole");
    refused("class_token", NAN, "nan");
    params.struct_size = sizeof(size_t);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_planner_params_set(vtc_planner_find("tome"), &params, "class_token", 1.0,
                                         &exec),
                  VTC_ERR_RANGE, "struct_size is 8");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_planner_params_init(NULL, &params, &exec), VTC_ERR_NULL,
                  "planner is NULL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_all_that_a_list_needs),
        cmocka_unit_test(defaults_lie_within_their_ranges),
        cmocka_unit_test(initial_parameters_are_those_of_the_macro),
        cmocka_unit_test(initial_parameters_of_guided_planners_are_those_of_the_macro),
        cmocka_unit_test(named_fields_are_set_and_no_others),
        cmocka_unit_test(every_type_of_field_is_set),
        cmocka_unit_test(wrong_names_and_values_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
