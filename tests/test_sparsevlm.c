/* SparseVLM: raters, sizes and the step. The clustering has its own test. */
#include "support/tensors.h"

#include "reference/density_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- raters ---------------------------------------------------------------------------------- */

static vtc_status run_raters(const vtc_tensor *vision, const vtc_tensor *text, int32_t *raters,
                             size_t *n_raters, size_t n_workers, error_log *log)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;
    vtc_status status;

    assert_int_equal(vtc_sparsevlm_raters_scratch(vision, text, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    record_errors(&exec, log);
    status = vtc_sparsevlm_raters(vision, text, raters, n_raters, &exec);
    exec_scratch_free(&exec);
    return status;
}

/* By definition; `margin` is how near the nearest weight is to the mean. */
static size_t want_raters(const double *v, const double *t, size_t n, size_t m, size_t d,
                          int32_t *raters, double *margin)
{
    double *weight = calloc(m, sizeof(*weight)), *p = malloc(m * sizeof(*p));
    size_t n_raters = 0;

    for (size_t i = 0; i < n; i++) {
        double top = -INFINITY, sum = 0.0;

        for (size_t j = 0; j < m; j++) {
            p[j] = 0.0;
            for (size_t c = 0; c < d; c++)
                p[j] += v[i * d + c] * t[j * d + c];
            top = fmax(top, p[j]);
        }
        for (size_t j = 0; j < m; j++)
            sum += p[j] = exp(p[j] - top);
        for (size_t j = 0; j < m; j++)
            weight[j] += p[j] / sum / (double)n;
    }
    *margin = INFINITY;
    for (size_t j = 0; j < m; j++) {
        *margin = fmin(*margin, fabs(weight[j] * (double)m - 1.0));
        if (weight[j] > 1.0 / (double)m)
            raters[n_raters++] = (int32_t)j;
    }
    free(weight);
    free(p);
    return n_raters;
}

static void raters_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 91;
    error_log log;

    (void)state;
    for (int round = 0; round < 100; round++) {
        const size_t d = 1 + rng_below(&seed, 50);
        const size_t v_dim[2] = { 1 + rng_below(&seed, 150), d };
        const size_t t_dim[2] = { 2 + rng_below(&seed, 30), d };
        vtc_tensor vision = make_random(&seed, dtypes[round % 3], 2, v_dim, rng_below(&seed, 3));
        vtc_tensor text =
            make_random(&seed, dtypes[rng_below(&seed, 3)], 2, t_dim, rng_below(&seed, 3));
        double *v = values_of(&vision), *t = values_of(&text), margin;
        int32_t got[32], want[32];
        size_t n_got;
        const size_t n_want = want_raters(v, t, v_dim[0], t_dim[0], d, want, &margin);

        assert_int_equal(run_raters(&vision, &text, got, &n_got, rng_below(&seed, 3), &log),
                         VTC_OK);
        if (margin > 1e-5) {
            assert_int_equal(n_got, n_want);
            assert_memory_equal(got, want, n_want * sizeof(*want));
        }
        free(v);
        free(t);
        guard_free(vision.data);
        guard_free(text.data);
    }
}

