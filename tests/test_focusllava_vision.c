/* FocusLLaVA's vision-guided sampler: adaptive routes and their plans. */
#include "support/tensors.h"

#include "reference/focusllava_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- running it ------------------------------------------------------------------------------ */

static vtc_focusllava_vision_params default_params(void)
{
    const vtc_focusllava_vision_params params = VTC_FOCUSLLAVA_VISION_PARAMS_INIT;

    return params;
}

typedef struct outcome {
    vtc_plan plan;
    int32_t *boxes, *scale;
    float *scores;
    vtc_focusllava_size size;
} outcome;

static outcome run(const vtc_focusllava_vision_params *params, const vtc_tensor *x,
                   const vtc_linear *router, const float *mass, size_t n_workers)
{
    vtc_focusllava_vision_trace trace = VTC_FOCUSLLAVA_VISION_TRACE_INIT;
    vtc_exec exec = test_exec(n_workers);
    vtc_plan_count count;
    outcome o;
    size_t bytes;

    assert_int_equal(vtc_focusllava_vision_size(params, x->dim[0], x->dim[1], &o.size, NULL),
                     VTC_OK);
    assert_int_equal(vtc_focusllava_vision_count(params, x->dim[0], x->dim[1], &count, NULL),
                     VTC_OK);
    o.plan = empty_plan(count.n_in, count.n_out, count.n_nnz);
    o.boxes = trace.boxes = guard_alloc(4 * count.n_out * sizeof(int32_t));
    o.scale = trace.scale = guard_alloc(o.size.n_regions * sizeof(int32_t));
    o.scores = trace.scores = guard_alloc(o.size.n_regions * params->n_pools * sizeof(float));
    assert_int_equal(vtc_focusllava_vision_scratch(params, x, router, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_focusllava_vision(params, x, router, mass, &o.plan, &trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&o.plan, NULL), VTC_OK);
    assert_in_range(o.plan.n_out, o.size.least, o.size.most);
    assert_int_equal(count.exact, o.size.least == o.size.most);
    return o;
}

static void free_outcome(outcome *o)
{
    free_plan(&o->plan);
    guard_free(o->boxes);
    guard_free(o->scale);
    guard_free(o->scores);
}

static vtc_tensor random_map(uint64_t *seed, vtc_dtype dtype, size_t h, size_t w, size_t c,
                             size_t gap)
{
    const size_t dim[3] = { h, w, c };

    return make_random(seed, dtype, 3, dim, gap);
}

static vtc_focusllava_vision_params random_params(uint64_t *seed)
{
    static const size_t windows[] = { 1, 2, 3, 4, 5, 100 };
    vtc_focusllava_vision_params p = default_params();

    p.window = windows[rng_below(seed, 6)];
    p.n_pools = 1 + rng_below(seed, 4);
    for (size_t s = 0; s < p.n_pools; s++)
        p.pools[s] = 1 + rng_below(seed, p.window < 6 ? p.window : 6);
    p.pool = (vtc_focusllava_pool)rng_below(seed, 2);
    p.route = (vtc_focusllava_route)rng_below(seed, 3);
    p.gate_scale = (int)rng_below(seed, 3) - 1;
    p.tau = 0.3f + 0.3f * rng_f32(seed);
    return p;
}

/* ---- against the reference ------------------------------------------------------------------- */

static double gate_of(const vtc_focusllava_vision_params *p, const double *scores, size_t chosen)
{
    double sum = 0.0;

    if (p->gate_scale == 0 || (p->gate_scale == -1 && p->route != VTC_FOCUSLLAVA_LINEAR))
        return 1.0;
    for (size_t s = 0; s < p->n_pools; s++)
        sum += exp(scores[s] - scores[chosen]);
    return 1.0 / sum;
}

/* The library chose a scale that its own scores make the right one. */
static void check_choice(const vtc_focusllava_vision_params *p, const float *scores, int32_t chosen)
{
    size_t want = 0;

    if (p->route == VTC_FOCUSLLAVA_FIDELITY) {
        while (want + 1 < p->n_pools && scores[want] < p->tau)
            want++;
    } else {
        for (size_t s = 1; s < p->n_pools; s++)
            if (scores[s] > scores[want])
                want = s;
    }
    assert_int_equal(chosen, want);
}

/* Scores, boxes and tokens of the chosen scales in order. */
static void check_outcome(const outcome *o, const focus_reference *want,
                          const vtc_focusllava_vision_params *p, const double *x,
                          const double *weight, const double *bias)
{
    dense_plan dense = dense_of(&o->plan);
    double *tokens = malloc((o->plan.n_out * want->c + 1) * sizeof(*tokens));
    double scores[VTC_FOCUSLLAVA_MAX_SCALES];
    size_t j = 0, previous = SIZE_MAX;
    double gate = 1.0;

    dense_apply(&dense, x, want->c, tokens);
    for (size_t i = 0; i < want->n_cells; i++) {
        const focus_cell *cell = &want->cells[i];
        const size_t r = cell->region;

        if (r != previous) {
            previous = r;
            for (size_t s = 0; s < p->n_pools; s++) {
                scores[s] = focus_reference_score(want, p, x, r, s, weight, bias);
                assert_true(close_to(o->scores[r * p->n_pools + s], scores[s], 2e-6, 2e-6));
            }
            check_choice(p, o->scores + r * p->n_pools, o->scale[r]);
            gate = gate_of(p, scores, (size_t)o->scale[r]);
        }
        if ((size_t)o->scale[r] != cell->scale)
            continue;
        assert_memory_equal(o->boxes + 4 * j, cell->box, sizeof(cell->box));
        for (size_t c = 0; c < want->c; c++)
            assert_true(close_to(tokens[j * want->c + c], gate * cell->token[c], 3e-6, 3e-6));
        j++;
    }
    assert_int_equal(j, o->plan.n_out);
    free(tokens);
    dense_free(&dense);
}

static void check_case(uint64_t *seed, vtc_dtype dtype)
{
    const size_t h = rng_below(seed, 12), w = rng_below(seed, 12), c = 1 + rng_below(seed, 20);
    const vtc_focusllava_vision_params params = random_params(seed);
    const size_t dim[2] = { params.n_pools, 2 * c };
    vtc_tensor x = random_map(seed, dtype, h, w, c, rng_below(seed, 3));
    vtc_linear router = { make_random(seed, dtype, 2, dim, rng_below(seed, 2)),
                          make_random(seed, dtype, 1, dim, 0) };
    double *values = values_of(&x), *weight = values_of(&router.weight);
    double *bias = values_of(&router.bias);
    focus_reference want = focus_reference_pool(&params, values, h, w, c);
    outcome o = run(&params, &x, params.route == VTC_FOCUSLLAVA_LINEAR ? &router : NULL, NULL,
                    rng_below(seed, 3));

    assert_int_equal(o.size.n_regions, want.n_regions);
    assert_int_equal(o.size.n_candidates, want.n_cells);
    check_outcome(&o, &want, &params, values, weight, bias);
    free_outcome(&o);
    focus_reference_free(&want);
    free(values);
    free(weight);
    free(bias);
    guard_free(x.data);
    guard_free(router.weight.data);
    guard_free(router.bias.data);
}

static void random_maps_equal_the_reference(void **state)
{
    const vtc_dtype dtypes[3] = { VTC_F32, VTC_F16, VTC_BF16 };
    uint64_t seed = 11;

    (void)state;
    for (int round = 0; round < 300; round++)
        check_case(&seed, dtypes[round % 3]);
}

/* ---- laws ------------------------------------------------------------------------------------ */

static void any_executor_gives_the_same_bits(void **state)
{
    vtc_focusllava_vision_params params = default_params();
    uint64_t seed = 12;
    vtc_tensor x = random_map(&seed, VTC_F16, 23, 17, 65, 1);

    (void)state;
    for (int route = 0; route < 3; route += 2) {
        params.route = (vtc_focusllava_route)route;
        outcome one = run(&params, &x, NULL, NULL, 0);

        for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
            outcome many = run(&params, &x, NULL, NULL, n_workers);

            assert_int_equal(many.plan.n_out, one.plan.n_out);
            assert_memory_equal(many.scores, one.scores,
                                one.size.n_regions * params.n_pools * sizeof(float));
            assert_memory_equal(many.plan.keep, one.plan.keep, one.plan.n_out * sizeof(int32_t));
            assert_memory_equal(many.plan.score, one.plan.score, one.plan.n_in * sizeof(float));
            free_outcome(&many);
        }
        free_outcome(&one);
    }
    guard_free(x.data);
}

