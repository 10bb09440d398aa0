/* One planner in the encoder, another in the language model: VisionZip, then FastV. */
#include "support/cascade.h"

#include "reference/plan_reference.h"
#include "support/tensors.h"

/* A row of the table with exactly the room and scratch it asks for. */
static vtc_plan plan_by(const char *name, const vtc_plan_inputs *inputs, size_t n_keep)
{
    const vtc_planner *planner = vtc_planner_find(name);
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_exec exec = test_exec(2);
    vtc_plan_count count;
    vtc_plan plan;
    size_t bytes;

    assert_int_equal(vtc_planner_count(planner, NULL, inputs, &budget, &count, &exec), VTC_OK);
    plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
    assert_int_equal(vtc_planner_scratch(planner, NULL, inputs, &budget, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, NULL, inputs, &budget, &plan, NULL, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static vtc_plan zip(uint64_t *seed, size_t n, size_t n_keep)
{
    const size_t keys[] = { 2, n, 4 }, attention[] = { 2, n };
    const vtc_tensor k = make_random(seed, VTC_F32, 3, keys, 0);
    vtc_tensor a = make_tensor(VTC_F32, 2, attention, 0);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_plan plan;

    for (size_t i = 0; i < 2 * n; i++)
        ((float *)a.data)[i] = 0.5f + 0.4f * rng_f32(seed);
    inputs.keys = &k;
    inputs.cls_attention = &a;
    inputs.n_rows = n;
    plan = plan_by("visionzip", &inputs, n_keep);
    guard_free(k.data);
    guard_free(a.data);
    return plan;
}

/* Five rows in front of the image, three of text behind it; merged rows count as often as the
 * patches in them. */
static vtc_plan prune(uint64_t *seed, const vtc_plan *before, size_t n_keep)
{
    const size_t dim[] = { 2, 5 + before->n_out + 3, 4 };
    const vtc_tensor q = make_random(seed, VTC_F32, 3, dim, 0);
    const vtc_tensor k = make_random(seed, VTC_F32, 3, dim, 0);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_plan plan;

    inputs.lm_query = &q;
    inputs.lm_keys = &k;
    inputs.n_rows = before->n_out;
    inputs.mass = before->mass;
    inputs.v_start = 5;
    inputs.n_text = 3;
    plan = plan_by("fastv", &inputs, n_keep);
    guard_free(q.data);
    guard_free(k.data);
    return plan;
}

static void visionzip_then_fastv_is_their_composition(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (int round = 0; round < 60; round++) {
        const size_t n = 12 + rng_below(&seed, 50), zipped = 6 + rng_below(&seed, n - 8);
        two_steps s;

        s.first = zip(&seed, n, zipped);
        s.second = prune(&seed, &s.first, 1 + rng_below(&seed, zipped));
        compose_steps(&s);
        check_steps(&s, &seed);
        free_steps(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(visionzip_then_fastv_is_their_composition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
