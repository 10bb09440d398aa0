/* The Q-Former: values, laws and contract. */
#include "support/qformers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void assert_near(const vtc_tensor *a, const vtc_tensor *b, double tolerance)
{
    double *want = values_of(b);

    assert_tensor_near(a, want, tolerance);
    free(want);
}

struct outputs {
    vtc_tensor hidden, tokens;
};

static struct outputs make_outputs(const qformer_model *m, size_t gap)
{
    const struct outputs out = { qformer_hidden(m, gap), qformer_tokens(m, gap) };

    return out;
}

static void free_outputs(struct outputs *out)
{
    guard_free(out->hidden.data);
    guard_free(out->tokens.data);
}

static struct outputs run_once(const qformer_model *m, const vtc_prepared *prepared,
                               size_t n_workers)
{
    struct outputs out = make_outputs(m, m->c.gap);

    qformer_run(m, prepared, &out.hidden, &out.tokens, n_workers);
    return out;
}

static struct outputs run_twice(const qformer_model *m, const vtc_prepared *prepared,
                                vtc_dtype dtype, size_t n_workers)
{
    struct outputs out = make_outputs(m, m->c.gap);
    vtc_tensor kv = qformer_kv(m, dtype, m->c.gap);

    qformer_encode(m, prepared, &kv, n_workers);
    guard_readonly(kv.data);
    qformer_query(m, prepared, &kv, &out.hidden, &out.tokens, n_workers);
    guard_free(kv.data);
    return out;
}

static void assert_same_outputs(struct outputs *a, struct outputs *b)
{
    assert_same_bits(&a->hidden, &b->hidden);
    assert_same_bits(&a->tokens, &b->tokens);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void check_forms(const qformer_model *m, const vtc_prepared *prepared, size_t n_workers)
{
    struct outputs one = run_once(m, prepared, n_workers);
    struct outputs two = run_twice(m, prepared, VTC_F32, n_workers);
    double *hidden, *tokens;

    qformer_expected(m, &hidden, &tokens);
    assert_tensor_near(&one.hidden, hidden, 5e-5);
    assert_tensor_near(&one.tokens, tokens, 5e-5);
    assert_tensor_near(&two.hidden, hidden, 5e-5);
    assert_tensor_near(&two.tokens, tokens, 5e-5);
    if (prepared == NULL) /* else the one call may read the image without keys and values */
        assert_same_outputs(&one, &two);
    free(hidden);
    free(tokens);
    free_outputs(&one);
    free_outputs(&two);
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
        struct outputs plain = run_once(m, NULL, 2), packed = run_once(m, &prepared, 2);

        assert_near(&packed.hidden, &plain.hidden, 2e-6);
        assert_near(&packed.tokens, &plain.tokens, 2e-6);
        free_outputs(&plain);
        free_outputs(&packed);
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
    struct outputs plain = run_once(m, NULL, 2);

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct outputs out = run_twice(m, NULL, kept[i].dtype, 2);

        assert_near(&out.hidden, &plain.hidden, kept[i].tolerance);
        free_outputs(&out);
    }
    free_outputs(&plain);
    free_qformer(m);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void queries_are_the_same_without_the_rows_of_the_text(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 78);
    const size_t dim[] = { 2, m->c.n_queries, qformer_channels(m) };
    struct outputs all = run_once(m, NULL, 2);
    vtc_tensor queries = make_tensor(VTC_F32, 3, dim, 0), tokens = qformer_tokens(m, 0);
    vtc_tensor view = all.hidden;

    (void)state;
    view.dim[1] = m->c.n_queries;
    qformer_run(m, NULL, &queries, NULL, 2);
    assert_near(&queries, &view, 1e-6);
    qformer_run(m, NULL, NULL, &tokens, 2);
    assert_near(&tokens, &all.tokens, 1e-6);
    guard_free(queries.data);
    guard_free(tokens.data);
    free_outputs(&all);
    free_qformer(m);
}

/* Only the first of two texts is seen; the others' words are replaced. */
static void padding_changes_no_row_but_its_own(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 79);
    const size_t n = m->c.n_queries + m->c.n_text, d = qformer_channels(m);
    struct outputs before, after;

    (void)state;
    for (size_t i = 0; i < 2 * m->c.n_text; i++)
        ((uint8_t *)m->text_mask.data)[i] = i % m->c.n_text < 4;
    before = run_once(m, NULL, 1);
    for (size_t i = 0; i < 2 * m->c.n_text; i++)
        if (i % m->c.n_text >= 4)
            ((int64_t *)m->ids.data)[i] = 0;
    after = run_once(m, NULL, 1);
    for (size_t b = 0; b < 2; b++)
        assert_memory_equal((float *)before.hidden.data + b * n * d,
                            (float *)after.hidden.data + b * n * d,
                            (m->c.n_queries + 4) * d * sizeof(float));
    assert_same_bits(&before.tokens, &after.tokens);
    free_outputs(&before);
    free_outputs(&after);
    free_qformer(m);
}

