/* Cost of a prefill against published tables. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>

static double tera(const char *model, size_t n_visual, size_t n_text,
                   vtc_cost_convention convention)
{
    double operations = 0.0;

    assert_int_equal(vtc_cost_prefill(vtc_decoder_find(model), n_visual, n_text, convention,
                                      &operations, NULL),
                     VTC_OK);
    return operations / 1e12;
}

static void assert_printed(double got, const char *format, const char *want)
{
    char text[32];

    snprintf(text, sizeof(text), format, got);
    assert_string_equal(text, want);
}

/* FiCoCo's tables (arXiv 2411.17686), recomputed by their tool's formula; text lengths 60 and 512
 * are theirs. */
static void the_gated_convention_gives_the_published_tera_flops(void **state)
{
    const struct {
        const char *model;
        size_t n_visual, n_text;
        const char *tera_flops;
    } rows[] = {
        { "llava-1.5-7b", 576, 60, "8.45" },    { "llava-1.5-7b", 257, 60, "4.16" },
        { "llava-1.5-7b", 192, 60, "3.30" },    { "llava-1.5-7b", 191, 60, "3.28" },
        { "llava-1.5-7b", 128, 60, "2.45" },    { "llava-1.5-7b", 125, 60, "2.41" },
        { "llava-1.5-7b", 64, 60, "1.61" },     { "llava-1.5-7b", 59, 60, "1.55" },
        { "llava-1.5-7b", 2880, 60, "42.61" },  { "llava-1.5-7b", 160, 60, "2.87" },
        { "llava-1.5-7b", 2048, 60, "29.63" },  { "llava-1.5-7b", 136, 60, "2.56" },
        { "llava-1.5-13b", 576, 512, "28.58" }, { "llava-1.5-13b", 84, 512, "15.41" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        assert_printed(tera(rows[i].model, rows[i].n_visual, rows[i].n_text, VTC_COST_FLOPS_GATED),
                       "%.2f", rows[i].tera_flops);
}

/* 4 n D^2 + 2 n^2 D + 2 n D D' per layer, in whole numbers. */
static void the_ungated_convention_is_the_printed_formula(void **state)
{
    const uint64_t n = 636, d = 4096, mlp = 11008;
    const uint64_t layer = 4 * n * d * d + 2 * n * n * d + 2 * n * d * mlp;

    (void)state;
    assert_true(tera("llava-1.5-7b", 600, 36, VTC_COST_MACS_UNGATED) ==
                (double)(32 * layer) / 1e12);
}

static void fewer_key_heads_cost_less(void **state)
{
    const vtc_decoder grouped = { "grouped", 2, 64, 128, 16 };
    const uint64_t n = 10;
    const uint64_t layer = 2 * n * 64 * 64 + 2 * n * 64 * 16 + 2 * n * n * 64 + 3 * n * 64 * 128;
    double operations;

    (void)state;
    assert_int_equal(vtc_cost_prefill(&grouped, 10, 0, VTC_COST_FLOPS_GATED, &operations, NULL),
                     VTC_OK);
    assert_true(operations == (double)(2 * 2 * layer));
}

static void caches_have_the_published_sizes(void **state)
{
    const struct {
        const char *model;
        size_t n_tokens;
        const char *megabytes;
    } rows[] = { { "llava-1.5-7b", 636, "333.4" },
                 { "llava-1.5-7b", 124, "65.0" },
                 { "llava-1.5-13b", 1088, "891.3" } };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        double bytes;

        assert_int_equal(vtc_cost_kv_bytes(vtc_decoder_find(rows[i].model), rows[i].n_tokens, 16,
                                           &bytes, NULL),
                         VTC_OK);
        assert_printed(bytes / 1e6, "%.1f", rows[i].megabytes);
    }
}

static void models_are_found_by_name(void **state)
{
    static const char *const names[] = { "llava-1.5-7b", "llava-1.5-13b", "llava-next-7b",
                                         "qwen2-vl-7b",  "internvl2-8b",  "video-llava-7b" };
    size_t n;
    const vtc_model *all = vtc_models(&n);

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        assert_non_null(vtc_model_find(names[i]));
        assert_ptr_equal(vtc_decoder_find(names[i]), &vtc_model_find(names[i])->decoder);
        assert_string_equal(vtc_decoder_find(names[i])->name, names[i]);
    }
    for (size_t i = 0; i < n; i++)
        assert_ptr_equal(vtc_model_find(all[i].name), &all[i]);
    assert_ptr_equal(vtc_models(NULL), all);
    assert_null(vtc_model_find("llava"));
    assert_null(vtc_decoder_find("llava"));
    assert_null(vtc_decoder_find(NULL));
}

