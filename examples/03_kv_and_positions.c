/*
 * 03_kv_and_positions.c: one plan moves everything that must stay in step.
 *
 * A language model holds two words of text, six visual tokens a .. f, then two words more. The plan
 * below keeps a and f, merges b, c and d, and drops e (the drawing in vtc/plan.h). Ids, cached keys
 * and positions have to follow, and the merged token should weigh as much as three.
 */
#include "example.h"

#include <vtc/heap.h>
#include <vtc/vtc.h>

enum { BEFORE = 2, VISUAL = 6, AFTER = 2, LENGTH = BEFORE + VISUAL + AFTER };

/* A plan of our own: who goes where is enough, libvtc fills in weights and masses. */
static void plan_image(vtc_plan *plan, const vtc_exec *exec)
{
    static const int32_t owner[VISUAL] = { 0, 1, 1, 1, -1, 2 };
    static const int32_t keep[3] = { 0, 2, 5 };
    const vtc_plan_count count = { .n_in = VISUAL, .n_out = 3, .n_nnz = VISUAL, .exact = 1 };

    must(vtc_heap_plan(plan, &count, exec));
    must(vtc_plan_group(plan, VISUAL, owner, 3, keep, NULL, exec));
}

/* The text around the image stays as it is: identities beside the image's plan make the plan of the
 * whole sequence. */
static void plan_sequence(vtc_plan *plan, const vtc_plan *image, const vtc_exec *exec)
{
    const vtc_plan_count text = { .n_in = BEFORE, .n_out = BEFORE, .exact = 1 };
    const vtc_plan_count all = {
        .n_in = LENGTH, .n_out = BEFORE + 3 + AFTER, .n_nnz = LENGTH, .exact = 1
    };
    vtc_plan before = VTC_PLAN_INIT, after = VTC_PLAN_INIT;
    const vtc_plan *parts[] = { &before, image, &after };

    must(vtc_heap_plan(&before, &text, exec));
    must(vtc_plan_identity(&before, BEFORE, NULL, exec));
    must(vtc_heap_plan(&after, &text, exec));
    must(vtc_plan_identity(&after, AFTER, NULL, exec));
    must(vtc_heap_plan(plan, &all, exec));
    must(vtc_plan_concat(plan, parts, 3, exec));
    vtc_heap_plan_free(&before);
    vtc_heap_plan_free(&after);
}

/* Token ids, masks, DeepStack planes: anything that belongs to a row follows `keep`. */
static void move_ids(const vtc_plan *plan, const vtc_exec *exec)
{
    static const uint8_t ids[LENGTH] = { 'S', 'T', 'a', 'b', 'c', 'd', 'e', 'f', 'U', 'V' };
    uint8_t moved[LENGTH];
    const vtc_tensor x = vtc_tensor_1d(ids, VTC_U8, LENGTH);
    vtc_tensor y = vtc_tensor_1d(moved, VTC_U8, plan->n_out);

    must(vtc_plan_gather(plan, 0, &x, NULL, &y, exec));
    printf("ids        %.*s -> %.*s\n", LENGTH, (const char *)ids, (int)plan->n_out,
           (const char *)moved);
}

/* Keys of one layer, [heads, tokens, d], move down in place. Cached keys are rotated already, so
 * the merged token takes over the row of c and nothing is averaged. */
static void move_keys(const vtc_plan *plan, const vtc_exec *exec)
{
    float keys[2][LENGTH][4];
    vtc_kv cache = VTC_KV_INIT;

    for (int h = 0; h < 2; h++)
        for (int t = 0; t < LENGTH; t++)
            for (int i = 0; i < 4; i++)
                keys[h][t][i] = (float)(100 * h + t);

    cache.data = keys;
    cache.n_outer = 2;
    cache.outer_stride = sizeof(keys[0]);
    cache.piece = sizeof(keys[0][0]);
    cache.row_stride = sizeof(keys[0][0]);
    cache.n_rows = LENGTH;
    must(vtc_plan_compact_kv(plan, &cache, 1, exec));

    for (int h = 0; h < 2; h++) {
        printf("keys       head %d holds rows", h);
        for (size_t t = 0; t < plan->n_out; t++)
            printf(" %.0f", keys[h][t][0]);
        printf("\n");
    }
}

/* Where do the kept tokens stand, and where does the text go on? Models answer differently. */
static void print_positions(const char *title, const vtc_plan *image, vtc_visual_rule visual,
                            vtc_text_rule text, const vtc_exec *exec)
{
    vtc_positions_params params = VTC_POSITIONS_PARAMS_INIT;
    int32_t ids[VISUAL];
    vtc_tensor out = vtc_tensor_1d(ids, VTC_I32, image->n_out);
    int64_t text_next;

    params.visual = visual;
    params.text = text;
    params.base = BEFORE;
    must(vtc_plan_positions(&params, image, NULL, &out, &text_next, exec));
    printf("positions  %d %d %d, text resumes at %d  (%s)\n", (int)ids[0], (int)ids[1], (int)ids[2],
           (int)text_next, title);
}

/* log(mass), added to the attention logits, lets the merged token count as the three it was. */
static void print_bias(const vtc_plan *image, const vtc_exec *exec)
{
    float bias[VISUAL];
    vtc_tensor out = vtc_f32_1d(bias, image->n_out);

    must(vtc_plan_log_mass(image, &out, exec));
    printf("bias       %.3f %.3f %.3f\n", bias[0], bias[1], bias[2]);
}

int main(void)
{
    vtc_plan image = VTC_PLAN_INIT, sequence = VTC_PLAN_INIT;
    vtc_exec exec = VTC_EXEC_INIT;

    exec.on_error = print_error;
    plan_image(&image, &exec);
    plan_sequence(&sequence, &image, &exec);
    printf("plan       image %zu -> %zu, sequence %zu -> %zu\n", image.n_in, image.n_out,
           sequence.n_in, sequence.n_out);
    move_ids(&sequence, &exec);
    move_keys(&sequence, &exec);
    print_positions("FastV", &image, VTC_VISUAL_KEEP, VTC_TEXT_ORIGINAL, &exec);
    print_positions("VisionZip", &image, VTC_VISUAL_RENUMBER, VTC_TEXT_CONTINUE, &exec);
    print_bias(&image, &exec);
    vtc_heap_plan_free(&sequence);
    vtc_heap_plan_free(&image);
    return 0;
}