/* Every position in exactly one output, and masses add up. */
static void mass_is_conserved(void **state)
{
    vtc_focusllava_vision_params params = default_params();
    uint64_t seed = 13;
    vtc_tensor x = random_map(&seed, VTC_F32, 11, 9, 8, 0);
    float mass[99];
    double in = 0.0, out = 0.0;

    (void)state;
    params.pool = VTC_FOCUSLLAVA_AVERAGE;
    params.route = VTC_FOCUSLLAVA_FIDELITY;
    params.tau = 0.6f;
    for (size_t i = 0; i < 99; i++)
        in += mass[i] = 1.5f + rng_f32(&seed);
    outcome o = run(&params, &x, NULL, mass, 1);

    for (size_t j = 0; j < o.plan.n_out; j++) {
        double sum = 0.0, weights = 0.0;

        for (int32_t e = o.plan.begin[j]; e < o.plan.begin[j + 1]; e++) {
            sum += mass[o.plan.source[e]];
            weights += o.plan.weight[e];
        }
        assert_true(close_to(o.plan.mass[j], sum, 0.0, 1e-6));
        assert_true(close_to(weights, 1.0, 1e-6, 0.0));
        out += o.plan.mass[j];
    }
    assert_true(close_to(out, in, 0.0, 1e-6));
    for (size_t i = 0; i < 99; i++)
        assert_true(o.plan.fate[i] >= 0);
    assert_int_equal(o.plan.begin[o.plan.n_out], 99);
    free_outcome(&o);
    guard_free(x.data);
}

