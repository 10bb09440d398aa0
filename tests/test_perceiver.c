/* The Perceiver Resampler. */
#include "reference/flamingo_reference.h"
#include "support/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ----------------------------------------------------------------------------------- */

enum { MAX_LAYERS = 6 };

typedef struct perceiver_case {
    vtc_perceiver_params params;
    size_t m, d, width, n_layers, hidden; /* width of a head */
    size_t b, t, f, v;
    int rank;             /* of the input */
    size_t frames, items; /* embeddings; 0: none */
    vtc_dtype from, to;
    bool mixed; /* weights of any dtype */
    size_t gap;
} perceiver_case;

typedef struct model {
    weight_set set;
    vtc_perceiver_layer layers[MAX_LAYERS];
    vtc_perceiver_weights weights;
} model;

static perceiver_case make_case(size_t b, size_t t, size_t f, size_t v)
{
    const vtc_perceiver_params params = VTC_PERCEIVER_PARAMS_INIT;
    perceiver_case k = { params, 5, 12, 6, 2, 20, b, t, f, v, 5, 0, 0, VTC_F32, VTC_F32, false, 0 };

    k.params.heads = 2;
    return k;
}

static void make_layer(weight_set *set, const perceiver_case *k, vtc_perceiver_layer *layer)
{
    const size_t inner = k->params.heads * k->width;

    layer->norm_media = norm_of(set, k->d);
    layer->norm_latents = norm_of(set, k->d);
    layer->to_q = matrix_of(set, inner, k->d);
    layer->to_kv = matrix_of(set, 2 * inner, k->d);
    layer->to_out = matrix_of(set, k->d, inner);
    layer->ff_norm = norm_of(set, k->d);
    layer->ff_up = matrix_of(set, k->hidden, k->d);
    layer->ff_down = matrix_of(set, k->d, k->hidden);
}

static void make_model(const perceiver_case *k, uint64_t seed, model *m)
{
    memset(m, 0, sizeof(*m));
    m->set.seed = seed;
    m->set.mixed = k->mixed;
    m->set.gap = k->gap;
    m->weights.latents = matrix_of(&m->set, k->m, k->d);
    if (k->frames != 0)
        m->weights.frame_embs = matrix_of(&m->set, k->frames, k->d);
    if (k->items != 0)
        m->weights.media_time_embs = weight_of(&m->set, 3, (const size_t[]){ k->items, 1, k->d });
    m->weights.norm = norm_of(&m->set, k->d);
    for (size_t i = 0; i < k->n_layers; i++)
        make_layer(&m->set, k, &m->layers[i]);
    m->weights.layers = m->layers;
    m->weights.n_layers = k->n_layers;
}

static vtc_tensor make_input(uint64_t *seed, const perceiver_case *k)
{
    const size_t five[] = { k->b, k->t, k->f, k->v, k->d };
    const size_t four[] = { k->b, k->t, k->v, k->d }, three[] = { k->b, k->v, k->d };

    return make_random(seed, k->from, k->rank,
                       k->rank == 5   ? five
                       : k->rank == 4 ? four
                                      : three,
                       k->gap);
}

static vtc_tensor make_output(const perceiver_case *k)
{
    return make_tensor(k->to, 4, (const size_t[]){ k->b, k->t, k->m, k->d }, k->gap);
}

