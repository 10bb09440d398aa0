/*
 * 01_scratch_and_workers.c: a vtc_exec says how a call runs.
 *
 * libvtc allocates nothing and starts no thread. A method that needs scratch memory tells how much
 * before it runs, and work is handed to a parallel_for of the caller's. Gemma 3's projector needs
 * both: it pools the patches of an image, normalises them and multiplies them by a matrix.
 *
 * Built with -fopenmp the last call runs on four threads, without it in the calling thread: the
 * bits are the same.
 */
#include "example.h"

#include <string.h>
#include <vtc/heap.h>
#include <vtc/openmp.h>
#include <vtc/vtc.h>

enum { IMAGES = 2, PATCHES = 64, TOKENS = 16, CHANNELS = 32, WIDTH = 8 };

/* Any executor will do that runs each task once and never two at once under one worker's number.
 * This one is a loop that counts. */
static void counting_parallel_for(void *pool, size_t n_tasks,
                                  void (*task)(void *job, size_t index, size_t worker), void *job)
{
    size_t *n_done = pool;

    for (size_t i = 0; i < n_tasks; i++)
        task(job, i, 0);
    *n_done += n_tasks;
}

int main(void)
{
    static float patches[IMAGES * PATCHES * CHANNELS], matrix[CHANNELS * WIDTH], norm[CHANNELS];
    static float serial[IMAGES * TOKENS * WIDTH], parallel[IMAGES * TOKENS * WIDTH];
    const vtc_tensor x = vtc_f32_3d(patches, IMAGES, PATCHES, CHANNELS);
    vtc_tensor y = vtc_f32_3d(serial, IMAGES, TOKENS, WIDTH);
    vtc_gemma3_params params = VTC_GEMMA3_PARAMS_INIT;
    vtc_gemma3_weights weights;
    vtc_exec exec = VTC_EXEC_INIT;
    size_t n_tokens, bytes, n_tasks = 0;

    for (int i = 0; i < IMAGES * PATCHES * CHANNELS; i++)
        patches[i] = (float)(i % 7) - 2.0f;
    for (int i = 0; i < CHANNELS * WIDTH; i++)
        matrix[i] = (float)(i % 5) * 0.1f + 0.1f;
    weights.mm_soft_emb_norm = vtc_f32_1d(norm, CHANNELS);
    weights.mm_input_projection_weight = vtc_f32_2d(matrix, CHANNELS, WIDTH);
    params.patches_per_side = 8;
    params.tokens_per_side = 4;
    exec.on_error = print_error;

    /* Count first: an engine places its placeholders before the encoder has run. */
    must(vtc_gemma3_count(&params, &n_tokens, &exec));
    printf("%d patches -> %zu tokens for each of %d images\n", PATCHES, n_tokens, IMAGES);

    /* Too little scratch memory is an error, and nothing has been written. */
    exec.on_error = NULL;
    printf("without scratch memory: %s\n",
           vtc_status_string(vtc_gemma3_project(&params, &weights, &x, &y, &exec)));
    exec.on_error = print_error;

    /* Ask, provide, run. vtc/heap.h provides from malloc; an engine has its own arena. */
    exec.parallel_for = counting_parallel_for;
    exec.pool = &n_tasks;
    must(vtc_gemma3_project_scratch(&params, &weights, &x, &y, &exec, &bytes));
    must(vtc_heap_scratch(&exec, bytes));
    must(vtc_gemma3_project(&params, &weights, &x, &y, &exec));
    printf("one worker: the work came in %s\n", n_tasks > 1 ? "several tasks" : "one task");

    /* Each worker has a slice of the scratch memory, so ask again when their number changes. */
    vtc_openmp_use(&exec, 4);
    y.data = parallel;
    must(vtc_gemma3_project_scratch(&params, &weights, &x, &y, &exec, &bytes));
    must(vtc_heap_scratch(&exec, bytes));
    must(vtc_gemma3_project(&params, &weights, &x, &y, &exec));
    printf("four workers: %s bits\n",
           memcmp(serial, parallel, sizeof(serial)) == 0 ? "the same" : "other");

    printf("first token:");
    for (int i = 0; i < WIDTH; i++)
        printf(" %.3f", parallel[i]);
    printf("\n");
    vtc_heap_free(&exec);
    return 0;
}
