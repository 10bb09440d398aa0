/* VLoRA's weights: counts, names, layers, the learned factor, checks. */
#include "support/vlora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const vlora_sizes small = { "qkvom", true, 2, 6, 3, 2, 8, 2, 7, 5, 16 };

static vtc_linear shape_of(size_t n_out, size_t n_in)
{
    const vtc_linear layer = { vtc_tensor_2d(NULL, VTC_F16, n_out, n_in),
                               vtc_tensor_1d(NULL, VTC_F16, n_out) };

    return layer;
}

static vtc_norm norm_shape(size_t n)
{
    const vtc_norm norm = { vtc_tensor_1d(NULL, VTC_F16, n), vtc_tensor_1d(NULL, VTC_F16, n) };

    return norm;
}

/* The released recipe: T = 5, n = 8, D = 512, depth 8, P = 576, H r = 4096 x 64. */
static void counts_are_those_of_the_released_sizes(void **state)
{
    enum { D = 512, DEPTH = 8, P = 576, N = 8, T = 5, WIDTH = 4096 * 64 };
    vtc_vlora_decoder decoders[DEPTH];
    vtc_vlora_generator generators[T];
    const vtc_vlora_weights w = { shape_of(D, 1024), vtc_tensor_3d(NULL, VTC_F16, 1, P, D),
                                  vtc_tensor_3d(NULL, VTC_F16, 1, T * N, WIDTH), generators, T };
    size_t n_kinds, n_layers, llm_dim;
    vtc_model_cost cost;

    (void)state;
    for (int i = 0; i < DEPTH; i++) {
        const vtc_vlora_decoder decoder = { norm_shape(D),
                                            norm_shape(D),
                                            norm_shape(D),
                                            { shape_of(3 * D, D), shape_of(D, D) },
                                            { shape_of(3 * D, D), shape_of(D, D) },
                                            shape_of(4 * D, D),
                                            shape_of(D, 4 * D) };

        decoders[i] = decoder;
    }
    for (int i = 0; i < T; i++) {
        const vtc_vlora_generator g = { vtc_tensor_3d(NULL, VTC_F16, 1, N, D), norm_shape(D),
                                        shape_of(WIDTH, D), decoders, DEPTH };

        generators[i] = g;
    }
    assert_int_equal(vtc_vlora_count(NULL, &w, &n_kinds, &n_layers, &llm_dim, NULL), VTC_OK);
    assert_int_equal(n_kinds, 5);
    assert_int_equal(n_layers, 8);
    assert_int_equal(llm_dim, 4096);
    assert_int_equal(vtc_vlora_cost(NULL, &w, 2, &cost, NULL), VTC_OK);

    const double d = D, head = (d + 1) * WIDTH;
    const double decoder = 16 * d * d + 8 * d + 5 * d + 6 * d;
    const double work =
        8 * (6 * d * d + 8 * d * d) + 2 * 64 * d + 2 * 576 * d * d + 2 * 8 * 576 * d;

    assert_true(5 * head > 0.67e9 && 5 * head < 0.68e9); /* "about 0.7 G" */
    assert_true(cost.parameters == 1025 * d + P * d + T * N * (double)WIDTH +
                                       T * (N * d + 2 * d + head + DEPTH * decoder));
    assert_true(cost.multiply_adds ==
                2 * (P * d * 1024 + T * (DEPTH * work + N * d * (double)WIDTH)));
}

static void every_so_many_layers_one_is_injected(void **state)
{
    vtc_vlora_params p = VTC_VLORA_PARAMS_INIT;

    (void)state;
    assert_int_equal(vtc_vlora_layer(NULL, 2), -1);
    assert_int_equal(vtc_vlora_layer(NULL, 3), 0);
    assert_int_equal(vtc_vlora_layer(NULL, 31), 7);
    p.skip_layers = 1;
    assert_int_equal(vtc_vlora_layer(&p, 0), 0);
    assert_int_equal(vtc_vlora_layer(&p, 5), 5);
    p.skip_layers = 0;
    assert_int_equal(vtc_vlora_layer(&p, 5), -1);
}

