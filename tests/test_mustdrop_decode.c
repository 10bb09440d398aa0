/* MustDrop's decode step: which rows of every layer's cache are kept. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_STEPS = 4, MAX_LAYERS = 40 };

/* ---- a cascade: steps, one planned on what the other left ------------------------------------ */

typedef struct cascade {
    size_t n_steps, n_layers;
    int32_t layers[MAX_STEPS];
    vtc_mustdrop_decode_params params;
    vtc_plan step[MAX_STEPS], plan[MAX_STEPS];
    const vtc_plan *steps[MAX_STEPS];
    vtc_plan *plans[MAX_STEPS];
    const vtc_plan *plan_of_layer[MAX_LAYERS];
    size_t lengths[MAX_LAYERS];
    int64_t next[MAX_LAYERS];
} cascade;

/* A pruning layer of prefill, with random statistics; masses go along. */
static vtc_plan random_step(uint64_t *seed, size_t v_start, size_t *n_vision, size_t n_text,
                            int32_t *keys, size_t *n_keys, const float *mass)
{
    const size_t n = *n_vision, length = v_start + n + n_text;
    vtc_mustdrop_prefill_params p = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    vtc_mustdrop_prefill_trace trace = VTC_MUSTDROP_PREFILL_TRACE_INIT;
    float sum[64], max[64];
    int32_t next_keys[64];
    vtc_exec exec = test_exec(1);
    vtc_plan_count count;
    size_t bytes;

    p.v_start = v_start;
    p.global_thr = 1.0f / (float)(n + 1);
    p.individual_thr = 0.5f;
    for (size_t j = 0; j < n; j++) {
        sum[j] = 1.0f + rng_f32(seed);
        max[j] = 0.5f + 0.5f * rng_f32(seed);
    }
    trace.keys = next_keys;
    assert_int_equal(vtc_mustdrop_prefill_count(&p, n, length, *n_keys, &count, NULL), VTC_OK);

    vtc_plan plan = empty_plan(count.n_in, count.n_out, 0);

    assert_int_equal(vtc_mustdrop_filter_scratch(&p, n, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_filter(&p, sum, max, n, length, keys, *n_keys, mass, &plan,
                                         &trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    *n_vision = trace.n_vision;
    *n_keys = trace.n_keys;
    memcpy(keys, next_keys, *n_keys * sizeof(*keys));
    return plan;
}

static cascade make_cascade(uint64_t *seed)
{
    const vtc_mustdrop_decode_params params = VTC_MUSTDROP_DECODE_PARAMS_INIT;
    const size_t v_start = rng_below(seed, 4), n_text = rng_below(seed, 5);
    size_t n_vision = rng_below(seed, 60), n_keys = n_vision == 0 ? 0 : rng_below(seed, 4);
    int32_t keys[64];
    float mass[80];
    cascade c = { .n_steps = 1 + rng_below(seed, MAX_STEPS), .params = params };

    for (size_t i = 0; i < n_keys; i++)
        keys[i] = (int32_t)rng_below(seed, n_vision);
    for (size_t i = 0; i < 80; i++)
        mass[i] = 1.5f + rng_f32(seed);
    for (size_t i = 0; i < c.n_steps; i++) {
        c.layers[i] = (i == 0 ? 0 : c.layers[i - 1] + 1) + (int32_t)rng_below(seed, 4);
        c.step[i] = random_step(seed, v_start, &n_vision, n_text, keys, &n_keys,
                                i == 0 ? mass : c.step[i - 1].mass);
    }
    c.n_layers = (size_t)c.layers[c.n_steps - 1] + 1 + rng_below(seed, 5);
    c.params.n_layers = c.n_layers;
    c.params.n_prune = c.n_steps;
    return c;
}

static void free_cascade(cascade *c)
{
    for (size_t i = 0; i < c->n_steps; i++) {
        free_plan(&c->step[i]);
        free_plan(&c->plan[i]);
    }
}

/* With exactly the room it asks for. The cascade must not move afterwards. */
static void decode(cascade *c)
{
    vtc_plan_count counts[MAX_STEPS];

    c->params.prune_layers = c->layers;
    for (size_t i = 0; i < c->n_steps; i++)
        c->steps[i] = &c->step[i];
    assert_int_equal(vtc_mustdrop_decode_count(&c->params, c->steps, counts, NULL), VTC_OK);
    for (size_t i = 0; i < c->n_steps; i++) {
        assert_true(counts[i].exact == 1 && counts[i].n_nnz == 0);
        c->plan[i] = empty_plan(counts[i].n_in, counts[i].n_out, 0);
        c->plans[i] = &c->plan[i];
    }
    assert_int_equal(vtc_mustdrop_decode(&c->params, c->steps, c->plans, c->plan_of_layer,
                                         c->lengths, c->next, NULL),
                     VTC_OK);
    for (size_t i = 0; i < c->n_steps; i++) {
        assert_int_equal(vtc_plan_validate(&c->plan[i], NULL), VTC_OK);
        assert_int_equal(c->plan[i].n_out, counts[i].n_out);
    }
}

/* ---- laws ------------------------------------------------------------------------------------ */

/* What a cache of `layer` holds before decoding: rows of the sequence before any step. */
static size_t rows_before(const cascade *c, size_t layer, int32_t *rows)
{
    size_t n = c->step[0].n_in;

    for (size_t i = 0; i < n; i++)
        rows[i] = (int32_t)i;
    for (size_t i = 0; i < c->n_steps && (size_t)c->layers[i] < layer; i++) {
        n = c->step[i].n_out;
        for (size_t j = 0; j < n; j++)
            rows[j] = rows[c->step[i].keep[j]];
    }
    return n;
}

static void every_layer_keeps_what_lived_to_the_end(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 200; round++) {
        cascade c = make_cascade(&seed);
        int32_t rows[80], last[80];

        c.params.prune_early = (int)rng_below(&seed, 2);
        decode(&c);
        const size_t n_last = rows_before(&c, c.n_layers, last);

        for (size_t l = 0; l < c.n_layers; l++) {
            const vtc_plan *plan = c.plan_of_layer[l];
            const size_t n = rows_before(&c, l, rows);
            const bool early = l < (size_t)c.layers[0] && c.params.prune_early == 0;

            assert_true((plan == NULL) == (early || l > (size_t)c.layers[c.n_steps - 1]));
            assert_int_equal(c.lengths[l], plan == NULL ? n : n_last);
            assert_int_equal(c.next[l], c.lengths[l]);
            for (size_t j = 0; plan != NULL && j < n_last; j++)
                assert_int_equal(rows[plan->keep[j]], last[j]);
        }
        free_cascade(&c);
    }
}

/* ids, positions, K/V and masses by each step in turn */
typedef struct stream {
    int64_t ids[80], positions[80];
    float kv[80][2], mass[80];
} stream;

static stream first_stream(uint64_t *seed, size_t n)
{
    stream s;

    memset(&s, 0, sizeof(s));
    for (size_t i = 0; i < n; i++) {
        s.ids[i] = (int64_t)(rng(seed) >> 1);
        s.positions[i] = (int64_t)i * 3;
        s.kv[i][0] = rng_f32(seed);
        s.kv[i][1] = rng_f32(seed);
    }
    return s;
}

static vtc_kv cache_of(stream *s, size_t n)
{
    vtc_kv kv = VTC_KV_INIT;

    kv.data = s->kv;
    kv.piece = kv.row_stride = sizeof(s->kv[0]);
    kv.n_rows = n;
    return kv;
}

static void move(const vtc_plan *plan, stream *from, stream *to)
{
    const vtc_positions_params params = VTC_POSITIONS_PARAMS_INIT; /* VTC_VISUAL_KEEP */
    const vtc_tensor ids = vtc_tensor_1d(from->ids, VTC_I64, plan->n_in);
    const vtc_tensor positions = vtc_tensor_1d(from->positions, VTC_I64, plan->n_in);
    vtc_tensor to_ids = vtc_tensor_1d(to->ids, VTC_I64, plan->n_out);
    vtc_tensor to_positions = vtc_tensor_1d(to->positions, VTC_I64, plan->n_out);
    const vtc_kv src = cache_of(from, plan->n_in), dst = cache_of(to, plan->n_out);
    int64_t next;

    assert_int_equal(vtc_plan_gather(plan, 0, &ids, NULL, &to_ids, NULL), VTC_OK);
    assert_int_equal(vtc_plan_positions(&params, plan, &positions, &to_positions, &next, NULL),
                     VTC_OK);
    assert_int_equal(vtc_plan_gather_kv(plan, &src, &dst, 1, NULL), VTC_OK);
    memcpy(to->mass, plan->mass, plan->n_out * sizeof(*plan->mass));
}

static void a_composed_plan_is_its_steps_one_after_another(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (int round = 0; round < 200; round++) {
        cascade c = make_cascade(&seed);
        stream now, next, at_once;

        decode(&c);
        for (size_t first = 0; first < c.n_steps; first++) {
            const size_t n_out = c.step[c.n_steps - 1].n_out;

            now = first_stream(&seed, c.step[first].n_in);
            move(&c.plan[first], &now, &at_once);
            for (size_t i = first; i < c.n_steps; i++) {
                move(&c.step[i], &now, &next);
                now = next;
            }
            assert_memory_equal(now.ids, at_once.ids, n_out * sizeof(*now.ids));
            assert_memory_equal(now.positions, at_once.positions, n_out * sizeof(*now.positions));
            assert_memory_equal(now.kv, at_once.kv, n_out * sizeof(now.kv[0]));
            assert_memory_equal(now.mass, at_once.mass, n_out * sizeof(*now.mass));
        }
        free_cascade(&c);
    }
}

/* [heads 2, rows, 1] of all layers, cut in place by one call. */
static void caches_of_all_layers_end_equally_long(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 50; round++) {
        cascade c = make_cascade(&seed);
        static int32_t cache[MAX_LAYERS][2][80];
        vtc_kv views[MAX_LAYERS];
        int32_t rows[80], last[80];
        vtc_exec exec = test_exec(2);

        c.params.prune_early = 1;
        decode(&c);
        const size_t n_last = rows_before(&c, c.n_layers, last);

        for (size_t l = 0; l < c.n_layers; l++) {
            const vtc_kv kv = VTC_KV_INIT;
            const size_t n = rows_before(&c, l, rows);

            memcpy(cache[l][0], rows, n * sizeof(*rows));
            memcpy(cache[l][1], rows, n * sizeof(*rows));
            views[l] = kv;
            views[l].data = cache[l];
            views[l].n_outer = 2;
            views[l].outer_stride = sizeof(cache[l][0]);
            views[l].piece = views[l].row_stride = sizeof(int32_t);
            views[l].n_rows = 80;
        }
        assert_int_equal(vtc_plan_compact_kv_layers(c.plan_of_layer, c.n_layers, views, 1, &exec),
                         VTC_OK);
        for (size_t l = 0; l < c.n_layers; l++) {
            assert_int_equal(c.lengths[l], n_last);
            assert_memory_equal(cache[l][0], last, n_last * sizeof(*last));
            assert_memory_equal(cache[l][1], last, n_last * sizeof(*last));
        }
        free_cascade(&c);
    }
}

static void positions_go_on_by_either_rule(void **state)
{
    uint64_t seed = 4;
    cascade c = make_cascade(&seed);

    (void)state;
    c.params.positions = VTC_MUSTDROP_KEEP;
    decode(&c);
    for (size_t l = 0; l < c.n_layers; l++)
        assert_int_equal(c.next[l], c.step[0].n_in);
    c.params.next_position = 1234;
    assert_int_equal(vtc_mustdrop_decode(&c.params, c.steps, c.plans, c.plan_of_layer, NULL, c.next,
                                         NULL),
                     VTC_OK);
    for (size_t l = 0; l < c.n_layers; l++)
        assert_int_equal(c.next[l], 1234);
    free_cascade(&c);
}

/* ---- the published layers, and steps that are no pure selections ----------------------------- */

static void the_defaults_are_the_published_layers(void **state)
{
    const int32_t stage[32] = { -1, -1, 0,  1,  1,  1,  1,  2,  2,  2,  2,  3,  3,  3,  3,  -1,
                                -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
    const vtc_plan *plan_of_layer[32];
    cascade c = { .n_steps = 4 };
    uint64_t seed = 5;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        c.step[i] = random_plan(&seed, PLAN_ASCENDING, 20 - 3 * i, 17 - 3 * i);
        c.plan[i] = empty_plan(20 - 3 * i, 8, 0);
        c.steps[i] = &c.step[i];
        c.plans[i] = &c.plan[i];
    }
    assert_int_equal(vtc_mustdrop_decode(NULL, c.steps, c.plans, plan_of_layer, c.lengths, c.next,
                                         NULL),
                     VTC_OK);
    for (size_t l = 0; l < 32; l++) {
        assert_ptr_equal(plan_of_layer[l], stage[l] < 0 ? NULL : c.plans[stage[l]]);
        assert_int_equal(c.next[l], l < 2 ? 20 : 8);
    }
    free_cascade(&c);
}

static void merged_outputs_count_as_the_row_they_stand_for(void **state)
{
    uint64_t seed = 6;
    cascade c = { .n_steps = 2, .n_layers = 4, .layers = { 1, 2 } };
    const vtc_mustdrop_decode_params params = VTC_MUSTDROP_DECODE_PARAMS_INIT;

    (void)state;
    c.params = params;
    c.params.n_layers = 4;
    c.params.n_prune = 2;
    c.step[0] = random_plan(&seed, PLAN_GROUPS, 9, 0);
    free_plan(&c.step[0]);
    c.step[0] = empty_plan(4, 2, 4);
    assert_int_equal(vtc_plan_group(&c.step[0], 4, (const int32_t[]){ 0, 1, 0, 1 }, 2,
                                    (const int32_t[]){ 2, 3 }, NULL, NULL),
                     VTC_OK);
    c.step[1] = empty_plan(2, 1, 1); /* with entries of its own */
    assert_int_equal(vtc_plan_select(&c.step[1], 2, (const int32_t[]){ 1 }, 1, c.step[0].mass,
                                     NULL),
                     VTC_OK);
    decode(&c);
    assert_int_equal(c.plan[0].keep[0], 3);
    assert_int_equal(c.plan[1].keep[0], 1);
    assert_true(c.plan[0].mass[0] == 2.0f);
    free_cascade(&c);
}

static void without_pruning_layers_all_stay_whole(void **state)
{
    vtc_mustdrop_decode_params params = VTC_MUSTDROP_DECODE_PARAMS_INIT;
    const vtc_plan *plan_of_layer[32];
    vtc_exec exec = test_exec(0);
    size_t lengths[32];
    error_log log;

    (void)state;
    params.n_prune = 0;
    assert_int_equal(vtc_mustdrop_decode(&params, NULL, NULL, plan_of_layer, NULL, NULL, NULL),
                     VTC_OK);
    for (size_t l = 0; l < 32; l++)
        assert_null(plan_of_layer[l]);
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_mustdrop_decode(&params, NULL, NULL, plan_of_layer, lengths, NULL, &exec),
                  VTC_ERR_UNSUPPORTED, "length is not known");
}

