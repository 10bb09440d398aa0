/* Taps along an axis and cells of a grid of tiles. */
#include "support/tensors.h"

#include "../src/pool/window.h"

#include <math.h>

static void windows_step_by_the_stride(void **state)
{
    const vtci_axis axis = { VTCI_SAMPLE_WINDOWS, 11, 4, 3, 2 };

    (void)state;
    for (size_t i = 0; i < axis.n_out; i++) {
        const vtci_taps taps = vtci_axis_taps(&axis, i);

        assert_int_equal(taps.first, 2 * i);
        assert_int_equal(taps.count, 3);
        assert_true(taps.head == 1.0 / 3.0 && taps.tail == taps.head);
    }
}

static void adaptive_windows_cover_every_cell(void **state)
{
    (void)state;
    for (size_t n_in = 1; n_in < 20; n_in++)
        for (size_t n_out = 1; n_out < 20; n_out++) {
            const vtci_axis axis = { VTCI_SAMPLE_ADAPTIVE, n_in, n_out, 0, 0 };
            size_t covered = 0;

            for (size_t i = 0; i < n_out; i++) {
                const vtci_taps taps = vtci_axis_taps(&axis, i);

                assert_true(taps.first <= covered && taps.count >= 1);
                assert_true(fabs(taps.head * (double)taps.count - 1.0) < 1e-15);
                covered = taps.first + taps.count;
            }
            assert_int_equal(covered, n_in);
        }
}

/* The weighted mean of the cells' positions is the position asked for. */
static void bilinear_taps_meet_the_half_pixel_centre(void **state)
{
    (void)state;
    for (size_t n_in = 1; n_in < 30; n_in++)
        for (size_t n_out = 1; n_out < 30; n_out++)
            for (size_t i = 0; i < n_out; i++) {
                const vtci_axis axis = { VTCI_SAMPLE_BILINEAR, n_in, n_out, 0, 0 };
                const vtci_taps taps = vtci_axis_taps(&axis, i);
                const double scale = (double)n_in / (double)n_out;
                const double want =
                    fmin(fmax(((double)i + 0.5) * scale - 0.5, 0.0), (double)(n_in - 1));
                double got = (double)taps.first;

                if (taps.count == 2) {
                    assert_true(taps.head > 0.0 && taps.tail > 0.0);
                    assert_true(taps.head + taps.tail == 1.0);
                    got += taps.tail;
                }
                assert_in_range(taps.count, 1, 2);
                assert_true(taps.first + taps.count <= n_in);
                assert_true(fabs(got - want) < 1e-12);
            }
}

/* In double, 1.5 * (n / 3) - 0.5 is not whole for every odd n; the middle row is. */
static void a_position_on_a_cell_takes_that_cell_alone(void **state)
{
    (void)state;
    for (size_t n_in = 1; n_in < 2000; n_in += 2) {
        const vtci_axis axis = { VTCI_SAMPLE_BILINEAR, n_in, 3, 0, 0 };
        const vtci_taps taps = vtci_axis_taps(&axis, 1);

        assert_int_equal(taps.count, 1);
        assert_int_equal(taps.first, n_in / 2);
    }
}

static void positions_beyond_size_t_are_refused(void **state)
{
    const vtci_axis windows = { VTCI_SAMPLE_WINDOWS, SIZE_MAX, SIZE_MAX, 1, 1 };
    const vtci_axis bilinear = { VTCI_SAMPLE_BILINEAR, SIZE_MAX / 4, 3, 0, 0 };
    vtc_exec exec = test_exec(0);
    error_log log;
    vtci_call call;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtci_begin(&call, "test", &exec), VTC_OK);
    assert_int_equal(vtci_check_axis(&call, &windows), VTC_OK);
    assert_failed(&log, vtci_check_axis(&call, &bilinear), VTC_ERR_OVERFLOW, "to 3 overflows");
}

/* Tokens that hold their place on the canvas, read through an offset across the seams. */
static void cells_are_found_across_tiles(void **state)
{
    enum { TILES_H = 2, TILES_W = 3, H = 4, W = 5, ROWS = 6, COLS = 11, ROW0 = 1, COL0 = 3 };
    float x[TILES_H * TILES_W + 1][H * W], y[COLS];
    const vtc_tensor from = vtc_f32_3d(x[0], TILES_H * TILES_W + 1, H * W, 1);
    const vtc_tensor to = vtc_f32_2d(y, COLS, 1);
    const vtci_grid grid = { vtci_rows_of(&from), 1, H, W, TILES_W, ROW0, COL0 };
    const vtci_pooling copy = { vtci_axis_identity(ROWS), vtci_axis_identity(COLS), false };
    const vtci_rows rows = vtci_rows_of(&to);

    (void)state;
    for (int r = 0; r < TILES_H * H; r++)
        for (int c = 0; c < TILES_W * W; c++)
            x[1 + r / H * TILES_W + c / W][r % H * W + c % W] = (float)(100 * r + c);
    for (int r = 0; r < ROWS; r++) {
        vtci_pool_row(&grid, &copy, (size_t)r, &rows, 0, 0, NULL);
        for (int c = 0; c < COLS; c++)
            assert_true(y[c] == (float)(100 * (r + ROW0) + c + COL0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_step_by_the_stride),
        cmocka_unit_test(adaptive_windows_cover_every_cell),
        cmocka_unit_test(bilinear_taps_meet_the_half_pixel_centre),
        cmocka_unit_test(a_position_on_a_cell_takes_that_cell_alone),
        cmocka_unit_test(positions_beyond_size_t_are_refused),
        cmocka_unit_test(cells_are_found_across_tiles),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
