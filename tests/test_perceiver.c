/* The Perceiver Resampler: values, laws, names and counts. */
#include "perceiver_cases.h"

#include "reference/flamingo_reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- facts ----------------------------------------------------------------------------------- */

static void check_case(const perceiver_case *k, uint64_t *seed, size_t n_workers, bool prepares)
{
    vtc_prepared prepared = { NULL, 0 };
    model m;
    vtc_tensor y;
    double *want;

    make_model(k, seed, &m);
    if (prepares)
        prepared = prepared_of(k, &m, n_workers);
    y = resampled(k, &m, prepares ? &prepared : NULL, n_workers);
    want = reference_perceiver(&k->params, &m.weights, &m.x);
    assert_tensor_near(&y, want, 1e-5);
    free(want);
    guard_free(prepared.data);
    free_model(&m);
    guard_free(y.data);
}

static perceiver_case random_case(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    perceiver_case k =
        make_case(rng_below(seed, 4), rng_below(seed, 4), rng_below(seed, 4), rng_below(seed, 30));

    k.rank = 3 + (int)rng_below(seed, 3);
    k.f = k.rank < 5 ? 1 : k.f;
    k.t = k.rank < 4 ? 1 : k.t;
    k.params.heads = 1 + rng_below(seed, 4);
    k.width = 1 + rng_below(seed, 9);
    k.m = rng_below(seed, 8) == 0 ? 60 + rng_below(seed, 80) : rng_below(seed, 9);
    k.d = 4 + rng_below(seed, 30);
    k.n_layers = 1 + rng_below(seed, 4);
    k.hidden = 1 + rng_below(seed, 50);
    k.frames = rng_below(seed, 2) * (k.f + rng_below(seed, 2));
    k.items = rng_below(seed, 2) * (k.t + rng_below(seed, 2));
    k.params.act = rng_below(seed, 2) == 0 ? VTC_ACT_RELU2 : VTC_ACT_GELU_ERF;
    k.from = dtypes[rng_below(seed, 3)];
    k.to = dtypes[rng_below(seed, 3)];
    k.mixed = rng_below(seed, 2) == 0;
    k.gap = rng_below(seed, 3);
    return k;
}

static void any_shape_and_dtype_matches_the_reference(void **state)
{
    uint64_t seed = 501;

    (void)state;
    for (int i = 0; i < 150; i++) {
        const perceiver_case k = random_case(&seed);
        const size_t n_workers = rng_below(&seed, 6);

        check_case(&k, &seed, n_workers, false);
        check_case(&k, &seed, n_workers, true);
    }
}

static void keys_and_values_that_do_not_fit_match_too(void **state)
{
    perceiver_case k = make_case(1, 1, 2, 1901);
    uint64_t seed = 502;

    (void)state;
    /* two million floats of keys and values a layer: those of five layers do not fit */
    k.params.heads = 4;
    k.width = 64;
    k.m = 3;
    k.n_layers = 5;
    check_case(&k, &seed, 2, true);
    check_case(&k, &seed, 2, false);
}

static void many_items_match_in_blocks(void **state)
{
    perceiver_case k = make_case(3, 5, 1, 7);
    uint64_t seed = 503;

    (void)state;
    k.m = 65; /* three items to a block */
    check_case(&k, &seed, 3, false);
    check_case(&k, &seed, 3, true);
}

/* An x of rank 3 may have a y of rank 3. */
static void a_single_item_needs_no_axis_of_its_own(void **state)
{
    perceiver_case k = make_case(2, 1, 1, 9);
    vtc_tensor y, want;
    vtc_exec exec = test_exec(0);
    model m;
    size_t bytes;

    (void)state;
    k.rank = 3;
    make_seeded_model(&k, 504, &m);
    want = resampled(&k, &m, NULL, 0);
    y = make_tensor(VTC_F32, 3, (const size_t[]){ 2, k.m, k.d }, 1);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, NULL, &m.x, &y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver(&k.params, &m.weights, NULL, &m.x, &y, &exec), VTC_OK);
    assert_same_bits(&y, &want);
    exec_scratch_free(&exec);
    free_model(&m);
    guard_free(y.data);
    guard_free(want.data);
}

