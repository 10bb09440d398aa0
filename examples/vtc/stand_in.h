/*
 * What a photograph lends to planners in place of a model's insides, which it does not have.
 *
 *   [CLS] attention       centre-surround contrast, see salience.h
 *   keys, queries         descriptors less their mean over the picture, of length 1
 *   question              with --about, the same of the patches in a region of the picture: text
 *                         rows behind the visual rows of a decoder whose Q, K, hidden states and
 *                         embeddings are these descriptors
 *
 * None of this is a model's; whatever is drawn with it is captioned so. Only what a planner cannot
 * run without is lent, so that one which can do without shows what it does then.
 */
#ifndef STAND_IN_H
#define STAND_IN_H

#include "tool.h"

struct source;

struct stand_ins {
    float *salience;      /* [N], NULL until a planner needs it                              */
    float *rows;          /* [N + n_about, C] unit descriptors, then those of the region     */
    unsigned char *about; /* [N] 1: the patch is in the region; NULL: there is none     */
    size_t n_about;
};

/* Makes the patches whose centres lie in a region the question, or the one that the region lies in.
 * Fails when it is outside the part of the photograph that is used.
 *   about  x, y, width, height in pixels of the file; width 0: there is no question */
bool stand_ins_ask(struct tool *tool, struct source *source, const size_t about[4]);

/* Puts into the inputs what this planner needs and a photograph can lend, and takes the rest out:
 * call it before each planner. `caption` says what is lent; empty when nothing is. */
bool stand_ins_lend(struct tool *tool, struct source *source, const vtc_planner *planner,
                    char *caption, size_t size);

/* The vtc_need bits that this planner lacks, as "keys, text" in `text`; false when there are none.
 * What a photograph lends does not lack. */
bool stand_ins_lack(const struct source *source, const vtc_planner *planner, char *text,
                    size_t size);

void stand_ins_free(struct stand_ins *stand_ins);

#endif
