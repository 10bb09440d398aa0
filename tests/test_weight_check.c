/* Checks of a model's weights, and the names in their messages. */
#include "../src/linalg/weight_check.h"
#include "support/support.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static float memory[512];
static error_log errors;
static vtc_exec executor;
static vtci_call call;

static vtci_owner make_owner(const char *prefix, const vtc_tensor *y)
{
    const vtci_owner of = { &call, y, 7, prefix };

    executor = test_exec(0);
    record_errors(&executor, &errors);
    assert_int_equal(vtci_begin(&call, "check", &executor), VTC_OK);
    return of;
}

static vtc_tensor tensor(int rank, size_t d0, size_t d1, size_t d2, size_t d3)
{
    const size_t dim[4] = { d0, d1, d2, d3 };

    return vtc_tensor_nd(memory, VTC_F32, rank, dim);
}

static void assert_refused(vtc_status got, vtc_status want, const char *part)
{
    assert_failed(&errors, got, want, part);
    record_errors(&executor, &errors);
}

static void names_are_prefix_name_and_part(void **state)
{
    const vtci_owner of = make_owner("layers.3.", NULL);
    char long_name[200];

    (void)state;
    assert_string_equal(vtci_label_of(&of, "fc1", ".weight").s, "layers.3.fc1.weight");
    assert_string_equal(vtci_layer_label("layers.", 12).s, "layers.12.");
    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    assert_int_equal(strlen(vtci_label_of(&of, long_name, "").s), 95);
}

static void vectors_and_matrices(void **state)
{
    const vtci_owner of = make_owner("m.", NULL);
    const vtc_tensor v = tensor(1, 5, 0, 0, 0), w = tensor(2, 3, 4, 0, 0), absent = { 0 };
    vtc_tensor ints = v;

    (void)state;
    ints.dtype = VTC_I32;
    assert_int_equal(vtci_check_vector(&of, "a", ".scale", &v, 5), VTC_OK);
    assert_int_equal(vtci_check_matrix(&of, "a", "", &w, 3, 4), VTC_OK);
    assert_int_equal(vtci_check_bias(&of, "a", &absent, 5), VTC_OK);
    assert_int_equal(vtci_check_bias(&of, "a", &v, 5), VTC_OK);
    assert_refused(vtci_check_vector(&of, "a", ".scale", &v, 6), VTC_ERR_SHAPE,
                   "m.a.scale has 5 elements, 6 are needed");
    assert_refused(vtci_check_vector(&of, "a", "", &w, 3), VTC_ERR_SHAPE, "m.a");
    assert_refused(vtci_check_vector(&of, "a", "", &ints, 5), VTC_ERR_DTYPE, "m.a");
    assert_refused(vtci_check_bias(&of, "a", &v, 4), VTC_ERR_SHAPE, "m.a.bias has 5 elements");
    assert_refused(vtci_check_matrix(&of, "a", ".w", &w, 4, 3), VTC_ERR_SHAPE,
                   "m.a.w is 3x4, 4x3 is needed");
}

static void linear_layers(void **state)
{
    const vtci_owner of = make_owner("", NULL);
    vtc_linear layer = { tensor(2, 3, 4, 0, 0), { 0 } };

    (void)state;
    assert_int_equal(vtci_check_linear(&of, "fc", &layer, 4), VTC_OK);
    assert_int_equal(vtci_check_linear_to(&of, "fc", &layer, 3, 4), VTC_OK);
    layer.bias = tensor(1, 3, 0, 0, 0);
    assert_int_equal(vtci_check_linear(&of, "fc", &layer, 4), VTC_OK);
    assert_refused(vtci_check_linear(&of, "fc", &layer, 5), VTC_ERR_SHAPE,
                   "fc.weight is 3x4, its input has 5 channels");
    assert_refused(vtci_check_linear_to(&of, "fc", &layer, 2, 4), VTC_ERR_SHAPE,
                   "fc.weight is 3x4, 2x4 is needed");
    layer.bias.dim[0] = 4;
    assert_refused(vtci_check_linear(&of, "fc", &layer, 4), VTC_ERR_SHAPE, "fc.bias");
    layer.weight.dim[0] = (size_t)INT_MAX + 1;
    layer.weight.stride[0] = 0;
    assert_refused(vtci_check_linear(&of, "fc", &layer, 4), VTC_ERR_OVERFLOW, "2147483648");
}

static void pointwise_convolutions(void **state)
{
    const vtci_owner of = make_owner("", NULL);
    vtc_tensor w = tensor(4, 3, 4, 1, 1);

    (void)state;
    assert_int_equal(vtci_check_pointwise(&of, "conv", &w, 4), VTC_OK);
    w = tensor(4, 3, 4, 1, 3);
    assert_refused(vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE,
                   "conv.weight has extent 3 along axis 3");
    w = tensor(3, 3, 4, 2, 0);
    assert_refused(vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE, "axis 2");
    w = tensor(4, 3, 4, 1, 1);
    w.stride[1] = 2;
    assert_refused(vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE, "conv.weight");
}

static void norms_and_eps(void **state)
{
    const vtci_owner of = make_owner("", NULL);
    vtc_norm norm = { tensor(1, 6, 0, 0, 0), { 0 } };

    (void)state;
    assert_int_equal(vtci_check_channel_norm(&of, "ln", &norm, 6), VTC_OK);
    norm.bias = tensor(1, 5, 0, 0, 0);
    assert_refused(vtci_check_channel_norm(&of, "ln", &norm, 6), VTC_ERR_SHAPE, "ln.bias");
    assert_refused(vtci_check_channel_norm(&of, "ln", &norm, 5), VTC_ERR_SHAPE, "ln.weight");
    assert_int_equal(vtci_check_eps(&call, "eps", 0.0f), VTC_OK);
    assert_refused(vtci_check_eps(&call, "eps", -1e-5f), VTC_ERR_RANGE, "eps is -1e-05");
    assert_refused(vtci_check_eps(&call, "eps", NAN), VTC_ERR_RANGE, "eps is");
    assert_refused(vtci_check_eps(&call, "eps", INFINITY), VTC_ERR_RANGE, "eps is inf");
}

static void weights_must_lie_apart_from_the_output(void **state)
{
    const vtc_tensor y = tensor(2, 2, 2, 0, 0), w = tensor(2, 3, 4, 0, 0);
    const vtc_tensor v = tensor(1, 3, 0, 0, 0);
    const vtci_owner of = make_owner("p.", &y);
    const vtc_linear layer = { w, { 0 } };

    (void)state;
    assert_refused(vtci_check_vector(&of, "a", "", &v, 3), VTC_ERR_OVERLAP, "p.a");
    assert_refused(vtci_check_matrix(&of, "a", "", &w, 3, 4), VTC_ERR_OVERLAP, "p.a");
    assert_refused(vtci_check_linear(&of, "a", &layer, 4), VTC_ERR_OVERLAP, "p.a.weight");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_prefix_name_and_part),
        cmocka_unit_test(vectors_and_matrices),
        cmocka_unit_test(linear_layers),
        cmocka_unit_test(pointwise_convolutions),
        cmocka_unit_test(norms_and_eps),
        cmocka_unit_test(weights_must_lie_apart_from_the_output),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
