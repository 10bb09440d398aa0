/* A LLaMA layer with VLoRA's increments. */
#include "reference/vlora_reference.h"
#include "support/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

enum { MAX_ROWS = 4096 };

typedef struct block_case {
    size_t n_batch, n, n_heads, n_kv, d, f, r;
    vtc_vlora_block_params params;
    vtc_vlora_block_weights weights;
    vtc_vlora_deltas deltas;
    weight_set set;
    vtc_tensor hidden;
    uint8_t mask_data[MAX_ROWS];
    int32_t positions[MAX_ROWS];
    vtc_tensor mask;
    bool has_mask, has_positions;
} block_case;

static vtc_vlora_factors factors_of(block_case *k, size_t n_in, size_t n_out)
{
    vtc_vlora_factors f;

    f.a = matrix_of(&k->set, n_in, k->r);
    f.b = matrix_of(&k->set, n_out, k->r);
    return f;
}

static void make_case(block_case *k, uint64_t *seed, vtc_dtype from, bool mixed, unsigned kinds)
{
    const vtc_vlora_block_params params = VTC_VLORA_BLOCK_PARAMS_INIT;
    const size_t h = k->n_heads * k->d, kv = k->n_kv * k->d;
    weight_set *set = &k->set;

    memset(set, 0, sizeof(*set));
    memset(&k->deltas, 0, sizeof(k->deltas));
    set->seed = rng(seed);
    set->mixed = mixed;
    set->gap = mixed ? 1 : 0;
    k->params = params;
    k->params.n_heads = k->n_heads;
    k->weights.input_layernorm = norm_of(set, h).weight;
    k->weights.post_attention_layernorm = norm_of(set, h).weight;
    k->weights.q_proj = plain_linear_of(set, h, h);
    k->weights.k_proj = mixed ? linear_of(set, kv, h) : plain_linear_of(set, kv, h);
    k->weights.v_proj = plain_linear_of(set, kv, h);
    k->weights.o_proj = plain_linear_of(set, h, h);
    k->weights.mlp.gate = plain_linear_of(set, k->f, h);
    k->weights.mlp.up = plain_linear_of(set, k->f, h);
    k->weights.mlp.down = plain_linear_of(set, h, k->f);
    if (kinds & 1)
        k->deltas.q = factors_of(k, h, h);
    if (kinds & 2)
        k->deltas.k = factors_of(k, h, kv);
    if (kinds & 4)
        k->deltas.v = factors_of(k, h, kv);
    if (kinds & 8)
        k->deltas.o = factors_of(k, h, h);
    if (kinds & 16)
        k->deltas.m = factors_of(k, h, h);
    k->hidden = make_random(seed, from, 3, (const size_t[]){ k->n_batch, k->n, h }, mixed ? 2 : 0);
    for (size_t i = 0; i < k->n_batch * k->n; i++) {
        k->mask_data[i] = rng_below(seed, 3) != 0;
        k->positions[i] = (int32_t)rng_below(seed, 3000);
    }
    k->mask = vtc_tensor_2d(k->mask_data, VTC_BOOL, k->n_batch, k->n);
}

static void free_case(block_case *k)
{
    guard_free(k->hidden.data);
    weights_free(&k->set);
}

