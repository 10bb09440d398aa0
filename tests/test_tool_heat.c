/* Heat maps of scores: what is drawn where, read back from the picture. */
#include "support/support.h"

#include "../examples/vtc/heat.h"

#include <math.h>
#include <string.h>

static double brightness(double share)
{
    double rgb[3];

    heat_colour(share, rgb);
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
}

/* In gray the map must read the same. */
static void a_higher_share_is_brighter(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_true(brightness((i + 1) / 100.0) > brightness(i / 100.0));
}

static void shares_out_of_range_are_the_ends(void **state)
{
    (void)state;
    assert_true(brightness(-3.0) == brightness(0.0));
    assert_true(brightness(1.5) == brightness(1.0));
    assert_true(brightness(INFINITY) == brightness(1.0));
    assert_true(brightness(NAN) == brightness(0.0)); /* never taken for the best */
}

enum { ROWS = 2, COLS = 3, CELL = 4 };

/* The green of each patch's centre; red, green and blue all rise but for the first step. */
static void draw(const float *score, int *green)
{
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, COLS * CELL, ROWS * CELL);
    cairo_t *cr = cairo_create(surface);
    struct tool tool;

    tool_start(&tool, 1);
    assert_true(draw_heat(&tool, cr, score, ROWS, COLS, 0, 0, COLS * CELL, ROWS * CELL));
    tool_end(&tool);
    cairo_surface_flush(surface);
    for (int n = 0; n < ROWS * COLS; n++) {
        const unsigned char *row =
            cairo_image_surface_get_data(surface) +
            (n / COLS * CELL + CELL / 2) * cairo_image_surface_get_stride(surface);
        uint32_t pixel;

        memcpy(&pixel, row + (n % COLS * CELL + CELL / 2) * 4, sizeof(pixel));
        green[n] = (int)(pixel >> 8 & 0xff);
    }
    cairo_destroy(cr);
    cairo_surface_destroy(surface);
}

static void scores_are_drawn_in_raster_order(void **state)
{
    const float score[ROWS * COLS] = { 0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f };
    int green[ROWS * COLS];

    (void)state;
    draw(score, green);
    for (int n = 1; n < ROWS * COLS; n++)
        assert_true(green[n] >= green[n - 1]);
    assert_true(green[ROWS * COLS - 1] > 200);
    assert_true(green[0] < 20);
}

/* Infinities do not stretch the scale, and a patch without a score is not the best. */
static void scores_that_are_no_numbers_do_not_set_the_scale(void **state)
{
    const float plain[] = { 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 1.0f };
    const float odd[] = { -INFINITY, INFINITY, 0.0f, 1.0f, NAN, 1.0f };
    int want[ROWS * COLS], got[ROWS * COLS];

    (void)state;
    draw(plain, want);
    draw(odd, got);
    for (int n = 0; n < ROWS * COLS; n++)
        assert_int_equal(got[n], want[n]);
}

static void equal_scores_are_drawn_in_the_middle(void **state)
{
    const float score[ROWS * COLS] = { 7.0f, 7.0f, 7.0f, 7.0f, 7.0f, 7.0f };
    double middle[3];
    int green[ROWS * COLS];

    (void)state;
    heat_colour(0.5, middle);
    draw(score, green);
    for (int n = 0; n < ROWS * COLS; n++)
        assert_true(fabs(green[n] - 255.0 * middle[1]) <= 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_higher_share_is_brighter),
        cmocka_unit_test(shares_out_of_range_are_the_ends),
        cmocka_unit_test(scores_are_drawn_in_raster_order),
        cmocka_unit_test(scores_that_are_no_numbers_do_not_set_the_scale),
        cmocka_unit_test(equal_scores_are_drawn_in_the_middle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
