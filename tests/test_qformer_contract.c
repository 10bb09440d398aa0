/* The Q-Former: executors, strides, objects and scratch memory, counts and names. */
#include "support/qformers.h"

#include <math.h>
#include <string.h>

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
            qformer_outputs want = qformer_once(m, prepared, 0);

            for (size_t j = 0; j < 3; j++) {
                qformer_outputs got = qformer_once(m, prepared, n_workers[j]);

                assert_same_qformer_outputs(&got, &want);
                free_qformer_outputs(&got);
            }
            free_qformer_outputs(&want);
        }
        guard_free(object.data);
        free_qformer(m);
    }
}

static void strides_do_not_matter(void **state)
{
    qformer_case c = small_instructblip;
    qformer_outputs want, got;
    qformer_model *m = make_qformer(&c, 87);

    (void)state;
    want = qformer_once(m, NULL, 2);
    free_qformer(m);
    c.gap = 3;
    m = make_qformer(&c, 87);
    got = qformer_once(m, NULL, 2);
    assert_same_qformer_outputs(&got, &want);
    free_qformer(m);
    free_qformer_outputs(&want);
    free_qformer_outputs(&got);
}

static void no_params_are_those_of_blip2(void **state)
{
    qformer_case c = small_blip2;
    qformer_outputs want, got;
    vtc_exec exec = test_exec(1);
    qformer_model *m;

    (void)state;
    c.n_heads = 12;
    m = make_qformer(&c, 95);
    want = qformer_once(m, NULL, 1);
    got = qformer_room(m, 0);
    exec_scratch(&exec, 1 << 20);
    assert_int_equal(vtc_qformer(NULL, &m->weights, NULL, &m->image, &m->image_mask, NULL, NULL,
                                 &got.hidden, &got.tokens, &exec),
                     VTC_OK);
    assert_same_qformer_outputs(&want, &got);
    exec_scratch_free(&exec);
    free_qformer_outputs(&want);
    free_qformer_outputs(&got);
    free_qformer(m);
}

static void an_object_has_the_same_bytes_whoever_prepares_it_and_may_move(void **state)
{
    qformer_model *m = make_qformer(&small_instructblip, 88);
    const vtc_prepared a = qformer_prepare(m, 1), b = qformer_prepare(m, 5);
    qformer_outputs want = qformer_once(m, &a, 2), got;
    vtc_prepared moved;

    (void)state;
    assert_int_equal(a.bytes, b.bytes);
    moved.bytes = a.bytes;
    moved.data = guard_copy_readonly(a.data, a.bytes);
    guard_free(a.data);
    got = qformer_once(m, &moved, 2);
    assert_same_qformer_outputs(&want, &got);
    free_qformer_outputs(&got);
    got = qformer_once(m, &b, 2);
    assert_same_qformer_outputs(&want, &got);
    free_qformer_outputs(&got);
    free_qformer_outputs(&want);
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
    qformer_outputs out = qformer_room(m, 0);
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
    free_qformer_outputs(&out);
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
    qformer_outputs want = qformer_once(m, NULL, 1), got;

    (void)state;
    m->ids = vtc_tensor_2d(NULL, VTC_I32, 2, 0);
    m->text_mask = vtc_tensor_2d(NULL, VTC_BOOL, 2, 0);
    got = qformer_once(m, NULL, 1);
    assert_same_qformer_outputs(&want, &got);
    free_qformer_outputs(&want);
    free_qformer_outputs(&got);
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