static vtc_tensor run_block(const block_case *k, vtc_dtype to, size_t n_workers)
{
    vtc_tensor out = make_tensor(to, 3, k->hidden.dim, 1);
    const vtc_tensor *mask = k->has_mask ? &k->mask : NULL;
    const int32_t *positions = k->has_positions ? k->positions : NULL;
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_vlora_block_scratch(&k->params, &k->weights, &k->deltas, &k->hidden, mask,
                                             positions, &out, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_vlora_block(&k->params, &k->weights, &k->deltas, &k->hidden, mask,
                                     positions, &out, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return out;
}

static void assert_expected(const block_case *k, const vtc_tensor *out)
{
    const size_t count = k->n * k->n_heads * k->d;
    double *hidden = values_of(&k->hidden), *want = values_of(out);

    for (size_t b = 0; b < k->n_batch; b++) {
        double *y = ref_vlora_block(&k->params, &k->weights, &k->deltas, hidden + b * count, k->n,
                                    k->has_mask ? k->mask_data + b * k->n : NULL,
                                    k->has_positions ? k->positions + b * k->n : NULL);

        if (count != 0)
            memcpy(want + b * count, y, count * sizeof(*y));
        free(y);
    }
    assert_tensor_near(out, want, 1e-4); /* logits reach into the hundreds */
    free(hidden);
    free(want);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_layer_and_dtype_matches_the_definition(void **state)
{
    static block_case k;
    uint64_t seed = 961;

    (void)state;
    for (int i = 0; i < 150; i++) {
        k.n_batch = rng_below(&seed, 3);
        k.n = rng_below(&seed, 20);
        k.n_kv = 1 + rng_below(&seed, 3);
        k.n_heads = k.n_kv * (1 + rng_below(&seed, 2));
        k.d = 2 * (1 + rng_below(&seed, 5));
        k.f = 1 + rng_below(&seed, 40);
        k.r = 1 + rng_below(&seed, 5);
        k.has_mask = rng_below(&seed, 3) != 0;
        k.has_positions = rng_below(&seed, 3) == 0;
        make_case(&k, &seed, dtypes[i % 3], i % 2 == 0, (unsigned)rng_below(&seed, 32));
        const vtc_tensor out = run_block(&k, dtypes[rng_below(&seed, 3)], rng_below(&seed, 6));

        assert_expected(&k, &out);
        guard_free(out.data);
        free_case(&k);
    }
}

static void many_rows_match_the_definition(void **state)
{
    static block_case k = {
        .n_batch = 1, .n = 1030, .n_heads = 2, .n_kv = 2, .d = 4, .f = 11, .r = 2
    };
    uint64_t seed = 962;

    (void)state;
    k.has_mask = true;
    make_case(&k, &seed, VTC_F32, false, 31);
    memset(k.mask_data, 0, 70); /* more blind queries than a block of attention has */
    const vtc_tensor out = run_block(&k, VTC_F32, 2);

    assert_expected(&k, &out);
    guard_free(out.data);
    free_case(&k);
}

static void factors_of_each_sequence_are_its_own(void **state)
{
    static block_case k = {
        .n_batch = 3, .n = 5, .n_heads = 2, .n_kv = 2, .d = 4, .f = 11, .r = 2
    };
    uint64_t seed = 963;
    const size_t dim[] = { 3, 8, 2 };

    (void)state;
    make_case(&k, &seed, VTC_F32, false, 0);
    k.deltas.v = factors_of(&k, 8, 8);
    const vtc_tensor each = make_random(&seed, VTC_F32, 3, dim, 1);

    k.deltas.v.a = each;
    const vtc_tensor out = run_block(&k, VTC_F32, 2);

    for (size_t b = 0; b < 3; b++) {
        const float *mine = (const float *)out.data + b * out.stride[0];
        double *hidden = values_of(&k.hidden), *want;

        k.deltas.v.a = vtc_f32_2d((const float *)each.data + b * each.stride[0], 8, 2);
        k.deltas.v.a.stride[0] = each.stride[1];
        want = ref_vlora_block(&k.params, &k.weights, &k.deltas, hidden + b * 40, 5, NULL, NULL);
        for (size_t i = 0; i < 40; i++)
            assert_true(close_to(mine[i / 8 * out.stride[1] + i % 8], want[i], 3e-5, 3e-5));
        free(hidden);
        free(want);
    }
    guard_free(out.data);
    guard_free(each.data);
    free_case(&k);
}

static void a_hidden_placeholder_carries_nothing(void **state)
{
    static block_case k = {
        .n_batch = 1, .n = 9, .n_heads = 2, .n_kv = 2, .d = 4, .f = 11, .r = 2
    };
    uint64_t seed = 964;

    (void)state;
    k.has_mask = true;
    make_case(&k, &seed, VTC_F32, false, 31);
    memset(k.mask_data, 1, 9);
    k.mask_data[3] = 0;
    const vtc_tensor one = run_block(&k, VTC_F32, 1);

    guard_writable(k.hidden.data);
    for (size_t i = 0; i < 8; i++)
        ((float *)k.hidden.data)[3 * 8 + i] += 1.0f;
    const vtc_tensor other = run_block(&k, VTC_F32, 1);

    for (size_t row = 0; row < 9; row++) {
        const size_t at = row * one.stride[1];
        const int differs =
            memcmp((const float *)one.data + at, (const float *)other.data + at, 8 * sizeof(float));

        assert_true((differs != 0) == (row == 3));
    }
    guard_free(one.data);
    guard_free(other.data);
    free_case(&k);
}

static void any_executor_gives_the_same_bits(void **state)
{
    static block_case k = {
        .n_batch = 2, .n = 90, .n_heads = 4, .n_kv = 4, .d = 10, .f = 300, .r = 5
    };
    uint64_t seed = 965;

    (void)state;
    k.has_mask = true;
    make_case(&k, &seed, VTC_F16, true, 31);
    const vtc_tensor want = run_block(&k, VTC_F32, 0);

    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        const vtc_tensor out = run_block(&k, VTC_F32, n_workers);

        assert_same_bits(&out, &want);
        guard_free(out.data);
    }
    guard_free(want.data);
    free_case(&k);
}

static void counts_are_those_of_llama_7b(void **state)
{
    const vtc_linear square = { vtc_tensor_2d(NULL, VTC_F16, 4096, 4096), { 0 } };
    const vtc_linear wide = { vtc_tensor_2d(NULL, VTC_F16, 11008, 4096), { 0 } };
    const vtc_linear narrow = { vtc_tensor_2d(NULL, VTC_F16, 4096, 11008), { 0 } };
    const vtc_tensor norm = vtc_tensor_1d(NULL, VTC_F16, 4096);
    const vtc_tensor factor = vtc_tensor_2d(NULL, VTC_F16, 4096, 64);
    const vtc_vlora_block_weights w = {
        norm, square, square, square, square, norm, { wide, wide, narrow }
    };
    const vtc_vlora_factors f = { factor, factor };
    const vtc_vlora_deltas deltas = { f, f, f, f, f };
    vtc_model_cost plain, with;

    (void)state;
    assert_int_equal(vtc_vlora_block_cost(NULL, &w, NULL, 64, &plain, NULL), VTC_OK);
    assert_true(plain.parameters == 2 * 4096.0 + 4 * 4096.0 * 4096 + 3 * 4096.0 * 11008);
    assert_int_equal(vtc_vlora_block_cost(NULL, &w, &deltas, 64, &with, NULL), VTC_OK);
    /* "two thin products cost 2 H r multiply-adds a token" */
    assert_true(with.multiply_adds - plain.multiply_adds == 64 * 5 * 2 * 4096.0 * 64);
    assert_true(with.parameters - plain.parameters == 5 * 2 * 4096.0 * 64);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const block_case *k, const vtc_vlora_deltas *deltas,
                           const vtc_tensor *mask, const int32_t *positions, vtc_tensor *out,
                           vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_vlora_block(&k->params, &k->weights, deltas, &k->hidden, mask, positions, out,
                                  &exec),
                  want, part);
    exec_scratch_free(&exec);
}

static void what_does_not_fit_is_refused(void **state)
{
    static block_case k = { .n_batch = 2, .n = 3, .n_heads = 4, .n_kv = 2, .d = 2, .f = 5, .r = 2 };
    uint64_t seed = 966;
    vtc_vlora_deltas bad;

    (void)state;
    make_case(&k, &seed, VTC_F32, false, 31);
    vtc_tensor out = make_tensor(VTC_F32, 3, k.hidden.dim, 0), wrong = out, mask = k.mask;

    bad = k.deltas;
    bad.k = k.deltas.q; /* H x H, as VLoRA has it: the layer must have as many key heads */
    expect_refused(&k, &bad, NULL, NULL, &out, VTC_ERR_SHAPE, "k.b has 8 rows, its layer gives 4");
    bad = k.deltas;
    memset(&bad.o.b, 0, sizeof(bad.o.b));
    expect_refused(&k, &bad, NULL, NULL, &out, VTC_ERR_DTYPE, "o.b has dtype");
    mask.dim[1] = 2;
    expect_refused(&k, &k.deltas, &mask, NULL, &out, VTC_ERR_SHAPE, "key_mask has extent 2");
    mask = k.mask;
    mask.dtype = VTC_I32;
    expect_refused(&k, &k.deltas, &mask, NULL, &out, VTC_ERR_DTYPE, "key_mask has dtype I32");
    wrong.dim[1] = 2;
    expect_refused(&k, &k.deltas, NULL, NULL, &wrong, VTC_ERR_SHAPE,
                   "out has extent 2 along axis 1");
    wrong = out;
    wrong.data = k.hidden.data;
    expect_refused(&k, &k.deltas, NULL, NULL, &wrong, VTC_ERR_OVERLAP, "out overlaps hidden");
    expect_refused(&k, &k.deltas, NULL, out.data, &out, VTC_ERR_OVERLAP, "out overlaps positions");
    k.params.n_heads = 3;
    expect_refused(&k, &k.deltas, NULL, NULL, &out, VTC_ERR_SHAPE, "not a multiple of 3 heads");
    k.params.n_heads = 8;
    expect_refused(&k, &k.deltas, NULL, NULL, &out, VTC_ERR_SHAPE, "heads of 1 channels");
    assert_untouched(&out);
    guard_free(out.data);
    free_case(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_layer_and_dtype_matches_the_definition),
        cmocka_unit_test(many_rows_match_the_definition),
        cmocka_unit_test(factors_of_each_sequence_are_its_own),
        cmocka_unit_test(a_hidden_placeholder_carries_nothing),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(counts_are_those_of_llama_7b),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
