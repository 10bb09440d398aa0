/*
 * 04_planner_table.c: every planner behind one interface.
 *
 * An engine that walks the table supports the methods of the next version, too. Here two images of
 * different size form a ragged batch; each planner that has what it needs halves both.
 */
#include "example.h"

#include <vtc/heap.h>
#include <vtc/vtc.h>

enum { N = 20, C = 4 };

static void print_lacking(const vtc_planner *planner, unsigned lacking)
{
    const char *separator = "lacks";

    printf("%-12s ", planner->name);
    for (unsigned bit = 1; bit <= lacking; bit <<= 1)
        if (lacking & bit) {
            printf("%s %s", separator, vtc_need_string((vtc_need)bit));
            separator = ",";
        }
    printf("\n");
}

static void run_planner(const vtc_planner *planner, const vtc_plan_inputs *inputs, vtc_exec *exec)
{
    const vtc_budget budget = vtc_budget_keep_ratio(0.5);
    vtc_plan plan = VTC_PLAN_INIT;
    vtc_plan_count count;
    int32_t begin[3];
    size_t bytes;

    must(vtc_planner_count(planner, NULL, inputs, &budget, &count, exec));
    must(vtc_heap_plan(&plan, &count, exec));
    must(vtc_planner_scratch(planner, NULL, inputs, &budget, exec, &bytes));
    must(vtc_heap_scratch(exec, bytes));
    must(vtc_planner_plan(planner, NULL, inputs, &budget, &plan, begin, exec));

    printf("%-12s %zu -> %zu rows, image 0:", planner->name, plan.n_in, plan.n_out);
    for (int image = 0; image < 2; image++) {
        if (image == 1)
            printf(", image 1:");
        for (int32_t j = begin[image]; j < begin[image + 1]; j++)
            printf(" %d", (int)plan.keep[j]);
    }
    printf("\n");
    vtc_heap_plan_free(&plan);
}

int main(void)
{
    /* Image 0 is rows 0 .. 11, image 1 is rows 12 .. 19. */
    static const int32_t begin[3] = { 0, 12, N };
    float tokens[N * C];
    const vtc_tensor features = vtc_f32_2d(tokens, N, C);
    vtc_plan_inputs inputs = VTC_PLAN_INPUTS_INIT;
    vtc_exec exec = VTC_EXEC_INIT;
    const vtc_planner *planner;

    for (int i = 0; i < N * C; i++)
        tokens[i] = (float)(i * i % 17) + 0.5f;
    inputs.begin = begin;
    inputs.n_images = 2;
    inputs.features = &features;
    exec.on_error = print_error;

    for (size_t i = 0; (planner = vtc_planner_at(i)) != NULL; i++) {
        const unsigned lacking = vtc_plan_inputs_lack(&inputs, planner->needs);

        if (lacking != 0)
            print_lacking(planner, lacking);
        else
            run_planner(planner, &inputs, &exec);
    }
    vtc_heap_free(&exec);
    return 0;
}
