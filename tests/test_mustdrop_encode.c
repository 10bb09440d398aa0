/* MustDrop's encode step: windows of alike tokens become one token. */
#include "mustdrop_encode_cases.h"

#include <math.h>
#include <stdlib.h>

/* ---- against the reference ------------------------------------------------------------------- */

static size_t count_over(const double *similarity, size_t n, double threshold)
{
    size_t count = 0;

    for (size_t w = 0; w < n; w++)
        count += similarity[w] >= threshold;
    return count;
}

/* Whether rounding could change a decision. */
static bool has_margin(const double *similarity, size_t n, double threshold)
{
    for (size_t w = 0; w < n; w++) {
        if (fabs(similarity[w] - threshold) < 1e-5)
            return false;
        for (size_t v = 0; v < w; v++)
            if (fabs(similarity[w] - similarity[v]) < 1e-5)
                return false;
    }
    return true;
}

static void assert_image(const merge *m, const result *r, size_t b, const double *similarity,
                         size_t n_merge)
{
    const vtc_plan *plan = &r->plan[b];
    const float *mass = m->mass == NULL ? NULL : m->mass + b * m->n_rows;
    mustdrop_merge want = mustdrop_merge_windows(&m->grid, similarity, n_merge, m->params.prefix,
                                                 m->params.raster_order != 0);
    double *total = calloc(want.n_out + 1, sizeof(*total));

    assert_int_equal(r->n_merged[b], n_merge);
    assert_int_equal(plan->n_out, want.n_out);
    assert_memory_equal(plan->fate, want.owner, m->n_rows * sizeof(int32_t));
    assert_memory_equal(plan->keep, want.keep, want.n_out * sizeof(int32_t));
    assert_memory_equal(r->windows + b * m->n_windows, want.windows, n_merge * sizeof(int32_t));
    for (size_t i = 0; i < m->n_rows; i++)
        total[want.owner[i]] += mass == NULL ? 1.0 : mass[i];
    for (size_t j = 0; j < want.n_out; j++) {
        assert_true(close_to(plan->mass[j], total[j], 0.0, 1e-6));
        for (int32_t e = plan->begin == NULL ? 0 : plan->begin[j];
             plan->begin != NULL && e < plan->begin[j + 1]; e++)
            assert_true(close_to(plan->weight[e],
                                 (mass == NULL ? 1.0 : mass[plan->source[e]]) / total[j], 0.0,
                                 1e-6));
    }
    free(total);
    mustdrop_merge_free(&want);
}

static void assert_score(const merge *m, const result *r, size_t b)
{
    const int32_t *unmerged = r->unmerged + b * m->grid.h * m->grid.w;
    const size_t across = m->n_windows == 0 ? 0 : m->grid.w / m->grid.win_w;
    size_t n_unmerged = 0;

    for (size_t i = 0; i < m->n_rows; i++) {
        const size_t cell = i - m->params.prefix; /* huge for the prefix */
        const size_t row = i < m->params.prefix ? 0 : cell / m->grid.w / m->grid.win_h;
        const size_t column = i < m->params.prefix ? 0 : cell % m->grid.w / m->grid.win_w;
        const bool inside =
            i >= m->params.prefix && column < across && row < m->grid.h / m->grid.win_h;

        assert_true(r->plan[b].score[i] ==
                    (inside ? r->similarity[b * m->n_windows + row * across + column] : -INFINITY));
        if (i >= m->params.prefix && r->plan[b].keep[r->plan[b].fate[i]] == (int32_t)i &&
            r->plan[b].mass[r->plan[b].fate[i]] ==
                (m->mass == NULL ? 1.0f : m->mass[b * m->n_rows + i]))
            assert_int_equal(unmerged[n_unmerged++], cell);
    }
    assert_int_equal(n_unmerged,
                     m->grid.h * m->grid.w - r->n_merged[b] * m->grid.win_h * m->grid.win_w);
}

