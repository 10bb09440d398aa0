/* The tool's tokens from pixels, its stand-in salience, and what it measures. */
#include "../examples/vtc/descriptor.h"
#include "../examples/vtc/measure.h"
#include "../examples/vtc/salience.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

/* ---- descriptors ----------------------------------------------------------------------------- */

static void fill_patch(float *patch, float r, float g, float b)
{
    for (size_t i = 0; i < PATCH_PIXELS; i++) {
        patch[i] = r;
        patch[PATCH_PIXELS + i] = g;
        patch[2 * PATCH_PIXELS + i] = b;
    }
}

static void assert_token(const float *token, const float *want, size_t n_want)
{
    for (size_t c = 0; c < DESCRIPTOR_WIDTH; c++)
        assert_true(close_to(token[c], c < n_want ? want[c] : 0.0f, 1e-5, 0.0));
}

static void flat_patches_have_only_means(void **state)
{
    static const float black[] = { 0.5f, -0.5f }, white[] = { 0.5f, 0.5f };
    /* pure blue: Y 0.114, Cb 0.5, Cr (0 - 0.114) / 1.402 */
    static const float blue[17] = {
        [0] = 0.5f, [1] = 0.114f - 0.5f, [11] = 2.0f * 0.5f, [14] = -2.0f * 0.114f / 1.402f
    };
    float patches[3 * PATCH_VALUES], tokens[3 * DESCRIPTOR_WIDTH];

    (void)state;
    fill_patch(patches, 0, 0, 0);
    fill_patch(patches + PATCH_VALUES, 1, 1, 1);
    fill_patch(patches + 2 * PATCH_VALUES, 0, 0, 1);
    describe_patches(patches, 3, tokens);
    assert_token(tokens, black, 2);
    assert_token(tokens + DESCRIPTOR_WIDTH, white, 2);
    assert_token(tokens + 2 * DESCRIPTOR_WIDTH, blue, 17);
}

/* A ramp of 0.01 per pixel along x (direction 0) or y (direction 4 of 8) */
static void ramps_fill_one_direction(void **state)
{
    float patches[2 * PATCH_VALUES], tokens[2 * DESCRIPTOR_WIDTH];
    /* half differences: 0.01 inside, 0.005 in the two outer lines, which have one neighbour */
    const double want = 2.0 * (12 * 0.01 + 2 * 0.005) / 14;

    (void)state;
    for (size_t i = 0; i < PATCH_VALUES; i++) {
        patches[i] = 0.01f * (float)(i % PATCH_SIDE);
        patches[PATCH_VALUES + i] = 0.01f * (float)(i % PATCH_PIXELS / PATCH_SIDE);
    }
    describe_patches(patches, 2, tokens);
    for (size_t d = 0; d < 8; d++) {
        assert_true(close_to(tokens[17 + d], d == 0 ? want : 0.0, 1e-6, 1e-5));
        assert_true(close_to(tokens[DESCRIPTOR_WIDTH + 17 + d], d == 4 ? want : 0.0, 1e-6, 1e-5));
    }
}

static void a_token_depends_on_its_own_patch_alone(void **state)
{
    float patches[2 * PATCH_VALUES], tokens[2 * DESCRIPTOR_WIDTH], alone[DESCRIPTOR_WIDTH];
    uint64_t seed = 5;

    (void)state;
    rng_fill(&seed, patches, 2 * PATCH_VALUES);
    describe_patches(patches, 2, tokens);
    describe_patches(patches + PATCH_VALUES, 1, alone);
    assert_memory_equal(tokens + DESCRIPTOR_WIDTH, alone, sizeof(alone));
}

static void joined_patches_are_the_picture(void **state)
{
    float planes[6 * PATCH_VALUES], patches[6 * PATCH_VALUES], again[6 * PATCH_VALUES];
    uint64_t seed = 6;

    (void)state;
    rng_fill(&seed, planes, 6 * PATCH_VALUES);
    cut_patches(planes, 2, 3, patches);
    /* second value of the second row of patch (1, 2), green */
    assert_true(patches[5 * PATCH_VALUES + PATCH_PIXELS + 15] ==
                planes[28 * 42 + (14 + 1) * 42 + 28 + 1]);
    join_patches(patches, 2, 3, again);
    assert_memory_equal(again, planes, sizeof(planes));
}

/* ---- salience -------------------------------------------------------------------------------- */

static void equal_patches_share_salience(void **state)
{
    const float tokens[] = { 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1 };
    float salience[6];

    (void)state;
    centre_surround(tokens, 2, 3, 2, salience);
    for (size_t n = 0; n < 6; n++)
        assert_true(salience[n] == 1.0f / 6.0f);
}

