/* Hyper Attention: text over text and images. */
#include "support/hyper.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

static vtc_hyper_variant any_variant(uint64_t *seed)
{
    return (vtc_hyper_variant)(1 + rng_below(seed, 3));
}

static vtc_tensor make_output(const hyper_text *t, vtc_dtype dtype)
{
    return make_tensor(dtype, 2, t->hidden.dim, 2);
}

/* What a cache's rounding may change. */
static double tolerance_of(vtc_dtype cache)
{
    return cache == VTC_F32 ? 3e-5 : cache == VTC_F16 ? 5e-3 : 4e-2;
}

static void assert_expected(const hyper_model *m, const hyper_text *t, const vtc_tensor *attn,
                            const vtc_tensor *out, double tolerance)
{
    double *want = expected_hyper(m, t), *hidden = values_of(&t->hidden);

    assert_tensor_near(attn, want, tolerance);
    for (size_t i = 0; i < n_elements(out); i++)
        want[i] += hidden[i];
    assert_tensor_near(out, want, tolerance);
    free(want);
    free(hidden);
}

/* The text in pieces of at most `piece` rows, 0: any, and its images in one call or two. */
static void run_text(const hyper_model *m, hyper_text *t, uint64_t *seed, size_t piece,
                     const vtc_tensor *attn, const vtc_tensor *out, size_t n_workers)
{
    const size_t n = t->hidden.dim[0], n_images = t->images.dim[0];
    const size_t first = rng_below(seed, n_images + 1);

    encode_hyper_images(m, t, 0, first, n_workers);
    encode_hyper_images(m, t, first, n_images - first, n_workers);
    while (t->sequence.position < n) {
        const size_t left = n - t->sequence.position;
        const size_t some = piece == 0 ? 1 + rng_below(seed, left) : left < piece ? left : piece;

        run_hyper_rows(m, t, some, attn, out, n_workers);
    }
}

