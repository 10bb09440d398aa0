/* How the tool maps token files, and what a photograph lends to planners. */
#include "../examples/vtc/source.h"
#include "support/files.h"

#include <stdlib.h>
#include <string.h>

#define N 6
#define H 2
#define D 4

static float numbers[H * 16 * D]; /* 0, 1, 2, ... */

static void number_all(void)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        numbers[i] = (float)i;
}

static vtc_named_tensor named(const char *name, vtc_tensor tensor)
{
    vtc_named_tensor entry = { name, tensor };

    return entry;
}

static const char *write_tokens(void **state, const vtc_named_tensor *more, size_t n_more,
                                const vtc_metadata_entry *metadata, size_t n_metadata)
{
    const char *path = in_folder(state, "tokens.safetensors");
    vtc_named_tensor all[8];

    number_all();
    all[0] = named("tokens", vtc_f32_2d(numbers, N, 3));
    if (n_more > 0)
        memcpy(all + 1, more, n_more * sizeof(*more));
    assert_int_equal(vtc_safetensors_write(path, all, n_more + 1, metadata, n_metadata, NULL),
                     VTC_OK);
    return path;
}

static void open_or_fail(struct tool *tool, const char *path, struct source *source)
{
    tool_start(tool, 1);
    if (!source_open(tool, path, 0, 0, source))
        fail_msg("%s", tool->why);
}

static void close_both(struct tool *tool, struct source *source)
{
    source_close(source);
    tool_end(tool);
}

static float at(const vtc_tensor *tensor, size_t i, size_t j, size_t k)
{
    return ((const float *)tensor->data)[i * tensor->stride[0] + j * tensor->stride[1] +
                                         (tensor->rank > 2 ? k * tensor->stride[2] : 0)];
}

/* ---- token files ----------------------------------------------------------------------------- */

static void keys_with_cls_row_lose_it_and_query_row_is_cls(void **state)
{
    const vtc_named_tensor more[] = {
        named("k", vtc_f32_3d(numbers, H, N + 1, D)),
        named("q", vtc_f32_3d(numbers, H, N + 1, D)),
    };
    const vtc_metadata_entry metadata[] = { { "scale", "0.25" } };
    struct tool tool;
    struct source source;

    open_or_fail(&tool, write_tokens(state, more, 2, metadata, 1), &source);
    assert_int_equal(source.n_tokens, N);
    assert_ptr_equal(source.inputs.keys, &source.keys);
    assert_int_equal(source.keys.dim[1], N);
    assert_true(at(&source.keys, 0, 0, 0) == D);
    assert_true(at(&source.keys, 1, N - 1, 1) == 2 * (N + 1) * D - D + 1);
    assert_ptr_equal(source.inputs.cls_query, &source.cls_query);
    assert_int_equal(source.cls_query.rank, 2);
    assert_true(at(&source.cls_query, 1, 2, 0) == (N + 1) * D + 2);
    assert_true(source.inputs.scale == 0.25f);
    assert_null(source.inputs.lm_keys);
    close_both(&tool, &source);
}

static void v_start_marks_a_language_model(void **state)
{
    const vtc_named_tensor more[] = {
        named("k", vtc_f32_3d(numbers, 1, 16, D)),
        named("q", vtc_f32_3d(numbers, H, 16, D)),
    };
    const vtc_metadata_entry metadata[] = { { "v_start", "5" },
                                            { "n_text", "3" },
                                            { "layer", "2" } };
    struct tool tool;
    struct source source;

    open_or_fail(&tool, write_tokens(state, more, 2, metadata, 3), &source);
    assert_null(source.inputs.keys);
    assert_null(source.inputs.cls_query);
    assert_int_equal(source.inputs.lm_keys->dim[1], 16);
    assert_int_equal(source.inputs.lm_query->dim[0], H);
    assert_int_equal(source.inputs.v_start, 5);
    assert_int_equal(source.inputs.n_text, 3);
    close_both(&tool, &source);
}

static void attention_grid_and_mass_reach_the_inputs(void **state)
{
    static const int64_t grid[] = { 2, 3 };
    const vtc_named_tensor more[] = {
        named("cls_attention", vtc_f32_2d(numbers, H, N)),
        named("q_cls", vtc_f32_2d(numbers, H, D)),
        named("grid", vtc_tensor_1d(grid, VTC_I64, 2)),
        named("mass", vtc_f32_1d(numbers + 1, N)),
        named("scale", vtc_f32_1d(numbers + 2, 1)),
    };
    struct tool tool;
    struct source source;

    open_or_fail(&tool, write_tokens(state, more, 5, NULL, 0), &source);
    assert_int_equal(source.inputs.grid_h, 2);
    assert_int_equal(source.inputs.grid_w, 3);
    assert_true(source.inputs.mass[5] == 6.0f);
    assert_true(source.inputs.scale == 2.0f);
    assert_true(at(source.inputs.cls_attention, 1, 0, 0) == N);
    assert_true(at(source.inputs.cls_query, 1, 0, 0) == D);
    assert_null(source.stand_ins.salience);
    close_both(&tool, &source);
}