static vtc_prepared prepared_of(const perceiver_case *k, const model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_prepared prepared;
    size_t bytes;

    assert_int_equal(vtc_perceiver_prepare_size(&k->params, &m->weights, &exec, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    assert_int_equal(vtc_perceiver_prepare_scratch(&k->params, &m->weights, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver_prepare(&k->params, &m->weights, &prepared, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_readonly(prepared.data);
    return prepared;
}

static vtc_tensor resampled(const perceiver_case *k, const model *m, const vtc_prepared *prepared,
                            const vtc_tensor *x, size_t n_workers)
{
    vtc_tensor y = make_output(k);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_perceiver_scratch(&k->params, &m->weights, prepared, x, &y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver(&k->params, &m->weights, prepared, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

static void check_case(const perceiver_case *k, uint64_t *seed, size_t n_workers, bool prepares)
{
    const vtc_tensor x = make_input(seed, k);
    vtc_prepared prepared = { NULL, 0 };
    model m;
    vtc_tensor y;
    double *want;

    make_model(k, rng(seed), &m);
    if (prepares)
        prepared = prepared_of(k, &m, n_workers);
    y = resampled(k, &m, prepares ? &prepared : NULL, &x, n_workers);
    want = reference_perceiver(&k->params, &m.weights, &x);
    assert_tensor_near(&y, want, 1e-5);
    free(want);
    guard_free(prepared.data);
    weights_free(&m.set);
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- facts ----------------------------------------------------------------------------------- */

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
    uint64_t seed = 504;
    vtc_tensor x, y, want;
    vtc_exec exec = test_exec(0);
    model m;
    size_t bytes;

    (void)state;
    k.rank = 3;
    x = make_input(&seed, &k);
    make_model(&k, 1, &m);
    want = resampled(&k, &m, NULL, &x, 0);
    y = make_tensor(VTC_F32, 3, (const size_t[]){ 2, k.m, k.d }, 1);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, NULL, &x, &y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_perceiver(&k.params, &m.weights, NULL, &x, &y, &exec), VTC_OK);
    assert_same_bits(&y, &want);
    exec_scratch_free(&exec);
    weights_free(&m.set);
    guard_free(x.data);
    guard_free(y.data);
    guard_free(want.data);
}

static void assert_all_near(const vtc_tensor *a, const vtc_tensor *b, double tolerance)
{
    double *want = values_of(b);

    assert_tensor_near(a, want, tolerance);
    free(want);
}

static void prepared_and_raw_agree(void **state)
{
    uint64_t seed = 505;

    (void)state;
    for (int i = 0; i < 30; i++) {
        perceiver_case k = random_case(&seed);
        vtc_tensor x, raw, ready;
        vtc_prepared prepared;
        model m;

        k.to = VTC_F32;
        x = make_input(&seed, &k);
        make_model(&k, rng(&seed), &m);
        prepared = prepared_of(&k, &m, 0);
        raw = resampled(&k, &m, NULL, &x, 0);
        ready = resampled(&k, &m, &prepared, &x, 0);
        assert_all_near(&ready, &raw, 4e-6);
        guard_free(prepared.data);
        weights_free(&m.set);
        guard_free(x.data);
        guard_free(raw.data);
        guard_free(ready.data);
    }
}

static void check_executors(const perceiver_case *k, bool prepares)
{
    uint64_t seed = 506;
    const vtc_tensor x = make_input(&seed, k);
    vtc_prepared prepared = { NULL, 0 };
    vtc_tensor want;
    model m;

    make_model(k, 7, &m);
    if (prepares)
        prepared = prepared_of(k, &m, 0);
    want = resampled(k, &m, prepares ? &prepared : NULL, &x, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        const vtc_tensor got = resampled(k, &m, prepares ? &prepared : NULL, &x, n_workers);

        assert_same_bits(&got, &want);
        guard_free(got.data);
        if (prepares) {
            const vtc_prepared other = prepared_of(k, &m, n_workers);

            assert_memory_equal(other.data, prepared.data, prepared.bytes);
            guard_free(other.data);
        }
    }
    guard_free(prepared.data);
    weights_free(&m.set);
    guard_free(x.data);
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
    uint64_t seed = 507;
    const vtc_tensor dense = make_input(&seed, &k);
    vtc_tensor wide, want, got;
    model m;

    (void)state;
    seed = 507;
    k.gap = 5;
    wide = make_input(&seed, &k);
    assert_same_bits(&wide, &dense);
    make_model(&k, 8, &m);
    want = resampled(&k, &m, NULL, &dense, 2);
    got = resampled(&k, &m, NULL, &wide, 2);
    assert_same_bits(&got, &want);
    weights_free(&m.set);
    guard_free(dense.data);
    guard_free(wide.data);
    guard_free(want.data);
    guard_free(got.data);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void a_nan_stays_in_its_item(void **state)
{
    const perceiver_case k = make_case(2, 3, 1, 8);
    uint64_t seed = 508;
    const vtc_tensor x = make_input(&seed, &k);
    vtc_tensor y, clean;
    model m;

    (void)state;
    make_model(&k, 9, &m);
    clean = resampled(&k, &m, NULL, &x, 0);
    guard_writable(x.data);
    ((float *)x.data)[(4 * k.v + 3) * k.d] = NAN; /* of item 4 */
    y = resampled(&k, &m, NULL, &x, 0);
    for (size_t i = 0; i < n_elements(&y); i++)
        if (i / (k.m * k.d) == 4)
            assert_true(isnan(((float *)y.data)[i]));
        else
            assert_true(((float *)y.data)[i] == ((float *)clean.data)[i]);
    weights_free(&m.set);
    guard_free(x.data);
    guard_free(y.data);
    guard_free(clean.data);
}

/* Without embeddings tokens have no order, and only their normalised values count. */
static void order_and_scale_of_tokens_do_not_matter(void **state)
{
    const perceiver_case k = make_case(1, 1, 1, 23);
    uint64_t seed = 509;
    const vtc_tensor x = make_input(&seed, &k), turned = make_input(&seed, &k);
    vtc_tensor want, got;
    model m;

    (void)state;
    guard_writable(turned.data);
    for (size_t n = 0; n < k.v; n++)
        for (size_t c = 0; c < k.d; c++)
            ((float *)turned.data)[n * k.d + c] =
                8.0f * ((const float *)x.data)[(k.v - 1 - n) * k.d + c] + 3.0f;
    make_model(&k, 10, &m);
    want = resampled(&k, &m, NULL, &x, 0);
    got = resampled(&k, &m, NULL, &turned, 0);
    assert_all_near(&got, &want, 2e-4);
    weights_free(&m.set);
    guard_free(x.data);
    guard_free(turned.data);
    guard_free(want.data);
    guard_free(got.data);
}

/* ---- what is refused ------------------------------------------------------------------------- */

typedef struct refusal {
    perceiver_case k;
    model m;
    vtc_tensor x, y;
    vtc_exec exec;
    error_log log;
} refusal;

static void open_refusal(refusal *r, const perceiver_case *k)
{
    uint64_t seed = 510;

    r->k = *k;
    make_model(k, 11, &r->m);
    r->x = make_input(&seed, k);
    r->y = make_output(k);
    r->exec = test_exec(0);
    exec_scratch(&r->exec, 1 << 20);
    record_errors(&r->exec, &r->log);
}

static void close_refusal(refusal *r)
{
    assert_untouched(&r->y);
    exec_scratch_free(&r->exec);
    weights_free(&r->m.set);
    guard_free(r->x.data);
    guard_free(r->y.data);
}

static void expect(refusal *r, vtc_perceiver_params params, const vtc_perceiver_weights *w,
                   vtc_tensor x, vtc_tensor y, vtc_status want, const char *part)
{
    r->log.count = 0;
    assert_failed(&r->log, vtc_perceiver(&params, w, NULL, &x, &y, &r->exec), want, part);
}

static void parameters_that_do_not_fit_are_refused(void **state)
{
    const perceiver_case k = make_case(1, 2, 3, 4);
    vtc_perceiver_params p;
    refusal r;

    (void)state;
    open_refusal(&r, &k);
    p = k.params;
    p.heads = 5;
    expect(&r, p, &r.m.weights, r.x, r.y, VTC_ERR_SHAPE, "gives 12 channels, 5 heads");
    p.heads = 0;
    expect(&r, p, &r.m.weights, r.x, r.y, VTC_ERR_RANGE, "heads is 0");
    p = k.params;
    p.eps = -1.0f;
    expect(&r, p, &r.m.weights, r.x, r.y, VTC_ERR_RANGE, "eps is -1");
    p = k.params;
    p.act = (vtc_activation)99;
    expect(&r, p, &r.m.weights, r.x, r.y, VTC_ERR_RANGE, "activation 99");
    p = k.params;
    r.log.count = 0;
    expect(&r, k.params, NULL, r.x, r.y, VTC_ERR_NULL, "weights is NULL");
    close_refusal(&r);
}

static void inputs_that_do_not_fit_are_refused(void **state)
{
    perceiver_case k = make_case(1, 2, 3, 4);
    vtc_tensor x, y;
    refusal r;

    (void)state;
    k.frames = 3;
    k.items = 2;
    open_refusal(&r, &k);
    x = r.x;
    x.dim[4] = 11;
    expect(&r, k.params, &r.m.weights, x, r.y, VTC_ERR_SHAPE, "x has 11 channels, latents has 12");
    x = r.x;
    x.dim[2] = 4;
    x.stride[2] = 0;
    expect(&r, k.params, &r.m.weights, x, r.y, VTC_ERR_SHAPE, "x has 4 frames, frame_embs has 3");
    x = r.x;
    x.dim[1] = 3;
    x.stride[1] = 0;
    expect(&r, k.params, &r.m.weights, x, r.y, VTC_ERR_SHAPE, "x has 1x3 media items, y has 1x2");
    y = vtc_tensor_nd(r.y.data, VTC_F32, 4, (const size_t[]){ 1, 3, 1, k.d });
    expect(&r, k.params, &r.m.weights, x, y, VTC_ERR_SHAPE, "y has 1 tokens of 12 channels");
    x = r.x;
    x.dtype = VTC_I32;
    expect(&r, k.params, &r.m.weights, x, r.y, VTC_ERR_DTYPE, "x has dtype I32");
    x = r.x;
    x.rank = 2;
    expect(&r, k.params, &r.m.weights, x, r.y, VTC_ERR_SHAPE, "x has rank 2");
    y = vtc_tensor_3d(r.y.data, VTC_F32, 2, k.m, k.d);
    expect(&r, k.params, &r.m.weights, r.x, y, VTC_ERR_SHAPE, "y has rank 3, 4 is needed");
    y = r.y;
    y.data = r.x.data;
    expect(&r, k.params, &r.m.weights, r.x, y, VTC_ERR_OVERLAP, "y overlaps x");
    y.data = r.m.layers[1].to_out.data;
    expect(&r, k.params, &r.m.weights, r.x, y, VTC_ERR_OVERLAP, "overlaps layers.1.0.to_out");
    close_refusal(&r);
}

static void more_items_than_embeddings_are_refused(void **state)
{
    perceiver_case k = make_case(1, 3, 1, 4);
    vtc_perceiver_weights w;
    refusal r;

    (void)state;
    k.items = 3;
    open_refusal(&r, &k);
    w = r.m.weights;
    w.media_time_embs.dim[0] = 2;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_SHAPE, "x has 3 media items, media_time_embs has 2");
    close_refusal(&r);
}

static void weights_that_do_not_fit_are_refused(void **state)
{
    const perceiver_case k = make_case(1, 2, 3, 4);
    vtc_perceiver_layer layers[MAX_LAYERS];
    vtc_perceiver_weights w;
    refusal r;

    (void)state;
    open_refusal(&r, &k);
    w = r.m.weights;
    w.layers = layers;
    memcpy(layers, r.m.layers, sizeof(layers));
    layers[1].to_kv.dim[0]--;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_SHAPE,
           "layers.1.0.to_kv.weight is 23x12, 24x12 is needed");
    memcpy(layers, r.m.layers, sizeof(layers));
    layers[1].ff_norm.bias.dim[0]--;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_SHAPE, "layers.1.1.0.bias has 11 elements");
    memcpy(layers, r.m.layers, sizeof(layers));
    layers[0].norm_latents.weight.data = NULL;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_NULL, "layers.0.0.norm_latents.weight has no data");
    w = r.m.weights;
    w.n_layers = 0;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_RANGE, "n_layers is 0");
    w = r.m.weights;
    w.layers = NULL;
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_NULL, "layers is NULL");
    w = r.m.weights;
    memset(&w.norm, 0, sizeof(w.norm));
    expect(&r, k.params, &w, r.x, r.y, VTC_ERR_DTYPE, "norm.weight has dtype ?");
    close_refusal(&r);
}

static void short_scratch_is_refused(void **state)
{
    const perceiver_case k = make_case(1, 2, 3, 4);
    refusal r;
    size_t bytes;

    (void)state;
    open_refusal(&r, &k);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &r.m.weights, NULL, &r.x, &r.y, &r.exec,
                                           &bytes),
                     VTC_OK);
    r.exec.scratch_size = bytes - 1;
    expect(&r, k.params, &r.m.weights, r.x, r.y, VTC_ERR_SCRATCH, "bytes of scratch memory");
    close_refusal(&r);
}

