/* The weights of a hyper layer: names, checks, costs, the prepared object. */
#include "support/hyper.h"

#include <stdio.h>
#include <string.h>

/* Views without data, which counts do not need. */
static vtc_linear shape_of(size_t n_out, size_t n_in, bool bias)
{
    vtc_linear layer = { vtc_tensor_2d(NULL, VTC_BF16, n_out, n_in), { 0 } };

    if (bias)
        layer.bias = vtc_tensor_1d(NULL, VTC_BF16, n_out);
    return layer;
}

/* The layer of 7B-240728: 28 heads and 4 of 128, width 3584. */
static vtc_hyper_attention_weights shapes_of_7b(void)
{
    vtc_hyper_attention_weights w = { .input_layernorm = vtc_tensor_1d(NULL, VTC_BF16, 3584),
                                      .q_proj = shape_of(3584, 3584, true),
                                      .k_proj = shape_of(512, 3584, true),
                                      .v_proj = shape_of(512, 3584, true),
                                      .o_proj = shape_of(3584, 3584, false),
                                      .v_kv_proj = shape_of(1024, 3584, true),
                                      .gate_proj = shape_of(128, 128, true) };

    return w;
}

static void counts_are_those_of_the_7b_layer(void **state)
{
    const vtc_hyper_attention_weights w = shapes_of_7b();
    const double c = 3584, e = 512;
    vtc_model_cost cost;

    (void)state;
    assert_int_equal(vtc_hyper_attention_cost(NULL, &w, 64, 0, 729, 729, &cost, NULL), VTC_OK);
    assert_true(cost.parameters ==
                c + 2 * c * c + c + 2 * (c * e + e) + 2 * (c * e + e) + 128 * 128 + 128);
    assert_true(cost.multiply_adds == 64 * (2 * c * c + 2 * c * e + c * 128) +
                                          2 * c * (64.0 * 729 + 64 * 65 / 2) + 729 * c * 1024);
    assert_int_equal(vtc_hyper_attention_cost(NULL, &w, 1, 100, 0, 0, &cost, NULL), VTC_OK);
    assert_true(cost.multiply_adds == 2 * c * c + 2 * c * e + 2 * c * 101);
}

static void tensors_tell_the_variant(void **state)
{
    vtc_hyper_attention_weights w = shapes_of_7b();
    vtc_model_cost gated, plain;

    (void)state;
    assert_int_equal(vtc_hyper_attention_cost(NULL, &w, 1, 0, 1, 0, &gated, NULL), VTC_OK);
    memset(&w.gate_proj, 0, sizeof(w.gate_proj));
    assert_int_equal(vtc_hyper_attention_cost(NULL, &w, 1, 0, 1, 0, &plain, NULL), VTC_OK);
    assert_true(gated.multiply_adds - plain.multiply_adds == 3584.0 * 128);
}

/* ---- names ----------------------------------------------------------------------------------- */

struct source {
    int n_asked;
    const char *missing;
};

static int find(void *arg, const char *name, vtc_tensor *view)
{
    static float data[64];
    struct source *s = arg;
    const char *below = "language_model.model.layers.0.";

    if (strncmp(name, below, strlen(below)) != 0 || strcmp(name + strlen(below), s->missing) == 0)
        return 0;
    s->n_asked++;
    *view = strstr(name, "bias") != NULL || strstr(name, "layernorm") != NULL ||
                    strstr(name, "gate") == name + strlen(name) - 4
                ? vtc_f32_1d(data, 8)
                : vtc_f32_2d(data, 8, 8);
    return 1;
}

static void weights_have_the_names_of_the_checkpoint(void **state)
{
    struct source s = { 0, "self_attn.q_proj.bias" };
    vtc_hyper_attention_weights w;

    (void)state;
    assert_int_equal(vtc_weights_bind(&vtc_hyper_attention_table, find, &s,
                                      "language_model.model.layers.0.", &w, NULL),
                     VTC_OK);
    assert_true(vtc_tensor_is_absent(&w.q_proj.bias));
    assert_int_equal(w.v_kv_proj.weight.rank, 2);
    assert_int_equal(w.gate.rank, 1);
    s.missing = "self_attn.v_kv_proj.weight";
    assert_int_equal(vtc_weights_bind(&vtc_hyper_attention_table, find, &s,
                                      "language_model.model.layers.0.", &w, NULL),
                     VTC_ERR_NULL);
}

/* ---- checks ---------------------------------------------------------------------------------- */

