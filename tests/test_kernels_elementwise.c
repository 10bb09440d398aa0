/* Every table's row sums, row products and depthwise combination, against loops in double. */
#include "kernel_tables.h"

enum { MAX_TAPS = 9 };

static float x[MAX_TAPS][MAX_LENGTH], w[MAX_TAPS][MAX_LENGTH];
static const float *rows[MAX_TAPS], *taps[MAX_TAPS];

static void fill_rows(uint64_t *seed, size_t n)
{
    for (size_t r = 0; r < MAX_TAPS; r++) {
        rng_fill(seed, x[r], n);
        rng_fill(seed, w[r], n);
        rows[r] = x[r];
        taps[r] = w[r];
    }
}

/* ---- add and multiply ------------------------------------------------------------------------ */

static void add_and_multiply_round_once(const vtci_kernels *k)
{
    static float sum[MAX_LENGTH], product[MAX_LENGTH], y[MAX_LENGTH];
    uint64_t seed = 1;

    for (size_t i = 0; i < N_LENGTHS; i++) {
        const size_t n = length_at(i), bytes = n * sizeof(float);

        fill_rows(&seed, n);
        for (size_t j = 0; j < n; j++) {
            sum[j] = x[0][j] + w[0][j];
            product[j] = x[0][j] * w[0][j];
        }
        k->add(y, x[0], w[0], n);
        assert_memory_equal(y, sum, bytes);
        k->multiply(y, x[0], w[0], n);
        assert_memory_equal(y, product, bytes);

        memcpy(y, x[0], bytes);
        k->add(y, y, w[0], n); /* in place, on either side */
        assert_memory_equal(y, sum, bytes);
        k->multiply(w[0], x[0], w[0], n);
        assert_memory_equal(w[0], product, bytes);
    }
}

/* ---- a weight for each element --------------------------------------------------------------- */

static void check_combine_at(const vtci_kernels *k, size_t n_rows, size_t n, const float *bias)
{
    static float y[MAX_LENGTH];

    k->combine_each(y, rows, taps, bias, n_rows, n);
    for (size_t i = 0; i < n; i++) {
        double want = bias == NULL ? 0.0 : bias[i], magnitude = fabs(want);

        for (size_t r = 0; r < n_rows; r++) {
            want += (double)x[r][i] * w[r][i];
            magnitude += fabs((double)x[r][i] * w[r][i]);
        }
        if (!(fabs(y[i] - want) <= (double)(2 * n_rows) * UNIT * magnitude))
            fail_msg("%s: %zu rows of %zu: [%zu] is %g, not %g", k->name, n_rows, n, i,
                     (double)y[i], want);
    }
}

static void combine_each_is_the_sum_of_products(const vtci_kernels *k)
{
    static float bias[MAX_LENGTH];
    uint64_t seed = 2;

    for (size_t i = 0; i < N_LENGTHS; i++)
        for (size_t n_rows = 0; n_rows <= MAX_TAPS; n_rows += n_rows < 6 ? 2 : 3) {
            fill_rows(&seed, length_at(i));
            rng_fill(&seed, bias, length_at(i));
            check_combine_at(k, n_rows, length_at(i), NULL);
            check_combine_at(k, n_rows, length_at(i), bias);
        }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void run_guarded(const vtci_kernels *k, size_t n, void *(*alloc)(size_t bytes))
{
    float *in = alloc(n * sizeof(float)), *out = alloc(n * sizeof(float));
    const float *two[2] = { in, in };

    guard_readonly(in);
    k->add(out, in, in, n);
    k->multiply(out, in, in, n);
    k->combine_each(out, two, two, in, 2, n);
    k->combine_each(out, two, two, NULL, 2, n);
    guard_free(in);
    guard_free(out);
}

static void no_kernel_leaves_its_rows(const vtci_kernels *k)
{
    for (size_t n = 0; n < 140; n++) {
        run_guarded(k, n, guard_alloc);
        run_guarded(k, n, guard_alloc_front);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_table(add_and_multiply_round_once),
        on_every_table(combine_each_is_the_sum_of_products),
        on_every_table(no_kernel_leaves_its_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
