/* Projectors with prepared weights against the same with raw ones. */
#include "support/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };

/* ---- the models --------------------------------------------------------------------------------
 */

enum { MLP, MERGER, MLP1, INTERNVL, N_MODELS };

/* An 8 x 6 grid of C channels; 2 x 2 tokens join but for the MLP. */
enum { C = 20, H = 50, D = 33, GRID_H = 8, GRID_W = 6, N = GRID_H * GRID_W };

struct model {
    int kind;
    vtc_linear linear[2];
    vtc_mlp_residual residual;
    vtc_mlp_weights mlp;
    vtc_norm_mlp_weights norm_mlp;
    vtc_tensor x, y;
};

static struct model *make_model(uint64_t *seed, int kind, vtc_dtype weights, vtc_dtype tokens)
{
    struct model *m = calloc(1, sizeof(*m));
    const size_t x[3] = { 2, kind == MLP1 ? N / 4 : N, kind == MLP1 ? 4 * C : C };
    const size_t y[3] = { 2, kind == MLP ? N : N / 4, D };

    assert_non_null(m);
    m->kind = kind;
    m->x = make_random(seed, tokens, 3, x, 1);
    m->y = make_tensor(tokens, 3, y, 2);
    if (kind == MLP) {
        m->linear[0] = random_linear(seed, weights, H, C, true, 1);
        m->linear[1] = random_linear(seed, weights, D, H, false, 0);
        m->residual.pre_norm = random_norm(seed, weights, D, true);
        m->residual.fc1 = random_linear(seed, weights, D, D, true, 0);
        m->residual.fc2 = random_linear(seed, weights, D, D, true, 0);
        m->mlp = (vtc_mlp_weights){ m->linear, 2, &m->residual, 1 };
        return m;
    }
    m->norm_mlp = random_norm_mlp(seed, weights, kind == MERGER ? C : 4 * C, 4 * C, H, D, true);
    return m;
}

static void free_model(struct model *m)
{
    guard_free(m->x.data);
    guard_free(m->y.data);
    if (m->kind == MLP) {
        free_linear(&m->linear[0]);
        free_linear(&m->linear[1]);
        free_norm(&m->residual.pre_norm);
        free_linear(&m->residual.fc1);
        free_linear(&m->residual.fc2);
    } else {
        free_norm_mlp(&m->norm_mlp);
    }
    free(m);
}

/* The scratch query when `bytes`, else the call. */
static vtc_status call_model(struct model *m, const vtc_prepared *prepared, const vtc_exec *exec,
                             size_t *bytes)
{
    vtc_mlp_params mlp = VTC_MLP_PARAMS_INIT;
    vtc_mlp1_params mlp1 = VTC_MLP1_PARAMS_INIT;
    vtc_patch_merger_params merger = VTC_PATCH_MERGER_PARAMS_INIT;
    vtc_shuffle_projector_params shuffle = VTC_INTERNVL_PARAMS_INIT;

    mlp.prepared = mlp1.prepared = merger.prepared = shuffle.prepared = prepared;
    shuffle.grid_h = GRID_H;
    shuffle.grid_w = GRID_W;
    shuffle.class_token = VTC_CLASS_TOKEN_NONE;
    if (m->kind == MLP)
        return bytes != NULL ? vtc_mlp_scratch(&mlp, &m->mlp, &m->x, &m->y, exec, bytes)
                             : vtc_mlp(&mlp, &m->mlp, &m->x, &m->y, exec);
    if (m->kind == MERGER)
        return bytes != NULL
                   ? vtc_patch_merger_scratch(&merger, &m->norm_mlp, &m->x, &m->y, exec, bytes)
                   : vtc_patch_merger(&merger, &m->norm_mlp, &m->x, &m->y, exec);
    if (m->kind == MLP1)
        return bytes != NULL ? vtc_mlp1_scratch(&mlp1, &m->norm_mlp, &m->x, &m->y, exec, bytes)
                             : vtc_mlp1(&mlp1, &m->norm_mlp, &m->x, &m->y, exec);
    return bytes != NULL
               ? vtc_internvl_projector_scratch(&shuffle, &m->norm_mlp, &m->x, &m->y, exec, bytes)
               : vtc_internvl_projector(&shuffle, &m->norm_mlp, &m->x, &m->y, exec);
}

static vtc_status prepare_size(const struct model *m, const vtc_exec *exec, size_t *bytes)
{
    return m->kind == MLP ? vtc_mlp_prepare_size(&m->mlp, exec, bytes)
                          : vtc_norm_mlp_prepare_size(&m->norm_mlp, exec, bytes);
}

static vtc_status prepare(const struct model *m, vtc_prepared *prepared, const vtc_exec *exec)
{
    return m->kind == MLP ? vtc_mlp_prepare(&m->mlp, prepared, exec)
                          : vtc_norm_mlp_prepare(&m->norm_mlp, prepared, exec);
}

/* In exactly the memory it asks for, read-only from then on. */
static vtc_prepared make_prepared(const struct model *m, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    vtc_prepared prepared = { NULL, 0 };

    assert_int_equal(prepare_size(m, &exec, &prepared.bytes), VTC_OK);
    prepared.data = guard_alloc(prepared.bytes);
    poison(prepared.data, prepared.bytes);
    assert_int_equal(prepare(m, &prepared, &exec), VTC_OK);
    guard_readonly(prepared.data);
    return prepared;
}