static void check_any_case(uint64_t *seed)
{
    const size_t n_kv = 1 + rng_below(seed, 3), n_heads = n_kv * (1 + rng_below(seed, 3));
    const vtc_dtype cache = dtypes[rng_below(seed, 3)];
    hyper_model m =
        make_hyper_model(*seed, any_variant(seed), n_heads, n_kv, 2 * (1 + rng_below(seed, 6)),
                         1 + rng_below(seed, 40), rng_below(seed, 2) == 0);
    hyper_text t =
        make_hyper_text(seed, &m, rng_below(seed, 30), rng_below(seed, 4), rng_below(seed, 7),
                        dtypes[rng_below(seed, 3)], cache, rng_below(seed, 2) == 0);
    const vtc_tensor attn = make_output(&t, dtypes[rng_below(seed, 3)]);
    const vtc_tensor out = make_output(&t, dtypes[rng_below(seed, 3)]);

    if (rng_below(seed, 2) == 0)
        prepare_hyper_model(&m);
    if (rng_below(seed, 2) == 0)
        m.params.variant = m.variant;
    run_text(&m, &t, seed, 0, &attn, &out, rng_below(seed, 6));
    assert_expected(&m, &t, &attn, &out, tolerance_of(cache));
    guard_free(attn.data);
    guard_free(out.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_shape_dtype_and_split_matches_the_definition(void **state)
{
    uint64_t seed = 901;

    (void)state;
    for (int i = 0; i < 200; i++)
        check_any_case(&seed);
}

static void many_rows_match_the_definition(void **state)
{
    uint64_t seed = 902;

    (void)state;
    for (int variant = VTC_HYPER_GATE_PROJ; variant <= VTC_HYPER_FUSED; variant++) {
        hyper_model m =
            make_hyper_model(seed, (vtc_hyper_variant)variant, 4, 2, 6, 10, variant == 2);
        hyper_text t = make_hyper_text(&seed, &m, 1100, 5, 130, VTC_F32, VTC_F32, true);
        const vtc_tensor attn = make_output(&t, VTC_F32), out = make_output(&t, VTC_F32);

        run_text(&m, &t, &seed, 1100, &attn, &out, 2);
        assert_expected(&m, &t, &attn, &out, 3e-5);
        guard_free(attn.data);
        guard_free(out.data);
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
}

static void a_long_image_goes_through_whole(void **state)
{
    uint64_t seed = 903;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 2, 1, 4, 8, false);
    hyper_text t = make_hyper_text(&seed, &m, 3, 2, 700, VTC_BF16, VTC_F32, false);
    const vtc_tensor attn = make_output(&t, VTC_F32), out = make_output(&t, VTC_F32);

    (void)state;
    run_text(&m, &t, &seed, 1, &attn, &out, 3);
    assert_expected(&m, &t, &attn, &out, 3e-5);
    guard_free(attn.data);
    guard_free(out.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

static void any_executor_gives_the_same_bits(void **state)
{
    (void)state;
    for (int variant = VTC_HYPER_GATE_PROJ; variant <= VTC_HYPER_FUSED; variant++) {
        vtc_tensor want = { 0 };

        for (size_t n_workers = 0; n_workers <= 5; n_workers++) {
            uint64_t seed = 904; /* the same model and text each time */
            hyper_model m = make_hyper_model(seed, (vtc_hyper_variant)variant, 4, 2, 10, 70, true);
            hyper_text t = make_hyper_text(&seed, &m, 80, 3, 40, VTC_F16, VTC_BF16, true);
            const vtc_tensor out = make_output(&t, VTC_F32);

            run_text(&m, &t, &seed, 40, NULL, &out, n_workers);
            if (n_workers == 0)
                want = out;
            else
                assert_same_bits(&out, &want);
            if (n_workers != 0)
                guard_free(out.data);
            free_hyper_text(&t);
            free_hyper_model(&m);
        }
        guard_free(want.data);
    }
}

static void prepared_weights_agree_within_rounding(void **state)
{
    uint64_t seed = 905;

    (void)state;
    for (size_t n = 1; n <= 70; n += 23) {
        hyper_model m = make_hyper_model(seed, any_variant(&seed), 4, 2, 12, 300, true);
        hyper_text t = make_hyper_text(&seed, &m, n, 2, 9, VTC_F32, VTC_F32, true);
        const vtc_tensor raw = make_output(&t, VTC_F32), packed = make_output(&t, VTC_F32);

        run_text(&m, &t, &seed, n, &raw, NULL, 2);
        prepare_hyper_model(&m);
        t.sequence.position = 0;
        run_text(&m, &t, &seed, n, &packed, NULL, 2);
        assert_tensors_near(&packed, &raw, 2e-6);
        guard_free(raw.data);
        guard_free(packed.data);
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
}

static void one_output_has_the_bits_that_both_have(void **state)
{
    uint64_t seed = 906;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_GATE, 4, 4, 6, 24, false);
    hyper_text t = make_hyper_text(&seed, &m, 20, 1, 6, VTC_F32, VTC_F32, true);
    const vtc_tensor attn = make_output(&t, VTC_F32), out = make_output(&t, VTC_F32);
    const vtc_tensor attn_alone = make_output(&t, VTC_F32), out_alone = make_output(&t, VTC_F32);

    (void)state;
    run_text(&m, &t, &seed, 20, &attn, &out, 2);
    t.sequence.position = 0;
    run_hyper_rows(&m, &t, 20, &attn_alone, NULL, 2);
    t.sequence.position = 0;
    run_hyper_rows(&m, &t, 20, NULL, &out_alone, 2);
    assert_same_bits(&attn, &attn_alone);
    assert_same_bits(&out, &out_alone);
    t.sequence.position = 0;
    run_hyper_rows(&m, &t, 20, NULL, NULL, 2); /* fills the cache */
    guard_free(attn.data);
    guard_free(out.data);
    guard_free(attn_alone.data);
    guard_free(out_alone.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

enum { N_SEQUENCES = 5 };

static void sequences_of_a_batch_do_not_mix(void **state)
{
    uint64_t seed = 907;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 6, 2, 4, 16, false);
    hyper_text t[N_SEQUENCES];
    vtc_hyper_sequence batch[N_SEQUENCES];
    size_t n_rows = 0, bytes, begin = 0;
    vtc_exec exec = test_exec(3);

    (void)state;
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        t[i] = make_hyper_text(&seed, &m, i == 2 ? 0 : 3 + 130 * i, i, 5, VTC_F32, VTC_F32, i % 2);
        encode_hyper_images(&m, &t[i], 0, i, 1);
        run_hyper_rows(&m, &t[i], i == 2 ? 0 : 2, NULL, NULL, 1); /* two rows are there already */
        batch[i] = t[i].sequence;
        batch[i].n_rows = t[i].hidden.dim[0] - batch[i].position;
        n_rows += batch[i].n_rows;
    }
    vtc_tensor hidden = make_tensor(VTC_F32, 2, (const size_t[]){ n_rows, m.c }, 0);
    vtc_tensor attn = make_tensor(VTC_F32, 2, hidden.dim, 1);

    for (size_t i = 0; i < N_SEQUENCES; begin += batch[i++].n_rows)
        for (size_t e = 0; e < batch[i].n_rows * m.c; e++)
            ((float *)hidden.data)[begin * m.c + e] =
                get_element(t[i].hidden.data, VTC_F32,
                            element_at(&t[i].hidden, batch[i].position * m.c + e));
    assert_int_equal(vtc_hyper_attention_scratch(&m.params, &m.weights, NULL, &hidden, batch,
                                                 N_SEQUENCES, &attn, NULL, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_hyper_attention(&m.params, &m.weights, NULL, &hidden, batch, N_SEQUENCES,
                                         &attn, NULL, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    begin = 0;
    for (size_t i = 0; i < N_SEQUENCES; begin += batch[i++].n_rows) {
        const vtc_tensor mine = hyper_rows(&attn, begin, batch[i].n_rows);
        double *want = expected_hyper(&m, &t[i]);

        for (size_t e = 0; e < n_elements(&mine); e++)
            assert_true(close_to(get_element(mine.data, VTC_F32, element_at(&mine, e)),
                                 want[batch[i].position * m.c + e], 3e-5, 3e-5));
        free(want);
        free_hyper_text(&t[i]);
    }
    guard_free(hidden.data);
    guard_free(attn.data);
    free_hyper_model(&m);
}

static void an_image_that_none_sees_changes_no_bit(void **state)
{
    (void)state;
    for (int variant = VTC_HYPER_GATE_PROJ; variant <= VTC_HYPER_FUSED; variant++) {
        uint64_t seed = 908;
        hyper_model m = make_hyper_model(seed, (vtc_hyper_variant)variant, 2, 1, 8, 16, false);
        hyper_text t = make_hyper_text(&seed, &m, 12, 1, 6, VTC_F32, VTC_F32, true);
        const vtc_tensor with = make_output(&t, VTC_F32), without = make_output(&t, VTC_F32);

        t.starts[0] = variant == VTC_HYPER_FUSED ? 12 : 11;
        run_text(&m, &t, &seed, 12, &with, NULL, 2);
        t.sequence.position = t.sequence.n_images = 0;
        run_hyper_rows(&m, &t, 12, &without, NULL, 2);
        assert_same_bits(&with, &without);
        guard_free(with.data);
        guard_free(without.data);
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
}

static void the_placeholder_itself_sees_the_image_only_when_fused(void **state)
{
    (void)state;
    for (int variant = VTC_HYPER_GATE_PROJ; variant <= VTC_HYPER_FUSED; variant++) {
        uint64_t seed = 909;
        hyper_model m = make_hyper_model(seed, (vtc_hyper_variant)variant, 2, 1, 8, 16, false);
        hyper_text t = make_hyper_text(&seed, &m, 9, 1, 6, VTC_F32, VTC_F32, true);
        const vtc_tensor with = make_output(&t, VTC_F32), without = make_output(&t, VTC_F32);

        t.starts[0] = 4;
        run_text(&m, &t, &seed, 1, &with, NULL, 2);
        t.sequence.position = t.sequence.n_images = 0;
        for (int i = 0; i < 9; i++)
            run_hyper_rows(&m, &t, 1, &without, NULL, 2);
        for (size_t row = 0; row < 9; row++) {
            const size_t at = row * with.stride[0];
            const bool same = memcmp((const float *)with.data + at,
                                     (const float *)without.data + at, m.c * sizeof(float)) == 0;

            assert_true(same == (row < (variant == VTC_HYPER_FUSED ? 4U : 5U)));
        }
        guard_free(with.data);
        guard_free(without.data);
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
}

static void only_the_rows_of_the_call_are_written(void **state)
{
    uint64_t seed = 910;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_GATE, 4, 2, 4, 16, false);
    hyper_text t = make_hyper_text(&seed, &m, 10, 1, 3, VTC_F32, VTC_F16, true);
    const vtc_tensor *k = &t.sequence.text.k;
    const size_t row = 2 * k->stride[1];
    unsigned char before[1024];

    (void)state;
    encode_hyper_images(&m, &t, 0, 1, 1);
    run_hyper_rows(&m, &t, 4, NULL, NULL, 1);
    assert_true(is_poisoned((const char *)k->data + 4 * row, 5 * row));
    assert_true(4 * row <= sizeof(before));
    memcpy(before, k->data, 4 * row);
    run_hyper_rows(&m, &t, 3, NULL, NULL, 1);
    assert_memory_equal(before, k->data, 4 * row);
    assert_true(is_poisoned((const char *)k->data + 7 * row, 2 * row));
    free_hyper_text(&t);
    free_hyper_model(&m);
}

static void a_nan_stays_behind_its_row(void **state)
{
    uint64_t seed = 911;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 2, 1, 4, 8, false);
    hyper_text t = make_hyper_text(&seed, &m, 6, 1, 3, VTC_F32, VTC_F32, true);
    const vtc_tensor out = make_output(&t, VTC_F32);

    (void)state;
    guard_writable(t.hidden.data);
    ((float *)t.hidden.data)[3 * t.hidden.stride[0]] = NAN;
    run_text(&m, &t, &seed, 1, NULL, &out, 1);
    for (size_t i = 0; i < n_elements(&out); i++)
        assert_true(isnan(((float *)out.data)[element_at(&out, i)]) == (i / m.c >= 3));
    guard_free(out.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const hyper_model *m, const hyper_text *t, vtc_hyper_sequence *s,
                           size_t n, vtc_tensor *attn, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 18);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_hyper_attention(&m->params, &m->weights, NULL, &t->hidden, s, n, attn, NULL,
                                      &exec),
                  want, part);
    exec_scratch_free(&exec);
}

static void sequences_that_do_not_fit_are_refused(void **state)
{
    uint64_t seed = 912;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 4, 2, 6, 12, false);
    hyper_text t = make_hyper_text(&seed, &m, 8, 2, 3, VTC_F32, VTC_F32, true);
    vtc_tensor attn = make_output(&t, VTC_F32), other = attn;
    vtc_hyper_sequence good = t.sequence, s, two[2];

    (void)state;
    good.n_rows = 8;
    good.media_starts = t.starts;
    expect_refused(&m, &t, NULL, 1, &attn, VTC_ERR_NULL, "sequences is NULL");
    s = good;
    s.n_rows = 7;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_SHAPE, "the sequences have 7 rows, hidden has 8");
    s = good;
    s.position = 1;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_ROOM, "text.k has 8 rows, 9 are needed");
    s.position = SIZE_MAX;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_OVERFLOW, "8 rows at position");
    s = good;
    s.n_images = 3;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_ROOM, "visual.k has 6 rows, 9 are needed");
    s = good;
    s.text.v.dim[2] = 4;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_SHAPE,
                   "text.v has 2 heads of 4 channels, the layer 2 of 6");
    s = good;
    s.text.v = s.text.k;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_OVERLAP, "text.k and text.v");
    s = good;
    s.visual.v = s.text.k;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_OVERLAP, "visual cache of sequence 0");
    s = good;
    s.media_starts = NULL;
    expect_refused(&m, &t, &s, 1, &attn, VTC_ERR_NULL, "media_starts is NULL");
    t.starts[0] = 5, t.starts[1] = 4;
    expect_refused(&m, &t, &good, 1, &attn, VTC_ERR_RANGE, "[0] is 5, [1] is 4");
    t.starts[0] = -1;
    expect_refused(&m, &t, &good, 1, &attn, VTC_ERR_RANGE, "media_starts[0] is -1");
    t.starts[0] = t.starts[1] = 0;
    two[0] = two[1] = good;
    two[0].n_rows = two[1].n_rows = 4;
    expect_refused(&m, &t, two, 2, &attn, VTC_ERR_OVERLAP, "sequences 0 and 1");
    other.data = t.hidden.data;
    expect_refused(&m, &t, &good, 1, &other, VTC_ERR_OVERLAP, "attn overlaps hidden");
    other.data = t.starts;
    expect_refused(&m, &t, &good, 1, &other, VTC_ERR_OVERLAP, "attn overlaps media_starts");
    other = attn;
    other.dim[0] = 7;
    expect_refused(&m, &t, &good, 1, &other, VTC_ERR_SHAPE, "attn is 7x12, hidden 8x12");
    assert_untouched(&attn);
    assert_untouched(&t.sequence.text.k);
    assert_untouched(&t.sequence.text.v);
    guard_free(attn.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

static void scratch_a_byte_short_is_refused(void **state)
{
    uint64_t seed = 913;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_GATE_PROJ, 4, 2, 6, 12, true);
    hyper_text t = make_hyper_text(&seed, &m, 8, 2, 3, VTC_F32, VTC_F32, true);
    vtc_tensor attn = make_output(&t, VTC_F32);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    t.sequence.n_rows = 8;
    t.sequence.media_starts = t.starts;
    assert_int_equal(vtc_hyper_attention_scratch(&m.params, &m.weights, NULL, &t.hidden,
                                                 &t.sequence, 1, &attn, NULL, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size--;
    assert_failed(&log,
                  vtc_hyper_attention(&m.params, &m.weights, NULL, &t.hidden, &t.sequence, 1, &attn,
                                      NULL, &exec),
                  VTC_ERR_SCRATCH, "scratch");
    assert_untouched(&attn);
    assert_untouched(&t.sequence.text.k);
    exec_scratch_free(&exec);
    guard_free(attn.data);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_dtype_and_split_matches_the_definition),
        cmocka_unit_test(many_rows_match_the_definition),
        cmocka_unit_test(a_long_image_goes_through_whole),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(prepared_weights_agree_within_rounding),
        cmocka_unit_test(one_output_has_the_bits_that_both_have),
        cmocka_unit_test(sequences_of_a_batch_do_not_mix),
        cmocka_unit_test(an_image_that_none_sees_changes_no_bit),
        cmocka_unit_test(the_placeholder_itself_sees_the_image_only_when_fused),
        cmocka_unit_test(only_the_rows_of_the_call_are_written),
        cmocka_unit_test(a_nan_stays_behind_its_row),
        cmocka_unit_test(sequences_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_a_byte_short_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