static void hidden_image_tokens_change_nothing(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 80);
    struct outputs before = run_once(m, NULL, 1), after;
    float *x = m->image.data;

    (void)state;
    guard_writable(m->image.data);
    for (size_t i = 0; i < 2 * m->c.n_image; i++)
        for (size_t c = 0; c < m->c.n_in && ((uint8_t *)m->image_mask.data)[i] == 0; c++)
            x[i * m->c.n_in + c] = 100.0f;
    after = run_once(m, NULL, 1);
    assert_same_outputs(&before, &after);
    free_outputs(&before);
    free_outputs(&after);
    free_qformer(m);
}

static void the_order_of_image_tokens_does_not_matter(void **state)
{
    qformer_case c = small_blip2;
    struct outputs before, after;
    qformer_model *m;

    (void)state;
    c.image_mask = false;
    c.n_batch = 1;
    m = make_qformer(&c, 81);
    before = run_once(m, NULL, 1);
    guard_writable(m->image.data);
    for (size_t i = 0; i < c.n_image / 2; i++)
        for (size_t j = 0; j < c.n_in; j++) {
            float *x = m->image.data, *a = &x[i * c.n_in + j];
            float *b = &x[(c.n_image - 1 - i) * c.n_in + j], kept = *a;

            *a = *b;
            *b = kept;
        }
    after = run_once(m, NULL, 1);
    assert_near(&after.hidden, &before.hidden, 2e-6);
    free_outputs(&before);
    free_outputs(&after);
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
    struct outputs want, got;
    qformer_model *m;

    (void)state;
    c.image_mask = false;
    m = make_qformer(&c, 84);
    guard_writable(m->image.data);
    memcpy((float *)m->image.data + c.n_image * c.n_in, m->image.data,
           c.n_image * c.n_in * sizeof(float));
    want = run_once(m, NULL, 2);
    got = make_outputs(m, 0);
    kv = qformer_kv(m, VTC_F32, 0);
    qformer_encode(m, NULL, &kv, 2);
    all = kv;
    all.stride[0] = 0;
    qformer_query(m, NULL, &all, &got.hidden, &got.tokens, 2);
    assert_same_outputs(&want, &got);
    guard_free(kv.data);
    free_outputs(&want);
    free_outputs(&got);
    free_qformer(m);
}

static void a_nan_stays_in_its_image(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 85);
    const size_t n = n_elements(&m->image) / 2;
    struct outputs out;

    (void)state;
    guard_writable(m->image.data);
    ((uint8_t *)m->image_mask.data)[m->c.n_image] = 1;
    ((float *)m->image.data)[n] = NAN;
    out = run_once(m, NULL, 2);
    for (size_t i = 0; i < n_elements(&out.tokens); i++)
        assert_int_equal(isnan(((float *)out.tokens.data)[i]) != 0,
                         i >= n_elements(&out.tokens) / 2);
    free_outputs(&out);
    free_qformer(m);
}

/* ---- the contract ---------------------------------------------------------------------------- */

static void any_executor_gives_the_same_bits(void **state)
{
    static const size_t n_workers[] = { 1, 2, 5 };
    uint64_t seed = 86;

    (void)state;
    for (int i = 0; i < 12; i++) {
        const qformer_case c = random_qformer(&seed);
        qformer_model *m = make_qformer(&c, rng(&seed));
        const vtc_prepared object = qformer_prepare(m, 0);

        for (size_t k = 0; k < 2; k++) {
            const vtc_prepared *prepared = k == 0 ? NULL : &object;
            struct outputs want = run_once(m, prepared, 0);

            for (size_t j = 0; j < 3; j++) {
                struct outputs got = run_once(m, prepared, n_workers[j]);

                assert_same_outputs(&got, &want);
                free_outputs(&got);
            }
            free_outputs(&want);
        }
        guard_free(object.data);
        free_qformer(m);
    }
}

static void strides_do_not_matter(void **state)
{
    qformer_case c = small_instructblip;
    struct outputs want, got;
    qformer_model *m = make_qformer(&c, 87);

    (void)state;
    want = run_once(m, NULL, 2);
    free_qformer(m);
    c.gap = 3;
    m = make_qformer(&c, 87);
    got = run_once(m, NULL, 2);
    assert_same_outputs(&got, &want);
    free_qformer(m);
    free_outputs(&want);
    free_outputs(&got);
}