/* MustDrop's page: 4 n d^2 + 2 n^2 d + 3 n d f of the vision tokens alone, 32 layers. */
static void gated_multiply_adds_are_those_of_mustdrop(void **state)
{
    const struct {
        size_t n_visual;
        const char *tera;
    } rows[] = { { 576, "3.817" }, { 192, "1.253" },   { 128, "0.833" },
                 { 64, "0.416" },  { 2880, "20.825" }, { 320, "2.099" } };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        assert_printed(tera("llava-1.5-7b", rows[i].n_visual, 0, VTC_COST_MACS_GATED), "%.3f",
                       rows[i].tera);
    assert_true(tera("qwen2-vl-7b", 10, 1, VTC_COST_FLOPS_UNGATED) ==
                2.0 * tera("qwen2-vl-7b", 10, 1, VTC_COST_MACS_UNGATED));
}

/* ---- schedules ------------------------------------------------------------------------------- */

static vtc_token_schedule schedule_of(const size_t *n_visual, size_t n_text)
{
    vtc_token_schedule schedule = VTC_TOKEN_SCHEDULE_INIT;

    schedule.n_visual = n_visual;
    schedule.n_text = n_text;
    return schedule;
}

static double prefill_of(const vtc_decoder *decoder, const size_t *n_visual, size_t n_text)
{
    const vtc_token_schedule schedule = schedule_of(n_visual, n_text);
    double operations = 0.0;

    assert_int_equal(vtc_cost_prefill_schedule(decoder, &schedule, VTC_COST_FLOPS_GATED,
                                               &operations, NULL),
                     VTC_OK);
    return operations;
}

static void layers_behind_a_step_see_fewer_tokens(void **state)
{
    const size_t after[] = { 0, 2 }, left[] = { 5, 2 };
    const size_t want[] = { 9, 5, 5, 2, 2 };
    size_t n_visual[5];

    (void)state;
    assert_int_equal(vtc_schedule_steps(5, 9, after, left, 2, n_visual, NULL), VTC_OK);
    assert_memory_equal(n_visual, want, sizeof(want));
    assert_int_equal(vtc_schedule_steps(5, 9, NULL, NULL, 0, n_visual, NULL), VTC_OK);
    assert_int_equal(n_visual[4], 9);
    assert_int_equal(vtc_schedule_steps(0, 9, NULL, NULL, 0, NULL, NULL), VTC_OK);
}

static void a_uniform_schedule_costs_what_the_closed_form_says(void **state)
{
    const vtc_decoder *decoder = vtc_decoder_find("internvl2-8b");
    size_t n_visual[32];
    double operations;

    (void)state;
    assert_int_equal(decoder->n_layers, 32);
    assert_int_equal(vtc_schedule_steps(32, 256, NULL, NULL, 0, n_visual, NULL), VTC_OK);
    assert_int_equal(vtc_cost_prefill(decoder, 256, 60, VTC_COST_FLOPS_GATED, &operations, NULL),
                     VTC_OK);
    assert_true(prefill_of(decoder, n_visual, 60) == operations);
}

/* FiCoCo's page, section 5: four full layers and 28 of 60 text tokens cost 1.74 TFLOPs. */
static void a_step_schedule_costs_the_published_figure(void **state)
{
    const size_t after = 3, left = 0;
    size_t n_visual[32];

    (void)state;
    assert_int_equal(vtc_schedule_steps(32, 576, &after, &left, 1, n_visual, NULL), VTC_OK);
    assert_printed(prefill_of(vtc_decoder_find("llava-1.5-7b"), n_visual, 60) / 1e12, "%.2f",
                   "1.74");
}

