/* The Perceiver Resampler: what is refused. */
#include "perceiver_cases.h"

typedef struct refusal {
    perceiver_case k;
    model m;
    vtc_tensor y;
    vtc_exec exec;
    error_log log;
} refusal;

/* Two items of three frames, each with its embedding. */
static void open_refusal(refusal *r)
{
    r->k = make_case(1, 2, 3, 4);
    r->k.frames = 3;
    r->k.items = 2;
    make_seeded_model(&r->k, 510, &r->m);
    r->y = make_output(&r->k);
    r->exec = test_exec(0);
    exec_scratch(&r->exec, 1 << 20);
    record_errors(&r->exec, &r->log);
}

static void close_refusal(refusal *r)
{
    assert_untouched(&r->y);
    exec_scratch_free(&r->exec);
    free_model(&r->m);
    guard_free(r->y.data);
}

#define REFUSE(change, want, part)                                                           \
    do {                                                                                     \
        vtc_perceiver_params p = r.k.params;                                                 \
        vtc_perceiver_weights w = r.m.weights;                                               \
        vtc_perceiver_layer layers[MAX_LAYERS];                                              \
        const vtc_prepared *prepared = NULL;                                                 \
        vtc_tensor x = r.m.x, y = r.y;                                                       \
        memcpy(layers, r.m.layers, sizeof(layers));                                          \
        w.layers = layers;                                                                   \
        change;                                                                              \
        r.log.count = 0;                                                                     \
        assert_failed(&r.log, vtc_perceiver(&p, &w, prepared, &x, &y, &r.exec), want, part); \
    } while (0)

static void parameters_that_do_not_fit_are_refused(void **state)
{
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(p.heads = 5, VTC_ERR_SHAPE, "gives 12 channels, 5 heads");
    REFUSE(p.heads = 0, VTC_ERR_RANGE, "heads is 0");
    REFUSE(p.eps = -1.0f, VTC_ERR_RANGE, "eps is -1");
    REFUSE(p.act = (vtc_activation)99, VTC_ERR_RANGE, "activation 99");
    r.log.count = 0;
    assert_failed(&r.log, vtc_perceiver(&r.k.params, NULL, NULL, &r.m.x, &r.y, &r.exec),
                  VTC_ERR_NULL, "weights is NULL");
    close_refusal(&r);
}

static void inputs_that_do_not_fit_are_refused(void **state)
{
    const size_t other[] = { 1, 3, 1, 12 };
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(x.dim[4] = 11, VTC_ERR_SHAPE, "x has 11 channels, latents has 12");
    REFUSE(x.dim[2] = 4; x.stride[2] = 0, VTC_ERR_SHAPE, "x has 4 frames, frame_embs has 3");
    REFUSE(x.dim[1] = 3; x.stride[1] = 0, VTC_ERR_SHAPE, "x has 1x3 media items, y has 1x2");
    REFUSE(x.dim[1] = 3; x.stride[1] = 0; y = vtc_tensor_nd(r.y.data, VTC_F32, 4, other),
                                          VTC_ERR_SHAPE, "y has 1 tokens of 12 channels");
    REFUSE(x.dtype = VTC_I32, VTC_ERR_DTYPE, "x has dtype I32");
    REFUSE(x.rank = 2, VTC_ERR_SHAPE, "x has rank 2");
    REFUSE(y = vtc_tensor_3d(r.y.data, VTC_F32, 2, r.k.m, r.k.d), VTC_ERR_SHAPE,
           "y has rank 3, 4 is needed");
    REFUSE(y.data = x.data, VTC_ERR_OVERLAP, "y overlaps x");
    REFUSE(y.data = layers[1].to_out.data, VTC_ERR_OVERLAP, "overlaps layers.1.0.to_out");
    close_refusal(&r);
}

static void more_items_than_embeddings_are_refused(void **state)
{
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(w.media_time_embs.dim[0] = 1, VTC_ERR_SHAPE,
           "x has 2 media items, media_time_embs has 1");
    close_refusal(&r);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(layers[1].to_kv.dim[0]--, VTC_ERR_SHAPE,
           "layers.1.0.to_kv.weight is 23x12, 24x12 is needed");
    REFUSE(layers[1].ff_norm.bias.dim[0]--, VTC_ERR_SHAPE, "layers.1.1.0.bias has 11 elements");
    REFUSE(layers[0].norm_latents.weight.data = NULL, VTC_ERR_NULL,
           "layers.0.0.norm_latents.weight has no data");
    REFUSE(w.n_layers = 0, VTC_ERR_RANGE, "n_layers is 0");
    REFUSE(w.layers = NULL, VTC_ERR_NULL, "layers is NULL");
    REFUSE(memset(&w.norm, 0, sizeof(w.norm)), VTC_ERR_DTYPE, "norm.weight has dtype ?");
    close_refusal(&r);
}

