/* The resamplers of Qwen-VL and MiniCPM-V. */
#include "support/weights.h"

#include "../src/resample/resampler.h"
#include "reference/resampler_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    vtc_resampler_variant variant;
    size_t n_heads, width, m, n_vision, b;
    bool frames; /* and groups of two images */
} shape;

/* Cheap order where n_heads * m < n_heads * width + m. */
static const shape shapes[] = {
    { VTC_RESAMPLER_MINICPMV, 2, 8, 5, 7, 3, false },
    { VTC_RESAMPLER_MINICPMV, 3, 4, 70, 12, 2, false },
    { VTC_RESAMPLER_MINICPMV, 2, 12, 3, 9, 5, true },
    { VTC_RESAMPLER_MINICPMV_2_0, 2, 8, 9, 16, 2, false },
    { VTC_RESAMPLER_QWEN_VL, 3, 4, 16, 5, 2, false },
    { VTC_RESAMPLER_QWEN_VL, 1, 4, 1, 4, 1, false },
    { VTC_RESAMPLER_MINICPMV, 1, 4, 1, 1, 20, false },
};

enum { N_SHAPES = sizeof(shapes) / sizeof(*shapes), MAX_IMAGES = 20 };

typedef struct scene {
    weight_set set;
    vtc_resampler_params params;
    vtc_resampler_weights weights;
    vtc_resampler_images images;
    int32_t grids[2 * MAX_IMAGES], frames[MAX_IMAGES], groups[MAX_IMAGES];
    vtc_tensor x, y;
    vtc_prepared prepared;
} scene;

static void make_weights(scene *s, const shape *z)
{
    const size_t d = z->n_heads * z->width;
    vtc_resampler_weights *w = &s->weights;

    w->query = matrix_of(&s->set, z->m, d);
    if (z->variant != VTC_RESAMPLER_MINICPMV)
        w->pos_embed = matrix_of(&s->set, z->m, d);
    if (z->n_vision != d)
        w->kv_proj.weight = matrix_of(&s->set, d, z->n_vision);
    w->ln_q = norm_of(&s->set, d);
    w->ln_kv = norm_of(&s->set, d);
    w->in_proj.weight = matrix_of(&s->set, 3 * d, d);
    w->in_proj.bias = vector_of(&s->set, 3 * d);
    w->out_proj = linear_of(&s->set, d, d);
    w->ln_post = norm_of(&s->set, d);
    w->proj = matrix_of(&s->set, d, d);
}

/* Grids of 1 to 7; squares of equal size for Qwen-VL. The longest image is 6 x 8. */
static void make_images(scene *s, const shape *z)
{
    uint64_t seed = 3;

    s->images = (vtc_resampler_images)VTC_RESAMPLER_IMAGES_INIT;
    s->images.grids = s->grids;
    for (size_t i = 0; i < z->b; i++) {
        s->grids[2 * i] =
            z->variant == VTC_RESAMPLER_QWEN_VL ? 6 : (int32_t)rng_below(&seed, 6) + 1;
        s->grids[2 * i + 1] =
            z->variant == VTC_RESAMPLER_QWEN_VL ? 6 : (int32_t)rng_below(&seed, 8) + 1;
        s->frames[i] = i % 3 == 2 ? -1 : (int32_t)(40 * i);
    }
    if (!z->frames)
        return;
    s->images.frame_ids = s->frames;
    s->images.group_sizes = s->groups;
    for (size_t i = 0; i < z->b; i += 2)
        s->groups[s->images.n_groups++] = i + 1 < z->b ? 2 : 1;
}

/* Padding is NaN. */
static void make_tokens(scene *s, const shape *z, vtc_dtype dtype)
{
    const size_t n = z->variant == VTC_RESAMPLER_QWEN_VL ? 36 : 48;
    const size_t dim[] = { z->b, n, z->n_vision };
    const size_t n_groups = z->frames ? s->images.n_groups : z->b;
    const size_t out[] = { n_groups, z->m, z->n_heads * z->width };
    uint64_t seed = 17;

    s->x = make_random(&seed, dtype, 3, dim, dtype == VTC_F32 ? 0 : 5);
    guard_writable(s->x.data);
    for (size_t b = 0; b < z->b; b++)
        for (size_t i = (size_t)(s->grids[2 * b] * s->grids[2 * b + 1]); i < n; i++)
            for (size_t c = 0; c < z->n_vision; c++)
                set_element(s->x.data, dtype, element_at(&s->x, (b * n + i) * z->n_vision + c),
                            NAN);
    guard_readonly(s->x.data);
    s->y = make_tensor(dtype, 3, out, dtype == VTC_F32 ? 0 : 1);
}

