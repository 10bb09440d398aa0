/* One round of ToMe. */
#include "support/tensors.h"

#include "reference/plan_reference.h"
#include "reference/tome_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- running it ------------------------------------------------------------------------------ */

static vtc_tome_params make_params(size_t n_merge, int class_token, int distill_token)
{
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;

    params.n_merge = n_merge;
    params.class_token = class_token;
    params.distill_token = distill_token;
    return params;
}

static vtc_tensor random_metric(uint64_t *seed, vtc_dtype dtype, size_t n, size_t d, size_t gap)
{
    const size_t dim[2] = { n, d };

    return make_random(seed, dtype, 2, dim, gap);
}

/* Room for exactly what vtc_tome_count() says. */
static vtc_plan plan_for(const vtc_tome_params *params, size_t n)
{
    vtc_plan_count count;

    assert_int_equal(vtc_tome_count(params, n, &count, NULL), VTC_OK);
    assert_int_equal(count.n_in, n);
    assert_int_equal(count.exact, 1);
    return empty_plan(n, count.n_out, count.n_nnz);
}

/* A caller's sgemm. With noise it does what rounding might: elements that should be equal are not.
 */
typedef struct rough_sgemm {
    uint64_t seed;
    float noise;
    int n_calls;
} rough_sgemm;

static void multiply_roughly(void *cookie, int trans_b, size_t m, size_t n, size_t k,
                             const float *a, size_t lda, const float *b, size_t ldb, float *c,
                             size_t ldc)
{
    rough_sgemm *rough = cookie;

    rough->n_calls++;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;

            for (size_t p = 0; p < k; p++)
                sum += (double)a[i * lda + p] * (trans_b ? b[j * ldb + p] : b[p * ldb + j]);
            c[i * ldc + j] = (float)sum + rough->noise * rng_f32(&rough->seed);
        }
}

