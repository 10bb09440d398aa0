/*
 * An input of the tool, a photograph or a token file, as the library wants to see it.
 */
#ifndef SOURCE_H
#define SOURCE_H

#include "photo.h"
#include "stand_in.h"
#include "tool.h"

#include <vtc/io.h>

struct source {
    vtc_plan_inputs inputs; /* points to the views below: do not copy a source */
    vtc_tensor features;    /* [N, C]                                          */
    vtc_tensor keys, queries, cls_query, cls_key, cls_attention;
    vtc_tensor lm_query, lm_keys, lm_hidden, lm_embeddings, text_query, text;
    size_t n_tokens;
    size_t grid_h, grid_w; /* 0: unknown, a token file does not have to tell   */

    /* A photograph has these */
    float *planes;    /* [3, 14 grid_h, 14 grid_w], else NULL    */
    float *patches;   /* [N, 3 * 14 * 14]                        */
    float *tokens;    /* [N, DESCRIPTOR_WIDTH]                   */
    struct crop crop; /* the part of the photograph that the grid covers */
    struct stand_ins stand_ins;

    /* A token file has one of these */
    vtc_safetensors *file;
    vtc_npy *array;
};

/*
 * source_open() finds out by the first bytes what a file is and reads it.
 *
 *   grid_h, grid_w  0: 24 x 24 for a photograph, what the file says for tokens
 *
 * source_close() in either case.
 */
bool source_open(struct tool *tool, const char *path, size_t grid_h, size_t grid_w,
                 struct source *source);
void source_close(struct source *source);

/* The two kinds of token files, for source_open() alone */
bool source_open_npy(struct tool *tool, const char *path, struct source *source);
bool source_open_safetensors(struct tool *tool, const char *path, struct source *source);

#endif