static void short_scratch_is_refused(void **state)
{
    refusal r;
    size_t bytes;

    (void)state;
    open_refusal(&r);
    assert_int_equal(vtc_perceiver_scratch(&r.k.params, &r.m.weights, NULL, &r.m.x, &r.y, &r.exec,
                                           &bytes),
                     VTC_OK);
    REFUSE(r.exec.scratch_size = bytes - 1, VTC_ERR_SCRATCH, "bytes of scratch memory");
    close_refusal(&r);
}

/* ---- prepared objects ------------------------------------------------------------------------ */

static void an_output_on_an_object_is_refused(void **state)
{
    vtc_prepared object;
    refusal r;

    (void)state;
    open_refusal(&r);
    object = prepared_of(&r.k, &r.m, 0);
    REFUSE(prepared = &object; y.data = (char *)object.data + object.bytes / 2, VTC_ERR_OVERLAP,
                               "y overlaps the prepared object");
    guard_free(object.data);
    close_refusal(&r);
}

static void objects_of_other_models_are_refused(void **state)
{
    vtc_prepared good, other;
    refusal r;

    (void)state;
    open_refusal(&r);
    other = good = prepared_of(&r.k, &r.m, 0);
    REFUSE(prepared = &good; p.heads = 3, VTC_ERR_DATA, "other shapes or parameters");
    REFUSE(prepared = &good; p.eps = 1e-6f, VTC_ERR_DATA, "other shapes or parameters");
    other.bytes--;
    REFUSE(prepared = &other, VTC_ERR_DATA, "prepared has");
    other.data = NULL;
    REFUSE(prepared = &other, VTC_ERR_NULL, "prepared.data is NULL");
    guard_writable(good.data);
    memset(good.data, 0, 8);
    REFUSE(prepared = &good, VTC_ERR_DATA, "no prepared object");
    guard_free(good.data);
    close_refusal(&r);
}

static void expect_object(refusal *r, vtc_prepared *prepared, vtc_status want, const char *part)
{
    r->log.count = 0;
    assert_failed(&r->log, vtc_perceiver_prepare(&r->k.params, &r->m.weights, prepared, &r->exec),
                  want, part);
}

static void an_object_without_room_is_refused(void **state)
{
    vtc_prepared prepared;
    refusal r;

    (void)state;
    open_refusal(&r);
    assert_int_equal(vtc_perceiver_prepare_size(&r.k.params, &r.m.weights, &r.exec,
                                                &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    prepared.bytes--;
    expect_object(&r, &prepared, VTC_ERR_ROOM, "the prepared object needs");
    prepared.bytes++;
    r.exec.scratch_size = 0;
    expect_object(&r, &prepared, VTC_ERR_SCRATCH, "bytes of scratch memory");
    assert_true(is_poisoned(prepared.data, prepared.bytes));
    guard_free(prepared.data);
    prepared.data = (void *)((uintptr_t)r.m.layers[1].ff_up.data / 64 * 64);
    expect_object(&r, &prepared, VTC_ERR_OVERLAP, "prepared overlaps");
    close_refusal(&r);
}

static void scratch_can_be_asked_for_before_there_is_an_object(void **state)
{
    perceiver_case k = make_case(2, 2, 1, 9);
    vtc_prepared none = { NULL, 0 }, prepared;
    vtc_tensor y = make_output(&k);
    vtc_exec exec = test_exec(2);
    size_t before, after;
    model m;

    (void)state;
    k.mixed = true;
    make_seeded_model(&k, 512, &m);
    prepared = prepared_of(&k, &m, 0);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, &none, &m.x, &y, &exec, &before),
                     VTC_OK);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, &prepared, &m.x, &y, &exec,
                                           &after),
                     VTC_OK);
    assert_int_equal(before, after);
    guard_free(prepared.data);
    free_model(&m);
    guard_free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_that_do_not_fit_are_refused),
        cmocka_unit_test(inputs_that_do_not_fit_are_refused),
        cmocka_unit_test(more_items_than_embeddings_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(short_scratch_is_refused),
        cmocka_unit_test(an_output_on_an_object_is_refused),
        cmocka_unit_test(objects_of_other_models_are_refused),
        cmocka_unit_test(an_object_without_room_is_refused),
        cmocka_unit_test(scratch_can_be_asked_for_before_there_is_an_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
