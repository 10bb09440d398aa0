/*
 * 02_plan.c: a planner decides, the plan is applied.
 *
 * Pruning, merging and pooling are one thing to libvtc: a sparse matrix with one row per output
 * token. A planner looks at the data and fills a vtc_plan; vtc_plan_apply() multiplies.
 */
#include "example.h"

#include <vtc/heap.h>
#include <vtc/vtc.h>

enum { N = 8, C = 2 };

static void print_plan(const char *title, const vtc_plan *plan)
{
    printf("%s: %zu tokens -> %zu\n", title, plan->n_in, plan->n_out);
    for (size_t j = 0; j < plan->n_out; j++) {
        printf("  output %zu stands for row %d, mass %.0f:", j, (int)plan->keep[j], plan->mass[j]);
        if (plan->begin == NULL)
            printf(" a copy");
        else
            for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
                printf("%s %.2f x row %d", e == plan->begin[j] ? "" : " +", plan->weight[e],
                       (int)plan->source[e]);
        printf("\n");
    }
}

static void apply_and_print(const vtc_plan *plan, const vtc_tensor *x, vtc_exec *exec)
{
    float tokens[N * C];
    vtc_tensor y = vtc_f32_2d(tokens, plan->n_out, C);
    size_t bytes;

    must(vtc_plan_apply_scratch(plan, x, &y, exec, &bytes));
    must(vtc_heap_scratch(exec, bytes));
    must(vtc_plan_apply(plan, x, &y, exec));
    for (size_t j = 0; j < plan->n_out; j++)
        printf("  token %zu = (%.2f, %.2f)\n", j, tokens[j * C], tokens[j * C + 1]);
}

/* Every second row, whatever it holds: the control that each method has to beat. */
static void keep_strided(const vtc_tensor *x, vtc_exec *exec)
{
    const vtc_plan_count count = { .n_in = N, .n_out = 4, .exact = 1 };
    vtc_plan plan = VTC_PLAN_INIT;

    must(vtc_heap_plan(&plan, &count, exec));
    must(vtc_strided(N, 4, NULL, &plan, exec));
    print_plan("strided", &plan);
    apply_and_print(&plan, x, exec);
    vtc_heap_plan_free(&plan);
}

/* ToMe: the most similar tokens become one. In an encoder its metric would be the keys averaged
 * over heads; here the tokens themselves serve. */
static void merge_similar(const vtc_tensor *x, vtc_exec *exec)
{
    vtc_tome_params params = VTC_TOME_PARAMS_INIT;
    vtc_plan plan = VTC_PLAN_INIT;
    vtc_plan_count count;
    size_t bytes;

    params.n_merge = 3;
    must(vtc_tome_count(&params, N, &count, exec));
    must(vtc_heap_plan(&plan, &count, exec));
    must(vtc_tome_scratch(&params, x, exec, &bytes));
    must(vtc_heap_scratch(exec, bytes));
    must(vtc_tome(&params, x, NULL, &plan, NULL, exec));
    print_plan("tome", &plan);
    apply_and_print(&plan, x, exec);
    vtc_heap_plan_free(&plan);
}

int main(void)
{
    /* Rows 0 to 2 point up, 3 to 5 to the right, 6 to the left and 7 down. */
    static const float tokens[N * C] = { 0.0f, 1.0f, 0.1f, 1.0f, 0.2f,  1.0f, 1.0f, 0.0f,
                                         1.0f, 0.1f, 1.0f, 0.3f, -1.0f, 0.0f, 0.0f, -1.0f };
    const vtc_tensor x = vtc_f32_2d(tokens, N, C);
    vtc_exec exec = VTC_EXEC_INIT;

    exec.on_error = print_error;
    keep_strided(&x, &exec);
    merge_similar(&x, &exec);
    vtc_heap_free(&exec);
    return 0;
}