static void text_that_does_not_stand_out_is_refused(void **state)
{
    const float rows[8] = { 1.0f, 2.0f, 1.0f, 2.0f, 1.0f, 2.0f, 1.0f, NAN };
    const vtc_tensor vision = vtc_f32_2d(rows, 2, 2), equal = vtc_f32_2d(rows, 3, 2);
    const vtc_tensor one = vtc_f32_2d(rows, 1, 2), bad = vtc_f32_2d(rows + 4, 2, 2);
    const vtc_tensor none = vtc_f32_2d(rows, 0, 2);
    vtc_exec exec = VTC_EXEC_INIT;
    int32_t raters[3];
    size_t n = 7, bytes;
    error_log log;

    (void)state;
    poison(raters, sizeof(raters));
    assert_failed(&log, run_raters(&vision, &equal, raters, &n, 0, &log), VTC_ERR_DATA,
                  "none of 3 text tokens");
    assert_failed(&log, run_raters(&vision, &one, raters, &n, 0, &log), VTC_ERR_DATA, "none of 1");
    assert_failed(&log, run_raters(&vision, &bad, raters, &n, 0, &log), VTC_ERR_DATA, "not finite");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_sparsevlm_raters_scratch(&vision, &none, &exec, &bytes), VTC_ERR_SHAPE,
                  "0 text tokens");
    assert_true(is_poisoned(raters, sizeof(raters)));
    assert_int_equal(n, 7);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static void sizes_are_the_authors(void **state)
{
    static const struct {
        size_t n_keep, n, kept, recycled, clusters;
    } cases[] = { { 300, 576, 300, 83, 9 }, { 200, 309, 200, 33, 4 }, { 110, 204, 110, 29, 3 },
                  { 9, 9, 8, 1, 1 },        { 20, 9, 8, 1, 1 },       { 0, 9, 0, 3, 1 },
                  { 5, 1, 0, 1, 1 },        { 5, 0, 0, 0, 0 } };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    vtc_sparsevlm_size size;
    vtc_plan_count count;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        params.n_keep = cases[i].n_keep;
        params.recycle = 1;
        assert_int_equal(vtc_sparsevlm_sizes(&params, cases[i].n, &size, NULL), VTC_OK);
        assert_int_equal(size.n_kept, cases[i].kept);
        assert_int_equal(size.n_recycled, cases[i].recycled);
        assert_int_equal(size.n_clusters, cases[i].clusters);
        assert_int_equal(vtc_sparsevlm_count(&params, cases[i].n, &count, NULL), VTC_OK);
        assert_int_equal(count.n_out, cases[i].kept + cases[i].clusters);
        assert_true(count.exact);
        params.recycle = 0;
        assert_int_equal(vtc_sparsevlm_count(&params, cases[i].n, &count, NULL), VTC_OK);
        assert_true(count.n_out == cases[i].kept && count.n_nnz == 0);
    }
}

/* The published averages over 32 layers, which the spec of the method gives. */
static void schedules_average_what_they_are_named_after(void **state)
{
    static const struct {
        size_t average;
        double want;
    } cases[] = { { 192, 192.03 }, { 128, 128.63 }, { 96, 96.94 }, { 64, 64.81 } };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count;
    error_log log;
    size_t counts[3] = { 7, 7, 7 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        static const size_t layers[4] = { 2, 6, 15, 32 };
        size_t n = 576, total = 2 * 576;

        assert_int_equal(vtc_sparsevlm_schedule(cases[i].average, counts, NULL), VTC_OK);
        for (int step = 0; step < 3; step++) {
            params.n_keep = counts[step];
            assert_int_equal(vtc_sparsevlm_count(&params, n, &count, NULL), VTC_OK);
            n = count.n_out;
            total += n * (layers[step + 1] - layers[step]);
        }
        assert_true(close_to((double)total / 32.0, cases[i].want, 0.01, 0.0));
    }
    record_errors(&exec, &log);
    counts[0] = 7;
    assert_failed(&log, vtc_sparsevlm_schedule(100, counts, &exec), VTC_ERR_RANGE, "100");
    assert_int_equal(counts[0], 7);
}

/* ---- the step -------------------------------------------------------------------------------- */

static vtc_plan step(const vtc_sparsevlm_params *params, const float *score, size_t n,
                     const vtc_tensor *hidden, const float *noise, const float *mass,
                     const vtc_sparsevlm_trace *trace, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    assert_int_equal(vtc_sparsevlm_count(params, n, &count, NULL), VTC_OK);
    plan = empty_plan(n, count.n_out, count.n_nnz);
    assert_int_equal(vtc_sparsevlm_scratch(params, n, hidden, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_sparsevlm(params, score, n, hidden, noise, mass, &plan, trace, &exec),
                     VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_int_equal(plan.n_out, count.n_out);
    exec_scratch_free(&exec);
    return plan;
}

/* Rows by falling score, the lower first. */
static void rank_rows(const float *score, size_t n, int32_t *order)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = i;

        for (; at > 0 && score[order[at - 1]] < score[i]; at--)
            order[at] = order[at - 1];
        order[at] = (int32_t)i;
    }
}

static void check_clusters(const vtc_plan *plan, const vtc_sparsevlm_size *size,
                           const int32_t *recycled, const int32_t *centre, const int32_t *cluster)
{
    int32_t members[32] = { 0 };

    for (size_t i = 0; i < size->n_recycled; i++)
        members[cluster[i]]++;
    for (size_t g = 0; g < size->n_clusters; g++)
        assert_int_equal(plan->keep[size->n_kept + g], recycled[centre[g]]);
    for (size_t i = 0; i < size->n_recycled; i++) {
        const size_t j = size->n_kept + (size_t)cluster[i];

        assert_int_equal(plan->fate[recycled[i]], j);
        assert_int_equal(plan->begin[j + 1] - plan->begin[j], members[cluster[i]]);
        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
            assert_true(close_to(plan->weight[e], 1.0 / (members[cluster[i]] + 1e-6), 0.0, 1e-6));
    }
}

