/* VisionZip. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static vtc_visionzip_params make_params(size_t dominant, size_t contextual, int class_token)
{
    vtc_visionzip_params params = VTC_VISIONZIP_PARAMS_INIT;

    params.dominant = dominant;
    params.contextual = contextual;
    params.class_token = class_token;
    return params;
}

static vtc_plan zip(const vtc_visionzip_params *params, const vtc_tensor *attention,
                    const vtc_tensor *metric, const float *mass, int32_t *selected,
                    size_t n_workers)
{
    vtc_visionzip_trace trace = VTC_VISIONZIP_TRACE_INIT;
    vtc_exec exec = test_exec(n_workers);
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    assert_int_equal(vtc_visionzip_count(params, attention->dim[attention->rank - 1], &count, NULL),
                     VTC_OK);
    assert_int_equal(count.exact, 1);
    plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
    trace.selected = selected;
    assert_int_equal(vtc_visionzip_scratch(params, attention, metric, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_visionzip(params, attention, metric, mass, &plan, &trace, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_int_equal(plan.n_out, count.n_out);
    exec_scratch_free(&exec);
    return plan;
}

/* ---- against the definition ------------------------------------------------------------------ */

/* Places of rows by falling score, the lower first. */
static void rank_by_score(const double *score, size_t n, int32_t *order)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = i;

        for (; at > 0 && score[order[at - 1]] < score[i]; at--)
            order[at] = order[at - 1];
        order[at] = (int32_t)i;
    }
}

static double cosine(const double *a, const double *b, size_t d)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;

    for (size_t i = 0; i < d; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return ab / sqrt(aa) / sqrt(bb);
}

/* The whole method by definition: owner of each row among the outputs, and who are targets. */
static void want_owners(const vtc_visionzip_params *p, const double *score, const double *metric,
                        size_t n, size_t d, int32_t *owner, char *is_target)
{
    const size_t first = p->class_token != 0;
    int32_t order[256], rest[256];
    size_t n_rest = 0, n_out = 0;

    rank_by_score(score + first, n - first, order);
    for (size_t i = 0; i < n; i++)
        owner[i] = i < first ? 0 : -1;
    for (size_t i = 0; i < p->dominant; i++)
        owner[order[i] + (int32_t)first] = 0;
    memset(is_target, 0, n);
    for (size_t i = 0; i < n; i++) {
        if (owner[i] == 0)
            owner[i] = (int32_t)n_out++;
        else
            rest[n_rest++] = (int32_t)i;
    }
    if (p->contextual == 0)
        return;
    for (size_t t = 0; t < p->contextual; t++)
        is_target[rest[t * (n_rest / p->contextual)]] = 1;
    for (size_t i = 0; i < n_rest; i++) {
        double best = -INFINITY;

        for (size_t t = 0, k = 0; k < n_rest; k++) {
            if (!is_target[rest[k]])
                continue;
            const double value = is_target[rest[i]] ? (rest[k] == rest[i] ? 2.0 : -2.0)
                                                    : cosine(metric + (size_t)rest[i] * d,
                                                             metric + (size_t)rest[k] * d, d);

            if (value > best) {
                best = value;
                owner[rest[i]] = (int32_t)(n_out + t);
            }
            t++;
        }
    }
}

static void check_entries(const vtc_plan *plan, const int32_t *owner, const char *is_target,
                          const float *mass)
{
    int32_t joined[256] = { 0 };

    for (size_t i = 0; i < plan->n_in; i++)
        if (owner[i] >= 0 && !is_target[i])
            joined[owner[i]]++;
    for (size_t j = 0; j < plan->n_out; j++) {
        double total = 0.0;

        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++) {
            const int32_t row = plan->source[e];
            const bool own = is_target[row] || plan->keep[j] == row;

            assert_int_equal(owner[row], j);
            assert_true(close_to(plan->weight[e], own ? 1.0 : 1.0 / joined[j], 0.0, 1e-6));
            total += mass == NULL ? 1.0 : mass[row];
        }
        assert_true(close_to(plan->mass[j], total, 0.0, 1e-6));
    }
}