/* ---- errors ---------------------------------------------------------------------------------- */

static cascade broken(void)
{
    const vtc_mustdrop_decode_params params = VTC_MUSTDROP_DECODE_PARAMS_INIT;
    uint64_t seed = 7;
    cascade c = { .n_steps = 2, .n_layers = 6, .layers = { 1, 3 }, .params = params };

    c.params.n_layers = 6;
    c.params.n_prune = 2;
    c.step[0] = random_plan(&seed, PLAN_ASCENDING, 10, 7);
    c.step[1] = random_plan(&seed, PLAN_ASCENDING, 7, 5);
    c.plan[0] = empty_plan(10, 5, 0);
    c.plan[1] = empty_plan(7, 5, 0);
    return c;
}

static void refused(cascade *c, vtc_status status, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    if (c->params.prune_layers == NULL)
        c->params.prune_layers = c->layers;
    for (size_t i = 0; i < 2; i++) {
        if (c->steps[i] == NULL)
            c->steps[i] = &c->step[i];
        if (c->plans[i] == NULL)
            c->plans[i] = &c->plan[i];
        poison(c->plan[i].keep, 5 * sizeof(int32_t));
    }
    poison(c->lengths, sizeof(c->lengths));
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_mustdrop_decode(&c->params, c->steps, c->plans, c->plan_of_layer, c->lengths,
                                      c->next, &exec),
                  status, part);
    for (size_t i = 0; i < 2; i++)
        assert_true(is_poisoned(c->plan[i].keep, 5 * sizeof(int32_t)));
    assert_true(is_poisoned(c->lengths, sizeof(c->lengths)));
    free_cascade(c);
}

