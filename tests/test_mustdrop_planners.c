/* MustDrop's rows of the planner table, over batches. */
#include "support/tensors.h"

#include "reference/plan_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* With exactly the scratch and the room it asks for. */
static vtc_plan run(const vtc_planner *planner, const void *params, const vtc_plan_inputs *inputs,
                    const vtc_budget *budget, int32_t *out_begin, vtc_plan_count *count)
{
    vtc_exec exec = test_exec(2);
    size_t bytes;

    assert_int_equal(vtc_planner_count(planner, params, inputs, budget, count, &exec), VTC_OK);
    assert_int_equal(vtc_planner_scratch(planner, params, inputs, budget, &exec, &bytes), VTC_OK);

    vtc_plan plan = empty_plan(count->n_in, count->n_out, count->n_nnz);

    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_planner_plan(planner, params, inputs, budget, &plan, out_begin, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    assert_int_equal(vtc_plan_validate(&plan, NULL), VTC_OK);
    assert_true(plan.n_out <= count->n_out && (!count->exact || plan.n_out == count->n_out));
    return plan;
}

static void refused(const vtc_planner *planner, const void *params, const vtc_plan_inputs *inputs,
                    size_t n_keep, vtc_status status, const char *part)
{
    const vtc_budget budget = vtc_budget_keep(n_keep);
    vtc_plan plan = empty_plan(300, 300, 300);
    vtc_exec exec = test_exec(1);
    error_log log;

    exec_scratch(&exec, 1 << 20);
    record_errors(&exec, &log);
    poison(plan.keep, 300 * sizeof(int32_t));
    poison(plan.begin, 301 * sizeof(int32_t));
    assert_failed(&log, vtc_planner_plan(planner, params, inputs, &budget, &plan, NULL, &exec),
                  status, part);
    assert_true(is_poisoned(plan.keep, 300 * sizeof(int32_t)));
    assert_true(is_poisoned(plan.begin, 301 * sizeof(int32_t)));
    exec_scratch_free(&exec);
    free_plan(&plan);
}

/* ---- encode ---------------------------------------------------------------------------------- */

enum { GRID_H = 6, GRID_W = 9, N = GRID_H * GRID_W, N_IMAGES = 3, C = 5, N_WINDOWS = 6 };

typedef struct crops {
    vtc_tensor x;
    int32_t begin[N_IMAGES + 1];
    vtc_plan_inputs inputs;
} crops;

/* Image b has b + 1 windows of alike tokens. */
static void open_crops(uint64_t *seed, crops *c)
{
    const vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    const size_t dim[2] = { N_IMAGES * N, C };

    c->x = make_tensor(VTC_F32, 2, dim, 1);
    for (size_t i = 0; i < N_IMAGES * N * C; i++) {
        const size_t cell = i / C % N, image = i / C / N;
        const size_t window = cell / GRID_W / 3 * 3 + cell % GRID_W / 3;
        const bool alike = (window + image) % N_WINDOWS <= image;

        ((float *)c->x.data)[element_at(&c->x, i)] =
            rng_f32(seed) * (alike ? 0.1f : 1.0f) + (alike ? 1.0f : 0.0f);
    }
    for (int32_t b = 0; b <= N_IMAGES; b++)
        c->begin[b] = b * N;
    c->inputs = inputs;
    c->inputs.features = &c->x;
    c->inputs.begin = c->begin;
    c->inputs.n_images = N_IMAGES;
    c->inputs.grid_h = GRID_H;
    c->inputs.grid_w = GRID_W;
}

/* The typed call on the same images. */
static void assert_typed(const crops *c, const vtc_mustdrop_encode_params *params,
                         const vtc_plan *got, const int32_t *out_begin)
{
    vtc_tensor hidden = c->x;
    vtc_plan plan[N_IMAGES], *list[N_IMAGES],
        joined = empty_plan(N_IMAGES * N, N_IMAGES * N, N_IMAGES * N);
    const vtc_plan *parts[N_IMAGES];
    vtc_exec exec = test_exec(1);

    hidden.rank = 3;
    hidden.dim[0] = N_IMAGES;
    hidden.dim[1] = N;
    hidden.dim[2] = C;
    hidden.stride[2] = 1;
    hidden.stride[1] = c->x.stride[0];
    hidden.stride[0] = N * c->x.stride[0];
    for (size_t b = 0; b < N_IMAGES; b++) {
        plan[b] = empty_plan(N, N, N);
        list[b] = &plan[b];
        parts[b] = &plan[b];
    }
    exec_scratch(&exec, 1 << 16);
    assert_int_equal(vtc_mustdrop_encode(params, &hidden, GRID_H, GRID_W, NULL, list, NULL, &exec),
                     VTC_OK);
    assert_int_equal(vtc_plan_concat(&joined, parts, N_IMAGES, NULL), VTC_OK);
    assert_int_equal(got->n_out, joined.n_out);
    assert_memory_equal(got->fate, joined.fate, N_IMAGES * N * sizeof(int32_t));
    assert_memory_equal(got->score, joined.score, N_IMAGES * N * sizeof(float));
    for (size_t b = 0; b < N_IMAGES; b++) {
        assert_int_equal((size_t)(out_begin[b + 1] - out_begin[b]), plan[b].n_out);
        free_plan(&plan[b]);
    }
    free_plan(&joined);
    exec_scratch_free(&exec);
}

static void a_budget_merges_as_many_windows_of_every_image(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-encode");
    vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    uint64_t seed = 1;
    crops c;

    (void)state;
    open_crops(&seed, &c);
    params.prefix = 0;
    for (size_t n_keep = 6; n_keep <= N; n_keep++) {
        const vtc_budget budget = vtc_budget_keep(n_keep);
        int32_t out_begin[N_IMAGES + 1];
        vtc_plan_count count;
        vtc_plan plan = run(planner, NULL, &c.inputs, &budget, out_begin, &count);

        assert_int_equal(vtc_mustdrop_target(&params, GRID_H, GRID_W, n_keep, &params.n_merge,
                                             NULL),
                         VTC_OK);
        assert_int_equal(params.n_merge, (N - n_keep) / 8);
        assert_true(count.exact && count.n_out == N_IMAGES * (N - 8 * params.n_merge));
        assert_typed(&c, &params, &plan, out_begin);
        free_plan(&plan);
    }
    guard_free(c.x.data);
}

static void by_threshold_the_poorest_image_binds_all(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-encode");
    vtc_mustdrop_encode_planner_params row = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;
    vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    const vtc_budget any = vtc_budget_keep(1);
    int32_t out_begin[N_IMAGES + 1];
    uint64_t seed = 2;
    vtc_plan_count count;
    crops c;

    (void)state;
    open_crops(&seed, &c);
    row.use_threshold = 1;
    params.prefix = 0;
    for (int per_image = 0; per_image < 2; per_image++)
        for (int raster = 0; raster < 2; raster++) {
            params.per_image = row.per_image = per_image;
            params.raster_order = row.raster_order = raster;
            vtc_plan plan = run(planner, &row, &c.inputs, &any, out_begin, &count);

            assert_true(!count.exact && count.n_out == N_IMAGES * N);
            assert_int_equal(plan.n_out, N_IMAGES * N - 8 * (per_image ? 1 + 2 + 3 : 3));
            assert_typed(&c, &params, &plan, out_begin);
            free_plan(&plan);
        }
    guard_free(c.x.data);
}

static void a_budget_bounds_the_threshold_from_below(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-encode");
    vtc_mustdrop_encode_planner_params row = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;
    const vtc_budget most = vtc_budget_keep(N - 16), all = vtc_budget_keep(N);
    uint64_t seed = 3;
    vtc_plan_count count;
    crops c;

    (void)state;
    open_crops(&seed, &c);
    row.use_threshold = row.per_image = 1;
    vtc_plan plan = run(planner, &row, &c.inputs, &most, NULL, &count);

    assert_int_equal(plan.n_out, N_IMAGES * N - 8 * (1 + 2 + 2));
    free_plan(&plan);
    plan = run(planner, &row, &c.inputs, &all, NULL, &count);
    assert_true(plan.n_out == N_IMAGES * N && count.exact && count.n_nnz == 0);
    free_plan(&plan);
    guard_free(c.x.data);
}

static void one_image_of_a_batch_is_as_alone(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-encode");
    vtc_mustdrop_encode_planner_params row = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;
    const vtc_budget any = vtc_budget_keep(1);
    uint64_t seed = 4;
    vtc_plan_count count;
    crops c;

    (void)state;
    open_crops(&seed, &c);
    row.use_threshold = 1;
    c.inputs.begin = NULL;
    c.x.dim[0] = N;
    vtc_plan plan = run(planner, &row, &c.inputs, &any, NULL, &count);

    assert_int_equal(plan.n_out, N - 8);
    free_plan(&plan);
    guard_free(c.x.data);
}

static void encode_refuses_what_it_cannot_do(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-encode");
    vtc_mustdrop_encode_planner_params row = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;
    uint64_t seed = 5;
    crops c;

    (void)state;
    open_crops(&seed, &c);
    row.win_h = 2;
    refused(planner, &row, &c.inputs, 3, VTC_ERR_BUDGET, "merging all 9 windows leaves 9");
    row.win_h = 3;
    refused(planner, &row, &c.inputs, 0, VTC_ERR_BUDGET, "merging all 6 windows leaves 6");
    refused(planner, &row, &c.inputs, 5, VTC_ERR_BUDGET, "merging all 6 windows leaves 6");
    refused(planner, NULL, &c.inputs, N + 1, VTC_ERR_BUDGET, "cannot keep 55 of 54 rows");
    row.win_w = 2;
    refused(planner, &row, &c.inputs, 40, VTC_ERR_SHAPE, "6 x 9 is no whole number of windows");
    ((float *)c.x.data)[element_at(&c.x, (2 * N + 7) * C)] = NAN;
    refused(planner, NULL, &c.inputs, 40, VTC_ERR_DATA, "not finite");
    row.win_w = 3;
    row.use_threshold = 1;
    refused(planner, &row, &c.inputs, 1, VTC_ERR_DATA, "not finite");
    c.inputs.grid_h = 0;
    refused(planner, NULL, &c.inputs, 40, VTC_ERR_NULL, "lack grid");
    guard_free(c.x.data);
}

static void defaults_are_those_of_the_macros(void **state)
{
    const vtc_mustdrop_encode_planner_params e = VTC_MUSTDROP_ENCODE_PLANNER_PARAMS_INIT;
    const vtc_mustdrop_prefill_planner_params p = VTC_MUSTDROP_PREFILL_PLANNER_PARAMS_INIT;
    vtc_mustdrop_encode_planner_params encode;
    vtc_mustdrop_prefill_planner_params prefill;

    (void)state;
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("mustdrop-encode"), &encode, NULL),
                     VTC_OK);
    assert_int_equal(vtc_planner_params_init(vtc_planner_find("mustdrop-prefill"), &prefill, NULL),
                     VTC_OK);
    assert_true(encode.struct_size == e.struct_size && encode.win_h == 3 && encode.win_w == 3 &&
                encode.use_threshold == 0 && encode.threshold == e.threshold &&
                encode.per_image == 0 && encode.raster_order == 0 && encode.ragged_edges == 0);
    assert_true(prefill.struct_size == p.struct_size && prefill.use_thresholds == 0 &&
                prefill.global_thr == p.global_thr && prefill.individual_thr == p.individual_thr);
}

