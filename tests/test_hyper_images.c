/* Keys and values of images. */
#include "reference/hyper_reference.h"
#include "support/hyper.h"
#include "support/models.h"

#include <stdlib.h>

static double cached(const vtc_tensor *t, size_t g, size_t row, size_t i)
{
    return get_element(t->data, t->dtype, g * t->stride[0] + row * t->stride[1] + i);
}

/* Against the definition, row by row: heads alternate keys and values. */
static void check_cache(const hyper_model *m, const hyper_text *t, double tolerance)
{
    const size_t n = t->images.dim[0] * t->images.dim[1], d = m->d, width = 2 * m->n_kv * d;
    const vtc_norm norm = { .weight = m->weights.input_layernorm };
    double *u = values_of(&t->images);

    apply_norm(&norm, VTC_NORM_RMS, m->params.eps, u, n * m->c);
    u = apply_linear(&m->weights.v_kv_proj, u, n);
    for (size_t row = 0; row < n; row++)
        for (size_t g = 0; g < m->n_kv; g++) {
            double *key = u + row * width + 2 * g * d;

            ref_rotate(key, d, m->params.rope_theta,
                       t->starts[row / t->images.dim[1]] + (m->variant != VTC_HYPER_FUSED));
            for (size_t i = 0; i < d; i++) {
                assert_true(close_to(cached(&t->sequence.visual.k, g, row, i), key[i], tolerance,
                                     tolerance));
                assert_true(close_to(cached(&t->sequence.visual.v, g, row, i), key[d + i],
                                     tolerance, tolerance));
            }
        }
    free(u);
}

static void any_images_match_the_definition(void **state)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    static const double tolerances[] = { 2e-5, 1e-3, 8e-3 };
    uint64_t seed = 921;

    (void)state;
    for (int i = 0; i < 60; i++) {
        const size_t cache = rng_below(&seed, 3), n = rng_below(&seed, 6);
        hyper_model m =
            make_hyper_model(seed, (vtc_hyper_variant)(1 + i % 3), 6, 3,
                             2 * (1 + rng_below(&seed, 5)), 1 + rng_below(&seed, 30), i % 2 == 0);
        hyper_text t = make_hyper_text(&seed, &m, 40, n, i % 10 == 0 ? 300 : rng_below(&seed, 9),
                                       dtypes[rng_below(&seed, 3)], dtypes[cache], i % 4 < 2);

        if (i % 5 == 0)
            prepare_hyper_model(&m);
        encode_hyper_images(&m, &t, 0, n, rng_below(&seed, 6));
        check_cache(&m, &t, tolerances[cache]);
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
}

static void a_far_image_is_rotated_as_in_float_arithmetic(void **state)
{
    uint64_t seed = 922;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_GATE, 4, 2, 16, 20, false);
    hyper_text t = make_hyper_text(&seed, &m, 40, 2, 5, VTC_F32, VTC_F32, true);

    (void)state;
    t.starts[0] = 32000;
    t.starts[1] = 1 << 20;
    encode_hyper_images(&m, &t, 0, 2, 2);
    check_cache(&m, &t, 2e-5);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

static void any_executor_gives_the_same_bits(void **state)
{
    vtc_tensor want = { 0 };

    (void)state;
    for (size_t n_workers = 0; n_workers <= 5; n_workers++) {
        uint64_t seed = 923;
        hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 4, 2, 40, 70, true);
        hyper_text t = make_hyper_text(&seed, &m, 40, 4, 200, VTC_F16, VTC_F32, true);
        vtc_tensor k = t.sequence.visual.k;

        encode_hyper_images(&m, &t, 0, 4, n_workers);
        if (n_workers == 0) {
            want = k;
            t.sequence.visual.k.data = NULL;
        } else {
            assert_same_bits(&k, &want);
        }
        free_hyper_text(&t);
        free_hyper_model(&m);
    }
    guard_free(want.data);
}

static void later_images_leave_earlier_ones_alone(void **state)
{
    uint64_t seed = 924;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 4, 2, 4, 10, false);
    hyper_text t = make_hyper_text(&seed, &m, 40, 3, 2, VTC_F32, VTC_F32, true);
    const vtc_tensor *k = &t.sequence.visual.k;
    const size_t image = 2 * k->stride[1] * sizeof(float);

    (void)state;
    encode_hyper_images(&m, &t, 1, 1, 1);
    assert_true(is_poisoned(k->data, image));
    assert_true(is_poisoned((const char *)k->data + 2 * image, image / 2));
    encode_hyper_images(&m, &t, 2, 1, 1);
    assert_true(is_poisoned(k->data, image));
    encode_hyper_images(&m, &t, 0, 1, 1);
    check_cache(&m, &t, 2e-5);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

static void expect_refused(const hyper_model *m, const hyper_text *t, const vtc_tensor *images,
                           size_t first, const int32_t *starts, vtc_status want, const char *part)
{
    vtc_hyper_kv visual = t->sequence.visual;
    vtc_exec exec = test_exec(0);
    error_log log;

    exec_scratch(&exec, 1 << 16);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_hyper_attention_encode_images(&m->params, &m->weights, NULL, images, starts,
                                                    first, &visual, &exec),
                  want, part);
    exec_scratch_free(&exec);
}

static void images_that_do_not_fit_are_refused(void **state)
{
    uint64_t seed = 925;
    hyper_model m = make_hyper_model(seed, VTC_HYPER_FUSED, 4, 2, 4, 10, false);
    hyper_text t = make_hyper_text(&seed, &m, 40, 3, 2, VTC_F32, VTC_F32, true);
    vtc_tensor images = t.images;

    (void)state;
    expect_refused(&m, &t, &images, 1, t.starts, VTC_ERR_ROOM, "visual.k has 6 rows, 8 are needed");
    expect_refused(&m, &t, &images, SIZE_MAX, t.starts, VTC_ERR_ROOM, "are needed");
    expect_refused(&m, &t, &images, 0, NULL, VTC_ERR_NULL, "media_starts");
    expect_refused(&m, &t, NULL, 0, t.starts, VTC_ERR_NULL, "images");
    images.dim[2] = 9;
    expect_refused(&m, &t, &images, 0, t.starts, VTC_ERR_SHAPE,
                   "images have 9 channels, the layer 10");
    images = t.images;
    images.dtype = VTC_I32;
    expect_refused(&m, &t, &images, 0, t.starts, VTC_ERR_DTYPE, "images has dtype I32");
    images = t.images;
    images.data = t.sequence.visual.v.data;
    expect_refused(&m, &t, &images, 0, t.starts, VTC_ERR_OVERLAP, "visual.v overlaps images");
    assert_untouched(&t.sequence.visual.k);
    assert_untouched(&t.sequence.visual.v);
    free_hyper_text(&t);
    free_hyper_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_images_match_the_definition),
        cmocka_unit_test(a_far_image_is_rotated_as_in_float_arithmetic),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(later_images_leave_earlier_ones_alone),
        cmocka_unit_test(images_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
