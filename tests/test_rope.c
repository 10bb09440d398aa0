/* Rotary position embedding. */
#include "../src/linalg/rope.h"

#include "reference/hyper_reference.h"
#include "support/support.h"

#include <math.h>

static void any_position_matches_the_definition(void **state)
{
    static const int32_t positions[] = { 0, 1, 7, 576, 32767, 1000000 };
    uint64_t seed = 971;

    (void)state;
    for (size_t d = 2; d <= 130; d += d < 20 ? 2 : 22)
        for (int i = 0; i < 6; i++) {
            const float theta = i % 2 == 0 ? 1e4f : 1e6f;
            float x[3 * 130], angle[130], frequency[65];
            double want[3 * 130];

            rng_fill(&seed, x, 3 * d);
            for (size_t c = 0; c < 3 * d; c++)
                want[c] = x[c];
            vtci_rope_frequencies(frequency, d, theta);
            vtci_rope_angles(angle, frequency, d, positions[i]);
            vtci_rope_rotate(x, 3, d, angle);
            for (size_t h = 0; h < 3; h++)
                ref_rotate(want + h * d, d, theta, positions[i]);
            for (size_t c = 0; c < 3 * d; c++)
                assert_true(close_to(x[c], want[c], 1e-6, 0.0));
        }
}

static void position_zero_changes_nothing(void **state)
{
    float x[] = { 1.0f, 2.0f, 3.0f, 4.0f }, angle[4], frequency[2];

    (void)state;
    vtci_rope_frequencies(frequency, 4, 1e4f);
    vtci_rope_angles(angle, frequency, 4, 0);
    vtci_rope_rotate(x, 1, 4, angle);
    for (int i = 0; i < 4; i++)
        assert_true(x[i] == (float)(i + 1));
}

static void products_depend_on_the_distance_alone(void **state)
{
    float frequency[4], angle[8];
    double product[2] = { 0.0, 0.0 };
    uint64_t seed = 972;

    (void)state;
    vtci_rope_frequencies(frequency, 8, 1e4f);
    for (int i = 0; i < 2; i++) {
        float q[8], k[8];
        uint64_t same = seed;

        rng_fill(&same, q, 8);
        rng_fill(&same, k, 8);
        vtci_rope_angles(angle, frequency, 8, i == 0 ? 5 : 105);
        vtci_rope_rotate(q, 1, 8, angle);
        vtci_rope_angles(angle, frequency, 8, i == 0 ? 2 : 102);
        vtci_rope_rotate(k, 1, 8, angle);
        for (int c = 0; c < 8; c++)
            product[i] += (double)q[c] * k[c];
    }
    assert_true(fabs(product[0] - product[1]) < 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_position_matches_the_definition),
        cmocka_unit_test(position_zero_changes_nothing),
        cmocka_unit_test(products_depend_on_the_distance_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