static void check_step(uint64_t *seed, vtc_dtype dtype)
{
    const size_t n = 1 + rng_below(seed, 150), c = 2 + rng_below(seed, 30), dim[2] = { n, c };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    vtc_sparsevlm_trace trace = VTC_SPARSEVLM_TRACE_INIT;
    vtc_tensor hidden = make_random(seed, dtype, 2, dim, rng_below(seed, 3));
    double *values = values_of(&hidden), *picked = malloc(n * c * sizeof(*picked));
    int32_t order[160], recycled[160], cluster[160], want_centre[32], want_cluster[160];
    const bool noisy = rng_below(seed, 2) == 0;
    float score[160], noise[160];
    vtc_sparsevlm_size size;

    rng_fill(seed, score, n);
    for (size_t i = 0; i < n; i++)
        noise[i] = 0.5f * rng_f32(seed);
    params.n_keep = rng_below(seed, n + 3);
    assert_int_equal(vtc_sparsevlm_sizes(&params, n, &size, NULL), VTC_OK);
    trace.recycled = recycled;
    trace.cluster = cluster;
    vtc_plan plan =
        step(&params, score, n, &hidden, noisy ? noise : NULL, NULL, &trace, rng_below(seed, 3));

    rank_rows(score, n, order);
    assert_memory_equal(recycled, order + size.n_kept, size.n_recycled * sizeof(*recycled));
    for (size_t j = 0; j < size.n_kept; j++) {
        assert_true(j == 0 || plan.keep[j] > plan.keep[j - 1]);
        assert_int_equal(plan.fate[order[j]] >= 0, 1);
        assert_int_equal(plan.keep[plan.fate[order[j]]], order[j]);
    }
    for (size_t i = 0; i < size.n_recycled; i++)
        memcpy(picked + i * c, values + (size_t)recycled[i] * c, c * sizeof(*picked));
    density_reference(picked, size.n_recycled, c, size.n_clusters, noisy ? noise : NULL,
                      want_centre, want_cluster);
    assert_memory_equal(cluster, want_cluster, size.n_recycled * sizeof(*cluster));
    check_clusters(&plan, &size, recycled, want_centre, want_cluster);
    free_plan(&plan);
    free(values);
    free(picked);
    guard_free(hidden.data);
}

static void random_steps_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_F32 };
    uint64_t seed = 92;

    (void)state;
    for (int round = 0; round < 200; round++)
        check_step(&seed, dtypes[round % 3]);
}

static void masses_of_clusters_add_up(void **state)
{
    enum { ROWS = 60 };
    const size_t dim[2] = { ROWS, 8 };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    uint64_t seed = 93;
    vtc_tensor hidden = make_random(&seed, VTC_F32, 2, dim, 0);
    float score[ROWS], mass[ROWS];

    (void)state;
    params.n_keep = 11;
    for (size_t i = 0; i < ROWS; i++) {
        score[i] = rng_f32(&seed);
        mass[i] = 1.5f + rng_f32(&seed);
    }
    vtc_plan plan = step(&params, score, ROWS, &hidden, NULL, mass, NULL, 1);

    for (size_t j = 0; j < plan.n_out; j++) {
        double total = 0.0, weights = 0.0;

        for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++) {
            total += mass[plan.source[e]];
            weights += plan.weight[e];
        }
        assert_true(close_to(plan.mass[j], total, 0.0, 1e-6));
        assert_true(close_to(weights, 1.0, 2e-6, 0.0));
    }
    free_plan(&plan);
    guard_free(hidden.data);
}