static scene *open_scene(const shape *z, bool mixed, vtc_dtype dtype)
{
    static const vtc_resampler_params defaults = VTC_RESAMPLER_PARAMS_INIT;
    scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    s->set.seed = 23;
    s->set.mixed = mixed;
    s->set.gap = mixed ? 3 : 0;
    s->params = defaults;
    s->params.variant = z->variant;
    s->params.n_heads = z->n_heads;
    make_weights(s, z);
    make_images(s, z);
    make_tokens(s, z, dtype);
    return s;
}

static void close_scene(scene *s)
{
    weights_free(&s->set);
    guard_free(s->x.data);
    guard_free(s->y.data);
    if (s->prepared.data != NULL)
        guard_free(s->prepared.data);
    free(s);
}

/* With exactly the scratch that is asked for. */
static void run(scene *s, const vtc_prepared *prepared, vtc_tensor *y, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_resampler_scratch(&s->params, &s->weights, prepared, &s->x, &s->images, y,
                                           &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_resampler(&s->params, &s->weights, prepared, &s->x, &s->images, y, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static void prepare(scene *s)
{
    vtc_exec exec = test_exec(2);
    size_t bytes;

    assert_int_equal(vtc_resampler_prepare_size(&s->params, &s->weights, NULL, &s->prepared.bytes),
                     VTC_OK);
    s->prepared.data = guard_alloc(s->prepared.bytes);
    poison(s->prepared.data, s->prepared.bytes);
    assert_int_equal(vtc_resampler_prepare_scratch(&s->params, &s->weights, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_resampler_prepare(&s->params, &s->weights, &s->prepared, &exec), VTC_OK);
    exec_scratch_free(&exec);
    guard_readonly(s->prepared.data);
}

static void tokens_are_those_of_the_formulas(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_BF16, VTC_F32, VTC_F16 };

    (void)state;
    for (size_t i = 0; i < 2 * N_SHAPES; i++) {
        const bool plain = i < N_SHAPES;
        scene *s = open_scene(&shapes[i % N_SHAPES], !plain, plain ? VTC_F32 : dtypes[i % 3]);
        double *want = resampler_reference(&s->params, &s->weights, &s->x, &s->images);

        run(s, NULL, &s->y, 2);
        assert_tensor_near(&s->y, want, 2e-5);
        prepare(s);
        run(s, &s->prepared, &s->y, 1);
        assert_tensor_near(&s->y, want, 2e-5);
        free(want);
        close_scene(s);
    }
}

static void any_number_of_workers_gives_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        scene *s = open_scene(&shapes[i], true, VTC_F32);
        vtc_tensor again = make_tensor(VTC_F32, 3, s->y.dim, 2);

        prepare(s);
        for (int form = 0; form < 2; form++) {
            run(s, form ? &s->prepared : NULL, &s->y, 0);
            for (size_t n = 1; n <= 5; n += 2) {
                run(s, form ? &s->prepared : NULL, &again, n);
                assert_same_bits(&s->y, &again);
            }
        }
        guard_free(again.data);
        close_scene(s);
    }
}

static void both_orders_of_products_are_taken(void **state)
{
    bool seen[2] = { false, false };

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        scene *s = open_scene(&shapes[i], false, VTC_F32);
        vtci_resampler m;
        vtci_call call;

        assert_int_equal(vtci_begin(&call, "test", NULL), VTC_OK);
        assert_int_equal(vtci_resampler_open(&call, &s->params, &s->weights, &m), VTC_OK);
        seen[m.cheap] = true;
        close_scene(s);
    }
    assert_true(seen[0] && seen[1]);
}

/* in_proj cut into three matrices gives the bits of the whole. */
static void separate_projections_are_the_rows_of_in_proj(void **state)
{
    scene *s = open_scene(&shapes[4], false, VTC_F32);
    const size_t d = s->weights.query.dim[1];
    vtc_linear *const part[] = { &s->weights.q, &s->weights.k, &s->weights.v };
    vtc_tensor whole = make_tensor(VTC_F32, 3, s->y.dim, 0);
    const vtc_linear all = s->weights.in_proj;

    (void)state;
    run(s, NULL, &whole, 1);
    for (size_t i = 0; i < 3; i++) {
        *part[i] = all;
        part[i]->weight.dim[0] = part[i]->bias.dim[0] = d;
        part[i]->weight.data = (float *)all.weight.data + i * d * all.weight.stride[0];
        part[i]->bias.data = (float *)all.bias.data + i * d;
    }
    memset(&s->weights.in_proj, 0, sizeof(s->weights.in_proj));
    run(s, NULL, &s->y, 1);
    assert_same_bits(&s->y, &whole);
    guard_free(whole.data);
    close_scene(s);
}

