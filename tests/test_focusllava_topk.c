/* FocusLLaVA's selection among the pooled tokens of all regions and scales. */
#include "support/tensors.h"

#include "reference/focusllava_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct outcome {
    vtc_plan plan;
    int32_t *boxes, *index;
    float *scores;
    size_t n_candidates;
} outcome;

static outcome run(const vtc_focusllava_vision_params *params, const vtc_tensor *x, size_t n_keep,
                   const float *mass, size_t n_workers)
{
    vtc_focusllava_topk_trace trace = VTC_FOCUSLLAVA_TOPK_TRACE_INIT;
    vtc_exec exec = test_exec(n_workers);
    vtc_focusllava_size size;
    vtc_plan_count count;
    outcome o;
    size_t bytes;

    assert_int_equal(vtc_focusllava_vision_size(params, x->dim[0], x->dim[1], &size, NULL), VTC_OK);
    assert_int_equal(vtc_focusllava_topk_count(params, x->dim[0], x->dim[1], n_keep, &count, NULL),
                     VTC_OK);
    assert_true(count.n_out == n_keep && count.exact);
    o.n_candidates = size.n_candidates;
    o.plan = empty_plan(count.n_in, n_keep, count.n_nnz);
    o.boxes = trace.boxes = guard_alloc(4 * n_keep * sizeof(int32_t));
    o.index = trace.index = guard_alloc(n_keep * sizeof(int32_t));
    o.scores = trace.scores = guard_alloc(size.n_candidates * sizeof(float));
    assert_int_equal(vtc_focusllava_topk_scratch(params, x, n_keep, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_focusllava_topk(params, x, n_keep, mass, &o.plan, &trace, &exec), VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&o.plan, NULL), VTC_OK);
    return o;
}

static void free_outcome(outcome *o)
{
    free_plan(&o->plan);
    guard_free(o->boxes);
    guard_free(o->index);
    guard_free(o->scores);
}

/* Outputs ascend in the list, and no candidate that was left out has a better rank. */
static void check_selection(const outcome *o)
{
    char *kept = calloc(o->n_candidates + 1, 1);
    double lowest = INFINITY;
    size_t last = 0;

    for (size_t j = 0; j < o->plan.n_out; j++) {
        assert_true(j == 0 || o->index[j] > o->index[j - 1]);
        kept[o->index[j]] = 1;
        if (o->scores[o->index[j]] <= lowest) {
            lowest = o->scores[o->index[j]];
            last = (size_t)o->index[j];
        }
    }
    for (size_t i = 0; i < o->n_candidates; i++)
        assert_true(kept[i] || o->scores[i] < lowest || (o->scores[i] == lowest && i > last));
    free(kept);
}

static void check_case(uint64_t *seed, vtc_dtype dtype)
{
    const size_t dim[3] = { 1 + rng_below(seed, 9), 1 + rng_below(seed, 9),
                            2 + rng_below(seed, 9) };
    vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;
    vtc_focusllava_size size;

    params.window = 1 + rng_below(seed, 5);
    params.n_pools = 1 + rng_below(seed, 3);
    for (size_t s = 0; s < params.n_pools; s++)
        params.pools[s] = 1 + rng_below(seed, params.window);
    params.pool = (vtc_focusllava_pool)rng_below(seed, 2);
    assert_int_equal(vtc_focusllava_vision_size(&params, dim[0], dim[1], &size, NULL), VTC_OK);
    const size_t n_keep = rng_below(seed, size.n_candidates + 1);
    vtc_tensor x = make_random(seed, dtype, 3, dim, rng_below(seed, 3));
    double *values = values_of(&x);
    double *tokens = malloc((n_keep * dim[2] + 1) * sizeof(*tokens));
    focus_reference want = focus_reference_pool(&params, values, dim[0], dim[1], dim[2]);
    outcome o = run(&params, &x, n_keep, NULL, rng_below(seed, 3));
    dense_plan dense = dense_of(&o.plan);

    assert_int_equal(o.n_candidates, want.n_cells);
    for (size_t i = 0; i < want.n_cells; i++)
        assert_true(close_to(o.scores[i],
                             focus_reference_cosine(want.cells[i].token, want.mean, dim[2]), 1e-6,
                             1e-6));
    check_selection(&o);
    dense_apply(&dense, values, dim[2], tokens);
    for (size_t j = 0; j < n_keep; j++) {
        const focus_cell *cell = &want.cells[o.index[j]];

        assert_memory_equal(o.boxes + 4 * j, cell->box, sizeof(cell->box));
        for (size_t c = 0; c < dim[2]; c++)
            assert_true(close_to(tokens[j * dim[2] + c], cell->token[c], 1e-6, 1e-6));
    }
    dense_free(&dense);
    free_outcome(&o);
    focus_reference_free(&want);
    free(values);
    free(tokens);
    guard_free(x.data);
}