static void a_new_token_attends_to_cache_and_itself(void **state)
{
    const vtc_decoder small = { "small", 2, 4, 8, 2 };
    const size_t n_visual[] = { 7, 5 }, n_cached[] = { 3, 5 };
    vtc_token_schedule schedule = schedule_of(n_visual, 10);
    const uint64_t matrices = 2 * 4 * (4 + 2) + 3 * 4 * 8;
    double operations;

    (void)state;
    assert_int_equal(vtc_cost_decode(&small, &schedule, 2, VTC_COST_MACS_GATED, &operations, NULL),
                     VTC_OK);
    assert_true(operations == (double)(4 * matrices + 2 * 4 * (18 + 19 + 16 + 17)));
    schedule.n_cached = n_cached;
    assert_int_equal(vtc_cost_decode(&small, &schedule, 2, VTC_COST_MACS_GATED, &operations, NULL),
                     VTC_OK);
    assert_true(operations == (double)(4 * matrices + 2 * 4 * (14 + 15 + 16 + 17)));
}

static void caches_of_a_schedule_add_up(void **state)
{
    const vtc_decoder small = { "small", 2, 4, 8, 2 };
    const size_t n_visual[] = { 7, 5 }, n_cached[] = { 3, 5 };
    vtc_token_schedule schedule = schedule_of(n_visual, 10);
    double bytes;

    (void)state;
    assert_int_equal(vtc_cost_kv_bytes_schedule(&small, &schedule, 1, 16, &bytes, NULL), VTC_OK);
    assert_true(bytes == 2.0 * 2 * 2 * (18 + 16));
    schedule.n_cached = n_cached;
    assert_int_equal(vtc_cost_kv_bytes_schedule(&small, &schedule, 0, 4, &bytes, NULL), VTC_OK);
    assert_true(bytes == 2.0 * 2 * (13 + 15) / 2);
}

/* ---- encoder and projector ------------------------------------------------------------------- */

static double encoder_macs(const char *model, size_t n_visual)
{
    double operations = 0.0;

    assert_int_equal(vtc_cost_encoder(vtc_model_find(model), n_visual, VTC_COST_MACS_GATED,
                                      &operations, NULL),
                     VTC_OK);
    return operations;
}

/* n rows: n (4 C^2 + 2 C M) + 2 n^2 C a layer, and the patch embedding. */
static void a_clip_tile_costs_the_sum_of_its_layers(void **state)
{
    const uint64_t n = 577, c = 1024, m = 4096;
    const uint64_t layer = n * (4 * c * c + 2 * c * m) + 2 * n * n * c;

    (void)state;
    assert_true(encoder_macs("llava-1.5-7b", 576) == (double)(24 * layer + 576 * 588 * c));
    assert_true(encoder_macs("llava-next-7b", 2880) == 5.0 * encoder_macs("llava-1.5-7b", 576));
    assert_true(encoder_macs("llava-1.5-7b", 0) == 0.0);
}

/* All patches of a Qwen2-VL image attend to each other; four become a token. */
static void an_untiled_image_is_quadratic(void **state)
{
    const uint64_t n = 1024, c = 1280, m = 5120;
    const uint64_t layer = n * (4 * c * c + 2 * c * m) + 2 * n * n * c;

    (void)state;
    assert_true(encoder_macs("qwen2-vl-7b", 256) == (double)(32 * layer + n * 1176 * c));
}

static void frames_attend_to_each_other(void **state)
{
    const uint64_t n = 257, c = 1024, m = 4096;
    const uint64_t spatial = n * (4 * c * c + 2 * c * m) + 2 * n * n * c;
    const uint64_t temporal = n * (4 * c * c + 2 * 8 * c);

    (void)state;
    assert_true(encoder_macs("video-llava-7b", 2048) ==
                (double)(24 * 8 * (spatial + temporal) + 2048 * 588 * c));
}

static void a_projector_costs_its_two_layers(void **state)
{
    double operations;

    (void)state;
    assert_int_equal(vtc_cost_projector(vtc_model_find("qwen2-vl-7b"), 256, VTC_COST_FLOPS_GATED,
                                        &operations, NULL),
                     VTC_OK);
    assert_true(operations == 2.0 * 256 * 5120 * (5120 + 3584));
}