static void bad_input_is_refused_with_nothing_written(void **state)
{
    cascade c;

    (void)state;
    c = broken();
    c.layers[1] = 6;
    refused(&c, VTC_ERR_RANGE, "prune_layers[1] is 6 of 6 layers");
    c = broken();
    c.layers[1] = 1;
    refused(&c, VTC_ERR_RANGE, "prune_layers[1] is 1 behind 1");
    c = broken();
    c.params.positions = (vtc_mustdrop_positions)2;
    refused(&c, VTC_ERR_RANGE, "positions is 2");
    c = broken();
    c.step[1].n_in = 6;
    refused(&c, VTC_ERR_SHAPE, "step 1 has 6 input rows, the one before has 7 outputs");
    c = broken();
    c.step[0].keep[3] = -1;
    refused(&c, VTC_ERR_RANGE, "keep[3] of a step is -1");
    c = broken();
    c.step[1].mass[2] = -1.0f;
    refused(&c, VTC_ERR_DATA, "mass[2] of a step");
    c = broken();
    c.plan[1].cap_out = 4;
    refused(&c, VTC_ERR_ROOM, "needs 5 outputs");
    c = broken();
    c.plans[1] = &c.plan[0];
    refused(&c, VTC_ERR_OVERLAP, "plans[1] is plans[0]");
    c = broken();
    c.plans[1] = &c.step[1];
    refused(&c, VTC_ERR_OVERLAP, "plans[1] is steps[1]");
    c = broken();
    memcpy(c.plan[1].mass, c.layers, 2 * sizeof(*c.layers));
    c.params.prune_layers = (const int32_t *)(const void *)c.plan[1].mass;
    refused(&c, VTC_ERR_OVERLAP, "prune_layers overlaps mass");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layer_keeps_what_lived_to_the_end),
        cmocka_unit_test(a_composed_plan_is_its_steps_one_after_another),
        cmocka_unit_test(caches_of_all_layers_end_equally_long),
        cmocka_unit_test(positions_go_on_by_either_rule),
        cmocka_unit_test(the_defaults_are_the_published_layers),
        cmocka_unit_test(merged_outputs_count_as_the_row_they_stand_for),
        cmocka_unit_test(without_pruning_layers_all_stay_whole),
        cmocka_unit_test(bad_input_is_refused_with_nothing_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