static void no_params_are_those_of_blip2(void **state)
{
    qformer_case c = small_blip2;
    struct outputs want, got;
    vtc_exec exec = test_exec(1);
    qformer_model *m;

    (void)state;
    c.n_heads = 12;
    m = make_qformer(&c, 95);
    want = run_once(m, NULL, 1);
    got = make_outputs(m, 0);
    exec_scratch(&exec, 1 << 20);
    assert_int_equal(vtc_qformer(NULL, &m->weights, NULL, &m->image, &m->image_mask, NULL, NULL,
                                 &got.hidden, &got.tokens, &exec),
                     VTC_OK);
    assert_same_outputs(&want, &got);
    exec_scratch_free(&exec);
    free_outputs(&want);
    free_outputs(&got);
    free_qformer(m);
}

static void an_object_has_the_same_bytes_whoever_prepares_it_and_may_move(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 88);
    const vtc_prepared a = qformer_prepare(m, 1), b = qformer_prepare(m, 5);
    struct outputs want = run_once(m, &a, 2), got;
    vtc_prepared moved;

    (void)state;
    assert_int_equal(a.bytes, b.bytes);
    moved.bytes = a.bytes;
    moved.data = guard_copy_readonly(a.data, a.bytes);
    guard_free(a.data);
    got = run_once(m, &moved, 2);
    assert_same_outputs(&want, &got);
    free_outputs(&got);
    got = run_once(m, &b, 2);
    assert_same_outputs(&want, &got);
    free_outputs(&got);
    free_outputs(&want);
    guard_free(b.data);
    guard_free(moved.data);
    free_qformer(m);
}

static size_t scratch_of(const qformer_model *m, const vtc_prepared *prepared, size_t n_batch)
{
    const vtc_tensor image = vtc_f32_3d(NULL, n_batch, m->c.n_image, m->c.n_in);
    const vtc_tensor hidden = vtc_f32_3d(NULL, n_batch, m->c.n_queries, qformer_channels(m));
    size_t bytes;

    assert_int_equal(vtc_qformer_scratch(&m->params, &m->weights, prepared, &image, NULL, NULL,
                                         NULL, &hidden, NULL, NULL, &bytes),
                     VTC_OK);
    return bytes;
}

static void scratch_does_not_grow_with_the_batch(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 89);
    const vtc_prepared object = qformer_prepare(m, 1), unknown = { NULL, 0 };

    (void)state;
    assert_true(scratch_of(m, NULL, 1) < scratch_of(m, NULL, 12));
    assert_int_equal(scratch_of(m, NULL, 12), scratch_of(m, NULL, 1000000));
    assert_int_equal(scratch_of(m, &object, 12), scratch_of(m, &unknown, 1000000));
    guard_free(object.data);
    free_qformer(m);
}

static void scratch_is_exact(void **state)
{
    qformer_model *m = make_qformer(&small_blip2, 90);
    struct outputs out = make_outputs(m, 0);
    vtc_exec exec = test_exec(2);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_qformer_scratch(&m->params, &m->weights, NULL, &m->image, &m->image_mask,
                                         NULL, NULL, &out.hidden, &out.tokens, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log,
                  vtc_qformer(&m->params, &m->weights, NULL, &m->image, &m->image_mask, NULL, NULL,
                              &out.hidden, &out.tokens, &exec),
                  VTC_ERR_SCRATCH, "bytes");
    assert_untouched(&out.hidden);
    assert_untouched(&out.tokens);
    exec_scratch_free(&exec);
    free_outputs(&out);
    free_qformer(m);
}

static void no_images_are_fine(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 91);
    const vtc_tensor image = vtc_f32_3d(NULL, 0, m->c.n_image, m->c.n_in);
    const vtc_tensor ids = vtc_tensor_2d(NULL, VTC_I64, 0, 3);
    vtc_tensor hidden = vtc_f32_3d(NULL, 0, m->c.n_queries + 3, qformer_channels(m));
    vtc_tensor tokens = vtc_f32_3d(NULL, 0, m->c.n_queries, m->c.n_out);

    (void)state;
    assert_int_equal(vtc_qformer(&m->params, &m->weights, NULL, &image, NULL, NULL, NULL, NULL,
                                 &tokens, NULL),
                     VTC_OK);
    m->c.n_text = 3;
    assert_int_equal(vtc_qformer(&m->params, &m->weights, NULL, &image, NULL, &ids, NULL, &hidden,
                                 &tokens, NULL),
                     VTC_OK);
    free_qformer(m);
}

static void a_text_of_no_tokens_is_no_text(void **state)
{
    qformer_case c = small_blip2;
    qformer_model *m = make_qformer(&c, 92);
    struct outputs want = run_once(m, NULL, 1), got;

    (void)state;
    m->ids = vtc_tensor_2d(NULL, VTC_I32, 2, 0);
    m->text_mask = vtc_tensor_2d(NULL, VTC_BOOL, 2, 0);
    got = run_once(m, NULL, 1);
    assert_same_outputs(&want, &got);
    free_outputs(&want);
    free_outputs(&got);
    free_qformer(m);
}

