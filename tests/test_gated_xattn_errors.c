/* Gated cross-attention: what is refused. */
#include "gated_xattn_cases.h"

#include <math.h>

typedef struct refusal {
    gated_case k;
    inputs in;
    vtc_tensor kv, y;
    vtc_exec exec;
    error_log log;
} refusal;

static void open_refusal(refusal *r)
{
    r->k = make_case(2, 6, 3, 4);
    make_inputs(&r->k, 616, &r->in);
    r->kv = keys_of(&r->k, &r->in.m, NULL, &r->in.media, 0);
    r->y = make_tensor(VTC_F32, 3, r->in.x.dim, 0);
    r->exec = test_exec(0);
    exec_scratch(&r->exec, 1 << 20);
    record_errors(&r->exec, &r->log);
}

static void close_refusal(refusal *r)
{
    assert_untouched(&r->y);
    exec_scratch_free(&r->exec);
    free_inputs(&r->in);
    guard_free(r->kv.data);
    guard_free(r->y.data);
}

/* Of the block, from media, unless the change says otherwise. */
#define REFUSE(change, want, part)                                                             \
    do {                                                                                       \
        vtc_gated_xattn_params p = r.k.params;                                                 \
        vtc_gated_xattn_weights w = r.in.m.weights;                                            \
        vtc_tensor x = r.in.x, media = r.in.media, kv = { 0 }, locations = r.in.locations;     \
        change;                                                                                \
        r.log.count = 0;                                                                       \
        assert_failed(&r.log,                                                                  \
                      vtc_gated_xattn(&p, &w, NULL, &x, given(&media), given(&kv), &locations, \
                                      &r.y, &r.exec),                                          \
                      want, part);                                                             \
    } while (0)

static void inputs_that_do_not_fit_are_refused(void **state)
{
    const vtc_tensor none = { 0 };
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(kv = r.kv, VTC_ERR_UNSUPPORTED, "media and kv are given");
    REFUSE(media = none, VTC_ERR_NULL, "neither media nor kv");
    REFUSE(locations.dim[1] = 5, VTC_ERR_SHAPE, "x has 6 tokens, locations has 5");
    REFUSE(locations.dim[0] = 1, VTC_ERR_SHAPE, "x has 2 batch items, locations has 1");
    REFUSE(locations.dtype = VTC_F32, VTC_ERR_DTYPE, "locations has dtype F32");
    REFUSE(media.dim[0] = 1, VTC_ERR_SHAPE, "x has 2 batch items, media has 1");
    REFUSE(media.dim[3] = 9, VTC_ERR_SHAPE, "media has 9 channels");
    REFUSE(media = none; kv = r.kv; kv.dim[3] = 12, VTC_ERR_SHAPE, "kv has 12 channels");
    REFUSE(media = none; kv = r.kv; kv.rank = 3;
           kv.stride[2] = 1, VTC_ERR_SHAPE, "kv has rank 3, 4 to 4");
    REFUSE(x.dim[2] = 11, VTC_ERR_SHAPE, "x is 2x6x11, y is 2x6x12");
    REFUSE(x = r.y, VTC_ERR_OVERLAP, "y overlaps x");
    close_refusal(&r);
}

static void parameters_and_weights_that_do_not_fit_are_refused(void **state)
{
    refusal r;

    (void)state;
    open_refusal(&r);
    REFUSE(p.heads = 5, VTC_ERR_SHAPE, "gives 12 channels, 5 heads");
    REFUSE(p.heads = 0, VTC_ERR_RANGE, "heads is 0");
    REFUSE(p.rule = (vtc_media_rule)2, VTC_ERR_RANGE, "media rule 2");
    REFUSE(p.eps = NAN, VTC_ERR_RANGE, "eps is nan");
    REFUSE(w.attn_gate.dim[0] = 2, VTC_ERR_SHAPE, "attn_gate has 2 elements");
    REFUSE(w.ff_down.dim[1] = 29, VTC_ERR_SHAPE, "ff.3.weight is 12x29, 12x30 is needed");
    REFUSE(w.to_kv.dim[0] = 23, VTC_ERR_SHAPE, "attn.to_kv.weight is 23x10");
    REFUSE(r.exec.scratch_size = 64, VTC_ERR_SCRATCH, "exec has 64");
    close_refusal(&r);
}

static void expect_keys(refusal *r, vtc_tensor *kv, vtc_status want, const char *part)
{
    r->log.count = 0;
    assert_failed(&r->log,
                  vtc_gated_xattn_encode_media(&r->k.params, &r->in.m.weights, NULL, &r->in.media,
                                               kv, &r->exec),
                  want, part);
}

static void keys_that_do_not_fit_are_refused(void **state)
{
    vtc_tensor kv;
    refusal r;

    (void)state;
    open_refusal(&r);
    guard_writable(r.kv.data);
    poison(r.kv.data, n_elements(&r.kv) * sizeof(float));
    kv = r.kv;
    kv.dim[2] = 3;
    expect_keys(&r, &kv, VTC_ERR_SHAPE, "media has 2x3x4 tokens, kv has 2x3x3");
    kv = r.kv;
    kv.dim[3] = 23;
    expect_keys(&r, &kv, VTC_ERR_SHAPE, "media has 10 channels and kv 23");
    kv = r.kv;
    kv.data = r.in.media.data;
    expect_keys(&r, &kv, VTC_ERR_OVERLAP, "kv overlaps media");
    assert_untouched(&r.kv);
    close_refusal(&r);
}

static void expect_object(refusal *r, vtc_prepared *prepared, vtc_status want, const char *part)
{
    r->log.count = 0;
    assert_failed(&r->log,
                  vtc_gated_xattn_prepare(&r->k.params, &r->in.m.weights, prepared, &r->exec), want,
                  part);
}

static void prepared_objects_that_do_not_fit_are_refused(void **state)
{
    vtc_prepared prepared, other;
    refusal r;

    (void)state;
    open_refusal(&r);
    prepared = prepared_of(&r.k, &r.in.m, 0);
    r.in.m.weights.ff_up.dim[0] = r.in.m.weights.ff_down.dim[1] = 29;
    assert_failed(&r.log,
                  vtc_gated_xattn(&r.k.params, &r.in.m.weights, &prepared, &r.in.x, &r.in.media,
                                  NULL, NULL, &r.y, &r.exec),
                  VTC_ERR_DATA, "other shapes");
    r.in.m.weights.ff_up.dim[0] = r.in.m.weights.ff_down.dim[1] = 30;
    other = prepared;
    other.bytes -= 64;
    expect_object(&r, &other, VTC_ERR_ROOM, "the prepared object needs");
    other.data = (void *)((uintptr_t)r.in.m.weights.ff_up.data / 64 * 64);
    other.bytes = prepared.bytes;
    expect_object(&r, &other, VTC_ERR_OVERLAP, "prepared overlaps");
    guard_free(prepared.data);
    close_refusal(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_that_do_not_fit_are_refused),
        cmocka_unit_test(parameters_and_weights_that_do_not_fit_are_refused),
        cmocka_unit_test(keys_that_do_not_fit_are_refused),
        cmocka_unit_test(prepared_objects_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