static void expect_refused(const vtc_hyper_attention_params *params,
                           const vtc_hyper_attention_weights *w, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t bytes = 1;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_hyper_attention_prepare_size(params, w, &exec, &bytes), want, part);
    assert_int_equal(bytes, 1);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    const vtc_hyper_attention_params good = VTC_HYPER_ATTENTION_PARAMS_INIT;
    vtc_hyper_attention_params p = good;
    vtc_hyper_attention_weights w = shapes_of_7b();

    (void)state;
    expect_refused(&p, NULL, VTC_ERR_NULL, "weights is NULL");
    p.n_heads = 0;
    expect_refused(&p, &w, VTC_ERR_RANGE, "n_heads is 0");
    p.n_heads = 27;
    expect_refused(&p, &w, VTC_ERR_SHAPE, "3584 channels, not a multiple of 27 heads");
    p.n_heads = 512;
    expect_refused(&p, &w, VTC_ERR_SHAPE, "heads of 7 channels");
    p = good;
    p.variant = (vtc_hyper_variant)4;
    expect_refused(&p, &w, VTC_ERR_RANGE, "variant 4");
    p = good;
    p.rope_theta = 0.0f;
    expect_refused(&p, &w, VTC_ERR_RANGE, "rope_theta is 0");
    p = good;
    p.eps = -1.0f;
    expect_refused(&p, &w, VTC_ERR_RANGE, "eps is -1");
    p = good;
    p.variant = VTC_HYPER_GATE;
    expect_refused(&p, &w, VTC_ERR_DTYPE, "self_attn.gate has dtype");
    w.k_proj = shape_of(384, 3584, true);
    expect_refused(&good, &w, VTC_ERR_SHAPE, "their number divides 28");
    w = shapes_of_7b();
    w.v_kv_proj = shape_of(512, 3584, true);
    expect_refused(&good, &w, VTC_ERR_SHAPE, "self_attn.v_kv_proj.weight is 512x3584, 1024x3584");
    w = shapes_of_7b();
    w.gate_proj = shape_of(64, 128, true);
    expect_refused(&good, &w, VTC_ERR_SHAPE, "self_attn.gate_proj.0.weight is 64x128");
    w = shapes_of_7b();
    w.o_proj.weight.dim[0] = 5;
    expect_refused(&good, &w, VTC_ERR_SHAPE, "self_attn.o_proj.weight is 5x3584");
    w = shapes_of_7b();
    w.q_proj.bias.dim[0] = 5;
    expect_refused(&good, &w, VTC_ERR_SHAPE, "self_attn.q_proj.bias has 5");
}

static vtc_status use(const hyper_model *m, const vtc_prepared *prepared, error_log *log)
{
    uint64_t seed = 2;
    hyper_text t = make_hyper_text(&seed, m, 3, 0, 0, VTC_F32, VTC_F32, true);
    vtc_exec exec = test_exec(0);
    vtc_status status;

    record_errors(&exec, log);
    exec_scratch(&exec, 1 << 18);
    t.sequence.n_rows = 3;
    status = vtc_hyper_attention(&m->params, &m->weights, prepared, &t.hidden, &t.sequence, 1, NULL,
                                 NULL, &exec);
    exec_scratch_free(&exec);
    free_hyper_text(&t);
    return status;
}

static void a_prepared_object_serves_its_own_shapes_alone(void **state)
{
    hyper_model m = make_hyper_model(1, VTC_HYPER_GATE, 4, 2, 6, 12, false);
    hyper_model other = make_hyper_model(1, VTC_HYPER_GATE, 4, 2, 6, 14, false);
    vtc_prepared small;
    error_log log;

    (void)state;
    prepare_hyper_model(&m);
    assert_int_equal(use(&m, &m.prepared, &log), VTC_OK);
    assert_failed(&log, use(&other, &m.prepared, &log), VTC_ERR_DATA, "other shapes");
    small = m.prepared;
    small.bytes--;
    assert_failed(&log, use(&m, &small, &log), VTC_ERR_DATA, "bytes");
    guard_writable(m.prepared.data);

    vtc_exec exec = test_exec(0);

    record_errors(&exec, &log);
    assert_failed(&log, vtc_hyper_attention_prepare(&m.params, &m.weights, &small, &exec),
                  VTC_ERR_ROOM, "prepared object needs");
    free_hyper_model(&m);
    free_hyper_model(&other);
}

static void a_query_needs_no_prepared_memory(void **state)
{
    hyper_model m = make_hyper_model(3, VTC_HYPER_FUSED, 4, 2, 6, 12, true);
    uint64_t seed = 4;
    hyper_text t = make_hyper_text(&seed, &m, 5, 0, 0, VTC_F32, VTC_F32, true);
    vtc_prepared none = { NULL, 0 };
    const vtc_exec exec = test_exec(2);
    size_t with, without;

    (void)state;
    t.sequence.n_rows = 5;
    prepare_hyper_model(&m);
    assert_int_equal(vtc_hyper_attention_scratch(&m.params, &m.weights, &m.prepared, &t.hidden,
                                                 &t.sequence, 1, NULL, NULL, &exec, &with),
                     VTC_OK);
    assert_int_equal(vtc_hyper_attention_scratch(&m.params, &m.weights, &none, &t.hidden,
                                                 &t.sequence, 1, NULL, NULL, &exec, &without),
                     VTC_OK);
    assert_int_equal(with, without);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_7b_layer),
        cmocka_unit_test(tensors_tell_the_variant),
        cmocka_unit_test(weights_have_the_names_of_the_checkpoint),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(a_prepared_object_serves_its_own_shapes_alone),
        cmocka_unit_test(a_query_needs_no_prepared_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
