/* FocusLLaVA's balance loss. */
#include "support/support.h"

#include <math.h>

static void the_balance_loss_is_one_when_all_is_even(void **state)
{
    const float even[4] = { 1.0f, 1.0f, 1.0f, 1.0f }, skewed[4] = { 90.0f, 0.0f, 90.0f, 0.0f };
    const float third[3] = { 0.0f, 0.0f, 0.6931472f };
    const int32_t both[2] = { 0, 1 }, first[2] = { 0, 0 }, last[1] = { 2 };
    double loss;

    (void)state;
    assert_int_equal(vtc_focusllava_balance_loss(even, both, 2, 2, &loss, NULL), VTC_OK);
    assert_true(close_to(loss, 1.0, 1e-12, 0.0));
    assert_int_equal(vtc_focusllava_balance_loss(skewed, first, 2, 2, &loss, NULL), VTC_OK);
    assert_true(close_to(loss, 2.0, 1e-12, 0.0));
    assert_int_equal(vtc_focusllava_balance_loss(third, last, 1, 3, &loss, NULL), VTC_OK);
    assert_true(close_to(loss, 1.5, 1e-6, 0.0));
    assert_int_equal(vtc_focusllava_balance_loss(NULL, NULL, 0, 3, &loss, NULL), VTC_OK);
    assert_true(loss == 0.0);
}

static void a_loss_of_scales_that_do_not_exist_is_refused(void **state)
{
    const float scores[2] = { 0.0f, NAN };
    const int32_t scale[1] = { 2 }, fine[1] = { 0 };
    vtc_exec exec = VTC_EXEC_INIT;
    double loss = 7.0;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_balance_loss(scores, scale, 1, 2, &loss, &exec),
                  VTC_ERR_RANGE, "scale[0] is 2");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_balance_loss(scores, fine, 1, 2, &loss, &exec), VTC_ERR_DATA,
                  "region 0 at scale 1");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_balance_loss(scores, fine, 1, 9, &loss, &exec),
                  VTC_ERR_RANGE, "n_scales is 9");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_balance_loss(NULL, fine, 1, 2, &loss, &exec), VTC_ERR_NULL,
                  "scores");
    assert_true(loss == 7.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_balance_loss_is_one_when_all_is_even),
        cmocka_unit_test(a_loss_of_scales_that_do_not_exist_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
