/* Products of rows with rows, on every table of row kernels. */
#include "kernel_tables.h"

#include <stdlib.h>

/* Rows of n_segments pieces of n floats, `step` apart, each row ending at unreadable memory. */
struct dots {
    size_t n_segments, n, x_step, z_step;
    float *x[8], *z[19];
    float y[8 * 20];
};

static void open_dots(struct dots *d, uint64_t *seed, size_t n_segments, size_t n)
{
    d->n_segments = n_segments;
    d->n = n;
    d->x_step = n + rng_below(seed, 3);
    d->z_step = n + rng_below(seed, 3);
    for (size_t r = 0; r < 8 + 19; r++) {
        const size_t step = r < 8 ? d->x_step : d->z_step;
        const size_t length = n_segments == 0 ? 0 : (n_segments - 1) * step + n;
        float *row = guard_alloc(length * sizeof(*row));

        rng_fill(seed, row, length);
        if (r < 8)
            d->x[r] = row;
        else
            d->z[r - 8] = row;
    }
    /* equal rows at different places of a tile */
    memcpy(d->z[17], d->z[2], n_segments == 0 ? 0 : ((n_segments - 1) * d->z_step + n) * 4);
}

static void close_dots(struct dots *d)
{
    for (size_t r = 0; r < 8; r++)
        guard_free(d->x[r]);
    for (size_t r = 0; r < 19; r++)
        guard_free(d->z[r]);
}

static void check_dots_of(const vtci_kernels *k, struct dots *d, size_t n_x, size_t n_z)
{
    memset(d->y, 0xff, sizeof(d->y));
    k->dots(d->y, 20, (const float *const *)d->x, n_x, d->x_step, (const float *const *)d->z, n_z,
            d->z_step, d->n_segments, d->n);
    for (size_t a = 0; a < 8; a++)
        for (size_t b = 0; b < 20; b++) {
            const float got = d->y[a * 20 + b];
            double want = 0.0, magnitude = 0.0;

            if (a >= n_x || b >= n_z) {
                assert_int_equal(bits_of(got), 0xffffffffu);
                continue;
            }
            for (size_t s = 0; s < d->n_segments; s++)
                for (size_t i = 0; i < d->n; i++) {
                    const double product =
                        (double)d->x[a][s * d->x_step + i] * d->z[b][s * d->z_step + i];

                    want += product;
                    magnitude += fabs(product);
                }
            /* each of at least 4 lanes rounds at every vector, then they are added up */
            assert_true(fabs(got - want) <=
                        ((double)(d->n_segments * (d->n / 4 + 1)) + 4) * UNIT * magnitude);
            if (n_z > 17)
                assert_true(same_value(d->y[a * 20 + 2], d->y[a * 20 + 17]));
        }
}

static void check_dots_bits(const vtci_kernels *k, struct dots *d)
{
    float alone;

    check_dots_of(k, d, 8, 19);
    for (size_t a = 0; a < 8; a++)
        for (size_t b = 0; b < 19; b++) {
            k->dots(&alone, 1, (const float *const *)d->x + a, 1, d->x_step,
                    (const float *const *)d->z + b, 1, d->z_step, d->n_segments, d->n);
            assert_true(same_value(alone, d->y[a * 20 + b]));
        }
}

static void dots_are_near_the_double_sums_wherever_a_pair_stands(const vtci_kernels *k)
{
    uint64_t seed = 20;

    for (size_t n = 0; n < 40; n++)
        for (size_t n_segments = 0; n_segments < 4; n_segments++) {
            struct dots d;

            open_dots(&d, &seed, n_segments, n);
            check_dots_of(k, &d, rng_below(&seed, 9), rng_below(&seed, 20));
            check_dots_of(k, &d, 1, 19);
            check_dots_of(k, &d, 0, 19);
            check_dots_of(k, &d, 8, 0);
            check_dots_bits(k, &d);
            close_dots(&d);
        }
}

/* ---- rows measured --------------------------------------------------------------------------- */

static void check_sum(float got, const float *x, const float *y, size_t n)
{
    double want = 0.0, magnitude = 0.0;

    for (size_t i = 0; i < n; i++) {
        want += (double)x[i] * y[i];
        magnitude += fabs((double)x[i] * y[i]);
    }
    assert_true(fabs(got - want) <= ((double)(n / 4 + 1) + 4) * UNIT * magnitude);
}

