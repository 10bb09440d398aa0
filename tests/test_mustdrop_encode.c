/* MustDrop's encode step: windows of alike tokens become one token. */
#include "support/tensors.h"

#include "reference/mustdrop_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IMAGES = 3 };

/* ---- running it ------------------------------------------------------------------------------ */

typedef struct merge {
    vtc_mustdrop_encode_params params;
    mustdrop_grid grid;
    size_t n_images, n_rows, n_windows;
    vtc_tensor hidden;
    float *mass;
} merge;

typedef struct result {
    vtc_plan plan[MAX_IMAGES];
    size_t n_merged[MAX_IMAGES];
    float *similarity;
    int32_t *windows, *unmerged;
} result;

/* Some windows of alike tokens, some of unlike ones. */
static vtc_tensor make_hidden(uint64_t *seed, const merge *m, size_t c, vtc_dtype dtype)
{
    const size_t dim[3] = { m->n_images, m->n_rows, c };
    const vtc_tensor t = make_tensor(dtype, 3, dim, rng_below(seed, 3));
    const size_t across = m->grid.w / m->grid.win_w + 1;
    float base[64], amplitude[64];

    for (size_t i = 0; i < n_elements(&t); i++) {
        const size_t row = i / c % m->n_rows,
                     cell = row < m->params.prefix ? 0 : row - m->params.prefix;
        const size_t window = m->grid.w == 0 ? 0
                                             : cell / m->grid.w / m->grid.win_h * across +
                                                   cell % m->grid.w / m->grid.win_w;

        if (i == 0)
            for (size_t w = 0; w < 64; w++) {
                base[w] = 0.5f + rng_f32(seed);
                amplitude[w] = 1.0f + rng_f32(seed);
            }
        set_element(t.data, dtype, element_at(&t, i),
                    base[window % 64] + amplitude[window % 64] * rng_f32(seed));
    }
    guard_readonly(t.data);
    return t;
}

static merge make_merge(uint64_t *seed, const mustdrop_grid *grid, size_t n_images, size_t prefix,
                        size_t c, vtc_dtype dtype)
{
    const vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    merge m = { .params = params, .grid = *grid, .n_images = n_images };

    m.params.win_h = grid->win_h;
    m.params.win_w = grid->win_w;
    m.params.prefix = prefix;
    m.params.ragged_edges = grid->h % grid->win_h != 0 || grid->w % grid->win_w != 0;
    m.params.threshold = 0.2f + 0.4f * rng_f32(seed);
    m.n_rows = prefix + grid->h * grid->w;
    m.n_windows = mustdrop_windows(grid);
    m.hidden = make_hidden(seed, &m, c, dtype);
    if (rng_below(seed, 2) == 0)
        return m;
    m.mass = guard_alloc(n_images * m.n_rows * sizeof(*m.mass));
    for (size_t i = 0; i < n_images * m.n_rows; i++)
        m.mass[i] = 2.5f + rng_f32(seed) * 2.0f;
    guard_readonly(m.mass);
    return m;
}

static void free_merge(merge *m)
{
    guard_free(m->hidden.data);
    guard_free(m->mass);
}

static result open_result(const merge *m)
{
    const size_t n_cells = m->n_images * m->grid.h * m->grid.w;
    const size_t n_windows = m->n_images * m->n_windows;
    vtc_plan_count count;
    result r;

    assert_int_equal(vtc_mustdrop_encode_count(&m->params, m->grid.h, m->grid.w, &count, NULL),
                     VTC_OK);
    assert_int_equal(count.n_in, m->n_rows);
    for (size_t b = 0; b < m->n_images; b++)
        r.plan[b] = empty_plan(count.n_in, count.n_out, count.n_nnz);
    r.similarity = guard_alloc(n_windows * sizeof(float));
    r.windows = guard_alloc(n_windows * sizeof(int32_t));
    r.unmerged = guard_alloc(n_cells * sizeof(int32_t));
    return r;
}

static void free_result(const merge *m, result *r)
{
    for (size_t b = 0; b < m->n_images; b++)
        free_plan(&r->plan[b]);
    guard_free(r->similarity);
    guard_free(r->windows);
    guard_free(r->unmerged);
}

