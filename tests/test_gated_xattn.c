/* Gated cross-attention: values, laws, names and counts. */
#include "gated_xattn_cases.h"

#include "reference/flamingo_reference.h"

#include <math.h>
#include <stdlib.h>

/* ---- facts ----------------------------------------------------------------------------------- */

static const form plain = { false, false, 0 };

static void check_form(const gated_case *k, const inputs *in, const double *want, form f)
{
    const vtc_tensor y = run_form(k, in, f);

    /* keys and values in 16 bits are other ones */
    assert_tensor_near(&y, want, !f.encodes || k->kv == VTC_F32 ? 1e-5 : 2e-2);
    guard_free(y.data);
}

static void check_case(const gated_case *k, uint64_t *seed)
{
    inputs in;
    double *want;

    make_inputs(k, rng(seed), &in);
    want = reference_gated_xattn(&k->params, &in.m.weights, &in.x, &in.media, given(&in.locations));
    for (int i = 0; i < 4; i++)
        check_form(k, &in, want, (form){ i % 2 == 1, i >= 2, rng_below(seed, 6) });
    free(want);
    free_inputs(&in);
}

static gated_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    gated_case k = make_case(rng_below(seed, 4), rng_below(seed, 20), 1 + rng_below(seed, 4),
                             1 + rng_below(seed, 7));

    k.params.heads = 1 + rng_below(seed, 4);
    k.params.rule = (vtc_media_rule)rng_below(seed, 2);
    k.params.cached_media = rng_below(seed, 3) == 0;
    k.params.act = rng_below(seed, 4) == 0 ? VTC_ACT_RELU2 : VTC_ACT_GELU_ERF;
    k.width = 1 + rng_below(seed, 9);
    k.d = 4 + rng_below(seed, 30);
    k.d_media = 1 + rng_below(seed, 20);
    k.hidden = 1 + rng_below(seed, 60);
    k.n_locations = k.params.cached_media ? rng_below(seed, 12) : k.l;
    k.every = rng_below(seed, 9);
    if (rng_below(seed, 6) == 0)
        k.n_locations = SIZE_MAX;
    k.from = dtypes[rng_below(seed, 3)];
    k.to = dtypes[rng_below(seed, 3)];
    k.kv = dtypes[rng_below(seed, 3)];
    k.mixed = rng_below(seed, 2) == 0;
    k.gap = rng_below(seed, 3);
    return k;
}

static void any_shape_and_dtype_matches_the_reference(void **state)
{
    uint64_t seed = 601;

    (void)state;
    for (int i = 0; i < 150; i++) {
        const gated_case k = random_case(&seed);

        check_case(&k, &seed);
    }
}

static void long_text_matches_in_blocks(void **state)
{
    gated_case k = make_case(2, 1100, 5, 3);
    uint64_t seed = 602;

    (void)state;
    k.every = 200;
    check_case(&k, &seed);
    k.params.rule = VTC_MEDIA_ALL_PREVIOUS;
    check_case(&k, &seed);
}

static void many_short_texts_match_in_blocks(void **state)
{
    gated_case k = make_case(700, 1, 2, 5);
    uint64_t seed = 603;

    (void)state;
    k.params.cached_media = 1;
    k.n_locations = 6;
    check_case(&k, &seed);
    k.kv = VTC_F16;
    check_case(&k, &seed);
}

/* 64 batch items with 70000 floats of keys and values each do not fit one block. */
static void many_keys_match_in_blocks(void **state)
{
    gated_case k = make_case(64, 2, 1, 35);
    uint64_t seed = 604;

    (void)state;
    k.params.heads = 4;
    k.width = 250;
    k.every = 2;
    k.d = 8;
    k.d_media = 4;
    k.hidden = 8;
    check_case(&k, &seed);
}

static void one_sequence_needs_no_batch_axis(void **state)
{
    const gated_case k = make_case(1, 9, 2, 5);
    inputs in;
    vtc_tensor want, got;

    (void)state;
    make_inputs(&k, 605, &in);
    want = run_form(&k, &in, plain);
    in.x = vtc_f32_2d(in.x.data, k.l, k.d);
    in.media = vtc_f32_3d(in.media.data, k.t, k.n, k.d_media);
    in.locations = vtc_tensor_1d(in.locations.data, VTC_U8, k.l);
    got = run_form(&k, &in, plain);
    assert_same_bits(&got, &want);
    free_inputs(&in);
    guard_free(want.data);
    guard_free(got.data);
}