static void the_odd_patch_out_is_the_most_salient(void **state)
{
    float tokens[49] = { 0 }, salience[49];
    double sum = 0.0;

    (void)state;
    tokens[3 * 7 + 3] = 1.0f;
    centre_surround(tokens, 7, 7, 1, salience);
    for (size_t n = 0; n < 49; n++) {
        const size_t y = n / 7, x = n % 7;
        const bool near = y >= 1 && y <= 5 && x >= 1 && x <= 5;

        assert_true(n == 24 || salience[n] < salience[24]);
        assert_true(near ? salience[n] > 0.0f : salience[n] == 0.0f);
        sum += salience[n];
    }
    assert_true(close_to(sum, 1.0, 1e-5, 0.0));
}

static void one_patch_has_all_salience(void **state)
{
    const float token[] = { 3, 4 };
    float salience[1];

    (void)state;
    centre_surround(token, 1, 1, 2, salience);
    assert_true(salience[0] == 1.0f);
}

/* ---- figures --------------------------------------------------------------------------------- */

static void nearest_output_skips_padding_and_ties_go_to_the_lower(void **state)
{
    const float x[] = { 3, 0, 0, 2, -1, -1 };
    const float y[] = { 0, 0, 5, 5, 1, 0, 2, 0 };
    struct tool tool = { VTC_EXEC_INIT, "" };
    int32_t nearest[3];
    float cosine[3];

    (void)state;
    assert_true(find_nearest_outputs(&tool, x, 3, y, 4, 2, nearest, cosine));
    assert_int_equal(nearest[0], 2);
    assert_true(close_to(cosine[0], 1.0, 1e-6, 0.0));
    assert_int_equal(nearest[1], 1);
    assert_true(close_to(cosine[1], sqrt(0.5), 1e-6, 0.0));
    assert_int_equal(nearest[2], 2);
    assert_true(close_to(cosine[2], -sqrt(0.5), 1e-6, 0.0));
}

static void only_padding_gives_cosine_zero(void **state)
{
    const float x[] = { 3, 0 }, y[] = { 0, 0 };
    struct tool tool = { VTC_EXEC_INIT, "" };
    int32_t nearest[1];
    float cosine[1];

    (void)state;
    assert_true(find_nearest_outputs(&tool, x, 1, y, 1, 2, nearest, cosine));
    assert_true(cosine[0] == 0.0f);
}

static void statistics_are_as_documented(void **state)
{
    const double values[] = { 1, 2, 3, 6 };
    const float a[] = { 0, 0.5f, 1, 1 }, b[] = { 0, 0.5f, 1, 0.8f };
    float many[40];

    (void)state;
    for (int i = 0; i < 40; i++)
        many[i] = (float)((i * 7) % 40);
    assert_true(mean_of(values, 4) == 3.0);
    assert_true(close_to(spread_of(values, 4), sqrt(14.0 / 3.0), 1e-12, 0.0));
    assert_true(spread_of(values, 1) == 0.0);
    assert_true(quantile_of(many, 40, 0.05) == 2.0);
    assert_true(close_to(psnr_of(a, b, 4), 20.0, 1e-5, 0.0)); /* mean square 0.01 */
    assert_true(isinf(psnr_of(a, a, 4)));
}

static void cost_is_that_of_the_published_table(void **state)
{
    struct tool tool = { VTC_EXEC_INIT, "" };
    struct model_cost cost;

    (void)state;
    assert_true(measure_cost(&tool, 576, &cost));
    assert_true(close_to(cost.tera_flops, 8.45, 0.005, 0.0));
    assert_true(close_to(cost.kv_megabytes, 576 * 0.524288, 1e-9, 0.0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flat_patches_have_only_means),
        cmocka_unit_test(ramps_fill_one_direction),
        cmocka_unit_test(a_token_depends_on_its_own_patch_alone),
        cmocka_unit_test(joined_patches_are_the_picture),
        cmocka_unit_test(equal_patches_share_salience),
        cmocka_unit_test(the_odd_patch_out_is_the_most_salient),
        cmocka_unit_test(one_patch_has_all_salience),
        cmocka_unit_test(nearest_output_skips_padding_and_ties_go_to_the_lower),
        cmocka_unit_test(only_padding_gives_cosine_zero),
        cmocka_unit_test(statistics_are_as_documented),
        cmocka_unit_test(cost_is_that_of_the_published_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
