/* The projectors behind a pixel shuffle: InternVL, Idefics3, Llama 4. */
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <vtc/shuffle.h>

/* ---- cases ----------------------------------------------------------------------------------- */

enum model { INTERNVL, IDEFICS3, LLAMA4, N_MODELS };

typedef struct projector_case {
    enum model model;
    vtc_shuffle_projector_params params;
    size_t n_batch; /* 0: tensors of rank 2 */
    size_t c, n_norm, n_hidden, d;
    vtc_dtype from, stored, to;
    bool bias, adapter_only;
    size_t gap;
} projector_case;

typedef struct weights {
    vtc_norm_mlp_weights internvl;
    vtc_idefics3_weights idefics3;
    vtc_llama4_weights llama4;
} weights;

static projector_case make_case(enum model model, size_t h, size_t w, size_t r, size_t c, size_t d)
{
    static const vtc_shuffle_projector_params defaults[] = { VTC_INTERNVL_PARAMS_INIT,
                                                             VTC_IDEFICS3_PARAMS_INIT,
                                                             VTC_LLAMA4_PARAMS_INIT };
    projector_case k = { model,   defaults[model], 2,       c,    r * r * c, d + 3, d,
                         VTC_F32, VTC_F32,         VTC_F32, true, false,     0 };

    k.params.grid_h = h;
    k.params.grid_w = w;
    k.params.down = r;
    return k;
}

static weights make_weights(uint64_t *seed, const projector_case *k)
{
    const size_t n_in = k->params.down * k->params.down * k->c;
    weights w;

    memset(&w, 0, sizeof(w));
    if (k->model == INTERNVL) {
        w.internvl = random_norm_mlp(seed, k->stored, k->n_norm, n_in, k->n_hidden, k->d, k->bias);
    } else if (k->model == IDEFICS3) {
        w.idefics3.proj = random_linear(seed, k->stored, k->d, n_in, k->bias, k->gap);
    } else {
        const size_t n_adapter = k->adapter_only ? k->d : k->n_hidden + 2;

        w.llama4.fc1 = random_linear(seed, k->stored, k->n_hidden, n_in, k->bias, k->gap);
        w.llama4.fc2 = random_linear(seed, k->stored, n_adapter, k->n_hidden, k->bias, k->gap);
        if (!k->adapter_only)
            w.llama4.linear_1 = random_linear(seed, k->stored, k->d, n_adapter, k->bias, k->gap);
    }
    return w;
}

static void free_weights(weights *w)
{
    free_norm_mlp(&w->internvl);
    free_linear(&w->idefics3.proj);
    free_linear(&w->llama4.fc1);
    free_linear(&w->llama4.fc2);
    free_linear(&w->llama4.linear_1);
}

static size_t n_class(const projector_case *k)
{
    return k->params.class_token != VTC_CLASS_TOKEN_NONE;
}

static size_t n_tokens(const projector_case *k)
{
    return k->params.grid_h * k->params.grid_w;
}

static vtc_tensor make_view(uint64_t *seed, const projector_case *k, vtc_dtype dtype, size_t n,
                            size_t width)
{
    const size_t dim[] = { k->n_batch, n, width };
    const int rank = k->n_batch != 0 ? 3 : 2;

    return seed != NULL ? make_random(seed, dtype, rank, dim + 3 - rank, k->gap)
                        : make_tensor(dtype, rank, dim + 3 - rank, k->gap);
}

static vtc_tensor make_input(uint64_t *seed, const projector_case *k)
{
    return make_view(seed, k, k->from, n_tokens(k) + n_class(k), k->c);
}

static vtc_tensor make_output(const projector_case *k)
{
    size_t n;

    assert_int_equal(vtc_shuffle_projector_count(&k->params, &n, NULL), VTC_OK);
    return make_view(NULL, k, k->to, n, k->d);
}

static vtc_status project(const projector_case *k, const weights *w, const vtc_tensor *x,
                          vtc_tensor *y, const vtc_exec *exec)
{
    if (k->model == INTERNVL)
        return vtc_internvl_projector(&k->params, &w->internvl, x, y, exec);
    if (k->model == IDEFICS3)
        return vtc_idefics3_projector(&k->params, &w->idefics3, x, y, exec);
    return vtc_llama4_projector(&k->params, &w->llama4, x, y, exec);
}