static void without_recycling_hidden_states_are_not_needed(void **state)
{
    const float score[5] = { 0.3f, 0.1f, 0.3f, 0.2f, 0.3f };
    const int32_t want[2] = { 0, 2 };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;

    (void)state;
    params.n_keep = 2;
    params.recycle = 0;
    vtc_plan plan = step(&params, score, 5, NULL, NULL, NULL, NULL, 1);

    assert_memory_equal(plan.keep, want, sizeof(want));
    free_plan(&plan);
    params.n_keep = 5;
    plan = step(&params, score, 5, NULL, NULL, NULL, NULL, 1);
    assert_int_equal(plan.n_out, 4);
    assert_int_equal(plan.fate[1], -1);
    free_plan(&plan);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const size_t dim[2] = { 300, 64 };
    vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    uint64_t seed = 94;
    vtc_tensor hidden = make_random(&seed, VTC_F32, 2, dim, 1);
    float score[300];

    (void)state;
    rng_fill(&seed, score, 300);
    params.n_keep = 40;
    vtc_plan one = step(&params, score, 300, &hidden, NULL, NULL, NULL, 0);

    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        vtc_plan many = step(&params, score, 300, &hidden, NULL, NULL, NULL, n_workers);

        assert_memory_equal(many.fate, one.fate, 300 * sizeof(int32_t));
        assert_memory_equal(many.keep, one.keep, one.n_out * sizeof(int32_t));
        free_plan(&many);
    }
    free_plan(&one);
    guard_free(hidden.data);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct broken {
    vtc_sparsevlm_params params;
    vtc_tensor hidden;
    float score[20], noise[5], mass[20];
    vtc_plan plan;
    int32_t recycled[5];
    vtc_sparsevlm_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b)
{
    const vtc_sparsevlm_params params = VTC_SPARSEVLM_PARAMS_INIT;
    const vtc_sparsevlm_trace trace = VTC_SPARSEVLM_TRACE_INIT;
    const size_t dim[2] = { 20, 3 };
    size_t bytes;

    b->params = params;
    b->params.n_keep = 6; /* of 14 dropped rows 5 are recycled into 1 */
    b->hidden = make_tensor(VTC_F32, 2, dim, 0);
    for (size_t i = 0; i < 60; i++)
        ((float *)b->hidden.data)[i] = (float)(i % 7);
    for (size_t i = 0; i < 20; i++) {
        b->score[i] = (float)(20 - i);
        b->mass[i] = 1.0f;
    }
    memset(b->noise, 0, sizeof(b->noise));
    b->plan = empty_plan(20, 7, 11);
    b->trace = trace;
    b->trace.recycled = b->recycled;
    b->exec = test_exec(2);
    assert_int_equal(vtc_sparsevlm_scratch(&b->params, 20, &b->hidden, &b->exec, &bytes), VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->plan.keep, 7 * sizeof(int32_t));
    poison(b->plan.source, 11 * sizeof(int32_t));
    poison(b->plan.score, 20 * sizeof(float));
    poison(b->recycled, sizeof(b->recycled));
}

static void refused(broken *b, vtc_status status, const char *part)
{
    assert_failed(&b->log,
                  vtc_sparsevlm(&b->params, b->score, 20, &b->hidden, b->noise, b->mass, &b->plan,
                                &b->trace, &b->exec),
                  status, part);
    assert_true(is_poisoned(b->plan.keep, 7 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.source, 11 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.score, 20 * sizeof(float)));
    assert_true(is_poisoned(b->recycled, sizeof(b->recycled)));
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    guard_free(b->hidden.data);
}

static void bad_data_leave_outputs_untouched(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    b.score[4] = NAN;
    refused(&b, VTC_ERR_DATA, "score[4]");
    set_up(&b);
    b.noise[1] = INFINITY;
    refused(&b, VTC_ERR_DATA, "noise[1]");
    set_up(&b);
    ((float *)b.hidden.data)[8 * 3] = NAN;
    refused(&b, VTC_ERR_DATA, "not finite");
    set_up(&b);
    b.mass[19] = 0.0f;
    refused(&b, VTC_ERR_DATA, "mass[19]");
}

static void arguments_are_checked_before_anything_is_written(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    b.hidden.dim[0] = 19;
    refused(&b, VTC_ERR_SHAPE, "hidden has 19 rows");
    set_up(&b);
    b.plan.cap_nnz = 10;
    refused(&b, VTC_ERR_ROOM, "needs 11 entries");
    set_up(&b);
    b.exec.scratch_size -= 64;
    refused(&b, VTC_ERR_SCRATCH, "scratch");
    set_up(&b);
    b.trace.cluster = b.recycled;
    refused(&b, VTC_ERR_OVERLAP, "trace");
    set_up(&b);
    b.trace.cluster = (int32_t *)(void *)b.noise;
    refused(&b, VTC_ERR_OVERLAP, "noise");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raters_equal_the_definition),
        cmocka_unit_test(text_that_does_not_stand_out_is_refused),
        cmocka_unit_test(sizes_are_the_authors),
        cmocka_unit_test(schedules_average_what_they_are_named_after),
        cmocka_unit_test(random_steps_equal_the_reference),
        cmocka_unit_test(masses_of_clusters_add_up),
        cmocka_unit_test(without_recycling_hidden_states_are_not_needed),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(bad_data_leave_outputs_untouched),
        cmocka_unit_test(arguments_are_checked_before_anything_is_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