/* ---- counts and names ------------------------------------------------------------------------ */

static vtc_linear linear_shape(size_t n_out, size_t n_in)
{
    const vtc_linear layer = { vtc_f32_2d(NULL, n_out, n_in), vtc_f32_1d(NULL, n_out) };

    return layer;
}

static vtc_norm norm_shape(size_t n)
{
    const vtc_norm norm = { vtc_f32_1d(NULL, n), vtc_f32_1d(NULL, n) };

    return norm;
}

static vtc_qformer_attention attention_shape(size_t n_in)
{
    const vtc_qformer_attention a = { linear_shape(768, 768), linear_shape(768, n_in),
                                      linear_shape(768, n_in), linear_shape(768, 768),
                                      norm_shape(768) };

    return a;
}

static vtc_qformer_mlp mlp_shape(void)
{
    const vtc_qformer_mlp mlp = { linear_shape(3072, 768), linear_shape(768, 3072),
                                  norm_shape(768) };

    return mlp;
}

static vtc_model_cost real_cost(bool text, size_t n_text)
{
    vtc_qformer_layer layers[12];
    vtc_qformer_weights w;
    vtc_model_cost cost;

    memset(layers, 0, sizeof(layers));
    memset(&w, 0, sizeof(w));
    for (size_t i = 0; i < 12; i++) {
        layers[i].self = attention_shape(768);
        if (i % 2 == 0)
            layers[i].cross = attention_shape(1408);
        layers[i].query = mlp_shape();
        if (text)
            layers[i].text = mlp_shape();
    }
    w.query_tokens = vtc_f32_3d(NULL, 1, 32, 768);
    w.embedding_norm = norm_shape(768);
    w.layers = layers;
    w.n_layers = 12;
    w.projection = linear_shape(2560, 768);
    if (text) {
        w.word_embeddings = vtc_f32_2d(NULL, 30523, 768);
        w.position_embeddings = vtc_f32_2d(NULL, 512, 768);
    }
    assert_int_equal(vtc_qformer_cost(NULL, &w, 1, 257, n_text, &cost, NULL), VTC_OK);
    return cost;
}

static void the_real_models_cost_what_is_published(void **state)
{
    const double projection = 2560.0 * 769.0;
    const vtc_model_cost blip2 = real_cost(false, 0), text = real_cost(true, 32);

    (void)state;
    assert_true(fabs(2e-9 * blip2.multiply_adds - 12.9) < 0.05);
    assert_true(fabs(2e-9 * text.multiply_adds - 18.4) < 0.05);
    assert_true(fabs(1e-6 * (blip2.parameters - projection) - 105.0) < 0.5);
    assert_true(fabs(1e-6 * (text.parameters - projection) - 186.0) < 0.5);
}

/* Every view of a struct is filled, under a name that no other has. */
static int find_any(void *source, const char *name, vtc_tensor *view)
{
    const vtc_weight_table *table = source;

    for (size_t i = 0; i < table->n; i++)
        if (strcmp(table->weights[i].name, name) == 0) {
            const size_t dim[] = { 1 + i, 2, 2 };

            *view = vtc_tensor_nd(table, VTC_F32, table->weights[i].rank, dim);
            return 1;
        }
    return 0;
}

static void the_tables_fill_every_view(void **state)
{
    static const vtc_weight_table *const tables[] = { &vtc_qformer_lavis_layer_table,
                                                      &vtc_qformer_hf_layer_table };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        vtc_qformer_layer layer;
        const vtc_tensor *views = (const vtc_tensor *)(const void *)&layer;

        assert_int_equal(tables[i]->n, sizeof(layer) / sizeof(vtc_tensor));
        assert_int_equal(vtc_weights_bind(tables[i], find_any, (void *)(uintptr_t)tables[i], "",
                                          &layer, NULL),
                         VTC_OK);
        for (size_t j = 0; j < tables[i]->n; j++)
            assert_int_equal(views[j].dim[0], 1 + j);
    }
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
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(strides_do_not_matter),
        cmocka_unit_test(no_params_are_those_of_blip2),
        cmocka_unit_test(an_object_has_the_same_bytes_whoever_prepares_it_and_may_move),
        cmocka_unit_test(scratch_does_not_grow_with_the_batch),
        cmocka_unit_test(scratch_is_exact),
        cmocka_unit_test(no_images_are_fine),
        cmocka_unit_test(a_text_of_no_tokens_is_no_text),
        cmocka_unit_test(the_real_models_cost_what_is_published),
        cmocka_unit_test(the_tables_fill_every_view),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
