/* The Q-Former: what is refused. */
#include "support/qformers.h"

#include <string.h>

struct fixture {
    qformer_model *m;
    vtc_prepared object;
    vtc_exec exec;
    error_log log;
    vtc_tensor hidden, tokens, kv;
};

static struct fixture open_fixture(const qformer_case *c)
{
    struct fixture f;

    memset(&f, 0, sizeof(f));
    f.m = make_qformer(c, 93);
    f.object = qformer_prepare(f.m, 1);
    f.hidden = qformer_hidden(f.m, 0);
    f.tokens = qformer_tokens(f.m, 0);
    f.kv = qformer_kv(f.m, VTC_F32, 0);
    f.exec = test_exec(1);
    exec_scratch(&f.exec, 1 << 20);
    return f;
}

static void close_fixture(struct fixture *f)
{
    assert_untouched(&f->hidden);
    assert_untouched(&f->tokens);
    assert_untouched(&f->kv);
    exec_scratch_free(&f->exec);
    guard_free(f->object.data);
    guard_free(f->hidden.data);
    guard_free(f->tokens.data);
    guard_free(f->kv.data);
    free_qformer(f->m);
}

/* The call and, unless the data decide, the size query. */
static void refuse(struct fixture *f, const qformer_model *m, const vtc_prepared *prepared,
                   vtc_tensor *hidden, vtc_tensor *tokens, vtc_status want, const char *part)
{
    const vtc_tensor *image_mask = given(&m->image_mask), *ids = given(&m->ids);
    const vtc_tensor *text_mask = given(&m->text_mask);
    size_t bytes = 77;

    record_errors(&f->exec, &f->log);
    assert_failed(&f->log,
                  vtc_qformer(&m->params, &m->weights, prepared, &m->image, image_mask, ids,
                              text_mask, hidden, tokens, &f->exec),
                  want, part);
    if (want == VTC_ERR_OVERLAP || strstr(part, "input_ids has") != NULL)
        return;
    record_errors(&f->exec, &f->log);
    assert_failed(&f->log,
                  vtc_qformer_scratch(&m->params, &m->weights, prepared, &m->image, image_mask, ids,
                                      text_mask, hidden, tokens, &f->exec, &bytes),
                  want, part);
    assert_int_equal(bytes, 77);
}

#define REFUSE(change, want, part)                            \
    do {                                                      \
        qformer_model bad = *f.m;                             \
        vtc_tensor hidden = f.hidden, tokens = f.tokens;      \
        bad.weights.layers = bad.layers;                      \
        change;                                               \
        refuse(&f, &bad, NULL, &hidden, &tokens, want, part); \
    } while (0)

static void weights_that_do_not_fit_are_refused(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);

    (void)state;
    REFUSE(bad.layers[1].self.key.weight.dim[1] = 15, VTC_ERR_SHAPE,
           "encoder.layer.1.attention.attention.key.weight is 16x15, 16x16 is needed");
    REFUSE(bad.layers[2].cross.value.weight.dim[1] = 13, VTC_ERR_SHAPE,
           "encoder.layer.2.crossattention.attention.value.weight is 16x13, 16x14 is needed");
    REFUSE(bad.layers[0].self.query.weight.dtype = VTC_I32, VTC_ERR_DTYPE,
           "encoder.layer.0.attention.attention.query.weight");
    REFUSE(bad.layers[0].query.up.bias.dim[0] = 3, VTC_ERR_SHAPE,
           "encoder.layer.0.intermediate_query.dense.bias has 3 elements, 24 are needed");
    REFUSE(bad.layers[0].text.down.weight.dim[1] = 3, VTC_ERR_SHAPE,
           "encoder.layer.0.output.dense.weight");
    REFUSE(bad.layers[2].cross.norm.weight.dim[0] = 3, VTC_ERR_SHAPE,
           "encoder.layer.2.crossattention.output.LayerNorm.weight");
    REFUSE(memset(&bad.layers[2].cross.key, 0, sizeof(vtc_linear)), VTC_ERR_DTYPE,
           "encoder.layer.2.crossattention.attention.key.weight");
    REFUSE(memset(&bad.layers[1].text.norm, 0, sizeof(vtc_norm)), VTC_ERR_DTYPE,
           "encoder.layer.1.output.LayerNorm.weight");
    REFUSE(memset(&bad.layers[0].cross, 0, sizeof(vtc_qformer_attention));
           memset(&bad.layers[2].cross, 0, sizeof(vtc_qformer_attention)), VTC_ERR_SHAPE,
           "none of the 3 layers has a crossattention");
    REFUSE(bad.weights.query_tokens.dim[0] = 2, VTC_ERR_SHAPE, "query_tokens is 2x4x16");
    REFUSE(bad.weights.query_tokens.dim[1] = 0, VTC_ERR_SHAPE, "there are 0 queries");
    REFUSE(bad.weights.word_embeddings.dim[1] = 15, VTC_ERR_SHAPE, "word_embeddings.weight has 15");
    REFUSE(bad.weights.projection.weight.dim[1] = 15, VTC_ERR_SHAPE, "projection.weight is 12x15");
    REFUSE(bad.weights.layers = NULL, VTC_ERR_NULL, "layers is NULL");
    REFUSE(bad.weights.n_layers = 0, VTC_ERR_SHAPE, "none of the 0 layers");
    REFUSE(bad.params.n_heads = 3, VTC_ERR_SHAPE, "16 channels cannot be 3 heads");
    REFUSE(bad.params.n_heads = 0, VTC_ERR_SHAPE, "16 channels cannot be 0 heads");
    REFUSE(bad.params.eps = -1.0f, VTC_ERR_RANGE, "eps is -1");
    close_fixture(&f);
}

