/* VLoRA's factors in a linear layer. */
#include "reference/vlora_reference.h"
#include "support/files.h"
#include "support/models.h"
#include "support/weights.h"

#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

typedef struct layer_case {
    size_t n_batch, n, c, d, r; /* n_batch 0: no batch axis */
    bool own;                   /* factors of each batch item its own */
    bool separate;              /* rows of batch items have no common distance */
    weight_set set;
    vtc_linear linear;
    vtc_tensor a, b, x;
} layer_case;

static void make_case(layer_case *k, uint64_t *seed, vtc_dtype from, bool mixed)
{
    const size_t dim[] = { k->n_batch, k->n, k->c }, a_dim[] = { k->n_batch, k->c, k->r };
    const bool batched = k->n_batch != 0;

    memset(&k->set, 0, sizeof(k->set));
    k->set.seed = rng(seed);
    k->set.mixed = mixed;
    k->set.gap = mixed ? 2 : 0;
    k->linear = linear_of(&k->set, k->d, k->c);
    k->a = k->own ? make_random(seed, VTC_F16, 3, a_dim, 1) : matrix_of(&k->set, k->c, k->r);
    k->b = matrix_of(&k->set, k->d, k->r);
    k->x = batched ? make_random(seed, from, 3, dim, k->separate ? 2 : 0)
                   : make_random(seed, from, 2, dim + 1, k->separate ? 2 : 0);
}

static void free_case(layer_case *k)
{
    if (k->own)
        guard_free(k->a.data);
    guard_free(k->x.data);
    weights_free(&k->set);
}

static vtc_tensor make_output(const layer_case *k, vtc_dtype to)
{
    const size_t dim[] = { k->n_batch, k->n, k->d };

    return k->n_batch != 0 ? make_tensor(to, 3, dim, k->separate ? 3 : 0)
                           : make_tensor(to, 2, dim + 1, k->separate ? 3 : 0);
}

static void apply(const layer_case *k, bool adds, vtc_tensor *y, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    if (adds) {
        assert_int_equal(vtc_vlora_add_scratch(&k->a, &k->b, &k->x, y, &exec, &bytes), VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_vlora_add(&k->a, &k->b, &k->x, y, &exec), VTC_OK);
    } else {
        assert_int_equal(vtc_vlora_linear_scratch(&k->linear, &k->a, &k->b, &k->x, y, &exec,
                                                  &bytes),
                         VTC_OK);
        exec_scratch(&exec, bytes);
        assert_int_equal(vtc_vlora_linear(&k->linear, &k->a, &k->b, &k->x, y, &exec), VTC_OK);
    }
    exec_scratch_free(&exec);
}

/* y += (x A) B^T for each batch item. */
static void add_expected(const layer_case *k, double *y)
{
    const size_t n_batch = k->n_batch == 0 ? 1 : k->n_batch;
    double *x = values_of(&k->x);

    for (size_t b = 0; b < n_batch; b++) {
        vtc_tensor a = k->a;

        if (k->own) {
            a = vtc_tensor_2d((const uint16_t *)a.data + b * a.stride[0], a.dtype, a.dim[1],
                              a.dim[2]);
            a.stride[0] = k->a.stride[1];
        }
        ref_low_rank(y + b * k->n * k->d, x + b * k->n * k->c, k->n, &a, &k->b);
    }
    free(x);
}

static void check_case(layer_case *k, uint64_t *seed)
{
    const vtc_dtype to = dtypes[rng_below(seed, 3)];
    vtc_tensor y = make_output(k, to);
    double *want = apply_linear(&k->linear, values_of(&k->x), n_elements(&k->x) / k->c), *again;

    add_expected(k, want);
    apply(k, false, &y, rng_below(seed, 6));
    assert_tensor_near(&y, want, 2e-5);
    again = values_of(&y);
    add_expected(k, again);
    apply(k, true, &y, rng_below(seed, 6));
    assert_tensor_near(&y, again, 2e-5);
    free(want);
    free(again);
    guard_free(y.data);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void any_shape_and_dtype_matches_the_definition(void **state)
{
    uint64_t seed = 951;

    (void)state;
    for (int i = 0; i < 200; i++) {
        layer_case k = { .n_batch = rng_below(&seed, 5),
                         .n = rng_below(&seed, 6),
                         .c = 1 + rng_below(&seed, 30),
                         .d = 1 + rng_below(&seed, 30),
                         .r = rng_below(&seed, 8),
                         .separate = rng_below(&seed, 2) == 0 };

        k.own = k.n_batch != 0 && rng_below(&seed, 2) == 0;
        make_case(&k, &seed, dtypes[rng_below(&seed, 3)], i % 2 == 0);
        check_case(&k, &seed);
        free_case(&k);
    }
}

static void many_rows_match_the_definition(void **state)
{
    uint64_t seed = 952;

    (void)state;
    for (int i = 0; i < 4; i++) {
        layer_case k = {
            .n_batch = 3, .n = 400, .c = 7, .d = 9, .r = 3, .own = i % 2 == 0, .separate = i < 2
        };

        make_case(&k, &seed, VTC_F32, false);
        check_case(&k, &seed);
        free_case(&k);
    }
}

static void any_executor_gives_the_same_bits(void **state)
{
    uint64_t seed = 953;
    layer_case k = { .n_batch = 2, .n = 30, .c = 70, .d = 500, .r = 9, .own = true };

    (void)state;
    make_case(&k, &seed, VTC_F32, true);
    vtc_tensor want = make_output(&k, VTC_F32);

    apply(&k, false, &want, 0);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += n_workers == 1 ? 1 : 3) {
        vtc_tensor y = make_output(&k, VTC_F32);

        apply(&k, false, &y, n_workers);
        assert_same_bits(&y, &want);
        guard_free(y.data);
    }
    guard_free(want.data);
    free_case(&k);
}