static void check_measured(const vtci_kernels *k, uint64_t *seed, size_t n_rows, size_t n, bool own,
                           bool wants_top)
{
    const size_t n_own = own ? n_rows : 0, n_out = n_own + wants_top;
    float *x[VTCI_MEASURED], *y = guard_alloc(n * sizeof(*y)), alone, square_alone;
    float *top = guard_alloc(n * sizeof(*top));
    float *dot = guard_alloc(n_out * sizeof(*dot)), *square = guard_alloc(n_out * sizeof(*square));

    rng_fill(seed, y, n);
    guard_readonly(y);
    for (size_t r = 0; r < n_rows; r++) {
        x[r] = guard_alloc(n * sizeof(**x));
        rng_fill(seed, x[r], n);
        guard_readonly(x[r]);
    }
    poison(top, n * sizeof(*top));
    k->measure_rows(dot, square, wants_top ? top : NULL, (const float *const *)x, n_rows, own, y,
                    n);
    for (size_t i = 0; wants_top && i < n; i++) {
        float largest = x[0][i];

        for (size_t r = 1; r < n_rows; r++)
            largest = x[r][i] > largest ? x[r][i] : largest;
        assert_true(top[i] == largest);
    }
    for (size_t r = 0; r < n_out; r++) {
        const float *row = r < n_own ? x[r] : top;

        check_sum(dot[r], row, y, n);
        check_sum(square[r], row, row, n);
        k->measure_rows(&alone, &square_alone, NULL, &row, 1, 1, y, n);
        assert_true(same_value(alone, dot[r]) && same_value(square_alone, square[r]));
    }
    for (size_t r = 0; r < n_rows; r++)
        guard_free(x[r]);
    guard_free(y);
    guard_free(top);
    guard_free(dot);
    guard_free(square);
}

static void rows_measured_together_have_the_bits_of_each_alone(const vtci_kernels *k)
{
    uint64_t seed = 9;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t n_rows = 0; n_rows <= VTCI_MEASURED; n_rows++) {
            check_measured(k, &seed, n_rows, length_at(i), true, false);
            check_measured(k, &seed, n_rows, length_at(i), true, n_rows != 0);
            check_measured(k, &seed, n_rows, length_at(i), false, n_rows != 0);
        }
}

static void a_nan_makes_the_square_of_its_row_nan(const vtci_kernels *k)
{
    float x[4][37] = { { 0 } }, top[37], dot[5], square[5];
    const float *const rows[] = { x[0], x[1], x[2], x[3] };

    x[1][20] = NAN;
    k->measure_rows(dot, square, top, rows, 4, 1, x[0], 37);
    for (int r = 0; r < 4; r++)
        assert_true(isnan(square[r]) == (r == 1));
}

/* ---- one row with each of many --------------------------------------------------------------- */

enum { MOST_ROWS = 11 };

/* Rows `stride` apart that end at unreadable memory. */
static void check_dot_rows(const vtci_kernels *k, uint64_t *seed, size_t n_rows, size_t n)
{
    const size_t stride = n + rng_below(seed, 3);
    const size_t n_z = n_rows == 0 ? 0 : (n_rows - 1) * stride + n;
    float *x = guard_alloc(n * sizeof(*x)), *z = guard_alloc(n_z * sizeof(*z));
    float *y = guard_alloc(n_rows * sizeof(*y));

    rng_fill(seed, x, n);
    rng_fill(seed, z, n_z);
    if (n_rows > 6)
        memcpy(z + 6 * stride, z + stride, n * sizeof(*z)); /* equal rows at different places */
    guard_readonly(x);
    guard_readonly(z);
    poison(y, n_rows * sizeof(*y));
    k->dot_rows(y, x, z, stride, n_rows, n);
    for (size_t r = 0; r < n_rows; r++) {
        double want = 0.0, magnitude = 0.0;
        float alone;

        for (size_t i = 0; i < n; i++) {
            want += (double)x[i] * z[r * stride + i];
            magnitude += fabs((double)x[i] * z[r * stride + i]);
        }
        assert_true(fabs(y[r] - want) <= ((double)(n / 4 + 1) + 4) * UNIT * magnitude);
        k->dot_rows(&alone, x, z + r * stride, 0, 1, n);
        assert_true(same_value(alone, y[r]));
    }
    if (n_rows > 6)
        assert_true(same_value(y[1], y[6]));
    guard_free(x);
    guard_free(z);
    guard_free(y);
}

static void one_row_with_each_of_many_gives_the_same_bits_at_any_place(const vtci_kernels *k)
{
    uint64_t seed = 7;

    for (size_t n_rows = 0; n_rows <= MOST_ROWS; n_rows++)
        for (size_t i = 0; i < N_LENGTHS; i++)
            check_dot_rows(k, &seed, n_rows, length_at(i));
}

/* ---- the rows of all heads ------------------------------------------------------------------- */

struct heads {
    vtci_shared_heads h;
    size_t n_rows, n_queries, y_stride;
    float *x, *z, *y, *mean;
};