static void locations_of_any_dtype_say_the_same(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_BOOL, VTC_I32, VTC_I64 };
    const gated_case k = make_case(2, 9, 2, 5);
    inputs in;
    vtc_tensor want;

    (void)state;
    make_inputs(&k, 606, &in);
    want = run_form(&k, &in, plain);
    for (int i = 0; i < 3; i++) {
        inputs other = in;
        vtc_tensor got;
        char *data;

        other.locations = make_tensor(dtypes[i], 2, in.locations.dim, 1);
        data = other.locations.data;
        memset(data, 0, (2 * (k.l + 1) - 1) * vtc_dtype_size(dtypes[i]));
        for (size_t at = 0; at < 2 * k.l; at++) /* little-endian: the lowest or highest byte */
            data[element_at(&other.locations, at) * vtc_dtype_size(dtypes[i]) + (i == 0 ? 0 : 3)] =
                (char)((uint8_t *)in.locations.data)[at];
        got = run_form(&k, &other, plain);
        assert_same_bits(&got, &want);
        guard_free(other.locations.data);
        guard_free(got.data);
    }
    free_inputs(&in);
    guard_free(want.data);
}

static void any_executor_and_strides_give_the_same_bits(void **state)
{
    gated_case k = make_case(2, 70, 3, 33);
    vtc_tensor want[4];

    (void)state;
    k.d = 70;
    k.hidden = 270;
    k.every = 20;
    for (size_t gap = 0; gap < 2; gap++) {
        inputs in;

        k.gap = 3 * gap;
        make_inputs(&k, 607, &in);
        for (size_t i = 0; i < 16; i++) {
            const vtc_tensor got =
                run_form(&k, &in, (form){ i % 2 == 1, i % 4 >= 2, (i / 4) * (i / 4 + 1) / 2 });

            if (gap == 0 && i < 4) {
                want[i] = got;
                continue;
            }
            assert_same_bits(&got, &want[i % 4]);
            guard_free(got.data);
        }
        free_inputs(&in);
    }
    for (int i = 0; i < 4; i++)
        guard_free(want[i].data);
}

