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

        assert_int_equal(vtc_cost_kv_bytes(vtc_decoder_find(rows[i].model), rows[i].n_tokens, 2,
                                           &bytes, NULL),
                         VTC_OK);
        assert_printed(bytes / 1e6, "%.1f", rows[i].megabytes);
    }
}

static void models_are_found_by_name(void **state)
{
    size_t n;
    const vtc_decoder *all = vtc_decoders(&n);

    (void)state;
    assert_true(n >= 2);
    for (size_t i = 0; i < n; i++)
        assert_ptr_equal(vtc_decoder_find(all[i].name), &all[i]);
    assert_ptr_equal(vtc_decoders(NULL), all);
    assert_null(vtc_decoder_find("llava"));
    assert_null(vtc_decoder_find(NULL));
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
    assert_failed(&log, vtc_cost_prefill(&decoder, 1, 1, (vtc_cost_convention)2, &result, &exec),
                  VTC_ERR_RANGE, "convention is 2");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_kv_bytes(&decoder, 1, 2, NULL, &exec), VTC_ERR_NULL, "bytes");
    decoder.n_kv = 0;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_cost_kv_bytes(&decoder, 1, 2, &result, &exec), VTC_ERR_RANGE, "none");
    assert_true(result == 77.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gated_convention_gives_the_published_tera_flops),
        cmocka_unit_test(the_ungated_convention_is_the_printed_formula),
        cmocka_unit_test(fewer_key_heads_cost_less),
        cmocka_unit_test(caches_have_the_published_sizes),
        cmocka_unit_test(models_are_found_by_name),
        cmocka_unit_test(senseless_questions_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