/* All arrays end at memory that must not be touched; rows 1 and 6 of every head are equal. */
static void open_heads(struct heads *s, uint64_t *seed, size_t n_groups, size_t n_shared,
                       size_t n_rows, size_t n)
{
    const size_t stride = n + rng_below(seed, 3), x_stride = n + rng_below(seed, 3);
    const size_t z_step = n_rows * stride + rng_below(seed, 5);
    const size_t n_z = n_rows == 0 ? 0 : (n_groups - 1) * z_step + (n_rows - 1) * stride + n;

    s->n_rows = n_rows;
    s->n_queries = n_groups * n_shared;
    s->y_stride = n_rows + rng_below(seed, 3);
    s->x = guard_alloc(((s->n_queries - 1) * x_stride + n) * sizeof(float));
    s->z = guard_alloc(n_z * sizeof(float));
    s->y = guard_alloc(s->n_queries * s->y_stride * sizeof(float));
    s->mean = guard_alloc(n_rows * n * sizeof(float));
    rng_fill(seed, s->x, (s->n_queries - 1) * x_stride + n);
    rng_fill(seed, s->z, n_z);
    for (size_t g = 0; n_rows > 6 && g < n_groups; g++)
        memcpy(s->z + g * z_step + 6 * stride, s->z + g * z_step + stride, n * sizeof(float));
    guard_readonly(s->x);
    guard_readonly(s->z);
    poison(s->y, s->n_queries * s->y_stride * sizeof(float));
    poison(s->mean, n_rows * n * sizeof(float));
    s->h = (vtci_shared_heads){ s->x, x_stride, s->z, z_step, stride, n_groups, n_shared, n };
}

static void check_head_products(const struct heads *s)
{
    const vtci_shared_heads *h = &s->h;

    for (size_t a = 0; a < s->n_queries; a++)
        for (size_t r = 0; r < s->n_rows; r++) {
            const float *x = h->x + a * h->x_stride;
            const float *z = h->z + a / h->n_shared * h->z_step + r * h->stride;
            double want = 0.0, magnitude = 0.0;

            for (size_t i = 0; i < h->n; i++) {
                want += (double)x[i] * z[i];
                magnitude += fabs((double)x[i] * z[i]);
            }
            assert_true(fabs(s->y[a * s->y_stride + r] - want) <=
                        ((double)(h->n / 4 + 1) + 5) * UNIT * magnitude);
        }
}

static void check_head_means(const struct heads *s)
{
    const vtci_shared_heads *h = &s->h;

    for (size_t r = 0; r < s->n_rows; r++)
        for (size_t i = 0; i < h->n; i++) {
            double sum = 0.0;

            for (size_t g = 0; g < h->n_groups; g++)
                sum += h->z[g * h->z_step + r * h->stride + i];
            assert_true(fabs(s->mean[r * h->n + i] - sum / (double)h->n_groups) <=
                        (double)(h->n_groups + 1) * UNIT);
        }
}

/* What is left between the rows of y, and the bits of rows at other places. */
static void check_head_places(const vtci_kernels *k, const struct heads *s)
{
    const size_t n = s->h.n;
    float *mean = malloc((n + 1) * sizeof(*mean)), *y = malloc(s->n_queries * sizeof(*y));

    for (size_t r = 0; r < s->n_rows; r++) {
        vtci_shared_heads one = s->h;

        one.z += r * one.stride;
        k->dot_heads(y, 1, mean, &one, 1);
        assert_memory_equal(mean, s->mean + r * n, n * sizeof(*mean));
        for (size_t a = 0; a < s->n_queries; a++)
            assert_true(same_value(y[a], s->y[a * s->y_stride + r]));
    }
    for (size_t a = 0; a < s->n_queries; a++) {
        for (size_t r = s->n_rows; r < s->y_stride; r++)
            assert_true(isnan(s->y[a * s->y_stride + r]));
        assert_true(s->n_rows <= 6 ||
                    same_value(s->y[a * s->y_stride + 1], s->y[a * s->y_stride + 6]));
    }
    free(mean);
    free(y);
}

static void products_and_means_of_heads_are_those_of_any_rows(const vtci_kernels *k)
{
    uint64_t seed = 8;

    for (size_t n_rows = 0; n_rows <= MOST_ROWS; n_rows++)
        for (size_t i = 0; i < N_LENGTHS; i++) {
            struct heads s;

            if (length_at(i) == 0)
                continue;
            open_heads(&s, &seed, 1 + rng_below(&seed, 5), 1 + rng_below(&seed, 3), n_rows,
                       length_at(i));
            k->dot_heads(s.y, s.y_stride, s.mean, &s.h, n_rows);
            check_head_products(&s);
            check_head_means(&s);
            check_head_places(k, &s);
            guard_free(s.x);
            guard_free(s.z);
            guard_free(s.y);
            guard_free(s.mean);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(dots_are_near_the_double_sums_wherever_a_pair_stands),
        on_every_table(rows_measured_together_have_the_bits_of_each_alone),
        on_every_table(a_nan_makes_the_square_of_its_row_nan),
        on_every_table(one_row_with_each_of_many_gives_the_same_bits_at_any_place),
        on_every_table(products_and_means_of_heads_are_those_of_any_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