static void check_case(uint64_t *seed, vtc_dtype dtype)
{
    const size_t first = rng_below(seed, 2), n = first + rng_below(seed, 200);
    const size_t d = 2 + rng_below(seed, 40), heads = 1 + rng_below(seed, 4);
    const size_t dominant = rng_below(seed, n - first + 1);
    const size_t contextual = rng_below(seed, n - first - dominant + 1);
    const vtc_visionzip_params params = make_params(dominant, contextual, (int)first);
    const size_t a_dim[2] = { heads, n }, m_dim[2] = { n, d };
    vtc_tensor attention = make_random(seed, dtype, 2, a_dim, rng_below(seed, 3));
    vtc_tensor metric = make_random(seed, dtype, 2, m_dim, rng_below(seed, 3));
    double *a = values_of(&attention), *m = values_of(&metric), score[256] = { 0.0 };
    int32_t *selected = guard_alloc((first + dominant) * sizeof(*selected)), owner[256];
    char is_target[256];

    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < n; i++)
            score[i] += a[h * n + i];
    vtc_plan plan = zip(&params, &attention, &metric, NULL, selected, rng_below(seed, 3));

    want_owners(&params, score, m, n, d, owner, is_target);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(plan.fate[i], owner[i]);
    for (size_t i = first; i < n; i++)
        assert_true(close_to(plan.score[i], score[i], 1e-6, 1e-6));
    for (size_t i = first; i + 1 < first + dominant; i++)
        assert_true(plan.score[selected[i]] >= plan.score[selected[i + 1]]);
    if (plan.begin != NULL && contextual != 0)
        check_entries(&plan, owner, is_target, NULL);
    free_plan(&plan);
    free(a);
    free(m);
    guard_free(selected);
    guard_free(attention.data);
    guard_free(metric.data);
}

static void random_images_equal_the_definition(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_F32 };
    uint64_t seed = 61;

    (void)state;
    for (int round = 0; round < 300; round++)
        check_case(&seed, dtypes[round % 3]);
}

/* ---- laws ------------------------------------------------------------------------------------ */

/* Rows times a power of two, down to where squares vanish and up to where they overflow. */
static void check_lengths(size_t d)
{
    const vtc_visionzip_params params = make_params(10, 7, 0);
    const size_t a_dim[2] = { 2, 90 }, m_dim[2] = { 90, d };
    uint64_t seed = 63;
    vtc_tensor attention = make_random(&seed, VTC_F32, 2, a_dim, 0);
    vtc_tensor metric = make_random(&seed, VTC_F32, 2, m_dim, 0);
    float *values;

    guard_writable(metric.data);
    values = metric.data;
    for (size_t i = 0; i < 90 * d; i++) /* whole mantissas must survive the scaling */
        values[i] = 1.0f + (float)rng_below(&seed, 64) * (i % 3 == 0 ? -1.0f : 1.0f);
    vtc_plan plain = zip(&params, &attention, &metric, NULL, NULL, 0);

    for (size_t i = 0; i < 90 * d; i++)
        values[i] = ldexpf(values[i], (int)(i / d % 5) * 60 - 120);
    vtc_plan scaled = zip(&params, &attention, &metric, NULL, NULL, 0);

    assert_memory_equal(scaled.fate, plain.fate, 90 * sizeof(int32_t));
    free_plan(&plain);
    free_plan(&scaled);
    guard_free(attention.data);
    guard_free(metric.data);
}

static void the_length_of_rows_does_not_matter(void **state)
{
    (void)state;
    check_lengths(1);
    check_lengths(9);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const vtc_visionzip_params params = make_params(53, 10, 1);
    const size_t a_dim[2] = { 3, 577 }, m_dim[2] = { 577, 64 };
    uint64_t seed = 62;
    vtc_tensor attention = make_random(&seed, VTC_F32, 2, a_dim, 0);
    vtc_tensor metric = make_random(&seed, VTC_BF16, 2, m_dim, 0);
    vtc_plan one = zip(&params, &attention, &metric, NULL, NULL, 0);

    (void)state;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        vtc_plan many = zip(&params, &attention, &metric, NULL, NULL, n_workers);

        assert_memory_equal(many.fate, one.fate, 577 * sizeof(int32_t));
        assert_memory_equal(many.source, one.source, 577 * sizeof(int32_t));
        assert_memory_equal(many.weight, one.weight, 577 * sizeof(float));
        free_plan(&many);
    }
    free_plan(&one);
    guard_free(attention.data);
    guard_free(metric.data);
}