/* ---- prepared objects ------------------------------------------------------------------------ */

static void an_output_on_an_object_is_refused(void **state)
{
    const perceiver_case k = make_case(1, 2, 3, 4);
    vtc_prepared prepared;
    vtc_tensor y;
    refusal r;

    (void)state;
    open_refusal(&r, &k);
    prepared = prepared_of(&k, &r.m, 0);
    y = r.y;
    y.data = (char *)prepared.data + prepared.bytes / 2;
    assert_failed(&r.log, vtc_perceiver(&k.params, &r.m.weights, &prepared, &r.x, &y, &r.exec),
                  VTC_ERR_OVERLAP, "y overlaps the prepared object");
    guard_free(prepared.data);
    close_refusal(&r);
}

static void expect_prepared(refusal *r, vtc_prepared prepared, vtc_status want, const char *part)
{
    r->log.count = 0;
    assert_failed(&r->log,
                  vtc_perceiver(&r->k.params, &r->m.weights, &prepared, &r->x, &r->y, &r->exec),
                  want, part);
}

static void objects_of_other_models_are_refused(void **state)
{
    perceiver_case k = make_case(1, 2, 3, 4);
    vtc_prepared good, other;
    vtc_perceiver_params params;
    refusal r;

    (void)state;
    open_refusal(&r, &k);
    good = prepared_of(&k, &r.m, 0);
    params = k.params;
    r.k.params.heads = 3;
    expect_prepared(&r, good, VTC_ERR_DATA, "other shapes or parameters");
    r.k.params = params;
    r.k.params.eps = 1e-6f;
    expect_prepared(&r, good, VTC_ERR_DATA, "other shapes or parameters");
    r.k.params = params;
    other = good;
    other.bytes--;
    expect_prepared(&r, other, VTC_ERR_DATA, "prepared has");
    other.data = NULL;
    expect_prepared(&r, other, VTC_ERR_NULL, "prepared.data is NULL");
    guard_writable(good.data);
    memset(good.data, 0, 8);
    expect_prepared(&r, good, VTC_ERR_DATA, "no prepared object");
    guard_free(good.data);
    close_refusal(&r);
}

