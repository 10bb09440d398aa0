/*
 * The conformance runner must fail when it should: copies of golden cases with one thing changed.
 *
 *     test_conformance RUNNER GOLDEN_FOLDER
 */
#define _POSIX_C_SOURCE 200809L

#include "conformance/compare.h"
#include "support/files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <vtc/io.h>

enum { MAX_TENSORS = 16, MAX_METADATA = 8, TEXT = 8192 };

static const char *runner, *golden;

/* ---- a case that can be changed -------------------------------------------------------------- */

typedef struct edit {
    vtc_safetensors *file;
    vtc_named_tensor tensor[MAX_TENSORS];
    void *copy[MAX_TENSORS];
    size_t n_tensors;
    vtc_metadata_entry metadata[MAX_METADATA];
    size_t n_metadata;
    int exit_status;
    char printed[TEXT]; /* by the runner */
} edit;

static edit open_golden(const char *name)
{
    edit e = { 0 };
    char path[512];

    snprintf(path, sizeof(path), "%s/%s.safetensors", golden, name);
    assert_int_equal(vtc_safetensors_open(path, &e.file, NULL), VTC_OK);
    e.n_tensors = vtc_safetensors_count(e.file);
    e.n_metadata = vtc_safetensors_metadata_count(e.file);
    assert_true(e.n_tensors < MAX_TENSORS && e.n_metadata < MAX_METADATA);
    for (size_t i = 0; i < e.n_tensors; i++) {
        vtc_tensor *t = &e.tensor[i].tensor;
        size_t bytes;

        e.tensor[i].name = vtc_safetensors_name(e.file, i);
        assert_int_equal(vtc_safetensors_tensor(e.file, e.tensor[i].name, t, NULL), VTC_OK);
        bytes = element_count(t) * vtc_dtype_size(t->dtype);
        e.copy[i] = malloc(bytes + 1);
        memcpy(e.copy[i], t->data, bytes);
        t->data = e.copy[i];
    }
    for (size_t i = 0; i < e.n_metadata; i++) {
        e.metadata[i].key = vtc_safetensors_metadata_key(e.file, i);
        e.metadata[i].value = vtc_safetensors_metadata(e.file, e.metadata[i].key);
    }
    return e;
}

static void close_edit(edit *e)
{
    for (size_t i = 0; i < MAX_TENSORS; i++)
        free(e->copy[i]);
    vtc_safetensors_close(e->file);
}