/* ---- the learned factor ---------------------------------------------------------------------- */

static void the_learned_factor_is_scaled_by_alpha_over_rank(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    static vlora_model m;

    (void)state;
    for (int i = 0; i < 12; i++) {
        vlora_sizes sizes = small;

        sizes.llm_dim = i < 6 ? 6 : 400; /* more than a piece of a row */
        make_vlora_model(&m, (uint64_t)i, sizes, i % 2 == 0);
        m.params.alpha = i % 3 == 0 ? 0.0f : 2.5f;
        vtc_tensor b = make_tensor(dtypes[i % 3], 4, (const size_t[]){ 5, 2, sizes.llm_dim, 3 }, 0);
        const vtc_exec exec = test_exec((size_t)i % 4);
        double *want = values_of(&m.weights.Bs);

        for (size_t e = 0; e < n_elements(&b); e++)
            want[e] *= i % 3 == 0 ? 1.0 : 2.5 / 3.0;
        assert_int_equal(vtc_vlora_learned(&m.params, &m.weights, &b, &exec), VTC_OK);
        assert_tensor_near(&b, want, 2e-7);
        free(want);
        guard_free(b.data);
        free_vlora_model(&m);
    }
}

/* ---- names ----------------------------------------------------------------------------------- */

static int find(void *arg, const char *name, vtc_tensor *view)
{
    static const char *const known[] = {
        "m.visual_proj.weight",
        "m.visual_proj.bias",
        "m.pos_embed",
        "m.Bs",
        "m.gen.3.queries",
        "m.gen.3.norm.weight",
        "m.gen.3.norm.bias",
        "m.gen.3.weights_head.weight",
        "m.gen.3.weights_head.bias",
        "m.gen.3.decoders.1.self_attn.in_proj_weight",
        "m.gen.3.decoders.1.self_attn.in_proj_bias",
        "m.gen.3.decoders.1.self_attn.out_proj.weight",
        "m.gen.3.decoders.1.multihead_attn.in_proj_weight",
        "m.gen.3.decoders.1.multihead_attn.out_proj.weight",
        "m.gen.3.decoders.1.linear1.weight",
        "m.gen.3.decoders.1.linear2.weight",
        "m.gen.3.decoders.1.norm1.weight",
        "m.gen.3.decoders.1.norm2.weight",
        "m.gen.3.decoders.1.norm3.weight",
    };
    static float data[8];

    (void)arg;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strcmp(known[i], name) == 0) {
            const bool cube = i == 2 || i == 3 || i == 4;
            const bool flat = strstr(name, "bias") != NULL || strstr(name, "norm") != NULL;

            *view = cube   ? vtc_f32_3d(data, 1, 2, 2)
                    : flat ? vtc_f32_1d(data, 2)
                           : vtc_f32_2d(data, 2, 2);
            return 1;
        }
    return 0;
}

static void weights_have_the_names_of_the_checkpoint(void **state)
{
    vtc_vlora_weights w;
    vtc_vlora_generator g;
    vtc_vlora_decoder d;

    (void)state;
    assert_int_equal(vtc_weights_bind(&vtc_vlora_table, find, NULL, "m.", &w, NULL), VTC_OK);
    assert_int_equal(vtc_weights_bind(&vtc_vlora_generator_table, find, NULL, "m.gen.3.", &g, NULL),
                     VTC_OK);
    assert_int_equal(vtc_weights_bind(&vtc_vlora_decoder_table, find, NULL, "m.gen.3.decoders.1.",
                                      &d, NULL),
                     VTC_OK);
    assert_false(vtc_tensor_is_absent(&d.self_attn.in_proj.bias));
    assert_true(vtc_tensor_is_absent(&d.multihead_attn.in_proj.bias));
}

/* ---- checks ---------------------------------------------------------------------------------- */

static void expect_refused(const vtc_vlora_params *params, const vtc_vlora_weights *w,
                           vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t bytes = 1;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_vlora_prepare_size(params, w, &exec, &bytes), want, part);
    assert_int_equal(bytes, 1);
}