static void no_images_and_no_grids_work(void **state)
{
    scene *s = open_scene(&shapes[4], false, VTC_F32);
    vtc_tensor with_grids = make_tensor(VTC_F32, 3, s->y.dim, 0);

    (void)state;
    run(s, NULL, &with_grids, 1);
    s->images.grids = NULL;
    run(s, NULL, &s->y, 1);
    assert_same_bits(&s->y, &with_grids);
    s->x.dim[0] = s->y.dim[0] = 0;
    run(s, NULL, &s->y, 1);
    guard_free(with_grids.data);
    close_scene(s);
}

/* A caller's struct may hold anything before it is bound: the tables list all that is read. */
static void weights_bound_into_garbage_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        scene *s = open_scene(&shapes[i], true, VTC_F32);
        vtc_tensor want = make_tensor(VTC_F32, 3, s->y.dim, 0);
        const vtc_resampler_weights given = s->weights;

        run(s, NULL, &want, 1);
        memset(&s->weights, 0xa5, sizeof(s->weights));
        bind_from(&vtc_resampler_table, &given, &s->weights);
        bind_from(&vtc_resampler_tail_table, &given, &s->weights);
        run(s, NULL, &s->y, 1);
        assert_same_bits(&s->y, &want);
        guard_free(want.data);
        close_scene(s);
    }
}

static void views_that_are_not_read_may_hold_anything(void **state)
{
    scene *s = open_scene(&shapes[6], false, VTC_F32);
    vtc_tensor want = make_tensor(VTC_F32, 3, s->y.dim, 0);
    vtc_resampler_weights *w = &s->weights;

    (void)state;
    run(s, NULL, &want, 1);
    memset(&w->pos_embed, 0xa5, sizeof(w->pos_embed));
    memset(&w->q, 0xa5, sizeof(w->q));
    memset(&w->v, 0xa5, sizeof(w->v));
    run(s, NULL, &s->y, 1);
    assert_same_bits(&s->y, &want);
    guard_free(want.data);
    close_scene(s);
}

/* Neither scratch nor data is needed where there is nothing to compute. */
static void extents_of_zero_work(void **state)
{
    static const shape empty[] = { { VTC_RESAMPLER_MINICPMV, 2, 8, 0, 7, 3, true },
                                   { VTC_RESAMPLER_MINICPMV, 2, 8, 5, 0, 3, true },
                                   { VTC_RESAMPLER_MINICPMV, 2, 0, 5, 7, 3, false },
                                   { VTC_RESAMPLER_MINICPMV_2_0, 2, 8, 5, 7, 0, false },
                                   { VTC_RESAMPLER_QWEN_VL, 3, 4, 0, 5, 2, false } };

    (void)state;
    for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++) {
        scene *s = open_scene(&empty[i], true, VTC_BF16);

        run(s, NULL, &s->y, 2);
        prepare(s);
        run(s, &s->prepared, &s->y, 0);
        close_scene(s);
    }
}

/* ---- cost ------------------------------------------------------------------------------------ */

static vtc_resampler_weights extents(size_t d, size_t m, size_t n_vision)
{
    vtc_resampler_weights w;

    memset(&w, 0, sizeof(w));
    w.query = vtc_f32_2d(NULL, m, d);
    w.kv_proj.weight = vtc_f32_2d(NULL, d, n_vision);
    w.in_proj.weight = vtc_f32_2d(NULL, 3 * d, d);
    w.in_proj.bias = vtc_f32_1d(NULL, 3 * d);
    w.out_proj.weight = w.proj = vtc_f32_2d(NULL, d, d);
    w.out_proj.bias = vtc_f32_1d(NULL, d);
    w.ln_q.weight = w.ln_q.bias = w.ln_kv.weight = w.ln_kv.bias = vtc_f32_1d(NULL, d);
    w.ln_post.weight = w.ln_post.bias = vtc_f32_1d(NULL, d);
    return w;
}

