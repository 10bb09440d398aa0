/* ficoco_cases.h: what the tests of FiCoCo share: attention inputs, and plans against the
 * reference. */
#ifndef VTC_TESTS_FICOCO_CASES_H
#define VTC_TESTS_FICOCO_CASES_H

#include "support/tensors.h"

#include "reference/ficoco_reference.h"
#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Orders that rest on less are not compared. */
#define FICOCO_MARGIN 5e-6

/* q [H, T, d] and k [G, T, d], and the attention they give in doubles. */
typedef struct qk {
    size_t n_heads, n_groups, t, d;
    float scale;
    vtc_tensor q, k;
    double *s; /* [T, T] */
} qk;

static inline qk make_qk(uint64_t *seed, vtc_dtype dtype, size_t t, bool probs)
{
    static const size_t heads[][2] = { { 1, 1 }, { 2, 2 }, { 4, 2 }, { 3, 1 }, { 4, 4 } };
    const size_t *shape = heads[rng_below(seed, 5)];
    qk a = { .n_heads = shape[0], .n_groups = shape[1], .t = t, .d = 3 + rng_below(seed, 9) };
    const size_t q_dim[3] = { a.n_heads, t, a.d }, k_dim[3] = { a.n_groups, t, a.d };
    double *q, *k;

    a.scale = 0.5f + (float)rng_below(seed, 4);
    a.q = make_random(seed, dtype, 3, q_dim, rng_below(seed, 4));
    a.k = make_random(seed, dtype, 3, k_dim, rng_below(seed, 4));
    q = values_of(&a.q);
    k = values_of(&a.k);
    a.s = ficoco_attention(q, k, a.n_heads, a.n_groups, t, a.d, a.scale, probs);
    free(q);
    free(k);
    return a;
}

static inline void free_qk(qk *a)
{
    guard_free(a->q.data);
    guard_free(a->k.data);
    free(a->s);
}

/* Rows from `first` on of a view [H, T, d]. */
static inline vtc_tensor rows_from(const vtc_tensor *t, size_t first)
{
    vtc_tensor rows = *t;

    rows.data = (char *)t->data + first * t->stride[1] * vtc_dtype_size(t->dtype);
    rows.dim[1] -= first;
    return rows;
}

/* Row `i` of all heads, [H, d]. */
static inline vtc_tensor row_of_heads(const vtc_tensor *t, size_t i)
{
    vtc_tensor row = vtc_tensor_2d((char *)t->data + i * t->stride[1] * vtc_dtype_size(t->dtype),
                                   t->dtype, t->dim[0], t->dim[2]);

    row.stride[0] = t->stride[0];
    return row;
}

/* S as a tensor, and s as that tensor holds it. */
static inline vtc_tensor matrix_of(double *s, size_t t, vtc_dtype dtype, size_t gap)
{
    const size_t dim[2] = { t, t };
    vtc_tensor m = make_tensor(dtype, 2, dim, gap);

    for (size_t i = 0; i < t * t; i++) {
        set_element(m.data, dtype, element_at(&m, i), (float)s[i]);
        s[i] = get_element(m.data, dtype, element_at(&m, i));
    }
    guard_readonly(m.data);
    return m;
}

static inline float *random_masses(uint64_t *seed, size_t n, double *values)
{
    float *mass = guard_alloc(n * sizeof(*mass));

    for (size_t i = 0; i < n; i++)
        values[i] = mass[i] = 2.5f + 2.0f * rng_f32(seed);
    guard_readonly(mass);
    return mass;
}

static inline void assert_near(const char *what, size_t i, double got, double want)
{
    if (!close_to(got, want, 2e-5, 2e-5))
        fail_msg("%s[%zu] is %g, not %g", what, i, got, want);
}