static void prepared_and_raw_agree(void **state)
{
    uint64_t seed = 608;

    (void)state;
    for (int i = 0; i < 30; i++) {
        gated_case k = random_case(&seed);
        vtc_tensor raw, ready;
        inputs in;

        k.to = VTC_F32;
        make_inputs(&k, rng(&seed), &in);
        raw = run_form(&k, &in, plain);
        ready = run_form(&k, &in, (form){ false, true, 0 });
        assert_tensors_near(&ready, &raw, 2e-6);
        free_inputs(&in);
        guard_free(raw.data);
        guard_free(ready.data);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void set_gate(vtc_tensor *gate, float value)
{
    guard_writable(gate->data);
    *(float *)gate->data = value;
}

static void closed_gates_make_the_block_the_identity(void **state)
{
    const gated_case k = make_case(2, 9, 2, 5);
    vtc_tensor y;
    inputs in;

    (void)state;
    make_inputs(&k, 609, &in);
    set_gate(&in.m.weights.attn_gate, 0.0f);
    set_gate(&in.m.weights.ff_gate, 0.0f);
    y = run_form(&k, &in, plain);
    assert_same_bits(&y, &in.x);
    free_inputs(&in);
    guard_free(y.data);
}

/* Two sequences of media, the rest alike: which rows of y are the same? */
static void compare_media(gated_case k, const uint8_t *location, bool *same)
{
    vtc_tensor first, second, other;
    uint64_t seed = 611;
    inputs in;

    k.n_locations = SIZE_MAX;
    make_inputs(&k, 610, &in);
    in.locations = vtc_tensor_2d(location, VTC_U8, 1, k.l);
    first = run_form(&k, &in, plain);
    other = in.media;
    in.media = make_media(&seed, &k);
    second = run_form(&k, &in, plain);
    for (size_t l = 0; l < k.l; l++)
        same[l] = memcmp((float *)first.data + l * k.d, (float *)second.data + l * k.d,
                         k.d * sizeof(float)) == 0;
    in.locations.data = NULL;
    guard_free(other.data);
    free_inputs(&in);
    guard_free(first.data);
    guard_free(second.data);
}

static void text_before_media_sees_them_only_where_all_previous_count(void **state)
{
    static const uint8_t location[] = { 0, 0, 1, 0, 1, 0 };
    gated_case k = make_case(1, 6, 2, 5);
    bool same[6];

    (void)state;
    compare_media(k, location, same);
    for (int l = 0; l < 6; l++)
        assert_int_equal(same[l], l < 2);
    k.params.rule = VTC_MEDIA_ALL_PREVIOUS;
    compare_media(k, location, same);
    for (int l = 0; l < 6; l++)
        assert_false(same[l]);
}

/* Without keys that differ, attention gives the mean: what blind rows must give too. */
static void blind_rows_gather_the_mean(void **state)
{
    static const uint8_t location[] = { 0, 1, 1, 1, 0 };
    gated_case k = make_case(1, 5, 2, 3);
    const size_t inner = k.params.heads * k.width;
    vtc_tensor kv, masked, open;
    inputs in;

    (void)state;
    k.n_locations = SIZE_MAX;
    make_inputs(&k, 612, &in);
    kv = keys_of(&k, &in.m, NULL, &in.media, 0);
    in.locations = vtc_tensor_2d(location, VTC_U8, 1, k.l);
    masked = attended(&k, &in.m, NULL, &in.x, NULL, &kv, &in.locations, 0);
    guard_writable(kv.data);
    for (size_t i = 0; i < k.t * k.n; i++)
        memset((float *)kv.data + i * 2 * inner, 0, inner * sizeof(float));
    open = attended(&k, &in.m, NULL, &in.x, NULL, &kv, NULL, 0);
    /* rows 3 and 4 have seen three media tokens of two items */
    for (size_t i = 3 * k.d; i < 5 * k.d; i++)
        assert_true(close_to(((float *)masked.data)[i], ((float *)open.data)[i], 2e-6, 2e-6));
    in.locations.data = NULL;
    free_inputs(&in);
    guard_free(kv.data);
    guard_free(masked.data);
    guard_free(open.data);
}

/* One token at a time, from cached keys and values: the rows of the whole text. */
static void decoding_gives_the_rows_of_the_whole_text(void **state)
{
    gated_case k = make_case(2, 14, 3, 4);
    const size_t n_prompt = 9;
    vtc_tensor whole, kv;
    inputs in;

    (void)state;
    make_inputs(&k, 613, &in);
    guard_writable(in.locations.data);
    for (size_t i = 0; i < 2 * k.l; i++)
        if (i % k.l >= n_prompt)
            ((uint8_t *)in.locations.data)[i] = 0;
    whole = run_form(&k, &in, plain);
    kv = keys_of(&k, &in.m, NULL, &in.media, 0);
    k.params.cached_media = 1;
    for (size_t l = n_prompt; l < k.l; l++) {
        vtc_tensor x = in.x, prompt = in.locations, y;

        x.data = (float *)x.data + l * k.d;
        x.dim[1] = 1;
        prompt.dim[1] = n_prompt;
        y = attended(&k, &in.m, NULL, &x, NULL, &kv, &prompt, 0);
        for (size_t i = 0; i < 2 * k.d; i++)
            assert_true(close_to(((float *)y.data)[i],
                                 ((float *)whole.data)[(i / k.d * k.l + l) * k.d + i % k.d], 5e-6,
                                 5e-6));
        guard_free(y.data);
    }
    free_inputs(&in);
    guard_free(whole.data);
    guard_free(kv.data);
}

static void items_may_be_encoded_one_at_a_time(void **state)
{
    const gated_case k = make_case(2, 3, 4, 5);
    vtc_tensor want, kv;
    inputs in;

    (void)state;
    make_inputs(&k, 614, &in);
    want = keys_of(&k, &in.m, NULL, &in.media, 0);
    kv = make_tensor(VTC_F32, 4, want.dim, 0);
    for (size_t t = 0; t < k.t; t++) {
        vtc_tensor item = in.media, part = kv;

        item.data = (float *)item.data + t * item.stride[1];
        part.data = (float *)part.data + t * part.stride[1];
        item.dim[1] = part.dim[1] = 1;
        encode(&k, &in.m, NULL, &item, &part, 0);
    }
    assert_same_bits(&kv, &want);
    free_inputs(&in);
    guard_free(want.data);
    guard_free(kv.data);
}

static void without_media_tokens_nothing_is_gathered(void **state)
{
    const gated_case none = make_case(2, 7, 0, 5), empty = make_case(2, 7, 3, 0);
    vtc_tensor closed, y[2];
    inputs in;

    (void)state;
    make_inputs(&none, 615, &in);
    y[0] = run_form(&none, &in, (form){ true, false, 2 });
    in.media.dim[1] = 3;
    in.media.dim[2] = 0;
    y[1] = run_form(&empty, &in, plain);
    set_gate(&in.m.weights.attn_gate, 0.0f);
    in.media = make_tensor(VTC_F32, 4, (const size_t[]){ 2, 1, 1, none.d_media }, 0);
    memset(in.media.data, 0, 2 * none.d_media * sizeof(float));
    closed = run_form(&none, &in, plain);
    for (int i = 0; i < 2; i++)
        assert_same_bits(&y[i], &closed);
    free_inputs(&in);
    guard_free(closed.data);
    guard_free(y[0].data);
    guard_free(y[1].data);
}

/* ---- names and counts ------------------------------------------------------------------------ */

/* Every tensor as a vector or matrix of ones in its extents; gates as `gate` axes. */
static int find_tensor(void *source, const char *name, vtc_tensor *view)
{
    static const float data[1];
    const int *gate = source;
    const size_t ones[] = { 1, 1 };
    const bool vector = strstr(name, "norm.") != NULL || strstr(name, "ff.0") != NULL;
    const bool is_gate = strstr(name, "_gate") != NULL;

    if (strncmp(name, "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.", 57) != 0)
        return 0;
    *view = vtc_tensor_nd(data, VTC_F32, is_gate ? *gate : vector ? 1 : 2, ones);
    return 1;
}

static void weights_are_found_by_the_checkpoints_names(void **state)
{
    static const char prefix[] = "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.";
    vtc_gated_xattn_weights w;

    (void)state;
    for (int gate = 0; gate < 2; gate++) {
        assert_int_equal(vtc_weights_bind(&vtc_gated_xattn_table, find_tensor, &gate, prefix, &w,
                                          NULL),
                         VTC_OK);
        assert_int_equal(w.attn_gate.rank, 0);
        assert_int_equal(w.ff_down.rank, 2);
    }
    assert_int_equal(vtc_weights_bind(&vtc_gated_xattn_table, find_tensor, &(int){ 1 }, "x.", &w,
                                      NULL),
                     VTC_ERR_NULL);
}

/* OpenFlamingo-3B, -4B and -9B, without any data. */
static void counts_are_the_published_ones(void **state)
{
    static const size_t widths[] = { 2048, 2560, 4096 };
    static const double parameters[] = { 36.7e6, 56.1e6, 139.5e6 };
    static const double token_flops[] = { 71e6, 110e6, 277e6 };

    (void)state;
    for (int i = 0; i < 3; i++) {
        const size_t d = widths[i], inner = 512;
        const vtc_norm norm = { vtc_f32_1d(NULL, d), vtc_f32_1d(NULL, d) };
        const vtc_gated_xattn_weights w = { norm,
                                            vtc_f32_2d(NULL, inner, d),
                                            vtc_f32_2d(NULL, 2 * inner, 1024),
                                            vtc_f32_2d(NULL, d, inner),
                                            vtc_f32_1d(NULL, 1),
                                            norm,
                                            vtc_f32_2d(NULL, 4 * d, d),
                                            vtc_f32_2d(NULL, d, 4 * d),
                                            vtc_f32_1d(NULL, 1) };
        vtc_model_cost cost;

        assert_int_equal(vtc_gated_xattn_cost(NULL, &w, 1, 64, 0, &cost, NULL), VTC_OK);
        assert_true(fabs(cost.parameters - parameters[i]) < 0.1e6);
        assert_true(fabs(2 * cost.multiply_adds - token_flops[i]) < 1e6);
        assert_int_equal(vtc_gated_xattn_cost(NULL, &w, 0, 64, 64, &cost, NULL), VTC_OK);
        assert_true(fabs(2 * cost.multiply_adds - 134e6) < 1e6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_and_dtype_matches_the_reference),
        cmocka_unit_test(long_text_matches_in_blocks),
        cmocka_unit_test(many_short_texts_match_in_blocks),
        cmocka_unit_test(many_keys_match_in_blocks),
        cmocka_unit_test(one_sequence_needs_no_batch_axis),
        cmocka_unit_test(locations_of_any_dtype_say_the_same),
        cmocka_unit_test(any_executor_and_strides_give_the_same_bits),
        cmocka_unit_test(prepared_and_raw_agree),
        cmocka_unit_test(closed_gates_make_the_block_the_identity),
        cmocka_unit_test(text_before_media_sees_them_only_where_all_previous_count),
        cmocka_unit_test(blind_rows_gather_the_mean),
        cmocka_unit_test(decoding_gives_the_rows_of_the_whole_text),
        cmocka_unit_test(items_may_be_encoded_one_at_a_time),
        cmocka_unit_test(without_media_tokens_nothing_is_gathered),
        cmocka_unit_test(weights_are_found_by_the_checkpoints_names),
        cmocka_unit_test(counts_are_the_published_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