static void prepared_and_raw_agree(void **state)
{
    uint64_t seed = 505;

    (void)state;
    for (int i = 0; i < 30; i++) {
        perceiver_case k = random_case(&seed);
        vtc_tensor raw, ready;
        vtc_prepared prepared;
        model m;

        k.to = VTC_F32;
        make_model(&k, &seed, &m);
        prepared = prepared_of(&k, &m, 0);
        raw = resampled(&k, &m, NULL, 0);
        ready = resampled(&k, &m, &prepared, 0);
        assert_tensors_near(&ready, &raw, 4e-6);
        guard_free(prepared.data);
        free_model(&m);
        guard_free(raw.data);
        guard_free(ready.data);
    }
}

static void check_executors(const perceiver_case *k, bool prepares)
{
    vtc_prepared prepared = { NULL, 0 };
    vtc_tensor want;
    model m;

    make_seeded_model(k, 506, &m);
    if (prepares)
        prepared = prepared_of(k, &m, 0);
    want = resampled(k, &m, prepares ? &prepared : NULL, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        const vtc_tensor got = resampled(k, &m, prepares ? &prepared : NULL, n_workers);

        assert_same_bits(&got, &want);
        guard_free(got.data);
        if (prepares) {
            const vtc_prepared other = prepared_of(k, &m, n_workers);

            assert_memory_equal(other.data, prepared.data, prepared.bytes);
            guard_free(other.data);
        }
    }
    guard_free(prepared.data);
    free_model(&m);
    guard_free(want.data);
}

static void any_executor_gives_the_same_bits(void **state)
{
    perceiver_case k = make_case(2, 3, 2, 37);

    (void)state;
    k.m = 61;
    k.d = 70;
    k.hidden = 270;
    check_executors(&k, false);
    check_executors(&k, true);
    k.mixed = true;
    check_executors(&k, true);
}

static void strides_do_not_show_in_the_bits(void **state)
{
    perceiver_case k = make_case(2, 2, 3, 11);
    vtc_tensor y[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        model m;

        k.gap = i == 0 ? 0 : 5;
        make_seeded_model(&k, 507, &m);
        y[i] = resampled(&k, &m, NULL, 2);
        free_model(&m);
    }
    assert_same_bits(&y[0], &y[1]);
    guard_free(y[0].data);
    guard_free(y[1].data);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void a_nan_stays_in_its_item(void **state)
{
    const perceiver_case k = make_case(2, 3, 1, 8);
    vtc_tensor y, clean;
    model m;

    (void)state;
    make_seeded_model(&k, 508, &m);
    clean = resampled(&k, &m, NULL, 0);
    guard_writable(m.x.data);
    ((float *)m.x.data)[(4 * k.v + 3) * k.d] = NAN; /* of item 4 */
    y = resampled(&k, &m, NULL, 0);
    for (size_t i = 0; i < n_elements(&y); i++)
        if (i / (k.m * k.d) == 4)
            assert_true(isnan(((float *)y.data)[i]));
        else
            assert_true(((float *)y.data)[i] == ((float *)clean.data)[i]);
    free_model(&m);
    guard_free(y.data);
    guard_free(clean.data);
}

/* Without embeddings tokens have no order, and only their normalised values count. */
static void order_and_scale_of_tokens_do_not_matter(void **state)
{
    const perceiver_case k = make_case(1, 1, 1, 23);
    vtc_tensor x, want, got;
    model m;

    (void)state;
    make_seeded_model(&k, 509, &m);
    want = resampled(&k, &m, NULL, 0);
    x = m.x;
    m.x = make_tensor(VTC_F32, x.rank, x.dim, 0);
    for (size_t n = 0; n < k.v; n++)
        for (size_t c = 0; c < k.d; c++)
            ((float *)m.x.data)[n * k.d + c] =
                8.0f * ((const float *)x.data)[(k.v - 1 - n) * k.d + c] + 3.0f;
    got = resampled(&k, &m, NULL, 0);
    assert_tensors_near(&got, &want, 2e-4);
    free_model(&m);
    guard_free(x.data);
    guard_free(want.data);
    guard_free(got.data);
}

/* ---- names and counts ------------------------------------------------------------------------ */

struct names {
    char seen[64][64];
    size_t n;
    const char *missing;
};

/* Tensors of the right rank for the names of a one-layer model. */
static int find_tensor(void *source, const char *name, vtc_tensor *view)
{
    static const float data[24];
    struct names *names = source;
    const bool vector = strstr(name, "norm") != NULL || strstr(name, ".1.0.") != NULL;
    const size_t two[] = { 4, 6 }, three[] = { 4, 1, 6 };

    if (names->missing != NULL && strcmp(name, names->missing) == 0)
        return 0;
    snprintf(names->seen[names->n++ % 64], 64, "%s", name);
    if (strstr(name, "media_") != NULL && !vector)
        *view = vtc_tensor_nd(data, VTC_F32, 3, three);
    else
        *view = vector ? vtc_f32_1d(data, 6) : vtc_tensor_nd(data, VTC_F32, 2, two);
    return 1;
}

static bool was_asked(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->seen[i], name) == 0)
            return true;
    return false;
}

