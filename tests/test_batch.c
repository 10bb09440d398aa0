/* Planners over ragged batches. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct batch {
    vtc_tensor features, keys;
    float *mass;
    const int32_t *begin;
    size_t n_images;
} batch;

static batch make_batch(uint64_t *seed, const int32_t *begin, size_t n_images)
{
    const size_t n = (size_t)begin[n_images];
    const size_t dim[2] = { n, 6 }, key_dim[3] = { 2, n, 5 };
    batch b = { make_random(seed, VTC_F32, 2, dim, 1), make_random(seed, VTC_F16, 3, key_dim, 2),
                guard_alloc(n * sizeof(float)), begin, n_images };

    for (size_t i = 0; i < n; i++)
        b.mass[i] = 1.5f + rng_f32(seed);
    guard_readonly(b.mass);
    return b;
}

static void free_batch(batch *b)
{
    guard_free(b->features.data);
    guard_free(b->keys.data);
    guard_free(b->mass);
}

static vtc_plan_inputs inputs_of(const batch *b)
{
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    inputs.features = &b->features;
    inputs.keys = &b->keys;
    inputs.mass = b->mass;
    inputs.begin = b->begin;
    inputs.n_images = b->n_images;
    return inputs;
}

/* Exactly the room and the scratch that the planner asks for. */
static vtc_plan run(const vtc_planner *planner, const vtc_plan_inputs *inputs,
                    const vtc_budget *budget, int32_t *out_begin)
{
    vtc_exec exec = test_exec(2);
    vtc_plan_count count;
    size_t bytes;

    assert_int_equal(vtc_planner_count(planner, NULL, inputs, budget, &count, &exec), VTC_OK);
    assert_int_equal(vtc_planner_scratch(planner, NULL, inputs, budget, &exec, &bytes), VTC_OK);

    vtc_plan plan = empty_plan(count.n_in, count.n_out, count.n_nnz);

    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, NULL, inputs, budget, &plan, out_begin, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    return plan;
}

/* One image alone, as an engine without batches would give it. */
static vtc_plan run_alone(const vtc_planner *planner, const batch *b, size_t image,
                          const vtc_budget *budget)
{
    const size_t first = (size_t)b->begin[image], n = (size_t)b->begin[image + 1] - first;
    vtc_tensor features = b->features, keys = b->keys;
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    features.dim[0] = keys.dim[1] = n;
    features.data = (float *)features.data + first * features.stride[0];
    keys.data = (uint16_t *)keys.data + first * keys.stride[1];
    inputs.features = &features;
    inputs.keys = &keys;
    inputs.mass = b->mass + first;
    return run(planner, &inputs, budget, NULL);
}

static void assert_same_plan(const vtc_plan *a, const vtc_plan *b)
{
    dense_plan x = dense_of(a), y = dense_of(b);

    assert_int_equal(a->n_in, b->n_in);
    assert_int_equal(a->n_out, b->n_out);
    assert_memory_equal(x.weight, y.weight, a->n_in * a->n_out * sizeof(double));
    assert_memory_equal(a->keep, b->keep, a->n_out * sizeof(*a->keep));
    assert_memory_equal(a->mass, b->mass, a->n_out * sizeof(*a->mass));
    assert_memory_equal(a->score, b->score, a->n_in * sizeof(*a->score));
    assert_memory_equal(a->fate, b->fate, a->n_in * sizeof(*a->fate));
    dense_free(&x);
    dense_free(&y);
}

static void check_against_single_images(const vtc_planner *planner, const batch *b,
                                        const vtc_budget *budget)
{
    const vtc_plan_inputs inputs = inputs_of(b);
    int32_t out_begin[8];
    vtc_plan together = run(planner, &inputs, budget, out_begin), joined = empty_plan(0, 0, 0);

    for (size_t i = 0; i < b->n_images; i++) {
        vtc_plan alone = run_alone(planner, b, i, budget);
        const vtc_plan *parts[2] = { &joined, &alone };
        vtc_plan longer = empty_plan(joined.n_in + alone.n_in, joined.n_out + alone.n_out, 200);

        assert_int_equal(out_begin[i], joined.n_out);
        assert_int_equal(vtc_plan_concat(&longer, parts, 2, NULL), VTC_OK);
        free_plan(&alone);
        free_plan(&joined);
        joined = longer;
    }
    assert_int_equal(out_begin[b->n_images], joined.n_out);
    assert_same_plan(&together, &joined);
    free_plan(&together);
    free_plan(&joined);
}