/* The plan by that sgemm, or by none, with exactly the scratch it asks for; free_plan() it. */
static vtc_plan tome_by(rough_sgemm *sgemm, const vtc_tome_params *params, const vtc_tensor *metric,
                        const float *mass, vtc_tome_trace *trace, size_t n_workers)
{
    vtc_plan plan = plan_for(params, metric->dim[0]);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    exec.sgemm = sgemm != NULL ? multiply_roughly : NULL;
    exec.sgemm_cookie = sgemm;
    assert_int_equal(vtc_tome_scratch(params, metric, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_tome(params, metric, mass, &plan, trace, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static vtc_plan tome(const vtc_tome_params *params, const vtc_tensor *metric, const float *mass,
                     vtc_tome_trace *trace, size_t n_workers)
{
    return tome_by(NULL, params, metric, mass, trace, n_workers);
}

static float *random_masses(uint64_t *seed, size_t n)
{
    float *mass = guard_alloc(n * sizeof(*mass));

    for (size_t i = 0; i < n; i++)
        mass[i] = 2.5f + rng_f32(seed) * 2.0f;
    guard_readonly(mass);
    return mass;
}

/* ---- against the reference ------------------------------------------------------------------- */

static void assert_plan(const vtc_plan *plan, const tome_reference *want, const float *mass)
{
    double *total = calloc(want->n_out + 1, sizeof(*total));

    assert_int_equal(plan->n_in, want->n_in);
    assert_int_equal(plan->n_out, want->n_out);
    for (size_t i = 0; i < want->n_in; i++) {
        assert_int_equal(plan->fate[i], want->owner[i]);
        assert_true(close_to(plan->score[i], want->score[i], 1e-6, 1e-6));
        total[want->owner[i]] += mass == NULL ? 1.0 : mass[i];
    }
    for (size_t j = 0; j < want->n_out; j++) {
        assert_int_equal(plan->keep[j], want->keep[j]);
        assert_true(close_to(plan->mass[j], total[j], 0.0, 1e-6));
    }
    for (size_t j = 0; plan->begin != NULL && j < want->n_out; j++)
        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
            assert_true(close_to(plan->weight[e],
                                 (mass == NULL ? 1.0 : mass[plan->source[e]]) / total[j], 0.0,
                                 1e-6));
    free(total);
}

static void check_case(uint64_t *seed, size_t n, size_t d, const vtc_tome_params *params,
                       vtc_dtype dtype)
{
    vtc_tensor metric = random_metric(seed, dtype, n, d, rng_below(seed, 3));
    float *mass = rng_below(seed, 2) == 0 ? NULL : random_masses(seed, n);
    int32_t unmerged[64], merged[64], partner[64];
    vtc_tome_trace trace = VTC_TOME_TRACE_INIT;
    double *values = values_of(&metric);
    tome_reference want = tome_reference_round(values, n, d, params->n_merge, params->class_token,
                                               params->distill_token);

    trace.unmerged = unmerged;
    trace.merged = merged;
    trace.partner = partner;
    vtc_plan plan = tome(params, &metric, mass, &trace, 1 + rng_below(seed, 3));

    assert_plan(&plan, &want, mass);
    assert_int_equal(trace.r_used, want.r);
    assert_memory_equal(unmerged, want.unmerged, (n - n / 2 - want.r) * sizeof(*unmerged));
    assert_memory_equal(merged, want.merged, want.r * sizeof(*merged));
    assert_memory_equal(partner, want.partner, want.r * sizeof(*partner));
    free_plan(&plan);
    tome_reference_free(&want);
    free(values);
    guard_free(mass);
    guard_free(metric.data);
}

static void random_rounds_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 300; round++) {
        const size_t n = rng_below(&seed, 90), d = 3 + rng_below(&seed, 40);
        const vtc_tome_params params =
            make_params(rng_below(&seed, n + 2), (int)rng_below(&seed, 2),
                        (int)rng_below(&seed, 2));

        check_case(&seed, n, d, &params, dtypes[round % 3]);
    }
}

static void check_tiles(size_t n, size_t d)
{
    const vtc_tome_params params = make_params(n / 4, 1, 0);
    uint64_t seed = 2;
    vtc_tensor metric = random_metric(&seed, VTC_F32, n, d, 0);
    double *values = values_of(&metric);
    tome_reference want = tome_reference_round(values, n, d, n / 4, true, false);
    vtc_plan plan = tome(&params, &metric, NULL, NULL, 2);

    assert_plan(&plan, &want, NULL);
    free_plan(&plan);
    tome_reference_free(&want);
    free(values);
    guard_free(metric.data);
}

/* More even rows than a task has, and more odd ones than a tile of cosines. */
static void more_rows_than_one_tile_holds_equal_the_reference(void **state)
{
    (void)state;
    check_tiles(811, 48);
    check_tiles(411, 260);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void check_executors(size_t d)
{
    const vtc_tome_params params = make_params(150, 0, 0);
    uint64_t seed = 3;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 700, d, 1);
    float *mass = random_masses(&seed, 700);
    vtc_plan one = tome(&params, &metric, mass, NULL, 0);

    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        vtc_plan many = tome(&params, &metric, mass, NULL, n_workers);

        assert_memory_equal(many.keep, one.keep, 550 * sizeof(*one.keep));
        assert_memory_equal(many.source, one.source, 700 * sizeof(*one.source));
        assert_memory_equal(many.weight, one.weight, 700 * sizeof(*one.weight));
        assert_memory_equal(many.mass, one.mass, 550 * sizeof(*one.mass));
        assert_memory_equal(many.score, one.score, 700 * sizeof(*one.score));
        free_plan(&many);
    }
    free_plan(&one);
    guard_free(mass);
    guard_free(metric.data);
}

static void any_executor_gives_the_same_bits(void **state)
{
    (void)state;
    check_executors(65);
    check_executors(165);
}

static void mass_is_conserved_and_weights_add_up_to_one(void **state)
{
    const vtc_tome_params params = make_params(40, 1, 0);
    uint64_t seed = 4;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 101, 8, 0);
    float *mass = random_masses(&seed, 101);
    vtc_plan plan = tome(&params, &metric, mass, NULL, 1);
    double in = 0.0, out = 0.0;

    (void)state;
    for (size_t i = 0; i < 101; i++)
        in += mass[i];
    for (size_t j = 0; j < plan.n_out; j++) {
        double sum = 0.0;

        for (int32_t e = plan.begin[j]; e < plan.begin[j + 1]; e++)
            sum += plan.weight[e];
        assert_true(close_to(sum, 1.0, 1e-6, 0.0));
        out += plan.mass[j];
    }
    assert_true(close_to(out, in, 0.0, 1e-6));
    free_plan(&plan);
    guard_free(mass);
    guard_free(metric.data);
}