static void weights_are_found_by_the_checkpoints_names(void **state)
{
    struct names names = { .missing = NULL };
    vtc_perceiver_weights w;
    vtc_perceiver_layer layer;

    (void)state;
    assert_int_equal(vtc_weights_bind(&vtc_perceiver_table, find_tensor, &names, "perceiver.", &w,
                                      NULL),
                     VTC_OK);
    assert_int_equal(vtc_weights_bind(&vtc_perceiver_layer_table, find_tensor, &names,
                                      "perceiver.layers.0.", &layer, NULL),
                     VTC_OK);
    assert_true(was_asked(&names, "perceiver.latents"));
    assert_true(was_asked(&names, "perceiver.media_time_embs"));
    assert_true(was_asked(&names, "perceiver.layers.0.0.norm_latents.bias"));
    assert_true(was_asked(&names, "perceiver.layers.0.1.3.weight"));
    assert_int_equal(w.media_time_embs.rank, 3);
    names.missing = "perceiver.media_time_embs";
    assert_int_equal(vtc_weights_bind(&vtc_perceiver_table, find_tensor, &names, "perceiver.", &w,
                                      NULL),
                     VTC_OK);
    assert_true(vtc_tensor_is_absent(&w.media_time_embs));
    names.missing = "media_pos_emb";
    assert_int_equal(vtc_weights_bind(&vtc_perceiver_pytorch_table, find_tensor, &names, NULL, &w,
                                      NULL),
                     VTC_ERR_NULL);
}

/* OpenFlamingo's resampler, without any data. */
static void counts_are_the_published_ones(void **state)
{
    const size_t d = 1024, inner = 512, m = 64, hidden = 4096;
    const vtc_norm norm = { vtc_f32_1d(NULL, d), vtc_f32_1d(NULL, d) };
    vtc_perceiver_layer layers[6];
    vtc_perceiver_weights w = {
        .latents = vtc_f32_2d(NULL, m, d), .norm = norm, .layers = layers, .n_layers = 6
    };
    vtc_model_cost cost;

    (void)state;
    for (int i = 0; i < 6; i++)
        layers[i] = (vtc_perceiver_layer){ norm,
                                           norm,
                                           vtc_f32_2d(NULL, inner, d),
                                           vtc_f32_2d(NULL, 2 * inner, d),
                                           vtc_f32_2d(NULL, d, inner),
                                           norm,
                                           vtc_f32_2d(NULL, hidden, d),
                                           vtc_f32_2d(NULL, d, hidden) };
    assert_int_equal(vtc_perceiver_cost(NULL, &w, 1, 256, &cost, NULL), VTC_OK);
    assert_true(fabs(cost.parameters - 63.0e6) < 0.1e6);
    assert_true(fabs(2 * cost.multiply_adds - 11.5e9) < 0.1e9);
    assert_true(cost.multiply_adds == 6.0 * (64.0 * 1024 * 512 * 2 + 2.0 * 320 * 1024 * 512 +
                                             2.0 * 64 * 320 * 512 + 2.0 * 4 * 64 * 1024 * 1024));
    assert_int_equal(vtc_perceiver_cost(NULL, &w, 3, 256, &cost, NULL), VTC_OK);
    assert_true(fabs(2 * cost.multiply_adds - 34.5e9) < 0.3e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_and_dtype_matches_the_reference),
        cmocka_unit_test(keys_and_values_that_do_not_fit_match_too),
        cmocka_unit_test(many_items_match_in_blocks),
        cmocka_unit_test(a_single_item_needs_no_axis_of_its_own),
        cmocka_unit_test(prepared_and_raw_agree),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(strides_do_not_show_in_the_bits),
        cmocka_unit_test(a_nan_stays_in_its_item),
        cmocka_unit_test(order_and_scale_of_tokens_do_not_matter),
        cmocka_unit_test(weights_are_found_by_the_checkpoints_names),
        cmocka_unit_test(counts_are_the_published_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