static vtc_status scratch_of(const projector_case *k, const weights *w, const vtc_tensor *x,
                             const vtc_tensor *y, const vtc_exec *exec, size_t *bytes)
{
    if (k->model == INTERNVL)
        return vtc_internvl_projector_scratch(&k->params, &w->internvl, x, y, exec, bytes);
    if (k->model == IDEFICS3)
        return vtc_idefics3_projector_scratch(&k->params, &w->idefics3, x, y, exec, bytes);
    return vtc_llama4_projector_scratch(&k->params, &w->llama4, x, y, exec, bytes);
}

static vtc_tensor projected(const projector_case *k, const weights *w, const vtc_tensor *x,
                            size_t n_workers)
{
    vtc_tensor y = make_output(k);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(scratch_of(k, w, x, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(project(k, w, x, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* One image: rows is its joined tokens and is freed. */
static double *reference(const projector_case *k, const weights *w, double *rows, size_t n)
{
    const vtc_shuffle_projector_params *p = &k->params;

    if (k->model == INTERNVL)
        return apply_norm_mlp(&w->internvl, p->norm, (double)p->eps, p->act, rows, n);
    if (k->model == IDEFICS3)
        return apply_linear(&w->idefics3.proj, rows, n);
    rows = apply_linear(&w->llama4.fc1, rows, n);
    apply_activation(p->act, rows, n * w->llama4.fc1.weight.dim[0]);
    rows = apply_linear(&w->llama4.fc2, rows, n);
    apply_activation(p->act, rows, n * w->llama4.fc2.weight.dim[0]);
    return k->adapter_only ? rows : apply_linear(&w->llama4.linear_1, rows, n);
}

static void assert_projected(const projector_case *k, const weights *w, const vtc_tensor *x,
                             const vtc_tensor *y)
{
    const size_t n = y->dim[y->rank - 2], per_image = n * k->d;
    const size_t first = k->params.class_token == VTC_CLASS_TOKEN_FIRST;
    double *from = values_of(x), *want = values_of(y);

    for (size_t b = 0; b < (k->n_batch != 0 ? k->n_batch : 1); b++) {
        const double *image = from + (b * (n_tokens(k) + n_class(k)) + first) * k->c;
        double *rows = joined(image, k->params.grid_h, k->params.grid_w, k->c, k->params.down,
                              k->params.version == VTC_SHUFFLE_V1, false);

        rows = reference(k, w, rows, n);
        memcpy(want + b * per_image, rows, per_image * sizeof(*rows));
        free(rows);
    }
    assert_tensor_near(y, want, 2e-5);
    free(from);
    free(want);
}

static void check_case(const projector_case *k, uint64_t *seed, size_t n_workers)
{
    const vtc_tensor x = make_input(seed, k);
    weights w = make_weights(seed, k);
    const vtc_tensor y = projected(k, &w, &x, n_workers);

    assert_projected(k, &w, &x, &y);
    free_weights(&w);
    guard_free(x.data);
    guard_free(y.data);
}

static projector_case random_case(uint64_t *seed, enum model model)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    const size_t r = 1 + rng_below(seed, 4);
    projector_case k = make_case(model, r * (1 + rng_below(seed, 4)), r * (1 + rng_below(seed, 4)),
                                 r, 4 + rng_below(seed, 9), 1 + rng_below(seed, 20));

    k.params.version = (vtc_shuffle_version)rng_below(seed, 2);
    k.params.class_token = (vtc_class_token)rng_below(seed, 3);
    k.params.act = (vtc_activation)rng_below(seed, VTC_ACT_RELU2 + 1);
    k.n_batch = rng_below(seed, 4);
    k.n_norm = rng_below(seed, 3) == 0 ? 0 : rng_below(seed, 2) ? k.c : k.n_norm;
    k.bias = rng_below(seed, 2) != 0;
    k.params.norm = k.bias ? VTC_NORM_LAYER : VTC_NORM_RMS;
    k.adapter_only = rng_below(seed, 3) == 0;
    k.from = dtypes[rng_below(seed, 3)];
    k.stored = dtypes[rng_below(seed, 3)];
    k.to = dtypes[rng_below(seed, 3)];
    k.gap = rng_below(seed, 3);
    return k;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_grid_version_class_token_and_dtype_matches_the_reference(void **state)
{
    uint64_t seed = 91;

    (void)state;
    for (int i = 0; i < 450; i++) {
        const projector_case k = random_case(&seed, (enum model)(i % N_MODELS));

        check_case(&k, &seed, rng_below(&seed, 6));
    }
}

static void tiles_of_several_blocks_match_the_reference(void **state)
{
    uint64_t seed = 92;

    (void)state;
    for (int model = 0; model < N_MODELS; model++) {
        projector_case k = make_case((enum model)model, 26, 26, 2, 3, 5);

        k.n_batch = 8; /* 1352 rows */
        check_case(&k, &seed, 2);
        k.params.version = VTC_SHUFFLE_V1;
        k.from = k.to = VTC_BF16;
        k.gap = 1;
        check_case(&k, &seed, 2);
    }
}

/* Projecting what vtc_pixel_shuffle() stored gives the same bits. */
static void the_stored_shuffle_gives_the_same_bits(void **state)
{
    vtc_pixel_shuffle_params shuffle = VTC_PIXEL_SHUFFLE_PARAMS_INIT;
    const vtc_mlp1_params params = VTC_MLP1_PARAMS_INIT;
    projector_case k = make_case(INTERNVL, 6, 4, 2, 7, 9);
    vtc_exec exec = test_exec(2);
    uint64_t seed = 93;

    (void)state;
    for (int version = 0; version < 2; version++) {
        k.params.version = shuffle.version = (vtc_shuffle_version)version;
        shuffle.grid_h = 6;
        shuffle.grid_w = 4;
        const vtc_tensor x = make_input(&seed, &k);
        weights w = make_weights(&seed, &k);
        const vtc_tensor want = projected(&k, &w, &x, 0);
        vtc_tensor tokens = x, stored = make_view(NULL, &k, VTC_F32, 6, 28), y = make_output(&k);

        tokens.data = (float *)x.data + 7;
        tokens.dim[1] = 24;
        assert_int_equal(vtc_pixel_shuffle(&shuffle, &tokens, &stored, NULL), VTC_OK);
        exec_scratch(&exec, 1 << 16);
        assert_int_equal(vtc_mlp1(&params, &w.internvl, &stored, &y, &exec), VTC_OK);
        assert_same_bits(&y, &want);
        exec_scratch_free(&exec);
        free_weights(&w);
        guard_free(x.data);
        guard_free(stored.data);
        guard_free(y.data);
        guard_free(want.data);
    }
}

static void the_class_token_is_not_read(void **state)
{
    uint64_t seed = 94;

    (void)state;
    for (int i = 0; i < 6; i++) {
        projector_case k = make_case((enum model)(i % N_MODELS), 4, 4, 2, 5, 6);

        k.params.class_token = i < 3 ? VTC_CLASS_TOKEN_FIRST : VTC_CLASS_TOKEN_LAST;
        const vtc_tensor x = make_input(&seed, &k);
        weights w = make_weights(&seed, &k);
        const vtc_tensor want = projected(&k, &w, &x, 0);

        guard_writable(x.data);
        for (size_t at = 0; at < n_elements(&x); at++)
            if (at / 5 % 17 == (i < 3 ? 0 : 16))
                ((float *)x.data)[at] = NAN;
        const vtc_tensor y = projected(&k, &w, &x, 0);

        assert_same_bits(&y, &want);
        free_weights(&w);
        guard_free(x.data);
        guard_free(y.data);
        guard_free(want.data);
    }
}

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 95;

    (void)state;
    for (int i = 0; i < 45; i++) {
        const projector_case k = random_case(&seed, (enum model)(i % N_MODELS));
        const vtc_tensor x = make_input(&seed, &k);
        weights w = make_weights(&seed, &k);
        const vtc_tensor want = projected(&k, &w, &x, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
            const vtc_tensor got = projected(&k, &w, &x, n_workers);

            assert_same_bits(&got, &want);
            guard_free(got.data);
        }
        free_weights(&w);
        guard_free(x.data);
        guard_free(want.data);
    }
}

static void no_images_are_fine(void **state)
{
    uint64_t seed = 96;

    (void)state;
    for (int model = 0; model < N_MODELS; model++) {
        projector_case k = make_case((enum model)model, 4, 4, 2, 5, 6);
        weights w = make_weights(&seed, &k);
        vtc_tensor x = vtc_f32_3d(NULL, 0, 16 + n_class(&k), 5), y = vtc_f32_3d(NULL, 0, 4, 6);

        assert_int_equal(project(&k, &w, &x, &y, NULL), VTC_OK);
        free_weights(&w);
    }
}

static void counts_are_those_of_the_models(void **state)
{
    vtc_shuffle_projector_params p = VTC_INTERNVL_PARAMS_INIT;
    size_t n;

    (void)state;
    p.grid_h = p.grid_w = 32;
    assert_int_equal(vtc_shuffle_projector_count(&p, &n, NULL), VTC_OK);
    assert_int_equal(n, 256);
    p.grid_h = p.grid_w = 27;
    p.down = 3;
    assert_int_equal(vtc_shuffle_projector_count(&p, &n, NULL), VTC_OK);
    assert_int_equal(n, 81);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(const projector_case *k, const weights *w, const vtc_tensor *x,
                           vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    size_t bytes = 77;
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log, project(k, w, x, &y, &exec), want, part);
    record_errors(&exec, &log);
    assert_failed(&log, scratch_of(k, w, x, &y, &exec, &bytes), want, part);
    assert_int_equal(bytes, 77);
    exec_scratch_free(&exec);
}

static void what_does_not_fit_is_refused(void **state)
{
    uint64_t seed = 97;

    (void)state;
    for (int model = 0; model < N_MODELS; model++) {
        const projector_case k = make_case((enum model)model, 4, 6, 2, 5, 6);
        projector_case bad = k;
        const vtc_tensor x = make_input(&seed, &k), y = make_output(&k);
        weights w = make_weights(&seed, &k);
        vtc_tensor view = y;

        bad.params.grid_h = 0;
        expect_refused(&bad, &w, &x, y, VTC_ERR_RANGE, "grid is 0x6");
        bad.params.grid_h = 5;
        expect_refused(&bad, &w, &x, y, VTC_ERR_SHAPE, "grid 5x6 is not divisible by 2");
        bad.params.grid_h = 6;
        expect_refused(&bad, &w, &x, y, VTC_ERR_SHAPE, "grid 6x6 and");
        bad = k;
        bad.params.class_token = (vtc_class_token)3;
        expect_refused(&bad, &w, &x, y, VTC_ERR_RANGE, "class_token 3");
        bad = k;
        bad.params.version = (vtc_shuffle_version)2;
        expect_refused(&bad, &w, &x, y, VTC_ERR_RANGE, "version 2");
        bad = k;
        bad.params.down = 1;
        expect_refused(&bad, &w, &x, y, VTC_ERR_SHAPE, "layer 0: ");
        view.dim[1] = 5;
        expect_refused(&k, &w, &x, view, VTC_ERR_SHAPE, "y has 10 tokens, x gives 12");
        view = y;
        view.dim[2] = 5;
        expect_refused(&k, &w, &x, view, VTC_ERR_SHAPE, "y has 5 channels");
        assert_untouched(&y);
        free_weights(&w);
        guard_free(x.data);
        guard_free(y.data);
    }
}

static void missing_pointers_are_refused(void **state)
{
    const projector_case k = make_case(INTERNVL, 2, 2, 2, 1, 1);
    vtc_exec exec = test_exec(0);
    float memory[8] = { 0 };
    const vtc_tensor x = vtc_f32_2d(memory, 5, 1);
    vtc_tensor y = vtc_f32_2d(memory + 5, 1, 1);
    error_log log;
    size_t n;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_internvl_projector(&k.params, NULL, &x, &y, &exec), VTC_ERR_NULL,
                  "weights");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_idefics3_projector(&k.params, NULL, &x, &y, &exec), VTC_ERR_NULL,
                  "weights");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_llama4_projector(&k.params, NULL, &x, &y, &exec), VTC_ERR_NULL,
                  "weights");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_shuffle_projector_count(&k.params, NULL, &exec), VTC_ERR_NULL,
                  "n_tokens");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_shuffle_projector_count(NULL, &n, &exec), VTC_ERR_RANGE, "grid is 0x0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grid_version_class_token_and_dtype_matches_the_reference),
        cmocka_unit_test(tiles_of_several_blocks_match_the_reference),
        cmocka_unit_test(the_stored_shuffle_gives_the_same_bits),
        cmocka_unit_test(the_class_token_is_not_read),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(no_images_are_fine),
        cmocka_unit_test(counts_are_those_of_the_models),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(missing_pointers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