static inline void assert_ficoco_plan(const vtc_plan *plan, const ficoco_reference *want)
{
    dense_plan dense = dense_of(plan);

    assert_int_equal(vtc_plan_validate(plan, NULL), VTC_OK);
    assert_int_equal(plan->n_in, want->n_in);
    assert_int_equal(plan->n_out, want->n_out);
    for (size_t i = 0; i < want->n_in; i++)
        assert_near("score", i, plan->score[i], want->score[i]);
    for (size_t j = 0; j < want->n_out; j++) {
        assert_int_equal(plan->keep[j], want->remain[j]);
        assert_near("mass", j, plan->mass[j], want->mass[j]);
    }
    for (size_t e = 0; e < want->n_out * want->n_in; e++)
        assert_near("weight", e, dense.weight[e], want->weight[e]);
    dense_free(&dense);
}

static inline void assert_same_plan(const vtc_plan *a, const vtc_plan *b)
{
    const size_t nnz = a->begin == NULL || a->n_out == 0 ? 0 : (size_t)a->begin[a->n_out];

    assert_int_equal(a->n_out, b->n_out);
    assert_memory_equal(a->keep, b->keep, a->n_out * sizeof(*a->keep));
    assert_memory_equal(a->mass, b->mass, a->n_out * sizeof(*a->mass));
    assert_memory_equal(a->score, b->score, a->n_in * sizeof(*a->score));
    assert_memory_equal(a->fate, b->fate, a->n_in * sizeof(*a->fate));
    if (nnz != 0) {
        assert_memory_equal(a->source, b->source, nnz * sizeof(*a->source));
        assert_memory_equal(a->weight, b->weight, nnz * sizeof(*a->weight));
    }
}

/* Room for what a trace may be told. */
typedef struct trace_room {
    vtc_ficoco_trace t;
    size_t n_shares;
} trace_room;

static inline trace_room make_trace(const vtc_plan_count *count, size_t r, size_t n)
{
    static const vtc_ficoco_trace none = VTC_FICOCO_TRACE_INIT;
    trace_room room = { none, count->n_nnz == 0 ? 0 : count->n_nnz - count->n_out };

    room.t.discard = guard_alloc(r * sizeof(int32_t));
    room.t.target = guard_alloc(room.n_shares * sizeof(int32_t));
    room.t.weight = guard_alloc(room.n_shares * sizeof(float));
    room.t.alpha = guard_alloc(r * (n - r) * sizeof(float));
    room.t.pos = guard_alloc((n - r) * sizeof(int32_t));
    room.t.a_cls = guard_alloc(n * sizeof(float));
    return room;
}

static inline void free_trace(trace_room *room)
{
    guard_free(room->t.discard);
    guard_free(room->t.target);
    guard_free(room->t.weight);
    guard_free(room->t.alpha);
    guard_free(room->t.pos);
    guard_free(room->t.a_cls);
}

/* ---- running V ------------------------------------------------------------------------------- */

static inline size_t n_patches(const vtc_ficoco_v_inputs *in)
{
    const size_t t = in->s != NULL ? in->s->dim[0] : in->k->dim[1];

    return in->cls == VTC_FICOCO_CLS_ROW ? t - 1 : t;
}

static inline vtc_plan v_plan_for(const vtc_ficoco_v_params *params, const vtc_ficoco_v_inputs *in,
                                  vtc_plan_count *count)
{
    assert_int_equal(vtc_ficoco_v_count(params, n_patches(in), in->cls, count, NULL), VTC_OK);
    assert_int_equal(count->exact, 1);
    return empty_plan(count->n_in, count->n_out, count->n_nnz);
}

/* The plan, with exactly the scratch it asks for; free_plan() it. */
static inline vtc_plan plan_v(const vtc_ficoco_v_params *params, const vtc_ficoco_v_inputs *in,
                              vtc_ficoco_trace *trace, size_t n_workers)
{
    vtc_plan_count count;
    vtc_plan plan = v_plan_for(params, in, &count);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_ficoco_v_scratch(params, in, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_ficoco_v(params, in, &plan, trace, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static inline vtc_ficoco_v_params make_v_params(size_t profile, size_t r)
{
    vtc_ficoco_v_params params = VTC_FICOCO_V_PARAMS_INIT;

    params.profile = profile;
    params.n_discard = r;
    return params;
}

#endif