/* Shifting the columns of regions by whole regions moves outputs, not decisions. */
static void moving_regions_moves_their_outputs(void **state)
{
    enum { H = 8, W = 12, C = 6 };
    const vtc_focusllava_vision_params params = default_params();
    const size_t dim[3] = { H, W, C };
    uint64_t seed = 14;
    vtc_tensor x = random_map(&seed, VTC_F32, H, W, C, 0), y = make_tensor(VTC_F32, 3, dim, 0);

    (void)state;
    for (size_t r = 0; r < H; r++)
        for (size_t c = 0; c < W; c++)
            memcpy((float *)y.data + (r * W + (c + 4) % W) * C, (float *)x.data + (r * W + c) * C,
                   C * sizeof(float));
    outcome a = run(&params, &x, NULL, NULL, 1), b = run(&params, &y, NULL, NULL, 1);

    assert_int_equal(a.plan.n_out, b.plan.n_out);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(a.scale[i], b.scale[i / 3 * 3 + (i % 3 + 1) % 3]);
    free_outcome(&a);
    free_outcome(&b);
    guard_free(x.data);
    guard_free(y.data);
}

/* In a region that is clipped to 2 x 2, pools 4 and 2 are the same cells. */
static void an_exact_tie_goes_to_the_first_scale(void **state)
{
    vtc_focusllava_vision_params params = default_params();
    uint64_t seed = 15;
    vtc_tensor x = random_map(&seed, VTC_F32, 2, 2, 33, 0);

    (void)state;
    params.n_pools = 2;
    for (int pool = 0; pool < 2; pool++) {
        params.pool = (vtc_focusllava_pool)pool;
        outcome o = run(&params, &x, NULL, NULL, 1);

        assert_true(o.scores[0] == o.scores[1]);
        assert_int_equal(o.scale[0], 0);
        free_outcome(&o);
    }
    guard_free(x.data);
}

