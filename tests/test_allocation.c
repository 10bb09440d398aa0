/*
 * No call of the library allocates. The allocator of this program counts calls while `armed`. The
 * matrix products are this file's own: OpenBLAS takes buffers, and some of its kernels for small
 * products call malloc() each time. (That the library's objects do not even refer to an allocator
 * is checked by check_symbols.sh.)
 */
#include "support/support.h"

#include <vtc/heap.h>

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

static atomic_int armed, n_calls;

static void *next_function(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void count_call(void)
{
    if (atomic_load(&armed))
        atomic_fetch_add(&n_calls, 1);
}

/* dlsym() itself may ask for memory before the real calloc() is known */
static char early[4096];
static size_t early_used;

void *malloc(size_t bytes)
{
    static void *(*real)(size_t);

    if (real == NULL)
        *(void **)&real = next_function("malloc");
    count_call();
    return real(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    static void *(*real)(size_t, size_t);
    static int asking;

    if (real == NULL && asking) {
        void *block = early + early_used;

        early_used += (n * bytes + 15) / 16 * 16;
        return early_used <= sizeof(early) ? block : NULL;
    }
    if (real == NULL) {
        asking = 1;
        *(void **)&real = next_function("calloc");
    }
    count_call();
    return real(n, bytes);
}

void *realloc(void *block, size_t bytes)
{
    static void *(*real)(void *, size_t);

    if (real == NULL)
        *(void **)&real = next_function("realloc");
    count_call();
    return real(block, bytes);
}

enum { N = 144, C = 64, D = 96, SIDE = 12, KEEP = 30 };

static float x_data[N * C], y_data[N * D], w_data[C * D], norm_data[C], q_data[2 * N * 32];

static void plain_sgemm(void *cookie, int trans_b, size_t m, size_t n, size_t k, const float *a,
                        size_t lda, const float *b, size_t ldb, float *c, size_t ldc)
{
    (void)cookie;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float sum = 0.0f;

            for (size_t l = 0; l < k; l++)
                sum += a[i * lda + l] * (trans_b ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = sum;
        }
}

/* One call of each kind: matrix products, workers' scratch, plans, pooling, an error message. */
static void run_everything(vtc_exec *exec, vtc_plan *plan, vtc_plan *unread)
{
    vtc_tensor x = vtc_f32_2d(x_data, N, C), y = vtc_f32_2d(y_data, N / 4, C);
    vtc_tensor kept = vtc_f32_2d(y_data, KEEP, C), z = vtc_f32_2d(y_data, N / 4, D);
    vtc_tensor q = vtc_f32_3d(q_data, 2, N, 32), a = vtc_f32_3d(y_data, 2, N, 32);
    vtc_gemma3_weights weights = { vtc_f32_1d(norm_data, C), vtc_f32_2d(w_data, C, D) };
    vtc_gemma3_params gemma = VTC_GEMMA3_PARAMS_INIT;
    vtc_pool2d_params pool = VTC_POOL2D_PARAMS_INIT;
    vtc_positions_params rule = VTC_POSITIONS_PARAMS_INIT;
    vtc_tensor ids = vtc_tensor_1d(y_data, VTC_I32, KEEP);
    vtc_attention_stats_out stats = VTC_ATTENTION_STATS_OUT_INIT;
    int64_t text_next;

    stats.col_mean = y_data;
    pool.grid_h = pool.grid_w = gemma.patches_per_side = SIDE;
    gemma.tokens_per_side = SIDE / 2;
    assert_int_equal(vtc_pool2d(&pool, &x, &y, exec), VTC_OK);
    assert_int_equal(vtc_gemma3_project(&gemma, &weights, &x, &z, exec), VTC_OK);
    assert_int_equal(vtc_tome_rounds(NULL, &x, NULL, KEEP, plan, exec), VTC_OK);
    assert_int_equal(vtc_plan_apply(plan, &x, &kept, exec), VTC_OK);
    assert_int_equal(vtc_plan_positions(&rule, plan, NULL, &ids, &text_next, exec), VTC_OK);
    assert_int_equal(vtc_random(NULL, N, KEEP, NULL, unread, exec), VTC_OK);
    assert_int_equal(vtc_proportional_attention(&q, &q, &q, NULL, 0.125f, &a, exec), VTC_OK);
    assert_int_equal(vtc_attention_stats(NULL, &q, &q, NULL, &stats, exec), VTC_OK);
    pool.grid_h = SIDE + 1;
    assert_int_equal(vtc_pool2d(&pool, &x, &y, exec), VTC_ERR_SHAPE);
}

static void no_call_allocates(void **state)
{
    const vtc_plan_count count = { N, N, N, 1 };
    vtc_plan plan = VTC_PLAN_INIT, unread = VTC_PLAN_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    uint64_t seed = 7;

    (void)state;
    rng_fill(&seed, x_data, N * C);
    rng_fill(&seed, w_data, C * D);
    rng_fill(&seed, q_data, 2 * N * 32);
    record_errors(&exec, &log);
    assert_int_equal(vtc_heap_plan(&plan, &count, NULL), VTC_OK);
    assert_int_equal(vtc_heap_plan(&unread, &count, NULL), VTC_OK);
    assert_int_equal(vtc_heap_scratch(&exec, (size_t)1 << 22), VTC_OK);

    exec.sgemm = plain_sgemm;
    atomic_store(&armed, 1);
    run_everything(&exec, &plan, &unread);
    atomic_store(&armed, 0);
    assert_int_equal(atomic_load(&n_calls), 0);

    vtc_heap_plan_free(&plan);
    vtc_heap_plan_free(&unread);
    vtc_heap_free(&exec);
}

static void the_counter_counts(void **state)
{
    void *volatile block;

    (void)state;
    atomic_store(&n_calls, 0);
    atomic_store(&armed, 1);
    block = malloc(100);
    atomic_store(&armed, 0);
    free(block);
    assert_int_equal(atomic_load(&n_calls), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_call_allocates),
        cmocka_unit_test(the_counter_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