static vtc_named_tensor *find(edit *e, const char *name)
{
    for (size_t i = 0; i < e->n_tensors; i++)
        if (strcmp(e->tensor[i].name, name) == 0)
            return &e->tensor[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void set_metadata(edit *e, const char *key, const char *value)
{
    for (size_t i = 0; i < e->n_metadata; i++)
        if (strcmp(e->metadata[i].key, key) == 0) {
            e->metadata[i].value = value;
            return;
        }
    e->metadata[e->n_metadata++] = (vtc_metadata_entry){ key, value };
}

static void add(edit *e, const char *name, vtc_tensor t)
{
    e->tensor[e->n_tensors++] = (vtc_named_tensor){ name, t };
}

static float *first_float(edit *e, const char *name)
{
    return find(e, name)->tensor.data;
}

static void run_files(edit *e, const char *files)
{
    char command[2048];
    FILE *pipe;
    int status;

    snprintf(command, sizeof(command), "'%s' %s 2>&1", runner, files);
    pipe = popen(command, "r");
    assert_non_null(pipe);
    e->printed[fread(e->printed, 1, TEXT - 1, pipe)] = '\0';
    status = pclose(pipe);
    assert_true(WIFEXITED(status));
    e->exit_status = WEXITSTATUS(status);
}

static void write_and_run(void **state, edit *e)
{
    const char *path = in_folder(state, "case.safetensors");
    char quoted[600];

    assert_int_equal(vtc_safetensors_write(path, e->tensor, e->n_tensors, e->metadata,
                                           e->n_metadata, NULL),
                     VTC_OK);
    snprintf(quoted, sizeof(quoted), "'%s'", path);
    run_files(e, quoted);
}

static void assert_passes(void **state, edit *e)
{
    write_and_run(state, e);
    if (e->exit_status != 0 || strstr(e->printed, "1 passed, 0 failed") == NULL)
        fail_msg("exit status %d: %s", e->exit_status, e->printed);
    close_edit(e);
}

/* Fails, and says `why`. */
static void assert_fails(void **state, edit *e, const char *why)
{
    write_and_run(state, e);
    if (e->exit_status != 1 || strstr(e->printed, "0 passed, 1 failed") == NULL ||
        strstr(e->printed, why) == NULL)
        fail_msg("exit status %d, \"%s\" expected: %s", e->exit_status, why, e->printed);
    close_edit(e);
}

/* ---- the runner ------------------------------------------------------------------------------ */

static void an_unchanged_copy_passes(void **state)
{
    edit e = open_golden("tome_class_token");

    assert_passes(state, &e);
}

static void a_value_within_tolerance_passes(void **state)
{
    edit e = open_golden("pooling_bilinear_odd");

    first_float(&e, "out.y")[7] += 5e-6f;
    assert_passes(state, &e);
}

static void a_value_beyond_tolerance_fails(void **state)
{
    edit e = open_golden("pooling_bilinear_odd");

    first_float(&e, "out.y")[7] += 1e-4f;
    assert_fails(state, &e, "out.y: element 7 is ");
}

static void the_files_atol_decides(void **state)
{
    edit e = open_golden("pooling_bilinear_odd");

    first_float(&e, "out.y")[7] += 1e-4f;
    set_metadata(&e, "atol", "1e-3");
    assert_passes(state, &e);
}

static void one_bit_fails_where_atol_is_0(void **state)
{
    edit e = open_golden("pooling_max_odd");
    float *y = first_float(&e, "out.y");

    y[3] = nextafterf(y[3], 100.0f);
    assert_fails(state, &e, "out.y: element 3 is ");
}

static void a_broken_atol_fails(void **state)
{
    static const char *const broken[] = { "", "small", "1e-5x", "-1", "nan", "inf" };

    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        edit e = open_golden("pooling_max_odd");

        set_metadata(&e, "atol", broken[i]);
        assert_fails(state, &e, "atol is \"");
    }
}

static void a_nan_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");

    first_float(&e, "out.y")[0] = NAN;
    assert_fails(state, &e, "out.y: element 0 is ");
}

static void a_nan_on_both_sides_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");

    first_float(&e, "in.x")[0] = NAN;
    first_float(&e, "out.y")[0] = NAN;
    assert_fails(state, &e, "element 0 is nan, expected nan");
}

static void an_integer_off_by_one_fails(void **state)
{
    edit e = open_golden("random_20_6");

    ((int32_t *)find(&e, "out.keep")->tensor.data)[5]++;
    assert_fails(state, &e, "out.keep: element 5 is ");
}

static void integers_of_any_width_are_equal(void **state)
{
    edit e = open_golden("random_20_6");
    vtc_tensor *keep = &find(&e, "out.keep")->tensor;
    int64_t wide[6];

    for (size_t i = 0; i < 6; i++)
        wide[i] = ((const int32_t *)keep->data)[i];
    *keep = vtc_tensor_1d(wide, VTC_I64, 6);
    assert_passes(state, &e);
}

static void another_shape_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");
    vtc_tensor *y = &find(&e, "out.y")->tensor;

    *y = vtc_f32_2d(y->data, y->dim[1], y->dim[2]);
    assert_fails(state, &e, "out.y: the library gives F32 [1, 9, 6]");
}

static void an_output_that_nothing_produces_fails(void **state)
{
    static const float value = 0.0f;
    edit e = open_golden("pooling_average_odd");

    add(&e, "out.extra", vtc_f32_1d(&value, 1));
    assert_fails(state, &e, "out.extra: the library produced nothing");
}

static void a_case_without_outputs_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");

    find(&e, "out.y")->name = "y";
    assert_fails(state, &e, "no out.* tensor");
}

static void a_case_without_its_input_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");

    find(&e, "in.x")->name = "in.other";
    assert_fails(state, &e, "in.x");
}

static void an_unknown_method_or_variant_fails(void **state)
{
    edit e = open_golden("pooling_average_odd");
    edit f = open_golden("pooling_average_odd");

    set_metadata(&e, "variant", "median");
    assert_fails(state, &e, "pooling/median");
    set_metadata(&f, "method", "polling");
    assert_fails(state, &f, "polling/average");
}

static void a_missing_parameter_fails(void **state)
{
    edit e = open_golden("random_20_6");

    set_metadata(&e, "params", "{\"n\": 20, \"seed\": 42}");
    assert_fails(state, &e, "\"keep\"");
}