static void text_is_refused_where_the_weights_take_none(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);

    (void)state;
    REFUSE(memset(&bad.weights.word_embeddings, 0, sizeof(vtc_tensor)), VTC_ERR_UNSUPPORTED,
           "word_embeddings.weight is absent");
    REFUSE(memset(&bad.weights.position_embeddings, 0, sizeof(vtc_tensor)), VTC_ERR_UNSUPPORTED,
           "position_embeddings.weight is absent");
    REFUSE(memset(&bad.layers[1].text, 0, sizeof(vtc_qformer_mlp)), VTC_ERR_UNSUPPORTED,
           "intermediate.dense.weight is absent (layer 1)");
    REFUSE(memset(&bad.ids, 0, sizeof(vtc_tensor)), VTC_ERR_NULL, "text_mask without input_ids");
    close_fixture(&f);
}

static void inputs_that_do_not_fit_are_refused(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);

    (void)state;
    REFUSE(bad.image.dim[2] = 13, VTC_ERR_SHAPE, "image has 13 channels, the weights take 14");
    REFUSE(bad.image.dtype = VTC_I32, VTC_ERR_DTYPE, "image has dtype");
    REFUSE(bad.image_mask.dim[1] = 10, VTC_ERR_SHAPE, "image_mask has 10 tokens, there are 11");
    REFUSE(bad.image_mask.dim[0] = 1, VTC_ERR_SHAPE, "image_mask has 1 batch items");
    REFUSE(bad.image_mask.dtype = VTC_F32, VTC_ERR_DTYPE, "image_mask has dtype");
    REFUSE(bad.ids.dim[0] = 1, VTC_ERR_SHAPE, "input_ids has 1 batch items");
    REFUSE(bad.ids = vtc_tensor_1d(bad.ids.data, VTC_I64, 7), VTC_ERR_SHAPE,
           "input_ids has rank 1");
    REFUSE(bad.ids.dtype = VTC_U8, VTC_ERR_DTYPE, "input_ids has dtype");
    REFUSE(bad.text_mask.dim[1] = 6, VTC_ERR_SHAPE, "text_mask has 6 tokens, there are 7");
    REFUSE(bad.weights.position_embeddings.dim[0] = 6, VTC_ERR_SHAPE,
           "the text has 7 tokens, position_embeddings has 6 rows");
    close_fixture(&f);
}

static void ids_outside_of_the_vocabulary_are_refused(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);
    int64_t *ids = f.m->ids.data;

    (void)state;
    ids[9] = 23;
    REFUSE((void)0, VTC_ERR_RANGE, "input_ids has 23 at token 2 of text 1, word_embeddings has 23");
    ids[9] = -1;
    REFUSE((void)0, VTC_ERR_RANGE, "input_ids has -1 at token 2");
    ids[9] = INT64_MIN;
    REFUSE((void)0, VTC_ERR_RANGE, "input_ids has -9223372036854775808");
    close_fixture(&f);
}

static void outputs_that_do_not_fit_are_refused(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);

    (void)state;
    REFUSE(hidden.dim[2] = 15, VTC_ERR_SHAPE, "hidden has 15 channels");
    REFUSE(hidden.dim[1] = 10, VTC_ERR_SHAPE,
           "hidden has 10 rows, there are 4 queries and 7 tokens of text");
    REFUSE(hidden.dim[0] = 1, VTC_ERR_SHAPE, "hidden has 1 batch items");
    REFUSE(tokens.dim[1] = 3, VTC_ERR_SHAPE, "tokens is 3x12, 4x12 is needed");
    REFUSE(tokens.dtype = VTC_I32, VTC_ERR_DTYPE, "tokens has dtype");
    REFUSE(memset(&bad.weights.projection, 0, sizeof(vtc_linear)), VTC_ERR_NULL,
           "the projection is absent");
    REFUSE(tokens.data = f.hidden.data, VTC_ERR_OVERLAP, "tokens overlaps hidden");
    REFUSE(tokens.data = f.m->image.data, VTC_ERR_OVERLAP, "tokens overlaps image");
    REFUSE(bad.image_mask.data = f.hidden.data, VTC_ERR_OVERLAP, "hidden overlaps image_mask");
    REFUSE(hidden.data = f.m->layers[2].cross.key.weight.data, VTC_ERR_OVERLAP,
           "hidden overlaps crossattention.attention.key.weight");
    refuse(&f, f.m, NULL, NULL, NULL, VTC_ERR_NULL, "hidden and tokens are both NULL");
    close_fixture(&f);
}

