/* VLoRA's generator. */
#include "reference/vlora_reference.h"
#include "support/vlora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

/* Rank 5, or 4 without a batch; H x r without gaps, all else with. */
static vtc_tensor make_factors(const vlora_model *m, vtc_dtype dtype, size_t n_batch, int rank)
{
    const size_t dim[] = { n_batch, m->n_kinds, m->sizes.n_layers, m->sizes.llm_dim,
                           m->sizes.rank };
    const int skip = 5 - rank;
    vtc_tensor t = make_tensor(dtype, rank, dim + skip, 0);

    return t;
}

/* The same in memory with gaps between kinds and layers. */
static vtc_tensor make_spread_factors(const vlora_model *m, vtc_dtype dtype, size_t n_batch)
{
    const size_t width = m->sizes.llm_dim * m->sizes.rank;
    vtc_tensor t =
        make_tensor(dtype, 4, (const size_t[]){ n_batch, m->n_kinds, m->sizes.n_layers, width }, 3);

    t.rank = 5;
    t.dim[3] = m->sizes.llm_dim;
    t.dim[4] = m->sizes.rank;
    t.stride[3] = m->sizes.rank;
    t.stride[4] = 1;
    return t;
}

static void generate(const vlora_model *m, const vtc_tensor *features, vtc_tensor *a,
                     size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_vlora_generate_scratch(&m->params, &m->weights, vlora_prepared(m),
                                                features, a, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_vlora_generate(&m->params, &m->weights, vlora_prepared(m), features, a,
                                        &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static void assert_expected(const vlora_model *m, const vtc_tensor *features, const vtc_tensor *a,
                            size_t n_batch)
{
    const size_t in = m->sizes.n_tokens * m->sizes.visual_dim, n_out = n_elements(a) / n_batch;
    double *x = values_of(features), *want = values_of(a);

    for (size_t b = 0; b < n_batch; b++) {
        double *f = ref_vlora_features(&m->weights, x + b * in);
        size_t at = b * n_out;

        for (size_t i = 0; i < m->weights.n_generators; i++) {
            const vtc_vlora_generator *g = &m->generators[i];
            const size_t n = g->queries.dim[1] * m->sizes.llm_dim * m->sizes.rank;
            double *rows = ref_vlora_rows(&m->params, g, f, m->sizes.n_tokens);

            memcpy(want + at, rows, n * sizeof(*want));
            at += n;
            free(rows);
        }
        free(f);
    }
    assert_tensor_near(a, want, 3e-5);
    free(x);
    free(want);
}

static vlora_sizes any_sizes(uint64_t *seed)
{
    static const char *const types[] = { "q", "qkvom", "mo", "vkq", "kvom" };
    const size_t n_heads = 1 + rng_below(seed, 4);
    const vlora_sizes s = { .types = types[rng_below(seed, 5)],
                            .separate = rng_below(seed, 2) == 0,
                            .n_layers = 1 + rng_below(seed, 4),
                            .llm_dim = 1 + rng_below(seed, 10),
                            .rank = 1 + rng_below(seed, 4),
                            .n_heads = n_heads,
                            .d = n_heads * (1 + rng_below(seed, 6)),
                            .depth = rng_below(seed, VLORA_MAX_DEPTH + 1),
                            .n_tokens = 1 + rng_below(seed, 30),
                            .visual_dim = 1 + rng_below(seed, 20),
                            .hidden = 1 + rng_below(seed, 40) };

    return s;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_model_and_dtype_matches_the_definition(void **state)
{
    static vlora_model m;
    uint64_t seed = 931;

    (void)state;
    for (int i = 0; i < 120; i++) {
        const size_t n_batch = 1 + rng_below(&seed, 4);

        make_vlora_model(&m, seed, any_sizes(&seed), i % 2 == 0);
        const vtc_tensor x =
            make_random(&seed, dtypes[i % 3], 3,
                        (const size_t[]){ n_batch, m.sizes.n_tokens, m.sizes.visual_dim },
                        rng_below(&seed, 3));
        const vtc_dtype to = dtypes[rng_below(&seed, 3)];
        vtc_tensor a = rng_below(&seed, 2) == 0 ? make_factors(&m, to, n_batch, 5)
                                                : make_spread_factors(&m, to, n_batch);

        if (i % 3 == 0)
            prepare_vlora_model(&m);
        generate(&m, &x, &a, rng_below(&seed, 6));
        assert_expected(&m, &x, &a, n_batch);
        guard_free(x.data);
        guard_free(a.data);
        free_vlora_model(&m);
    }
}

static const vlora_sizes medium = { "qkvom", true, 2, 24, 3, 4, 32, 2, 40, 20, 128 };

static void many_images_match_the_definition(void **state)
{
    static vlora_model m;
    uint64_t seed = 932;

    (void)state;
    make_vlora_model(&m, seed, medium, false);
    const vtc_tensor x = make_random(&seed, VTC_F32, 3, (const size_t[]){ 40, 40, 20 }, 0);
    vtc_tensor a = make_factors(&m, VTC_F32, 40, 5);

    generate(&m, &x, &a, 2);
    assert_expected(&m, &x, &a, 40);
    guard_free(x.data);
    guard_free(a.data);
    free_vlora_model(&m);
}

static void one_image_needs_no_batch_axis(void **state)
{
    static vlora_model m;
    uint64_t seed = 933;

    (void)state;
    make_vlora_model(&m, seed, medium, true);
    const vtc_tensor x = make_random(&seed, VTC_F32, 2, (const size_t[]){ 40, 20 }, 1);
    vtc_tensor a = make_factors(&m, VTC_F32, 1, 4);

    generate(&m, &x, &a, 2);
    assert_expected(&m, &x, &a, 1);
    guard_free(x.data);
    guard_free(a.data);
    free_vlora_model(&m);
}

static void any_executor_gives_the_same_bits(void **state)
{
    static vlora_model m;
    uint64_t seed = 934;
    vlora_sizes sizes = medium;

    (void)state;
    for (int separate = 0; separate < 2; separate++) {
        sizes.separate = separate != 0;
        make_vlora_model(&m, seed, sizes, true);
        const vtc_tensor x = make_random(&seed, VTC_F16, 3, (const size_t[]){ 9, 40, 20 }, 1);
        vtc_tensor want = make_factors(&m, VTC_F32, 9, 5);

        generate(&m, &x, &want, 0);
        for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
            vtc_tensor a = make_factors(&m, VTC_F32, 9, 5);

            generate(&m, &x, &a, n_workers);
            assert_same_bits(&a, &want);
            guard_free(a.data);
        }
        guard_free(x.data);
        guard_free(want.data);
        free_vlora_model(&m);
    }
}

static void prepared_weights_agree_within_rounding(void **state)
{
    static vlora_model m;
    uint64_t seed = 935;

    (void)state;
    make_vlora_model(&m, seed, medium, true);
    const vtc_tensor x = make_random(&seed, VTC_F32, 3, (const size_t[]){ 2, 40, 20 }, 1);
    vtc_tensor raw = make_factors(&m, VTC_F32, 2, 5), packed = make_factors(&m, VTC_F32, 2, 5);

    generate(&m, &x, &raw, 2);
    prepare_vlora_model(&m);
    generate(&m, &x, &packed, 2);
    assert_tensors_near(&packed, &raw, 5e-6);
    guard_free(x.data);
    guard_free(raw.data);
    guard_free(packed.data);
    free_vlora_model(&m);
}

static void text_alone_gives_zeros(void **state)
{
    static vlora_model m;
    const vtc_tensor none = vtc_tensor_nd(NULL, VTC_F32, 4, (const size_t[]){ 3, 0, 40, 20 });

    (void)state;
    make_vlora_model(&m, 936, medium, false);
    vtc_tensor a = make_spread_factors(&m, VTC_F16, 3);
    double *zeros = values_of(&a);

    generate(&m, &none, &a, 2);
    memset(zeros, 0, n_elements(&a) * sizeof(*zeros));
    assert_tensor_near(&a, zeros, 0.0);
    free(zeros);
    guard_free(a.data);
    free_vlora_model(&m);
}

static void no_sequence_succeeds(void **state)
{
    static vlora_model m;
    const vtc_tensor none = vtc_tensor_nd(NULL, VTC_F32, 3, (const size_t[]){ 0, 40, 20 });

    (void)state;
    make_vlora_model(&m, 937, medium, false);
    vtc_tensor a = make_factors(&m, VTC_F32, 0, 5);

    generate(&m, &none, &a, 2);
    guard_free(a.data);
    free_vlora_model(&m);
}

static void nan_stays_within_its_image(void **state)
{
    static vlora_model m;
    uint64_t seed = 938;

    (void)state;
    make_vlora_model(&m, seed, medium, false);
    vtc_tensor x = make_random(&seed, VTC_F32, 3, (const size_t[]){ 3, 40, 20 }, 0);
    vtc_tensor a = make_factors(&m, VTC_F32, 3, 5);

    guard_writable(x.data);
    ((float *)x.data)[40 * 20 + 7] = NAN;
    generate(&m, &x, &a, 2);
    for (size_t i = 0; i < n_elements(&a); i++)
        assert_true(isnan(((float *)a.data)[i]) == (i / (n_elements(&a) / 3) == 1));
    guard_free(x.data);
    guard_free(a.data);
    free_vlora_model(&m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const vlora_model *m, const vtc_tensor *x, vtc_tensor *a,
                           vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_vlora_generate(&m->params, &m->weights, NULL, x, a, &exec), want, part);
    exec_scratch_free(&exec);
}

static void more_than_one_image_of_a_sequence_is_refused(void **state)
{
    static vlora_model m;
    uint64_t seed = 939;

    (void)state;
    make_vlora_model(&m, seed, medium, false);
    const vtc_tensor two = make_random(&seed, VTC_F32, 4, (const size_t[]){ 1, 2, 40, 20 }, 0);
    const vtc_tensor long_one = make_random(&seed, VTC_F32, 3, (const size_t[]){ 1, 80, 20 }, 0);
    vtc_tensor a = make_factors(&m, VTC_F32, 1, 5);

    expect_refused(&m, &two, &a, VTC_ERR_UNSUPPORTED,
                   "a sequence takes one image, features have 2");
    expect_refused(&m, &long_one, &a, VTC_ERR_SHAPE, "features have 80 rows, pos_embed has 40");
    assert_untouched(&a);
    guard_free(two.data);
    guard_free(long_one.data);
    guard_free(a.data);
    free_vlora_model(&m);
}

static void what_does_not_fit_is_refused(void **state)
{
    static vlora_model m;
    uint64_t seed = 940;

    (void)state;
    make_vlora_model(&m, seed, medium, false);
    const vtc_tensor x = make_random(&seed, VTC_F32, 3, (const size_t[]){ 2, 40, 20 }, 0);
    vtc_tensor a = make_factors(&m, VTC_F32, 2, 5), bad = x, wrong = a;

    bad.dim[2] = 19;
    expect_refused(&m, &bad, &a, VTC_ERR_SHAPE, "19 channels, visual_proj takes 20");
    expect_refused(&m, NULL, &a, VTC_ERR_NULL, "features is NULL");
    wrong.dim[0] = 1;
    expect_refused(&m, &x, &wrong, VTC_ERR_SHAPE, "a has 1 batch items, 2 are needed");
    wrong = a;
    wrong.dim[3] = 23;
    expect_refused(&m, &x, &wrong, VTC_ERR_SHAPE, "5x2x24x3 is needed");
    wrong = a;
    wrong.stride[3] = 4;
    wrong.dim[3] = 1;
    wrong.data = x.data;
    expect_refused(&m, &x, &wrong, VTC_ERR_SHAPE, "is needed");
    wrong = a;
    wrong.data = x.data;
    expect_refused(&m, &x, &wrong, VTC_ERR_OVERLAP, "a overlaps features");
    assert_untouched(&a);
    guard_free(x.data);
    guard_free(a.data);
    free_vlora_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_model_and_dtype_matches_the_definition),
        cmocka_unit_test(many_images_match_the_definition),
        cmocka_unit_test(one_image_needs_no_batch_axis),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(prepared_weights_agree_within_rounding),
        cmocka_unit_test(text_alone_gives_zeros),
        cmocka_unit_test(no_sequence_succeeds),
        cmocka_unit_test(nan_stays_within_its_image),
        cmocka_unit_test(more_than_one_image_of_a_sequence_is_refused),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