static void a_batch_is_the_concatenation_of_its_images(void **state)
{
    const char *names[3] = { "tome", "random", "strided" };
    const int32_t begin[6] = { 0, 20, 20, 21, 50, 83 };
    const vtc_budget budget = vtc_budget_keep_ratio(0.3);
    uint64_t seed = 81;
    batch b = make_batch(&seed, begin, 5);

    (void)state;
    for (int i = 0; i < 3; i++)
        check_against_single_images(vtc_planner_find(names[i]), &b, &budget);
    free_batch(&b);
}

static void grids_and_merges_work_in_batches(void **state)
{
    const int32_t begin[4] = { 0, 24, 48, 72 };
    const vtc_budget budget = vtc_budget_keep(6);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    int32_t out_begin[4];

    (void)state;
    inputs.begin = begin;
    inputs.n_images = 3;
    inputs.grid_h = 4;
    inputs.grid_w = 6;
    vtc_plan plan = run(vtc_planner_find("mean_pool"), &inputs, &budget, out_begin);

    assert_int_equal(plan.n_out, 18);
    for (int32_t i = 0; i < 4; i++)
        assert_int_equal(out_begin[i], 6 * i);
    for (int32_t i = 0; i < 72; i++)
        assert_int_equal(plan.fate[i] / 6, i / 24);
    free_plan(&plan);
}

static void an_empty_batch_gives_an_empty_plan(void **state)
{
    const int32_t begin[1] = { 0 };
    const vtc_budget budget = vtc_budget_keep(3);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    int32_t out_begin[1] = { 77 };

    (void)state;
    inputs.begin = begin;
    vtc_plan plan = run(vtc_planner_find("strided"), &inputs, &budget, out_begin);

    assert_int_equal(plan.n_in + plan.n_out, 0);
    assert_int_equal(out_begin[0], 0);
    free_plan(&plan);
}