/* Equal rows at every place of a tile, in several tiles of rows and columns. */
static void check_ties(size_t d, bool rough)
{
    enum { N = 810, MAX_D = 400, KINDS = 7 };
    const vtc_tome_params params = make_params(N / 2, 0, 0);
    int32_t merged[N / 2], partner[N / 2], first_of[KINDS];
    size_t kind[N], dim[2] = { N, d };
    vtc_tome_trace trace = VTC_TOME_TRACE_INIT;
    vtc_tensor metric = make_tensor(VTC_F32, 2, dim, 0);
    float rows[KINDS * MAX_D];
    rough_sgemm noisy = { 6, 4e-6f, 0 };
    uint64_t seed = 5;

    rng_fill(&seed, rows, KINDS * MAX_D);
    for (size_t i = N; i-- > 0;) {
        kind[i] = rng_below(&seed, KINDS);
        memcpy((float *)metric.data + i * d, rows + kind[i] * MAX_D, d * sizeof(float));
        if (i % 2 == 1)
            first_of[kind[i]] = (int32_t)(i / 2);
    }
    trace.merged = merged;
    trace.partner = partner;
    vtc_plan plan = tome_by(rough ? &noisy : NULL, &params, &metric, NULL, &trace, 1);

    for (size_t i = 0; i < trace.r_used; i++) {
        assert_int_equal(partner[i], first_of[kind[2 * partner[i] + 1]]);
        for (size_t j = 0; j < i; j++)
            assert_true(kind[2 * merged[i]] != kind[2 * merged[j]] || merged[j] < merged[i]);
    }
    free_plan(&plan);
    guard_free(metric.data);
}

static void ties_go_to_the_lower_row(void **state)
{
    (void)state;
    check_ties(37, false);
    check_ties(237, false);
    check_ties(397, false);
    check_ties(37, true);
}

static void the_length_of_rows_does_not_matter(void **state)
{
    const vtc_tome_params params = make_params(20, 1, 0);
    const size_t dim[2] = { 50, 9 };
    const float scale[4] = { 0x1p100f, 1.0f, 0x1p-120f, 0x1p-3f };
    uint64_t seed = 6;
    vtc_tensor metric = make_random(&seed, VTC_F32, 2, dim, 0);
    vtc_tensor scaled = make_tensor(VTC_F32, 2, dim, 0);

    (void)state;
    for (size_t i = 0; i < 50 * 9; i++)
        ((float *)scaled.data)[i] = ((const float *)metric.data)[i] * scale[i / 9 % 4];
    vtc_plan a = tome(&params, &metric, NULL, NULL, 1);
    vtc_plan b = tome(&params, &scaled, NULL, NULL, 1);

    assert_memory_equal(a.keep, b.keep, a.n_out * sizeof(*a.keep));
    assert_memory_equal(a.fate, b.fate, a.n_in * sizeof(*a.fate));
    free_plan(&a);
    free_plan(&b);
    guard_free(metric.data);
    guard_free(scaled.data);
}

static void special_tokens_stay_where_they_are(void **state)
{
    uint64_t seed = 7;

    (void)state;
    for (size_t n = 4; n < 40; n++) {
        const vtc_tome_params params = make_params(n, 1, 1);
        vtc_tensor metric = random_metric(&seed, VTC_F32, n, 4, 0);
        vtc_plan plan = tome(&params, &metric, NULL, NULL, 1);

        assert_int_equal(plan.keep[0], 0);
        assert_int_equal(plan.keep[1], 1);
        assert_true(plan.mass[0] == 1.0f && plan.mass[1] == 1.0f);
        free_plan(&plan);
        guard_free(metric.data);
    }
}

/* ---- few rows and nothing to merge ----------------------------------------------------------- */

static void r_is_clipped_and_reported(void **state)
{
    const struct {
        size_t n;
        int class_token, distill_token;
        size_t r_used;
    } cases[] = { { 0, 0, 0, 0 }, { 1, 0, 0, 0 }, { 2, 0, 0, 1 }, { 3, 0, 0, 1 }, { 9, 0, 0, 4 },
                  { 2, 1, 0, 0 }, { 3, 1, 0, 1 }, { 9, 1, 0, 4 }, { 8, 1, 0, 3 }, { 4, 1, 1, 1 },
                  { 3, 0, 1, 0 }, { 4, 0, 1, 1 }, { 8, 1, 1, 3 } };
    uint64_t seed = 8;

    (void)state;
    for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
        const vtc_tome_params params =
            make_params(100, cases[c].class_token, cases[c].distill_token);
        vtc_tensor metric = random_metric(&seed, VTC_F32, cases[c].n, 5, 0);
        vtc_tome_trace trace = VTC_TOME_TRACE_INIT;
        vtc_plan plan = tome(&params, &metric, NULL, &trace, 1);

        assert_int_equal(trace.r_used, cases[c].r_used);
        assert_int_equal(plan.n_out, cases[c].n - cases[c].r_used);
        free_plan(&plan);
        guard_free(metric.data);
    }
}