/* The page's table: cheaper order for MiniCPM-V, direct for Qwen-VL; GFLOP of 1024 tokens. */
static void released_models_cost_what_their_page_says(void **state)
{
    static const struct {
        vtc_resampler_variant variant;
        size_t d, m, n_vision;
        double gflop;
    } rows[] = { { VTC_RESAMPLER_MINICPMV_2_0, 2304, 64, 1152, 18 },
                 { VTC_RESAMPLER_MINICPMV, 3584, 64, 1152, 40 },
                 { VTC_RESAMPLER_MINICPMV, 2560, 64, 1152, 22 },
                 { VTC_RESAMPLER_MINICPMV, 4096, 64, 1152, 50 },
                 { VTC_RESAMPLER_MINICPMV, 4096, 96, 1152, 71 },
                 { VTC_RESAMPLER_QWEN_VL, 4096, 256, 1664, 104 } };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        vtc_resampler_weights w = extents(rows[i].d, rows[i].m, rows[i].n_vision);
        vtc_resampler_params params = VTC_RESAMPLER_PARAMS_INIT;
        vtc_model_cost cost;

        params.variant = rows[i].variant;
        w.pos_embed = w.query;
        assert_int_equal(vtc_resampler_cost(&params, &w, 1, 1024, &cost, NULL), VTC_OK);
        assert_true(fabs(2e-9 * cost.multiply_adds - rows[i].gflop) < 1.0);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void expect(scene *s, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_resampler(&s->params, &s->weights, NULL, &s->x, &s->images, &s->y, &exec),
                  want, part);
    assert_untouched(&s->y);
    exec_scratch_free(&exec);
}

static void images_that_make_no_sense_are_refused(void **state)
{
    scene *s = open_scene(&shapes[2], false, VTC_F32);

    (void)state;
    s->grids[1] = 0;
    expect(s, VTC_ERR_RANGE, "image 0 has a grid of");
    s->grids[0] = 7;
    s->grids[1] = 7;
    expect(s, VTC_ERR_SHAPE, "image 0 has a grid of 7x7, x has 48 patches");
    s->grids[0] = 1;
    s->frames[1] = -2;
    expect(s, VTC_ERR_RANGE, "frame id 1 is -2");
    s->frames[1] = 0;
    s->groups[0] = 3;
    expect(s, VTC_ERR_SHAPE, "groups hold");
    s->groups[0] = 0;
    expect(s, VTC_ERR_RANGE, "group 0 has 0 images");
    s->groups[0] = 2;
    s->images.group_sizes = NULL;
    expect(s, VTC_ERR_NULL, "group_sizes is NULL, n_groups is 3");
    s->images.group_sizes = s->groups;
    s->images.grids = NULL;
    expect(s, VTC_ERR_SHAPE, "48 patches, no square");
    close_scene(s);
}

static void weights_that_do_not_fit_are_named(void **state)
{
    scene *s = open_scene(&shapes[4], false, VTC_F32);

    (void)state;
    s->params.n_heads = 5;
    expect(s, VTC_ERR_RANGE, "12 channels make no 5 heads");
    s->params.n_heads = 0;
    expect(s, VTC_ERR_RANGE, "give n_heads");
    s->params.n_heads = 3;
    s->params.variant = (vtc_resampler_variant)3;
    expect(s, VTC_ERR_RANGE, "variant is 3");
    s->params.variant = VTC_RESAMPLER_QWEN_VL;
    s->weights.pos_embed.dim[0]--;
    expect(s, VTC_ERR_SHAPE, "pos_embed is 15x12, 16x12 is needed");
    s->weights.pos_embed.dim[0]++;
    s->weights.proj.dim[1]--;
    expect(s, VTC_ERR_SHAPE, "proj is 12x11");
    s->weights.proj.dim[1]++;
    s->x.dim[2]--;
    expect(s, VTC_ERR_SHAPE, "x has 4 channels, the weights take 5");
    s->x.dim[2]++;
    s->grids[0] = 4;
    s->grids[1] = 9;
    expect(s, VTC_ERR_SHAPE, "Qwen-VL reads squares");
    s->grids[0] = s->grids[1] = 6;
    s->y.dim[1]--;
    expect(s, VTC_ERR_SHAPE, "tokens is 2x15x12, 2x16x12 is needed");
    s->y.dim[1]++;
    close_scene(s);
}

static void missing_weights_are_named(void **state)
{
    scene *s = open_scene(&shapes[4], false, VTC_F32);
    vtc_resampler_weights *w = &s->weights;
    const vtc_resampler_weights given = *w;

    (void)state;
    memset(&w->in_proj.weight, 0, sizeof(w->in_proj.weight));
    expect(s, VTC_ERR_NULL, "attn.in_proj_weight is missing, and so is attn.q_proj.weight");
    *w = given;
    memset(&w->pos_embed, 0, sizeof(w->pos_embed));
    expect(s, VTC_ERR_NULL, "pos_embed is missing");
    close_scene(s);
}

