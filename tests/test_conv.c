/* The steps of light convolutional projectors. */
#include "support/files.h"
#include "support/weights.h"

#include "reference/conv_reference.h"

#include "../src/base/call.h"
#include "../src/project/conv.h"
#include "../src/project/conv_check.h"

#include <stdlib.h>
#include <string.h>

/* One image x [h * w, n]; y = x + its convolution, average [out_h * out_w, n] of x. */
typedef struct steps {
    size_t h, w, out_h, out_w;
    vtc_linear depthwise;
    vtc_tensor x, y, average;
    vtci_conv conv;
} steps;

static void walk(void *job)
{
    steps *s = job;
    const size_t n = s->x.dim[1];
    const vtci_map x = vtci_conv_map(&s->conv, 0, s->h, s->w, n);
    const vtci_map tmp = vtci_conv_map(&s->conv, 1, s->h, s->w, n);
    const vtci_map average = vtci_conv_map(&s->conv, 2, s->out_h, s->out_w, n);
    const vtci_rows y = vtci_rows_of(&s->y);

    if (!s->conv.measuring)
        memcpy(x.rows.data, s->x.data, n_elements(&s->x) * sizeof(float));
    vtci_conv_add_depthwise(&s->conv, &x, &s->depthwise, &tmp, &y);
    vtci_conv_average(&s->conv, &x, &average);
    if (!s->conv.measuring)
        memcpy(s->average.data, average.rows.data, n_elements(&s->average) * sizeof(float));
}

/* With scratch of exactly the size that the walk asks for. */
static void run(steps *s, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtci_arena arena = { NULL, 0, false };
    vtci_call call;

    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    vtci_conv_lay_out(&arena, &call, &s->conv, walk, s);
    exec_scratch(&exec, arena.used);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    arena = vtci_arena_open(&call);
    vtci_conv_lay_out(&arena, &call, &s->conv, walk, s);
    assert_int_equal(vtci_arena_check(&call, &arena), VTC_OK);
    walk(s);
    exec_scratch_free(&exec);
}

static steps make_steps(weight_set *set, size_t h, size_t w, size_t out_h, size_t out_w, size_t n)
{
    const size_t in[] = { h * w, n }, out[] = { out_h * out_w, n };
    steps s;

    memset(&s, 0, sizeof(s));
    s.h = h;
    s.w = w;
    s.out_h = out_h;
    s.out_w = out_w;
    s.depthwise.weight = depthwise_of(set, n);
    s.depthwise.bias = vector_of(set, n);
    s.x = make_random(&set->seed, VTC_F32, 2, in, 0);
    s.y = make_tensor(set->mixed ? VTC_BF16 : VTC_F32, 2, in, set->gap);
    s.average = make_tensor(VTC_F32, 2, out, 0);
    return s;
}

static void free_steps(steps *s, weight_set *set)
{
    guard_free(s->x.data);
    guard_free(s->y.data);
    guard_free(s->average.data);
    weights_free(set);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void assert_convolved(const steps *s)
{
    double *x = values_of(&s->x), *want = values_of(&s->y), *bias = values_of(&s->depthwise.bias);

    ref_depthwise(x, s->h, s->w, &s->depthwise.weight, 1, want);
    for (size_t i = 0; i < n_elements(&s->y); i++)
        want[i] += x[i] + bias[i % s->x.dim[1]];
    assert_tensor_near(&s->y, want, 1e-6);
    free(x);
    free(want);
    free(bias);
}

static void cells_outside_the_grid_are_zeros(void **state)
{
    (void)state;
    for (size_t h = 1; h <= 6; h++)
        for (size_t w = 1; w <= 6; w++) {
            weight_set set = { .seed = 10 * h + w, .mixed = w % 2 == 0, .gap = h % 3 };
            steps s = make_steps(&set, h, w, 1, 1, 1 + 5 * w);

            run(&s, h % 4);
            assert_convolved(&s);
            free_steps(&s, &set);
        }
}

static void averages_are_those_of_the_pool_family(void **state)
{
    (void)state;
    for (size_t out = 1; out <= 9; out++) {
        weight_set set = { .seed = out };
        steps s = make_steps(&set, 7, 5, out, 10 - out, 12);
        vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;
        vtc_tensor want = make_tensor(VTC_F32, 2, s.average.dim, 0);

        params.mode = VTC_POOL_ADAPTIVE_AVERAGE;
        params.grid_h = s.h;
        params.grid_w = s.w;
        params.out_h = s.out_h;
        params.out_w = s.out_w;
        run(&s, 2);
        assert_int_equal(vtc_pool2d(&params, &s.x, &want, NULL), VTC_OK);
        assert_same_bits(&s.average, &want);
        guard_free(want.data);
        free_steps(&s, &set);
    }
}

/* ---- checks ---------------------------------------------------------------------------------- */

static void only_dense_trailing_ones_make_a_matrix(void **state)
{
    static float memory[64], other[4];
    const size_t dim[] = { 3, 4, 1, 1 };
    const vtc_tensor y = vtc_f32_2d(other, 1, 4);
    vtc_exec exec = test_exec(0);
    vtc_tensor w = vtc_tensor_nd(memory, VTC_F32, 4, dim);
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);

    const vtci_owner of = { &call, &y, 5, "net." };

    for (w.rank = 4; w.rank >= 2; w.rank--)
        assert_int_equal(vtci_check_pointwise(&of, "conv", &w, 4), VTC_OK);
    w.rank = 4;
    assert_failed(&log, vtci_check_pointwise(&of, "conv", &w, 5), VTC_ERR_SHAPE,
                  "net.conv.weight is 3x4, its input has 5 channels");
    w.stride[1] = 2;
    assert_refused(&log, vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE, "stride");
    w = vtc_tensor_nd(memory, VTC_F32, 4, dim);
    w.dim[2] = 2;
    assert_refused(&log, vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE,
                   "extent 2 along axis 2");
    w = vtc_f32_1d(memory, 4);
    assert_refused(&log, vtci_check_pointwise(&of, "conv", &w, 4), VTC_ERR_SHAPE, "rank 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_outside_the_grid_are_zeros),
        cmocka_unit_test(averages_are_those_of_the_pool_family),
        cmocka_unit_test(only_dense_trailing_ones_make_a_matrix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
