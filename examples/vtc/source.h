/*
 * An input of the tool, a photograph or a token file, as the library wants to see it.
 */
#ifndef SOURCE_H
#define SOURCE_H

#include "tool.h"

#include <vtc/io.h>

struct source {
    vtc_plan_inputs inputs; /* points to the views below: do not copy a source */
    vtc_tensor features;    /* [N, C]                                          */
    vtc_tensor keys, cls_query, cls_attention, lm_query, lm_keys, text_query;
    size_t n_tokens;
    size_t grid_h, grid_w; /* 0: unknown, a token file does not have to tell   */

    /* A photograph has these */
    float *planes;   /* [3, 14 grid_h, 14 grid_w], else NULL    */
    float *patches;  /* [N, 3 * 14 * 14]                        */
    float *tokens;   /* [N, DESCRIPTOR_WIDTH]                   */
    float *salience; /* [N], NULL until a planner needs it */

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

/* True when this planner gets stand-in salience for the attention row that it needs and that a
 * photograph does not have. The other call puts it into the inputs, or takes it out again for a
 * planner that can do without: call it before each planner. */
bool source_lends_salience(const struct source *source, const vtc_planner *planner);
bool source_lend_salience(struct tool *tool, struct source *source, const vtc_planner *planner);

/* The vtc_need bits that this planner lacks, as "keys, text" in `text`; false when there are none.
 * What a photograph lends does not lack. */
bool source_lacks(const struct source *source, const vtc_planner *planner, char *text, size_t size);

/* The two kinds of token files, for source_open() alone */
bool source_open_npy(struct tool *tool, const char *path, struct source *source);
bool source_open_safetensors(struct tool *tool, const char *path, struct source *source);

#endif
