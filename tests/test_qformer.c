/* The Q-Former: values and laws. */
#include "support/qformers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---------------------------------------------------------------------------------- */

static void check_forms(const qformer_model *m, const vtc_prepared *prepared, size_t n_workers)
{
    qformer_outputs one = qformer_once(m, prepared, n_workers);
    qformer_outputs two = qformer_twice(m, prepared, VTC_F32, n_workers);
    double *hidden, *tokens;

    qformer_expected(m, &hidden, &tokens);
    assert_tensor_near(&one.hidden, hidden, 5e-5);
    assert_tensor_near(&one.tokens, tokens, 5e-5);
    assert_tensor_near(&two.hidden, hidden, 5e-5);
    assert_tensor_near(&two.tokens, tokens, 5e-5);
    if (prepared == NULL) /* else the one call may read the image without keys and values */
        assert_same_qformer_outputs(&one, &two);
    free(hidden);
    free(tokens);
    free_qformer_outputs(&one);
    free_qformer_outputs(&two);
}

static void check_case(const qformer_case *c, uint64_t seed, size_t n_workers)
{
    qformer_model *m = make_qformer(c, seed);
    const vtc_prepared prepared = qformer_prepare(m, n_workers);

    check_forms(m, NULL, n_workers);
    check_forms(m, &prepared, n_workers);
    guard_free(prepared.data);
    free_qformer(m);
}

static void any_model_in_any_form_matches_the_reference(void **state)
{
    uint64_t seed = 71;

    (void)state;
    for (int i = 0; i < 60; i++) {
        const qformer_case c = random_qformer(&seed);

        check_case(&c, rng(&seed), rng_below(&seed, 3));
    }
}

static void more_rows_than_packed_products_take_match_the_reference(void **state)
{
    qformer_case c = small_instructblip;

    (void)state;
    c.n_queries = 37;
    c.n_text = 41;
    c.n_image = 70;
    check_case(&c, 72, 2);
    c.width = 30; /* several panels, the last one not full */
    c.n_batch = 1;
    check_case(&c, 73, 1);
}

static void groups_of_several_images_match_the_reference(void **state)
{
    qformer_case c = small_blip2;

    (void)state;
    c.n_batch = 15; /* of 12 and 3 */
    check_case(&c, 74, 2);
}

static void prepared_weights_agree_within_rounding(void **state)
{
    qformer_case cases[] = { small_blip2, small_instructblip };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        qformer_model *m = make_qformer(&cases[i], 75 + i);
        const vtc_prepared prepared = qformer_prepare(m, 2);
        qformer_outputs plain = qformer_once(m, NULL, 2), packed = qformer_once(m, &prepared, 2);

        assert_tensors_near(&packed.hidden, &plain.hidden, 2e-6);
        assert_tensors_near(&packed.tokens, &plain.tokens, 2e-6);
        free_qformer_outputs(&plain);
        free_qformer_outputs(&packed);
        guard_free(prepared.data);
        free_qformer(m);
    }
}

static void keys_and_values_may_be_kept_in_16_bits(void **state)
{
    static const struct {
        vtc_dtype dtype;
        double tolerance;
    } kept[] = { { VTC_F16, 5e-3 }, { VTC_BF16, 4e-2 } };
    qformer_model *m = make_qformer(&small_instructblip, 77);
    qformer_outputs plain = qformer_once(m, NULL, 2);

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        qformer_outputs out = qformer_twice(m, NULL, kept[i].dtype, 2);

        assert_tensors_near(&out.hidden, &plain.hidden, kept[i].tolerance);
        free_qformer_outputs(&out);
    }
    free_qformer_outputs(&plain);
    free_qformer(m);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void queries_are_the_same_without_the_rows_of_the_text(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 78);
    const size_t dim[] = { 2, m->c.n_queries, qformer_channels(m) };
    qformer_outputs all = qformer_once(m, NULL, 2);
    vtc_tensor queries = make_tensor(VTC_F32, 3, dim, 0), tokens = qformer_tokens(m, 0);
    vtc_tensor view = all.hidden;

    (void)state;
    view.dim[1] = m->c.n_queries;
    qformer_run(m, NULL, &queries, NULL, 2);
    assert_tensors_near(&queries, &view, 1e-6);
    qformer_run(m, NULL, NULL, &tokens, 2);
    assert_tensors_near(&tokens, &all.tokens, 1e-6);
    guard_free(queries.data);
    guard_free(tokens.data);
    free_qformer_outputs(&all);
    free_qformer(m);
}