static void objects_that_do_not_fit_are_refused(void **state)
{
    struct fixture f = open_fixture(&small_instructblip);
    qformer_model *other = make_qformer(&small_blip2, 94);
    vtc_prepared object = qformer_prepare(other, 1), bad = f.object;
    qformer_model m = *f.m;

    (void)state;
    refuse(&f, f.m, &object, &f.hidden, &f.tokens, VTC_ERR_DATA, "other shapes or parameters");
    m.params.n_heads = 2;
    refuse(&f, &m, &f.object, &f.hidden, &f.tokens, VTC_ERR_DATA, "other shapes or parameters");
    bad.bytes -= 64;
    refuse(&f, f.m, &bad, &f.hidden, &f.tokens, VTC_ERR_DATA, "of an object of");
    bad = f.object;
    bad.data = (char *)f.object.data + 1;
    refuse(&f, f.m, &bad, &f.hidden, &f.tokens, VTC_ERR_SHAPE, "aligned");
    f.hidden.data = (char *)f.object.data + 64;
    refuse(&f, f.m, &f.object, &f.hidden, NULL, VTC_ERR_OVERLAP, "overlaps the prepared object");
    guard_free(object.data);
    free_qformer(other);
    f.hidden = qformer_hidden(f.m, 0);
    close_fixture(&f);
}

static void preparing_is_refused_before_anything_is_written(void **state)
{
    struct fixture f = open_fixture(&small_blip2);
    vtc_prepared object = { guard_alloc(f.object.bytes), f.object.bytes }, bad = object;
    const vtc_qformer_params *params = &f.m->params;
    const vtc_qformer_weights *weights = &f.m->weights;

    (void)state;
    poison(object.data, object.bytes);
    record_errors(&f.exec, &f.log);
    bad.bytes -= 1;
    assert_failed(&f.log, vtc_qformer_prepare(params, weights, &bad, &f.exec), VTC_ERR_ROOM,
                  "the prepared object needs");
    record_errors(&f.exec, &f.log);
    bad = object;
    bad.data = f.m->layers[0].query.up.weight.data;
    bad.bytes = SIZE_MAX / 2;
    bad.data = (void *)((uintptr_t)bad.data / 64 * 64);
    assert_failed(&f.log, vtc_qformer_prepare(params, weights, &bad, &f.exec), VTC_ERR_OVERLAP,
                  "prepared overlaps");
    record_errors(&f.exec, &f.log);
    f.exec.scratch_size = 64;
    assert_failed(&f.log, vtc_qformer_prepare(params, weights, &object, &f.exec), VTC_ERR_SCRATCH,
                  "bytes");
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log, vtc_qformer_prepare(params, weights, NULL, &f.exec), VTC_ERR_NULL,
                  "prepared is NULL");
    assert_true(is_poisoned(object.data, object.bytes));
    guard_free(object.data);
    close_fixture(&f);
}

static void two_calls_refuse_what_one_refuses(void **state)
{
    struct fixture f = open_fixture(&small_blip2);
    const vtc_qformer_params *params = &f.m->params;
    const vtc_qformer_weights *weights = &f.m->weights;
    vtc_tensor bad = f.kv;

    (void)state;
    bad.dim[2] = 1;
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log,
                  vtc_qformer_encode_image(params, weights, NULL, &f.m->image, &bad, &f.exec),
                  VTC_ERR_SHAPE, "image_kv is 13x1, 13x64 is needed");
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log,
                  vtc_qformer_query(params, weights, NULL, &bad, NULL, NULL, NULL, &f.hidden, NULL,
                                    &f.exec),
                  VTC_ERR_SHAPE, "image_kv has 1 channels, the weights take 64");
    bad = f.kv;
    bad.data = f.m->image.data;
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log,
                  vtc_qformer_encode_image(params, weights, NULL, &f.m->image, &bad, &f.exec),
                  VTC_ERR_OVERLAP, "image_kv overlaps image");
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log, vtc_qformer_encode_image(params, weights, NULL, NULL, &f.kv, &f.exec),
                  VTC_ERR_NULL, "image is NULL");
    record_errors(&f.exec, &f.log);
    assert_failed(&f.log,
                  vtc_qformer_query(params, weights, NULL, NULL, NULL, NULL, NULL, &f.hidden, NULL,
                                    &f.exec),
                  VTC_ERR_NULL, "image_kv is NULL");
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(text_is_refused_where_the_weights_take_none),
        cmocka_unit_test(inputs_that_do_not_fit_are_refused),
        cmocka_unit_test(ids_outside_of_the_vocabulary_are_refused),
        cmocka_unit_test(outputs_that_do_not_fit_are_refused),
        cmocka_unit_test(objects_that_do_not_fit_are_refused),
        cmocka_unit_test(preparing_is_refused_before_anything_is_written),
        cmocka_unit_test(two_calls_refuse_what_one_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