static void check_merge(const merge *m)
{
    double *values = values_of(&m->hidden), similarity[MAX_IMAGES][64];
    const size_t c = m->hidden.dim[2];
    size_t n_merge[MAX_IMAGES], least = SIZE_MAX;

    for (size_t b = 0; b < m->n_images; b++) {
        const double threshold = m->params.threshold;

        mustdrop_similarity(&m->grid, values + (b * m->n_rows + m->params.prefix) * c, c,
                            similarity[b]);
        n_merge[b] = m->params.n_merge;
        if (m->params.n_merge == VTC_MUSTDROP_BY_RULE)
            n_merge[b] = count_over(similarity[b], m->n_windows, threshold);
        least = n_merge[b] < least ? n_merge[b] : least;
        if (!has_margin(similarity[b], m->n_windows, threshold)) {
            free(values);
            return;
        }
    }
    result r = run(m, 2);

    for (size_t b = 0; b < m->n_images; b++) {
        assert_image(m, &r, b, similarity[b], m->params.per_image ? n_merge[b] : least);
        assert_score(m, &r, b);
    }
    free_result(m, &r);
    free(values);
}

static mustdrop_grid random_grid(uint64_t *seed, bool ragged)
{
    mustdrop_grid g = { 0, 0, 1 + rng_below(seed, 3), 2 + rng_below(seed, 3) };

    g.h = g.win_h * rng_below(seed, 5) + (ragged ? rng_below(seed, g.win_h) : 0);
    g.w = g.win_w * rng_below(seed, 5) + (ragged ? rng_below(seed, g.win_w) : 0);
    return g;
}