static void random_maps_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 21;

    (void)state;
    for (int round = 0; round < 200; round++)
        check_case(&seed, dtypes[round % 3]);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;
    const size_t dim[3] = { 19, 22, 70 };
    uint64_t seed = 22;
    vtc_tensor x = make_random(&seed, VTC_F32, 3, dim, 1);
    outcome one = run(&params, &x, 90, NULL, 0);

    (void)state;
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        outcome many = run(&params, &x, 90, NULL, n_workers);

        assert_memory_equal(many.scores, one.scores, one.n_candidates * sizeof(float));
        assert_memory_equal(many.index, one.index, 90 * sizeof(int32_t));
        assert_memory_equal(many.plan.mass, one.plan.mass, 90 * sizeof(float));
        free_outcome(&many);
    }
    free_outcome(&one);
    guard_free(x.data);
}

/* All candidates: each position is in one output of each scale. */
static void a_position_shares_its_mass_among_its_outputs(void **state)
{
    const vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;
    const size_t dim[3] = { 5, 6, 8 };
    uint64_t seed = 23;
    vtc_tensor x = make_random(&seed, VTC_F32, 3, dim, 0);
    float mass[30];
    double in = 0.0, out = 0.0;
    vtc_focusllava_size size;

    (void)state;
    for (size_t i = 0; i < 30; i++)
        in += mass[i] = 1.5f + rng_f32(&seed);
    assert_int_equal(vtc_focusllava_vision_size(&params, 5, 6, &size, NULL), VTC_OK);
    outcome o = run(&params, &x, size.n_candidates, mass, 1);

    for (size_t j = 0; j < o.plan.n_out; j++)
        out += o.plan.mass[j];
    assert_true(close_to(out, in, 0.0, 1e-6));
    assert_int_equal(o.plan.begin[o.plan.n_out], 90);
    free_outcome(&o);
    guard_free(x.data);
}

static void equal_tokens_go_to_the_lower_place(void **state)
{
    const vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;
    const size_t dim[3] = { 9, 7, 5 };
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0);

    (void)state;
    for (size_t i = 0; i < 9 * 7 * 5; i++)
        ((float *)x.data)[i] = (float)(i % 5) - 1.5f;
    outcome o = run(&params, &x, 17, NULL, 1);

    for (int32_t j = 0; j < 17; j++)
        assert_int_equal(o.index[j], j);
    free_outcome(&o);
    guard_free(x.data);
}

static void more_than_the_candidates_is_no_budget(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan_count count = { 7, 7, 7, 7 };
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_topk_count(NULL, 4, 4, 22, &count, &exec), VTC_ERR_BUDGET,
                  "cannot keep 22 of 21");
    assert_int_equal(count.n_in, 7);
    assert_int_equal(vtc_focusllava_topk_count(NULL, 4, 4, 21, &count, &exec), VTC_OK);
}

static void bad_data_leave_outputs_untouched(void **state)
{
    const size_t dim[3] = { 4, 4, 3 };
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0);
    vtc_plan plan = empty_plan(16, 5, 48);
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    size_t bytes;

    (void)state;
    memset(x.data, 0, 48 * sizeof(float));
    ((float *)x.data)[20] = NAN;
    poison(plan.keep, 5 * sizeof(int32_t));
    poison(plan.begin, 6 * sizeof(int32_t));
    assert_int_equal(vtc_focusllava_topk_scratch(NULL, &x, 5, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_topk(NULL, &x, 5, NULL, &plan, NULL, &exec), VTC_ERR_DATA,
                  "row 1, column 2");
    ((float *)x.data)[20] = 1.0f;
    plan.cap_nnz = 4;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_focusllava_topk(NULL, &x, 5, NULL, &plan, NULL, &exec), VTC_ERR_ROOM,
                  "entries");
    assert_true(is_poisoned(plan.keep, 5 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.begin, 6 * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
    guard_free(x.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_maps_equal_the_reference),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(a_position_shares_its_mass_among_its_outputs),
        cmocka_unit_test(equal_tokens_go_to_the_lower_place),
        cmocka_unit_test(more_than_the_candidates_is_no_budget),
        cmocka_unit_test(bad_data_leave_outputs_untouched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