static void no_merge_is_the_identity_without_scratch(void **state)
{
    const size_t dim[2] = { 5, 3 };
    const float mass[5] = { 1.0f, 2.0f, 3.0f, 4.0f, 5.0f };
    vtc_tensor zeros = make_tensor(VTC_F32, 2, dim, 0);
    vtc_plan plan = empty_plan(5, 5, 0);
    size_t bytes;

    (void)state;
    memset(zeros.data, 0, 15 * sizeof(float));
    assert_int_equal(vtc_tome_scratch(NULL, &zeros, NULL, &bytes), VTC_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(vtc_tome(NULL, &zeros, mass, &plan, NULL, NULL), VTC_OK);
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(plan.keep[i], i);
        assert_true(plan.mass[i] == mass[i] && plan.score[i] == INFINITY);
    }
    free_plan(&plan);
    guard_free(zeros.data);
}

static void the_callers_sgemm_is_used_for_the_product(void **state)
{
    const vtc_tome_params params = make_params(10, 0, 0);
    uint64_t seed = 9;
    vtc_tensor metric = random_metric(&seed, VTC_F32, 60, 16, 0);
    rough_sgemm plain = { 0 };
    vtc_plan want = tome(&params, &metric, NULL, NULL, 1);
    vtc_plan got = tome_by(&plain, &params, &metric, NULL, NULL, 1);

    (void)state;
    assert_true(plain.n_calls > 0);
    assert_memory_equal(got.fate, want.fate, 60 * sizeof(*want.fate));
    free_plan(&want);
    free_plan(&got);
    guard_free(metric.data);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* A call that can be spoilt in one place; every output is poisoned. */
typedef struct broken {
    vtc_tome_params params;
    vtc_tensor metric;
    float mass[12];
    vtc_plan plan;
    vtc_tome_trace trace;
    int32_t merged[4];
    vtc_exec exec;
    error_log log;
} broken;

static void set_up(broken *b)
{
    const vtc_tome_trace trace = VTC_TOME_TRACE_INIT;
    const size_t dim[2] = { 12, 3 };
    size_t bytes;

    b->params = make_params(4, 0, 0);
    b->metric = make_tensor(VTC_F32, 2, dim, 0);
    for (size_t i = 0; i < 36; i++)
        ((float *)b->metric.data)[i] = (float)(i % 7) - 2.5f;
    for (size_t i = 0; i < 12; i++)
        b->mass[i] = 1.0f;
    b->plan = plan_for(&b->params, 12);
    b->trace = trace;
    b->trace.merged = b->merged;
    b->exec = test_exec(2);
    assert_int_equal(vtc_tome_scratch(&b->params, &b->metric, &b->exec, &bytes), VTC_OK);
    exec_scratch(&b->exec, bytes);
    record_errors(&b->exec, &b->log);
    poison(b->plan.keep, 8 * sizeof(int32_t));
    poison(b->plan.begin, 9 * sizeof(int32_t));
    poison(b->plan.source, 12 * sizeof(int32_t));
    poison(b->plan.weight, 12 * sizeof(float));
    poison(b->plan.score, 12 * sizeof(float));
    poison(b->plan.fate, 12 * sizeof(int32_t));
    poison(b->merged, sizeof(b->merged));
}

static void refused(broken *b, vtc_status status, const char *part)
{
    assert_failed(&b->log, vtc_tome(&b->params, &b->metric, b->mass, &b->plan, &b->trace, &b->exec),
                  status, part);
    assert_true(is_poisoned(b->plan.keep, 8 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.begin, 9 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.source, 12 * sizeof(int32_t)));
    assert_true(is_poisoned(b->plan.weight, 12 * sizeof(float)));
    assert_true(is_poisoned(b->plan.score, 12 * sizeof(float)));
    assert_true(is_poisoned(b->plan.fate, 12 * sizeof(int32_t)));
    assert_true(is_poisoned(b->merged, sizeof(b->merged)));
    assert_int_equal(b->plan.n_out, 0);
    exec_scratch_free(&b->exec);
    free_plan(&b->plan);
    guard_free(b->metric.data);
}

static void rows_without_direction_are_refused_by_number(void **state)
{
    const float bad[3] = { 0.0f, NAN, INFINITY };
    broken b;

    (void)state;
    for (int i = 0; i < 3; i++) {
        set_up(&b);
        for (size_t c = 0; c < 3; c++)
            ((float *)b.metric.data)[7 * 3 + c] = bad[i];
        ((float *)b.metric.data)[10 * 3] = NAN;
        refused(&b, VTC_ERR_DATA, "metric row 7");
    }
}

static void masses_must_be_positive_and_finite(void **state)
{
    const float bad[4] = { 0.0f, -1.0f, NAN, INFINITY };
    broken b;

    (void)state;
    for (int i = 0; i < 4; i++) {
        set_up(&b);
        b.mass[11] = bad[i];
        refused(&b, VTC_ERR_DATA, "mass[11]");
    }
}

static void arguments_are_checked_before_anything_is_written(void **state)
{
    int32_t *saved;
    broken b;

    (void)state;
    set_up(&b);
    b.exec.scratch_size -= 64;
    refused(&b, VTC_ERR_SCRATCH, "scratch");
    set_up(&b);
    b.plan.cap_out = 7;
    refused(&b, VTC_ERR_ROOM, "needs 8 outputs, plan has room for 7");
    set_up(&b);
    b.plan.cap_nnz = 11;
    refused(&b, VTC_ERR_ROOM, "12");
    set_up(&b);
    b.metric.rank = 1;
    refused(&b, VTC_ERR_SHAPE, "rank 1");
    set_up(&b);
    b.metric.dtype = VTC_I32;
    refused(&b, VTC_ERR_DTYPE, "I32");
    set_up(&b);
    b.trace.merged = b.plan.keep;
    refused(&b, VTC_ERR_OVERLAP, "trace overlaps keep");
    set_up(&b);
    b.trace.partner = b.merged;
    refused(&b, VTC_ERR_OVERLAP, "trace");
    set_up(&b);
    b.trace.partner = (int32_t *)(void *)(b.mass + 8);
    refused(&b, VTC_ERR_OVERLAP, "trace overlaps mass");
    assert_true(b.mass[8] == 1.0f);
    set_up(&b);
    b.params.struct_size = 0;
    refused(&b, VTC_ERR_RANGE, "struct_size");
    set_up(&b);
    saved = b.plan.keep;
    b.plan.keep = b.metric.data;
    assert_failed(&b.log, vtc_tome(&b.params, &b.metric, NULL, &b.plan, NULL, &b.exec),
                  VTC_ERR_OVERLAP, "metric overlaps keep");
    b.plan.keep = saved;
    exec_scratch_free(&b.exec);
    free_plan(&b.plan);
    guard_free(b.metric.data);
}

/* ---- schedule -------------------------------------------------------------------------------- */

static void check_schedule(size_t n, size_t r, double inflect, const size_t *want)
{
    size_t got[8];

    assert_int_equal(vtc_tome_schedule(n, r, inflect, got, NULL), VTC_OK);
    assert_memory_equal(got, want, n * sizeof(*got));
}

/* Expected values from the authors' parse_r(). */
static void schedules_equal_the_authors(void **state)
{
    (void)state;
    check_schedule(4, 16, 0.0, (const size_t[]){ 16, 16, 16, 16 });
    check_schedule(5, 16, -1.0, (const size_t[]){ 32, 24, 16, 8, 0 });
    check_schedule(6, 5, 1.0, (const size_t[]){ 0, 2, 4, 6, 8, 10 });
    check_schedule(4, 5, 0.3, (const size_t[]){ 3, 4, 5, 7 });
    check_schedule(1, 9, -1.0, (const size_t[]){ 9 });
    check_schedule(0, 9, 0.0, NULL);
}

static void schedules_outside_the_range_are_refused(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    size_t r[2] = { 77, 77 };

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_schedule(2, 4, 1.5, r, &exec), VTC_ERR_RANGE, "1.5");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_schedule(2, 4, NAN, r, &exec), VTC_ERR_RANGE, "nan");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_schedule(2, (size_t)1 << 40, 0.0, r, &exec), VTC_ERR_RANGE,
                  "r is");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_tome_schedule(2, 4, 0.0, NULL, &exec), VTC_ERR_NULL, "per_layer");
    assert_true(r[0] == 77 && r[1] == 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rounds_equal_the_reference),
        cmocka_unit_test(more_rows_than_one_tile_holds_equal_the_reference),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mass_is_conserved_and_weights_add_up_to_one),
        cmocka_unit_test(ties_go_to_the_lower_row),
        cmocka_unit_test(the_length_of_rows_does_not_matter),
        cmocka_unit_test(special_tokens_stay_where_they_are),
        cmocka_unit_test(r_is_clipped_and_reported),
        cmocka_unit_test(no_merge_is_the_identity_without_scratch),
        cmocka_unit_test(the_callers_sgemm_is_used_for_the_product),
        cmocka_unit_test(rows_without_direction_are_refused_by_number),
        cmocka_unit_test(masses_must_be_positive_and_finite),
        cmocka_unit_test(arguments_are_checked_before_anything_is_written),
        cmocka_unit_test(schedules_equal_the_authors),
        cmocka_unit_test(schedules_outside_the_range_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