static void params_that_are_no_object_fail(void **state)
{
    static const char *const broken[] = { "", "[]", "{\"n\": 20", "{\"n\": 1, \"n\": 20}" };

    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        edit e = open_golden("random_20_6");

        set_metadata(&e, "params", broken[i]);
        assert_fails(state, &e, "params");
    }
}

/* 2^53 + 1 is no double; a seed of 64 bits is no JSON integer either. */
static void a_seed_keeps_all_its_bits(void **state)
{
    edit e = open_golden("random_20_6");
    edit f = open_golden("random_576_64_wide_seed");

    set_metadata(&e, "params", "{\"n\": 20, \"keep\": 6, \"seed\": 9007199254740993}");
    assert_fails(state, &e, "out.keep");
    assert_passes(state, &f);
}

static void an_error_of_the_library_fails_with_its_message(void **state)
{
    edit e = open_golden("random_20_6");

    set_metadata(&e, "params", "{\"n\": 5, \"keep\": 6, \"seed\": 42}");
    assert_fails(state, &e, "VTC_ERR_BUDGET");
}

static void half_precision_passes_within_one_unit_and_fails_beyond(void **state)
{
    static const char name[] = "pooling_average_f16_9x5";
    edit exact = open_golden(name), near = open_golden(name), far = open_golden(name);
    uint16_t *bits = find(&near, "out.y")->tensor.data;

    assert_int_equal(find(&exact, "in.x")->tensor.dtype, VTC_F16);
    assert_int_equal(find(&exact, "out.y")->tensor.dtype, VTC_F16);
    assert_passes(state, &exact);
    assert_true(fabs(ref_f16_to_f32(bits[5])) > 0.1f);
    bits[5]++;
    assert_passes(state, &near);
    bits = find(&far, "out.y")->tensor.data;
    bits[5] = (uint16_t)(bits[5] + 3);
    assert_fails(state, &far, "out.y: element 5 is ");
}

static void other_cases_run_after_one_that_failed(void **state)
{
    edit e = { 0 };
    char files[2048];

    put_file(in_folder(state, "broken"), "no tensors", 10);
    snprintf(files, sizeof(files), "'%s' '%s/missing' '%s/random_20_6.safetensors'",
             in_folder(state, "broken"), golden, golden);
    run_files(&e, files);
    assert_int_equal(e.exit_status, 1);
    assert_non_null(strstr(e.printed, "VTC_ERR_FORMAT"));
    assert_non_null(strstr(e.printed, "VTC_ERR_IO"));
    assert_non_null(strstr(e.printed, "1 passed, 2 failed"));
}

static void no_file_is_a_wrong_call(void **state)
{
    edit e = { 0 };

    (void)state;
    run_files(&e, "");
    assert_int_equal(e.exit_status, 2);
    assert_non_null(strstr(e.printed, "usage"));
}

/* ---- comparing ------------------------------------------------------------------------------- */

static bool equal_f32(float got, float want, double atol)
{
    const vtc_tensor g = vtc_f32_1d(&got, 1), w = vtc_f32_1d(&want, 1);
    difference diff;

    return compare(&g, &w, atol, &diff);
}

static bool equal_f16(float got, float want, double atol)
{
    const uint16_t got_bits = ref_f32_to_f16(got), want_bits = ref_f32_to_f16(want);
    const vtc_tensor g = vtc_tensor_1d(&got_bits, VTC_F16, 1);
    const vtc_tensor w = vtc_tensor_1d(&want_bits, VTC_F16, 1);
    difference diff;

    return compare(&g, &w, atol, &diff);
}

static void infinities_equal_themselves_and_a_nan_nothing(void **state)
{
    (void)state;
    assert_true(equal_f32(INFINITY, INFINITY, 1e-5));
    assert_true(equal_f32(-INFINITY, -INFINITY, 0.0));
    assert_false(equal_f32(INFINITY, -INFINITY, 1e-5));
    assert_false(equal_f32(3e38f, INFINITY, 1e-5));
    assert_false(equal_f32(INFINITY, 3e38f, 1e-5));
    assert_false(equal_f32(NAN, NAN, 1e-5));
    assert_false(equal_f32(NAN, NAN, 0.0));
    assert_false(equal_f32(NAN, 0.0f, 1e-5));
    assert_false(equal_f16(65504.0f, INFINITY, 1e-5));
}

