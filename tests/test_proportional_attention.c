/* Attention weighted by mass. */
#include "support/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_case {
    size_t n_heads, n_queries, n_keys, d;
    vtc_dtype q, k, v, y;
    size_t gap;
    bool has_mass;
} attention_case;

typedef struct tensors {
    vtc_tensor q, k, v, y;
    float *mass;
} tensors;

static tensors make_case(uint64_t *seed, const attention_case *c)
{
    const size_t q_dim[3] = { c->n_heads, c->n_queries, c->d };
    const size_t k_dim[3] = { c->n_heads, c->n_keys, c->d };
    tensors t = { make_random(seed, c->q, 3, q_dim, c->gap), make_random(seed, c->k, 3, k_dim, 0),
                  make_random(seed, c->v, 3, k_dim, c->gap), make_tensor(c->y, 3, q_dim, c->gap),
                  NULL };

    if (c->has_mass) {
        t.mass = guard_alloc(c->n_keys * sizeof(*t.mass));
        for (size_t n = 0; n < c->n_keys; n++)
            t.mass[n] = 0.25f + (float)rng_below(seed, 9);
        guard_readonly(t.mass);
    }
    return t;
}

static void free_case(tensors *t)
{
    guard_free(t->q.data);
    guard_free(t->k.data);
    guard_free(t->v.data);
    guard_free(t->y.data);
    guard_free(t->mass);
}

/* One output row, by the definition. */
static void attend(const attention_case *c, const double *q, const double *k, const double *v,
                   const float *mass, double scale, double *y)
{
    double total = 0.0;

    memset(y, 0, c->d * sizeof(*y));
    for (size_t n = 0; n < c->n_keys; n++) {
        double logit = 0.0, p;

        for (size_t i = 0; i < c->d; i++)
            logit += scale * q[i] * k[n * c->d + i];
        p = exp(logit) * (mass == NULL ? 1.0 : mass[n]);
        for (size_t i = 0; i < c->d; i++)
            y[i] += p * v[n * c->d + i];
        total += p;
    }
    for (size_t i = 0; i < c->d; i++)
        y[i] /= total;
}

static double *expected(const attention_case *c, const tensors *t, double scale)
{
    double *q = values_of(&t->q), *k = values_of(&t->k), *v = values_of(&t->v);
    double *y = calloc(n_elements(&t->y) + 1, sizeof(*y));

    for (size_t h = 0; h < c->n_heads; h++)
        for (size_t r = 0; r < c->n_queries; r++) {
            const size_t row = (h * c->n_queries + r) * c->d, head = h * c->n_keys * c->d;

            attend(c, q + row, k + head, v + head, t->mass, scale, y + row);
        }
    free(q);
    free(k);
    free(v);
    return y;
}

static void run(tensors *t, float scale, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_proportional_attention_scratch(&t->q, &t->k, &t->v, &t->y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_proportional_attention(&t->q, &t->k, &t->v, t->mass, scale, &t->y, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
}

static void every_shape_and_dtype_equals_the_definition(void **state)
{
    const attention_case cases[] = {
        { 3, 100, 130, 16, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, true },
        { 2, 65, 64, 7, VTC_F16, VTC_F32, VTC_BF16, VTC_F32, 2, true },
        { 1, 1, 33, 5, VTC_F32, VTC_BF16, VTC_F16, VTC_F16, 1, false },
        { 4, 9, 1, 8, VTC_BF16, VTC_F16, VTC_F32, VTC_BF16, 0, true },
        { 2, 0, 6, 8, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, false },
        { 2, 0, 0, 8, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, false },
        { 0, 5, 5, 8, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, false },
    };
    uint64_t seed = 41;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        tensors t = make_case(&seed, &cases[i]);
        double *want = expected(&cases[i], &t, 0.75);

        run(&t, 0.75f, i % 4);
        assert_tensor_near(&t.y, want, 2e-6);
        free(want);
        free_case(&t);
    }
}

/* What the masses mean: a key of mass 3 counts like three equal keys. */
static void mass_counts_like_copies_of_a_key(void **state)
{
    const attention_case merged = { 1, 4, 3, 6, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, false };
    const attention_case copied = { 1, 4, 6, 6, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, false };
    const size_t row_of[6] = { 0, 1, 1, 1, 2, 2 };
    float mass[3] = { 1.0f, 3.0f, 2.0f };
    uint64_t seed = 42;
    tensors a = make_case(&seed, &merged), b = make_case(&seed, &copied);

    (void)state;
    guard_writable(b.q.data);
    guard_writable(b.k.data);
    guard_writable(b.v.data);
    memcpy(b.q.data, a.q.data, 24 * sizeof(float));
    for (size_t n = 0; n < 6; n++) {
        memcpy((float *)b.k.data + n * 6, (float *)a.k.data + row_of[n] * 6, 6 * sizeof(float));
        memcpy((float *)b.v.data + n * 6, (float *)a.v.data + row_of[n] * 6, 6 * sizeof(float));
    }
    a.mass = mass;
    run(&a, 1.0f, 0);
    a.mass = NULL;
    run(&b, 1.0f, 0);
    double *want = values_of(&b.y);

    assert_tensor_near(&a.y, want, 1e-6);
    free(want);
    free_case(&a);
    free_case(&b);
}

static void any_executor_gives_the_same_bits(void **state)
{
    const attention_case c = { 5, 150, 140, 24, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, true };
    uint64_t seed = 43;
    tensors t = make_case(&seed, &c);
    const vtc_tensor one = t.y;

    (void)state;
    run(&t, 0.2f, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        const size_t dim[3] = { 5, 150, 24 };

        t.y = make_tensor(VTC_F32, 3, dim, 0);
        run(&t, 0.2f, n_workers);
        assert_same_bits(&t.y, &one);
        guard_free(t.y.data);
    }
    t.y = one;
    free_case(&t);
}

static void refused(tensors *t, float scale, vtc_status status, const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_proportional_attention(&t->q, &t->k, &t->v, t->mass, scale, &t->y, &exec),
                  status, part);
    assert_untouched(&t->y);
}

static void bad_arguments_are_refused(void **state)
{
    const attention_case c = { 2, 4, 3, 6, VTC_F32, VTC_F32, VTC_F32, VTC_F32, 0, true };
    uint64_t seed = 44;
    tensors t = make_case(&seed, &c);
    const tensors good = t;

    (void)state;
    refused(&t, 1.0f, VTC_ERR_SCRATCH, "scratch");
    refused(&t, NAN, VTC_ERR_RANGE, "scale");
    t.k.dim[1] = t.v.dim[1] = 0;
    refused(&t, 1.0f, VTC_ERR_SHAPE, "4 queries, but no keys");
    t = good;
    t.v.dim[1] = 2;
    refused(&t, 1.0f, VTC_ERR_SHAPE, "v is [2, 2, 6], k is [2, 3, 6]");
    t = good;
    t.q.dim[2] = t.y.dim[2] = 5;
    refused(&t, 1.0f, VTC_ERR_SHAPE, "width 5");
    t = good;
    t.q.dtype = VTC_U8;
    refused(&t, 1.0f, VTC_ERR_DTYPE, "q has dtype U8");
    t = good;
    guard_writable(t.mass);
    t.mass[2] = 0.0f;
    refused(&t, 1.0f, VTC_ERR_DATA, "mass[2]");
    free_case(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_and_dtype_equals_the_definition),
        cmocka_unit_test(mass_counts_like_copies_of_a_key),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