static void assert_refuses(const char *path, size_t grid_h, size_t grid_w, const char *part)
{
    struct tool tool;
    struct source source;

    tool_start(&tool, 1);
    assert_false(source_open(&tool, path, grid_h, grid_w, &source));
    if (strstr(tool.why, part) == NULL)
        fail_msg("'%s' does not say '%s'", tool.why, part);
    close_both(&tool, &source);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    static const int32_t grid[] = { 2, 4, -1 };
    const struct {
        vtc_named_tensor tensor;
        const char *part;
    } cases[] = {
        { named("k", vtc_f32_3d(numbers, H, N + 2, D)), "tensor k is F32 [2, 8, 4]" },
        { named("k", vtc_f32_2d(numbers, N, D)), "tensor k is F32 [6, 4]" },
        { named("cls_attention", vtc_f32_2d(numbers, H, N + 1)), "cls_attention is F32 [2, 7]" },
        { named("q_cls", vtc_f32_1d(numbers, D)), "tensor q_cls is F32 [4]" },
        { named("text_q", vtc_f32_2d(numbers, H, D)), "tensor text_q is F32 [2, 4]" },
        { named("mass", vtc_f32_1d(numbers, N + 1)), "tensor mass is F32 [7]" },
        { named("scale", vtc_f32_1d(numbers, 1)), "scale must be a number above 0" },
        { named("scale", vtc_f32_1d(numbers, 2)), "tensor scale is F32 [2]" },
        { named("grid", vtc_tensor_1d(grid, VTC_I32, 2)), "a grid of 2 x 4 has 8 tokens" },
        { named("grid", vtc_tensor_1d(grid + 1, VTC_I32, 2)), "tensor grid holds 4 x -1" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refuses(write_tokens(state, &cases[i].tensor, 1, NULL, 0), 0, 0, cases[i].part);
}

static void metadata_that_are_no_numbers_are_named(void **state)
{
    static const vtc_metadata_entry cases[] = {
        { "layer", "x" },  { "n_text", "1.5" },         { "v_start", "-1" },
        { "scale", "1x" }, { "n_text", "99999999999" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refuses(write_tokens(state, NULL, 0, &cases[i], 1), 0, 0, cases[i].key);
}

static void keys_that_are_not_rotated_are_refused(void **state)
{
    const vtc_named_tensor k = named("k", vtc_f32_3d(numbers, 1, 16, D));
    const vtc_metadata_entry metadata[] = { { "v_start", "5" }, { "rotated", "0" } };

    assert_refuses(write_tokens(state, &k, 1, metadata, 2), 0, 0, "rotated is 0");
}

static void a_grid_that_contradicts_the_file_is_refused(void **state)
{
    static const int32_t grid[] = { 2, 3 };
    const vtc_named_tensor more = named("grid", vtc_tensor_1d(grid, VTC_I32, 2));

    assert_refuses(write_tokens(state, &more, 1, NULL, 0), 3, 2, "--grid says 3x2");
}

/* ---- photographs ----------------------------------------------------------------------------- */

/* 2 x 2 patches of a photograph of 20 x 10 pixels, of which 5 .. 14 across are used. */
static void open_photo_of_four(struct tool *tool, struct source *source)
{
    static float tokens[4 * 25], planes[1];

    tool_start(tool, 1);
    memset(source, 0, sizeof(*source));
    for (size_t i = 0; i < 4 * 25; i++)
        tokens[i] = (float)(i * i % 7);
    source->inputs = (vtc_plan_inputs)VTC_PLAN_INPUTS_INIT;
    source->planes = planes;
    source->tokens = tokens;
    source->n_tokens = 4;
    source->grid_h = source->grid_w = 2;
    source->crop = (struct crop){ 0, 5, 10, 10 };
}

static void close_photo_of_four(struct tool *tool, struct source *source)
{
    stand_ins_free(&source->stand_ins);
    tool_end(tool);
}

static void only_what_a_planner_needs_is_lent(void **state)
{
    vtc_planner needs_cls = { 0 }, needs_grid = { 0 };
    struct source source;
    struct tool tool;
    char text[128];

    (void)state;
    open_photo_of_four(&tool, &source);
    needs_cls.needs = VTC_NEED_CLS | VTC_NEED_TEXT;
    needs_grid.needs = VTC_NEED_GRID;
    needs_grid.uses = VTC_NEED_CLS;

    assert_true(stand_ins_lend(&tool, &source, &needs_cls, text, sizeof(text)));
    assert_string_equal(text, "stand-in salience, not attention");
    assert_int_equal(source.inputs.cls_attention->dim[0], 1);
    assert_int_equal(source.inputs.cls_attention->dim[1], 4);
    assert_true(stand_ins_lack(&source, &needs_cls, text, sizeof(text)));
    assert_string_equal(text, vtc_need_string(VTC_NEED_TEXT));

    assert_true(stand_ins_lend(&tool, &source, &needs_grid, text, sizeof(text)));
    assert_string_equal(text, "");
    assert_null(source.inputs.cls_attention);
    close_photo_of_four(&tool, &source);
}

static float length_of_row(const vtc_tensor *rows, size_t n)
{
    float square = 0.0f;

    for (size_t c = 0; c < rows->dim[2]; c++)
        square += at(rows, 0, n, c) * at(rows, 0, n, c);
    return square;
}

static void a_region_becomes_the_rows_of_the_question(void **state)
{
    const size_t right_half[4] = { 10, 0, 5, 10 };
    vtc_planner planner = { 0 };
    struct source source;
    struct tool tool;
    char text[128];

    (void)state;
    open_photo_of_four(&tool, &source);
    planner.needs = VTC_NEED_LM | VTC_NEED_KEYS | VTC_NEED_HIDDEN;
    assert_true(stand_ins_lack(&source, &planner, text, sizeof(text)));
    assert_string_equal(text, "decoder Q and K, hidden states");
    assert_true(stand_ins_ask(&tool, &source, right_half));
    assert_int_equal(source.stand_ins.n_about, 2);
    assert_false(stand_ins_lack(&source, &planner, text, sizeof(text)));
    assert_true(stand_ins_lend(&tool, &source, &planner, text, sizeof(text)));
    assert_string_equal(text, "descriptors stand in for keys; a region stands in for the question");
    assert_int_equal(source.inputs.n_text, 2);
    assert_int_equal(source.inputs.keys->dim[1], 4);
    assert_int_equal(source.inputs.lm_keys->dim[1], 6);
    assert_int_equal(source.inputs.lm_hidden->dim[0], 6);
    for (size_t c = 0; c < 25; c++) {
        assert_true(at(source.inputs.lm_query, 0, 4, c) == at(source.inputs.lm_keys, 0, 1, c));
        assert_true(at(source.inputs.lm_query, 0, 5, c) == at(source.inputs.lm_keys, 0, 3, c));
    }
    for (size_t n = 0; n < 6; n++)
        assert_true(length_of_row(source.inputs.lm_keys, n) > 0.999f &&
                    length_of_row(source.inputs.lm_keys, n) < 1.001f);
    close_photo_of_four(&tool, &source);
}

static void a_region_between_centres_is_the_patch_it_lies_in(void **state)
{
    const size_t corner[4] = { 14, 9, 1, 1 }, cut_off[4] = { 0, 0, 4, 10 };
    struct source source;
    struct tool tool;

    (void)state;
    open_photo_of_four(&tool, &source);
    assert_true(stand_ins_ask(&tool, &source, corner));
    assert_int_equal(source.stand_ins.n_about, 1);
    assert_int_equal(source.stand_ins.about[3], 1);
    stand_ins_free(&source.stand_ins);
    assert_false(stand_ins_ask(&tool, &source, cut_off));
    assert_non_null(strstr(tool.why, "5,0,10,10"));
    close_photo_of_four(&tool, &source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_with_cls_row_lose_it_and_query_row_is_cls),
        cmocka_unit_test(v_start_marks_a_language_model),
        cmocka_unit_test(attention_grid_and_mass_reach_the_inputs),
        cmocka_unit_test(shapes_that_do_not_fit_are_named),
        cmocka_unit_test(metadata_that_are_no_numbers_are_named),
        cmocka_unit_test(keys_that_are_not_rotated_are_refused),
        cmocka_unit_test(a_grid_that_contradicts_the_file_is_refused),
        cmocka_unit_test(only_what_a_planner_needs_is_lent),
        cmocka_unit_test(a_region_becomes_the_rows_of_the_question),
        cmocka_unit_test(a_region_between_centres_is_the_patch_it_lies_in),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