/* ---- prefill --------------------------------------------------------------------------------- */

enum {
    HEADS = 4,
    GROUPS = 2,
    D = 6,
    V_START = 3,
    N_TEXT = 7,
    ROWS = 50,
    L = V_START + ROWS + N_TEXT
};

typedef struct prompt {
    vtc_tensor q, k, text;
    int32_t begin[N_IMAGES + 1], keys[5];
    vtc_plan_inputs inputs;
} prompt;

static void open_prompt(uint64_t *seed, prompt *p)
{
    static const int32_t begin[N_IMAGES + 1] = { 0, 20, 20, ROWS }, keys[5] = { 0, 7, 19, 20, 49 };
    const size_t q_dim[3] = { HEADS, L, D }, k_dim[3] = { GROUPS, L, D };
    const vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;

    p->q = make_random(seed, VTC_F32, 3, q_dim, 1);
    p->k = make_random(seed, VTC_F16, 3, k_dim, 2);
    p->text = p->q;
    p->text.dim[1] = N_TEXT;
    p->text.data = (float *)p->q.data + (L - N_TEXT) * p->q.stride[1];
    memcpy(p->begin, begin, sizeof(begin));
    memcpy(p->keys, keys, sizeof(keys));
    p->inputs = inputs;
    p->inputs.n_rows = ROWS;
    p->inputs.lm_query = &p->q;
    p->inputs.lm_keys = &p->k;
    p->inputs.v_start = V_START;
    p->inputs.n_text = N_TEXT;
}

