/* Idefics2's connector. */
#include "support/weights.h"

#include "reference/idefics2_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 3 };

typedef struct shape {
    size_t b, n, n_vision, m, d, n_heads, n_kv_heads, width, n_inner, n_layers;
} shape;

static const shape shapes[] = {
    { 2, 13, 10, 3, 16, 4, 2, 5, 24, 3 }, { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 },
    { 3, 70, 9, 65, 12, 6, 6, 4, 7, 2 },  { 1, 530, 6, 4, 8, 8, 1, 3, 5, 1 },
    { 2, 7, 5, 6, 10, 2, 1, 3, 9, 0 },
};

enum { N_SHAPES = sizeof(shapes) / sizeof(*shapes) };

typedef struct scene {
    weight_set set;
    vtc_idefics2_params params;
    vtc_idefics2_layer layers[MAX_LAYERS];
    vtc_idefics2_weights weights;
    vtc_tensor x, mask, y;
    unsigned char *marks; /* [B, N] dense, or NULL */
    vtc_prepared prepared;
} scene;

static vtc_norm rms_norm_of(weight_set *set, size_t n)
{
    vtc_norm norm = { 0 };

    norm.weight = vector_of(set, n);
    return norm;
}

static vtc_gated_mlp gated_mlp_of(weight_set *set, size_t n_in, size_t n_inner, size_t n_out)
{
    const vtc_gated_mlp mlp = { plain_linear_of(set, n_inner, n_in),
                                plain_linear_of(set, n_inner, n_in),
                                plain_linear_of(set, n_out, n_inner) };

    return mlp;
}

static void make_weights(scene *s, const shape *z)
{
    s->weights.projection = gated_mlp_of(&s->set, z->n_vision, z->n_inner, z->d);
    s->weights.latents = matrix_of(&s->set, z->m, z->d);
    s->weights.norm = rms_norm_of(&s->set, z->d);
    s->weights.layers = s->layers;
    s->weights.n_layers = z->n_layers;
    for (size_t i = 0; i < z->n_layers; i++) {
        vtc_idefics2_layer *l = &s->layers[i];

        l->latents_norm = rms_norm_of(&s->set, z->d);
        l->context_norm = rms_norm_of(&s->set, z->d);
        l->mlp_norm = rms_norm_of(&s->set, z->d);
        l->q = plain_linear_of(&s->set, z->n_heads * z->width, z->d);
        l->k = plain_linear_of(&s->set, z->n_kv_heads * z->width, z->d);
        l->v = plain_linear_of(&s->set, z->n_kv_heads * z->width, z->d);
        l->o = plain_linear_of(&s->set, z->d, z->n_heads * z->width);
        l->mlp = gated_mlp_of(&s->set, z->d, 4 * z->d, z->d);
    }
}

/* Two thirds of the patches are real; the others are NaN. */
static void make_inputs(scene *s, const shape *z, vtc_dtype dtype, bool masked)
{
    const size_t dim[] = { z->b, z->n, z->n_vision };
    uint64_t seed = 11;

    s->x = make_random(&seed, dtype, 3, dim, masked ? 3 : 0);
    s->marks = NULL;
    if (!masked)
        return;
    s->marks = malloc(z->b * z->n + 1);
    s->mask = make_tensor(VTC_BOOL, 2, dim, 2);
    guard_writable(s->x.data);
    for (size_t i = 0; i < z->b * z->n; i++) {
        s->marks[i] = rng_below(&seed, 3) != 0;
        ((unsigned char *)s->mask.data)[element_at(&s->mask, i)] = s->marks[i];
        for (size_t c = 0; c < z->n_vision && !s->marks[i]; c++)
            set_element(s->x.data, dtype, element_at(&s->x, i * z->n_vision + c), NAN);
    }
    guard_readonly(s->x.data);
    guard_readonly(s->mask.data);
}

static scene *open_scene(const shape *z, bool mixed, vtc_dtype dtype, bool masked)
{
    static const vtc_idefics2_params defaults = VTC_IDEFICS2_PARAMS_INIT;
    const size_t dim[] = { z->b, z->m, z->d };
    scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    s->set.seed = 5;
    s->set.mixed = mixed;
    s->set.gap = mixed ? 3 : 0;
    s->params = defaults;
    s->params.n_heads = z->n_heads;
    s->params.n_kv_heads = z->n_kv_heads;
    s->params.eps = 1e-5f;
    make_weights(s, z);
    make_inputs(s, z, dtype, masked);
    s->y = make_tensor(dtype, 3, dim, 1);
    return s;
}