/* Fidelity of pool 1 is 1, so that even tau 1 is reached; of equal positions too. */
static void single_positions_and_constant_regions_are_faithful(void **state)
{
    vtc_focusllava_vision_params params = default_params();
    const size_t dim[3] = { 4, 8, 37 };
    uint64_t seed = 16;
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0);
    float *values = x.data;

    (void)state;
    params.route = VTC_FOCUSLLAVA_FIDELITY;
    params.tau = 1.0f;
    rng_fill(&seed, values, 4 * 8 * 37);
    for (size_t r = 0; r < 4; r++) /* the right region is one token */
        for (size_t c = 4; c < 8; c++)
            memcpy(values + (r * 8 + c) * 37, values + 4 * 37, 37 * sizeof(float));
    outcome o = run(&params, &x, NULL, NULL, 1);

    assert_int_equal(o.scale[0], 2);
    assert_int_equal(o.scale[1], 0);
    assert_true(o.scores[2] == 1.0f && o.scores[3] == 1.0f && o.scores[5] == 1.0f);
    assert_int_equal(o.plan.n_out, 17);
    free_outcome(&o);
    guard_free(x.data);
}

static void zero_rows_have_cosine_zero(void **state)
{
    const vtc_focusllava_vision_params params = default_params();
    const size_t dim[3] = { 5, 5, 4 };
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0);

    (void)state;
    memset(x.data, 0, 100 * sizeof(float));
    outcome o = run(&params, &x, NULL, NULL, 1);

    for (size_t i = 0; i < 4; i++) {
        assert_true(o.scores[3 * i] == 0.0f);
        assert_int_equal(o.scale[i], 0);
    }
    free_outcome(&o);
    guard_free(x.data);
}

/* Squares of these leave the range of F32, sums of rows too. */
static void check_huge_values(size_t grid_h, size_t grid_w, size_t n_workers)
{
    const vtc_focusllava_vision_params params = default_params();
    const size_t dim[3] = { grid_h, grid_w, 3 };
    uint64_t seed = 17;
    vtc_tensor x = make_tensor(VTC_F32, 3, dim, 0);

    for (size_t i = 0; i < grid_h * grid_w * 3; i++)
        ((float *)x.data)[i] = 0x1p126f * (1.5f + rng_f32(&seed));
    double *values = values_of(&x);
    focus_reference want = focus_reference_pool(&params, values, grid_h, grid_w, 3);
    outcome o = run(&params, &x, NULL, NULL, n_workers);

    check_outcome(&o, &want, &params, values, NULL, NULL);
    free_outcome(&o);
    focus_reference_free(&want);
    free(values);
    guard_free(x.data);
}

static void huge_values_have_scores(void **state)
{
    (void)state;
    check_huge_values(4, 5, 1);
    check_huge_values(12, 12, 3); /* summed in several groups */
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static void sizes_are_known_before_the_data(void **state)
{
    vtc_focusllava_vision_params params = default_params();
    vtc_focusllava_size size;
    vtc_plan_count count;

    (void)state;
    assert_int_equal(vtc_focusllava_vision_size(NULL, 24, 24, &size, NULL), VTC_OK);
    assert_true(size.n_regions == 36 && size.n_candidates == 756);
    assert_true(size.least == 36 && size.most == 576);
    assert_int_equal(vtc_focusllava_vision_count(NULL, 10, 13, &count, NULL), VTC_OK);
    assert_true(count.n_in == 130 && count.n_out == 130 && count.n_nnz == 130 && !count.exact);
    params.n_pools = 1;
    params.pools[0] = 3;
    assert_int_equal(vtc_focusllava_vision_count(&params, 10, 13, &count, NULL), VTC_OK);
    /* sides are cut into 4 + 4 + 2 and 4 + 4 + 4 + 1 */
    assert_true(count.n_out == (2 + 2 + 1) * (2 + 2 + 2 + 1) && count.exact);
    assert_int_equal(vtc_focusllava_vision_count(NULL, 0, 5, &count, NULL), VTC_OK);
    assert_true(count.n_out == 0 && count.n_nnz == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_maps_equal_the_reference),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(mass_is_conserved),
        cmocka_unit_test(moving_regions_moves_their_outputs),
        cmocka_unit_test(an_exact_tie_goes_to_the_first_scale),
        cmocka_unit_test(single_positions_and_constant_regions_are_faithful),
        cmocka_unit_test(zero_rows_have_cosine_zero),
        cmocka_unit_test(huge_values_have_scores),
        cmocka_unit_test(sizes_are_known_before_the_data),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