static void random_batches_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 400; round++) {
        const mustdrop_grid g = random_grid(&seed, rng_below(&seed, 4) == 0);
        merge m = make_merge(&seed, &g, rng_below(&seed, MAX_IMAGES + 1), rng_below(&seed, 3),
                             2 + rng_below(&seed, 30), dtypes[round % 3]);

        m.params.raster_order = (int)rng_below(&seed, 2);
        m.params.per_image = (int)rng_below(&seed, 2);
        if (rng_below(&seed, 3) == 0)
            m.params.n_merge = rng_below(&seed, m.n_windows + 1);
        check_merge(&m);
        free_merge(&m);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void any_executor_gives_the_same_bits(void **state)
{
    const mustdrop_grid g = { 24, 24, 3, 3 };
    uint64_t seed = 2;
    merge m = make_merge(&seed, &g, 2, 1, 300, VTC_F16);
    result one;

    (void)state;
    m.params.n_merge = 20;
    one = run(&m, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        result many = run(&m, n_workers);

        assert_memory_equal(many.similarity, one.similarity, 128 * sizeof(float));
        for (size_t b = 0; b < 2; b++) {
            assert_memory_equal(many.plan[b].fate, one.plan[b].fate, 577 * sizeof(int32_t));
            assert_memory_equal(many.plan[b].weight, one.plan[b].weight, 577 * sizeof(float));
        }
        free_result(&m, &many);
    }
    free_result(&m, &one);
    free_merge(&m);
}

static void equal_windows_go_by_their_number_and_constants_stay(void **state)
{
    const mustdrop_grid g = { 4, 6, 2, 2 };
    const size_t dim[3] = { 1, 24, 3 };
    const float want[3] = { 1.0f, 2.0f, -3.0f };
    uint64_t seed = 3;
    merge m = make_merge(&seed, &g, 1, 0, 3, VTC_F32);
    vtc_tensor same = make_tensor(VTC_F32, 3, dim, 0);
    float merged[8 * 3 + 3 * 4 * 3];

    (void)state;
    guard_free(m.hidden.data);
    for (size_t i = 0; i < 72; i++)
        ((float *)same.data)[i] = want[i % 3];
    m.hidden = same;
    m.params.n_merge = 4;
    result r = run(&m, 1);
    const vtc_tensor x = vtc_f32_2d(same.data, 24, 3);
    vtc_tensor y = vtc_f32_2d(merged, r.plan[0].n_out, 3);

    assert_int_equal(r.plan[0].n_out, 12);
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(r.windows[i], i);
    assert_int_equal(vtc_plan_apply(&r.plan[0], &x, &y, NULL), VTC_OK);
    for (size_t i = 0; i < 36; i++)
        assert_true(close_to(merged[i], want[i % 3], 0.0, 1e-6));
    free_result(&m, &r);
    free_merge(&m);
}

static void mass_is_conserved_and_rows_ascend_in_raster_order(void **state)
{
    const mustdrop_grid g = { 6, 9, 3, 3 };
    uint64_t seed = 4;

    (void)state;
    for (int round = 0; round < 20; round++) {
        merge m = make_merge(&seed, &g, 1, 1, 8, VTC_F32);
        double in = 0.0, out = 0.0;

        m.params.n_merge = rng_below(&seed, 7);
        m.params.raster_order = 1;
        result r = run(&m, 1);

        for (size_t i = 0; i < m.n_rows; i++)
            in += m.mass == NULL ? 1.0 : m.mass[i];
        for (size_t j = 0; j < r.plan[0].n_out; j++) {
            out += r.plan[0].mass[j];
            assert_true(j == 0 || r.plan[0].keep[j - 1] < r.plan[0].keep[j]);
        }
        assert_true(close_to(out, in, 0.0, 1e-6));
        free_result(&m, &r);
        free_merge(&m);
    }
}

/* New places of the cells of a 6 x 9 grid: windows of 3 x 3 and the cells in each are permuted. */
static size_t moved_cell(size_t cell)
{
    const size_t window = cell / 9 / 3 * 3 + cell % 9 / 3, inside = cell / 9 % 3 * 3 + cell % 3;
    const size_t to = window * 5 % 6, place = (inside * 4 + window) % 9;

    return (to / 3 * 3 + place / 3) * 9 + to % 3 * 3 + place % 3;
}

static void windows_and_their_cells_may_stand_in_any_order(void **state)
{
    const mustdrop_grid g = { 6, 9, 3, 3 };
    const size_t dim[3] = { 1, 54, 7 };
    uint64_t seed = 9;

    (void)state;
    for (int round = 0; round < 20; round++) {
        merge m = make_merge(&seed, &g, 1, 0, 7, VTC_F32), p = m;

        p.hidden = make_tensor(VTC_F32, 3, dim, 0);
        p.mass = m.mass = NULL;
        for (size_t i = 0; i < 54 * 7; i++)
            ((float *)p.hidden.data)[moved_cell(i / 7) * 7 + i % 7] =
                ((const float *)m.hidden.data)[element_at(&m.hidden, i)];
        m.params.n_merge = p.params.n_merge = 3;
        result a = run(&m, 1), b = run(&p, 1);

        for (size_t w = 0; w < 6; w++)
            assert_true(close_to(b.similarity[w * 5 % 6], a.similarity[w], 1e-6, 1e-6));
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(b.windows[i], a.windows[i] * 5 % 6);
        for (size_t cell = 0; cell < 54; cell++)
            assert_true(a.plan[0].fate[cell] >= 3 ||
                        a.plan[0].fate[cell] == b.plan[0].fate[moved_cell(cell)]);
        free_result(&m, &a);
        free_result(&p, &b);
        free_merge(&m);
        guard_free(p.hidden.data);
    }
}

/* An image of a batch merges as many windows as the poorest one, its own best. */
static void a_batch_merges_the_least_count(void **state)
{
    const mustdrop_grid g = { 2, 6, 2, 2 };
    float x[2][12][2];
    const vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    merge m = { .params = params, .grid = g, .n_images = 2, .n_rows = 12, .n_windows = 3 };

    (void)state;
    for (size_t i = 0; i < 12; i++)
        for (size_t b = 0; b < 2; b++) {
            const size_t window = i % 6 / 2;
            const bool alike = b == 0 || window == 2;

            x[b][i][0] = 1.0f;
            x[b][i][1] = (alike ? 0.01f * (float)(3 - window) : 5.0f) * (i % 2 == 0 ? 1.0f : -1.0f);
        }
    m.params.win_h = m.params.win_w = 2;
    m.params.prefix = 0;
    m.hidden = vtc_f32_3d(&x[0][0][0], 2, 12, 2);
    result least = run(&m, 1);

    assert_true(least.n_merged[0] == 1 && least.n_merged[1] == 1);
    assert_true(least.windows[0] == 2 && least.windows[3] == 2);
    m.params.per_image = 1;
    result each = run(&m, 1);

    assert_true(each.n_merged[0] == 3 && each.n_merged[1] == 1);
    assert_true(each.plan[0].n_out == 3 && each.plan[1].n_out == 9);
    free_result(&m, &least);
    free_result(&m, &each);
}

/* ---- few windows, nothing to merge ----------------------------------------------------------- */

static void no_merge_is_a_pure_selection_of_all_rows(void **state)
{
    const mustdrop_grid g = { 6, 6, 3, 3 };
    uint64_t seed = 5;
    merge m = make_merge(&seed, &g, 2, 1, 5, VTC_BF16);

    (void)state;
    m.params.n_merge = 0;
    result r = run(&m, 1);

    for (size_t b = 0; b < 2; b++)
        for (int32_t i = 0; i < 37; i++) {
            assert_null(r.plan[b].begin);
            assert_int_equal(r.plan[b].keep[i], i);
        }
    free_result(&m, &r);
    free_merge(&m);
}

static void a_window_larger_than_a_ragged_grid_merges_nothing(void **state)
{
    const mustdrop_grid g = { 2, 1, 3, 3 };
    uint64_t seed = 6;
    merge m = make_merge(&seed, &g, 1, 1, 5, VTC_F32);
    result r = run(&m, 1);

    (void)state;
    assert_true(r.n_merged[0] == 0 && r.plan[0].n_out == 3);
    free_result(&m, &r);
    free_merge(&m);
}

static void counts_are_exact_for_a_number_and_a_bound_for_a_threshold(void **state)
{
    vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    vtc_plan_count n;

    (void)state;
    assert_int_equal(vtc_mustdrop_encode_count(&params, 24, 24, &n, NULL), VTC_OK);
    assert_true(n.n_in == 577 && n.n_out == 577 && n.n_nnz == 577 && n.exact == 0);
    params.n_merge = 48;
    assert_int_equal(vtc_mustdrop_encode_count(&params, 24, 24, &n, NULL), VTC_OK);
    assert_true(n.n_in == 577 && n.n_out == 193 && n.n_nnz == 577 && n.exact == 1);
    params.n_merge = 0;
    assert_int_equal(vtc_mustdrop_encode_count(&params, 24, 24, &n, NULL), VTC_OK);
    assert_true(n.n_out == 577 && n.n_nnz == 0 && n.exact == 1);
    params.n_merge = VTC_MUSTDROP_BY_RULE;
    assert_int_equal(vtc_mustdrop_encode_count(&params, 0, 0, &n, NULL), VTC_OK);
    assert_true(n.n_in == 1 && n.n_out == 1 && n.n_nnz == 0 && n.exact == 1);
}

static void targets_are_met_exactly_or_from_above(void **state)
{
    const size_t target[] = { 192, 128, 64, 100, 576, 600, 569, 568 };
    const size_t want[] = { 48, 56, 64, 59, 0, 0, 0, 1 };
    vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t r;

    (void)state;
    for (size_t i = 0; i < sizeof(target) / sizeof(*target); i++) {
        assert_int_equal(vtc_mustdrop_target(&params, 24, 24, target[i], &r, NULL), VTC_OK);
        assert_int_equal(r, want[i]);
    }
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mustdrop_target(&params, 24, 24, 63, &r, &exec), VTC_ERR_BUDGET,
                  "cannot keep 63 of 576 tokens: merging all 64 windows leaves 64");
    params.ragged_edges = 1;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mustdrop_target(&params, 25, 24, 64, &r, &exec), VTC_ERR_BUDGET,
                  "leaves 88");
}