static void an_object_without_room_is_refused(void **state)
{
    const perceiver_case k = make_case(1, 2, 3, 4);
    vtc_prepared prepared;
    refusal r;

    (void)state;
    open_refusal(&r, &k);
    assert_int_equal(vtc_perceiver_prepare_size(&k.params, &r.m.weights, &r.exec, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    prepared.bytes--;
    assert_failed(&r.log, vtc_perceiver_prepare(&k.params, &r.m.weights, &prepared, &r.exec),
                  VTC_ERR_ROOM, "the prepared object needs");
    prepared.bytes++;
    r.exec.scratch_size = 0;
    r.log.count = 0;
    assert_failed(&r.log, vtc_perceiver_prepare(&k.params, &r.m.weights, &prepared, &r.exec),
                  VTC_ERR_SCRATCH, "bytes of scratch memory");
    assert_true(is_poisoned(prepared.data, prepared.bytes));
    guard_free(prepared.data);
    prepared.data = (void *)((uintptr_t)r.m.layers[1].ff_up.data / 64 * 64);
    r.log.count = 0;
    assert_failed(&r.log, vtc_perceiver_prepare(&k.params, &r.m.weights, &prepared, &r.exec),
                  VTC_ERR_OVERLAP, "prepared overlaps");
    close_refusal(&r);
}

static void scratch_can_be_asked_for_before_there_is_an_object(void **state)
{
    perceiver_case k = make_case(2, 2, 1, 9);
    vtc_prepared none = { NULL, 0 }, prepared;
    uint64_t seed = 512;
    vtc_tensor x = make_input(&seed, &k), y = make_output(&k);
    vtc_exec exec = test_exec(2);
    size_t before, after;
    model m;

    (void)state;
    k.mixed = true;
    make_model(&k, 12, &m);
    prepared = prepared_of(&k, &m, 0);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, &none, &x, &y, &exec, &before),
                     VTC_OK);
    assert_int_equal(vtc_perceiver_scratch(&k.params, &m.weights, &prepared, &x, &y, &exec, &after),
                     VTC_OK);
    assert_int_equal(before, after);
    guard_free(prepared.data);
    weights_free(&m.set);
    guard_free(x.data);
    guard_free(y.data);
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
        cmocka_unit_test(parameters_that_do_not_fit_are_refused),
        cmocka_unit_test(inputs_that_do_not_fit_are_refused),
        cmocka_unit_test(more_items_than_embeddings_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_refused),
        cmocka_unit_test(short_scratch_is_refused),
        cmocka_unit_test(an_output_on_an_object_is_refused),
        cmocka_unit_test(objects_of_other_models_are_refused),
        cmocka_unit_test(an_object_without_room_is_refused),
        cmocka_unit_test(scratch_can_be_asked_for_before_there_is_an_object),
        cmocka_unit_test(weights_are_found_by_the_checkpoints_names),
        cmocka_unit_test(counts_are_the_published_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