/* Only the first of two texts is seen; the others' words are replaced. */
static void padding_changes_no_row_but_its_own(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 79);
    const size_t n = m->c.n_queries + m->c.n_text, d = qformer_channels(m);
    qformer_outputs before, after;

    (void)state;
    for (size_t i = 0; i < 2 * m->c.n_text; i++)
        ((uint8_t *)m->text_mask.data)[i] = i % m->c.n_text < 4;
    before = qformer_once(m, NULL, 1);
    for (size_t i = 0; i < 2 * m->c.n_text; i++)
        if (i % m->c.n_text >= 4)
            ((int64_t *)m->ids.data)[i] = 0;
    after = qformer_once(m, NULL, 1);
    for (size_t b = 0; b < 2; b++)
        assert_memory_equal((float *)before.hidden.data + b * n * d,
                            (float *)after.hidden.data + b * n * d,
                            (m->c.n_queries + 4) * d * sizeof(float));
    assert_same_bits(&before.tokens, &after.tokens);
    free_qformer_outputs(&before);
    free_qformer_outputs(&after);
    free_qformer(m);
}

static void hidden_image_tokens_change_nothing(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 80);
    qformer_outputs before = qformer_once(m, NULL, 1), after;
    float *x = m->image.data;

    (void)state;
    guard_writable(m->image.data);
    for (size_t i = 0; i < 2 * m->c.n_image; i++)
        for (size_t c = 0; c < m->c.n_in && ((uint8_t *)m->image_mask.data)[i] == 0; c++)
            x[i * m->c.n_in + c] = 100.0f;
    after = qformer_once(m, NULL, 1);
    assert_same_qformer_outputs(&before, &after);
    free_qformer_outputs(&before);
    free_qformer_outputs(&after);
    free_qformer(m);
}

static void the_order_of_image_tokens_does_not_matter(void **state)
{
    qformer_case c = small_blip2;
    qformer_outputs before, after;
    qformer_model *m;

    (void)state;
    c.image_mask = false;
    c.n_batch = 1;
    m = make_qformer(&c, 81);
    before = qformer_once(m, NULL, 1);
    guard_writable(m->image.data);
    for (size_t i = 0; i < c.n_image / 2; i++)
        for (size_t j = 0; j < c.n_in; j++) {
            float *x = m->image.data, *a = &x[i * c.n_in + j];
            float *b = &x[(c.n_image - 1 - i) * c.n_in + j], kept = *a;

            *a = *b;
            *b = kept;
        }
    after = qformer_once(m, NULL, 1);
    assert_tensors_near(&after.hidden, &before.hidden, 2e-6);
    free_qformer_outputs(&before);
    free_qformer_outputs(&after);
    free_qformer(m);
}

/* A query that attends to nothing but the bias of the values. */
static void an_image_without_tokens_leaves_the_output_bias(void **state)
{
    qformer_case c = small_blip2;

    (void)state;
    c.n_image = 0;
    check_case(&c, 82, 2);
    c = small_instructblip;
    c.n_image = 0;
    check_case(&c, 83, 2);
}

static void several_questions_share_an_image(void **state)
{
    qformer_case c = small_instructblip;
    vtc_tensor kv, all;
    qformer_outputs want, got;
    qformer_model *m;

    (void)state;
    c.image_mask = false;
    m = make_qformer(&c, 84);
    guard_writable(m->image.data);
    memcpy((float *)m->image.data + c.n_image * c.n_in, m->image.data,
           c.n_image * c.n_in * sizeof(float));
    want = qformer_once(m, NULL, 2);
    got = qformer_room(m, 0);
    kv = qformer_kv(m, VTC_F32, 0);
    qformer_encode(m, NULL, &kv, 2);
    all = kv;
    all.stride[0] = 0;
    qformer_query(m, NULL, &all, &got.hidden, &got.tokens, 2);
    assert_same_qformer_outputs(&want, &got);
    guard_free(kv.data);
    free_qformer_outputs(&want);
    free_qformer_outputs(&got);
    free_qformer(m);
}

static void a_nan_stays_in_its_image(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 85);
    const size_t n = n_elements(&m->image) / 2;
    qformer_outputs out;

    (void)state;
    guard_writable(m->image.data);
    ((uint8_t *)m->image_mask.data)[m->c.n_image] = 1;
    ((float *)m->image.data)[n] = NAN;
    out = qformer_once(m, NULL, 2);
    for (size_t i = 0; i < n_elements(&out.tokens); i++)
        assert_int_equal(isnan(((float *)out.tokens.data)[i]) != 0,
                         i >= n_elements(&out.tokens) / 2);
    free_qformer_outputs(&out);
    free_qformer(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_model_in_any_form_matches_the_reference),
        cmocka_unit_test(more_rows_than_packed_products_take_match_the_reference),
        cmocka_unit_test(groups_of_several_images_match_the_reference),
        cmocka_unit_test(prepared_weights_agree_within_rounding),
        cmocka_unit_test(keys_and_values_may_be_kept_in_16_bits),
        cmocka_unit_test(queries_are_the_same_without_the_rows_of_the_text),
        cmocka_unit_test(padding_changes_no_row_but_its_own),
        cmocka_unit_test(hidden_image_tokens_change_nothing),
        cmocka_unit_test(the_order_of_image_tokens_does_not_matter),
        cmocka_unit_test(an_image_without_tokens_leaves_the_output_bias),
        cmocka_unit_test(several_questions_share_an_image),
        cmocka_unit_test(a_nan_stays_in_its_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