static void senseless_questions_are_refused(void **state)
{
    vtc_decoder decoder = *vtc_decoder_find("llava-1.5-7b");
    vtc_exec exec = VTC_EXEC_INIT;
    double result = 77.0;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_prefill(NULL, 1, 1, VTC_COST_FLOPS_GATED, &result, &exec),
                  VTC_ERR_NULL, "decoder");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_prefill(&decoder, 1, 1, (vtc_cost_convention)4, &result, &exec),
                  VTC_ERR_RANGE, "convention is 4");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_kv_bytes(&decoder, 1, 16, NULL, &exec), VTC_ERR_NULL, "bytes");
    decoder.n_kv = 0;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_kv_bytes(&decoder, 1, 16, &result, &exec), VTC_ERR_RANGE, "none");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_kv_bytes(vtc_decoder_find("llava-1.5-7b"), 1, 0, &result, &exec),
                  VTC_ERR_RANGE, "0 bits");
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_cost_encoder(vtc_model_find("llava-1.5-7b"), 577, VTC_COST_MACS_GATED,
                                   &result, &exec),
                  VTC_ERR_RANGE, "577 patches are no whole tiles of 576");
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_cost_encoder(vtc_model_find("video-llava-7b"), 256, VTC_COST_MACS_GATED,
                                   &result, &exec),
                  VTC_ERR_RANGE, "1 frames");
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_cost_encoder(vtc_model_find("qwen2-vl-7b"), SIZE_MAX / 2, VTC_COST_MACS_GATED,
                                   &result, &exec),
                  VTC_ERR_OVERFLOW, "overflow size_t");
    record_errors(&exec, &log);
    assert_failed(&log,
                  vtc_cost_prefill_schedule(vtc_decoder_find("llava-1.5-7b"), NULL,
                                            VTC_COST_MACS_GATED, &result, &exec),
                  VTC_ERR_NULL, "schedule is NULL");
    assert_true(result == 77.0);
}

static void steps_that_do_not_fit_are_refused(void **state)
{
    const size_t down[] = { 3, 1 }, left[] = { 4, 2 }, up[] = { 1, 3 }, more[] = { 4, 5 };
    size_t n_visual[5] = { 77, 77, 77, 77, 77 };
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_schedule_steps(5, 9, down, left, 2, n_visual, &exec), VTC_ERR_RANGE,
                  "ascend");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_schedule_steps(3, 9, up, left, 2, n_visual, &exec), VTC_ERR_RANGE,
                  "layer 3 of 3");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_schedule_steps(5, 9, up, more, 2, n_visual, &exec), VTC_ERR_RANGE,
                  "leaves 5 tokens of 4");
    assert_int_equal(n_visual[0], 77);
    /* the last step would be read after it was written */
    record_errors(&exec, &log);
    assert_failed(&log, vtc_schedule_steps(5, 9, up, n_visual + 3, 2, n_visual, &exec),
                  VTC_ERR_OVERLAP, "n_visual overlaps");
    assert_int_equal(n_visual[0], 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gated_convention_gives_the_published_tera_flops),
        cmocka_unit_test(the_ungated_convention_is_the_printed_formula),
        cmocka_unit_test(fewer_key_heads_cost_less),
        cmocka_unit_test(caches_have_the_published_sizes),
        cmocka_unit_test(models_are_found_by_name),
        cmocka_unit_test(gated_multiply_adds_are_those_of_mustdrop),
        cmocka_unit_test(layers_behind_a_step_see_fewer_tokens),
        cmocka_unit_test(a_uniform_schedule_costs_what_the_closed_form_says),
        cmocka_unit_test(a_step_schedule_costs_the_published_figure),
        cmocka_unit_test(a_new_token_attends_to_cache_and_itself),
        cmocka_unit_test(caches_of_a_schedule_add_up),
        cmocka_unit_test(a_clip_tile_costs_the_sum_of_its_layers),
        cmocka_unit_test(an_untiled_image_is_quadratic),
        cmocka_unit_test(frames_attend_to_each_other),
        cmocka_unit_test(a_projector_costs_its_two_layers),
        cmocka_unit_test(senseless_questions_are_refused),
        cmocka_unit_test(steps_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