static void params_that_do_not_fit_are_refused(void **state)
{
    static vlora_model m;
    vtc_vlora_params p;

    (void)state;
    make_vlora_model(&m, 1, small, false);
    p = m.params;
    p.types = "qkx";
    expect_refused(&p, &m.weights, VTC_ERR_RANGE, "the kind 'x'");
    p.types = "qkq";
    expect_refused(&p, &m.weights, VTC_ERR_RANGE, "the kind 'q' twice");
    p.types = "";
    expect_refused(&p, &m.weights, VTC_ERR_RANGE, "types names no kind");
    p.types = "qkv";
    expect_refused(&p, &m.weights, VTC_ERR_SHAPE, "Bs has 10 rows, not a multiple of the 3");
    p.types = "qk";
    expect_refused(&p, &m.weights, VTC_ERR_SHAPE, "5 generators for 2 kinds");
    p = m.params;
    p.rank = 0;
    expect_refused(&p, &m.weights, VTC_ERR_RANGE, "rank is 0");
    p.rank = 4;
    expect_refused(&p, &m.weights, VTC_ERR_SHAPE, "Bs has 18 columns, not a multiple of rank 4");
    p = m.params;
    p.n_heads = 3;
    expect_refused(&p, &m.weights, VTC_ERR_SHAPE, "8 channels, not a multiple of 3 heads");
    p = m.params;
    p.eps = -1.0f;
    expect_refused(&p, &m.weights, VTC_ERR_RANGE, "eps is -1");
    expect_refused(&m.params, NULL, VTC_ERR_NULL, "weights is NULL");
    free_vlora_model(&m);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    static vlora_model m;
    vtc_vlora_weights w;
    vtc_vlora_generator g;
    vtc_vlora_decoder d;

    (void)state;
    make_vlora_model(&m, 2, small, false);
    w = m.weights;
    w.generators = NULL;
    expect_refused(&m.params, &w, VTC_ERR_NULL, "generators is NULL");
    w = m.weights;
    w.pos_embed.dim[0] = 2;
    expect_refused(&m.params, &w, VTC_ERR_SHAPE, "pos_embed is 2x7x8");
    g = m.generators[1];
    m.generators[1].queries.dim[1] = 1;
    expect_refused(&m.params, &m.weights, VTC_ERR_SHAPE, "gen.1.queries has 1 rows, 2 are needed");
    m.generators[1] = g;
    m.generators[1].weights_head.weight.dim[0] = 4;
    expect_refused(&m.params, &m.weights, VTC_ERR_SHAPE, "gen.1.weights_head.weight is 4x8, 18x8");
    m.generators[1] = g;
    m.generators[1].decoders = NULL;
    expect_refused(&m.params, &m.weights, VTC_ERR_NULL, "gen.1.decoders is NULL");
    m.generators[1] = g;
    d = m.decoders[4][1];
    m.decoders[4][1].multihead_attn.in_proj.weight.dim[0] = 8;
    expect_refused(&m.params, &m.weights, VTC_ERR_SHAPE,
                   "gen.4.decoders.1.multihead_attn.in_proj_weight is 8x8, 24x8 is needed");
    m.decoders[4][1] = d;
    m.decoders[4][1].linear2.weight.dim[1] = 8;
    expect_refused(&m.params, &m.weights, VTC_ERR_SHAPE, "gen.4.decoders.1.linear2.weight is 8x8");
    m.decoders[4][1] = d;
    m.decoders[4][1].norm2.bias.dim[0] = 7;
    expect_refused(&m.params, &m.weights, VTC_ERR_SHAPE, "gen.4.decoders.1.norm2.bias has 7");
    m.decoders[4][1] = d;
    free_vlora_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_the_released_sizes),
        cmocka_unit_test(every_so_many_layers_one_is_injected),
        cmocka_unit_test(the_learned_factor_is_scaled_by_alpha_over_rank),
        cmocka_unit_test(weights_have_the_names_of_the_checkpoint),
        cmocka_unit_test(params_that_do_not_fit_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