static void mass_is_conserved_and_contextual_rows_sum_to_two(void **state)
{
    const vtc_visionzip_params params = make_params(9, 4, 1);
    const size_t a_dim[1] = { 50 }, m_dim[2] = { 50, 6 };
    uint64_t seed = 63;
    vtc_tensor attention = make_random(&seed, VTC_F32, 1, a_dim, 0);
    vtc_tensor metric = make_random(&seed, VTC_F32, 2, m_dim, 0);
    double in = 0.0, out = 0.0;
    float mass[50];

    (void)state;
    for (size_t i = 0; i < 50; i++)
        in += mass[i] = 1.5f + rng_f32(&seed);
    vtc_plan plan = zip(&params, &attention, &metric, mass, NULL, 1);

    for (size_t j = 0; j < 14; j++) {
        double sum = 0.0;

        out += plan.mass[j];
        for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++)
            sum += plan.weight[e];
        assert_true(close_to(sum, plan.begin[j + 1] - plan.begin[j] > 1 ? 2.0 : 1.0, 1e-6, 0.0));
        assert_true(j == 0 || j >= 10 || plan.keep[j] > plan.keep[j - 1]);
    }
    assert_true(close_to(out, in, 0.0, 1e-6));
    assert_true(plan.keep[0] == 0 && plan.score[0] == INFINITY);
    free_plan(&plan);
    guard_free(attention.data);
    guard_free(metric.data);
}

/* Equal scores, and rows that are equally near to two targets. */
static void ties_go_to_the_lower_row_and_target(void **state)
{
    enum { N = 130, D = 20 };
    const vtc_visionzip_params params = make_params(10, 12, 0);
    const size_t a_dim[1] = { N }, m_dim[2] = { N, D };
    uint64_t seed = 64;
    vtc_tensor attention = make_tensor(VTC_F32, 1, a_dim, 0);
    vtc_tensor metric = make_tensor(VTC_F32, 2, m_dim, 0);
    float rows[3 * D];

    (void)state;
    rng_fill(&seed, rows, 3 * D);
    for (size_t i = 0; i < N; i++) {
        ((float *)attention.data)[i] = 0.25f;
        memcpy((float *)metric.data + i * D, rows + i % 3 * D, D * sizeof(float));
    }
    vtc_plan plan = zip(&params, &attention, &metric, NULL, NULL, 1);

    for (int32_t i = 0; i < 10; i++)
        assert_int_equal(plan.keep[i], i);
    /* targets are every tenth of 120 rows, so the first three have the three kinds of row */
    for (size_t i = 10; i < N; i++)
        if ((i - 10) % 10 != 0)
            assert_int_equal(plan.keep[plan.fate[i]] % 3, i % 3);
    for (size_t i = 10; i < N; i++)
        if ((i - 10) % 10 != 0)
            assert_in_range(plan.fate[i], 10, 12);
    free_plan(&plan);
    guard_free(attention.data);
    guard_free(metric.data);
}