/* A plan with entries where none are needed gets the trivial ones. */
static void selections_fill_plans_that_have_entries(void **state)
{
    const int32_t begin[3] = { 0, 9, 20 };
    const vtc_budget budget = vtc_budget_keep(4);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_plan plan = empty_plan(20, 8, 8);

    (void)state;
    inputs.begin = begin;
    inputs.n_images = 2;
    assert_int_equal(vtc_planner_plan(vtc_planner_find("strided"), NULL, &inputs, &budget, &plan,
                                      NULL, NULL),
                     VTC_OK);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_int_equal(plan.begin[8], 8);
    for (int j = 0; j < 8; j++)
        assert_int_equal(plan.source[j], plan.keep[j]);
    free_plan(&plan);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct failing {
    vtc_plan plan;
    int32_t out_begin[4];
    vtc_exec exec;
    error_log log;
} failing;

static void set_up(failing *f, const vtc_plan_inputs *inputs, const vtc_budget *budget)
{
    size_t bytes;

    f->plan = empty_plan(30, 12, 30);
    f->exec = test_exec(1);
    poison(f->plan.keep, 12 * sizeof(int32_t));
    poison(f->plan.source, 30 * sizeof(int32_t));
    poison(f->plan.score, 30 * sizeof(float));
    poison(f->out_begin, sizeof(f->out_begin));
    assert_int_equal(vtc_planner_scratch(vtc_planner_find("tome"), NULL, inputs, budget, &f->exec,
                                         &bytes),
                     VTC_OK);
    exec_scratch(&f->exec, bytes);
    record_errors(&f->exec, &f->log);
}

static void refused(failing *f, const vtc_plan_inputs *inputs, const vtc_budget *budget,
                    vtc_status status, const char *part)
{
    assert_failed(&f->log,
                  vtc_planner_plan(vtc_planner_find("tome"), NULL, inputs, budget, &f->plan,
                                   f->out_begin, &f->exec),
                  status, part);
    assert_true(is_poisoned(f->plan.keep, 12 * sizeof(int32_t)));
    assert_true(is_poisoned(f->plan.source, 30 * sizeof(int32_t)));
    assert_true(is_poisoned(f->plan.score, 30 * sizeof(float)));
    assert_true(is_poisoned(f->out_begin, sizeof(f->out_begin)));
    exec_scratch_free(&f->exec);
    free_plan(&f->plan);
}

static void errors_in_a_later_image_leave_everything_untouched(void **state)
{
    const int32_t begin[4] = { 0, 10, 20, 30 };
    const vtc_budget budget = vtc_budget_keep(4), too_many = vtc_budget_keep(11);
    uint64_t seed = 82;
    batch b = make_batch(&seed, begin, 3);
    const vtc_tensor keys = b.keys;
    vtc_plan_inputs inputs = inputs_of(&b);
    failing f;

    (void)state;
    inputs.keys = NULL;
    guard_writable(b.features.data);
    ((float *)b.features.data)[27 * b.features.stride[0]] = NAN;
    set_up(&f, &inputs, &budget);
    refused(&f, &inputs, &budget, VTC_ERR_DATA, "metric row 7");
    ((float *)b.features.data)[27 * b.features.stride[0]] = 1.0f;
    set_up(&f, &inputs, &budget);
    refused(&f, &inputs, &too_many, VTC_ERR_BUDGET, "cannot keep 11 of 10");
    set_up(&f, &inputs, &budget);
    f.plan.cap_out = 11;
    refused(&f, &inputs, &budget, VTC_ERR_ROOM, "needs 12 outputs, plan has room for 11");
    set_up(&f, &inputs, &budget);
    inputs.keys = &b.keys;
    b.keys.data = f.plan.score;
    b.keys.dim[0] = 1;
    b.keys.dim[2] = 1;
    refused(&f, &inputs, &budget, VTC_ERR_OVERLAP, "keys overlaps");
    b.keys = keys;
    inputs.keys = NULL;
    guard_writable(b.mass);
    b.mass[25] = 0.0f;
    set_up(&f, &inputs, &budget);
    refused(&f, &inputs, &budget, VTC_ERR_DATA, "mass[25]");
    free_batch(&b);
}

/* ---- a program's own planner ----------------------------------------------------------------- */

static vtc_status keep_first_count(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                                   vtc_plan_count *count, const vtc_exec *exec)
{
    const vtc_plan_count bound = { image->n_rows, n_keep + 1, 0, 0 };

    (void)params;
    (void)exec;
    *count = bound;
    return VTC_OK;
}

/* Keeps the first rows, one fewer than asked for of images of an odd length: a bound, no number. */
static vtc_status keep_first(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                             vtc_plan *plan, const vtc_exec *exec)
{
    const int32_t rows[4] = { 0, 1, 2, 3 };

    (void)params;
    return vtc_plan_select(plan, image->n_rows, rows, n_keep - image->n_rows % 2, image->mass,
                           exec);
}

static void own_planners_and_inexact_counts_work_in_batches(void **state)
{
    const int32_t begin[4] = { 0, 7, 13, 20 }, want[8] = { 0, 1, 7, 8, 9, 13, 14, 77 };
    const vtc_budget budget = vtc_budget_keep(3);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_planner own = { 0 };
    int32_t out_begin[4];

    (void)state;
    own.struct_size = sizeof(own);
    own.name = "first";
    own.count = keep_first_count;
    own.plan = keep_first;
    inputs.begin = begin;
    inputs.n_images = 3;
    vtc_plan plan = run(&own, &inputs, &budget, out_begin);

    assert_int_equal(plan.n_out, 7);
    assert_memory_equal(plan.keep, want, 7 * sizeof(*want));
    assert_memory_equal(out_begin, ((const int32_t[]){ 0, 2, 5, 7 }), sizeof(out_begin));
    free_plan(&plan);
}

/* ToMe halves 8 rows to 4, then to 2: 4 x 4 and 2 x 2 cosines of 3 channels. Controls look at
 * nothing; sizes alone are needed. */
static void the_cost_of_choosing_is_told_from_sizes(void **state)
{
    const int32_t begin[] = { 0, 8, 16 };
    const vtc_tensor x = vtc_f32_2d(NULL, 16, 3);
    const vtc_budget budget = vtc_budget_keep(2), too_many = vtc_budget_keep(9);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    double macs = 77.0;
    error_log log;

    (void)state;
    inputs.features = &x;
    inputs.begin = begin;
    inputs.n_images = 2;
    assert_int_equal(vtc_planner_cost(vtc_planner_find("tome"), NULL, &inputs, &budget, &macs,
                                      NULL),
                     VTC_OK);
    assert_true(macs == 2.0 * (16 + 4) * 3);
    assert_int_equal(vtc_planner_cost(vtc_planner_find("random"), NULL, &inputs, &budget, &macs,
                                      NULL),
                     VTC_OK);
    assert_true(macs == 0.0);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_planner_cost(vtc_planner_find("tome"), NULL, &inputs, &too_many, &macs,
                                   &exec),
                  VTC_ERR_BUDGET, "9");
    assert_true(macs == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_is_the_concatenation_of_its_images),
        cmocka_unit_test(grids_and_merges_work_in_batches),
        cmocka_unit_test(an_empty_batch_gives_an_empty_plan),
        cmocka_unit_test(selections_fill_plans_that_have_entries),
        cmocka_unit_test(errors_in_a_later_image_leave_everything_untouched),
        cmocka_unit_test(own_planners_and_inexact_counts_work_in_batches),
        cmocka_unit_test(the_cost_of_choosing_is_told_from_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