static void run(struct model *m, const vtc_prepared *prepared, size_t n_workers)
{
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(call_model(m, prepared, &exec, &bytes), VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(call_model(m, prepared, &exec, NULL), VTC_OK);
    exec_scratch_free(&exec);
}

/* ---- facts -------------------------------------------------------------------------------------
 */

static void check_agreement(struct model *m)
{
    vtc_prepared prepared = make_prepared(m, 2);
    const vtc_tensor raw = m->y;

    run(m, NULL, 1);
    m->y = make_tensor(raw.dtype, 3, raw.dim, 2);
    run(m, &prepared, 1);
    /* a 16-bit result may fall on the other side of a tie */
    assert_tensors_near(&m->y, &raw,
                        raw.dtype == VTC_F32   ? 2e-6
                        : raw.dtype == VTC_F16 ? 5e-4
                                               : 4e-3);
    for (size_t n = 0; n < 6; n += n == 0 ? 2 : 3) {
        const vtc_tensor one = m->y;

        m->y = make_tensor(raw.dtype, 3, raw.dim, 2);
        run(m, &prepared, n);
        assert_same_bits(&one, &m->y);
        guard_free(m->y.data);
        m->y = one;
    }
    guard_free(raw.data);
    guard_free(prepared.data);
}

static void results_agree_with_raw_weights(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (int kind = 0; kind < N_MODELS; kind++)
        for (int mix = 0; mix < 9; mix++) {
            struct model *m = make_model(&seed, kind, dtypes[mix % 3], dtypes[mix / 3]);

            check_agreement(m);
            free_model(m);
        }
}

static void any_number_of_workers_prepares_the_same_bytes(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct model *m = make_model(&seed, kind, VTC_F16, VTC_F32);
        const vtc_prepared a = make_prepared(m, 1), b = make_prepared(m, 5);

        assert_int_equal(a.bytes, b.bytes);
        guard_free(a.data);
        guard_free(b.data);
        free_model(m);
    }
}

/* Before the object exists its bytes can be counted with, and the scratch asked for. */
static void a_query_needs_no_object(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int kind = 0; kind < N_MODELS; kind++) {
        struct model *m = make_model(&seed, kind, VTC_F32, VTC_F32);
        const vtc_prepared prepared = make_prepared(m, 1), none = { NULL, 0 };
        vtc_exec exec = test_exec(2);
        size_t with, without;

        assert_int_equal(call_model(m, &prepared, &exec, &with), VTC_OK);
        assert_int_equal(call_model(m, &none, &exec, &without), VTC_OK);
        assert_int_equal(with, without);
        guard_free(prepared.data);
        free_model(m);
    }
}

static void an_object_of_other_weights_is_refused(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (int kind = 0; kind < N_MODELS; kind++) {
        struct model *m = make_model(&seed, kind, VTC_F32, VTC_F32);
        struct model *other = make_model(&seed, kind, VTC_BF16, VTC_F32);
        const vtc_prepared prepared = make_prepared(other, 1), none = { NULL, 0 };
        vtc_exec exec = test_exec(1);
        error_log log;

        record_errors(&exec, &log);
        assert_failed(&log, call_model(m, &prepared, &exec, NULL), VTC_ERR_DATA, "other shapes");
        record_errors(&exec, &log);
        assert_failed(&log, call_model(m, &none, &exec, NULL), VTC_ERR_NULL, "prepared.data");
        assert_untouched(&m->y);
        guard_free(prepared.data);
        free_model(m);
        free_model(other);
    }
}

static void too_little_room_is_refused(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct model *m = make_model(&seed, kind, VTC_F32, VTC_F32);
        vtc_exec exec = test_exec(1);
        vtc_prepared prepared;
        error_log log;

        record_errors(&exec, &log);
        assert_int_equal(prepare_size(m, &exec, &prepared.bytes), VTC_OK);
        prepared.data = guard_alloc(prepared.bytes);
        poison(prepared.data, prepared.bytes);
        prepared.bytes -= 1;
        assert_failed(&log, prepare(m, &prepared, &exec), VTC_ERR_ROOM, "needs");
        record_errors(&exec, &log);
        assert_failed(&log, prepare(m, NULL, &exec), VTC_ERR_NULL, "prepared is NULL");
        assert_true(is_poisoned(prepared.data, prepared.bytes));
        guard_free(prepared.data);
        free_model(m);
    }
}

static void y_may_not_lie_in_the_object(void **state)
{
    uint64_t seed = 6;
    struct model *m = make_model(&seed, MLP, VTC_F32, VTC_F32);
    vtc_prepared prepared = make_prepared(m, 1);
    const vtc_tensor y = m->y;
    vtc_exec exec = test_exec(1);
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    m->y.data = (char *)prepared.data + 64;
    assert_failed(&log, call_model(m, &prepared, &exec, NULL), VTC_ERR_OVERLAP, "prepared");
    m->y = y;
    guard_free(prepared.data);
    free_model(m);
}

static void missing_weights_are_named(void **state)
{
    const vtc_norm_mlp_weights none = { { { 0 }, { 0 } }, { { 0 }, { 0 } }, { { 0 }, { 0 } } };
    vtc_exec exec = test_exec(1);
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_norm_mlp_prepare_size(NULL, &exec, &bytes), VTC_ERR_NULL, "weights");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_norm_mlp_prepare_size(&none, &exec, &bytes), VTC_ERR_DTYPE,
                  "fc1.weight");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_mlp_prepare_size(NULL, &exec, &bytes), VTC_ERR_NULL, "weights");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_agree_with_raw_weights),
        cmocka_unit_test(any_number_of_workers_prepares_the_same_bytes),
        cmocka_unit_test(a_query_needs_no_object),
        cmocka_unit_test(an_object_of_other_weights_is_refused),
        cmocka_unit_test(too_little_room_is_refused),
        cmocka_unit_test(y_may_not_lie_in_the_object),
        cmocka_unit_test(missing_weights_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