static void without_contextual_tokens_the_metric_is_not_read(void **state)
{
    const vtc_visionzip_params params = make_params(3, 0, 0);
    const float attention[5] = { 0.1f, 0.5f, 0.2f, 0.4f, 0.3f };
    const vtc_tensor a = vtc_f32_1d(attention, 5);
    const int32_t want[3] = { 1, 3, 4 };
    vtc_plan plan = zip(&params, &a, NULL, NULL, NULL, 1);

    (void)state;
    assert_memory_equal(plan.keep, want, sizeof(want));
    assert_int_equal(plan.fate[0], -1);
    free_plan(&plan);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct broken {
    vtc_visionzip_params params;
    vtc_tensor attention, metric;
    vtc_plan plan;
    int32_t selected[4];
    vtc_visionzip_trace trace;
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b)
{
    const vtc_visionzip_trace trace = VTC_VISIONZIP_TRACE_INIT;
    const size_t a_dim[2] = { 2, 12 }, m_dim[2] = { 12, 3 };
    size_t bytes;

    b->params = make_params(3, 4, 1);
    b->attention = make_tensor(VTC_F32, 2, a_dim, 0);
    b->metric = make_tensor(VTC_F32, 2, m_dim, 0);
    for (size_t i = 0; i < 24; i++)
        ((float *)b->attention.data)[i] = (float)(i % 12); /* rows 9, 10, 11 are dominant */
    for (size_t i = 0; i < 36; i++)
        ((float *)b->metric.data)[i] = (float)(i % 7) - 2.5f;
    b->plan = empty_plan(12, 8, 12);
    b->trace = trace;
    b->trace.selected = b->selected;
    b->exec = test_exec(2);
    assert_int_equal(vtc_visionzip_scratch(&b->params, &b->attention, &b->metric, &b->exec, &bytes),
                     VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->plan.keep, 8 * sizeof(int32_t));
    poison(b->plan.source, 12 * sizeof(int32_t));
    poison(b->plan.score, 12 * sizeof(float));
    poison(b->selected, sizeof(b->selected));
}

static void finish(broken *b, vtc_status got, vtc_status want, const char *part)
{
    if (want == VTC_OK)
        assert_int_equal(got, VTC_OK);
    else
        assert_failed(&b->log, got, want, part);
    assert_int_equal(is_poisoned(b->plan.keep, 8 * sizeof(int32_t)), want != VTC_OK);
    assert_int_equal(is_poisoned(b->plan.source, 12 * sizeof(int32_t)), want != VTC_OK);
    assert_int_equal(is_poisoned(b->plan.score, 12 * sizeof(float)), want != VTC_OK);
    assert_int_equal(is_poisoned(b->selected, sizeof(b->selected)), want != VTC_OK);
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    guard_free(b->attention.data);
    guard_free(b->metric.data);
}

static void expect(broken *b, vtc_status status, const char *part)
{
    finish(b,
           vtc_visionzip(&b->params, &b->attention, &b->metric, NULL, &b->plan, &b->trace,
                         &b->exec),
           status, part);
}

static void only_rows_that_are_merged_need_a_direction(void **state)
{
    const float bad[4] = { 0.0f, NAN, INFINITY, 3e38f }; /* the length of the last leaves float */
    broken b;

    (void)state;
    for (int i = 0; i < 4; i++) {
        set_up(&b); /* a target */
        for (size_t c = 0; c < 3; c++)
            ((float *)b.metric.data)[5 * 3 + c] = bad[i];
        expect(&b, VTC_ERR_DATA, "metric row 5");
        set_up(&b); /* one that would join a target */
        for (size_t c = 0; c < 3; c++)
            ((float *)b.metric.data)[6 * 3 + c] = bad[i];
        expect(&b, VTC_ERR_DATA, "metric row 6");
        set_up(&b);
        for (size_t c = 0; c < 3; c++) { /* [CLS] and a dominant row */
            ((float *)b.metric.data)[c] = bad[i];
            ((float *)b.metric.data)[10 * 3 + c] = bad[i];
        }
        expect(&b, VTC_OK, "");
    }
    set_up(&b);
    ((float *)b.attention.data)[12 + 7] = NAN;
    expect(&b, VTC_ERR_DATA, "score[6]"); /* counted from the first patch on */
}

/* Rows 1, 3, 5 and 7 are targets. The length of row 5 leaves float, its products with the other
 * targets do not. */
static void a_target_too_long_for_a_direction_is_refused(void **state)
{
    broken b;
    float *row;

    (void)state;
    set_up(&b);
    row = b.metric.data;
    for (size_t i = 1; i < 9; i++) {
        row[3 * i] = row[3 * i + 1] = i == 5 ? 3e38f : 0.0f;
        row[3 * i + 2] = 1.0f;
    }
    expect(&b, VTC_ERR_DATA, "metric row 5");
}

static void arguments_are_checked_before_anything_is_written(void **state)
{
    broken b;

    (void)state;
    set_up(&b);
    b.params.contextual = 9;
    expect(&b, VTC_ERR_BUDGET, "9 contextual tokens from the 8");
    set_up(&b);
    b.params.dominant = 12;
    expect(&b, VTC_ERR_BUDGET, "12 dominant of 11");
    set_up(&b);
    b.plan.cap_out = 7;
    expect(&b, VTC_ERR_ROOM, "needs 8 outputs");
    set_up(&b);
    b.exec.scratch_size -= 64;
    expect(&b, VTC_ERR_SCRATCH, "scratch");
    set_up(&b);
    b.metric.dim[0] = 11;
    expect(&b, VTC_ERR_SHAPE, "metric has 11 rows");
    set_up(&b);
    b.trace.targets = b.selected;
    expect(&b, VTC_ERR_OVERLAP, "trace");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_images_equal_the_definition),
        cmocka_unit_test(the_length_of_rows_does_not_matter),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mass_is_conserved_and_contextual_rows_sum_to_two),
        cmocka_unit_test(ties_go_to_the_lower_row_and_target),
        cmocka_unit_test(without_contextual_tokens_the_metric_is_not_read),
        cmocka_unit_test(only_rows_that_are_merged_need_a_direction),
        cmocka_unit_test(a_target_too_long_for_a_direction_is_refused),
        cmocka_unit_test(arguments_are_checked_before_anything_is_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