static void tolerance_is_absolute_plus_relative(void **state)
{
    (void)state;
    assert_true(equal_f32(1e-5f, 0.0f, 1.001e-5));
    assert_false(equal_f32(1.1e-5f, 0.0f, 1e-5));
    assert_true(equal_f32(1000.009f, 1000.0f, 1e-5));
    assert_false(equal_f32(1000.02f, 1000.0f, 1e-5));
}

static void atol_0_means_equal_bits(void **state)
{
    (void)state;
    assert_true(equal_f32(1.5f, 1.5f, 0.0));
    assert_false(equal_f32(nextafterf(1.5f, 2.0f), 1.5f, 0.0));
    assert_false(equal_f32(-0.0f, 0.0f, 0.0));
    assert_false(equal_f16(1.0009765625f, 1.0f, 0.0));
}

static void half_precision_may_be_one_unit_off(void **state)
{
    (void)state;
    assert_true(equal_f16(1.0009765625f, 1.0f, 1e-5));
    assert_false(equal_f16(1.001953125f, 1.0f, 1e-5));
    assert_true(equal_f16(65472.0f, 65504.0f, 1e-5));
}

static void classes_of_dtypes_and_shapes_must_agree(void **state)
{
    static const int32_t ones[2] = { 1, 1 };
    static const uint8_t flags[2] = { 1, 1 };
    static const float floats[2] = { 1.0f, 1.0f };
    const vtc_tensor i = vtc_tensor_1d(ones, VTC_I32, 2), f = vtc_f32_1d(floats, 2);
    const vtc_tensor b = vtc_tensor_1d(flags, VTC_BOOL, 2), one = vtc_f32_1d(floats, 1);
    const vtc_tensor wide = vtc_f32_2d(floats, 1, 2), none = vtc_tensor_1d(NULL, VTC_I32, 0);
    difference diff;

    (void)state;
    assert_true(compare(&i, &b, 1e-5, &diff));
    assert_false(compare(&f, &i, 1e-5, &diff));
    assert_false(compare(&i, &f, 1e-5, &diff));
    assert_false(compare(&f, &one, 1e-5, &diff));
    assert_false(compare(&f, &wide, 1e-5, &diff));
    assert_true(compare(&none, &none, 1e-5, &diff));
    assert_false(compare(&i, &none, 1e-5, &diff));
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(an_unchanged_copy_passes),
        IN_FOLDER(a_value_within_tolerance_passes),
        IN_FOLDER(a_value_beyond_tolerance_fails),
        IN_FOLDER(the_files_atol_decides),
        IN_FOLDER(one_bit_fails_where_atol_is_0),
        IN_FOLDER(a_broken_atol_fails),
        IN_FOLDER(a_nan_fails),
        IN_FOLDER(a_nan_on_both_sides_fails),
        IN_FOLDER(an_integer_off_by_one_fails),
        IN_FOLDER(integers_of_any_width_are_equal),
        IN_FOLDER(another_shape_fails),
        IN_FOLDER(an_output_that_nothing_produces_fails),
        IN_FOLDER(a_case_without_outputs_fails),
        IN_FOLDER(a_case_without_its_input_fails),
        IN_FOLDER(an_unknown_method_or_variant_fails),
        IN_FOLDER(a_missing_parameter_fails),
        IN_FOLDER(params_that_are_no_object_fail),
        IN_FOLDER(a_seed_keeps_all_its_bits),
        IN_FOLDER(an_error_of_the_library_fails_with_its_message),
        IN_FOLDER(half_precision_passes_within_one_unit_and_fails_beyond),
        IN_FOLDER(other_cases_run_after_one_that_failed),
        cmocka_unit_test(no_file_is_a_wrong_call),
        cmocka_unit_test(infinities_equal_themselves_and_a_nan_nothing),
        cmocka_unit_test(tolerance_is_absolute_plus_relative),
        cmocka_unit_test(atol_0_means_equal_bits),
        cmocka_unit_test(half_precision_may_be_one_unit_off),
        cmocka_unit_test(classes_of_dtypes_and_shapes_must_agree),
    };

    if (argc != 3) {
        fprintf(stderr, "usage: test_conformance RUNNER GOLDEN_FOLDER\n");
        return 2;
    }
    runner = argv[1];
    golden = argv[2];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