static void close_scene(scene *s)
{
    weights_free(&s->set);
    guard_free(s->x.data);
    if (s->marks != NULL)
        guard_free(s->mask.data);
    guard_free(s->y.data);
    if (s->prepared.data != NULL)
        guard_free(s->prepared.data);
    free(s->marks);
    free(s);
}

static const vtc_tensor *mask_of(const scene *s)
{
    return s->marks == NULL ? NULL : &s->mask;
}

/* With exactly the scratch that is asked for. */
static vtc_status run(scene *s, const vtc_prepared *prepared, vtc_tensor *y, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_status status;
    size_t bytes;

    assert_int_equal(vtc_idefics2_scratch(&s->params, &s->weights, prepared, &s->x, mask_of(s), y,
                                          &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    status = vtc_idefics2(&s->params, &s->weights, prepared, &s->x, mask_of(s), y, &exec);
    exec_scratch_free(&exec);
    return status;
}

static void prepare(scene *s, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_idefics2_prepare_size(&s->params, &s->weights, NULL, &s->prepared.bytes),
                     VTC_OK);
    s->prepared.data = guard_alloc(s->prepared.bytes);
    poison(s->prepared.data, s->prepared.bytes);
    assert_int_equal(vtc_idefics2_prepare_scratch(&s->params, &s->weights, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_idefics2_prepare(&s->params, &s->weights, &s->prepared, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_readonly(s->prepared.data);
}

static void tokens_are_those_of_the_formulas(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

    (void)state;
    for (size_t i = 0; i < 2 * N_SHAPES; i++) {
        const bool plain = i < N_SHAPES;
        scene *s =
            open_scene(&shapes[i % N_SHAPES], !plain, plain ? VTC_F32 : dtypes[i % 3], i % 2 == 0);
        double *want = idefics2_reference(&s->params, &s->weights, &s->x, s->marks);

        assert_int_equal(run(s, NULL, &s->y, 2), VTC_OK);
        assert_tensor_near(&s->y, want, 1e-5);
        prepare(s, 3);
        assert_int_equal(run(s, &s->prepared, &s->y, 1), VTC_OK);
        assert_tensor_near(&s->y, want, 1e-5);
        free(want);
        close_scene(s);
    }
}

static void any_number_of_workers_gives_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        scene *s = open_scene(&shapes[i], true, VTC_F32, true);
        vtc_tensor again = make_tensor(VTC_F32, 3, s->y.dim, 0);

        prepare(s, 2);
        for (int prepared = 0; prepared < 2; prepared++) {
            const vtc_prepared *object = prepared ? &s->prepared : NULL;

            assert_int_equal(run(s, object, &s->y, 0), VTC_OK);
            for (size_t n = 1; n <= 5; n += 2) {
                assert_int_equal(run(s, object, &again, n), VTC_OK);
                assert_same_bits(&s->y, &again);
            }
        }
        guard_free(again.data);
        close_scene(s);
    }
}

/* An image of padding alone attends to the latents; so does one without patches. */
static void an_image_without_patches_gives_the_latents_view_of_themselves(void **state)
{
    const shape empty = { 2, 0, 5, 6, 10, 2, 1, 3, 9, 2 };
    scene *s = open_scene(&empty, false, VTC_F32, false);
    double *want = idefics2_reference(&s->params, &s->weights, &s->x, NULL);

    (void)state;
    assert_int_equal(run(s, NULL, &s->y, 2), VTC_OK);
    assert_tensor_near(&s->y, want, 1e-5);
    prepare(s, 1);
    assert_int_equal(run(s, &s->prepared, &s->y, 2), VTC_OK);
    assert_tensor_near(&s->y, want, 1e-5);
    free(want);
    close_scene(s);
}

/* Scratch is asked for without the mask's values, so any number of real patches must fit it: also
 * fewer than a block, whose products may be cut in another way. */
static void any_number_of_real_patches_fits_the_scratch(void **state)
{
    static const size_t counts[] = { 0, 1, 2, 31, 63, 64, 65, 127, 129, 257, 511, 512, 513, 529 };
    scene *s = open_scene(&shapes[3], true, VTC_BF16, true);

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        double *want;

        guard_writable(s->mask.data);
        guard_writable(s->x.data);
        for (size_t n = 0; n < s->x.dim[1]; n++) {
            s->marks[n] = n < counts[i];
            ((unsigned char *)s->mask.data)[element_at(&s->mask, n)] = s->marks[n];
            for (size_t c = 0; c < s->x.dim[2]; c++)
                set_element(s->x.data, s->x.dtype, element_at(&s->x, n * s->x.dim[2] + c),
                            (float)(n % 7) - 0.5f * (float)c);
        }
        want = idefics2_reference(&s->params, &s->weights, &s->x, s->marks);
        assert_int_equal(run(s, NULL, &s->y, 3), VTC_OK);
        assert_tensor_near(&s->y, want, 1e-5);
        free(want);
    }
    close_scene(s);
}

/* A caller's struct may hold anything before it is bound: the tables list all that is read. */
static void weights_bound_into_garbage_work(void **state)
{
    scene *s = open_scene(&shapes[0], true, VTC_F32, false);
    vtc_tensor want = make_tensor(VTC_F32, 3, s->y.dim, 0);
    const scene given = *s;

    (void)state;
    assert_int_equal(run(s, NULL, &want, 1), VTC_OK);
    memset(&s->weights, 0xa5, sizeof(s->weights));
    memset(s->layers, 0xa5, sizeof(s->layers));
    s->weights.layers = s->layers;
    s->weights.n_layers = given.weights.n_layers;
    bind_from(&vtc_idefics2_table, &given.weights, &s->weights);
    for (size_t i = 0; i < s->weights.n_layers; i++)
        bind_from(&vtc_idefics2_layer_table, &given.layers[i], &s->layers[i]);
    assert_int_equal(run(s, NULL, &s->y, 1), VTC_OK);
    assert_same_bits(&s->y, &want);
    guard_free(want.data);
    close_scene(s);
}

static void extents_of_zero_work(void **state)
{
    static const shape empty[] = {
        { 0, 13, 10, 3, 16, 4, 2, 5, 24, 3 }, { 2, 13, 0, 3, 16, 4, 2, 5, 24, 2 },
        { 2, 13, 10, 0, 16, 4, 2, 5, 24, 2 }, { 2, 13, 10, 3, 0, 4, 2, 5, 24, 2 },
        { 2, 13, 10, 3, 16, 4, 2, 0, 24, 2 }, { 2, 13, 10, 3, 16, 4, 2, 5, 0, 2 }
    };

    (void)state;
    for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++) {
        scene *s = open_scene(&empty[i], true, VTC_F16, i % 2 == 0);

        assert_int_equal(run(s, NULL, &s->y, 2), VTC_OK);
        prepare(s, 1);
        assert_int_equal(run(s, &s->prepared, &s->y, 0), VTC_OK);
        close_scene(s);
    }
}

