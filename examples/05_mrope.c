/*
 * 05: position ids of three axes (M-RoPE) after a plan, by every rule, and what else follows rows.
 *
 * Which position a kept token carries and where the text behind the image resumes decide whether a
 * model still understands. Engines answer differently, so the rule is an argument.
 */
#include "example.h"

#include <vtc/heap.h>

enum { GRID_H = 2, GRID_W = 4, N = GRID_H * GRID_W, KEPT = 3, BASE = 10 };

static void print_axes(const char *title, const int32_t *ids, int n_axes)
{
    printf("%-9s", title);
    for (int axis = 0; axis < n_axes; axis++)
        printf("  %c %d %d %d", n_axes == 1 ? 'p' : "thw"[axis], (int)ids[axis * KEPT],
               (int)ids[axis * KEPT + 1], (int)ids[axis * KEPT + 2]);
}

/* `in` NULL: one axis, counted from base. */
static void print_rule(const vtc_plan *plan, const vtc_tensor *in, vtc_visual_rule visual,
                       const vtc_exec *exec)
{
    static const char *const names[] = { "CONTINUE", "ORIGINAL", "AFTER_KEPT", "AFTER_GRID",
                                         "AFTER_WIDTH" };
    vtc_positions_params params = VTC_POSITIONS_PARAMS_INIT;
    int32_t ids[3 * KEPT];
    vtc_tensor out =
        in == NULL ? vtc_tensor_1d(ids, VTC_I32, KEPT) : vtc_tensor_2d(ids, VTC_I32, 3, KEPT);
    int64_t text_next[5];

    params.visual = visual;
    params.base = BASE;
    params.grid_h = GRID_H;
    params.grid_w = GRID_W;
    for (int text = 0; text < 5; text++) {
        params.text = (vtc_text_rule)text;
        must(vtc_plan_positions(&params, plan, in, &out, &text_next[text], exec));
    }
    print_axes(visual == VTC_VISUAL_KEEP ? "KEEP" : "RENUMBER", ids, in == NULL ? 1 : 3);
    printf("\n  text resumes at");
    for (int text = 0; text < 5; text++)
        printf("  %s %d", names[text], (int)text_next[text]);
    printf("\n");
}

/* DeepStack adds planes of the encoder's features to the first decoder layers: the planes lose the
 * same rows, all of them in one call. */
static void move_planes(const vtc_plan *plan, const vtc_exec *exec)
{
    float planes[2][N][1], moved[2][KEPT][1];
    const vtc_tensor x = vtc_f32_3d(&planes[0][0][0], 2, N, 1);
    vtc_tensor y = vtc_f32_3d(&moved[0][0][0], 2, KEPT, 1);

    for (int i = 0; i < 2 * N; i++)
        planes[i / N][i % N][0] = (float)(100 * (i / N) + i % N);
    must(vtc_plan_gather(plan, 1, &x, NULL, &y, exec));
    printf("planes     %.0f %.0f %.0f and %.0f %.0f %.0f\n", moved[0][0][0], moved[0][1][0],
           moved[0][2][0], moved[1][0][0], moved[1][1][0], moved[1][2][0]);
}

int main(void)
{
    static const int32_t rows[KEPT] = { 1, 2, 4 };
    const vtc_plan_count count = { .n_in = N, .n_out = KEPT, .exact = 1 };
    int32_t ids[3 * N];
    vtc_tensor in = vtc_tensor_2d(ids, VTC_I32, 3, N);
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_plan plan = VTC_PLAN_INIT;

    exec.on_error = print_error;
    must(vtc_heap_plan(&plan, &count, &exec));
    must(vtc_plan_select(&plan, N, rows, KEPT, NULL, &exec));
    must(vtc_grid_positions(1, GRID_H, GRID_W, BASE, 1, &in, &exec));
    printf("rows 1, 2, 4 of a grid of 2 x 4 from position 10 on\n\nM-RoPE\n");
    print_rule(&plan, &in, VTC_VISUAL_KEEP, &exec);
    print_rule(&plan, &in, VTC_VISUAL_RENUMBER, &exec);
    printf("\none axis\n");
    print_rule(&plan, NULL, VTC_VISUAL_KEEP, &exec);
    print_rule(&plan, NULL, VTC_VISUAL_RENUMBER, &exec);
    printf("\n");
    move_planes(&plan, &exec);
    vtc_heap_plan_free(&plan);
    return 0;
}