static void free_prompt(prompt *p)
{
    guard_free(p->q.data);
    guard_free(p->k.data);
}

/* The typed call on rows first .. first + n - 1 of the prompt. */
static vtc_plan typed(const prompt *p, const vtc_mustdrop_prefill_params *from, size_t first,
                      size_t n, const int32_t *keys, size_t n_keys)
{
    vtc_mustdrop_prefill_params params = *from;
    vtc_plan plan = empty_plan(n, n, 0);
    vtc_exec exec = test_exec(1);

    params.v_start = V_START + first;
    params.vision_only = 1;
    exec_scratch(&exec, 1 << 18);
    assert_int_equal(vtc_mustdrop_prefill(&params, &p->text, &p->k, NULL, n, keys, n_keys, NULL,
                                          &plan, NULL, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    return plan;
}

static void assert_rows(const vtc_plan *got, size_t out, const vtc_plan *want, size_t first)
{
    for (size_t j = 0; j < want->n_out; j++)
        assert_int_equal(got->keep[out + j], (size_t)want->keep[j] + first);
    assert_memory_equal(got->score + first, want->score, want->n_in * sizeof(float));
}

static void a_budget_counts_before_the_key_rows_join(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-prefill");
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    uint64_t seed = 6;
    vtc_plan_count count;
    prompt p;

    (void)state;
    open_prompt(&seed, &p);
    params.global_thr = params.individual_thr = 0.001f;
    for (size_t n_keep = 0; n_keep <= ROWS; n_keep += 5) {
        const vtc_budget budget = vtc_budget_keep(n_keep);

        params.n_keep = n_keep;
        p.inputs.key_rows = NULL;
        vtc_plan plan = run(planner, NULL, &p.inputs, &budget, NULL, &count);
        vtc_plan want = typed(&p, &params, 0, ROWS, NULL, 0);

        assert_true(count.exact && plan.n_out == n_keep);
        assert_rows(&plan, 0, &want, 0);
        free_plan(&plan);
        free_plan(&want);
        p.inputs.key_rows = p.keys;
        p.inputs.n_key_rows = 5;
        plan = run(planner, NULL, &p.inputs, &budget, NULL, &count);
        want = typed(&p, &params, 0, ROWS, p.keys, 5);
        assert_true(plan.n_out == want.n_out && plan.n_out >= n_keep && plan.n_out <= n_keep + 5);
        assert_rows(&plan, 0, &want, 0);
        free_plan(&plan);
        free_plan(&want);
    }
    free_prompt(&p);
}

static void every_image_has_its_own_budget_and_key_rows(void **state)
{
    static const int32_t first_keys[3] = { 0, 7, 19 }, last_keys[2] = { 0, 29 };
    const vtc_planner *planner = vtc_planner_find("mustdrop-prefill");
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    const vtc_budget budget = vtc_budget_keep_ratio(0.2);
    int32_t out_begin[N_IMAGES + 1];
    uint64_t seed = 7;
    vtc_plan_count count;
    prompt p;

    (void)state;
    open_prompt(&seed, &p);
    p.inputs.begin = p.begin;
    p.inputs.n_images = N_IMAGES;
    p.inputs.key_rows = p.keys;
    p.inputs.n_key_rows = 5;
    params.global_thr = params.individual_thr = 0.001f;
    vtc_plan plan = run(planner, NULL, &p.inputs, &budget, out_begin, &count);

    params.n_keep = 4;
    vtc_plan first = typed(&p, &params, 0, 20, first_keys, 3);
    params.n_keep = 6;
    vtc_plan last = typed(&p, &params, 20, 30, last_keys, 2);

    assert_int_equal(plan.n_out, first.n_out + last.n_out);
    assert_true(out_begin[1] == (int32_t)first.n_out && out_begin[2] == out_begin[1] &&
                out_begin[3] == (int32_t)plan.n_out);
    assert_rows(&plan, 0, &first, 0);
    assert_rows(&plan, first.n_out, &last, 20);
    free_plan(&plan);
    free_plan(&first);
    free_plan(&last);
    free_prompt(&p);
}

static void text_rows_alone_and_log_sum_exps_serve_too(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-prefill");
    const vtc_budget budget = vtc_budget_keep(11);
    const size_t lse_dim[2] = { HEADS, L };
    uint64_t seed = 8;
    vtc_plan_count count;
    prompt p;

    (void)state;
    open_prompt(&seed, &p);
    vtc_plan want = run(planner, NULL, &p.inputs, &budget, NULL, &count);
    vtc_tensor lse = make_tensor(VTC_F32, 2, lse_dim, 0);

    for (size_t i = 0; i < HEADS * L; i++) {
        const size_t h = i / L, m = i % L;
        const float *q = (const float *)p.q.data + h * p.q.stride[0] + m * p.q.stride[1];
        double sum = 0.0;

        for (size_t j = 0; j <= m; j++) {
            double dot = 0.0;

            for (size_t c = 0; c < D; c++)
                dot += q[c] * (double)get_element(p.k.data, VTC_F16,
                                                  h / 2 * p.k.stride[0] + j * p.k.stride[1] + c);
            sum += exp(dot / sqrt((double)D));
        }
        ((float *)lse.data)[i] = (float)log(sum);
    }
    p.inputs.lm_query = NULL;
    p.inputs.text_query = &p.text;
    p.inputs.n_text = 0;
    vtc_plan text = run(planner, NULL, &p.inputs, &budget, NULL, &count);
    p.inputs.lm_log_sum_exp = &lse;
    vtc_plan with_lse = run(planner, NULL, &p.inputs, &budget, NULL, &count);

    assert_memory_equal(text.keep, want.keep, 11 * sizeof(int32_t));
    assert_memory_equal(with_lse.keep, want.keep, 11 * sizeof(int32_t));
    guard_free(lse.data);
    free_plan(&want);
    free_plan(&text);
    free_plan(&with_lse);
    free_prompt(&p);
}

static void thresholds_decide_when_asked_to(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-prefill");
    vtc_mustdrop_prefill_planner_params row = VTC_MUSTDROP_PREFILL_PLANNER_PARAMS_INIT;
    vtc_mustdrop_prefill_params params = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    const vtc_budget any = vtc_budget_keep(ROWS);
    uint64_t seed = 9;
    vtc_plan_count count;
    prompt p;

    (void)state;
    open_prompt(&seed, &p);
    row.use_thresholds = 1;
    params.global_thr = row.global_thr = 0.02f;
    params.individual_thr = row.individual_thr = 0.025f;
    vtc_plan plan = run(planner, &row, &p.inputs, &any, NULL, &count);
    vtc_plan want = typed(&p, &params, 0, ROWS, NULL, 0);

    assert_true(!count.exact && plan.n_out < ROWS && plan.n_out > 0);
    assert_rows(&plan, 0, &want, 0);
    assert_int_equal(plan.n_out, want.n_out);
    free_plan(&plan);
    free_plan(&want);
    free_prompt(&p);
}

static void prefill_refuses_what_it_cannot_do(void **state)
{
    const vtc_planner *planner = vtc_planner_find("mustdrop-prefill");
    uint64_t seed = 10;
    prompt p;

    (void)state;
    open_prompt(&seed, &p);
    refused(planner, NULL, &p.inputs, ROWS + 1, VTC_ERR_BUDGET, "cannot keep 51 of 50 rows");
    p.inputs.n_text = 0;
    refused(planner, NULL, &p.inputs, 5, VTC_ERR_SHAPE, "no text row votes");
    p.inputs.n_text = N_TEXT;
    p.k.dim[1] += 1;
    refused(planner, NULL, &p.inputs, 5, VTC_ERR_SHAPE, "lm_query has 60 rows, lm_keys 61");
    p.k.dim[1] -= 1;
    p.inputs.lm_keys = NULL;
    refused(planner, NULL, &p.inputs, 5, VTC_ERR_NULL, "lack decoder Q and K");
    p.inputs.lm_keys = &p.k;
    p.inputs.begin = p.begin;
    p.inputs.n_images = N_IMAGES;
    guard_writable(p.k.data);
    set_element(p.k.data, VTC_F16, (V_START + 30) * p.k.stride[1], NAN);
    refused(planner, NULL, &p.inputs, 0, VTC_ERR_DATA, "vision token");
    p.inputs.key_rows = p.keys;
    p.inputs.n_key_rows = 5;
    p.keys[2] = 7;
    refused(planner, NULL, &p.inputs, 0, VTC_ERR_RANGE, "key_rows[2] is 7 behind 7");
    free_prompt(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_merges_as_many_windows_of_every_image),
        cmocka_unit_test(by_threshold_the_poorest_image_binds_all),
        cmocka_unit_test(a_budget_bounds_the_threshold_from_below),
        cmocka_unit_test(one_image_of_a_batch_is_as_alone),
        cmocka_unit_test(encode_refuses_what_it_cannot_do),
        cmocka_unit_test(defaults_are_those_of_the_macros),
        cmocka_unit_test(a_budget_counts_before_the_key_rows_join),
        cmocka_unit_test(every_image_has_its_own_budget_and_key_rows),
        cmocka_unit_test(text_rows_alone_and_log_sum_exps_serve_too),
        cmocka_unit_test(thresholds_decide_when_asked_to),
        cmocka_unit_test(prefill_refuses_what_it_cannot_do),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