/* Layers are no convolutions: trailing axes of extent 1 are refused, not read as rows. */
static void layers_of_rank_4_are_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32);
    vtc_tensor *const weights[] = { &s->weights.out_proj.weight, &s->weights.kv_proj.weight,
                                    &s->weights.in_proj.weight };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const vtc_tensor given = *weights[i];

        weights[i]->rank = 4;
        for (int axis = 2; axis < 4; axis++)
            weights[i]->dim[axis] = weights[i]->stride[axis] = 1;
        expect(s, VTC_ERR_SHAPE, "has rank 4");
        *weights[i] = given;
    }
    close_scene(s);
}

/* The last rows of one buffer would be the tokens. */
static void tokens_on_top_of_inputs_are_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32);
    const vtc_tensor y = s->y;
    vtc_exec exec = test_exec(1);
    error_log log;
    size_t bytes;

    (void)state;
    assert_int_equal(vtc_resampler_scratch(&s->params, &s->weights, NULL, &s->x, &s->images, &y,
                                           &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    prepare(s);
    const struct {
        void *data;
        const char *part;
    } places[] = { { s->x.data, "tokens overlaps x" },
                   { s->weights.proj.data, "tokens overlaps proj" },
                   { s->weights.in_proj.bias.data, "tokens overlaps attn.in_proj_bias" },
                   { s->grids, "tokens overlaps grids" },
                   { s->prepared.data, "tokens overlaps the prepared object" } };

    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        s->y.data = places[i].data;
        record_errors(&exec, &log);
        assert_failed(&log,
                      vtc_resampler(&s->params, &s->weights, &s->prepared, &s->x, &s->images, &s->y,
                                    &exec),
                      VTC_ERR_OVERLAP, places[i].part);
    }
    s->y = y;
    exec_scratch_free(&exec);
    close_scene(s);
}

static void an_object_on_top_of_weights_is_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32);
    const size_t bytes = (size_t)1 << 20;
    vtc_prepared prepared = { guard_alloc(bytes), bytes };
    vtc_exec exec = test_exec(1);
    error_log log;

    (void)state;
    exec_scratch(&exec, bytes);
    s->weights.proj.data = (char *)prepared.data + bytes / 2;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_resampler_prepare(&s->params, &s->weights, &prepared, &exec),
                  VTC_ERR_OVERLAP, "prepared overlaps proj");
    exec_scratch_free(&exec);
    guard_free(prepared.data);
    close_scene(s);
}

static void an_object_of_other_parameters_is_refused(void **state)
{
    scene *s = open_scene(&shapes[0], false, VTC_F32);
    vtc_exec exec = test_exec(1);
    error_log log;

    (void)state;
    prepare(s);
    s->params.n_heads = 4;
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_resampler(&s->params, &s->weights, &s->prepared, &s->x, &s->images, &s->y,
                                &exec),
                  VTC_ERR_DATA, "other shapes or parameters");
    s->params.n_heads = 2;
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_resampler(&s->params, &s->weights, &s->prepared, &s->x, &s->images, &s->y,
                                &exec),
                  VTC_ERR_SCRATCH, "scratch");
    assert_untouched(&s->y);
    close_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_the_formulas),
        cmocka_unit_test(any_number_of_workers_gives_the_same_bits),
        cmocka_unit_test(both_orders_of_products_are_taken),
        cmocka_unit_test(separate_projections_are_the_rows_of_in_proj),
        cmocka_unit_test(no_images_and_no_grids_work),
        cmocka_unit_test(weights_bound_into_garbage_work),
        cmocka_unit_test(views_that_are_not_read_may_hold_anything),
        cmocka_unit_test(extents_of_zero_work),
        cmocka_unit_test(released_models_cost_what_their_page_says),
        cmocka_unit_test(images_that_make_no_sense_are_refused),
        cmocka_unit_test(weights_that_do_not_fit_are_named),
        cmocka_unit_test(missing_weights_are_named),
        cmocka_unit_test(layers_of_rank_4_are_refused),
        cmocka_unit_test(tokens_on_top_of_inputs_are_refused),
        cmocka_unit_test(an_object_on_top_of_weights_is_refused),
        cmocka_unit_test(an_object_of_other_parameters_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