/* With exactly the scratch and the room it asks for. */
static result run(const merge *m, size_t n_workers)
{
    vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    vtc_exec exec = test_exec(n_workers);
    result r = open_result(m);
    vtc_plan *plans[MAX_IMAGES] = { &r.plan[0], &r.plan[1], &r.plan[2] };
    size_t bytes;

    trace.n_merged = r.n_merged;
    trace.similarity = r.similarity;
    trace.windows = r.windows;
    trace.unmerged = r.unmerged;
    assert_int_equal(vtc_mustdrop_encode_scratch(&m->params, &m->hidden, m->grid.h, m->grid.w,
                                                 &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_encode(&m->params, &m->hidden, m->grid.h, m->grid.w, m->mass,
                                         plans, &trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    for (size_t b = 0; b < m->n_images; b++)
        assert_int_equal(vtc_plan_validate(&r.plan[b], NULL), VTC_OK);
    return r;
}

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

/* ---- errors ---------------------------------------------------------------------------------- */

/* A call that can be spoilt in one place; every output is poisoned. */
typedef struct broken {
    merge m;
    result r;
    vtc_plan *plans[MAX_IMAGES];
    vtc_mustdrop_encode_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b)
{
    const vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    const mustdrop_grid g = { 4, 4, 2, 2 };
    uint64_t seed = 7;
    size_t bytes;

    b->m = make_merge(&seed, &g, 2, 1, 3, VTC_F32);
    guard_writable(b->m.hidden.data);
    if (b->m.mass == NULL)
        b->m.mass = guard_alloc(34 * sizeof(float));
    guard_writable(b->m.mass);
    for (size_t i = 0; i < 34; i++)
        b->m.mass[i] = 1.0f;
    b->m.params.n_merge = 3;
    b->r = open_result(&b->m);
    b->trace = trace;
    b->trace.similarity = b->r.similarity;
    b->trace.windows = b->r.windows;
    poison(b->r.similarity, 8 * sizeof(float));
    poison(b->r.windows, 8 * sizeof(float));
    for (size_t i = 0; i < 2; i++) {
        b->plans[i] = &b->r.plan[i];
        poison(b->r.plan[i].keep, 8 * sizeof(int32_t));
        poison(b->r.plan[i].source, 17 * sizeof(int32_t));
        poison(b->r.plan[i].score, 17 * sizeof(float));
    }
    b->exec = test_exec(2);
    assert_int_equal(vtc_mustdrop_encode_scratch(&b->m.params, &b->m.hidden, 4, 4, &b->exec,
                                                 &bytes),
                     VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
}

static void refused(broken *b, vtc_status status, const char *part)
{
    assert_failed(&b->log,
                  vtc_mustdrop_encode(&b->m.params, &b->m.hidden, b->m.grid.h, b->m.grid.w,
                                      b->m.mass, b->plans, &b->trace, &b->exec),
                  status, part);
    assert_true(is_poisoned(b->r.similarity, 8 * sizeof(float)));
    assert_true(is_poisoned(b->r.windows, 8 * sizeof(float)));
    for (size_t i = 0; i < 2; i++) {
        assert_true(is_poisoned(b->r.plan[i].keep, 8 * sizeof(int32_t)));
        assert_true(is_poisoned(b->r.plan[i].source, 17 * sizeof(int32_t)));
        assert_true(is_poisoned(b->r.plan[i].score, 17 * sizeof(float)));
    }
    exec_scratch_free(&b->exec);
    free_result(&b->m, &b->r);
    free_merge(&b->m);
}

static void bad_shapes_and_parameters_are_refused(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    b.m.grid.h = 5;
    refused(&b, VTC_ERR_SHAPE, "5 x 4 is no whole number of windows");
    set_up(&b);
    b.m.params.ragged_edges = 1;
    b.m.grid.h = 5;
    refused(&b, VTC_ERR_SHAPE, "hidden has 17 rows");
    set_up(&b);
    b.m.params.n_merge = 5;
    refused(&b, VTC_ERR_BUDGET, "cannot merge 5 of 4 windows");
    set_up(&b);
    b.m.params.threshold = NAN;
    refused(&b, VTC_ERR_RANGE, "threshold is NaN");
    set_up(&b);
    b.m.params.win_h = b.m.params.win_w = 1;
    refused(&b, VTC_ERR_RANGE, "window is 1 x 1");
    set_up(&b);
    b.m.params.prefix = 2;
    refused(&b, VTC_ERR_SHAPE, "prefix 2");
    set_up(&b);
    b.m.params.prefix = SIZE_MAX;
    refused(&b, VTC_ERR_OVERFLOW, "exceed int32");
    set_up(&b);
    b.m.hidden.dtype = VTC_I32;
    refused(&b, VTC_ERR_DTYPE, "I32");
}

static void bad_data_are_refused_in_any_image(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    ((float *)b.m.hidden.data)[element_at(&b.m.hidden, 17 * 3 + 10 * 3)] = NAN;
    refused(&b, VTC_ERR_DATA, "window 2 of image 1");
    set_up(&b);
    ((float *)b.m.hidden.data)[element_at(&b.m.hidden, 4 * 3)] = -INFINITY;
    refused(&b, VTC_ERR_DATA, "window 1 of image 0");
    set_up(&b);
    b.m.mass[30] = 0.0f;
    refused(&b, VTC_ERR_DATA, "mass[30]");
}

static void missing_and_overlapping_memory_is_refused(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    b.plans[1] = NULL;
    refused(&b, VTC_ERR_NULL, "plans[1] is NULL");
    set_up(&b);
    b.plans[1] = b.plans[0];
    refused(&b, VTC_ERR_OVERLAP, "keep of another plan overlaps keep of the plan");
    set_up(&b);
    b.r.plan[1].cap_out = 7;
    refused(&b, VTC_ERR_ROOM, "needs 8 outputs");
    set_up(&b);
    b.trace.windows = (int32_t *)(void *)b.trace.similarity;
    refused(&b, VTC_ERR_OVERLAP, "windows of trace overlaps similarity of trace");
    set_up(&b);
    b.trace.unmerged = b.r.plan[1].source;
    refused(&b, VTC_ERR_OVERLAP, "unmerged of trace overlaps source of the plan");
    set_up(&b);
    b.trace.unmerged = b.m.hidden.data;
    refused(&b, VTC_ERR_OVERLAP, "unmerged of trace overlaps hidden");
    set_up(&b);
    b.exec.scratch_size -= 64;
    refused(&b, VTC_ERR_SCRATCH, "scratch");
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
        cmocka_unit_test(bad_shapes_and_parameters_are_refused),
        cmocka_unit_test(bad_data_are_refused_in_any_image),
        cmocka_unit_test(missing_and_overlapping_memory_is_refused),
        cmocka_unit_test(what_is_in_no_window_may_be_anything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
