/* Two plans against their composition. */
#include "cascade.h"

#include "../reference/plan_reference.h"

enum { C = 3 };

void compose_steps(two_steps *s)
{
    vtc_exec exec = test_exec(1);
    vtc_plan_count count;
    size_t bytes;

    assert_int_equal(vtc_plan_compose_count(&s->first, &s->second, &count, NULL), VTC_OK);
    s->both = empty_plan(count.n_in, count.n_out, count.n_nnz);
    assert_int_equal(vtc_plan_compose_scratch(&s->first, &s->second, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_plan_compose(&s->both, &s->first, &s->second, &exec), VTC_OK);
    assert_int_equal(vtc_plan_validate(&s->both, NULL), VTC_OK);
    exec_scratch_free(&exec);
}

void free_steps(two_steps *s)
{
    free_plan(&s->first);
    free_plan(&s->second);
    free_plan(&s->both);
}

/* The rows that a plan keeps of [n_in, C] F32 rows, as its K/V cache would. */
static void gather_cache(const vtc_plan *plan, float *from, float *to)
{
    vtc_kv src = VTC_KV_INIT, dst = VTC_KV_INIT;

    src.data = from;
    dst.data = to;
    src.piece = dst.piece = src.row_stride = dst.row_stride = C * sizeof(*from);
    src.n_rows = plan->n_in;
    dst.n_rows = plan->n_out;
    assert_int_equal(vtc_plan_gather_kv(plan, &src, &dst, 1, NULL), VTC_OK);
}

static void check_tokens(const two_steps *s, const float *x)
{
    float between[MOST_CASCADE_ROWS * C], stepwise[MOST_CASCADE_ROWS * C];
    float at_once[MOST_CASCADE_ROWS * C];
    const vtc_tensor tx = vtc_f32_2d(x, s->both.n_in, C);
    vtc_tensor tb = vtc_f32_2d(between, s->first.n_out, C);
    vtc_tensor ts = vtc_f32_2d(stepwise, s->both.n_out, C);
    vtc_tensor ta = vtc_f32_2d(at_once, s->both.n_out, C);

    assert_int_equal(vtc_plan_apply(&s->first, &tx, &tb, NULL), VTC_OK);
    assert_int_equal(vtc_plan_apply(&s->second, &tb, &ts, NULL), VTC_OK);
    assert_int_equal(vtc_plan_apply(&s->both, &tx, &ta, NULL), VTC_OK);
    for (size_t i = 0; i < s->both.n_out * C; i++)
        assert_true(close_to(at_once[i], stepwise[i], 1e-5, 1e-5));
}

static void check_ids(const two_steps *s)
{
    const size_t out = s->both.n_out, bytes = out * sizeof(int32_t);
    int32_t ids[MOST_CASCADE_ROWS], mid_ids[MOST_CASCADE_ROWS];
    int32_t stepwise[MOST_CASCADE_ROWS], at_once[MOST_CASCADE_ROWS];
    vtc_tensor ti = vtc_tensor_1d(ids, VTC_I32, s->both.n_in);
    vtc_tensor tm = vtc_tensor_1d(mid_ids, VTC_I32, s->first.n_out);
    vtc_tensor ts = vtc_tensor_1d(stepwise, VTC_I32, out);
    vtc_tensor ta = vtc_tensor_1d(at_once, VTC_I32, out);
    int64_t next, next_at_once;

    for (size_t i = 0; i < s->both.n_in; i++)
        ids[i] = (int32_t)(100 + i);
    assert_int_equal(vtc_plan_gather(&s->first, 0, &ti, NULL, &tm, NULL), VTC_OK);
    assert_int_equal(vtc_plan_gather(&s->second, 0, &tm, NULL, &ts, NULL), VTC_OK);
    assert_int_equal(vtc_plan_gather(&s->both, 0, &ti, NULL, &ta, NULL), VTC_OK);
    assert_memory_equal(stepwise, at_once, bytes);

    assert_int_equal(vtc_plan_positions(NULL, &s->first, &ti, &tm, &next, NULL), VTC_OK);
    assert_int_equal(vtc_plan_positions(NULL, &s->second, &tm, &ts, &next, NULL), VTC_OK);
    assert_int_equal(vtc_plan_positions(NULL, &s->both, &ti, &ta, &next_at_once, NULL), VTC_OK);
    assert_memory_equal(stepwise, at_once, bytes);
}

void check_steps(const two_steps *s, uint64_t *seed)
{
    float x[MOST_CASCADE_ROWS * C], between[MOST_CASCADE_ROWS * C];
    float stepwise[MOST_CASCADE_ROWS * C], at_once[MOST_CASCADE_ROWS * C];
    const size_t out = s->both.n_out;

    rng_fill(seed, x, s->both.n_in * C);
    check_tokens(s, x);
    check_ids(s);
    gather_cache(&s->first, x, between);
    gather_cache(&s->second, between, stepwise);
    gather_cache(&s->both, x, at_once);
    assert_memory_equal(stepwise, at_once, out * C * sizeof(*x));
    assert_memory_equal(s->both.mass, s->second.mass, out * sizeof(*s->both.mass));
}