/* ---- cost ------------------------------------------------------------------------------------ */

static vtc_tensor extent(size_t rows, size_t cols)
{
    return vtc_f32_2d(NULL, rows, cols);
}

static vtc_norm norm_extent(size_t n)
{
    vtc_norm norm = { 0 };

    norm.weight = vtc_f32_1d(NULL, n);
    return norm;
}

static vtc_gated_mlp gated_extent(size_t n_in, size_t n_inner, size_t n_out)
{
    vtc_gated_mlp mlp = { 0 };

    mlp.gate.weight = mlp.up.weight = extent(n_inner, n_in);
    mlp.down.weight = extent(n_out, n_inner);
    return mlp;
}

/* The released Idefics2-8B: 92 M and 651 M parameters; 106 + 95, 225 + 108, 899 + 182 GFLOP. */
static void the_released_model_costs_what_its_page_says(void **state)
{
    static const struct {
        size_t n;
        double gflop;
    } rows[] = { { 576, 106 + 95 }, { 1225, 225 + 108 }, { 4900, 899 + 182 } };
    vtc_idefics2_layer layers[3];
    vtc_idefics2_weights w = { .layers = layers, .n_layers = 3 };
    vtc_idefics2_params params = VTC_IDEFICS2_PARAMS_INIT;
    vtc_model_cost cost;

    (void)state;
    memset(layers, 0, sizeof(layers));
    params.eps = 1e-5f;
    w.projection = gated_extent(1152, 14336, 4096);
    w.latents = extent(64, 4096);
    w.norm = norm_extent(4096);
    for (int i = 0; i < 3; i++) {
        layers[i].latents_norm = layers[i].context_norm = layers[i].mlp_norm = norm_extent(4096);
        layers[i].q.weight = extent(1536, 4096);
        layers[i].k.weight = layers[i].v.weight = extent(384, 4096);
        layers[i].o.weight = extent(4096, 1536);
        layers[i].mlp = gated_extent(4096, 16384, 4096);
    }
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(vtc_idefics2_cost(&params, &w, 1, rows[i].n, &cost, NULL), VTC_OK);
        assert_true(fabs(2e-9 * cost.multiply_adds - rows[i].gflop) < 1.5);
    }
    assert_true(fabs(cost.parameters / 1e6 - (92 + 651)) < 1.0);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void expect(scene *s, const vtc_prepared *prepared, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(1);
    error_log log;

    poison(s->y.data, 64);
    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_idefics2(&s->params, &s->weights, prepared, &s->x, mask_of(s), &s->y, &exec),
                  want, part);
    assert_untouched(&s->y);
    exec_scratch_free(&exec);
}