/* [CLS] and cells in no window are only moved: what they hold does not matter. */
static void what_is_in_no_window_may_be_anything(void **state)
{
    const mustdrop_grid g = { 3, 2, 2, 2 };
    uint64_t seed = 8;
    merge m = make_merge(&seed, &g, 1, 1, 4, VTC_F32);

    (void)state;
    guard_writable(m.hidden.data);
    ((float *)m.hidden.data)[element_at(&m.hidden, 1)] = NAN;
    ((float *)m.hidden.data)[element_at(&m.hidden, 6 * 4)] = NAN;
    m.params.n_merge = 1;
    result r = run(&m, 1);

    assert_int_equal(r.plan[0].n_out, 4);
    free_result(&m, &r);
    free_merge(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_batches_equal_the_reference),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(equal_windows_go_by_their_number_and_constants_stay),
        cmocka_unit_test(mass_is_conserved_and_rows_ascend_in_raster_order),
        cmocka_unit_test(windows_and_their_cells_may_stand_in_any_order),
        cmocka_unit_test(a_batch_merges_the_least_count),
        cmocka_unit_test(no_merge_is_a_pure_selection_of_all_rows),
        cmocka_unit_test(a_window_larger_than_a_ragged_grid_merges_nothing),
        cmocka_unit_test(counts_are_exact_for_a_number_and_a_bound_for_a_threshold),
        cmocka_unit_test(targets_are_met_exactly_or_from_above),
        cmocka_unit_test(what_is_in_no_window_may_be_anything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