static vtc_tensor merged(const vtc_tensor *w, const vtc_tensor *a, const vtc_tensor *b,
                         vtc_dtype to, size_t gap)
{
    vtc_tensor y = make_tensor(to, 2, (const size_t[]){ b->dim[0], a->dim[0] }, gap);
    vtc_exec exec = test_exec(2);
    size_t bytes;

    assert_int_equal(vtc_vlora_merge_scratch(w, a, b, &y, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_vlora_merge(w, a, b, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

static void a_merged_weight_is_the_layer_with_its_increment(void **state)
{
    uint64_t seed = 954;

    (void)state;
    for (int i = 0; i < 40; i++) {
        layer_case k = { .n = 1 + rng_below(&seed, 5),
                         .c = 1 + rng_below(&seed, 20),
                         .d = 1 + rng_below(&seed, 20),
                         .r = 1 + rng_below(&seed, 6) };

        make_case(&k, &seed, VTC_F32, i % 2 == 0);
        const vtc_tensor w = merged(&k.linear.weight, &k.a, &k.b, VTC_F32, 1);
        const vtc_linear dense = { w, k.linear.bias };
        double *want = apply_linear(&dense, values_of(&k.x), k.n);
        vtc_tensor y = make_output(&k, VTC_F32);

        apply(&k, false, &y, 1);
        assert_tensor_near(&y, want, 3e-5);
        free(want);
        guard_free(w.data);
        guard_free(y.data);
        free_case(&k);
    }
}

static void the_increment_alone_is_b_times_a(void **state)
{
    uint64_t seed = 955;
    layer_case k = { .n = 3, .c = 11, .d = 6, .r = 4 };

    (void)state;
    make_case(&k, &seed, VTC_F32, true);
    const vtc_tensor y = merged(NULL, &k.a, &k.b, VTC_BF16, 2);
    double *a = values_of(&k.a), *b = values_of(&k.b), *want = values_of(&y);

    for (size_t i = 0; i < 6 * 11; i++) {
        want[i] = 0.0;
        for (size_t j = 0; j < 4; j++)
            want[i] += b[i / 11 * 4 + j] * a[i % 11 * 4 + j];
    }
    assert_tensor_near(&y, want, 1e-5);
    free(a);
    free(b);
    free(want);
    guard_free(y.data);
    free_case(&k);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void what_does_not_fit_is_refused(void **state)
{
    uint64_t seed = 956;
    layer_case k = { .n_batch = 2, .n = 3, .c = 5, .d = 4, .r = 2, .own = true };
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    make_case(&k, &seed, VTC_F32, false);
    vtc_tensor y = make_output(&k, VTC_F32), bad;
    vtc_linear linear = k.linear;

    exec_scratch(&exec, 1 << 14);
    record_errors(&exec, &log);
    assert_refused(&log, vtc_vlora_linear(NULL, &k.a, &k.b, &k.x, &y, &exec), VTC_ERR_NULL,
                   "linear is NULL");
    assert_refused(&log, vtc_vlora_add(NULL, &k.b, &k.x, &y, &exec), VTC_ERR_NULL, "a is NULL");
    bad = k.a;
    bad.dim[0] = 1;
    assert_refused(&log, vtc_vlora_add(&bad, &k.b, &k.x, &y, &exec), VTC_ERR_SHAPE,
                   "a has 1 batch items, x has 2");
    bad = k.a;
    bad.dim[2] = 1;
    assert_refused(&log, vtc_vlora_add(&bad, &k.b, &k.x, &y, &exec), VTC_ERR_SHAPE,
                   "a has rank 1, b 2");
    bad = k.b;
    bad.dim[0] = 3;
    assert_refused(&log, vtc_vlora_add(&k.a, &bad, &k.x, &y, &exec), VTC_ERR_SHAPE,
                   "b has 3 rows, its layer gives 4 channels");
    linear.weight.dim[1] = 4;
    assert_refused(&log, vtc_vlora_linear(&linear, &k.a, &k.b, &k.x, &y, &exec), VTC_ERR_SHAPE,
                   "linear.weight is 4x4, 4x5");
    bad = y;
    bad.dim[1] = 2;
    assert_refused(&log, vtc_vlora_add(&k.a, &k.b, &k.x, &bad, &exec), VTC_ERR_SHAPE,
                   "x has rank 3 and 3 rows");
    bad = y;
    bad.data = k.x.data;
    assert_refused(&log, vtc_vlora_add(&k.a, &k.b, &k.x, &bad, &exec), VTC_ERR_OVERLAP,
                   "y overlaps x");
    bad = vtc_tensor_2d(y.data, VTC_F32, 4, 5);
    assert_refused(&log, vtc_vlora_merge(NULL, &k.a, &k.b, &bad, &exec), VTC_ERR_SHAPE,
                   "a has rank 3");
    assert_untouched(&y);
    exec_scratch_free(&exec);
    guard_free(y.data);
    free_case(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_and_dtype_matches_the_definition),
        cmocka_unit_test(many_rows_match_the_definition),
        cmocka_unit_test(any_executor_gives_the_same_bits),
        cmocka_unit_test(a_merged_weight_is_the_layer_with_its_increment),
        cmocka_unit_test(the_increment_alone_is_b_times_a),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