static void calls_that_make_no_sense_are_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32, true);
    vtc_tensor *const weight = &s->layers[1].k.weight;

    (void)state;
    s->params.eps = 0.0f;
    expect(s, NULL, VTC_ERR_RANGE, "eps is 0");
    s->params.eps = 1e-5f;
    s->params.n_kv_heads = 3;
    expect(s, NULL, VTC_ERR_RANGE, "4 query heads cannot share 3 key heads");
    s->params.n_kv_heads = 2;
    weight->dim[0]--;
    expect(s, NULL, VTC_ERR_SHAPE, "perceiver_resampler.layers.1.self_attn.k_proj.weight");
    weight->dim[0]++;
    weight->dtype = VTC_I32;
    expect(s, NULL, VTC_ERR_DTYPE, "layers.1.self_attn.k_proj.weight");
    weight->dtype = VTC_F32;
    s->x.dim[2]--;
    expect(s, NULL, VTC_ERR_SHAPE, "x has 9 channels, the projection takes 10");
    s->x.dim[2]++;
    s->mask.dim[1]--;
    expect(s, NULL, VTC_ERR_SHAPE, "mask has extent 12 along axis 1, x has 13");
    s->mask.dim[1]++;
    s->y.dim[1]--;
    expect(s, NULL, VTC_ERR_SHAPE, "tokens is 2x16, 3x16 is needed");
    s->y.dim[1]++;
    s->weights.layers = NULL;
    expect(s, NULL, VTC_ERR_NULL, "layers is NULL");
    s->weights.layers = s->layers;
    close_scene(s);
}

/* Layers are no convolutions: trailing axes of extent 1 are refused, not read as rows. */
static void layers_of_rank_4_are_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32, false);
    vtc_tensor *const weights[] = { &s->weights.projection.gate.weight, &s->layers[0].q.weight,
                                    &s->layers[1].o.weight, &s->layers[2].mlp.gate.weight,
                                    &s->layers[2].mlp.down.weight };

    (void)state;
    for (size_t i = 0; i < sizeof(weights) / sizeof(*weights); i++) {
        const vtc_tensor given = *weights[i];

        weights[i]->rank = 4;
        for (int axis = 2; axis < 4; axis++)
            weights[i]->dim[axis] = weights[i]->stride[axis] = 1;
        expect(s, NULL, VTC_ERR_SHAPE, "has rank 4");
        *weights[i] = given;
    }
    close_scene(s);
}

static void an_object_of_another_model_is_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32, false);
    vtc_prepared shorter;

    (void)state;
    prepare(s, 1);
    shorter = s->prepared;
    shorter.bytes -= 64;
    expect(s, &shorter, VTC_ERR_DATA, "bytes");
    s->params.eps = 1e-6f;
    expect(s, &s->prepared, VTC_ERR_DATA, "other shapes or parameters");
    close_scene(s);
}

static void an_object_without_room_is_not_begun(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32, false);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_prepared prepared;
    error_log log;

    (void)state;
    assert_int_equal(vtc_idefics2_prepare_size(&s->params, &s->weights, NULL, &prepared.bytes),
                     VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_idefics2_prepare(&s->params, &s->weights, &prepared, &exec),
                  VTC_ERR_SCRATCH, "scratch");
    prepared.bytes -= 64;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_idefics2_prepare(&s->params, &s->weights, &prepared, &exec),
                  VTC_ERR_ROOM, "needs");
    assert_true(is_poisoned(prepared.data, prepared.bytes));
    guard_free(prepared.data);
    close_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_the_formulas),
        cmocka_unit_test(any_number_of_workers_gives_the_same_bits),
        cmocka_unit_test(an_image_without_patches_gives_the_latents_view_of_themselves),
        cmocka_unit_test(any_number_of_real_patches_fits_the_scratch),
        cmocka_unit_test(weights_bound_into_garbage_work),
        cmocka_unit_test(extents_of_zero_work),
        cmocka_unit_test(the_released_model_costs_what_its_page_says),
        cmocka_unit_test(calls_that_make_no_sense_are_refused),
        cmocka_unit_test(layers_of_rank_4_are_refused),
        cmocka_unit_test(an_object_of_another_model_is_refused),
        cmocka_unit_test(an_object_without_room_is_not_begun),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
